#include "daemon/notify.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

/* An abstract socket, as containers' service managers use them. */
static void test_sends_a_datagram(void **state)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        auto_fd fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        char name[64], text[64] = "";
        int n;

        (void)state;
        n = snprintf(name, sizeof(name), "@mayfly-test-notify-%d", getpid());
        memcpy(sa.sun_path + 1, name + 1, (size_t)n - 1);
        assert_int_equal(
                bind(fd, (struct sockaddr *)&sa, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n)), 0);
        assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
        notify_send("READY=1");
        assert_int_equal(recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT), 7);
        assert_string_equal(text, "READY=1");
}

static void test_says_nothing_to_nobody(void **state)
{
        static char longer[200] = "/";

        (void)state;
        assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
        notify_send("READY=1");
        assert_int_equal(setenv("NOTIFY_SOCKET", "relative", 1), 0);
        notify_send("READY=1");
        memset(longer + 1, 'x', sizeof(longer) - 2);
        assert_int_equal(setenv("NOTIFY_SOCKET", longer, 1), 0);
        notify_send("READY=1");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sends_a_datagram),
                cmocka_unit_test(test_says_nothing_to_nobody),
        };

        return cmocka_run_group_tests_name("daemon/notify", tests, NULL, NULL);
}
