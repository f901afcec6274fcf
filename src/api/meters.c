#include "api/meters.h"

#include "base/list.h"
#include "base/map.h"
#include "base/str.h"
#include "base/time.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define FAILURES_FREE 5 /* at once, without waiting; one more each second */
#define FAILURES_MAX 20 /* counted */
#define FAILURE_FIRST_MS 100
#define FAILURE_LAST_MS 5000
#define FAILURES_HELD 32 /* answers of one address that wait at once */
#define RETRY_MAX_S 3600

struct meter {
        struct list node; /* the one that was used last at the end */
        char name[METER_NAME_MAX];
        double tokens;     /* of requests */
        uint64_t taken_ns; /* when they were counted; 0: never */
        double failures;
        uint64_t failed_ns;
        unsigned open, held;
};

struct table {
        struct map *by_name;
        struct list used;
};

struct meters {
        struct meters_config config;
        struct table keys, addresses;
};

/* ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int table_init(struct table *t)
{
        list_init(&t->used);
        t->by_name = map_new();
        return t->by_name ? 0 : -ENOMEM;
}

static void table_remove(struct table *t, struct meter *m)
{
        (void)map_remove(t->by_name, m->name);
        list_remove(&m->node);
        free(m);
}

static void table_done(struct table *t)
{
        struct meter *m;

        LIST_FOREACH(m, &t->used, node)
                table_remove(t, m);
        map_free(t->by_name);
}

/* Who has something open is not forgotten. */
static void table_shrink(struct table *t)
{
        struct meter *m;

        if (map_len(t->by_name) < METERS_MAX)
                return;
        LIST_FOREACH(m, &t->used, node) {
                if (m->open > 0 || m->held > 0)
                        continue;
                table_remove(t, m);
                return;
        }
}

/* NULL: out of memory. */
static struct meter *table_get(struct table *t, const char *name)
{
        struct meter *m = map_find(t->by_name, name);

        if (!m) {
                table_shrink(t);
                m = calloc(1, sizeof(*m));
                if (!m)
                        return NULL;
                (void)snprintf(m->name, sizeof(m->name), "%s", name);
                list_init(&m->node);
                if (map_set(t->by_name, m->name, m) < 0) {
                        free(m);
                        return NULL;
                }
        }
        list_remove(&m->node);
        list_append(&t->used, &m->node);
        return m;
}

/* ── meters ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

int meters_new(const struct meters_config *config, struct meters **ret)
{
        struct meters *m = calloc(1, sizeof(*m));

        if (!m)
                return -ENOMEM;
        m->config = *config;
        if (table_init(&m->keys) < 0 || table_init(&m->addresses) < 0) {
                meters_free(m);
                return -ENOMEM;
        }
        *ret = m;
        return 0;
}

void meters_free(struct meters *m)
{
        if (!m)
                return;
        table_done(&m->keys);
        if (m->addresses.used.next)
                table_done(&m->addresses);
        free(m);
}

void meters_configure(struct meters *m, const struct meters_config *config)
{
        m->config = *config;
}

static unsigned tokens_take(struct meter *m, double rate, uint32_t burst, uint64_t now_ns)
{
        double room = burst > 0 ? burst : fmax(2 * rate, 1);

        if (rate <= 0)
                return 0;
        if (m->taken_ns == 0)
                m->tokens = room;
        else
                m->tokens = fmin(room, m->tokens + (double)(now_ns - m->taken_ns) / (double)NS_PER_S * rate);
        m->taken_ns = now_ns;
        if (m->tokens >= 1) {
                m->tokens -= 1;
                return 0;
        }
        return (unsigned)fmin(ceil((1 - m->tokens) / rate), RETRY_MAX_S);
}

unsigned meters_take_address(struct meters *m, const char *address, uint64_t now_ns)
{
        struct meter *meter;

        if (m->config.address_rate <= 0)
                return 0;
        meter = table_get(&m->addresses, address);
        return meter ? tokens_take(meter, m->config.address_rate, m->config.address_burst, now_ns) : 1;
}

/* The key's own bound, where it has one that is below the node's. */
static uint32_t lesser(uint32_t own, uint32_t all)
{
        if (own == 0 || all == 0)
                return own + all;
        return MIN(own, all);
}

unsigned meters_enter_key(struct meters *m, const struct key *key, uint64_t now_ns)
{
        struct meter *meter = table_get(&m->keys, key->id);
        uint32_t connections = lesser(key->maxima.max_connections, m->config.key_connections);
        double rate = m->config.key_rate;
        uint32_t burst = m->config.key_burst;
        unsigned wait;

        if (!meter)
                return 1;
        if (connections > 0 && meter->open >= connections)
                return 1;
        if (key->maxima.rate > 0 && (rate <= 0 || key->maxima.rate < rate)) {
                rate = key->maxima.rate;
                burst = 0;
        }
        burst = lesser(key->maxima.burst, burst);
        wait = tokens_take(meter, rate, burst, now_ns);
        if (wait == 0)
                meter->open++;
        return wait;
}

void meters_leave_key(struct meters *m, const char *id)
{
        struct meter *meter = map_find(m->keys.by_name, id);

        if (meter && meter->open > 0)
                meter->open--;
}

/* ── failed authentications ──────────────────────────────────────────────────────────────────────────────────────── */

static int failure_wait_ms(double failures)
{
        int ms = FAILURE_FIRST_MS;

        if (failures <= FAILURES_FREE)
                return 0;
        for (int n = (int)ceil(failures) - 1; n > FAILURES_FREE && ms < FAILURE_LAST_MS; n--)
                ms *= 2;
        return MIN(ms, FAILURE_LAST_MS);
}

int meters_failed(struct meters *m, const char *address, uint64_t now_ns)
{
        struct meter *meter = table_get(&m->addresses, address);
        int ms;

        if (!meter || meter->held >= FAILURES_HELD)
                return -1;
        if (meter->failed_ns != 0)
                meter->failures = fmax(0, meter->failures - (double)(now_ns - meter->failed_ns) / (double)NS_PER_S);
        meter->failed_ns = now_ns;
        meter->failures = fmin(FAILURES_MAX, meter->failures + 1);
        ms = failure_wait_ms(meter->failures);
        if (ms > 0)
                meter->held++;
        return ms;
}

void meters_answered(struct meters *m, const char *address)
{
        struct meter *meter = map_find(m->addresses.by_name, address);

        if (meter && meter->held > 0)
                meter->held--;
}
