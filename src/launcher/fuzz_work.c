/* Fuzzes the messages of image work, as a daemon that was taken over would send them: each is refused, answered, or closes the
 * connection; no descriptor is kept, and nothing in the store moves. No worker is there, so none runs. Needs root. */

#include "launcher/work.h"

#include "base/fd.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ID_BASE 2013200384u
#define FDS_MAX 4
#define NAME_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static struct work *work;
static char top_path[64];
static int store = -EBADF;
static unsigned answers;

static void on_reply(const void *msg, size_t len, void *data)
{
        const struct launch_header *h = msg;

        (void)data;
        if (len < sizeof(*h) || len > LAUNCH_MSG_MAX ||
            (h->op != LAUNCH_REFUSED && h->op != LAUNCH_DONE && h->op != LAUNCH_NAMES))
                abort();
        answers++;
}

static void remove_top(void)
{
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        work_free(work);
        fd_close(store);
        (void)path_remove_tree(tmp, top_path + sizeof("/tmp"));
}

static void set_up(void)
{
        struct work_config config = { .worker_fd = -EBADF, .id_base = ID_BASE, .reply = on_reply };
        struct err err = ERR_INIT;

        (void)snprintf(top_path, sizeof(top_path), "/tmp/mayfly-fuzz-work-XXXXXX");
        if (!mkdtemp(top_path))
                abort();
        store = open(top_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        config.store_fd = store;
        config.proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (size_t i = 0; i < WORK_RUNNING_MAX; i++)
                config.cgroups[i] = (struct work_cgroup){ .v2_fd = -EBADF, .v1_tasks = { -EBADF } };
        if (work_new(&config, &work, &err) < 0) {
                fprintf(stderr, "%s\n", err.text);
                abort();
        }
        (void)atexit(remove_top);
}

/* A layer that DELETE may move away, and nothing else may. */
static void put_layer(void)
{
        if (mkdirat(store, "layers/" NAME_A, 0700) < 0 && errno != EEXIST)
                abort();
}

static int remove_dir(const char *name, void *data)
{
        (void)unlinkat(*(const int *)data, name, AT_REMOVEDIR);
        return 0;
}

/* As a worker would. */
static void empty_trash(void)
{
        auto_fd trash = openat(store, "trash", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (trash < 0 || path_each_entry(trash, remove_dir, &trash) < 0)
                abort();
}

/* Files and pipes, as the bits say. */
static void make_fds(uint8_t kinds, int fds[FDS_MAX], size_t n)
{
        int ends[2];

        for (size_t i = 0; i < n; i++) {
                if (kinds >> i & 1) {
                        if (pipe2(ends, O_CLOEXEC) < 0)
                                abort();
                        fds[i] = ends[0];
                        fd_close(ends[1]);
                } else {
                        fds[i] = memfd_create("fuzz", MFD_CLOEXEC);
                }
        }
}

/* The first byte is the number of descriptors that come with the message, the second what they are. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct launch_header *msg;
        int fds[FDS_MAX];
        size_t n;
        int r;

        if (geteuid() != 0 || size < 2 + sizeof(*msg) || size - 2 > LAUNCH_MSG_MAX)
                return 0;
        if (!work)
                set_up();
        put_layer();
        n = data[0] % (FDS_MAX + 1);
        make_fds(data[1], fds, n);
        msg = malloc(size - 2); /* aligned, as the launcher's buffer is */
        if (!msg)
                return 0;
        memcpy(msg, data + 2, size - 2);
        answers = 0;
        r = work_handle(work, msg, size - 2, fds, n);
        if ((r < 0 && r != -EBADMSG) || (r < 0 && answers > 0) || (r == 0 && answers == 0))
                abort();
        for (size_t i = 0; i < n; i++)
                if (fds[i] >= 0)
                        abort();
        if (faccessat(store, "layers/" NAME_A, F_OK, 0) < 0) {
                if (msg->op != LAUNCH_DELETE)
                        abort();
                empty_trash();
        }
        free(msg);
        return 0;
}
