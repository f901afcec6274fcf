/* Fuzzes what reads archives: INDEX, UNPACK, and MERGE of what was unpacked over a small layer. Whatever the archive says,
 * nothing may appear beside the directories that the worker was given. */

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "image/worker/worker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOWER_META "mayfly-layer 1\nI"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct worker_limits limits = { .max_bytes = 1 << 20, .max_entries = 200 };

/* In memory: a file system on disk is twenty times slower. */
#define PARENT "/dev/shm"

static char top_path[64];
static int top = -EBADF;

static void remove_top(void)
{
        auto_fd tmp = open(PARENT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        (void)path_remove_tree(tmp, top_path + sizeof(PARENT));
}

static int make_dir(const char *name)
{
        int fd;

        if (mkdirat(top, name, 0700) < 0)
                return -EBADF;
        fd = openat(top, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd;
}

/* lib -> usr/lib, usr/lib/a and a file to be linked to, as a worker would have made it. */
static void make_lower(void)
{
        auto_fd dir = make_dir("lower");

        if (dir < 0 || mkdirat(dir, "root", 0755) < 0 || mkdirat(dir, "root/usr", 0755) < 0 ||
            mkdirat(dir, "root/usr/lib", 0755) < 0 || symlinkat("usr/lib", dir, "root/lib") < 0 ||
            fd_write_file(dir, "root/usr/lib/a", 0644, "a", 1, NULL) < 0 ||
            fd_write_file(dir, "meta", 0600, LOWER_META, sizeof(LOWER_META), NULL) < 0)
                abort();
}

static void set_up(void)
{
        if (top >= 0)
                return;
        (void)snprintf(top_path, sizeof(top_path), PARENT "/mayfly-fuzz-unpack-XXXXXX");
        if (!mkdtemp(top_path))
                abort();
        top = open(top_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)atexit(remove_top);
        make_lower();
}

static void check_beside(unsigned expected)
{
        DIR *dir = fdopendir(openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        unsigned n = 0;

        while (dir && readdir(dir))
                n++;
        if (!dir || n != expected + 2)
                abort();
        closedir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        auto_fd blob = memfd_create("blob", MFD_CLOEXEC), plain = memfd_create("plain", MFD_CLOEXEC);
        auto_fd layer = -EBADF, tree = -EBADF, lower = -EBADF;
        auto_str index = STR_INIT, unpacked = STR_INIT, merged = STR_INIT;
        struct err err = ERR_INIT;

        set_up();
        if (blob < 0 || plain < 0 || fd_write_all(blob, data, size) < 0)
                return 0;
        (void)worker_index(blob, plain, &limits, &index, &err);
        layer = make_dir("layer");
        tree = make_dir("tree");
        lower = openat(top, "lower", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (layer < 0 || tree < 0 || lower < 0)
                abort();
        if (worker_unpack(blob, layer, &limits, &unpacked, &err) == 0) {
                const int layers[] = { lower, layer };

                (void)worker_merge(layers, 2, tree, &merged, &err);
        }
        check_beside(3);
        if (path_remove_tree(top, "layer") < 0 || path_remove_tree(top, "tree") < 0)
                abort();
        return 0;
}
