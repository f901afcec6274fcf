/* INDEX, UNPACK and MERGE in this process. Owners need root; what they need is skipped without. */

#include "image/worker/worker.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/test_tar.h"
#include "image/worker/meta.h"
#include "image/worker/report.h"
#include "image/worker/stream.h"
#include "image/worker/tar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define LINKS_TRIED 66000

static const struct worker_limits plenty = { .max_bytes = 1 << 20, .max_entries = 1000 };

struct fixture {
        char path[64];
        int dir;
        unsigned next; /* number of the next layer */
        int layers[8];
        size_t n_layers;
        struct err err;
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        (void)snprintf(f->path, sizeof(f->path), "/tmp/mayfly-test-worker-XXXXXX");
        assert_non_null(mkdtemp(f->path));
        f->dir = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        for (size_t i = 0; i < f->n_layers; i++)
                fd_close(f->layers[i]);
        fd_close(f->dir);
        assert_int_equal(path_remove_tree(tmp, f->path + 5), 0);
        free(f);
        return 0;
}

#define NEEDS_ROOT()                                                                                                   \
        do {                                                                                                           \
                if (geteuid() != 0) {                                                                                  \
                        print_message("needs root\n");                                                                 \
                        skip();                                                                                        \
                }                                                                                                      \
        } while (0)

static int memfd_of(const struct str *s)
{
        int fd = memfd_create("test", MFD_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, s->data, s->len), 0);
        return fd;
}

/* Unpacks as the next layer. */
static int unpack_with(struct fixture *f, const struct str *archive, const struct worker_limits *limits)
{
        auto_fd blob = memfd_of(archive);
        auto_str report = STR_INIT;
        char name[16];
        int fd, r;

        (void)snprintf(name, sizeof(name), "layer%u", f->next++);
        assert_int_equal(mkdirat(f->dir, name, 0700), 0);
        fd = openat(f->dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(fd >= 0);
        f->err = (struct err)ERR_INIT;
        r = worker_unpack(blob, fd, limits, &report, &f->err);
        assert_true(r == 0 ? report.len > 0 && f->err.num == 0 : f->err.num == -r && f->err.text[0]);
        assert_true(f->n_layers < ARRAY_LEN(f->layers));
        f->layers[f->n_layers++] = fd;
        return r;
}

static int unpack(struct fixture *f, struct str *archive)
{
        test_tar_end(archive);
        return unpack_with(f, archive, &plenty);
}

static int merge(struct fixture *f, struct str *report)
{
        auto_fd fd = -EBADF;
        char name[16];

        (void)snprintf(name, sizeof(name), "tree%u", f->next++);
        assert_int_equal(mkdirat(f->dir, name, 0700), 0);
        fd = openat(f->dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(fd >= 0);
        f->err = (struct err)ERR_INIT;
        return worker_merge(f->layers, f->n_layers, fd, report, &f->err);
}

static struct stat stat_of(struct fixture *f, const char *top, const char *path)
{
        auto_free char *full = str_printf("%s/%s", top, path);
        struct stat st = { .st_mode = 0 };

        assert_non_null(full);
        (void)fstatat(f->dir, full, &st, AT_SYMLINK_NOFOLLOW);
        return st;
}

static void test_attributes(void **state)
{
        struct test_tar_entry e = {
                .name = "su", .type = '0', .data = "x", .len = 1, .mode = 06755, .uid = 7, .gid = 8
        };
        struct fixture *f = *state;
        auto_str a = STR_INIT, report = STR_INIT;
        struct stat st;

        NEEDS_ROOT();
        test_tar_entry(&a, &e);
        e = (struct test_tar_entry){ .name = "sticky/", .type = '5', .mode = 01777, .uid = 65535, .gid = 1 };
        test_tar_entry(&a, &e);
        test_tar_file(&a, "sticky/x", "y");
        test_tar_other(&a, "pipe", '6', NULL);
        test_tar_other(&a, "null", '3', NULL);
        test_tar_other(&a, "link", '2', "/nowhere");
        assert_int_equal(unpack(f, &a), 0);
        assert_int_equal(merge(f, &report), 0);
        st = stat_of(f, "tree1/root", "su");
        assert_int_equal(st.st_mode, S_IFREG | 06755);
        assert_int_equal(st.st_uid, 7);
        assert_int_equal(st.st_gid, 8);
        assert_int_equal(st.st_mtime, 1000000000);
        st = stat_of(f, "tree1/root", "sticky");
        assert_int_equal(st.st_mode, S_IFDIR | 01777);
        assert_int_equal(st.st_uid, 65535);
        assert_int_equal(st.st_mtime, 1000000000);
        assert_int_equal(stat_of(f, "tree1/root", "pipe").st_mode, S_IFIFO | 0644);
        assert_int_equal(stat_of(f, "tree1/root", "link").st_mtime, 1000000000);
        assert_int_equal(stat_of(f, "tree1/root", "null").st_mode, 0);
}

/* Records of a pax header, for names that ustar cannot hold and for attributes. */
static void pax(struct str *out, const char *records, size_t len)
{
        test_tar_entry(out, &(struct test_tar_entry){ .name = "pax", .type = 'x', .data = records, .len = len });
}

static void test_pax(void **state)
{
        static const char name[] = "16 path=\xc3\xa4\xff\xe2\x82\xac"
                                   "x\n";
        static const char trusted[] = "40 SCHILY.xattr.trusted.overlay.opaque=y\n";
        static const char user[] = "27 SCHILY.xattr.user.k=v\0w\n";
        struct fixture *f = *state;
        auto_str a = STR_INIT;
        char value[64];

        NEEDS_ROOT();
        pax(&a, name, sizeof(name) - 1);
        test_tar_file(&a, "short", "1");
        pax(&a, user, sizeof(user) - 1);
        test_tar_file(&a, "user", "1");
        pax(&a, trusted, sizeof(trusted) - 1);
        test_tar_file(&a, "trusted", "1");
        assert_int_equal(unpack(f, &a), 0);
        assert_int_equal(stat_of(f, "layer0/root",
                                 "\xc3\xa4\xff\xe2\x82\xac"
                                 "x")
                                 .st_size,
                         1);
        {
                auto_fd fd = openat(f->dir, "layer0/root/trusted", O_RDONLY | O_CLOEXEC);
                auto_fd with = openat(f->dir, "layer0/root/user", O_RDONLY | O_CLOEXEC);

                assert_true(fgetxattr(fd, "trusted.overlay.opaque", value, sizeof(value)) < 0);
                if (fsetxattr(fd, "user.try", "x", 1, 0) == 0) {
                        assert_int_equal(fgetxattr(with, "user.k", value, sizeof(value)), 3);
                        assert_memory_equal(value, "v\0w", 3);
                }
        }
}

static void test_replace(void **state)
{
        struct fixture *f = *state;
        auto_str a = STR_INIT, report = STR_INIT, text = STR_INIT;

        NEEDS_ROOT();
        test_tar_file(&a, "d/x/y", "1");
        test_tar_file(&a, "d", "now a file");
        test_tar_other(&a, "l", '2', "d");
        test_tar_file(&a, "l", "no link");
        test_tar_file(&a, "f", "1");
        test_tar_other(&a, "f/", '5', NULL);
        test_tar_other(&a, "same", '1', "l");
        test_tar_other(&a, "same", '1', "l");
        test_tar_other(&a, "l", '1', "l");
        assert_int_equal(unpack(f, &a), 0);
        assert_int_equal(merge(f, &report), 0);
        assert_int_equal(fd_read_file(f->dir, "tree1/root/d", 100, &text, NULL), 0);
        assert_string_equal(text.data, "now a file");
        assert_true(S_ISDIR(stat_of(f, "tree1/root", "f").st_mode));
        assert_int_equal(stat_of(f, "tree1/root", "l").st_nlink, 4);
}

/* A hard link to a file of a lower layer, also through a link of the lower one, and replaced again in its own layer. */
static void test_lower_link(void **state)
{
        struct fixture *f = *state;
        auto_str lower = STR_INIT, upper = STR_INIT, report = STR_INIT;

        NEEDS_ROOT();
        test_tar_file(&lower, "usr/lib/a", "1");
        test_tar_other(&lower, "lib", '2', "usr/lib");
        test_tar_other(&upper, "b", '1', "usr/lib/a");
        test_tar_other(&upper, "lib/c", '1', "lib/a");
        test_tar_other(&upper, "d", '1', "usr/lib/a");
        test_tar_file(&upper, "d", "own");
        test_tar_other(&lower, "out", '2', "/nowhere");
        test_tar_other(&upper, "out/e", '1', "usr/lib/a");
        assert_int_equal(unpack(f, &lower), 0);
        assert_int_equal(unpack(f, &upper), 0);
        assert_int_equal(merge(f, &report), 0);
        assert_int_equal(stat_of(f, "tree2/root", "b").st_ino, stat_of(f, "tree2/root", "usr/lib/a").st_ino);
        assert_int_equal(stat_of(f, "tree2/root", "usr/lib/c").st_ino, stat_of(f, "tree2/root", "b").st_ino);
        assert_int_equal(stat_of(f, "tree2/root", "d").st_size, 3);
        /* Where the link leads inside, as if the layer had been unpacked over the lower one. */
        assert_int_equal(stat_of(f, "tree2/root", "nowhere/e").st_ino, stat_of(f, "tree2/root", "b").st_ino);
        assert_true(S_ISLNK(stat_of(f, "tree2/root", "out").st_mode));
        assert_true(S_ISLNK(stat_of(f, "tree2/root", "lib").st_mode));
}

static void test_missing_link(void **state)
{
        struct fixture *f = *state;
        auto_str a = STR_INIT, b = STR_INIT, report = STR_INIT;

        NEEDS_ROOT();
        test_tar_other(&a, "dir/", '5', NULL);
        test_tar_other(&a, "h", '1', "dir");
        assert_int_equal(unpack(f, &a), -EBADMSG);
        f->n_layers--;
        fd_close(f->layers[0]);
        test_tar_other(&b, "h", '1', "nothing/here");
        assert_int_equal(unpack(f, &b), 0);
        assert_int_equal(merge(f, &report), -EBADMSG);
        assert_non_null(strstr(f->err.text, "no file of any layer"));
}

static void test_whiteouts(void **state)
{
        struct fixture *f = *state;
        auto_str lower = STR_INIT, upper = STR_INIT, report = STR_INIT;

        NEEDS_ROOT();
        test_tar_other(&lower, "d/", '5', NULL);
        test_tar_file(&lower, "d/a", "1");
        test_tar_file(&lower, "d/b/c", "1");
        test_tar_file(&lower, "o/a", "1");
        test_tar_file(&lower, "x", "1");
        test_tar_other(&lower, "l", '2', "d");
        test_tar_file(&upper, "d/.wh.b", "");
        test_tar_file(&upper, "l/.wh.a", "");
        test_tar_file(&upper, "o/.wh..wh..opq", "");
        test_tar_file(&upper, "o/b", "2");
        test_tar_file(&upper, ".wh.x", "");
        test_tar_file(&upper, "x", "22");
        test_tar_file(&upper, "none/.wh.y", "");
        test_tar_file(&upper, ".wh..wh.plnk/1", "");
        assert_int_equal(unpack(f, &lower), 0);
        assert_int_equal(unpack(f, &upper), 0);
        assert_int_equal(merge(f, &report), 0);
        assert_int_equal(stat_of(f, "tree2/root", "d/a").st_mode, 0);
        assert_int_equal(stat_of(f, "tree2/root", "d/b").st_mode, 0);
        assert_int_equal(stat_of(f, "tree2/root", "d").st_mtime, 1000000000);
        assert_int_equal(stat_of(f, "tree2/root", "o/a").st_mode, 0);
        assert_int_equal(stat_of(f, "tree2/root", "o/b").st_size, 1);
        assert_int_equal(stat_of(f, "tree2/root", "x").st_size, 2);
        assert_int_equal(stat_of(f, "tree2/root", "none").st_mode, 0);
        assert_int_equal(stat_of(f, "tree2/root", ".wh..wh.plnk").st_mode, 0);
}

static void test_users(void **state)
{
        struct fixture *f = *state;
        auto_str a = STR_INIT, report = STR_INIT;

        NEEDS_ROOT();
        test_tar_file(&a, "usr/passwd", "root");
        test_tar_other(&a, "etc/passwd", '2', "../../../usr/passwd");
        test_tar_other(&a, "etc/group", '6', NULL);
        assert_int_equal(unpack(f, &a), 0);
        assert_int_equal(merge(f, &report), 0);
        assert_non_null(strstr(report.data, "\"passwd\":\"cm9vdA==\""));
        assert_null(strstr(report.data, "\"group\""));
}

/* More links than the file system allows: the file is copied. */
static void test_too_many_links(void **state)
{
        struct fixture *f = *state;
        auto_str a = STR_INIT, report = STR_INIT;
        auto_fd root = -EBADF, links = -EBADF;
        char name[32];
        int i = 0;

        NEEDS_ROOT();
        test_tar_entry(&a, &(struct test_tar_entry){
                                   .name = "f", .type = '0', .data = "abc", .len = 3, .mode = 04711, .uid = 9 });
        assert_int_equal(unpack(f, &a), 0);
        root = openat(f->dir, "layer0/root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(mkdirat(f->dir, "links", 0700), 0);
        links = openat(f->dir, "links", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (; i < LINKS_TRIED; i++) {
                (void)snprintf(name, sizeof(name), "%d", i);
                if (linkat(root, "f", links, name, 0) < 0)
                        break;
        }
        if (i == LINKS_TRIED) {
                print_message("this file system allows more than %d links\n", LINKS_TRIED);
                skip();
        }
        assert_int_equal(errno, EMLINK);
        assert_int_equal(merge(f, &report), 0);
        assert_int_equal(stat_of(f, "tree1/root", "f").st_nlink, 1);
        assert_int_equal(stat_of(f, "tree1/root", "f").st_size, 3);
        assert_int_equal(stat_of(f, "tree1/root", "f").st_mode, S_IFREG | 04711);
        assert_int_equal(stat_of(f, "tree1/root", "f").st_uid, 9);
        assert_int_equal(stat_of(f, "tree1/root", "f").st_mtime, 1000000000);
}

static void test_limits(void **state)
{
        const struct worker_limits few = { .max_bytes = 1 << 20, .max_entries = 2 };
        const struct worker_limits small = { .max_bytes = 3, .max_entries = 100 };
        struct fixture *f = *state;
        auto_str a = STR_INIT, report = STR_INIT;
        auto_fd blob = -EBADF;

        NEEDS_ROOT();
        test_tar_file(&a, "a", "12");
        test_tar_file(&a, "b", "34");
        test_tar_file(&a, "c", "");
        test_tar_end(&a);
        assert_int_equal(unpack_with(f, &a, &few), -EFBIG);
        assert_int_equal(unpack_with(f, &a, &small), -EFBIG);
        assert_int_equal(unpack_with(f, &a, &plenty), 0);
        blob = memfd_of(&a);
        assert_int_equal(worker_index(blob, -EBADF, &few, &report, &f->err), -EFBIG);
        assert_int_equal(worker_index(blob, -EBADF, &small, &report, &f->err), -EFBIG);
}

static void gzip(const struct str *in, struct str *out)
{
        z_stream z = { .next_in = (Bytef *)in->data, .avail_in = (uInt)in->len };
        size_t before = out->len;

        assert_int_equal(str_reserve(out, in->len + 1024), 0);
        assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
        z.next_out = (Bytef *)out->data + before;
        z.avail_out = (uInt)(in->len + 1000);
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        out->len = before + z.total_out;
        (void)deflateEnd(&z);
}

static void zstd(const struct str *in, struct str *out)
{
        size_t n;

        assert_int_equal(str_reserve(out, ZSTD_compressBound(in->len) + 1), 0);
        n = ZSTD_compress(out->data + out->len, ZSTD_compressBound(in->len), in->data, in->len, 3);
        assert_false(ZSTD_isError(n));
        out->len += n;
}

static int pipe_of(const struct str *s, size_t len)
{
        int ends[2];

        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        assert_int_equal(fd_write_all(ends[1], s->data, len), 0);
        fd_close(ends[1]);
        return ends[0];
}

static int plain_of(int blob, const struct str *is)
{
        auto_fd out = memfd_create("plain", MFD_CLOEXEC);
        auto_str report = STR_INIT;
        char text[4096];
        int r = worker_plain(blob, out, &plenty, &report, NULL);

        fd_close(blob);
        if (r == 0) {
                assert_int_equal(pread(out, text, sizeof(text), 0), is->len);
                assert_memory_equal(text, is->data, is->len);
        }
        return r;
}

/* A layer that still comes is uncompressed out of a pipe, whose early end is no end. What another worker uncompressed is not
 * compressed. */
static void test_pipe(void **state)
{
        auto_str a = STR_INIT, gz = STR_INIT, zst = STR_INIT, report = STR_INIT;
        const struct str *packed[] = { &gz, &zst };
        struct fixture *f = *state;

        test_tar_file(&a, "file", "text");
        test_tar_end(&a);
        gzip(&a, &gz);
        zstd(&a, &zst);
        for (int i = 0; i < 2; i++) {
                auto_fd pipe = pipe_of(packed[i], packed[i]->len);

                assert_int_equal(plain_of(pipe_of(packed[i], packed[i]->len), &a), 0);
                assert_int_equal(plain_of(pipe_of(packed[i], packed[i]->len - 1), &a), -EBADMSG);
                assert_int_equal(worker_unpack(pipe, f->dir, &plenty, &report, NULL), -EBADMSG);
                assert_int_equal(unlinkat(f->dir, "root", AT_REMOVEDIR), 0);
        }
}

/* The uncompressed bytes and their digest, or -errno. */
static int drain(const struct str *in, uint64_t max, char digest[STREAM_DIGEST_MAX])
{
        const struct stream_options options = { .max_bytes = max, .copy_fd = -EBADF, .hash = 1 };
        auto_fd fd = memfd_of(in);
        struct err err = ERR_INIT;
        auto_stream s = NULL;
        int r;

        r = stream_open(fd, &options, &s, &err);
        return r < 0 ? r : stream_finish(s, digest, &err);
}

static void test_stream(void **state)
{
        auto_str plain = STR_INIT, gz = STR_INIT, zst = STR_INIT, other = STR_INIT, more = STR_INIT;
        char want[STREAM_DIGEST_MAX], got[STREAM_DIGEST_MAX];

        (void)state;
        for (int i = 0; i < 40000; i++)
                assert_int_equal(str_addf(&plain, "%d ", i * 7919), 0);
        assert_int_equal(str_adds(&more, "and more of it"), 0);
        assert_int_equal(drain(&plain, 1 << 20, want), 0);
        gzip(&plain, &gz);
        assert_int_equal(drain(&gz, 1 << 20, got), 0);
        assert_string_equal(got, want);
        assert_int_equal(drain(&gz, 1000, got), -EFBIG);
        zstd(&plain, &zst);
        assert_int_equal(drain(&zst, 1 << 20, got), 0);
        assert_string_equal(got, want);
        /* Several members or frames are one stream. */
        gzip(&more, &gz);
        zstd(&more, &zst);
        assert_int_equal(str_add(&plain, more.data, more.len), 0);
        (void)drain(&plain, 1 << 20, want);
        assert_int_equal(drain(&gz, 1 << 20, got), 0);
        assert_string_equal(got, want);
        assert_int_equal(drain(&zst, 1 << 20, got), 0);
        assert_string_equal(got, want);
        /* Cut short, followed by something else, damaged, of another kind. */
        gz.len--;
        assert_int_equal(drain(&gz, 1 << 20, got), -EBADMSG);
        zst.len -= 3;
        assert_int_equal(drain(&zst, 1 << 20, got), -EBADMSG);
        gz.len = 0;
        gzip(&plain, &gz);
        assert_int_equal(str_addc(&gz, 'x'), 0);
        assert_int_equal(drain(&gz, 1 << 20, got), -EBADMSG);
        gz.data[gz.len / 2] = (char)~gz.data[gz.len / 2];
        assert_int_equal(drain(&gz, 1 << 20, got), -EBADMSG);
        assert_int_equal(str_adds(&other, "BZh91AY"), 0);
        assert_int_equal(drain(&other, 1 << 20, got), -EBADMSG);
        str_clear(&other);
        assert_int_equal(drain(&other, 1 << 20, got), 0);
}

static void test_index(void **state)
{
        auto_str a = STR_INIT, gz = STR_INIT, report = STR_INIT, again = STR_INIT;
        auto_fd blob = -EBADF, packed = -EBADF, plain = memfd_create("plain", MFD_CLOEXEC);
        struct err err = ERR_INIT;
        struct stat st;

        (void)state;
        test_tar_other(&a, "./d/", '5', NULL);
        test_tar_file(&a, "./d/f", "12345");
        test_tar_other(&a, "l", '2', "../x");
        test_tar_other(&a, "h", '1', "d/f");
        test_tar_other(&a, "pipe", '6', NULL);
        test_tar_file(&a, "q\"\\\n", "");
        test_tar_end(&a);
        blob = memfd_of(&a);
        assert_int_equal(worker_index(blob, plain, &plenty, &report, &err), 0);
        assert_string_equal(report.data,
                            "{\"compression\":\"none\",\"entries\":["
                            "{\"type\":\"dir\",\"name\":\"d\",\"offset\":512,\"size\":0},"
                            "{\"type\":\"file\",\"name\":\"d/f\",\"offset\":1024,\"size\":5},"
                            "{\"type\":\"symlink\",\"name\":\"l\",\"offset\":2048,\"size\":0,"
                            "\"target\":\"../x\"},"
                            "{\"type\":\"link\",\"name\":\"h\",\"offset\":2560,\"size\":0,"
                            "\"target\":\"d/f\"},"
                            "{\"type\":\"file\",\"name\":\"q\\\"\\\\\\u000a\",\"offset\":3584,\"size\":0}]}");
        assert_int_equal(fstat(plain, &st), 0);
        assert_int_equal(st.st_size, 0);
        gzip(&a, &gz);
        packed = memfd_of(&gz);
        assert_int_equal(worker_index(packed, plain, &plenty, &again, &err), 0);
        assert_int_equal(fstat(plain, &st), 0);
        assert_int_equal(st.st_size, a.len);
        assert_string_equal(again.data + 23, report.data + 23);
        str_clear(&a);
        test_tar_file(&a, "bad\xff", "");
        fd_replace(&blob, memfd_of(&a));
        assert_int_equal(worker_index(blob, plain, &plenty, &again, &err), -EBADMSG);
}

/* What Go's archive/tar takes for whole, by where it is cut: umoci's archives have neither padding nor end. */
static void test_cut(void **state)
{
        static const struct {
                size_t from, to;
                bool whole;
        } cuts[] = {
                { 0, 0, true },       { 1, 511, false },     { 512, 512, true },   { 513, 1723, false },
                { 1724, 2048, true }, { 2049, 2559, false }, { 2560, 2560, true }, { 2561, 3071, false },
                { 3072, 3072, true }, { 3073, 3583, false }, { 3584, 3584, true },
        };
        struct fixture *f = *state;
        auto_str a = STR_INIT;
        char text[700];

        NEEDS_ROOT();
        memset(text, 'x', sizeof(text));
        test_tar_other(&a, "d", '5', NULL);
        test_tar_entry(&a, &(struct test_tar_entry){ .name = "f", .type = '0', .data = text, .len = sizeof(text) });
        test_tar_other(&a, "l", '2', "f");
        test_tar_end(&a);
        for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
                for (size_t len = cuts[i].from; len <= cuts[i].to; len++) {
                        struct str part = { .data = a.data, .len = len };
                        int r = unpack_with(f, &part, &plenty);

                        if (r != (cuts[i].whole ? 0 : -EBADMSG))
                                fail_msg("cut at %zu: %s", len, r < 0 ? f->err.text : "taken for whole");
                        fd_close(f->layers[--f->n_layers]);
                        if (r == 0 && len >= 1724) {
                                auto_free char *path = str_printf("layer%u/root", f->next - 1);

                                assert_int_equal(stat_of(f, path, "f").st_size, sizeof(text));
                        }
                }
        }
}

static void test_clean(void **state)
{
        static const struct {
                const char *in, *out; /* NULL: refused */
        } cases[] = {
                { "", "" },          { "/", "" },
                { "./", "" },        { ".", "" },
                { "a", "a" },        { "a//b/./c/", "a/b/c" },
                { "a/../b", "b" },   { "a/b/../../c", "c" },
                { "a/..", "" },      { "..", NULL },
                { "a/../..", NULL }, { "/../a", NULL },
                { "...", "..." },    { "..a", "..a" },
        };
        char out[PATH_MAX], name[PATH_MAX + 10];

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                int r = tar_clean(cases[i].in, out, NULL);

                if (cases[i].out ? r < 0 || !str_eq(out, cases[i].out) : r != -EBADMSG)
                        fail_msg("'%s'", cases[i].in);
        }
        memset(name, 'n', sizeof(name));
        name[NAME_MAX + 1] = '\0';
        assert_int_equal(tar_clean(name, out, NULL), -EBADMSG);
        for (size_t i = 0; i < sizeof(name); i++)
                name[i] = i % 2 ? '/' : 'd';
        name[sizeof(name) - 1] = '\0';
        assert_int_equal(tar_clean(name, out, NULL), -EBADMSG);
}

static int read_meta(struct fixture *f, const char *text, size_t len)
{
        auto_meta m = { .implied = NULL };
        auto_fd fd = openat(f->dir, META_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_int_equal(fd_write_all(fd, text, len), 0);
        assert_int_equal(meta_init(&m), 0);
        return meta_read(&m, f->dir, NULL);
}

static void test_meta(void **state)
{
#define META(s) read_meta(f, META_MAGIC s, sizeof(META_MAGIC s) - 1)
        struct fixture *f = *state;
        auto_meta m = { .implied = NULL };

        assert_int_equal(meta_init(&m), 0);
        assert_int_equal(meta_read(&m, f->dir, NULL), -ENOENT);
        assert_int_equal(META(""), 0);
        assert_int_equal(META("I\0Ia/b\0W.x\0O\0La\0b\0"), 0);
        assert_int_equal(META("I"), -EBADMSG);
        assert_int_equal(META("Ia"), -EBADMSG);
        assert_int_equal(META("I../a\0"), -EBADMSG);
        assert_int_equal(META("I/a\0"), -EBADMSG);
        assert_int_equal(META("W\0"), -EBADMSG);
        assert_int_equal(META("La\0"), -EBADMSG);
        assert_int_equal(META("La\0\0"), -EBADMSG);
        assert_int_equal(META("Xa\0"), -EBADMSG);
        assert_int_equal(read_meta(f, "", 0), -EBADMSG);
        assert_int_equal(unlinkat(f->dir, META_NAME, 0), 0);
        assert_int_equal(symlinkat("/etc/passwd", f->dir, META_NAME), 0);
        assert_int_equal(meta_read(&m, f->dir, NULL), -EBADMSG);
}

static void test_remove(void **state)
{
        struct fixture *f = *state;
        auto_str a = STR_INIT;
        struct err err = ERR_INIT;

        NEEDS_ROOT();
        test_tar_file(&a, "a/b/c", "1");
        test_tar_other(&a, "out", '2', "/etc");
        assert_int_equal(unpack(f, &a), 0);
        assert_int_equal(worker_remove(f->layers[0], &err), 0);
        assert_int_equal(stat_of(f, ".", "layer0").st_nlink, 2);
        assert_int_equal(stat_of(f, "layer0", "meta").st_mode, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_attributes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pax, setup, teardown),
                cmocka_unit_test_setup_teardown(test_replace, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lower_link, setup, teardown),
                cmocka_unit_test_setup_teardown(test_missing_link, setup, teardown),
                cmocka_unit_test_setup_teardown(test_whiteouts, setup, teardown),
                cmocka_unit_test_setup_teardown(test_users, setup, teardown),
                cmocka_unit_test_setup_teardown(test_too_many_links, setup, teardown),
                cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
                cmocka_unit_test(test_stream),
                cmocka_unit_test(test_index),
                cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
                cmocka_unit_test(test_clean),
                cmocka_unit_test_setup_teardown(test_pipe, setup, teardown),
                cmocka_unit_test_setup_teardown(test_meta, setup, teardown),
                cmocka_unit_test_setup_teardown(test_remove, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
