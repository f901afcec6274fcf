#include "cli/run_options.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "cli/options.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#define ENV_FILE_MAX (1 << 20)
#define BLANKS " \t\v\f\r"

void run_options_done(struct run_options *o)
{
        wire_task_request_done(&o->request);
        strv_free(o->copies);
        o->copies = NULL;
}

/* ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

int run_env_add(char ***env, const char *word, struct err *err)
{
        const char *equals = strchr(word, '='), *value;
        auto_free char *pair = NULL;

        if (!*word || equals == word)
                return err_set(err, EINVAL, "invalid environment variable: %s", word);
        if (equals)
                return strv_add(env, word) < 0 ? err_oom(err) : 0;
        value = getenv(word);
        if (!value)
                return 0;
        pair = str_printf("%s=%s", word, value);
        return !pair || strv_add(env, pair) < 0 ? err_oom(err) : 0;
}

static int env_line(char ***env, const char *line, struct err *err)
{
        const char *end;

        line += strspn(line, BLANKS);
        if (!*line || *line == '#')
                return 0;
        end = strchrnul(line, '=');
        if (end == line)
                return err_set(err, EINVAL, "no variable name on line '%s'", line);
        if (strcspn(line, BLANKS) < (size_t)(end - line))
                return err_set(err, EINVAL, "variable '%.*s' contains whitespaces", (int)(end - line), line);
        return run_env_add(env, line, err);
}

int run_env_file(char ***env, const char *path, struct err *err)
{
        auto_str text = STR_INIT;
        char *line, *next;
        int r;

        r = fd_read_file(AT_FDCWD, path, ENV_FILE_MAX, &text, err);
        if (r < 0)
                return r;
        if (text.len == 0)
                return 0;
        if (strlen(text.data) != text.len || !utf8_valid(text.data, text.len))
                return err_set(err, EINVAL, "%s is not UTF-8 text", path);
        line = text.data + (str_starts(text.data, "\xef\xbb\xbf") ? 3 : 0);
        for (; line && r == 0; line = next) {
                next = strchr(line, '\n');
                if (next)
                        *next++ = '\0';
                r = env_line(env, line, err);
        }
        return r < 0 ? err_wrap(err, "%s", path) : 0;
}

static int bad_cpus(const char *value, struct err *err)
{
        return err_set(err, EINVAL, "'%s' is not a number of processors, as 2 or 0.5", value);
}

int run_parse_cpus(const char *value, int64_t *ret_milli, struct err *err)
{
        int64_t milli = 0;
        int decimals = -1, digits = 0;

        for (const char *p = value; *p; p++) {
                if (*p == '.' && decimals < 0) {
                        decimals = 0;
                        continue;
                }
                if (*p < '0' || *p > '9' || milli > WIRE_CPU_MILLI_MAX)
                        return bad_cpus(value, err);
                if (decimals == 3)
                        return err_set(err, EINVAL, "value is too precise");
                milli = milli * 10 + (*p - '0');
                decimals += decimals >= 0;
                digits++;
        }
        if (!digits)
                return bad_cpus(value, err);
        for (int i = MAX(decimals, 0); i < 3; i++)
                milli *= 10;
        if (milli < WIRE_CPU_MILLI_MIN || milli > WIRE_CPU_MILLI_MAX)
                return err_set(err, EINVAL, "'%s' is not from 0.01 to %d processors", value, WIRE_CPU_MILLI_MAX / 1000);
        *ret_milli = milli;
        return 0;
}

/* ── setters ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int set_env(const char *value, void *data, struct err *err)
{
        return run_env_add(data, value, err);
}

static int set_env_file(const char *value, void *data, struct err *err)
{
        return run_env_file(data, value, err);
}

static int set_cpus(const char *value, void *data, struct err *err)
{
        return run_parse_cpus(value, data, err);
}

static int set_pids(const char *value, void *data, struct err *err)
{
        uint64_t n;

        if (parse_u64(value, &n) < 0 || n < 1 || n > WIRE_PIDS_MAX)
                return err_set(err, EINVAL, "'%s' is not a number from 1 to %d", value, WIRE_PIDS_MAX);
        *(int64_t *)data = (int64_t)n;
        return 0;
}

static int set_copied(const char *value, void *data, struct err *err)
{
        char *copy = strdup(value);

        if (!copy)
                return err_oom(err);
        free(*(char **)data);
        *(char **)data = copy;
        return 0;
}

/* As docker: "" means none, not the image's. */
static int set_entrypoint(const char *value, void *data, struct err *err)
{
        char **v = calloc(1, sizeof(*v));

        strv_free(*(char ***)data);
        *(char ***)data = v;
        if (!v || (*value && strv_add(data, value) < 0))
                return err_oom(err);
        return 0;
}

static int set_network(const char *value, void *data, struct err *err)
{
        static const char *const names[] = { [WIRE_NET_NONE] = "none", "nat", "internet" };

        for (int i = WIRE_NET_NONE; i <= WIRE_NET_INTERNET; i++) {
                if (str_eq(names[i], value)) {
                        *(enum wire_network *)data = (enum wire_network)i;
                        return 0;
                }
        }
        if (str_eq(value, "host"))
                return err_set(err, EINVAL, "a task never shares the host's network; use nat or internet");
        return err_set(err, EINVAL, "'%s' is not none, nat or internet", value);
}

static int set_output_limit(const char *value, void *data, struct err *err)
{
        if (str_eq(value, "truncate") || str_eq(value, "kill")) {
                *(bool *)data = *value == 'k';
                return 0;
        }
        return err_set(err, EINVAL, "'%s' is neither truncate nor kill", value);
}

static int set_pull(const char *value, void *data, struct err *err)
{
        (void)data;
        if (str_eq(value, "missing") || str_eq(value, "never"))
                return 0;
        return err_set(err, EINVAL, "images are not pulled; use mayfly load or mayfly import");
}

static int set_stop_timeout(const char *value, void *data, struct err *err)
{
        uint32_t seconds;

        if (parse_u32(value, &seconds) < 0 || seconds > WIRE_GRACE_MAX_NS / (int64_t)NS_PER_S)
                return err_set(err, EINVAL, "'%s' is not a number of seconds up to an hour", value);
        *(int64_t *)data = (int64_t)(seconds * NS_PER_S);
        return 0;
}

/* ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────── */

#define REFUSED(name, letter, value, why)                                                                              \
        {                                                                                                              \
                name, letter, value, cli_set_refused, (char[]){ why }, NULL                                            \
        }
#define FOREGROUND "a task runs in the foreground; put & behind the command, or use the API"
#define NO_MOUNT                                                                                                       \
        "nothing of the host is mounted into a task; bring files in by --copy HOST:PATH, and results out by stdout"
#define NO_PORTS "a task has no ports of its own: nothing reaches it from outside"
#define NO_PRIVILEGE "a task never gets more than the default privileges"

int run_options_parse(struct cli *cli, const struct cli_command *command, int argc, char **argv,
                      struct run_options *ret, struct err *err)
{
        struct run_options o = { .interactive = false };
        struct wire_task_request *q = &o.request;
        const struct cli_option options[] = {
                { "env", 'e', "NAME[=VALUE]", set_env, &q->env, "set a variable, or hand on the one from here" },
                { "env-file", 0, "FILE", set_env_file, &q->env, "read variables from a file" },
                { "workdir", 'w', "DIR", set_copied, &q->workdir, "working directory inside; made if absent" },
                { "user", 'u', "USER[:GROUP]", set_copied, &q->user, "user inside, by name or number" },
                { "entrypoint", 0, "PROGRAM", set_entrypoint, &q->entrypoint, "instead of the image's entrypoint" },
                { "interactive", 'i', NULL, cli_set_true, &o.interactive, "send stdin" },
                { "copy", 0, "HOST:PATH", cli_set_list, &o.copies, "put a file or directory in, before it starts" },
                { "network", 0, "MODE", set_network, &q->network, "none, nat or internet (default: the server's)" },
                { "timeout", 0, "DURATION", cli_set_duration, &q->limits.timeout_ns,
                  "kill it after this time (default: never)" },
                { "memory", 'm', "SIZE", cli_set_bytes, &q->limits.memory, "memory (default: 512m)" },
                { "cpus", 0, "NUMBER", set_cpus, &q->limits.cpu_milli, "processors (default: 1)" },
                { "pids-limit", 0, "NUMBER", set_pids, &q->limits.pids, "processes (default: 512)" },
                { "disk", 0, "SIZE", cli_set_bytes, &q->limits.disk, "what it may write (default: 256m)" },
                { "shm-size", 0, "SIZE", cli_set_bytes, &q->limits.shm, "size of /dev/shm (default: 64m)" },
                { "output", 0, "SIZE", cli_set_bytes, &q->limits.output, "output kept of each stream (default: 256m)" },
                { "on-output-limit", 0, "WORD", set_output_limit, &q->kill_on_output_limit,
                  "truncate (default) or kill" },
                { "queue-timeout", 0, "DURATION", cli_set_duration, &q->limits.queue_timeout_ns,
                  "give up if it did not start by then (default: 1m)" },
                { "stop-timeout", 0, "SECONDS", set_stop_timeout, &q->limits.grace_ns,
                  "between SIGTERM and SIGKILL (default: 0)" },
                { "init", 0, NULL, cli_set_true, &q->init, "a small init as process 1" },
                { "rm", 0, NULL, cli_set_nothing, NULL, "accepted: a container ends with its task anyway" },
                { "quiet", 'q', NULL, cli_set_nothing, NULL, NULL },
                { "sig-proxy", 0, NULL, cli_set_nothing, NULL, NULL },
                { "pull", 0, "WORD", set_pull, NULL, NULL },
                { "net", 0, "MODE", set_network, &q->network, NULL },
                REFUSED("detach", 'd', NULL, FOREGROUND),
                REFUSED("name", 0, "NAME", "a task has an id, not a name; --json shows it"),
                REFUSED("publish", 'p', "PORTS", NO_PORTS),
                REFUSED("publish-all", 'P', NULL, NO_PORTS),
                REFUSED("expose", 0, "PORT", NO_PORTS),
                REFUSED("volume", 'v', "SPEC", NO_MOUNT),
                REFUSED("mount", 0, "SPEC", NO_MOUNT),
                REFUSED("volumes-from", 0, "NAME", NO_MOUNT),
                REFUSED("tmpfs", 0, "SPEC", "everything a task writes is on a tmpfs already; --disk sets its size"),
                REFUSED("tty", 't', NULL, "a task has no terminal; leave -t out, -i alone sends stdin"),
                REFUSED("attach", 'a', "STREAM", "stdout and stderr always come; -i sends stdin"),
                REFUSED("restart", 0, "POLICY", "a task runs once"),
                REFUSED("privileged", 0, NULL, NO_PRIVILEGE),
                REFUSED("cap-add", 0, "NAME", NO_PRIVILEGE),
                REFUSED("device", 0, "SPEC", NO_PRIVILEGE),
                REFUSED("security-opt", 0, "SPEC", NO_PRIVILEGE),
                REFUSED("pid", 0, "MODE", NO_PRIVILEGE),
                REFUSED("ipc", 0, "MODE", NO_PRIVILEGE),
                REFUSED("userns", 0, "MODE", NO_PRIVILEGE),
        };
        int r;

        wire_limits_default(&q->limits);
        q->limits.timeout_ns = 0;
        q->limits.output = WIRE_OUTPUT_MAX;
        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, err);
        if (r == 0 && argc == 0)
                r = err_set(err, EINVAL,
                            "which image? (mayfly run IMAGE [COMMAND] [ARG...]; mayfly images lists them)");
        if (r == 0)
                r = set_copied(argv[0], &q->image, err);
        for (int i = 1; i < argc && r == 0; i++)
                if (strv_add(&q->cmd, argv[i]) < 0)
                        r = err_oom(err);
        /* The image's arguments were for its own entrypoint. */
        if (r == 0 && q->entrypoint && !q->cmd)
                r = set_entrypoint("", &q->cmd, err);
        if (r != 0)
                run_options_done(&o);
        else
                *ret = o;
        return r;
}
