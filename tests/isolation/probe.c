#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char **options;
static int n_failures;

const char *option(const char *key)
{
        size_t len = strlen(key);

        for (char **p = options; *p; p++) {
                if (strncmp(*p, key, len) == 0 && (*p)[len] == '=')
                        return *p + len + 1;
        }
        return NULL;
}

uint64_t option_number(const char *key, uint64_t fallback)
{
        const char *value = option(key);

        return value ? strtoull(value, NULL, 0) : fallback;
}

static void line(const char *verdict, const char *name, const char *format, va_list ap)
{
        char why[512];

        vsnprintf(why, sizeof(why), format, ap);
        for (char *p = why; *p; p++) {
                if (*p == '\n')
                        *p = ' ';
        }
        printf("%s %s: %s\n", verdict, name, why);
}

void pass(const char *name)
{
        printf("ok %s\n", name);
}

void fail(const char *name, const char *format, ...)
{
        va_list ap;

        n_failures++;
        va_start(ap, format);
        line("not ok", name, format, ap);
        va_end(ap);
}

void skip(const char *name, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        line("skip", name, format, ap);
        va_end(ap);
}

void check(bool good, const char *name, const char *format, ...)
{
        va_list ap;

        if (good) {
                pass(name);
                return;
        }
        n_failures++;
        va_start(ap, format);
        line("not ok", name, format, ap);
        va_end(ap);
}

int failures(void)
{
        return n_failures;
}

const char *slurp(const char *path)
{
        static char text[128 * 1024];
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        size_t len = 0;

        text[0] = '\0';
        if (fd < 0)
                return text;
        while (len < sizeof(text) - 1) {
                ssize_t n = read(fd, text + len, sizeof(text) - 1 - len);

                if (n <= 0)
                        break;
                len += (size_t)n;
        }
        text[len] = '\0';
        close(fd);
        return text;
}

/* ── small commands that other tests run ── */

/* Prints ids after exec: a setuid file must not have changed them. */
static int command_ids(void)
{
        printf("%d %d %d %d\n", getuid(), geteuid(), getgid(), getegid());
        return 0;
}

/* Tries to write to what runs it, every way there is, as CVE-2019-5736 did. Prints each success. */
static int command_overwrite(void)
{
        char path[64];
        int wrote = 0;

        for (int pid = 0; pid <= 40; pid++) {
                int fd;

                if (pid == 0)
                        snprintf(path, sizeof(path), "/proc/self/exe");
                else
                        snprintf(path, sizeof(path), "/proc/%d/exe", pid);
                for (int i = 0; i < 3; i++) {
                        static const int flags[] = { O_WRONLY, O_RDWR | O_TRUNC, O_WRONLY | O_APPEND };

                        fd = open(path, flags[i] | O_CLOEXEC);
                        if (fd < 0)
                                continue;
                        if (write(fd, "#!/bin/sh\n", 10) == 10) {
                                printf("wrote %s\n", path);
                                wrote = 1;
                        }
                        close(fd);
                }
                /* Held open for reading, reopened for writing once the program has ended: the original trick. */
                fd = open(path, O_RDONLY | O_CLOEXEC);
                if (fd >= 0) {
                        char again[64];
                        int w;

                        snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
                        for (int i = 0; i < 50; i++) {
                                w = open(again, O_WRONLY | O_CLOEXEC);
                                if (w >= 0 && write(w, "#!/bin/sh\n", 10) == 10) {
                                        printf("wrote %s again\n", path);
                                        wrote = 1;
                                }
                                if (w >= 0)
                                        close(w);
                        }
                        close(fd);
                }
        }
        return wrote;
}

/* Listens on a TCP and a UDP port for some seconds: how many came? */
static int command_listen(void)
{
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)option_number("port", 7777)) };
        struct pollfd p[2] = { { .events = POLLIN }, { .events = POLLIN } };
        time_t end = time(NULL) + (time_t)option_number("seconds", 8);
        int n[2] = { 0, 0 };
        char text[256];

        for (int i = 0; i < 2; i++) {
                p[i].fd = socket(AF_INET, (i ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
                if (p[i].fd < 0 || bind(p[i].fd, (struct sockaddr *)&a, sizeof(a)) < 0)
                        return 2;
        }
        if (listen(p[0].fd, 8) < 0)
                return 2;
        while (time(NULL) < end) {
                poll(p, 2, 200);
                if (p[0].revents & POLLIN)
                        n[0] += accept(p[0].fd, NULL, NULL) >= 0;
                if (p[1].revents & POLLIN)
                        n[1] += recv(p[1].fd, text, sizeof(text), 0) >= 0;
        }
        printf("tcp %d udp %d\n", n[0], n[1]);
        return 0;
}

/* Takes memory until it is killed. */
static int command_hog(void)
{
        for (;;) {
                char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

                if (p == MAP_FAILED)
                        return 3;
                memset(p, 1, 1 << 20);
        }
}

/* Clears its death signal, leaves its session and process group, and stays: it must end with its container. */
static int command_linger(void)
{
        prctl(PR_SET_PDEATHSIG, 0);
        if (fork() > 0)
                pause();
        setsid();
        if (fork() > 0)
                _exit(0);
        prctl(PR_SET_PDEATHSIG, 0);
        printf("lingering\n");
        fflush(stdout);
        for (;;)
                pause();
}

/* Climbs from the working directory; "outside" if that leads to another root than "/", or is no way to it. */
static int command_cwd(void)
{
        struct stat root = { 0 }, here = { 0 }, before;
        char text[4096] = "";
        bool bad = false;

        if (!getcwd(text, sizeof(text)) || text[0] != '/')
                bad = true;
        stat("/", &root);
        for (int i = 0; i < 128; i++) {
                before = here;
                if (stat(".", &here) < 0 || chdir("..") < 0)
                        break;
                if (i > 0 && before.st_dev == here.st_dev && before.st_ino == here.st_ino)
                        break;
        }
        bad |= here.st_dev != root.st_dev || here.st_ino != root.st_ino;
        printf("%s %s\n", bad ? "outside" : "inside", text);
        return bad;
}

static void crash(int way)
{
        const struct rlimit none = { 0, 0 };
        struct rlimit old;
        const char *name = option("name");

        prctl(PR_SET_NAME, name ? name : "mfcrash", 0, 0, 0);
        if (way == 1 && setrlimit(RLIMIT_CORE, &none) < 0)
                _exit(1);
        if (way == 2)
                (void)prlimit(0, RLIMIT_CORE, &none, &old);
        __builtin_trap();
        _exit(2);
}

/* Crashes, with the limit of core files as it is, and after having set it to 0 in two ways. Prints how many dumped. */
static int command_crash(void)
{
        int dumped = 0;

        for (int way = 0; way < 3; way++) {
                pid_t pid = fork();
                int status = 0;

                if (pid == 0)
                        crash(way);
                if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status))
                        return 2;
                dumped += WCOREDUMP(status) != 0;
        }
        printf("dumped %d\n", dumped);
        return 0;
}

/* Fills the buffers of connections to itself, from which nobody reads. Prints the MiB that they took. */
static int command_sockets(void)
{
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        static char piece[1 << 16];
        socklen_t len = sizeof(a);
        uint64_t sent = 0;

        if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(listener, 8) < 0 ||
            getsockname(listener, (struct sockaddr *)&a, &len) < 0)
                return 2;
        for (uint64_t i = 0; i < option_number("n", 100); i++) {
                int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

                if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || accept(listener, NULL, NULL) < 0)
                        break;
                for (int idle = 0; idle < 3;) {
                        ssize_t n = send(fd, piece, sizeof(piece), MSG_DONTWAIT | MSG_NOSIGNAL);

                        sent += n > 0 ? (uint64_t)n : 0;
                        idle = n > 0 ? 0 : idle + 1;
                        if (n < 0)
                                usleep(1000);
                }
        }
        printf("%llu\n", (unsigned long long)(sent >> 20));
        return 0;
}

static const struct {
        const char *name;
        int (*run)(void);
} commands[] = {
        { "ids", command_ids },     { "overwrite", command_overwrite },
        { "cwd", command_cwd },     { "listen", command_listen },
        { "hog", command_hog },     { "linger", command_linger },
        { "crash", command_crash }, { "sockets", command_sockets },
};

static const struct {
        const char *name;
        void (*run)(void);
} groups[] = {
        { "privileges", probe_privileges },
        { "paths", probe_paths },
        { "network", probe_network },
        { "calls", probe_calls }, /* last: it installs a filter of its own */
};

int main(int argc, char **argv)
{
        const char *what = argc > 1 ? argv[1] : "";
        bool found = false;

        setvbuf(stdout, NULL, _IOLBF, 0);
        options = argc > 1 ? argv + 2 : argv + argc;
        for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
                if (strcmp(what, commands[i].name) == 0)
                        return commands[i].run();
        }
        for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
                if (strcmp(what, "all") == 0 || strcmp(what, groups[i].name) == 0) {
                        groups[i].run();
                        found = true;
                }
        }
        if (!found) {
                fprintf(stderr, "probe: no such command '%s'\n", what);
                return 2;
        }
        return failures() > 0;
}
