#include "cli/task.h"

#include "base/id.h"
#include "base/time.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_STEP_NS (600 * NS_PER_S) /* one request does not wait longer: what lies between may cut idle connections */

int cli_task_explain_missing(const char *id, int r, struct err *err)
{
        if (r != -ENOENT || id_valid(id))
                return r;
        return err_set(err, ENOENT, "there is no task %s: an id is given whole, as mayfly ps shows it", id);
}

int cli_task_get(const struct cli *cli, const char *id, const char *what, json_t **ret, struct err *err)
{
        auto_str path = STR_INIT;
        int r;

        r = cli_path(&path, "/v1/tasks/", id, what, err);
        return r == 0 ? cli_task_explain_missing(id, cli_get_json(cli, path.data, ret, err), err) : r;
}

int cli_task_post(const struct cli *cli, const char *id, const char *what, const json_t *body, json_t **ret,
                  struct err *err)
{
        auto_str path = STR_INIT;
        int r;

        r = cli_path(&path, "/v1/tasks/", id, what, err);
        return r == 0 ? cli_task_explain_missing(id, cli_post_json(cli, path.data, body, ret, err), err) : r;
}

bool cli_task_ended(const json_t *task)
{
        const char *status = cli_text(task, "status");

        return str_eq(status, "exited") || str_eq(status, "failed") || str_eq(status, "killed");
}

int cli_task_wait(const struct cli *cli, const char *id, uint64_t deadline, json_t **ret, struct err *err)
{
        for (;;) {
                uint64_t now = time_mono_ns(), left = deadline > now ? deadline - now : 0;
                auto_json task = NULL;
                char what[64];
                int r;

                (void)snprintf(what, sizeof(what), "/wait?timeout=%.3f",
                               (double)MIN(left, WAIT_STEP_NS) / (double)NS_PER_S);
                r = cli_task_get(cli, id, what, &task, err);
                if (r < 0)
                        return r;
                if (cli_task_ended(task)) {
                        *ret = TAKE_PTR(task);
                        return 0;
                }
                if (left == 0)
                        return err_set(err, ETIME, "%s has not ended yet", id);
        }
}

/* ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct reason_text {
        const char *reason, *text;
        int code; /* of a task that never ran */
};

static const struct reason_text reasons[] = {
        { "timeout", "the task was killed: it ran longer than its timeout", 0 },
        { "cpu_time", "the task was killed: it used up its CPU time (--cpu-time)", 0 },
        { "oom", "the task was killed: it needed more memory than its limit (--memory)", 0 },
        { "output_limit", "the task was killed: it wrote more than its limit (--output-limit)", 0 },
        { "cancelled", "the task was cancelled", 0 },
        { "disk_limit", "the task failed with its disk full (--disk)", 0 },
        { "command_not_found", "the command was not found in the image", CLI_NOT_FOUND },
        { "command_not_executable", "the command is not executable", CLI_NOT_EXECUTABLE },
        { "node_lost", "the task was lost with the machine's container launcher", CLI_USAGE },
        { "queue_timeout", "the task waited too long for its turn (--queue-timeout)", CLI_USAGE },
        { "start_error", "the task could not be started", CLI_USAGE },
        { "registry_error", "the image's registry failed", CLI_USAGE },
        { "registry_busy", "the image's registry takes no more requests now", CLI_USAGE },
        { "image_invalid", "the image is not what its registry says it is", CLI_USAGE },
        { "image_unsupported", "the image cannot run here", CLI_USAGE },
        { "image_untrusted", "the image is not trusted here", CLI_USAGE },
        { "image_broken",
          "the image is damaged on the server (mayfly images --verify --repair tells how, and mends what can be; pull "
          "or load it "
          "again)",
          CLI_USAGE },
        { "no_space", "the server has no space left for the image", CLI_USAGE },
        { "image_not_found",
          "there is no such image (mayfly images lists what is here; mayfly pull, load and import add more)",
          CLI_USAGE },
        { "image_unauthorized", "the image is not yours to use", CLI_USAGE },
};

static const struct reason_text *find_reason(const char *reason)
{
        for (size_t i = 0; reason && i < ARRAY_LEN(reasons); i++)
                if (str_eq(reasons[i].reason, reason))
                        return &reasons[i];
        return NULL;
}

int cli_task_exit_code(const json_t *task)
{
        const struct reason_text *r = find_reason(cli_text(task, "reason"));
        const json_t *code = json_object_get(task, "exit_code");

        if (json_is_integer(code) && json_integer_value(code) >= 0 && json_integer_value(code) <= 255)
                return (int)json_integer_value(code);
        return r && r->code ? r->code : CLI_USAGE;
}

void cli_task_explain(const json_t *task, bool kept)
{
        const char *reason = cli_text(task, "reason"), *detail;
        auto_free char *line = strdup(cli_text(task, "detail"));
        const struct reason_text *r = find_reason(reason);

        /* It may quote the task's own words, which are no lines of ours. */
        cli_one_line(line);
        detail = line ? line : "";
        if (r)
                cli_error("%s%s%s", r->text, *detail ? ": " : "", detail);
        else if (*reason && !str_eq(reason, "signal"))
                cli_error("%s", *detail ? detail : reason);
        if (kept && json_is_true(json_object_get(task, "truncated")))
                cli_warn("the output was cut: it was longer than the limit (--output-limit)");
}
