#include "base/id.h"
#include "base/str.h"
#include "base/time.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

/* Lies in a page that fork(2) wipes (madvise(2), MADV_WIPEONFORK), so that no two processes draw the same bytes. */
struct id_state {
        uint64_t last_ms;
        uint16_t high; /* the random part: 80 bits */
        uint64_t low;
        size_t left; /* unused bytes at the end of pool */
        uint8_t pool[2000];
};

static struct id_state *id_state(void)
{
        static struct id_state plain, *state;
        void *p;

        if (state)
                return state;
        p = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p != MAP_FAILED && madvise(p, sizeof(*state), MADV_WIPEONFORK) == 0)
                state = p;
        else
                state = &plain;
        return state;
}

static void id_random(struct id_state *s, void *out, size_t len)
{
        if (s->left < len) {
                size_t n = 0;

                while (n < sizeof(s->pool)) {
                        ssize_t r = getrandom(s->pool + n, sizeof(s->pool) - n, 0);

                        if (r < 0 && errno != EINTR)
                                abort(); /* identifiers that can be guessed must not leave this function */
                        if (r > 0)
                                n += (size_t)r;
                }
                s->left = sizeof(s->pool);
        }
        memcpy(out, s->pool + sizeof(s->pool) - s->left, len);
        s->left -= len;
}

void id_make(char out[ID_LEN + 1])
{
        struct id_state *s = id_state();
        uint64_t now = time_real_ms();
        unsigned __int128 v;

        if (now > s->last_ms) {
                s->last_ms = now;
                id_random(s, &s->high, sizeof(s->high));
                id_random(s, &s->low, sizeof(s->low));
        } else if (++s->low == 0 && ++s->high == 0) {
                s->last_ms++;
        }
        v = s->last_ms & UINT64_C(0xffffffffffff);
        v = v << 16 | s->high;
        v = v << 64 | s->low;
        for (int i = ID_LEN - 1; i >= 0; i--, v >>= 5)
                out[i] = alphabet[(unsigned)v & 31];
        out[ID_LEN] = '\0';
}

bool id_valid(const char *s)
{
        /* 26 digits hold 130 bits: the first is at most 7. */
        if (s[0] < '0' || s[0] > '7')
                return false;
        for (int i = 0; i < ID_LEN; i++)
                if (!s[i] || !strchr(alphabet, s[i]))
                        return false;
        return s[ID_LEN] == '\0';
}
