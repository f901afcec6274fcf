#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "base/units.h"
#include "cli/bar.h"
#include "cli/cli.h"
#include "cli/docker_config.h"
#include "cli/options.h"
#include "cli/password.h"
#include "cli/sse.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SHORT_DIGEST 12
#define ROWS_MAX 12 /* of layers; the rest is in the total only */
#define BAR_COLUMNS 80
#define LEFT_MAX_S 999999.0
#define RATE_NS (3 * NS_PER_S)

struct pulling {
        const struct cli *cli;
        const char *image, *username, *policy;
        bool quiet, bars, password_stdin;
        struct sse sse;
        size_t rows;                 /* on the terminal now */
        uint64_t rate_ns, rate_done; /* where the rate is measured from */
        double rate;
        char state[32];
        unsigned layer_states[128];
        bool ended;
        struct str failure;
        json_t *done;
};

/* What is shown of a layer comes from a fixed set: digits, and our own words. */
static const char *const states[] = { "waiting", "downloading", "downloaded", "unpacking", "ready" };

static unsigned rank(const char *state)
{
        for (unsigned i = 0; i < ARRAY_LEN(states); i++)
                if (str_eq(states[i], state))
                        return i + 1;
        return 0;
}

static const char *state_of(const json_t *layer)
{
        unsigned n = rank(cli_text(layer, "state"));

        if (json_is_true(json_object_get(layer, "was_here")) && n < ARRAY_LEN(states))
                return "present";
        return n > 0 ? states[n - 1] : "";
}

static void short_digest(const json_t *layer, char out[SHORT_DIGEST + 1])
{
        const char *digest = cli_text(layer, "digest"), *hex = strchr(digest, ':');
        size_t len = hex ? strspn(hex + 1, "0123456789abcdef") : 0;

        (void)snprintf(out, SHORT_DIGEST + 1, "%.*s", (int)MIN(len, (size_t)SHORT_DIGEST), hex ? hex + 1 : "");
}

/* ── a terminal: a bar for each layer, and a total ───────────────────────────────────────────────────────────────── */

static void add_layer(struct str *out, const json_t *layer)
{
        uint64_t done = (uint64_t)json_integer_value(json_object_get(layer, "done"));
        uint64_t size = (uint64_t)json_integer_value(json_object_get(layer, "size"));
        char digest[SHORT_DIGEST + 1];

        short_digest(layer, digest);
        (void)str_addf(out, "\r\x1b[K%s  ", digest);
        cli_bar_bytes(out, done, size);
        (void)str_addf(out, " %s\n", state_of(layer));
}

static void measure(struct pulling *p, uint64_t done)
{
        uint64_t now = time_mono_ns();

        if (p->rate_ns == 0) {
                p->rate_ns = now;
                p->rate_done = done;
        } else if (now - p->rate_ns >= RATE_NS / 6) {
                double fresh = (double)(done - MIN(done, p->rate_done)) * (double)NS_PER_S / (double)(now - p->rate_ns);

                p->rate = p->rate > 0 ? p->rate * 0.7 + fresh * 0.3 : fresh;
                p->rate_ns = now;
                p->rate_done = done;
        }
}

static void add_total(struct pulling *p, struct str *out, const json_t *o)
{
        uint64_t done = (uint64_t)json_integer_value(json_object_get(o, "done"));
        uint64_t total = (uint64_t)json_integer_value(json_object_get(o, "total"));
        char rate[UNITS_HUMAN_MAX];

        measure(p, done);
        units_human((uint64_t)p->rate, rate);
        (void)str_adds(out, "\r\x1b[Ktotal         ");
        cli_bar_bytes(out, done, total);
        if (done < total && p->rate > 1)
                (void)str_addf(out, " %s/s, %us left\n", rate,
                               (unsigned)MIN((double)(total - done) / p->rate, LEFT_MAX_S) + 1);
        else
                (void)str_addf(out, " %s\n",
                               done < total                                 ? ""
                               : str_eq(cli_text(o, "state"), "installing") ? "installing"
                                                                            : "unpacking");
}

/* A terminal may have become narrower meanwhile: lines that break would be drawn beside one another. */
static bool may_draw(struct pulling *p)
{
        if (p->bars && cli_columns(STDERR_FILENO) >= BAR_COLUMNS)
                return true;
        p->rows = 0;
        return false;
}

static void draw(struct pulling *p, const json_t *o)
{
        const json_t *layers = json_object_get(o, "layers"), *layer;
        auto_str raw = STR_INIT;
        size_t i, rows = 0;

        if (p->rows > 0)
                (void)str_addf(&raw, "\x1b[%zuA", p->rows);
        json_array_foreach(layers, i, layer) {
                if (rows == ROWS_MAX)
                        break;
                add_layer(&raw, layer);
                rows++;
        }
        add_total(p, &raw, o);
        p->rows = rows + 1;
        if (raw.data)
                (void)fd_write_all(STDERR_FILENO, raw.data, raw.len);
}

/* ── no terminal: a line a step ──────────────────────────────────────────────────────────────────────────────────── */

static void print_steps(struct pulling *p, const json_t *o)
{
        const json_t *layers = json_object_get(o, "layers"), *layer;
        size_t i;

        json_array_foreach(layers, i, layer) {
                unsigned now = rank(cli_text(layer, "state"));
                char size[UNITS_HUMAN_MAX], digest[SHORT_DIGEST + 1];

                if (i >= ARRAY_LEN(p->layer_states) || now <= MAX(p->layer_states[i], 1U))
                        continue;
                p->layer_states[i] = now;
                units_human((uint64_t)json_integer_value(json_object_get(layer, "size")), size);
                short_digest(layer, digest);
                fprintf(stderr, "%s: %s (%s)\n", digest, state_of(layer), size);
        }
        if (str_eq(cli_text(o, "state"), "installing") && !str_eq(p->state, "installing"))
                fprintf(stderr, "installing\n");
        (void)snprintf(p->state, sizeof(p->state), "%s", cli_text(o, "state"));
}

/* ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int on_event(const char *text, size_t len, void *arg)
{
        struct pulling *p = arg;
        auto_str clean = STR_INIT;
        auto_json o = NULL;

        if (json_read(text, len, &o, NULL) < 0)
                return -EPROTO;
        if (json_object_get(o, "layers")) {
                if (may_draw(p))
                        draw(p, o);
                else if (!p->quiet)
                        print_steps(p, o);
        } else if (json_object_get(o, "digest")) {
                /* A small image is there before its layers are told of. */
                if (!p->bars && !p->quiet && cli_escape(&clean, cli_text(o, "digest")) == 0) {
                        cli_one_line(clean.data);
                        fprintf(stderr, "%s: ready\n", clean.data ? clean.data : "");
                }
                p->ended = true;
                p->done = TAKE_PTR(o);
        } else if (json_object_get(o, "type")) {
                p->ended = true;
                (void)str_adds(&p->failure,
                               *cli_text(o, "detail") ? cli_text(o, "detail") : "the server gave no reason");
                cli_one_line(p->failure.data);
        }
        return 0;
}

static int on_data(const void *data, size_t len, void *arg)
{
        struct pulling *p = arg;

        return sse_feed(&p->sse, data, len, on_event, p);
}

static void wipe(struct str *s)
{
        if (s->data)
                explicit_bzero(s->data, s->len);
        str_done(s);
}

static int add_auth(json_t *o, const char *username, const char *password, struct err *err)
{
        json_t *auth = json_pack("{s:s, s:s}", "username", username, "password", password);

        return json_object_set_new(o, "registry_auth", auth) < 0 ? err_set(err, EINVAL, "the credentials are no UTF-8")
                                                                 : 0;
}

/* Those that were given; else Docker's, if it has some; else none, and the server takes those that it keeps. */
static int add_credentials(const struct pulling *p, json_t *o, struct err *err)
{
        struct docker_login docker = { .username = NULL };
        struct str password = STR_INIT;
        struct err why = ERR_INIT;
        int r = 0;

        if (p->username) {
                r = cli_read_password(&password, err);
                if (r == 0)
                        r = add_auth(o, p->username, password.data, err);
                wipe(&password);
                return r;
        }
        if (docker_login_find(p->image, &docker, &why) < 0)
                cli_warn("without Docker's credentials: %s", why.text);
        else if (docker.username)
                r = add_auth(o, docker.username, docker.password, err);
        docker_login_done(&docker);
        return r;
}

static int make_body(const struct pulling *p, struct str *ret, struct err *err)
{
        auto_json o = json_pack("{s:s, s:s}", "image", p->image, "pull", p->policy);
        int r;

        if (!o)
                return err_set(err, EINVAL, "the image's name is no UTF-8");
        if (p->username && !p->password_stdin)
                return err_set(err, EINVAL, "--username needs --password-stdin");
        if (p->password_stdin && !p->username)
                return err_set(err, EINVAL, "--password-stdin needs --username");
        r = add_credentials(p, o, err);
        return r == 0 && json_write(o, ret) < 0 ? err_oom(err) : r;
}

static int pull(struct pulling *p, struct err *err)
{
        static const char *const headers[] = { "Accept: text/event-stream", NULL };
        struct http_client_request request = {
                .method = "POST",
                .path = "/v1/images/pull",
                .content_type = "application/json",
                .headers = headers,
                .body_fd = -EBADF,
                .abort = &cli_aborted,
                .on_data = on_data,
                .on_data_arg = p,
        };
        auto_answer answer = { .status = 0 };
        __attribute__((cleanup(wipe))) struct str body = STR_INIT;
        int r = make_body(p, &body, err);

        if (r < 0)
                return r;
        request.body = body.data;
        request.body_len = body.len;
        r = cli_request(p->cli, &request, &answer, err);
        if (r < 0)
                return r;
        if (p->failure.len > 0)
                return err_set(err, EPROTO, "%s", p->failure.data);
        return p->done ? 0 : err_set(err, EPIPE, "the connection was lost");
}

static int print_result(const struct pulling *p, struct err *err)
{
        auto_free char *told = NULL;

        if (p->cli->json)
                return cli_print_json(p->done, err);
        if (p->quiet) {
                cli_print_line("", cli_text(p->done, "digest"));
        } else if (json_is_true(json_object_get(p->done, "pulled"))) {
                cli_print_line("pulled ", cli_text(p->done, "ref"));
        } else {
                told = str_printf("%s is up to date", cli_text(p->done, "ref"));
                if (!told)
                        return err_oom(err);
                cli_print_line("", told);
        }
        return 0;
}

static int set_policy(const char *value, void *data, struct err *err)
{
        (void)err;
        *(const char **)data = value;
        return 0;
}

int cmd_pull(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct pulling p = { .cli = cli, .policy = "always" };
        const struct cli_binding options[] = {
                { "quiet", cli_set_true, &p.quiet },
                { "username", cli_set_text, &p.username },
                { "password-stdin", cli_set_true, &p.password_stdin },
                { "policy", set_policy, &p.policy },
        };
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc != 1)
                r = err_set(&err, EINVAL, "one image is to be named (mayfly pull IMAGE)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        p.image = argv[0];
        p.quiet |= cli->json;
        p.bars = !p.quiet && cli_draws(STDERR_FILENO) && cli_columns(STDERR_FILENO) >= BAR_COLUMNS;
        cli_catch_signals();
        r = pull(&p, &err);
        if (r == 0)
                r = print_result(&p, &err);
        if (r == 0)
                r = cli_flush(&err);
        sse_done(&p.sse);
        str_done(&p.failure);
        json_decref(p.done);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
