#include "http/fetch.h"

#include "base/list.h"
#include "base/str.h"
#include "base/time.h"
#include "base/vec.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_CONNECTIONS 64
#define MAX_CONNECTIONS_PER_HOST 16
#define CONNECT_TIMEOUT_MS 10000
#define STALL_BYTES 1
#define STALL_S 60
#define KEEPALIVE_S 30
#define MAX_HEADER (64 * 1024)

struct fetcher {
        struct loop *loop;
        CURLM *multi;
        struct loop_timer timer, work_timer;
        struct list fetches;
        struct list work; /* what shall be resumed, on the loop */
        unsigned in_callback;
};

/* What a descriptor of libcurl's is watched by. */
struct watch {
        struct fetcher *fetcher;
        struct loop_io *io;
        curl_socket_t fd;
};

struct field {
        char *name, *value;
};

/*   START ──▶ HEAD ──▶ BODY ──▶ (done, freed)
 *     └────────┴────────┴─────▶ CANCELLED ──▶ (freed, when libcurl has let go) */
enum fetch_state { FETCH_START, FETCH_HEAD, FETCH_BODY, FETCH_CANCELLED };

struct fetch {
        struct fetcher *fetcher;
        struct fetch_handler handler;
        void *arg;
        CURL *curl;
        struct list node, work_node;
        enum fetch_state state;
        struct curl_slist *headers;
        char *body;
        size_t body_len, body_at;
        bool has_send;
        unsigned status;
        VEC(struct field) fields;
        size_t header_bytes, max_header;
        int error; /* of a handler */
        bool paused, send_paused;
        bool too_long, out_of_memory, refused;
        char text[CURL_ERROR_SIZE];
};

static void fetch_free(struct fetch *f)
{
        list_remove(&f->node);
        list_remove(&f->work_node);
        if (f->curl)
                curl_easy_cleanup(f->curl);
        curl_slist_free_all(f->headers);
        for (size_t i = 0; i < f->fields.len; i++) {
                free(f->fields.items[i].name);
                free(f->fields.items[i].value);
        }
        VEC_DONE(&f->fields);
        free(f->body);
        free(f);
}

/* ── ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int connect_error(const struct fetch *f, struct err *err)
{
        long number = 0;

        (void)curl_easy_getinfo(f->curl, CURLINFO_OS_ERRNO, &number);
        if (number <= 0)
                number = ECONNREFUSED;
        return err_set(err, (int)number, "connect: %s", strerror((int)number));
}

static int fetch_result(const struct fetch *f, CURLcode code, struct err *err)
{
        const char *text = *f->text ? f->text : curl_easy_strerror(code);

        if (code == CURLE_OK)
                return 0;
        if (f->out_of_memory || code == CURLE_OUT_OF_MEMORY)
                return err_oom(err);
        if (f->error < 0)
                return err_set(err, -f->error, "%s", strerror(-f->error));
        if (f->too_long)
                return err_set(err, EMSGSIZE, "the headers of the answer are longer than %zu bytes", f->max_header);
        if (f->refused && code == CURLE_COULDNT_CONNECT)
                return err_set(err, EPERM, "an address that may not be connected to");
        switch (code) {
        case CURLE_SSL_CONNECT_ERROR:
        case CURLE_WEIRD_SERVER_REPLY:
        case CURLE_UNSUPPORTED_PROTOCOL:
                return err_set(err, EPROTO, "%s", text);
        case CURLE_COULDNT_CONNECT:
                return connect_error(f, err);
        case CURLE_COULDNT_RESOLVE_HOST:
        case CURLE_COULDNT_RESOLVE_PROXY:
                return err_set(err, EHOSTUNREACH, "%s", text);
        case CURLE_OPERATION_TIMEDOUT:
                return err_set(err, ETIMEDOUT, "%s", text);
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
        case CURLE_SSL_CACERT_BADFILE:
                return err_set(err, EKEYREJECTED, "%s", text);
        case CURLE_GOT_NOTHING:
        case CURLE_RECV_ERROR:
        case CURLE_SEND_ERROR:
        case CURLE_PARTIAL_FILE:
                return err_set(err, ECONNRESET, "the connection was closed before the answer was complete");
        default:
                return err_set(err, EIO, "%s", text);
        }
}

static void fetch_finish(struct fetch *f, CURLcode code)
{
        struct err err = ERR_INIT;
        int result;

        (void)curl_multi_remove_handle(f->fetcher->multi, f->curl);
        result = fetch_result(f, code, &err);
        if (f->state != FETCH_CANCELLED)
                f->handler.done(f, result, &err, f->arg);
        fetch_free(f);
}

static void fetcher_collect(struct fetcher *fetcher)
{
        CURLMsg *message;
        int left;

        while ((message = curl_multi_info_read(fetcher->multi, &left))) {
                CURLcode code = message->data.result;
                char *f = NULL;

                if (message->msg != CURLMSG_DONE)
                        continue;
                (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &f);
                fetch_finish((struct fetch *)(void *)f, code);
        }
}

/* ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void fetcher_act(struct fetcher *fetcher, curl_socket_t fd, int events)
{
        int running;

        (void)curl_multi_socket_action(fetcher->multi, fd, events, &running);
        fetcher_collect(fetcher);
}

static void on_io(struct loop_io *io, uint32_t events, void *data)
{
        struct watch *w = data;
        int mask = (events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                   (events & EPOLLERR ? CURL_CSELECT_ERR : 0);

        (void)io;
        fetcher_act(w->fetcher, w->fd, mask);
}

static int on_socket(CURL *curl, curl_socket_t fd, int what, void *data, void *watch)
{
        struct fetcher *fetcher = data;
        struct watch *w = watch;
        uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);

        (void)curl;
        if (what == CURL_POLL_REMOVE) {
                if (w)
                        loop_io_remove(w->io);
                free(w);
                (void)curl_multi_assign(fetcher->multi, fd, NULL);
                return 0;
        }
        if (w) {
                (void)loop_io_set(w->io, events);
                return 0;
        }
        w = calloc(1, sizeof(*w));
        if (!w)
                return -1;
        w->fetcher = fetcher;
        w->fd = fd;
        if (loop_io_add(fetcher->loop, fd, events, on_io, w, &w->io, NULL) < 0) {
                free(w);
                return -1;
        }
        (void)curl_multi_assign(fetcher->multi, fd, w);
        return 0;
}

static void on_timeout(struct loop_timer *timer, void *data)
{
        (void)timer;
        fetcher_act(data, CURL_SOCKET_TIMEOUT, 0);
}

static int on_timer(CURLM *multi, long ms, void *data)
{
        struct fetcher *fetcher = data;

        (void)multi;
        if (ms < 0)
                loop_timer_cancel(&fetcher->timer);
        else if (loop_timer_set(fetcher->loop, &fetcher->timer, time_mono_ns() + (uint64_t)ms * NS_PER_MS, on_timeout,
                                fetcher) < 0)
                return -1;
        return 0;
}

/* libcurl hands over what it kept at once, in the call that resumes. */
static void on_work(struct loop_timer *timer, void *data)
{
        struct fetcher *fetcher = data;
        struct fetch *f;

        (void)timer;
        while ((f = LIST_FIRST(&fetcher->work, struct fetch, work_node))) {
                list_remove(&f->work_node);
                /* One that waits for its server would hear of it when that answers. */
                if (f->state == FETCH_CANCELLED) {
                        (void)curl_multi_remove_handle(fetcher->multi, f->curl);
                        fetch_free(f);
                        continue;
                }
                (void)curl_easy_pause(f->curl,
                                      (f->paused ? CURLPAUSE_RECV : 0) | (f->send_paused ? CURLPAUSE_SEND : 0));
        }
        fetcher_act(fetcher, CURL_SOCKET_TIMEOUT, 0);
}

static void fetch_work(struct fetch *f)
{
        struct fetcher *fetcher = f->fetcher;

        list_remove(&f->work_node);
        list_append(&fetcher->work, &f->work_node);
        (void)loop_timer_set(fetcher->loop, &fetcher->work_timer, time_mono_ns(), on_work, fetcher);
}

/* ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void fields_clear(struct fetch *f)
{
        for (size_t i = 0; i < f->fields.len; i++) {
                free(f->fields.items[i].name);
                free(f->fields.items[i].value);
        }
        f->fields.len = 0;
}

static bool field_add(struct fetch *f, const char *line, size_t len)
{
        const char *colon = memchr(line, ':', len), *value;
        struct field field;

        if (!colon)
                return true;
        value = colon + 1;
        while (len > 0 && (unsigned char)line[len - 1] <= ' ')
                len--;
        while (value < line + len && (*value == ' ' || *value == '\t'))
                value++;
        field.name = strndup(line, (size_t)(colon - line));
        field.value = strndup(value, value < line + len ? (size_t)(line + len - value) : 0);
        if (field.name && field.value && VEC_ADD(&f->fields, field) == 0)
                return true;
        free(field.name);
        free(field.value);
        f->out_of_memory = true;
        return false;
}

static void head_told(struct fetch *f)
{
        long status = 0;

        (void)curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, &status);
        if (status < 200)
                return;
        f->status = (unsigned)status;
        f->state = FETCH_BODY;
        if (!f->handler.head)
                return;
        f->fetcher->in_callback++;
        f->handler.head(f, f->status, f->arg);
        f->fetcher->in_callback--;
}

static size_t on_header(char *line, size_t size, size_t n, void *data)
{
        struct fetch *f = data;
        size_t len = size * n;

        f->header_bytes += len;
        if (f->header_bytes > f->max_header) {
                f->too_long = true;
                return 0;
        }
        /* Trailers say nothing to anybody here. */
        if (f->state == FETCH_BODY || f->state == FETCH_CANCELLED)
                return len;
        if (len >= 5 && memcmp(line, "HTTP/", 5) == 0) {
                fields_clear(f);
                f->state = FETCH_HEAD;
        } else if (len <= 2) {
                head_told(f);
        } else if (!field_add(f, line, len)) {
                return 0;
        }
        return f->state == FETCH_CANCELLED ? 0 : len;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
        struct fetch *f = arg;
        int r;

        if (f->state == FETCH_CANCELLED)
                return 0;
        if (f->paused)
                return CURL_WRITEFUNC_PAUSE;
        if (!f->handler.data)
                return size * n;
        f->fetcher->in_callback++;
        r = f->handler.data(f, data, size * n, f->arg);
        f->fetcher->in_callback--;
        if (f->state == FETCH_CANCELLED)
                return 0;
        if (r == FETCH_PAUSE) {
                f->paused = true;
                return CURL_WRITEFUNC_PAUSE;
        }
        if (r < 0) {
                f->error = r;
                return 0;
        }
        return size * n;
}

/* ── bodies of requests ────────────────────────────────────────────────────────────────────────────────────────────── */

static size_t on_send(char *out, size_t size, size_t n, void *arg)
{
        struct fetch *f = arg;
        size_t max = size * n;
        ssize_t got;

        if (f->state == FETCH_CANCELLED)
                return CURL_READFUNC_ABORT;
        if (!f->has_send) {
                max = MIN(max, f->body_len - f->body_at);
                memcpy(out, f->body + f->body_at, max);
                f->body_at += max;
                return max;
        }
        f->fetcher->in_callback++;
        got = f->handler.send(f, out, max, f->arg);
        f->fetcher->in_callback--;
        if (got == FETCH_PAUSE && f->state != FETCH_CANCELLED) {
                f->send_paused = true;
                return CURL_READFUNC_PAUSE;
        }
        if (got < 0 || f->state == FETCH_CANCELLED) {
                f->error = got < 0 ? (int)got : 0;
                return CURL_READFUNC_ABORT;
        }
        return (size_t)got;
}

/* A kept connection that the server has closed meanwhile is tried again on a new one. */
static int on_seek(void *arg, curl_off_t offset, int origin)
{
        struct fetch *f = arg;

        if (f->has_send || origin != SEEK_SET || offset < 0 || (uint64_t)offset > f->body_len)
                return CURL_SEEKFUNC_CANTSEEK;
        f->body_at = (size_t)offset;
        return CURL_SEEKFUNC_OK;
}

/* ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int url_check(const char *url, struct err *err)
{
        const char *authority = str_starts(url, "http://") ? url + 7 : str_starts(url, "https://") ? url + 8 : NULL;

        if (!authority)
                return err_set(err, EINVAL, "not a URL of http or https");
        if (memchr(authority, '@', strcspn(authority, "/?#")))
                return err_set(err, EINVAL, "a URL must not hold credentials");
        return 0;
}

static int headers_make(struct fetch *f, const struct fetch_request *q, struct err *err)
{
        static const char *const ours[] = { "Expect:", NULL };
        const char *const *lists[] = { ours, q->headers };

        for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
                for (const char *const *h = lists[i]; h && *h; h++) {
                        struct curl_slist *longer;

                        if (strpbrk(*h, "\r\n"))
                                return err_set(err, EINVAL, "a header holds a line break");
                        longer = curl_slist_append(f->headers, *h);
                        if (!longer)
                                return err_oom(err);
                        f->headers = longer;
                }
        }
        return 0;
}

static CURLcode set_body(struct fetch *f, const struct fetch_request *q)
{
        CURL *c = f->curl;
        CURLcode e;

        if (!q->body && !q->has_send)
                return str_eq(q->method, "HEAD") ? curl_easy_setopt(c, CURLOPT_NOBODY, 1L) : CURLE_OK;
        e = curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
        e = e ?: curl_easy_setopt(c, CURLOPT_READFUNCTION, on_send);
        e = e ?: curl_easy_setopt(c, CURLOPT_READDATA, f);
        e = e ?: curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, on_seek);
        e = e ?: curl_easy_setopt(c, CURLOPT_SEEKDATA, f);
        return e
                       ?: curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE,
                                           (curl_off_t)(q->has_send ? q->send_length : (int64_t)q->body_len));
}

static CURLcode set_trust(struct fetch *f, const struct fetch_request *q)
{
        CURL *c = f->curl;
        CURLcode e = curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);

        if (q->cacert)
                e = e ?: curl_easy_setopt(c, CURLOPT_CAINFO, q->cacert);
        if (q->capath)
                e = e ?: curl_easy_setopt(c, CURLOPT_CAPATH, q->capath);
        if (q->client_cert)
                e = e ?: curl_easy_setopt(c, CURLOPT_SSLCERT, q->client_cert);
        if (q->client_key)
                e = e ?: curl_easy_setopt(c, CURLOPT_SSLKEY, q->client_key);
        if (q->pin) {
                e = e ?: curl_easy_setopt(c, CURLOPT_PINNEDPUBLICKEY, q->pin);
                e = e ?: curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
                e = e ?: curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
        }
        return e;
}

static CURLcode set_times(struct fetch *f, const struct fetch_request *q)
{
        CURL *c = f->curl;
        CURLcode e;

        e = curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS,
                             (long)(q->connect_timeout_ms ? q->connect_timeout_ms : CONNECT_TIMEOUT_MS));
        e = e ?: curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, (long)(q->stall_bytes ? q->stall_bytes : STALL_BYTES));
        e = e ?: curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)(q->stall_s ? q->stall_s : STALL_S));
        if (q->keepalive) {
                e = e ?: curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
                e = e ?: curl_easy_setopt(c, CURLOPT_TCP_KEEPIDLE, (long)KEEPALIVE_S);
                e = e ?: curl_easy_setopt(c, CURLOPT_TCP_KEEPINTVL, (long)KEEPALIVE_S);
        }
        return e ?: curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)q->total_timeout_s);
}

static curl_socket_t on_open(void *data, curlsocktype purpose, struct curl_sockaddr *to)
{
        struct fetch *f = data;

        (void)purpose;
        if (f->state == FETCH_CANCELLED || !f->handler.address(&to->addr, f->arg)) {
                f->refused = true;
                return CURL_SOCKET_BAD;
        }
        return socket(to->family, to->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, to->protocol);
}

static CURLcode set_callbacks(struct fetch *f)
{
        CURL *c = f->curl;
        CURLcode e;

        e = curl_easy_setopt(c, CURLOPT_PRIVATE, (char *)f);
        e = e ?: curl_easy_setopt(c, CURLOPT_ERRORBUFFER, f->text);
        e = e ?: curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
        e = e ?: curl_easy_setopt(c, CURLOPT_HEADERDATA, f);
        e = e ?: curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
        if (f->handler.address) {
                e = e ?: curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, on_open);
                e = e ?: curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, f);
        }
        return e ?: curl_easy_setopt(c, CURLOPT_WRITEDATA, f);
}

static CURLcode set_request(struct fetch *f, const struct fetch_request *q)
{
        CURL *c = f->curl;
        CURLcode e;

#if LIBCURL_VERSION_NUM >= 0x075500
        e = curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
        e = curl_easy_setopt(c, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
        e = e ?: curl_easy_setopt(c, CURLOPT_URL, q->url);
        e = e ?: curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, q->method ? q->method : "GET");
        e = e ?: curl_easy_setopt(c, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
        e = e ?: curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
        e = e ?: curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
        e = e ?: curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
        e = e ?: curl_easy_setopt(c, CURLOPT_PROXY, q->proxy ? q->proxy : "");
        e = e ?: curl_easy_setopt(c, CURLOPT_HTTPHEADER, f->headers);
        if (q->unix_socket)
                e = e ?: curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, q->unix_socket);
        return e;
}

static int fetch_prepare(struct fetch *f, const struct fetch_request *q, struct err *err)
{
        CURLcode e;
        int r = headers_make(f, q, err);

        if (r < 0)
                return r;
        if (q->body) {
                f->body = malloc(q->body_len ? q->body_len : 1);
                if (!f->body)
                        return err_oom(err);
                memcpy(f->body, q->body, q->body_len);
                f->body_len = q->body_len;
        }
        f->has_send = q->has_send;
        f->max_header = q->max_header ? q->max_header : MAX_HEADER;
        f->curl = curl_easy_init();
        if (!f->curl)
                return err_oom(err);
        e = set_request(f, q);
        e = e ?: set_body(f, q);
        e = e ?: set_trust(f, q);
        e = e ?: set_times(f, q);
        e = e ?: set_callbacks(f);
        return e == CURLE_OK ? 0 : err_set(err, EINVAL, "%s", curl_easy_strerror(e));
}

int fetch_start(struct fetcher *fetcher, const struct fetch_request *request, const struct fetch_handler *handler,
                void *arg, struct fetch **ret, struct err *err)
{
        struct fetch *f;
        int r = url_check(request->url, err);

        if (r < 0)
                return r;
        if (request->proxy && !str_starts(request->proxy, "http://") && !str_starts(request->proxy, "https://"))
                return err_set(err, EINVAL, "the proxy is not one of http or https");
        f = calloc(1, sizeof(*f));
        if (!f)
                return err_oom(err);
        f->fetcher = fetcher;
        f->handler = *handler;
        f->arg = arg;
        list_init(&f->node);
        list_init(&f->work_node);
        r = fetch_prepare(f, request, err);
        if (r == 0 && curl_multi_add_handle(fetcher->multi, f->curl) != CURLM_OK)
                r = err_oom(err);
        if (r < 0) {
                fetch_free(f);
                return r;
        }
        list_append(&fetcher->fetches, &f->node);
        *ret = f;
        return 0;
}

void fetch_cancel(struct fetch *f)
{
        f->state = FETCH_CANCELLED;
        /* libcurl is in the midst of it, perhaps. */
        if (f->fetcher->in_callback > 0) {
                fetch_work(f);
                return;
        }
        (void)curl_multi_remove_handle(f->fetcher->multi, f->curl);
        fetch_free(f);
}

void fetch_pause(struct fetch *f)
{
        f->paused = true;
}

void fetch_resume(struct fetch *f)
{
        if (!f->paused)
                return;
        f->paused = false;
        fetch_work(f);
}

void fetch_resume_send(struct fetch *f)
{
        if (!f->send_paused)
                return;
        f->send_paused = false;
        fetch_work(f);
}

unsigned fetch_status(const struct fetch *f)
{
        return f->status;
}

const char *fetch_header_nth(const struct fetch *f, const char *name, size_t n)
{
        for (size_t i = 0; i < f->fields.len; i++)
                if (strcasecmp(f->fields.items[i].name, name) == 0 && n-- == 0)
                        return f->fields.items[i].value;
        return NULL;
}

const char *fetch_header(const struct fetch *f, const char *name)
{
        return fetch_header_nth(f, name, 0);
}

/* ── fetcher ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

int fetcher_new(struct loop *loop, const struct fetcher_config *config, struct fetcher **ret, struct err *err)
{
        unsigned total = config->max_connections ? config->max_connections : MAX_CONNECTIONS;
        unsigned per_host = config->max_connections_per_host ? config->max_connections_per_host
                                                             : MAX_CONNECTIONS_PER_HOST;
        struct fetcher *fetcher = calloc(1, sizeof(*fetcher));
        CURLMcode e;

        if (!fetcher)
                return err_oom(err);
        fetcher->loop = loop;
        list_init(&fetcher->fetches);
        list_init(&fetcher->work);
        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
                free(fetcher);
                return err_set(err, EIO, "libcurl does not start");
        }
        fetcher->multi = curl_multi_init();
        if (!fetcher->multi) {
                free(fetcher);
                return err_oom(err);
        }
        e = curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
        e = e ?: curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETDATA, fetcher);
        e = e ?: curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERFUNCTION, on_timer);
        e = e ?: curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERDATA, fetcher);
        e = e ?: curl_multi_setopt(fetcher->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)total);
        e = e ?: curl_multi_setopt(fetcher->multi, CURLMOPT_MAXCONNECTS, (long)total);
        e = e ?: curl_multi_setopt(fetcher->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)per_host);
        e = e ?: curl_multi_setopt(fetcher->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
        if (e != CURLM_OK) {
                fetcher_free(fetcher);
                return err_set(err, EIO, "libcurl: %s", curl_multi_strerror(e));
        }
        *ret = fetcher;
        return 0;
}

void fetcher_free(struct fetcher *fetcher)
{
        struct fetch *f;

        if (!fetcher)
                return;
        while ((f = LIST_FIRST(&fetcher->fetches, struct fetch, node))) {
                (void)curl_multi_remove_handle(fetcher->multi, f->curl);
                fetch_free(f);
        }
        (void)curl_multi_cleanup(fetcher->multi);
        loop_timer_cancel(&fetcher->timer);
        loop_timer_cancel(&fetcher->work_timer);
        free(fetcher);
}
