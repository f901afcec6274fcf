/* What a container finds in its root because START says so (secrets, links, directories), and what COPY_OUT brings out of
 * it, while it tries to lead that astray. */
#include "harness.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/tar.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTES (UINT64_C(4) << 20)
#define ENTRIES 1000
#define CANARY "canary-7f3a"

/* ── secrets, links, directories ─────────────────────────────────────────────────────────────────────────────────── */

static const struct client_secret secrets[] = { { "token", CANARY }, { "..x", "" }, { "A.b-c_9", "two\nlines" } };

static struct client_spec with_secrets(const char *script)
{
        struct client_spec spec = shell(script);

        spec.secrets = secrets;
        spec.n_secrets = 3;
        return spec;
}

static void test_secrets(void)
{
        struct client_spec spec = with_secrets(
                "stat -c '%u:%g %a %s %n' /run/secrets/* /run/secrets/..x; "
                "cat /run/secrets/token; "
                "for f in token new; do echo x 2>&- >/run/secrets/$f || echo -n ' ro'; done; "
                "ls /bin/busybox /run");

        spec.uid = spec.gid = 1000;
        CHECK(exited(run(&spec), 0));
        CHECK(str_eq(out, "1000:1000 400 9 /run/secrets/A.b-c_9\n1000:1000 400 11 /run/secrets/token\n"
                          "1000:1000 400 0 /run/secrets/..x\n" CANARY " ro ro/bin/busybox\n\n/run:\nsecrets\n"));
        /* Another user than the task's reads nothing, and root of the container, who owns none, changes nothing. */
        spec = with_secrets("cat /run/secrets/token && ! echo x 2>&- >/run/secrets/token && "
                            "! mkdir /run/secrets/d 2>&-");
        CHECK(exited(run(&spec), 0));
        CHECK(str_eq(out, CANARY));
        /* Without any there is no such directory. */
        CHECK(exited(sh("test ! -e /run/secrets"), 0));
}

/* Whatever the image has at /run and /run/secrets. */
static void test_secrets_in_images(void)
{
        static const char *const links[] = { "/tmp", "/etc", "../../../../tmp", "/proc/1/root", "nowhere", "run" };
        char run_dir[160], below[192], outside[192];

        (void)snprintf(run_dir, sizeof(run_dir), "%s/store/trees/" TREE "/run", dir);
        (void)snprintf(below, sizeof(below), "%s/secrets", run_dir);
        (void)snprintf(outside, sizeof(outside), "%s/store/trees/" TREE "/etc/secrets", dir);
        for (size_t i = 0; i < 2 * ARRAY_LEN(links); i++) {
                struct client_spec spec = with_secrets("cat /run/secrets/token; ls /etc /tmp");
                const char *where = i < ARRAY_LEN(links) ? run_dir : below;

                CHECK(where == run_dir || mkdir(run_dir, 0755) == 0);
                CHECK(symlink(links[i % ARRAY_LEN(links)], where) == 0);
                CHECK(exited(run(&spec), 0));
                CHECK(strncmp(out, CANARY, strlen(CANARY)) == 0 && !strstr(out, "secrets"));
                CHECK(access(outside, F_OK) < 0);
                CHECK(unlink(where) == 0);
                if (where == below)
                        CHECK(rmdir(run_dir) == 0);
        }
        /* A file, and a directory with something of the image in it. */
        CHECK(mkdir(run_dir, 0755) == 0);
        write_text(below, "image", 0644);
        struct client_spec spec = with_secrets("cat /run/secrets/token");
        CHECK(exited(run(&spec), 0) && str_eq(out, CANARY));
        CHECK(unlink(below) == 0 && mkdir(below, 0755) == 0);
        (void)snprintf(outside, sizeof(outside), "%s/image", below);
        write_text(outside, "image", 0644);
        spec = with_secrets("cat /run/secrets/token; test ! -e /run/secrets/image");
        CHECK(exited(run(&spec), 0) && str_eq(out, CANARY));
        CHECK(unlink(outside) == 0 && rmdir(below) == 0 && rmdir(run_dir) == 0);
}

static void test_kinds(void)
{
        static const struct client_file files[] = {
                { "d", "", 0, S_IFDIR | 01750 },        { "d/f", "in", 2, 04640 },
                { "d/l", "../../../etc", 12, S_IFLNK }, { "d/l/through", "far", 3, 0600 },
                { "/bin/sleep", "gone", 4, S_IFLNK },   { "/tmp", "", 0, S_IFDIR | 0700 },
        };
        struct client_spec spec = shell("stat -c '%u %a %F' d d/f d/l; cat /etc/through; stat -c ' %u %a' /tmp; "
                                        "test -L /bin/sleep && test ! -e /bin/sleep");

        spec.files = files;
        spec.n_files = ARRAY_LEN(files);
        spec.workdir = "/w/x";
        spec.uid = 1000;
        CHECK(exited(run(&spec), 0));
        CHECK(str_eq(out, "1000 1750 directory\n1000 4640 regular file\n1000 777 symbolic link\nfar 0 700\n"));
}

/* ── copies ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static char list[OUT_MAX];

/* The archive as one line for each member. */
static void describe(const void *archive, size_t len)
{
        static const char letters[] = { 'f', 'd', 'l', 'h', 'p', 'c', 'b', '?' };
        static struct tar_reader r;
        struct tar_piece p;
        size_t n = 0;

        tar_reader_init(&r, NULL);
        list[0] = '\0';
        do {
                if (tar_reader_next(&r, &archive, &len, &p, NULL) < 0) {
                        CHECK(!"an archive");
                        return;
                }
                if (p.event == TAR_MEMBER && n + 600 < sizeof(list))
                        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%c %o %.200s%s%.200s", n ? "\n" : "",
                                              letters[p.member.kind], p.member.mode, p.member.path,
                                              p.member.target[0] ? " -> " : "", p.member.target);
                else if (p.event == TAR_CONTENT && n + 100 < sizeof(list))
                        n += (size_t)snprintf(list + n, sizeof(list) - n, " [%.*s]", (int)MIN(p.len, (size_t)60),
                                              (const char *)p.data);
                CHECK(p.event != TAR_MEMBER || !p.member.outside);
        } while (p.event != TAR_MORE && p.event != TAR_END);
        CHECK(p.event == TAR_END);
}

/* 0 and the content in `list`, or the error. */
static int copy_bounded(const char *id, const char *what, uint64_t bytes, uint32_t entries, uint32_t ms)
{
        auto_fd fd = memfd_create("copy", MFD_CLOEXEC);
        struct stat st;
        void *p;

        list[0] = '\0';
        if (client_copy(sock, id, what, bytes, entries, ms, fd) < 0 || client_receive(sock, &msg, 20000) < 0) {
                CHECK(!"an answer");
                return -1;
        }
        CHECK(fstat(fd, &st) == 0 && (uint64_t)st.st_size <= bytes);
        CHECK(msg.h.seq == 11);
        if (msg.h.op == LAUNCH_REFUSED)
                return msg.refused.error;
        CHECK(msg.h.op == LAUNCH_DONE);
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p != MAP_FAILED) {
                describe(p, (size_t)st.st_size);
                (void)munmap(p, (size_t)st.st_size);
        }
        return 0;
}

static int copy(const char *id, const char *what)
{
        return copy_bounded(id, what, BYTES, ENTRIES, 10000);
}

/* Runs a script to its end and keeps its root. */
static const char *ended(const char *script, struct client_task *t)
{
        static char id[LAUNCH_ID_MAX];
        struct client_spec spec = shell(script);

        spec.keep_root = true;
        spec.workdir = "/w/d";
        spec.secrets = secrets;
        spec.n_secrets = 1;
        (void)snprintf(id, sizeof(id), "%s", spec.id);
        CHECK(client_start(sock, &spec, t) == 0);
        CHECK(client_receive(sock, &msg, 20000) == 0 && msg.h.op == LAUNCH_EXITED);
        CHECK(exited(&msg.exited.exit, 0));
        return id;
}

static void end(const char *id, struct client_task *t)
{
        CHECK(client_send_id(sock, LAUNCH_REMOVE, id) == 0);
        client_task_close(t);
}

static void test_copy(void)
{
        struct client_task t;
        const char *id = ended(
                "umask 022; mkdir -p a/b e; echo -n one >a/f; chmod 600 a/f; ln -s ../f a/b/l; echo -n x >f; "
                "ln -s a s; mkfifo a/p; echo -n deep >a/b/g; echo -n shm >/dev/shm/m; chmod 1700 e",
                &t);

        CHECK(copy(id, "a/f") == 0 && str_eq(list, "f 600 f [one]"));
        CHECK(copy(id, "/w/d/f") == 0 && str_eq(list, "f 644 f [x]"));
        CHECK(copy(id, "../d/f") == 0 && str_eq(list, "f 644 f [x]"));
        CHECK(copy(id, "../../../../../w/d/f") == 0 && str_eq(list, "f 644 f [x]"));
        CHECK(copy(id, "e") == 0 && str_eq(list, "d 1700 e"));
        CHECK(copy(id, "a/b/") == 0 && strncmp(list, "d 755 b\n", 8) == 0);
        CHECK(strstr(list, "l 777 b/l -> ../f") && strstr(list, "f 644 b/g [deep]"));
        CHECK(copy(id, "a") == 0 && strstr(list, "p 644 a/p") && strstr(list, "f 600 a/f [one]"));
        CHECK(copy(id, "s") == 0 && str_eq(list, "l 777 s -> a"));
        CHECK(copy(id, "s/f") == 0 && str_eq(list, "f 600 f [one]"));
        CHECK(copy(id, "s/.") == 0 && strstr(list, "f 600 f [one]"));
        CHECK(copy(id, "/dev/shm") == 0 && strstr(list, "f 644 shm/m [shm]"));
        CHECK(copy(id, "none") == ENOENT);
        CHECK(copy(id, "f/x") == ENOTDIR);
        CHECK(copy(id, "f/") == ENOTDIR);
        CHECK(copy("nobody", "f") == ESRCH);
        CHECK(copy_bounded(id, "a", 2048, ENTRIES, 10000) == EFBIG);
        CHECK(copy_bounded(id, "a", BYTES, 3, 10000) == E2BIG);
        end(id, &t);
        CHECK(copy(id, "f") == ESRCH);
        /* The slot has gone back: as many as there are can follow. */
        CHECK(exited(sh("exit 6"), 6));
}

static void test_copy_running(void)
{
        struct client_spec spec = shell("echo -n now >/f; echo ready; sleep 1000");
        struct client_task t;

        start(&spec, &t, "ready");
        CHECK(copy(spec.id, "/f") == 0 && str_eq(list, "f 644 f [now]"));
        CHECK(client_signal(sock, spec.id, SIGKILL) == 0);
        CHECK(client_receive(sock, &msg, 10000) == 0 && msg.h.op == LAUNCH_EXITED);
        CHECK(copy(spec.id, "/f") == ESRCH); /* not kept */
        end(spec.id, &t);
}

/* What the kernel makes up, secrets, masks: never. */
static void test_copy_places(void)
{
        static const char *const refused[] = { "/proc",
                                               "/proc/self/exe",
                                               "/proc/1/root",
                                               "/proc/1/environ",
                                               "/proc/1/root/f",
                                               "/sys",
                                               "/sys/firmware",
                                               "/run/secrets",
                                               "/dev/pts",
                                               "/dev/mqueue",
                                               "/run/secrets/token",
                                               "/proc/self/fd/3",
                                               "/proc/thread-self/cwd/f" };
        struct client_task t;
        const char *id = ended("ln -s /proc/self/exe e; ln -s /proc/1/root r; ln -s /run/secrets/token t; "
                               "ln -s /run/secrets s; mknod z c 0 0 2>&-; true",
                               &t);

        for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
                int r = copy(id, refused[i]);

                if (r != EACCES && r != ENOENT && r != ELOOP && r != ENOTDIR)
                        (void)printf("# %s: %d, %s\n", refused[i], r, list);
                CHECK(r == EACCES || r == ENOENT || r == ELOOP || r == ENOTDIR);
        }
        CHECK(copy(id, "s/token") == EACCES || copy(id, "s/token") == ENOENT);
        CHECK(copy(id, "e") == 0 && str_eq(list, "l 777 e -> /proc/self/exe"));
        CHECK(copy(id, "r/.") != 0);
        /* The whole of it: nothing of other file systems, no device. */
        CHECK(copy_bounded(id, "/", UINT64_C(64) << 20, ENTRIES, 10000) == 0);
        CHECK(!strstr(list, CANARY) && !strstr(list, "dev/null") && !strstr(list, " proc/") &&
              strstr(list, "d 555 proc"));
        end(id, &t);
}

/* What is large, many, or never ends. */
static void test_copy_bounds(void)
{
        struct client_task t;
        const char *id = ended(
                "dd if=/dev/zero of=sparse bs=1 count=1 seek=1099511627776 2>&-; mkdir many; cd many; "
                "i=0; while [ $i -lt 3000 ]; do : >$i; i=$((i+1)); done; cd ..; mkdir deep; cd deep; i=0; "
                "while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done",
                &t);
        int pipes[2];
        char byte;

        CHECK(copy(id, "sparse") == EFBIG);
        CHECK(copy_bounded(id, "many", BYTES, 100, 10000) == E2BIG);
        CHECK(copy_bounded(id, "many", BYTES, 4000, 10000) == 0);
        CHECK(copy_bounded(id, "deep", BYTES, ENTRIES, 10000) == ENAMETOOLONG);
        /* Nobody reads: the time is up. */
        CHECK(pipe2(pipes, O_CLOEXEC | O_NONBLOCK) == 0);
        CHECK(client_copy(sock, id, "many", BYTES, 4000, 300, pipes[1]) == 0);
        CHECK(client_receive(sock, &msg, 10000) == 0);
        CHECK(msg.h.op == LAUNCH_REFUSED && msg.refused.error == ETIMEDOUT);
        fd_close(pipes[1]);
        CHECK(read(pipes[0], &byte, 1) == 1);
        /* Nobody can read. */
        fd_close(pipes[0]);
        CHECK(pipe2(pipes, O_CLOEXEC) == 0);
        fd_close(pipes[0]);
        CHECK(client_copy(sock, id, "many", BYTES, 4000, 10000, pipes[1]) == 0);
        CHECK(client_receive(sock, &msg, 10000) == 0);
        CHECK(msg.h.op == LAUNCH_REFUSED && msg.refused.error == EPIPE);
        fd_close(pipes[1]);
        /* More at once than there may be; those that run are ended with their container. */
        CHECK(pipe2(pipes, O_CLOEXEC) == 0);
        for (int i = 0; i <= LAUNCH_COPIES_MAX; i++)
                CHECK(client_copy(sock, id, "many", BYTES, 4000, 60000, pipes[1]) == 0);
        CHECK(client_receive(sock, &msg, 10000) == 0 && msg.h.op == LAUNCH_REFUSED && msg.refused.error == EBUSY);
        CHECK(client_send_id(sock, LAUNCH_REMOVE, id) == 0);
        for (int i = 0; i < LAUNCH_COPIES_MAX; i++) {
                CHECK(client_receive(sock, &msg, 10000) == 0);
                CHECK(msg.h.op == LAUNCH_REFUSED && msg.refused.error == ESRCH);
        }
        fd_close(pipes[0]);
        fd_close(pipes[1]);
        client_task_close(&t);
}

/* A container that exchanges directories, links, FIFOs and files under the reader's hands: what comes out is its own, or
 * nothing. The host's file that its links name holds a canary. */
static void test_copy_races(void)
{
        char canary[96], script[700];
        struct client_spec spec;
        struct client_task t;
        unsigned good = 0;

        (void)snprintf(canary, sizeof(canary), "%s/canary", dir);
        write_text(canary, CANARY, 0644);
        (void)snprintf(
                script, sizeof(script),
                "mkdir -p /r/a /r/b; echo -n mine >/r/a/canary; ln -s %s /r/l; ln -s %s /r/b/canary; mkfifo /r/p; "
                "echo ready; while :; do mv /r/a /r/x; mv /r/l /r/a; mv /r/a /r/l; mv /r/x /r/a; "
                "mv /r/a/canary /r/c; mv /r/p /r/a/canary; mv /r/a/canary /r/p; ln -s %s /r/a/canary; "
                "rm /r/a/canary; mv /r/c /r/a/canary; done",
                dir, canary, canary);
        spec = shell(script);
        start(&spec, &t, "ready");
        for (int i = 0; i < 300; i++) {
                const char *const what[] = { "/r", "/r/a/canary", "/r/a" };
                int r = copy(spec.id, what[i % 3]);

                good += r == 0;
                CHECK(r == 0 || r == ENOENT || r == ENOTDIR || r == ELOOP);
                CHECK(!strstr(list, "[" CANARY));
        }
        CHECK(good > 100);
        CHECK(client_signal(sock, spec.id, SIGKILL) == 0);
        CHECK(client_receive(sock, &msg, 10000) == 0 && msg.h.op == LAUNCH_EXITED);
        end(spec.id, &t);
        CHECK(unlink(canary) == 0);
}

/* A peer that comes back finds what is kept; one that asks with a wrong descriptor is cut off. */
static void test_copy_peers(void)
{
        struct client_task t;
        const char *id = ended("echo -n x >f", &t);
        int null;

        reconnect();
        CHECK(copy(id, "f") == 0 && str_eq(list, "f 644 f [x]"));
        null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        CHECK(client_copy(sock, id, "f", BYTES, ENTRIES, 1000, null) == 0);
        CHECK(client_receive(sock, &msg, 10000) < 0);
        fd_close(null);
        reconnect();
        end(id, &t);
}

const struct test root_tests[] = {
        { "secrets", test_secrets },
        { "secrets, whatever the image has there", test_secrets_in_images },
        { "files, directories, links", test_kinds },
        { "copies", test_copy },
        { "copies of what runs", test_copy_running },
        { "copies of what is not the container's", test_copy_places },
        { "copies that are bounded", test_copy_bounds },
        { "copies under hostile hands", test_copy_races },
        { "copies for the next peer", test_copy_peers },
        { NULL, NULL },
};
