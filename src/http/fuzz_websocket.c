/* Fuzzes what a client sends behind the handshake of a WebSocket, and how it is cut: messages are whole and within their bound, text
 * is UTF-8, and each connection ends, once. */

#include "base/fd.h"
#include "base/str.h"
#include "http/fuzz_server.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TURNS_MAX 1000
#define MESSAGE_MAX 1000
#define HANDSHAKE                                                                                                      \
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"                                 \
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

static unsigned opened, closed;

/* As those of the API do: it answers, pauses and closes. */
static void on_message(struct http_ws *ws, bool text, const void *data, size_t len, void *arg)
{
        const uint8_t *bytes = data;

        (void)arg;
        if (len > MESSAGE_MAX || (text && !utf8_valid(data, len)) || closed > 0)
                abort();
        if (http_ws_charge(ws, len) < 0)
                abort();
        (void)http_ws_send_binary(ws, data, len);
        http_ws_release(ws, len);
        if (len > 0 && bytes[0] == 'p') {
                http_ws_pause(ws);
                http_ws_resume(ws);
        } else if (len > 0 && bytes[0] == 'c') {
                http_ws_close(ws, 1000, "asked for");
        }
}

static void on_closed(struct http_ws *ws, unsigned code, void *arg)
{
        (void)ws;
        (void)arg;
        if (code < 1000 || code > 4999)
                abort();
        closed++;
}

static void on_begin(struct http_request *r, void *data)
{
        (void)r;
        (void)data;
}

static void on_end(struct http_request *r, void *data)
{
        static const struct http_ws_handler handler = { .message = on_message,
                                                        .closed = on_closed,
                                                        .max_message = MESSAGE_MAX };
        struct http_ws *ws;

        (void)data;
        if (http_websocket_accept(r, &handler, NULL, &ws) < 0)
                abort();
        opened++;
}

/* What is answered is read, so that nothing waits for room. False: the server has ended it. */
static bool take(int fd)
{
        char answer[65536];
        ssize_t n;

        do
                n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
        while (n > 0);
        return n < 0 && errno == EAGAIN;
}

static void put(int fd, const void *data, size_t size)
{
        const char *at = data;

        for (unsigned i = 0; size > 0 && i < TURNS_MAX; i++) {
                ssize_t n = send(fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno != EAGAIN)
                        return;
                if (n > 0) {
                        at += n;
                        size -= (size_t)n;
                }
                (void)loop_turn(loop, 0, NULL);
                (void)take(fd);
        }
}

/* The first byte says where the rest is cut in two. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const struct http_handler handler = { .begin = on_begin, .end = on_end };
        size_t cut;
        int fd;

        if (!loop)
                serve(&handler);
        if (size < 2)
                return 0;
        opened = closed = 0;
        fd = connect_to_it();
        put(fd, HANDSHAKE, strlen(HANDSHAKE));
        for (unsigned i = 0; opened == 0 && i < TURNS_MAX; i++)
                (void)loop_turn(loop, 1, NULL);
        cut = (size_t)data[0] % (size - 1);
        put(fd, data + 1, cut);
        put(fd, data + 1 + cut, size - 1 - cut);
        (void)shutdown(fd, SHUT_WR);
        for (unsigned i = 0; i < 8 && take(fd); i++)
                (void)loop_turn(loop, 0, NULL);
        fd_close(fd);
        for (unsigned i = 0; closed == 0 && i < TURNS_MAX; i++)
                (void)loop_turn(loop, 1, NULL);
        if (opened != 1 || closed != 1)
                abort();
        return 0;
}
