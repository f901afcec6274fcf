#include "cli/docker_config.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "http/registry_name.h"
#include "json/json.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUB "docker.io"
#define HUB_KEY "https://index.docker.io/v1/" /* what Docker calls it in its file and to its helpers */
#define HELPER_NAME_MAX 64
#define HELPER_LOOK_MS 10

extern char **environ;

static void wipe(char *s)
{
        if (s)
                explicit_bzero(s, strlen(s));
        free(s);
}

static void wipe_str(struct str *s)
{
        if (s->data)
                explicit_bzero(s->data, s->len);
        str_done(s);
}
#define auto_wiped __attribute__((cleanup(wipe_str))) struct str

void docker_login_done(struct docker_login *l)
{
        wipe(l->username);
        wipe(l->password);
        *l = (struct docker_login){ .username = NULL };
}

static int take(struct docker_login *l, const char *username, const char *password, struct err *err)
{
        docker_login_done(l);
        l->username = strdup(username);
        l->password = strdup(password);
        if (l->username && l->password)
                return 0;
        docker_login_done(l);
        return err_oom(err);
}

/* ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* As the reference has it, in lower case. */
static char *written_registry(const char *image)
{
        size_t len = strcspn(image, "/");
        bool host = image[len] == '/' &&
                    (memchr(image, '.', len) || memchr(image, ':', len) || strncmp(image, "localhost/", 10) == 0);
        char *name = host ? strndup(image, len) : strdup(HUB);

        for (char *c = name; c && *c; c++)
                *c = (char)tolower((unsigned char)*c);
        return name;
}

int docker_registry_of(const char *image, char ret[256])
{
        auto_free char *name = written_registry(image);

        return name ? registry_name(name, ret, NULL) : -ENOMEM;
}

static const char *key_of(const char *registry)
{
        return str_eq(registry, HUB) ? HUB_KEY : registry;
}

/* The member of `object` that stands for this registry, however it is written. */
static const json_t *member_of(const json_t *object, const char *registry)
{
        const json_t *value = json_object_get(object, key_of(registry));
        const char *key;
        char name[256];

        if (value)
                return value;
        json_object_foreach((json_t *)(uintptr_t)object, key, value) {
                if (registry_name(key, name, NULL) == 0 && str_eq(name, registry))
                        return value;
        }
        return NULL;
}

static const char *text_of(const json_t *o, const char *name)
{
        const char *s = json_string_value(json_object_get(o, name));

        return s ? s : "";
}

/* ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool helper_name_valid(const char *s)
{
        return *s && *s != '.' && *s != '-' && strlen(s) <= HELPER_NAME_MAX &&
               !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")];
}

/* Signals as a shell would give them: that we ignore SIGPIPE is no business of the helper's. */
static int helper_spawn(const char *program, int in, int out, pid_t *ret)
{
        char *const argv[] = { (char *)(uintptr_t)program, (char *)(uintptr_t) "get", NULL };
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attr;
        sigset_t pipe_signal;
        int r;

        (void)sigemptyset(&pipe_signal);
        (void)sigaddset(&pipe_signal, SIGPIPE);
        r = posix_spawn_file_actions_init(&actions);
        if (r != 0)
                return -r;
        r = posix_spawnattr_init(&attr);
        if (r != 0) {
                (void)posix_spawn_file_actions_destroy(&actions);
                return -r;
        }
        r = posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
        if (r == 0)
                r = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
        if (r == 0)
                r = posix_spawnattr_setsigdefault(&attr, &pipe_signal);
        if (r == 0)
                r = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
        if (r == 0)
                r = posix_spawnp(ret, program, &actions, &attr, argv, environ);
        (void)posix_spawnattr_destroy(&attr);
        (void)posix_spawn_file_actions_destroy(&actions);
        return -r;
}

/* All that it writes, until it closes its output. */
static int helper_read(int fd, uint64_t end, struct str *out, struct err *err)
{
        for (;;) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                uint64_t now = time_mono_ns();
                char piece[4096];
                ssize_t n;
                int r = now >= end ? 0 : poll(&p, 1, (int)((end - now) / NS_PER_MS) + 1);

                if (r == 0)
                        return err_set(err, ETIMEDOUT, "it does not answer within %d s", DOCKER_HELPER_MS / 1000);
                if (r < 0 && errno == EINTR)
                        continue;
                n = read(fd, piece, sizeof(piece));
                if (n == 0)
                        return 0;
                if (n < 0 && (errno == EINTR || errno == EAGAIN))
                        continue;
                if (n < 0)
                        return err_sys(err, "read");
                if (out->len + (size_t)n > DOCKER_HELPER_OUTPUT_MAX)
                        return err_set(err, E2BIG, "it answers more than %u bytes", DOCKER_HELPER_OUTPUT_MAX);
                if (str_add(out, piece, (size_t)n) < 0)
                        return err_oom(err);
                explicit_bzero(piece, sizeof(piece));
        }
}

/* Its question comes from a file: one that reads nothing blocks nobody, and brings no SIGPIPE. */
static int helper_question(const char *key, struct err *err)
{
        int fd = memfd_create("registry", MFD_CLOEXEC);

        if (fd < 0)
                return err_sys(err, "memfd_create");
        if (fd_write_all(fd, key, strlen(key)) < 0 || lseek(fd, 0, SEEK_SET) < 0) {
                (void)close(fd);
                return err_sys(err, "write");
        }
        return fd;
}

/* It has answered, and may take what is left of its time to end. */
static int helper_wait(pid_t pid, uint64_t end, int *ret_status, struct err *err)
{
        for (;;) {
                bool late = time_mono_ns() >= end;
                pid_t got;

                if (late)
                        (void)kill(pid, SIGKILL);
                got = waitpid(pid, ret_status, late ? 0 : WNOHANG);
                if (got == pid)
                        return 0;
                if (got < 0 && errno != EINTR)
                        return err_sys(err, "wait");
                if (got == 0)
                        (void)poll(NULL, 0, HELPER_LOOK_MS);
        }
}

static int helper_run(const char *program, const char *key, struct str *out, int *ret_status, struct err *err)
{
        auto_fd in = helper_question(key, err), read_end = -EBADF, write_end = -EBADF;
        uint64_t end = time_mono_ns() + (uint64_t)DOCKER_HELPER_MS * NS_PER_MS;
        int fds[2], r, waited;
        pid_t pid;

        if (in < 0)
                return in;
        if (pipe2(fds, O_CLOEXEC) < 0)
                return err_sys(err, "pipe");
        read_end = fds[0];
        write_end = fds[1];
        r = helper_spawn(program, in, write_end, &pid);
        if (r < 0)
                return err_set(err, -r, "it cannot be started: %s", strerror(-r));
        fd_replace(&write_end, -EBADF);
        r = helper_read(read_end, end, out, err);
        waited = helper_wait(pid, r < 0 ? 0 : end, ret_status, r < 0 ? NULL : err);
        return r < 0 ? r : waited;
}

int docker_helper_read(const char *text, size_t len, struct docker_login *ret, struct err *err)
{
        auto_json o = NULL;

        if (json_read(text, len, &o, NULL) < 0 || !*text_of(o, "Secret") || !*text_of(o, "Username"))
                return err_set(err, EPROTO, "it answers what are no credentials");
        return take(ret, text_of(o, "Username"), text_of(o, "Secret"), err);
}

/* 1: it has something; 0: nothing for this registry. */
static int helper_ask(const char *name, const char *registry, struct docker_login *ret, struct err *err)
{
        auto_free char *program = str_printf("docker-credential-%s", name);
        char shown[STR_SHOWN_MAX];
        auto_wiped out = STR_INIT;
        int r, status = 0;

        if (!program)
                return err_oom(err);
        if (!helper_name_valid(name))
                return err_set(err, EINVAL, "'%s' is no name of a credential helper", str_show(name, shown));
        r = helper_run(program, key_of(registry), &out, &status, err);
        if (r < 0)
                return err_wrap(err, "%s", program);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                if (out.data && strstr(out.data, "credentials not found"))
                        return 0;
                return err_set(err, EACCES, "%s: %s", program,
                               out.len > 0 ? str_show(out.data, shown) : "it fails, and does not say why");
        }
        r = docker_helper_read(out.data ? out.data : "", out.len, ret, err);
        return r < 0 ? err_wrap(err, "%s", program) : 1;
}

/* ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* base64 of "user:password"; NULs at its end are Docker's. */
static int take_auth(const char *text, struct docker_login *ret, struct err *err)
{
        auto_wiped pair = STR_INIT;
        char *colon;

        if (base64_decode(&pair, text, strlen(text)) < 0 || !pair.data)
                return err_set(err, EBADMSG, "an entry of auths is not base64");
        colon = strchr(pair.data, ':');
        if (!colon || colon == pair.data)
                return err_set(err, EBADMSG, "an entry of auths is not USER:PASSWORD");
        *colon = '\0';
        return take(ret, pair.data, colon + 1, err);
}

static int take_entry(const json_t *entry, struct docker_login *ret, struct err *err)
{
        if (*text_of(entry, "identitytoken"))
                return take(ret, "<token>", text_of(entry, "identitytoken"), err);
        if (*text_of(entry, "auth"))
                return take_auth(text_of(entry, "auth"), ret, err);
        if (*text_of(entry, "username"))
                return take(ret, text_of(entry, "username"), text_of(entry, "password"), err);
        return 0;
}

/* Docker asks by the name that the reference has, which is what was given to `docker login` then; of Docker Hub by one name. */
static int helper_find(const char *name, const char *registry, const char *written, struct docker_login *ret,
                       struct err *err)
{
        const char *first = str_eq(registry, HUB) ? registry : written;
        int r = helper_ask(name, first, ret, err);

        return r == 0 && !str_eq(first, registry) ? helper_ask(name, registry, ret, err) : r;
}

static int find(const json_t *o, const char *registry, const char *written, struct docker_login *ret, struct err *err)
{
        const json_t *helper = member_of(json_object_get(o, "credHelpers"), registry), *entry;
        const char *name = helper ? json_string_value(helper) : text_of(o, "credsStore");
        int r = 0;

        if (name && *name)
                r = helper_find(name, registry, written, ret, err);
        if (r != 0)
                return MIN(r, 0);
        entry = member_of(json_object_get(o, "auths"), registry);
        return entry ? take_entry(entry, ret, err) : 0;
}

static char *config_path(void)
{
        const char *dir = getenv("DOCKER_CONFIG"), *home = getenv("HOME");

        if (dir && *dir)
                return str_printf("%s/config.json", dir);
        return home && *home ? str_printf("%s/.docker/config.json", home) : NULL;
}

int docker_login_read(const char *text, size_t len, const char *image, struct docker_login *ret, struct err *err)
{
        auto_free char *written = written_registry(image);
        auto_json o = NULL;
        char registry[256];
        int r;

        *ret = (struct docker_login){ .username = NULL };
        if (!written)
                return err_oom(err);
        if (registry_name(written, registry, NULL) < 0)
                return 0;
        r = json_read(text, len, &o, err);
        return r < 0 ? r : find(o, registry, written, ret, err);
}

int docker_login_find(const char *image, struct docker_login *ret, struct err *err)
{
        auto_free char *path = config_path();
        struct err why = ERR_INIT;
        auto_wiped text = STR_INIT;
        int r;

        *ret = (struct docker_login){ .username = NULL };
        if (!path)
                return 0;
        r = fd_read_file(AT_FDCWD, path, DOCKER_CONFIG_MAX, &text, &why);
        if (r == -ENOENT || r == -ENOTDIR)
                return 0;
        if (r == 0)
                r = docker_login_read(text.data ? text.data : "", text.len, image, ret, &why);
        return r < 0 ? err_set(err, why.num ? why.num : -r, "%s: %s", path, why.num ? why.text : strerror(-r)) : 0;
}
