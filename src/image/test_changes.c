#include "image/changes.h"

#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

/* Each line is applied to what the ones before it (to a NULL) made. */
static const struct {
        const char *line;
        const char *config; /* NULL: refused */
} cases[] = {
        { "CMD [\"/bin/a\", \"b c\"]", "{\"Cmd\":[\"/bin/a\",\"b c\"]}" },
        { "cmd echo hi  ", "{\"Cmd\":[\"/bin/sh\",\"-c\",\"echo hi\"]}" },
        { "CMD []", "{\"Cmd\":[]}" },
        { "CMD", NULL },
        { "ENTRYPOINT [\"a\", 1]", "{\"Entrypoint\":[\"/bin/sh\",\"-c\",\"[\\\"a\\\", 1]\"]}" },
        { "ENTRYPOINT [\"/x\"]", "{\"Entrypoint\":[\"/x\"]}" },
        { "ENV A=1 B=\"two words\" C='$A' D=a\\ b", "{\"Env\":[\"A=1\",\"B=two words\",\"C=$A\",\"D=a b\"]}" },
        { "ENV A some text ", "{\"Env\":[\"A=some text\"]}" },
        { "ENV A=", "{\"Env\":[\"A=\"]}" },
        { "ENV A", NULL },
        { "ENV =x", NULL },
        { "ENV A=1 B", NULL },
        { "ENV A=\"open", NULL },
        { "ENV A=${B", NULL },
        { "ENV A=$B${C}x${D:-deflt}${E:+alt}$", "{\"Env\":[\"A=xdeflt$\"]}" },
        { "ENV A=\\$B", "{\"Env\":[\"A=$B\"]}" },
        { "LABEL a=b \"c d\"=\"e\"", "{\"Labels\":{\"a\":\"b\",\"c d\":\"e\"}}" },
        { "EXPOSE 80 53/udp 8000-8002/tcp",
          "{\"ExposedPorts\":{\"53/udp\":{},\"80/tcp\":{},\"8000/tcp\":{},\"8001/tcp\":{},\"8002/tcp\":{}}}" },
        { "EXPOSE 0", NULL },
        { "EXPOSE 70000", NULL },
        { "EXPOSE 90-80", NULL },
        { "EXPOSE 80/icmp", NULL },
        { "EXPOSE", NULL },
        { "VOLUME /a /b", "{\"Volumes\":{\"/a\":{},\"/b\":{}}}" },
        { "VOLUME [\"/a b\"]", "{\"Volumes\":{\"/a b\":{}}}" },
        { "USER web:www", "{\"User\":\"web:www\"}" },
        { "USER", NULL },
        { "STOPSIGNAL SIGINT", "{\"StopSignal\":\"SIGINT\"}" },
        { "WORKDIR /a/../b/./c//d", "{\"WorkingDir\":\"/b/c/d\"}" },
        { "WORKDIR ../..", "{\"WorkingDir\":\"/\"}" },
        { "WORKDIR sub", "{\"WorkingDir\":\"/sub\"}" },
        { "RUN true", NULL },
        { "FROM scratch", NULL },
        { "", NULL },
        { "   ", NULL },
        { "CM D", NULL },
        { "USER \xff", NULL },
};

static void test_cases(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
                auto_json config = json_object();
                auto_free char *text = NULL;
                struct err err = ERR_INIT;
                int r = image_change_apply(config, cases[i].line, &err);

                if (!cases[i].config) {
                        if (r != -EINVAL || !err.text[0])
                                fail_msg("'%s': %d", cases[i].line, r);
                        continue;
                }
                text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
                if (r < 0 || !str_eq(text, cases[i].config))
                        fail_msg("'%s': %s %s", cases[i].line, text, err.text);
        }
}

static void test_in_order(void **state)
{
        char *changes[] = { (char *)"ENV PATH=/bin", (char *)"ENV PATH=$PATH:/x", (char *)"WORKDIR /a",
                            (char *)"WORKDIR b",     (char *)"USER $PATH",        NULL };
        auto_json o = NULL;
        const json_t *config;

        (void)state;
        assert_int_equal(image_import_config("sha256:0", changes, "now", &o, NULL), 0);
        config = json_object_get(o, "config");
        assert_string_equal(json_string_value(json_array_get(json_object_get(config, "Env"), 0)), "PATH=/bin:/x");
        assert_int_equal(json_array_size(json_object_get(config, "Env")), 1);
        assert_string_equal(json_string_value(json_object_get(config, "WorkingDir")), "/a/b");
        assert_string_equal(json_string_value(json_object_get(config, "User")), "/bin:/x");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cases),
                cmocka_unit_test(test_in_order),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
