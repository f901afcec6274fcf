#include "http/client.h"

#include "http/client_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* ── hosts ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int host_parse(struct http_client *c, const struct http_client_options *o, struct err *err)
{
        const char *host = o->host;
        size_t len;

        c->host = strdup(host);
        if (!c->host)
                return err_oom(err);
        if (str_starts(host, "unix://")) {
                if (host[7] != '/')
                        return err_set(err, EINVAL, "host '%s': the path of the socket must be absolute", host);
                c->socket = strdup(host + 7);
                return c->socket ? 0 : err_oom(err);
        }
        if (str_starts(host, "ssh://"))
                return http_ssh_parse(host, o->ssh_command, c, err);
        if (!str_starts(host, "http://") && !str_starts(host, "https://"))
                return err_set(err, EINVAL, "host '%s': not unix://, http://, https:// or ssh://", host);
        c->base = strdup(host);
        if (!c->base)
                return err_oom(err);
        len = strlen(c->base);
        while (len > 0 && c->base[len - 1] == '/')
                c->base[--len] = '\0';
        return 0;
}

static int copy(char **to, const char *from)
{
        *to = from ? strdup(from) : NULL;
        return from && !*to ? -ENOMEM : 0;
}

int http_client_open(const struct http_client_options *options, struct http_client **ret, struct err *err)
{
        struct http_client *c;
        int r;

        c = calloc(1, sizeof(*c));
        if (!c)
                return err_oom(err);
        c->own.fd = -EBADF;
        r = host_parse(c, options, err);
        if (r == 0 && (copy(&c->key, options->key) < 0 || copy(&c->cacert, options->cacert) < 0 ||
                       copy(&c->pin, options->pin) < 0))
                r = err_oom(err);
        if (r < 0) {
                http_client_free(c);
                return r;
        }
        *ret = c;
        return 0;
}

int http_client_new(const char *host, const char *key, struct http_client **ret, struct err *err)
{
        const struct http_client_options options = { .host = host, .key = key };

        return http_client_open(&options, ret, err);
}

void http_client_free(struct http_client *c)
{
        if (!c)
                return;
        http_own_close(&c->own);
        http_curl_free(c->curl);
        free(c->host);
        free(c->socket);
        free(c->ssh_destination);
        free(c->ssh_port);
        free(c->ssh_line);
        free(c->base);
        free(c->key);
        free(c->cacert);
        free(c->pin);
        free(c);
}

void http_answer_done(struct http_answer *a)
{
        str_done(&a->body);
}

/* ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

bool http_sink_take(struct http_sink *sink, const void *data, size_t len)
{
        const struct http_client_request *q = sink->request;

        if (q->on_data && sink->answer->status < 300) {
                sink->on_data_error = q->on_data(data, len, q->on_data_arg);
                return sink->on_data_error >= 0;
        }
        if (len > sink->max - sink->answer->body.len) {
                sink->too_large = true;
                return false;
        }
        if (str_add(&sink->answer->body, data, len) < 0) {
                sink->out_of_memory = true;
                return false;
        }
        return true;
}

static void header_copy(const char *line, size_t len, const char *name, char *out, size_t max)
{
        size_t n = strlen(name);

        if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
                return;
        line += n + 1;
        len -= n + 1;
        while (len > 0 && (*line == ' ' || *line == '\t')) {
                line++;
                len--;
        }
        while (len > 0 && (unsigned char)line[len - 1] <= ' ')
                len--;
        if (len >= max)
                return;
        memcpy(out, line, len);
        out[len] = '\0';
}

void http_sink_header(struct http_sink *sink, const char *line, size_t len)
{
        struct http_answer *a = sink->answer;

        header_copy(line, len, "Content-Type", a->content_type, sizeof(a->content_type));
        header_copy(line, len, "Location", a->location, sizeof(a->location));
}

int http_sink_failure(const struct http_sink *sink, const char *where, struct err *err)
{
        if (sink->out_of_memory)
                return err_oom(err);
        if (sink->too_large)
                return err_set(err, EFBIG, "%s: the answer is longer than %zu bytes", where, sink->max);
        if (sink->on_data_error < 0)
                return err_set(err, -sink->on_data_error, "take the answer: %s", strerror(-sink->on_data_error));
        return 0;
}

/* ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

int http_headers_check(const char *const *headers, struct err *err)
{
        for (; headers && *headers; headers++)
                if (strpbrk(*headers, "\r\n"))
                        return err_set(err, EINVAL, "the header '%.*s' holds a line break",
                                       (int)strcspn(*headers, ":\r\n"), *headers);
        return 0;
}

uint64_t http_body_size(const struct http_client_request *q)
{
        struct stat st;
        off_t at;

        if (q->body || q->body_fd < 0)
                return q->body_len;
        if (fstat(q->body_fd, &st) < 0 || !S_ISREG(st.st_mode))
                return UINT64_MAX;
        at = lseek(q->body_fd, 0, SEEK_CUR);
        return at < 0 || at > st.st_size ? UINT64_MAX : (uint64_t)(st.st_size - at);
}

bool http_aborted(const struct http_client_request *q)
{
        return q->abort && *q->abort;
}

int http_client_do(struct http_client *c, const struct http_client_request *request, struct http_answer *ret,
                   struct err *err)
{
        auto_answer answer = { .status = 0 };
        struct http_sink sink = {
                .request = request,
                .answer = &answer,
                .max = request->max_answer ? request->max_answer : HTTP_ANSWER_MAX,
        };
        int r = http_headers_check(request->headers, err);

        if (r < 0)
                return r;
        r = c->base ? http_curl_do(c, request, &sink, err) : http_own_do(c, request, &sink, err);
        if (r < 0)
                return r;
        *ret = answer;
        answer.body = (struct str)STR_INIT;
        return 0;
}

int http_encode(struct str *out, const char *text)
{
        static const char unreserved[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

        for (const char *p = text; *p; p++) {
                int r = strchr(unreserved, *p) ? str_addc(out, *p) : str_addf(out, "%%%02X", (unsigned char)*p);

                if (r < 0)
                        return r;
        }
        return 0;
}
