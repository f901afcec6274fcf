/* Tasks as JSON: what the API and the command share. The tables are design.md's («The API»). */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "json/json.h"

#include <stdbool.h>
#include <stdint.h>

#define WIRE_BODY_MAX (32 * 1024 * 1024)

enum wire_network { WIRE_NET_DEFAULT, WIRE_NET_NONE, WIRE_NET_NAT, WIRE_NET_INTERNET };
enum wire_encoding { WIRE_ENC_AUTO, WIRE_ENC_BASE64 };

struct wire_file {
        char *path;
        void *content;
        size_t len;
        uint32_t mode;
};

/* Defaults as in the API's table; 0 timeout means none (only where the daemon lets it). */
struct wire_limits {
        int64_t timeout_ns, queue_timeout_ns, grace_ns;
        int64_t memory, disk, shm, output;      /* bytes */
        int64_t cpu_milli, pids;
};
void wire_limits_default(struct wire_limits *l);

/* POST /v1/tasks. Owned strings; NULL where absent. */
struct wire_task_request {
        char *image;
        char **cmd, **entrypoint;
        char **env;                     /* "K=V" */
        char *workdir, *user;
        void *stdin_data;               /* decoded; NULL: none */
        size_t stdin_len;
        struct wire_file *files;
        size_t n_files;
        struct wire_limits limits;
        bool kill_on_output_limit;
        enum wire_network network;
        bool init;
        enum wire_encoding encoding;
};
void wire_task_request_done(struct wire_task_request *r);

/* Reads and checks a body; every fault is listed. -EINVAL with faults, -ENOMEM. */
int wire_task_request_read(json_t *body, struct wire_task_request *ret, struct json_faults *faults);
int wire_task_request_write(const struct wire_task_request *r, struct str *out); /* members that differ from the default */

enum wire_status { WIRE_QUEUED, WIRE_PULLING, WIRE_RUNNING, WIRE_EXITED, WIRE_FAILED, WIRE_KILLED };
extern const char *const wire_status_names[]; /* NULL-terminated, in the enum's order */

enum wire_reason {
        WIRE_REASON_NONE,
        WIRE_REASON_SIGNAL,
        WIRE_REASON_COMMAND_NOT_FOUND,
        WIRE_REASON_COMMAND_NOT_EXECUTABLE,
        WIRE_REASON_TIMEOUT,
        WIRE_REASON_CPU_TIME,
        WIRE_REASON_OOM,
        WIRE_REASON_OUTPUT_LIMIT,
        WIRE_REASON_CANCELLED,
        WIRE_REASON_DISK_LIMIT,
        WIRE_REASON_IMAGE_NOT_FOUND,
        WIRE_REASON_IMAGE_UNAUTHORIZED,
        WIRE_REASON_REGISTRY_ERROR,
        WIRE_REASON_START_ERROR,
        WIRE_REASON_QUEUE_TIMEOUT,
        WIRE_REASON_NODE_LOST,
};
extern const char *const wire_reason_names[]; /* "" first */

/* A task as answered. Strings and streams are borrowed by the writer, owned after a read. */
struct wire_task {
        char id[32];
        enum wire_status status;
        int exit_code;                  /* -1: null */
        int signal;                     /* 0: null */
        enum wire_reason reason;
        char *detail;                   /* text of a failure; NULL: none */
        const void *out[2];             /* kept bytes of stdout, stderr; NULL with has_output false */
        size_t out_len[2];
        uint64_t out_total[2];
        bool has_output;                /* lists leave the streams out */
        bool truncated;
        enum wire_encoding encoding;
        int64_t wall_ns, cpu_ns, memory_peak;           /* -1: null */
        int64_t queued_ns, pull_ns, start_ns, run_ns;   /* -1: null */
        uint64_t created_ms, started_ms, finished_ms;   /* real time; 0: null */
        char *image_ref, *image_digest;                 /* digest NULL: null */
        const char *engine;
        struct wire_limits limits;
};
int wire_task_write(const struct wire_task *t, struct str *out); /* one JSON object, as in design.md's example */
const char *wire_signal_name(int signo, char out[16]);           /* "SIGKILL", "SIGRTMIN+1" */
int wire_signal_parse(const char *name);                         /* "KILL", "SIGKILL", "9": number or -EINVAL */

/* RFC 9457. `faults` may be NULL. */
int wire_problem_write(struct str *out, int status, const char *reason, const char *title, const char *detail,
                       const char *request_id, const char *task_id, const struct json_faults *faults);
