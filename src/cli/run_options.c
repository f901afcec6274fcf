#include "cli/run_options.h"

#include "base/str.h"
#include "base/time.h"
#include "cli/options.h"
#include "cli/run_values.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

void run_options_done(struct run_options *o)
{
        char **const lists[] = { o->copies, o->outputs, o->env, o->env_files, o->labels, o->label_files, o->secrets };

        wire_task_request_done(&o->request);
        for (size_t i = 0; i < ARRAY_LEN(lists); i++)
                strv_free(lists[i]);
        *o = (struct run_options){ .rm = false };
}

/* ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

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

static int set_env(const char *value, void *data, struct err *err)
{
        return run_env_add(data, value, err);
}

static int set_label(const char *value, void *data, struct err *err)
{
        return run_label_add(data, value, err);
}

static int set_cpus(const char *value, void *data, struct err *err)
{
        return run_parse_cpus(value, data, err);
}

static int set_pids(const char *value, void *data, struct err *err)
{
        int64_t n;

        if (cli_set_number(value, &n, err) < 0 || n < 1 || n > WIRE_PIDS_MAX)
                return err_set(err, EINVAL, "'%s' is not a number from 1 to %d", value, WIRE_PIDS_MAX);
        *(int64_t *)data = n;
        return 0;
}

static int set_retries(const char *value, void *data, struct err *err)
{
        int64_t n;

        if (cli_set_number(value, &n, err) < 0 || n > WIRE_RETRIES_MAX)
                return err_set(err, EINVAL, "'%s' is not a number from 0 to %d", value, WIRE_RETRIES_MAX);
        *(unsigned *)data = (unsigned)n;
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

/* docker's long form has one field that means something here. */
static int set_network(const char *value, void *data, struct err *err)
{
        static const char *const names[] = { [WIRE_NET_DEFAULT] = "default", "none", "nat", "internet" };

        if (str_starts(value, "name="))
                value += strlen("name=");
        for (int i = WIRE_NET_DEFAULT; i <= WIRE_NET_INTERNET; i++) {
                if (str_eq(names[i], value)) {
                        *(enum wire_network *)data = (enum wire_network)i;
                        return 0;
                }
        }
        if (str_eq(value, "host") || str_starts(value, "container:"))
                return err_set(err, EINVAL, "a task never shares a network; use nat or internet");
        return err_set(err, EINVAL, "'%s' is not none, nat or internet%s", value,
                       str_eq(value, "bridge") ? "; nat is most like it" : "");
}

static int set_word(const char *value, const char *const *words, const char *what, int *ret, struct err *err)
{
        for (int i = 0; words[i]; i++)
                if (str_eq(words[i], value))
                        return *ret = i, 0;
        return err_set(err, EINVAL, "'%s' is not %s", value, what);
}

static int set_output_limit(const char *value, void *data, struct err *err)
{
        static const char *const words[] = { "truncate", "kill", NULL };
        int word = 0, r = set_word(value, words, "truncate or kill", &word, err);

        if (r == 0)
                *(bool *)data = word == 1;
        return r;
}

static int set_pull(const char *value, void *data, struct err *err)
{
        static const char *const words[] = { "missing", "always", "never", NULL };
        int word = 0, r = set_word(value, words, "missing, always or never", &word, err);

        if (r == 0)
                *(enum wire_pull *)data = (enum wire_pull)word;
        return r;
}

static int set_attach(const char *value, void *data, struct err *err)
{
        static const char *const words[] = { "stdin", "stdout", "stderr" };
        struct run_options *o = data;

        for (size_t i = 0; i < ARRAY_LEN(words); i++) {
                if (strcasecmp(words[i], value) == 0) {
                        o->attach_given = o->attached[i] = true;
                        return 0;
                }
        }
        return err_set(err, EINVAL, "'%s' is not stdin, stdout or stderr", value);
}

static int set_stop_timeout(const char *value, void *data, struct err *err)
{
        int64_t seconds;

        if (cli_set_number(value, &seconds, err) < 0 || seconds > WIRE_GRACE_MAX_NS / (int64_t)NS_PER_S)
                return err_set(err, EINVAL, "'%s' is not a number of seconds up to an hour", value);
        *(int64_t *)data = seconds * (int64_t)NS_PER_S;
        return 0;
}

/* ── what is so anyway ───────────────────────────────────────────────────────────────────────────────────────────── */

static int set_stop_signal(const char *value, void *data, struct err *err)
{
        (void)data;
        if (wire_signal_parse(value) == SIGTERM)
                return 0;
        return err_set(err, EINVAL, "a task is stopped by SIGTERM; mayfly kill -s %s sends another signal", value);
}

/* docker's own check comes first: what it refuses is wrong in any case. */
static int set_restart(const char *value, void *data, struct err *err)
{
        const char *colon = strchr(value, ':');
        char *end = NULL;

        (void)data;
        if (colon == value)
                return err_set(err, EINVAL, "invalid restart policy format: no policy provided before colon");
        if (colon && (strtol(colon + 1, &end, 10), end == colon + 1 || *end))
                return err_set(err, EINVAL, "invalid restart policy format: maximum retry count must be an integer");
        if (!*value || str_eq(value, "no"))
                return 0;
        return err_set(err, EINVAL,
                       "a task runs once; --retries starts it again when the machine or the registry fails");
}

static int set_private(const char *value, void *data, struct err *err)
{
        (void)data;
        if (!*value || str_eq(value, "private"))
                return 0;
        return err_set(err, EINVAL, "a task always has one of its own, and never that of '%s'", value);
}

static int set_security(const char *value, void *data, struct err *err)
{
        static const char *const always[] = { "no-new-privileges", "no-new-privileges=true", "no-new-privileges:true" };

        (void)data;
        for (size_t i = 0; i < ARRAY_LEN(always); i++)
                if (str_eq(always[i], value))
                        return 0;
        return err_set(err, EINVAL, "a task never gets more than the default privileges");
}

/* ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static int read_files(struct run_options *o, struct err *err)
{
        struct wire_task_request *q = &o->request;
        char **single;
        int r = 0;

        for (char **f = o->env_files; f && *f && r == 0; f++)
                r = run_env_file(&q->env, *f, err) < 0 ? err_wrap(err, "--env-file") : 0;
        for (single = o->env; single && *single && r == 0; single++)
                r = strv_add(&q->env, *single) < 0 ? err_oom(err) : 0;
        for (char **f = o->label_files; f && *f && r == 0; f++)
                r = run_label_file(&q->labels, *f, err) < 0 ? err_wrap(err, "--label-file") : 0;
        for (single = o->labels; single && *single && r == 0; single++)
                r = strv_add(&q->labels, *single) < 0 ? err_oom(err) : 0;
        for (char **s = o->secrets; s && *s && r == 0; s++)
                r = run_secret_add(q, *s, err) < 0 ? err_wrap(err, "--secret") : 0;
        if (r == 0)
                r = run_registry_auth(q, o->registry_auth, err) < 0 ? err_wrap(err, "--registry-auth") : 0;
        run_unique(q->env, false);
        run_unique(q->labels, true);
        return r;
}

static int take_outputs(struct run_options *o, struct err *err)
{
        for (char **s = o->outputs; s && *s; s++) {
                const char *colon = strrchr(*s, ':');
                auto_free char *path = colon ? strndup(*s, (size_t)(colon - *s)) : NULL;

                if (!colon || colon == *s || !colon[1])
                        return err_set(err, EINVAL, "--output: '%s' is not PATH:HOST", *s);
                if (!path || strv_add(&o->request.outputs, path) < 0)
                        return err_oom(err);
        }
        return 0;
}

/* What nobody asked to be limited. Only a live task may run without end, and its output is not bounded by what is kept of it. */
static void set_unlimited(struct run_options *o)
{
        struct wire_limits *l = &o->request.limits, usual;

        wire_limits_default(&usual);
        o->free_timeout = l->timeout_ns < 0;
        o->free_output = l->output < 0;
        o->output_limited = !o->live || !o->free_output;
        if (o->free_timeout)
                l->timeout_ns = o->live ? 0 : WIRE_TIMEOUT_MAX_NS;
        if (o->free_output)
                l->output = o->live ? usual.output : WIRE_OUTPUT_MAX;
}

static int check(const struct cli *cli, struct run_options *o, struct err *err)
{
        o->live = !cli->json && !o->detach && o->wait_ns < 0 && !o->idempotency_key;
        set_unlimited(o);
        if (o->idempotency_key && o->idempotency_key[strcspn(o->idempotency_key, "\r\n")])
                return err_set(err, EINVAL, "--idempotency-key: it holds a line break");
        if (o->detach && o->attach_given)
                return err_set(err, EINVAL, "conflicting options: cannot specify both --attach and --detach");
        if (o->detach && o->wait_ns >= 0)
                return err_set(err, EINVAL, "conflicting options: --detach does not wait at all");
        if (o->outputs && (o->detach || o->wait_ns >= 0))
                return err_set(err, EINVAL, "conflicting options: --output needs the task's end, and so a wait for it");
        if (o->cidfile && access(o->cidfile, F_OK) == 0)
                return err_set(err, EEXIST, "--cidfile: %s exists: is that task still wanted? If not, remove the file",
                               o->cidfile);
        return 0;
}

static int take_words(struct wire_task_request *q, int argc, char **argv, struct err *err)
{
        int r;

        if (argc == 0)
                return err_set(err, EINVAL,
                               "which image? (mayfly run IMAGE [COMMAND] [ARG...]; mayfly images lists them)");
        if (!*argv[0])
                return err_set(err, EINVAL, "'' is no name of an image");
        r = set_copied(argv[0], &q->image, err);
        for (int i = 1; i < argc && r == 0; i++)
                r = strv_add(&q->cmd, argv[i]) < 0 ? err_oom(err) : 0;
        /* The image's arguments were for its own entrypoint. */
        if (r == 0 && q->entrypoint && !q->cmd)
                r = set_entrypoint("", &q->cmd, err);
        return r;
}

int run_options_parse(struct cli *cli, const struct cli_command *command, int argc, char **argv,
                      struct run_options *ret, struct err *err)
{
        struct run_options o = { .sig_proxy = true, .wait_ns = -1 };
        struct wire_task_request *q = &o.request;
        bool ignored;
        const struct cli_binding options[] = {
                { "env", set_env, &o.env },
                { "env-file", cli_set_list, &o.env_files },
                { "workdir", set_copied, &q->workdir },
                { "user", set_copied, &q->user },
                { "engine", set_copied, &q->engine },
                { "entrypoint", set_entrypoint, &q->entrypoint },
                { "interactive", cli_set_true, &o.interactive },
                { "attach", set_attach, &o },
                { "detach", cli_set_true, &o.detach },
                { "wait", cli_set_duration, &o.wait_ns },
                { "cidfile", cli_set_text, &o.cidfile },
                { "copy", cli_set_list, &o.copies },
                { "output", cli_set_list, &o.outputs },
                { "secret", cli_set_list, &o.secrets },
                { "network", set_network, &q->network },
                { "net", set_network, &q->network },
                { "timeout", cli_set_duration, &q->limits.timeout_ns },
                { "cpu-time", cli_set_duration, &q->limits.cpu_time_ns },
                { "queue-timeout", cli_set_duration, &q->limits.queue_timeout_ns },
                { "memory", cli_set_bytes, &q->limits.memory },
                { "cpus", set_cpus, &q->limits.cpu_milli },
                { "pids-limit", set_pids, &q->limits.pids },
                { "disk", cli_set_bytes, &q->limits.disk },
                { "shm-size", cli_set_bytes, &q->limits.shm },
                { "output-limit", cli_set_bytes, &q->limits.output },
                { "on-output-limit", set_output_limit, &q->kill_on_output_limit },
                { "stop-timeout", set_stop_timeout, &q->limits.grace_ns },
                { "init", cli_set_true, &q->init },
                { "label", set_label, &o.labels },
                { "label-file", cli_set_list, &o.label_files },
                { "pull", set_pull, &q->pull },
                { "registry-auth", cli_set_text, &o.registry_auth },
                { "idempotency-key", cli_set_text, &o.idempotency_key },
                { "retries", set_retries, &q->retries },
                { "sig-proxy", cli_set_true, &o.sig_proxy },
                { "rm", cli_set_true, &o.rm },
                { "quiet", cli_set_true, &ignored },
                { "no-healthcheck", cli_set_true, &ignored },
                { "disable-content-trust", cli_set_true, &ignored },
                { "restart", set_restart, NULL },
                { "stop-signal", set_stop_signal, NULL },
                { "cgroupns", set_private, NULL },
                { "ipc", set_private, NULL },
                { "pid", set_private, NULL },
                { "uts", set_private, NULL },
                { "security-opt", set_security, NULL },
        };
        int r;

        wire_limits_default(&q->limits);
        q->limits.timeout_ns = q->limits.output = -1;
        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, err);
        if (r == 0)
                r = check(cli, &o, err);
        if (r == 0)
                r = take_words(q, argc, argv, err);
        if (r == 0)
                r = take_outputs(&o, err);
        if (r == 0)
                r = read_files(&o, err);
        if (r != 0)
                run_options_done(&o);
        else
                *ret = o;
        return r;
}
