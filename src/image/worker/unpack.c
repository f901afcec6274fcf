/* UNPACK: one layer's tar archive becomes root/ and meta. Nothing is followed but links of the layer itself, inside it. */

#include "base/fd.h"
#include "base/path.h"
#include "base/vec.h"
#include "image/worker/attr.h"
#include "image/worker/meta.h"
#include "image/worker/place.h"
#include "image/worker/report.h"
#include "image/worker/stream.h"
#include "image/worker/tar.h"
#include "image/worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEW_FILE (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)
#define WHITEOUT ".wh."
#define WHITEOUT_META ".wh..wh." /* of aufs: its own files; but for */
#define WHITEOUT_OPAQUE ".wh..wh..opq"

/* Headers, padding and attributes on top of the contents, per entry. */
#define STREAM_PER_ENTRY 8192
#define STREAM_EXTRA (UINT64_C(64) << 20)

/* Directories get their times at the end, when nothing more is put into them. */
struct dir_time {
        char *path;
        struct timespec mtime;
};

struct unpack {
        struct worker_limits limits;
        struct tar *tar;
        int root;
        struct meta meta;
        struct place place;
        VEC(struct dir_time) dirs;
        uint64_t entries, bytes, skipped;
        bool removed; /* something, by the current entry */
};

static int wrap(struct err *err, const struct tar_entry *e)
{
        char shown[STR_SHOWN_MAX];

        return err_wrap(err, "'%s'", str_show(e->name, shown));
}

static int remember_dir(struct unpack *u, const char *real, struct timespec mtime)
{
        auto_free char *path = strdup(real);

        if (!path || VEC_ADD(&u->dirs, ((struct dir_time){ .path = path, .mtime = mtime })) < 0)
                return -ENOMEM;
        (void)TAKE_PTR(path);
        return 0;
}

static int unpack_root(struct unpack *u, const struct tar_entry *e, struct err *err)
{
        int r;

        if (e->type != TAR_DIR)
                return err_set(err, EBADMSG, "this stands for the root and is no directory");
        r = attr_set(u->root, e, err);
        if (r < 0)
                return r;
        meta_make_explicit(&u->meta, "");
        return remember_dir(u, "", e->mtime) < 0 ? err_oom(err) : 0;
}

/* `.wh.name` hides what lower layers have as `name`; `.wh..wh..opq` all that they have in this directory. */
static int unpack_whiteout(struct unpack *u, const struct tar_entry *e, struct err *err)
{
        char path[PATH_MAX], real[PATH_MAX];
        const char *name = strrchr(e->path, '/');
        size_t dir;
        int fd, r;

        name = name ? name + 1 : e->path;
        dir = (size_t)(name - e->path);
        if (str_eq(name, WHITEOUT_OPAQUE)) {
                r = place_find(&u->place, e->path, &fd, &name, real, err);
                if (r < 0)
                        return r;
                real[strlen(real) - MIN(strlen(real), strlen(WHITEOUT_OPAQUE) + (dir > 0))] = '\0';
                return meta_add(&u->meta.opaques, real, NULL) < 0 ? err_oom(err) : 0;
        }
        name += strlen(WHITEOUT);
        if (!path_name_valid(name))
                return err_set(err, EBADMSG, "a whiteout of nothing");
        (void)snprintf(path, sizeof(path), "%.*s%s", (int)dir, e->path, name);
        r = place_find(&u->place, path, &fd, &name, real, err);
        if (r < 0)
                return r;
        return meta_add(&u->meta.whiteouts, real, NULL) < 0 ? err_oom(err) : 0;
}

static int unpack_contents(struct unpack *u, int fd, const struct tar_entry *e, struct err *err)
{
        uint64_t offset, end = 0;
        const char *data;
        const void *piece;
        size_t len;
        int r;

        if (e->size > u->limits.max_bytes - u->bytes)
                return err_set(err, EFBIG, "the layer holds more than %" PRIu64 " bytes", u->limits.max_bytes);
        u->bytes += e->size;
        while ((r = tar_data(u->tar, &piece, &len, &offset, err)) > 0) {
                if (offset > e->size || len > e->size - offset)
                        return err_set(err, EBADMSG, "data beyond its size");
                for (data = piece; len > 0;) {
                        ssize_t n = pwrite(fd, data, len, (off_t)offset);

                        if (n < 0 && errno == EINTR)
                                continue;
                        if (n < 0)
                                return err_sys(err, "write");
                        data += n;
                        len -= (size_t)n;
                        offset += (uint64_t)n;
                }
                end = MAX(end, offset);
        }
        /* What ends in a hole. */
        if (r == 0 && end < e->size && ftruncate(fd, (off_t)e->size) < 0)
                return err_sys(err, "set size");
        return r;
}

static int remove_existing(struct unpack *u, int dir, const char *name, const struct tar_entry *e, struct err *err)
{
        struct stat st;
        int r;

        if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : err_sys(err, "stat");
        if (S_ISDIR(st.st_mode) && e->type == TAR_DIR)
                return 0;
        u->removed = true;
        r = path_remove_tree(dir, name);
        return r < 0 ? err_set(err, -r, "replace: %s", strerror(-r)) : 0;
}

static int unpack_file(struct unpack *u, int dir, const char *name, const struct tar_entry *e, struct err *err)
{
        auto_fd fd = -EBADF;
        int r;

        fd = openat(dir, name, NEW_FILE, 0600);
        if (fd < 0 && errno == EEXIST) {
                r = remove_existing(u, dir, name, e, err);
                if (r < 0)
                        return r;
                fd = openat(dir, name, NEW_FILE, 0600);
        }
        if (fd < 0)
                return err_sys(err, "create");
        r = unpack_contents(u, fd, e, err);
        return r < 0 ? r : attr_set(fd, e, err);
}

static int unpack_dir(struct unpack *u, int dir, const char *name, const char *real, const struct tar_entry *e,
                      struct err *err)
{
        auto_fd fd = -EBADF;
        int r;

        if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
                return err_sys(err, "make directory");
        fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return err_sys(err, "open directory");
        r = attr_set(fd, e, err);
        if (r < 0)
                return r;
        meta_make_explicit(&u->meta, real);
        return remember_dir(u, real, e->mtime) < 0 ? err_oom(err) : 0;
}

/* A hard link to what the layer itself has is made at once (to a symbolic link: to the link); one to a file of a lower
 * layer when the layers are merged. *ret_same: it is the very file already. */
static int find_target(struct unpack *u, const char *path, int dir, const char *name, int *ret_dir,
                       const char **ret_name, bool *ret_same, struct err *err)
{
        const char *slash = strrchr(path, '/');
        char parent[PATH_MAX];
        struct stat st, have;

        if (!path[0])
                return err_set(err, EBADMSG, "a hard link to the root");
        (void)snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - path) : 0, path);
        *ret_name = slash ? slash + 1 : path;
        *ret_same = false;
        *ret_dir = path_open_in(u->root, parent[0] ? parent : ".", O_PATH | O_DIRECTORY, 0);
        if (*ret_dir < 0 || fstatat(*ret_dir, *ret_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                fd_close(*ret_dir);
                *ret_dir = -EBADF;
                return 0;
        }
        if (S_ISDIR(st.st_mode)) {
                fd_close(*ret_dir);
                *ret_dir = -EBADF;
                return err_set(err, EBADMSG, "a hard link to a directory");
        }
        *ret_same = fstatat(dir, name, &have, AT_SYMLINK_NOFOLLOW) == 0 && have.st_dev == st.st_dev &&
                    have.st_ino == st.st_ino;
        return 0;
}

static int unpack_link(struct unpack *u, int dir, const char *name, const char *real, const struct tar_entry *e,
                       struct err *err)
{
        const char *target_name = NULL;
        char target[PATH_MAX];
        auto_fd from = -EBADF;
        bool same = false;
        int r;

        r = tar_clean(e->target, target, err);
        if (r == 0)
                r = find_target(u, target, dir, name, &from, &target_name, &same, err);
        if (r < 0 || same)
                return r;
        r = remove_existing(u, dir, name, e, err);
        if (r < 0)
                return r;
        if (from < 0)
                return meta_add(&u->meta.links, real, target) < 0 ? err_oom(err) : 0;
        if (linkat(from, target_name, dir, name, 0) < 0)
                return errno == ENOENT ? err_set(err, EBADMSG, "a hard link to what it replaces")
                                       : err_sys(err, "link");
        return 0;
}

static int make(struct unpack *u, int dir, const char *name, const char *real, const struct tar_entry *e,
                struct err *err)
{
        switch (e->type) {
        case TAR_FILE:
                return unpack_file(u, dir, name, e, err);
        case TAR_DIR:
                return unpack_dir(u, dir, name, real, e, err);
        case TAR_LINK:
                return unpack_link(u, dir, name, real, e, err);
        case TAR_SYMLINK:
                if (symlinkat(e->target, dir, name) < 0)
                        return errno == ENAMETOOLONG ? err_set(err, EBADMSG, "the link is too long")
                                                     : err_sys(err, "link");
                return attr_set_at(dir, name, e, err);
        case TAR_FIFO:
                if (mkfifoat(dir, name, 0600) < 0)
                        return err_sys(err, "make fifo");
                return attr_set_at(dir, name, e, err);
        case TAR_OTHER:
                break;
        }
        return err_set(err, EBADMSG, "unknown type");
}

static int unpack_entry(struct unpack *u, const struct tar_entry *e, struct err *err)
{
        char real[PATH_MAX];
        const char *name;
        int dir, r;

        r = place_find(&u->place, e->path, &dir, &name, real, err);
        if (r < 0)
                return r;
        /* Files are almost always new, and see for themselves. */
        if (e->type != TAR_LINK && e->type != TAR_FILE) {
                r = remove_existing(u, dir, name, e, err);
                if (r < 0)
                        return r;
        }
        r = make(u, dir, name, real, e, err);
        /* What was removed may have been on the way that links took to the remembered parent. */
        if (u->removed)
                place_forget(&u->place);
        u->removed = false;
        return r;
}

enum kind { KIND_PLAIN, KIND_WHITEOUT, KIND_AUFS };

/* What a name says, or -EBADMSG where a directory is named like a whiteout. */
static int classify(const char *path, struct err *err)
{
        for (const char *p = path;; p++) {
                const char *end = p + strcspn(p, "/");

                if (str_starts(p, WHITEOUT_META) && !(str_eq(p, WHITEOUT_OPAQUE)))
                        return KIND_AUFS;
                if (str_starts(p, WHITEOUT))
                        return *end ? err_set(err, EBADMSG, "a whiteout as a directory") : KIND_WHITEOUT;
                if (!*end)
                        return KIND_PLAIN;
                p = end;
        }
}

static int handle(struct unpack *u, const struct tar_entry *e, struct err *err)
{
        int kind = classify(e->path, err);

        if (kind < 0)
                return kind;
        if (kind == KIND_AUFS || e->type == TAR_OTHER) {
                u->skipped++;
                return 0;
        }
        if (kind == KIND_WHITEOUT)
                return unpack_whiteout(u, e, err);
        return e->path[0] ? unpack_entry(u, e, err) : unpack_root(u, e, err);
}

static int unpack_all(struct unpack *u, struct err *err)
{
        struct tar_entry e;
        int r;

        while ((r = tar_next(u->tar, true, &e, err)) > 0) {
                if (++u->entries > u->limits.max_entries)
                        return err_set(err, EFBIG, "the layer has more than %" PRIu64 " entries",
                                       u->limits.max_entries);
                r = handle(u, &e, err);
                if (r < 0)
                        return r == -EFBIG ? r : wrap(err, &e);
        }
        return r;
}

static int set_dir_times(struct unpack *u, struct err *err)
{
        const struct timespec none[2] = { { .tv_sec = 0 }, { .tv_sec = 0 } };
        const char *path;
        size_t pos = 0;
        void *mark;

        for (size_t i = 0; i < u->dirs.len; i++) {
                const struct dir_time *d = &u->dirs.items[i];
                auto_fd fd = place_open(u->root, d->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
                struct timespec times[2] = { d->mtime, d->mtime };

                /* It may have been replaced since. */
                if (fd >= 0 && futimens(fd, times) < 0)
                        return err_sys(err, "set times of a directory");
        }
        while (map_next(u->meta.implied, &pos, &path, &mark)) {
                auto_fd fd = place_open(u->root, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);

                if (fd >= 0 && futimens(fd, none) < 0)
                        return err_sys(err, "set times of a directory");
        }
        return 0;
}

/* An entry that came later took the place of a link that waits for the lower layers. */
static void drop_replaced_links(struct unpack *u)
{
        struct meta_list *l = &u->meta.links;
        size_t kept = 0;

        for (size_t i = 0; i < l->len; i++) {
                const char *slash = strrchr(l->items[i].path, '/');
                const char *name = slash ? slash + 1 : l->items[i].path;
                char parent[PATH_MAX];
                auto_fd fd = -EBADF;
                struct stat st;

                (void)snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - l->items[i].path) : 0,
                               l->items[i].path);
                fd = place_open(u->root, parent, O_PATH | O_DIRECTORY | O_NOFOLLOW);
                if (fd >= 0 && fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                        l->items[kept++] = l->items[i];
                        continue;
                }
                free(l->items[i].path);
                free(l->items[i].target);
        }
        l->len = kept;
}

static int make_root(struct unpack *u, int dir_fd, struct err *err)
{
        if (mkdirat(dir_fd, "root", 0755) < 0)
                return err_sys(err, "make root");
        u->root = openat(dir_fd, "root", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (u->root < 0 || fchmod(u->root, 0755) < 0)
                return err_sys(err, "open root");
        if (meta_init(&u->meta) < 0 || meta_imply(&u->meta, "") < 0)
                return err_oom(err);
        place_init(&u->place, u->root, &u->meta, u->limits.max_entries);
        return 0;
}

static void unpack_done(struct unpack *u)
{
        place_done(&u->place);
        meta_done(&u->meta);
        for (size_t i = 0; i < u->dirs.len; i++)
                free(u->dirs.items[i].path);
        VEC_DONE(&u->dirs);
        fd_close(u->root);
}

static int report_write(const struct unpack *u, const struct stream *s, const char *diff_id, struct str *report)
{
        int r;

        r = str_addf(report, "{\"compression\":\"%s\"", stream_compression_name(s));
        if (r == 0 && diff_id[0])
                r = report_member_string(report, "diff_id", diff_id);
        if (r == 0)
                r = report_member_u64(report, "entries", u->entries);
        if (r == 0)
                r = report_member_u64(report, "bytes", u->bytes);
        if (r == 0)
                r = report_member_u64(report, "skipped", u->skipped);
        return r == 0 ? str_addc(report, '}') : r;
}

static uint64_t add_bounded(uint64_t a, uint64_t b)
{
        return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

int worker_unpack(int blob_fd, int dir_fd, const struct worker_limits *limits, struct str *report, struct err *err)
{
        __attribute__((cleanup(unpack_done))) struct unpack u = { .limits = *limits, .root = -EBADF };
        struct stream_options options = { .copy_fd = -EBADF };
        struct stat st;
        char diff_id[STREAM_DIGEST_MAX];
        auto_stream stream = NULL;
        auto_tar tar = NULL;
        int r;

        u.place.parent = -EBADF;
        /* Who feeds a pipe hashes what goes through it. */
        options.hash = fstat(blob_fd, &st) < 0 || !S_ISFIFO(st.st_mode);
        options.max_bytes = add_bounded(limits->max_bytes,
                                        STREAM_EXTRA + MIN(limits->max_entries, UINT32_MAX) * STREAM_PER_ENTRY);
        r = make_root(&u, dir_fd, err);
        if (r == 0)
                r = stream_open(blob_fd, &options, &stream, err);
        if (r == 0)
                r = tar_open(stream, &tar, err);
        if (r < 0)
                return r;
        u.tar = tar;
        r = unpack_all(&u, err);
        if (r == 0)
                r = stream_finish(stream, diff_id, err);
        if (r == 0)
                r = set_dir_times(&u, err);
        drop_replaced_links(&u);
        if (r == 0)
                r = meta_write(&u.meta, dir_fd, err);
        if (r < 0)
                return r;
        return report_write(&u, stream, diff_id, report) < 0 ? err_oom(err) : 0;
}
