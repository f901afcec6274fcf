/* Supervision of a few children: started in order, restarted with back-off when they die, stopped in the reverse order.
 * One thread; children are in sessions of their own, so that Ctrl-C reaches the supervisor alone.
 *
 *              start               died                   back-off is over
 *      DOWN ─────────▶ UP ─────────────────▶ WAITING ─────────────────────▶ UP
 *                       │ stop                  │ stop
 *                       ▼        died           ▼
 *                    STOPPING ─────────────▶ STOPPED
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define SUPERVISOR_CHILDREN_MAX 8
#define SUPERVISOR_FDS_MAX 12

enum child_state { CHILD_DOWN, CHILD_UP, CHILD_WAITING, CHILD_STOPPING, CHILD_STOPPED };

/* How a child runs; all is borrowed until supervisor_done(). */
struct child_spec {
        const char *name;            /* for messages, and of the file of its executable */
        char **argv;                 /* argv[0] is the path */
        int fds[SUPERVISOR_FDS_MAX]; /* become 3, 4…; one below 3 ends; its listeners (LISTEN_FDS) */
        bool reload;                 /* gets our SIGHUP */
        bool ready_pipe;             /* one more descriptor: it writes a line to it once it serves */
        bool drop;                   /* to these ids, without capabilities, with no_new_privs */
        uid_t uid;
        gid_t gid, groups[2]; /* groups: the only supplementary ones */
        size_t n_groups;
        int death_signal; /* what it gets when the supervisor dies */
        unsigned stop_ms; /* between SIGTERM and SIGKILL */
};

struct child {
        struct child_spec spec;
        enum child_state state;
        pid_t pid;
        int ready_fd;                /* read end; -EBADF once it said so */
        bool ready;                  /* since its last start */
        uint64_t started_ns, due_ns; /* due: of the restart, or of SIGKILL */
        unsigned backoff_ms;
};

struct supervisor {
        struct child children[SUPERVISOR_CHILDREN_MAX];
        size_t n;
        int signal_fd;
        int pids_fd;           /* borrowed: pids are written there from offset 0; -EBADF: nowhere */
        const char *pids_note; /* a line that goes there too, borrowed; NULL: none */
        bool served;           /* every child was ready once */
        bool stopping, failed;
        void (*ready)(void *data); /* once */
        void *data;
};

/* Blocks SIGTERM, SIGINT, SIGCHLD (SIGHUP too unless it is ignored), becomes a subreaper. A SIGHUP that somebody sends is
 * passed on; one of the kernel, whose terminal has gone, is a stop. */
int supervisor_init(struct supervisor *s, struct err *err);
int supervisor_add(struct supervisor *s, const struct child_spec *spec, struct err *err); /* before run */

/* Until SIGTERM or SIGINT; 0 after a stop in order. -ECHILD: a child ended before all were ready once. Nothing that
 * descends from the children is left. */
int supervisor_run(struct supervisor *s, struct err *err);
void supervisor_done(struct supervisor *s);

/* Waits for processes that an earlier supervisor left, whose pids are in `text` ("NAME PID" lines), and kills them when
 * they do not end; they are known by the name of their executable. */
void supervisor_await_old(const char *text, unsigned wait_ms);
