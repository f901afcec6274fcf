#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define PROGRESS_NS (100 * NS_PER_MS)

struct saving {
        const char *file, *format;
        bool quiet, bar;
        int fd;
        int write_error;
        char *target;  /* the file that is meant, where a link leads to it */
        char *partial; /* what is renamed to target at the end; NULL: it is written itself */
        uint64_t bytes, started_ns, shown_ns;
};

static void show(struct saving *s)
{
        char done[UNITS_HUMAN_MAX], rate[UNITS_HUMAN_MAX];
        uint64_t now = time_mono_ns();

        if (now - s->shown_ns < PROGRESS_NS)
                return;
        s->shown_ns = now;
        units_human(s->bytes, done);
        units_human((uint64_t)((double)s->bytes * (double)NS_PER_S / (double)MAX(now - s->started_ns, 1)), rate);
        fprintf(stderr, "\r\033[K%s, %s/s", done, rate);
}

static int on_data(const void *data, size_t len, void *arg)
{
        struct saving *s = arg;
        int r = fd_write_all(s->fd, data, len);

        if (r < 0) {
                s->write_error = -r;
                return r;
        }
        s->bytes += len;
        if (s->bar)
                show(s);
        return 0;
}

static int open_partial(struct saving *s)
{
        s->partial = str_printf("%s.XXXXXX", s->target ? s->target : s->file);
        if (!s->partial)
                return -ENOMEM;
        s->fd = mkostemp(s->partial, O_CLOEXEC);
        if (s->fd < 0) {
                free(s->partial);
                s->partial = NULL;
        }
        return 0;
}

/* What is there already and no file that has a name (a pipe, /dev/null, what /dev/stdout leads to) is written itself; a file is
 * replaced when all of it is there, not a link to it. */
static int open_output(struct saving *s, struct err *err)
{
        struct stat st;

        if (str_eq(s->file, "-")) {
                if (isatty(STDOUT_FILENO))
                        return err_set(err, EINVAL, "stdout is a terminal: name a file with -o, or redirect it");
                s->fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
        } else if (stat(s->file, &st) == 0 && (!S_ISREG(st.st_mode) || !(s->target = realpath(s->file, NULL)))) {
                s->fd = open(s->file, O_WRONLY | O_CLOEXEC);
        } else if (open_partial(s) < 0) {
                return err_oom(err);
        }
        return s->fd < 0 ? err_sys(err, "open %s", s->file) : 0;
}

static int finish_output(struct saving *s, struct err *err)
{
        mode_t mask;

        if (!s->partial)
                return 0;
        mask = umask(0);
        (void)umask(mask);
        if (fchmod(s->fd, 0666 & ~mask) < 0 || fsync(s->fd) < 0 ||
            rename(s->partial, s->target ? s->target : s->file) < 0)
                return err_sys(err, "write %s", s->file);
        free(s->partial);
        s->partial = NULL;
        return 0;
}

static int build_path(const struct saving *s, char *const *images, struct str *path)
{
        int r = str_addf(path, "/v1/images/save?format=%s", s->format);

        for (; r == 0 && *images; images++) {
                r = str_adds(path, "&ref=");
                if (r == 0)
                        r = http_encode(path, *images);
        }
        return r;
}

static int save(struct cli *cli, struct saving *s, char *const *images, struct err *err)
{
        struct http_client_request request = {
                .method = "GET",
                .body_fd = -EBADF,
                .abort = &cli_aborted,
                .on_data = on_data,
                .on_data_arg = s,
        };
        auto_answer answer = { .status = 0 };
        auto_str path = STR_INIT;
        int r;

        if (build_path(s, images, &path) < 0)
                return err_oom(err);
        request.path = path.data;
        s->started_ns = time_mono_ns();
        r = cli_request(cli, &request, &answer, err);
        if (s->bar && s->shown_ns > 0)
                fprintf(stderr, "\r\033[K");
        /* No fault of the server's. */
        if (s->write_error)
                return err_set(err, s->write_error, "write %s: %s", str_eq(s->file, "-") ? "to stdout" : s->file,
                               strerror(s->write_error));
        return r;
}

static int print_result(const struct saving *s, struct err *err)
{
        auto_json o = json_pack("{s:s, s:I}", "file", s->file, "bytes", (json_int_t)s->bytes);

        return o ? cli_print_json(o, err) : err_oom(err);
}

int cmd_save(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct saving s = { .file = "-", .format = "docker", .fd = -EBADF };
        const struct cli_binding options[] = {
                { "output", cli_set_text, &s.file },
                { "format", cli_set_text, &s.format },
                { "quiet", cli_set_true, &s.quiet },
        };
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && argc == 0)
                r = err_set(&err, EINVAL, "which images? (mayfly save IMAGE... [-o FILE])");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        argv[argc] = NULL;
        s.bar = !s.quiet && !cli->json && cli_draws(STDERR_FILENO);
        cli_catch_signals();
        r = open_output(&s, &err);
        if (r == 0)
                r = save(cli, &s, argv, &err);
        if (r == 0)
                r = finish_output(&s, &err);
        if (s.partial)
                (void)unlink(s.partial);
        free(s.partial);
        free(s.target);
        fd_close(s.fd);
        if (s.write_error == EPIPE)
                return 128 + SIGPIPE; /* `mayfly save … | head -c 1`: nobody wants more */
        if (r == 0 && cli->json && !str_eq(s.file, "-"))
                r = print_result(&s, &err);
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
