/* GET /v1/tasks/{id}/stdout, …/stderr: the bytes, as they were written. */

#include "api/internal.h"
#include "api/text.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define PIECE ((size_t)256 * 1024)
#define OCTETS "application/octet-stream"

static int stream_of(const struct call *c)
{
        return str_ends(c->route->path, "/stderr") ? 1 : 0;
}

/* A parameter that is a number of bytes. False after having answered. */
static bool read_bytes(struct call *c, const char *name, uint64_t *ret)
{
        const char *value = call_query(c, name);

        if (!value || (parse_u64(value, ret) == 0 && *ret <= (uint64_t)1 << 40))
                return true;
        call_problem(c, 400, "bad_request", "%s: not a number of bytes", name);
        return false;
}

/* The part that the parameters name: first offset, then tail. */
static bool read_part(struct call *c, uint64_t *offset, uint64_t *tail)
{
        *offset = 0;
        *tail = UINT64_MAX;
        return read_bytes(c, "offset", offset) && read_bytes(c, "tail", tail);
}

static void answer_bytes(struct call *c, int status, const void *data, uint64_t len)
{
        auto_str text = STR_INIT;

        (void)http_add_header(c->http, "Accept-Ranges", "bytes");
        if (str_add(&text, data, len) < 0)
                call_oom(c);
        else
                call_send(c, status, OCTETS, &text);
}

/* `data` is all that is kept of the stream. */
static void answer_output(struct call *c, const char *data, uint64_t size)
{
        const char *range = http_header(c->http, "Range");
        uint64_t offset, tail, first = 0, len = 0;
        char text[80];
        int r = -ENOENT;

        if (!read_part(c, &offset, &tail))
                return;
        offset = MIN(offset, size);
        offset += size - offset - MIN(tail, size - offset);
        data = data ? data + offset : "";
        size -= offset;
        if (range)
                r = range_parse(range, size, &first, &len);
        if (r == -ENOENT) {
                answer_bytes(c, 200, data, size);
        } else if (r < 0) {
                (void)snprintf(text, sizeof(text), "bytes */%" PRIu64, size);
                (void)http_add_header(c->http, "Content-Range", text);
                call_problem(c, 416, "range_not_satisfiable", "the stream has %" PRIu64 " bytes", size);
        } else {
                (void)snprintf(text, sizeof(text), "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, first, first + len - 1,
                               size);
                (void)http_add_header(c->http, "Content-Range", text);
                answer_bytes(c, 206, data + first, len);
        }
}

static void found_output(struct call *c, const struct history_record *record)
{
        const struct str *out = &record->out[stream_of(c)];

        if (call_charge(c, out->len))
                answer_output(c, out->data, out->len);
}

int task_read_all(struct call *c, struct task *t, enum engine_stream stream, uint64_t offset, struct str *out)
{
        ssize_t n;

        do {
                if (!call_charge(c, PIECE))
                        return -ENOBUFS;
                if (str_reserve(out, PIECE) < 0)
                        return -ENOMEM;
                n = task_read_output(t, stream, offset + out->len, out->data + out->len, PIECE);
                if (n > 0) {
                        out->len += (size_t)n;
                        out->data[out->len] = '\0';
                }
        } while (n > 0);
        return n < 0 ? (int)n : 0;
}

static void tasks_output_run(struct call *c)
{
        struct task *t = task_locate(c, found_output);
        auto_str text = STR_INIT;
        int r;

        if (!t)
                return;
        r = task_read_all(c, t, stream_of(c) ? ENGINE_STDERR : ENGINE_STDOUT, 0, &text);
        if (r == -ENOMEM)
                call_oom(c);
        else if (r < 0)
                call_problem(c, 500, "internal", "%s", strerror(-r));
        else
                answer_output(c, text.data, text.len);
}

void tasks_stdout_run(struct call *c)
{
        tasks_output_run(c);
}

void tasks_stderr_run(struct call *c)
{
        tasks_output_run(c);
}
