/* The protocol between mayflyd and mayfly-launcher: SOCK_SEQPACKET, one message a packet, descriptors by SCM_RIGHTS
 * (unix(7)). Fixed layout, native byte order, one machine. The launcher serves one peer at a time, of the uid that its
 * ceiling names, and trusts no field: a message that is malformed closes the connection, one that asks for more than the
 * ceiling is answered LAUNCH_REFUSED.
 *
 *   daemon                                   launcher
 *     HELLO ─────────────────────────────────▶
 *       ◀───────────────────────────────── HELLO (what this host can do)
 *       ◀───────────────────────────────── ADOPT × n (every container not yet removed, with its descriptors)
 *       ◀───────────────────────────────── READY
 *     START ─────────────────────────────────▶
 *       ◀───────────────────────────────── REFUSED (nothing was started), or later
 *       ◀───────────────────────────────── EXITED (exactly once for each START that was not refused)
 *     REMOVE ────────────────────────────────▶ (the result is stored: the launcher forgets the container)
 *
 * The launcher keeps duplicates of the descriptors of START until REMOVE, so that the next daemon gets them back. */
#pragma once

#include <stdint.h>

#define LAUNCH_VERSION 4

#define LAUNCH_ID_MAX 32              /* container id: [a-z0-9]{1,32}, with NUL where shorter */
#define LAUNCH_HEX 64                 /* names in the store: SHA-256 in lower-case hex */
#define LAUNCH_MSG_MAX (96 * 1024)    /* any packet */
#define LAUNCH_INLINE_MAX (64 * 1024) /* of payload in the packet; above, a sealed memfd */
#define LAUNCH_PAYLOAD_MAX (40 * 1024 * 1024)
#define LAUNCH_ARGS_MAX 4096 /* argv; env likewise */
#define LAUNCH_FILES_MAX 16384
#define LAUNCH_SECRETS_MAX 64
#define LAUNCH_SECRET_NAME_MAX 128
#define LAUNCH_SECRET_MAX (64 * 1024) /* bytes of one value */
#define LAUNCH_GROUPS_MAX 64
#define LAUNCH_LAYERS_MAX 127
#define LAUNCH_HOSTNAME_MAX 64
#define LAUNCH_TEXT_MAX 4096 /* hosts, resolv.conf, paths */
#define LAUNCH_COPIES_MAX 4  /* COPY_OUT at once; more are REFUSED EBUSY */
#define LAUNCH_COPY_BYTES_MAX (UINT64_C(1) << 40)
#define LAUNCH_COPY_MS_MAX (60 * 60 * 1000)

enum launch_op {
        /* daemon to launcher */
        LAUNCH_HELLO = 1,
        LAUNCH_START,
        LAUNCH_SIGNAL,
        LAUNCH_REMOVE,
        LAUNCH_STATS,
        LAUNCH_WORK,
        LAUNCH_COMMIT,
        LAUNCH_DISCARD,
        LAUNCH_DELETE,
        LAUNCH_LIST,
        LAUNCH_COPY_OUT,
        LAUNCH_REPLACE,
        /* launcher to daemon (HELLO goes both ways) */
        LAUNCH_ADOPT = 64,
        LAUNCH_READY,
        LAUNCH_REFUSED,
        LAUNCH_EXITED,
        LAUNCH_COUNTERS,
        LAUNCH_WORK_DONE,
        LAUNCH_DONE,
        LAUNCH_NAMES,
};

/* Begins every packet. `seq` is the daemon's; an answer repeats it. EXITED and ADOPT carry 0. */
struct launch_header {
        uint32_t op;
        uint32_t seq;
};

struct launch_hello {
        struct launch_header h;
        uint32_t version; /* another version is refused and closed */
        uint32_t cgroup;  /* answer: enum launch_cgroup */
        uint32_t slots;   /* answer: containers that can live at once */
        uint32_t idmap;   /* answer: 1 if the store's file system can be idmapped, each slot its own ids */
        uint64_t life;    /* answer: random, of this launcher alone; never 0 or 1 */
};

enum launch_cgroup { LAUNCH_CGROUP_V2 = 1, LAUNCH_CGROUP_V1, LAUNCH_CGROUP_HYBRID };

/* Descriptors of START, in this order; all are required but SPEC, which comes last and only with LAUNCH_F_SPEC. */
enum launch_start_fd {
        LAUNCH_FD_NETNS,    /* a network namespace, not the host's nor the launcher's */
        LAUNCH_FD_STDIN,    /* what the container reads: memfd or pipe, read-only is not required */
        LAUNCH_FD_STDOUT_W, /* write ends of pipes; closed in the launcher once the container runs */
        LAUNCH_FD_STDERR_W,
        LAUNCH_FD_STDOUT_R, /* kept for the next daemon */
        LAUNCH_FD_STDERR_R,
        LAUNCH_FD_STDOUT_MEM, /* memfds, kept for the next daemon */
        LAUNCH_FD_STDERR_MEM,
        LAUNCH_FD_RECORD, /* memfd with the daemon's opaque record of the task; never read here */
        LAUNCH_FD_SPEC,   /* sealed memfd (F_SEAL_WRITE|SHRINK|GROW) that holds the payload */
        LAUNCH_FD_COUNT,
};

#define LAUNCH_F_INIT 1u      /* a small init as pid 1 */
#define LAUNCH_F_SPEC 2u      /* the payload is in LAUNCH_FD_SPEC, not in the packet */
#define LAUNCH_F_KEEP_ROOT 4u /* its root is kept after its end, for COPY_OUT; so is its slot, until REMOVE */

struct launch_limits {
        uint64_t memory;    /* bytes; memory.max is memory + disk + shm, swap 0 */
        uint64_t disk;      /* bytes of the writable layer (tmpfs) */
        uint64_t shm;       /* bytes of /dev/shm */
        uint32_t cpu_milli; /* 1000 is one processor */
        uint32_t pids;
};

/* The payload follows: records of a u32 length and that many bytes, in this order (no padding, no NUL but as counted):
 * argc × argv, envc × "K=V", hostname, workdir, hosts, resolv.conf; for each secret: name, value; for each file: path and
 * content, with a u32 before the path's length: the mode with its type (S_IFREG, S_IFDIR without content, S_IFLNK without
 * permissions, whose content is the target: inode(7)). Strings hold no NUL. */
struct launch_start {
        struct launch_header h;
        char id[LAUNCH_ID_MAX];
        char tree[LAUNCH_HEX]; /* no NUL */
        struct launch_limits limits;
        uint64_t caps; /* bounding, permitted and effective set; a subset of the ceiling's */
        uint32_t flags;
        uint32_t uid, gid; /* inside, at most 65535 */
        uint32_t n_groups;
        uint32_t groups[LAUNCH_GROUPS_MAX];
        uint32_t argc, envc, n_secrets, n_files;
        uint32_t payload_len;
        uint32_t pad;
};

struct launch_signal {
        struct launch_header h; /* no answer: the container may just have ended */
        char id[LAUNCH_ID_MAX];
        uint32_t signo; /* 1 to 64; to pid 1 (with init: to its child), SIGKILL to all */
};

struct launch_id { /* REMOVE (no answer), STATS */
        struct launch_header h;
        char id[LAUNCH_ID_MAX];
};

/* COPY_OUT: writes a tar of `path` to the one descriptor that comes with it: a memfd, or a pipe's write end. Answered DONE or
 * REFUSED (engine/engine.h, copy_out(), says which errors). path_len bytes of the path follow, without NUL; relative to the
 * working directory. */
struct launch_copy {
        struct launch_header h;
        char id[LAUNCH_ID_MAX];
        uint64_t max_bytes; /* of the archive, 1 to LAUNCH_COPY_BYTES_MAX */
        uint32_t max_entries;
        uint32_t timeout_ms; /* 1 to LAUNCH_COPY_MS_MAX */
        uint32_t path_len;
        uint32_t pad;
};

struct launch_counters {
        uint64_t memory_peak; /* bytes */
        uint64_t memory_now;
        uint64_t cpu_ns;
        uint32_t oom_kills;
        uint32_t pids_refused; /* forks refused by the limit, where the kernel counts them */
        uint64_t disk_used;    /* bytes of the writable layer at the end */
        uint32_t disk_full;    /* 1 if the writable layer had no free block or inode at the end */
        uint32_t pad;
};

struct launch_stats { /* COUNTERS */
        struct launch_header h;
        char id[LAUNCH_ID_MAX];
        uint64_t exec_ns; /* CLOCK_MONOTONIC; 0: it has not executed its program yet */
        struct launch_counters counters;
};

/* How far the child came, in order. Below EXECED the start failed with `error` (errno) and `code` is meaningless. */
enum launch_stage {
        LAUNCH_STAGE_CLONE,
        LAUNCH_STAGE_CGROUP,
        LAUNCH_STAGE_NET,
        LAUNCH_STAGE_MOUNT,
        LAUNCH_STAGE_IMAGE,
        LAUNCH_STAGE_ROOT,
        LAUNCH_STAGE_KERNEL_FS,
        LAUNCH_STAGE_SECRETS,
        LAUNCH_STAGE_PIVOT,
        LAUNCH_STAGE_USER,
        LAUNCH_STAGE_FILES,
        LAUNCH_STAGE_WORKDIR,
        LAUNCH_STAGE_PRIVILEGE,
        LAUNCH_STAGE_EXEC, /* error ENOENT: no such program; EACCES, ENOEXEC and others: not executable */
        LAUNCH_STAGE_EXECED,
};

struct launch_exit {
        uint32_t stage; /* enum launch_stage */
        int32_t error;
        int32_t si_code;   /* CLD_EXITED, CLD_KILLED, CLD_DUMPED (waitid(2)) */
        int32_t status;    /* exit code or signal; with init, init reports its child's as its own where it can */
        uint64_t clone_ns; /* CLOCK_MONOTONIC: START taken up, exec, end noticed */
        uint64_t exec_ns;
        uint64_t exit_ns;
        uint64_t user_ns; /* rusage of pid 1 and what it waited for */
        uint64_t system_ns;
        struct launch_counters counters;
};

struct launch_exited {
        struct launch_header h;
        char id[LAUNCH_ID_MAX];
        struct launch_exit exit;
};

/* One container of an earlier daemon, with the descriptors STDOUT_R, STDERR_R, STDOUT_MEM, STDERR_MEM, RECORD, NETNS in
 * this order. NETNS is the one that START brought. */
enum launch_adopt_fd {
        LAUNCH_ADOPT_STDOUT_R,
        LAUNCH_ADOPT_STDERR_R,
        LAUNCH_ADOPT_STDOUT_MEM,
        LAUNCH_ADOPT_STDERR_MEM,
        LAUNCH_ADOPT_RECORD,
        LAUNCH_ADOPT_NETNS,
        LAUNCH_ADOPT_COUNT,
};
struct launch_adopt {
        struct launch_header h;
        char id[LAUNCH_ID_MAX];
        uint32_t ended; /* 1: `exit` is valid and no EXITED follows */
        uint32_t pad;
        struct launch_exit exit;
};

struct launch_refused { /* to START, WORK, COMMIT, DELETE, LIST, STATS, COPY_OUT */
        struct launch_header h;
        char id[LAUNCH_ID_MAX]; /* of START, STATS and COPY_OUT */
        int32_t error;          /* positive errno; EAGAIN: no slot is free */
        char text[220];
};

struct launch_done { /* COMMIT, DISCARD, DELETE, COPY_OUT */
        struct launch_header h;
};

/* Image workers. A worker runs confined on what the descriptors give it; what it makes lies under a token until it is
 * committed under its name, and is thrown away with the connection otherwise. */
enum launch_work {
        LAUNCH_WORK_INDEX = 1, /* fds: archive (read), plain copy (write, used if compressed), report (write) */
        LAUNCH_WORK_UNPACK,    /* fds: blob or pipe (read), report (write); makes a layer */
        LAUNCH_WORK_MERGE,     /* fds: report (write); layers, lowest first; makes a tree */
        LAUNCH_WORK_PLAIN, /* fds: blob or pipe (read), plain copy or pipe (write, used if compressed), report (write) */
        LAUNCH_WORK_COMPARE, /* fds: report (write); one name: what a token made beside what has that name */
};

struct launch_work_start {
        struct launch_header h;
        uint32_t work;
        uint32_t n_layers;  /* MERGE, COMPARE; that many names of LAUNCH_HEX bytes follow */
        uint64_t max_bytes; /* of what comes out */
        uint64_t max_entries;
        uint32_t token; /* COMPARE */
        uint32_t kind;  /* COMPARE: enum launch_kind */
};

struct launch_work_done {
        struct launch_header h;
        uint32_t token; /* of UNPACK and MERGE that went well; 0 otherwise */
        int32_t si_code;
        int32_t status; /* 0 with CLD_EXITED: it went well; else the report says why */
        uint32_t oom;   /* killed for want of memory */
};

enum launch_kind { LAUNCH_KIND_LAYER = 1, LAUNCH_KIND_TREE };

/* COMMIT. REPLACE: the same, but what has the name goes; REFUSED EBUSY while a container uses it. */
struct launch_commit { /* answer DONE; REFUSED EEXIST if the name is there (the token is discarded) */
        struct launch_header h;
        uint32_t token;
        uint32_t kind;
        char name[LAUNCH_HEX];
};

struct launch_discard {
        struct launch_header h;
        uint32_t token;
        uint32_t pad;
};

struct launch_delete { /* DELETE: gone at once, removed behind; REFUSED EBUSY while a container uses the tree */
        struct launch_header h;
        uint32_t kind;
        uint32_t pad;
        char name[LAUNCH_HEX];
};

struct launch_list {
        struct launch_header h;
        uint32_t kind;
        uint32_t pad;
};

#define LAUNCH_NAMES_MAX 512 /* names in one packet */
struct launch_names {        /* that many names of LAUNCH_HEX bytes follow */
        struct launch_header h;
        uint32_t n;
        uint32_t more; /* 1: another NAMES with the same seq follows */
};
