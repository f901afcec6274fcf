#include "base/str.h"
#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

#define PROBLEM_MAX (ERR_TEXT_MAX - 1)

volatile int cli_aborted;
volatile int cli_signal;

static void on_signal(int signo)
{
        cli_signal = signo;
        cli_aborted = 1;
}

void cli_catch_signals(void)
{
        static const int signals[] = { SIGINT, SIGTERM, SIGHUP };

        for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
                struct sigaction sa = { .sa_handler = on_signal }, old;

                /* What nohup(1) and a shell's background jobs ignore stays ignored. */
                if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
                        (void)sigaction(signals[i], &sa, NULL);
        }
}

static int explain(const struct cli *cli, int r, struct err *err)
{
        const char *host = cli->host;

        switch (-r) {
        case ENOENT:
        case ECONNREFUSED:
                return err_set(err, -r,
                               "nothing answers at %s: is `mayfly serve` running? (--host or MAYFLY_HOST says "
                               "where)",
                               host);
        case EACCES:
        case EPERM:
                return err_set(err, -r,
                               "no permission to use %s: add yourself to the group mayfly "
                               "(sudo usermod -aG mayfly $USER, then log in again) or use sudo",
                               host);
        case ECANCELED:
                return err_set(err, -r, "interrupted");
        default:
                return err_wrap(err, "%s", host);
        }
}

/* RFC 9457; what is none is shown as its status. */
static int problem(const struct http_answer *answer, struct err *err)
{
        auto_json doc = NULL;
        auto_str text = STR_INIT;
        const char *detail;
        json_t *faults, *fault;
        size_t i;

        if (json_read(answer->body.data ? answer->body.data : "", answer->body.len, &doc, NULL) < 0)
                return err_set(err, EPROTO, "the server answered %ld", answer->status);
        detail = json_string_value(json_object_get(doc, "detail"));
        if (!detail)
                detail = json_string_value(json_object_get(doc, "title"));
        (void)str_adds(&text, detail ? detail : "the server gave no reason");
        faults = json_object_get(doc, "errors");
        json_array_foreach(faults, i, fault) {
                const char *pointer = json_string_value(json_object_get(fault, "pointer"));
                const char *what = json_string_value(json_object_get(fault, "detail"));

                (void)str_addf(&text, "\n  %s: %s", pointer && *pointer ? pointer : "body", what ? what : "");
        }
        return err_set(err, answer->status == 404 ? ENOENT : EPROTO, "%s", text.data ? text.data : "");
}

int cli_request(const struct cli *cli, const struct http_client_request *request, struct http_answer *ret,
                struct err *err)
{
        struct http_client *client = NULL;
        int r;

        r = http_client_new(cli->host, cli->key, &client, err);
        if (r < 0)
                return r;
        r = http_client_do(client, request, ret, err);
        http_client_free(client);
        if (r < 0)
                return explain(cli, r, err);
        return ret->status >= 400 ? problem(ret, err) : 0;
}

int cli_get_json(const struct cli *cli, const char *path, json_t **ret, struct err *err)
{
        const struct http_client_request request = { .method = "GET", .path = path, .body_fd = -EBADF };
        auto_answer answer = { .status = 0 };
        int r;

        r = cli_request(cli, &request, &answer, err);
        if (r < 0)
                return r;
        r = json_read(answer.body.data ? answer.body.data : "", answer.body.len, ret, err);
        return r < 0 ? err_wrap(err, "the answer is no JSON") : 0;
}

int cli_print_answer(const struct http_answer *answer, struct err *err)
{
        if (answer->body.len > 0)
                (void)fwrite(answer->body.data, 1, answer->body.len, stdout);
        if (answer->body.len == 0 || answer->body.data[answer->body.len - 1] != '\n')
                (void)putchar('\n');
        return cli_flush(err);
}
