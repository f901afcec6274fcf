/* What the next daemon needs to finish a task: kept by the engine beside the container, opaque to it. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "wire/task.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TASK_RECORD_TEXT_MAX (16 * 1024) /* of each string */
#define TASK_RECORD_LIST_MAX 64          /* strings of each list */

struct task_record {
        char *owner;
        char *key; /* idempotency key; NULL: none */
        uint8_t body_hash[32];
        char *image_ref, *image_digest;
        struct wire_limits limits;
        bool kill_on_output_limit;
        enum wire_encoding encoding;
        uint64_t created_ms;                                                   /* real time */
        uint64_t created_ns, admitted_ns, pulled_ns, started_ns, grace_end_ns; /* CLOCK_MONOTONIC; 0: not yet */
        enum wire_reason kill_reason;
        int kill_signo; /* last signal that we sent for it */
        unsigned attempts, retries;
        bool accepted;            /* its request is on disk */
        char **labels, **outputs; /* NULL: none */
};

int task_record_write(const struct task_record *r, struct str *out); /* -ENOMEM, -EFBIG */
/* The caller owns what *ret holds. -EBADMSG. */
int task_record_read(const void *data, size_t len, struct task_record *ret, struct err *err);
void task_record_done(struct task_record *r);
