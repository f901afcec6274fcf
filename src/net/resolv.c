#include "net/resolv.h"

#include "base/fd.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/inotify.h>

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

static bool has(const struct resolv_conf *c, uint32_t server)
{
        for (size_t i = 0; i < c->n; i++) {
                if (c->servers[i] == server)
                        return true;
        }
        return false;
}

static void add_server(struct resolv_conf *c, const char *word, size_t len)
{
        char text[INET_ADDRSTRLEN];
        struct in_addr in;
        uint32_t server;

        if (word_is(word, len, "::1"))
                c->loopback = true;
        if (len >= sizeof(text))
                return;
        memcpy(text, word, len);
        text[len] = '\0';
        if (inet_pton(AF_INET, text, &in) != 1)
                return;
        server = ntohl(in.s_addr);
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

void resolv_parse(const char *data, size_t len, struct resolv_conf *ret)
{
        struct list_line search = { .len = 0 }, options = { .len = 0 };
        const char *at = data, *end = data + len;

        *ret = (struct resolv_conf){ .n = 0 };
        while (at < end) {
                const char *eol = memchr(at, '\n', (size_t)(end - at));

                if (!eol)
                        eol = end;
                if (*at != '#' && *at != ';')
                        parse_line((struct words){ at, eol }, ret, &search, &options);
                at = eol < end ? eol + 1 : end;
        }
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
        struct resolv_conf conf;
};

static void load(const char *path, struct resolv_conf *ret)
{
        struct err ignored = ERR_INIT;
        auto_str text = STR_INIT;

        if (fd_read_file(AT_FDCWD, path, RESOLV_FILE_MAX, &text, &ignored) < 0)
                text.len = 0; /* no file is an empty one */
        resolv_parse(text.data ? text.data : "", text.len, ret);
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
        load(RESOLV_PATH, &now);
        if (now.loopback && now.n == 0) {
                struct resolv_conf upstream;

                load(RESOLVED_PATH, &upstream);
                if (upstream.n > 0)
                        now = upstream;
        }
        changed = now.n != r->conf.n || now.len != r->conf.len || memcmp(now.text, r->conf.text, now.len) != 0;
        r->conf = now;
        return changed;
}

int resolv_new(struct resolv **ret, struct err *err)
{
        struct resolv *r = calloc(1, sizeof(*r));

        if (!r)
                return err_oom(err);
        r->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (r->inotify < 0) {
                free(r);
                return err_sys(err, "inotify");
        }
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
