/* Pulls that need no registry: names in closed repositories, and a job that nobody waits for any more. */
#include "image/test_store.h"

#include "image/pull_internal.h"

#define CLOSED "127.0.0.1:1/private/app:1"
#define DAY_MS (UINT64_C(24) * 3600 * 1000)

struct told {
        bool done;
        int r;
        struct image_pull_result result;
        char text[ERR_TEXT_MAX];
};

static void on_pulled(int r, const struct image_pull_result *result, const struct err *err, void *data)
{
        struct told *t = data;

        *t = (struct told){ .done = true, .r = r, .result = *result };
        (void)snprintf(t->text, sizeof(t->text), "%s", err ? err->text : "");
}

static void import(struct fixture *f, const char *name)
{
        auto_str archive = STR_INIT;

        test_tar_file(&archive, "hello", "world");
        test_tar_end(&archive);
        assert_int_equal(take_archive(f, IMAGE_IMPORT, name, NULL, &archive), 0);
}

static void tag(struct fixture *f, const char *ref, const char *name)
{
        f->told = false;
        assert_int_equal(image_store_tag_by(f->store, NULL, ref, name, on_done, f, NULL), 0);
        assert_int_equal(wait_told(f), 0);
}

/* key:good has shown access. */
static struct image_pulls *begin(struct fixture *f, struct registries *registries)
{
        const struct access_config proofs = { .fresh_ms = DAY_MS, .hold_ms = DAY_MS };
        const struct image_pulls_config config = {
                .store = f->store, .registries = registries, .proof_fresh_ms = DAY_MS, .proof_hold_ms = DAY_MS
        };
        auto_fd dir = openat(f->root, "images", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        auto_free char *text = NULL;
        struct access *a = NULL;
        struct image_pulls *p = NULL;
        struct image_ref ref;

        assert_int_equal(image_ref_parse_docker(CLOSED, &ref, NULL), 0);
        assert_int_equal(access_open(dir, &proofs, &a, NULL), 0);
        assert_true(access_close(a, &ref));
        (void)access_prove(a, "key:good", &ref, time_real_ms());
        assert_int_equal(access_text(a, time_real_ms(), &text, NULL), 0);
        assert_int_equal(access_write(dir, text, NULL), 0);
        access_free(a);
        assert_int_equal(image_pulls_new(f->loop, &config, &p, NULL), 0);
        return p;
}

static const struct told *ask(struct fixture *f, struct image_pulls *p, const char *owner, const char *ref)
{
        const struct image_pull_request q = { .ref = ref, .owner = owner, .all = str_eq(owner, "uid:0") };
        static struct told t;
        struct image_want *w;

        t = (struct told){ .done = false };
        assert_int_equal(image_pull(p, &q, on_pulled, &t, &w, NULL), 0);
        while (!t.done)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        return &t;
}

static const char *called(struct fixture *f, struct image_pulls *p, const char *owner, const char *ref)
{
        const struct told *t = ask(f, p, owner, ref);

        assert_int_equal(t->r, 0);
        return t->result.ref;
}

static void test_names(void **state)
{
        struct fixture *f = *state;
        struct image_pulls *p;
        char digest[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        import(f, CLOSED);
        (void)snprintf(digest, sizeof(digest), "%s", f->digest);
        p = begin(f, NULL);
        assert_int_equal(ask(f, p, "key:bad", digest)->r, -ENOENT);
        tag(f, digest, "open:1");
        /* The first of its names is not for everybody. */
        assert_string_equal(called(f, p, "key:bad", digest), "docker.io/library/open:1");
        assert_string_equal(called(f, p, "key:bad", "open:1"), "docker.io/library/open:1");
        assert_string_equal(called(f, p, "key:good", digest), CLOSED);
        assert_string_equal(called(f, p, "uid:0", digest), CLOSED);
        assert_string_equal(called(f, p, "key:good", CLOSED), CLOSED);
        assert_string_equal(called(f, p, "key:good", "open:1"), "docker.io/library/open:1");
        /* Nor is what it means, though the image is. */
        assert_int_equal(ask(f, p, "key:bad", CLOSED)->r, -ENOENT);
        image_pulls_free(p);
}

/* Where access cannot be shown, an error says nothing of where that would be. */
static void test_unproven(void **state)
{
        const struct registries_config config = { .enabled = true, .stall_s = 5, .connect_ms = 2000 };
        struct fixture *f = *state;
        struct registries *registries = NULL;
        const struct told *t;
        struct image_pulls *p;
        char digest[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        import(f, CLOSED);
        (void)snprintf(digest, sizeof(digest), "%s", f->digest);
        assert_int_equal(registries_new(f->loop, &config, &registries, NULL), 0);
        p = begin(f, registries);
        t = ask(f, p, "key:bad", digest);
        assert_int_equal(t->r, -EHOSTUNREACH);
        assert_null(strstr(t->text, "127.0.0.1"));
        assert_null(strstr(t->text, "private/app"));
        assert_non_null(strstr(t->text, digest));
        assert_string_equal(t->result.ref, digest);
        /* Who names it has its name. */
        t = ask(f, p, "key:bad", CLOSED);
        assert_int_equal(t->r, -EHOSTUNREACH);
        assert_non_null(strstr(t->text, CLOSED));
        assert_string_equal(called(f, p, "key:good", digest), CLOSED);
        image_pulls_free(p);
        registries_free(registries);
}

/* As an earlier pull left it. */
static void part(struct fixture *f, const struct str *text, char digest[IMAGE_DIGEST_MAX])
{
        char path[128];

        digest_of(text, digest);
        (void)snprintf(path, sizeof(path), "images/partial/%s", digest + 7);
        assert_int_equal(fd_write_file(f->root, path, 0600, text->data, text->len, NULL), 0);
}

static void manifest_of(struct fixture *f, struct str *out)
{
        auto_str layer = STR_INIT, packed = STR_INIT, config = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX], blob[IMAGE_DIGEST_MAX], config_digest[IMAGE_DIGEST_MAX], quoted[100];

        root_fs(&layer);
        gzip(&layer, &packed);
        digest_of(&layer, diff_id);
        (void)snprintf(quoted, sizeof(quoted), "\"%s\"", diff_id);
        config_of(&config, quoted, "");
        part(f, &packed, blob);
        part(f, &config, config_digest);
        test_tar_check(str_addf(out,
                                "{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_OCI_MANIFEST
                                "\",\"config\":{\"mediaType\":\"" MEDIA_OCI_CONFIG
                                "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":\"" MEDIA_OCI_LAYER
                                "+gzip\",\"digest\":\"%s\",\"size\":%zu}]}",
                                config_digest, config.len, blob, packed.len));
}

static size_t blobs_of(const struct image_pulls *p)
{
        const struct blob *b;
        size_t n = 0;

        LIST_FOREACH(b, &p->blobs, node)
                n++;
        return n;
}

/* What an image is made of stays in hand until it is one, so that nobody begins to write there; then it goes. */
static void test_left_while_installed(void **state)
{
        struct fixture *f = *state;
        const struct credentials none = { .username = NULL };
        struct job_source source = { .name = "docker.io/library/app:1",
                                     .owner = "key:a",
                                     .credentials = &none,
                                     .media_type = MEDIA_OCI_MANIFEST };
        auto_str manifest = STR_INIT;
        char digest[IMAGE_DIGEST_MAX];
        struct image_pulls *p;
        struct image_ref ref;
        struct job *job;

        NEEDS_WORKER(f);
        p = begin(f, NULL);
        manifest_of(f, &manifest);
        digest_of(&manifest, digest);
        assert_int_equal(image_ref_parse_docker(source.name, &ref, NULL), 0);
        source.ref = &ref;
        source.manifest = manifest.data;
        source.len = manifest.len;
        source.digest = digest;
        assert_int_equal(job_get(p, &source, &job, NULL), 0);
        while (job->state < JOB_INSTALL)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        assert_int_equal(job->state, JOB_INSTALL);
        job_leave(job);
        while (!image_store_by_digest(f->store, digest)) {
                assert_int_equal(blobs_of(p), 2);
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        }
        while (!list_empty(&p->jobs) || !list_empty(&p->blobs))
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        assert_int_equal(count(f, "images/partial"), 0);
        image_pulls_free(p);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_names, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unproven, setup, teardown),
                cmocka_unit_test_setup_teardown(test_left_while_installed, setup, teardown),
        };

        return cmocka_run_group_tests_name("image/pull", tests, NULL, NULL);
}
