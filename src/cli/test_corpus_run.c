/* The tables that docker's own tests made of its command line, against ours. Every table of the command line and every case of
 * it is run, or is named below with the reason why it means nothing here. */
#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/test_skip.h"
#include "base/time.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/run_options.h"
#include "cli/run_values.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#define TABLE_MAX (16 << 20)

struct left_out {
        const char *what, *reason;
};

/* Whole tables. */
static const struct left_out tables[] = {
        { "cli-dnssearch", "--dns-search is refused: names are resolved by the host's resolvers" },
        { "cli-extrahost", "--add-host is refused" },
        { "cli-gpus", "--gpus is refused: a task has no devices" },
        { "cli-host",
          "a host is unix://, http://, https:// or ssh://, checked by http/client; docker's are a daemon's" },
        { "cli-ipaddress", "--ip and --dns are refused" },
        { "cli-link", "--link is refused" },
        { "cli-memswapbytes", "--memory-swap is refused: a task has no swap" },
        { "cli-mount", "--mount is refused: nothing of the host is mounted" },
        { "cli-network", "networks are none, nat and internet, without fields" },
        { "cli-parsedevice", "--device is refused" },
        { "cli-swarmport", "of docker service, which comes with apps" },
        { "cli-tcpaddr", "as cli-host" },
        { "cli-ulimit", "--ulimit is refused" },
        { "cli-validatedevice", "--device is refused" },
        { "cli-volume-short", "--volume is refused: nothing of the host is mounted" },
        { "units-bytessize", "of docker stats; sizes are shown as docker images shows them (units-humansize)" },
        { "units-fromhumansize", "decimal sizes, which no flag of docker run takes" },
        { "units-ulimit", "--ulimit is refused" },
};

/* Flags of docker run: a case that has one must be refused, whatever docker makes of it. */
static const struct left_out flags[] = {
        { "--link", "nothing reaches a task" },
        { "-v", "nothing of the host is mounted" },
        { "--mac-address", "interfaces are the server's" },
        { "--memory-swap", "a task has no swap" },
        { "--hostname", "the host name of a task is its id" },
        { "--domainname", "the host name of a task is its id" },
        { "--expose", "a task has no ports" },
        { "--publish", "a task has no ports" },
        { "--device", "a task has no devices" },
        { "--network", "networks are none, nat and internet, and these cases name others" },
        { "--ip", "addresses are the server's" },
        { "--pid", "the case asks for the host's" },
        { "--uts", "the case asks for the host's, or another container's" },
        { "--restart", "all policies but `no` and none are refused: a task runs once" },
        { "--health-cmd", "a task is not watched" },
        { "--health-timeout", "a task is not watched" },
        { "--log-driver", "output is kept by the server" },
};

/* Cases of which docker's parser leaves to the daemon what ours refuses. */
static const struct left_out cases[] = {
        { " ubuntu bash", "the image's name is empty, which docker's daemon refuses later" },
};

static const char *root(void)
{
        const char *given = getenv("MAYFLY_CORPORA");
        static char path[PATH_MAX];

        if (!path[0] && !realpath(given ? given : "../shared/corpora", path))
                path[0] = '\0';
        return path;
}

static json_t *read_table(const char *name)
{
        auto_free char *path = str_printf("%s/tables/%s.json", root(), name);
        auto_str text = STR_INIT;
        json_t *doc = NULL;

        if (!path || fd_read_file(AT_FDCWD, path, TABLE_MAX, &text, NULL) < 0)
                return NULL;
        assert_int_equal(json_read(text.data, text.len, &doc, NULL), 0);
        return doc;
}

/* ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

typedef int value_fn(const char *in, int64_t *ret);

static int parse_bytes(const char *in, int64_t *ret)
{
        return cli_set_bytes(in, ret, NULL);
}

static int parse_duration(const char *in, int64_t *ret)
{
        return cli_set_duration(in, ret, NULL);
}

static int parse_cpus(const char *in, int64_t *ret)
{
        return run_parse_cpus(in, ret, NULL);
}

static void run_values(const char *table, value_fn *parse)
{
        auto_json doc = read_table(table);
        json_t *c;
        size_t i;

        json_array_foreach(json_object_get(doc, "cases"), i, c) {
                const char *in = json_string_value(json_object_get(c, "in"));
                const json_t *out = json_object_get(c, "out");
                int64_t value = -1;
                int r = parse(in, &value);

                /* docker's daemon refuses negative ones; here the command does. */
                if (!out || json_integer_value(out) < 0)
                        assert_int_equal(r, -EINVAL);
                else if (r < 0 || value != json_integer_value(out))
                        fail_msg("%s: '%s' is %lld", table, in, (long long)value);
        }
}

static void run_texts(const char *table, bool age)
{
        auto_json doc = read_table(table);
        char aged[CLI_AGE_MAX], sized[UNITS_HUMAN_MAX];
        json_t *c;
        size_t i;

        json_array_foreach(json_object_get(doc, "cases"), i, c) {
                const json_t *in = json_object_get(c, "in");

                /* 1e28 bytes are more than a number of ours holds. */
                if (json_is_real(in) && json_real_value(in) > 1e19)
                        continue;
                if (age)
                        cli_age(json_integer_value(in), aged);
                else
                        units_human((uint64_t)json_number_value(in), sized);
                assert_string_equal(age ? aged : sized, json_string_value(json_object_get(c, "out")));
        }
}

static void run_env(void)
{
        auto_json doc = read_table("cli-env");
        json_t *c;
        size_t i;

        json_array_foreach(json_object_get(doc, "cases"), i, c) {
                const char *in = json_string_value(json_object_get(c, "in"));
                const char *expected = json_string_value(json_object_get(c, "out"));
                auto_strv env = NULL;
                int r = run_env_add(&env, in, NULL);

                if (!expected)
                        assert_int_equal(r, -EINVAL);
                else if (strchr(in, '='))
                        assert_string_equal(env[0], expected);
                else /* that of the environment, if it is there */
                        assert_true(getenv(in) ? strv_len(env) == 1 : !env);
        }
}

static void run_labels(void)
{
        auto_json doc = read_table("cli-label");
        json_t *c;
        size_t i;

        json_array_foreach(json_object_get(doc, "cases"), i, c) {
                const char *in = json_string_value(json_object_get(c, "in"));
                const char *expected = json_string_value(json_object_get(c, "out"));
                struct err err = ERR_INIT;
                auto_strv labels = NULL;
                int r = run_label_add(&labels, in, &err);

                if (!expected) {
                        assert_int_equal(r, -EINVAL);
                        assert_string_equal(err.text, json_string_value(json_object_get(c, "err")));
                } else {
                        /* A label without a value has an empty one. */
                        assert_int_equal(r, 0);
                        assert_memory_equal(labels[0], expected, strlen(expected));
                        assert_true(strlen(labels[0]) == strlen(expected) + !strchr(expected, '='));
                }
        }
}

/* ── docker run ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static const struct cli_exit_code exits[] = { { NULL, NULL } };
static const struct cli_command command = { .name = "run",
                                            .args = "",
                                            .summary = "",
                                            .description = "",
                                            .examples = "",
                                            .options = cli_run_options,
                                            .exits = exits,
                                            .leading = true };

static int parse_words(char **words, struct run_options *o, struct err *err)
{
        struct cli cli = { .host = "" };
        char *argv[64];
        size_t n = strv_len(words);

        assert_in_range(n, 1, ARRAY_LEN(argv) - 1);
        memcpy(argv, words, (n + 1) * sizeof(*argv));
        return run_options_parse(&cli, &command, (int)n, argv, o, err);
}

static bool is_flag(const char *word, const char *flag)
{
        size_t n = strlen(flag);

        return strncmp(word, flag, n) == 0 && (!word[n] || word[n] == '=');
}

static const char *why_left_out(char **words)
{
        auto_str line = STR_INIT;

        for (char **w = words; *w; w++) {
                for (size_t i = 0; i < ARRAY_LEN(flags); i++)
                        if (is_flag(*w, flags[i].what) && !str_eq(*w, "--restart=no") && !str_eq(*w, "--restart="))
                                return flags[i].reason;
                assert_int_equal(str_addf(&line, "%s%s", w == words ? "" : " ", *w), 0);
        }
        for (size_t i = 0; i < ARRAY_LEN(cases); i++)
                if (str_eq(line.data, cases[i].what))
                        return cases[i].reason;
        return NULL;
}

static void assert_words(char *const *have, const json_t *expected)
{
        assert_int_equal(have ? strv_len(have) : 0, json_array_size(expected));
        for (size_t i = 0; i < json_array_size(expected); i++)
                assert_string_equal(have[i], json_string_value(json_array_get(expected, i)));
}

static void assert_labels(char *const *have, json_t *expected)
{
        assert_int_equal(have ? strv_len(have) : 0, json_object_size(expected));
        for (; have && *have; have++) {
                auto_free char *name = strndup(*have, strcspn(*have, "="));

                assert_string_equal(strchr(*have, '=') + 1, json_string_value(json_object_get(expected, name)));
        }
}

static void assert_same(const struct run_options *o, const json_t *out)
{
        const json_t *config = json_object_get(out, "Config"), *host = json_object_get(out, "HostConfig");
        const struct wire_task_request *q = &o->request;
        struct wire_limits d;

        wire_limits_default(&d);
        assert_words(q->env, json_object_get(config, "Env"));
        assert_labels(q->labels, json_object_get(config, "Labels"));
        assert_words(q->entrypoint, json_object_get(config, "Entrypoint"));
        assert_string_equal(q->user ? q->user : "", cli_text(config, "User"));
        assert_string_equal(q->workdir ? q->workdir : "", cli_text(config, "WorkingDir"));
        assert_int_equal(o->interactive, json_is_true(json_object_get(config, "OpenStdin")));
        assert_int_equal(!o->attach_given || o->attached[1], json_is_true(json_object_get(config, "AttachStdout")));
        assert_int_equal(!o->attach_given || o->attached[2], json_is_true(json_object_get(config, "AttachStderr")));
        assert_int_equal(o->attach_given ? o->attached[0] : o->interactive,
                         json_is_true(json_object_get(config, "AttachStdin")));
        assert_int_equal(q->limits.memory == d.memory ? 0 : q->limits.memory,
                         json_integer_value(json_object_get(host, "Memory")));
        assert_int_equal(q->limits.shm == d.shm ? 0 : q->limits.shm,
                         json_integer_value(json_object_get(host, "ShmSize")));
}

static void run_case(const json_t *c)
{
        const json_t *in = json_object_get(c, "in"), *out = json_object_get(c, "out");
        struct err err = ERR_INIT;
        auto_strv words = NULL;
        struct run_options o;
        const char *reason;
        int r;

        for (size_t i = 0; i < json_array_size(in); i++)
                assert_int_equal(strv_add(&words, json_string_value(json_array_get(in, i))), 0);
        if (!words) {
                fail_msg("a case without a word");
                return;
        }
        reason = why_left_out(words);
        r = parse_words(words, &o, &err);
        if (r == 0 && (reason || !out))
                fail_msg("'%s …' was taken; %s", words[0], reason ? reason : "docker refuses it");
        if (r < 0 && out && !reason)
                fail_msg("'%s …' was refused: %s", words[0], err.text);
        if (r < 0) {
                assert_true(*err.text);
                return;
        }
        assert_same(&o, out);
        run_options_done(&o);
}

static void write_file(const char *path, const void *text, size_t len)
{
        auto_fd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, len), 0);
}

/* The files that docker's tests name. */
static void make_testdata(void)
{
        static const char utf16[] = "\xff\xfe"
                                    "F\0O\0O\0=\0B\0A\0R\0\r\0\n";
        static const char utf16be[] = "\xfe\xff\0F\0O\0O\0=\0B\0A\0R\0\r\0\n";
        static const char utf8[] = "\xef\xbb\xbf"
                                   "FOO=BAR\nHELLO=\u60a8\u597d\nBAR=FOO\n";

        assert_int_equal(mkdir("testdata", 0700), 0);
        write_file("testdata/valid.env", "ENV1=value1\n", 12);
        write_file("testdata/utf8.env", utf8, sizeof(utf8) - 1);
        write_file("testdata/utf16.env", utf16, sizeof(utf16) - 1);
        write_file("testdata/utf16be.env", utf16be, sizeof(utf16be) - 1);
        write_file("testdata/valid.label", "LABEL1=value1\n", 14);
}

static void test_run_args(void **state)
{
        auto_json doc = read_table("cli-run-args");
        char dir[] = "/tmp/mayfly-test-corpus-XXXXXX";
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC), here = open(".", O_PATH | O_CLOEXEC);
        json_t *c;
        size_t i;

        (void)state;
        if (!doc)
                skip_because("no corpora (MAYFLY_CORPORA)");
        assert_true(mkdtemp(dir) && chdir(dir) == 0);
        make_testdata();
        json_array_foreach(json_object_get(doc, "cases"), i, c)
                run_case(c);
        assert_int_equal(fchdir(here), 0);
        assert_int_equal(path_remove_tree(tmp, dir + strlen("/tmp/")), 0);
}

static void run_restart(void)
{
        auto_json doc = read_table("cli-restartpolicy");
        json_t *c;
        size_t i;

        json_array_foreach(json_object_get(doc, "cases"), i, c) {
                const char *in = json_string_value(json_object_get(c, "in"));
                auto_free char *flag = str_printf("--restart=%s", in);
                char image[] = "img", *words[] = { flag, image, NULL };
                struct err err = ERR_INIT;
                struct run_options o;
                int r = parse_words(words, &o, &err);

                if (r == 0)
                        run_options_done(&o);
                assert_int_equal(r, !*in || str_eq(in, "no") ? 0 : -EINVAL);
                if (json_object_get(c, "err"))
                        assert_true(str_ends(err.text, json_string_value(json_object_get(c, "err"))));
        }
}

/* ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool run_table(const char *name)
{
        if (str_eq(name, "cli-cpus"))
                return run_values(name, parse_cpus), true;
        if (str_eq(name, "cli-duration"))
                return run_values(name, parse_duration), true;
        if (str_eq(name, "cli-membytes") || str_eq(name, "units-raminbytes"))
                return run_values(name, parse_bytes), true;
        if (str_eq(name, "units-humanduration") || str_eq(name, "units-humansize"))
                return run_texts(name, str_eq(name, "units-humanduration")), true;
        if (str_eq(name, "cli-env"))
                return run_env(), true;
        if (str_eq(name, "cli-label"))
                return run_labels(), true;
        if (str_eq(name, "cli-restartpolicy"))
                return run_restart(), true;
        return str_eq(name, "cli-run-args"); /* test_run_args() */
}

static void test_every_table(void **state)
{
        auto_free char *path = str_printf("%s/tables", root());
        DIR *dir = opendir(path);
        struct dirent *e;
        size_t seen = 0;

        (void)state;
        if (!dir) {
                skip_because("no corpora (MAYFLY_CORPORA)");
                return;
        }
        while ((e = readdir(dir))) {
                auto_free char *name = strndup(e->d_name, strcspn(e->d_name, "."));
                bool known = false;

                if (!str_starts(name, "cli-") && !str_starts(name, "units-"))
                        continue;
                for (size_t i = 0; i < ARRAY_LEN(tables); i++)
                        known = known || str_eq(tables[i].what, name);
                if (!known && !run_table(name))
                        fail_msg("%s is neither run nor left out", name);
                seen++;
        }
        closedir(dir);
        assert_true(seen > ARRAY_LEN(tables));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_run_args),
                cmocka_unit_test(test_every_table),
        };

        return cmocka_run_group_tests_name("cli/corpus", tests, NULL, NULL);
}
