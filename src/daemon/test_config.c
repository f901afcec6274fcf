#include "base/str.h"
#include "daemon/config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static int read_yaml(struct config *c, const char *text, struct err *err)
{
        config_default(c);
        return config_read_yaml(c, text, strlen(text), "mayfly.yaml", err);
}

static void assert_fault(const char *text, const char *expected)
{
        struct err err = ERR_INIT;
        struct config c;

        assert_int_equal(read_yaml(&c, text, &err), -EINVAL);
        assert_string_equal(err.text, expected);
}

static void test_defaults_pass(void **state)
{
        struct err err = ERR_INIT;
        struct config c;

        (void)state;
        config_default(&c);
        assert_int_equal(config_check(&c, &err), 0);
        assert_string_equal(c.data, "/var/lib/mayfly");
        assert_string_equal(c.network.pool, "10.213.0.0/16");
        assert_int_equal(c.id_base, 2013265920);
}

static void test_trust(void **state)
{
        static const char *const bad[] = { "acme", "acme=", "=ci", "ac*=ci", "acme/*=../ci", "acme/*=a b" };
        static const char *const bad_pins[] = { "acme=sha256:12", "acme", "acme=md5:1" };
        static const char text[] =
                "trust:\n  keys: /k\n  signed: [\"docker.io/acme/*=ci\", \"*=reject\"]\n  pinned:\n"
                "  - python:3=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";
        struct err err = ERR_INIT;
        struct config c;

        (void)state;
        assert_int_equal(read_yaml(&c, text, &err), 0);
        assert_string_equal(c.trust.keys, "/k");
        assert_string_equal(c.trust.signed_by, "docker.io/acme/*=ci,*=reject");
        assert_int_equal(strlen(c.trust.pinned), strlen("python:3=sha256:") + 64);
        assert_int_equal(config_check(&c, &err), 0);
        assert_int_equal(config_set(&c, "engines", "docker,native", &err), 0);
        assert_int_equal(config_check(&c, &err), 0);
        assert_int_equal(config_set(&c, "engines", "docker", &err), 0);
        assert_int_equal(config_check(&c, &err), -EINVAL);
        for (size_t i = 0; i < ARRAY_LEN(bad); i++)
                assert_int_equal(config_set(&c, "trust.signed", bad[i], &err), -EINVAL);
        for (size_t i = 0; i < ARRAY_LEN(bad_pins); i++)
                assert_int_equal(config_set(&c, "trust.pinned", bad_pins[i], &err), -EINVAL);
}

static void test_every_key(void **state)
{
        static const char text[] = "# all of them\n"
                                   "name: blue\n"
                                   "data: /srv/blue\n"
                                   "run: \"/run/blue\"\n"
                                   "user: alice\n"
                                   "net_user: bob\n"
                                   "group: carol\n"
                                   "log_level: debug\n"
                                   "engines: [docker, native]\n"
                                   "docker:\n"
                                   "  host: tcp://docker.example:2376\n"
                                   "  tls: {ca: /etc/d/ca.pem, cert: /etc/d/cert.pem, key: /etc/d/key.pem}\n"
                                   "  prewarm: 4\n"
                                   "listen: [\"tcp://127.0.0.1:80\", \"https://[::]:6293\"]\n"
                                   "trusted_proxies:\n- 10.0.0.1\n- fd00::/8\n"
                                   "proxy_protocol: true\n"
                                   "tls: {cert: /etc/c.pem, key: /etc/k.pem}\n"
                                   "limits: {key_rate: 5, idle_timeout: 10s, body_memory: 128m}\n"
                                   "ids:\n"
                                   "  base: 1048576\n"
                                   "  slots: 100\n"
                                   "tasks: {max_running: 64, max_queued: 5, overcommit: 1.5, reserve: 1g}\n"
                                   "network:\n"
                                   "  default: none\n"
                                   "  pool: 172.20.0.0/16\n"
                                   "  stock: 0\n"
                                   "history:\n"
                                   "  max_tasks: 10\n"
                                   "  max_bytes: 64m\n"
                                   "  max_age: 1h30m\n"
                                   "images:\n"
                                   "  max_layer_bytes: 1g\n"
                                   "  max_archive_bytes: 2GiB\n";
        struct err err = ERR_INIT;
        struct config c;

        (void)state;
        assert_int_equal(read_yaml(&c, text, &err), 0);
        assert_string_equal(c.name, "blue");
        assert_string_equal(c.data, "/srv/blue");
        assert_string_equal(c.run, "/run/blue");
        assert_string_equal(c.user, "alice");
        assert_string_equal(c.net_user, "bob");
        assert_string_equal(c.group, "carol");
        assert_string_equal(c.log_level, "debug");
        assert_string_equal(c.engines, "docker,native");
        assert_string_equal(c.docker.host, "tcp://docker.example:2376");
        assert_string_equal(c.docker.tls_ca, "/etc/d/ca.pem");
        assert_string_equal(c.docker.tls_cert, "/etc/d/cert.pem");
        assert_string_equal(c.docker.tls_key, "/etc/d/key.pem");
        assert_int_equal(c.docker.prewarm, 4);
        assert_string_equal(c.listen, "tcp://127.0.0.1:80,https://[::]:6293");
        assert_string_equal(c.trusted_proxies, "10.0.0.1,fd00::/8");
        assert_true(c.proxy_protocol);
        assert_string_equal(c.tls_cert, "/etc/c.pem");
        assert_int_equal(c.limits.key_rate, 5);
        assert_int_equal(c.limits.idle_timeout_ms, 10000);
        assert_int_equal(c.limits.body_memory, 128 << 20);
        assert_int_equal(c.id_base, 1048576);
        assert_int_equal(c.slots, 100);
        assert_int_equal(c.tasks.max_running, 64);
        assert_int_equal(c.tasks.max_queued, 5);
        assert_true(c.tasks.overcommit == 1.5);
        assert_int_equal(c.tasks.reserve, 1 << 30);
        assert_string_equal(c.network.mode, "none");
        assert_string_equal(c.network.pool, "172.20.0.0/16");
        assert_int_equal(c.network.stock, 0);
        assert_int_equal(c.history.max_tasks, 10);
        assert_int_equal(c.history.max_bytes, 64 << 20);
        assert_int_equal(c.history.max_age_ms, 90 * 60 * 1000);
        assert_int_equal(c.images.max_layer_bytes, 1 << 30);
        assert_int_equal(c.images.max_archive_bytes, UINT64_C(2) << 30);
        assert_int_equal(config_check(&c, &err), 0);
}

static void test_empty_files(void **state)
{
        static const char *const texts[] = { "", "\n# nothing\n", "---\n", "~\n", "tasks:\n  # all as usual\n" };
        struct err err = ERR_INIT;
        struct config c;

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(texts); i++)
                assert_int_equal(read_yaml(&c, texts[i], &err), 0);
}

static void test_faults_name_their_line(void **state)
{
        (void)state;
        assert_fault("name: a\n\ntasks:\n  max_runing: 3\n",
                     "mayfly.yaml:4: tasks.max_runing: unknown key (did you mean tasks.max_running?)");
        assert_fault("naem: a\n", "mayfly.yaml:1: naem: unknown key");
        assert_fault("zebra:\n  stripes: 3\n", "mayfly.yaml:1: zebra: unknown key");
        assert_fault("name: a\nname: b\n", "mayfly.yaml:2: name: set twice, first in line 1");
        assert_fault("tasks:\n  reserve: 1g\ndata: /x\ntasks:\n  max_queued: 1\n",
                     "mayfly.yaml:4: tasks: appears twice, first in line 1");
        assert_fault("tasks.reserve: 1g\ntasks:\n  reserve: 2g\n",
                     "mayfly.yaml:3: tasks.reserve: set twice, first in line 1");
        assert_fault("tasks: 5\n", "mayfly.yaml:1: tasks: takes keys of its own, not a value");
        assert_fault("data: {a: b}\n", "mayfly.yaml:1: data: takes one value, not a mapping");
        assert_fault("data:\n", "mayfly.yaml:1: data: has no value");
        assert_fault("data: [a, b]\n", "mayfly.yaml:1: data: takes one value, not a list");
        assert_fault("- data\n", "mayfly.yaml:1: expected keys, not a list");
        assert_fault("listen:\n  - [a]\n", "mayfly.yaml:2: listen: takes a list of plain values");
        assert_fault("listen:\n- a,b\n", "mayfly.yaml:2: listen: 'a,b' is not one value");
        assert_fault("just words\n", "mayfly.yaml:1: expected keys, as 'data: /var/lib/mayfly'");
        assert_fault("name: &a x\n", "mayfly.yaml:1: anchors and aliases are not allowed here");
        assert_fault("name: x\ndata: *a\n", "mayfly.yaml:2: anchors and aliases are not allowed here");
        assert_fault("name: !!str x\n", "mayfly.yaml:1: tags are not allowed here");
        assert_fault("name: a\n---\nname: b\n", "mayfly.yaml:2: a second document; there may be one");
        assert_fault("? {a: b}\n: c\n", "mayfly.yaml:1: a key must be a word");
        assert_fault("name: \"a\\0b\"\n", "mayfly.yaml:1: a value holds a NUL");
        assert_fault("name: a\ndata: \xff\n", "mayfly.yaml:2: invalid leading UTF-8 octet");
}

static void test_values(void **state)
{
        static const struct {
                const char *key, *value;
                bool ok;
        } cases[] = {
                { "name", "a-1", true },
                { "name", "1a", false },
                { "name", "", false },
                { "name", "A", false },
                { "name", "abcdefghijklmnop", false },
                { "data", "/a/b", true },
                { "data", "/", false },
                { "data", "a", false },
                { "data", "/a/../b", false },
                { "data", "/a//b", false },
                { "data", "/a/", false },
                { "data", "/a/.", false },
                { "data", "/a\n", false },
                { "data", "/a/..b", true },
                { "data", "/a b", false },
                { "data", "/a:b", false },
                { "data", "/a$b", false },
                { "user", "_x-1", true },
                { "user", "x y", false },
                { "log_level", "loud", false },
                { "ids.slots", "0", false },
                { "ids.slots", "4096", true },
                { "ids.slots", "4097", false },
                { "ids.slots", "-1", false },
                { "ids.slots", "1e3", false },
                { "ids.slots", "010", false },
                { "ids.base", "4294967296", false },
                { "tasks.overcommit", "4", true },
                { "tasks.overcommit", ".5", false },
                { "tasks.overcommit", "inf", false },
                { "tasks.overcommit", "0x10", false },
                { "tasks.overcommit", "0", false },
                { "tasks.overcommit", "1.2.3", false },
                { "tasks.reserve", "0", true },
                { "tasks.reserve", "1q", false },
                { "tasks.reserve", "-1", false },
                { "network.pool", "10.1.0.0/16", true },
                { "network.pool", "10.1.0.1/16", false },
                { "network.pool", "8.8.0.0/16", false },
                { "network.pool", "172.0.0.0/8", false },
                { "network.pool", "10.0.0.0/30", false },
                { "network.pool", "10.0.0.0", false },
                { "network.pool", "300.0.0.0/8", false },
                { "history.max_age", "0", false },
                { "history.max_age", "90", true },
                { "history.max_age", "-1h", false },
                { "history.max_bytes", "1", false },
                { "listen", "none", true },
                { "listen", "tcp://127.0.0.1:6293,tcp://[::1]", true },
                { "listen", "https://*:443", true },
                { "listen", "tcp://0.0.0.0:6293", false },
                { "listen", "tcp://10.0.0.1:6293", false },
                { "listen", "tcp://[::]:6293", false },
                { "listen", "https://example.com:1", false },
                { "listen", "127.0.0.1:6293", false },
                { "listen", "tcp://127.0.0.1:0", false },
                { "listen", "tcp://127.0.0.1:65536", false },
                { "listen", "tcp://127.0.0.1:1,http://127.0.0.1:1", false },
                { "trusted_proxies", "10.0.0.0/8,::1", true },
                { "trusted_proxies", "10.0.0.0/33", false },
                { "trusted_proxies", "proxy", false },
                { "trusted_proxies", "10.0.0.1,", false },
                { "proxy_protocol", "yes", false },
                { "tls.cert", "relative", false },
                { "limits.connections", "0", false },
                { "limits.key_rate", "0", true },
                { "images.parallel", "28", true },
                { "images.parallel", "29", false }, /* the launcher would refuse some of what they need */
                { "nothing", "1", false },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct err err = ERR_INIT;
                struct config c;

                config_default(&c);
                if ((config_set(&c, cases[i].key, cases[i].value, &err) == 0) != cases[i].ok)
                        fail_msg("%s: %s: %s", cases[i].key, cases[i].value, err.text);
        }
}

static void test_the_whole(void **state)
{
        static const struct {
                const char *key, *value;
        } bad[] = {
                { "ids.base", "4294901760" },   { "ids.base", "65537" },      { "tasks.max_running", "513" },
                { "data", "/run/mayfly/data" }, { "run", "/var/lib/mayfly" }, { "user", "root" },
                { "net_user", "mayfly" },       { "dns_user", "mayfly-net" }, { "dns_user", "root" },
                { "tls.cert", "/etc/c.pem" },   { "proxy_protocol", "true" },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
                struct err err = ERR_INIT;
                struct config c;

                config_default(&c);
                assert_int_equal(config_set(&c, bad[i].key, bad[i].value, &err), 0);
                assert_int_equal(config_check(&c, &err), -EINVAL);
        }
}

static int from_args(struct config *c, bool *check, struct err *err, const char *const *args)
{
        char **argv = strv_dup((char *const *)(uintptr_t)args);
        int r;

        assert_non_null(argv);
        r = config_from_args(c, (int)strv_len(argv), argv, check, err);
        strv_free(argv);
        return r;
}

#define ARGS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void test_args(void **state)
{
        char path[] = "/tmp/mayfly-test-config-XXXXXX";
        static const char text[] = "name: file\ntasks:\n  max_queued: 7\n";
        struct err err = ERR_INIT;
        bool check = false;
        struct config c;
        int fd;

        (void)state;
        fd = mkstemp(path);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
        close(fd);
        assert_int_equal(
                from_args(&c, &check, &err, ARGS("--name", "flag", "--config", path, "--net-user=x", "--check")), 0);
        assert_true(check);
        assert_string_equal(c.name, "flag");
        assert_string_equal(c.net_user, "x");
        assert_int_equal(c.tasks.max_queued, 7);
        assert_int_equal(from_args(&c, &check, &err, ARGS("--config", path, "--config", path)), -EINVAL);
        unlink(path);
        assert_int_equal(from_args(&c, &check, &err, ARGS("--config", path)), -ENOENT);
        assert_int_equal(from_args(&c, &check, &err, ARGS("--name")), -EINVAL);
        assert_int_equal(from_args(&c, &check, &err, ARGS("--nme", "x")), -EINVAL);
        assert_int_equal(from_args(&c, &check, &err, ARGS("stray")), -EINVAL);
        assert_int_equal(from_args(&c, &check, &err, ARGS("--user", "root")), -EINVAL);
}

static void test_args_there_and_back(void **state)
{
        struct err err = ERR_INIT;
        struct config c, back;
        char **args = NULL;
        bool check;

        (void)state;
        config_default(&c);
        assert_int_equal(config_to_args(&c, &args, &err), 0);
        assert_int_equal(strv_len(args), 0);
        strv_free(args);
        assert_int_equal(config_set(&c, "data", "/srv/x", &err), 0);
        assert_int_equal(config_set(&c, "tasks.overcommit", "2.5", &err), 0);
        assert_int_equal(config_set(&c, "history.max_age", "36h", &err), 0);
        assert_int_equal(config_set(&c, "listen", "tcp://127.0.0.1:1", &err), 0);
        assert_int_equal(config_set(&c, "trusted_proxies", "10.0.0.1", &err), 0);
        assert_int_equal(config_to_args(&c, &args, &err), 0);
        assert_int_equal(strv_len(args), 5);
        assert_int_equal(config_from_args(&back, (int)strv_len(args), args, &check, &err), 0);
        assert_string_equal(back.data, "/srv/x");
        assert_string_equal(back.listen, c.listen);
        assert_true(back.tasks.overcommit == 2.5);
        assert_int_equal(back.history.max_age_ms, UINT64_C(36) * 3600 * 1000);
        strv_free(args);
}

static void test_engines(void **state)
{
        struct err err = ERR_INIT;
        struct config c;

        (void)state;
        assert_int_equal(read_yaml(&c, "engine: docker\ndocker:\n  host: unix:///run/d.sock\n", &err), 0);
        assert_string_equal(c.engines, "docker");
        assert_true(config_has_engine(&c, "docker"));
        assert_false(config_has_engine(&c, "native"));
        assert_int_equal(config_check(&c, &err), 0);
        assert_int_equal(config_set(&c, "docker_host", "unix:///other.sock", &err), 0);
        assert_string_equal(c.docker.host, "unix:///other.sock");
        assert_fault("engine: docker\nengines: [native]\n", "mayfly.yaml:2: engines: set twice, first in line 1");
        assert_fault("\nengines: [native, native]\n",
                     "mayfly.yaml:2: engines: 'native,native' is not native, docker or both, separated by a comma");
        assert_fault("engines: []\n",
                     "mayfly.yaml:1: engines: 'none' is not native, docker or both, separated by a comma");
        assert_fault("engines: [podman]\n",
                     "mayfly.yaml:1: engines: 'podman' is not native, docker or both, separated by a comma");
        assert_fault("docker:\n  host: /run/d.sock\n",
                     "mayfly.yaml:2: docker.host: '/run/d.sock' is not unix:///PATH, of at most 107 bytes, or "
                     "tcp://HOST:PORT");
        assert_fault("docker:\n  tls:\n    ca: none\n  tls:\n    key: none\n",
                     "mayfly.yaml:4: docker.tls: appears twice, first in line 2");
        assert_fault("docker:\n  tls: yes\n", "mayfly.yaml:2: docker.tls: takes keys of its own, not a value");
        assert_fault("docker:\n  tls:\n    pem: /x\n",
                     "mayfly.yaml:3: docker.tls.pem: unknown key (did you mean docker.tls.key?)");
}

static void assert_docker(const char *host, const char *ca, const char *cert, const char *key, const char *expected)
{
        struct err err = ERR_INIT;
        struct config c;

        config_default(&c);
        assert_int_equal(config_set(&c, "engine", "docker", &err), 0);
        assert_int_equal(config_set(&c, "docker.host", host, &err), 0);
        assert_int_equal(config_set(&c, "docker.tls.ca", ca, &err), 0);
        assert_int_equal(config_set(&c, "docker.tls.cert", cert, &err), 0);
        assert_int_equal(config_set(&c, "docker.tls.key", key, &err), 0);
        if (!expected) {
                assert_int_equal(config_check(&c, &err), 0);
                return;
        }
        assert_int_equal(config_check(&c, &err), -EINVAL);
        assert_string_equal(err.text, expected);
}

static void test_docker_certificates(void **state)
{
        static const char *const near[] = { "localhost",      "localhost:2375", "127.0.0.1", "127.0.0.1:2375",
                                            "127.9.8.7:2375", "[::1]",          "[::1]:2375" };
        static const char *const far[] = { "far:2375",        "localhost.far", "localhost.far:2375",
                                           "127.example.com", "127.0.0.1.far", "127.0.0.1.2",
                                           "127.1",           "128.0.0.1",     "127.example.com:1",
                                           "[::2]",           "[::1:2]:1",     "[::ffff:127.0.0.1]",
                                           "12.7.0.0",        "localhos",      "LOCALHOST.far",
                                           "0.0.0.0" };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(near); i++) {
                auto_free char *host = str_printf("tcp://%s", near[i]);

                assert_docker(host, "none", "none", "none", NULL);
        }
        for (size_t i = 0; i < ARRAY_LEN(far); i++) {
                auto_free char *host = str_printf("tcp://%s", far[i]);
                auto_free char *why = str_printf("docker.host: %s without certificates: whoever reaches it is root "
                                                 "there; set docker.tls.cert and docker.tls.key",
                                                 host);

                assert_docker(host, "none", "none", "none", why);
        }
        assert_docker("tcp://far:2376", "none", "/c", "/k", NULL);
        assert_docker("tcp://far:2376", "/a", "/c", "/k", NULL);
        assert_docker("tcp://far:2376", "none", "/c", "none", "docker.tls.cert, docker.tls.key: both or none");
        assert_docker("tcp://far:2376", "/a", "none", "none",
                      "docker.tls.ca: needs docker.tls.cert and docker.tls.key");
        assert_docker("unix:///d", "none", "/c", "/k",
                      "docker.tls: certificates are for tcp://, docker.host is unix:///d");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_engines),
                cmocka_unit_test(test_docker_certificates),
                cmocka_unit_test(test_defaults_pass),
                cmocka_unit_test(test_every_key),
                cmocka_unit_test(test_trust),
                cmocka_unit_test(test_empty_files),
                cmocka_unit_test(test_faults_name_their_line),
                cmocka_unit_test(test_values),
                cmocka_unit_test(test_the_whole),
                cmocka_unit_test(test_args),
                cmocka_unit_test(test_args_there_and_back),
        };

        return cmocka_run_group_tests_name("daemon/config", tests, NULL, NULL);
}
