#include "http/client.h"

#include "base/fd.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define DEFAULT_MAX_ANSWER ((size_t)1 << 30)
#define CONNECT_TIMEOUT_MS 10000L

struct http_client {
        CURL *curl;
        char *socket; /* path; NULL: TCP */
        char *base;   /* scheme and authority, no slash at the end */
        char *key;
};

/* ── host ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int host_parse(struct http_client *c, const char *host, struct err *err)
{
        size_t len;

        if (str_starts(host, "unix://")) {
                if (host[7] != '/')
                        return err_set(err, EINVAL, "host '%s': the path of the socket must be absolute", host);
                c->socket = strdup(host + 7);
                c->base = strdup("http://localhost");
                return c->socket && c->base ? 0 : err_oom(err);
        }
        if (!str_starts(host, "http://") && !str_starts(host, "https://"))
                return err_set(err, EINVAL, "host '%s': not unix://, http:// or https://", host);
        c->base = strdup(host);
        if (!c->base)
                return err_oom(err);
        len = strlen(c->base);
        while (len > 0 && c->base[len - 1] == '/')
                c->base[--len] = '\0';
        return 0;
}

int http_client_new(const char *host, const char *key, struct http_client **ret, struct err *err)
{
        struct http_client *c;
        int r;

        c = calloc(1, sizeof(*c));
        if (!c)
                return err_oom(err);
        r = host_parse(c, host, err);
        if (r == 0 && key) {
                c->key = strdup(key);
                if (!c->key)
                        r = err_oom(err);
        }
        if (r == 0 && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                r = err_set(err, EIO, "libcurl does not start");
        if (r == 0) {
                c->curl = curl_easy_init();
                if (!c->curl)
                        r = err_oom(err);
        }
        if (r < 0) {
                http_client_free(c);
                return r;
        }
        *ret = c;
        return 0;
}

void http_client_free(struct http_client *c)
{
        if (!c)
                return;
        if (c->curl)
                curl_easy_cleanup(c->curl);
        free(c->socket);
        free(c->base);
        free(c->key);
        free(c);
}

void http_answer_done(struct http_answer *a)
{
        str_done(&a->body);
}

/* ── one request ───────────────────────────────────────────────────────────────────────────────────────────────────── */

struct transfer {
        const struct http_client_request *request;
        struct http_answer *answer;
        size_t sent, max;
        uint64_t size; /* of the body; UINT64_MAX: unknown */
        int read_error;
        bool too_large, out_of_memory;
};

static size_t on_answer(char *data, size_t size, size_t n, void *arg)
{
        struct transfer *t = arg;
        size_t len = size * n;

        if (len > t->max - t->answer->body.len) {
                t->too_large = true;
                return 0;
        }
        if (str_add(&t->answer->body, data, len) < 0) {
                t->out_of_memory = true;
                return 0;
        }
        return len;
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

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
        struct transfer *t = arg;

        header_copy(line, size * n, "Content-Type", t->answer->content_type, sizeof(t->answer->content_type));
        header_copy(line, size * n, "Location", t->answer->location, sizeof(t->answer->location));
        return size * n;
}

static size_t on_body(char *out, size_t size, size_t n, void *arg)
{
        struct transfer *t = arg;
        const struct http_client_request *q = t->request;
        size_t max = size * n;
        ssize_t got;

        if (q->body_fd >= 0 && !q->body) {
                do {
                        got = read(q->body_fd, out, max);
                } while (got < 0 && errno == EINTR && !(q->abort && *q->abort));
                if (got < 0) {
                        t->read_error = errno;
                        return CURL_READFUNC_ABORT;
                }
        } else {
                got = (ssize_t)MIN(max, q->body_len - t->sent);
                memcpy(out, (const char *)q->body + t->sent, (size_t)got);
        }
        t->sent += (size_t)got;
        return (size_t)got;
}

static int on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
        struct transfer *t = arg;

        (void)down_total;
        (void)down;
        (void)up_total;
        if (t->request->progress)
                t->request->progress((uint64_t)up, t->request->progress_data);
        return t->request->abort && *t->request->abort;
}

static uint64_t body_size(const struct http_client_request *q)
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

static int headers_add(struct curl_slist **list, const char *line, struct err *err)
{
        struct curl_slist *longer = curl_slist_append(*list, line);

        if (!longer)
                return err_oom(err);
        *list = longer;
        return 0;
}

static int headers_make(const struct http_client_request *q, bool has_body, uint64_t size, struct curl_slist **list,
                        struct err *err)
{
        auto_str type = STR_INIT;
        int r;

        if (str_addf(&type, "Content-Type:%s%s", q->content_type ? " " : "", q->content_type ?: "") < 0)
                return err_oom(err);
        r = headers_add(list, type.data, err);
        /* The server is near or fast: no round trip is spent on asking. */
        if (r == 0)
                r = headers_add(list, "Expect:", err);
        if (r == 0 && has_body && size == UINT64_MAX)
                r = headers_add(list, "Transfer-Encoding: chunked", err);
        for (size_t i = 0; r == 0 && q->headers && q->headers[i]; i++)
                r = headers_add(list, q->headers[i], err);
        return r;
}

static void set_protocols(CURL *curl)
{
#if LIBCURL_VERSION_NUM >= 0x075500
        (void)curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
        (void)curl_easy_setopt(curl, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
}

static void set_options(struct http_client *c, const struct http_client_request *q, struct transfer *t, bool has_body)
{
        CURL *curl = c->curl;

        curl_easy_reset(curl); /* keeps the connection */
        set_protocols(curl);
        (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
        (void)curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
        (void)curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
        (void)curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
        if (c->socket) {
                (void)curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, c->socket);
                (void)curl_easy_setopt(curl, CURLOPT_PROXY, "");
        }
        if (c->key) {
                (void)curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
                (void)curl_easy_setopt(curl, CURLOPT_USERPWD, c->key);
        }
        if (has_body) {
                (void)curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
                (void)curl_easy_setopt(curl, CURLOPT_UPLOAD_BUFFERSIZE, 256 * 1024L);
                (void)curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_body);
                (void)curl_easy_setopt(curl, CURLOPT_READDATA, t);
                if (t->size != UINT64_MAX)
                        (void)curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)t->size);
        } else if (strcmp(q->method, "HEAD") == 0) {
                (void)curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
        }
        (void)curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, q->method);
        (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_answer);
        (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
        (void)curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
        (void)curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
        if (q->progress || q->abort) {
                (void)curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
                (void)curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
                (void)curl_easy_setopt(curl, CURLOPT_XFERINFODATA, t);
        }
}

/* What the connection failed with, from the system's own number where there is one. */
static int connect_errno(CURL *curl, const struct http_client *c)
{
        long number = 0;

        (void)curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &number);
        if (number > 0)
                return (int)number;
        return c->socket && access(c->socket, F_OK) < 0 ? ENOENT : ECONNREFUSED;
}

static int failure(struct http_client *c, const struct transfer *t, CURLcode code, const char *text, struct err *err)
{
        const char *where = c->socket ? c->socket : c->base;

        if (t->out_of_memory || code == CURLE_OUT_OF_MEMORY)
                return err_oom(err);
        if (t->too_large)
                return err_set(err, EFBIG, "%s: the answer is longer than %zu bytes", where, t->max);
        if (t->read_error)
                return err_set(err, t->read_error, "read the body: %s", strerror(t->read_error));
        switch (code) {
        case CURLE_ABORTED_BY_CALLBACK:
                return err_set(err, ECANCELED, "cancelled");
        case CURLE_COULDNT_CONNECT: {
                int number = connect_errno(c->curl, c);

                return err_set(err, number, "connect to %s: %s", where, strerror(number));
        }
        case CURLE_COULDNT_RESOLVE_HOST:
                return err_set(err, EHOSTUNREACH, "%s: the name is not known", where);
        case CURLE_OPERATION_TIMEDOUT:
                return err_set(err, ETIMEDOUT, "%s: no answer in time", where);
        case CURLE_GOT_NOTHING:
        case CURLE_RECV_ERROR:
        case CURLE_SEND_ERROR:
        case CURLE_PARTIAL_FILE:
                return err_set(err, ECONNRESET, "%s: the connection was closed before the answer was complete", where);
        default:
                return err_set(err, EIO, "%s: %s", where, *text ? text : curl_easy_strerror(code));
        }
}

int http_client_do(struct http_client *c, const struct http_client_request *request, struct http_answer *ret,
                   struct err *err)
{
        auto_answer answer = { .status = 0 };
        struct transfer t = {
                .request = request,
                .answer = &answer,
                .max = request->max_answer ? request->max_answer : DEFAULT_MAX_ANSWER,
                .size = body_size(request),
        };
        bool has_body = request->body || request->body_fd >= 0;
        char text[CURL_ERROR_SIZE] = "";
        struct curl_slist *headers = NULL;
        auto_free char *url = NULL;
        CURLcode code;
        int r;

        url = str_printf("%s%s", c->base, request->path);
        if (!url)
                return err_oom(err);
        r = headers_make(request, has_body, t.size, &headers, err);
        if (r < 0) {
                curl_slist_free_all(headers);
                return r;
        }
        set_options(c, request, &t, has_body);
        (void)curl_easy_setopt(c->curl, CURLOPT_URL, url);
        (void)curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
        (void)curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, text);
        code = curl_easy_perform(c->curl);
        (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &answer.status);
        curl_slist_free_all(headers);
        /* The buffer for the text ends with this function. */
        (void)curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, NULL);
        (void)curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, NULL);
        if (code != CURLE_OK)
                return failure(c, &t, code, text, err);
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
