/* Archives that go out, of a store without workers: what is in them, byte for byte. */

#include "image/save.h"

#include "base/fd.h"
#include "base/path.h"
#include "image/layout.h"
#include "image/operation.h"
#include "image/ref.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct fixture {
        char path[64];
        struct loop *loop;
        struct image_store *store;
        struct err err;
        char shared[IMAGE_DIGEST_MAX];
};

static struct image_descriptor put(const struct image_layout *l, const char *text, const char *media)
{
        struct image_descriptor d = { .size = strlen(text) };

        (void)snprintf(d.media_type, sizeof(d.media_type), "%s", media);
        assert_int_equal(image_layout_put_text(l, text, strlen(text), d.digest, NULL), 0);
        return d;
}

/* Of two layers: one that all images share, one of its own. */
static void add_image(struct fixture *f, const struct image_layout *l, json_t *index, const char *own, const char *name)
{
        struct image_descriptor layers[] = { put(l, "shared", MEDIA_OCI_LAYER "+gzip"), put(l, own, MEDIA_OCI_LAYER) };
        auto_free char *config = str_printf(
                "{\"architecture\":\"amd64\",\"os\":\"linux\",\"author\":\"%s\",\"rootfs\":{\"type\":\"layers\","
                "\"diff_ids\":[\"%s\",\"%s\"]}}",
                own, layers[0].digest, layers[1].digest);
        struct image_manifest m = { .layers = layers, .n_layers = 2, .config = put(l, config, MEDIA_OCI_CONFIG) };
        struct image_descriptor d;

        memcpy(f->shared, layers[0].digest, sizeof(f->shared));
        assert_int_equal(image_manifest_store(l, &m, &d, NULL), 0);
        (void)json_array_append_new(index, json_pack("{s:s, s:s, s:I, s:{s:s}}", "mediaType", d.media_type, "digest",
                                                     d.digest, "size", (json_int_t)d.size, "annotations",
                                                     "org.opencontainers.image.ref.name", name));
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct image_store_config config = { .dir = f->path };
        auto_json index = json_pack("{s:i, s:[]}", "schemaVersion", 2, "manifests");
        json_t *list = json_object_get(index, "manifests");
        struct image_workers none = { .context = NULL };
        struct image_layout l;
        auto_str text = STR_INIT;

        (void)snprintf(f->path, sizeof(f->path), "/tmp/mayfly-test-save-XXXXXX");
        assert_non_null(mkdtemp(f->path));
        assert_int_equal(image_layout_open(f->path, &l, NULL), 0);
        add_image(f, &l, list, "one", "docker.io/library/one:1");
        add_image(f, &l, list, "one", "docker.io/library/one:2");
        add_image(f, &l, list, "two", "registry:5000/a/two:1");
        add_image(f, &l, list, "ours", IMAGE_BUILTIN_DOMAIN "/health:1");
        assert_int_equal(json_write(index, &text), 0);
        assert_int_equal(image_layout_write_index(&l, text.data, text.len, NULL), 0);
        image_layout_close(&l);
        assert_int_equal(loop_new(&f->loop, NULL), 0);
        assert_int_equal(image_store_open(f->loop, &config, &none, &f->store, &f->err), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        image_store_close(f->store);
        loop_free(f->loop);
        assert_int_equal(path_remove_tree(tmp, f->path + 5), 0);
        free(f);
        return 0;
}

static void done(struct image_save *w)
{
        image_save_release(w);
        image_save_close(w);
}

static bool only_two(const struct image *image, void *data)
{
        (void)data;
        return strstr(image->names[0], "two") != NULL;
}

static int open_refs(struct fixture *f, const char *const *refs, size_t n, enum image_save_format format,
                     struct image_save **ret)
{
        f->err = (struct err)ERR_INIT;
        return image_save_open(f->store, refs, n, format, NULL, NULL, ret, &f->err);
}

/* All of it, in pieces of that length. */
static int read_all(struct fixture *f, const char *const *refs, size_t n, enum image_save_format format, size_t piece,
                    struct str *ret)
{
        struct image_save *w = NULL;
        char buf[4096];
        ssize_t got = open_refs(f, refs, n, format, &w);

        if (got < 0)
                return (int)got;
        while ((got = image_save_read(w, buf, piece, &f->err)) > 0)
                assert_int_equal(str_add(ret, buf, (size_t)got), 0);
        if (got == 0)
                assert_int_equal(ret->len, image_save_size(w));
        done(w);
        return (int)got;
}

static size_t count(const struct str *s, const char *text)
{
        size_t n = 0, len = strlen(text);

        for (size_t i = 0; i + len <= s->len; i++)
                n += memcmp(s->data + i, text, len) == 0;
        return n;
}

#define READ(refs, format, piece, ret) read_all(f, refs, ARRAY_LEN(refs), format, piece, ret)

static void test_bytes(void **state)
{
        static const char *const refs[] = { "one:1", "registry:5000/a/two:1", "one:1" };
        static const size_t pieces[] = { 1, 511, 512, 513, 4096 };
        struct fixture *f = *state;
        auto_str first = STR_INIT;
        auto_free char *shared = NULL;

        assert_int_equal(READ(refs, IMAGE_SAVE_DOCKER, 4096, &first), 0);
        assert_int_equal(first.len % 512, 0);
        shared = str_printf("blobs/sha256/%s%c", f->shared + 7, 0);
        assert_int_equal(count(&first, "manifest.json"), 1);
        assert_int_equal(count(&first, "\"RepoTags\":[\"one:1\"]"), 1);
        assert_int_equal(count(&first, "\"RepoTags\":[\"registry:5000/a/two:1\"]"), 1);
        /* Both tags are 1, so that alone names nothing. */
        assert_int_equal(count(&first, "\"org.opencontainers.image.ref.name\":\"1\""), 0);
        assert_int_equal(count(&first, "\"io.containerd.image.name\":\"docker.io/library/one:1\""), 1);
        assert_int_equal(count(&first, "{\"one\":{\"1\":"), 1);
        /* Its header, and its content, once; its name in two manifests. */
        assert_int_equal(count(&first, "shared\0\0"), 1);
        assert_int_equal(count(&first, shared), 3);
        for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
                auto_str again = STR_INIT;

                assert_int_equal(READ(refs, IMAGE_SAVE_DOCKER, pieces[i], &again), 0);
                assert_int_equal(again.len, first.len);
                assert_memory_equal(again.data, first.data, first.len);
        }
}

static void test_names(void **state)
{
        static const char *const all[] = { "one" };
        struct fixture *f = *state;
        const char *digest = image_store_find(f->store, "one:1", NULL)->digest;
        const char *const one[] = { digest };
        auto_str a = STR_INIT, b = STR_INIT, c = STR_INIT;

        assert_int_equal(READ(all, IMAGE_SAVE_DOCKER, 512, &a), 0);
        assert_int_equal(count(&a, "\"RepoTags\":[\"one:1\",\"one:2\"]"), 1);
        assert_int_equal(count(&a, "\"org.opencontainers.image.ref.name\":\"2\""), 1);
        assert_int_equal(READ(one, IMAGE_SAVE_DOCKER, 512, &b), 0);
        assert_int_equal(count(&b, "\"RepoTags\":null"), 1);
        assert_int_equal(count(&b, "repositories"), 0);
        assert_int_equal(READ(all, IMAGE_SAVE_OCI, 512, &c), 0);
        assert_int_equal(count(&c, "manifest.json"), 0);
        assert_int_equal(count(&c, "index.json"), 1);
}

static void test_refused(void **state)
{
        static const char *const none[] = { "one:1", "absent:1" }, *const bad[] = { "UPPER" };
        static const char *const ours[] = { IMAGE_BUILTIN_DOMAIN "/health:1" };
        static const char *const two[] = { "registry:5000/a/two:1" }, *const repository[] = { "one" };
        struct image_save *w = NULL;
        struct fixture *f = *state;

        assert_int_equal(open_refs(f, none, 2, IMAGE_SAVE_OCI, &w), -ENOENT);
        assert_string_equal(f->err.text, "there is no image 'absent:1'");
        assert_int_equal(open_refs(f, bad, 1, IMAGE_SAVE_OCI, &w), -EINVAL);
        assert_int_equal(open_refs(f, ours, 1, IMAGE_SAVE_OCI, &w), -EPERM);
        assert_int_equal(open_refs(f, none, 0, IMAGE_SAVE_OCI, &w), -EINVAL);
        assert_int_equal(image_save_open(f->store, none, 1, IMAGE_SAVE_OCI, only_two, NULL, &w, &f->err), -ENOENT);
        assert_int_equal(image_save_open(f->store, repository, 1, IMAGE_SAVE_OCI, only_two, NULL, &w, &f->err),
                         -ENOENT);
        assert_null(w);
        assert_true(list_empty(&f->store->holds));
        assert_int_equal(image_save_open(f->store, two, 1, IMAGE_SAVE_OCI, only_two, NULL, &w, NULL), 0);
        done(w);
}

static void test_hold(void **state)
{
        static const char *const refs[] = { "one:1" };
        struct image_save *w = NULL;
        struct image_hold *hold;
        struct fixture *f = *state;

        assert_int_equal(open_refs(f, refs, 1, IMAGE_SAVE_DOCKER, &w), 0);
        hold = LIST_FIRST(&f->store->holds, struct image_hold, node);
        assert_non_null(hold);
        assert_int_equal(map_len(hold->blobs), 4);
        assert_non_null(map_find(hold->blobs, f->shared + 7));
        image_save_release(w);
        assert_true(list_empty(&f->store->holds));
        image_save_close(w);
}

static void test_damaged(void **state)
{
        static const char *const refs[] = { "one:1" };
        struct fixture *f = *state;
        auto_free char *path = str_printf("%s/blobs/sha256/%s", f->path, f->shared + 7);
        auto_fd fd = open(path, O_WRONLY | O_CLOEXEC);
        auto_str a = STR_INIT;

        assert_int_equal(pwrite(fd, "S", 1, 0), 1);
        assert_int_equal(READ(refs, IMAGE_SAVE_DOCKER, 512, &a), -EBADMSG);
        assert_int_equal(pwrite(fd, "shared and more", 15, 0), 15);
        assert_int_equal(READ(refs, IMAGE_SAVE_DOCKER, 512, &a), -EBADMSG);
        assert_int_equal(ftruncate(fd, 1), 0);
        assert_int_equal(READ(refs, IMAGE_SAVE_DOCKER, 512, &a), -EBADMSG);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(READ(refs, IMAGE_SAVE_DOCKER, 512, &a), -ENOENT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_bytes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_names, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_hold, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
