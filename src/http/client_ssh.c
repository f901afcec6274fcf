/* ssh:// hosts: ssh(1) runs a command there that joins its stdin and stdout to the daemon's socket. No shell of ours sees
 * anything; the one at the other end sees quoted words. */

#include "base/fd.h"
#include "http/client_internal.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define NAME_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

extern char **environ;

static int quote(struct str *out, const char *const *words)
{
        int e = 0;

        for (size_t i = 0; e == 0 && words[i]; i++) {
                e = str_adds(out, i > 0 ? " '" : "'");
                for (const char *p = words[i]; e == 0 && *p; p++)
                        e = *p == '\'' ? str_adds(out, "'\\''") : str_addc(out, *p);
                if (e == 0)
                        e = str_addc(out, '\'');
        }
        return e;
}

static bool name_valid(const char *name, size_t len, const char *more)
{
        char accept[128];

        (void)snprintf(accept, sizeof(accept), "%s%s", NAME_CHARS, more);
        /* What begins with a dash would be an option. */
        return len > 0 && len < 256 && *name != '-' && strspn(name, accept) >= len;
}

/* user@, host and :port; an IPv6 address stands in brackets. */
static int destination_parse(char *text, struct http_client *c)
{
        char *at = strchr(text, '@'), *host = at ? at + 1 : text, *end;
        bool brackets = *host == '[';
        uint32_t port;

        if (at && !name_valid(text, (size_t)(at - text), ""))
                return -EINVAL;
        if (brackets) {
                host++;
                end = strchr(host, ']');
                if (!end)
                        return -EINVAL;
                *end++ = '\0';
        } else {
                end = host + strcspn(host, ":");
        }
        if (*end == ':') {
                *end++ = '\0';
                if (parse_u32(end, &port) < 0 || port == 0 || port > UINT16_MAX)
                        return -EINVAL;
                c->ssh_port = strdup(end);
                if (!c->ssh_port)
                        return -ENOMEM;
        } else if (*end != '\0') {
                return -EINVAL;
        }
        if (!name_valid(host, strlen(host), brackets ? ":%" : ""))
                return -EINVAL;
        if (at)
                *at = '\0';
        c->ssh_destination = at ? str_printf("%s@%s", text, host) : strdup(host);
        return c->ssh_destination ? 0 : -ENOMEM;
}

int http_ssh_parse(const char *host, const char *const *command, struct http_client *c, struct err *err)
{
        static const char *const standard[] = { "mayfly", "dial-stdio", NULL };
        auto_str line = STR_INIT;
        auto_free char *text = strdup(host + strlen("ssh://"));
        size_t len;
        int r;

        if (!text)
                return err_oom(err);
        len = strlen(text);
        if (len > 0 && text[len - 1] == '/')
                text[len - 1] = '\0';
        r = destination_parse(text, c);
        if (r == -EINVAL)
                return err_set(err, EINVAL, "host '%s': not ssh://[user@]host[:port]", host);
        if (r < 0 || quote(&line, command ? command : standard) < 0)
                return err_oom(err);
        c->ssh_line = str_take(&line);
        return c->ssh_line ? 0 : err_oom(err);
}

static int spawn_ssh(const struct http_client *c, int fd, pid_t *ret)
{
        char *argv[8], **a = argv;
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attr;
        sigset_t pipe_signal;
        int e;

        *a++ = (char *)(uintptr_t) "ssh";
        *a++ = (char *)(uintptr_t) "-T";
        if (c->ssh_port) {
                *a++ = (char *)(uintptr_t) "-p";
                *a++ = c->ssh_port;
        }
        *a++ = (char *)(uintptr_t) "--";
        *a++ = c->ssh_destination;
        *a++ = c->ssh_line;
        *a = NULL;
        (void)sigemptyset(&pipe_signal);
        (void)sigaddset(&pipe_signal, SIGPIPE);
        if (posix_spawn_file_actions_init(&actions) != 0)
                return -ENOMEM;
        if (posix_spawnattr_init(&attr) != 0) {
                (void)posix_spawn_file_actions_destroy(&actions);
                return -ENOMEM;
        }
        e = posix_spawn_file_actions_adddup2(&actions, fd, STDIN_FILENO);
        if (e == 0)
                e = posix_spawn_file_actions_adddup2(&actions, fd, STDOUT_FILENO);
        if (e == 0)
                e = posix_spawnattr_setsigdefault(&attr, &pipe_signal);
        if (e == 0)
                e = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
        if (e == 0)
                e = posix_spawnp(ret, "ssh", &actions, &attr, argv, environ);
        (void)posix_spawnattr_destroy(&attr);
        (void)posix_spawn_file_actions_destroy(&actions);
        return -e;
}

int http_ssh_start(const struct http_client *c, int *ret_fd, pid_t *ret_pid, struct err *err)
{
        auto_fd ours = -EBADF, theirs = -EBADF;
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return err_sys(err, "socketpair");
        ours = pair[0];
        theirs = pair[1];
        r = spawn_ssh(c, theirs, ret_pid);
        if (r < 0)
                return err_set(err, -r, "run ssh: %s", strerror(-r));
        *ret_fd = TAKE_FD(ours);
        return 0;
}
