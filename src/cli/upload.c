#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "base/units.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define PROGRESS_NS (100 * NS_PER_MS)

struct progress {
        uint64_t total; /* 0: unknown */
        uint64_t started_ns, shown_ns;
        bool shown, whole;
};

static void show(struct progress *p, uint64_t sent)
{
        char done[UNITS_HUMAN_MAX], rate[UNITS_HUMAN_MAX];
        uint64_t now = time_mono_ns(), age = MAX(now - p->started_ns, 1);

        if (p->whole || (now - p->shown_ns < PROGRESS_NS && sent < p->total))
                return;
        p->whole = p->total && sent >= p->total;
        p->shown_ns = now;
        p->shown = true;
        units_human(sent, done);
        units_human((uint64_t)((double)sent * (double)NS_PER_S / (double)age), rate);
        if (p->whole)
                fprintf(stderr, "\r\033[K%s sent at %s/s, unpacking", done, rate);
        else if (p->total)
                fprintf(stderr, "\r\033[K%s, %u%%, %s/s", done, (unsigned)((double)sent * 100 / (double)p->total),
                        rate);
        else
                fprintf(stderr, "\r\033[K%s, %s/s", done, rate);
}

static void on_progress(uint64_t sent, void *data)
{
        show(data, sent);
}

static int open_file(const char *file, int *ret, struct err *err)
{
        int fd;

        if (str_eq(file, "-")) {
                if (isatty(STDIN_FILENO))
                        return err_set(err, EINVAL, "stdin is a terminal: name a file, or pipe the archive in");
                fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
        } else {
                fd = open(file, O_RDONLY | O_CLOEXEC);
        }
        if (fd < 0)
                return err_sys(err, "open %s", file);
        *ret = fd;
        return 0;
}

int cli_upload(const struct cli *cli, const char *path, const char *file, bool quiet, struct http_answer *ret,
               struct err *err)
{
        struct progress progress = { .started_ns = time_mono_ns() };
        struct http_client_request request = {
                .method = "POST",
                .path = path,
                .content_type = "application/x-tar",
                .abort = &cli_aborted,
        };
        auto_fd fd = -EBADF;
        struct stat st;
        int r;

        r = open_file(file, &fd, err);
        if (r < 0)
                return r;
        if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
                return err_set(err, EISDIR, "%s is a directory: pack it with tar first", file);
        if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
                progress.total = (uint64_t)st.st_size;
        request.body_fd = fd;
        if (cli_draws(STDERR_FILENO) && !quiet && !cli->json) {
                request.progress = on_progress;
                request.progress_data = &progress;
        }
        cli_catch_signals();
        r = cli_request(cli, &request, ret, err);
        if (progress.shown)
                fprintf(stderr, "\r\033[K");
        return r;
}
