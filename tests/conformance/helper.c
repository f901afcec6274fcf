/* What the conformance suite runs inside its image: one small deed per name. Static, so that it runs in any image. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
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

#include "pattern.h"

#define CHUNK 65536

static unsigned long number(char **argv, int i)
{
        return argv[i] ? strtoul(argv[i], NULL, 10) : 0;
}

static void write_all(int fd, const void *data, size_t len)
{
        const char *p = data;

        while (len > 0) {
                ssize_t n = write(fd, p, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        _exit(111);
                p += n;
                len -= (size_t)n;
        }
}

static void say(const char *text)
{
        write_all(1, text, strlen(text));
}

static int sleep_ms(unsigned long ms)
{
        struct timespec t = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };

        while (nanosleep(&t, &t) < 0 && errno == EINTR)
                continue;
        return 0;
}

static int do_exit(char **argv)
{
        return (int)number(argv, 2);
}

static int do_signal(char **argv)
{
        int signo = (int)number(argv, 2);
        sigset_t set;

        (void)signal(signo, SIG_DFL);
        (void)sigemptyset(&set);
        (void)sigprocmask(SIG_SETMASK, &set, NULL);
        (void)kill(getpid(), signo);
        sleep_ms(1000);
        return 112;
}

/* Both streams at once, a piece of one after a piece of the other, of odd sizes. */
static int do_both(char **argv)
{
        size_t total = number(argv, 2), at[2] = { 0, 0 };
        static unsigned char buf[CHUNK];

        for (unsigned turn = 0; at[0] < total || at[1] < total; turn++) {
                unsigned s = turn & 1;
                size_t n = 1 + (turn * 7919) % (CHUNK - 1);

                if (n > total - at[s])
                        n = total - at[s];
                pattern_fill(buf, n, at[s], s);
                write_all(1 + (int)s, buf, n);
                at[s] += n;
        }
        return 0;
}

static int do_bytes(char **argv)
{
        unsigned char buf[256];

        (void)argv;
        for (int i = 0; i < 256; i++)
                buf[i] = (unsigned char)i;
        write_all(1, buf, sizeof(buf));
        return 0;
}

/* Copies standard input. */
static int do_cat(char **argv)
{
        static unsigned char buf[CHUNK];
        ssize_t n;

        (void)argv;
        while ((n = read(0, buf, sizeof(buf))) > 0)
                write_all(1, buf, (size_t)n);
        return n < 0 ? 1 : 0;
}

static int do_sleep(char **argv)
{
        return sleep_ms(number(argv, 2));
}

/* Touches that much memory. */
static int do_memory(char **argv)
{
        size_t len = number(argv, 2);
        char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED)
                return 1;
        for (size_t i = 0; i < len; i += 4096)
                ((volatile char *)p)[i] = 1;
        say("touched\n");
        return 0;
}

static int do_cpu(char **argv)
{
        struct rusage u;
        unsigned long ms = number(argv, 2);

        do
                (void)getrusage(RUSAGE_SELF, &u);
        while ((unsigned long)u.ru_utime.tv_sec * 1000 + (unsigned long)u.ru_utime.tv_usec / 1000 +
                       (unsigned long)u.ru_stime.tv_sec * 1000 + (unsigned long)u.ru_stime.tv_usec / 1000 <
               ms);
        return 0;
}

static int fill_file(const char *path, size_t len)
{
        static char buf[CHUNK];
        int fd = open(path, O_WRONLY | O_CREAT, 0600);

        if (fd < 0)
                return errno == ENOSPC ? 28 : 1;
        memset(buf, 'x', sizeof(buf));
        for (size_t at = 0; at < len;) {
                ssize_t n = write(fd, buf, sizeof(buf));

                if (n < 0)
                        return errno == ENOSPC ? 28 : 1;
                at += (size_t)n;
        }
        return 0;
}

static int do_disk(char **argv)
{
        return fill_file(argv[2], number(argv, 3));
}

/* Files without content, until there is no inode left. */
static int do_inodes(char **argv)
{
        char path[64];

        (void)argv;
        for (unsigned long i = 0; i < 10000000; i++) {
                int fd;

                (void)snprintf(path, sizeof(path), "/tmp/%lu", i);
                fd = open(path, O_WRONLY | O_CREAT, 0600);
                if (fd < 0)
                        return errno == ENOSPC ? 28 : 1;
                (void)close(fd);
        }
        return 0;
}

/* Every process forks for ever; what the first one can tell is how often it succeeded. */
static int do_bomb(char **argv)
{
        unsigned long n = 0;
        char text[32];

        (void)argv;
        for (int failures = 0; failures < 100;) {
                pid_t pid = fork();

                if (pid == 0) {
                        for (;;)
                                if (fork() < 0)
                                        sleep_ms(1);
                }
                if (pid < 0) {
                        failures++;
                        sleep_ms(1);
                } else {
                        n++;
                }
        }
        (void)snprintf(text, sizeof(text), "%lu\n", n);
        say(text);
        return 0;
}

/* Forks without end of the children; prints how many there can be. */
static int do_forks(char **argv)
{
        unsigned long n = 0;
        char text[32];

        (void)argv;
        for (;;) {
                pid_t pid = fork();

                if (pid == 0)
                        for (;;)
                                (void)pause();
                if (pid < 0)
                        break;
                n++;
        }
        (void)snprintf(text, sizeof(text), "%lu\n", n);
        say(text);
        return 0;
}

static int do_flood(char **argv)
{
        static unsigned char buf[CHUNK];
        size_t at = 0;

        (void)argv;
        for (; at < SIZE_MAX - sizeof(buf); at += sizeof(buf)) {
                pattern_fill(buf, sizeof(buf), at, 0);
                write_all(1, buf, sizeof(buf));
        }
        return 0;
}

/* Leaves a process behind that shares nothing with us but the pid namespace. */
static int do_escape(char **argv)
{
        int ready[2];
        char c;

        (void)argv;
        if (pipe(ready) < 0)
                return 1;
        if (fork() == 0) {
                (void)setsid();
                if (fork() == 0) {
                        for (int s = 1; s < NSIG; s++)
                                (void)signal(s, SIG_IGN);
                        (void)prctl(PR_SET_PDEATHSIG, 0);
                        (void)prctl(PR_SET_NAME, "mf-escaped");
                        for (int fd = 0; fd < 3; fd++)
                                (void)close(fd);
                        (void)write(ready[1], "x", 1);
                        for (;;)
                                (void)pause();
                }
                _exit(0);
        }
        if (read(ready[0], &c, 1) != 1)
                return 1;
        say("left one behind\n");
        return 0;
}

/* The child holds standard output, and would write to it for ever. */
static int do_hold(char **argv)
{
        (void)argv;
        if (fork() == 0)
                for (;;)
                        sleep_ms(1000);
        say("held\n");
        return 3;
}

static int do_close(char **argv)
{
        (void)argv;
        (void)close(1);
        (void)close(2);
        sleep_ms(30);
        return 7;
}

static int do_stop(char **argv)
{
        (void)argv;
        say("stopping\n");
        (void)kill(getpid(), SIGSTOP);
        sleep_ms(60000);
        return 0;
}

static int do_ignore(char **argv)
{
        (void)argv;
        (void)signal(SIGTERM, SIG_IGN);
        say("ignoring\n");
        return sleep_ms(ULONG_MAX);
}

static int do_term(char **argv)
{
        sigset_t set;
        int signo;

        (void)argv;
        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGTERM);
        (void)sigprocmask(SIG_BLOCK, &set, NULL);
        say("waiting\n");
        if (sigwait(&set, &signo) == 0)
                say("term\n");
        return 0;
}

static int do_pdeathsig(char **argv)
{
        (void)argv;
        (void)prctl(PR_SET_PDEATHSIG, 0);
        (void)signal(SIGHUP, SIG_IGN);
        say("cleared\n");
        return sleep_ms(ULONG_MAX);
}

/* A listener without SO_REUSEADDR, and one connection closed by its side: TIME_WAIT stays on the port. */
static int do_timewait(char **argv)
{
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)number(argv, 2)) };
        int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0), s;
        char b;

        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (l < 0 || c < 0)
                return 2;
        if (bind(l, (struct sockaddr *)&a, sizeof(a)) < 0)
                return errno == EADDRINUSE ? 98 : 3;
        if (listen(l, 1) < 0 || connect(c, (struct sockaddr *)&a, sizeof(a)) < 0)
                return 4;
        s = accept(l, NULL, NULL);
        if (s < 0)
                return 5;
        (void)shutdown(s, SHUT_WR);
        if (read(c, &b, 1) != 0)
                return 6;
        (void)close(c);
        if (read(s, &b, 1) != 0)
                return 7;
        (void)close(s);
        return 0;
}

/* The address by which it would leave, as the kernel chooses it. */
static bool own_address(struct sockaddr_in *ret)
{
        struct sockaddr_in far = { .sin_family = AF_INET, .sin_port = htons(9) };
        socklen_t len = sizeof(*ret);
        int fd = socket(AF_INET, SOCK_DGRAM, 0);

        return fd >= 0 && inet_pton(AF_INET, "203.0.113.1", &far.sin_addr) == 1 &&
               connect(fd, (struct sockaddr *)&far, sizeof(far)) == 0 &&
               getsockname(fd, (struct sockaddr *)ret, &len) == 0;
}

static int reach(struct sockaddr_in *a, int timeout_ms)
{
        struct pollfd p = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), .events = POLLOUT };
        socklen_t len = sizeof(int);
        int error = 0;

        if (p.fd < 0)
                return 2;
        if (connect(p.fd, (struct sockaddr *)a, sizeof(*a)) == 0)
                return 0;
        if (errno != EINPROGRESS || poll(&p, 1, timeout_ms) != 1 ||
            getsockopt(p.fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error != 0)
                return 1;
        return 0;
}

/* Says where it listens, once it has reached itself there, and goes on until it is ended. */
static int do_listen(char **argv)
{
        struct sockaddr_in a = { .sin_family = AF_INET };
        char text[INET_ADDRSTRLEN];
        int l = socket(AF_INET, SOCK_STREAM, 0);

        if (l < 0 || !own_address(&a))
                return 2;
        a.sin_port = htons((uint16_t)number(argv, 2));
        if (bind(l, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(l, 16) < 0)
                return 3;
        if (reach(&a, 3000) != 0 || !inet_ntop(AF_INET, &a.sin_addr, text, sizeof(text)))
                return 4;
        say(text);
        say("\n");
        for (;;)
                sleep_ms(1000);
}

/* 0: somebody is there. */
static int do_connect(char **argv)
{
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)number(argv, 3)) };

        return inet_pton(AF_INET, argv[2], &a.sin_addr) == 1 ? reach(&a, 2000) : 3;
}

/* As that user, opens its own standard streams again. */
static int do_reopen(char **argv)
{
        uid_t uid = (uid_t)number(argv, 2);
        int out, err, in;

        if (setgroups(0, NULL) < 0 || setgid(uid) < 0 || setuid(uid) < 0)
                return 2;
        out = open("/dev/stdout", O_WRONLY);
        err = open("/dev/stderr", O_WRONLY);
        in = open("/dev/stdin", O_RDONLY);
        if (out < 0 || err < 0)
                return 3;
        if (in < 0)
                return 4;
        write_all(out, "out", 3);
        write_all(err, "err", 3);
        return 0;
}

static int do_count_fds(char **argv)
{
        int n = 0;
        char text[16];

        (void)argv;
        for (int fd = 0; fd < 4096; fd++)
                if (fcntl(fd, F_GETFD) >= 0)
                        n++;
        (void)snprintf(text, sizeof(text), "%d\n", n);
        say(text);
        return 0;
}

static int do_write_file(char **argv)
{
        int fd = open(argv[2], O_WRONLY | O_TRUNC);

        if (fd < 0)
                return 1;
        return write(fd, argv[3], strlen(argv[3])) == (ssize_t)strlen(argv[3]) ? 0 : 2;
}

static const struct {
        const char *name;
        int (*fn)(char **argv);
} deeds[] = {
        { "exit", do_exit },
        { "signal", do_signal },
        { "both", do_both },
        { "bytes", do_bytes },
        { "cat", do_cat },
        { "sleep", do_sleep },
        { "memory", do_memory },
        { "cpu", do_cpu },
        { "disk", do_disk },
        { "inodes", do_inodes },
        { "bomb", do_bomb },
        { "forks", do_forks },
        { "flood", do_flood },
        { "escape", do_escape },
        { "hold", do_hold },
        { "close", do_close },
        { "stop", do_stop },
        { "ignore", do_ignore },
        { "term", do_term },
        { "pdeathsig", do_pdeathsig },
        { "timewait", do_timewait },
        { "reopen", do_reopen },
        { "count-fds", do_count_fds },
        { "write-file", do_write_file },
        { "listen", do_listen },
        { "connect", do_connect },
};

int main(int argc, char **argv)
{
        for (size_t i = 0; argc > 1 && i < sizeof(deeds) / sizeof(deeds[0]); i++)
                if (strcmp(argv[1], deeds[i].name) == 0)
                        return deeds[i].fn(argv);
        return 120;
}
