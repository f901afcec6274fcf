/* Fuzzes a connection as it comes from outside, through the real parser: what is refused is the last of its connection, what
 * is accepted has a well-formed head, and each connection ends. */

#include "base/fd.h"
#include "base/str.h"
#include "http/fuzz_server.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TURNS_MAX 1000

static unsigned begun, refused;

static void on_begin(struct http_request *r, void *data)
{
        const char *name, *value;

        (void)data;
        if (refused > 0 || (http_path(r)[0] != '/' && !str_eq(http_path(r), "*")))
                abort();
        begun++;
        for (size_t i = 0; http_query_at(r, i, &name, &value); i++)
                if (!name || !value)
                        abort();
        if (http_header(r, "Content-Length") && http_header(r, "Transfer-Encoding"))
                abort();
        if (http_content_length(r) > 0 && !http_has_body(r))
                abort();
}

static int on_body(struct http_request *r, const void *piece, size_t len, void *data)
{
        (void)piece;
        (void)len;
        (void)data;
        if (!http_has_body(r))
                abort();
        return 0;
}

static void on_end(struct http_request *r, void *data)
{
        (void)data;
        if (http_reply(r, 200, "text/plain", "ok", 2) < 0)
                abort();
}

static void on_bad(struct http_request *r, int status, const char *why, void *data)
{
        (void)data;
        if (status < 400 || !why)
                abort();
        refused++;
        (void)http_reply(r, status, "text/plain", why, strlen(why));
}

static void put(int fd, const uint8_t *data, size_t size)
{
        for (unsigned i = 0; size > 0 && i < TURNS_MAX; i++) {
                ssize_t n = send(fd, data, size, MSG_NOSIGNAL);

                if (n < 0 && errno != EAGAIN)
                        return;
                if (n > 0) {
                        data += n;
                        size -= (size_t)n;
                }
                (void)loop_turn(loop, 0, NULL);
        }
}

/* Nothing but whole answers, one after the other; the last may be cut. */
static void check_answers(const char *p)
{
        while (*p) {
                const char *length, *end = strstr(p, "\r\n\r\n");
                size_t n;

                if (!str_starts(p, "HTTP/1."))
                        abort();
                if (!end)
                        return;
                length = strcasestr(p, "\r\nContent-Length: ");
                n = length && length < end ? strtoul(length + 18, NULL, 10) : 0;
                p = end + 4;
                if (strlen(p) < n)
                        return;
                p += n;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const struct http_handler handler = { .begin = on_begin, .body = on_body, .end = on_end, .bad = on_bad };
        auto_str answers = STR_INIT;
        char answer[4096];
        size_t cut;
        int fd;

        if (!loop)
                serve(&handler);
        if (size < 2)
                return 0;
        begun = refused = 0;
        fd = connect_to_it();
        if (fd_set_nonblock(fd, true) < 0)
                abort();
        /* The first bytes say where the rest is cut in two. */
        cut = (size_t)data[0] % (size - 1);
        put(fd, data + 1, cut);
        put(fd, data + 1 + cut, size - 1 - cut);
        (void)shutdown(fd, SHUT_WR);
        for (unsigned i = 0;; i++) {
                ssize_t n = recv(fd, answer, sizeof(answer), 0);

                if (n == 0 || (n < 0 && errno == ECONNRESET))
                        break;
                if (n > 0 && str_add(&answers, answer, (size_t)n) < 0)
                        abort();
                if (refused > 1)
                        abort();
                if (n > 0)
                        i = 0;
                else if (i == TURNS_MAX)
                        abort();
                if (n < 0)
                        (void)loop_turn(loop, 1, NULL);
        }
        fd_close(fd);
        /* The answer to HEAD has a length and no body. */
        if (answers.len > 0 && !memmem(data, size, "HEAD", 4))
                check_answers(answers.data);
        for (unsigned i = 0; i < 4; i++)
                (void)loop_turn(loop, 0, NULL);
        return 0;
}
