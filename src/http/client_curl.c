/* TCP and TLS by libcurl, which is loaded when the first request needs it: a command that talks to its own machine does not
 * wait for it. */

#define CURL_DISABLE_TYPECHECK
#include "base/fd.h"
#include "http/client_internal.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Its macros would name the functions, which are not linked. */
#undef curl_easy_setopt
#undef curl_easy_getinfo

#define LIBRARY "libcurl.so.4"

static struct {
        void *handle;
        __typeof__(curl_global_init) *global_init;
        __typeof__(curl_easy_init) *easy_init;
        __typeof__(curl_easy_cleanup) *easy_cleanup;
        __typeof__(curl_easy_reset) *easy_reset;
        __typeof__(curl_easy_setopt) *setopt;
        __typeof__(curl_easy_perform) *perform;
        __typeof__(curl_easy_getinfo) *getinfo;
        __typeof__(curl_easy_strerror) *strerror;
        __typeof__(curl_easy_send) *send;
        __typeof__(curl_easy_recv) *recv;
        __typeof__(curl_slist_append) *slist_append;
        __typeof__(curl_slist_free_all) *slist_free_all;
} lib;

struct http_curl {
        CURL *curl;
};

/* ── loading ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int lib_load(struct err *err)
{
        const struct {
                const char *name;
                void **to;
        } symbols[] = {
                { "curl_global_init", (void **)&lib.global_init },
                { "curl_easy_init", (void **)&lib.easy_init },
                { "curl_easy_cleanup", (void **)&lib.easy_cleanup },
                { "curl_easy_reset", (void **)&lib.easy_reset },
                { "curl_easy_setopt", (void **)&lib.setopt },
                { "curl_easy_perform", (void **)&lib.perform },
                { "curl_easy_getinfo", (void **)&lib.getinfo },
                { "curl_easy_strerror", (void **)&lib.strerror },
                { "curl_easy_send", (void **)&lib.send },
                { "curl_easy_recv", (void **)&lib.recv },
                { "curl_slist_append", (void **)&lib.slist_append },
                { "curl_slist_free_all", (void **)&lib.slist_free_all },
        };

        if (lib.handle)
                return 0;
        lib.handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
        if (!lib.handle)
                return err_set(err, ENOPKG, "hosts over TCP need libcurl: %s", dlerror());
        for (size_t i = 0; i < ARRAY_LEN(symbols); i++) {
                *symbols[i].to = dlsym(lib.handle, symbols[i].name);
                if (!*symbols[i].to) {
                        (void)dlclose(lib.handle);
                        lib.handle = NULL;
                        return err_set(err, ENOPKG, "%s has no %s", LIBRARY, symbols[i].name);
                }
        }
        if (lib.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                return err_set(err, EIO, "libcurl does not start");
        return 0;
}

static int curl_new(struct http_curl **ret, struct err *err)
{
        struct http_curl *h;
        int r = lib_load(err);

        if (r < 0)
                return r;
        h = calloc(1, sizeof(*h));
        if (!h)
                return err_oom(err);
        h->curl = lib.easy_init();
        if (!h->curl) {
                free(h);
                return err_oom(err);
        }
        *ret = h;
        return 0;
}

void http_curl_free(struct http_curl *curl)
{
        if (!curl)
                return;
        lib.easy_cleanup(curl->curl);
        free(curl);
}

/* ── one request ───────────────────────────────────────────────────────────────────────────────────────────────────── */

struct transfer {
        const struct http_client_request *q;
        struct http_sink *sink;
        CURL *curl;
        size_t sent;
        uint64_t size;
        int read_error;
};

static size_t on_answer(char *data, size_t size, size_t n, void *arg)
{
        struct transfer *t = arg;

        if (t->sink->answer->status == 0)
                (void)lib.getinfo(t->curl, CURLINFO_RESPONSE_CODE, &t->sink->answer->status);
        return http_sink_take(t->sink, data, size * n) ? size * n : 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
        struct transfer *t = arg;

        http_sink_header(t->sink, line, size * n);
        return size * n;
}

static size_t on_body(char *out, size_t size, size_t n, void *arg)
{
        struct transfer *t = arg;
        const struct http_client_request *q = t->q;
        size_t max = size * n;
        ssize_t got;

        if (q->body_fd >= 0 && !q->body) {
                do {
                        got = read(q->body_fd, out, max);
                } while (got < 0 && errno == EINTR && !http_aborted(q));
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
        if (t->q->progress)
                t->q->progress((uint64_t)up, t->q->progress_data);
        return http_aborted(t->q);
}

static int headers_add(struct curl_slist **list, const char *line, struct err *err)
{
        struct curl_slist *longer = lib.slist_append(*list, line);

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

static void set_connection(const struct http_client *c, CURL *curl)
{
#if LIBCURL_VERSION_NUM >= 0x075500
        (void)lib.setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
        (void)lib.setopt(curl, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
        (void)lib.setopt(curl, CURLOPT_NOSIGNAL, 1L);
        (void)lib.setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
        (void)lib.setopt(curl, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
        (void)lib.setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)HTTP_CONNECT_TIMEOUT_MS);
        (void)lib.setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
        /* Plain HTTP is for this machine: http_proxy of the environment would be told the key. */
        if (str_starts(c->base, "http://"))
                (void)lib.setopt(curl, CURLOPT_PROXY, "");
        if (c->cacert)
                (void)lib.setopt(curl, CURLOPT_CAINFO, c->cacert);
        if (c->pin) {
                /* Whose key it is, is known: by whom it was signed, and for which name, adds nothing. */
                (void)lib.setopt(curl, CURLOPT_PINNEDPUBLICKEY, c->pin);
                (void)lib.setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
                (void)lib.setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
        }
}

static void set_options(struct http_client *c, struct transfer *t, bool has_body)
{
        const struct http_client_request *q = t->q;
        CURL *curl = t->curl;

        lib.easy_reset(curl); /* keeps the connection */
        set_connection(c, curl);
        if (c->key) {
                (void)lib.setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
                (void)lib.setopt(curl, CURLOPT_USERPWD, c->key);
        }
        if (has_body) {
                (void)lib.setopt(curl, CURLOPT_UPLOAD, 1L);
                (void)lib.setopt(curl, CURLOPT_UPLOAD_BUFFERSIZE, 256 * 1024L);
                (void)lib.setopt(curl, CURLOPT_READFUNCTION, on_body);
                (void)lib.setopt(curl, CURLOPT_READDATA, t);
                if (t->size != UINT64_MAX)
                        (void)lib.setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)t->size);
        } else if (str_eq(q->method, "HEAD")) {
                (void)lib.setopt(curl, CURLOPT_NOBODY, 1L);
        }
        (void)lib.setopt(curl, CURLOPT_CUSTOMREQUEST, q->method);
        (void)lib.setopt(curl, CURLOPT_WRITEFUNCTION, on_answer);
        (void)lib.setopt(curl, CURLOPT_WRITEDATA, t);
        (void)lib.setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
        (void)lib.setopt(curl, CURLOPT_HEADERDATA, t);
        if (q->progress || q->abort) {
                (void)lib.setopt(curl, CURLOPT_NOPROGRESS, 0L);
                (void)lib.setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
                (void)lib.setopt(curl, CURLOPT_XFERINFODATA, t);
        }
}

static int failure(CURL *curl, const char *where, CURLcode code, const char *text, struct err *err)
{
        long number = 0;

        switch (code) {
        case CURLE_OUT_OF_MEMORY:
                return err_oom(err);
        case CURLE_ABORTED_BY_CALLBACK:
                return err_set(err, ECANCELED, "cancelled");
        case CURLE_COULDNT_CONNECT:
                /* From the system's own number where there is one. */
                (void)lib.getinfo(curl, CURLINFO_OS_ERRNO, &number);
                if (number <= 0)
                        number = ECONNREFUSED;
                return err_set(err, (int)number, "connect to %s: %s", where, strerror((int)number));
        case CURLE_COULDNT_RESOLVE_HOST:
                return err_set(err, EHOSTUNREACH, "%s: the name is not known", where);
        case CURLE_OPERATION_TIMEDOUT:
                return err_set(err, ETIMEDOUT, "%s: no answer in time", where);
        case CURLE_PEER_FAILED_VERIFICATION:
                return err_set(err, EKEYREJECTED, "%s: its certificate is not trusted: %s", where, text);
        case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
                return err_set(err, EKEYREJECTED, "%s: its key is not the one that was pinned", where);
        case CURLE_GOT_NOTHING:
        case CURLE_RECV_ERROR:
        case CURLE_SEND_ERROR:
        case CURLE_PARTIAL_FILE:
                return err_set(err, ECONNRESET, "%s: the connection was closed before the answer was complete", where);
        default:
                return err_set(err, EIO, "%s: %s", where, *text ? text : lib.strerror(code));
        }
}

static int transfer_run(struct http_client *c, struct transfer *t, const char *url, struct curl_slist *headers,
                        struct err *err)
{
        char text[CURL_ERROR_SIZE] = "";
        CURLcode code;
        int r;

        (void)lib.setopt(t->curl, CURLOPT_URL, url);
        (void)lib.setopt(t->curl, CURLOPT_HTTPHEADER, headers);
        (void)lib.setopt(t->curl, CURLOPT_ERRORBUFFER, text);
        code = lib.perform(t->curl);
        (void)lib.getinfo(t->curl, CURLINFO_RESPONSE_CODE, &t->sink->answer->status);
        /* The buffer for the text ends with this function. */
        (void)lib.setopt(t->curl, CURLOPT_ERRORBUFFER, NULL);
        (void)lib.setopt(t->curl, CURLOPT_HTTPHEADER, NULL);
        if (code == CURLE_OK)
                return 0;
        r = http_sink_failure(t->sink, c->base, err);
        if (r < 0)
                return r;
        if (t->read_error)
                return err_set(err, t->read_error, "read the body: %s", strerror(t->read_error));
        return failure(t->curl, c->base, code, text, err);
}

int http_curl_do(struct http_client *c, const struct http_client_request *q, struct http_sink *sink, struct err *err)
{
        struct transfer t = { .q = q, .sink = sink, .size = http_body_size(q) };
        bool has_body = q->body || q->body_fd >= 0;
        struct curl_slist *headers = NULL;
        auto_free char *url = str_printf("%s%s", c->base, q->path);
        int r;

        if (!url)
                return err_oom(err);
        r = c->curl ? 0 : curl_new(&c->curl, err);
        if (r < 0)
                return r;
        t.curl = c->curl->curl;
        r = headers_make(q, has_body, t.size, &headers, err);
        if (r == 0) {
                set_options(c, &t, has_body);
                r = transfer_run(c, &t, url, headers, err);
        }
        lib.slist_free_all(headers);
        return r;
}

/* ── a connection alone ────────────────────────────────────────────────────────────────────────────────────────────── */

int http_curl_connect(struct http_client *c, struct http_curl **ret, int *ret_fd, struct err *err)
{
        char text[CURL_ERROR_SIZE] = "";
        struct http_curl *h = NULL;
        curl_socket_t fd = CURL_SOCKET_BAD;
        CURLcode code;
        int r = curl_new(&h, err);

        if (r < 0)
                return r;
        set_connection(c, h->curl);
        (void)lib.setopt(h->curl, CURLOPT_URL, c->base);
        (void)lib.setopt(h->curl, CURLOPT_CONNECT_ONLY, 1L);
        (void)lib.setopt(h->curl, CURLOPT_ERRORBUFFER, text);
        code = lib.perform(h->curl);
        (void)lib.setopt(h->curl, CURLOPT_ERRORBUFFER, NULL);
        if (code == CURLE_OK)
                code = lib.getinfo(h->curl, CURLINFO_ACTIVESOCKET, &fd);
        if (code != CURLE_OK || fd == CURL_SOCKET_BAD) {
                r = failure(h->curl, c->base, code == CURLE_OK ? CURLE_COULDNT_CONNECT : code, text, err);
                http_curl_free(h);
                return r;
        }
        *ret = h;
        *ret_fd = fd;
        return 0;
}

ssize_t http_curl_send(struct http_curl *curl, const void *data, size_t len)
{
        size_t n = 0;
        CURLcode code = lib.send(curl->curl, data, len, &n);

        if (code == CURLE_AGAIN)
                return -EAGAIN;
        return code == CURLE_OK ? (ssize_t)n : -ECONNRESET;
}

ssize_t http_curl_recv(struct http_curl *curl, void *data, size_t len)
{
        size_t n = 0;
        CURLcode code = lib.recv(curl->curl, data, len, &n);

        if (code == CURLE_AGAIN)
                return -EAGAIN;
        return code == CURLE_OK ? (ssize_t)n : -ECONNRESET;
}
