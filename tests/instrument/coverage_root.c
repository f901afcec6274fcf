/* Linked into the launcher of a coverage build. The launcher leaves the host's mounts, but gcov writes its counters to the
 * build directory when the process ends: before it does, this returns to the root that the process began with. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
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

/* gcc calls this in place of execve(2), and that of libgcov writes the counters first and takes them for done. A child that
 * borrows the launcher's address space would do so for the launcher. */
int __gcov_execve(const char *path, char *const *argv, char *const *envp);

int __gcov_execve(const char *path, char *const *argv, char *const *envp)
{
        return (int)syscall(SYS_execve, path, argv, envp);
}
