#include "wire/task.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char ref[] = "docker.io/library/busybox:1.36", digest[] = "sha256:abc";

static struct wire_task ended(void)
{
        struct wire_task t = {
                .id = "01j0000000000000000000000a",
                .status = WIRE_EXITED,
                .out = { "hello\n", "" },
                .out_len = { 6, 0 },
                .out_total = { 6, 0 },
                .has_output = true,
                .wall_ns = 1200000,
                .cpu_ns = 800499,
                .memory_peak = 1048576,
                .queued_ns = 100000,
                .start_ns = 700000,
                .run_ns = 500000,
                .created_ms = UINT64_C(1767225600000),
                .started_ms = UINT64_C(1767225600001),
                .finished_ms = UINT64_C(1767225600002),
                .image_ref = ref,
                .image_digest = digest,
                .engine = "native",
                .attempts = 1,
        };

        wire_limits_default(&t.limits);
        return t;
}

#define TAIL                                                                                                           \
        "\"usage\":{\"wall_ms\":1.2,\"cpu_ms\":0.8,\"memory_peak\":1048576},"                                          \
        "\"timings\":{\"queued_ms\":0.1,\"pull_ms\":0,\"start_ms\":0.7,\"run_ms\":0.5},"                               \
        "\"created_at\":\"2026-01-01T00:00:00.000Z\",\"started_at\":\"2026-01-01T00:00:00.001Z\","                     \
        "\"finished_at\":\"2026-01-01T00:00:00.002Z\","                                                                \
        "\"image\":{\"ref\":\"docker.io/library/busybox:1.36\",\"digest\":\"sha256:abc\"},\"engine\":\"native\","      \
        "\"limits\":{\"timeout\":60,\"queue_timeout\":60,\"memory\":536870912,\"cpus\":1,\"pids\":512,"                \
        "\"output\":1048576,\"disk\":268435456,\"shm\":67108864,\"grace\":0,\"cpu_time\":null},\"attempts\":1,"        \
        "\"labels\":{}}"

static void assert_written(const struct wire_task *t, const char *expected)
{
        auto_str out = STR_INIT;
        auto_json parsed = NULL;

        assert_int_equal(wire_task_write(t, &out), 0);
        assert_string_equal(out.data, expected);
        assert_int_equal(json_read(out.data, out.len, &parsed, NULL), 0);
}

static void test_exited(void **state)
{
        struct wire_task t = ended();

        (void)state;
        assert_written(&t,
                       "{\"id\":\"01j0000000000000000000000a\",\"status\":\"exited\",\"exit_code\":0,\"signal\":null,"
                       "\"reason\":null,\"stdout\":\"hello\\n\",\"stderr\":\"\",\"stdout_encoding\":\"utf-8\","
                       "\"stderr_encoding\":\"utf-8\",\"stdout_bytes\":6,\"stderr_bytes\":0,"
                       "\"truncated\":false,\"outputs\":[]," TAIL);
}

static void test_without_streams(void **state)
{
        struct wire_task t = ended();

        (void)state;
        t.has_output = false;
        assert_written(&t,
                       "{\"id\":\"01j0000000000000000000000a\",\"status\":\"exited\",\"exit_code\":0,\"signal\":null,"
                       "\"reason\":null,\"stdout_bytes\":6,\"stderr_bytes\":0,\"truncated\":false," TAIL);
}

static json_t *parsed(const struct wire_task *t)
{
        auto_str out = STR_INIT;
        json_t *v = NULL;

        assert_int_equal(wire_task_write(t, &out), 0);
        assert_int_equal(json_read(out.data, out.len, &v, NULL), 0);
        return v;
}

static const char *text_of(const json_t *v, const char *name)
{
        return json_string_value(json_object_get(v, name));
}

/* The rows of the table of events: status, exit_code, signal, reason. */
static void test_outcomes(void **state)
{
        static const struct {
                enum wire_status status;
                int exit_code, signal;
                enum wire_reason reason;
                const char *signal_name, *reason_name;
        } rows[] = {
                { WIRE_EXITED, 3, 0, WIRE_REASON_NONE, NULL, NULL },
                { WIRE_EXITED, 139, SIGSEGV, WIRE_REASON_SIGNAL, "SIGSEGV", "signal" },
                { WIRE_FAILED, 127, 0, WIRE_REASON_COMMAND_NOT_FOUND, NULL, "command_not_found" },
                { WIRE_FAILED, 126, 0, WIRE_REASON_COMMAND_NOT_EXECUTABLE, NULL, "command_not_executable" },
                { WIRE_KILLED, 137, SIGKILL, WIRE_REASON_TIMEOUT, "SIGKILL", "timeout" },
                { WIRE_KILLED, 137, SIGKILL, WIRE_REASON_CPU_TIME, "SIGKILL", "cpu_time" },
                { WIRE_KILLED, 137, SIGKILL, WIRE_REASON_OOM, "SIGKILL", "oom" },
                { WIRE_KILLED, 137, SIGKILL, WIRE_REASON_OUTPUT_LIMIT, "SIGKILL", "output_limit" },
                { WIRE_KILLED, 143, SIGTERM, WIRE_REASON_CANCELLED, "SIGTERM", "cancelled" },
                { WIRE_EXITED, 1, 0, WIRE_REASON_DISK_LIMIT, NULL, "disk_limit" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_IMAGE_NOT_FOUND, NULL, "image_not_found" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_IMAGE_UNAUTHORIZED, NULL, "image_unauthorized" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_REGISTRY_ERROR, NULL, "registry_error" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_REGISTRY_BUSY, NULL, "registry_busy" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_IMAGE_INVALID, NULL, "image_invalid" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_IMAGE_UNSUPPORTED, NULL, "image_unsupported" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_IMAGE_UNTRUSTED, NULL, "image_untrusted" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_IMAGE_BROKEN, NULL, "image_broken" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_NO_SPACE, NULL, "no_space" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_START_ERROR, NULL, "start_error" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_QUEUE_TIMEOUT, NULL, "queue_timeout" },
                { WIRE_FAILED, -1, 0, WIRE_REASON_NODE_LOST, NULL, "node_lost" },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                struct wire_task t = ended();
                auto_json v = NULL;

                t.status = rows[i].status;
                t.exit_code = rows[i].exit_code;
                t.signal = rows[i].signal;
                t.reason = rows[i].reason;
                v = parsed(&t);
                assert_string_equal(text_of(v, "status"), wire_status_names[rows[i].status]);
                if (rows[i].exit_code < 0)
                        assert_true(json_is_null(json_object_get(v, "exit_code")));
                else
                        assert_int_equal(json_integer_value(json_object_get(v, "exit_code")), rows[i].exit_code);
                assert_true(str_eq(text_of(v, "signal"), rows[i].signal_name));
                assert_true(str_eq(text_of(v, "reason"), rows[i].reason_name));
                assert_true(json_object_get(v, "signal") && json_object_get(v, "reason"));
        }
}

static void test_nulls(void **state)
{
        struct wire_task t = ended();
        auto_json v = NULL;
        json_t *usage, *timings;

        (void)state;
        t.status = WIRE_QUEUED;
        t.exit_code = -1;
        t.has_output = false;
        t.wall_ns = t.cpu_ns = t.memory_peak = t.queued_ns = t.pull_ns = t.start_ns = t.run_ns = -1;
        t.started_ms = t.finished_ms = 0;
        t.image_digest = NULL;
        t.engine = NULL;
        t.detail = (char *)(uintptr_t) "why \"so\"";
        t.limits.timeout_ns = 0;
        t.limits.grace_ns = 1500000001;
        t.limits.cpu_milli = 1125;
        v = parsed(&t);
        usage = json_object_get(v, "usage");
        timings = json_object_get(v, "timings");
        assert_true(json_is_null(json_object_get(usage, "wall_ms")) && json_is_null(json_object_get(usage, "cpu_ms")));
        assert_true(json_is_null(json_object_get(usage, "memory_peak")));
        assert_true(json_is_null(json_object_get(timings, "run_ms")));
        assert_true(json_is_null(json_object_get(v, "started_at")) && json_is_null(json_object_get(v, "engine")));
        assert_true(json_is_null(json_object_get(json_object_get(v, "image"), "digest")));
        assert_true(json_is_null(json_object_get(json_object_get(v, "limits"), "timeout")));
        assert_float_equal(json_real_value(json_object_get(json_object_get(v, "limits"), "grace")), 1.500000001, 1e-12);
        assert_float_equal(json_real_value(json_object_get(json_object_get(v, "limits"), "cpus")), 1.125, 1e-12);
        assert_string_equal(text_of(v, "detail"), "why \"so\"");
}

static void test_encodings(void **state)
{
        static const struct {
                const char *data;
                size_t len;
                enum wire_encoding asked;
                const char *encoding, *text;
        } cases[] = {
                { "", 0, WIRE_ENC_AUTO, "utf-8", "" },
                { "a\tb\x1b", 4, WIRE_ENC_AUTO, "utf-8", "a\tb\x1b" },
                { "\xc3\xa4", 2, WIRE_ENC_AUTO, "utf-8", "\xc3\xa4" },
                { "\xc3", 1, WIRE_ENC_AUTO, "base64", "ww==" },
                { "a\0b", 3, WIRE_ENC_AUTO, "base64", "YQBi" },
                { "abc", 3, WIRE_ENC_BASE64, "base64", "YWJj" },
                { "", 0, WIRE_ENC_BASE64, "base64", "" },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                struct wire_task t = ended();
                auto_json v = NULL;

                t.out[1] = cases[i].data;
                t.out_len[1] = cases[i].len;
                t.encoding = cases[i].asked;
                v = parsed(&t);
                assert_string_equal(text_of(v, "stderr"), cases[i].text);
                assert_string_equal(text_of(v, "stderr_encoding"), cases[i].encoding);
        }
}

/* A stored document with its streams is what was answered at its end. */
static void test_add_output(void **state)
{
        (void)state;
        for (int asked = WIRE_ENC_AUTO; asked <= WIRE_ENC_BASE64; asked++) {
                struct wire_task t = ended();
                auto_str whole = STR_INIT, stored = STR_INIT, again = STR_INIT;

                t.out[1] = "\xff";
                t.out_len[1] = 1;
                t.encoding = (enum wire_encoding)asked;
                t.detail = (char *)(uintptr_t) "\"stdout_bytes\":1";
                assert_int_equal(wire_task_write(&t, &whole), 0);
                t.has_output = false;
                assert_int_equal(wire_task_write(&t, &stored), 0);
                assert_int_equal(wire_task_add_output(stored.data, stored.len, t.out, t.out_len, NULL, &again), 0);
                assert_string_equal(again.data, whole.data);
        }
}

static char tar[] = "t\xff", text[] = "hi", target[] = "../x";
static char path_f[] = "f", path_d[] = "/d", path_l[] = "l", path_n[] = "n";
static struct wire_output outputs[] = {
        { .path = path_f, .mode = 0644, .data = text, .len = 2 },
        { .path = path_d, .type = WIRE_OUTPUT_DIRECTORY, .mode = 0755, .data = tar, .len = 2 },
        { .path = path_l, .type = WIRE_OUTPUT_SYMLINK, .mode = 0777, .data = target, .len = 4 },
        { .path = path_n, .error = "not_found" },
};

#define OUTPUTS                                                                                                        \
        "[{\"path\":\"f\",\"type\":\"file\",\"mode\":\"0644\",\"size\":2,\"encoding\":\"utf-8\",\"content\":\"hi\"},"  \
        "{\"path\":\"/d\",\"type\":\"directory\",\"mode\":\"0755\",\"size\":2,\"encoding\":\"tar+base64\","            \
        "\"content\":\"dP8=\"},"                                                                                       \
        "{\"path\":\"l\",\"type\":\"symlink\",\"mode\":\"0777\",\"size\":4,\"encoding\":\"utf-8\",\"content\":\"../"   \
        "x\"},"                                                                                                        \
        "{\"path\":\"n\",\"error\":\"not_found\"}]"

static void test_outputs(void **state)
{
        auto_str list = STR_INIT, whole = STR_INIT, stored = STR_INIT, again = STR_INIT;
        char label[] = "\"usage\":{\"wall_ms\":=a=b", other[] = "z=";
        char *labels[] = { label, other, NULL };
        struct wire_task t = ended();

        (void)state;
        t.outputs = outputs;
        t.n_outputs = ARRAY_LEN(outputs);
        t.labels = labels;
        assert_int_equal(wire_outputs_write(outputs, ARRAY_LEN(outputs), &list), 0);
        assert_string_equal(list.data, OUTPUTS);
        assert_int_equal(wire_task_write(&t, &whole), 0);
        assert_non_null(strstr(whole.data, ",\"outputs\":" OUTPUTS ",\"usage\""));
        assert_non_null(strstr(whole.data, "\"labels\":{\"\\\"usage\\\":{\\\"wall_ms\\\":\":\"a=b\",\"z\":\"\"}}"));
        t.has_output = false;
        assert_int_equal(wire_task_write(&t, &stored), 0);
        assert_null(strstr(stored.data, "outputs"));
        assert_int_equal(wire_task_add_output(stored.data, stored.len, t.out, t.out_len, &list, &again), 0);
        assert_string_equal(again.data, whole.data);
}

/* Documents of the version before have their empty outputs already. */
static void test_add_output_to_an_old_document(void **state)
{
        static const char old[] = "{\"stdout_bytes\":1,\"stderr_bytes\":0,\"truncated\":false,\"outputs\":[],"
                                  "\"usage\":{\"wall_ms\":1}}";
        const void *const data[2] = { "a", "" };
        const size_t len[2] = { 1, 0 };
        auto_str out = STR_INIT;
        auto_json v = NULL;

        (void)state;
        assert_int_equal(wire_task_add_output(old, strlen(old), data, len, NULL, &out), 0);
        assert_int_equal(json_read(out.data, out.len, &v, NULL), 0);
        assert_string_equal(text_of(v, "stdout"), "a");
        assert_int_equal(json_array_size(json_object_get(v, "outputs")), 0);
}

/* What is written reads back as the same. */
static void test_read(void **state)
{
        char label[] = "a=b=c";
        char *labels[] = { label, NULL };
        struct wire_task t = ended(), back;
        auto_str text_out = STR_INIT, again = STR_INIT;
        auto_json v = NULL;
        struct err err = ERR_INIT;

        (void)state;
        t.outputs = outputs;
        t.n_outputs = ARRAY_LEN(outputs);
        t.labels = labels;
        t.status = WIRE_KILLED;
        t.exit_code = 137;
        t.signal = SIGKILL;
        t.reason = WIRE_REASON_CPU_TIME;
        t.limits.cpu_time_ns = 1500000000;
        t.out[1] = "\xff\0";
        t.out_len[1] = 2;
        assert_int_equal(wire_task_write(&t, &text_out), 0);
        assert_int_equal(json_read(text_out.data, text_out.len, &v, NULL), 0);
        if (wire_task_read(v, &back, &err) < 0)
                fail_msg("%s", err.text);
        assert_int_equal(back.cpu_ns, 800000);
        assert_int_equal(wire_task_write(&back, &again), 0);
        assert_string_equal(again.data, text_out.data);
        wire_task_done(&back);
}

static void test_read_list(void **state)
{
        struct wire_task t = ended();
        struct wire_task_list l;
        auto_str one = STR_INIT;
        auto_free char *list = NULL;
        auto_json v = NULL;

        (void)state;
        t.has_output = false;
        assert_int_equal(wire_task_write(&t, &one), 0);
        list = str_printf("{\"tasks\":[%s,%s],\"next_cursor\":\"c\"}", one.data, one.data);
        assert_int_equal(json_read(list, strlen(list), &v, NULL), 0);
        assert_int_equal(wire_task_list_read(v, &l, NULL), 0);
        assert_int_equal(l.n, 2);
        assert_string_equal(l.next_cursor, "c");
        assert_string_equal(l.tasks[1].image_ref, "docker.io/library/busybox:1.36");
        assert_false(l.tasks[1].has_output);
        wire_task_list_done(&l);
}

static void test_read_odd(void **state)
{
        static const char *const odd[] = {
                "[]",
                "{}",
                "{\"id\":\"a\"}",
                "{\"id\":1,\"status\":\"exited\"}",
                "{\"id\":\"a\",\"status\":\"odd\"}",
                "{\"id\":\"a\",\"status\":\"exited\",\"exit_code\":\"0\"}",
                "{\"id\":\"a\",\"status\":\"exited\",\"created_at\":\"yesterday\"}",
                "{\"id\":\"a\",\"status\":\"exited\",\"stdout\":\"%\",\"stdout_encoding\":\"base64\"}",
                "{\"id\":\"a\",\"status\":\"exited\",\"signal\":\"SIGODD\"}",
                "{\"id\":\"a\",\"status\":\"exited\",\"labels\":{\"a\":1}}",
                "{\"id\":\"a\",\"status\":\"exited\",\"outputs\":[{}]}",
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
                struct wire_task t;
                auto_json v = NULL;

                assert_int_equal(json_read(odd[i], strlen(odd[i]), &v, NULL), 0);
                assert_int_equal(wire_task_read(v, &t, NULL), -EINVAL);
        }
}

static void test_add_output_elsewhere(void **state)
{
        const void *const data[2] = { "a", "b" };
        const size_t len[2] = { 1, 1 };
        auto_str out = STR_INIT;

        (void)state;
        assert_int_equal(wire_task_add_output("{}", 2, data, len, NULL, &out), 0);
        assert_string_equal(out.data, "{}");
}

static void test_signals(void **state)
{
        char name[16];

        (void)state;
        assert_string_equal(wire_signal_name(9, name), "SIGKILL");
        assert_string_equal(wire_signal_name(SIGRTMIN, name), "SIGRTMIN");
        assert_string_equal(wire_signal_name(SIGRTMIN + 1, name), "SIGRTMIN+1");
        assert_string_equal(wire_signal_name(200, name), "SIG200");
        assert_int_equal(wire_signal_parse("KILL"), 9);
        assert_int_equal(wire_signal_parse("SIGKILL"), 9);
        assert_int_equal(wire_signal_parse("9"), 9);
        assert_int_equal(wire_signal_parse("RTMIN"), SIGRTMIN);
        assert_int_equal(wire_signal_parse("SIGRTMAX-1"), SIGRTMAX - 1);
        assert_int_equal(wire_signal_parse("SIGRTMIN+1"), SIGRTMIN + 1);
        assert_int_equal(wire_signal_parse("0"), -EINVAL);
        assert_int_equal(wire_signal_parse("65"), -EINVAL);
        assert_int_equal(wire_signal_parse("kill"), -EINVAL);
        assert_int_equal(wire_signal_parse("SIG9"), -EINVAL);
        assert_int_equal(wire_signal_parse("RTMIN+99"), -EINVAL);
        assert_int_equal(wire_signal_parse(""), -EINVAL);
        for (int i = 1; i < 32; i++)
                assert_int_equal(wire_signal_parse(wire_signal_name(i, name)), i);
}

static void test_problem(void **state)
{
        struct json_faults faults = { 0 };
        auto_str out = STR_INIT;

        (void)state;
        assert_int_equal(wire_problem_write(&out, 404, "not_found", "Not found", NULL, NULL, NULL, &faults), 0);
        assert_string_equal(out.data,
                            "{\"type\":\"urn:mayfly:problem:not_found\",\"title\":\"Not found\",\"status\":404}");
        str_clear(&out);
        json_faults_add(&faults, "/a", "must be \"b\"");
        json_faults_add(&faults, "", "bad \xff");
        assert_int_equal(wire_problem_write(&out, 400, "bad_request", "Bad request", "it is", "r1", "t1", &faults), 0);
        assert_string_equal(
                out.data, "{\"type\":\"urn:mayfly:problem:bad_request\",\"title\":\"Bad request\",\"status\":400,"
                          "\"detail\":\"it is\",\"request_id\":\"r1\",\"task_id\":\"t1\",\"errors\":["
                          "{\"pointer\":\"/a\",\"detail\":\"must be \\\"b\\\"\"},{\"pointer\":\"\",\"detail\":\"\"}]}");
        json_faults_done(&faults);
}

/* Piece by piece it is the same text. */
static void test_in_pieces(void **state)
{
        static const size_t sizes[] = { 0, 1, 3, WIRE_PIECE - 1, WIRE_PIECE, WIRE_PIECE + 1, 5 * WIRE_PIECE + 2 };
        const struct str brought = { .data = (char *)"[1]", .len = 3 };
        char *data = malloc(6 * WIRE_PIECE);

        (void)state;
        assert_non_null(data);
        for (size_t i = 0; i < 4 * ARRAY_LEN(sizes); i++) {
                size_t len = sizes[i % ARRAY_LEN(sizes)];
                struct wire_task t = {
                        .id = "x",
                        .exit_code = 1,
                        .has_output = true,
                        .out = { data, "e\n\"" },
                        .out_len = { len, 3 },
                        .encoding = i / ARRAY_LEN(sizes) == 3 ? WIRE_ENC_BASE64 : WIRE_ENC_AUTO,
                };
                auto_str whole = STR_INIT, pieces = STR_INIT, document = STR_INIT;
                struct wire_text made;

                for (size_t k = 0; k < len; k++) /* ASCII, what is escaped, four bytes each, no text */
                        data[k] = i < ARRAY_LEN(sizes) || (i < 2 * ARRAY_LEN(sizes) && k >= len / 4 * 4) ? 'a'
                                  : i < 2 * ARRAY_LEN(sizes) ? "\xf0\x9f\x98\x80"[k % 4]
                                                             : (char)(k % 7 == 0 ? '\n' : k);
                assert_int_equal(wire_task_write(&t, &whole), 0);
                assert_int_equal(wire_task_begin(&t, &made), 0);
                while (wire_text_next(&made, &pieces) > 0)
                        ;
                assert_string_equal(pieces.data, whole.data);
                wire_text_done(&made);
                t.has_output = false;
                assert_int_equal(wire_task_write(&t, &document), 0);
                str_clear(&whole);
                str_clear(&pieces);
                assert_int_equal(wire_task_add_output(document.data, document.len, t.out, t.out_len, &brought, &whole),
                                 0);
                assert_int_equal(wire_task_begin_output(document.data, document.len, t.out, t.out_len, &brought, &made),
                                 0);
                while (wire_text_next(&made, &pieces) > 0)
                        ;
                assert_string_equal(pieces.data, whole.data);
                wire_text_done(&made);
        }
        free(data);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_exited),    cmocka_unit_test(test_without_streams),
                cmocka_unit_test(test_outcomes),  cmocka_unit_test(test_nulls),
                cmocka_unit_test(test_encodings), cmocka_unit_test(test_add_output),
                cmocka_unit_test(test_outputs),   cmocka_unit_test(test_add_output_to_an_old_document),
                cmocka_unit_test(test_read),      cmocka_unit_test(test_read_list),
                cmocka_unit_test(test_read_odd),  cmocka_unit_test(test_add_output_elsewhere),
                cmocka_unit_test(test_signals),   cmocka_unit_test(test_problem),
                cmocka_unit_test(test_in_pieces),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
