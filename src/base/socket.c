/* The unix sockets of fd.h. */

#include "base/fd.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

union control {
        struct cmsghdr align;
        char space[CMSG_SPACE(FD_MSG_MAX * sizeof(int))];
};

int fd_send(int sock, const void *data, size_t len, const int *fds, size_t n_fds)
{
        struct iovec iov = { .iov_base = (void *)data, .iov_len = len };
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
        union control control;
        ssize_t n;

        if (n_fds > FD_MSG_MAX)
                return -EINVAL;
        if (n_fds > 0) {
                struct cmsghdr *c;

                memset(&control, 0, sizeof(control));
                msg.msg_control = &control;
                msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                c = CMSG_FIRSTHDR(&msg);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
        }
        do
                n = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        return (size_t)n == len ? 0 : -EMSGSIZE;
}

/* Collects the descriptors of a message; those that do not fit are closed. */
static size_t take_fds(struct msghdr *msg, int *fds, size_t max, bool *ret_fit)
{
        size_t n = 0;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
                size_t count;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < count; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                        if (n < max) {
                                fds[n++] = fd;
                                continue;
                        }
                        fd_close(fd);
                        *ret_fit = false;
                }
        }
        return n;
}

int fd_recv(int sock, void *data, size_t max, size_t *ret_len, int *fds, size_t *ret_n)
{
        struct iovec iov = { .iov_base = data, .iov_len = max };
        union control control;
        struct msghdr msg = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        bool fit = true;
        size_t count;
        ssize_t n;

        do
                n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        count = take_fds(&msg, fds, ret_n ? *ret_n : 0, &fit);
        if (!fit || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
                for (size_t i = 0; i < count; i++)
                        fd_close(fds[i]);
                return -EMSGSIZE;
        }
        *ret_len = (size_t)n;
        if (ret_n)
                *ret_n = count;
        return 0;
}

static int unix_address(const char *path, struct sockaddr_un *ret, struct err *err)
{
        size_t len = strlen(path);

        if (len == 0 || len >= sizeof(ret->sun_path))
                return err_set(err, ENAMETOOLONG, "socket path '%s' is not from 1 to %zu bytes long", path,
                               sizeof(ret->sun_path) - 1);
        *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
        memcpy(ret->sun_path, path, len);
        return 0;
}

int fd_listen_unix(const char *path, int type, uid_t uid, gid_t gid, mode_t mode, int *ret, struct err *err)
{
        struct sockaddr_un sa;
        auto_fd fd = -EBADF;
        struct stat st;
        int r;

        r = unix_address(path, &sa, err);
        if (r < 0)
                return r;
        if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && unlink(path) < 0)
                return err_sys(err, "remove the old socket '%s'", path);
        fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        /* The mode of an unbound socket becomes the file's (unix(7)): nobody connects before the owner is set. */
        if (fd < 0 || fchmod(fd, 0) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
                return err_sys(err, "bind '%s'", path);
        if (listen(fd, SOMAXCONN) < 0 || lchown(path, uid, gid) < 0 || chmod(path, mode) < 0) {
                r = err_sys(err, "listen on '%s'", path);
                (void)unlink(path);
                return r;
        }
        *ret = TAKE_FD(fd);
        return 0;
}

int fd_connect_unix(const char *path, int type, int *ret, struct err *err)
{
        struct sockaddr_un sa;
        auto_fd fd = -EBADF;
        int r;

        r = unix_address(path, &sa, err);
        if (r < 0)
                return r;
        fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return err_sys(err, "socket");
        do
                r = connect(fd, (struct sockaddr *)&sa, sizeof(sa));
        while (r < 0 && errno == EINTR);
        if (r < 0)
                return err_sys(err, "connect to '%s'", path);
        *ret = TAKE_FD(fd);
        return 0;
}

int fd_peer_uid(int fd, uid_t *ret)
{
        struct ucred cred;
        socklen_t len = sizeof(cred);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
                return -errno;
        *ret = cred.uid;
        return 0;
}
