#include "base/str.h"
#include "base/time.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/run_options.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>

/* ── create ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

enum unit { UNIT_PLAIN, UNIT_MILLI, UNIT_NS, UNITS };

/* One member of `limits`; 0 is none. */
struct bound {
        const char *option, *member;
        int (*set)(const char *value, void *data, struct err *err);
        enum unit unit;
        int64_t value;
};

static int set_cpus(const char *value, void *data, struct err *err)
{
        return run_parse_cpus(value, data, err);
}

static int set_count(const char *value, void *data, struct err *err)
{
        int64_t n;

        if (cli_set_number(value, &n, err) < 0 || n < 1 || n > UINT32_MAX)
                return err_set(err, EINVAL, "'%s' is not a number from 1 on", value);
        *(int64_t *)data = n;
        return 0;
}

static int set_above_zero(int64_t n, const char *value, struct err *err)
{
        return n > 0 ? 0 : err_set(err, EINVAL, "'%s' leaves nothing; without the option there is no maximum", value);
}

static int set_size(const char *value, void *data, struct err *err)
{
        int r = cli_set_bytes(value, data, err);

        return r < 0 ? r : set_above_zero(*(int64_t *)data, value, err);
}

static int set_time(const char *value, void *data, struct err *err)
{
        int r = cli_set_duration(value, data, err);

        return r < 0 ? r : set_above_zero(*(int64_t *)data, value, err);
}

static int set_expires(const char *value, void *data, struct err *err)
{
        uint64_t ms;
        int64_t ns;

        if (cli_parse_time(value, &ms) < 0) {
                if (cli_parse_span(value, &ns) < 0 || ns <= 0)
                        return err_set(err, EINVAL,
                                       "'%s' is neither a duration, as 24h or 30d, nor a time, as "
                                       "2026-01-01T00:00:00Z",
                                       value);
                ms = time_real_ms() + (uint64_t)ns / NS_PER_MS;
        }
        time_rfc3339(ms, data);
        return 0;
}

static int set_rate(const char *value, void *data, struct err *err)
{
        char *end = NULL;
        double rate = strtod(value, &end);

        if (end == value || *end || !(rate > 0 && rate < 1e9) || *value == ' ' || *value == '+')
                return err_set(err, EINVAL, "'%s' is not a number of requests a second", value);
        *(double *)data = rate;
        return 0;
}

static int set_role(const char *value, void *data, struct err *err)
{
        static const char *const roles[] = { "admin", "deploy", "task", "read" };

        for (size_t i = 0; i < ARRAY_LEN(roles); i++)
                if (str_eq(roles[i], value))
                        return *(const char **)data = value, 0;
        return err_set(err, EINVAL, "'%s' is none of admin, deploy, task, read", value);
}

static int add_list(json_t *body, const char *name, char *const *words)
{
        json_t *list = NULL;

        for (; words && *words; words++) {
                if (!list)
                        list = json_array();
                if (json_array_append_new(list, json_string(*words)) < 0)
                        return json_decref(list), -ENOMEM;
        }
        return list ? json_object_set_new(body, name, list) : 0;
}

static int add_bounds(json_t *body, const struct bound *bounds, size_t n, double rate)
{
        json_t *limits = json_object();
        int r = limits ? 0 : -ENOMEM;

        for (size_t i = 0; i < n && r == 0; i++) {
                static const double scale[UNITS] = { 1, 1e3, 1e9 };

                if (bounds[i].value == 0)
                        continue;
                r = json_object_set_new(limits, bounds[i].member,
                                        bounds[i].unit == UNIT_PLAIN
                                                ? json_integer(bounds[i].value)
                                                : json_real((double)bounds[i].value / scale[bounds[i].unit]));
        }
        if (r == 0 && rate > 0)
                r = json_object_set_new(limits, "rate", json_real(rate));
        if (r == 0 && json_object_size(limits) > 0)
                return json_object_set_new(body, "limits", limits);
        json_decref(limits);
        return r;
}

/* Only id:secret goes to stdout, so that it can be taken as it is. */
static int print_key(const struct cli *cli, const json_t *key, struct err *err)
{
        const char *id = cli_text(key, "id"), *secret = cli_text(key, "secret");
        auto_free char *both = NULL;

        if (!*id || !*secret)
                return err_set(err, EPROTO, "the server answered no key");
        if (cli->json)
                return cli_print_json(key, err);
        both = str_printf("%s:%s", id, secret);
        if (!both)
                return err_oom(err);
        cli_print_line("", both);
        explicit_bzero(both, strlen(both));
        return cli_flush(err);
}

static int create(const struct cli *cli, json_t *body, struct err *err)
{
        auto_json key = NULL;
        int r;

        r = cli_post_json(cli, "/v1/keys", body, &key, err);
        return r == 0 ? print_key(cli, key, err) : r;
}

#define BOUNDS 13

int cmd_key_create(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct bound bounds[BOUNDS] = {
                { "max-memory", "memory", set_size, UNIT_PLAIN, 0 },
                { "max-disk", "disk", set_size, UNIT_PLAIN, 0 },
                { "max-shm", "shm", set_size, UNIT_PLAIN, 0 },
                { "max-output", "output", set_size, UNIT_PLAIN, 0 },
                { "max-cpus", "cpus", set_cpus, UNIT_MILLI, 0 },
                { "max-pids", "pids", set_count, UNIT_PLAIN, 0 },
                { "max-timeout", "timeout", set_time, UNIT_NS, 0 },
                { "max-cpu-time", "cpu_time", set_time, UNIT_NS, 0 },
                { "max-queue-timeout", "queue_timeout", set_time, UNIT_NS, 0 },
                { "max-running", "max_running", set_count, UNIT_PLAIN, 0 },
                { "max-queued", "max_queued", set_count, UNIT_PLAIN, 0 },
                { "max-connections", "max_connections", set_count, UNIT_PLAIN, 0 },
                { "burst", "burst", set_count, UNIT_PLAIN, 0 },
        };
        const char *role = "task", *name = NULL;
        char expires[TIME_RFC3339_MAX] = "";
        auto_strv images = NULL;
        auto_strv networks = NULL;
        auto_strv engines = NULL;
        double rate = 0;
        struct cli_binding options[BOUNDS + 7] = {
                { "role", set_role, &role },          { "name", cli_set_text, &name },
                { "expires", set_expires, expires },  { "rate", set_rate, &rate },
                { "image", cli_set_list, &images },   { "network", cli_set_list, &networks },
                { "engine", cli_set_list, &engines },
        };
        auto_json body = NULL;
        struct err err = ERR_INIT;
        int r;

        for (size_t i = 0; i < BOUNDS; i++)
                options[7 + i] = (struct cli_binding){ bounds[i].option, bounds[i].set, &bounds[i].value };
        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc > 0)
                r = err_set(&err, EINVAL, "'%s': key create takes no argument; --name %s names it", argv[0], argv[0]);
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        body = json_pack("{s:s}", "role", role);
        if (!body || (name && json_object_set_new(body, "name", json_string(name)) < 0) ||
            (*expires && json_object_set_new(body, "expires_at", json_string(expires)) < 0) ||
            add_bounds(body, bounds, BOUNDS, rate) < 0 || add_list(body, "images", images) < 0 ||
            add_list(body, "networks", networks) < 0 || add_list(body, "engines", engines) < 0)
                r = err_set(&err, EINVAL, "a name is no UTF-8, or out of memory");
        if (r == 0)
                r = create(cli, body, &err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}

/* ── list ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool is_live(const json_t *key)
{
        uint64_t expires;

        if (*cli_text(key, "revoked_at"))
                return false;
        return cli_parse_time(cli_text(key, "expires_at"), &expires) < 0 || expires > time_real_ms();
}

static void add_expiry(struct cli_table *table, const json_t *key)
{
        const char *expires = cli_text(key, "expires_at");

        if (*cli_text(key, "revoked_at"))
                cli_table_add(table, "revoked");
        else
                cli_table_add(table, *expires ? expires : "never");
}

static int print_keys(const json_t *keys, bool all, struct err *err)
{
        static const char *const header[] = { "KEY ID", "NAME", "ROLE", "CREATED", "USED", "EXPIRES" };
        auto_table table = { .columns = ARRAY_LEN(header), .whole = CLI_COLUMN(0) };
        json_t *key;
        size_t i;

        for (i = 0; i < ARRAY_LEN(header); i++)
                cli_table_add(&table, header[i]);
        json_array_foreach(keys, i, key) {
                const char *name = cli_text(key, "name");
                char created[CLI_AGE_MAX], used[CLI_AGE_MAX];

                if (!all && !is_live(key))
                        continue;
                cli_ago(cli_text(key, "created_at"), created);
                cli_ago(cli_text(key, "last_used_at"), used);
                cli_table_add(&table, cli_text(key, "id"));
                cli_table_add(&table, *name ? name : NULL);
                cli_table_add(&table, cli_text(key, "role"));
                cli_table_add(&table, created);
                cli_table_add(&table, used);
                add_expiry(&table, key);
        }
        return cli_table_print(&table, err);
}

int cmd_key_list(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        bool all = false, quiet = false;
        const struct cli_binding options[] = {
                { "all", cli_set_true, &all },
                { "quiet", cli_set_true, &quiet },
        };
        auto_json doc = NULL;
        struct err err = ERR_INIT;
        json_t *keys, *key;
        size_t i;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc > 0)
                r = err_set(&err, EINVAL, "key list takes no argument");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        r = cli_get_json(cli, "/v1/keys", &doc, &err);
        keys = json_object_get(doc, "keys");
        if (r == 0 && !cli->json && !quiet)
                r = print_keys(keys, all, &err);
        json_array_foreach(keys, i, key) {
                if (r < 0 || (!cli->json && !quiet))
                        break;
                if (!all && !is_live(key))
                        continue;
                if (quiet)
                        cli_print_line("", cli_text(key, "id"));
                else
                        r = cli_print_json(key, &err);
        }
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}

/* ── revoke ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int revoke(const struct cli *cli, char *id, struct err *err)
{
        struct http_client_request request = { .method = "DELETE", .body_fd = -EBADF };
        auto_answer answer = { .status = 0 };
        auto_str path = STR_INIT;
        int r;

        /* A secret that was pasted along goes no further. */
        id[strcspn(id, ":")] = '\0';
        r = cli_path(&path, "/v1/keys/", id, "", err);
        if (r < 0)
                return r;
        request.path = path.data;
        r = cli_request(cli, &request, &answer, err);
        if (r < 0)
                return err_wrap(err, "%s", id);
        if (cli->json)
                printf("{\"id\":\"%s\",\"revoked\":true}\n", id);
        else
                printf("%s\n", id);
        return cli_flush(err);
}

int cmd_key_revoke(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct err err = ERR_INIT;
        int r, code = CLI_OK;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r == 0 && argc == 0)
                r = err_set(&err, EINVAL, "which key? (mayfly key revoke KEY...; mayfly key list lists them)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        for (int i = 0; i < argc; i++) {
                struct err why = ERR_INIT;

                if (revoke(cli, argv[i], &why) < 0)
                        code = cli_fail(command, &why);
        }
        return code;
}
