/* The store and its workers, with the real mayfly-worker in its real confinement. Needs root. */

#include "launcher/work.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/test_tar.h"
#include "base/time.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ID_BASE 2013200384u
#define NAME_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define NAME_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define NAME_T "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define PROGRAM_MAX (64U << 20)

struct fixture {
        char dir[64];
        struct work *work;
        struct work_config config;
        int store, proc, worker;
        bool busy;
        union {
                struct launch_header h;
                struct launch_refused refused;
                struct launch_work_done work_done;
                struct launch_names names;
                char bytes[LAUNCH_MSG_MAX];
        } answer;
        size_t answer_len;
        unsigned answers;
};

static void on_reply(const void *msg, size_t len, void *data)
{
        struct fixture *f = data;

        assert_true(len <= sizeof(f->answer));
        memcpy(&f->answer, msg, len);
        f->answer_len = len;
        f->answers++;
}

static bool is_busy(const char *name, void *data)
{
        struct fixture *f = data;

        return f->busy && str_eq(name, NAME_T);
}

static int open_worker(void)
{
        const char *build = getenv("MAYFLY_BUILD");
        auto_free char *path = str_printf("%s/mayfly-worker", build ? build : "build");
        auto_str text = STR_INIT;
        int fd;

        if (!path || fd_read_file(AT_FDCWD, path, PROGRAM_MAX, &text, NULL) < 0 ||
            fd_memfd_sealed("mayfly-worker", text.data, text.len, &fd, NULL) < 0)
                return -EBADF;
        return fd;
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct err err = ERR_INIT;

        assert_non_null(f);
        *state = f;
        f->worker = geteuid() == 0 ? open_worker() : -EBADF;
        if (f->worker < 0)
                return 0;
        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-test-work-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        f->store = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        f->proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        f->config = (struct work_config){
                .store_fd = f->store,
                .proc_fd = f->proc,
                .worker_fd = f->worker,
                .id_base = ID_BASE,
                .reply = on_reply,
                .tree_busy = is_busy,
                .data = f,
        };
        for (size_t i = 0; i < WORK_RUNNING_MAX; i++) {
                f->config.cgroups[i].v2_fd = -EBADF;
                f->config.cgroups[i].v1_tasks[0] = -EBADF;
        }
        if (work_new(&f->config, &f->work, &err) < 0)
                fail_msg("%s", err.text);
        return 0;
}

static void reap(struct fixture *f)
{
        struct pollfd timer = { .fd = work_timer_fd(f->work), .events = POLLIN };
        siginfo_t info = { .si_pid = 0 };

        while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid == 0)
                if (poll(&timer, 1, 5) > 0)
                        work_timer(f->work);
        assert_true(work_reaped(f->work, info.si_pid, &info));
}

static void settle(struct fixture *f)
{
        while (!work_idle(f->work))
                reap(f);
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        if (f->worker >= 0) {
                work_free(f->work);
                fd_close(f->store);
                fd_close(f->proc);
                fd_close(f->worker);
                f->store = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                assert_int_equal(path_remove_tree(f->store, f->dir + 5), 0);
                fd_close(f->store);
        }
        free(f);
        return 0;
}

#define NEEDS_WORKER(f)                                                                                                \
        do {                                                                                                           \
                if ((f)->worker < 0) {                                                                                 \
                        print_message("needs root and the program mayfly-worker in MAYFLY_BUILD\n");                   \
                        skip();                                                                                        \
                }                                                                                                      \
        } while (0)

static void tar_add(struct str *out, const char *name, char type, const char *link, const char *text)
{
        test_tar_entry(out, &(struct test_tar_entry){ .name = name,
                                                      .type = type,
                                                      .target = link,
                                                      .data = text,
                                                      .len = strlen(text),
                                                      .uid = 7,
                                                      .gid = 8 });
}

static int memfd_of(const void *data, size_t len)
{
        int fd = memfd_create("test", MFD_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, data, len), 0);
        return fd;
}

static void show_report(int fd)
{
        char text[512] = "";

        (void)!pread(fd, text, sizeof(text) - 1, 0);
        print_message("report: %s\n", text);
}

/* Runs one UNPACK or MERGE to its end; *ret_token 0 if it went wrong. */
static void run_work(struct fixture *f, uint32_t work, const struct str *blob, const char *const *layers,
                     uint32_t n_layers, uint32_t *ret_token)
{
        struct {
                struct launch_work_start m;
                char names[4][LAUNCH_HEX];
        } p = { .m = { .h = { .op = LAUNCH_WORK, .seq = 5 },
                       .work = work,
                       .n_layers = n_layers,
                       .max_bytes = 1 << 20,
                       .max_entries = 100 } };
        int fds[2], report = memfd_create("report", MFD_CLOEXEC);
        size_t n_fds = 0;

        for (uint32_t i = 0; i < n_layers; i++)
                memcpy(p.names[i], layers[i], LAUNCH_HEX);
        if (blob)
                fds[n_fds++] = memfd_of(blob->data, blob->len);
        fds[n_fds++] = fcntl(report, F_DUPFD_CLOEXEC, 3);
        f->answers = 0;
        assert_int_equal(work_handle(f->work, &p.m.h, sizeof(p.m) + (size_t)n_layers * LAUNCH_HEX, fds, n_fds), 0);
        assert_int_equal(fds[0], -EBADF);
        while (f->answers == 0)
                reap(f);
        assert_int_equal(f->answer.h.seq, 5);
        if (f->answer.h.op != LAUNCH_WORK_DONE || f->answer.work_done.token == 0)
                show_report(report);
        *ret_token = f->answer.h.op == LAUNCH_WORK_DONE ? f->answer.work_done.token : 0;
        fd_close(report);
}

static uint32_t commit(struct fixture *f, uint32_t token, uint32_t kind, const char *name)
{
        struct launch_commit m = { .h = { .op = LAUNCH_COMMIT, .seq = 6 }, .token = token, .kind = kind };

        memcpy(m.name, name, LAUNCH_HEX);
        assert_int_equal(work_handle(f->work, &m.h, sizeof(m), NULL, 0), 0);
        return f->answer.h.op;
}

static uint32_t delete (struct fixture *f, uint32_t kind, const char *name)
{
        struct launch_delete m = { .h = { .op = LAUNCH_DELETE, .seq = 7 }, .kind = kind };

        memcpy(m.name, name, LAUNCH_HEX);
        assert_int_equal(work_handle(f->work, &m.h, sizeof(m), NULL, 0), 0);
        return f->answer.h.op;
}

static uint32_t count(struct fixture *f, uint32_t kind)
{
        struct launch_list m = { .h = { .op = LAUNCH_LIST }, .kind = kind };

        assert_int_equal(work_handle(f->work, &m.h, sizeof(m), NULL, 0), 0);
        assert_int_equal(f->answer.h.op, LAUNCH_NAMES);
        return f->answer.names.n;
}

static void make_layers(struct fixture *f)
{
        auto_str lower = STR_INIT, upper = STR_INIT;
        uint32_t token;

        tar_add(&lower, "usr/", '5', "", "");
        tar_add(&lower, "usr/lib/", '5', "", "");
        tar_add(&lower, "lib", '2', "usr/lib", "");
        tar_add(&lower, "gone", '0', "", "x");
        tar_add(&upper, "lib/foo", '0', "", "foo");
        tar_add(&upper, ".wh.gone", '0', "", "");
        tar_add(&upper, "device", '3', "", "");
        run_work(f, LAUNCH_WORK_UNPACK, &lower, NULL, 0, &token);
        assert_int_equal(commit(f, token, LAUNCH_KIND_LAYER, NAME_A), LAUNCH_DONE);
        run_work(f, LAUNCH_WORK_UNPACK, &upper, NULL, 0, &token);
        assert_int_equal(commit(f, token, LAUNCH_KIND_TREE, NAME_B), LAUNCH_REFUSED);
        assert_int_equal(commit(f, token, LAUNCH_KIND_LAYER, NAME_B), LAUNCH_DONE);
}

static void make_tree(struct fixture *f)
{
        const char *const layers[] = { NAME_A, NAME_B };
        uint32_t token;

        make_layers(f);
        run_work(f, LAUNCH_WORK_MERGE, NULL, layers, 2, &token);
        assert_int_equal(commit(f, token, LAUNCH_KIND_TREE, NAME_T), LAUNCH_DONE);
}

static void test_tree(void **state)
{
        struct fixture *f = *state;
        struct stat st;

        NEEDS_WORKER(f);
        make_tree(f);
        assert_int_equal(count(f, LAUNCH_KIND_LAYER), 2);
        assert_int_equal(count(f, LAUNCH_KIND_TREE), 1);
        assert_int_equal(fstatat(f->store, "trees/" NAME_T "/usr/lib/foo", &st, AT_SYMLINK_NOFOLLOW), 0);
        assert_int_equal(st.st_uid, ID_BASE + 7);
        assert_int_equal(st.st_gid, ID_BASE + 8);
        assert_int_equal(st.st_nlink, 2);
        assert_int_equal(fstatat(f->store, "trees/" NAME_T "/gone", &st, 0), -1);
        assert_int_equal(fstatat(f->store, "trees/" NAME_T "/device", &st, 0), -1);
        assert_int_equal(fstatat(f->store, "trees/" NAME_T, &st, 0), 0);
        assert_int_equal(st.st_uid, ID_BASE);
        settle(f);
        /* Nothing is left behind. */
        assert_int_equal(fstatat(f->store, "tmp", &st, 0), 0);
        assert_int_equal(st.st_nlink, 2);
}

static bool is_marked(struct fixture *f, const char *mark)
{
        struct stat st;

        return fstatat(f->store, mark, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* As reap(), until nothing waits to be written out. */
static void write_out(struct fixture *f, const char *mark)
{
        struct pollfd timer = { .fd = work_timer_fd(f->work), .events = POLLIN };

        while (!is_marked(f, mark)) {
                siginfo_t info = { .si_pid = 0 };

                if (poll(&timer, 1, 20) > 0)
                        work_timer(f->work);
                if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0)
                        assert_true(work_reaped(f->work, info.si_pid, &info));
        }
}

static void open_again(struct fixture *f)
{
        struct err err = ERR_INIT;

        settle(f);
        work_free(f->work);
        f->work = NULL;
        if (work_new(&f->config, &f->work, &err) < 0)
                fail_msg("%s", err.text);
        settle(f);
}

static void cut_power(struct fixture *f)
{
        assert_int_equal(fd_write_file(f->store, "settled/life", 0600, "another", 7, NULL), 0);
        open_again(f);
}

static void test_settle(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        make_tree(f);
        assert_false(is_marked(f, "settled/l" NAME_A));
        write_out(f, "settled/t" NAME_T);
        assert_true(is_marked(f, "settled/l" NAME_A));
        assert_true(is_marked(f, "settled/l" NAME_B));
        cut_power(f);
        assert_int_equal(count(f, LAUNCH_KIND_LAYER), 2);
        assert_int_equal(count(f, LAUNCH_KIND_TREE), 1);
        /* A mark goes with what it vouches for. */
        assert_int_equal(delete (f, LAUNCH_KIND_TREE, NAME_T), LAUNCH_DONE);
        assert_false(is_marked(f, "settled/t" NAME_T));
}

static void test_power_cut(void **state)
{
        struct fixture *f = *state;
        struct stat st;

        NEEDS_WORKER(f);
        make_tree(f);
        open_again(f);
        assert_int_equal(count(f, LAUNCH_KIND_LAYER), 2);
        assert_int_equal(fd_write_file(f->store, "settled/l" NAME_A, 0600, "", 0, NULL), 0);
        assert_int_equal(fd_write_file(f->store, "settled/l" NAME_T, 0600, "", 0, NULL), 0);
        cut_power(f);
        assert_int_equal(count(f, LAUNCH_KIND_LAYER), 1);
        assert_int_equal(count(f, LAUNCH_KIND_TREE), 0);
        assert_int_equal(fstatat(f->store, "layers/" NAME_A "/root/usr/lib", &st, 0), 0);
        /* What vouched for nothing would vouch for what comes by that name. */
        assert_false(is_marked(f, "settled/l" NAME_T));
}

/* A mark vouches for the directory that it was made for: one whose removal was not on disk yet, for none that came by its name. */
static void test_mark_of_another(void **state)
{
        struct fixture *f = *state;
        char mark[128] = "";

        NEEDS_WORKER(f);
        make_tree(f);
        write_out(f, "settled/t" NAME_T);
        assert_true(readlinkat(f->store, "settled/l" NAME_A, mark, sizeof(mark) - 1) > 0);
        assert_int_equal(delete (f, LAUNCH_KIND_TREE, NAME_T), LAUNCH_DONE);
        assert_int_equal(delete (f, LAUNCH_KIND_LAYER, NAME_A), LAUNCH_DONE);
        assert_int_equal(delete (f, LAUNCH_KIND_LAYER, NAME_B), LAUNCH_DONE);
        settle(f);
        make_tree(f);
        settle(f);
        (void)unlinkat(f->store, "settled/l" NAME_A, 0);
        assert_int_equal(symlinkat(mark, f->store, "settled/l" NAME_A), 0);
        cut_power(f);
        assert_int_not_equal(faccessat(f->store, "layers/" NAME_A, F_OK, 0), 0);
        assert_false(is_marked(f, "settled/l" NAME_A));
}

/* A store that is older than marks. */
static void test_no_marks(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        make_tree(f);
        settle(f);
        assert_int_equal(path_remove_tree(f->store, "settled"), 0);
        open_again(f);
        assert_int_equal(count(f, LAUNCH_KIND_LAYER), 2);
        write_out(f, "settled/t" NAME_T);
        cut_power(f);
        assert_int_equal(count(f, LAUNCH_KIND_TREE), 1);
}

static void test_delete(void **state)
{
        struct fixture *f = *state;
        struct stat st;

        NEEDS_WORKER(f);
        make_tree(f);
        f->busy = true;
        assert_int_equal(delete (f, LAUNCH_KIND_TREE, NAME_T), LAUNCH_REFUSED);
        assert_int_equal(f->answer.refused.error, EBUSY);
        f->busy = false;
        assert_int_equal(delete (f, LAUNCH_KIND_TREE, NAME_T), LAUNCH_DONE);
        assert_int_equal(delete (f, LAUNCH_KIND_TREE, NAME_T), LAUNCH_REFUSED);
        assert_int_equal(f->answer.refused.error, ENOENT);
        assert_int_equal(count(f, LAUNCH_KIND_TREE), 0);
        settle(f);
        assert_int_equal(fstatat(f->store, "trash", &st, 0), 0);
        assert_int_equal(st.st_nlink, 2);
        assert_int_equal(fstatat(f->store, "layers/" NAME_A "/root/usr/lib", &st, 0), 0);
}

static int children(void)
{
        char name[64], text[512] = "";
        auto_fd fd = -EBADF;
        int n = 0;

        (void)snprintf(name, sizeof(name), "/proc/self/task/%d/children", getpid());
        fd = open(name, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
                return -1;
        for (const char *c = text; *c; c++)
                n += *c == ' ';
        return n;
}

/* What a merge reads is not taken from under it. */
static void test_delete_amid_a_merge(void **state)
{
        struct {
                struct launch_work_start m;
                char names[2][LAUNCH_HEX];
        } p = { .m = { .h = { .op = LAUNCH_WORK, .seq = 5 }, .work = LAUNCH_WORK_MERGE, .n_layers = 2 } };
        struct fixture *f = *state;
        int report = memfd_create("report", MFD_CLOEXEC);

        NEEDS_WORKER(f);
        make_layers(f);
        settle(f);
        memcpy(p.names[0], NAME_A, LAUNCH_HEX);
        memcpy(p.names[1], NAME_B, LAUNCH_HEX);
        assert_int_equal(work_handle(f->work, &p.m.h, sizeof(p), &report, 1), 0);
        assert_int_equal(delete (f, LAUNCH_KIND_LAYER, NAME_A), LAUNCH_DONE);
        assert_true(children() <= 1);
        f->answers = 0;
        while (f->answers == 0)
                reap(f);
        assert_int_equal(f->answer.h.op, LAUNCH_WORK_DONE);
        assert_int_equal(commit(f, f->answer.work_done.token, LAUNCH_KIND_TREE, NAME_T), LAUNCH_DONE);
        settle(f);
}

static void test_bad_archive(void **state)
{
        struct fixture *f = *state;
        auto_str blob = STR_INIT;
        struct stat st;
        uint32_t token;

        NEEDS_WORKER(f);
        tar_add(&blob, "fine", '0', "", "x");
        tar_add(&blob, "../escape", '0', "", "x");
        run_work(f, LAUNCH_WORK_UNPACK, &blob, NULL, 0, &token);
        assert_int_equal(token, 0);
        assert_int_equal(f->answer.work_done.si_code, CLD_EXITED);
        assert_int_equal(f->answer.work_done.status, 1);
        settle(f);
        assert_int_equal(fstatat(f->store, "tmp", &st, 0), 0);
        assert_int_equal(st.st_nlink, 2);
}

static void test_missing_layer(void **state)
{
        const char *const layers[] = { NAME_A };
        struct fixture *f = *state;
        uint32_t token;

        NEEDS_WORKER(f);
        run_work(f, LAUNCH_WORK_MERGE, NULL, layers, 1, &token);
        assert_int_equal(f->answer.h.op, LAUNCH_REFUSED);
        assert_int_equal(f->answer.refused.error, ENOENT);
}

static void test_name_taken(void **state)
{
        struct fixture *f = *state;
        auto_str blob = STR_INIT;
        uint32_t token;

        NEEDS_WORKER(f);
        make_layers(f);
        tar_add(&blob, "fine", '0', "", "x");
        run_work(f, LAUNCH_WORK_UNPACK, &blob, NULL, 0, &token);
        assert_int_equal(commit(f, token, LAUNCH_KIND_LAYER, NAME_A), LAUNCH_REFUSED);
        assert_int_equal(f->answer.refused.error, EEXIST);
        assert_int_equal(commit(f, token, LAUNCH_KIND_LAYER, NAME_T), LAUNCH_REFUSED);
        assert_int_equal(f->answer.refused.error, ENOENT);
        settle(f);
}

static void test_peer_lost(void **state)
{
        struct fixture *f = *state;
        auto_str blob = STR_INIT;
        struct stat st;
        uint32_t token;

        NEEDS_WORKER(f);
        tar_add(&blob, "fine", '0', "", "x");
        run_work(f, LAUNCH_WORK_UNPACK, &blob, NULL, 0, &token);
        assert_int_not_equal(token, 0);
        work_peer_lost(f->work);
        assert_int_equal(commit(f, token, LAUNCH_KIND_LAYER, NAME_A), LAUNCH_REFUSED);
        settle(f);
        assert_int_equal(fstatat(f->store, "tmp", &st, 0), 0);
        assert_int_equal(st.st_nlink, 2);
}

/* What an earlier launcher left in tmp/ goes. */
static void test_cleanup(void **state)
{
        struct fixture *f = *state;
        struct err err = ERR_INIT;
        struct stat st;

        NEEDS_WORKER(f);
        settle(f);
        work_free(f->work);
        f->work = NULL;
        assert_int_equal(mkdirat(f->store, "tmp/77", 0700), 0);
        assert_int_equal(mkdirat(f->store, "tmp/77/root", 0700), 0);
        assert_int_equal(fchownat(f->store, "tmp/77/root", ID_BASE, ID_BASE, 0), 0);
        assert_int_equal(fchownat(f->store, "tmp/77", ID_BASE, ID_BASE, 0), 0);
        if (work_new(&f->config, &f->work, &err) < 0)
                fail_msg("%s", err.text);
        settle(f);
        assert_int_equal(fstatat(f->store, "trash", &st, 0), 0);
        assert_int_equal(st.st_nlink, 2);
        assert_int_equal(fstatat(f->store, "tmp", &st, 0), 0);
        assert_int_equal(st.st_nlink, 2);
}

/* Anew, with times of its own. */
static void set_patience(struct fixture *f, uint64_t stall_ns, uint64_t worker_ns)
{
        struct err err = ERR_INIT;

        settle(f);
        work_free(f->work);
        f->work = NULL;
        f->config.stall_ns = stall_ns;
        f->config.worker_ns = worker_ns;
        if (work_new(&f->config, &f->work, &err) < 0)
                fail_msg("%s", err.text);
        settle(f);
        f->answers = 0;
        memset(&f->answer, 0, sizeof(f->answer));
}

static void be_impatient(struct fixture *f)
{
        set_patience(f, NS_PER_S / 5, 0);
}

static void wait_long(struct fixture *f)
{
        for (uint64_t end = time_mono_ns() + NS_PER_S; time_mono_ns() < end;) {
                struct pollfd timer = { .fd = work_timer_fd(f->work), .events = POLLIN };
                siginfo_t info = { .si_pid = 0 };

                if (poll(&timer, 1, 20) > 0)
                        work_timer(f->work);
                if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0)
                        assert_true(work_reaped(f->work, info.si_pid, &info));
        }
}

/* Out of a pipe that gets nothing; the end to write. */
static int start_stalled(struct fixture *f, uint32_t work)
{
        const struct launch_work_start m = {
                .h = { .op = LAUNCH_WORK, .seq = 9 }, .work = work, .max_bytes = 1 << 20, .max_entries = 10
        };
        int ends[2], fds[3];
        size_t n = 0;

        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        fds[n++] = ends[0];
        if (work == LAUNCH_WORK_PLAIN) {
                int out[2];

                assert_int_equal(pipe2(out, O_CLOEXEC), 0);
                fd_close(out[0]);
                fds[n++] = out[1];
        }
        fds[n++] = memfd_create("report", MFD_CLOEXEC);
        assert_int_equal(work_handle(f->work, &m.h, sizeof(m), fds, n), 0);
        return ends[1];
}

static void start_good(struct fixture *f)
{
        const struct launch_work_start m = { .h = { .op = LAUNCH_WORK, .seq = 5 },
                                             .work = LAUNCH_WORK_UNPACK,
                                             .max_bytes = 1 << 20,
                                             .max_entries = 10 };
        auto_str blob = STR_INIT;
        int fds[2];

        tar_add(&blob, "fine", '0', "", "x");
        fds[0] = memfd_of(blob.data, blob.len);
        fds[1] = memfd_create("report", MFD_CLOEXEC);
        assert_int_equal(work_handle(f->work, &m.h, sizeof(m), fds, 2), 0);
}

/* Whoever waits gets the place of a worker in which nothing goes on; while nobody waits it may be patient. */
static void test_stall(void **state)
{
        struct fixture *f = *state;
        int ends[WORK_RUNNING_MAX];

        NEEDS_WORKER(f);
        be_impatient(f);
        for (int i = 0; i < WORK_RUNNING_MAX; i++)
                ends[i] = start_stalled(f, LAUNCH_WORK_UNPACK);
        wait_long(f);
        assert_int_equal(f->answers, 0);
        start_good(f);
        while (f->answer.h.seq != 5)
                reap(f);
        assert_int_equal(f->answer.h.op, LAUNCH_WORK_DONE);
        assert_int_not_equal(f->answer.work_done.token, 0);
        assert_true(f->answers >= 2);
        for (int i = 0; i < WORK_RUNNING_MAX; i++)
                fd_close(ends[i]);
        settle(f);
}

/* Messages that come all the time do not put off the look at those that stall. */
static void test_stall_among_messages(void **state)
{
        const struct launch_list list = { .h = { .op = LAUNCH_LIST, .seq = 7 }, .kind = LAUNCH_KIND_TREE };
        struct fixture *f = *state;
        int ends[WORK_RUNNING_MAX];

        NEEDS_WORKER(f);
        be_impatient(f);
        for (int i = 0; i < WORK_RUNNING_MAX; i++)
                ends[i] = start_stalled(f, LAUNCH_WORK_UNPACK);
        start_good(f);
        for (bool done = false; !done;) {
                struct pollfd timer = { .fd = work_timer_fd(f->work), .events = POLLIN };
                siginfo_t info = { .si_pid = 0 };

                assert_int_equal(work_handle(f->work, &list.h, sizeof(list), NULL, 0), 0);
                if (poll(&timer, 1, 5) > 0)
                        work_timer(f->work);
                if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0)
                        assert_true(work_reaped(f->work, info.si_pid, &info));
                done = f->answer.h.seq == 5;
        }
        for (int i = 0; i < WORK_RUNNING_MAX; i++)
                fd_close(ends[i]);
        settle(f);
}

/* One that was killed since its time is over, and is still on its way out, is looked at again after a pause, not all the time. */
static void test_killed_too_late(void **state)
{
        struct fixture *f = *state;
        struct pollfd timer;
        unsigned looks = 0;
        uint64_t over;
        int end;

        NEEDS_WORKER(f);
        set_patience(f, 0, NS_PER_S);
        timer = (struct pollfd){ .fd = work_timer_fd(f->work), .events = POLLIN };
        end = start_stalled(f, LAUNCH_WORK_UNPACK);
        for (over = time_mono_ns() + NS_PER_S; time_mono_ns() <= over;)
                if (poll(&timer, 1, 20) > 0)
                        work_timer(f->work);
        for (unsigned i = 0; i < 1000; i++) {
                if (poll(&timer, 1, 0) > 0) {
                        work_timer(f->work);
                        looks++;
                }
        }
        assert_true(looks < 1000);
        while (f->answer.h.seq != 9)
                reap(f);
        assert_int_equal(f->answer.work_done.token, 0);
        fd_close(end);
        settle(f);
}

/* One that writes into a pipe is not to blame while its reader is among those who wait. */
static void test_stall_without_a_reader(void **state)
{
        struct fixture *f = *state;
        int ends[WORK_RUNNING_MAX + 1];

        NEEDS_WORKER(f);
        be_impatient(f);
        for (int i = 0; i < WORK_RUNNING_MAX; i++)
                ends[i] = start_stalled(f, LAUNCH_WORK_PLAIN);
        ends[WORK_RUNNING_MAX] = start_stalled(f, LAUNCH_WORK_UNPACK);
        wait_long(f);
        assert_int_equal(f->answers, 0);
        for (int i = 0; i <= WORK_RUNNING_MAX; i++)
                fd_close(ends[i]);
        while (f->answers <= WORK_RUNNING_MAX) {
                reap(f);
                assert_int_equal(f->answer.work_done.si_code, CLD_EXITED);
        }
        settle(f);
}

static void test_malformed(void **state)
{
        struct launch_work_start work = { .h = { .op = LAUNCH_WORK }, .work = LAUNCH_WORK_UNPACK };
        struct launch_commit c = { .h = { .op = LAUNCH_COMMIT }, .token = 1, .kind = LAUNCH_KIND_LAYER };
        struct launch_delete d = { .h = { .op = LAUNCH_DELETE }, .kind = 9 };
        struct launch_list l = { .h = { .op = LAUNCH_LIST } };
        struct fixture *f = *state;
        int fds[2], files[3];

        NEEDS_WORKER(f);
        assert_int_equal(work_handle(f->work, &work.h, sizeof(work), NULL, 0), -EBADMSG);
        assert_int_equal(work_handle(f->work, &work.h, sizeof(work) - 1, NULL, 0), -EBADMSG);
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        assert_int_equal(work_handle(f->work, &work.h, sizeof(work), fds, 2), -EBADMSG);
        assert_int_equal(fds[0], -EBADF);
        /* Only what a layer goes through is a pipe. */
        work.work = LAUNCH_WORK_PLAIN;
        for (size_t i = 0; i < 3; i++)
                files[i] = memfd_create("test", MFD_CLOEXEC);
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        fd_replace(&files[2], fds[1]);
        assert_int_equal(work_handle(f->work, &work.h, sizeof(work), files, 3), -EBADMSG);
        fd_close(fds[0]);
        work.work = LAUNCH_WORK_UNPACK;
        work.n_layers = 1;
        assert_int_equal(work_handle(f->work, &work.h, sizeof(work), NULL, 0), -EBADMSG);
        memcpy(c.name, "../../../../../../../../../../../../../../../../../../../../../..", LAUNCH_HEX);
        assert_int_equal(work_handle(f->work, &c.h, sizeof(c), NULL, 0), -EBADMSG);
        memcpy(d.name, NAME_A, LAUNCH_HEX);
        assert_int_equal(work_handle(f->work, &d.h, sizeof(d), NULL, 0), -EBADMSG);
        assert_int_equal(work_handle(f->work, &l.h, sizeof(l), NULL, 0), -EBADMSG);
}

static void test_index(void **state)
{
        struct launch_work_start m = {
                .h = { .op = LAUNCH_WORK, .seq = 3 }, .work = LAUNCH_WORK_INDEX, .max_bytes = 1 << 20, .max_entries = 10
        };
        struct fixture *f = *state;
        auto_str blob = STR_INIT;
        char text[512] = "";
        int fds[3], report;

        NEEDS_WORKER(f);
        tar_add(&blob, "a/b", '0', "", "hello");
        report = memfd_create("report", MFD_CLOEXEC);
        fds[0] = memfd_of(blob.data, blob.len);
        fds[1] = memfd_create("plain", MFD_CLOEXEC);
        fds[2] = fcntl(report, F_DUPFD_CLOEXEC, 3);
        f->answers = 0;
        assert_int_equal(work_handle(f->work, &m.h, sizeof(m), fds, 3), 0);
        while (f->answers == 0)
                reap(f);
        assert_true(pread(report, text, sizeof(text) - 1, 0) > 0);
        assert_string_equal(text, "{\"compression\":\"none\",\"entries\":[{\"type\":\"file\",\"name\":\"a/b\","
                                  "\"offset\":512,\"size\":5}]}");
        fd_close(report);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_tree, setup, teardown),
                cmocka_unit_test_setup_teardown(test_settle, setup, teardown),
                cmocka_unit_test_setup_teardown(test_mark_of_another, setup, teardown),
                cmocka_unit_test_setup_teardown(test_power_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_marks, setup, teardown),
                cmocka_unit_test_setup_teardown(test_delete, setup, teardown),
                cmocka_unit_test_setup_teardown(test_delete_amid_a_merge, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_archive, setup, teardown),
                cmocka_unit_test_setup_teardown(test_missing_layer, setup, teardown),
                cmocka_unit_test_setup_teardown(test_name_taken, setup, teardown),
                cmocka_unit_test_setup_teardown(test_peer_lost, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cleanup, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stall, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stall_among_messages, setup, teardown),
                cmocka_unit_test_setup_teardown(test_killed_too_late, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stall_without_a_reader, setup, teardown),
                cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_index, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
