#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT SETFCAP */
#define DEFAULT_CAPS 0x800405fbULL

static const char *status_field(const char *key)
{
        static char value[256];
        const char *p = slurp("/proc/self/status");
        size_t len = strlen(key);

        value[0] = '\0';
        while (p && *p) {
                if (strncmp(p, key, len) == 0 && p[len] == ':') {
                        sscanf(p + len + 1, " %255[^\n]", value);
                        break;
                }
                p = strchr(p, '\n');
                if (p)
                        p++;
        }
        return value;
}

static void capability_set(const char *field, uint64_t want)
{
        char name[64];
        const char *value = status_field(field);

        snprintf(name, sizeof(name), "capabilities: %s", field);
        check(*value && strtoull(value, NULL, 16) == want, name, "%s, not %016llx", value, (unsigned long long)want);
}

static void capabilities(void)
{
        uint64_t caps = option_number("caps", DEFAULT_CAPS);
        uint64_t have = getuid() == 0 ? caps : 0; /* exec by another user drops them */

        capability_set("CapInh", 0);
        capability_set("CapPrm", have);
        capability_set("CapEff", have);
        capability_set("CapBnd", caps);
        capability_set("CapAmb", 0);
        check(strcmp(status_field("NoNewPrivs"), "1") == 0, "no_new_privs", "%s", status_field("NoNewPrivs"));
        check(strcmp(status_field("Seccomp"), "2") == 0, "seccomp is on", "%s", status_field("Seccomp"));
}

static void id_map(const char *file, const char *name)
{
        unsigned long inside = 1, outside = 0, count = 0;
        char more[8] = "";
        int n = sscanf(slurp(file), "%lu %lu %lu %7s", &inside, &outside, &count, more);

        check(n == 3 && inside == 0 && outside >= 65536 && count == 65536, name, "%d fields: %lu %lu %lu", n, inside,
              outside, count);
}

static void namespaces(void)
{
        static const char *const kinds[] = { "cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time" };

        id_map("/proc/self/uid_map", "user namespace: uid map");
        id_map("/proc/self/gid_map", "user namespace: gid map");
        for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
                char path[64], target[64] = "", name[64];
                const char *host = option(kinds[i]), *digits;

                snprintf(name, sizeof(name), "namespace: %s", kinds[i]);
                snprintf(path, sizeof(path), "/proc/self/ns/%s", kinds[i]);
                if (readlink(path, target, sizeof(target) - 1) < 0) {
                        check(errno == ENOENT && strcmp(kinds[i], "time") == 0, name, "%s", strerror(errno));
                        continue;
                }
                digits = strchr(target, '[');
                if (!host)
                        skip(name, "the host's was not given");
                else
                        check(digits && strtoul(digits + 1, NULL, 10) != strtoul(host, NULL, 10), name,
                              "it is the host's");
        }
}

static void hostname(void)
{
        char name[65] = "";
        const char *host = option("hostname");

        gethostname(name, sizeof(name) - 1);
        check(host && name[0] && strcmp(name, host) != 0, "hostname", "'%s' is the host's", name);
}

static void limit(const char *name, int resource, uint64_t soft, uint64_t hard)
{
        struct rlimit r = { 0 };

        getrlimit(resource, &r);
        check(r.rlim_cur == soft && r.rlim_max == hard, name, "%llu:%llu, not %llu:%llu",
              (unsigned long long)r.rlim_cur, (unsigned long long)r.rlim_max, (unsigned long long)soft,
              (unsigned long long)hard);
}

static void limits(void)
{
        uint64_t hard = option_number("nofile", 65536);
        struct rlimit more = { .rlim_cur = 1024, .rlim_max = (hard < 65536 ? 65536 : hard) + 65536 };

        limit("ulimit: nofile", RLIMIT_NOFILE, hard < 1024 ? hard : 1024, hard < 65536 ? hard : 65536);
        limit("ulimit: core", RLIMIT_CORE, 1, 1);
        check(TRY(setrlimit(RLIMIT_NOFILE, &more)) == EPERM, "ulimit: the hard limit holds", "it could be raised");
        errno = 0;
        check(nice(-5) == -1 && errno == EPERM, "no higher priority", "nice: %s", strerror(errno));
}

/* Forks until refused. Children wait for the end of the pipe. */
static void pids(void)
{
        uint64_t max = option_number("pids", 512), n = 0;
        int p[2];
        char byte;

        if (pipe2(p, O_CLOEXEC) < 0) {
                fail("pids limit", "pipe: %s", strerror(errno));
                return;
        }
        while (n <= max) {
                pid_t pid = fork();

                if (pid < 0)
                        break;
                if (pid == 0) {
                        close(p[1]);
                        (void)!read(p[0], &byte, 1);
                        _exit(0);
                }
                n++;
        }
        close(p[0]);
        close(p[1]);
        while (wait(NULL) > 0)
                ;
        check(n > 0 && n < max, "pids limit", "%llu children where %llu processes are allowed", (unsigned long long)n,
              (unsigned long long)max);
}

/* What stands open in /proc/PID/fd beyond `allowed`; "" if nothing. */
static const char *open_descriptors(const char *dir, int allowed)
{
        static char found[256];
        DIR *d = opendir(dir);
        size_t len = 0;

        found[0] = '\0';
        if (!d)
                return errno == EACCES || errno == EPERM ? "" : strerror(errno);
        for (struct dirent *e; (e = readdir(d));) {
                char path[300], target[128] = "";
                int fd = (int)strtol(e->d_name, NULL, 10);

                if (e->d_name[0] == '.' || fd <= allowed || fd == dirfd(d))
                        continue;
                snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
                (void)!readlink(path, target, sizeof(target) - 1);
                len += (size_t)snprintf(found + len, sizeof(found) - len, "%d -> %s ", fd, target);
                if (len >= sizeof(found))
                        break;
        }
        closedir(d);
        return found;
}

/* An init may hold pipes and such of its own, but nothing that leads out of the container. */
static void init_descriptors(void)
{
        DIR *d = getpid() == 1 ? NULL : opendir("/proc/1/fd");

        if (getpid() == 1)
                return;
        if (!d) {
                check(errno == EACCES || errno == EPERM, "descriptors of pid 1", "%s", strerror(errno));
                return;
        }
        for (struct dirent *e; (e = readdir(d));) {
                char path[300], target[128] = "";

                snprintf(path, sizeof(path), "/proc/1/fd/%s", e->d_name);
                if (e->d_name[0] == '.' || strtol(e->d_name, NULL, 10) <= 2 ||
                    readlink(path, target, sizeof(target) - 1) < 0)
                        continue;
                if (strncmp(target, "anon_inode:", 11) != 0 && strncmp(target, "pipe:", 5) != 0) {
                        fail("descriptors of pid 1", "%s -> %s", e->d_name, target);
                        closedir(d);
                        return;
                }
        }
        closedir(d);
        pass("descriptors of pid 1");
}

static void descriptors(void)
{
        const char *extra = open_descriptors("/proc/self/fd", 2);
        int open_ones = 0;

        check(!*extra, "descriptors: exactly 0, 1 and 2", "%s", extra);
        for (int fd = 0; fd < 3; fd++)
                open_ones += fcntl(fd, F_GETFD) >= 0;
        check(open_ones == 3, "descriptors: 0, 1 and 2 are open", "%d are", open_ones);
        for (int fd = 0; fd < 3; fd++) {
                struct stat st = { 0 };
                char name[64];

                snprintf(name, sizeof(name), "descriptor %d is no directory or device of the host", fd);
                fstat(fd, &st);
                check(!S_ISDIR(st.st_mode) && !S_ISBLK(st.st_mode), name, "mode %o", st.st_mode);
        }
        init_descriptors();
}

static void environment(void)
{
        const char *canary = option("canary");
        bool leaked = false;

        if (!canary) {
                skip("environment of the daemon", "no canary was given");
                return;
        }
        for (char **e = environ; *e; e++)
                leaked |= strstr(*e, canary) != NULL;
        check(!leaked, "environment of the daemon", "it is seen in the task's");
        /* NUL separates variables, so the text is searched piece by piece. */
        leaked = false;
        for (const char *p = slurp("/proc/1/environ"), *end = p + 65536; p < end && *p; p += strlen(p) + 1)
                leaked |= strstr(p, canary) != NULL;
        check(!leaked, "environment of pid 1", "the daemon's is seen");
}

void probe_privileges(void)
{
        descriptors();
        capabilities();
        namespaces();
        hostname();
        limits();
        environment();
        pids();
}
