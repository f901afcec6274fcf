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
        r = str_addf(&text, "%s %llu %llu\n", c->name, (unsigned long long)c->create_ns,
                     (unsigned long long)c->output_limit);
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
        char name[DOCKER_NAME_MAX];
        uint64_t since_ns, output_limit;
        struct str text;
        const char *data; /* in it */
        size_t len;
};

static int record_parse(struct record *q)
{
        char *nl = q->text.len > 0 ? memchr(q->text.data, '\n', q->text.len) : NULL, *save = NULL;
        const char *name, *since, *limit;

        if (!nl)
                return -EBADMSG;
        *nl = '\0';
        name = strtok_r(q->text.data, " ", &save);
        since = strtok_r(NULL, " ", &save);
        limit = strtok_r(NULL, " ", &save);
        if (!name || !since || !limit || strlen(name) >= sizeof(q->name) || parse_u64(since, &q->since_ns) < 0 ||
            parse_u64(limit, &q->output_limit) < 0)
                return -EBADMSG;
        (void)snprintf(q->name, sizeof(q->name), "%s", name);
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

int docker_record_rename(const struct docker_container *c, struct err *err)
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

/* ── list() ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void follow(void *data)
{
        struct docker *d = data;
        struct docker_container *c;

        LIST_FOREACH(c, &d->containers, node) {
                if (c->state == DOCKER_NEW && c->created)
                        docker_container_follow(c);
        }
}

static int adopt(struct docker *d, const char *id, const struct record *q, struct err *err)
{
        struct docker_container *c = docker_container_new(d, id, err);
        int r;

        if (!c)
                return -EINVAL;
        (void)snprintf(c->name, sizeof(c->name), "%s", q->name);
        c->created = true;
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

static const char *name_of(const json_t *item)
{
        const char *name = json_string_value(json_array_get(json_object_get(item, "Names"), 0));

        return name && name[0] == '/' ? name + 1 : name;
}

struct strangers {
        unsigned n;
        const char *node; /* of one that says it; a peek */
};

/* Both by name. Those that older daemons made say of no node whose they are: a record of ours tells. */
struct listed {
        struct map *ours, *unsaid;
};

static const char *node_of(const json_t *item)
{
        return json_string_value(json_object_get(json_object_get(item, "Labels"), DOCKER_LABEL_NODE));
}

/* By name, those that are ours; whatever else wears our label is left alone. */
static int by_name(const struct docker *d, const json_t *all, const struct listed *ret, struct strangers *others)
{
        size_t len = strlen(d->name);

        for (size_t i = 0; i < json_array_size(all); i++) {
                json_t *item = json_array_get(all, i);
                const char *name = name_of(item), *node = node_of(item);

                if (node && !str_eq(node, d->node)) {
                        others->n++;
                        if (docker_node_valid(node))
                                others->node = node;
                        continue;
                }
                if (!name || strncmp(name, d->name, len) != 0 || name[len] != '-' || strlen(name) >= DOCKER_NAME_MAX ||
                    name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-")]) {
                        others->n += !node;
                        continue;
                }
                if (map_set(node ? ret->ours : ret->unsaid, name, item) < 0)
                        return -ENOMEM;
        }
        return 0;
}

/* One that was created only has never run, and its output was not attached. */
static bool adopt_one(struct docker *d, const struct listed *l, const char *id)
{
        struct record q = { .text = STR_INIT };
        struct err err = ERR_INIT;
        const json_t *item;
        struct map *from;
        bool adopted = false;

        if (record_read(d, id, &q, &err) == 0) {
                from = map_find(l->ours, q.name) ? l->ours : l->unsaid;
                item = map_find(from, q.name);
                if (item && !str_eq(json_string_value(json_object_get(item, "State")), "created")) {
                        adopted = adopt(d, id, &q, &err) == 0;
                        if (adopted)
                                (void)map_remove(from, q.name);
                }
        }
        if (err.num)
                log_warn("container of an earlier daemon: %s", err.text);
        str_done(&q.text);
        return adopted;
}

static int adopt_all(struct docker *d, const struct listed *l)
{
        int fd = openat(d->records, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        const struct dirent *entry;

        if (!dir) {
                fd_close(fd);
                return -errno;
        }
        while ((entry = readdir(dir)))
                if (entry->d_name[0] != '.' && !adopt_one(d, l, entry->d_name))
                        docker_record_remove(d, entry->d_name);
        (void)closedir(dir);
        return 0;
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

static void on_containers(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker *d = data;
        struct strangers others = { .n = 0 };
        struct err fault = ERR_INIT;
        auto_json all = NULL;
        struct listed l;
        bool taken;

        d->listing = false;
        if (r < 0 || call->status != 200 ||
            json_read(call->body.data ? call->body.data : "", call->body.len, &all, NULL) < 0 || !json_is_array(all)) {
                log_warn("Docker's containers: %s; again later", r < 0 ? err->text : "no list came");
                return;
        }
        l = (struct listed){ map_new(), map_new() };
        taken = l.ours && l.unsaid && by_name(d, all, &l, &others) == 0 && adopt_all(d, &l) == 0;
        others.n += taken ? (unsigned)map_len(l.unsaid) : 0;
        map_free(l.unsaid);
        if (!taken) {
                map_free(l.ours);
                log_error("Docker's containers: they cannot be taken over; again later");
                return;
        }
        d->listed = true;
        if (others.n > 0)
                docker_find_strangers(d, others.n, others.node);
        sweep(d, l.ours);
        map_free(l.ours);
        d->list_done(0, &fault, d->list_data);
        if (loop_defer(d->loop, follow, d) < 0)
                log_error("out of memory");
}

void docker_list_begin(struct docker *d)
{
        auto_free char *path = str_printf(
                "/containers/json?all=true&filters=%%7B%%22label%%22%%3A%%5B%%22" DOCKER_LABEL_INSTANCE
                "%%3D%s%%22%%5D%%7D",
                d->name);
        const struct docker_request q = { .method = "GET", .path = path };

        if (!d->up || !d->list_done || d->listed || d->listing || !path)
                return;
        d->listing = docker_call(d, &q, on_containers, d, NULL, NULL) == 0;
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
