#include "launcher/work_settle.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/vec.h"
#include "launcher/validate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define LIFE "life"
#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define STARTTIME_FIELD 20 /* of /proc/PID/stat, counted from the one behind the name (proc(5)) */

static void mark_name(enum launch_kind kind, const char *name, char out[SETTLE_NAME_MAX])
{
        (void)snprintf(out, SETTLE_NAME_MAX, "%c%.64s", kind == LAUNCH_KIND_LAYER ? 'l' : 't', name);
}

static int names_add(struct settle_names *n, const char *mark)
{
        int r = vec_grow((void **)&n->items, &n->cap, n->len, sizeof(*n->items));

        if (r == 0)
                memcpy(n->items[n->len++], mark, SETTLE_NAME_MAX);
        return r;
}

static void names_remove(struct settle_names *n, const char *mark)
{
        size_t kept = 0;

        for (size_t i = 0; i < n->len; i++) {
                if (strcmp(n->items[i], mark) != 0 && kept++ != i)
                        memcpy(n->items[kept - 1], n->items[i], SETTLE_NAME_MAX);
        }
        n->len = kept;
}

static int read_text(int dir, const char *name, char *out, size_t size)
{
        auto_fd fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);

        if (n <= 0)
                return -ENOENT;
        out[n] = '\0';
        return 0;
}

/* "boot id, parent, its start": "" where it cannot be told, which is nobody's. */
static void this_life(int proc_fd, char out[SETTLE_LIFE_MAX])
{
        char boot[64], stat[1024], path[32];
        const char *at;

        out[0] = '\0';
        (void)snprintf(path, sizeof(path), "%d/stat", getppid());
        if (read_text(proc_fd, "sys/kernel/random/boot_id", boot, sizeof(boot)) < 0 ||
            read_text(proc_fd, path, stat, sizeof(stat)) < 0)
                return;
        boot[strcspn(boot, "\n")] = '\0';
        at = strrchr(stat, ')');
        for (int i = 0; at && i < STARTTIME_FIELD; i++)
                at = strchr(at + 1, ' ');
        if (at)
                (void)snprintf(out, SETTLE_LIFE_MAX, "%.40s %d %.*s", boot, getppid(), (int)strcspn(at + 1, " "),
                               at + 1);
}

/* Before anything is in the store that counts on marks. */
static int sync_made(int mount, struct err *err)
{
        auto_fd fd = openat(mount, ".", DIR_FLAGS);

        return fd < 0 || fsync(fd) < 0 ? err_sys(err, "write the store's directory") : 0;
}

int settle_open(struct settle *s, int mount, int layers, int trees, int proc_fd, struct err *err)
{
        char life[SETTLE_LIFE_MAX], before[SETTLE_LIFE_MAX] = "";
        int r;

        *s = (struct settle)SETTLE_NONE;
        s->layers = layers;
        s->trees = trees;
        s->made = mkdirat(mount, "settled", 0700) == 0;
        if (!s->made && errno != EEXIST)
                return err_sys(err, "make 'settled' in the store");
        s->dir = openat(mount, "settled", DIR_FLAGS);
        if (s->dir < 0 || fchown(s->dir, 0, 0) < 0 || fchmod(s->dir, 0700) < 0)
                return err_sys(err, "open 'settled' in the store");
        r = s->made ? sync_made(mount, err) : 0;
        if (r < 0)
                return r;
        this_life(proc_fd, life);
        s->same = life[0] && read_text(s->dir, LIFE, before, sizeof(before)) == 0 && strcmp(life, before) == 0;
        return 0;
}

void settle_close(struct settle *s)
{
        fd_replace(&s->dir, -EBADF);
        vec_free((void **)&s->fresh.items);
        vec_free((void **)&s->writing.items);
        s->fresh = s->writing = (struct settle_names){ .items = NULL };
}

/* Where the file system knows no births, an inode that was used again may be taken for the old one. */
static bool identity(const struct settle *s, const char *mark, char out[SETTLE_ID_MAX])
{
        struct statx st;

        if (statx(mark[0] == 'l' ? s->layers : s->trees, mark + 1, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &st) <
            0)
                return false;
        if (!(st.stx_mask & STATX_BTIME))
                st.stx_btime = (struct statx_timestamp){ .tv_sec = 0 };
        (void)snprintf(out, SETTLE_ID_MAX, "%llu %lld.%09u", (unsigned long long)st.stx_ino,
                       (long long)st.stx_btime.tv_sec, st.stx_btime.tv_nsec);
        return true;
}

static bool marked(const struct settle *s, const char *mark)
{
        char is[SETTLE_ID_MAX], said[SETTLE_ID_MAX];
        ssize_t n = readlinkat(s->dir, mark, said, sizeof(said) - 1);
        struct stat st;

        if (n < 0)
                return errno == EINVAL && fstatat(s->dir, mark, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
        said[n] = '\0';
        return identity(s, mark, is) && strcmp(is, said) == 0;
}

/* One system call, so that there is no mark that says half of it. */
static void add_mark(const struct settle *s, const char *mark)
{
        char id[SETTLE_ID_MAX];

        if (!identity(s, mark, id))
                return;
        (void)unlinkat(s->dir, mark, 0);
        (void)!symlinkat(id, s->dir, mark); /* without it, it is made again after a power cut */
}

bool settle_known(struct settle *s, enum launch_kind kind, const char *name)
{
        char mark[SETTLE_NAME_MAX];

        mark_name(kind, name, mark);
        return marked(s, mark) || ((s->same || s->made) && names_add(&s->fresh, mark) == 0);
}

struct look {
        struct settle *settle;
        bool (*there)(enum launch_kind kind, const char *name, void *data);
        void *data;
};

static int drop_stale(const char *name, void *data)
{
        const struct look *l = data;
        enum launch_kind kind = name[0] == 'l' ? LAUNCH_KIND_LAYER : LAUNCH_KIND_TREE;

        if ((name[0] == 'l' || name[0] == 't') && strlen(name) == LAUNCH_HEX + 1 && validate_hex(name + 1) &&
            !l->there(kind, name + 1, l->data) && unlinkat(l->settle->dir, name, 0) < 0)
                return -errno;
        return 0;
}

int settle_opened(struct settle *s, int proc_fd, bool (*there)(enum launch_kind kind, const char *name, void *data),
                  void *data, struct err *err)
{
        struct look look = { s, there, data };
        char life[SETTLE_LIFE_MAX];
        int r;

        if (s->same)
                return 0;
        r = path_each_entry(s->dir, drop_stale, &look);
        if (r < 0)
                return err_set(err, -r, "read 'settled' in the store: %s", strerror(-r));
        if (fsync(s->dir) < 0)
                return err_sys(err, "write 'settled' in the store");
        this_life(proc_fd, life);
        return fd_write_file(s->dir, LIFE, 0600, life, strlen(life), err);
}

static int unmark(struct settle *s, const char *mark)
{
        return unlinkat(s->dir, mark, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int settle_add(struct settle *s, enum launch_kind kind, const char *name)
{
        char mark[SETTLE_NAME_MAX];

        mark_name(kind, name, mark);
        return names_add(&s->fresh, mark);
}

int settle_remove(struct settle *s, enum launch_kind kind, const char *name)
{
        char mark[SETTLE_NAME_MAX];

        mark_name(kind, name, mark);
        names_remove(&s->fresh, mark);
        names_remove(&s->writing, mark);
        return unmark(s, mark);
}

bool settle_wanted(const struct settle *s)
{
        return s->fresh.len > 0 && s->writing.len == 0;
}

void settle_begin(struct settle *s)
{
        struct settle_names empty = s->writing;

        s->writing = s->fresh;
        s->fresh = empty;
}

void settle_end(struct settle *s, bool good)
{
        /* What could not be written out once never gets a mark: the kernel says so one time only. */
        for (size_t i = 0; good && i < s->writing.len; i++)
                add_mark(s, s->writing.items[i]);
        s->writing.len = 0;
}
