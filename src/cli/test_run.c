/* What `mayfly run` makes of its words, its files and stdin. */
#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/test_skip.h"
#include "base/time.h"
#include "cli/run_input.h"
#include "cli/run_options.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define TABLE_MAX (1 << 20)

static const struct cli_command command = { .name = "run", .args = "", .summary = "", .examples = "", .leading = true };

static int parse(struct run_options *o, struct err *err, const char *const *words)
{
        struct cli cli = { .host = "" };
        char **owned = strv_dup((char *const *)(uintptr_t)words), *argv[64];
        int n, r;

        assert_non_null(owned);
        n = (int)strv_len(owned);
        assert_in_range(n, 1, ARRAY_LEN(argv) - 1);
        memcpy(argv, owned, (size_t)(n + 1) * sizeof(*argv)); /* parsing moves words */
        r = run_options_parse(&cli, &command, n, argv, o, err);
        strv_free(owned);
        return r;
}

#define WORDS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void test_defaults(void **state)
{
        struct err err = ERR_INIT;
        struct run_options o;

        (void)state;
        assert_int_equal(parse(&o, &err, WORDS("busybox", "echo", "-n", "--x")), 0);
        assert_string_equal(o.request.image, "busybox");
        assert_int_equal(strv_len(o.request.cmd), 3);
        assert_string_equal(o.request.cmd[1], "-n");
        assert_null(o.request.entrypoint);
        assert_int_equal(o.request.limits.timeout_ns, 0);
        assert_int_equal(o.request.limits.output, WIRE_OUTPUT_MAX);
        run_options_done(&o);
}

static void test_all_flags(void **state)
{
        struct wire_task_request *q;
        struct err err = ERR_INIT;
        struct run_options o;

        (void)state;
        assert_int_equal(parse(&o, &err,
                               WORDS("--rm", "-i", "-e", "A=1", "--env=B=2=3", "-w", "/w", "-uroot", "--entrypoint",
                                     "/bin/sh", "--init", "--network", "none", "-m", "64m", "--cpus", ".5",
                                     "--pids-limit=7", "--shm-size=1m", "--disk", "2m", "--timeout", "1m30s", "--copy",
                                     "a:b", "--output", "3m", "--on-output-limit=kill", "--stop-timeout", "2", "img")),
                         0);
        q = &o.request;
        assert_true(o.interactive && q->init && q->kill_on_output_limit);
        assert_string_equal(q->env[0], "A=1");
        assert_string_equal(q->env[1], "B=2=3");
        assert_string_equal(q->workdir, "/w");
        assert_string_equal(q->user, "root");
        assert_string_equal(q->entrypoint[0], "/bin/sh");
        assert_int_equal(strv_len(q->cmd), 0); /* the image's does not come after another entrypoint */
        assert_non_null(q->cmd);
        assert_int_equal(q->network, WIRE_NET_NONE);
        assert_int_equal(q->limits.memory, 64 << 20);
        assert_int_equal(q->limits.cpu_milli, 500);
        assert_int_equal(q->limits.pids, 7);
        assert_int_equal(q->limits.shm, 1 << 20);
        assert_int_equal(q->limits.disk, 2 << 20);
        assert_int_equal(q->limits.timeout_ns, 90 * (int64_t)NS_PER_S);
        assert_int_equal(q->limits.output, 3 << 20);
        assert_int_equal(q->limits.grace_ns, 2 * (int64_t)NS_PER_S);
        assert_string_equal(o.copies[0], "a:b");
        run_options_done(&o);
}

static void test_refused_flags(void **state)
{
        static const char *const flags[] = { "-d",
                                             "-p80:80",
                                             "-v/a:/b",
                                             "--name=x",
                                             "-t",
                                             "--privileged",
                                             "--mount=x",
                                             "--network=host",
                                             "--network=foo",
                                             "--pull=always",
                                             "--pids-limit=0",
                                             "--cpus=0",
                                             "--memory=x",
                                             "--stop-timeout=-1",
                                             "--env==x" };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
                struct err err = ERR_INIT;
                struct run_options o;

                if (parse(&o, &err, WORDS(flags[i], "img")) != -EINVAL)
                        fail_msg("%s was taken", flags[i]);
        }
}

/* ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static json_t *read_table(const char *name)
{
        const char *root = getenv("MAYFLY_CORPORA");
        auto_free char *path = str_printf("%s/tables/%s", root ? root : "../shared/corpora", name);
        auto_str text = STR_INIT;
        json_t *doc = NULL;

        if (!path || fd_read_file(AT_FDCWD, path, TABLE_MAX, &text, NULL) < 0)
                return NULL;
        assert_int_equal(json_read(text.data, text.len, &doc, NULL), 0);
        return doc;
}

static void test_env_table(void **state)
{
        auto_json doc = read_table("cli-env.json");
        json_t *c;
        size_t i;

        (void)state;
        if (!doc)
                skip_because("there are no corpora (MAYFLY_CORPORA)");
        json_array_foreach(json_object_get(doc, "cases"), i, c) {
                const char *in = json_string_value(json_object_get(c, "in"));
                const char *expected = json_string_value(json_object_get(c, "out"));
                struct err err = ERR_INIT;
                auto_strv env = NULL;
                int r;

                r = run_env_add(&env, in, &err);
                if (!expected)
                        assert_int_equal(r, -EINVAL);
                else if (strchr(in, '='))
                        assert_string_equal(env[0], expected);
                else /* that of the environment, if it is there */
                        assert_true(getenv(in) ? strv_len(env) == 1 : strv_len(env) == 0);
        }
}

static void test_cpus_table(void **state)
{
        auto_json doc = read_table("cli-cpus.json");
        int64_t milli;
        json_t *c;
        size_t i;

        (void)state;
        assert_int_equal(run_parse_cpus("1.5", &milli, NULL), 0);
        assert_int_equal(milli, 1500);
        assert_int_equal(run_parse_cpus("2", &milli, NULL), 0);
        assert_int_equal(milli, 2000);
        assert_int_equal(run_parse_cpus("1.", &milli, NULL), 0);
        assert_int_equal(run_parse_cpus(".", &milli, NULL), -EINVAL);
        assert_int_equal(run_parse_cpus("1.2.3", &milli, NULL), -EINVAL);
        assert_int_equal(run_parse_cpus("1.2345", &milli, NULL), -EINVAL);
        assert_int_equal(run_parse_cpus("99999999999999999999", &milli, NULL), -EINVAL);
        json_array_foreach(json_object_get(doc, "cases"), i, c)
                if (json_object_get(c, "err"))
                        assert_int_equal(run_parse_cpus(json_string_value(json_object_get(c, "in")), &milli, NULL),
                                         -EINVAL);
}

/* ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct dir {
        char path[64];
};

static int dir_make(void **state)
{
        static struct dir d;

        (void)snprintf(d.path, sizeof(d.path), "/tmp/mayfly-test-run-XXXXXX");
        *state = &d;
        return mkdtemp(d.path) && chdir(d.path) == 0 ? 0 : -1;
}

static int dir_remove(void **state)
{
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct dir *d = *state;

        return chdir("/") == 0 && path_remove_tree(tmp, d->path + strlen("/tmp/")) == 0 ? 0 : -1;
}

static void write_file(const char *path, const char *text, mode_t mode)
{
        auto_fd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
}

static void test_env_file(void **state)
{
        struct err err = ERR_INIT;
        auto_strv env = NULL;

        (void)state;
        write_file("env", "\xef\xbb\xbf# no\n\n  A=1\nB= two \nMAYFLY_NO_SUCH\nHERE\n", 0600);
        assert_int_equal(setenv("HERE", "yes", 1), 0);
        assert_int_equal(run_env_file(&env, "env", &err), 0);
        assert_int_equal(strv_len(env), 3);
        assert_string_equal(env[0], "A=1");
        assert_string_equal(env[1], "B= two ");
        assert_string_equal(env[2], "HERE=yes");
        write_file("env", "A B=1\n", 0600);
        assert_int_equal(run_env_file(&env, "env", &err), -EINVAL);
        assert_string_equal(err.text, "env: variable 'A B' contains whitespaces");
        write_file("env", "=1\n", 0600);
        assert_int_equal(run_env_file(&env, "env", &err), -EINVAL);
        assert_int_equal(run_env_file(&env, "none", &err), -ENOENT);
}

static void test_copy(void **state)
{
        struct wire_task_request q = { .image = NULL };
        struct err err = ERR_INIT;

        (void)state;
        assert_int_equal(mkdir("d", 0700), 0);
        assert_int_equal(mkdir("d/e", 0700), 0);
        write_file("d/e/f", "deep", 0750);
        write_file("one", "1", 0644);
        assert_int_equal(run_copy("one:/x/two", &q, &err), 0);
        assert_int_equal(run_copy("./one:in/", &q, &err), 0);
        assert_int_equal(run_copy("d:to", &q, &err), 0);
        assert_int_equal(q.n_files, 3);
        assert_string_equal(q.files[0].path, "/x/two");
        assert_memory_equal(q.files[0].content, "1", 1);
        assert_string_equal(q.files[1].path, "in/one");
        assert_string_equal(q.files[2].path, "to/e/f");
        assert_int_equal(q.files[2].mode, 0750);
        assert_int_equal(q.files[2].len, 4);
        assert_int_equal(symlink("/etc/passwd", "d/link"), 0);
        assert_int_equal(run_copy("d:to", &q, &err), -ELOOP);
        assert_int_equal(run_copy("none:to", &q, &err), -ENOENT);
        assert_int_equal(run_copy("/dev/null:to", &q, &err), -EINVAL);
        assert_int_equal(run_copy("nocolon", &q, &err), -EINVAL);
        assert_int_equal(run_copy("one:", &q, &err), -EINVAL);
        assert_int_equal(run_copy(":one", &q, &err), -EINVAL);
        wire_task_request_done(&q);
}

static void test_stdin(void **state)
{
        struct wire_task_request q = { .image = NULL };
        struct err err = ERR_INIT;
        auto_fd fd = -EBADF;

        (void)state;
        write_file("in", "a\nb", 0600);
        fd = open("in", O_RDONLY | O_CLOEXEC);
        assert_int_equal(run_read_stdin(fd, &q, &err), 0);
        assert_int_equal(q.stdin_len, 3);
        wire_task_request_done(&q);
        fd_replace(&fd, open("in", O_RDONLY | O_CLOEXEC));
        assert_int_equal(truncate("in", WIRE_BODY_MAX + 1), 0);
        assert_int_equal(run_read_stdin(fd, &q, &err), -EFBIG);
        wire_task_request_done(&q);
}

static void test_escape(void **state)
{
        auto_str out = STR_INIT;

        (void)state;
        assert_int_equal(cli_escape(&out, "a\033[31m\xc2\x9b\xff\u00e9\n\t\x7f"), 0);
        assert_string_equal(out.data, "a\\x1b[31m\\xc2\\x9b\\xff\u00e9\n\\x09\\x7f");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_all_flags),
                cmocka_unit_test(test_refused_flags),
                cmocka_unit_test(test_env_table),
                cmocka_unit_test(test_cpus_table),
                cmocka_unit_test_setup_teardown(test_env_file, dir_make, dir_remove),
                cmocka_unit_test_setup_teardown(test_copy, dir_make, dir_remove),
                cmocka_unit_test_setup_teardown(test_stdin, dir_make, dir_remove),
                cmocka_unit_test(test_escape),
        };

        return cmocka_run_group_tests_name("cli/run", tests, NULL, NULL);
}
