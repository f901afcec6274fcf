/* What a worker may, seen from a program in its place. Needs root and a static busybox. */
#include "launcher/work_child.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/test_skip.h"
#include "launcher/userns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define ID_BASE 2013003776u
#define PROGRAM_MAX (64U << 20)
#define FILE_MAX_BYTES 65536

static void files_are_bounded(void **state)
{
        const struct work_cgroup nowhere = { .v2_fd = -EBADF, .v1_tasks = { -EBADF, -EBADF, -EBADF, -EBADF } };
        auto_fd userns = -EBADF, program = -EBADF, proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        auto_fd out = memfd_create("out", MFD_CLOEXEC);
        struct work_child c = { .cgroup = &nowhere, .fds = &out, .n_fds = 1, .report_fd = -EBADF };
        auto_str text = STR_INIT;
        struct err err = ERR_INIT;
        int pidfd = -EBADF, status;
        pid_t pid;

        (void)state;
        skip_unless_root();
        if (fd_read_file(AT_FDCWD, "/bin/busybox", PROGRAM_MAX, &text, &err) < 0)
                skip_because("%s", err.text);
        assert_int_equal(fd_memfd_sealed("busybox", text.data, text.len, &program, &err), 0);
        assert_int_equal(userns_make(proc, USERNS_CONTAINER, 0, ID_BASE, &userns, &err), 0);
        c.worker_fd = program;
        c.userns_fd = userns;
        c.argv = (char *const[]){ (char *)"busybox", (char *)"sh", (char *)"-c", (char *)"while echo y; do :; done >&3",
                                  NULL };
        c.max_file = FILE_MAX_BYTES;
        assert_int_equal(work_child_start(&c, &pid, &pidfd, &err), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status)); /* as pid 1 it is not killed by SIGXFSZ, but sees EFBIG */
        assert_int_equal(lseek(out, 0, SEEK_END), FILE_MAX_BYTES);
        fd_close(pidfd);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(files_are_bounded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
