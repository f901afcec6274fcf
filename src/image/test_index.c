/* index.json with one byte wrong: whatever becomes of it, no image comes open to somebody to whom it was closed. */
#include "image/layout.h"
#include "image/manifest.h"
#include "image/store.h"
#include "image/verify.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { OPEN, CLOSED, DANGLING, LOST, IMAGES };

static const char *const names[IMAGES] = { "docker.io/library/open:1", "127.0.0.1:1/private/app:1" };

struct fixture {
        char path[64], parent[16];
        int dir;
        struct loop *loop;
        struct image_store *store;
        char digests[IMAGES][IMAGE_DIGEST_MAX];
        bool told;
};

static void open_store(struct fixture *f)
{
        const struct image_store_config config = { .dir = f->path };
        const struct image_workers none = { .context = NULL };
        struct err err = ERR_INIT;

        if (image_store_open(f->loop, &config, &none, &f->store, &err) < 0)
                fail_msg("%s", err.text);
}

static void close_store(struct fixture *f)
{
        image_store_close(f->store);
        f->store = NULL;
}

/* Without its layer: it is not looked for. */
static void store_image(const struct image_layout *l, int i, char digest[IMAGE_DIGEST_MAX])
{
        auto_free char *config = NULL, *manifest = NULL;
        char named[IMAGE_DIGEST_MAX] = "";

        config = str_printf(
                "{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":["
                "\"sha256:%064d\"]}}",
                i);
        assert_non_null(config);
        assert_int_equal(image_layout_put_text(l, config, strlen(config), named, NULL), 0);
        manifest = str_printf("{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_OCI_MANIFEST "\",\"config\":{\"mediaType\":"
                              "\"" MEDIA_OCI_CONFIG
                              "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":\"" MEDIA_OCI_LAYER
                              "\",\"digest\":\"sha256:%064d\",\"size\":1}]}",
                              named, strlen(config), i);
        assert_non_null(manifest);
        digest[0] = '\0';
        assert_int_equal(image_layout_put_text(l, manifest, strlen(manifest), digest, NULL), 0);
}

static void write_index(struct fixture *f, const char *text, size_t len)
{
        auto_fd fd = openat(f->dir, "index.json", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, len), 0);
}

/* As daemons before IMAGE_NOTE_CHECK wrote it. */
static void write_older(struct fixture *f)
{
        auto_str text = STR_INIT;

        assert_int_equal(str_adds(&text, "{\"schemaVersion\":2,\"manifests\":["), 0);
        for (int i = 0; i < IMAGES; i++) {
                assert_int_equal(str_addf(&text,
                                          "%s{\"mediaType\":\"" MEDIA_OCI_MANIFEST
                                          "\",\"digest\":\"%s\",\"size\":1,\"annotations\":{",
                                          i > 0 ? "," : "", f->digests[i]),
                                 0);
                if (names[i])
                        assert_int_equal(str_addf(&text, "\"org.opencontainers.image.ref.name\":\"%s\"", names[i]), 0);
                assert_int_equal(str_adds(&text, i == LOST ? "\"internal.mayfly.lost\":\"true\"}}" : "}}"), 0);
        }
        assert_int_equal(str_adds(&text, "]}"), 0);
        write_index(f, text.data, text.len);
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct image_layout l = IMAGE_LAYOUT_NONE;

        assert_non_null(f);
        *state = f;
        log_set_level(LOG_LEVEL_ERROR);
        /* Each of some thousand openings writes an index. */
        (void)snprintf(f->parent, sizeof(f->parent), "%s", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        (void)snprintf(f->path, sizeof(f->path), "%s/mayfly-test-index-XXXXXX", f->parent);
        assert_non_null(mkdtemp(f->path));
        f->dir = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(f->dir >= 0);
        assert_int_equal(loop_new(&f->loop, NULL), 0);
        assert_int_equal(image_layout_open(f->path, &l, NULL), 0);
        for (int i = 0; i < IMAGES; i++)
                store_image(&l, i, f->digests[i]);
        image_layout_close(&l);
        write_older(f);
        open_store(f);
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        auto_fd parent = open(f->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        close_store(f);
        loop_free(f->loop);
        fd_close(f->dir);
        assert_int_equal(path_remove_tree(parent, f->path + strlen(f->parent) + 1), 0);
        free(f);
        return 0;
}

static bool has_its_name(const struct image *image, int i)
{
        return names[i] && image->names && image->names[0] && str_eq(image->names[0], names[i]) && !image->names[1];
}

static bool is_nameless(const struct image *image)
{
        return !image->names || !image->names[0];
}

static void assert_as_ever(struct fixture *f)
{
        for (int i = 0; i < IMAGES; i++) {
                const struct image *image = image_store_by_digest(f->store, f->digests[i]);

                assert_non_null(image);
                assert_true(names[i] ? has_its_name(image, i) : is_nameless(image));
                assert_int_equal(image->lost, i == LOST);
                assert_false(image->pinned || image->broken);
        }
}

/* None has a name that it had not, and what has none is for administrators, but for the one that never was. */
static void assert_nothing_opens(struct fixture *f)
{
        for (int i = 0; i < IMAGES; i++) {
                const struct image *image = image_store_by_digest(f->store, f->digests[i]);

                if (image)
                        assert_true(has_its_name(image, i) || (is_nameless(image) && (image->lost || i == DANGLING)));
        }
}

static void test_older(void **state)
{
        struct fixture *f = *state;

        assert_as_ever(f);
        assert_null(image_store_repairs(f->store));
        close_store(f);
        open_store(f);
        assert_as_ever(f);
        assert_null(image_store_repairs(f->store));
}

static void test_flips(void **state)
{
        static const char flips[] = { 0x01, 0x20 };
        struct fixture *f = *state;
        auto_str good = STR_INIT;
        unsigned noticed = 0;

        assert_int_equal(fd_read_file(f->dir, "index.json", 100000, &good, NULL), 0);
        for (size_t i = 0; i < ARRAY_LEN(flips) * good.len; i++) {
                size_t at = i / ARRAY_LEN(flips);
                char flip = flips[i % ARRAY_LEN(flips)];

                close_store(f);
                good.data[at] ^= flip;
                write_index(f, good.data, good.len);
                good.data[at] ^= flip;
                open_store(f);
                assert_nothing_opens(f);
                if (image_store_repairs(f->store))
                        noticed++;
                else
                        assert_as_ever(f);
                /* What was made of it says the same at the next start, and has nothing to mend. */
                if (at % 16 > 0)
                        continue;
                close_store(f);
                open_store(f);
                assert_nothing_opens(f);
                assert_null(image_store_repairs(f->store));
        }
        /* All but some bytes of what stands around the entries. */
        assert_true(noticed > ARRAY_LEN(flips) * (good.len - 200));
}

/* Entries of one kind beside the other: what has no digest has lost it. */
static void test_without_digest(void **state)
{
        struct fixture *f = *state;
        auto_str good = STR_INIT;
        char *at;

        close_store(f);
        assert_int_equal(fd_read_file(f->dir, "index.json", 100000, &good, NULL), 0);
        at = strstr(good.data, f->digests[CLOSED]);
        assert_non_null(at);
        at = strstr(at, ",\"internal.mayfly.check\":\"");
        assert_non_null(at);
        memset(at, ' ', strlen(",\"internal.mayfly.check\":\"\"") + strlen(f->digests[CLOSED]));
        write_index(f, good.data, good.len);
        open_store(f);
        assert_nothing_opens(f);
        assert_non_null(image_store_repairs(f->store));
        assert_true(image_store_by_digest(f->store, f->digests[CLOSED])->lost);
        assert_true(has_its_name(image_store_by_digest(f->store, f->digests[OPEN]), OPEN));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_older, setup, teardown),
                cmocka_unit_test_setup_teardown(test_flips, setup, teardown),
                cmocka_unit_test_setup_teardown(test_without_digest, setup, teardown),
        };

        return cmocka_run_group_tests_name("image/index", tests, NULL, NULL);
}
