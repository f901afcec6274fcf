/* Fuzzes the files of the store, as a disk or a hand may have damaged them: whatever index.json and usage.json hold, the store
 * opens, has what is among the blobs, and opens once more with the same images. The first byte says which file it is. */

#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/str.h"
#include "image/access.h"
#include "image/layout.h"
#include "image/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In memory: a file system on disk is twenty times slower. */
#define PARENT "/dev/shm"
#define LAYER "sha256:0000000000000000000000000000000000000000000000000000000000000000"
#define CONFIG                                                                                                         \
        "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{},"                                                  \
        "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" LAYER "\"]}}"
#define MANIFEST                                                                                                       \
        "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","                           \
        "\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"%s\",\"size\":%zu},"      \
        "\"layers\":[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"" LAYER "\",\"size\":1}]}"

static const struct image_workers none;
static char top_path[64], dir_path[80], manifest[IMAGE_DIGEST_MAX];
static struct loop *loop;
static int dir = -EBADF;

static void remove_top(void)
{
        auto_fd parent = open(PARENT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        (void)path_remove_tree(parent, top_path + sizeof(PARENT));
}

/* One image, whose layer is not there: nothing here unpacks. */
static void put_image(void)
{
        struct image_layout l = IMAGE_LAYOUT_NONE;
        char config[IMAGE_DIGEST_MAX] = "", text[1024];

        if (image_layout_open(dir_path, &l, NULL) < 0 ||
            image_layout_put_text(&l, CONFIG, strlen(CONFIG), config, NULL) < 0)
                abort();
        (void)snprintf(text, sizeof(text), MANIFEST, config, strlen(CONFIG));
        if (image_layout_put_text(&l, text, strlen(text), manifest, NULL) < 0)
                abort();
        image_layout_close(&l);
}

static void set_up(void)
{
        if (dir >= 0)
                return;
        log_set_level(LOG_LEVEL_ERROR);
        (void)snprintf(top_path, sizeof(top_path), PARENT "/mayfly-fuzz-store-XXXXXX");
        if (!mkdtemp(top_path) || loop_new(&loop, NULL) < 0)
                abort();
        (void)atexit(remove_top);
        (void)snprintf(dir_path, sizeof(dir_path), "%s/images", top_path);
        put_image();
        dir = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0)
                abort();
}

/* All files but oci-layout; the blobs stay. */
static void clear(void)
{
        DIR *d = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        const struct dirent *e;

        while (d && (e = readdir(d)))
                if (!str_eq(e->d_name, "oci-layout"))
                        (void)unlinkat(dir, e->d_name, 0);
        if (d)
                (void)closedir(d);
}

static size_t open_store(void)
{
        const struct image_store_config config = { .dir = dir_path };
        struct image_store *s = NULL;
        const struct image *image;
        struct err err = ERR_INIT;
        size_t pos = 0, n = 0;

        if (image_store_open(loop, &config, &none, &s, &err) < 0) {
                fprintf(stderr, "%s\n", err.text);
                abort();
        }
        while ((image = image_store_next(s, &pos))) {
                if (!str_eq(image->digest, manifest))
                        abort();
                n++;
        }
        image_store_close(s);
        (void)loop_turn(loop, 0, NULL);
        return n;
}

static void fuzz_store(bool index)
{
        size_t n = open_store();

        /* Without an index the image comes back out of its blobs. */
        if (n > 1 || (!index && n != 1) || open_store() != n)
                abort();
}

/* Who may use what is closed: a file that cannot be read is an error, one that can is written as something that reads the same. */
static void fuzz_access(void)
{
        const struct access_config config = { .fresh_ms = 1000, .hold_ms = 10000 };
        struct access *a = NULL, *again = NULL;
        auto_free char *first = NULL, *second = NULL;

        if (access_open(dir, &config, &a, NULL) < 0)
                return;
        if (access_text(a, 1, &first, NULL) < 0 || access_write(dir, first, NULL) < 0 ||
            access_open(dir, &config, &again, NULL) < 0 || access_text(again, 1, &second, NULL) < 0 ||
            strlen(first) != strlen(second))
                abort();
        access_free(a);
        access_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const char *const files[] = { "index.json", "usage.json", "access.json" };
        unsigned which;

        set_up();
        if (size < 1)
                return 0;
        which = data[0] % ARRAY_LEN(files);
        clear();
        if (fd_write_file(dir, files[which], 0600, (const char *)data + 1, size - 1, NULL) < 0)
                abort();
        if (which == 2)
                fuzz_access();
        else
                fuzz_store(which == 0);
        return 0;
}
