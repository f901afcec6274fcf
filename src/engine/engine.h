/* Engines: what runs containers. One vtable, of which native/ is the first maker; the conformance suite drives task/ over
 * any of them. Everything is asynchronous on the loop: a function that takes a callback answers 0 and calls it exactly
 * once, later, or answers -errno and never calls it. No function blocks. */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;
struct engine_container;

/* What an engine can do. A missing one is a listed skip in the conformance suite and a null in answers. */
#define ENGINE_F_SIGNAL_EXACT (1u << 0) /* tells `exit 139` from death by SIGSEGV */
#define ENGINE_F_MEMORY_PEAK (1u << 1)
#define ENGINE_F_CPU_USAGE (1u << 2)
#define ENGINE_F_DISK_LIMIT (1u << 3)
#define ENGINE_F_EXEC (1u << 4)
#define ENGINE_F_COPY_OUT (1u << 5)
#define ENGINE_F_NETWORKS (1u << 6)        /* attach to and detach from a network while running */
#define ENGINE_F_SURVIVES_DAEMON (1u << 7) /* containers and their output outlive mayflyd */
#define ENGINE_F_COPY_IN (1u << 8)
#define ENGINE_F_LIVE (1u << 9) /* live stdin and output */
#define ENGINE_F_SECRETS (1u << 10)
#define ENGINE_F_REOPEN (1u << 11) /* any user of the task may open its standard streams again (/dev/stdout) */
/* NAT reaches outside only: no address of this host, no neighbour, no link-local or metadata address; INTERNET no private
 * range either. */
#define ENGINE_F_NETWORK_RULES (1u << 12)

enum engine_network { ENGINE_NET_NONE = 1, ENGINE_NET_NAT, ENGINE_NET_INTERNET };
const char *engine_network_name(enum engine_network mode); /* "none", "nat", "internet" */

enum engine_stream { ENGINE_STDOUT, ENGINE_STDERR };

enum engine_file_type { ENGINE_FILE_REGULAR, ENGINE_FILE_DIRECTORY, ENGINE_FILE_SYMLINK };

#define ENGINE_FILES_MAX 16384
#define ENGINE_PATH_MAX 4095 /* bytes of a path or of a link's target */

/* Made in the order given, before the program starts, owned by the task's user. A file or link replaces what is there but a
 * directory; a directory that is there gets the mode and keeps its owner. Those on the way are made where they are
 * missing. */
struct engine_file {
        char *path; /* relative to the working directory, or absolute; inside the container's root whatever it says */
        void *content; /* SYMLINK: its target, len bytes without NUL; DIRECTORY: nothing */
        size_t len;
        uint32_t mode; /* 07777; not of a SYMLINK */
        enum engine_file_type type;
};

#define ENGINE_SECRETS_MAX 64
#define ENGINE_SECRET_NAME_MAX 128
#define ENGINE_SECRET_MAX (64 * 1024) /* bytes of one value */

/* A file /run/secrets/NAME, mode 0400, of the task's user, on a file system of its own in memory, whatever the image has
 * there. Neither the record nor copy_out() holds it. */
struct engine_secret {
        const char *name; /* [A-Za-z0-9_.-]{1,128}, but "." and ".." */
        const void *value;
        size_t len;
};

struct engine_limits {
        uint64_t memory, disk, shm; /* bytes */
        uint32_t cpu_milli, pids;
        uint64_t output; /* bytes kept of each stream; what comes after is counted and dropped */
};

#define ENGINE_RECORD_MAX (64 * 1024)

/* What to run. All is borrowed during create(). NULL means the image's. */
struct engine_spec {
        const char *id;     /* [a-z0-9]{1,32} */
        const char *owner;  /* network namespaces are used again for the same owner only */
        const char *digest; /* of the manifest, from ensure_image() */
        char *const *cmd, *const *entrypoint, *const *env; /* env: "K=V", merged over the image's */
        const char *workdir, *user;
        int stdin_fd;           /* read end of a pipe, borrowed: live stdin; negative: stdin_data */
        const void *stdin_data; /* NULL: end of file at once */
        size_t stdin_len;
        const struct engine_file *files;
        size_t n_files;
        const struct engine_secret *secrets;
        size_t n_secrets;
        struct engine_limits limits;
        enum engine_network network;
        bool init;
        bool live;          /* events.data() hands on what comes, pause() stops it */
        bool keep_root;     /* copy_out() works after the end, too */
        const void *record; /* opaque; list() gives it back after a restart of the daemon */
        size_t record_len;  /* at most ENGINE_RECORD_MAX */
};

enum engine_pull { ENGINE_PULL_MISSING, ENGINE_PULL_ALWAYS, ENGINE_PULL_NEVER };

struct engine_progress {
        uint64_t done, total; /* bytes; total 0: not known yet */
};

/* What ensure_image() is asked for. All is borrowed during the call; an engine that keeps the credentials wipes them. */
struct engine_image_request {
        const char *ref, *owner;
        enum engine_pull pull;
        const char *username, *password; /* NULL: none */
        /* Called at most some times a second, never after the answer, with the caller's data; may be NULL. */
        void (*progress)(const struct engine_progress *p, void *data);
};

struct engine_image {
        char ref[512];          /* normalised: docker.io/library/busybox:1.36 */
        char digest[80];        /* sha256:… of the manifest */
        unsigned retry_after_s; /* of -EBUSY; 0: not said */
};

enum engine_end {
        ENGINE_END_EXITED,    /* code */
        ENGINE_END_SIGNALED,  /* signo */
        ENGINE_END_NOT_FOUND, /* no such program */
        ENGINE_END_NOT_EXECUTABLE,
        ENGINE_END_START_ERROR, /* error, text */
        ENGINE_END_LOST,        /* the engine lost it: node_lost */
};

struct engine_exit {
        enum engine_end end;
        int code, signo;
        int error; /* positive errno of START_ERROR */
        char text[200];
        bool oom, disk_full;
        uint64_t memory_peak;                                /* bytes; UINT64_MAX: unknown */
        uint64_t cpu_ns;                                     /* UINT64_MAX: unknown */
        uint64_t create_mono_ns, start_mono_ns, end_mono_ns; /* start: the program runs (0: never did) */
};

struct engine_output {
        int fd;               /* memfd with what is kept, from offset 0; peek: valid until remove() */
        uint64_t kept, total; /* bytes in fd; bytes produced */
};

struct engine_stats {
        uint64_t memory_now, memory_peak, cpu_ns;
        uint64_t start_mono_ns; /* the program runs since then; 0: it is still being prepared */
};

/* Bounds of a copy; each is required. */
struct engine_copy_limits {
        uint64_t bytes;   /* of the whole archive */
        uint32_t entries; /* files, directories and others in it */
        uint64_t timeout_ns;
};

/* Told to whoever made the container. None is called from within an engine function. */
struct engine_events {
        void (*output)(struct engine_container *c, enum engine_stream stream, void *data); /* more of it; may be NULL */
        void (*exited)(struct engine_container *c, const struct engine_exit *exit,
                       void *data); /* once, after the last output */
        /* Of one that was made `live`: each piece as it comes, before output(); borrowed for the call, in which pause() is
         * allowed, and of the engine's functions no other. Kept and counted it is as that of others. What a pipe still
         * holds at the end (at most 1 MiB each) is handed on before exited(), paused or not. One that an earlier daemon
         * made is live no more. May be NULL. */
        void (*data)(struct engine_container *c, enum engine_stream stream, const void *bytes, size_t len, void *data);
};

/* image: of a failure it may be NULL, or hold retry_after_s only. */
typedef void (*engine_image_fn)(int r, const struct engine_image *image, const struct err *err, void *data);
typedef void (*engine_done_fn)(int r, const struct err *err, void *data);
typedef void (*engine_stats_fn)(int r, const struct engine_stats *stats, const struct err *err, void *data);
/* One container of an earlier daemon. The receiver owns it as if it had made it and answers with its events; `record` is
 * borrowed. */
typedef void (*engine_found_fn)(struct engine_container *c, const char *id, const void *record, size_t record_len,
                                void *data);

/* What an engine that is not ours says of itself, "" where it has not yet; and what weakens or hinders tasks on its host, a
 * sentence each, with what to do. Peek: until the loop turns. */
struct engine_about {
        const char *product, *version, *api; /* "Docker", "20.10.24", "1.41" */
        const char *const *findings;
        size_t n_findings;
};

struct engine_ops {
        const char *name; /* "native", "docker" */
        uint32_t features;

        /* Makes the image present. r: -ENOENT unknown, -EACCES not this owner's, -EHOSTUNREACH registry, -EBUSY it takes no
         * more requests now, -EBADMSG what it sends is wrong, -EOPNOTSUPP nothing that runs here, -EKEYREJECTED
         * not as the policy wants it, -EUCLEAN what is here of it is damaged, -ENOSPC; else something failed here. An engine
         * without a registry client looks only whether it is there, whatever `pull` says. */
        int (*ensure_image)(struct engine *e, const struct engine_image_request *request, engine_image_fn fn,
                            void *data, struct err *err);

        /* Who asked with this data wants no image any more: its answer comes soon, whatever it is, in a later turn. NULL where
         * no answer takes long. */
        void (*cancel_image)(struct engine *e, void *data);

        /* Prepares; nothing runs yet. -ENOENT: no image of that digest; -EINVAL: the spec (err says what: user…). */
        int (*create)(struct engine *e, const struct engine_spec *spec, const struct engine_events *events, void *data,
                      struct engine_container **ret, struct err *err);
        int (*start)(struct engine_container *c, struct err *err); /* failures come as exited(START_ERROR) */

        /* What was produced so far; may be asked at any time until remove(). */
        void (*attach)(struct engine_container *c, enum engine_stream stream, struct engine_output *ret);
        int (*signal)(struct engine_container *c, int signo, struct err *err); /* SIGKILL ends all processes */
        /* Of one that was started and waits for nothing (-ESRCH). One round trip to the launcher, which reads some files: fit to be asked ten times a
         * second for each container. */
        int (*stats)(struct engine_container *c, engine_stats_fn fn, void *data, struct err *err);

        /* Stops and goes on taking what a live container writes; it then blocks, as on a full pipe. Of others: nothing. */
        void (*pause)(struct engine_container *c, enum engine_stream stream, bool paused);

        /* Replaces the record that list() gives back: at once, and either the old or the new one survives a crash. */
        int (*update_record)(struct engine_container *c, const void *record, size_t len, struct err *err);

        /* The result is stored for good: frees the container and what the engine kept of it. Kills it if it runs; no
         * event follows. */
        void (*remove)(struct engine_container *c);

        /* Calls `found` for each container of an earlier daemon, then `done`. Once, before the first create(). */
        int (*list)(struct engine *e, engine_found_fn found, engine_done_fn done, void *data, struct err *err);

        /* A number, never 0 or 1, that stays as long as whatever was started with it is among what list() finds, until
         * remove(); so what it does not find never started. 0: nothing is known. NULL: always 0. */
        uint64_t (*life)(struct engine *e);

        /* NULL where the engine's features lack them. */
        int (*exec)(struct engine_container *c, char *const *argv, const struct engine_events *events, void *data,
                    struct engine_container **ret, struct err *err);
        /* Unpacks the tar in tar_fd, a regular file or memfd (-EINVAL: pipes and others) that is read from its beginning
         * and borrowed for the call, into the directory at `path`, as copy_out() finds it. Of a container that was made
         * and is not removed. r: -ENOENT, -ENOTDIR, -ESRCH. */
        int (*copy_in)(struct engine_container *c, const char *path, int tar_fd, engine_done_fn fn, void *data,
                       struct err *err);

        /* Writes the file or directory at `path` (relative to the working directory, or absolute; links on the way are
         * followed inside the container's root, one at the end is archived as such) as a tar (POSIX.1-2017, pax) to
         * tar_fd: an empty memfd, or the write end of a pipe that the caller empties until end of file; borrowed. Entries
         * are named NAME, NAME/…, after the last component ("." for the root). Of a container that runs, or that ended,
         * was made with keep_root and is not removed yet. What it is made of is the container's: treat it as hostile.
         * Other file systems (/proc, /dev/shm below a directory that is asked for), sockets and devices are left out;
         * FIFOs are archived as such. r: -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG (or too deep), -EACCES (secrets, kernel file systems), -EFBIG
         * (bytes), -E2BIG (entries), -ETIMEDOUT, -ESRCH (never ran, was removed, or nothing was kept); of
         * what was written until then nothing is valid. */
        int (*copy_out)(struct engine_container *c, const char *path, const struct engine_copy_limits *limits,
                        int tar_fd, engine_done_fn fn, void *data, struct err *err);
        int (*network_attach)(struct engine_container *c, const char *network, engine_done_fn fn, void *data,
                              struct err *err);
        int (*network_detach)(struct engine_container *c, const char *network, engine_done_fn fn, void *data,
                              struct err *err);

        /* Whether one more container can be made now, beside `starting` ones that were promised and are not created yet; where not,
         * it is to be asked again in a while. NULL where nothing else bounds them than what the caller knows. */
        bool (*room)(struct engine *e, unsigned starting);

        /* Health: 0, or -errno with what is wrong (launcher gone…). */
        int (*check)(struct engine *e, struct err *err);
        /* What hinders tasks although all of ours works (another firewall), in a sentence for people; NULL: nothing that is
         * known. Peek: until the loop turns. May be NULL where an engine has nothing to tell. */
        const char *(*notice)(const struct engine *e);
        void (*about)(const struct engine *e, struct engine_about *ret); /* NULL: the engine is ours, all is known */
        /* Leaves containers as they are. Not from within a callback of the loop, which it may turn. */
        void (*free)(struct engine *e);
};

struct engine {
        const struct engine_ops *ops;
};

/* First member of every engine's container. */
struct engine_container {
        struct engine *engine;
        const struct engine_events *events;
        void *data;
};

/* Sets the events of a container that list() found; to be called in `found`. If it has ended already, exited() follows
 * later. Who does not want the container calls remove() in `found`. */
void engine_container_watch(struct engine_container *c, const struct engine_events *events, void *data);
