/* What the files of the native engine share. */
#pragma once

#include "base/list.h"
#include "base/map.h"
#include "base/str.h"
#include "base/vec.h"
#include "engine/native/native.h"
#include "engine/native/peer.h"
#include "launcher/proto.h"
#include "net/proto.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NATIVE_WAIT_NS (30 * UINT64_C(1000000000))    /* for the next slot or namespace that anybody gets */
#define NATIVE_LAUNCHER_NS (5 * UINT64_C(1000000000)) /* for a launcher that is gone, until its containers are lost */
#define NATIVE_WATCH_NS (3 * UINT64_C(1000000))       /* age at which a container's output is watched */
#define NATIVE_MODES (NET_INTERNET + 1)
#define NATIVE_STREAMS 2

/* Descriptors of a container: namespace, stdin, two pipes, two memfds, record, specification. */
#define NATIVE_CONTAINER_FDS 10
/* What its start takes for a moment: as many again, where the launcher's socket takes no more now. */
#define NATIVE_START_FDS 10
#define NATIVE_FDS_PLENTY 16384 /* a limit above which they are no concern */
#define NATIVE_CACHE_SHARE 16   /* namespaces that nobody uses may take this part of the limit */

struct native_container;
struct native_workers_state;

/* ── network namespaces: netns.c ─────────────────────────────────────────────────────────────────────────────────── */

enum netns_state {
        NETNS_STOCK, /* fresh */
        NETNS_USED,  /* by a container */
        NETNS_CLEANING,
        NETNS_IDLE, /* clean, waits for its owner's next container */
};

struct netns {
        struct list node; /* in the list of its state */
        enum netns_state state;
        int fd;
        uint32_t index, mode, address;
        uint32_t seq; /* of the CLEAN or ADOPT under way */
        bool adopting;
        bool known;  /* to the netd that is connected */
        char *owner; /* NULL: nobody had it */
};

struct native_net {
        struct peer peer;
        bool greeted; /* HELLO was answered */
        bool synced;  /* netd knows what we hold */
        uint32_t seq;
        struct list stock[NATIVE_MODES], used, cleaning, idle; /* struct netns */
        unsigned n_stock[NATIVE_MODES], asked[NATIVE_MODES], want[NATIVE_MODES], n_idle;
        struct list waiters[NATIVE_MODES]; /* struct native_container, wait_node */
        uint64_t came_ns[NATIVE_MODES];    /* when the last one came from netd */
        struct list leaving;               /* struct netns, to be cleaned at the end of the turn */
        bool deferred;                     /* the end of this turn is owed */
        struct str resolv;
        struct str notice; /* of netd: what stands in the way of tasks */
};

/* ── the engine: native.c, launch.c, work.c ──────────────────────────────────────────────────────────────────────── */

enum launch_state {
        LAUNCH_DOWN,
        LAUNCH_GREETING, /* HELLO is on its way */
        LAUNCH_ADOPTING, /* ADOPT × n follow */
        LAUNCH_UP,
};

struct native {
        struct engine engine;
        struct loop *loop;
        struct image_store *store;
        struct image_pulls *pulls; /* NULL: none */
        uint32_t stock, max_idle;

        struct peer launcher;
        enum launch_state state;
        struct launch_hello host;
        bool forgot; /* a container of an earlier daemon had to be removed unheard */
        uint32_t seq;
        struct loop_timer lost_timer;
        struct map *by_id;      /* of native_container */
        struct list containers; /* struct native_container, node */
        uint32_t slots_used;
        struct list slot_waiters;    /* struct native_container, wait_node */
        uint64_t slot_ns;            /* when the last of them got one */
        struct list pending;         /* struct native_pending */
        struct list copies, copying; /* struct native_copy: waiting, made by the launcher */
        unsigned n_copying;
        struct loop_timer copy_timer;

        bool listed; /* list() had its answer */
        engine_found_fn found;
        engine_done_fn list_done;
        void *list_data;

        struct native_net net;
        struct list ensuring; /* struct ensured, while a pull has it */
        struct list held;     /* struct ensured, whose image may have no tree yet */
        bool holding;
        struct list unwatched; /* struct native_container, watch_node, oldest first */
        struct loop_timer watch_timer;
        int devnull;
        char *scratch; /* LAUNCH_MSG_MAX bytes, to build a packet in */
        char *piece;   /* OUTPUT_PIECE bytes of live output */
        struct image_workers workers;
};

/* One request to the launcher that will be answered. */
struct native_pending {
        struct list node;
        uint32_t seq;
        struct native_container *container;
        engine_stats_fn stats_fn;
        image_work_fn work_fn;
        image_done_fn done_fn;
        image_names_fn names_fn;
        char (*names)[65];
        size_t n_names;
        void *data;
};

int native_launch_init(struct native *n, const char *path, struct err *err);
void native_launch_done(struct native *n);
int native_launch_send(struct native *n, const void *packet, size_t len, const int *fds, size_t n_fds, struct err *err);

/* Sends a request whose header's seq it fills in; the caller sets the callback of *ret. */
int native_request(struct native *n, void *packet, size_t len, const int *fds, size_t n_fds,
                   struct native_pending **ret, struct err *err);
/* Answers list(): the launcher told all that it has. */
void native_tell_found(struct native *n);
void native_workers_init(struct native *n);
/* What the launcher answered, or that it is gone. */
void native_pending_fail(struct native_pending *p, int error, const char *text);
void native_work_done(struct native_pending *p, const struct launch_work_done *m);
void native_work_names(struct native_pending *p, const struct launch_names *m, const char *names);

/* ── containers: container.c, copy.c, output.c, record.c, spec.c ─────────────────────────────────────────────────────────── */

enum container_state {
        CONTAINER_NEW,
        CONTAINER_WAITING, /* for a slot or a network namespace */
        CONTAINER_STARTED,
        CONTAINER_ENDED,
};

struct native_output {
        int pipe_r, pipe_w, mem;
        struct loop_io *io;
        uint64_t kept, dropped;
        bool paused;
};

struct native_container {
        struct engine_container base;
        struct native *native;
        struct list node, wait_node, watch_node;
        enum container_state state;
        bool unsure; /* the connection broke; the next launcher may know it */
        bool holds_slot;
        bool removed;     /* the caller has gone; only the launcher's answer is awaited */
        bool adopted_end; /* list() found it ended: exited() is still owed */
        char id[LAUNCH_ID_MAX + 1];
        char *owner;
        uint32_t mode;
        uint64_t output_limit;
        uint64_t start_ns; /* start() was called */
        struct loop_timer wait_timer;
        struct netns *netns;
        struct launch_start *start; /* until it is sent */
        struct str head, tail;      /* payload before and after hosts and resolv.conf */
        char hostname[16];
        char *workdir; /* NULL: found by list() */
        bool live;
        int stdin_fd;
        struct native_output out[NATIVE_STREAMS];
        int record_fd;
        uint32_t record_slot;
        struct engine_exit exit;
        int kill_signo; /* asked for before it was started */
};

int native_container_create(struct engine *e, const struct engine_spec *spec, const struct engine_events *events,
                            void *data, struct engine_container **ret, struct err *err);
int native_container_start(struct engine_container *c, struct err *err);
int native_container_signal(struct engine_container *c, int signo, struct err *err);
int native_container_stats(struct engine_container *c, engine_stats_fn fn, void *data, struct err *err);
void native_container_attach(struct engine_container *c, enum engine_stream stream, struct engine_output *ret);
int native_container_update_record(struct engine_container *c, const void *record, size_t len, struct err *err);
void native_container_remove(struct engine_container *c);

/* One container of an earlier daemon; takes the descriptors. */
int native_container_adopt(struct native *n, const struct launch_adopt *m, int *fds, struct native_container **ret,
                           struct err *err);
void native_container_free(struct native_container *c);
/* Goes on after a slot or a namespace was missing. */
void native_container_advance(struct native_container *c);
void native_serve_slots(struct native *n);
void native_container_ended(struct native_container *c, const struct launch_exit *exit);
void native_container_failed(struct native_container *c, enum engine_end end, int error, const char *text);
/* Tells the end of one that list() found. */
void native_container_tell_end(struct native_container *c);

void native_container_pause(struct engine_container *c, enum engine_stream stream, bool paused);
#define OUTPUT_PIECE (64 * 1024)

int native_container_copy_out(struct engine_container *c, const char *path, const struct engine_copy_limits *limits,
                              int tar_fd, engine_done_fn fn, void *data, struct err *err);
void native_copies_forget(struct native_container *c); /* those that wait are answered later */
void native_copies_done(struct native *n);             /* none is answered any more */

int native_output_open(struct native_container *c, struct err *err);
void native_output_close(struct native_output *o);
void native_output_started(struct native_container *c); /* it will be watched, if it lives long enough */
void native_output_watch(struct native_container *c);   /* at once */
void native_output_finish(struct native_container *c);  /* all writers are gone: takes the rest */

/* The record of a container: what the next daemon needs, in a memfd that the launcher holds too. */
struct native_record {
        uint32_t mode, net_index, net_address;
        uint64_t output_limit, start_ns;
        uint64_t dropped[NATIVE_STREAMS];
        struct str owner, data; /* of a read: owned */
};
int native_record_write(int fd, const struct native_record *r, const void *owner, const void *data, size_t len,
                        struct err *err);
int native_record_started(int fd, uint32_t net_index, uint32_t net_address, uint64_t start_ns, struct err *err);
int native_record_dropped(int fd, const uint64_t dropped[NATIVE_STREAMS]);
int native_record_update(int fd, uint32_t *slot, const void *data, size_t len, struct err *err);
int native_record_read(int fd, struct native_record *ret, uint32_t *ret_slot, struct err *err);
void native_record_done(struct native_record *r);

/* Merges the image's configuration with the request, by Docker's rules, into c->start, head and tail. */
int native_spec_build(struct native_container *c, const struct engine_spec *spec, const struct image *image,
                      const struct image_user *user, struct err *err);
/* The file /etc/hosts. */
int native_spec_hosts(const struct native_container *c, struct str *out);

int native_net_init(struct native *n, const char *path, struct err *err);
void native_net_done(struct native *n);
/* Tells netd what we hold, when both it and the launcher are there. */
void native_net_sync(struct native *n);
/* Sets c->netns, or puts c among the waiters: native_container_advance() follows. */
void native_net_acquire(struct native *n, struct native_container *c);
/* The last process in it is gone. */
void native_net_release(struct native *n, struct netns *ns);
void native_net_taint(struct netns *ns); /* processes may be left in it: never used again */
/* Namespaces that are asked for or waited for, each of which takes a descriptor when it comes. */
unsigned native_net_owed(const struct native *n);
void native_net_shrink(struct native *n); /* gives up those that nobody uses */
/* One that a container of an earlier daemon lives in; takes fd. NULL: out of memory. */
struct netns *native_net_adopt(struct native *n, int fd, uint32_t mode, uint32_t index, uint32_t address,
                               const char *owner);
