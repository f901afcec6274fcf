#include "harness.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

const char *launcher, *busybox, *clear, *die;
char dir[64], name[32], conf[96], path[96];
pid_t pid;
int sock = -EBADF, netns = -EBADF;
const char *case_name;
bool case_failed;
char out[OUT_MAX];
struct client_msg msg;

static unsigned ids;

/* ── the launcher ─────────────────────────────────────────────────────────────────────────────────────────────────── */

void write_text(const char *file, const char *text, mode_t mode)
{
        int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

        if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0 || fchmod(fd, mode) < 0)
                abort();
        fd_close(fd);
}

static void copy_program(const char *from, const char *to)
{
        auto_str s = STR_INIT;
        int fd;

        if (fd_read_file(AT_FDCWD, from, 16 << 20, &s, NULL) < 0)
                abort();
        fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
        if (fd < 0 || fd_write_all(fd, s.data, s.len) < 0 || fchown(fd, BASE, BASE) < 0 || fchmod(fd, 0755) < 0)
                abort();
        fd_close(fd);
}

void make_store(void)
{
        static const char *const applets[] = { "sh",    "cat",  "echo",     "id",        "sleep",  "dd",
                                               "mkdir", "ls",   "pwd",      "seq",       "kill",   "setsid",
                                               "true",  "stat", "hostname", "sha256sum", "mkfifo", "mknod",
                                               "mv",    "ln",   "rm",       "chmod",     "test" };
        static const char *const dirs[] = { "",
                                            "/store",
                                            "/store/trees",
                                            "/store/trees/" TREE,
                                            "/store/trees/" TREE "/bin",
                                            "/store/trees/" TREE "/etc" };
        char file[256];

        for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
                (void)snprintf(file, sizeof(file), "%s%s", dir, dirs[i]);
                if (i > 0 && mkdir(file, i < 3 ? 0700 : 0755) < 0)
                        abort();
                if (i > 2 && chown(file, BASE, BASE) < 0)
                        abort();
        }
        (void)snprintf(file, sizeof(file), "%s/store/trees/" TREE "/bin/busybox", dir);
        copy_program(busybox, file);
        (void)snprintf(file, sizeof(file), "%s/store/trees/" TREE "/bin/clear", dir);
        copy_program(clear, file);
        (void)snprintf(file, sizeof(file), "%s/store/trees/" TREE "/bin/die", dir);
        copy_program(die, file);
        for (size_t i = 0; i < ARRAY_LEN(applets); i++) {
                (void)snprintf(file, sizeof(file), "%s/store/trees/" TREE "/bin/%s", dir, applets[i]);
                if (symlink("busybox", file) < 0)
                        abort();
        }
}

void start_launcher(void)
{
        uint64_t end = time_mono_ns() + 20 * NS_PER_S;

        pid = fork();
        if (pid == 0) {
                char log[96];

                (void)snprintf(log, sizeof(log), "%s/log", dir);
                (void)dup2(open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600), STDERR_FILENO);
                (void)execl(launcher, launcher, "--ceiling", conf, "--die-with-parent", (char *)NULL);
                _exit(127);
        }
        do {
                (void)usleep(5000);
                sock = client_connect(path);
        } while (sock < 0 && time_mono_ns() < end);
        if (sock < 0) {
                (void)printf("Bail out! the launcher does not start\n");
                exit(1);
        }
}

int stop_launcher(int signo)
{
        int status = 0;

        fd_replace(&sock, -EBADF);
        (void)kill(pid, signo);
        (void)waitpid(pid, &status, 0);
        return status;
}

int greet(struct client_msg *adopt)
{
        int n = 0;

        if (client_hello(sock, &msg) < 0 || msg.h.op != LAUNCH_HELLO)
                return -1;
        for (;;) {
                if (client_receive(sock, &msg, 10000) < 0)
                        return -1;
                if (msg.h.op == LAUNCH_READY)
                        return n;
                if (msg.h.op != LAUNCH_ADOPT || msg.n_fds != LAUNCH_ADOPT_COUNT)
                        return -1;
                n++;
                if (adopt) {
                        client_msg_close(adopt);
                        *adopt = msg;
                } else {
                        client_msg_close(&msg);
                }
        }
}

void reconnect(void)
{
        fd_replace(&sock, -EBADF);
        sock = client_connect(path);
        CHECK(sock >= 0);
        CHECK(greet(NULL) >= 0);
}

/* ── one container ────────────────────────────────────────────────────────────────────────────────────────────────── */

const char *new_id(void)
{
        static char id[LAUNCH_ID_MAX];

        (void)snprintf(id, sizeof(id), "c%u", ids++);
        return id;
}

struct client_spec spec_of(const char *const *argv)
{
        return client_spec(new_id(), TREE, argv, netns);
}

const struct launch_exit *run(struct client_spec *spec)
{
        static struct launch_exit none = { .stage = 999 };
        int r = client_run(sock, spec, &msg, out, sizeof(out));

        CHECK(r == 0);
        CHECK(msg.h.op == LAUNCH_EXITED);
        return r == 0 && msg.h.op == LAUNCH_EXITED ? &msg.exited.exit : &none;
}

struct client_spec shell(const char *script)
{
        static const char *argv[4] = { "sh", "-c" };

        argv[2] = script;
        return spec_of(argv);
}

const struct launch_exit *sh(const char *script)
{
        struct client_spec spec = shell(script);

        return run(&spec);
}

bool exited(const struct launch_exit *e, int code)
{
        return e->stage == LAUNCH_STAGE_EXECED && e->si_code == CLD_EXITED && e->status == code;
}

void start(struct client_spec *spec, struct client_task *t, const char *expected)
{
        char text[64] = "";

        CHECK(client_start(sock, spec, t) == 0);
        CHECK(read(t->out, text, sizeof(text) - 1) >= (ssize_t)strlen(expected));
        CHECK(strncmp(text, expected, strlen(expected)) == 0);
}

void wait_exited(const char *id)
{
        do {
                if (client_receive(sock, &msg, 10000) < 0) {
                        CHECK(!"an answer");
                        return;
                }
        } while (msg.h.op != LAUNCH_EXITED || !str_eq(msg.exited.id, id));
        CHECK(client_send_id(sock, LAUNCH_REMOVE, id) == 0);
}
