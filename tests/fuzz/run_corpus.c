/* Runs a fuzz target once over files and folders, so that its corpus is a test that needs no fuzzer. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

#define INPUT_MAX (16U << 20)

static int run_file(int dirfd, const char *name)
{
        struct stat st;
        uint8_t *data;
        ssize_t n;
        int fd;

        fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0 || st.st_size > INPUT_MAX) {
                fprintf(stderr, "%s: cannot be read\n", name);
                return -1;
        }
        /* Exactly as large as the input, so that the sanitizer sees a read beyond it. */
        data = malloc(st.st_size > 0 ? (size_t)st.st_size : 1);
        n = data ? read(fd, data, (size_t)st.st_size) : -1;
        close(fd);
        if (n != st.st_size) {
                fprintf(stderr, "%s: cannot be read\n", name);
                free(data);
                return -1;
        }
        (void)LLVMFuzzerTestOneInput(data, (size_t)n);
        free(data);
        return 0;
}

static int run_dir(const char *path, unsigned *count)
{
        struct dirent *e;
        DIR *dir;
        int r = 0;

        dir = opendir(path);
        if (!dir)
                return errno == ENOENT ? 0 : -1;
        while (r == 0 && (e = readdir(dir))) {
                if (e->d_name[0] == '.')
                        continue;
                r = run_file(dirfd(dir), e->d_name);
                (*count)++;
        }
        closedir(dir);
        return r;
}

int main(int argc, char **argv)
{
        unsigned count = 0;

        if (LLVMFuzzerInitialize)
                (void)LLVMFuzzerInitialize(&argc, &argv);
        (void)LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
        for (int i = 1; i < argc; i++) {
                struct stat st;

                if (stat(argv[i], &st) == 0 && S_ISREG(st.st_mode)) {
                        if (run_file(AT_FDCWD, argv[i]) < 0)
                                return 1;
                        count++;
                } else if (run_dir(argv[i], &count) < 0) {
                        return 1;
                }
        }
        printf("%u inputs\n", count);
        return 0;
}
