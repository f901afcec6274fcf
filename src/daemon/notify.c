#include "daemon/notify.h"

#include "base/fd.h"

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

void notify_send(const char *state)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        const char *path = getenv("NOTIFY_SOCKET");
        auto_fd fd = -EBADF;
        size_t n;

        if (!path || (*path != '/' && *path != '@'))
                return;
        n = strlen(path);
        if (n >= sizeof(sa.sun_path))
                return;
        memcpy(sa.sun_path, path, n);
        if (*path == '@')
                sa.sun_path[0] = '\0'; /* abstract */
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd >= 0)
                (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&sa,
                             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
}
