#include "base/fd.h"
#include "base/str.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define KEY_FILE_MAX 4096

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

/* -ENOENT is for what the server says is not there (`rmi -f` takes it for done), not for a program or a file of ours. */
static int err_otherwise(struct err *err, int num, const char *what)
{
        (void)err_wrap(err, "%s", what);
        if (err)
                err->num = num;
        return -num;
}

int cli_explain(const struct cli *cli, int r, struct err *err)
{
        const char *host = cli->host;

        /* Of a connection; of stdout it means that nobody reads. */
        if (r == -EPIPE)
                r = -ECONNRESET;
        if (r == -ECONNRESET && err)
                err->num = ECONNRESET;
        switch (-r) {
        case ENOENT:
        case ECONNREFUSED:
                if (str_starts(host, "ssh://"))
                        return err_otherwise(err, ECONNREFUSED, host);
                if (str_starts(host, "http"))
                        return err_set(err, ECONNREFUSED,
                                       "nothing answers at %s: does Mayfly listen there? (--host or "
                                       "MAYFLY_HOST says where)",
                                       host);
                return err_set(err, ECONNREFUSED,
                               "nothing answers at %s: start Mayfly by `sudo systemctl start mayflyd` or `sudo mayfly "
                               "serve` (--host or MAYFLY_HOST says where it listens)",
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
                return err && str_starts(err->text, host) ? r : err_wrap(err, "%s", host);
        }
}

/* RFC 9457; what is none is shown as its status. */
int cli_problem(const struct http_answer *answer, struct err *err)
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
        /* The lines are ours. */
        cli_one_line(text.data);
        faults = json_object_get(doc, "errors");
        json_array_foreach(faults, i, fault) {
                const char *pointer = cli_text(fault, "pointer"), *what = cli_text(fault, "detail");
                auto_free char *told = str_printf("%s: %s", *pointer ? pointer + 1 : "", what);

                /* A fault that is the detail needs no second line. */
                if (!str_eq(told, detail)) {
                        size_t before = text.len;

                        (void)str_addf(&text, "\n  %s: %s", *pointer ? pointer : "body", what);
                        cli_one_line(text.len > before ? text.data + before + 1 : NULL);
                }
        }
        return err_set(err, answer->status == 404 ? ENOENT : EPROTO, "%s", text.data ? text.data : "");
}

/* ── the key ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int read_key_file(const char *path, struct str *ret, struct err *err)
{
        static bool warned;
        struct stat st;

        if (fd_read_file(AT_FDCWD, path, KEY_FILE_MAX, ret, err) < 0)
                return err_otherwise(err, EINVAL, "key file");
        while (ret->len > 0 && strchr(" \t\r\n", ret->data[ret->len - 1]))
                ret->data[--ret->len] = '\0';
        if (ret->len == 0 || strlen(ret->data) != ret->len || strpbrk(ret->data, " \t\r\n"))
                return err_set(err, EINVAL, "%s: not a key, id:secret on one line", path);
        if (!warned && stat(path, &st) == 0 && st.st_mode & S_IROTH)
                cli_warn("%s can be read by everybody on this machine (chmod 600 %s)", path, path);
        warned = true;
        return 0;
}

int cli_connect(const struct cli *cli, struct http_client **ret, struct err *err)
{
        struct http_client_options options = {
                .host = cli->host, .key = cli->key, .cacert = cli->cacert, .pin = cli->pin
        };
        auto_str key = STR_INIT;
        int r = 0;

        if (cli->key_file && *cli->key_file) {
                r = read_key_file(cli->key_file, &key, err);
                options.key = key.data;
        }
        if (r == 0)
                r = http_client_open(&options, ret, err);
        if (key.data)
                explicit_bzero(key.data, key.len);
        return r;
}

/* ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────── */

int cli_request(const struct cli *cli, const struct http_client_request *request, struct http_answer *ret,
                struct err *err)
{
        struct http_client *client = NULL;
        int r;

        r = cli_connect(cli, &client, err);
        if (r < 0)
                return r;
        r = http_client_do(client, request, ret, err);
        http_client_free(client);
        if (r < 0)
                return cli_explain(cli, r, err);
        return ret->status >= 400 ? cli_problem(ret, err) : 0;
}

static int request_json(const struct cli *cli, const struct http_client_request *request, json_t **ret, struct err *err)
{
        auto_answer answer = { .status = 0 };
        int r;

        r = cli_request(cli, request, &answer, err);
        if (r < 0 || !ret)
                return r;
        if (answer.body.len == 0)
                return *ret = NULL, 0;
        r = json_read(answer.body.data, answer.body.len, ret, err);
        return r < 0 ? err_wrap(err, "the answer is no JSON") : 0;
}

int cli_get_json(const struct cli *cli, const char *path, json_t **ret, struct err *err)
{
        const struct http_client_request request = {
                .method = "GET", .path = path, .body_fd = -EBADF, .abort = &cli_aborted
        };
        int r;

        r = request_json(cli, &request, ret, err);
        return r == 0 && !*ret ? err_set(err, EPROTO, "the server answered nothing") : r;
}

int cli_post_json(const struct cli *cli, const char *path, const json_t *body, json_t **ret, struct err *err)
{
        struct http_client_request request = {
                .method = "POST", .path = path, .body_fd = -EBADF, .abort = &cli_aborted
        };
        auto_str text = STR_INIT;

        if (body) {
                if (json_write(body, &text) < 0)
                        return err_oom(err);
                request.content_type = "application/json";
                request.body = text.data;
                request.body_len = text.len;
        }
        return request_json(cli, &request, ret, err);
}

int cli_path(struct str *out, const char *prefix, const char *name, const char *suffix, struct err *err)
{
        if (!*name)
                return err_set(err, EINVAL, "an empty name names nothing");
        if (str_adds(out, prefix) < 0 || http_encode(out, name) < 0 || str_adds(out, suffix) < 0)
                return err_oom(err);
        return 0;
}

const char *cli_text(const json_t *object, const char *name)
{
        const char *text = json_string_value(json_object_get(object, name));

        return text ? text : "";
}

int cli_print_answer(const struct http_answer *answer, struct err *err)
{
        auto_json value = NULL;
        int r;

        /* Not as it came: the server leaves bytes in it that steer a terminal (U+0080 to U+009F, DEL). */
        r = json_read(answer->body.data ? answer->body.data : "", answer->body.len, &value, err);
        return r < 0 ? err_wrap(err, "the answer is no JSON") : cli_print_json(value, err);
}
