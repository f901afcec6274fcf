/* MERGE: layers, lowest first, become one tree of hard links, as if each had been unpacked over the ones below it.
 *
 * For each layer: its whiteouts and opaque directories go first, since they mean what lower layers brought only; then its
 * files and directories; then the hard links that it makes to files of lower layers. A directory that the layer only
 * implies is wherever its path leads in the tree so far, through links, inside the root; one that it has itself takes
 * the place of whatever else is there. */

#include "base/fd.h"
#include "base/path.h"
#include "base/vec.h"
#include "image/worker/attr.h"
#include "image/worker/meta.h"
#include "image/worker/place.h"
#include "image/worker/report.h"
#include "image/worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_FLAGS (O_PATH | O_DIRECTORY)
#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define COPY_CHUNK (64U << 10)

struct merge {
        int root;         /* of the tree */
        struct meta meta; /* of the layer that is being applied */
        uint64_t entries;
};

static int fail(struct err *err, int r, const char *path)
{
        char shown[STR_SHOWN_MAX];

        return err_set(err, -r, "merge '%s': %s", str_show(path, shown), strerror(-r));
}

static const char *split(const char *path, char parent[PATH_MAX])
{
        const char *slash = strrchr(path, '/');

        (void)snprintf(parent, PATH_MAX, "%.*s", slash ? (int)(slash - path) : 0, path);
        return slash ? slash + 1 : path;
}

static int open_in(struct merge *m, const char *path, int flags)
{
        return path_open_in(m->root, path[0] ? path : ".", flags, 0);
}

/* Where the layer's directory `path` is in the tree of the lower layers: -ENOENT where it has no counterpart, because
 * the layer puts a directory of its own where they have something else or nothing. */
static int find_lower(struct merge *m, const char *path)
{
        auto_fd fd = open_in(m, "", PATH_FLAGS);
        char prefix[PATH_MAX];

        if (fd < 0)
                return fd;
        for (const char *p = path; *p;) {
                const char *end = p + strcspn(p, "/");
                int next;

                (void)snprintf(prefix, sizeof(prefix), "%.*s", (int)(end - path), path);
                if (meta_implied(&m->meta, prefix)) {
                        next = open_in(m, prefix, PATH_FLAGS);
                } else {
                        next = openat(fd, prefix + (p - path), PATH_FLAGS | O_NOFOLLOW | O_CLOEXEC);
                        next = next < 0 ? -errno : next;
                }
                if (next < 0)
                        return -ENOENT;
                fd_replace(&fd, next);
                p = end + (*end == '/');
        }
        return TAKE_FD(fd);
}

/* Changes of a directory's contents must not show in its times: they are the layers' own. */
static int restore_times(int dir, const struct stat *st)
{
        const struct timespec times[2] = { st->st_atim, st->st_mtim };

        return utimensat(dir, ".", times, 0) < 0 ? -errno : 0;
}

static int apply_whiteout(struct merge *m, const char *path)
{
        char parent[PATH_MAX];
        const char *name = split(path, parent);
        auto_fd dir = find_lower(m, parent);
        struct stat st;
        int r;

        if (dir < 0)
                return dir == -ENOENT ? 0 : dir;
        if (fstat(dir, &st) < 0)
                return -errno;
        r = path_remove_tree(dir, name);
        if (r < 0)
                return r == -ENOENT ? 0 : r;
        return restore_times(dir, &st);
}

struct names {
        char **items;
        size_t len, cap;
};

static void names_done(struct names *n)
{
        for (size_t i = 0; i < n->len; i++)
                free(n->items[i]);
        VEC_DONE(n);
}

static int by_name(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_name(const char *name, void *data)
{
        struct names *names = data;
        char *copy = strdup(name);
        int r = copy ? VEC_ADD(names, copy) : -ENOMEM;

        if (r < 0)
                free(copy);
        return r;
}

/* The names in a directory, sorted, so that a merge never depends on the order of the disk. */
static int list(int dirfd, struct names *ret)
{
        int r = path_each_entry(dirfd, add_name, ret);

        if (ret->len > 1)
                qsort(ret->items, ret->len, sizeof(*ret->items), by_name);
        return r;
}

static int empty(int dir)
{
        __attribute__((cleanup(names_done))) struct names names = { .items = NULL };
        int r;

        r = list(dir, &names);
        for (size_t i = 0; r == 0 && i < names.len; i++)
                r = path_remove_tree(dir, names.items[i]);
        return r;
}

static int apply_opaque(struct merge *m, const char *path)
{
        auto_fd dir = find_lower(m, path);
        struct stat st;
        int r;

        if (dir < 0)
                return dir == -ENOENT ? 0 : dir;
        if (fstat(dir, &st) < 0)
                return -errno;
        r = empty(dir);
        return r < 0 ? r : restore_times(dir, &st);
}

static int copy_contents(int from, int to)
{
        auto_free char *buffer = malloc(COPY_CHUNK);

        if (!buffer)
                return -ENOMEM;
        for (;;) {
                ssize_t n = read(from, buffer, COPY_CHUNK);
                int r;

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : 0;
                r = fd_write_all(to, buffer, (size_t)n);
                if (r < 0)
                        return r;
        }
}

/* A file that has as many links as the file system allows. */
static int copy_file(int from_dir, int to_dir, const char *name, const struct stat *st)
{
        auto_fd from = -EBADF, to = -EBADF;
        int r;

        if (!S_ISREG(st->st_mode))
                return -EMLINK;
        from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (from < 0)
                return -errno;
        to = openat(to_dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (to < 0)
                return -errno;
        r = copy_contents(from, to);
        return r < 0 ? r : attr_copy(from, st, to);
}

static int merge_file(int from_dir, int to_dir, const char *name, const struct stat *st)
{
        int r = linkat(from_dir, name, to_dir, name, 0) < 0 ? -errno : 0;

        /* Most files take nobody's place. */
        if (r == -EEXIST) {
                r = path_remove_tree(to_dir, name);
                if (r < 0 && r != -ENOENT)
                        return r;
                r = linkat(from_dir, name, to_dir, name, 0) < 0 ? -errno : 0;
        }
        return r == -EMLINK ? copy_file(from_dir, to_dir, name, st) : r;
}

/* Whether the layer has something below a directory, and not only whiteouts that imply the way to them. 1, 0, -errno. */
static int has_content(struct merge *m, int from, char path[PATH_MAX], unsigned depth)
{
        __attribute__((cleanup(names_done))) struct names names = { .items = NULL };
        size_t len = strlen(path);
        int r;

        if (!meta_implied(&m->meta, path) || depth > WORKER_DEPTH_MAX)
                return 1;
        r = list(from, &names);
        for (size_t i = 0; r == 0 && i < names.len; i++) {
                auto_fd fd = openat(from, names.items[i], DIR_FLAGS);

                if (fd < 0 || snprintf(path + len, PATH_MAX - len, "/%s", names.items[i]) >= (int)(PATH_MAX - len))
                        r = 1;
                else
                        r = has_content(m, fd, path, depth + 1);
                path[len] = '\0';
        }
        return r;
}

/* Whether hard links to lower layers are to lie below a directory. */
static bool has_links(const struct merge *m, const char *path)
{
        size_t len = strlen(path);

        for (size_t i = 0; i < m->meta.links.len; i++) {
                const char *link = m->meta.links.items[i].path;

                if (strncmp(link, path, len) == 0 && link[len] == '/')
                        return true;
        }
        return false;
}

/* What a layer implies below a link to nothing lies where the link leads, as if it had been unpacked over the lower layers. */
static int make_target(struct merge *m, const char *path)
{
        auto_meta made = { .implied = NULL };
        char inside[PATH_MAX], real[PATH_MAX];
        struct place place;
        const char *name;
        int dir, fd, r;

        if (snprintf(inside, sizeof(inside), "%s/-", path) >= (int)sizeof(inside) || meta_init(&made) < 0)
                return -ENAMETOOLONG;
        place_init(&place, m->root, &made, WORKER_DEPTH_MAX);
        r = place_find(&place, inside, &dir, &name, real, NULL);
        fd = r == 0 ? openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : r;
        if (r == 0 && fd < 0)
                fd = -errno;
        place_done(&place);
        return fd;
}

static bool is_link(int dir, const char *name)
{
        struct stat st;

        return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode);
}

/* Opens, for reading, the tree's counterpart of a directory; makes it where it is missing (*ret_made). -ENOENT: there is
 * none, and the layer has no use for one. */
static int open_counterpart(struct merge *m, int from, int to_dir, const char *name, char path[PATH_MAX],
                            unsigned depth, bool *ret_made)
{
        bool implied = meta_implied(&m->meta, path);
        int fd, r;

        fd = implied ? open_in(m, path, O_RDONLY | O_DIRECTORY) : openat(to_dir, name, DIR_FLAGS);
        *ret_made = fd < 0;
        if (fd >= 0)
                return fd;
        r = has_links(m, path) ? 1 : has_content(m, from, path, depth);
        if (r <= 0)
                return r < 0 ? r : -ENOENT;
        fd = implied && is_link(to_dir, name) ? make_target(m, path) : -ENOENT;
        if (fd >= 0)
                return fd;
        r = path_remove_tree(to_dir, name);
        if (r < 0 && r != -ENOENT)
                return r;
        if (mkdirat(to_dir, name, 0700) < 0)
                return -errno;
        fd = openat(to_dir, name, DIR_FLAGS);
        return fd < 0 ? -errno : fd;
}

static int merge_entries(struct merge *m, int from, int to, char path[PATH_MAX], unsigned depth, struct err *err);

static int merge_dir(struct merge *m, int from_dir, int to_dir, const char *name, char path[PATH_MAX], unsigned depth,
                     struct err *err)
{
        auto_fd from = openat(from_dir, name, DIR_FLAGS), to = -EBADF;
        struct stat own, lower;
        bool made;
        int r;

        if (from < 0 || fstat(from, &own) < 0)
                return fail(err, -errno, path);
        to = open_counterpart(m, from, to_dir, name, path, depth, &made);
        if (to == -ENOENT)
                return 0;
        if (to < 0)
                return fail(err, to, path);
        if (fstat(to, &lower) < 0)
                return fail(err, -errno, path);
        r = merge_entries(m, from, to, path, depth, err);
        if (r < 0)
                return r;
        /* What nobody described is as mkdir(2) makes it: below a directory with the set-group-ID bit it has that and its group. */
        if (made && meta_implied(&m->meta, path) && (lower.st_mode & S_ISGID)) {
                own.st_mode |= S_ISGID;
                own.st_gid = lower.st_gid;
        }
        r = made || !meta_implied(&m->meta, path) ? attr_copy(from, &own, to) : restore_times(to, &lower);
        return r < 0 ? fail(err, r, path) : 0;
}

static int merge_entry(struct merge *m, int from, int to, const char *name, char path[PATH_MAX], unsigned depth,
                       struct err *err)
{
        struct stat st;
        int r;

        m->entries++;
        if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return fail(err, -errno, path);
        if (S_ISDIR(st.st_mode))
                return merge_dir(m, from, to, name, path, depth + 1, err);
        r = merge_file(from, to, name, &st);
        return r < 0 ? fail(err, r, path) : 0;
}

static int merge_entries(struct merge *m, int from, int to, char path[PATH_MAX], unsigned depth, struct err *err)
{
        __attribute__((cleanup(names_done))) struct names names = { .items = NULL };
        size_t len = strlen(path);
        int r;

        if (depth > WORKER_DEPTH_MAX)
                return fail(err, -ELOOP, path);
        r = list(from, &names);
        if (r < 0)
                return fail(err, r, path);
        for (size_t i = 0; r == 0 && i < names.len; i++) {
                const char *name = names.items[i];

                if (len + strlen(name) + 2 > PATH_MAX)
                        return fail(err, -ENAMETOOLONG, path);
                (void)snprintf(path + len, PATH_MAX - len, "%s%s", len > 0 ? "/" : "", name);
                r = merge_entry(m, from, to, name, path, depth, err);
                path[len] = '\0';
        }
        return r;
}

/* The layer's own directories are in place now, so both ends are where their paths lead inside the root. */
static int apply_link(struct merge *m, const struct meta_record *l, struct err *err)
{
        char parent[PATH_MAX], shown[STR_SHOWN_MAX], shown_target[STR_SHOWN_MAX];
        const char *name = split(l->path, parent), *target;
        auto_fd dir = open_in(m, parent, PATH_FLAGS), from = -EBADF;
        struct stat st, have, dir_st;
        int r;

        if (dir < 0 || fstat(dir, &dir_st) < 0)
                return fail(err, dir < 0 ? dir : -errno, l->path);
        target = split(l->target, parent);
        from = open_in(m, parent, PATH_FLAGS);
        if (from < 0 || fstatat(from, target, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(st.st_mode))
                return err_set(err, EBADMSG, "'%s' is a hard link to '%s', which is no file of any layer",
                               str_show(l->path, shown), str_show(l->target, shown_target));
        if (fstatat(dir, name, &have, AT_SYMLINK_NOFOLLOW) == 0 && have.st_dev == st.st_dev && have.st_ino == st.st_ino)
                return 0;
        r = path_remove_tree(dir, name);
        if (r == 0 || r == -ENOENT)
                r = linkat(from, target, dir, name, 0) < 0 ? -errno : 0;
        if (r == 0)
                r = restore_times(dir, &dir_st);
        return r < 0 ? fail(err, r, l->path) : 0;
}

static int apply_removals(struct merge *m, struct err *err)
{
        for (size_t i = 0; i < m->meta.opaques.len; i++) {
                int r = apply_opaque(m, m->meta.opaques.items[i].path);

                if (r < 0)
                        return fail(err, r, m->meta.opaques.items[i].path);
        }
        for (size_t i = 0; i < m->meta.whiteouts.len; i++) {
                int r = apply_whiteout(m, m->meta.whiteouts.items[i].path);

                if (r < 0)
                        return fail(err, r, m->meta.whiteouts.items[i].path);
        }
        return 0;
}

static int merge_tree(struct merge *m, int layer_root, struct err *err)
{
        char path[PATH_MAX] = "";
        struct stat own, lower;
        int r;

        if (fstat(layer_root, &own) < 0 || fstat(m->root, &lower) < 0)
                return fail(err, -errno, path);
        r = merge_entries(m, layer_root, m->root, path, 0, err);
        for (size_t i = 0; r == 0 && i < m->meta.links.len; i++)
                r = apply_link(m, &m->meta.links.items[i], err);
        if (r < 0)
                return r;
        r = meta_implied(&m->meta, "") ? restore_times(m->root, &lower) : attr_copy(layer_root, &own, m->root);
        return r < 0 ? fail(err, r, path) : 0;
}

static int merge_layer(struct merge *m, int layer, struct err *err)
{
        auto_fd layer_root = openat(layer, "root", DIR_FLAGS);
        int r;

        if (layer_root < 0)
                return err_sys(err, "open the layer");
        if (meta_init(&m->meta) < 0)
                return err_oom(err);
        r = meta_read(&m->meta, layer, err);
        if (r == 0)
                r = apply_removals(m, err);
        if (r == 0)
                r = merge_tree(m, layer_root, err);
        meta_done(&m->meta);
        return r;
}

/* passwd or group of the tree, in base64; left out where it is no file or too large. */
static int report_users(struct merge *m, const char *path, const char *member, struct str *report)
{
        auto_fd fd = open_in(m, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
        auto_free char *data = NULL;
        struct stat st;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > WORKER_USERS_MAX)
                return 0;
        data = malloc((size_t)st.st_size + 1);
        if (!data)
                return -ENOMEM;
        r = fd_read_full(fd, data, (size_t)st.st_size);
        if (r < 0)
                return r;
        r = str_addf(report, ",\"%s\":\"", member);
        if (r == 0)
                r = base64_encode(report, data, (size_t)st.st_size);
        return r == 0 ? str_addc(report, '"') : r;
}

static int write_report(struct merge *m, struct str *report)
{
        int r;

        r = str_addf(report, "{\"layout\":1");
        if (r == 0)
                r = report_member_u64(report, "entries", m->entries);
        if (r == 0)
                r = report_users(m, "etc/passwd", "passwd", report);
        if (r == 0)
                r = report_users(m, "etc/group", "group", report);
        return r == 0 ? str_addc(report, '}') : r;
}

int worker_merge(const int *layers, size_t n_layers, int dir_fd, struct str *report, struct err *err)
{
        const struct timespec none[2] = { { .tv_sec = 0 }, { .tv_sec = 0 } };
        struct merge m = { .root = -EBADF };
        auto_fd root = -EBADF;
        int r = 0;

        if (mkdirat(dir_fd, "root", 0755) < 0)
                return err_sys(err, "make root");
        root = openat(dir_fd, "root", DIR_FLAGS);
        if (root < 0 || fchmod(root, 0755) < 0 || futimens(root, none) < 0)
                return err_sys(err, "open root");
        m.root = root;
        for (size_t i = 0; r == 0 && i < n_layers; i++) {
                r = merge_layer(&m, layers[i], err);
                if (r < 0)
                        return err_wrap(err, "layer %zu of %zu", i + 1, n_layers);
        }
        r = write_report(&m, report);
        return r < 0 ? err_set(err, -r, "write the report: %s", strerror(-r)) : 0;
}

int worker_remove(int dir_fd, struct err *err)
{
        int r = empty(dir_fd);

        return r < 0 ? err_set(err, -r, "empty a directory: %s", strerror(-r)) : 0;
}
