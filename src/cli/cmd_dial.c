/* Bytes between stdin, stdout and the server's unix socket: the other end of ssh:// hosts. */
#include "base/fd.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE ((size_t)64 * 1024)

/* One direction, with what was read and not written yet. */
struct flow {
        int from, to;
        bool ended; /* nothing more comes */
        size_t at, len;
        char data[PIECE];
};

static void end_flow(struct flow *f)
{
        f->ended = true;
        f->len = 0;
        (void)shutdown(f->to, SHUT_WR); /* stdout, which is no socket, needs none */
}

static int move(struct flow *f)
{
        ssize_t n;

        if (f->len == 0) {
                n = read(f->from, f->data, PIECE);
                if (n < 0)
                        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
                if (n == 0)
                        return end_flow(f), 0;
                f->at = 0;
                f->len = (size_t)n;
        }
        n = write(f->to, f->data + f->at, f->len);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        f->at += (size_t)n;
        f->len -= (size_t)n;
        return 0;
}

static short wanted(const struct flow *f, bool reading)
{
        if (f->ended || (f->len == 0) != reading)
                return 0;
        return reading ? POLLIN : POLLOUT;
}

/* Until the server has said all; a client that has gone is noticed by its stdout. */
static int relay(struct flow *in, struct flow *out, struct err *err)
{
        while (!out->ended) {
                struct pollfd fds[] = {
                        { .fd = wanted(in, true) ? in->from : -1, .events = wanted(in, true) },
                        { .fd = wanted(in, false) ? in->to : -1, .events = wanted(in, false) },
                        { .fd = wanted(out, true) ? out->from : -1, .events = wanted(out, true) },
                        { .fd = out->to, .events = wanted(out, false) },
                };
                int r = 0;

                if (poll(fds, ARRAY_LEN(fds), -1) < 0 && errno != EINTR)
                        return err_sys(err, "poll");
                if (fds[0].revents || fds[1].revents)
                        r = move(in);
                if (r == 0 && (fds[2].revents || fds[3].revents & POLLOUT))
                        r = move(out);
                if (r == -EPIPE || r == -ECONNRESET || fds[3].revents & (POLLERR | POLLNVAL))
                        return 0;
                if (r < 0)
                        return err_set(err, -r, "%s", strerror(-r));
        }
        return 0;
}

static int dial(const struct cli *cli, struct err *err)
{
        static struct flow in, out;
        auto_fd fd = -EBADF;
        int r, was_in, was_out;

        if (!str_starts(cli->host, "unix://"))
                return err_set(err, EINVAL, "%s: only a unix socket can be dialled", cli->host);
        r = fd_connect_unix(cli->host + strlen("unix://"), SOCK_STREAM, &fd, err);
        if (r < 0)
                return cli_explain(cli, r, err);
        in = (struct flow){ .from = STDIN_FILENO, .to = fd };
        out = (struct flow){ .from = fd, .to = STDOUT_FILENO };
        /* A write that blocks would keep the other direction waiting. Whom they are shared with gets them back as they were. */
        was_in = fcntl(STDIN_FILENO, F_GETFL);
        was_out = fcntl(STDOUT_FILENO, F_GETFL);
        if (was_in < 0 || was_out < 0 || fd_set_nonblock(fd, true) < 0 || fd_set_nonblock(STDIN_FILENO, true) < 0 ||
            fd_set_nonblock(STDOUT_FILENO, true) < 0)
                return err_sys(err, "prepare the connection");
        r = relay(&in, &out, err);
        (void)fcntl(STDIN_FILENO, F_SETFL, was_in);
        (void)fcntl(STDOUT_FILENO, F_SETFL, was_out);
        return r;
}

int cmd_dial(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, NULL, 0, &argc, argv, &err);
        if (r > 0)
                return CLI_OK;
        if (r == 0 && argc > 0)
                r = err_set(&err, EINVAL, "dial-stdio takes no argument");
        if (r == 0)
                r = dial(cli, &err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
