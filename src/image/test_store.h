/* What the tests of the store share: the real mayfly-worker, started without its confinement, a store over it, and archives. Needs
 * root, for owners. */
#pragma once

#pragma GCC diagnostic ignored "-Wunused-function"

#include "image/store.h"

#include "base/fd.h"
#include "base/list.h"
#include "base/path.h"
#include "base/str.h"
#include "base/test_tar.h"
#include "base/time.h"
#include "image/layout.h"
#include "image/manifest.h"
#include "image/prune.h"
#include "image/ref.h"
#include "image/verify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#define LAYERS_MAX 8

struct fixture {
        char dir[64];
        char program[512];
        int root; /* of dir: images/ layers/ trees/ tmp/ */
        bool usable;
        struct loop *loop;
        struct image_store *store;
        struct image_workers workers;
        uint32_t next_token;
        bool busy;                                                     /* trees cannot be removed */
        bool full;                                                     /* the next unpacking finds the disk full */
        int dying;                                                     /* so many of the next ones die */
        enum { HOLD_NONE, HOLD_PLAIN, HOLD_MERGE, HOLD_COMPARE } hold; /* whose next answer waits for release() */
        struct answer *held;
        unsigned owed; /* answers that are on their way */
        unsigned replaced;
        size_t n_unchecked;
        enum image_kind full_commit; /* and so does the next commit of this kind; 0: none */
        unsigned uses;               /* how often it was asked who uses images */
        int lost;                    /* what merging and comparing answer with; 0: they work */
        struct image_store_config config;
        int plains;
        const struct str *lie; /* what PLAIN writes instead of what the blob holds */
        /* what the last operation told */
        bool told;
        int result;
        char text[ERR_TEXT_MAX];
        char digest[IMAGE_DIGEST_MAX];
        size_t n_digests;
};

/* ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct answer {
        struct fixture *f;
        int r;
        uint32_t token;
        image_work_fn work;
        image_done_fn done;
        image_names_fn names;
        char (*list)[65];
        size_t n;
        void *data;
        pid_t pid; /* of the worker */
        struct loop_timer timer;
};

static void give(void *data)
{
        struct answer *a = data;
        struct err err = ERR_INIT;

        a->f->owed--;
        if (a->r < 0)
                (void)err_set(&err, -a->r, "%s", strerror(-a->r));
        if (a->work)
                a->work(a->r, a->token, a->r < 0 ? &err : NULL, a->data);
        if (a->done)
                a->done(a->r, a->r < 0 ? &err : NULL, a->data);
        if (a->names)
                a->names(a->r, (const char(*)[65])a->list, a->n, NULL, a->data);
        free(a->list);
        free(a);
}

static int later(struct fixture *f, struct answer a)
{
        struct answer *copy = malloc(sizeof(*copy));

        assert_non_null(copy);
        a.f = f;
        *copy = a;
        f->owed++;
        assert_int_equal(loop_defer(f->loop, give, copy), 0);
        return 0;
}

/* What was done is done, and is told by release(). */
static int hold(struct fixture *f, struct answer a)
{
        f->held = malloc(sizeof(*f->held));
        assert_non_null(f->held);
        a.f = f;
        *f->held = a;
        f->hold = HOLD_NONE;
        return 0;
}

static void release(struct fixture *f)
{
        struct answer *held = f->held;

        assert_non_null(held);
        f->held = NULL;
        f->owed++;
        assert_int_equal(loop_defer(f->loop, give, held), 0);
}

/* fds[i] becomes 3 + i. */
static pid_t start_worker(struct fixture *f, char *const *argv, const int *fds, size_t n)
{
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
                int aside[4 + LAYERS_MAX];

                for (size_t i = 0; i < n; i++)
                        aside[i] = fds[i] < 0 ? -EBADF : fcntl(fds[i], F_DUPFD_CLOEXEC, 300);
                for (size_t i = 0; i < n; i++) {
                        if (aside[i] >= 0)
                                (void)dup2(aside[i], 3 + (int)i);
                }
                (void)execv(f->program, argv);
                _exit(127);
        }
        return pid;
}

static int result_of(int status)
{
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBADMSG;
}

/* Runs the program to its end. */
static int run_worker(struct fixture *f, char *const *argv, const int *fds, size_t n)
{
        pid_t pid = start_worker(f, argv, fds, n);
        int status;

        assert_int_equal(waitpid(pid, &status, 0), pid);
        return result_of(status);
}

static void look(struct loop_timer *timer, void *data)
{
        struct answer *a = data;
        int status;
        pid_t pid = waitpid(a->pid, &status, WNOHANG);

        if (pid == 0) {
                assert_int_equal(loop_timer_set(a->f->loop, timer, time_mono_ns() + NS_PER_S / 1000, look, a), 0);
                return;
        }
        assert_int_equal(pid, a->pid);
        a->r = result_of(status);
        give(a);
}

/* Those that uncompress and unpack run beside the loop, which moves bytes from the one to the other. */
static int when_ended(struct fixture *f, struct answer a)
{
        struct answer *copy = malloc(sizeof(*copy));

        assert_non_null(copy);
        a.f = f;
        f->owed++;
        *copy = a;
        assert_int_equal(loop_timer_set(f->loop, &copy->timer, 0, look, copy), 0);
        return 0;
}

static int tmp_dir(struct fixture *f, uint32_t token)
{
        char name[32];
        int fd;

        (void)snprintf(name, sizeof(name), "tmp/%u", token);
        assert_int_equal(mkdirat(f->root, name, 0700), 0);
        fd = openat(f->root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(fd >= 0);
        return fd;
}

static int do_copy(struct fixture *f, const char *what, const int fds[3], uint64_t max_bytes, uint64_t max_entries,
                   image_work_fn fn, void *data)
{
        char bytes[24], entries[24];
        char *argv[] = { (char *)"mayfly-worker", (char *)what, bytes, entries, NULL };

        (void)snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)max_bytes);
        (void)snprintf(entries, sizeof(entries), "%llu", (unsigned long long)max_entries);
        return when_ended(f, (struct answer){ .pid = start_worker(f, argv, fds, 3), .work = fn, .data = data });
}

static int do_index(void *context, int archive_fd, int plain_fd, int report_fd, uint64_t max_bytes,
                    uint64_t max_entries, image_work_fn fn, void *data, struct err *err)
{
        (void)err;
        return do_copy(context, "index", (const int[]){ archive_fd, plain_fd, report_fd }, max_bytes, max_entries, fn,
                       data);
}

static int do_plain(void *context, int blob_fd, int plain_fd, int report_fd, uint64_t max_bytes, uint64_t max_entries,
                    image_work_fn fn, void *data, struct err *err)
{
        struct fixture *f = context;

        (void)err;
        f->plains++;
        if (f->hold == HOLD_PLAIN)
                return hold(f, (struct answer){ .r = -EBADMSG, .work = fn, .data = data });
        if (f->lie) { /* a worker that was taken over: what it writes is not what the blob holds */
                assert_int_equal(fd_write_all(plain_fd, f->lie->data, f->lie->len), 0);
                return later(f, (struct answer){ .r = 0, .work = fn, .data = data });
        }
        return do_copy(f, "plain", (const int[]){ blob_fd, plain_fd, report_fd }, max_bytes, max_entries, fn, data);
}

static int do_unpack(void *context, int blob_fd, int report_fd, uint64_t max_bytes, uint64_t max_entries,
                     image_work_fn fn, void *data, struct err *err)
{
        struct fixture *f = context;
        char bytes[24], entries[24];
        char *argv[] = { (char *)"mayfly-worker", (char *)"unpack", bytes, entries, NULL };
        uint32_t token = ++f->next_token;
        auto_fd dir = tmp_dir(f, token);
        const int fds[] = { blob_fd, -EBADF, report_fd, dir };

        (void)err;
        if (f->full) {
                f->full = false;
                return later(f, (struct answer){ .r = -ENOSPC, .work = fn, .data = data });
        }
        if (f->dying > 0) {
                f->dying--;
                return later(f, (struct answer){ .r = -EIO, .work = fn, .data = data });
        }
        (void)snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)max_bytes);
        (void)snprintf(entries, sizeof(entries), "%llu", (unsigned long long)max_entries);
        return when_ended(
                f, (struct answer){ .pid = start_worker(f, argv, fds, 4), .token = token, .work = fn, .data = data });
}

static int do_merge(void *context, const char (*layers)[65], size_t n_layers, int report_fd, image_work_fn fn,
                    void *data, struct err *err)
{
        struct fixture *f = context;
        char n[24], name[128];
        char *argv[] = { (char *)"mayfly-worker", (char *)"merge", n, NULL };
        uint32_t token = ++f->next_token;
        auto_fd dir = tmp_dir(f, token);
        int fds[4 + LAYERS_MAX] = { -EBADF, -EBADF, report_fd, dir }, r;
        bool missing = false;

        if (f->lost < 0)
                return err_set(err, -f->lost, "the launcher has died");
        assert_true(n_layers <= LAYERS_MAX);
        (void)snprintf(n, sizeof(n), "%zu", n_layers);
        for (size_t i = 0; i < n_layers; i++) {
                (void)snprintf(name, sizeof(name), "layers/%s", layers[i]);
                fds[4 + i] = openat(f->root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                missing |= fds[4 + i] < 0;
        }
        r = missing ? -ENOENT : run_worker(f, argv, fds, 4 + n_layers);
        for (size_t i = 0; i < n_layers; i++)
                fd_close(fds[4 + i]);
        if (f->hold == HOLD_MERGE)
                return hold(f, (struct answer){ .r = r, .token = token, .work = fn, .data = data });
        return later(f, (struct answer){ .r = r, .token = token, .work = fn, .data = data });
}

static int do_commit(void *context, uint32_t token, enum image_kind kind, const char *name, image_done_fn fn,
                     void *data, struct err *err)
{
        struct fixture *f = context;
        char from[64], to[128];

        (void)err;
        if (f->full_commit == kind) {
                f->full_commit = 0;
                return later(f, (struct answer){ .r = -ENOSPC, .done = fn, .data = data });
        }
        (void)snprintf(from, sizeof(from), "tmp/%u%s", token, kind == IMAGE_TREE ? "/root" : "");
        (void)snprintf(to, sizeof(to), "%s/%s", kind == IMAGE_TREE ? "trees" : "layers", name);
        if (faccessat(f->root, to, F_OK, 0) == 0)
                return later(f, (struct answer){ .r = -EEXIST, .done = fn, .data = data });
        assert_int_equal(renameat(f->root, from, f->root, to), 0);
        return later(f, (struct answer){ .done = fn, .data = data });
}

static int do_replace(void *context, uint32_t token, enum image_kind kind, const char *name, image_done_fn fn,
                      void *data, struct err *err)
{
        struct fixture *f = context;
        auto_fd dir = openat(f->root, kind == IMAGE_TREE ? "trees" : "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (f->busy && kind == IMAGE_TREE)
                return later(f, (struct answer){ .r = -EBUSY, .done = fn, .data = data });
        (void)path_remove_tree(dir, name);
        f->replaced++;
        return do_commit(context, token, kind, name, fn, data, err);
}

static int do_compare(void *context, uint32_t token, enum image_kind kind, const char *name, int report_fd,
                      image_work_fn fn, void *data, struct err *err)
{
        char *argv[] = { (char *)"mayfly-worker", (char *)"compare", NULL };
        struct fixture *f = context;
        char made[64], named[128];
        auto_fd one = -EBADF, other = -EBADF;
        struct answer a = { .work = fn, .data = data };

        if (f->lost < 0)
                return err_set(err, -f->lost, "the launcher has died");
        (void)snprintf(made, sizeof(made), "tmp/%u%s", token, kind == IMAGE_TREE ? "/root" : "");
        (void)snprintf(named, sizeof(named), "%s/%s", kind == IMAGE_TREE ? "trees" : "layers", name);
        one = openat(f->root, made, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        other = openat(f->root, named, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(one >= 0 && other >= 0);
        a.r = run_worker(f, argv, (const int[]){ -EBADF, -EBADF, report_fd, one, other }, 5);
        return f->hold == HOLD_COMPARE ? hold(f, a) : later(f, a);
}

static int do_discard(void *context, uint32_t token, struct err *err)
{
        (void)context;
        (void)token;
        (void)err;
        return 0;
}

static int do_remove(void *context, enum image_kind kind, const char *name, image_done_fn fn, void *data,
                     struct err *err)
{
        struct fixture *f = context;
        auto_fd dir = openat(f->root, kind == IMAGE_TREE ? "trees" : "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r = f->busy && kind == IMAGE_TREE ? -EBUSY : path_remove_tree(dir, name);

        (void)err;
        return later(f, (struct answer){ .r = r, .done = fn, .data = data });
}

static int do_list(void *context, enum image_kind kind, image_names_fn fn, void *data, struct err *err)
{
        struct fixture *f = context;
        int fd = openat(f->root, kind == IMAGE_TREE ? "trees" : "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct answer a = { .names = fn, .data = data, .list = calloc(100, 65) };
        DIR *dir = fdopendir(fd);
        struct dirent *e;

        (void)err;
        assert_non_null(dir);
        while ((e = readdir(dir))) {
                if (e->d_name[0] != '.' && a.n < 100)
                        (void)snprintf(a.list[a.n++], 65, "%.64s", e->d_name);
        }
        closedir(dir);
        return later(f, a);
}

/* ── fixture ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void open_store(struct fixture *f)
{
        char dir[128];
        struct image_store_config config = f->config;
        struct err err = ERR_INIT;

        config.dir = dir;
        (void)snprintf(dir, sizeof(dir), "%s/images", f->dir);
        if (image_store_open(f->loop, &config, &f->workers, &f->store, &err) < 0)
                fail_msg("%s", err.text);
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        const char *build = getenv("MAYFLY_BUILD");
        struct err err = ERR_INIT;

        assert_non_null(f);
        *state = f;
        (void)snprintf(f->program, sizeof(f->program), "%s/mayfly-worker", build ? build : "build");
        if (geteuid() != 0 || access(f->program, X_OK) < 0)
                return 0;
        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-test-store-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        f->root = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(mkdirat(f->root, "layers", 0700), 0);
        assert_int_equal(mkdirat(f->root, "trees", 0700), 0);
        assert_int_equal(mkdirat(f->root, "tmp", 0700), 0);
        if (loop_new(&f->loop, &err) < 0)
                fail_msg("%s", err.text);
        f->workers = (struct image_workers){
                .context = f,
                .index = do_index,
                .plain = do_plain,
                .unpack = do_unpack,
                .merge = do_merge,
                .commit = do_commit,
                .compare = do_compare,
                .replace = do_replace,
                .discard = do_discard,
                .remove = do_remove,
                .list = do_list,
        };
        f->usable = true;
        open_store(f);
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (f->usable) {
                for (unsigned i = 0; i < 1000 && f->owed > 0; i++)
                        assert_int_equal(loop_turn(f->loop, 100, NULL), 0);
                image_store_close(f->store);
                loop_free(f->loop);
                fd_close(f->root);
                assert_int_equal(path_remove_tree(tmp, f->dir + 5), 0);
        }
        free(f);
        return 0;
}

#define NEEDS_WORKER(f)                                                                                                \
        do {                                                                                                           \
                if (!(f)->usable) {                                                                                    \
                        print_message("needs root and the program mayfly-worker in MAYFLY_BUILD\n");                   \
                        skip();                                                                                        \
                }                                                                                                      \
        } while (0)

static void on_loaded(int r, const char *const *digests, size_t n, const struct err *err, void *data)
{
        struct fixture *f = data;

        f->told = true;
        f->result = r;
        f->n_digests = n;
        (void)snprintf(f->text, sizeof(f->text), "%s", err ? err->text : "");
        (void)snprintf(f->digest, sizeof(f->digest), "%s", n > 0 ? digests[0] : "");
}

static void on_done(int r, const struct err *err, void *data)
{
        on_loaded(r, NULL, 0, err, data);
}

static int wait_told(struct fixture *f)
{
        while (!f->told)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        if (f->result < 0)
                print_message("told: %s\n", f->text);
        return f->result;
}

static int take_archive(struct fixture *f, enum image_sink_kind kind, const char *ref, char *const *changes,
                        const struct str *archive)
{
        struct image_sink *sink = NULL;
        struct err err = ERR_INIT;

        f->told = false;
        if (image_sink_open(f->store, kind, ref, changes, &sink, &err) < 0)
                fail_msg("%s", err.text);
        assert_int_equal(image_sink_write(sink, archive->data, archive->len / 2, &err), 0);
        assert_int_equal(
                image_sink_write(sink, archive->data + archive->len / 2, archive->len - archive->len / 2, &err), 0);
        assert_int_equal(image_sink_finish(sink, on_loaded, f, &err), 0);
        return wait_told(f);
}

static int remove_image(struct fixture *f, const char *ref)
{
        struct err err = ERR_INIT;
        int r;

        f->told = false;
        r = image_store_remove(f->store, ref, on_done, f, &err);
        return r < 0 ? r : wait_told(f);
}

static int sweep(struct fixture *f)
{
        f->told = false;
        assert_int_equal(image_store_sweep(f->store, on_done, f, NULL), 0);
        return wait_told(f);
}

static size_t count(struct fixture *f, const char *path)
{
        int fd = openat(f->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fdopendir(fd);
        struct dirent *e;
        size_t n = 0;

        assert_non_null(dir);
        while ((e = readdir(dir)))
                n += e->d_name[0] != '.';
        closedir(dir);
        return n;
}

static void assert_no_trace(struct fixture *f)
{
        size_t pos = 0;

        assert_null(image_store_next(f->store, &pos));
        assert_int_equal(count(f, "images/blobs/sha256"), 0);
        assert_int_equal(count(f, "images/users"), 0);
        assert_int_equal(count(f, "layers"), 0);
        assert_int_equal(count(f, "trees"), 0);
        /* usage.json comes after a moment. */
        assert_int_equal(count(f, "images"), 5 + (faccessat(f->root, "images/usage.json", F_OK, 0) == 0));
        assert_int_equal(count(f, "images/partial"), 0);
}

/* ── archives ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void root_fs(struct str *out)
{
        test_tar_other(out, "etc/", '5', NULL);
        test_tar_file(out, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n");
        test_tar_file(out, "etc/group", "root:x:0:\nwww:x:34:\nextra:x:50:web\n");
        test_tar_file(out, "hello", "world");
        test_tar_end(out);
}

static void gzip(const struct str *in, struct str *out)
{
        z_stream z = { .next_in = (Bytef *)in->data, .avail_in = (uInt)in->len };

        assert_int_equal(str_reserve(out, in->len + 1024), 0);
        assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
        z.next_out = (Bytef *)out->data;
        z.avail_out = (uInt)(in->len + 1000);
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        out->len = z.total_out;
        (void)deflateEnd(&z);
}

static void digest_of(const struct str *s, char out[IMAGE_DIGEST_MAX])
{
        assert_int_equal(image_sha256_text(s->data, s->len, out, NULL), 0);
}

static void config_of(struct str *out, const char *diff_ids, const char *more)
{
        test_tar_check(str_addf(out,
                                "{\"architecture\":\"%s\",\"os\":\"linux\",\"config\":{\"Cmd\":[\"/hello\"]%s},"
                                "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[%s]}}",
                                image_host_architecture(), more, diff_ids));
}

static void tar_text(struct str *out, const char *name, const struct str *text)
{
        test_tar_entry(out,
                       &(struct test_tar_entry){ .name = name, .type = '0', .data = text->data, .len = text->len });
}

/* docker save as it was before containerd: <id>/layer.tar, and a layer that is a link to another's. */
static void saved(struct str *out, const struct str *layer, const char *diff_id, const char *tag)
{
        char digest[IMAGE_DIGEST_MAX], name[128];
        auto_str config = STR_INIT, ids = STR_INIT, list = STR_INIT;

        test_tar_check(str_addf(&ids, "\"%s\",\"%s\"", diff_id, diff_id));
        config_of(&config, ids.data, "");
        digest_of(&config, digest);
        (void)snprintf(name, sizeof(name), "%s.json", digest + 7);
        test_tar_check(str_addf(&list,
                                "[{\"Config\":\"%s\",\"RepoTags\":[\"%s\"],\"Layers\":[\"a/layer.tar\","
                                "\"b/layer.tar\"]}]",
                                name, tag));
        tar_text(out, name, &config);
        test_tar_other(out, "a/", '5', NULL);
        tar_text(out, "a/layer.tar", layer);
        test_tar_other(out, "b/layer.tar", '2', "../a/layer.tar");
        tar_text(out, "manifest.json", &list);
        test_tar_end(out);
}

static void add_blob(struct str *out, const struct str *blob, char digest[IMAGE_DIGEST_MAX])
{
        char name[128];

        digest_of(blob, digest);
        (void)snprintf(name, sizeof(name), "blobs/sha256/%s", digest + 7);
        tar_text(out, name, blob);
}

/* An OCI layout with a nested index of two architectures and an attestation. */
static void oci_layout(struct str *out, const struct str *layer, const char *diff_id)
{
        char layer_digest[IMAGE_DIGEST_MAX], config_digest[IMAGE_DIGEST_MAX], manifest_digest[IMAGE_DIGEST_MAX],
                index_digest[IMAGE_DIGEST_MAX];
        auto_str config = STR_INIT, manifest = STR_INIT, nested = STR_INIT, index = STR_INIT, ids = STR_INIT;

        test_tar_check(str_addf(&ids, "\"%s\"", diff_id));
        config_of(&config, ids.data, ",\"User\":\"web\"");
        add_blob(out, layer, layer_digest);
        add_blob(out, &config, config_digest);
        test_tar_check(str_addf(&manifest,
                                "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"" MEDIA_OCI_CONFIG "\",\"digest\":"
                                "\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":\"" MEDIA_OCI_LAYER "+gzip\","
                                "\"digest\":\"%s\",\"size\":%zu}]}",
                                config_digest, config.len, layer_digest, layer->len));
        add_blob(out, &manifest, manifest_digest);
        test_tar_check(str_addf(
                &nested,
                "{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_OCI_INDEX "\",\"manifests\":["
                "{\"mediaType\":\"" MEDIA_OCI_MANIFEST "\",\"digest\":\"sha256:%064d\",\"size\":1,\"platform\":"
                "{\"os\":\"linux\",\"architecture\":\"s390x\"}},"
                "{\"mediaType\":\"" MEDIA_OCI_MANIFEST "\",\"digest\":\"%s\",\"size\":%zu,\"platform\":"
                "{\"os\":\"linux\",\"architecture\":\"%s\"}},"
                "{\"mediaType\":\"" MEDIA_OCI_MANIFEST "\",\"digest\":\"sha256:%064d\",\"size\":1,\"platform\":"
                "{\"os\":\"unknown\",\"architecture\":\"unknown\"},\"annotations\":"
                "{\"vnd.docker.reference.type\":\"attestation-manifest\"}}]}",
                1, manifest_digest, manifest.len, image_host_architecture(), 2));
        add_blob(out, &nested, index_digest);
        test_tar_check(str_addf(&index,
                                "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"" MEDIA_OCI_INDEX "\",\"digest\":"
                                "\"%s\",\"size\":%zu,\"annotations\":{\"io.containerd.image.name\":"
                                "\"docker.io/library/oci:1\",\"org.opencontainers.image.ref.name\":\"1\"}}]}",
                                index_digest, nested.len));
        tar_text(out, "index.json", &index);
        test_tar_end(out);
}
