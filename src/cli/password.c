#include "cli/password.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

int cli_read_password(struct str *ret, struct err *err)
{
        char buffer[4096];
        ssize_t n;

        while ((n = read(STDIN_FILENO, buffer, sizeof(buffer))) > 0)
                if (str_add(ret, buffer, (size_t)n) < 0 || ret->len > CLI_PASSWORD_MAX)
                        return err_set(err, E2BIG, "the password on stdin is too long");
        explicit_bzero(buffer, sizeof(buffer));
        if (n < 0)
                return err_sys(err, "read the password from stdin");
        if (ret->len > 0 && strlen(ret->data) != ret->len)
                return err_set(err, EINVAL, "the password on stdin holds a NUL");
        while (ret->len > 0 && (ret->data[ret->len - 1] == '\n' || ret->data[ret->len - 1] == '\r'))
                ret->data[--ret->len] = '\0';
        return ret->len > 0 ? 0 : err_set(err, EINVAL, "there is no password on stdin");
}

/* A line, or the signal that came before its end. */
static int read_line(int tty, int signals, struct str *ret, int *ret_signo, struct err *err)
{
        for (;;) {
                struct pollfd fds[] = { { .fd = tty, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
                struct signalfd_siginfo info;
                char c;
                ssize_t n;

                if (poll(fds, 2, -1) < 0 && errno != EINTR)
                        return err_sys(err, "poll");
                if (fds[1].revents && read(signals, &info, sizeof(info)) == sizeof(info)) {
                        *ret_signo = (int)info.ssi_signo;
                        return err_set(err, ECANCELED, "cancelled");
                }
                if (!fds[0].revents)
                        continue;
                n = read(tty, &c, 1);
                if (n <= 0 || c == '\n')
                        return n < 0 ? err_sys(err, "read the terminal") : 0;
                if (ret->len >= CLI_PASSWORD_MAX || str_addc(ret, c) < 0)
                        return err_set(err, E2BIG, "the line is too long");
        }
}

int cli_ask(const char *prompt, bool echo, struct str *ret, struct err *err)
{
        static const int ends[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };
        auto_fd tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY), signals = -EBADF;
        struct termios before, quiet;
        int r, signo = 0;
        sigset_t set, old;

        if (tty < 0 || tcgetattr(tty, &before) < 0)
                return err_set(err, ENXIO, "there is no terminal to ask");
        (void)sigemptyset(&set);
        for (size_t i = 0; i < ARRAY_LEN(ends); i++)
                (void)sigaddset(&set, ends[i]);
        (void)sigprocmask(SIG_BLOCK, &set, &old);
        signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        quiet = before;
        if (!echo)
                quiet.c_lflag &= ~(tcflag_t)ECHO;
        (void)tcsetattr(tty, TCSAFLUSH, &quiet);
        (void)fd_write_all(tty, prompt, strlen(prompt));
        r = read_line(tty, signals, ret, &signo, err);
        (void)tcsetattr(tty, TCSAFLUSH, &before);
        if (!echo)
                (void)fd_write_all(tty, "\n", 1);
        (void)sigprocmask(SIG_SETMASK, &old, NULL);
        if (signo)
                (void)raise(signo);
        return r == 0 && ret->len == 0 ? err_set(err, EINVAL, "nothing was typed") : r;
}
