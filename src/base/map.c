#include "base/map.h"
#include "base/str.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAP_FIRST 16 /* a power of two, as every size is */

/* Open addressing, linear probing. A slot is empty (no key), a grave (so that probing goes on) or full. */
struct map_slot {
        char *key;
        void *value;
        uint64_t hash;
};

struct map {
        struct map_slot *slots;
        size_t size, len, graves;
        uint64_t k0, k1;
};

static char grave[1];

#define ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))

static inline void sip_round(uint64_t v[4])
{
        v[0] += v[1];
        v[1] = ROTL(v[1], 13) ^ v[0];
        v[0] = ROTL(v[0], 32);
        v[2] += v[3];
        v[3] = ROTL(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = ROTL(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = ROTL(v[1], 17) ^ v[2];
        v[2] = ROTL(v[2], 32);
}

/* SipHash-1-3 (Aumasson, Bernstein: SipHash, a fast short-input PRF). */
static uint64_t sip_hash(uint64_t k0, uint64_t k1, const char *key, size_t len)
{
        uint64_t v[4] = { k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d),
                          k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573) };
        uint64_t m, tail = (uint64_t)len << 56;

        for (; len >= 8; key += 8, len -= 8) {
                memcpy(&m, key, 8);
                v[3] ^= m;
                sip_round(v);
                v[0] ^= m;
        }
        for (size_t i = 0; i < len; i++)
                tail |= (uint64_t)(uint8_t)key[i] << (8 * i);
        v[3] ^= tail;
        sip_round(v);
        v[0] ^= tail;
        v[2] ^= 0xff;
        sip_round(v);
        sip_round(v);
        sip_round(v);
        return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t map_hash(const struct map *m, const char *key)
{
        return sip_hash(m->k0, m->k1, key, strlen(key));
}

static bool slot_full(const struct map_slot *s)
{
        return s->key && s->key != grave;
}

struct map *map_new(void)
{
        struct map *m;
        uint64_t k[2];

        m = calloc(1, sizeof(*m));
        if (!m)
                return NULL;
        if (getrandom(k, sizeof(k), 0) != (ssize_t)sizeof(k)) {
                free(m);
                return NULL;
        }
        m->k0 = k[0];
        m->k1 = k[1];
        return m;
}

void map_free(struct map *m)
{
        if (!m)
                return;
        for (size_t i = 0; i < m->size; i++)
                if (slot_full(&m->slots[i]))
                        free(m->slots[i].key);
        free(m->slots);
        free(m);
}

static struct map_slot *map_slot_find(const struct map *m, const char *key, uint64_t hash)
{
        if (m->size == 0)
                return NULL;
        for (size_t i = hash & (m->size - 1);; i = (i + 1) & (m->size - 1)) {
                struct map_slot *s = &m->slots[i];

                if (!s->key)
                        return NULL;
                if (s->key != grave && s->hash == hash && strcmp(s->key, key) == 0)
                        return s;
        }
}

static struct map_slot *map_slot_free(struct map_slot *slots, size_t size, uint64_t hash)
{
        size_t i = hash & (size - 1);

        while (slot_full(&slots[i]))
                i = (i + 1) & (size - 1);
        return &slots[i];
}

/* Makes room for one more: at most three quarters of the slots are full or graves. */
static int map_make_room(struct map *m)
{
        struct map_slot *slots;
        size_t size;

        if ((m->len + m->graves + 1) * 4 <= m->size * 3)
                return 0;
        size = MAP_FIRST;
        while ((m->len + 1) * 2 > size)
                size *= 2;
        slots = calloc(size, sizeof(*slots));
        if (!slots)
                return -ENOMEM;
        for (size_t i = 0; i < m->size; i++)
                if (slot_full(&m->slots[i]))
                        *map_slot_free(slots, size, m->slots[i].hash) = m->slots[i];
        free(m->slots);
        m->slots = slots;
        m->size = size;
        m->graves = 0;
        return 0;
}

int map_set(struct map *m, const char *key, void *value)
{
        uint64_t hash = map_hash(m, key);
        struct map_slot *s;
        char *copy;
        int r;

        s = map_slot_find(m, key, hash);
        if (s) {
                s->value = value;
                return 0;
        }
        r = map_make_room(m);
        if (r < 0)
                return r;
        copy = strdup(key);
        if (!copy)
                return -ENOMEM;
        s = map_slot_free(m->slots, m->size, hash);
        if (s->key == grave)
                m->graves--;
        *s = (struct map_slot){ .key = copy, .value = value, .hash = hash };
        m->len++;
        return 0;
}

void *map_find(const struct map *m, const char *key)
{
        struct map_slot *s = map_slot_find(m, key, map_hash(m, key));

        return s ? s->value : NULL;
}

void *map_remove(struct map *m, const char *key)
{
        struct map_slot *s = map_slot_find(m, key, map_hash(m, key));
        void *value;
        size_t i;

        if (!s)
                return NULL;
        value = s->value;
        free(s->key);
        *s = (struct map_slot){ .key = grave };
        m->len--;
        m->graves++;
        /* Graves that end a run serve nothing. */
        i = (size_t)(s - m->slots);
        if (!m->slots[(i + 1) & (m->size - 1)].key)
                for (; m->slots[i].key == grave; i = (i - 1) & (m->size - 1)) {
                        m->slots[i].key = NULL;
                        m->graves--;
                }
        return value;
}

size_t map_len(const struct map *m)
{
        return m->len;
}

bool map_next(const struct map *m, size_t *pos, const char **ret_key, void **ret_value)
{
        for (; *pos < m->size; (*pos)++) {
                const struct map_slot *s = &m->slots[*pos];

                if (!slot_full(s))
                        continue;
                if (ret_key)
                        *ret_key = s->key;
                if (ret_value)
                        *ret_value = s->value;
                (*pos)++;
                return true;
        }
        return false;
}
