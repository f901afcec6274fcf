#include "base/tar.h"
#include "wire/task.h"

#include "base/time.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define S ((int64_t)NS_PER_S)

static int read_text(const char *text, struct wire_task_request *r, struct json_faults *faults)
{
        struct err err = ERR_INIT;
        auto_json body = NULL;

        assert_int_equal(json_read(text, strlen(text), &body, &err), 0);
        return wire_task_request_read(body, r, faults);
}

static struct wire_task_request good(const char *text)
{
        struct wire_task_request r = { .image = NULL };
        struct json_faults faults = { 0 };
        int e = read_text(text, &r, &faults);

        if (faults.len > 0)
                print_error("%s: %s: %s\n", text, faults.items[0].pointer, faults.items[0].detail);
        assert_int_equal(e, 0);
        return r;
}

static void test_smallest(void **state)
{
        struct wire_task_request r = good("{\"image\":\"busybox\"}");

        (void)state;
        assert_string_equal(r.image, "busybox");
        assert_null(r.cmd);
        assert_null(r.entrypoint);
        assert_null(r.env);
        assert_null(r.workdir);
        assert_null(r.user);
        assert_null(r.stdin_data);
        assert_int_equal(r.n_files, 0);
        assert_true(r.limits.timeout_ns == 60 * S && r.limits.queue_timeout_ns == 60 * S && r.limits.grace_ns == 0);
        assert_true(r.limits.memory == 512 << 20 && r.limits.disk == 256 << 20 && r.limits.shm == 64 << 20);
        assert_true(r.limits.output == 1 << 20 && r.limits.cpu_milli == 1000 && r.limits.pids == 512);
        assert_false(r.kill_on_output_limit);
        assert_int_equal(r.network, WIRE_NET_DEFAULT);
        assert_false(r.init);
        assert_int_equal(r.encoding, WIRE_ENC_AUTO);
        wire_task_request_done(&r);
}

static void test_every_member(void **state)
{
        struct wire_task_request r = good(
                "{\"image\":\"a/b:c\",\"cmd\":[\"x\",\"\"],\"entrypoint\":[],\"env\":{\"A\":\"1\",\"B\":\"\"},"
                "\"workdir\":\"/w\",\"user\":\"u:g\",\"stdin\":\"AAH/\",\"stdin_encoding\":\"base64\","
                "\"files\":[{\"path\":\"a/b\",\"content\":\"hi\",\"mode\":\"0755\"},"
                "{\"path\":\"/c\",\"content\":\"AAE=\",\"encoding\":\"base64\",\"mode\":420},"
                "{\"path\":\"d\",\"content\":\"\\u0000\"}],"
                "\"limits\":{\"timeout\":\"1m30s\",\"queue_timeout\":1.5,\"grace\":\"250ms\",\"memory\":\"64m\","
                "\"disk\":1048576,\"shm\":\"1m\",\"output\":0,\"cpus\":0.125,\"pids\":7},"
                "\"on_output_limit\":\"kill\",\"network\":\"internet\",\"init\":true,\"encoding\":\"base64\",\"wait\":"
                "\"90s\",\"on_disconnect\":\"detach\",\"outputs\":[\"o\",\"/p/\"],\"secrets\":{\"A.b\":\"x\\u0000y\"},"
                "\"registry_auth\":{\"username\":\"u\",\"password\":\"p\"},\"labels\":{\"b\":\"2\",\"a\":\"1=\"},"
                "\"retries\":10,\"pull\":\"never\",\"engine\":\"native\"}");

        (void)state;
        assert_string_equal(r.cmd[0], "x");
        assert_string_equal(r.cmd[1], "");
        assert_null(r.cmd[2]);
        assert_non_null(r.entrypoint);
        assert_null(r.entrypoint[0]);
        assert_string_equal(r.env[0], "A=1");
        assert_string_equal(r.env[1], "B=");
        assert_string_equal(r.workdir, "/w");
        assert_string_equal(r.user, "u:g");
        assert_int_equal(r.stdin_len, 3);
        assert_memory_equal(r.stdin_data, "\x00\x01\xff", 3);
        assert_int_equal(r.n_files, 3);
        assert_string_equal(r.files[0].path, "a/b");
        assert_int_equal(r.files[0].mode, 0755);
        assert_memory_equal(r.files[0].content, "hi", 2);
        assert_int_equal(r.files[1].mode, 0644);
        assert_int_equal(r.files[1].len, 2);
        assert_int_equal(r.files[2].mode, 0644);
        assert_int_equal(r.files[2].len, 1);
        assert_true(r.limits.timeout_ns == 90 * S && r.limits.queue_timeout_ns == 3 * S / 2);
        assert_true(r.limits.grace_ns == S / 4 && r.limits.memory == 64 << 20 && r.limits.disk == 1 << 20);
        assert_true(r.limits.shm == 1 << 20 && r.limits.output == 0);
        assert_true(r.limits.cpu_milli == 125 && r.limits.pids == 7);
        assert_true(r.kill_on_output_limit && r.init);
        assert_int_equal(r.network, WIRE_NET_INTERNET);
        assert_int_equal(r.encoding, WIRE_ENC_BASE64);
        assert_true(r.wait_ns == 90 * S && !r.no_wait && r.detach);
        assert_string_equal(r.outputs[0], "o");
        assert_string_equal(r.outputs[1], "/p/");
        assert_int_equal(r.n_secrets, 1);
        assert_string_equal(r.secrets[0].name, "A.b");
        assert_int_equal(r.secrets[0].len, 3);
        assert_memory_equal(r.secrets[0].value, "x\0y", 3);
        assert_string_equal(r.registry_username, "u");
        assert_string_equal(r.registry_password, "p");
        assert_string_equal(r.labels[0], "a=1=");
        assert_string_equal(r.labels[1], "b=2");
        assert_null(r.labels[2]);
        assert_int_equal(r.retries, 10);
        assert_int_equal(r.pull, WIRE_PULL_NEVER);
        assert_string_equal(r.engine, "native");
        assert_int_equal(r.limits_given, 0x3ff & ~WIRE_LIMIT_CPU_TIME);
        assert_true(wire_task_request_size(&r) > 100);
        wire_task_request_done(&r);
}

static void test_accepted(void **state)
{
        static const char *const texts[] = {
                "{\"image\":\"b\",\"limits\":{\"timeout\":0}}",
                "{\"image\":\"b\",\"limits\":{\"cpus\":\"1.5\"}}",
                "{\"image\":\"b\",\"limits\":{\"cpus\":\"2\"}}",
                "{\"image\":\"b\",\"limits\":{\"cpus\":1024}}",
                "{\"image\":\"b\",\"limits\":{\"memory\":6291456}}",
                "{\"image\":\"b\",\"limits\":{}}",
                "{\"image\":\"b\",\"limits\":null,\"files\":null,\"env\":null,\"cmd\":null,\"entrypoint\":null}",
                "{\"image\":\"b\",\"user\":\"\"}",
                "{\"image\":\"b\",\"stdin\":\"\"}",
                "{\"image\":\"b\",\"stdin_encoding\":\"base64\"}",
                "{\"image\":\"b\",\"network\":\"none\"}",
                "{\"image\":\"b\",\"network\":\"nat\"}",
                "{\"image\":\"b\",\"on_output_limit\":\"truncate\",\"encoding\":\"auto\"}",
                "{\"image\":\"b\",\"files\":[{\"path\":\"../a\",\"content\":\"\"}]}",
                "{\"image\":\"b\",\"files\":[]}",
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
                struct wire_task_request r = good(texts[i]);

                wire_task_request_done(&r);
        }
}

static void test_cpus_text(void **state)
{
        static const struct {
                const char *text;
                int64_t milli;
        } cases[] = { { "1", 1000 }, { "0.5", 500 }, { "0.01", 10 }, { "1.125", 1125 }, { "12.3", 12300 } };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_free char *text = str_printf("{\"image\":\"b\",\"limits\":{\"cpus\":\"%s\"}}", cases[i].text);
                struct wire_task_request r = good(text);

                assert_int_equal(r.limits.cpu_milli, cases[i].milli);
                wire_task_request_done(&r);
        }
}

/* Each has exactly one fault, at that place. */
static void test_faults(void **state)
{
        static const struct {
                const char *text, *pointer;
        } cases[] = {
                { "[]", "" },
                { "1", "" },
                { "{}", "/image" },
                { "{\"image\":1}", "/image" },
                { "{\"image\":\"\"}", "/image" },
                { "{\"image\":\"a\\u0000\"}", "/image" },
                { "{\"image\":\"b\",\"cmd\":\"x\"}", "/cmd" },
                { "{\"image\":\"b\",\"cmd\":[1]}", "/cmd/0" },
                { "{\"image\":\"b\",\"cmd\":[\"a\",\"\\u0000\"]}", "/cmd/1" },
                { "{\"image\":\"b\",\"entrypoint\":{}}", "/entrypoint" },
                { "{\"image\":\"b\",\"env\":[]}", "/env" },
                { "{\"image\":\"b\",\"env\":{\"A\":1}}", "/env/A" },
                { "{\"image\":\"b\",\"env\":{\"A=\":\"\"}}", "/env/A=" },
                { "{\"image\":\"b\",\"env\":{\"\":\"\"}}", "/env/" },
                { "{\"image\":\"b\",\"env\":{\"A/B~\":null}}", "/env/A~1B~0" },
                { "{\"image\":\"b\",\"workdir\":\"w\"}", "/workdir" },
                { "{\"image\":\"b\",\"workdir\":\"\"}", "/workdir" },
                { "{\"image\":\"b\",\"user\":1}", "/user" },
                { "{\"image\":\"b\",\"stdin\":1}", "/stdin" },
                { "{\"image\":\"b\",\"stdin\":\"?\",\"stdin_encoding\":\"base64\"}", "/stdin" },
                { "{\"image\":\"b\",\"stdin\":\"\",\"stdin_encoding\":\"x\"}", "/stdin_encoding" },
                { "{\"image\":\"b\",\"files\":{}}", "/files" },
                { "{\"image\":\"b\",\"files\":[1]}", "/files/0" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"a\"}]}", "/files/0/content" },
                { "{\"image\":\"b\",\"files\":[{\"content\":\"a\"}]}", "/files/0/path" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"\",\"content\":\"a\"}]}", "/files/0/path" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"/\",\"content\":\"a\"}]}", "/files/0/path" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"..\",\"content\":\"a\"}]}", "/files/0/path" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"a/.\",\"content\":\"a\"}]}", "/files/0/path" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"a\",\"content\":\"a\",\"mode\":\"8\"}]}", "/files/0/mode" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"a\",\"content\":\"a\",\"mode\":\"\"}]}", "/files/0/mode" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"a\",\"content\":\"a\",\"mode\":\"17777\"}]}",
                  "/files/0/mode" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"a\",\"content\":\"a\",\"mode\":4096}]}", "/files/0/mode" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"a\",\"content\":\"a\",\"mode\":1.5}]}", "/files/0/mode" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"a\",\"content\":\"a\",\"encoding\":\"tar+base64\"}]}",
                  "/files/0/content" },
                { "{\"image\":\"b\",\"files\":[{\"path\":\"a\",\"content\":\"a\",\"x\":1}]}", "/files/0/x" },
                { "{\"image\":\"b\",\"limits\":1}", "/limits" },
                { "{\"image\":\"b\",\"limits\":{\"memory\":\"6m\",\"x\":1}}", "/limits/x" },
                { "{\"image\":\"b\",\"limits\":{\"memory\":6291455}}", "/limits/memory" },
                { "{\"image\":\"b\",\"limits\":{\"memory\":\"17t\"}}", "/limits/memory" },
                { "{\"image\":\"b\",\"limits\":{\"memory\":1.5}}", "/limits/memory" },
                { "{\"image\":\"b\",\"limits\":{\"disk\":65535}}", "/limits/disk" },
                { "{\"image\":\"b\",\"limits\":{\"shm\":0}}", "/limits/shm" },
                { "{\"image\":\"b\",\"limits\":{\"output\":\"257m\"}}", "/limits/output" },
                { "{\"image\":\"b\",\"limits\":{\"output\":-1}}", "/limits/output" },
                { "{\"image\":\"b\",\"limits\":{\"pids\":0}}", "/limits/pids" },
                { "{\"image\":\"b\",\"limits\":{\"pids\":\"5\"}}", "/limits/pids" },
                { "{\"image\":\"b\",\"limits\":{\"cpus\":0.0005}}", "/limits/cpus" },
                { "{\"image\":\"b\",\"limits\":{\"cpus\":0}}", "/limits/cpus" },
                { "{\"image\":\"b\",\"limits\":{\"cpus\":1025}}", "/limits/cpus" },
                { "{\"image\":\"b\",\"limits\":{\"cpus\":\"1.\"}}", "/limits/cpus" },
                { "{\"image\":\"b\",\"limits\":{\"cpus\":\"1.2345\"}}", "/limits/cpus" },
                { "{\"image\":\"b\",\"limits\":{\"cpus\":\"-1\"}}", "/limits/cpus" },
                { "{\"image\":\"b\",\"limits\":{\"cpus\":\"99999999999999999999\"}}", "/limits/cpus" },
                { "{\"image\":\"b\",\"limits\":{\"timeout\":-1}}", "/limits/timeout" },
                { "{\"image\":\"b\",\"limits\":{\"timeout\":0.0001}}", "/limits/timeout" },
                { "{\"image\":\"b\",\"limits\":{\"timeout\":\"9000h\"}}", "/limits/timeout" },
                { "{\"image\":\"b\",\"limits\":{\"queue_timeout\":0}}", "/limits/queue_timeout" },
                { "{\"image\":\"b\",\"limits\":{\"grace\":\"2h\"}}", "/limits/grace" },
                { "{\"image\":\"b\",\"limits\":{\"cpu_time\":0}}", "/limits/cpu_time" },
                { "{\"image\":\"b\",\"on_output_limit\":\"x\"}", "/on_output_limit" },
                { "{\"image\":\"b\",\"network\":\"host\"}", "/network" },
                { "{\"image\":\"b\",\"init\":1}", "/init" },
                { "{\"image\":\"b\",\"encoding\":\"utf-8\"}", "/encoding" },
                { "{\"image\":\"b\",\"wait\":null}", "/wait" },
                { "{\"image\":\"b\",\"wait\":-1}", "/wait" },
                { "{\"image\":\"b\",\"wait\":\"soon\"}", "/wait" },
                { "{\"image\":\"b\",\"wait\":\"25h\"}", "/wait" },
                { "{\"image\":\"b\",\"on_disconnect\":\"x\"}", "/on_disconnect" },
                { "{\"image\":\"b\",\"outputs\":[\"\"]}", "/outputs/0" },
                { "{\"image\":\"b\",\"outputs\":\"a\"}", "/outputs" },
                { "{\"image\":\"b\",\"secrets\":{\"a/b\":\"x\"}}", "/secrets/a~1b" },
                { "{\"image\":\"b\",\"secrets\":{\"..\":\"x\"}}", "/secrets/.." },
                { "{\"image\":\"b\",\"secrets\":{\"a\":1}}", "/secrets/a" },
                { "{\"image\":\"b\",\"secrets\":[]}", "/secrets" },
                { "{\"image\":\"b\",\"registry_auth\":{\"username\":\"u\"}}", "/registry_auth/password" },
                { "{\"image\":\"b\",\"registry_auth\":{\"username\":\"u\",\"password\":\"\"}}",
                  "/registry_auth/password" },
                { "{\"image\":\"b\",\"labels\":{\"a=b\":\"x\"}}", "/labels/a=b" },
                { "{\"image\":\"b\",\"labels\":{\"\":\"x\"}}", "/labels/" },
                { "{\"image\":\"b\",\"labels\":{\"a\":1}}", "/labels/a" },
                { "{\"image\":\"b\",\"retries\":11}", "/retries" },
                { "{\"image\":\"b\",\"pull\":\"often\"}", "/pull" },
                { "{\"image\":\"b\",\"engine\":\"\"}", "/engine" },
                { "{\"image\":\"b\",\"colour\":\"red\"}", "/colour" },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct wire_task_request r = { .image = NULL };
                struct json_faults faults = { 0 };

                assert_int_equal(read_text(cases[i].text, &r, &faults), -EINVAL);
                if (faults.len != 1 || strcmp(faults.items[0].pointer, cases[i].pointer) != 0)
                        print_error("%s: %zu faults, %s\n", cases[i].text, faults.len,
                                    faults.len ? faults.items[0].pointer : "");
                assert_int_equal(faults.len, 1);
                assert_string_equal(faults.items[0].pointer, cases[i].pointer);
                assert_null(r.image);
                json_faults_done(&faults);
        }
}

static void test_later_members(void **state)
{
        static const char *const names[] = { "callback_url", "profile", "tty", "priority" };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(names); i++) {
                auto_free char *text = str_printf("{\"image\":\"b\",\"%s\":1}", names[i]);
                struct wire_task_request r = { .image = NULL };
                struct json_faults faults = { 0 };

                assert_int_equal(read_text(text, &r, &faults), -EINVAL);
                assert_int_equal(faults.len, 1);
                assert_string_equal(faults.items[0].pointer + 1, names[i]);
                assert_non_null(strstr(faults.items[0].detail, "not available yet"));
                json_faults_done(&faults);
        }
}

static void test_all_faults_at_once(void **state)
{
        struct wire_task_request r = { .image = NULL };
        struct json_faults faults = { 0 };

        (void)state;
        assert_int_equal(
                read_text("{\"cmd\":1,\"env\":{\"A\":1,\"B\":2},\"limits\":{\"memory\":1},\"x\":1}", &r, &faults),
                -EINVAL);
        assert_int_equal(faults.len, 6);
        json_faults_done(&faults);
}

/* {"image":"b","<name>":[<n strings of len bytes>]} */
static int read_array(const char *name, size_t n, size_t len, struct json_faults *faults)
{
        auto_json body = json_object();
        json_t *array = json_array();
        auto_free char *text = calloc(1, len + 1);
        struct wire_task_request r = { .image = NULL };
        int e;

        memset(text, 'a', len);
        for (size_t i = 0; i < n; i++)
                assert_int_equal(json_array_append_new(array, json_string(text)), 0);
        assert_int_equal(json_object_set_new(body, "image", json_string("b")), 0);
        assert_int_equal(json_object_set_new(body, name, array), 0);
        e = wire_task_request_read(body, &r, faults);
        wire_task_request_done(&r);
        return e;
}

static void test_bounds(void **state)
{
        static const struct {
                size_t n, len;
                const char *pointer; /* NULL: accepted */
        } cases[] = {
                { WIRE_ARGV_MAX, 1, NULL },        { WIRE_ARGV_MAX + 1, 1, "/cmd" }, { 1, WIRE_ARG_MAX, NULL },
                { 1, WIRE_ARG_MAX + 1, "/cmd/0" }, { 16, WIRE_ARG_MAX, NULL },       { 17, WIRE_ARG_MAX, "" },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct json_faults faults = { 0 };

                assert_int_equal(read_array("cmd", cases[i].n, cases[i].len, &faults), cases[i].pointer ? -EINVAL : 0);
                assert_int_equal(faults.len, cases[i].pointer ? 1 : 0);
                if (cases[i].pointer)
                        assert_string_equal(faults.items[0].pointer, cases[i].pointer);
                json_faults_done(&faults);
        }
}

static void assert_same(const struct wire_task_request *a, const struct wire_task_request *b)
{
        auto_str x = STR_INIT, y = STR_INIT;

        assert_int_equal(wire_task_request_write(a, &x), 0);
        assert_int_equal(wire_task_request_write(b, &y), 0);
        assert_string_equal(x.data, y.data);
}

/* What is written reads back as the same, and what is the default is left out. */
static void test_write(void **state)
{
        static const char *const texts[] = {
                "{\"image\":\"b\"}",
                "{\"image\":\"b\",\"cmd\":[\"a\",\"b\"],\"entrypoint\":[],\"env\":{\"A\":\"=1=\"}}",
                "{\"image\":\"b\",\"workdir\":\"/x\",\"user\":\"1:2\",\"stdin\":\"text\"}",
                "{\"image\":\"b\",\"stdin\":\"/w==\",\"stdin_encoding\":\"base64\"}",
                "{\"image\":\"b\",\"on_output_limit\":\"kill\",\"network\":\"none\",\"init\":true,\"encoding\":"
                "\"base64\"}",
                "{\"image\":\"b\",\"files\":[{\"path\":\"a\",\"mode\":\"0755\",\"content\":\"x\"},"
                "{\"path\":\"b\",\"mode\":\"0644\",\"content\":\"/w==\",\"encoding\":\"base64\"}]}",
                "{\"image\":\"b\",\"limits\":{\"timeout\":\"1500000000ns\",\"queue_timeout\":5,\"grace\":1,"
                "\"memory\":67108864,\"disk\":1048576,\"shm\":1048576,\"output\":5,\"pids\":5,\"cpus\":0.25}}",
                "{\"image\":\"b\",\"limits\":{\"cpu_time\":2},\"wait\":false,\"on_disconnect\":\"detach\",\"retries\":"
                "3,"
                "\"pull\":\"always\",\"engine\":\"e\",\"labels\":{\"a\":\"b=\",\"c\":\"\"},\"outputs\":[\"a\"]}",
                "{\"image\":\"b\",\"wait\":5,\"secrets\":{\"A\":\"x\",\"B\":\"\"},"
                "\"registry_auth\":{\"username\":\"u\",\"password\":\"p\"}}",
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
                struct wire_task_request r = good(texts[i]), again;
                auto_str out = STR_INIT;

                assert_int_equal(wire_task_request_write(&r, &out), 0);
                again = good(out.data);
                assert_same(&r, &again);
                if (i == 0)
                        assert_string_equal(out.data, texts[0]);
                wire_task_request_done(&r);
                wire_task_request_done(&again);
        }
}

struct tar_row {
        struct tar_member member;
        const char *content;
};

static int to_str(const void *bytes, size_t len, void *data)
{
        return str_add(data, bytes, len);
}

static void tar_of(const struct tar_row *rows, size_t n, struct str *out)
{
        struct tar_writer w = { .fn = to_str, .data = out };

        for (size_t i = 0; i < n; i++) {
                struct tar_member m = rows[i].member;

                m.size = rows[i].content ? strlen(rows[i].content) : 0;
                assert_int_equal(tar_write_member(&w, &m), 0);
                if (m.size)
                        assert_int_equal(tar_write_content(&w, rows[i].content, m.size), 0);
        }
        assert_int_equal(tar_write_end(&w), 0);
}

static void test_members(void **state)
{
        static const struct tar_row rows[] = {
                { { .kind = TAR_KIND_DIRECTORY, .path = ".", .target = "", .mode = 0700 }, NULL },
                { { .kind = TAR_KIND_FILE, .path = "a/f", .target = "", .mode = 0640 }, "text" },
                { { .kind = TAR_KIND_HARDLINK, .path = "a/g", .target = "a/f", .mode = 0 }, NULL },
                { { .kind = TAR_KIND_SYMLINK, .path = "l", .target = "../x", .mode = 0777 }, NULL },
                { { .kind = TAR_KIND_FILE, .path = "e", .target = "", .mode = 0600 }, NULL },
        };
        char dir[] = "/srv/";
        auto_str tar = STR_INIT;
        struct wire_members m = { .items = NULL };
        struct wire_file f = { .path = dir };

        (void)state;
        tar_of(rows, ARRAY_LEN(rows), &tar);
        f.content = tar.data;
        f.len = tar.len;
        assert_int_equal(wire_members_read(&f, 100, &m, NULL), 0);
        assert_int_equal(m.len, 5);
        assert_string_equal(m.items[0].path, "/srv");
        assert_int_equal(m.items[0].type, WIRE_MEMBER_DIRECTORY);
        assert_string_equal(m.items[1].path, "/srv/a/f");
        assert_int_equal(m.items[1].mode, 0640);
        assert_int_equal(m.items[1].len, 4);
        assert_memory_equal(m.items[1].data, "text", 4);
        assert_string_equal(m.items[2].path, "/srv/a/g");
        assert_memory_equal(m.items[2].data, "text", 4);
        assert_int_equal(m.items[3].type, WIRE_MEMBER_SYMLINK);
        assert_string_equal(m.items[3].target, "../x");
        assert_int_equal(m.items[4].len, 0);
        wire_members_done(&m);
        assert_int_equal(wire_members_read(&f, 4, &m, NULL), -E2BIG);
        wire_members_done(&m);
        f.len -= 1200;
        assert_int_equal(wire_members_read(&f, 100, &m, NULL), -EBADMSG);
        wire_members_done(&m);
}

static void test_members_refused(void **state)
{
        static const struct tar_row rows[] = {
                { { .kind = TAR_KIND_FILE, .path = "../f", .target = "" }, NULL },
                { { .kind = TAR_KIND_FILE, .path = "/f", .target = "" }, NULL },
                { { .kind = TAR_KIND_FIFO, .path = "p", .target = "" }, NULL },
                { { .kind = TAR_KIND_HARDLINK, .path = "p", .target = "none" }, NULL },
                { { .kind = TAR_KIND_HARDLINK, .path = "p", .target = "../x" }, NULL },
        };
        char dir[] = "d";

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                struct wire_members m = { .items = NULL };
                struct wire_file f = { .path = dir };
                auto_str tar = STR_INIT;

                tar_of(&rows[i], 1, &tar);
                f.content = tar.data;
                f.len = tar.len;
                assert_int_equal(wire_members_read(&f, 100, &m, NULL), -EBADMSG);
                wire_members_done(&m);
        }
}

static void test_tar_in_a_request(void **state)
{
        static const struct tar_row rows[] = { { { .kind = TAR_KIND_FILE, .path = "f", .target = "" }, "x" } };
        auto_str tar = STR_INIT, text = STR_INIT, base64 = STR_INIT, again = STR_INIT;
        struct wire_task_request r;

        (void)state;
        tar_of(rows, 1, &tar);
        assert_int_equal(base64_encode(&base64, tar.data, tar.len), 0);
        assert_int_equal(str_addf(&text,
                                  "{\"image\":\"b\",\"files\":[{\"path\":\".\",\"content\":\"%s\","
                                  "\"encoding\":\"tar+base64\"}]}",
                                  base64.data),
                         0);
        r = good(text.data);
        assert_true(r.files[0].tar);
        assert_int_equal(r.files[0].len, tar.len);
        assert_int_equal(wire_task_request_write(&r, &again), 0);
        assert_string_equal(again.data, text.data);
        wire_task_request_done(&r);
}

static void test_write_bad_text(void **state)
{
        static char bad[] = "\xff", *argv[] = { bad, NULL };
        struct wire_task_request r = { .image = bad };
        auto_str out = STR_INIT;

        (void)state;
        assert_int_equal(wire_task_request_write(&r, &out), -EILSEQ);
        r = (struct wire_task_request){ .cmd = argv };
        assert_int_equal(wire_task_request_write(&r, &out), -EILSEQ);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_smallest),
                cmocka_unit_test(test_every_member),
                cmocka_unit_test(test_accepted),
                cmocka_unit_test(test_cpus_text),
                cmocka_unit_test(test_faults),
                cmocka_unit_test(test_later_members),
                cmocka_unit_test(test_all_faults_at_once),
                cmocka_unit_test(test_bounds),
                cmocka_unit_test(test_write),
                cmocka_unit_test(test_members),
                cmocka_unit_test(test_members_refused),
                cmocka_unit_test(test_tar_in_a_request),
                cmocka_unit_test(test_write_bad_text),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
