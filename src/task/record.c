#include "task/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_MAGIC UINT64_C(0x4d46545354415346) /* changes with the layout */
#define RECORD_NONE UINT64_MAX                    /* length of a string that is absent */

/* The members that are numbers, in the order in which they are written. */
#define RECORD_NUMBERS(X)                                                                                              \
        X(limits.timeout_ns)                                                                                           \
        X(limits.queue_timeout_ns)                                                                                     \
        X(limits.grace_ns)                                                                                             \
        X(limits.cpu_time_ns)                                                                                          \
        X(limits.memory)                                                                                               \
        X(limits.disk)                                                                                                 \
        X(limits.shm)                                                                                                  \
        X(limits.output)                                                                                               \
        X(limits.cpu_milli)                                                                                            \
        X(limits.pids)                                                                                                 \
        X(created_ms)                                                                                                  \
        X(admitted_ns)                                                                                                 \
        X(pulled_ns)                                                                                                   \
        X(started_ns)                                                                                                  \
        X(grace_end_ns)

static int add_u64(struct str *out, uint64_t v)
{
        return str_add(out, &v, sizeof(v));
}

static int add_text(struct str *out, const char *text)
{
        size_t len = text ? strlen(text) : 0;

        if (len > TASK_RECORD_TEXT_MAX)
                return -EFBIG;
        if (add_u64(out, text ? len : RECORD_NONE) < 0 || str_add(out, text, len) < 0)
                return -ENOMEM;
        return 0;
}

static int add_list(struct str *out, char *const *list)
{
        size_t n = list ? strv_len(list) : 0;
        int r = 0;

        if (n > TASK_RECORD_LIST_MAX)
                return -EFBIG;
        if (add_u64(out, n) < 0)
                return -ENOMEM;
        for (size_t i = 0; r == 0 && i < n; i++)
                r = add_text(out, list[i]);
        return r;
}

int task_record_write(const struct task_record *r, struct str *out)
{
        const char *texts[] = { r->owner, r->key, r->image_ref, r->image_digest };
        int k;

        if (add_u64(out, RECORD_MAGIC) < 0)
                return -ENOMEM;
#define WRITE_NUMBER(member)                                                                                           \
        if (add_u64(out, (uint64_t)r->member) < 0)                                                                     \
                return -ENOMEM;
        RECORD_NUMBERS(WRITE_NUMBER)
#undef WRITE_NUMBER
        if (add_u64(out, r->created_ns) < 0 || add_u64(out, r->kill_on_output_limit) < 0 ||
            add_u64(out, (uint64_t)r->encoding) < 0 || add_u64(out, (uint64_t)r->kill_reason) < 0 ||
            add_u64(out, (uint64_t)r->kill_signo) < 0 || add_u64(out, r->attempts) < 0 ||
            add_u64(out, r->retries) < 0 || add_u64(out, r->accepted) < 0 ||
            str_add(out, r->body_hash, sizeof(r->body_hash)) < 0)
                return -ENOMEM;
        for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
                k = add_text(out, texts[i]);
                if (k < 0)
                        return k;
        }
        k = add_list(out, r->labels);
        return k < 0 ? k : add_list(out, r->outputs);
}

struct cursor {
        const uint8_t *at, *end;
        bool bad;
};

static bool take(struct cursor *c, void *ret, size_t len)
{
        if (c->bad || (size_t)(c->end - c->at) < len) {
                c->bad = true;
                return false;
        }
        memcpy(ret, c->at, len);
        c->at += len;
        return true;
}

/* 0 and a bad cursor where the value is above max. */
static uint64_t take_u64(struct cursor *c, uint64_t max)
{
        uint64_t v = 0;

        if (!take(c, &v, sizeof(v)) || v > max) {
                c->bad = true;
                return 0;
        }
        return v;
}

static char *take_text(struct cursor *c)
{
        uint64_t len = take_u64(c, RECORD_NONE);
        char *text;

        if (c->bad || len == RECORD_NONE)
                return NULL;
        if (len > TASK_RECORD_TEXT_MAX || len > (size_t)(c->end - c->at) || memchr(c->at, '\0', len)) {
                c->bad = true;
                return NULL;
        }
        text = strndup((const char *)c->at, len);
        if (!text)
                c->bad = true;
        c->at += len;
        return text;
}

static char **take_list(struct cursor *c)
{
        uint64_t n = take_u64(c, TASK_RECORD_LIST_MAX);
        char **list = n > 0 && !c->bad ? calloc(n + 1, sizeof(*list)) : NULL;

        if (n > 0 && !list)
                c->bad = true;
        for (uint64_t i = 0; i < n && !c->bad; i++) {
                list[i] = take_text(c);
                if (!list[i])
                        c->bad = true;
        }
        return list;
}

int task_record_read(const void *data, size_t len, struct task_record *ret, struct err *err)
{
        struct cursor c = { .at = data, .end = len > 0 ? (const uint8_t *)data + len : data };
        struct task_record r = { .owner = NULL };

        if (take_u64(&c, UINT64_MAX) != RECORD_MAGIC)
                return err_set(err, EBADMSG, "this is no record of a task that this version wrote");
#define READ_NUMBER(member) r.member = (__typeof__(r.member))take_u64(&c, INT64_MAX);
        RECORD_NUMBERS(READ_NUMBER)
#undef READ_NUMBER
        r.created_ns = take_u64(&c, UINT64_MAX);
        r.kill_on_output_limit = take_u64(&c, 1);
        r.encoding = (enum wire_encoding)take_u64(&c, WIRE_ENC_BASE64);
        r.kill_reason = (enum wire_reason)take_u64(&c, WIRE_REASON_NODE_LOST);
        r.kill_signo = (int)take_u64(&c, 64);
        r.attempts = (unsigned)take_u64(&c, UINT32_MAX);
        r.retries = (unsigned)take_u64(&c, WIRE_RETRIES_MAX);
        r.accepted = take_u64(&c, 1);
        (void)take(&c, r.body_hash, sizeof(r.body_hash));
        r.owner = take_text(&c);
        r.key = take_text(&c);
        r.image_ref = take_text(&c);
        r.image_digest = take_text(&c);
        r.labels = take_list(&c);
        r.outputs = take_list(&c);
        if (c.bad || c.at != c.end || !r.owner || !r.image_ref) {
                task_record_done(&r);
                return err_set(err, EBADMSG, "the record of a task is damaged");
        }
        *ret = r;
        return 0;
}

void task_record_done(struct task_record *r)
{
        free(r->owner);
        free(r->key);
        free(r->image_ref);
        free(r->image_digest);
        strv_free(r->labels);
        strv_free(r->outputs);
        memset(r, 0, sizeof(*r));
}
