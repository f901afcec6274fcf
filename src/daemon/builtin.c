#include "daemon/builtin.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/tar.h"
#include "image/layout.h"
#include "image/manifest.h"

#include "health_program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct install {
        image_done_fn fn;
        void *data;
};

static int append(const void *bytes, size_t len, void *data)
{
        return str_add(data, bytes, len);
}

static int make_archive(struct str *ret, struct err *err)
{
        struct tar_member m = { .kind = TAR_KIND_FILE, .path = "health", .target = "", .mode = 0555 };
        struct tar_writer w = { .fn = append, .data = ret };
        int r;

        m.size = sizeof(health_program);
        r = tar_write_member(&w, &m);
        if (r == 0)
                r = tar_write_content(&w, health_program, sizeof(health_program));
        if (r == 0)
                r = tar_write_end(&w);
        return r < 0 ? err_set(err, -r, "make the archive of the built-in image: %s", strerror(-r)) : 0;
}

/* ── for Docker ──────────────────────────────────────────────────────────────────────────────────────────────────── */

#define NAME_MAX_HERE 80 /* of a member: a digest with its suffix */

static int add_member(struct tar_writer *w, const char *name, const struct str *content)
{
        struct tar_member m = { .kind = TAR_KIND_FILE, .path = name, .target = "", .mode = 0444 };
        int r;

        m.size = content->len;
        r = tar_write_member(w, &m);
        return r < 0 ? r : tar_write_content(w, content->data, content->len);
}

/* Same bytes, same digest: loading it again changes nothing (Docker image spec v1.2, «Combined Image JSON + Filesystem Changeset
 * Format»). */
static int make_config(const struct str *layer, struct str *ret, struct err *err)
{
        char diff_id[IMAGE_DIGEST_MAX];
        int r = image_sha256_text(layer->data, layer->len, diff_id, err);

        if (r < 0)
                return r;
        r = str_addf(ret,
                     "{\"architecture\":\"%s\",\"os\":\"linux\",\"created\":\"1970-01-01T00:00:00Z\","
                     "\"config\":{\"Entrypoint\":[\"/health\"],\"User\":\"65534:65534\"},"
                     "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"%s\"]},"
                     "\"history\":[{\"created\":\"1970-01-01T00:00:00Z\",\"created_by\":\"mayfly\"}]}",
                     image_host_architecture(), diff_id);
        return r < 0 ? err_oom(err) : 0;
}

static int make_docker_archive(struct str *ret, struct err *err)
{
        struct tar_writer w = { .fn = append, .data = ret };
        auto_str layer = STR_INIT, config = STR_INIT, manifest = STR_INIT;
        char digest[IMAGE_DIGEST_MAX], name[NAME_MAX_HERE];
        int r = make_archive(&layer, err);

        if (r == 0)
                r = make_config(&layer, &config, err);
        if (r == 0)
                r = image_sha256_text(config.data, config.len, digest, err);
        if (r < 0)
                return r;
        (void)snprintf(name, sizeof(name), "%s.json", digest + strlen("sha256:"));
        if (str_addf(&manifest, "[{\"Config\":\"%s\",\"RepoTags\":[\"%s\"],\"Layers\":[\"layer.tar\"]}]", name,
                     BUILTIN_HEALTH_REF) < 0)
                return err_oom(err);
        r = add_member(&w, "layer.tar", &layer);
        if (r == 0)
                r = add_member(&w, name, &config);
        if (r == 0)
                r = add_member(&w, "manifest.json", &manifest);
        if (r == 0)
                r = tar_write_end(&w);
        return r < 0 ? err_set(err, -r, "make the archive of the built-in image: %s", strerror(-r)) : 0;
}

int builtin_archive(const char *ref, int *ret, struct err *err)
{
        auto_str archive = STR_INIT;
        auto_fd fd = -EBADF;
        int r;

        if (!str_eq(ref, BUILTIN_HEALTH_REF))
                return err_set(err, ENOENT, "there is no image '%s'", ref);
        r = make_docker_archive(&archive, err);
        if (r < 0)
                return r;
        fd = memfd_create("health-image", MFD_CLOEXEC);
        if (fd < 0)
                return err_sys(err, "memfd_create");
        r = fd_write_all(fd, archive.data, archive.len);
        if (r < 0)
                return err_set(err, -r, "write the built-in image: %s", strerror(-r));
        *ret = TAKE_FD(fd);
        return 0;
}

/* ── for the store ───────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_loaded(int r, const char *const *digests, size_t n, const struct err *err, void *data)
{
        struct install *i = data;

        (void)digests;
        (void)n;
        i->fn(r, err, i->data);
        free(i);
}

int builtin_install(struct image_store *store, image_done_fn fn, void *data, struct err *err)
{
        static const char *const changes[] = { "ENTRYPOINT [\"/health\"]", "USER 65534:65534", NULL };
        auto_free struct install *i = NULL;
        auto_str archive = STR_INIT;
        struct image_sink *sink;
        int r;

        if (image_store_find(store, BUILTIN_HEALTH_REF, NULL)) {
                fn(0, NULL, data);
                return 0;
        }
        i = calloc(1, sizeof(*i));
        if (!i)
                return err_oom(err);
        *i = (struct install){ .fn = fn, .data = data };
        r = make_archive(&archive, err);
        if (r == 0)
                r = image_sink_open(store, IMAGE_BUILTIN, BUILTIN_HEALTH_REF, (char *const *)(uintptr_t)changes, &sink,
                                    err);
        if (r < 0)
                return r;
        r = image_sink_write(sink, archive.data, archive.len, err);
        if (r < 0) {
                image_sink_discard(sink);
                return r;
        }
        r = image_sink_finish(sink, on_loaded, i, err);
        if (r == 0)
                (void)TAKE_PTR(i);
        return r;
}
