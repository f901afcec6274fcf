#include "base/tar.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/test_tar.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Runs a program and answers what it prints. Its standard input is `in`. */
static void run(char *const *argv, const struct str *in, struct str *out)
{
        int to[2], from[2], status;
        char piece[4096];
        ssize_t n;
        pid_t writer, pid;

        assert_int_equal(pipe(to), 0);
        assert_int_equal(pipe(from), 0);
        pid = fork();
        if (pid == 0) {
                (void)dup2(to[0], 0);
                (void)dup2(from[1], 1);
                (void)close(to[1]);
                (void)execvp(argv[0], argv);
                _exit(127);
        }
        writer = fork();
        if (writer == 0) {
                (void)close(from[1]);
                (void)close(from[0]);
                (void)close(to[0]);
                _exit(in ? fd_write_all(to[1], in->data, in->len) < 0 : 0);
        }
        (void)close(to[0]);
        (void)close(to[1]);
        (void)close(from[1]);
        while ((n = read(from[0], piece, sizeof(piece))) > 0)
                assert_int_equal(str_add(out, piece, (size_t)n), 0);
        (void)close(from[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(waitpid(writer, NULL, 0), writer);
}

/* The archive as a text, one line for each member, fed in pieces of `step` bytes. */
static int describe(const struct str *archive, size_t step, const struct tar_limits *limits, struct str *out)
{
        static const char letters[] = { 'f', 'd', 'l', 'h', 'p', 'c', 'b', '?' };
        static struct tar_reader r;
        struct tar_piece p = { .event = TAR_MORE };

        tar_reader_init(&r, limits);
        for (size_t i = 0; i < archive->len && p.event != TAR_END; i += step) {
                const void *at = archive->data + i;
                size_t len = MIN(step, archive->len - i);
                int e;

                do {
                        e = tar_reader_next(&r, &at, &len, &p, NULL);
                        if (e < 0)
                                return e;
                        if (p.event == TAR_MEMBER)
                                (void)str_addf(out, "%s%c %o %llu %s%s%s%s", out->len ? "\n" : "",
                                               letters[p.member.kind], p.member.mode, (unsigned long long)p.member.size,
                                               p.member.path, p.member.target[0] ? " -> " : "", p.member.target,
                                               p.member.outside ? " OUTSIDE" : "");
                        else if (p.event == TAR_CONTENT)
                                (void)str_addf(out, " [%.*s]", (int)MIN(p.len, (size_t)20), (const char *)p.data);
                } while (p.event != TAR_MORE && p.event != TAR_END);
        }
        return tar_reader_finish(&r, NULL);
}

static void expect(const struct str *archive, const char *want)
{
        auto_str got = STR_INIT;

        assert_int_equal(describe(archive, archive->len, NULL, &got), 0);
        assert_string_equal(got.data, want);
}

static int fails(const struct str *archive, const struct tar_limits *limits)
{
        auto_str got = STR_INIT;
        int whole = describe(archive, MAX(archive->len, (size_t)1), limits, &got);

        str_clear(&got);
        assert_int_equal(describe(archive, 7, limits, &got), whole);
        return whole;
}

static void python(const char *script, const struct str *in, struct str *out)
{
        char *const argv[] = { (char *)"python3", (char *)"-c", (char *)script, NULL };

        run(argv, in, out);
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define N10 "0123456789"
#define N100 N10 N10 N10 N10 N10 N10 N10 N10 N10 N10
#define LONG_NAME N100 "/" N100 "/" N100

#define MEMBERS                                                                                                        \
        "def add(name, **k):\n"                                                                                        \
        "    data = k.pop('data', b'')\n"                                                                              \
        "    i = tarfile.TarInfo(name); i.size = len(data)\n"                                                          \
        "    for a, v in k.items(): setattr(i, a, v)\n"                                                                \
        "    t.addfile(i, io.BytesIO(data))\n"                                                                         \
        "add('./dir/', type=tarfile.DIRTYPE, mode=0o1777)\n"                                                           \
        "add('dir//f', data=b'hello', mode=0o640, mtime=-5)\n"                                                         \
        "add('" LONG_NAME "', data=b'long')\n"                                                                         \
        "add('s', type=tarfile.SYMTYPE, linkname='" LONG_NAME "')\n"                                                   \
        "add('h', type=tarfile.LNKTYPE, linkname='./dir/f')\n"                                                         \
        "add('n', type=tarfile.CHRTYPE)\n"                                                                             \
        "add('p', type=tarfile.FIFOTYPE)\n"                                                                            \
        "add('../x', data=b'x')\n"                                                                                     \
        "add('/abs')\n"                                                                                                \
        "add('y', type=tarfile.LNKTYPE, linkname='a/../../b')\n"                                                       \
        "add('..z', data=b'x' * 512, uid=3000000)\n"                                                                   \
        "t.close()\n"                                                                                                  \
        "sys.stdout.buffer.write(o.getvalue())"

#define LISTING                                                                                                        \
        "d 1777 0 dir\n"                                                                                               \
        "f 640 5 dir/f [hello]\n"                                                                                      \
        "f 644 4 " LONG_NAME " [long]\n"                                                                               \
        "l 644 0 s -> " LONG_NAME "\n"                                                                                 \
        "h 644 0 h -> dir/f\n"                                                                                         \
        "c 644 0 n\n"                                                                                                  \
        "p 644 0 p\n"                                                                                                  \
        "f 644 1 ../x OUTSIDE [x]\n"                                                                                   \
        "f 644 0 /abs OUTSIDE\n"                                                                                       \
        "h 644 0 y -> a/../../b OUTSIDE\n"                                                                             \
        "f 644 512 ..z [xxxxxxxxxxxxxxxxxxxx]"

static void test_python(void **state)
{
        static const char *const formats[] = { "tarfile.PAX_FORMAT", "tarfile.GNU_FORMAT" };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
                auto_free char *script = str_printf("import tarfile, io, sys\no = io.BytesIO()\n"
                                                    "t = tarfile.open(fileobj=o, mode='w', format=%s)\n" MEMBERS,
                                                    formats[i]);
                auto_str archive = STR_INIT;
                auto_str pieces = STR_INIT;

                python(script, NULL, &archive);
                expect(&archive, LISTING);
                assert_int_equal(describe(&archive, 513, NULL, &pieces), 0);
                assert_true(str_starts(pieces.data, "d 1777 0 dir\n"));
        }
}

/* Debian's tar in each of its formats, through a directory of its own. */
static void test_debian(void **state)
{
        static const char *const formats[] = { "v7", "oldgnu", "gnu", "ustar", "posix" };
        char dir[] = "/tmp/test-tar-XXXXXX";
        auto_free char *make = NULL, *clear = NULL;
        auto_str none = STR_INIT;

        (void)state;
        assert_non_null(mkdtemp(dir));
        make = str_printf("cd %s && mkdir -m 0750 d && printf hello >d/f && chmod 0604 d/f && ln d/f d/h && "
                          "ln -s ../f d/s && mkfifo -m 0600 d/p",
                          dir);
        run((char *const[]){ (char *)"sh", (char *)"-c", make, NULL }, NULL, &none);
        for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
                auto_free char *script = str_printf("cd %s && tar --format=%s --sort=name -cf - d", dir, formats[i]);
                auto_str archive = STR_INIT;

                if (i == 0) /* which knows no FIFOs */
                        script = (free(script),
                                  str_printf("cd %s && tar --format=v7 --sort=name --exclude=d/p -cf - d", dir));
                run((char *const[]){ (char *)"sh", (char *)"-c", script, NULL }, NULL, &archive);
                expect(&archive, i == 0 ? "d 750 0 d\nf 604 5 d/f [hello]\nh 604 0 d/h -> d/f\nl 777 0 d/s -> ../f"
                                        : "d 750 0 d\nf 604 5 d/f [hello]\nh 604 0 d/h -> d/f\np 600 0 d/p\n"
                                          "l 777 0 d/s -> ../f");
        }
        clear = str_printf("rm -r %s", dir);
        run((char *const[]){ (char *)"sh", (char *)"-c", clear, NULL }, NULL, &none);
}

static void test_sparse(void **state)
{
        auto_str archive = STR_INIT;
        char *const argv[] = {
                (char *)"sh", (char *)"-c",
                (char *)"d=$(mktemp -d) && cd $d && truncate -s 10M f && tar -S --format=posix -cf - f; rm -r $d", NULL
        };
        char *const gnu[] = {
                (char *)"sh", (char *)"-c",
                (char *)"d=$(mktemp -d) && cd $d && truncate -s 10M f && tar -S --format=gnu -cf - f; rm -r $d", NULL
        };

        (void)state;
        run(argv, NULL, &archive);
        assert_int_equal(fails(&archive, NULL), -ENOTSUP);
        str_clear(&archive);
        run(gnu, NULL, &archive);
        assert_int_equal(fails(&archive, NULL), -ENOTSUP);
}

static void test_limits(void **state)
{
        auto_str archive = STR_INIT;

        (void)state;
        test_tar_file(&archive, "a", "12345");
        test_tar_file(&archive, "b", "12345");
        test_tar_end(&archive);
        assert_int_equal(fails(&archive, &(struct tar_limits){ 10, 2 }), 0);
        assert_int_equal(fails(&archive, &(struct tar_limits){ 9, 2 }), -EFBIG);
        assert_int_equal(fails(&archive, &(struct tar_limits){ 10, 1 }), -E2BIG);
}

static void test_damaged(void **state)
{
        auto_str archive = STR_INIT, cut = STR_INIT;

        (void)state;
        test_tar_file(&archive, "a", "12345");
        assert_int_equal(fails(&archive, NULL), 0); /* the end is not there: accepted */
        for (size_t len = 1; len < archive.len; len++) {
                str_clear(&cut);
                (void)str_add(&cut, archive.data, len);
                assert_int_equal(fails(&cut, NULL), -EBADMSG);
        }
        archive.data[3] = 'x';
        assert_int_equal(fails(&archive, NULL), -EBADMSG);
        str_clear(&archive);
        assert_int_equal(fails(&archive, NULL), 0);
        test_tar_other(&archive, "l", '2', "");
        assert_int_equal(fails(&archive, NULL), -EBADMSG);
}

static void extended(struct str *out, char type, const char *records)
{
        test_tar_entry(out,
                       &(struct test_tar_entry){ .name = "x", .type = type, .data = records, .len = strlen(records) });
        test_tar_file(out, "name", "12345");
}

static void test_records(void **state)
{
        static const struct {
                const char *records;
                int r;
        } table[] = {
                { "12 path=abc\n", 0 },
                { "11 path=abc\n", -EBADMSG },
                { "13 path=abc\n", -EBADMSG },
                { "99999999999999999999 path=abc\n", -EBADMSG },
                { "0 path=abc\n", -EBADMSG },
                { "9 pathabc\n", -EBADMSG },
                { "12 size=-12\n", -EBADMSG },
                { "30 size=9223372036854775807\n", -EBADMSG },
                { "28 size=9223372036854775807\n", -EBADMSG },
                { "13 mtime=1x5\n", -EBADMSG },
                { "15 mtime=-1.25\n", 0 },
                { "15 unknown=abc\n", 0 },
                { "22 GNU.sparse.major=1\n", -ENOTSUP },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                auto_str archive = STR_INIT;

                extended(&archive, 'x', table[i].records);
                assert_int_equal(fails(&archive, NULL), table[i].r);
        }
}

static void test_long_records(void **state)
{
        auto_free char *name = calloc(1, TAR_NAME_MAX + 2);
        auto_str archive = STR_INIT;

        (void)state;
        memset(name, 'a', TAR_NAME_MAX);
        extended(&archive, 'L', name);
        assert_int_equal(fails(&archive, NULL), 0);
        str_clear(&archive);
        name[TAR_NAME_MAX] = 'a';
        extended(&archive, 'L', name);
        assert_int_equal(fails(&archive, NULL), -ENAMETOOLONG);
        str_clear(&archive);
        extended(&archive, 'K', name);
        assert_int_equal(fails(&archive, NULL), -ENAMETOOLONG);
}

/* ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int put(const void *bytes, size_t len, void *data)
{
        return str_add(data, bytes, len);
}

static void write_archive(struct str *out)
{
        const struct tar_member members[] = {
                { .kind = TAR_KIND_DIRECTORY, .path = "d", .mode = 0750, .uid = 1, .gid = 2, .mtime = 1000000000 },
                { .kind = TAR_KIND_FILE, .path = "d/f", .mode = 04604, .size = 5, .uid = 3000000, .mtime = -5 },
                { .kind = TAR_KIND_FILE, .path = LONG_NAME, .mode = 0600 },
                { .kind = TAR_KIND_DIRECTORY, .path = N100, .mode = 0700 },
                { .kind = TAR_KIND_SYMLINK, .path = "s", .target = LONG_NAME, .mode = 0777 },
                { .kind = TAR_KIND_HARDLINK, .path = "h", .target = "d/f", .mode = 0604 },
                { .kind = TAR_KIND_FIFO, .path = "p", .mode = 0600 },
        };
        struct tar_writer w = { .fn = put, .data = out };

        for (size_t i = 0; i < ARRAY_LEN(members); i++) {
                size_t before = out->len;

                assert_int_equal(tar_write_member(&w, &members[i]), 0);
                if (members[i].size > 0) {
                        assert_int_equal(tar_write_member(&w, &members[i]), -EINVAL);
                        assert_int_equal(tar_write_end(&w), -EINVAL);
                        assert_int_equal(tar_write_content(&w, "hello!", 6), -EINVAL);
                        assert_int_equal(tar_write_content(&w, "hel", 3), 0);
                        assert_int_equal(tar_write_content(&w, "lo", 2), 0);
                }
                /* The padding of the last one is written with the next. */
                assert_int_equal(tar_member_bytes(&members[i]),
                                 (out->len - before - (i == 2 ? TAR_BLOCK - 5 : 0) + TAR_BLOCK - 1) / TAR_BLOCK *
                                         TAR_BLOCK);
        }
        assert_int_equal(tar_write_end(&w), 0);
        assert_int_equal(out->len % TAR_BLOCK, 0);
}

static void test_round(void **state)
{
        auto_str archive = STR_INIT;

        (void)state;
        write_archive(&archive);
        expect(&archive, "d 750 0 d\nf 4604 5 d/f [hello]\nf 600 0 " LONG_NAME "\nd 700 0 " N100
                         "\nl 777 0 s -> " LONG_NAME "\nh 604 0 h -> d/f\np 600 0 p");
}

static void test_others_read(void **state)
{
        auto_str archive = STR_INIT, list = STR_INIT;

        (void)state;
        write_archive(&archive);
        python("import tarfile, sys, io\n"
               "t = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()))\n"
               "for m in t: print(m.type.decode(), oct(m.mode), m.uid, m.gid, m.size, int(m.mtime), m.name, "
               "m.linkname, "
               "t.extractfile(m).read().decode() if m.isreg() else '-')",
               &archive, &list);
        assert_string_equal(list.data, "5 0o750 1 2 0 1000000000 d  -\n"
                                       "0 0o4604 3000000 0 5 -5 d/f  hello\n"
                                       "0 0o600 0 0 0 0 " LONG_NAME "  \n"
                                       "5 0o700 0 0 0 0 " N100 "  -\n"
                                       "2 0o777 0 0 0 0 s " LONG_NAME " -\n"
                                       "1 0o604 0 0 0 0 h d/f -\n"
                                       "6 0o600 0 0 0 0 p  -\n");
        str_clear(&list);
        run((char *const[]){ (char *)"tar", (char *)"-tf", (char *)"-", NULL }, &archive, &list);
        assert_string_equal(list.data, "d/\nd/f\n" LONG_NAME "\n" N100 "/\ns\nh\np\n");
}

static void test_unwritable(void **state)
{
        auto_free char *name = calloc(1, TAR_NAME_MAX + 2);
        auto_str out = STR_INIT;
        struct tar_writer w = { .fn = put, .data = &out };

        (void)state;
        memset(name, 'a', TAR_NAME_MAX + 1);
        assert_int_equal(tar_write_member(&w, &(struct tar_member){ .path = name }), -ENAMETOOLONG);
        assert_int_equal(tar_write_member(&w, &(struct tar_member){ .path = "" }), -EINVAL);
        assert_int_equal(tar_write_member(&w, &(struct tar_member){ .path = "a", .kind = TAR_KIND_BLOCK }), -EINVAL);
        assert_int_equal(tar_write_member(&w, &(struct tar_member){ .path = "a", .kind = TAR_KIND_SYMLINK }), -EINVAL);
        assert_int_equal(tar_write_member(&w, &(struct tar_member){ .path = "a", .size = UINT64_MAX }), -EINVAL);
        assert_int_equal(out.len, 0);
}

static void test_large(void **state)
{
        auto_str out = STR_INIT;
        struct tar_writer w = { .fn = put, .data = &out };
        const struct tar_member m = { .path = "a", .size = UINT64_C(100) << 30 };
        static struct tar_reader r;
        struct tar_piece p;
        const void *at;

        (void)state;
        assert_int_equal(tar_write_member(&w, &m), 0);
        at = out.data;
        tar_reader_init(&r, NULL);
        assert_int_equal(tar_reader_next(&r, &at, &out.len, &p, NULL), 0);
        assert_true(p.event == TAR_MEMBER && p.member.size == m.size);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_python),      cmocka_unit_test(test_debian),
                cmocka_unit_test(test_sparse),      cmocka_unit_test(test_limits),
                cmocka_unit_test(test_damaged),     cmocka_unit_test(test_records),
                cmocka_unit_test(test_round),       cmocka_unit_test(test_long_records),
                cmocka_unit_test(test_others_read), cmocka_unit_test(test_unwritable),
                cmocka_unit_test(test_large),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
