#include "task/record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What can be read can be written, and is then the same. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct task_record r;
        auto_str again = STR_INIT;

        if (task_record_read(data, size, &r, NULL) < 0)
                return 0;
        if (task_record_write(&r, &again) < 0 || again.len != size || memcmp(again.data, data, size) != 0)
                abort();
        task_record_done(&r);
        return 0;
}
