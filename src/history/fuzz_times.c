/* Fuzzes the marks of a task's output as they lie in the database: what is read is written as something that reads the same. */

#include "history/times.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct times *a, const struct times *b)
{
        uint64_t end;

        if (a->n > TIMES_MAX || a->n != b->n || (a->n > 0 && memcmp(a->marks, b->marks, a->n * sizeof(*a->marks)) != 0))
                abort();
        for (size_t i = 0; i < a->n; i++) {
                if (i > 0 && (a->marks[i].end <= a->marks[i - 1].end || a->marks[i].ms < a->marks[i - 1].ms))
                        abort();
                if (times_find(a, a->marks[i].end - 1, 0, &end) != a->marks[i].ms || end != a->marks[i].end)
                        abort();
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct times first[2] = { { .n = 0 } }, second[2] = { { .n = 0 } };
        auto_str text = STR_INIT;

        if (times_read(data, size, first) < 0)
                return 0;
        if (times_write(first, &text) < 0 || times_read(text.data, text.len, second) < 0)
                abort();
        for (int i = 0; i < 2; i++) {
                check(&first[i], &second[i]);
                times_done(&first[i]);
                times_done(&second[i]);
        }
        return 0;
}
