#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/sse.h"
#include "cli/task.h"
#include "wire/stream.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TRIES_MAX 20 /* to get back to a daemon that is being restarted */
#define TRY_PAUSE_MS 500

struct logs {
        const struct cli *cli;
        const char *id, *stream;                               /* stream NULL: both */
        int64_t tail;                                          /* lines of each stream; -1: all */
        char since[TIME_RFC3339_MAX], until[TIME_RFC3339_MAX]; /* "": none */
        bool timestamps;
        bool inside[2];     /* a line has begun */
        uint64_t next[2];   /* offset of what was not seen yet */
        struct str kept[2]; /* the last lines, where only those are wanted */
        bool keeping, ended;
        int write_error;
        struct sse sse;
};

static int print_json_event(const struct wire_log_event *e)
{
        struct wire_log_event copy = *e;
        auto_str line = STR_INIT;

        if (wire_log_event_write(&copy, &line) < 0)
                return -ENOMEM;
        printf("%s\n", line.data);
        return fflush(stdout) == EOF ? -errno : 0;
}

static int write_piece(struct logs *l, int stream, uint64_t offset, const char *time, const void *data, size_t len)
{
        struct wire_log_event event = { .stream = stream, .offset = offset, .data = data, .len = len, .exit_code = -1 };

        if (len == 0)
                return 0;
        (void)snprintf(event.time, sizeof(event.time), "%s", time);
        if (l->cli->json)
                return print_json_event(&event);
        return fd_write_all(stream ? STDERR_FILENO : STDOUT_FILENO, data, len);
}

/* ── times ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Before each line when it began, with as many digits as docker has. */
static int add_times(struct logs *l, const struct wire_log_event *e, const char *data, size_t len, struct str *out)
{
        int whole = (int)strcspn(e->time, "Z");
        int r = 0;

        while (len > 0 && r == 0) {
                const char *end = memchr(data, '\n', len);
                size_t n = end ? (size_t)(end - data) + 1 : len;

                if (!l->inside[e->stream] && e->time[0])
                        r = str_addf(out, "%.*s000000Z ", whole, e->time);
                if (r == 0)
                        r = str_add(out, data, n);
                l->inside[e->stream] = !end;
                data += n;
                len -= n;
        }
        return r;
}

/* ── the last lines ──────────────────────────────────────────────────────────────────────────────────────────────── */

/* Where the last n lines begin; an end of line at the very end ends the last of them. */
static size_t last_lines(const char *data, size_t len, int64_t n)
{
        size_t at = len;

        if (n == 0)
                return len;
        if (at > 0 && data[at - 1] == '\n')
                at--;
        while (at > 0 && (data[at - 1] != '\n' || --n > 0))
                at--;
        return at;
}

static int keep(struct logs *l, int stream, const void *data, size_t len)
{
        struct str *kept = &l->kept[stream];
        size_t from;

        if (str_add(kept, data, len) < 0)
                return -ENOMEM;
        from = last_lines(kept->data, kept->len, l->tail);
        if (from > kept->len / 2) {
                memmove(kept->data, kept->data + from, kept->len - from + 1);
                kept->len -= from;
        }
        return 0;
}

static int write_kept(struct logs *l, struct err *err)
{
        for (int i = 0; i < 2; i++) {
                struct str *kept = &l->kept[i];
                size_t from = kept->data ? last_lines(kept->data, kept->len, l->tail) : 0;
                int r = kept->data ? write_piece(l, i, l->next[i] - (kept->len - from), "", kept->data + from,
                                                 kept->len - from)
                                   : 0;

                if (r < 0)
                        return err_set(err, -r, "write the output: %s", strerror(-r));
        }
        return 0;
}

/* ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int on_event(const char *text, size_t len, void *arg)
{
        struct logs *l = arg;
        struct wire_log_event e = { .end = false };
        int r;

        r = wire_log_event_read(text, len, &e, NULL);
        if (r < 0)
                return -EPROTO;
        if (e.end) {
                l->ended = true;
                if (l->cli->json && !l->keeping)
                        r = print_json_event(&e);
        } else if (e.offset + e.len > l->next[e.stream]) {
                /* After a connection was lost, what comes again is left out. */
                size_t seen = e.offset < l->next[e.stream] ? (size_t)(l->next[e.stream] - e.offset) : 0;
                const char *data = (const char *)e.data + seen;
                size_t n = e.len - seen;
                auto_str stamped = STR_INIT;

                if (l->timestamps && !l->cli->json) {
                        r = add_times(l, &e, data, n, &stamped);
                        data = stamped.data;
                        n = stamped.len;
                }
                if (r == 0)
                        r = l->keeping ? keep(l, e.stream, data, n)
                                       : write_piece(l, e.stream, e.offset + seen, e.time, data, n);
                l->next[e.stream] = e.offset + e.len;
        }
        if (r < 0 && !l->keeping)
                l->write_error = -r;
        wire_log_event_done(&e);
        return r;
}

static int on_data(const void *data, size_t len, void *arg)
{
        struct logs *l = arg;

        return sse_feed(&l->sse, data, len, on_event, l);
}

static int ask(struct logs *l, bool follow, struct err *err)
{
        static const char *const headers[] = { "Accept: text/event-stream", NULL };
        struct http_client_request request = { .method = "GET",
                                               .headers = headers,
                                               .body_fd = -EBADF,
                                               .abort = &cli_aborted,
                                               .on_data = on_data,
                                               .on_data_arg = l };
        auto_answer answer = { .status = 0 };
        auto_str path = STR_INIT;
        int r;

        r = cli_path(&path, "/v1/tasks/", l->id, follow ? "/logs?follow=1" : "/logs?follow=0", err);
        if (r == 0 && ((l->stream && str_addf(&path, "&stream=%s", l->stream) < 0) ||
                       (l->since[0] && str_addf(&path, "&since=%s", l->since) < 0) ||
                       (l->until[0] && str_addf(&path, "&until=%s", l->until) < 0)))
                r = err_oom(err);
        if (r < 0)
                return r;
        request.path = path.data;
        sse_done(&l->sse);
        l->sse = (struct sse){ .cr = false };
        return cli_task_explain_missing(l->id, cli_request(l->cli, &request, &answer, err), err);
}

/* A daemon that is restarted is no end of its tasks. */
static int follow(struct logs *l, struct err *err)
{
        const struct timespec pause = { .tv_nsec = TRY_PAUSE_MS * (long)NS_PER_MS };
        int r = 0;

        for (int tries = 0; tries < TRIES_MAX && !l->ended && !cli_aborted && !l->write_error; tries++) {
                uint64_t before = l->next[0] + l->next[1];

                if (tries > 0)
                        (void)nanosleep(&pause, NULL);
                *err = (struct err)ERR_INIT;
                r = ask(l, true, err);
                if (r == -ENOENT || r == -EPROTO || r == -EACCES || r == -EINVAL)
                        return r;
                if (l->next[0] + l->next[1] > before)
                        tries = 0;
        }
        if (r == 0 && !l->ended && !cli_aborted && !l->write_error)
                return err_set(err, EPIPE, "the connection was lost; mayfly logs -f %s goes on", l->id);
        return r;
}

static int show(struct logs *l, bool following, struct err *err)
{
        int r;

        if (l->tail < 0)
                return following ? follow(l, err) : ask(l, false, err);
        l->keeping = true;
        r = ask(l, false, err);
        l->keeping = false;
        if (r == 0)
                r = write_kept(l, err);
        if (r == 0 && following) {
                l->ended = false;
                r = follow(l, err);
        }
        return r;
}

static int set_tail(const char *value, void *data, struct err *err)
{
        if (str_eq(value, "all"))
                return *(int64_t *)data = -1, 0;
        return cli_set_number(value, data, err) < 0 ? err_set(err, EINVAL, "'%s' is neither a number nor all", value)
                                                    : 0;
}

static int set_stream(const char *value, void *data, struct err *err)
{
        if (!str_eq(value, "stdout") && !str_eq(value, "stderr"))
                return err_set(err, EINVAL, "'%s' is neither stdout nor stderr", value);
        *(const char **)data = value;
        return 0;
}

/* A number is seconds since 1970, as docker has it. */
static int set_when(const char *value, void *data, struct err *err)
{
        size_t digits = strspn(value, "0123456789");
        uint64_t seconds;

        if (digits == 0 || value[digits + strspn(value + digits, ".0123456789")])
                return cli_parse_when(value, data, err);
        seconds = strtoull(value, NULL, 10);
        if (digits > 11)
                return err_set(err, EINVAL, "'%s' is no time", value);
        time_rfc3339(seconds * 1000, data);
        return 0;
}

int cmd_logs(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct logs logs = { .cli = cli, .tail = -1 };
        bool following = false;
        const struct cli_binding options[] = {
                { "follow", cli_set_true, &following }, { "tail", set_tail, &logs.tail },
                { "stream", set_stream, &logs.stream }, { "since", set_when, logs.since },
                { "until", set_when, logs.until },      { "timestamps", cli_set_true, &logs.timestamps },
        };
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc != 1)
                r = err_set(&err, EINVAL, "of which task? (mayfly logs TASK; mayfly ps -a lists them)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        cli_catch_signals();
        logs.id = argv[0];
        r = show(&logs, following, &err);
        sse_done(&logs.sse);
        str_done(&logs.kept[0]);
        str_done(&logs.kept[1]);
        if (cli_signal)
                return 128 + cli_signal;
        if (logs.write_error == EPIPE)
                return 128 + SIGPIPE;
        if (logs.write_error)
                (void)err_set(&err, logs.write_error, "write the output: %s", strerror(logs.write_error));
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
