/* For fuzzers of the HTTP server: one that listens under an abstract name, and clients of it. */
#pragma once

#include "http/server.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct loop *loop;
static struct sockaddr_un address;
static socklen_t address_len;

static void serve(const struct http_handler *handler)
{
        static struct http_server *server;
        const struct http_config config = { .max_connections = 0 };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        /* An abstract name of the kernel's choice (unix(7), autobind). */
        address.sun_family = AF_UNIX;
        address_len = sizeof(address);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 || listen(fd, 16) < 0 ||
            getsockname(fd, (struct sockaddr *)&address, &address_len) < 0)
                abort();
        if (loop_new(&loop, NULL) < 0 || http_server_new(loop, &config, handler, NULL, &server, NULL) < 0 ||
            http_server_listen(server, fd, NULL) < 0)
                abort();
}

static int connect_to_it(void)
{
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || connect(fd, (struct sockaddr *)&address, address_len) < 0)
                abort();
        return fd;
}
