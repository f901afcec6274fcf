/* Linked into the launcher of a coverage build. The launcher leaves the host's mounts, but gcov writes its counters to the
 * build directory when the process ends: before it does, this returns to the root that the process began with. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int root = -1;

static void return_to_root(void)
{
        if (root < 0 || fchdir(root) < 0 || chroot(".") < 0)
                (void)!write(STDERR_FILENO, "no way back to the build directory\n", 35);
}

__attribute__((constructor)) static void remember_root(void)
{
        root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        (void)atexit(return_to_root);
}
