#include "launcher/cgroup.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "launcher/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#define CPU_PERIOD_US 100000
#define CPU_QUOTA_MIN_US 1000      /* the kernel's own minimum */
#define KEEP_MAX (4 * 1024 * 1024) /* what a leaf of version 1 may keep charged between two uses */
#define REMOVE_TRIES 200
#define THROTTLED_MIN_NS UINT64_C(5000000) /* who used less cannot be throttled by any quota that tasks get */

static bool is_v2(const struct cgroup *cg)
{
        return cg->kind == LAUNCH_CGROUP_V2;
}

/* The directory of the leaf in the hierarchy that carries a controller: 0 memory, 1 cpu, 2 cpuacct, 3 pids. */
static int dir_of(const struct cgroup *cg, const struct cgroup_leaf *leaf, unsigned controller)
{
        if (is_v2(cg))
                return leaf->dir[0];
        for (unsigned i = 0; i < cg->n; i++)
                if (cg->controllers[i] & (1u << controller))
                        return leaf->dir[i];
        return -EBADF;
}

static int write_number(int dir, const char *name, uint64_t value)
{
        char text[32];

        (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
        return fd_write_knob(dir, name, text, NULL);
}

/* ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static uint64_t cpu_quota(uint32_t milli)
{
        return MAX((uint64_t)milli * (CPU_PERIOD_US / 1000), (uint64_t)CPU_QUOTA_MIN_US);
}

/* What lies in the buffers of sockets counts beside all other memory, and only where it has a limit of its own
 * (cgroup-v1/memory.rst, 2.7.2): without one a task could take all that net.ipv4.tcp_mem and udp_mem leave to the host. What
 * an earlier container left behind keeps the limit that it had. */
static int limit_sockets_v1(int dir, uint64_t memory)
{
        int r = write_number(dir, "memory.kmem.tcp.limit_in_bytes", memory);

        return r == -ENOENT || r == -EBUSY ? 0 : r;
}

/* Memory plus swap may never be below memory (cgroup-v1/memory.rst, 2.4), so the order depends on the direction. A kernel
 * that does not account swap has no such file. */
static int limit_memory_v1(int dir, uint64_t now, uint64_t memory)
{
        int r, swap;

        if (memory > now) {
                swap = write_number(dir, "memory.memsw.limit_in_bytes", memory);
                r = write_number(dir, "memory.limit_in_bytes", memory);
        } else {
                r = write_number(dir, "memory.limit_in_bytes", memory);
                swap = write_number(dir, "memory.memsw.limit_in_bytes", memory);
        }
        if (r == 0)
                r = limit_sockets_v1(dir, memory);
        return r < 0 ? r : swap == -ENOENT ? 0 : swap;
}

static int limit_cpu(const struct cgroup *cg, int dir, uint32_t milli)
{
        char text[48];

        if (!is_v2(cg))
                return write_number(dir, "cpu.cfs_quota_us", cpu_quota(milli));
        (void)snprintf(text, sizeof(text), "%llu %d", (unsigned long long)cpu_quota(milli), CPU_PERIOD_US);
        return fd_write_knob(dir, "cpu.max", text, NULL);
}

int cgroup_leaf_limit(struct cgroup *cg, struct cgroup_leaf *leaf, const struct cgroup_limits *limits)
{
        int r = 0;

        if (limits->memory != leaf->limits.memory) {
                int dir = dir_of(cg, leaf, 0);

                if (is_v2(cg))
                        r = write_number(dir, "memory.max", limits->memory);
                else
                        r = limit_memory_v1(dir, leaf->limits.memory ? leaf->limits.memory : UINT64_MAX,
                                            limits->memory);
                if (r < 0)
                        return r;
                leaf->limits.memory = limits->memory;
        }
        if (limits->cpu_milli != leaf->limits.cpu_milli) {
                r = limit_cpu(cg, dir_of(cg, leaf, 1), limits->cpu_milli);
                if (r < 0)
                        return r;
                leaf->limits.cpu_milli = limits->cpu_milli;
        }
        if (limits->pids != leaf->limits.pids) {
                r = write_number(dir_of(cg, leaf, 3), "pids.max", limits->pids);
                if (r < 0)
                        return r;
                leaf->limits.pids = limits->pids;
        }
        return 0;
}

/* ── counters ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct counter {
        unsigned controller;
        const char *v1, *v2;
};

static const struct counter counters[CGROUP_FILES] = {
        [CGROUP_PEAK] = { 0, "memory.max_usage_in_bytes", "memory.peak" },
        [CGROUP_NOW] = { 0, "memory.usage_in_bytes", "memory.current" },
        [CGROUP_CPU] = { 2, "cpuacct.usage", "cpu.stat" },
        [CGROUP_OOM] = { 0, "memory.oom_control", "memory.events" },
        [CGROUP_PIDS] = { 3, "pids.events", "pids.events" },
};

/* The number after `key` at the beginning of a line, or the whole text's if key is NULL. */
static uint64_t read_counter(int fd, const char *key)
{
        char text[1024];
        size_t n = key ? strlen(key) : 0;
        ssize_t got = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);

        if (got <= 0)
                return 0;
        text[got] = '\0';
        if (!key)
                return strtoull(text, NULL, 10);
        for (const char *line = text; line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, key, n) == 0 && line[n] == ' ')
                        return strtoull(line + n + 1, NULL, 10);
        }
        return 0;
}

void cgroup_leaf_read(struct cgroup *cg, const struct cgroup_leaf *leaf, struct cgroup_counters *ret)
{
        ret->memory_peak = read_counter(leaf->file[CGROUP_PEAK], NULL);
        ret->memory_now = read_counter(leaf->file[CGROUP_NOW], NULL);
        ret->oom_kills = read_counter(leaf->file[CGROUP_OOM], "oom_kill") - leaf->oom_base;
        ret->pids_refused = read_counter(leaf->file[CGROUP_PIDS], "max") - leaf->pids_base;
        if (is_v2(cg))
                ret->cpu_ns = read_counter(leaf->file[CGROUP_CPU], "usage_usec") * 1000;
        else
                ret->cpu_ns = read_counter(leaf->file[CGROUP_CPU], NULL);
        ret->memory_peak = MAX(ret->memory_peak, ret->memory_now);
}

/* ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void close_leaf(struct cgroup_leaf *leaf)
{
        for (unsigned i = 0; i < CGROUP_HIERARCHIES; i++) {
                fd_replace(&leaf->dir[i], -EBADF);
                fd_replace(&leaf->enter[i], -EBADF);
        }
        for (unsigned i = 0; i < CGROUP_FILES; i++)
                fd_replace(&leaf->file[i], -EBADF);
        fd_replace(&leaf->oom_event, -EBADF);
}

static int make_dirs(struct cgroup *cg, struct cgroup_leaf *leaf, struct err *err)
{
        for (unsigned i = 0; i < cg->n; i++) {
                if (mkdirat(cg->groups[leaf->group][i], leaf->name, 0755) < 0)
                        return err_sys(err, "make cgroup %s", leaf->name);
                leaf->dir[i] = openat(cg->groups[leaf->group][i], leaf->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (leaf->dir[i] < 0)
                        return err_sys(err, "open cgroup %s", leaf->name);
                if (is_v2(cg))
                        continue;
                leaf->enter[i] = openat(leaf->dir[i], "tasks", O_WRONLY | O_CLOEXEC);
                if (leaf->enter[i] < 0)
                        return err_sys(err, "open tasks of cgroup %s", leaf->name);
        }
        return 0;
}

static int open_counters(struct cgroup *cg, struct cgroup_leaf *leaf, struct err *err)
{
        for (unsigned i = 0; i < CGROUP_FILES; i++) {
                const char *name = is_v2(cg) ? counters[i].v2 : counters[i].v1;

                leaf->file[i] = openat(dir_of(cg, leaf, counters[i].controller), name, O_RDWR | O_CLOEXEC);
                if (leaf->file[i] < 0)
                        leaf->file[i] = openat(dir_of(cg, leaf, counters[i].controller), name, O_RDONLY | O_CLOEXEC);
                if (leaf->file[i] < 0 && i != CGROUP_PIDS && i != CGROUP_PEAK)
                        return err_sys(err, "open %s of cgroup %s", name, leaf->name);
        }
        return 0;
}

/* cgroup-v1/memory.rst, 10: an eventfd that is told of each OOM. */
static int watch_oom(struct cgroup *cg, struct cgroup_leaf *leaf, struct err *err)
{
        char text[64];

        leaf->oom_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (leaf->oom_event < 0)
                return err_sys(err, "make an eventfd");
        (void)snprintf(text, sizeof(text), "%d %d", leaf->oom_event, leaf->file[CGROUP_OOM]);
        return fd_write_knob(dir_of(cg, leaf, 0), "cgroup.event_control", text, err);
}

static int set_up(struct cgroup *cg, struct cgroup_leaf *leaf, struct err *err)
{
        int r = make_dirs(cg, leaf, err);

        if (r == 0)
                r = open_counters(cg, leaf, err);
        if (r < 0)
                return r;
        if (!is_v2(cg)) {
                (void)fd_write_knob(dir_of(cg, leaf, 0), "memory.swappiness", "0", NULL);
                return watch_oom(cg, leaf, err);
        }
        (void)fd_write_knob(leaf->dir[0], "memory.swap.max", "0", NULL);
        return fd_write_knob(leaf->dir[0], "memory.oom.group", "1", err);
}

int cgroup_leaf_make(struct cgroup *cg, enum cgroup_group group, const struct cgroup_limits *limits,
                     struct cgroup_leaf *ret, struct err *err)
{
        struct cgroup_leaf leaf = CGROUP_LEAF_NONE;
        int r;

        leaf.group = group;
        (void)snprintf(leaf.name, sizeof(leaf.name), "%u", cg->next++);
        r = set_up(cg, &leaf, err);
        if (r == 0) {
                r = cgroup_leaf_limit(cg, &leaf, limits);
                if (r < 0)
                        (void)err_set(err, -r, "limit cgroup %s", leaf.name);
        }
        if (r < 0) {
                cgroup_leaf_remove(cg, &leaf);
                return r;
        }
        *ret = leaf;
        return 0;
}

int cgroup_enter(const struct cgroup *cg, int first)
{
        if (is_v2(cg))
                return 0;
        for (unsigned i = 0; i < cg->n; i++)
                if (write(first + (int)i, "0", 1) < 0)
                        return -errno;
        return 0;
}

/* Whoever used up its quota is throttled until the period ends, and so would be the next one here. Setting a quota anew
 * begins a period; it is written with the next limits. */
static void end_throttling(struct cgroup *cg, struct cgroup_leaf *leaf)
{
        if (read_counter(leaf->file[CGROUP_CPU], NULL) < THROTTLED_MIN_NS)
                return;
        (void)fd_write_knob(dir_of(cg, leaf, 1), "cpu.cfs_quota_us", "-1", NULL);
        leaf->limits.cpu_milli = 0;
}

bool cgroup_leaf_reset(struct cgroup *cg, struct cgroup_leaf *leaf)
{
        uint64_t seen;

        if (is_v2(cg) || !leaf->name[0])
                return false;
        if (read_counter(leaf->file[CGROUP_NOW], NULL) > KEEP_MAX)
                (void)fd_write_knob(dir_of(cg, leaf, 0), "memory.force_empty", "0", NULL);
        /* What earlier containers left has not gone yet (slot.c): the next one is not to pay for it. */
        if (read_counter(leaf->file[CGROUP_NOW], NULL) > KEEP_MAX)
                return false;
        end_throttling(cg, leaf);
        if (pwrite(leaf->file[CGROUP_PEAK], "0", 1, 0) < 0 || pwrite(leaf->file[CGROUP_CPU], "0", 1, 0) < 0)
                return false;
        leaf->oom_base = read_counter(leaf->file[CGROUP_OOM], "oom_kill");
        leaf->pids_base = read_counter(leaf->file[CGROUP_PIDS], "max");
        (void)!read(leaf->oom_event, &seen, sizeof(seen));
        return true;
}

void cgroup_leaf_remove(struct cgroup *cg, struct cgroup_leaf *leaf)
{
        if (!leaf->name[0])
                return;
        /* Page cache that is charged to a removed cgroup keeps it in the kernel (cgroup-v2.rst, «Memory Ownership»). */
        if (is_v2(cg) && leaf->dir[0] >= 0)
                (void)write_number(leaf->dir[0], "memory.reclaim", read_counter(leaf->file[CGROUP_NOW], NULL));
        for (unsigned i = 0; i < cg->n; i++)
                for (unsigned n = 0; n < REMOVE_TRIES; n++) {
                        if (unlinkat(cg->groups[leaf->group][i], leaf->name, AT_REMOVEDIR) == 0 || errno != EBUSY)
                                break;
                        if (is_v2(cg))
                                (void)fd_write_knob(leaf->dir[0], "cgroup.kill", "1", NULL);
                        (void)usleep(500);
                }
        close_leaf(leaf);
        leaf->name[0] = '\0';
        leaf->limits = (struct cgroup_limits){ .memory = 0 };
}
