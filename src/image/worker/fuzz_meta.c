/* Fuzzes the file `meta` of a layer, which a worker that was taken over may have written. */

#include "base/fd.h"
#include "base/str.h"
#include "image/worker/meta.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int dir = -EBADF;
static char path[64];

static void remove_dir(void)
{
        (void)unlinkat(dir, META_NAME, 0);
        (void)rmdir(path);
}

static void set_up(void)
{
        if (dir >= 0)
                return;
        (void)snprintf(path, sizeof(path), "/tmp/mayfly-fuzz-meta-XXXXXX");
        if (!mkdtemp(path))
                abort();
        dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)atexit(remove_dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        auto_meta again = { .implied = NULL };
        auto_meta m = { .implied = NULL };
        auto_fd fd = -EBADF;

        set_up();
        fd = openat(dir, META_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0 || fd_write_all(fd, data, size) < 0 || meta_init(&m) < 0 || meta_init(&again) < 0)
                return 0;
        if (meta_read(&m, dir, NULL) < 0)
                return 0;
        /* What is read is written as something that reads the same. */
        (void)unlinkat(dir, META_NAME, 0);
        if (meta_write(&m, dir, NULL) < 0 || meta_read(&again, dir, NULL) < 0 ||
            again.whiteouts.len != m.whiteouts.len || again.links.len != m.links.len ||
            again.opaques.len != m.opaques.len || map_len(again.implied) != map_len(m.implied))
                abort();
        return 0;
}
