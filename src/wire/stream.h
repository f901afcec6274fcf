/* What goes over live connections: text frames of GET /v1/tasks/stream, and events of GET /v1/tasks/{id}/logs?follow=1. */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "json/json.h"

#include <stdbool.h>
#include <stdint.h>

/* ── /v1/tasks/stream ──────────────────────────────────────────────────────────────────────────────────────────────── */

/* The first byte of a binary frame. The client's frames are 0, the server's 1 and 2; an empty rest is nothing. */
enum wire_channel { WIRE_STDIN, WIRE_STDOUT, WIRE_STDERR };

/* Bytes of a binary frame, with its first byte; and of the client's text frames, but the first. */
#define WIRE_FRAME_MAX (64 * 1024)

/* Text frames. The client's first is the request itself, an object as of POST /v1/tasks; then
 *
 *   client:  {"type":"signal","signal":"SIGTERM"}  {"type":"stdin_end"}  {"type":"cancel"}
 *   server:  {"type":"pulling","done":0,"total":9}, bytes, some times a second while the image comes
 *            {"type":"started","id":"…"}  {"type":"result","task":{…}}  {"type":"problem","problem":{…}}
 */
enum wire_frame_type {
        WIRE_FRAME_SIGNAL,
        WIRE_FRAME_STDIN_END,
        WIRE_FRAME_CANCEL,
        WIRE_FRAME_PULLING,
        WIRE_FRAME_STARTED,
        WIRE_FRAME_RESULT,
        WIRE_FRAME_PROBLEM,
};

struct wire_frame {
        enum wire_frame_type type;
        int signo;            /* SIGNAL */
        char id[32];          /* STARTED */
        uint64_t done, total; /* PULLING */
        json_t *body;         /* RESULT: the task, PROBLEM: the problem; owned */
};
void wire_frame_done(struct wire_frame *f);

/* `server`: whether the server sent it; what belongs to the other direction is refused. -EINVAL with a text for the sender;
 * -ENOMEM. */
int wire_frame_read(const char *text, size_t len, bool server, struct wire_frame *ret, struct err *err);

/* Each appends one frame's text: 0 or -ENOMEM. `document` is a JSON object's text. */
int wire_frame_signal(int signo, struct str *out);
int wire_frame_stdin_end(struct str *out);
int wire_frame_cancel(struct str *out);
int wire_frame_pulling(uint64_t done, uint64_t total, struct str *out);
int wire_frame_started(const char *id, struct str *out);
int wire_frame_result(const char *document, size_t len, struct str *out);
int wire_frame_problem(const char *document, size_t len, struct str *out);

/* ── logs ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The data of one event, a JSON object: {"stream":"stdout","offset":0,"time":"…","encoding":"utf-8","data":"…"}; the last event is
 * {"status":"exited","exit_code":0,"reason":null,"truncated":false}. */
struct wire_log_event {
        bool end;
        int stream; /* 0 stdout, 1 stderr */
        uint64_t offset;
        char time[32];    /* RFC 3339, as time_rfc3339() writes it; "": none */
        const void *data; /* borrowed by the writer, owned after a read */
        size_t len;
        char status[16], reason[32]; /* end; "": null */
        int exit_code;               /* -1: null */
        bool truncated;
};
int wire_log_event_write(const struct wire_log_event *e, struct str *out);
int wire_log_event_read(const char *text, size_t len, struct wire_log_event *ret,
                        struct err *err);           /* -EINVAL, -ENOMEM */
void wire_log_event_done(struct wire_log_event *e); /* of one that was read */

/* How much of `data` ends with a whole character: a piece that is cut there stays text. At least 1 unless len is 0. */
size_t wire_text_cut(const void *data, size_t len);
