/* mayfly images --verify */

#include "cli/images.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/units.h"
#include "cli/sse.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

struct verifying {
        const struct cli *cli;
        bool bars;
        struct sse sse;
        struct str failure;
        json_t *done;
};

static void draw(const json_t *o)
{
        char bytes[UNITS_HUMAN_MAX];
        auto_str raw = STR_INIT;

        units_human((uint64_t)json_integer_value(json_object_get(o, "bytes")), bytes);
        if (str_addf(&raw, "\r\x1b[Kchecking: %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT ", %s read",
                     json_integer_value(json_object_get(o, "done")), json_integer_value(json_object_get(o, "total")),
                     bytes) == 0)
                (void)fd_write_all(STDERR_FILENO, raw.data, raw.len);
}

static int on_event(const char *text, size_t len, void *arg)
{
        struct verifying *v = arg;
        auto_json o = NULL;

        if (json_read(text, len, &o, NULL) < 0)
                return -EPROTO;
        if (json_object_get(o, "faults")) {
                v->done = TAKE_PTR(o);
        } else if (json_object_get(o, "type")) {
                (void)str_adds(&v->failure,
                               *cli_text(o, "detail") ? cli_text(o, "detail") : "the server gave no reason");
                cli_one_line(v->failure.data);
        } else if (v->bars) {
                draw(o);
        }
        return 0;
}

static int on_data(const void *data, size_t len, void *arg)
{
        struct verifying *v = arg;

        return sse_feed(&v->sse, data, len, on_event, v);
}

static int ask(struct verifying *v, bool repair, struct err *err)
{
        static const char *const headers[] = { "Accept: text/event-stream", NULL };
        struct http_client_request request = {
                .method = "POST",
                .path = repair ? "/v1/images/verify?repair=true" : "/v1/images/verify",
                .headers = headers,
                .body_fd = -EBADF,
                .abort = &cli_aborted,
                .on_data = on_data,
                .on_data_arg = v,
        };
        auto_answer answer = { .status = 0 };
        int r = cli_request(v->cli, &request, &answer, err);

        if (r < 0)
                return r;
        if (v->failure.len > 0)
                return err_set(err, EPROTO, "%s", v->failure.data);
        return v->done ? 0 : err_set(err, EPIPE, "the connection was lost");
}

static void print_fault(const json_t *fault)
{
        const json_t *images = json_object_get(fault, "images"), *name;
        auto_str text = STR_INIT;
        size_t i;

        (void)str_addf(&text, "%s %s: %s", cli_text(fault, "kind"), cli_text(fault, "name"), cli_text(fault, "detail"));
        json_array_foreach(images, i, name) {
                (void)str_addf(&text, "%s%s", i == 0 ? " (" : ", ",
                               json_is_string(name) ? json_string_value(name) : "");
        }
        (void)str_addf(&text, "%s%s", json_array_size(images) > 0 ? ")" : "",
                       json_is_true(json_object_get(fault, "repaired")) ? ": repaired" : "");
        cli_print_line("", text.data ? text.data : "");
}

static void print_unchecked(const json_t *left)
{
        auto_str text = STR_INIT;

        (void)str_addf(&text, "%s %s was not compared: %s", cli_text(left, "kind"), cli_text(left, "name"),
                       cli_text(left, "detail"));
        cli_print_line("", text.data ? text.data : "");
}

static void print_result(const json_t *o)
{
        const json_t *faults = json_object_get(o, "faults"), *repairs = json_object_get(o, "repairs"), *v;
        const json_t *unchecked = json_object_get(o, "unchecked");
        char bytes[UNITS_HUMAN_MAX];
        size_t i;

        json_array_foreach(faults, i, v) {
                print_fault(v);
        }
        json_array_foreach(unchecked, i, v) {
                print_unchecked(v);
        }
        json_array_foreach(repairs, i, v) {
                cli_print_line("at the last start: ", json_is_string(v) ? json_string_value(v) : "");
        }
        units_human((uint64_t)json_integer_value(json_object_get(o, "bytes")), bytes);
        printf("%" JSON_INTEGER_FORMAT " blobs, %" JSON_INTEGER_FORMAT " layers, %" JSON_INTEGER_FORMAT " trees, %s: ",
               json_integer_value(json_object_get(o, "blobs")), json_integer_value(json_object_get(o, "layers")),
               json_integer_value(json_object_get(o, "trees")), bytes);
        if (json_array_size(faults) == 0 && json_array_size(unchecked) == 0)
                printf(json_is_true(json_object_get(o, "ok")) ? "all is well\n" : "not all is well\n");
        else
                printf("%zu fault%s%s", json_array_size(faults), CLI_PLURAL(json_array_size(faults)),
                       json_is_true(json_object_get(o, "ok")) ? ", all repaired" : "");
        if (json_array_size(unchecked) > 0)
                printf(", %zu not compared", json_array_size(unchecked));
        if (json_array_size(faults) > 0 || json_array_size(unchecked) > 0)
                printf("\n");
}

int cli_verify_images(const struct cli *cli, bool repair, bool quiet, struct err *err)
{
        struct verifying v = { .cli = cli, .bars = !quiet && cli_draws(STDERR_FILENO) };
        int r;

        cli_catch_signals();
        r = ask(&v, repair, err);
        if (v.bars)
                (void)fd_write_all(STDERR_FILENO, "\r\x1b[K", 4);
        if (r == 0 && cli->json)
                r = cli_print_json(v.done, err);
        else if (r == 0 && !quiet)
                print_result(v.done);
        if (r == 0 && !json_is_true(json_object_get(v.done, "ok")))
                r = 1;
        sse_done(&v.sse);
        str_done(&v.failure);
        json_decref(v.done);
        return r;
}
