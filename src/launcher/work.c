#include "launcher/work.h"

#include "base/fd.h"
#include "base/list.h"
#include "base/str.h"
#include "base/time.h"
#include "launcher/sys.h"
#include "launcher/userns.h"
#include "launcher/validate.h"
#include "launcher/work_child.h"
#include "launcher/work_store.h"
#include "launcher/work_watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#define INDEX_FDS 3
#define UNPACK_FDS 2
#define MERGE_FDS 1
#define WATCH_NS (NS_PER_S / 4) /* between two looks at what a worker wrote */
#define WRITTEN_EXTRA (UINT64_C(256) << 20)
#define INODES_EXTRA 200000
#define SETTLE_NS NS_PER_S /* nothing else is to be done for that long before what was made is written out… */
#define SETTLE_LATEST_NS (20 * NS_PER_S) /* …but no later than that */
#define PLACES (WORK_RUNNING_MAX + 1)
#define SETTLE_PLACE WORK_RUNNING_MAX        /* for writing out */
#define FILE_MAX_LEAST (UINT64_C(512) << 20) /* reports and what lies beside a layer are smaller */

/* Which of a worker's descriptors (image/worker/worker.h) is which: input, plain copy, report, directory, layers. */
enum child_fd { CHILD_INPUT, CHILD_PLAIN, CHILD_REPORT, CHILD_DIR, CHILD_LAYERS };

/* One WORK that waits. */
struct job {
        struct list queue;
        uint32_t seq, work;
        uint64_t max_bytes, max_entries;
        uint32_t token, kind; /* of COMPARE */
        int fds[INDEX_FDS];   /* as they came */
        size_t n_fds;
        uint32_t n_layers;
        char layers[][LAUNCH_HEX + 1];
};

/* A worker that runs. */
struct place {
        pid_t pid; /* 0: free */
        int pidfd;
        uint32_t seq, token; /* token 0: of INDEX and removal */
        enum launch_kind kind;
        bool orphan; /* the peer that asked has gone */
        bool removal;
        char trash[WORK_NAME_MAX];
        uint64_t deadline_ns, oom_before;
        uint64_t max_written, max_inodes, inodes_before; /* 0: not watched */
        bool moves, feeds;                               /* bytes go through it; into a pipe */
        uint64_t activity, active_ns;                    /* as it was at that time; 0: nobody has looked */
};

/* What was made and has no name yet. */
struct token {
        uint32_t token; /* 0: free */
        enum launch_kind kind;
};

struct work {
        struct work_config config;
        struct work_store store;
        int userns, timer;
        struct list queue;
        size_t queued;
        struct place places[PLACES];
        struct token tokens[WORK_TOKENS_MAX];
        uint32_t next_token;
        bool trash_left;
        uint64_t settle_ns, settle_latest_ns; /* when; 0: nothing is to settle */
        uint64_t watch_ns;                    /* the next look at what runs; 0: none is to come */
};

static void pump(struct work *w);

static void send_reply(struct work *w, const void *msg, size_t len)
{
        w->config.reply(msg, len, w->config.data);
}

static void refuse(struct work *w, uint32_t seq, int error, const char *text)
{
        struct launch_refused m = { .h = { .op = LAUNCH_REFUSED, .seq = seq }, .error = error };

        (void)snprintf(m.text, sizeof(m.text), "%s", text);
        send_reply(w, &m, sizeof(m));
}

static void refuse_err(struct work *w, uint32_t seq, const struct err *err)
{
        refuse(w, seq, err->num, err->text);
}

static void done(struct work *w, uint32_t seq)
{
        const struct launch_done m = { .h = { .op = LAUNCH_DONE, .seq = seq } };

        send_reply(w, &m, sizeof(m));
}

static void job_free(struct job *job)
{
        if (!job)
                return;
        for (size_t i = 0; i < job->n_fds; i++)
                fd_close(job->fds[i]);
        free(job);
}

static void job_cleanup(struct job **job)
{
        job_free(*job);
}

static struct token *find_token(struct work *w, uint32_t token)
{
        for (size_t i = 0; i < WORK_TOKENS_MAX; i++) {
                if (w->tokens[i].token == token)
                        return &w->tokens[i];
        }
        return NULL;
}

static void set_timer(struct work *w)
{
        struct itimerspec t = { .it_value = { .tv_sec = 0 } };
        uint64_t first = TIME_NEVER;
        bool watched = false;

        for (size_t i = 0; i < PLACES; i++) {
                const struct place *p = &w->places[i];

                if (p->pid > 0)
                        first = MIN(first, p->deadline_ns);
                watched |= p->pid > 0 && (p->max_written > 0 || (p->moves && w->queued > 0));
        }
        /* Whatever else goes on does not put it off. */
        if (!watched)
                w->watch_ns = 0;
        else if (w->watch_ns == 0)
                w->watch_ns = time_mono_ns() + WATCH_NS;
        if (watched)
                first = MIN(first, w->watch_ns);
        if (w->settle_ns > 0 && w->places[SETTLE_PLACE].pid == 0)
                first = MIN(first, MIN(w->settle_ns, w->settle_latest_ns));
        if (first != TIME_NEVER) {
                t.it_value.tv_sec = (time_t)(first / NS_PER_S);
                t.it_value.tv_nsec = (long)(first % NS_PER_S);
        }
        (void)timerfd_settime(w->timer, TFD_TIMER_ABSTIME, &t, NULL);
}

/* Of the whole file system: one that grows while a worker runs does so by the worker, but for little. */
static uint64_t used_inodes(const struct work *w)
{
        struct statfs st;

        return fstatfs(w->config.store_fd, &st) < 0 || st.f_files < st.f_ffree ? 0 : st.f_files - st.f_ffree;
}

/* A worker bounds itself, unless it was taken over. An honest one stays far below these. */
static void watch_disk(const struct work *w, struct place *p, const struct job *job)
{
        p->max_written = MIN(job->max_bytes, UINT64_C(1) << 60) * 2 +
                         MIN(job->max_entries, (uint64_t)UINT32_MAX) * 8192 + WRITTEN_EXTRA;
        p->max_inodes = MIN(job->max_entries, (uint64_t)UINT32_MAX) * 2 + INODES_EXTRA;
        p->inodes_before = used_inodes(w);
}

static bool over_disk(const struct work *w, const struct place *p)
{
        return p->max_written > 0 && (watch_written(w->config.proc_fd, p->pid) > p->max_written ||
                                      used_inodes(w) > p->inodes_before + p->max_inodes);
}

static bool is_pipe(int fd)
{
        struct stat st;

        return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

static void watch_bytes(struct place *p, const struct job *job)
{
        p->moves = job->work == LAUNCH_WORK_INDEX || job->work == LAUNCH_WORK_PLAIN || job->work == LAUNCH_WORK_UNPACK;
        p->feeds = job->work == LAUNCH_WORK_PLAIN && is_pipe(job->fds[CHILD_PLAIN]);
}

static bool reader_waits(const struct work *w)
{
        const struct job *job;

        LIST_FOREACH(job, &w->queue, queue) {
                if (job->work == LAUNCH_WORK_UNPACK && is_pipe(job->fds[CHILD_INPUT]))
                        return true;
        }
        return false;
}

/* Who waits gets the place of one in which nothing goes on: what gives it bytes, or takes them, may have stopped for good. Of two
 * that a pipe joins the first may wait for the start of the second. */
static bool stalls(struct work *w, struct place *p, uint64_t now)
{
        uint64_t activity;

        if (w->queued == 0 || !p->moves || (p->feeds && reader_waits(w)) ||
            !watch_activity(w->config.proc_fd, p->pid, &activity)) {
                p->active_ns = 0;
                return false;
        }
        if (p->active_ns == 0 || activity != p->activity) {
                p->activity = activity;
                p->active_ns = now;
        }
        return now - p->active_ns >= (w->config.stall_ns ? w->config.stall_ns : WORK_STALL_SECONDS * NS_PER_S);
}

static void kill_place(struct place *p)
{
        if (p->pid > 0)
                (void)syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0);
}

static uint64_t oom_count(struct work *w, size_t i)
{
        return w->config.oom_kills ? w->config.oom_kills((unsigned)i, w->config.data) : 0;
}

static struct place *free_place(struct work *w)
{
        for (size_t i = 0; i < WORK_RUNNING_MAX; i++) {
                if (w->places[i].pid == 0)
                        return &w->places[i];
        }
        return NULL;
}

/* Writing out takes no memory of its own, and shares. */
static size_t cgroup_of(const struct work *w, const struct place *p)
{
        return MIN((size_t)(p - w->places), (size_t)WORK_RUNNING_MAX - 1);
}

static int start_child(struct work *w, struct place *p, struct work_child *c, struct err *err)
{
        size_t i = cgroup_of(w, p);
        int r;

        c->worker_fd = w->config.worker_fd;
        c->userns_fd = w->userns;
        c->cgroup = &w->config.cgroups[i];
        p->oom_before = oom_count(w, i);
        r = work_child_start(c, &p->pid, &p->pidfd, err);
        if (r < 0) {
                p->pid = 0;
                return r;
        }
        p->deadline_ns = time_mono_ns() + (w->config.worker_ns ? w->config.worker_ns : WORK_SECONDS_MAX * NS_PER_S);
        set_timer(w);
        return 0;
}

/* A worker that was taken over holds descriptors of files that are mayflyd's. */
static uint64_t max_file(const struct job *job)
{
        return MAX(job->max_bytes, FILE_MAX_LEAST);
}

static int start_copy(struct work *w, struct place *p, const struct job *job, struct err *err)
{
        const char *what = job->work == LAUNCH_WORK_INDEX ? "index" : "plain";
        char bytes[24], entries[24];
        char *argv[] = { (char *)"mayfly-worker", (char *)what, bytes, entries, NULL };
        const int fds[] = { job->fds[0], job->fds[1], job->fds[2] };
        struct work_child c = {
                .argv = argv, .fds = fds, .n_fds = ARRAY_LEN(fds), .report_fd = job->fds[2], .max_file = max_file(job)
        };

        (void)snprintf(bytes, sizeof(bytes), "%" PRIu64, job->max_bytes);
        (void)snprintf(entries, sizeof(entries), "%" PRIu64, job->max_entries);
        return start_child(w, p, &c, err);
}

static int start_unpack(struct work *w, struct place *p, const struct job *job, int dir, struct err *err)
{
        char bytes[24], entries[24];
        char *argv[] = { (char *)"mayfly-worker", (char *)"unpack", bytes, entries, NULL };
        const int fds[] = { job->fds[0], -EBADF, job->fds[1], dir };
        struct work_child c = { .argv = argv,
                                .fds = fds,
                                .n_fds = ARRAY_LEN(fds),
                                .report_fd = job->fds[1],
                                .capable = true,
                                .max_file = max_file(job) };

        (void)snprintf(bytes, sizeof(bytes), "%" PRIu64, job->max_bytes);
        (void)snprintf(entries, sizeof(entries), "%" PRIu64, job->max_entries);
        return start_child(w, p, &c, err);
}

static int start_merge(struct work *w, struct place *p, const struct job *job, int dir, struct err *err)
{
        char n[24];
        char *argv[] = { (char *)"mayfly-worker", (char *)"merge", n, NULL };
        int fds[CHILD_LAYERS + LAUNCH_LAYERS_MAX] = { -EBADF, -EBADF, job->fds[0], dir };
        struct work_child c = {
                .argv = argv, .fds = fds, .n_fds = CHILD_LAYERS, .report_fd = job->fds[0], .capable = true
        };
        int r = 0;

        (void)snprintf(n, sizeof(n), "%" PRIu32, job->n_layers);
        for (uint32_t i = 0; r == 0 && i < job->n_layers; i++) {
                int fd = work_store_open_layer(&w->store, job->layers[i], err);

                if (fd < 0)
                        r = fd;
                else
                        fds[c.n_fds++] = fd;
        }
        if (r == 0)
                r = start_child(w, p, &c, err);
        for (size_t i = CHILD_LAYERS; i < c.n_fds; i++)
                fd_close(fds[i]);
        return r;
}

static int start_compare(struct work *w, struct place *p, const struct job *job, struct err *err)
{
        char *argv[] = { (char *)"mayfly-worker", (char *)"compare", NULL };
        int fds[CHILD_LAYERS + 1] = { -EBADF, -EBADF, job->fds[0], -EBADF, -EBADF };
        struct work_child c = {
                .argv = argv, .fds = fds, .n_fds = ARRAY_LEN(fds), .report_fd = job->fds[0], .capable = true
        };
        const struct token *t = find_token(w, job->token);
        enum launch_kind kind = (enum launch_kind)job->kind;
        auto_fd made = -EBADF, named = -EBADF;
        int r;

        if (!t || t->kind != kind)
                return err_set(err, ENOENT, "no such token");
        r = work_store_open_both(&w->store, job->token, kind, job->layers[0], &made, &named, err);
        if (r < 0)
                return r;
        fds[CHILD_DIR] = made;
        fds[CHILD_LAYERS] = named;
        return start_child(w, p, &c, err);
}

static uint32_t new_token(struct work *w)
{
        do
                w->next_token++;
        while (w->next_token == 0 || find_token(w, w->next_token));
        return w->next_token;
}

static int start_job(struct work *w, struct place *p, const struct job *job, struct err *err)
{
        auto_fd dir = -EBADF;
        int r;

        *p = (struct place){ .seq = job->seq, .pidfd = -EBADF };
        watch_bytes(p, job);
        if (job->work == LAUNCH_WORK_INDEX || job->work == LAUNCH_WORK_PLAIN)
                return start_copy(w, p, job, err);
        if (job->work == LAUNCH_WORK_COMPARE)
                return start_compare(w, p, job, err);
        p->kind = job->work == LAUNCH_WORK_UNPACK ? LAUNCH_KIND_LAYER : LAUNCH_KIND_TREE;
        p->token = new_token(w);
        r = work_store_make(&w->store, p->token, &dir, err);
        if (job->work == LAUNCH_WORK_UNPACK)
                watch_disk(w, p, job);
        if (r == 0 && job->work == LAUNCH_WORK_UNPACK)
                r = start_unpack(w, p, job, dir, err);
        else if (r == 0)
                r = start_merge(w, p, job, dir, err);
        if (r < 0)
                (void)work_store_discard(&w->store, p->token);
        return r;
}

/* Empties the next directory of the trash; one worker at a time does. */
static void start_removal(struct work *w, struct place *p)
{
        char *argv[] = { (char *)"mayfly-worker", (char *)"remove", NULL };
        int fds[] = { -EBADF, -EBADF, -EBADF, -EBADF };
        struct work_child c = {
                .argv = argv, .fds = fds, .n_fds = ARRAY_LEN(fds), .report_fd = -EBADF, .capable = true
        };
        auto_fd dir = -EBADF;

        *p = (struct place){ .pidfd = -EBADF, .removal = true };
        if (!work_store_next_trash(&w->store, p->trash, &dir)) {
                w->trash_left = false;
                return;
        }
        fds[CHILD_DIR] = dir;
        /* What cannot be removed now stays for the next start. */
        if (start_child(w, p, &c, NULL) < 0)
                w->trash_left = false;
}

static bool resting(const struct work *w)
{
        for (size_t i = 0; i < WORK_RUNNING_MAX; i++) {
                if (w->places[i].pid > 0 && !w->places[i].removal)
                        return false;
        }
        return w->queued == 0;
}

static void settle_later(struct work *w)
{
        uint64_t now = time_mono_ns();

        if (w->settle_ns == 0)
                w->settle_latest_ns = now + SETTLE_LATEST_NS;
        w->settle_ns = settle_wanted(&w->store.settle) ? now + SETTLE_NS : 0;
        set_timer(w);
}

/* syncfs(2) waits for the disk, so a process of its own does; it reads nothing, and may do nothing. */
static void start_settle(struct work *w)
{
        char *argv[] = { (char *)"mayfly-worker", (char *)"sync", NULL };
        const int fds[] = { -EBADF, -EBADF, -EBADF, w->store.tmp };
        struct work_child c = { .argv = argv, .fds = fds, .n_fds = ARRAY_LEN(fds), .report_fd = -EBADF };
        struct place *p = &w->places[SETTLE_PLACE];

        *p = (struct place){ .pidfd = -EBADF };
        w->settle_ns = 0;
        if (start_child(w, p, &c, NULL) < 0)
                settle_later(w);
        else
                settle_begin(&w->store.settle);
}

static void look_at_settling(struct work *w, uint64_t now)
{
        if (w->settle_ns == 0 || w->places[SETTLE_PLACE].pid > 0 || now < MIN(w->settle_ns, w->settle_latest_ns))
                return;
        if (!resting(w) && now < w->settle_latest_ns)
                w->settle_ns = now + SETTLE_NS;
        else
                start_settle(w);
}

static bool removing(const struct work *w)
{
        for (size_t i = 0; i < WORK_RUNNING_MAX; i++) {
                if (w->places[i].pid > 0 && w->places[i].removal)
                        return true;
        }
        return false;
}

/* It may read a layer that has just been replaced. */
static bool merging(const struct work *w)
{
        for (size_t i = 0; i < WORK_RUNNING_MAX; i++) {
                if (w->places[i].pid > 0 && w->places[i].token != 0 && w->places[i].kind == LAUNCH_KIND_TREE)
                        return true;
        }
        return false;
}

static void pump(struct work *w)
{
        struct place *p;

        while (w->queued > 0 && (p = free_place(w))) {
                __attribute__((cleanup(job_cleanup))) struct job *job = LIST_FIRST(&w->queue, struct job, queue);
                struct err err = ERR_INIT;

                list_remove(&job->queue);
                w->queued--;
                if (start_job(w, p, job, &err) < 0)
                        refuse_err(w, job->seq, &err);
        }
        p = w->trash_left && w->config.worker_fd >= 0 && !removing(w) && !merging(w) ? free_place(w) : NULL;
        if (p)
                start_removal(w, p);
}

static int make_userns(struct work *w, struct err *err)
{
        return userns_make(w->config.proc_fd, USERNS_CONTAINER, 0, w->config.id_base, &w->userns, err);
}

int work_new(const struct work_config *config, struct work **ret, struct err *err)
{
        struct work *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return err_oom(err);
        w->config = *config;
        w->store = (struct work_store)WORK_STORE_NONE;
        w->userns = -EBADF;
        list_init(&w->queue);
        w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        r = w->timer < 0 ? err_sys(err, "make a timer") : make_userns(w, err);
        if (r == 0)
                r = work_store_open(&w->store, config->store_fd, config->proc_fd, config->id_base, err);
        if (r < 0) {
                work_free(w);
                return r;
        }
        w->trash_left = true;
        settle_later(w);
        pump(w);
        *ret = w;
        return 0;
}

static void drop_queue(struct work *w)
{
        struct job *job;

        LIST_FOREACH(job, &w->queue, queue) {
                list_remove(&job->queue);
                job_free(job);
        }
        w->queued = 0;
}

void work_free(struct work *w)
{
        if (!w)
                return;
        drop_queue(w);
        for (size_t i = 0; i < PLACES; i++) {
                struct place *p = &w->places[i];

                if (p->pid <= 0)
                        continue;
                kill_place(p);
                while (sys_waitid(P_PID, p->pid, NULL, WEXITED | __WALL, NULL) == -EINTR)
                        ;
                fd_close(p->pidfd);
        }
        work_store_close(&w->store);
        fd_close(w->userns);
        fd_close(w->timer);
        free(w);
}

bool work_handles(uint32_t op)
{
        return (op >= LAUNCH_WORK && op <= LAUNCH_LIST) || op == LAUNCH_REPLACE;
}

static bool copy_hex(const char *from, char to[LAUNCH_HEX + 1])
{
        if (!validate_hex(from))
                return false;
        memcpy(to, from, LAUNCH_HEX);
        to[LAUNCH_HEX] = '\0';
        return true;
}

static size_t fds_of(uint32_t work)
{
        return work == LAUNCH_WORK_UNPACK                                 ? UNPACK_FDS
               : work == LAUNCH_WORK_MERGE || work == LAUNCH_WORK_COMPARE ? MERGE_FDS
                                                                          : INDEX_FDS;
}

/* Which of a worker's descriptors may be pipes: a layer goes through them, as it comes and as it is uncompressed. */
static bool may_be_pipe(uint32_t work, size_t i)
{
        return (work == LAUNCH_WORK_PLAIN && (i == CHILD_INPUT || i == CHILD_PLAIN)) ||
               (work == LAUNCH_WORK_UNPACK && i == CHILD_INPUT);
}

static bool all_files(uint32_t work, const int *fds, size_t n)
{
        struct stat st;

        for (size_t i = 0; i < n; i++) {
                if (fstat(fds[i], &st) < 0 ||
                    (!S_ISREG(st.st_mode) && (!S_ISFIFO(st.st_mode) || !may_be_pipe(work, i))))
                        return false;
        }
        return true;
}

/* A well-formed WORK as a job that has taken the descriptors. */
static int parse_work(const struct launch_header *msg, size_t len, int *fds, size_t n_fds, struct job **ret)
{
        const struct launch_work_start *m = (const void *)msg;
        const char *names = (const char *)(m + 1);
        struct job *job;

        if (len < sizeof(*m) || m->work < LAUNCH_WORK_INDEX || m->work > LAUNCH_WORK_COMPARE ||
            m->n_layers > LAUNCH_LAYERS_MAX || (m->work == LAUNCH_WORK_COMPARE && m->n_layers != 1) ||
            (m->n_layers > 0 && m->work != LAUNCH_WORK_MERGE && m->work != LAUNCH_WORK_COMPARE) ||
            len != sizeof(*m) + (size_t)m->n_layers * LAUNCH_HEX || n_fds != fds_of(m->work) ||
            !all_files(m->work, fds, n_fds))
                return -EBADMSG;
        job = calloc(1, sizeof(*job) + m->n_layers * sizeof(job->layers[0]));
        if (!job)
                return -ENOMEM;
        for (uint32_t i = 0; i < m->n_layers; i++) {
                if (!copy_hex(names + (size_t)i * LAUNCH_HEX, job->layers[i])) {
                        free(job);
                        return -EBADMSG;
                }
        }
        job->seq = m->h.seq;
        job->work = m->work;
        job->max_bytes = m->max_bytes;
        job->max_entries = m->max_entries;
        job->token = m->token;
        job->kind = m->kind;
        job->n_layers = m->n_layers;
        list_init(&job->queue);
        for (size_t i = 0; i < n_fds; i++)
                job->fds[job->n_fds++] = TAKE_FD(fds[i]);
        *ret = job;
        return 0;
}

/* Tokens that are given, and those that what waits and runs may still need. */
static size_t tokens_wanted(const struct work *w)
{
        size_t n = w->queued + WORK_RUNNING_MAX;

        for (size_t i = 0; i < WORK_TOKENS_MAX; i++)
                n += w->tokens[i].token != 0;
        return n;
}

static int handle_work(struct work *w, const struct launch_header *msg, size_t len, int *fds, size_t n_fds)
{
        struct job *job;
        int r;

        r = parse_work(msg, len, fds, n_fds, &job);
        if (r == -ENOMEM)
                refuse(w, msg->seq, ENOMEM, "out of memory");
        if (r < 0)
                return r == -ENOMEM ? 0 : r;
        if (w->config.worker_fd < 0) {
                refuse(w, msg->seq, ENOSYS, "there is no mayfly-worker");
                job_free(job);
        } else if (w->queued >= WORK_QUEUE_MAX || tokens_wanted(w) >= WORK_TOKENS_MAX) {
                refuse(w, msg->seq, EAGAIN, "too much image work waits");
                job_free(job);
        } else {
                list_append(&w->queue, &job->queue);
                w->queued++;
        }
        return 0;
}

static int name_it(struct work *w, const struct launch_commit *m, const char *name, struct err *err)
{
        enum launch_kind kind = (enum launch_kind)m->kind;

        if (m->h.op == LAUNCH_COMMIT)
                return work_store_commit(&w->store, m->token, kind, name, err);
        if (kind == LAUNCH_KIND_TREE && w->config.tree_busy && w->config.tree_busy(name, w->config.data))
                return err_set(err, EBUSY, "a container uses the tree");
        w->trash_left = true;
        return work_store_replace(&w->store, m->token, kind, name, err);
}

static int handle_commit(struct work *w, const struct launch_header *msg, size_t len)
{
        const struct launch_commit *m = (const void *)msg;
        char name[LAUNCH_HEX + 1];
        struct err err = ERR_INIT;
        struct token *t;

        if (len != sizeof(*m) || m->token == 0 || !copy_hex(m->name, name) ||
            (m->kind != LAUNCH_KIND_LAYER && m->kind != LAUNCH_KIND_TREE))
                return -EBADMSG;
        t = find_token(w, m->token);
        if (!t || t->kind != m->kind) {
                refuse(w, msg->seq, ENOENT, "no such token");
                return 0;
        }
        t->token = 0;
        if (name_it(w, m, name, &err) < 0) {
                (void)work_store_discard(&w->store, m->token);
                w->trash_left = true;
                refuse_err(w, msg->seq, &err);
        } else {
                settle_later(w);
                done(w, msg->seq);
        }
        return 0;
}

static int handle_discard(struct work *w, const struct launch_header *msg, size_t len)
{
        const struct launch_discard *m = (const void *)msg;
        struct token *t;

        if (len != sizeof(*m) || m->token == 0)
                return -EBADMSG;
        t = find_token(w, m->token);
        if (!t) {
                refuse(w, msg->seq, ENOENT, "no such token");
                return 0;
        }
        t->token = 0;
        (void)work_store_discard(&w->store, m->token);
        w->trash_left = true;
        done(w, msg->seq);
        return 0;
}

static int handle_delete(struct work *w, const struct launch_header *msg, size_t len)
{
        const struct launch_delete *m = (const void *)msg;
        char name[LAUNCH_HEX + 1];
        struct err err = ERR_INIT;

        if (len != sizeof(*m) || !copy_hex(m->name, name) ||
            (m->kind != LAUNCH_KIND_LAYER && m->kind != LAUNCH_KIND_TREE))
                return -EBADMSG;
        if (m->kind == LAUNCH_KIND_TREE && w->config.tree_busy && w->config.tree_busy(name, w->config.data)) {
                refuse(w, msg->seq, EBUSY, "a container uses the tree");
                return 0;
        }
        if (work_store_delete(&w->store, m->kind, name, &err) < 0) {
                refuse_err(w, msg->seq, &err);
                return 0;
        }
        w->trash_left = true;
        done(w, msg->seq);
        return 0;
}

struct listing {
        struct work *work;
        struct {
                struct launch_names m;
                char names[LAUNCH_NAMES_MAX][LAUNCH_HEX];
        } packet;
};

static void send_names(struct listing *l, bool more)
{
        l->packet.m.more = more;
        send_reply(l->work, &l->packet, sizeof(l->packet.m) + (size_t)l->packet.m.n * LAUNCH_HEX);
        l->packet.m.n = 0;
}

static int add_name(const char *name, void *data)
{
        struct listing *l = data;

        if (strlen(name) != LAUNCH_HEX || !validate_hex(name))
                return 0;
        if (l->packet.m.n == LAUNCH_NAMES_MAX)
                send_names(l, true);
        memcpy(l->packet.names[l->packet.m.n++], name, LAUNCH_HEX);
        return 0;
}

static int handle_list(struct work *w, const struct launch_header *msg, size_t len)
{
        const struct launch_list *m = (const void *)msg;
        struct listing l = { .work = w, .packet.m.h = { .op = LAUNCH_NAMES, .seq = msg->seq } };
        int r;

        if (len != sizeof(*m) || (m->kind != LAUNCH_KIND_LAYER && m->kind != LAUNCH_KIND_TREE))
                return -EBADMSG;
        r = work_store_list(&w->store, m->kind, add_name, &l);
        if (r < 0)
                refuse(w, msg->seq, -r, "the store cannot be read");
        else
                send_names(&l, false);
        return 0;
}

int work_handle(struct work *w, const struct launch_header *msg, size_t len, int *fds, size_t n_fds)
{
        int r = -EBADMSG;

        if (len >= sizeof(*msg) && msg->op == LAUNCH_WORK)
                r = handle_work(w, msg, len, fds, n_fds);
        else if (len >= sizeof(*msg) && n_fds == 0 && (msg->op == LAUNCH_COMMIT || msg->op == LAUNCH_REPLACE))
                r = handle_commit(w, msg, len);
        else if (len >= sizeof(*msg) && n_fds == 0 && msg->op == LAUNCH_DISCARD)
                r = handle_discard(w, msg, len);
        else if (len >= sizeof(*msg) && n_fds == 0 && msg->op == LAUNCH_DELETE)
                r = handle_delete(w, msg, len);
        else if (len >= sizeof(*msg) && n_fds == 0 && msg->op == LAUNCH_LIST)
                r = handle_list(w, msg, len);
        for (size_t i = 0; i < n_fds; i++)
                fd_replace(&fds[i], -EBADF);
        pump(w);
        if (w->queued > 0)
                set_timer(w);
        return r;
}

/* Keeps the token of what went well; throws away what nobody can ask for any more. */
static bool keep(struct work *w, const struct place *p, bool good)
{
        struct token *t = good && !p->orphan ? find_token(w, 0) : NULL;

        if (p->token == 0)
                return good;
        if (t) {
                *t = (struct token){ .token = p->token, .kind = p->kind };
                return true;
        }
        (void)work_store_discard(&w->store, p->token);
        w->trash_left = true;
        return false;
}

bool work_reaped(struct work *w, pid_t pid, const siginfo_t *info)
{
        struct place *p = NULL, ended;
        struct launch_work_done m;
        bool good;

        for (size_t i = 0; pid > 0 && i < PLACES; i++) {
                if (w->places[i].pid == pid)
                        p = &w->places[i];
        }
        if (!p)
                return false;
        good = info->si_code == CLD_EXITED && info->si_status == 0;
        ended = *p;
        fd_close(p->pidfd);
        p->pid = 0;
        if (p == &w->places[SETTLE_PLACE]) {
                settle_end(&w->store.settle, good);
                settle_later(w);
        } else if (ended.removal) {
                if (good)
                        work_store_forget_trash(&w->store, ended.trash);
        } else {
                m = (struct launch_work_done){
                        .h = { .op = LAUNCH_WORK_DONE, .seq = ended.seq },
                        .si_code = info->si_code,
                        .status = info->si_status,
                        .oom = oom_count(w, cgroup_of(w, p)) > ended.oom_before,
                };
                m.token = keep(w, &ended, good) ? ended.token : 0;
                if (!ended.orphan)
                        send_reply(w, &m, sizeof(m));
        }
        set_timer(w);
        pump(w);
        return true;
}

void work_peer_lost(struct work *w)
{
        drop_queue(w);
        for (size_t i = 0; i < WORK_RUNNING_MAX; i++) {
                if (w->places[i].pid > 0 && !w->places[i].removal) {
                        w->places[i].orphan = true;
                        kill_place(&w->places[i]);
                }
        }
        for (size_t i = 0; i < WORK_TOKENS_MAX; i++) {
                if (w->tokens[i].token != 0)
                        (void)work_store_discard(&w->store, w->tokens[i].token);
                w->tokens[i].token = 0;
        }
        w->trash_left = true;
        pump(w);
}

int work_timer_fd(const struct work *w)
{
        return w->timer;
}

void work_timer(struct work *w)
{
        uint64_t now = time_mono_ns(), ticks;

        (void)!read(w->timer, &ticks, sizeof(ticks));
        w->watch_ns = 0;
        for (size_t i = 0; i < PLACES; i++) {
                struct place *p = &w->places[i];

                if (p->pid <= 0 || (p->deadline_ns > now && !over_disk(w, p) && !stalls(w, p, now)))
                        continue;
                kill_place(p);
                /* It may wait for a disk, and die later. */
                p->deadline_ns = MAX(p->deadline_ns, now + WATCH_NS);
        }
        look_at_settling(w, now);
        set_timer(w);
}

bool work_idle(const struct work *w)
{
        for (size_t i = 0; i < PLACES; i++) {
                if (w->places[i].pid > 0)
                        return false;
        }
        return w->queued == 0 && !w->trash_left;
}
