#include "image/registry_internal.h"

#include "base/time.h"
#include "json/json.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>

#define BACKOFF_NS (200 * NS_PER_MS)
#define BACKOFF_DOUBLINGS 5
#define PROGRESS_MIN (64U << 10) /* bytes that make a new beginning of what was cut */
#define ATTEMPTS_MAX 64          /* with progress between them */
#define STALL_BYTES 1024
#define ERROR_BODY_MAX 4096
#define DISCARD_MAX (256U << 10)
#define DOCKER_HUB "registry-1.docker.io"
#define PORT_HTTP 80
#define PORT_HTTPS 443

static char speaks_plain, speaks_tls;

static const char accept_manifests[] = "Accept: " MEDIA_OCI_INDEX ", " MEDIA_OCI_MANIFEST ", " MEDIA_DOCKER_LIST
                                       ", " MEDIA_DOCKER_MANIFEST;

/* ── configuration ────────────────────────────────────────────────────────────────────────────────────────────────── */

static const char *config_text(const char *s)
{
        return s && *s && !str_eq(s, "none") ? s : NULL;
}

static const char *const *config_members(struct registries_config *c, size_t i)
{
        const char **all[] = { &c->insecure, &c->allow, &c->realms, &c->mirrors, &c->proxy, &c->no_proxy, &c->ca_dir };

        return i < ARRAY_LEN(all) ? all[i] : NULL;
}

static int config_copy(struct registries_config *c, struct err *err)
{
        bool failed = false;

        for (size_t i = 0; config_members(c, i); i++) {
                const char **text = (const char **)(uintptr_t)config_members(c, i);
                const char *from = config_text(*text);

                *text = from ? strdup(from) : NULL;
                failed |= from && !*text;
        }
        return failed ? err_oom(err) : 0;
}

/* The next of a list, without what is before it. */
static bool list_next(const char **at, char *out, size_t size)
{
        while (*at && **at) {
                size_t len = strcspn(*at, ",");
                const char *from = *at;

                *at += len + ((*at)[len] == ',');
                if (len == 0 || len >= size)
                        continue;
                memcpy(out, from, len);
                out[len] = '\0';
                return true;
        }
        return false;
}

bool registry_listed(const char *list, const struct registry_url *url)
{
        char entry[300], host[256];
        uint16_t port;

        while (list_next(&list, entry, sizeof(entry)))
                if (registry_host_parse(entry, host, &port, NULL) == 0 && str_eq(host, url->host) &&
                    (port == 0 || port == url->port))
                        return true;
        return false;
}

bool registry_plain_allowed(const struct registries *r, const struct registry_url *url)
{
        return registry_host_is_loopback(url->host) || registry_listed(r->config.insecure, url);
}

static bool without_proxy(const struct registries *r, const struct registry_url *url)
{
        const char *list = r->config.no_proxy;
        char entry[300];

        if (registry_host_is_loopback(url->host) || registry_listed(list, url))
                return true;
        while (list_next(&list, entry, sizeof(entry)))
                if (entry[0] == '.' && str_ends(url->host, entry))
                        return true;
        return false;
}

void registry_credentials_key(const char *username, const char *password, char out[65])
{
        auto_free char *pair = username ? str_printf("%zu:%s:%s", strlen(username), username, password ? password : "")
                                        : NULL;
        char digest[IMAGE_DIGEST_MAX] = "";

        out[0] = '\0';
        if (!pair || image_sha256_text(pair, strlen(pair), digest, NULL) < 0)
                return;
        OPENSSL_cleanse(pair, strlen(pair));
        memcpy(out, digest + strlen("sha256:"), 65);
}

/* ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void wipe(char *s)
{
        if (s)
                OPENSSL_cleanse(s, strlen(s));
        free(s);
}

static void call_free(struct registry_call *c)
{
        list_remove(&c->node);
        loop_timer_cancel(&c->timer);
        if (c->fetch)
                fetch_cancel(c->fetch);
        wipe(c->username);
        wipe(c->password);
        wipe(c->authorization);
        str_done(&c->body);
        free(c);
}

static void call_end(struct registry_call *c, int r, const struct err *err)
{
        loop_timer_cancel(&c->timer);
        if (r == 0) {
                c->answer.body = c->body.data ? c->body.data : "";
                c->answer.len = c->body.len;
                c->answer.authenticated = c->with_credentials && c->authorization;
        }
        c->handler.done(c, r, &c->answer, err, c->arg);
        call_free(c);
}

static void endpoint_begin(struct registry_call *c);

static void fail_with(struct registry_call *c, struct err *err)
{
        const struct registry_endpoint *e = &c->endpoints[c->endpoint];

        if (e->mirror && err->num != ENOMEM) {
                c->endpoint++;
                endpoint_begin(c);
                return;
        }
        (void)err_wrap(err, "registry %s", c->ref.domain);
        call_end(c, -err->num, err);
}

void registry_fail(struct registry_call *c, int num, const char *fmt, ...)
{
        struct err err = ERR_INIT;
        char text[ERR_TEXT_MAX];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        (void)err_set(&err, num, "%s", text);
        fail_with(c, &err);
}

/* ── another try ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static uint64_t jitter(uint64_t ns)
{
        uint32_t chance;

        if (getrandom(&chance, sizeof(chance), GRND_NONBLOCK) != sizeof(chance))
                chance = UINT32_MAX / 2;
        return ns / 2 + (uint64_t)((double)ns / 2 * chance / UINT32_MAX);
}

static void call_target(struct registry_call *c)
{
        static const char *const kinds[] = { "manifests", "manifests", "blobs", "referrers" };
        const struct registry_url *base = &c->endpoints[c->endpoint].base;
        char prefix[sizeof(base->path)];

        memcpy(prefix, base->path, sizeof(prefix));
        c->url = *base;
        c->redirects = 0;
        if (c->what == REGISTRY_PING) {
                (void)snprintf(c->url.path, sizeof(c->url.path), "%.2000s/v2/", prefix);
                return;
        }
        (void)snprintf(c->url.path, sizeof(c->url.path), "%.2000s/v2/%s/%s/%s", prefix, c->ref.path, kinds[c->what],
                       c->reference);
}

static void on_again(struct loop_timer *timer, void *data)
{
        (void)timer;
        registry_request_again(data);
}

static void again_in(struct registry_call *c, uint64_t ns)
{
        c->phase = CALL_WAIT;
        call_target(c);
        if (loop_timer_set(c->registries->loop, &c->timer, time_mono_ns() + ns, on_again, c) < 0)
                registry_fail(c, ENOMEM, "out of memory");
}

void registry_transient(struct registry_call *c, int num, const char *why)
{
        unsigned most = c->endpoints[c->endpoint].mirror && c->offset == 0 ? 0 : c->registries->config.retries;
        uint64_t pause;

        if (c->progress >= PROGRESS_MIN)
                c->attempts = 0;
        c->progress = 0;
        pause = c->answer.retry_after_s > 0 ? c->answer.retry_after_s * NS_PER_S
                                            : jitter(BACKOFF_NS << MIN(c->attempts, (unsigned)BACKOFF_DOUBLINGS));
        if (c->attempts >= most || c->attempts_in_all >= ATTEMPTS_MAX ||
            c->answer.retry_after_s > c->registries->config.wait_max_s) {
                registry_fail(c, num, "%s", why);
                return;
        }
        c->attempts++;
        c->attempts_in_all++;
        c->answer.retry_after_s = 0;
        again_in(c, pause);
}

/* ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

void registry_collect(struct registry_call *c, const void *data, size_t len, size_t max)
{
        if (len > max - MIN(max, c->body.len))
                c->broken = err_set(&c->err, EBADMSG, "an answer of more than %zu bytes", max);
        else if (str_add(&c->body, data, len) < 0)
                c->broken = err_oom(&c->err);
}

static int wrong(struct registry_call *c, const char *what)
{
        c->broken = err_set(&c->err, EBADMSG, "%s", what);
        return c->broken;
}

static bool read_length(const struct fetch *f, uint64_t *ret)
{
        const char *text = fetch_header(f, "Content-Length");

        return text && parse_u64(text, ret) == 0;
}

bool registry_range_is(const char *text, uint64_t offset, uint64_t size)
{
        char expected[80];

        (void)snprintf(expected, sizeof(expected), "bytes %llu-%llu/%llu", (unsigned long long)offset,
                       (unsigned long long)(size - 1), (unsigned long long)size);
        if (text && str_eq(text, expected))
                return true;
        memcpy(strchr(expected, '/'), "/*", sizeof("/*"));
        return text && str_eq(text, expected);
}

static void blob_head(struct registry_call *c, const struct fetch *f)
{
        uint64_t length;

        c->skip = 0;
        if (c->status == 206 && !registry_range_is(fetch_header(f, "Content-Range"), c->offset, c->size)) {
                (void)wrong(c, "another part of the blob than was asked for");
                return;
        }
        if (c->status == 206 && c->offset == 0)
                return;
        if (c->status == 200)
                c->skip = c->offset;
        if (read_length(f, &length) && length != c->size - (c->status == 206 ? c->offset : 0))
                (void)wrong(c, "the blob has another size than the manifest says");
}

static void copy_header(const struct fetch *f, const char *name, char *out, size_t size)
{
        const char *text = fetch_header(f, name);
        size_t len = text ? strcspn(text, "; \t") : 0;

        (void)snprintf(out, size, "%.*s", (int)len, text && len < size ? text : "");
}

static void take_challenges(struct registry_call *c, const struct fetch *f)
{
        const char *text;

        c->challenge = (struct image_challenge){ .basic = false };
        for (size_t i = 0; i < 8 && (text = fetch_header_nth(f, "WWW-Authenticate", i)); i++)
                (void)image_challenge_parse(text, &c->challenge, NULL);
}

void registry_take_retry_after(struct registry_call *c, const struct fetch *f)
{
        const char *text = fetch_header(f, "Retry-After");
        uint32_t seconds;

        c->answer.retry_after_s = text && parse_u32(text, &seconds) == 0 ? seconds : 0;
}

static void on_head(struct fetch *f, unsigned status, void *arg)
{
        struct registry_call *c = arg;

        c->status = status;
        c->reached = true;
        c->taking = status == 200 || (status == 206 && c->what == REGISTRY_BLOB);
        if (c->taking) {
                copy_header(f, "Content-Type", c->answer.media_type, sizeof(c->answer.media_type));
                copy_header(f, "Docker-Content-Digest", c->answer.digest, sizeof(c->answer.digest));
                if (c->what == REGISTRY_BLOB)
                        blob_head(c, f);
        }
        registry_take_retry_after(c, f);
        if (status == 401)
                take_challenges(c, f);
}

static int blob_data(struct registry_call *c, const char *data, size_t len)
{
        uint64_t skipped = MIN(c->skip, (uint64_t)len);
        int r;

        /* A piece that is told again after a pause has not been counted. */
        if (len - skipped > c->size - c->offset)
                return wrong(c, "the blob is longer than the manifest says");
        if (len > skipped) {
                r = c->handler.data(c, data + skipped, len - (size_t)skipped, c->arg);
                if (r < 0)
                        return r;
        }
        c->skip -= skipped;
        c->offset += len - skipped;
        c->progress += len - skipped;
        return 0;
}

static int on_data(struct fetch *f, const void *data, size_t len, void *arg)
{
        struct registry_call *c = arg;

        (void)f;
        if (c->broken < 0)
                return c->broken;
        if (c->taking && c->what == REGISTRY_BLOB)
                return blob_data(c, data, len);
        if (c->taking) {
                registry_collect(c, data, len, IMAGE_JSON_MAX);
                return c->broken;
        }
        /* What an error says is read to its end, so that the connection can be kept. */
        if (c->body.len < ERROR_BODY_MAX)
                (void)str_add(&c->body, data, MIN(len, ERROR_BODY_MAX - c->body.len));
        c->progress += len;
        return c->progress > DISCARD_MAX ? -EFBIG : 0;
}

void registry_error_read(const char *text, size_t len, char out[REGISTRY_SAID_MAX])
{
        const char *message;
        auto_json o = NULL;
        char shown[STR_SHOWN_MAX];

        out[0] = '\0';
        if (len == 0 || json_read(text, len, &o, NULL) < 0)
                return;
        message = json_string_value(json_object_get(json_array_get(json_object_get(o, "errors"), 0), "message"));
        if (message && *message)
                (void)snprintf(out, REGISTRY_SAID_MAX, ": %s", str_show(message, shown));
}

static void follow(struct registry_call *c, const char *location)
{
        struct registry_url to, from = c->url;
        struct err err = ERR_INIT;
        int r;

        if (!location) {
                registry_fail(c, EHOSTUNREACH, "a redirect to nowhere");
                return;
        }
        if (++c->redirects > REGISTRY_REDIRECTS_MAX) {
                registry_fail(c, EHOSTUNREACH, "more than %d redirects", REGISTRY_REDIRECTS_MAX);
                return;
        }
        r = registry_url_join(&from, location, &to, &err);
        if (r == 0 && from.https && !to.https)
                r = err_set(&err, EPERM, "from TLS to plain HTTP");
        if (r == 0)
                r = registry_target_check(c, &to, &err);
        if (r < 0) {
                registry_fail(c, EHOSTUNREACH, "a redirect that is not followed: %s", err.text);
                return;
        }
        c->url = to;
        registry_request_again(c);
}

/* Of an answer that is complete. */
static void take_answer(struct registry_call *c, const char *location)
{
        char said[REGISTRY_SAID_MAX];

        registry_error_read(c->body.data, c->body.len, said);
        switch (c->status) {
        case 200:
        case 206:
                if (c->what == REGISTRY_BLOB && c->offset < c->size)
                        registry_transient(c, EHOSTUNREACH, "the blob is cut short");
                else
                        call_end(c, 0, NULL);
                break;
        case 301:
        case 302:
        case 303:
        case 307:
        case 308:
                follow(c, location);
                break;
        case 401:
                if (!registry_url_same_origin(&c->url, &c->endpoints[c->endpoint].base))
                        registry_fail(c, EHOSTUNREACH, "where it redirects to, credentials are asked for");
                else
                        registry_challenged(c);
                break;
        case 403:
                registry_fail(c, EACCES, "it refuses%s", said);
                break;
        case 404:
        case 410:
                registry_fail(c, ENOENT, "it does not have this%s", said);
                break;
        case 429:
                registry_transient(c, EBUSY, "too many requests");
                break;
        case 408:
        case 500:
        case 502:
        case 503:
        case 504:
                registry_transient(c, EHOSTUNREACH, "it cannot answer now");
                break;
        default:
                registry_fail(c, EHOSTUNREACH, "it answers with status %u%s", c->status, said);
                break;
        }
}

static void scheme_note(struct registry_call *c, char *speaks)
{
        auto_free char *key = str_printf("%s:%u", c->url.host, c->url.port);

        if (key && map_len(c->registries->plain) < REGISTRY_GRANTS_MAX)
                (void)map_set(c->registries->plain, key, speaks);
}

/* Plain HTTP was answered by what speaks TLS: Go's server says 400, others close. */
static bool try_tls(struct registry_call *c, int result)
{
        struct registry_endpoint *e = &c->endpoints[c->endpoint];
        char key[280];

        (void)snprintf(key, sizeof(key), "%s:%u", e->base.host, e->base.port);
        if (e->base.https || !c->tried_plain || c->tried_tls || c->redirects > 0 ||
            map_find(c->registries->plain, key) ||
            !((!c->reached && (result == -ECONNRESET || result == -EPROTO || result == -EIO ||
                               (result == -ECONNREFUSED && e->no_port))) ||
              (result == 0 && c->status == 400)))
                return false;
        e->base.https = c->tried_tls = true;
        if (e->no_port)
                e->base.port = PORT_HTTPS;
        call_target(c);
        registry_request_again(c);
        return true;
}

static void unreachable(struct registry_call *c, int result, const struct err *err)
{
        switch (-result) {
        case EPERM:
                registry_fail(c, EHOSTUNREACH, "%s is %s", c->url.host, err->text);
                break;
        case ENOMEM:
        case ENOSPC:
        case EKEYREJECTED:
        case EPROTO:
        case EMSGSIZE:
                registry_fail(c, result == -ENOMEM || result == -ENOSPC ? -result : EHOSTUNREACH, "%s", err->text);
                break;
        case ETIMEDOUT:
                if (c->reached && c->stalls++ == 0)
                        registry_transient(c, EHOSTUNREACH, "it stalls");
                else
                        registry_fail(c, EHOSTUNREACH, "%s", c->reached ? "it stalls" : err->text);
                break;
        default:
                /* A name that is none, or a port that is closed, is told at once. */
                if (c->reached || result == -ECONNRESET)
                        registry_transient(c, EHOSTUNREACH, err->text);
                else
                        registry_fail(c, EHOSTUNREACH, "it cannot be reached: %s", err->text);
                break;
        }
}

static void on_done(struct fetch *f, int result, const struct err *err, void *arg)
{
        struct registry_call *c = arg;
        auto_free char *location = NULL;
        const char *header = fetch_header(f, "Location");

        c->fetch = NULL;
        if (try_tls(c, result))
                return;
        if (c->broken < 0) {
                fail_with(c, &c->err);
                return;
        }
        if (result == -EFBIG && !c->taking)
                result = 0;
        if (result < 0 && c->taking && c->what == REGISTRY_BLOB && result != -ECONNRESET && result != -ETIMEDOUT &&
            result != -EIO && result != -EPROTO) {
                struct err why = *err;

                fail_with(c, &why);
                return;
        }
        if (result < 0) {
                unreachable(c, result, err);
                return;
        }
        if (c->redirects == 0 && (c->status < 300 || c->status == 401))
                scheme_note(c, c->url.https ? &speaks_tls : &speaks_plain);
        location = header ? strdup(header) : NULL;
        take_answer(c, location);
}

/* ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Whether the call may be led to this host at all: what looks like loopback is only for a registry that is there itself. */
int registry_target_check(const struct registry_call *c, const struct registry_url *url, struct err *err)
{
        const struct registry_url *base = &c->endpoints[c->endpoint].base;

        if (registry_listed(c->registries->config.allow, url) || registry_listed(c->registries->config.insecure, url))
                return 0;
        /* Behind a proxy nobody else looks at it. */
        if (registry_host_kind(url->host) == REGISTRY_ADDRESS_REFUSED)
                return err_set(err, EPERM, "%s is no address that a registry may have (registries.allow)", url->host);
        if (registry_host_is_loopback(url->host) && !registry_host_is_loopback(base->host))
                return err_set(err, EPERM, "%s is this host", url->host);
        if (!url->https && !registry_plain_allowed(c->registries, url) && !registry_plain_allowed(c->registries, base))
                return err_set(err, EPERM, "%s is not to be spoken to in plain HTTP", url->host);
        return 0;
}

static bool on_address(const struct sockaddr *address, void *arg)
{
        const struct registry_call *c = arg;

        if (registry_listed(c->registries->config.allow, &c->url))
                return true;
        switch (registry_address_kind(address)) {
        case REGISTRY_ADDRESS_PUBLIC:
                return true;
        case REGISTRY_ADDRESS_LOOPBACK:
                return registry_host_is_loopback(c->url.host);
        case REGISTRY_ADDRESS_REFUSED:
                break;
        }
        return false;
}

/* DIR/HOST:PORT/NAME, else DIR/HOST/NAME, which is for any port if it is a CA, and else for that of the scheme. NULL: there is
 * none. */
static char *cert_path(const struct registries *r, const struct registry_url *url, const char *name)
{
        bool any_port = str_eq(name, "ca.crt");
        char *path;

        if (!r->config.ca_dir)
                return NULL;
        path = str_printf("%s/%s:%u/%s", r->config.ca_dir, url->host, url->port, name);
        if (path && access(path, R_OK) == 0)
                return path;
        free(path);
        if (!any_port && url->port != PORT_HTTPS)
                return NULL;
        path = str_printf("%s/%s/%s", r->config.ca_dir, url->host, name);
        if (path && access(path, R_OK) == 0)
                return path;
        free(path);
        return NULL;
}

int registry_fetch_with(struct registry_call *c, const struct registry_url *url, const char *const *headers,
                        const char *method, const struct str *body, const struct fetch_handler *handler,
                        struct err *err)
{
        const struct registries_config *config = &c->registries->config;
        auto_free char *ca = NULL, *cert = NULL, *key = NULL;
        struct fetch_handler checked = *handler;
        char text[REGISTRY_URL_MAX + 300];
        bool large = c->what == REGISTRY_BLOB && c->phase != CALL_TOKEN;
        struct fetch_request q = {
                .method = method,
                .url = text,
                .headers = headers,
                .body = body->len > 0 ? body->data : NULL,
                .body_len = body->len,
                .proxy = without_proxy(c->registries, url) ? NULL : config->proxy,
                .connect_timeout_ms = config->connect_ms,
                .stall_bytes = c->what == REGISTRY_BLOB ? STALL_BYTES : 1,
                .stall_s = config->stall_s,
                /* One that drips never stalls, and holds a connection. */
                .total_timeout_s = large ? 0 : config->stall_s + config->stall_s / 4 + 1,
        };

        registry_url_format(url, text, sizeof(text));
        if (!q.proxy)
                checked.address = on_address;
        if (url->https) {
                ca = cert_path(c->registries, url, "ca.crt");
                cert = cert_path(c->registries, url, "client.cert");
                key = cert_path(c->registries, url, "client.key");
        }
        q.cacert = ca;
        q.client_cert = cert && key ? cert : NULL;
        q.client_key = cert && key ? key : NULL;
        return fetch_start(c->registries->fetcher, &q, &checked, c, &c->fetch, err);
}

int registry_fetch(struct registry_call *c, const struct registry_url *url, const char *const *headers,
                   const char *method, const struct fetch_handler *handler, struct err *err)
{
        const struct str none = STR_INIT;

        return registry_fetch_with(c, url, headers, method, &none, handler, err);
}

void registry_request_again(struct registry_call *c)
{
        static const struct fetch_handler handler = { .head = on_head, .data = on_data, .done = on_done };
        const char *headers[6] = { "User-Agent: mayfly" };
        struct err err = ERR_INIT;
        char range[48];
        size_t n = 1;

        if (c->phase == CALL_TOKEN)
                call_target(c);
        c->phase = CALL_REQUEST;
        headers[n++] = c->what == REGISTRY_BLOB ? "Accept: application/octet-stream, */*" : accept_manifests;
        if (c->what == REGISTRY_BLOB && c->offset > 0) {
                (void)snprintf(range, sizeof(range), "Range: bytes=%llu-%llu", (unsigned long long)c->offset,
                               (unsigned long long)(c->size - 1));
                headers[n++] = range;
        }
        if (c->authorization && registry_url_same_origin(&c->url, &c->endpoints[c->endpoint].base))
                headers[n++] = c->authorization;
        headers[n] = NULL;
        c->status = 0;
        c->taking = false;
        c->broken = 0;
        c->err = (struct err)ERR_INIT;
        if (c->what != REGISTRY_BLOB)
                c->progress = 0;
        str_clear(&c->body);
        if (registry_fetch(c, &c->url, headers, c->what == REGISTRY_HEAD ? "HEAD" : "GET", &handler, &err) < 0)
                registry_fail(c, err.num == ENOMEM ? ENOMEM : EHOSTUNREACH, "%s", err.text);
}

/* ── endpoints ────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Which of the two a host speaks that may be spoken to in plain HTTP: what it spoke before, TLS where a CA is there for it,
 * else plain first. */
static bool begins_plain(const struct registries *r, const struct registry_url *url)
{
        auto_free char *key = str_printf("%s:%u", url->host, url->port), *ca = NULL;
        const char *known = key ? map_find(r->plain, key) : NULL;

        if (known)
                return known == &speaks_plain;
        ca = cert_path(r, url, "ca.crt");
        return !ca;
}

static void endpoint_begin(struct registry_call *c)
{
        struct err err = ERR_INIT;

        c->attempts = 0;
        c->answer.retry_after_s = 0;
        c->tried_tls = false;
        c->tried_plain = !c->endpoints[c->endpoint].base.https;
        c->reached = false;
        c->with_credentials = false;
        wipe(c->authorization);
        c->authorization = NULL;
        registry_grant_find(c);
        call_target(c);
        if (registry_target_check(c, &c->url, &err) < 0)
                registry_fail(c, EHOSTUNREACH, "%s", err.text);
        else
                registry_request_again(c);
}

static void on_start(struct loop_timer *timer, void *data)
{
        (void)timer;
        endpoint_begin(data);
}

/* Of "registry.example=https://mirror.example/prefix" the address, if it is for the registry of that name. */
static const char *mirror_of(char *entry, const char *name)
{
        char *equals = strchr(entry, '='), its[256];

        if (!equals)
                return NULL;
        *equals = '\0';
        return registry_name(entry, its, NULL) == 0 && str_eq(its, name) ? equals + 1 : NULL;
}

static void add_mirrors(struct registry_call *c)
{
        const char *list = c->registries->config.mirrors, *address;
        char entry[512], name[256];

        if (registry_name(c->ref.domain, name, NULL) < 0)
                return;

        while (c->n_endpoints + 1 < REGISTRY_ENDPOINTS_MAX && list_next(&list, entry, sizeof(entry))) {
                struct registry_endpoint *e = &c->endpoints[c->n_endpoints];
                size_t len;

                address = mirror_of(entry, name);
                if (!address || registry_url_parse(address, &e->base, NULL) < 0)
                        continue;
                len = strlen(e->base.path);
                while (len > 0 && e->base.path[len - 1] == '/')
                        e->base.path[--len] = '\0';
                e->mirror = true;
                c->n_endpoints++;
        }
}

static int add_origin(struct registry_call *c, struct err *err)
{
        struct registry_endpoint *e = &c->endpoints[c->n_endpoints++];
        const char *host = str_eq(c->ref.domain, "docker.io") ? DOCKER_HUB : c->ref.domain;
        int r;

        r = registry_host_parse(host, e->base.host, &e->base.port, NULL);
        if (r < 0)
                return err_set(err, EINVAL, "registry %s: this is no host", c->ref.domain);
        e->mirror = false;
        e->no_port = e->base.port == 0;
        /* What names no port has that of the scheme (RFC 3986, section 6.2.3): rules for either spelling are for both. */
        if (e->no_port)
                e->base.port = PORT_HTTP;
        e->base.https = !registry_plain_allowed(c->registries, &e->base) || !begins_plain(c->registries, &e->base);
        if (e->no_port && e->base.https)
                e->base.port = PORT_HTTPS;
        return 0;
}

static int call_fill(struct registry_call *c, const struct registry_request *q, struct err *err)
{
        if (q->username && (strlen(q->username) > REGISTRY_USER_MAX || strpbrk(q->username, ":\r\n")))
                return err_set(err, EINVAL, "a user name may hold neither a colon nor a line break");
        if (q->password && strlen(q->password) > REGISTRY_PASSWORD_MAX)
                return err_set(err, EINVAL, "the password is too long");
        c->what = q->what;
        c->ref = *q->ref;
        c->offset = q->offset;
        c->size = q->size;
        (void)snprintf(c->reference, sizeof(c->reference), "%s", q->reference);
        c->username = q->username && *q->username ? strdup(q->username) : NULL;
        c->password = c->username && q->password ? strdup(q->password) : NULL;
        if ((q->username && *q->username && !c->username) || (c->username && q->password && !c->password))
                return err_oom(err);
        registry_credentials_key(c->username, c->password, c->key);
        if (c->what != REGISTRY_PING && !q->direct)
                add_mirrors(c);
        return add_origin(c, err);
}

int registry_start(struct registries *r, const struct registry_request *request, const struct registry_handler *handler,
                   void *arg, struct registry_call **ret, struct err *err)
{
        struct registry_call *c = calloc(1, sizeof(*c));
        int rc;

        if (!c)
                return err_oom(err);
        c->registries = r;
        c->handler = *handler;
        c->arg = arg;
        list_init(&c->node);
        rc = call_fill(c, request, err);
        if (rc == 0 && loop_timer_set(r->loop, &c->timer, time_mono_ns(), on_start, c) < 0)
                rc = err_oom(err);
        if (rc < 0) {
                call_free(c);
                return rc;
        }
        list_append(&r->calls, &c->node);
        *ret = c;
        return 0;
}

void registry_cancel(struct registry_call *c)
{
        call_free(c);
}

void registry_resume(struct registry_call *c)
{
        if (c->fetch)
                fetch_resume(c->fetch);
}

/* ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────── */

bool registries_enabled(const struct registries *r)
{
        return r && r->config.enabled;
}

bool registries_mirrored(const struct registries *r, const struct image_ref *ref)
{
        const char *list = r->config.mirrors;
        char entry[512], name[256];

        if (registry_name(ref->domain, name, NULL) < 0)
                return false;
        while (list_next(&list, entry, sizeof(entry)))
                if (mirror_of(entry, name))
                        return true;
        return false;
}

int registries_new(struct loop *loop, const struct registries_config *config, struct registries **ret, struct err *err)
{
        const struct fetcher_config limits = { .max_connections = 64, .max_connections_per_host = 16 };
        struct registries *r = calloc(1, sizeof(*r));
        int rc;

        if (!r)
                return err_oom(err);
        r->loop = loop;
        r->config = *config;
        list_init(&r->calls);
        rc = config_copy(&r->config, err);
        r->grants = map_new();
        r->plain = map_new();
        if (rc == 0 && (!r->grants || !r->plain))
                rc = err_oom(err);
        if (rc == 0)
                rc = fetcher_new(loop, &limits, &r->fetcher, err);
        if (rc < 0) {
                registries_free(r);
                return rc;
        }
        *ret = r;
        return 0;
}

void registries_free(struct registries *r)
{
        struct registry_call *c;

        if (!r)
                return;
        while ((c = LIST_FIRST(&r->calls, struct registry_call, node)))
                call_free(c);
        fetcher_free(r->fetcher);
        registry_grants_free(r);
        map_free(r->plain);
        for (size_t i = 0; config_members(&r->config, i); i++)
                free((char *)(uintptr_t)*config_members(&r->config, i));
        free(r);
}
