#include "image/worker/compare.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/vec.h"
#include "image/worker/attr.h"
#include "image/worker/meta.h"
#include "image/worker/report.h"
#include "image/worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define FILE_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
#define CHUNK (128U << 10)
#define TOLD_MAX 20 /* differences that are named */

struct compare {
        char *one, *other; /* CHUNK bytes each */
        struct str told, path;
        uint64_t entries, bytes, differences;
        unsigned depth;
};

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

static int add_name(const char *name, void *data)
{
        struct names *n = data;
        auto_free char *copy = strdup(name);

        if (!copy || vec_grow((void **)&n->items, &n->cap, n->len, sizeof(char *)) < 0)
                return -ENOMEM;
        n->items[n->len++] = TAKE_PTR(copy);
        return 0;
}

static int by_name(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(int dir, struct names *ret)
{
        int r = path_each_entry(dir, add_name, ret);

        if (ret->len > 0)
                qsort(ret->items, ret->len, sizeof(char *), by_name);
        return r;
}

/* A difference; -ENOMEM. */
static int tell(struct compare *c, const char *name, const char *what)
{
        char shown[STR_SHOWN_MAX];
        auto_str path = STR_INIT;
        int r = 0;

        if (c->differences++ >= TOLD_MAX)
                return 0;
        if (str_add(&path, c->path.data ? c->path.data : "", c->path.len) < 0 || str_adds(&path, name) < 0)
                return -ENOMEM;
        if (c->told.len > 0)
                r = str_addc(&c->told, ',');
        if (r == 0)
                r = str_adds(&c->told, "{\"what\":");
        if (r == 0)
                r = report_string(&c->told, what, strlen(what));
        if (r == 0)
                r = report_member_string(&c->told, "path", str_show(path.data, shown));
        return r < 0 ? r : str_addc(&c->told, '}');
}

/* ── two entries of one name ──────────────────────────────────────────────────────────────────────────────────────── */

static int read_chunk(int fd, char *to, uint64_t at, size_t *ret)
{
        size_t done = 0;

        while (done < CHUNK) {
                ssize_t n = pread(fd, to + done, CHUNK - done, (off_t)(at + done));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                done += (size_t)n;
        }
        *ret = done;
        return 0;
}

/* 1: they differ. Of the one that is checked the disk is read, not what memory still has. */
static int contents_differ(struct compare *c, int one, int other)
{
        size_t n = CHUNK, m = 0;

        (void)posix_fadvise(other, 0, 0, POSIX_FADV_DONTNEED);
        for (uint64_t at = 0; n > 0; at += n) {
                int r = read_chunk(one, c->one, at, &n);

                if (r == 0)
                        r = read_chunk(other, c->other, at, &m);
                /* What the disk does not give back is not what it should be. */
                if (r == -EIO || (r == 0 && (n != m || memcmp(c->one, c->other, n) != 0)))
                        return 1;
                if (r < 0)
                        return r;
                c->bytes += n;
        }
        return 0;
}

static int xattr_list(int fd, char **ret, size_t *ret_len)
{
        auto_free char *names = malloc(XATTR_LIST_MAX);
        ssize_t n = names ? flistxattr(fd, names, XATTR_LIST_MAX) : -1;

        if (!names)
                return -ENOMEM;
        if (n < 0)
                return errno == EOPNOTSUPP ? 0 : -errno;
        *ret = TAKE_PTR(names);
        *ret_len = (size_t)n;
        return 0;
}

/* 1: `other` lacks an attribute of `one`, or has another value. */
static int xattrs_lack(struct compare *c, int one, int other)
{
        auto_free char *names = NULL;
        size_t len = 0;
        int r = xattr_list(one, &names, &len);

        for (size_t i = 0; r == 0 && i < len; i += strlen(names + i) + 1) {
                ssize_t n, m;

                if (!attr_wanted(names + i))
                        continue;
                n = fgetxattr(one, names + i, c->one, CHUNK);
                m = fgetxattr(other, names + i, c->other, CHUNK);
                if (n < 0)
                        return -errno;
                if (n != m || memcmp(c->one, c->other, (size_t)n) != 0)
                        return 1;
        }
        return r;
}

static int xattrs_differ(struct compare *c, int one, int other)
{
        int r = xattrs_lack(c, one, other);

        return r == 0 ? xattrs_lack(c, other, one) : r;
}

static int links_differ(int one, int other, const char *name)
{
        char a[PATH_MAX], b[PATH_MAX];
        ssize_t n = readlinkat(one, name, a, sizeof(a)), m = readlinkat(other, name, b, sizeof(b));

        if (n < 0 || m < 0)
                return -errno;
        return n != m || memcmp(a, b, (size_t)n) != 0;
}

static int files_differ(struct compare *c, int one, int other, const char *name, const char **ret_what)
{
        auto_fd a = openat(one, name, FILE_FLAGS), b = openat(other, name, FILE_FLAGS);
        int r;

        if (a < 0 || b < 0)
                return -errno;
        *ret_what = "other attributes";
        r = xattrs_differ(c, a, b);
        if (r != 0)
                return r;
        *ret_what = "other contents";
        return contents_differ(c, a, b);
}

/* Times of directories are left out: those that a layer only implies have none. */
static const char *status_differs(const struct stat *a, const struct stat *b)
{
        if ((a->st_mode & S_IFMT) != (b->st_mode & S_IFMT))
                return "another type";
        if (a->st_mode != b->st_mode)
                return "another mode";
        if (a->st_uid != b->st_uid || a->st_gid != b->st_gid)
                return "another owner";
        if (S_ISREG(a->st_mode) && a->st_size != b->st_size)
                return "another size";
        return !S_ISDIR(a->st_mode) && a->st_mtim.tv_sec != b->st_mtim.tv_sec ? "another time" : NULL;
}

/* What a worker cannot read, since it is somebody's who is none of the store's, is not as it should be. */
static bool is_closed(int r)
{
        return r == -EACCES || r == -EPERM || r == -EIO;
}

/* *ret_what: what is to be told; NULL: nothing. */
static int look(struct compare *c, int one, int other, const char *name, const struct stat *a, const struct stat *b,
                const char **ret_what)
{
        const char *what = NULL;
        int r = 0;

        *ret_what = status_differs(a, b);
        if (*ret_what)
                return 0;
        if (S_ISLNK(a->st_mode)) {
                r = links_differ(one, other, name);
                what = "another target";
        } else if (S_ISREG(a->st_mode)) {
                r = files_differ(c, one, other, name, &what);
                if (is_closed(r)) {
                        what = "cannot be read";
                        r = 1;
                }
        }
        if (r == 1)
                *ret_what = what;
        return MIN(r, 0);
}

static int walk(struct compare *c, int one, int other);

static int walk_into(struct compare *c, int one, int other, const char *name)
{
        auto_fd a = openat(one, name, DIR_FLAGS), b = openat(other, name, DIR_FLAGS);
        size_t len = c->path.len;
        int r;

        if (a < 0 || b < 0)
                return is_closed(-errno) ? tell(c, name, "cannot be read") : -errno;
        if (++c->depth > WORKER_DEPTH_MAX + 2)
                return -ELOOP;
        r = xattrs_differ(c, a, b);
        if (r == 1)
                r = tell(c, name, "other attributes");
        if (r == 0 && (str_adds(&c->path, name) < 0 || str_addc(&c->path, '/') < 0))
                r = -ENOMEM;
        if (r == 0)
                r = walk(c, a, b);
        c->path.len = len;
        if (c->path.data)
                c->path.data[len] = '\0';
        c->depth--;
        return r;
}

static bool lists_differ(const struct meta_list *a, const struct meta_list *b)
{
        bool differ = a->len != b->len;

        for (size_t i = 0; !differ && i < a->len; i++)
                differ = !str_eq(a->items[i].path, b->items[i].path) || (!a->items[i].target != !b->items[i].target) ||
                         (a->items[i].target && !str_eq(a->items[i].target, b->items[i].target));
        return differ;
}

static bool implied_differ(const struct meta *a, const struct meta *b)
{
        const char *path;
        void *value;
        size_t pos = 0;

        if (map_len(a->implied) != map_len(b->implied))
                return true;
        while (map_next(a->implied, &pos, &path, &value))
                if (!meta_implied(b, path))
                        return true;
        return false;
}

/* What the worker wrote beside the root: its time means nothing, nor does the order of a part of it. */
static int metas_differ(int one, int other)
{
        auto_meta a = { .implied = NULL };
        auto_meta b = { .implied = NULL };
        struct err err = ERR_INIT;

        if (meta_init(&a) < 0 || meta_init(&b) < 0)
                return -ENOMEM;
        if (meta_read(&a, one, &err) < 0)
                return -err.num;
        if (meta_read(&b, other, &err) < 0)
                return err.num == ENOMEM ? -ENOMEM : 1;
        return implied_differ(&a, &b) || lists_differ(&a.whiteouts, &b.whiteouts) ||
               lists_differ(&a.opaques, &b.opaques) || lists_differ(&a.links, &b.links);
}

static int both(struct compare *c, int one, int other, const char *name)
{
        const char *what = NULL;
        struct stat a, b;
        int r;

        if (fstatat(one, name, &a, AT_SYMLINK_NOFOLLOW) < 0 || fstatat(other, name, &b, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        c->entries++;
        if (a.st_dev == b.st_dev && a.st_ino == b.st_ino)
                return 0;
        if (c->depth == 0 && str_eq(name, META_NAME) && S_ISREG(a.st_mode) && S_ISREG(b.st_mode)) {
                r = metas_differ(one, other);
                return r == 1 ? tell(c, name, "other contents") : r;
        }
        r = look(c, one, other, name, &a, &b, &what);
        if (r == 0 && what)
                r = tell(c, name, what);
        return r == 0 && S_ISDIR(a.st_mode) && S_ISDIR(b.st_mode) ? walk_into(c, one, other, name) : r;
}

static int walk(struct compare *c, int one, int other)
{
        __attribute__((cleanup(names_done))) struct names a = { .len = 0 }, b = { .len = 0 };
        size_t i = 0, k = 0;
        int r = read_names(one, &a);

        if (r == 0)
                r = read_names(other, &b);
        while (r == 0 && (i < a.len || k < b.len)) {
                int order = i == a.len ? 1 : k == b.len ? -1 : strcmp(a.items[i], b.items[k]);

                if (order < 0)
                        r = tell(c, a.items[i++], "missing");
                else if (order > 0)
                        r = tell(c, b.items[k++], "added");
                else
                        r = both(c, one, other, a.items[i]);
                i += order == 0;
                k += order == 0;
        }
        return r;
}

static int compare_tops(struct compare *c, int good, int checked)
{
        struct stat a, b;
        const char *what;

        if (fstat(good, &a) < 0 || fstat(checked, &b) < 0)
                return -errno;
        what = status_differs(&a, &b);
        return what ? tell(c, "", what) : 0;
}

int worker_compare(int good_fd, int checked_fd, struct str *report, struct err *err)
{
        auto_free char *one = malloc(CHUNK), *other = malloc(CHUNK);
        struct compare c = { .one = one, .other = other };
        int r = one && other ? compare_tops(&c, good_fd, checked_fd) : -ENOMEM;

        if (r == 0)
                r = walk(&c, good_fd, checked_fd);
        if (r == 0 && str_addf(report, "{\"differences\":%llu,\"entries\":%llu,\"bytes\":%llu,\"list\":[%s]}",
                               (unsigned long long)c.differences, (unsigned long long)c.entries,
                               (unsigned long long)c.bytes, c.told.data ? c.told.data : "") < 0)
                r = -ENOMEM;
        if (r < 0)
                (void)err_set(err, -r, "compare '%s': %s", c.path.data ? c.path.data : "", strerror(-r));
        str_done(&c.told);
        str_done(&c.path);
        return r;
}
