/* Tasks as JSON: what the API and the command share. The tables are design.md's («The API»). */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "json/json.h"

#include <stdbool.h>
#include <stdint.h>

#define WIRE_BODY_MAX (32 * 1024 * 1024)

/* Bounds on what a request may hold. */
#define WIRE_IMAGE_MAX 511
#define WIRE_ARGV_MAX 4096              /* entries of cmd, entrypoint, env each */
#define WIRE_ARG_MAX (128 * 1024 - 1)   /* bytes of one of them: MAX_ARG_STRLEN of execve(2) */
#define WIRE_ARGS_MAX (2 * 1024 * 1024) /* bytes of all of them, with their NULs */
#define WIRE_PATH_MAX 4095
#define WIRE_NAME_MAX 255 /* one component of a path */
#define WIRE_USER_MAX 255
#define WIRE_FILES_MAX 1024

/* Bounds on limits. Less memory than Docker's minimum starts nothing useful. */
#define WIRE_MEMORY_MIN (6LL << 20)
#define WIRE_MEMORY_MAX (1LL << 44)
#define WIRE_DISK_MIN (64LL << 10)
#define WIRE_SHM_MIN (64LL << 10)
#define WIRE_OUTPUT_MAX (256LL << 20)
#define WIRE_PIDS_MAX 4194304 /* PID_MAX_LIMIT */
#define WIRE_CPU_MILLI_MIN 10
#define WIRE_CPU_MILLI_MAX 1024000
#define WIRE_TIMEOUT_MIN_NS INT64_C(1000000)
#define WIRE_TIMEOUT_MAX_NS (INT64_C(366) * 86400 * 1000000000)
#define WIRE_QUEUE_TIMEOUT_MAX_NS (INT64_C(86400) * 1000000000)
#define WIRE_GRACE_MAX_NS (INT64_C(3600) * 1000000000)

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
        int64_t memory, disk, shm, output; /* bytes */
        int64_t cpu_milli, pids;
};
void wire_limits_default(struct wire_limits *l);

/* POST /v1/tasks. Owned strings; NULL where absent. */
struct wire_task_request {
        char *image;
        char **cmd, **entrypoint;
        char **env; /* "K=V" */
        char *workdir, *user;
        void *stdin_data; /* decoded; NULL: none */
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

/* Reads and checks a body; every fault is listed. A file's mode is octal text or the number itself. Members of later
 * versions are faults of their own. -EINVAL with faults. */
int wire_task_request_read(json_t *body, struct wire_task_request *ret, struct json_faults *faults);
/* Members that differ from the default. -EILSEQ: a text is not UTF-8, which JSON cannot hold; -ENOMEM. */
int wire_task_request_write(const struct wire_task_request *r, struct str *out);

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
        int exit_code; /* -1: null */
        int signal;    /* 0: null */
        enum wire_reason reason;
        char *detail;       /* text of a failure; NULL: none */
        const void *out[2]; /* kept bytes of stdout, stderr; NULL with has_output false */
        size_t out_len[2];
        uint64_t out_total[2];
        bool has_output; /* lists leave the streams out */
        bool truncated;
        enum wire_encoding encoding;
        int64_t wall_ns, cpu_ns, memory_peak;         /* -1: null */
        int64_t queued_ns, pull_ns, start_ns, run_ns; /* -1: null */
        uint64_t created_ms, started_ms, finished_ms; /* real time; 0: null */
        char *image_ref, *image_digest;               /* digest NULL: null */
        const char *engine;
        struct wire_limits limits;
};
int wire_task_write(const struct wire_task *t, struct str *out); /* one JSON object, as in design.md's example */

/* Appends a document that wire_task_write() wrote without streams, with them. */
int wire_task_add_output(const char *document, size_t len, const void *const data[2], const size_t data_len[2],
                         struct str *out);
const char *wire_signal_name(int signo, char out[16]); /* "SIGKILL", "SIGRTMIN+1" */
int wire_signal_parse(const char *name);               /* "KILL", "SIGKILL", "9": number or -EINVAL */

/* RFC 9457. `faults` may be NULL. */
int wire_problem_write(struct str *out, int status, const char *reason, const char *title, const char *detail,
                       const char *request_id, const char *task_id, const struct json_faults *faults);
