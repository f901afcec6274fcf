/* Tasks as JSON: what the API and the command share. The tables are design.md's («The API»). */
#pragma once

#include "base/err.h"
#include "base/str.h"
#include "json/json.h"

#include <stdbool.h>
#include <stdint.h>

#define WIRE_BODY_MAX (32 * 1024 * 1024)
#define WIRE_VALUES_MAX 65536 /* of JSON in it; three times what all the bounds below allow */

/* Bounds on what a request may hold. */
#define WIRE_IMAGE_MAX 511
#define WIRE_ARGV_MAX 4096              /* entries of cmd, entrypoint, env each */
#define WIRE_ARG_MAX (128 * 1024 - 1)   /* bytes of one of them: MAX_ARG_STRLEN of execve(2) */
#define WIRE_ARGS_MAX (2 * 1024 * 1024) /* bytes of all of them, with their NULs */
#define WIRE_PATH_MAX 4095
#define WIRE_NAME_MAX 255 /* one component of a path */
#define WIRE_USER_MAX 255
#define WIRE_FILES_MAX 1024
#define WIRE_MEMBERS_MAX 16384 /* of all archives among the files, and the files themselves */
#define WIRE_OUTPUTS_MAX 64
#define WIRE_OUTPUTS_PATHS_MAX (16 * 1024)        /* bytes of all their paths */
#define WIRE_OUTPUTS_BYTES_MAX (32 * 1024 * 1024) /* of all outputs of an answer, before encoding */
#define WIRE_SECRETS_MAX 64
#define WIRE_SECRET_NAME_MAX 128
#define WIRE_SECRET_MAX (64 * 1024)
#define WIRE_LABELS_MAX 64
#define WIRE_LABELS_BYTES_MAX (16 * 1024) /* of all of them */
#define WIRE_LABEL_NAME_MAX 128
#define WIRE_LABEL_VALUE_MAX 1024
#define WIRE_CREDENTIAL_MAX 8192 /* tokens of registries are long */
#define WIRE_RETRIES_MAX 10
#define WIRE_ENGINE_MAX 32

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
#define WIRE_CPU_TIME_MAX_NS (INT64_C(366) * 86400 * 1000000000)
#define WIRE_WAIT_MAX_NS (INT64_C(86400) * 1000000000)

enum wire_network { WIRE_NET_DEFAULT, WIRE_NET_NONE, WIRE_NET_NAT, WIRE_NET_INTERNET };
enum wire_encoding { WIRE_ENC_AUTO, WIRE_ENC_BASE64 };
enum wire_pull { WIRE_PULL_MISSING, WIRE_PULL_ALWAYS, WIRE_PULL_NEVER };

struct wire_file {
        char *path; /* tar: the directory below which it is unpacked */
        void *content;
        size_t len;
        uint32_t mode; /* not of a tar */
        bool tar;
};

struct wire_secret {
        char *name; /* [A-Za-z0-9_.-]{1,128}, but "." and ".." */
        char *value;
        size_t len;
};

/* Which limits a request named: a default that is above a key's maximum gives way, what was asked for is refused. */
#define WIRE_LIMIT_TIMEOUT (1u << 0)
#define WIRE_LIMIT_QUEUE_TIMEOUT (1u << 1)
#define WIRE_LIMIT_GRACE (1u << 2)
#define WIRE_LIMIT_CPU_TIME (1u << 3)
#define WIRE_LIMIT_MEMORY (1u << 4)
#define WIRE_LIMIT_DISK (1u << 5)
#define WIRE_LIMIT_SHM (1u << 6)
#define WIRE_LIMIT_OUTPUT (1u << 7)
#define WIRE_LIMIT_CPUS (1u << 8)
#define WIRE_LIMIT_PIDS (1u << 9)

/* Defaults as in the API's table; 0 timeout means none (only where the daemon lets it). */
struct wire_limits {
        int64_t timeout_ns, queue_timeout_ns, grace_ns;
        int64_t cpu_time_ns;               /* 0: none */
        int64_t memory, disk, shm, output; /* bytes */
        int64_t cpu_milli, pids;
};
void wire_limits_default(struct wire_limits *l);

/* POST /v1/tasks. Owned strings; NULL where absent. Zero is the default of every member but the limits. */
struct wire_task_request {
        char *image;
        char **cmd, **entrypoint;
        char **env; /* "K=V" */
        char *workdir, *user;
        void *stdin_data; /* decoded; NULL: none */
        size_t stdin_len;
        struct wire_file *files;
        size_t n_files;
        char **outputs; /* paths to bring back */
        struct wire_secret *secrets;
        size_t n_secrets;
        char *registry_username, *registry_password; /* both or none */
        char **labels;                               /* "name=value", sorted by name; no '=' in a name */
        char *engine;
        struct wire_limits limits;
        uint32_t limits_given; /* WIRE_LIMIT_* */
        bool kill_on_output_limit;
        enum wire_network network;
        enum wire_pull pull;
        bool init;
        enum wire_encoding encoding;
        unsigned retries;
        bool no_wait;    /* wait: false, or 0 */
        int64_t wait_ns; /* wait: a duration; 0: until the end */
        bool detach;     /* on_disconnect: detach */
};
void wire_task_request_done(struct wire_task_request *r); /* wipes what is secret: secrets, credentials, env, stdin */

/* One member of an archive among the files. */
enum wire_member_type { WIRE_MEMBER_FILE, WIRE_MEMBER_DIRECTORY, WIRE_MEMBER_SYMLINK };

struct wire_member {
        char *path; /* below the file's own path */
        enum wire_member_type type;
        const void *data; /* FILE: within the archive; SYMLINK: `target` */
        size_t len;
        char *target;
        uint32_t mode;
};

struct wire_members {
        struct wire_member *items;
        size_t len, cap;
};

/* What a file that is a tar holds, in its order; a hard link is a file of its own with the same content. The archive is borrowed
 * as long as the members are used; the caller owns them: wire_members_done(), also after a failure. -EBADMSG: it is no tar, or
 * holds what is no file, or what leads out of its directory; -E2BIG: more than `max`; -ENOMEM. */
int wire_members_read(const struct wire_file *f, size_t max, struct wire_members *ret, struct err *err);
void wire_members_done(struct wire_members *m);

/* Bytes that the request holds: arguments, files, stdin, secrets. */
size_t wire_task_request_size(const struct wire_task_request *r);

/* Reads and checks a body; every fault is listed. A file's mode is octal text or the number itself. Members of later
 * versions are faults of their own. -EINVAL with faults. The JSON value's own memory is the caller's to drop. */
int wire_task_request_read(json_t *body, struct wire_task_request *ret, struct json_faults *faults);
/* Members that differ from the default, secrets and credentials too: the text is to be sealed or sent, and wiped. -EILSEQ:
 * a text is not UTF-8, which JSON cannot hold; -ENOMEM. */
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
        WIRE_REASON_REGISTRY_BUSY,
        WIRE_REASON_IMAGE_INVALID,
        WIRE_REASON_IMAGE_UNSUPPORTED,
        WIRE_REASON_IMAGE_UNTRUSTED,
        WIRE_REASON_IMAGE_BROKEN,
        WIRE_REASON_NO_SPACE,
        WIRE_REASON_START_ERROR,
        WIRE_REASON_QUEUE_TIMEOUT,
        WIRE_REASON_NODE_LOST,
};
extern const char *const wire_reason_names[]; /* "" first */

/* One path that was brought back: {"path","type":"file"|"directory"|"symlink","mode":"0644","size","encoding","content"}, or
 * {"path","error"}. A file's content is "utf-8" or "base64"; a directory's is a tar, "tar+base64"; a symlink's its target. */
enum wire_output_type { WIRE_OUTPUT_FILE, WIRE_OUTPUT_DIRECTORY, WIRE_OUTPUT_SYMLINK };
extern const char *const wire_output_types[];

struct wire_output {
        char *path; /* as it was asked for */
        const char
                *error; /* NULL: none; "not_found", "too_large", "not_allowed", "not_supported", "timeout", "failed" */
        enum wire_output_type type;
        uint32_t mode;
        void *data; /* a file's bytes, a directory's tar, a symlink's target */
        size_t len;
};
void wire_outputs_free(struct wire_output *outputs, size_t n);
int wire_outputs_write(const struct wire_output *outputs, size_t n, struct str *out); /* the JSON array; -ENOMEM */

/* A task as answered. Strings and streams are borrowed by the writer, owned after a read: wire_task_done(). */
struct wire_task {
        char id[32];
        enum wire_status status;
        int exit_code; /* -1: null */
        int signal;    /* 0: null */
        enum wire_reason reason;
        char *detail;                   /* text of a failure; NULL: none */
        unsigned retry_after_s;         /* of REGISTRY_BUSY; 0: not said. Not written */
        uint64_t pull_done, pull_total; /* bytes, while it is pulled; total 0: not known */
        const void *out[2];             /* kept bytes of stdout, stderr; NULL with has_output false */
        size_t out_len[2];
        uint64_t out_total[2];
        bool has_output; /* lists leave the streams and outputs out */
        struct wire_output *outputs;
        size_t n_outputs;
        const struct str *outputs_text; /* of the writer: what wire_outputs_write() made, instead of `outputs` */
        char *const *labels;            /* "name=value" */
        unsigned attempts;              /* how often it was begun: more than 1 after retries */
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

/* Appends a document that wire_task_write() wrote without output, with it. `outputs` is the JSON array, or empty. */
int wire_task_add_output(const char *document, size_t len, const void *const data[2], const size_t data_len[2],
                         const struct str *outputs, struct str *out);

/* A JSON text with two long strings, which are made piece by piece: parts[0], the first one, parts[1], the second, parts[2]. The
 * parts are owned: wire_text_done(); `data` is borrowed until then. */
struct wire_text {
        struct str parts[3];
        const void *data[2];
        size_t len[2];
        bool plain[2]; /* UTF-8, as it is; else base64 */
        unsigned part; /* what comes next: 0, 2, 4 the parts, 1, 3 the strings */
        size_t at;
};
#define WIRE_PIECE (48 * 1024) /* bytes of a string in one piece; a multiple of 3 */

int wire_task_begin(const struct wire_task *t, struct wire_text *ret);
/* As wire_task_add_output(). */
int wire_task_begin_output(const char *document, size_t len, const void *const data[2], const size_t data_len[2],
                           const struct str *outputs, struct wire_text *ret);
int wire_text_next(struct wire_text *w, struct str *out); /* appends a piece: 1; that was the last: 0; -ENOMEM */
void wire_text_done(struct wire_text *w);

/* An answer read, unknown members let pass: they are a newer daemon's. -EINVAL: it is no task; -ENOMEM. */
int wire_task_read(json_t *document, struct wire_task *ret, struct err *err);
void wire_task_done(struct wire_task *t); /* of one that was read */

/* GET /v1/tasks. */
struct wire_task_list {
        struct wire_task *tasks;
        size_t n;
        char *next_cursor; /* NULL: that was all */
};
int wire_task_list_read(json_t *document, struct wire_task_list *ret, struct err *err);
void wire_task_list_done(struct wire_task_list *l);

bool wire_label_valid(const char *label); /* "name=value", of sizes and characters that a request may hold */
const char *wire_signal_name(int signo, char out[16]); /* "SIGKILL", "SIGRTMIN+1" */
int wire_signal_parse(const char *name);               /* "KILL", "SIGKILL", "9": number or -EINVAL */

/* RFC 9457. `faults` may be NULL. */
int wire_problem_write(struct str *out, int status, const char *reason, const char *title, const char *detail,
                       const char *request_id, const char *task_id, const struct json_faults *faults);
