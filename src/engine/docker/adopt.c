/* What an earlier daemon left: containers carry our labels, and who may have them stands in a file each, with their names. What is
 * without one is nobody's, and deleted; what another node of our name made is left alone, and reported. */

#include "engine/docker/internal.h"

#include "base/fd.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_HEAD_MAX 256
#define START_ASKED "start"
#define ADOPT_RECOUNT_NS (60 * NS_PER_S)

/* ── records ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_new(struct docker *d, const char *name, const struct str *text)
{
        auto_fd fd = openat(d->records, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

        return fd < 0 ? -errno : fd_write_all(fd, text->data, text->len);
}

/* Of the page cache, which survives us; the containers do not survive a machine that loses it. */
int docker_record_write(const struct docker_container *c, const void *record, size_t len, struct err *err)
{
        struct docker *d = c->docker;
        char name[DOCKER_ID_MAX + 8];
        auto_str text = STR_INIT;
        int r;

        if (len > ENGINE_RECORD_MAX)
                return err_set(err, EMSGSIZE, "a record of more than %d bytes", ENGINE_RECORD_MAX);
        r = str_addf(&text, "%s %llu %llu %s%s\n", c->name, (unsigned long long)c->create_ns,
                     (unsigned long long)c->output_limit, d->node, c->start_asked ? " " START_ASKED : "");
        if (r == 0)
                r = str_add(&text, record, len);
        (void)snprintf(name, sizeof(name), "%s.new", c->id);
        if (r == 0)
                r = write_new(d, name, &text);
        if (r == 0 && renameat(d->records, name, d->records, c->id) < 0)
                r = -errno;
        return r < 0 ? err_set(err, -r, "write the record of container %s: %s", c->id, strerror(-r)) : 0;
}

struct record {
        char name[DOCKER_NAME_MAX], node[DOCKER_NODE_LEN + 1]; /* of older daemons: "" */
        uint64_t since_ns, output_limit;
        bool start_asked;
        struct str text;
        const char *data; /* in it */
        size_t len;
};

static int record_parse(struct record *q)
{
        char *nl = q->text.len > 0 ? memchr(q->text.data, '\n', q->text.len) : NULL, *save = NULL;
        const char *name, *since, *limit, *node, *last;

        if (!nl)
                return -EBADMSG;
        *nl = '\0';
        name = strtok_r(q->text.data, " ", &save);
        since = strtok_r(NULL, " ", &save);
        limit = strtok_r(NULL, " ", &save);
        node = strtok_r(NULL, " ", &save);
        last = node ? strtok_r(NULL, " ", &save) : NULL;
        if (!name || !since || !limit || strlen(name) >= sizeof(q->name) || parse_u64(since, &q->since_ns) < 0 ||
            parse_u64(limit, &q->output_limit) < 0)
                return -EBADMSG;
        (void)snprintf(q->name, sizeof(q->name), "%s", name);
        (void)snprintf(q->node, sizeof(q->node), "%s", docker_node_valid(node) ? node : "");
        q->start_asked = last && str_eq(last, START_ASKED);
        q->data = nl + 1;
        q->len = q->text.len - (size_t)(nl + 1 - q->text.data);
        return 0;
}

static int record_read(struct docker *d, const char *id, struct record *ret, struct err *err)
{
        int r = fd_read_file(d->records, id, ENGINE_RECORD_MAX + RECORD_HEAD_MAX, &ret->text, err);

        if (r == 0 && record_parse(ret) < 0)
                r = err_set(err, EBADMSG, "the record of container %s makes no sense", id);
        return r;
}

int docker_record_again(const struct docker_container *c, struct err *err)
{
        struct record q = { .text = STR_INIT };
        int r = record_read(c->docker, c->id, &q, err);

        if (r == 0)
                r = docker_record_write(c, q.data, q.len, err);
        str_done(&q.text);
        return r;
}

void docker_record_remove(struct docker *d, const char *id)
{
        (void)unlinkat(d->records, id, 0);
}

static DIR *records_open(struct docker *d)
{
        int fd = openat(d->records, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);

        if (!dir && fd >= 0)
                fd_close(fd);
        return dir;
}

bool docker_records_node(struct docker *d, char ret[DOCKER_NODE_LEN + 1])
{
        char node[DOCKER_NODE_LEN + 1] = "";
        const struct dirent *entry;
        DIR *dir = records_open(d);
        bool agree = true;

        while (dir && agree && (entry = readdir(dir))) {
                struct record q = { .text = STR_INIT };

                if (entry->d_name[0] != '.' && record_read(d, entry->d_name, &q, NULL) == 0 && q.node[0]) {
                        agree = !node[0] || str_eq(node, q.node);
                        (void)snprintf(node, sizeof(node), "%s", q.node);
                }
                str_done(&q.text);
        }
        if (dir)
                (void)closedir(dir);
        if (!agree || !node[0])
                return false;
        (void)snprintf(ret, sizeof(node), "%s", node);
        return true;
}

/* ── list() ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void follow(void *data)
{
        struct docker *d = data;
        struct docker_container *c;

        LIST_FOREACH(c, &d->containers, node) {
                if (c->state != DOCKER_NEW || !c->created)
                        continue;
                if (c->unsure)
                        docker_container_failed(c, ENGINE_END_LOST, 0, "the daemon ended while Docker was to start it");
                else
                        docker_container_follow(c);
        }
}

static int adopt(struct docker *d, const char *id, const struct record *q, bool ran, struct err *err)
{
        struct docker_container *c = docker_container_new(d, id, err);
        int r;

        if (!c)
                return -EINVAL;
        (void)snprintf(c->name, sizeof(c->name), "%s", q->name);
        c->created = true;
        c->start_asked = q->start_asked;
        c->unsure = !ran;
        c->output_limit = q->output_limit;
        c->create_ns = c->start_ns = MIN(q->since_ns, time_mono_ns());
        c->workdir = strdup("/");
        r = c->workdir ? docker_output_open(c, err) : err_oom(err);
        if (r < 0) {
                docker_container_free(c);
                return r;
        }
        d->found(&c->base, c->id, q->data, q->len, d->list_data);
        return 0;
}

/* One that was created only has never run, and its output was not attached; unless Docker is about to start it. */
static bool adopt_one(struct docker *d, const struct docker_listed *l, const char *id)
{
        struct record q = { .text = STR_INIT };
        struct err err = ERR_INIT;
        struct map *from;
        bool adopted = false, ran;

        if (record_read(d, id, &q, &err) == 0) {
                from = map_find(l->ours, q.name) ? l->ours : l->unsaid;
                ran = docker_listed_ran(from, q.name);
                if (ran || (q.start_asked && map_find(from, q.name))) {
                        adopted = adopt(d, id, &q, ran, &err) == 0;
                        if (adopted)
                                (void)map_remove(from, q.name);
                }
        }
        if (err.num)
                log_warn("container of an earlier daemon: %s", err.text);
        str_done(&q.text);
        return adopted;
}

static int adopt_all(struct docker *d, const struct docker_listed *l)
{
        const struct dirent *entry;
        DIR *dir = records_open(d);

        if (!dir)
                return -errno;
        while ((entry = readdir(dir)))
                if (entry->d_name[0] != '.' && !adopt_one(d, l, entry->d_name))
                        docker_record_remove(d, entry->d_name);
        (void)closedir(dir);
        return 0;
}

static bool is_of_a_task(const struct docker *d, const char *name)
{
        const struct docker_container *c;

        LIST_FOREACH(c, &d->containers, node) {
                if (str_eq(c->name, name))
                        return true;
        }
        return docker_deletes(d, name);
}

/* What older daemons made, and we took over, is none. */
static void strangers(struct docker *d, const struct docker_listed *l)
{
        const char *name, *one = NULL;
        size_t n = l->others, pos = 0;
        void *item;

        while (map_next(l->unsaid, &pos, &name, &item)) {
                if (is_of_a_task(d, name))
                        continue;
                n++;
                one = name;
        }
        docker_find_strangers(d, n, l->node, one);
}

static void sweep(struct docker *d, struct map *ours)
{
        size_t pos = 0;
        const char *name;
        void *item;

        while (map_next(ours, &pos, &name, &item)) {
                log_info("container %s is nobody's: deleted", name);
                docker_delete(d, name, false);
        }
}

/* 0, or what is wrong was logged. */
static int listed_answer(struct docker *d, const struct docker_call *call, int r, const struct err *err,
                         struct docker_listed *ret)
{
        const char *why = r < 0 ? err->text : "no list came";

        if (r == 0)
                r = call->status == 200 ? docker_listed_read(d, call->body.data, call->body.len, ret) : -EREMOTEIO;
        if (r < 0)
                log_warn("Docker's containers: %s; again later", why);
        return r;
}

static void on_containers(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker *d = data;
        struct err fault = ERR_INIT;
        struct docker_listed l;

        d->listing = false;
        if (listed_answer(d, call, r, err, &l) < 0)
                return;
        if (adopt_all(d, &l) < 0) {
                docker_listed_done(&l);
                log_error("Docker's containers: they cannot be taken over; again later");
                return;
        }
        d->listed = true;
        strangers(d, &l);
        sweep(d, l.ours);
        docker_listed_done(&l);
        d->list_done(0, &fault, d->list_data);
        if (loop_defer(d->loop, follow, d) < 0)
                log_error("out of memory");
}

static int list_call(struct docker *d, docker_call_fn fn)
{
        auto_free char *path = str_printf(
                "/containers/json?all=true&filters=%%7B%%22label%%22%%3A%%5B%%22" DOCKER_LABEL_INSTANCE
                "%%3D%s%%22%%5D%%7D",
                d->name);
        const struct docker_request q = { .method = "GET", .path = path };

        return path ? docker_call(d, &q, fn, d, NULL, NULL) : -ENOMEM;
}

void docker_list_begin(struct docker *d)
{
        if (d->up && d->list_done && !d->listed && !d->listing)
                d->listing = list_call(d, on_containers) == 0;
}

static void on_recounted(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker *d = data;
        struct docker_listed l;

        d->counting = false;
        if (listed_answer(d, call, r, err, &l) < 0)
                return;
        strangers(d, &l);
        docker_listed_done(&l);
}

/* Somebody deletes them, or gives one of the nodes another name: then nothing is told of them any more. */
void docker_recount(struct docker *d)
{
        if (d->up && d->listed && d->strangers && !d->counting && time_mono_ns() - d->strangers_ns >= ADOPT_RECOUNT_NS)
                d->counting = list_call(d, on_recounted) == 0;
}

int docker_list(struct engine *e, engine_found_fn found, engine_done_fn done, void *data, struct err *err)
{
        struct docker *d = CONTAINER_OF(e, struct docker, engine);

        if (d->list_done)
                return err_set(err, EALREADY, "the containers were listed already");
        d->found = found;
        d->list_done = done;
        d->list_data = data;
        docker_list_begin(d);
        return 0;
}
