/* What the files of the Docker engine share. */
#pragma once

#include "base/list.h"
#include "base/map.h"
#include "base/str.h"
#include "base/time.h"
#include "engine/docker/demux.h"
#include "engine/docker/docker.h"
#include "http/fetch.h"
#include "json/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DOCKER_ID_MAX 32
#define DOCKER_NAME_MAX 128
#define DOCKER_STREAMS 2
#define DOCKER_ANSWER_MAX (8 * 1024 * 1024) /* bytes of an answer in JSON */
#define DOCKER_STARTS 16                    /* containers that are made at a time: Docker is slower with more */
#define DOCKER_CALL_S 60                    /* for an answer */
#define DOCKER_LABEL_INSTANCE "dev.mayfly.instance"
#define DOCKER_LABEL_TASK "dev.mayfly.task"
#define DOCKER_LABEL_NODE "dev.mayfly.node"
#define DOCKER_NODE_LEN 32 /* lower-case hex digits */
#define DOCKER_EXEC_ID_MAX 128
#define DOCKER_IMAGES_MAX 4096 /* tasks.max_running: each needs one from its pull to its container */

struct docker_container;
struct docker_pull;

/* ── where Docker is, and connections to it: host.c, conn.c ──────────────────────────────────────────────────────────── */

struct docker_host {
        char *socket;       /* unix; else NULL, and: */
        char *name, *port;  /* a name or an address without brackets */
        char *base, *shown; /* of URLs; for people */
        char *ca, *cert, *key;
        bool tls;
};

int docker_host_parse(const struct engine_docker_config *config, struct docker_host *ret, struct err *err);
void docker_host_done(struct docker_host *h);

struct docker;
struct docker_tls;
struct docker_conn;

/* None is called from within docker_conn_open(); each may close the connection. */
struct docker_conn_handler {
        void (*open)(void *data);
        void (*io)(bool in, void *data);                          /* it is ready for what is waited for; to be read */
        void (*failed)(int r, const struct err *err, void *data); /* before it was open */
};

/* A connection that is the caller's own. Once it is open both directions are waited for. */
int docker_conn_open(struct docker *d, const struct docker_conn_handler *handler, void *data, struct docker_conn **ret,
                     struct err *err);
void docker_conn_close(struct docker_conn *c); /* accepts NULL */
void docker_conn_wait(struct docker_conn *c, bool in, bool out);
/* As recv(2) and send(2), that never block: -errno. */
ssize_t docker_conn_recv(struct docker_conn *c, void *buf, size_t len); /* len at least 16 KiB, a TLS record */
ssize_t docker_conn_send(struct docker_conn *c, const void *buf, size_t len);
void docker_conn_shutdown(struct docker_conn *c); /* nothing more will be sent */
void docker_tls_free(struct docker_tls *t);       /* accepts NULL */

/* ── calls: call.c ───────────────────────────────────────────────────────────────────────────────────────────────── */

struct docker_call;

/* r: 0 with any status, else -errno of the connection. Of the answer: its body, and what it says is wrong. */
typedef void (*docker_call_fn)(struct docker_call *call, int r, const struct err *err, void *data);

struct docker_call {
        struct list node;
        struct docker *docker;
        struct fetch *fetch;
        unsigned status;
        bool patient;
        size_t max;
        struct str body;
        const char *keep; /* the name of a header of the answer, and its value: NULL where it has none */
        char *kept;
        /* Of answers below 300, instead of the body: as fetch_handler.data. */
        int (*on_data)(struct docker_call *call, const void *bytes, size_t len, void *data);
        ssize_t (*send)(void *buf, size_t max, void *data);
        docker_call_fn fn;
        void (*drop)(void *data);
        void *data;
};

struct docker_request {
        const char *method;
        const char *path;   /* after /v1.x, encoded */
        const char *type;   /* of the body; NULL: JSON */
        const char *header; /* one more; NULL: none */
        const char *keep;   /* the answer's header of that name is wanted; a literal */
        const void *body;
        size_t body_len;
        ssize_t (*send)(void *buf, size_t max,
                        void *data); /* instead of body: body_len bytes, or SIZE_MAX: until 0; or -errno */
        bool unversioned;
        unsigned timeout_s; /* 0: the configuration's; UINT_MAX: none */
        bool patient;       /* that no answer came in that time says nothing about Docker */
        int (*on_data)(struct docker_call *call, const void *bytes, size_t len, void *data);
        void (*drop)(void *data); /* frees data when the engine ends before the answer; NULL: somebody else does */
};

/* The call is freed after fn. */
int docker_call(struct docker *d, const struct docker_request *q, docker_call_fn fn, void *data,
                struct docker_call **ret, struct err *err);
void docker_call_cancel(struct docker_call *call); /* accepts NULL; fn is not called; not from within fn */
/* What Docker says is wrong (`message` of an error's JSON), for people. */
void docker_call_message(const struct docker_call *call, char *out, size_t size);
/* How a call ended whose good answer is 200: r with err, or what `error` makes of the status and of what Docker says (-errno). */
int docker_call_result(const struct docker_call *call, int r, const struct err *err, const char *what,
                       int (*error)(unsigned status, const char *text), struct err *ret);
void docker_message(const char *body, size_t len, unsigned status, char *out, size_t size);

/* ── JSON line by line: lines.c ──────────────────────────────────────────────────────────────────────────────────── */

#define DOCKER_LINE_MAX (64 * 1024)

/* Zero-initialised is ready. */
struct docker_lines {
        struct str line; /* as much of one as came */
};
typedef void (*docker_line_fn)(const json_t *line, void *data);

int docker_lines_feed(struct docker_lines *l, const void *bytes, size_t len, docker_line_fn fn,
                      void *data);                                            /* -EMSGSIZE */
void docker_lines_end(struct docker_lines *l, docker_line_fn fn, void *data); /* a last one without its newline */
void docker_lines_done(struct docker_lines *l);

/* ── answers in JSON: answers.c ──────────────────────────────────────────────────────────────────────────────────── */

/* All of these: -EBADMSG where it is no such answer; -ENOMEM. `text` may be NULL. */

struct docker_run_state {
        bool running, oom;
        int code; /* 0 to 255 */
};
int docker_inspect_read(const char *text, size_t len, struct docker_run_state *ret); /* GET /containers/NAME/json */
int docker_exec_read(const char *text, size_t len, struct docker_run_state *ret);    /* GET /exec/ID/json */
int docker_exec_id_read(const char *text, size_t len, char ret[DOCKER_EXEC_ID_MAX + 1]);
int docker_wait_read(const char *text, size_t len, int *ret);
int docker_stats_read(const char *text, size_t len, struct engine_stats *ret); /* what is no number counts 0 */

struct docker_image;
int docker_image_read(const char *text, size_t len, struct docker_image **ret); /* GET /images/REF/json: the caller's */

/* GET /containers/json, of those that wear our name's label. Both maps by name, with items of `all`. */
struct docker_listed {
        json_t *all;
        struct map *ours;   /* of this node, and what older daemons made ahead: without a record nobody's */
        struct map *unsaid; /* older daemons made them, and say of no node whose they are: a record of ours tells */
        size_t others;
        const char *node; /* of one of those that says it; a peek */
};
int docker_listed_read(const struct docker *d, const char *text, size_t len, struct docker_listed *ret);
void docker_listed_done(struct docker_listed *l);
bool docker_listed_ran(const struct map *containers, const char *name); /* it is there, and not created only */

const char *docker_event_oom(const struct docker *d, const json_t *event); /* which of ours; NULL: none. A peek */
const char *docker_text(const json_t *o, const char *name);                /* of a member; "": it has none. A peek */

/* ── the engine: docker.c, image.c, adopt.c, watch.c, info.c ─────────────────────────────────────────────────────────────────── */

struct docker {
        struct engine engine;
        struct loop *loop;
        struct fetcher *fetcher;
        struct docker_host host;
        struct docker_tls *tls; /* NULL: none was needed yet */
        char *name;
        char node[DOCKER_NODE_LEN + 1];
        bool node_lost; /* it is a new one, for the old one was damaged */
        int records;    /* directory */
        uint64_t lost_ns;
        unsigned timeout_s;
        char prefix[16]; /* /v1.41, when it was negotiated */
        struct list calls;
        struct list starts; /* struct docker_container, start_node: those whose turn has not come */
        unsigned starting;
        struct list containers;
        struct list pulls, deletes;
        struct engine_docker_images images_of;
        struct list wants;       /* struct docker_want */
        struct list copies;      /* struct docker_copy: out of the store */
        struct map *images;      /* by digest: struct docker_image, at most DOCKER_IMAGES_MAX */
        struct list images_used; /* the same; the last used one comes last */

        /* The circuit breaker: open from the first connections that failed until Docker answers again. */
        bool up;
        unsigned failures; /* one after the other */
        char fault[200];
        struct list warm_specs; /* struct docker_warm_spec */
        unsigned prewarm, n_warm_specs, n_warm, warming;
        struct loop_timer warm_timer;

        struct docker_call *ping, *watch;
        struct docker_lines events;
        unsigned deaths;   /* times that the events ended, as they do with Docker */
        bool live_restore; /* containers and the pipes of their output outlive it */
        bool podman;
        char version[32];
        char *findings[ENGINE_DOCKER_FINDINGS_MAX];
        size_t n_findings;
        bool hindered;         /* by the first of them */
        char *strangers;       /* a finding: containers of our name and of another node; NULL: there are none */
        uint64_t strangers_ns; /* when they were last counted */
        bool counting;
        bool cgroups_seen; /* Docker has no cgroup namespaces */
        void (*watcher)(struct engine *e, void *data);
        void *watcher_data;
        struct loop_timer ping_timer, delete_timer;
        unsigned deleting;

        bool listing, listed;
        engine_found_fn found;
        engine_done_fn list_done;
        void *list_data;
};

struct docker_image {
        struct list node;
        char digest[80]; /* its ID */
        char *user, *workdir;
};

void docker_report(struct docker *d, int r, const struct err *err); /* how a call ended: moves the breaker */
int docker_version_read(struct docker *d, const char *text, size_t len, struct err *err); /* of GET /version */
int docker_info_begin(struct docker *d, struct err *err);                                 /* docker_known() follows */
int docker_info_read(struct docker *d, const char *text, size_t len, struct err *err);    /* of GET /info */
void docker_info_done(struct docker *d);
/* n of them; 0: there are none any more. `node` made one of them, and one's name is `name`; NULL: it says not. */
void docker_find_strangers(struct docker *d, size_t n, const char *node, const char *name);
void docker_find_cgroups(struct docker *d);
int docker_node_open(struct docker *d, const char *path, struct err *err); /* of d->records, for people */
bool docker_node_valid(const char *text);                                  /* accepts NULL */
void docker_about(const struct engine *e, struct engine_about *ret);
void docker_known(struct docker *d, int r,
                  const struct err *err); /* Docker answers, and what it is, is known; or not */
void docker_delete(struct docker *d, const char *name, bool unsure); /* until it is gone */
int docker_ensure_image(struct engine *e, const struct engine_image_request *request, engine_image_fn fn, void *data,
                        struct err *err);
/* Who asked with this data wants nothing any more. True: Docker may have the image by now. */
bool docker_leave_image(struct docker *d, void *data);
void docker_pulls_done(struct docker *d);
/* Whoever asks. Of a failure after which Docker may have the image nevertheless, fn's image is not NULL. */
int docker_bring_image(struct engine *e, const struct engine_image_request *request, engine_image_fn fn, void *data,
                       struct err *err);
void docker_cancel_image(struct engine *e, void *data);
void docker_wants_done(struct docker *d);
int docker_pull_error(const char *text, bool credentials); /* what Docker says a pull failed of: a positive errno */
/* Takes it. Forgets the one that was not used for longest where there are too many. */
int docker_image_note(struct docker *d, struct docker_image *image);
const struct docker_image *docker_image_find(struct docker *d, const char *digest); /* peek or NULL */
void docker_image_free(struct docker_image *image);                                 /* accepts NULL */
void docker_images_free(struct docker *d);
int docker_list(struct engine *e, engine_found_fn found, engine_done_fn done, void *data, struct err *err);
void docker_watch(struct docker *d);                           /* for events, if it does not yet */
void docker_list_begin(struct docker *d);                      /* Docker is there */
void docker_recount(struct docker *d);                         /* the strangers, if there were any, and now and then */
bool docker_deletes(const struct docker *d, const char *name); /* it is being deleted */

/* Beside the record: the container's name, and what is needed to go on reading its output. */
int docker_record_write(const struct docker_container *c, const void *record, size_t len, struct err *err);
/* What stands beside it has changed. */
int docker_record_again(const struct docker_container *c, struct err *err);
void docker_record_remove(struct docker *d, const char *id);
bool docker_records_node(struct docker *d, char ret[DOCKER_NODE_LEN + 1]); /* the one that all of them name */

/* ── containers: container.c, stream.c, output.c, spec.c, files.c, copy.c ────────────────────────────────────────────── */

/*   NEW ─▶ CREATING ─▶ FILLING ─▶ ATTACHING ─▶ STARTING ─▶ RUNNING ─▶ WAITING ─▶ INSPECTING ─▶ (REREADING) ─▶ ENDED
 *                                       found by list(), or cut off: FOLLOWING ──▲ */
enum docker_state {
        DOCKER_NEW,
        DOCKER_CREATING,
        DOCKER_FILLING,
        DOCKER_ATTACHING,
        DOCKER_STARTING,
        DOCKER_RUNNING,   /* its output is read */
        DOCKER_FOLLOWING, /* its output is read from the log */
        DOCKER_WAITING,   /* the output has ended */
        DOCKER_INSPECTING,
        DOCKER_REREADING, /* the log, for what we missed */
        DOCKER_ENDED,
};

struct docker_output {
        int mem;
        uint64_t kept, total;
        uint64_t skip; /* bytes of the log that are known already */
        bool cut;      /* something is missing after what is kept */
        bool newline;  /* the log's last byte, that Docker may have made up */
        bool more;     /* than was there at the last output() */
        bool paused;
        uint64_t beyond; /* bytes that were handed on although it is paused */
};

/* One hijacked connection. */
struct docker_stream {
        struct docker_container *container;
        struct docker_conn *conn;
        struct loop_timer timer; /* for its answer */
        bool open, ended;
        bool with_stdin;
        unsigned which;   /* bit of each enum engine_stream that it carries */
        unsigned refused; /* with that status, and that text */
        char why[ERR_TEXT_MAX];
        struct str out, head;
        size_t sent;
        struct demux demux;
};

struct docker_container {
        struct engine_container base;
        struct docker *docker;
        struct list node, start_node;
        enum docker_state state;
        char id[DOCKER_ID_MAX + 1];
        char name[DOCKER_NAME_MAX];
        bool is_exec; /* a process that was put into the container of that name, and its id when it is known */
        char *exec;
        struct docker_call *call;
        struct loop_timer timer, kill_timer;
        struct str body; /* what it shares with others of the create call, until it has started */
        struct docker_warm_spec *spec;
        bool warm; /* it was made ahead */
        struct docker_files *files;
        struct str stdin_data;
        size_t stdin_sent;
        int stdin_fd;
        struct loop_io *stdin_io;
        bool has_stdin, live, init;
        bool draining;         /* it was killed, and pauses no more */
        bool queued, starting; /* waits for its turn; it has come */
        bool oom;
        bool created;     /* Docker may know it */
        bool start_asked; /* it may run from then on, whether or not Docker's answer comes; the record has it, too */
        bool unsure;      /* nobody knows whether it does */
        bool disturbed;   /* output may have been missed */
        bool lost_sight;  /* Docker was away */
        unsigned deaths;  /* of Docker when it was made */
        uint64_t gone_ns; /* since when Docker is away */
        uint64_t output_limit;
        char *workdir;
        struct docker_output out[DOCKER_STREAMS];
        struct docker_stream streams[DOCKER_STREAMS];
        unsigned n_streams;
        struct demux log;
        struct engine_exit exit;
        int kill_signo;
        uint64_t sent; /* signals, bit n - 1 of signal n */
        uint64_t create_ns, start_ns;
};

int docker_container_create(struct engine *e, const struct engine_spec *spec, const struct engine_events *events,
                            void *data, struct engine_container **ret, struct err *err);
int docker_container_start(struct engine_container *c, struct err *err);
int docker_container_signal(struct engine_container *c, int signo, struct err *err);
int docker_container_stats(struct engine_container *c, engine_stats_fn fn, void *data, struct err *err);
void docker_container_attach(struct engine_container *c, enum engine_stream stream, struct engine_output *ret);
void docker_container_pause(struct engine_container *c, enum engine_stream stream, bool paused);
int docker_container_update_record(struct engine_container *c, const void *record, size_t len, struct err *err);
void docker_container_remove(struct engine_container *c);
int docker_container_copy_out(struct engine_container *c, const char *path, const struct engine_copy_limits *limits,
                              int tar_fd, engine_done_fn fn, void *data, struct err *err);

int docker_container_copy_in(struct engine_container *c, const char *path, int tar_fd, engine_done_fn fn, void *data,
                             struct err *err);
int docker_archive_path(const struct docker_container *c, const char *path, struct str *out); /* URL of /archive */
int docker_copy_error(unsigned status, const char *text);                                     /* of /archive: -errno */
#define DOCKER_STAT "X-Docker-Container-Path-Stat" /* a header of /archive's answers */
char *docker_stat_link(const char *stat); /* a link's target, the caller's; NULL: it is none, or nothing is known */
int docker_container_network_attach(struct engine_container *c, const char *network, engine_done_fn fn, void *data,
                                    struct err *err);
int docker_container_network_detach(struct engine_container *c, const char *network, engine_done_fn fn, void *data,
                                    struct err *err);
int docker_container_exec(struct engine_container *c, char *const *argv, const struct engine_events *events, void *data,
                          struct engine_container **ret, struct err *err);
void docker_exec_ended(struct docker_container *c); /* its output has */

struct docker_container *docker_container_new(struct docker *d, const char *id, struct err *err);
void docker_container_free(struct docker_container *c);
void docker_container_ended(struct docker_container *c, const struct engine_exit *how);
void docker_container_failed(struct docker_container *c, enum engine_end end, int error, const char *text);
void docker_container_follow(struct docker_container *c); /* its output by the log, from where we are */
void docker_container_oom(struct docker_container *c);    /* one of its processes was killed */
void docker_container_attached(struct docker_container *c);
void docker_container_filled(struct docker_container *c, int r, const struct err *err);
enum engine_end docker_start_end(const char *text); /* of what Docker says of a start that failed */
void docker_container_cut(struct docker_container *c, int r, const struct err *err); /* a stream ended */

int docker_streams_open(struct docker_container *c, struct err *err);
void docker_streams_close(struct docker_container *c);
void docker_streams_again(struct docker_container *c);   /* closes them; those of another container may be opened */
void docker_streams_started(struct docker_container *c); /* stdin flows from now on */
void docker_streams_drain(struct docker_container *c);   /* it was killed: what is left is read, paused or not */

int docker_output_open(struct docker_container *c, struct err *err);
void docker_output_take(struct docker_container *c, enum engine_stream stream, const void *bytes, size_t len);
void docker_output_log(struct docker_container *c, enum engine_stream stream, const void *bytes, size_t len);
void docker_output_log_begin(struct docker_container *c);
void docker_output_log_end(struct docker_container *c);
void docker_output_tell(struct docker_container *c);
bool docker_output_begins(const struct docker_container *c, enum engine_stream stream, const char *text);
bool docker_output_holds(const struct docker_container *c, enum engine_stream stream, const char *text); /* early */
ssize_t docker_output_read(const struct docker_container *c, enum engine_stream stream, char *out, size_t max);
void docker_output_drop(struct docker_container *c, enum engine_stream stream);

/* Of the body of POST /containers/create what all that run the same share, without braces, with a mark where each has a hostname
 * of its own; and all of it, of one. `task` NULL: none. */
int docker_spec_build(const struct docker *d, const struct docker_container *c, const struct engine_spec *spec,
                      struct str *out, struct err *err);
int docker_spec_own(const struct docker *d, const char *shared, const char *id, const char *task, struct str *out);

/* ── containers made ahead: prewarm.c ────────────────────────────────────────────────────────────────────────────── */

/* Counts a task of that specification, until it is released; *ret: there was a container of it, whose name is now the caller's,
 * who deletes it. NULL: not of those that are made ahead. */
struct docker_warm_spec *docker_warm_take(struct docker *d, const char *key, char name[DOCKER_NAME_MAX], bool *ret);
void docker_warm_release(struct docker *d, struct docker_warm_spec *s); /* accepts NULL */
void docker_warm_plan(struct docker *d);                                /* a start is over: there may be time */
void docker_warm_done(struct docker *d);                                /* deletes them, and makes no more */

/* The files of a task, as an archive that is put into the container before it starts. */
struct docker_files *docker_files_new(struct docker_container *c, const struct engine_spec *spec, const char *user,
                                      struct err *err);
void docker_files_free(struct docker_files *f);
void docker_files_again(struct docker_files *f);                   /* they are put into another container */
int docker_files_put(struct docker_container *c, struct err *err); /* docker_container_filled() follows */
