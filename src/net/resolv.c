#include "net/resolv.h"

#include "base/fd.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <sys/inotify.h>

#define PORT 53
#define RESOLV_FILE_MAX 65536
#define RESOLV_PATH "/etc/resolv.conf"
#define RESOLVED_PATH "/run/systemd/resolve/resolv.conf"
#define WATCH_FOLDER (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ONLYDIR)
#define TOKEN_MAX 256 /* a domain name has at most 253 characters */

/* ── parsing ─────────────────────────────────────────────────────────────────────────────────────────────────── */

struct words {
        const char *at, *end; /* of the line */
};

/* The next word of the line; false at its end. */
static bool next_word(struct words *w, const char **ret, size_t *ret_len)
{
        while (w->at < w->end && (*w->at == ' ' || *w->at == '\t' || *w->at == '\r'))
                w->at++;
        *ret = w->at;
        while (w->at < w->end && *w->at != ' ' && *w->at != '\t' && *w->at != '\r')
                w->at++;
        *ret_len = (size_t)(w->at - *ret);
        return *ret_len > 0;
}

static bool word_is(const char *word, size_t len, const char *text)
{
        return len == strlen(text) && memcmp(word, text, len) == 0;
}

static bool word_plain(const char *word, size_t len, const char *extra)
{
        for (size_t i = 0; i < len; i++) {
                char c = word[i];

                if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '\0' &&
                    !strchr(extra, c))
                        return false;
                if (c == '\0')
                        return false;
        }
        return len > 0 && len < TOKEN_MAX;
}

bool resolv_address_eq(const union resolv_address *a, const union resolv_address *b)
{
        if (a->sa.sa_family != b->sa.sa_family)
                return false;
        if (a->sa.sa_family == AF_INET6)
                return a->in6.sin6_port == b->in6.sin6_port && a->in6.sin6_scope_id == b->in6.sin6_scope_id &&
                       IN6_ARE_ADDR_EQUAL(&a->in6.sin6_addr, &b->in6.sin6_addr);
        return a->in.sin_port == b->in.sin_port && a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
}

static bool same_asked(const struct resolv_conf *a, const struct resolv_conf *b)
{
        for (size_t i = 0; i < MIN(a->n_asked, b->n_asked); i++)
                if (!resolv_address_eq(&a->asked[i], &b->asked[i]))
                        return false;
        return a->n_asked == b->n_asked;
}

static bool has(const struct resolv_conf *c, uint32_t server)
{
        for (size_t i = 0; i < c->n; i++) {
                if (c->servers[i] == server)
                        return true;
        }
        return false;
}

static void add_asked(struct resolv_conf *c, const union resolv_address *a)
{
        if (c->n_asked < RESOLV_ASKED_MAX)
                c->asked[c->n_asked++] = *a;
}

/* "::1", "2001:db8::1", "fe80::1%eth0": only the host can ask them. */
static void add_server6(struct resolv_conf *c, char *text)
{
        union resolv_address a = { .in6 = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) } };
        char *scope = strchr(text, '%');

        if (scope) {
                *scope++ = '\0';
                a.in6.sin6_scope_id = if_nametoindex(scope);
        }
        if (inet_pton(AF_INET6, text, &a.in6.sin6_addr) != 1 || IN6_IS_ADDR_MULTICAST(&a.in6.sin6_addr))
                return;
        if (IN6_IS_ADDR_LOOPBACK(&a.in6.sin6_addr) || IN6_IS_ADDR_UNSPECIFIED(&a.in6.sin6_addr))
                c->loopback = true;
        add_asked(c, &a);
}

static void add_server(struct resolv_conf *c, const char *word, size_t len)
{
        union resolv_address a = { .in = { .sin_family = AF_INET, .sin_port = htons(PORT) } };
        char text[INET6_ADDRSTRLEN + IFNAMSIZ];
        uint32_t server;

        if (len >= sizeof(text))
                return;
        memcpy(text, word, len);
        text[len] = '\0';
        if (memchr(text, ':', len)) {
                add_server6(c, text);
                return;
        }
        if (inet_pton(AF_INET, text, &a.in.sin_addr) != 1)
                return;
        server = ntohl(a.in.sin_addr.s_addr);
        if ((server >> 24 != 0 || server == INADDR_ANY) && server >> 29 != 7)
                add_asked(c, &a);
        /* libc takes 0.0.0.0 for the host itself. */
        if (server >> 24 == 127 || server == INADDR_ANY)
                c->loopback = true;
        else if (server >> 24 != 0 && server >> 29 != 7 && c->n < RESOLV_SERVERS_MAX && !has(c, server))
                c->servers[c->n++] = server;
}

/* One line of text, or nothing if it does not fit. */
static void add_text(struct resolv_conf *c, const char *key, const char *text, size_t len)
{
        size_t key_len = strlen(key);

        if (len == 0 || key_len + 1 + len + 1 > sizeof(c->text) - c->len)
                return;
        memcpy(c->text + c->len, key, key_len);
        c->text[c->len + key_len] = ' ';
        memcpy(c->text + c->len + key_len + 1, text, len);
        c->text[c->len + key_len + 1 + len] = '\n';
        c->len += key_len + 1 + len + 1;
}

/* The words of a line that are plain, one blank between them. */
struct list_line {
        size_t len;
        char text[NET_RESOLV_MAX / 2];
};

static void add_words(struct list_line *list, struct words *w, const char *extra)
{
        const char *word;
        size_t len;

        while (next_word(w, &word, &len)) {
                if (!word_plain(word, len, extra) || list->len + 1 + len > sizeof(list->text))
                        continue;
                if (list->len > 0)
                        list->text[list->len++] = ' ';
                memcpy(list->text + list->len, word, len);
                list->len += len;
        }
}

static void parse_line(struct words w, struct resolv_conf *c, struct list_line *search, struct list_line *options)
{
        const char *key, *word;
        size_t len, word_len;

        if (!next_word(&w, &key, &len))
                return;
        if (word_is(key, len, "nameserver")) {
                if (next_word(&w, &word, &word_len))
                        add_server(c, word, word_len);
        } else if (word_is(key, len, "search") || word_is(key, len, "domain")) {
                search->len = 0; /* the last one counts */
                add_words(search, &w, ".-_");
        } else if (word_is(key, len, "options")) {
                add_words(options, &w, ":-_");
        }
}

/* What is left when the whole file is read (resolv.conf(5): without a server it is the local machine's). */
static void choose_servers(struct resolv_conf *c, uint32_t forwarder)
{
        static const char self[] = "127.0.0.1";

        if (c->n_asked == 0)
                add_server(c, self, strlen(self));
        if (c->n > 0 || forwarder == 0)
                return;
        c->servers[c->n++] = forwarder;
        c->forwarded = true;
}

void resolv_parse(const char *data, size_t len, uint32_t forwarder, struct resolv_conf *ret)
{
        struct list_line search = { .len = 0 }, options = { .len = 0 };
        const char *at = data, *end = data + len;

        memset(ret, 0, sizeof(*ret));
        while (at < end) {
                const char *eol = memchr(at, '\n', (size_t)(end - at));

                if (!eol)
                        eol = end;
                if (*at != '#' && *at != ';')
                        parse_line((struct words){ at, eol }, ret, &search, &options);
                at = eol < end ? eol + 1 : end;
        }
        choose_servers(ret, forwarder);
        for (size_t i = 0; i < ret->n; i++) {
                struct in_addr in = { .s_addr = htonl(ret->servers[i]) };
                char text[INET_ADDRSTRLEN];

                (void)inet_ntop(AF_INET, &in, text, sizeof(text));
                add_text(ret, "nameserver", text, strlen(text));
        }
        add_text(ret, "search", search.text, search.len);
        add_text(ret, "options", options.text, options.len);
}

/* ── watching ────────────────────────────────────────────────────────────────────────────────────────────────── */

struct resolv {
        int inotify;
        uint32_t forwarder;
        struct resolv_conf conf;
};

static void load(const char *path, uint32_t forwarder, struct resolv_conf *ret)
{
        struct err ignored = ERR_INIT;
        auto_str text = STR_INIT;

        if (fd_read_file(AT_FDCWD, path, RESOLV_FILE_MAX, &text, &ignored) < 0)
                text.len = 0; /* no file is an empty one */
        resolv_parse(text.data ? text.data : "", text.len, forwarder, ret);
}

/* Files get replaced, written in place, and appear late: the file and its directory, where the name leads too. Adding
 * a watch again only finds the old one. */
static void watch(const struct resolv *r, const char *path)
{
        const uint32_t file_events = IN_CLOSE_WRITE | IN_MODIFY | IN_DELETE_SELF;
        char real[PATH_MAX], *slash;

        (void)inotify_add_watch(r->inotify, path, file_events);
        if (!realpath(path, real))
                (void)snprintf(real, sizeof(real), "%s", path);
        slash = strrchr(real, '/');
        if (slash && slash > real) {
                *slash = '\0';
                (void)inotify_add_watch(r->inotify, real, WATCH_FOLDER);
        }
}

static void drain(const struct resolv *r)
{
        char buf[4096] __attribute__((aligned(8)));

        while (read(r->inotify, buf, sizeof(buf)) > 0)
                ;
}

bool resolv_update(struct resolv *r)
{
        struct resolv_conf now;
        bool changed;

        drain(r);
        watch(r, RESOLV_PATH);
        watch(r, RESOLVED_PATH);
        (void)inotify_add_watch(r->inotify, "/etc", WATCH_FOLDER); /* a link lies here, not where it leads */
        load(RESOLV_PATH, r->forwarder, &now);
        if (now.loopback && (now.n == 0 || now.forwarded)) {
                struct resolv_conf upstream;

                load(RESOLVED_PATH, 0, &upstream);
                if (upstream.n > 0)
                        now = upstream;
        }
        changed = now.n != r->conf.n || now.len != r->conf.len || memcmp(now.text, r->conf.text, now.len) != 0 ||
                  !same_asked(&now, &r->conf);
        r->conf = now;
        return changed;
}

int resolv_new(uint32_t forwarder, struct resolv **ret, struct err *err)
{
        struct resolv *r = calloc(1, sizeof(*r));

        if (!r)
                return err_oom(err);
        r->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (r->inotify < 0) {
                free(r);
                return err_sys(err, "inotify");
        }
        r->forwarder = forwarder;
        (void)resolv_update(r);
        *ret = r;
        return 0;
}

void resolv_free(struct resolv *r)
{
        if (!r)
                return;
        fd_close(r->inotify);
        free(r);
}

int resolv_fd(const struct resolv *r)
{
        return r->inotify;
}

const struct resolv_conf *resolv_get(const struct resolv *r)
{
        return &r->conf;
}
