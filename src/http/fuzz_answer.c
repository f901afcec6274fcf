/* What a server answers to the command: heads, lengths, chunks. */
#include "http/client_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ANSWER_MAX ((size_t)1 << 20)

struct server {
        const uint8_t *data;
        size_t size;
        int fd;
};

/* The request is on its way: all of the answer follows, and the end. */
static void on_sent(uint64_t sent, void *data)
{
        const struct server *s = data;

        (void)sent;
        (void)!send(s->fd, s->data, s->size, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)shutdown(s->fd, SHUT_WR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct server s = { .data = data, .size = size };
        const struct http_client_request request = {
                .method = size % 5 ? "GET" : "HEAD",
                .path = "/",
                .body_fd = -EBADF,
                .max_answer = ANSWER_MAX,
                .progress = on_sent,
                .progress_data = &s,
        };
        struct http_client c = { .host = (char[]){ "unix:///x" }, .own = { .fd = -EBADF } };
        auto_answer answer = { .status = 0 };
        struct err err = ERR_INIT;
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return 0;
        c.own.fd = pair[0];
        s.fd = pair[1];
        r = http_client_do(&c, &request, &answer, &err);
        if ((r == 0 && (answer.status < 200 || answer.status > 999)) || answer.body.len > size || (r < 0 && !err.num))
                abort();
        http_own_close(&c.own);
        (void)close(s.fd);
        return 0;
}
