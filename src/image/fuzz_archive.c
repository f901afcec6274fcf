/* Fuzzes what is read of an archive of images: the report of the worker that has indexed it, who may have been taken over, and the
 * archive itself. The first two bytes are the length of the report, little-endian; behind it comes the archive. */

#include "base/fd.h"
#include "base/map.h"
#include "base/path.h"
#include "image/archive.h"
#include "image/operation.h"
#include "image/ref.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In memory: a file system on disk is twenty times slower. */
#define PARENT "/dev/shm"

static struct image_layout layout = IMAGE_LAYOUT_NONE;
static struct map *nothing;
static char top_path[64];

static void remove_top(void)
{
        auto_fd parent = open(PARENT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        image_layout_close(&layout);
        map_free(nothing);
        (void)path_remove_tree(parent, top_path + sizeof(PARENT));
}

static void set_up(void)
{
        char path[80];

        if (nothing)
                return;
        (void)snprintf(top_path, sizeof(top_path), PARENT "/mayfly-fuzz-archive-XXXXXX");
        if (!mkdtemp(top_path))
                abort();
        (void)snprintf(path, sizeof(path), "%s/images", top_path);
        nothing = map_new();
        if (!nothing || image_layout_open(path, &layout, NULL) < 0)
                abort();
        (void)atexit(remove_top);
}

/* What is found is among the blobs, by names that are references. */
static void check(const struct image_found *found)
{
        auto_manifest m = { .layers = NULL };
        auto_str text = STR_INIT;
        struct image_ref ref;

        if (image_layout_read_blob(&layout, found->manifest.digest, IMAGE_JSON_MAX, &text, NULL) < 0 ||
            image_manifest_parse(text.data, text.len, &m, NULL) < 0)
                abort();
        for (size_t i = 0; i < m.n_layers; i++) {
                auto_fd blob = -EBADF;
                uint64_t size;

                if (image_layout_open_blob(&layout, m.layers[i].digest, &blob, &size, NULL) < 0 ||
                    size != m.layers[i].size)
                        abort();
        }
        for (size_t i = 0; found->names && found->names[i]; i++)
                if (image_ref_parse(found->names[i], &ref, NULL) < 0)
                        abort();
}

static void fuzz_archive(const char *report, size_t len, const uint8_t *archive, size_t size)
{
        auto_fd fd = memfd_create("archive", MFD_CLOEXEC);
        struct image_found_list found = { .items = NULL };

        if (fd < 0 || fd_write_all(fd, archive, size) < 0)
                return;
        if (image_archive_read(&layout, report, len, fd, fd, &found, NULL) == 0) {
                for (size_t i = 0; i < found.n; i++)
                        check(&found.items[i]);
                image_found_done(&found);
        }
        if (image_layout_collect(&layout, nothing, nothing, NULL) < 0)
                abort();
}

/* The report of MERGE. */
static void fuzz_users(const char *report, size_t len)
{
        struct stored image = { .passwd = NULL };

        (void)stored_set_users(&image, report, len, NULL);
        free(image.passwd);
        free(image.group);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        size_t len;

        set_up();
        if (size < 2)
                return 0;
        len = MIN((size_t)(data[0] | data[1] << 8), size - 2);
        fuzz_users((const char *)data + 2, len);
        fuzz_archive((const char *)data + 2, len, data + 2 + len, size - 2 - len);
        return 0;
}
