/* The store with the real mayfly-worker, started without its confinement. Needs root, for owners. */

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
        bool busy;                   /* trees cannot be removed */
        bool full;                   /* the next unpacking finds the disk full */
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
        assert_int_equal(loop_defer(f->loop, give, copy), 0);
        return 0;
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

        if (f->lost < 0)
                return err_set(err, -f->lost, "the launcher has died");
        assert_true(n_layers <= LAYERS_MAX);
        (void)snprintf(n, sizeof(n), "%zu", n_layers);
        for (size_t i = 0; i < n_layers; i++) {
                (void)snprintf(name, sizeof(name), "layers/%s", layers[i]);
                fds[4 + i] = openat(f->root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                assert_true(fds[4 + i] >= 0);
        }
        r = run_worker(f, argv, fds, 4 + n_layers);
        for (size_t i = 0; i < n_layers; i++)
                fd_close(fds[4 + i]);
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
        return do_commit(context, token, kind, name, fn, data, err);
}

static int do_compare(void *context, uint32_t token, enum image_kind kind, const char *name, int report_fd,
                      image_work_fn fn, void *data, struct err *err)
{
        char *argv[] = { (char *)"mayfly-worker", (char *)"compare", NULL };
        struct fixture *f = context;
        char made[64], named[128];
        auto_fd one = -EBADF, other = -EBADF;

        if (f->lost < 0)
                return err_set(err, -f->lost, "the launcher has died");
        (void)snprintf(made, sizeof(made), "tmp/%u%s", token, kind == IMAGE_TREE ? "/root" : "");
        (void)snprintf(named, sizeof(named), "%s/%s", kind == IMAGE_TREE ? "trees" : "layers", name);
        one = openat(f->root, made, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        other = openat(f->root, named, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(one >= 0 && other >= 0);
        return later(
                f, (struct answer){ .r = run_worker(f, argv, (const int[]){ -EBADF, -EBADF, report_fd, one, other }, 5),
                                    .work = fn,
                                    .data = data });
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

/* ── tests ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void check_hello(struct fixture *f, const struct image *image)
{
        char path[128];
        auto_str text = STR_INIT;

        (void)snprintf(path, sizeof(path), "trees/%s/hello", image->tree);
        assert_int_equal(fd_read_file(f->root, path, 100, &text, NULL), 0);
        assert_string_equal(text.data, "world");
}

static void test_import(void **state)
{
        char *changes[] = { (char *)"CMD [\"/hello\"]", (char *)"ENV A=1", (char *)"USER web", NULL };
        struct fixture *f = *state;
        auto_str plain = STR_INIT, archive = STR_INIT;
        const struct image *image;
        struct image_user user;

        NEEDS_WORKER(f);
        root_fs(&plain);
        gzip(&plain, &archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "demo", changes, &archive), 0);
        assert_int_equal(f->n_digests, 1);
        image = image_store_find(f->store, "demo", NULL);
        assert_non_null(image);
        assert_string_equal(image->names[0], "docker.io/library/demo:latest");
        assert_string_equal(image->cmd[0], "/hello");
        assert_string_equal(image->env[0], "A=1");
        assert_ptr_equal(image_store_find(f->store, f->digest, NULL), image);
        assert_ptr_equal(image_store_find(f->store, image->digest + 7, NULL), image);
        assert_ptr_equal(image_store_by_digest(f->store, image->digest), image);
        check_hello(f, image);
        assert_int_equal(image_user_resolve(f->store, image, image->user, &user, NULL), 0);
        assert_int_equal(user.uid, 33);
        assert_int_equal(user.gid, 34);
        assert_int_equal(user.n_groups, 1);
        assert_int_equal(user.groups[0], 50);
        /* The same after a restart. */
        image_store_close(f->store);
        open_store(f);
        image = image_store_find(f->store, "demo:latest", NULL);
        assert_non_null(image);
        assert_int_equal(image_user_resolve(f->store, image, "web:www", &user, NULL), 0);
        assert_int_equal(user.n_groups, 0);
        assert_int_equal(sweep(f), 0);
        check_hello(f, image);
}

static void test_remove(void **state)
{
        struct fixture *f = *state;
        auto_str archive = STR_INIT;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, &archive), 0);
        f->busy = true;
        assert_int_equal(remove_image(f, "a:1"), -EBUSY);
        assert_non_null(image_store_find(f->store, "a:1", NULL));
        f->busy = false;
        assert_int_equal(remove_image(f, "nobody"), -ENOENT);
        assert_int_equal(remove_image(f, "UPPER"), -EINVAL);
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_no_trace(f);
}

static void test_builtin(void **state)
{
        struct fixture *f = *state;
        struct image_sink *sink = NULL;
        struct err err = ERR_INIT;
        auto_str archive = STR_INIT;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, IMAGE_BUILTIN_DOMAIN "/a:1", NULL, &sink, &err),
                         -EINVAL);
        assert_int_equal(take_archive(f, IMAGE_BUILTIN, IMAGE_BUILTIN_DOMAIN "/a:1", NULL, &archive), 0);
        assert_true(image_is_builtin(image_store_find(f->store, IMAGE_BUILTIN_DOMAIN "/a:1", NULL)));
        assert_int_equal(remove_image(f, IMAGE_BUILTIN_DOMAIN "/a:1"), -EPERM);
        assert_int_equal(remove_image(f, f->digest), -EPERM);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "b:1", NULL, &archive), 0);
        assert_false(image_is_builtin(image_store_find(f->store, "b:1", NULL)));
        assert_int_equal(remove_image(f, "b:1"), 0);
}

/* The index cannot be written once the tree has gone: nobody finds the image until it has its tree again. */
static void test_removal_that_fails(void **state)
{
        struct fixture *f = *state;
        auto_str archive = STR_INIT;
        bool missed = false;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, &archive), 0);
        assert_int_equal(mkdirat(f->root, "images/index.json.tmp", 0700), 0);
        f->told = false;
        assert_int_equal(image_store_remove(f->store, "a:1", on_done, f, NULL), 0);
        while (!f->told) {
                missed |= !image_store_find(f->store, "a:1", NULL);
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        }
        assert_true(missed);
        assert_true(f->result < 0);
        assert_non_null(image_store_find(f->store, "a:1", NULL));
        assert_int_equal(count(f, "trees"), 1);
        assert_int_equal(unlinkat(f->root, "images/index.json.tmp", AT_REMOVEDIR), 0);
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_no_trace(f);
}

/* Two images of one layer share it and the tree; a name moves to the image that got it last. */
static void test_shared(void **state)
{
        char *changes[] = { (char *)"ENV A=2", NULL };
        struct fixture *f = *state;
        char first[IMAGE_DIGEST_MAX];
        auto_str archive = STR_INIT;
        const struct image *image;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, &archive), 0);
        memcpy(first, f->digest, sizeof(first));
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", changes, &archive), 0);
        assert_int_equal(count(f, "layers"), 1);
        assert_int_equal(count(f, "trees"), 1);
        image = image_store_find(f->store, "a:1", NULL);
        assert_non_null(image);
        assert_string_equal(image->env[0], "A=2");
        image = image_store_by_digest(f->store, first);
        assert_non_null(image);
        assert_true(!image->names || !image->names[0]);
        f->busy = true;
        assert_int_equal(remove_image(f, first), 0);
        f->busy = false;
        assert_int_equal(count(f, "trees"), 1);
        check_hello(f, image_store_find(f->store, "a:1", NULL));
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_no_trace(f);
}

static void test_load_saved(void **state)
{
        struct fixture *f = *state;
        auto_str layer = STR_INIT, archive = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];
        const struct image *image;

        NEEDS_WORKER(f);
        root_fs(&layer);
        digest_of(&layer, diff_id);
        saved(&archive, &layer, diff_id, "saved:1");
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), 0);
        image = image_store_find(f->store, "saved:1", NULL);
        assert_non_null(image);
        assert_int_equal(image->n_layers, 2);
        check_hello(f, image);
        assert_int_equal(remove_image(f, "saved:1"), 0);
        assert_no_trace(f);
}

static void test_load_oci(void **state)
{
        struct fixture *f = *state;
        auto_str plain = STR_INIT, layer = STR_INIT, archive = STR_INIT, packed = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];
        const struct image *image;

        NEEDS_WORKER(f);
        root_fs(&plain);
        digest_of(&plain, diff_id);
        gzip(&plain, &layer);
        oci_layout(&archive, &layer, diff_id);
        gzip(&archive, &packed);
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &packed), 0);
        image = image_store_find(f->store, "oci:1", NULL);
        assert_non_null(image);
        check_hello(f, image);
        assert_string_equal(image->user, "web");
        assert_int_equal(f->plains, 1);
}

/* Each is refused with its reason, and leaves no trace. */
static void test_refused(void **state)
{
        struct fixture *f = *state;
        auto_str layer = STR_INIT, lie = STR_INIT, escape = STR_INIT, text = STR_INIT, bare = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        root_fs(&layer);
        saved(&lie, &layer, "sha256:1111111111111111111111111111111111111111111111111111111111111111", "lie:1");
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &lie), -EBADMSG);
        assert_non_null(strstr(f->text, "diff_id"));
        assert_no_trace(f);

        test_tar_file(&escape, "fine", "x");
        test_tar_file(&escape, "../escape", "x");
        test_tar_end(&escape);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "escape", NULL, &escape), -EBADMSG);
        assert_non_null(strstr(f->text, "'../escape' leads out of the root"));
        assert_no_trace(f);

        test_tar_check(str_adds(&text, "this is no archive at all, but it is long enough to look for one in it"));
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "text", NULL, &text), -EBADMSG);
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &text), -EBADMSG);
        assert_no_trace(f);

        root_fs(&bare);
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &bare), -EBADMSG);
        assert_non_null(strstr(f->text, "manifest.json"));
        assert_no_trace(f);
        digest_of(&layer, diff_id);
}

/* Who names the diff_id of somebody else's layer gets it only by bringing it. */
static void test_borrowed_layer(void **state)
{
        struct fixture *f = *state;
        auto_str layer = STR_INIT, other = STR_INIT, archive = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        root_fs(&layer);
        digest_of(&layer, diff_id);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "mine", NULL, &layer), 0);
        test_tar_file(&other, "other", "x");
        test_tar_end(&other);
        saved(&archive, &other, diff_id, "thief:1");
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), -EBADMSG);
        assert_null(image_store_find(f->store, "thief:1", NULL));
        check_hello(f, image_store_find(f->store, "mine", NULL));
}

/* A worker that was taken over by a compressed layer cannot put other bytes under the layer's diff_id. */
static void test_lying_worker(void **state)
{
        struct fixture *f = *state;
        auto_str plain = STR_INIT, layer = STR_INIT, archive = STR_INIT, lie = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        root_fs(&plain);
        digest_of(&plain, diff_id);
        gzip(&plain, &layer);
        oci_layout(&archive, &layer, diff_id);
        test_tar_file(&lie, "bin", "evil");
        test_tar_end(&lie);
        f->lie = &lie;
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), -EBADMSG);
        assert_non_null(strstr(f->text, "has the diff_id"));
        assert_no_trace(f);
        f->lie = NULL;
        assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), 0);
        check_hello(f, image_store_find(f->store, "oci:1", NULL));
}

/* A tree that was lost comes back from the blobs; what no image names goes. */
static void test_sweep(void **state)
{
        struct fixture *f = *state;
        auto_str archive = STR_INIT;
        const struct image *image;
        auto_fd trees = -EBADF;

        NEEDS_WORKER(f);
        root_fs(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "a:1", NULL, &archive), 0);
        image = image_store_find(f->store, "a:1", NULL);
        trees = openat(f->root, "trees", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(path_remove_tree(trees, image->tree), 0);
        assert_int_equal(mkdirat(f->root,
                                 "layers/"
                                 "1111111111111111111111111111111111111111111111111111111111111111",
                                 0700),
                         0);
        assert_int_equal(sweep(f), 0);
        check_hello(f, image_store_find(f->store, "a:1", NULL));
        assert_int_equal(count(f, "layers"), 1);
}

/* Archives that docker and others wrote; those that hold no image for any machine are refused. */
static void test_corpus(void **state)
{
        static const struct {
                const char *name;
                bool good;
        } archives[] = {
                { "containers-image/docker/archive/fixtures/almostempty.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/content.tar", false },
                { "go-containerregistry/pkg/v1/tarball/testdata/hello-world-v25.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/no_manifest.tar", false },
                { "go-containerregistry/pkg/v1/tarball/testdata/null_manifest.tar", false },
                { "go-containerregistry/pkg/v1/tarball/testdata/test_bundle.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/test_image_1.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/test_link.tar", true },
                { "go-containerregistry/pkg/v1/tarball/testdata/test_load_manifest.tar", true },
                { "go-containerregistry/pkg/v1/mutate/testdata/overwritten_file.tar", true },
                { "go-containerregistry/pkg/v1/mutate/testdata/source_image_with_empty_layer_history.tar", true },
                { "go-containerregistry/pkg/v1/mutate/testdata/whiteout_dir.tar", true },
                { "go-containerregistry/pkg/v1/mutate/testdata/whiteout_image.tar", true },
        };
        const char *dir = getenv("MAYFLY_CORPORA");
        struct fixture *f = *state;
        const struct image *image;

        NEEDS_WORKER(f);
        if (!dir)
                dir = "../shared/corpora";
        if (access(dir, R_OK) < 0) {
                print_message("no '%s' (MAYFLY_CORPORA)\n", dir);
                skip();
        }
        for (size_t i = 0; i < ARRAY_LEN(archives); i++) {
                auto_free char *path = str_printf("%s/oci/%s", dir, archives[i].name);
                auto_str archive = STR_INIT;

                assert_non_null(path);
                if (fd_read_file(AT_FDCWD, path, 64 << 20, &archive, NULL) < 0)
                        fail_msg("no '%s'", path);
                if ((take_archive(f, IMAGE_LOAD, NULL, NULL, &archive) == 0) != archives[i].good)
                        fail_msg("%s: %s", archives[i].name, f->text);
        }
        for (size_t pos = 0; (image = image_store_next(f->store, &pos)); pos = 0)
                assert_int_equal(remove_image(f, image->digest), 0);
        assert_no_trace(f);
}

/* A daemon that stops closes the store whatever it does, and turns the loop once more for others. */
static void test_close_amid_an_import(void **state)
{
        struct fixture *f = *state;
        auto_str tar = STR_INIT;

        NEEDS_WORKER(f);
        root_fs(&tar);
        for (int turns = 0; turns < 3; turns++) {
                struct image_sink *sink = NULL;

                assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "demo:1", NULL, &sink, NULL), 0);
                assert_int_equal(image_sink_write(sink, tar.data, tar.len, NULL), 0);
                f->told = false;
                assert_int_equal(image_sink_finish(sink, on_loaded, f, NULL), 0);
                for (int i = 0; i < turns; i++)
                        assert_int_equal(loop_turn(f->loop, 0, NULL), 0);
                image_store_close(f->store);
                for (int i = 0; i < 20; i++)
                        assert_int_equal(loop_turn(f->loop, 10, NULL), 0);
                assert_false(f->told);
                open_store(f);
        }
        assert_int_equal(sweep(f), 0);
        assert_no_trace(f);
}

/* A thread may still write what came of an upload. */
static void test_close_amid_an_upload(void **state)
{
        struct fixture *f = *state;
        struct image_sink *sink = NULL;

        NEEDS_WORKER(f);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "demo:1", NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_write(sink, "abc", 3, NULL), 0);
        image_store_close(f->store);
        assert_int_equal(image_sink_write(sink, "def", 3, NULL), 0);
        image_sink_discard(sink);
        open_store(f);
        assert_no_trace(f);
}

static void test_bad_import(void **state)
{
        char *changes[] = { (char *)"RUN rm -rf /", NULL };
        struct fixture *f = *state;
        struct image_sink *sink = NULL;
        struct err err = ERR_INIT;

        NEEDS_WORKER(f);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "Bad", NULL, &sink, &err), -EINVAL);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "a", changes, &sink, &err), -EINVAL);
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, "a", NULL, &sink, &err), 0);
        assert_int_equal(image_sink_write(sink, "x", 1, &err), 0);
        image_sink_discard(sink);
        assert_no_trace(f);
}

/* ── names, pins, collection ──────────────────────────────────────────────────────────────────────────────────────── */

static void import_text(struct fixture *f, const char *ref, const char *text)
{
        auto_str archive = STR_INIT;

        test_tar_file(&archive, "hello", text);
        test_tar_end(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, ref, NULL, &archive), 0);
}

static int change(struct fixture *f, const char *ref, const char *name, int pinned)
{
        struct err err = ERR_INIT;
        int r;

        f->told = false;
        r = name ? image_store_tag(f->store, ref, name, on_done, f, &err)
                 : image_store_pin(f->store, ref, pinned, on_done, f, &err);
        return r < 0 ? r : wait_told(f);
}

static void open_again(struct fixture *f)
{
        image_store_close(f->store);
        open_store(f);
}

static void test_tags_and_pins(void **state)
{
        struct fixture *f = *state;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        import_text(f, "b:1", "b");
        assert_int_equal(change(f, "a:1", "c:1", 0), 0);
        assert_ptr_equal(image_store_find(f->store, "c:1", NULL), image_store_find(f->store, "a:1", NULL));
        assert_int_equal(change(f, "b:1", "c:1", 0), 0);
        assert_ptr_equal(image_store_find(f->store, "c:1", NULL), image_store_find(f->store, "b:1", NULL));
        assert_int_equal(change(f, "none:1", "c:1", 0), -ENOENT);
        assert_int_equal(change(f, "a:1", "c!", 0), -EINVAL);
        assert_int_equal(change(f, "a:1", IMAGE_BUILTIN_DOMAIN "/c:1", 0), -EPERM);
        assert_int_equal(change(f, "a:1", NULL, true), 0);
        assert_int_equal(remove_image(f, "a:1"), -EBUSY);
        open_again(f);
        assert_true(image_store_find(f->store, "a:1", NULL)->pinned);
        assert_int_equal(image_store_find(f->store, "a:1", NULL)->source, IMAGE_FROM_IMPORT);
        assert_true(image_store_find(f->store, "a:1", NULL)->came_ms > 0);
        assert_int_equal(change(f, "a:1", NULL, false), 0);
        assert_int_equal(remove_image(f, "a:1"), 0);
        assert_int_equal(remove_image(f, "b:1"), 0);
        assert_non_null(image_store_find(f->store, "c:1", NULL));
}

static void on_pruned(int r, const struct image_prune_result *result, const struct err *err, void *data)
{
        struct fixture *f = data;

        on_done(r, err, f);
        f->n_digests = result->n;
}

static size_t prune(struct fixture *f, const struct image_prune_policy *policy)
{
        struct err err = ERR_INIT;

        f->told = false;
        assert_int_equal(image_store_prune(f->store, policy, on_pruned, f, &err), 0);
        assert_int_equal(wait_told(f), 0);
        return f->n_digests;
}

static int nobody_uses(void *data, struct map *digests)
{
        static char used;

        return data ? map_set(digests, data, &used) : 0;
}

static void test_prune(void **state)
{
        const struct image_prune_policy dangling = { .dangling = true }, all = { .all = true };
        const struct image_prune_policy aged = { .aged = true, .unused_for_ms = 3600 * 1000 };
        struct image_prune_policy capped = { .capped = true };
        struct fixture *f = *state;
        struct image_prune_result plan;
        char used[80];

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        import_text(f, "b:1", "b");
        import_text(f, "a:1", "new");
        import_text(f, "p:1", "p");
        assert_int_equal(change(f, "p:1", NULL, true), 0);
        assert_int_equal(image_store_prune_plan(f->store, &dangling, &plan, NULL), 0);
        assert_int_equal(plan.n, 1);
        assert_true(plan.bytes > 0 && plan.bytes < plan.total);
        capped.keep_bytes = plan.total - 1;
        image_prune_result_done(&plan);
        assert_int_equal(prune(f, &aged), 0);
        (void)snprintf(used, sizeof(used), "%s", image_store_find(f->store, "b:1", NULL)->digest);
        image_store_set_users(f->store, nobody_uses, used);
        assert_int_equal(prune(f, &capped), 1); /* that without a name, which is the oldest */
        assert_int_equal(count(f, "layers"), 3);
        assert_int_equal(prune(f, &all), 1);
        assert_non_null(image_store_find(f->store, "b:1", NULL));
        image_store_set_users(f->store, nobody_uses, NULL);
        f->busy = true;
        assert_int_equal(prune(f, &all), 0);
        f->busy = false;
        assert_int_equal(prune(f, &all), 1);
        assert_non_null(image_store_find(f->store, "p:1", NULL));
        assert_int_equal(count(f, "layers"), 1);
        assert_int_equal(count(f, "images/blobs/sha256"), 3);
}

static unsigned sides_told;

static void on_side_loaded(int r, const char *const *digests, size_t n, const struct err *err, void *data)
{
        (void)digests;
        (void)n;
        (void)data;
        if (r < 0)
                fail_msg("%s", err->text);
        sides_told++;
}

static void on_side_done(int r, const struct err *err, void *data)
{
        on_side_loaded(r, NULL, 0, err, data);
}

static int uses_later(void *data, struct map *digests)
{
        static char used;
        struct fixture *f = data;
        const struct image *image = f->uses++ > 0 ? image_store_find(f->store, "c:1", NULL) : NULL;

        return image ? map_set(digests, image->digest, &used) : 0;
}

/* What is named, or asked for, while others are taken out. */
static void test_changed_plan(void **state)
{
        const struct image_prune_policy all = { .all = true };
        struct fixture *f = *state;
        unsigned told = 0;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "a");
        (void)usleep(3000);
        import_text(f, "b:1", "b");
        import_text(f, "c:1", "c");
        (void)usleep(3000);
        image_store_set_users(f->store, uses_later, f);
        f->told = false;
        assert_int_equal(image_store_prune(f->store, &all, on_pruned, f, NULL), 0);
        sides_told = 0;
        assert_int_equal(image_store_tag(f->store, "b:1", "keep:1", on_side_done, &told, NULL), 0);
        assert_int_equal(wait_told(f), 0);
        assert_int_equal(sides_told, 1);
        assert_null(image_store_find(f->store, "a:1", NULL));
        assert_non_null(image_store_find(f->store, "b:1", NULL));
        assert_non_null(image_store_find(f->store, "keep:1", NULL));
        assert_non_null(image_store_find(f->store, "c:1", NULL));
}

static void test_recent(void **state)
{
        const struct image_prune_policy all = { .all = true };
        struct fixture *f = *state;
        struct image_prune_result plan;

        NEEDS_WORKER(f);
        f->config.keep_for_ms = 3600 * 1000;
        open_again(f);
        import_text(f, "a:1", "a");
        assert_int_equal(image_store_prune_plan(f->store, &all, &plan, NULL), 0);
        assert_int_equal(plan.n, 0);
        assert_int_equal(plan.recent, 1);
        image_prune_result_done(&plan);
}

/* A step that meets a full disk is tried once more when something has gone, and only then. */
static void test_full(void **state)
{
        struct fixture *f = *state;
        auto_str archive = STR_INIT;

        NEEDS_WORKER(f);
        f->config.high_water = 99;
        f->config.low_water = 98;
        open_again(f);
        test_tar_file(&archive, "hello", "new");
        test_tar_end(&archive);
        f->full = true;
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "b:1", NULL, &archive), -ENOSPC);
        assert_int_equal(count(f, "layers"), 0);
        import_text(f, "a:1", "a");
        f->full = true;
        assert_int_equal(take_archive(f, IMAGE_IMPORT, "b:1", NULL, &archive), 0);
        assert_null(image_store_find(f->store, "a:1", NULL));
        assert_non_null(image_store_find(f->store, "b:1", NULL));
}

/* What could not be given its name is made again: an image that is there has its tree. */
static void test_full_at_the_end(void **state)
{
        static const enum image_kind kinds[] = { IMAGE_LAYER, IMAGE_TREE };
        struct fixture *f = *state;
        auto_str layer = STR_INIT, archive = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        f->config.high_water = 99;
        f->config.low_water = 98;
        open_again(f);
        test_tar_file(&layer, "hello", "new");
        test_tar_end(&layer);
        digest_of(&layer, diff_id);
        saved(&archive, &layer, diff_id, "b:1");
        for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
                import_text(f, "a:1", "a");
                f->full_commit = kinds[i];
                assert_int_equal(take_archive(f, IMAGE_LOAD, NULL, NULL, &archive), 0);
                assert_int_equal(f->full_commit, 0);
                assert_null(image_store_find(f->store, "a:1", NULL));
                assert_non_null(image_store_find(f->store, "b:1", NULL));
                assert_int_equal(count(f, "layers"), 1);
                assert_int_equal(count(f, "trees"), 1);
                assert_int_equal(remove_image(f, "b:1"), 0);
        }
}

static void on_verified(int r, const struct image_verification *v, const struct err *err, void *data)
{
        struct fixture *f = data;

        on_done(r, err, f);
        f->n_digests = v->n_faults;
        (void)snprintf(f->text, sizeof(f->text), "%s", v->n_faults > 0 ? v->faults[0].text : "");
        f->result = r < 0 ? r : v->n_faults > 0 && v->faults[v->n_faults - 1].repaired;
}

/* How many faults there are; *ret_repaired: whether the last was repaired. */
static size_t verify(struct fixture *f, bool repair, bool *ret_repaired)
{
        f->told = false;
        assert_int_equal(image_store_verify(f->store, repair, NULL, on_verified, f, NULL), 0);
        assert_int_equal(image_store_verify(f->store, repair, NULL, on_verified, f, NULL), -EBUSY);
        *ret_repaired = wait_told(f) == 1;
        return f->n_digests;
}

#define SIDES 6

static void start_side(struct fixture *f, unsigned i)
{
        auto_str layer = STR_INIT, archive = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX], name[32];
        struct image_sink *sink = NULL;

        (void)snprintf(name, sizeof(name), "side:%u", i);
        test_tar_file(&layer, "hello", i % 2 ? name : "shared");
        test_tar_end(&layer);
        digest_of(&layer, diff_id);
        saved(&archive, &layer, diff_id, name);
        assert_int_equal(image_sink_open(f->store, IMAGE_LOAD, NULL, NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_write(sink, archive.data, archive.len, NULL), 0);
        assert_int_equal(image_sink_finish(sink, on_side_loaded, f, NULL), 0);
}

/* Those that bring images, and those that collect: nobody takes what another needs, or looks at what a thread changes (which
 * ThreadSanitizer sees). */
static void test_side_by_side(void **state)
{
        struct fixture *f = *state;
        char name[32];

        NEEDS_WORKER(f);
        for (int round = 0; round < 3; round++) {
                import_text(f, "old:1", "old");
                import_text(f, "old:2", "older");
                sides_told = 0;
                for (unsigned i = 0; i < SIDES; i++) {
                        start_side(f, i);
                        if (i == 1 || i == 3)
                                assert_int_equal(
                                        image_store_remove(f->store, i == 1 ? "old:1" : "old:2", on_side_done, f, NULL),
                                        0);
                }
                while (sides_told < SIDES + 2)
                        assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
                assert_int_equal(verify(f, false, &(bool){ false }), 0);
                for (unsigned i = 0; i < SIDES; i++) {
                        (void)snprintf(name, sizeof(name), "side:%u", i);
                        assert_int_equal(remove_image(f, name), 0);
                }
                assert_no_trace(f);
        }
}

static void test_use_outlives(void **state)
{
        struct fixture *f = *state;
        struct image_layer_info layer;
        uint64_t used;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "abc");
        image_store_touch(f->store, image_store_find(f->store, "a:1", NULL));
        used = image_store_find(f->store, "a:1", NULL)->used_ms;
        assert_true(used > 0);
        open_again(f);
        assert_int_equal(image_store_find(f->store, "a:1", NULL)->used_ms, used);
        assert_true(image_store_layer_info(f->store, image_store_find(f->store, "a:1", NULL), 0, &layer));
        assert_int_equal(layer.unpacked, 3);
        assert_false(image_store_layer_info(f->store, image_store_find(f->store, "a:1", NULL), 1, &layer));
        /* One that cannot be read costs nothing but what was in it. */
        image_store_close(f->store);
        assert_int_equal(fd_write_file(f->root, "images/usage.json", 0600, "{\"used\":[", 9, NULL), 0);
        open_store(f);
        assert_non_null(image_store_find(f->store, "a:1", NULL));
}

/* Blobs that an operation has stored, and that no image names yet, are nobody else's to collect. */
static void test_claims(void **state)
{
        struct fixture *f = *state;
        struct map *none = map_new();
        struct image_layout l = IMAGE_LAYOUT_NONE, mine;
        char digest[IMAGE_DIGEST_MAX] = "", dir[128];

        (void)snprintf(dir, sizeof(dir), "%s/images", f->dir);
        NEEDS_WORKER(f);
        assert_int_equal(image_layout_open(dir, &l, NULL), 0);
        mine = l;
        mine.claimant = 7;
        assert_int_equal(image_layout_put_text(&mine, "abc", 3, digest, NULL), 0);
        assert_int_equal(image_layout_collect(&l, none, none, NULL), 0);
        assert_int_equal(count(f, "images/blobs/sha256"), 1);
        image_layout_release(&mine);
        assert_int_equal(image_layout_collect(&l, none, none, NULL), 0);
        assert_int_equal(count(f, "images/blobs/sha256"), 0);
        image_layout_close(&l);
        map_free(none);
}

/* ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void test_verify(void **state)
{
        struct fixture *f = *state;
        const struct image *image;
        char path[200];
        bool repaired;

        NEEDS_WORKER(f);
        assert_int_equal(verify(f, false, &repaired), 0);
        import_text(f, "a:1", "abc");
        assert_int_equal(verify(f, false, &repaired), 0);
        image = image_store_find(f->store, "a:1", NULL);
        (void)snprintf(path, sizeof(path), "layers/%s/root/hello", image->layers[0]);
        assert_int_equal(fchmodat(f->root, path, 0777, 0), 0);
        assert_int_equal(verify(f, false, &repaired), 1);
        assert_non_null(strstr(f->text, "another mode: 'root/hello'"));
        assert_false(repaired);
        assert_true(verify(f, true, &repaired) >= 1 && repaired);
        assert_int_equal(verify(f, false, &repaired), 0);
        (void)snprintf(path, sizeof(path), "trees/%s/more", image->tree);
        assert_int_equal(mkdirat(f->root, path, 0755), 0);
        f->busy = true;
        assert_int_equal(verify(f, true, &repaired), 1);
        assert_false(repaired);
        f->busy = false;
        assert_int_equal(verify(f, true, &repaired), 1);
        assert_true(repaired);
        assert_int_equal(verify(f, false, &repaired), 0);
}

static void test_verify_blob(void **state)
{
        struct fixture *f = *state;
        struct image_layer_info layer;
        const struct image *image;
        auto_fd layers = -EBADF;
        char path[200];
        bool repaired;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "abc");
        image = image_store_find(f->store, "a:1", NULL);
        assert_true(image_store_layer_info(f->store, image, 0, &layer));
        (void)snprintf(path, sizeof(path), "images/blobs/sha256/%s", layer.digest + 7);
        assert_int_equal(fd_write_file(f->root, path, 0600, "x", 1, NULL), 0);
        assert_int_equal(verify(f, true, &repaired), 1);
        assert_false(repaired || image->broken); /* an import cannot be pulled: it runs on */
        layers = openat(f->root, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(path_remove_tree(layers, image->layers[0]), 0);
        /* Without its layer the next start cannot make its tree, and says so; nothing else suffers. */
        import_text(f, "b:1", "b");
        (void)snprintf(path, sizeof(path), "trees/%s", image->tree);
        assert_int_equal(renameat(f->root, path, f->root, "gone"), 0);
        assert_int_equal(sweep(f), 0);
        assert_true(image_store_find(f->store, "a:1", NULL)->broken);
        assert_false(image_store_find(f->store, "b:1", NULL)->broken);
        assert_non_null(image_store_repairs(f->store));
        import_text(f, "a:1", "abc");
        assert_int_equal(sweep(f), 0);
}

/* That somebody else has died says nothing of images. */
static void test_lost_launcher(void **state)
{
        static const int lost[] = { -ENOTCONN, -EIO, -EMFILE };
        struct fixture *f = *state;
        const struct image *image;
        char path[200];
        bool repaired;

        NEEDS_WORKER(f);
        import_text(f, "a:1", "abc");
        image = image_store_find(f->store, "a:1", NULL);
        for (size_t i = 0; i < ARRAY_LEN(lost); i++) {
                f->lost = lost[i];
                (void)verify(f, true, &repaired);
                assert_false(image->broken);
                assert_int_equal(count(f, "layers"), 1);
                assert_int_equal(count(f, "trees"), 1);
        }
        (void)snprintf(path, sizeof(path), "trees/%s", image->tree);
        assert_int_equal(renameat(f->root, path, f->root, "gone"), 0);
        f->lost = -ENOTCONN;
        assert_int_equal(sweep(f), -ENOTCONN);
        assert_false(image_store_find(f->store, "a:1", NULL)->broken);
        f->lost = 0;
        assert_int_equal(sweep(f), 0);
        assert_int_equal(count(f, "trees"), 1);
        assert_int_equal(verify(f, true, &repaired), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_import, setup, teardown),
                cmocka_unit_test_setup_teardown(test_remove, setup, teardown),
                cmocka_unit_test_setup_teardown(test_builtin, setup, teardown),
                cmocka_unit_test_setup_teardown(test_removal_that_fails, setup, teardown),
                cmocka_unit_test_setup_teardown(test_shared, setup, teardown),
                cmocka_unit_test_setup_teardown(test_load_saved, setup, teardown),
                cmocka_unit_test_setup_teardown(test_load_oci, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_borrowed_layer, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lying_worker, setup, teardown),
                cmocka_unit_test_setup_teardown(test_sweep, setup, teardown),
                cmocka_unit_test_setup_teardown(test_corpus, setup, teardown),
                cmocka_unit_test_setup_teardown(test_close_amid_an_import, setup, teardown),
                cmocka_unit_test_setup_teardown(test_close_amid_an_upload, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_import, setup, teardown),
                cmocka_unit_test_setup_teardown(test_tags_and_pins, setup, teardown),
                cmocka_unit_test_setup_teardown(test_prune, setup, teardown),
                cmocka_unit_test_setup_teardown(test_changed_plan, setup, teardown),
                cmocka_unit_test_setup_teardown(test_recent, setup, teardown),
                cmocka_unit_test_setup_teardown(test_full, setup, teardown),
                cmocka_unit_test_setup_teardown(test_full_at_the_end, setup, teardown),
                cmocka_unit_test_setup_teardown(test_side_by_side, setup, teardown),
                cmocka_unit_test_setup_teardown(test_use_outlives, setup, teardown),
                cmocka_unit_test_setup_teardown(test_claims, setup, teardown),
                cmocka_unit_test_setup_teardown(test_verify, setup, teardown),
                cmocka_unit_test_setup_teardown(test_verify_blob, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lost_launcher, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
