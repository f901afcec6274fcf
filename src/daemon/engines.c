#include "daemon/engines.h"

#include "base/str.h"
#include "daemon/builtin.h"
#include "engine/docker/docker.h"
#include "engine/native/native.h"

#include <errno.h>
#include <string.h>

/* ── where nothing unpacks ───────────────────────────────────────────────────────────────────────────────────────── */

static const char no_images[] =
        "this node runs tasks in Docker alone, which has images of its own: use docker load, docker "
        "import or docker pull there";

const char *engines_no_images(const struct engines *e)
{
        return e->native ? NULL : no_images;
}

static int refuse(struct err *err)
{
        return err_set(err, EOPNOTSUPP, "%s", no_images);
}

static int no_copy(void *context, int from_fd, int plain_fd, int report_fd, uint64_t max_bytes, uint64_t max_entries,
                   image_work_fn fn, void *data, struct err *err)
{
        (void)context;
        (void)from_fd;
        (void)plain_fd;
        (void)report_fd;
        (void)max_bytes;
        (void)max_entries;
        (void)fn;
        (void)data;
        return refuse(err);
}

static int no_unpack(void *context, int blob_fd, int report_fd, uint64_t max_bytes, uint64_t max_entries,
                     image_work_fn fn, void *data, struct err *err)
{
        return no_copy(context, blob_fd, -EBADF, report_fd, max_bytes, max_entries, fn, data, err);
}

static int no_merge(void *context, const char (*layers)[65], size_t n_layers, int report_fd, image_work_fn fn,
                    void *data, struct err *err)
{
        (void)context;
        (void)layers;
        (void)n_layers;
        (void)report_fd;
        (void)fn;
        (void)data;
        return refuse(err);
}

static int no_commit(void *context, uint32_t token, enum image_kind kind, const char *name, image_done_fn fn,
                     void *data, struct err *err)
{
        (void)context;
        (void)token;
        (void)kind;
        (void)name;
        (void)fn;
        (void)data;
        return refuse(err);
}

static int no_discard(void *context, uint32_t token, struct err *err)
{
        (void)context;
        (void)token;
        return refuse(err);
}

static int no_remove(void *context, enum image_kind kind, const char *name, image_done_fn fn, void *data,
                     struct err *err)
{
        return no_commit(context, 0, kind, name, fn, data, err);
}

static int no_list(void *context, enum image_kind kind, image_names_fn fn, void *data, struct err *err)
{
        (void)context;
        (void)kind;
        (void)fn;
        (void)data;
        return refuse(err);
}

static const struct image_workers no_workers = {
        .index = no_copy,
        .plain = no_copy,
        .unpack = no_unpack,
        .merge = no_merge,
        .commit = no_commit,
        .discard = no_discard,
        .remove = no_remove,
        .list = no_list,
};

const struct image_workers *engines_workers(const struct engines *e)
{
        return e->native ? engine_native_workers(e->native) : &no_workers;
}

/* ── making them ─────────────────────────────────────────────────────────────────────────────────────────────────── */

enum engine_network engines_network(const struct config *config)
{
        for (int i = ENGINE_NET_NONE; i <= ENGINE_NET_INTERNET; i++)
                if (str_eq(config->network.mode, engine_network_name((enum engine_network)i)))
                        return (enum engine_network)i;
        return ENGINE_NET_NAT;
}

static int open_native(struct engines *e, struct loop *loop, const struct config *c, struct err *err)
{
        auto_free char *launcher = str_printf("%s/launcher.sock", c->run);
        auto_free char *netd = str_printf("%s/netd.sock", c->run);
        const struct engine_native_config config = {
                .launcher_path = launcher,
                .netd_path = netd,
                .network = engines_network(c),
                .stock = MAX(c->network.stock / 2, 1), /* netd keeps the rest ready */
        };

        if (!launcher || !netd)
                return err_oom(err);
        return engine_native_new(loop, &config, &e->native, err);
}

static const char *file_or_none(const char *path)
{
        return str_eq(path, "none") ? NULL : path;
}

static int open_docker(struct engines *e, struct loop *loop, const struct config *c, struct err *err)
{
        auto_free char *records = str_printf("%s/state/docker", c->data);
        const struct engine_docker_config config = {
                .host = c->docker.host,
                .tls_ca = file_or_none(c->docker.tls_ca),
                .tls_cert = file_or_none(c->docker.tls_cert),
                .tls_key = file_or_none(c->docker.tls_key),
                .name = c->name,
                .records = records,
                .prewarm = c->docker.prewarm,
        };
        int r = records ? engine_docker_new(loop, &config, &e->docker, err) : err_oom(err);

        return r < 0 ? err_wrap(err, "docker.host") : 0;
}

/* The configuration holds each at most once. */
int engines_open(struct engines *e, struct loop *loop, const struct config *config, struct err *err)
{
        bool docker = str_starts(config->engines, "docker");

        for (size_t i = 0; i < ENGINES_MAX; i++, docker = !docker) {
                int r;

                if (!config_has_engine(config, docker ? "docker" : "native"))
                        continue;
                r = docker ? open_docker(e, loop, config, err) : open_native(e, loop, config, err);
                if (r < 0)
                        return r;
                e->all[e->n++] = docker ? e->docker : e->native;
        }
        return 0;
}

void engines_join(struct engines *e, struct image_store *store, struct image_pulls *pulls)
{
        const struct engine_docker_images images = { .pulls = pulls,
                                                     .store = e->native ? store : NULL,
                                                     .builtin = builtin_archive };

        if (e->native) {
                engine_native_set_store(e->native, store);
                engine_native_set_pulls(e->native, pulls);
        }
        if (e->docker)
                engine_docker_set_images(e->docker, &images);
}

void engines_leave(struct engines *e)
{
        if (e->docker)
                engine_docker_set_images(e->docker, NULL);
}

void engines_close(struct engines *e)
{
        for (size_t i = 0; i < e->n; i++)
                e->all[i]->ops->free(e->all[i]);
        *e = (struct engines){ .n = 0 };
}
