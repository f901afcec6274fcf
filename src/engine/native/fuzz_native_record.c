/* Fuzzes the record that an earlier daemon left of a container: what is read is found again once it was replaced. */

#include "base/fd.h"
#include "engine/native/internal.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        auto_fd fd = memfd_create("record", MFD_CLOEXEC);
        struct native_record first = { .mode = 0 }, second = { .mode = 0 };
        uint32_t slot = 0;

        if (fd < 0 || fd_write_all(fd, data, size) < 0)
                return 0;
        if (native_record_read(fd, &first, &slot, NULL) < 0)
                return 0;
        if (slot > 1 || first.owner.len > size || first.data.len > size)
                abort();
        if (native_record_update(fd, &slot, "later", 5, NULL) < 0 || native_record_read(fd, &second, &slot, NULL) < 0 ||
            second.data.len != 5 || memcmp(second.data.data, "later", 5) != 0 || second.mode != first.mode ||
            second.start_ns != first.start_ns || second.owner.len != first.owner.len ||
            memcmp(second.owner.data, first.owner.data, first.owner.len) != 0)
                abort();
        native_record_done(&first);
        native_record_done(&second);
        return 0;
}
