#include "cli/docker_config.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[32], file[64];

static int setup(void **state)
{
        (void)state;
        (void)snprintf(dir, sizeof(dir), "/tmp/mayfly-docker-XXXXXX");
        if (!mkdtemp(dir) || setenv("DOCKER_CONFIG", dir, 1) < 0)
                return -1;
        (void)snprintf(file, sizeof(file), "%s/config.json", dir);
        return 0;
}

static int teardown(void **state)
{
        (void)state;
        (void)unlink(file);
        return rmdir(dir);
}

static int find(const char *config, const char *image, struct docker_login *ret)
{
        struct err err = ERR_INIT;

        assert_int_equal(fd_write_file(AT_FDCWD, file, 0600, config, strlen(config), &err), 0);
        return docker_login_find(image, ret, &err);
}

static void test_registries(void **state)
{
        static const struct {
                const char *image, *registry;
        } rows[] = {
                { "busybox", "docker.io" },
                { "busybox:1.36", "docker.io" },
                { "acme/x@sha256:12", "docker.io" },
                { "docker.io/acme/x", "docker.io" },
                { "index.docker.io/x", "docker.io" },
                { "localhost/x", "localhost" },
                { "localhost:5000/x:1", "localhost:5000" },
                { "Registry.Example/x", "registry.example" },
                { "[::1]:5000/x", "[::1]:5000" },
                { "registry.example:443/x", "registry.example" },
                { "registry-1.docker.io:443/x", "docker.io" },
        };
        char name[256], large[600];

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                assert_int_equal(docker_registry_of(rows[i].image, name), 0);
                assert_string_equal(name, rows[i].registry);
        }
        memset(large, 'a', sizeof(large));
        memcpy(large + 400, ".b/x", 5);
        assert_int_equal(docker_registry_of(large, name), -EINVAL);
        assert_int_equal(docker_registry_of("a..b/x", name), -EINVAL);
}

static void test_auths(void **state)
{
        static const struct {
                const char *config, *image, *username, *password;
        } rows[] = {
                { "{\"auths\":{\"https://index.docker.io/v1/\":{\"auth\":\"YW5uOnB3OnI=\"}}}", "busybox", "ann",
                  "pw:r" },
                { "{\"auths\":{\"docker.io\":{\"auth\":\"YW5uOnB3\"}}}", "acme/x", "ann", "pw" },
                { "{\"auths\":{\"https://r.example/v2/\":{\"username\":\"a\",\"password\":\"b\"}}}", "r.example/x", "a",
                  "b" },
                { "{\"auths\":{\"r.example\":{\"auth\":\"YW5uOg==\",\"identitytoken\":\"t\"}}}", "r.example/x",
                  "<token>", "t" },
                { "{\"auths\":{\"r.example\":{\"auth\":\"YW5uOnB3\"}}}", "busybox", NULL, NULL },
                { "{\"auths\":{\"r.example\":{\"auth\":\"YW5uOnB3\"}}}", "r.example:5000/x", NULL, NULL },
                { "{\"auths\":{\"r.example\":{}}}", "r.example/x", NULL, NULL },
                { "{\"auths\":{\"https://r.example:443\":{\"auth\":\"YW5uOnB3\"}}}", "r.example/x", "ann", "pw" },
                { "{\"auths\":{\"https://R.example:443/v1/\":{\"auth\":\"YW5uOnB3\"}}}", "r.example:443/x", "ann",
                  "pw" },
                { "{\"auths\":{\"r.example:443\":{\"auth\":\"YW5uOnB3\"}}}", "r.example/x", "ann", "pw" },
                { "{\"auths\":{\"r.example\":{\"auth\":\"YW5uOnB3\"}}}", "r.example:443/x", "ann", "pw" },
                { "{\"auths\":{\"http://r.example:443\":{\"auth\":\"YW5uOnB3\"}}}", "r.example/x", NULL, NULL },
                { "{\"auths\":{\"r.example:80\":{\"auth\":\"YW5uOnB3\"}}}", "r.example/x", NULL, NULL },
                { "{\"auths\":{\"registry.hub.docker.com\":{\"auth\":\"YW5uOnB3\"}}}", "busybox", "ann", "pw" },
                { "{\"auths\":5,\"credHelpers\":[]}", "r.example/x", NULL, NULL },
                { "{}", "r.example/x", NULL, NULL },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                struct docker_login l;

                assert_int_equal(find(rows[i].config, rows[i].image, &l), 0);
                assert_int_equal(l.username != NULL, rows[i].username != NULL);
                if (l.username) {
                        assert_string_equal(l.username, rows[i].username);
                        assert_string_equal(l.password, rows[i].password);
                }
                docker_login_done(&l);
        }
}

static void test_helper_answers(void **state)
{
        static const char *const bad[] = { "",
                                           "{",
                                           "[]",
                                           "{\"Username\":\"a\"}",
                                           "{\"Username\":1,\"Secret\":\"b\"}",
                                           "{\"Username\":\"\",\"Secret\":\"b\"}" };
        static const char good[] = "{\"ServerURL\":\"r\",\"Username\":\"a\",\"Secret\":\"b\"}";
        struct docker_login l = { .username = NULL };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                assert_int_equal(docker_helper_read(bad[i], strlen(bad[i]), &l, NULL), -EPROTO);
                assert_null(l.username);
        }
        assert_int_equal(docker_helper_read(good, strlen(good), &l, NULL), 0);
        assert_string_equal(l.username, "a");
        assert_string_equal(l.password, "b");
        docker_login_done(&l);
}

/* A helper gets signals as a shell would give them, although we ignore SIGPIPE. */
static void test_helper_signals(void **state)
{
        static const char program[] = "#!/bin/sh\n"
                                      "kill -PIPE $$\n"
                                      "echo '{\"Username\":\"a\",\"Secret\":\"b\"}'\n";
        const char *now = getenv("PATH");
        auto_free char *path = str_printf("%s/docker-credential-piped", dir);
        auto_free char *search = str_printf("%s:/usr/bin:/bin", dir), *before = strdup(now ? now : "");
        struct docker_login l;

        (void)state;
        assert_int_equal(fd_write_file(AT_FDCWD, path, 0755, program, strlen(program), NULL), 0);
        assert_int_equal(setenv("PATH", search, 1), 0);
        (void)signal(SIGPIPE, SIG_IGN);
        assert_int_equal(find("{\"credsStore\":\"piped\"}", "r.example/x", &l), -EACCES);
        docker_login_done(&l);
        (void)signal(SIGPIPE, SIG_DFL);
        assert_int_equal(setenv("PATH", before, 1), 0);
        assert_int_equal(unlink(path), 0);
}

/* Docker asks a helper by what the reference says; what was stored under the registry's other name is found, too. */
static void test_helper_names(void **state)
{
        static const char program[] = "#!/bin/sh\n"
                                      "read -r key\n"
                                      "case $key in\n"
                                      "r.example) echo '{\"Username\":\"plain\",\"Secret\":\"b\"}' ;;\n"
                                      "q.example:443) echo '{\"Username\":\"port\",\"Secret\":\"b\"}' ;;\n"
                                      "https://index.docker.io/v1/) echo '{\"Username\":\"hub\",\"Secret\":\"b\"}' ;;\n"
                                      "*) echo 'credentials not found in native keychain'; exit 1 ;;\n"
                                      "esac\n";
        static const struct {
                const char *image, *username;
        } rows[] = {
                { "r.example/x", "plain" },   { "r.example:443/x", "plain" }, { "q.example:443/x", "port" },
                { "q.example/x", NULL },      { "busybox", "hub" },           { "index.docker.io/x", "hub" },
                { "r.example:5000/x", NULL },
        };
        const char *now = getenv("PATH");
        auto_free char *path = str_printf("%s/docker-credential-named", dir);
        auto_free char *search = str_printf("%s:/usr/bin:/bin", dir), *before = strdup(now ? now : "");

        (void)state;
        assert_int_equal(fd_write_file(AT_FDCWD, path, 0755, program, strlen(program), NULL), 0);
        assert_int_equal(setenv("PATH", search, 1), 0);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                struct docker_login l;

                assert_int_equal(find("{\"credsStore\":\"named\"}", rows[i].image, &l), 0);
                assert_int_equal(l.username != NULL, rows[i].username != NULL);
                if (l.username)
                        assert_string_equal(l.username, rows[i].username);
                docker_login_done(&l);
        }
        assert_int_equal(setenv("PATH", before, 1), 0);
        assert_int_equal(unlink(path), 0);
}

static void test_bad(void **state)
{
        static const char *const bad[] = {
                "{",
                "",
                "{\"auths\":{\"r.example\":{\"auth\":\"!\"}}}",
                "{\"auths\":{\"r.example\":{\"auth\":\"YW5u\"}}}",
                "{\"auths\":{\"r.example\":{\"auth\":\"OnB3\"}}}",
                "{\"credsStore\":\"../x\"}",
                "{\"credsStore\":\"none-such\"}",
        };
        struct docker_login l;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                assert_true(find(bad[i], "r.example/x", &l) < 0);
                assert_null(l.username);
        }
        assert_int_equal(unlink(file), 0);
        assert_int_equal(docker_login_find("r.example/x", &l, NULL), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_registries, setup, teardown),
                cmocka_unit_test_setup_teardown(test_auths, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad, setup, teardown),
                cmocka_unit_test_setup_teardown(test_helper_signals, setup, teardown),
                cmocka_unit_test_setup_teardown(test_helper_names, setup, teardown),
                cmocka_unit_test(test_helper_answers),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
