#include "engine/native/peer.h"

#include "base/fd.h"
#include "base/test_skip.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#define NOBODY 65534
#define FEW 24
#define PACKETS 8
#define FDS_EACH 8

static void on_connected(struct peer *p, void *data)
{
        (void)p;
        *(bool *)data = true;
}

static void on_packet(struct peer *p, const void *packet, size_t len, int *fds, size_t n_fds, void *data)
{
        (void)p;
        (void)packet;
        (void)len;
        (void)fds;
        (void)n_fds;
        (void)data;
}

static void on_closed(struct peer *p, void *data)
{
        (void)p;
        (void)data;
        _exit(20);
}

#define EXPECT(condition, code)                                                                                        \
        do {                                                                                                           \
                if (!(condition))                                                                                      \
                        _exit(code);                                                                                   \
        } while (0)

static unsigned receive_all(int sock)
{
        unsigned got = 0;

        for (;;) {
                int fds[FD_MSG_MAX];
                size_t len = 0, n = FD_MSG_MAX;
                char byte;

                if (fd_recv(sock, &byte, 1, &len, fds, &n) < 0)
                        return got;
                EXPECT(len == 1 && n == FDS_EACH, 21);
                for (size_t i = 0; i < n; i++)
                        fd_close(fds[i]);
                got++;
        }
}

/* More descriptors are on their way than the kernel lets its user have there: what is left to send waits, and costs no turns. */
static void send_too_many(const char *path)
{
        static const struct peer_ops ops = { .connected = on_connected, .packet = on_packet, .closed = on_closed };
        int listener = -EBADF, other, fds[FDS_EACH], null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        struct rlimit few = { .rlim_cur = FEW };
        struct loop *loop = NULL;
        unsigned turns = 0, got;
        bool connected = false;
        struct peer p;
        uint64_t end;

        EXPECT(fd_listen_unix(path, SOCK_SEQPACKET, NOBODY, NOBODY, 0600, &listener, NULL) == 0, 2);
        EXPECT(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0, 3);
        EXPECT(loop_new(&loop, NULL) == 0 && peer_init(&p, loop, path, &ops, &connected, NULL) == 0, 4);
        while (!connected)
                EXPECT(loop_turn(loop, 100, NULL) >= 0, 5);
        other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        EXPECT(other >= 0, 6);
        EXPECT(getrlimit(RLIMIT_NOFILE, &few) == 0, 7);
        for (int i = 0; i < FDS_EACH; i++)
                fds[i] = null;
        for (int i = 0; i < PACKETS; i++) {
                few.rlim_cur = FEW;
                EXPECT(setrlimit(RLIMIT_NOFILE, &few) == 0, 8);
                /* Copies of descriptors that wait need more of them. */
                if (!list_empty(&p.out)) {
                        few.rlim_cur = 256;
                        EXPECT(setrlimit(RLIMIT_NOFILE, &few) == 0, 9);
                }
                if (peer_send(&p, "x", 1, fds, FDS_EACH, NULL) < 0) {
                        few.rlim_cur = 256;
                        EXPECT(setrlimit(RLIMIT_NOFILE, &few) == 0, 10);
                        EXPECT(peer_send(&p, "x", 1, fds, FDS_EACH, NULL) == 0, 11);
                }
        }
        few.rlim_cur = FEW;
        EXPECT(setrlimit(RLIMIT_NOFILE, &few) == 0, 12);
        EXPECT(!list_empty(&p.out), 13);
        for (end = time_mono_ns() + 100 * NS_PER_MS; time_mono_ns() < end; turns++)
                EXPECT(loop_turn(loop, 10, NULL) >= 0, 14);
        EXPECT(turns < 60, 15);
        few.rlim_cur = 256;
        EXPECT(setrlimit(RLIMIT_NOFILE, &few) == 0, 16);
        for (got = 0; got < PACKETS; got += receive_all(other))
                EXPECT(loop_turn(loop, 100, NULL) >= 0, 17);
        EXPECT(list_empty(&p.out) && p.out_bytes == 0, 18);
        peer_done(&p);
        loop_free(loop);
        _exit(0);
}

static void test_too_many_in_flight(void **state)
{
        char dir[] = "/tmp/mayfly-peer-XXXXXX", path[64];
        int status = -1;
        pid_t pid;

        (void)state;
        skip_unless_root(); /* the other user is nobody */
        assert_non_null(mkdtemp(dir));
        assert_int_equal(chmod(dir, 0711), 0);
        (void)snprintf(path, sizeof(path), "%s/sock", dir);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                send_too_many(path);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        (void)unlink(path);
        (void)rmdir(dir);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_too_many_in_flight),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
