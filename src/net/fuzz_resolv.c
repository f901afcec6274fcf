#include "net/resolv.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What comes out holds nothing but printable text, and is understood as itself. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct resolv_conf once, twice;

        resolv_parse((const char *)data, size, 0, &once);
        if (once.n > RESOLV_SERVERS_MAX || once.len > sizeof(once.text))
                abort();
        for (size_t i = 0; i < once.len; i++) {
                if (once.text[i] != '\n' && (once.text[i] < ' ' || once.text[i] > '~'))
                        abort();
        }
        if (once.n_asked < 1 || once.n_asked > RESOLV_ASKED_MAX)
                abort();
        resolv_parse(once.text, once.len, 0, &twice);
        if (twice.n != once.n || (twice.loopback && once.n > 0) || twice.len != once.len ||
            memcmp(twice.text, once.text, once.len) != 0)
                abort();
        return 0;
}
