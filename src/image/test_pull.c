/* Pulls that need no registry: names in closed repositories, jobs that nobody waits for any more, or whose image goes. */
#include "image/test_store.h"

#include "image/operation.h"
#include "image/pull_internal.h"

#define CLOSED "127.0.0.1:1/private/app:1"
#define GONE "127.0.0.1:1/team/app"
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
static struct image_pulls *begin_trusting(struct fixture *f, struct registries *registries, const struct trust *trust)
{
        const struct access_config proofs = { .fresh_ms = DAY_MS, .hold_ms = DAY_MS };
        const struct image_pulls_config config = { .store = f->store,
                                                   .registries = registries,
                                                   .trust = trust,
                                                   .proof_fresh_ms = DAY_MS,
                                                   .proof_hold_ms = DAY_MS };
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

static struct image_pulls *begin(struct fixture *f, struct registries *registries)
{
        return begin_trusting(f, registries, NULL);
}

static struct registries *nobody_answers(struct fixture *f)
{
        const struct registries_config config = { .enabled = true, .stall_s = 5, .connect_ms = 2000 };
        struct registries *registries = NULL;

        assert_int_equal(registries_new(f->loop, &config, &registries, NULL), 0);
        return registries;
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
        struct fixture *f = *state;
        struct registries *registries;
        const struct told *t;
        struct image_pulls *p;
        char digest[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        import(f, CLOSED);
        (void)snprintf(digest, sizeof(digest), "%s", f->digest);
        registries = nobody_answers(f);
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

/* Under a name that is closed to him an image is not looked at, though there it would be easiest. */
static void test_trusted_elsewhere(void **state)
{
        const struct trust_config policy = { .keys = "/nonexistent",
                                             .signed_by = "127.0.0.1:1/private/app=a.pub,*=reject" };
        struct fixture *f = *state;
        struct registries *registries;
        struct trust *trust = NULL;
        const struct told *t;
        struct image_pulls *p;
        char digest[IMAGE_DIGEST_MAX];

        NEEDS_WORKER(f);
        import(f, CLOSED);
        (void)snprintf(digest, sizeof(digest), "%s", f->digest);
        assert_int_equal(trust_new(&policy, &trust, NULL), 0);
        registries = nobody_answers(f);
        p = begin_trusting(f, registries, trust);
        tag(f, digest, "open:1");
        t = ask(f, p, "key:bad", digest);
        assert_int_equal(t->r, -EKEYREJECTED);
        assert_null(strstr(t->text, "127.0.0.1"));
        assert_null(strstr(t->text, "private/app"));
        /* To whom it is open, and whoever may use all, its registry is asked for. */
        t = ask(f, p, "key:good", digest);
        assert_int_equal(t->r, -EHOSTUNREACH);
        assert_non_null(strstr(t->text, "127.0.0.1:1"));
        assert_int_equal(ask(f, p, "uid:0", digest)->r, -EHOSTUNREACH);
        image_pulls_free(p);
        registries_free(registries);
        trust_free(trust);
}

/* That an image is damaged is said to those only who may know of it; to others it is one that is not here, in the same words. */
static void test_broken(void **state)
{
        static const char *const known[] = { "key:good", "uid:0" };
        struct fixture *f = *state;
        char digest[IMAGE_DIGEST_MAX], none[IMAGE_DIGEST_MAX], text[ERR_TEXT_MAX];
        struct image_pulls *p;
        struct stored *image;
        char *at;

        NEEDS_WORKER(f);
        import(f, CLOSED);
        (void)snprintf(digest, sizeof(digest), "%s", f->digest);
        (void)snprintf(none, sizeof(none), "sha256:%064d", 0);
        image = store_find_digest(f->store, digest);
        image->image.broken = true;
        p = begin(f, NULL);
        for (size_t i = 0; i < ARRAY_LEN(known); i++) {
                assert_int_equal(ask(f, p, known[i], digest)->r, -EUCLEAN);
                assert_int_equal(ask(f, p, known[i], CLOSED)->r, -EUCLEAN);
        }
        assert_int_equal(ask(f, p, "key:bad", CLOSED)->r, -ENOENT);
        assert_int_equal(ask(f, p, "key:bad", digest)->r, -ENOENT);
        (void)snprintf(text, sizeof(text), "%s", ask(f, p, "key:bad", digest)->text);
        at = strstr(text, digest);
        if (at)
                memcpy(at, none, strlen(none));
        assert_string_equal(ask(f, p, "key:bad", none)->text, text);
        /* Without a name, since those were lost, it is of administrators. */
        strv_free(image->image.names);
        image->image.names = NULL;
        image->image.lost = true;
        assert_int_equal(ask(f, p, "key:good", digest)->r, -ENOENT);
        assert_int_equal(ask(f, p, "uid:0", digest)->r, -EUCLEAN);
        image_pulls_free(p);
}

/* ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* As an earlier pull left it: the first `have` bytes. */
static void part(struct fixture *f, const struct str *text, size_t have, char digest[IMAGE_DIGEST_MAX])
{
        char path[128];

        digest_of(text, digest);
        (void)snprintf(path, sizeof(path), "images/partial/%s.%zu", digest + 7, text->len);
        assert_int_equal(fd_write_file(f->root, path, 0600, text->data, have, NULL), 0);
}

/* missing: bytes of its layer. */
static void manifest_of(struct fixture *f, size_t missing, char layer_digest[IMAGE_DIGEST_MAX], struct str *out)
{
        auto_str layer = STR_INIT, packed = STR_INIT, config = STR_INIT;
        char diff_id[IMAGE_DIGEST_MAX], config_digest[IMAGE_DIGEST_MAX], quoted[100];

        root_fs(&layer);
        gzip(&layer, &packed);
        digest_of(&layer, diff_id);
        (void)snprintf(quoted, sizeof(quoted), "\"%s\"", diff_id);
        config_of(&config, quoted, "");
        part(f, &packed, packed.len - missing, layer_digest);
        part(f, &config, config.len, config_digest);
        str_clear(out);
        test_tar_check(str_addf(out,
                                "{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_OCI_MANIFEST
                                "\",\"config\":{\"mediaType\":\"" MEDIA_OCI_CONFIG
                                "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":\"" MEDIA_OCI_LAYER
                                "+gzip\",\"digest\":\"%s\",\"size\":%zu}]}",
                                config_digest, config.len, layer_digest, packed.len));
}

static size_t blobs_of(const struct image_pulls *p)
{
        const struct blob *b;
        size_t n = 0;

        LIST_FOREACH(b, &p->blobs, node)
                n++;
        return n;
}

static struct job *job_of(struct image_pulls *p, const char *name, const struct str *manifest)
{
        const struct credentials none = { .username = NULL };
        char digest[IMAGE_DIGEST_MAX];
        struct image_ref ref;
        struct job_source source = { .ref = &ref,
                                     .name = name,
                                     .owner = "key:a",
                                     .credentials = &none,
                                     .manifest = manifest->data,
                                     .len = manifest->len,
                                     .media_type = MEDIA_OCI_MANIFEST,
                                     .digest = digest };
        struct job *job;

        digest_of(manifest, digest);
        assert_int_equal(image_ref_parse_docker(name, &ref, NULL), 0);
        assert_int_equal(job_get(p, &source, &job, NULL), 0);
        return job;
}

/* Its end. */
static int wait_job(struct fixture *f, struct job *job)
{
        int r;

        while (job->state < JOB_DONE)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        r = job->result;
        job_leave(job);
        return r;
}

/* What an image is made of stays in hand until it is one, so that nobody begins to write there; then it goes. */
static void test_left_while_installed(void **state)
{
        struct fixture *f = *state;
        char digest[IMAGE_DIGEST_MAX], layer[IMAGE_DIGEST_MAX];
        auto_str manifest = STR_INIT;
        struct image_pulls *p;
        struct job *job;

        NEEDS_WORKER(f);
        p = begin(f, NULL);
        manifest_of(f, 0, layer, &manifest);
        digest_of(&manifest, digest);
        job = job_of(p, "docker.io/library/app:1", &manifest);
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

/* Another image, in whose hand the only place to unpack is until release(). */
static void occupy(struct fixture *f, const char *content)
{
        struct image_sink *sink = NULL;
        auto_str archive = STR_INIT;

        test_tar_file(&archive, "content", content);
        test_tar_end(&archive);
        f->hold = HOLD_MERGE;
        assert_int_equal(image_sink_open(f->store, IMAGE_IMPORT, content, NULL, &sink, NULL), 0);
        assert_int_equal(image_sink_write(sink, archive.data, archive.len, NULL), 0);
        assert_int_equal(image_sink_finish(sink, on_loaded, f, NULL), 0);
        while (!f->held)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
}

static bool has_blob(struct fixture *f, const char *digest)
{
        char path[128];

        (void)snprintf(path, sizeof(path), "images/blobs/sha256/%s", digest + 7);
        return faccessat(f->root, path, F_OK, 0) == 0;
}

/* Gives the image that is there another name, and takes the image away before that is done. missing: of what is there then. */
static struct job *name_and_remove(struct fixture *f, struct image_pulls *p, size_t missing, const char *content)
{
        char digest[IMAGE_DIGEST_MAX], layer[IMAGE_DIGEST_MAX];
        auto_str manifest = STR_INIT;
        struct job *job;

        manifest_of(f, 0, layer, &manifest);
        digest_of(&manifest, digest);
        assert_int_equal(wait_job(f, job_of(p, GONE ":1", &manifest)), 0);
        assert_true(has_blob(f, layer));
        occupy(f, content);
        job = job_of(p, GONE ":2", &manifest);
        assert_true(job->present);
        assert_int_equal(remove_image(f, digest), 0);
        assert_false(has_blob(f, layer));
        assert_int_equal(job->state, JOB_INSTALL);
        manifest_of(f, missing, layer, &manifest);
        f->told = false;
        release(f);
        assert_int_equal(wait_told(f), 0);
        return job;
}

/* It is brought anew, and what others have begun to bring is not taken for whole. */
static void test_removed_meanwhile(void **state)
{
        struct fixture *f = *state;
        struct registries *registries;
        struct image_pulls *p;
        struct job *job;

        NEEDS_WORKER(f);
        image_store_close(f->store);
        f->config.parallel = 1;
        open_store(f);
        registries = nobody_answers(f);
        p = begin(f, registries);
        job = name_and_remove(f, p, 0, "one");
        assert_int_equal(wait_job(f, job), 0);
        assert_non_null(image_store_find(f->store, GONE ":2", NULL));
        assert_null(image_store_find(f->store, GONE ":1", NULL));
        assert_int_equal(remove_image(f, GONE ":2"), 0);

        job = name_and_remove(f, p, 1, "two");
        assert_int_equal(wait_job(f, job), -EHOSTUNREACH);
        assert_null(image_store_find(f->store, GONE ":2", NULL));
        image_pulls_free(p);
        registries_free(registries);
}

struct turn {
        struct blob *b;
        bool came, before;
};

static void nothing(void *data)
{
        (void)data;
}

static void on_turn(void *data)
{
        struct turn *t = data;

        t->came = true;
        t->before = t->b->state == BLOB_OPENING;
}

/* What an earlier pull left is hashed in turns: however much of it somebody asks for, others' bytes go on. */
static void test_turns(void **state)
{
        static const char hex[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        struct fixture *f = *state;
        auto_str manifest = STR_INIT, config = STR_INIT;
        char config_digest[IMAGE_DIGEST_MAX], path[128];
        struct registries *registries;
        struct turn turn = { .came = false };
        struct image_pulls *p;
        auto_fd fd = -EBADF;
        struct job *job;

        NEEDS_WORKER(f);
        registries = nobody_answers(f);
        p = begin(f, registries);
        test_tar_check(str_addf(&manifest, "\"sha256:%s\"", hex));
        config_of(&config, manifest.data, "");
        part(f, &config, config.len, config_digest);
        str_clear(&manifest);
        test_tar_check(str_addf(&manifest,
                                "{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_OCI_MANIFEST
                                "\",\"config\":{\"mediaType\":\"" MEDIA_OCI_CONFIG
                                "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":\"" MEDIA_OCI_LAYER
                                "\",\"digest\":\"sha256:%s\",\"size\":%llu}]}",
                                config_digest, config.len, hex, (unsigned long long)(3 * HASH_TURN)));
        (void)snprintf(path, sizeof(path), "images/partial/%s.%llu", hex, (unsigned long long)(3 * HASH_TURN));
        fd = openat(f->root, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, 2 * HASH_TURN + 1), 0);
        job = job_of(p, GONE ":1", &manifest);
        while (job->state == JOB_CONFIG || job->layer_blobs[0]->state == BLOB_QUEUED)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        turn.b = job->layer_blobs[0];
        assert_int_equal(turn.b->state, BLOB_OPENING);
        assert_int_equal(loop_work(f->loop, DOWNLOAD_QUEUE, nothing, on_turn, &turn), 0);
        while (!turn.came)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        assert_true(turn.before);
        while (turn.b->state == BLOB_OPENING)
                assert_int_equal(loop_turn(f->loop, 1000, NULL), 0);
        assert_int_equal(turn.b->written, 2 * HASH_TURN + 1);
        assert_int_equal(wait_job(f, job), -EHOSTUNREACH);
        image_pulls_free(p);
        registries_free(registries);
}

/* ── partials ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void write_part(const struct image_layout *l, const char *digest, uint64_t size, const char *text)
{
        int fd = -EBADF;

        assert_int_equal(image_layout_partial_open(l, digest, size, &fd, NULL), 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        fd_close(fd);
}

/* Two sizes of one digest are two files, of which only a whole one becomes the blob. */
static void test_partials(void **state)
{
        struct fixture *f = *state;
        char dir[128], blob[IMAGE_DIGEST_MAX], digest[IMAGE_DIGEST_MAX];
        struct image_layout l = IMAGE_LAYOUT_NONE;

        NEEDS_WORKER(f);
        (void)snprintf(dir, sizeof(dir), "%s/other", f->dir);
        assert_int_equal(image_layout_open(dir, &l, NULL), 0);
        assert_int_equal(image_layout_put_text(&l, "hello", 5, blob, NULL), 0);
        assert_int_equal(image_sha256_text("abc", 3, digest, NULL), 0);
        assert_int_equal(image_layout_partial_hold(&l, blob, 6), -EBADMSG);
        assert_int_equal(image_layout_partial_hold(&l, digest, 3), -ENOENT);
        assert_int_equal(image_layout_hold_blob(&l, digest, NULL), -ENOENT);
        assert_int_equal(image_layout_hold_blob(&l, blob, NULL), 0);
        assert_int_equal(count(f, "other/partial"), 0);
        assert_int_equal(image_layout_partial_hold(&l, blob, 5), 0);
        write_part(&l, digest, 3, "abc");
        write_part(&l, digest, 4, "ab");
        assert_int_equal(count(f, "other/partial"), 3);
        assert_int_equal(image_layout_partial_commit(&l, digest, 4, NULL), -EBADMSG);
        assert_int_equal(count(f, "other/blobs/sha256"), 1);
        assert_int_equal(image_layout_partial_commit(&l, digest, 3, NULL), 0);
        assert_int_equal(image_layout_partial_commit(&l, digest, 3, NULL), 0);
        assert_int_equal(count(f, "other/blobs/sha256"), 2);
        image_layout_drop_blob(&l, digest);
        assert_int_equal(count(f, "other/blobs/sha256"), 1);
        assert_int_equal(count(f, "other/partial"), 1);

        /* Of a blob, of no size, of none; and one that stays. */
        (void)image_layout_partial_hold(&l, blob, 5);
        (void)snprintf(dir, sizeof(dir), "other/partial/%s", digest + 7);
        assert_int_equal(fd_write_file(f->root, dir, 0600, "a", 1, NULL), 0);
        assert_int_equal(fd_write_file(f->root, "other/partial/x.3", 0600, "a", 1, NULL), 0);
        write_part(&l, digest, 3, "a");
        assert_int_equal(count(f, "other/partial"), 4);
        image_layout_close(&l);
        (void)snprintf(dir, sizeof(dir), "%s/other", f->dir);
        assert_int_equal(image_layout_open(dir, &l, NULL), 0);
        assert_int_equal(count(f, "other/partial"), 1);
        image_layout_partial_remove(&l, digest, 4);
        assert_int_equal(count(f, "other/partial"), 1);
        image_layout_partial_remove(&l, digest, 3);
        assert_int_equal(count(f, "other/partial"), 0);
        image_layout_close(&l);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_names, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unproven, setup, teardown),
                cmocka_unit_test_setup_teardown(test_trusted_elsewhere, setup, teardown),
                cmocka_unit_test_setup_teardown(test_broken, setup, teardown),
                cmocka_unit_test_setup_teardown(test_left_while_installed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_removed_meanwhile, setup, teardown),
                cmocka_unit_test_setup_teardown(test_turns, setup, teardown),
                cmocka_unit_test_setup_teardown(test_partials, setup, teardown),
        };

        return cmocka_run_group_tests_name("image/pull", tests, NULL, NULL);
}
