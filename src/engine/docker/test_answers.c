/* What is read of Docker's answers, and what of images is remembered. */

#include "engine/docker/internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ID "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static int inspect(const char *text, struct docker_run_state *s)
{
        return docker_inspect_read(text, strlen(text), s);
}

static void test_states(void **state)
{
        static const char *const bad[] = { "",
                                           "[]",
                                           "{}",
                                           "{\"State\":{}}",
                                           "{\"State\":{\"ExitCode\":\"1\"}}",
                                           "{\"State\":7}",
                                           "null",
                                           "{\"State\":{\"ExitCode\":1.5}}" };
        struct docker_run_state s;
        int code = 7;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(inspect(bad[i], &s), -EBADMSG);
        assert_int_equal(docker_inspect_read(NULL, 0, &s), -EBADMSG);
        assert_int_equal(inspect("{\"State\":{\"ExitCode\":-1,\"OOMKilled\":true,\"Running\":false}}", &s), 0);
        assert_true(s.code == 255 && s.oom && !s.running);
        assert_int_equal(inspect("{\"State\":{\"ExitCode\":0,\"OOMKilled\":1,\"Running\":true}}", &s), 0);
        assert_true(s.code == 0 && !s.oom && s.running);
        /* An exec that runs has none. */
        assert_int_equal(docker_exec_read("{\"ExitCode\":null,\"Running\":false}", 33, &s), 0);
        assert_true(s.running);
        assert_int_equal(docker_exec_read("{\"ExitCode\":5}", 14, &s), 0);
        assert_true(s.code == 5 && !s.running);
        assert_int_equal(docker_exec_read("[]", 2, &s), -EBADMSG);
        assert_int_equal(docker_wait_read("{\"StatusCode\":-1}", 17, &code), -EBADMSG);
        assert_int_equal(docker_wait_read("{}", 2, &code), -EBADMSG);
        assert_int_equal(code, 7);
        assert_int_equal(docker_wait_read("{\"StatusCode\":300}", 18, &code), 0);
        assert_int_equal(code, 300 & 0xff);
}

static void test_execs(void **state)
{
        char long_id[DOCKER_EXEC_ID_MAX + 32], id[DOCKER_EXEC_ID_MAX + 1];
        size_t n = (size_t)snprintf(long_id, sizeof(long_id), "{\"Id\":\"%0*d\"}", DOCKER_EXEC_ID_MAX, 0);

        (void)state;
        assert_int_equal(docker_exec_id_read(long_id, n, id), 0);
        assert_int_equal(strlen(id), DOCKER_EXEC_ID_MAX);
        n = (size_t)snprintf(long_id, sizeof(long_id), "{\"Id\":\"%0*d\"}", DOCKER_EXEC_ID_MAX + 1, 0);
        assert_int_equal(docker_exec_id_read(long_id, n, id), -EBADMSG);
        assert_int_equal(docker_exec_id_read("{\"Id\":\"../x\"}", 13, id), -EBADMSG);
        assert_int_equal(docker_exec_id_read("{\"Id\":\"\"}", 9, id), -EBADMSG);
}

static void test_stats(void **state)
{
        static const char good[] =
                "{\"memory_stats\":{\"usage\":4096},\"cpu_stats\":{\"cpu_usage\":{\"total_usage\":7}}}";
        static const char below[] =
                "{\"memory_stats\":{\"usage\":-1},\"cpu_stats\":{\"cpu_usage\":{\"total_usage\":-1}}}";
        struct engine_stats s = { .memory_peak = 1 };

        (void)state;
        assert_int_equal(docker_stats_read(good, sizeof(good) - 1, &s), 0);
        assert_true(s.memory_now == 4096 && s.cpu_ns == 7 && s.memory_peak == 1);
        assert_int_equal(docker_stats_read(below, sizeof(below) - 1, &s), 0);
        assert_true(s.memory_now == 0 && s.cpu_ns == 0);
        assert_int_equal(docker_stats_read("7", 1, &s), -EBADMSG);
}

static int image_of(const char *user, const char *workdir, struct docker_image **ret)
{
        auto_free char *text = str_printf("{\"Id\":\"" ID "\",\"Config\":{\"User\":\"%s\",\"WorkingDir\":\"%s\"}}",
                                          user, workdir);

        assert_non_null(text);
        return docker_image_read(text, strlen(text), ret);
}

static void test_images(void **state)
{
        static const char *const bad[] = { "{}", "{\"Id\":\"x\"}", "{\"Id\":7}", "[]", "{\"Id\":\"sha256:../../x\"}" };
        static const char bare[] = "{\"Id\":\"" ID "\",\"Config\":null}";
        auto_free char *most = str_printf("%04096d", 0), *more = str_printf("%04097d", 0);
        struct docker_image *image = NULL;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(docker_image_read(bad[i], strlen(bad[i]), &image), -EBADMSG);
        assert_int_equal(image_of(more, "/", &image), -EBADMSG);
        assert_int_equal(image_of("", more, &image), -EBADMSG);
        assert_null(image);
        assert_int_equal(docker_image_read(bare, strlen(bare), &image), 0);
        assert_string_equal(image->user, "");
        docker_image_free(image);
        assert_int_equal(image_of("ann", most, &image), 0);
        assert_string_equal(image->digest, ID);
        assert_string_equal(image->user, "ann");
        assert_string_equal(image->workdir, most);
        docker_image_free(image);
}

static struct docker_image *image_new(unsigned n)
{
        struct docker_image *image = calloc(1, sizeof(*image));

        assert_non_null(image);
        list_init(&image->node);
        (void)snprintf(image->digest, sizeof(image->digest), "sha256:%064u", n);
        return image;
}

static bool known(struct docker *d, unsigned n)
{
        struct docker_image *image = image_new(n);
        bool is = docker_image_find(d, image->digest);

        docker_image_free(image);
        return is;
}

/* However many there are: what was not used for longest goes, and what is asked for was used. */
static void test_images_bound(void **state)
{
        struct docker d = { .images = map_new() };

        (void)state;
        list_init(&d.images_used);
        for (unsigned n = 0; n < DOCKER_IMAGES_MAX; n++)
                assert_int_equal(docker_image_note(&d, image_new(n)), 0);
        assert_true(known(&d, 0));
        assert_int_equal(docker_image_note(&d, image_new(1)), 0); /* once more */
        assert_int_equal(map_len(d.images), DOCKER_IMAGES_MAX);
        assert_int_equal(docker_image_note(&d, image_new(DOCKER_IMAGES_MAX)), 0);
        assert_int_equal(docker_image_note(&d, image_new(DOCKER_IMAGES_MAX + 1)), 0);
        assert_int_equal(map_len(d.images), DOCKER_IMAGES_MAX);
        assert_false(known(&d, 2));
        assert_false(known(&d, 3));
        assert_true(known(&d, 0) && known(&d, 1) && known(&d, 4) && known(&d, DOCKER_IMAGES_MAX + 1));
        docker_images_free(&d);
        assert_null(d.images);
}

static bool is_oom(const char *text)
{
        const struct docker d = { .name = (char[]){ "test" } };
        auto_json o = NULL;

        assert_int_equal(json_read(text, strlen(text), &o, NULL), 0);
        return docker_event_oom(&d, o);
}

static void test_events(void **state)
{
        (void)state;
        assert_true(is_oom("{\"Action\":\"oom\",\"Actor\":{\"Attributes\":{\"name\":\"test-a\","
                           "\"dev.mayfly.instance\":\"test\"}}}"));
        assert_false(is_oom("{\"Action\":\"oom\",\"Actor\":{\"Attributes\":{\"name\":\"test-a\","
                            "\"dev.mayfly.instance\":\"other\"}}}"));
        assert_false(is_oom("{\"Action\":\"die\",\"Actor\":{\"Attributes\":{\"name\":\"test-a\","
                            "\"dev.mayfly.instance\":\"test\"}}}"));
        assert_false(is_oom("{\"Action\":\"oom\",\"Actor\":{\"Attributes\":{\"dev.mayfly.instance\":\"test\"}}}"));
        assert_false(is_oom("{\"Action\":\"oom\",\"Actor\":[]}"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_states), cmocka_unit_test(test_execs),        cmocka_unit_test(test_stats),
                cmocka_unit_test(test_images), cmocka_unit_test(test_images_bound), cmocka_unit_test(test_events),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
