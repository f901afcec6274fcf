#include "task/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_MAGIC UINT64_C(0x4d46545354415345) /* changes with the layout */
#define RECORD_NONE UINT64_MAX                    /* length of a string that is absent */

/* The members that are numbers, in the order in which they are written. */
#define RECORD_NUMBERS(X)                                                                                              \
        X(limits.timeout_ns)                                                                                           \
        X(limits.queue_timeout_ns)                                                                                     \
        X(limits.grace_ns)                                                                                             \
        X(limits.memory)                                                                                               \
        X(limits.disk)                                                                                                 \
        X(limits.shm)                                                                                                  \
        X(limits.output)                                                                                               \
        X(limits.cpu_milli)                                                                                            \
        X(limits.pids)                                                                                                 \
        X(created_ms)                                                                                                  \
        X(created_ns)                                                                                                  \
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

int task_record_write(const struct task_record *r, struct str *out)
{
        const char *texts[] = { r->owner, r->key, r->image_ref, r->image_digest };

        if (add_u64(out, RECORD_MAGIC) < 0)
                return -ENOMEM;
#define WRITE_NUMBER(member)                                                                                           \
        if (add_u64(out, (uint64_t)r->member) < 0)                                                                     \
                return -ENOMEM;
        RECORD_NUMBERS(WRITE_NUMBER)
#undef WRITE_NUMBER
        if (add_u64(out, r->kill_on_output_limit) < 0 || add_u64(out, (uint64_t)r->encoding) < 0 ||
            add_u64(out, (uint64_t)r->kill_reason) < 0 || add_u64(out, (uint64_t)r->kill_signo) < 0 ||
            str_add(out, r->body_hash, sizeof(r->body_hash)) < 0)
                return -ENOMEM;
        for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
                int k = add_text(out, texts[i]);

                if (k < 0)
                        return k;
        }
        return 0;
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

int task_record_read(const void *data, size_t len, struct task_record *ret, struct err *err)
{
        struct cursor c = { .at = data, .end = len > 0 ? (const uint8_t *)data + len : data };
        struct task_record r = { .owner = NULL };

        if (take_u64(&c, UINT64_MAX) != RECORD_MAGIC)
                return err_set(err, EBADMSG, "this is no record of a task that this version wrote");
#define READ_NUMBER(member) r.member = (__typeof__(r.member))take_u64(&c, INT64_MAX);
        RECORD_NUMBERS(READ_NUMBER)
#undef READ_NUMBER
        r.kill_on_output_limit = take_u64(&c, 1);
        r.encoding = (enum wire_encoding)take_u64(&c, WIRE_ENC_BASE64);
        r.kill_reason = (enum wire_reason)take_u64(&c, WIRE_REASON_NODE_LOST);
        r.kill_signo = (int)take_u64(&c, 64);
        (void)take(&c, r.body_hash, sizeof(r.body_hash));
        r.owner = take_text(&c);
        r.key = take_text(&c);
        r.image_ref = take_text(&c);
        r.image_digest = take_text(&c);
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
        memset(r, 0, sizeof(*r));
}
