/* What an earlier daemon left: containers carry our labels, and who may have them stands in a file each. What is without one is
 * nobody's, and deleted. */

#include "engine/docker/internal.h"

#include "base/fd.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ── records ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int write_new(struct docker *d, const char *name, const void *record, size_t len)
{
        auto_fd fd = openat(d->records, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

        return fd < 0 ? -errno : fd_write_all(fd, record, len);
}

/* Of the page cache, which survives us; the containers do not survive a machine that loses it. */
int docker_record_write(struct docker *d, const char *id, const void *record, size_t len, struct err *err)
{
        char name[DOCKER_ID_MAX + 8];
        int r;

        if (len > ENGINE_RECORD_MAX)
                return err_set(err, EMSGSIZE, "a record of more than %d bytes", ENGINE_RECORD_MAX);
        (void)snprintf(name, sizeof(name), "%s.new", id);
        r = write_new(d, name, record, len);
        if (r == 0 && renameat(d->records, name, d->records, id) < 0)
                r = -errno;
        return r < 0 ? err_set(err, -r, "write the record of container %s: %s", id, strerror(-r)) : 0;
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

static uint64_t label_number(const json_t *labels, const char *name, uint64_t otherwise)
{
        const char *text = json_string_value(json_object_get(labels, name));
        uint64_t n;

        return text && parse_u64(text, &n) == 0 ? n : otherwise;
}

static int adopt(struct docker *d, const char *id, const json_t *labels, const struct str *record, struct err *err)
{
        struct docker_container *c = docker_container_new(d, id, err);
        int r;

        if (!c)
                return -EINVAL;
        c->created = true;
        c->output_limit = label_number(labels, DOCKER_LABEL_OUTPUT, 0);
        c->create_ns = c->start_ns = MIN(label_number(labels, DOCKER_LABEL_SINCE, UINT64_MAX), time_mono_ns());
        c->workdir = strdup("/");
        r = c->workdir ? docker_output_open(c, err) : err_oom(err);
        if (r < 0) {
                docker_container_free(c);
                return r;
        }
        d->found(&c->base, c->id, record->data, record->len, d->list_data);
        return 0;
}

static void adopt_one(struct docker *d, const json_t *item)
{
        const json_t *labels = json_object_get(item, "Labels");
        const char *id = json_string_value(json_object_get(labels, DOCKER_LABEL_TASK));
        const char *state = json_string_value(json_object_get(item, "State"));
        char name[DOCKER_NAME_MAX];
        auto_str record = STR_INIT;
        struct err err = ERR_INIT;

        if (!id || !id[0] || strchr(id, '/') || id[strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789")])
                return;
        (void)snprintf(name, sizeof(name), "%s-%s", d->name, id);
        /* One that was created only has never run, and its output was not attached. */
        if (fd_read_file(d->records, id, ENGINE_RECORD_MAX, &record, &err) < 0 || str_eq(state, "created") ||
            adopt(d, id, labels, &record, &err) < 0) {
                log_info("container %s is nobody's: deleted", name);
                docker_record_remove(d, id);
                docker_delete(d, name, false);
        }
}

static bool is_present(const json_t *all, const char *id)
{
        for (size_t i = 0; i < json_array_size(all); i++) {
                const json_t *labels = json_object_get(json_array_get(all, i), "Labels");

                if (str_eq(json_string_value(json_object_get(labels, DOCKER_LABEL_TASK)), id))
                        return true;
        }
        return false;
}

/* Records whose containers are gone. */
static void sweep_records(struct docker *d, const json_t *all)
{
        int fd = openat(d->records, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        const struct dirent *entry;

        if (!dir) {
                fd_close(fd);
                return;
        }
        while ((entry = readdir(dir)))
                if (entry->d_name[0] != '.' && !is_present(all, entry->d_name))
                        docker_record_remove(d, entry->d_name);
        (void)closedir(dir);
}

static void on_containers(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker *d = data;
        struct err fault = ERR_INIT;
        auto_json all = NULL;

        d->listing = false;
        if (r < 0 || call->status != 200 ||
            json_read(call->body.data ? call->body.data : "", call->body.len, &all, NULL) < 0 || !json_is_array(all)) {
                log_warn("Docker's containers: %s; again later", r < 0 ? err->text : "no list came");
                return;
        }
        d->listed = true;
        sweep_records(d, all);
        for (size_t i = 0; i < json_array_size(all); i++)
                adopt_one(d, json_array_get(all, i));
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
