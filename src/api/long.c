/* Long answers: a task's JSON with much output in it, made piece by piece as the client reads. What it is made of stays where it
 * is, so that an answer costs little memory of its own, however long it is and however slow its client. */

#include "api/internal.h"

#include <errno.h>
#include <stdlib.h>

struct long_answer {
        struct wire_text text;
        struct task_output *outputs[2]; /* of a live task */
        struct str owned[2];            /* of a record */
};

bool output_is_long(size_t out, size_t err)
{
        return out >= API_LONG_FROM || err >= API_LONG_FROM - out;
}

static void long_free(struct long_answer *l)
{
        wire_text_done(&l->text);
        for (int i = 0; i < 2; i++) {
                task_output_unref(l->outputs[i]);
                str_done(&l->owned[i]);
        }
        free(l);
}

static void pump(struct call *c)
{
        auto_str piece = STR_INIT;
        int r = 1;

        while (r > 0 && http_stream_pending(c->http) < HTTP_STREAM_LOW) {
                str_clear(&piece);
                r = wire_text_next(&c->long_answer->text, &piece);
                if (r >= 0 && http_stream_write(c->http, piece.data ? piece.data : "", piece.len) < 0)
                        r = -ENOMEM;
        }
        if (r > 0)
                return;
        if (r == 0)
                (void)http_stream_end(c->http);
        else
                http_stream_abort(c->http);
        long_free(TAKE_PTR(c->long_answer));
}

void long_call_drained(struct call *c)
{
        if (c->long_answer)
                pump(c);
}

void long_call_gone(struct call *c)
{
        if (c->long_answer)
                long_free(TAKE_PTR(c->long_answer));
}

/* Takes l. */
static void begin(struct call *c, int status, struct long_answer *l)
{
        if (!c->http || c->answered) {
                long_free(l);
                return;
        }
        c->answered = true;
        call_log(c, status);
        (void)http_add_header(c->http, "X-Request-Id", c->request_id);
        if (c->api->draining)
                http_close_after(c->http);
        if (http_stream_begin(c->http, status, "application/json") < 0) {
                long_free(l);
                (void)http_reply(c->http, 503, NULL, "", 0);
                return;
        }
        if (str_eq(http_method(c->http), "HEAD")) {
                (void)http_stream_end(c->http);
                long_free(l);
                return;
        }
        c->long_answer = l;
        pump(c);
}

void answer_long_text(struct call *c, int status, struct wire_text *text, struct task *t)
{
        struct long_answer *l = calloc(1, sizeof(*l));

        if (!l) {
                wire_text_done(text);
                call_oom(c);
                return;
        }
        l->text = *text;
        *text = (struct wire_text){ .part = 0 };
        for (int i = 0; i < 2; i++)
                l->outputs[i] = task_output_ref(t, i ? ENGINE_STDERR : ENGINE_STDOUT);
        begin(c, status, l);
}

void answer_long_task(struct call *c, int status, const struct wire_task *result, struct task *t)
{
        struct wire_text text;

        if (wire_task_begin(result, &text) < 0)
                call_oom(c);
        else
                answer_long_text(c, status, &text, t);
}

void answer_long_record(struct call *c, int status, struct history_record *record)
{
        struct long_answer *l = calloc(1, sizeof(*l));
        const void *data[2];
        size_t len[2];
        int r = l ? 0 : -ENOMEM;

        for (int i = 0; i < 2 && r == 0; i++) {
                l->owned[i] = record->out[i];
                record->out[i] = (struct str)STR_INIT;
                data[i] = l->owned[i].data;
                len[i] = l->owned[i].len;
        }
        if (r == 0)
                r = wire_task_begin_output(record->document.data, record->document.len, data, len, &record->outputs,
                                           &l->text);
        if (r == 0) {
                begin(c, status, l);
                return;
        }
        if (l)
                long_free(l);
        call_oom(c);
}
