#include "base/str.h"
#include "base/time.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/task.h"
#include "wire/task.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define LIMIT_USUAL 100
#define PAGE_MAX 1000 /* of the API */

struct ps {
        bool all, quiet, whole;
        int64_t limit;
        char **statuses;  /* any of them */
        struct str query; /* the other filters, each begun by '&' */
};

static int add_query(struct str *query, const char *name, const char *value, struct err *err)
{
        if (str_addf(query, "&%s=", name) < 0 || http_encode(query, value) < 0)
                return err_oom(err);
        return 0;
}

static int add_status(struct ps *ps, const char *value, struct err *err)
{
        for (size_t i = 0; wire_status_names[i]; i++)
                if (str_eq(wire_status_names[i], value))
                        return strv_add(&ps->statuses, value) < 0 ? err_oom(err) : 0;
        return err_set(err, EINVAL, "'%s' is no status: queued, pulling, running, exited, failed, killed", value);
}

static int add_time(struct ps *ps, const char *name, const char *value, struct err *err)
{
        char text[TIME_RFC3339_MAX];
        int r = cli_parse_when(value, text, err);

        return r < 0 ? r : add_query(&ps->query, name, text, err);
}

static int set_filter(const char *value, void *data, struct err *err)
{
        struct ps *ps = data;

        if (str_starts(value, "status="))
                return add_status(ps, value + strlen("status="), err);
        if (str_starts(value, "label="))
                return add_query(&ps->query, "label", value + strlen("label="), err);
        if (str_starts(value, "image="))
                return add_query(&ps->query, "image", value + strlen("image="), err);
        if (str_starts(value, "ancestor=")) /* docker's word */
                return add_query(&ps->query, "image", value + strlen("ancestor="), err);
        if (str_starts(value, "since="))
                return add_time(ps, "since", value + strlen("since="), err);
        if (str_starts(value, "until="))
                return add_time(ps, "until", value + strlen("until="), err);
        return err_set(err, EINVAL, "'%s' is none of status=, label=, image=, since=, until=", value);
}

static int set_format(const char *value, void *data, struct err *err)
{
        if (!str_eq(value, "json") && !str_eq(value, "table"))
                return err_set(err, EINVAL, "'%s' is neither table nor json; take what you need out of json", value);
        *(bool *)data = str_eq(value, "json");
        return 0;
}

/* ── the list ────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Pages of the tasks in one state, or in any where status is NULL, up to the limit. */
static int fetch(const struct cli *cli, const struct ps *ps, const char *status, json_t *tasks, struct err *err)
{
        auto_free char *cursor = NULL;
        size_t limit = ps->limit ? (size_t)ps->limit : SIZE_MAX, have = 0;
        int r;

        do {
                auto_json page = NULL;
                auto_str path = STR_INIT;
                json_t *got;

                if (str_addf(&path, "/v1/tasks?limit=%zu%s%s%s", MIN(limit - have, PAGE_MAX), status ? "&status=" : "",
                             status ? status : "", ps->query.data ? ps->query.data : "") < 0)
                        return err_oom(err);
                r = cursor ? add_query(&path, "cursor", cursor, err) : 0;
                if (r == 0)
                        r = cli_get_json(cli, path.data, &page, err);
                if (r < 0)
                        return r;
                got = json_object_get(page, "tasks");
                have += json_array_size(got);
                if (json_array_extend(tasks, got) < 0)
                        return err_oom(err);
                free(cursor);
                cursor = strdup(cli_text(page, "next_cursor"));
                if (!cursor)
                        return err_oom(err);
        } while (*cursor && have < limit);
        return 0;
}

/* The newest first: times of one form are ordered as text is, ids within one time. */
static int newer(const void *a, const void *b)
{
        const json_t *const *x = a, *const *y = b;
        int r = strcmp(cli_text(*y, "created_at"), cli_text(*x, "created_at"));

        return r ? r : strcmp(cli_text(*y, "id"), cli_text(*x, "id"));
}

/* Pages of several states, in one order. */
static int sort(json_t *tasks, int64_t limit, json_t **ret, struct err *err)
{
        size_t n = json_array_size(tasks);
        auto_free json_t **order = calloc(MAX(n, 1), sizeof(json_t *));
        auto_json sorted = json_array();

        if (!order || !sorted)
                return err_oom(err);
        for (size_t i = 0; i < n; i++)
                order[i] = json_array_get(tasks, i);
        qsort(order, n, sizeof(json_t *), newer);
        for (size_t i = 0; i < n && (!limit || i < (size_t)limit); i++)
                if (json_array_append(sorted, order[i]) < 0)
                        return err_oom(err);
        *ret = TAKE_PTR(sorted);
        return 0;
}

static int list(const struct cli *cli, const struct ps *ps, json_t **ret, struct err *err)
{
        static const char *const live[] = { "queued", "pulling", "running", NULL };
        auto_json tasks = json_array();
        int r = 0;

        if (!tasks)
                return err_oom(err);
        if (ps->statuses)
                for (size_t i = 0; ps->statuses[i] && r == 0; i++)
                        r = fetch(cli, ps, ps->statuses[i], tasks, err);
        else if (ps->all)
                r = fetch(cli, ps, NULL, tasks, err);
        else
                for (size_t i = 0; live[i] && r == 0; i++)
                        r = fetch(cli, ps, live[i], tasks, err);
        return r < 0 ? r : sort(tasks, ps->limit, ret, err);
}

/* ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void add_status_cell(struct cli_table *table, const json_t *task)
{
        const json_t *code = json_object_get(task, "exit_code");
        const char *status = cli_text(task, "status"), *reason = cli_text(task, "reason");
        char text[128];

        if (*reason && !str_eq(status, "exited"))
                (void)snprintf(text, sizeof(text), "%s (%s)", status, reason);
        else if (json_is_integer(code))
                (void)snprintf(text, sizeof(text), "%s (%d)", status, (int)json_integer_value(code));
        else
                (void)snprintf(text, sizeof(text), "%s", status);
        cli_table_add(table, text);
}

static void add_labels(struct cli_table *table, const json_t *task)
{
        json_t *labels = json_object_get(task, "labels"), *value;
        auto_str text = STR_INIT;
        const char *name;

        json_object_foreach(labels, name, value) {
                const char *is = json_string_value(value);

                (void)str_addf(&text, "%s%s=%s", text.len ? "," : "", name, is ? is : "");
        }
        cli_table_add(table, text.data ? text.data : "");
}

static void add_run_time(struct cli_table *table, const json_t *task)
{
        const char *started = cli_text(task, "started_at"), *finished = cli_text(task, "finished_at");
        uint64_t from, to;
        char text[32];

        if (cli_parse_time(started, &from) < 0) {
                cli_table_add(table, NULL);
                return;
        }
        if (cli_parse_time(finished, &to) < 0)
                to = time_real_ms();
        (void)snprintf(text, sizeof(text), "%.*fs", to - from < 10000 ? 3 : 0,
                       to > from ? (double)(to - from) / 1000 : 0);
        cli_table_add(table, text);
}

/* A column that would be empty takes room from the others, of which a terminal of 80 columns has little. */
static bool have_labels(const json_t *tasks)
{
        const json_t *task;
        size_t i;

        json_array_foreach(tasks, i, task) {
                if (json_object_size(json_object_get(task, "labels")) > 0)
                        return true;
        }
        return false;
}

static int print_table(const json_t *tasks, bool whole, struct err *err)
{
        static const char *const header[] = { "TASK ID", "IMAGE", "CREATED", "STATUS", "RAN", "LABELS" };
        auto_table table = { .whole = whole ? CLI_COLUMNS_ALL : CLI_COLUMN(0) };
        bool labels = have_labels(tasks);
        json_t *task;
        size_t i;

        table.columns = ARRAY_LEN(header) - !labels;
        for (i = 0; i < table.columns; i++)
                cli_table_add(&table, header[i]);
        json_array_foreach(tasks, i, task) {
                const char *image = cli_text(json_object_get(task, "image"), "ref");
                char age[CLI_AGE_MAX];

                cli_ago(cli_text(task, "created_at"), age);
                cli_table_add(&table, cli_text(task, "id"));
                cli_table_add(&table,
                              str_starts(image, "docker.io/library/") ? image + strlen("docker.io/library/") : image);
                cli_table_add(&table, age);
                add_status_cell(&table, task);
                add_run_time(&table, task);
                if (labels)
                        add_labels(&table, task);
        }
        return cli_table_print(&table, err);
}

static int print(const struct cli *cli, const struct ps *ps, json_t *tasks, struct err *err)
{
        json_t *task;
        size_t i;
        int r = 0;

        if (!cli->json && !ps->quiet)
                return print_table(tasks, ps->whole, err);
        json_array_foreach(tasks, i, task) {
                if (r < 0)
                        break;
                if (ps->quiet)
                        cli_print_line("", cli_text(task, "id"));
                else
                        r = cli_print_json(task, err);
        }
        return r < 0 ? r : cli_flush(err);
}

int cmd_ps(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct ps ps = { .limit = LIMIT_USUAL };
        const struct cli_binding options[] = {
                { "all", cli_set_true, &ps.all },     { "quiet", cli_set_true, &ps.quiet },
                { "filter", set_filter, &ps },        { "limit", cli_set_number, &ps.limit },
                { "format", set_format, &cli->json }, { "no-trunc", cli_set_true, &ps.whole },
        };
        auto_json tasks = NULL;
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc > 0)
                r = err_set(&err, EINVAL, "ps takes no argument; mayfly inspect %s shows one", argv[0]);
        if (r == 0)
                r = list(cli, &ps, &tasks, &err);
        if (r == 0)
                r = print(cli, &ps, tasks, &err);
        strv_free(ps.statuses);
        str_done(&ps.query);
        return r > 0 ? CLI_OK : r < 0 ? cli_fail(command, &err) : CLI_OK;
}
