#include "engine/docker/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define CALL_STALL_S (1 << 30) /* waiting is no stall */

static int on_data(struct fetch *f, const void *bytes, size_t len, void *arg)
{
        struct docker_call *call = arg;

        call->status = fetch_status(f);
        if (call->on_data && call->status < 300)
                return call->on_data(call, bytes, len, call->data);
        if (len > call->max - MIN(call->max, call->body.len))
                return -EMSGSIZE;
        return str_add(&call->body, bytes, len);
}

static ssize_t on_send(struct fetch *f, void *buf, size_t max, void *arg)
{
        struct docker_call *call = arg;

        (void)f;
        return call->send(buf, max, call->data);
}

static void call_free(struct docker_call *call)
{
        list_remove(&call->node);
        str_done(&call->body);
        free(call->kept);
        free(call);
}

static void on_done(struct fetch *f, int r, const struct err *err, void *arg)
{
        struct docker_call *call = arg;
        const char *kept = r == 0 && call->keep ? fetch_header(f, call->keep) : NULL;

        call->fetch = NULL;
        if (r == 0)
                call->status = fetch_status(f);
        if (kept)
                call->kept = strdup(kept);
        if (r != -ETIMEDOUT || !call->patient)
                docker_report(call->docker, r, err);
        call->fn(call, r, err, call->data);
        call_free(call);
}

int docker_call(struct docker *d, const struct docker_request *q, docker_call_fn fn, void *data,
                struct docker_call **ret, struct err *err)
{
        static const struct fetch_handler handler = { .data = on_data, .done = on_done, .send = on_send };
        auto_free char *url = str_printf("%s%s%s", d->host.base, q->unversioned ? "" : d->prefix, q->path);
        auto_free char *type = str_printf("Content-Type: %s", q->type ? q->type : "application/json");
        const char *headers[] = { type, q->header, NULL };
        const struct fetch_request request = {
                .method = q->method,
                .url = url,
                .unix_socket = d->host.socket,
                .cacert = d->host.ca,
                .client_cert = d->host.cert,
                .client_key = d->host.key,
                .headers = headers,
                .body = q->body,
                .body_len = q->send ? 0 : q->body_len,
                .has_send = q->send,
                .send_length = q->body_len == SIZE_MAX ? -1 : (int64_t)q->body_len,
                .connect_timeout_ms = 10000,
                .keepalive = true,
                .stall_s = CALL_STALL_S,
                .total_timeout_s = q->timeout_s == UINT_MAX ? 0
                                   : q->timeout_s           ? q->timeout_s
                                                            : d->timeout_s,
        };
        struct docker_call *call = url && type ? calloc(1, sizeof(*call)) : NULL;
        int r;

        if (!call)
                return err_oom(err);
        *call = (struct docker_call){ .docker = d,
                                      .patient = q->patient,
                                      .max = DOCKER_ANSWER_MAX,
                                      .keep = q->keep,
                                      .on_data = q->on_data,
                                      .send = q->send,
                                      .fn = fn,
                                      .drop = q->drop,
                                      .data = data };
        list_init(&call->node);
        r = fetch_start(d->fetcher, &request, &handler, call, &call->fetch, err);
        if (r < 0) {
                call_free(call);
                return r;
        }
        list_append(&d->calls, &call->node);
        if (ret)
                *ret = call;
        return 0;
}

void docker_call_cancel(struct docker_call *call)
{
        if (!call)
                return;
        if (call->fetch)
                fetch_cancel(call->fetch);
        call_free(call);
}

void docker_message(const char *body, size_t len, unsigned status, char *out, size_t size)
{
        auto_json answer = NULL;
        const char *message = NULL;

        if (len > 0 && json_read(body, len, &answer, NULL) == 0)
                message = json_string_value(json_object_get(answer, "message"));
        if (message && message[0])
                (void)snprintf(out, size, "%s", message);
        else
                (void)snprintf(out, size, "Docker answered with status %u", status);
        for (char *p = out; *p; p++)
                if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
                        *p = '?';
}

void docker_call_message(const struct docker_call *call, char *out, size_t size)
{
        docker_message(call->body.data, call->body.len, call->status, out, size);
}

int docker_call_result(const struct docker_call *call, int r, const struct err *err, const char *what,
                       int (*error)(unsigned status, const char *text), struct err *ret)
{
        char text[200];

        if (r < 0) {
                *ret = *err;
                return r;
        }
        if (call->status == 200)
                return 0;
        docker_call_message(call, text, sizeof(text));
        return err_set(ret, -error(call->status, text), "%s: %s", what, text);
}
