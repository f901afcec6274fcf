#include "launcher/work_store.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "launcher/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define TRASH_TRIES 16

static int rename_new(int from_dir, const char *from, int to_dir, const char *to)
{
        return sys_result(syscall(SYS_renameat2, from_dir, from, to_dir, to, RENAME_NOREPLACE));
}

/* Of the host's root, closed to the store's ids, whatever it was. */
static int open_dir(int mount, const char *name, int *ret, struct err *err)
{
        if (mkdirat(mount, name, 0700) < 0 && errno != EEXIST)
                return err_sys(err, "make '%s' in the store", name);
        *ret = openat(mount, name, DIR_FLAGS);
        if (*ret < 0 || fchown(*ret, 0, 0) < 0 || fchmod(*ret, 0700) < 0)
                return err_sys(err, "open '%s' in the store", name);
        return 0;
}

static int throw_away(struct work_store *s, int dir, const char *name)
{
        char trash[WORK_NAME_MAX];
        int r = -EEXIST;

        for (int i = 0; r == -EEXIST && i < TRASH_TRIES; i++) {
                (void)snprintf(trash, sizeof(trash), "%016" PRIx64, s->next_trash++);
                r = rename_new(dir, name, s->trash, trash);
        }
        return r;
}

static int throw_tmp(const char *name, void *data)
{
        struct work_store *s = data;
        int r = throw_away(s, s->tmp, name);

        /* What is not to be moved is left for the next start; it is in nobody's way. */
        return r == -ENOMEM ? r : 0;
}

static int count_trash(const char *name, void *data)
{
        struct work_store *s = data;
        char *end;
        uint64_t n;

        if (strlen(name) != 16)
                return 0;
        n = strtoull(name, &end, 16);
        if (*end == '\0' && n >= s->next_trash && n < UINT64_MAX / 2)
                s->next_trash = n + 1;
        return 0;
}

/* Workers get descriptors of this mount, of which they cannot run, nor open devices. */
static int clone_mount(int store_fd, int *ret, struct err *err)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC };
        auto_fd mount = sys_open_tree(store_fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
        int r;

        if (mount < 0)
                return err_set(err, -mount, "clone the store's mount: %s", strerror(-mount));
        r = sys_mount_setattr(mount, "", AT_EMPTY_PATH, &attr);
        if (r < 0)
                return err_set(err, -r, "restrict the store's mount: %s", strerror(-r));
        *ret = TAKE_FD(mount);
        return 0;
}

static int kind_dir(const struct work_store *s, enum launch_kind kind)
{
        return kind == LAUNCH_KIND_LAYER ? s->layers : s->trees;
}

struct kind_search {
        struct work_store *store;
        enum launch_kind kind;
};

static int throw_spoilt(const char *name, void *data)
{
        const struct kind_search *k = data;

        if (strlen(name) != LAUNCH_HEX || settle_known(&k->store->settle, k->kind, name))
                return 0;
        return throw_away(k->store, kind_dir(k->store, k->kind), name);
}

static bool is_there(enum launch_kind kind, const char *name, void *data)
{
        struct stat st;

        return fstatat(kind_dir(data, kind), name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static int open_settled(struct work_store *s, int proc_fd, struct err *err)
{
        struct kind_search layers = { s, LAUNCH_KIND_LAYER }, trees = { s, LAUNCH_KIND_TREE };
        int r = settle_open(&s->settle, s->mount, s->layers, s->trees, proc_fd, err);

        if (r < 0)
                return r;
        r = path_each_entry(s->layers, throw_spoilt, &layers);
        if (r == 0)
                r = path_each_entry(s->trees, throw_spoilt, &trees);
        if (r < 0)
                return err_set(err, -r, "look through the store: %s", strerror(-r));
        return settle_opened(&s->settle, proc_fd, is_there, s, err);
}

int work_store_open(struct work_store *s, int store_fd, int proc_fd, uint32_t id_base, struct err *err)
{
        int r;

        *s = (struct work_store)WORK_STORE_NONE;
        s->id_base = id_base;
        r = clone_mount(store_fd, &s->mount, err);
        if (r == 0)
                r = open_dir(s->mount, "layers", &s->layers, err);
        if (r == 0)
                r = open_dir(s->mount, "trees", &s->trees, err);
        if (r == 0)
                r = open_dir(s->mount, "tmp", &s->tmp, err);
        if (r == 0)
                r = open_dir(s->mount, "trash", &s->trash, err);
        if (r < 0)
                return r;
        (void)path_each_entry(s->trash, count_trash, s);
        r = open_settled(s, proc_fd, err);
        if (r < 0)
                return r;
        r = path_each_entry(s->tmp, throw_tmp, s);
        return r < 0 ? err_set(err, -r, "empty the store's tmp: %s", strerror(-r)) : 0;
}

void work_store_close(struct work_store *s)
{
        int *const fds[] = { &s->layers, &s->trees, &s->tmp, &s->trash, &s->mount };

        for (size_t i = 0; i < ARRAY_LEN(fds); i++)
                fd_replace(fds[i], -EBADF);
        settle_close(&s->settle);
}

static void token_name(uint32_t token, char out[WORK_NAME_MAX])
{
        (void)snprintf(out, WORK_NAME_MAX, "%" PRIu32, token);
}

int work_store_make(struct work_store *s, uint32_t token, int *ret_dir, struct err *err)
{
        char name[WORK_NAME_MAX];
        auto_fd dir = -EBADF;

        token_name(token, name);
        if (mkdirat(s->tmp, name, 0700) < 0)
                return err_sys(err, "make a directory in the store");
        dir = openat(s->tmp, name, DIR_FLAGS);
        if (dir < 0 || fchown(dir, s->id_base, s->id_base) < 0)
                return err_sys(err, "open a directory in the store");
        *ret_dir = TAKE_FD(dir);
        return 0;
}

int work_store_discard(struct work_store *s, uint32_t token)
{
        char name[WORK_NAME_MAX];

        token_name(token, name);
        return throw_away(s, s->tmp, name);
}

static bool is_dir(int dirfd, const char *name)
{
        struct stat st;

        return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* A layer is the whole of tmp/<token>, a tree only what is in its root/. */
int work_store_commit(struct work_store *s, uint32_t token, enum launch_kind kind, const char *name, struct err *err)
{
        int to = kind_dir(s, kind), r;
        char from[WORK_NAME_MAX];
        auto_fd dir = -EBADF;

        token_name(token, from);
        dir = openat(s->tmp, from, DIR_FLAGS);
        if (dir < 0)
                return err_sys(err, "open what was made");
        /* The worker chose what this is. */
        if (!is_dir(dir, "root"))
                return err_set(err, ENOTDIR, "what was made is no directory");
        if (kind == LAUNCH_KIND_LAYER)
                r = rename_new(s->tmp, from, to, name);
        else
                r = rename_new(dir, "root", to, name);
        if (r < 0)
                return err_set(err, -r, "commit '%s': %s", name, strerror(-r));
        /* What is not known to settle is thrown away by the launcher after the next boot: so be it. */
        (void)settle_add(&s->settle, kind, name);
        if (kind == LAUNCH_KIND_TREE && unlinkat(s->tmp, from, AT_REMOVEDIR) < 0)
                (void)throw_away(s, s->tmp, from);
        return 0;
}

static int rename_exchange(int from_dir, const char *from, int to_dir, const char *to)
{
        return sys_result(syscall(SYS_renameat2, from_dir, from, to_dir, to, RENAME_EXCHANGE));
}

int work_store_replace(struct work_store *s, uint32_t token, enum launch_kind kind, const char *name, struct err *err)
{
        int to = kind_dir(s, kind), r;
        char from[WORK_NAME_MAX];
        auto_fd dir = -EBADF;

        if (!is_dir(to, name))
                return work_store_commit(s, token, kind, name, err);
        token_name(token, from);
        dir = openat(s->tmp, from, DIR_FLAGS);
        if (dir < 0)
                return err_sys(err, "open what was made");
        if (!is_dir(dir, "root"))
                return err_set(err, ENOTDIR, "what was made is no directory");
        r = settle_remove(&s->settle, kind, name);
        if (r == 0 && kind == LAUNCH_KIND_LAYER)
                r = rename_exchange(s->tmp, from, to, name);
        else if (r == 0)
                r = rename_exchange(dir, "root", to, name);
        if (r < 0)
                return err_set(err, -r, "replace '%s': %s", name, strerror(-r));
        (void)settle_add(&s->settle, kind, name);
        (void)throw_away(s, s->tmp, from);
        return 0;
}

int work_store_open_both(struct work_store *s, uint32_t token, enum launch_kind kind, const char *name, int *ret_made,
                         int *ret_named, struct err *err)
{
        auto_fd made = -EBADF, named = -EBADF;
        char from[WORK_NAME_MAX + 8];

        token_name(token, from);
        if (kind == LAUNCH_KIND_TREE)
                (void)snprintf(from + strlen(from), 8, "/root");
        made = openat(s->tmp, from, DIR_FLAGS);
        if (made < 0)
                return err_sys(err, "open what was made");
        named = openat(kind_dir(s, kind), name, DIR_FLAGS);
        if (named < 0)
                return err_sys(err, "open '%s'", name);
        *ret_made = TAKE_FD(made);
        *ret_named = TAKE_FD(named);
        return 0;
}

int work_store_delete(struct work_store *s, enum launch_kind kind, const char *name, struct err *err)
{
        int r = settle_remove(&s->settle, kind, name);

        if (r == 0)
                r = throw_away(s, kind_dir(s, kind), name);
        return r < 0 ? err_set(err, -r, "delete '%s': %s", name, strerror(-r)) : 0;
}

int work_store_open_layer(struct work_store *s, const char *name, struct err *err)
{
        int fd = openat(s->layers, name, DIR_FLAGS);

        return fd < 0 ? err_sys(err, "open layer '%s'", name) : fd;
}

int work_store_list(struct work_store *s, enum launch_kind kind, int (*fn)(const char *name, void *data), void *data)
{
        return path_each_entry(kind_dir(s, kind), fn, data);
}

struct trash_search {
        const char *floor;
        char best[WORK_NAME_MAX];
};

static int search_trash(const char *name, void *data)
{
        struct trash_search *t = data;

        if (strlen(name) >= WORK_NAME_MAX || strcmp(name, t->floor) <= 0)
                return 0;
        if (!t->best[0] || strcmp(name, t->best) < 0)
                memcpy(t->best, name, strlen(name) + 1);
        return 0;
}

bool work_store_next_trash(struct work_store *s, char ret_name[WORK_NAME_MAX], int *ret_dir)
{
        for (;;) {
                struct trash_search t = { .floor = s->floor };
                int fd;

                if (path_each_entry(s->trash, search_trash, &t) < 0 || !t.best[0])
                        return false;
                memcpy(s->floor, t.best, sizeof(s->floor));
                if (unlinkat(s->trash, t.best, AT_REMOVEDIR) == 0 || unlinkat(s->trash, t.best, 0) == 0)
                        continue;
                fd = openat(s->trash, t.best, DIR_FLAGS);
                if (fd < 0)
                        continue;
                memcpy(ret_name, t.best, sizeof(t.best));
                *ret_dir = fd;
                return true;
        }
}

void work_store_forget_trash(struct work_store *s, const char *name)
{
        (void)unlinkat(s->trash, name, AT_REMOVEDIR);
}
