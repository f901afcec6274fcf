#include "launcher/work_watch.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 1024
#define UTIME_FIELD 12 /* of /proc/PID/stat, counted from the name; stime follows */

static bool read_text(int proc_fd, pid_t pid, const char *what, char text[TEXT_MAX])
{
        auto_fd fd = -EBADF;
        char name[32];
        ssize_t n;

        (void)snprintf(name, sizeof(name), "%d/%s", pid, what);
        fd = openat(proc_fd, name, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, text, TEXT_MAX - 1);
        text[n > 0 ? n : 0] = '\0';
        return n > 0;
}

static uint64_t io_value(const char *text, const char *key)
{
        const char *at = strstr(text, key);

        return at ? (uint64_t)strtoull(at + strlen(key), NULL, 10) : 0;
}

/* In ticks. */
static uint64_t cpu_time(const char *stat)
{
        const char *at = strrchr(stat, ')');
        uint64_t user;
        char *end;

        for (int i = 0; at && i < UTIME_FIELD; i++)
                at = strchr(at + 1, ' ');
        if (!at)
                return 0;
        user = (uint64_t)strtoull(at, &end, 10);
        return user + (uint64_t)strtoull(end, NULL, 10);
}

uint64_t watch_written(int proc_fd, pid_t pid)
{
        char text[TEXT_MAX];

        if (!read_text(proc_fd, pid, "io", text))
                return 0;
        return MAX(io_value(text, "wchar: "), io_value(text, "write_bytes: "));
}

bool watch_activity(int proc_fd, pid_t pid, uint64_t *ret)
{
        char io[TEXT_MAX], stat[TEXT_MAX];

        if (!read_text(proc_fd, pid, "io", io) || !read_text(proc_fd, pid, "stat", stat))
                return false;
        *ret = io_value(io, "rchar: ") + io_value(io, "wchar: ") + cpu_time(stat);
        return true;
}
