#include "net/docker.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "net/link.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/x_tables.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <time.h>

#define TABLE "filter"
#define TABLE_MAX (16U << 20) /* bytes of entries */
#define ENTRIES_MAX 65536U
#define HOOKS NF_INET_NUMHOOKS
#define TRIES 8
#define LOCK_PATH "/run/xtables.lock"
#define LOCK_PAUSE_MS 20

/* Our entry: a match by the name of an interface alone, and a verdict. */
struct own_entry {
        struct ipt_entry entry;
        struct xt_standard_target target;
};

/* ── entries ─────────────────────────────────────────────────────────────────────────────────────────────────── */

/* The entry at an offset, if it and its target lie within the table. */
static const struct ipt_entry *entry_at(const struct docker_legacy *t, size_t at)
{
        const struct ipt_entry *e = (const struct ipt_entry *)(t->entries + at);

        if (at % __alignof__(struct ipt_entry) != 0 || t->size - at < sizeof(*e) || e->next_offset < sizeof(*e) ||
            e->next_offset > t->size - at || e->target_offset < sizeof(*e) ||
            e->target_offset > e->next_offset - sizeof(struct xt_entry_target))
                return NULL;
        return e;
}

static const struct xt_entry_target *target_of(const struct ipt_entry *e)
{
        return (const struct xt_entry_target *)((const char *)e + e->target_offset);
}

/* A user's chain begins with an entry of the target ERROR that holds its name. */
static bool is_head(const struct ipt_entry *e, const char *chain)
{
        const struct xt_error_target *t = (const struct xt_error_target *)target_of(e);

        return (size_t)(e->next_offset - e->target_offset) >= sizeof(*t) &&
               strncmp(t->target.u.user.name, XT_ERROR_TARGET, sizeof(t->target.u.user.name)) == 0 &&
               strncmp(t->errorname, chain, sizeof(t->errorname)) == 0;
}

static bool is_standard(const struct ipt_entry *e)
{
        return target_of(e)->u.user.name[0] == '\0' &&
               (size_t)(e->next_offset - e->target_offset) >= sizeof(struct xt_standard_target);
}

static void make_own(const char *prefix, int kind, struct own_entry *ret)
{
        size_t n = strlen(prefix);
        unsigned char *mask;
        char *name;

        memset(ret, 0, sizeof(*ret));
        name = kind & 2 ? ret->entry.ip.outiface : ret->entry.ip.iniface;
        mask = kind & 2 ? ret->entry.ip.outiface_mask : ret->entry.ip.iniface_mask;
        (void)snprintf(name, IFNAMSIZ, "%s%c", prefix, kind & 1 ? 'i' : 'n');
        memset(mask, 0xff, n + 1);
        ret->entry.target_offset = sizeof(ret->entry);
        ret->entry.next_offset = sizeof(*ret);
        ret->target.target.u.user.target_size = XT_ALIGN(sizeof(ret->target));
        ret->target.verdict = -NF_ACCEPT - 1;
}

static bool is_own(const struct ipt_entry *e, const char *prefix)
{
        struct own_entry own;

        if (e->next_offset != sizeof(own) || !is_standard(e))
                return false;
        for (int kind = 0; kind < DOCKER_RULES; kind++) {
                make_own(prefix, kind, &own);
                if (memcmp(&e->ip, &own.entry.ip, sizeof(own.entry.ip)) == 0 &&
                    ((const struct xt_standard_target *)target_of(e))->verdict == own.target.verdict)
                        return true;
        }
        return false;
}

/* ── editing ─────────────────────────────────────────────────────────────────────────────────────────────────── */

struct edit {
        const struct docker_legacy *old;
        struct docker_legacy *new;
        unsigned *moved; /* per byte of the old table: where an entry that began there begins now */
        size_t first;    /* of the chain, in the old table; 0: there is none */
        unsigned first_new;
        unsigned own; /* entries of ours in it */
};

static void append(struct docker_legacy *t, const void *entry, size_t size, int from)
{
        memcpy(t->entries + t->size, entry, size);
        t->size += size;
        t->from[t->n++] = from;
}

static int find_chain(struct edit *x, const char *prefix)
{
        const struct ipt_entry *e;
        bool inside = false;
        size_t at = 0;

        for (unsigned i = 0; i < x->old->n; i++, at += e->next_offset) {
                e = entry_at(x->old, at);
                if (!e)
                        return -EBADMSG;
                if (is_head(e, DOCKER_CHAIN))
                        x->first = at + e->next_offset;
                inside = inside ? !str_eq(target_of(e)->u.user.name, XT_ERROR_TARGET) : at == x->first && at > 0;
                x->own += inside && is_own(e, prefix);
        }
        return at == x->old->size ? 0 : -EBADMSG;
}

static void copy_entries(struct edit *x, const char *prefix, bool insert)
{
        const struct ipt_entry *e;
        bool inside = false;
        size_t at = 0;

        for (unsigned i = 0; i < x->old->n; i++, at += e->next_offset) {
                e = entry_at(x->old, at);
                inside = inside ? !str_eq(target_of(e)->u.user.name, XT_ERROR_TARGET) : at == x->first;
                if (at == x->first) {
                        x->first_new = (unsigned)x->new->size;
                        for (int kind = 0; kind < DOCKER_RULES && insert; kind++) {
                                struct own_entry own;

                                make_own(prefix, kind, &own);
                                append(x->new, &own, sizeof(own), -1);
                        }
                }
                x->moved[at] = (unsigned)x->new->size;
                if (!inside || !is_own(e, prefix))
                        append(x->new, e, e->next_offset, (int)i);
        }
        x->moved[at] = (unsigned)x->new->size;
}

/* A jump to the chain leads to its first entry, whatever that is now. */
static unsigned where_now(const struct edit *x, size_t old)
{
        return old == x->first ? x->first_new : old <= x->old->size ? x->moved[old] : 0;
}

static void move_jumps(const struct edit *x)
{
        size_t at = 0;

        for (unsigned i = 0; i < x->new->n; i++) {
                const struct ipt_entry *e = entry_at(x->new, at);
                struct xt_standard_target *t = (struct xt_standard_target *)target_of(e);

                if (is_standard(e) && t->verdict >= 0)
                        t->verdict = (int)where_now(x, (size_t)t->verdict);
                at += e->next_offset;
        }
        for (int i = 0; i < HOOKS; i++) {
                x->new->hook_entry[i] = where_now(x, x->old->hook_entry[i]);
                x->new->underflow[i] = where_now(x, x->old->underflow[i]);
        }
}

int docker_legacy_edit(const struct docker_legacy *old, const char *prefix, bool insert, struct docker_legacy *ret)
{
        auto_free unsigned char *entries = NULL;
        auto_free unsigned *moved = NULL;
        auto_free int *from = NULL;
        struct docker_legacy new = { .n = 0 };
        struct edit x = { .old = old, .new = &new };
        int r = find_chain(&x, prefix);

        if (r < 0)
                return r;
        if (x.first == 0 || x.own == (insert ? DOCKER_RULES : 0))
                return 0;
        entries = calloc(1, old->size + DOCKER_RULES * sizeof(struct own_entry));
        from = calloc(old->n + DOCKER_RULES, sizeof(*from));
        moved = calloc(old->size + 1, sizeof(*moved));
        if (!entries || !from || !moved)
                return -ENOMEM;
        new.entries = entries;
        new.from = from;
        x.moved = moved;
        copy_entries(&x, prefix, insert);
        move_jumps(&x);
        *ret = new;
        entries = NULL;
        from = NULL;
        return 1;
}

/* ── the lock ────────────────────────────────────────────────────────────────────────────────────────────────── */

int docker_legacy_open_lock(void)
{
        int fd = open(LOCK_PATH, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

        if (fd < 0 && errno == ENOENT)
                fd = open(LOCK_PATH, O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                log_debug("open " LOCK_PATH ": %s", strerror(errno));
        return fd < 0 ? -EBADF : fd;
}

int docker_legacy_lock(int lock)
{
        const struct timespec pause = { .tv_nsec = LOCK_PAUSE_MS * 1000000L };

        for (int waited = 0; waited <= DOCKER_LOCK_MS; waited += LOCK_PAUSE_MS) {
                if (flock(lock, LOCK_EX | LOCK_NB) == 0)
                        return 0;
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return -errno;
                (void)nanosleep(&pause, NULL);
        }
        return -EBUSY;
}

/* ── the kernel's table ──────────────────────────────────────────────────────────────────────────────────────── */

static int read_table(int fd, struct docker_legacy *ret, unsigned *ret_hooks)
{
        struct ipt_getinfo info = { .name = TABLE };
        socklen_t len = sizeof(info);
        auto_free struct ipt_get_entries *get = NULL;

        if (getsockopt(fd, IPPROTO_IP, IPT_SO_GET_INFO, &info, &len) < 0)
                return -errno;
        if (info.size > TABLE_MAX || info.num_entries > ENTRIES_MAX)
                return -EFBIG;
        len = (socklen_t)(sizeof(*get) + info.size);
        get = calloc(1, len);
        if (!get)
                return -ENOMEM;
        memcpy(get->name, info.name, sizeof(get->name));
        get->size = info.size;
        if (getsockopt(fd, IPPROTO_IP, IPT_SO_GET_ENTRIES, get, &len) < 0)
                return -errno;
        ret->entries = calloc(1, MAX(info.size, 1U));
        if (!ret->entries)
                return -ENOMEM;
        memcpy(ret->entries, get->entrytable, info.size);
        ret->size = info.size;
        ret->n = info.num_entries;
        memcpy(ret->hook_entry, info.hook_entry, sizeof(info.hook_entry));
        memcpy(ret->underflow, info.underflow, sizeof(info.underflow));
        *ret_hooks = info.valid_hooks;
        return 0;
}

/* What entries had counted when they were replaced is added to those that stand in their place. */
static int add_counters(int fd, const struct docker_legacy *new, const struct xt_counters *old)
{
        size_t size = sizeof(struct xt_counters_info) + new->n * sizeof(struct xt_counters);
        auto_free struct xt_counters_info *add = calloc(1, size);

        if (!add)
                return -ENOMEM;
        (void)snprintf(add->name, sizeof(add->name), TABLE);
        add->num_counters = new->n;
        for (unsigned i = 0; i < new->n; i++) {
                if (new->from[i] >= 0)
                        add->counters[i] = old[new->from[i]];
        }
        return setsockopt(fd, IPPROTO_IP, IPT_SO_SET_ADD_COUNTERS, add, (socklen_t)size) < 0 ? -errno : 0;
}

/* -EAGAIN when the table has another number of entries by now. */
static int write_table(int fd, const struct docker_legacy *new, unsigned hooks, unsigned n_old)
{
        auto_free struct xt_counters *counters = calloc(MAX(n_old, 1U), sizeof(*counters));
        auto_free struct ipt_replace *replace = calloc(1, sizeof(*replace) + new->size);

        if (!counters || !replace)
                return -ENOMEM;
        (void)snprintf(replace->name, sizeof(replace->name), TABLE);
        replace->valid_hooks = hooks;
        replace->num_entries = new->n;
        replace->size = (unsigned)new->size;
        memcpy(replace->hook_entry, new->hook_entry, sizeof(replace->hook_entry));
        memcpy(replace->underflow, new->underflow, sizeof(replace->underflow));
        replace->num_counters = n_old;
        replace->counters = counters;
        memcpy(replace->entries, new->entries, new->size);
        if (setsockopt(fd, IPPROTO_IP, IPT_SO_SET_REPLACE, replace, (socklen_t)(sizeof(*replace) + new->size)) < 0)
                return -errno;
        (void)add_counters(fd, new, counters);
        return 1;
}

/* Without `apply` it only tells whether there is something to do. */
static int edit_once(int fd, const char *prefix, bool insert, bool apply)
{
        struct docker_legacy old = { .n = 0 }, new = { .n = 0 };
        unsigned hooks = 0;
        int r = read_table(fd, &old, &hooks);

        if (r == 0) {
                r = docker_legacy_edit(&old, prefix, insert, &new);
                if (r > 0 && apply)
                        r = write_table(fd, &new, hooks, old.n);
        }
        free(old.entries);
        free(new.entries);
        free(new.from);
        return r;
}

static int edit_locked(int fd, int lock, const char *prefix, bool insert)
{
        int r = edit_once(fd, prefix, insert, false);

        if (r <= 0 && r != -EAGAIN)
                return r;
        r = lock >= 0 ? docker_legacy_lock(lock) : 0;
        if (r < 0)
                return r;
        r = -EAGAIN;
        for (int i = 0; i < TRIES && r == -EAGAIN; i++)
                r = edit_once(fd, prefix, insert, true);
        if (lock >= 0)
                (void)flock(lock, LOCK_UN);
        return r;
}

static int edit(const char *prefix, int lock, bool insert, struct err *err)
{
        auto_fd fd = -EBADF;
        int r;

        if (link_index("docker0") == 0)
                return 0;
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return err_sys(err, "socket");
        r = edit_locked(fd, lock, prefix, insert);
        if (r == -ENOENT || r == -ENOPROTOOPT)
                return 0; /* a kernel without it */
        if (r == -EBUSY)
                return err_set(err, EBUSY, "change iptables-legacy's " DOCKER_CHAIN ": somebody holds " LOCK_PATH);
        return r < 0 ? err_set(err, -r, "change iptables-legacy's " DOCKER_CHAIN ": %s", strerror(-r)) : r;
}

int docker_legacy_keep(const char *prefix, int lock, struct err *err)
{
        return edit(prefix, lock, true, err);
}

int docker_legacy_remove(const char *prefix, int lock, struct err *err)
{
        return edit(prefix, lock, false, err);
}
