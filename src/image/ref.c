/* The grammar of distribution/reference (regexp.go, reference.go, normalize.go), by hand: its expressions are anchored
 * and need no backtracking but one, whether the first component is a domain. */

#include "image/ref.h"
#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PATH_LEN_MAX 255 /* RepositoryNameTotalLengthMax */
#define TAG_LEN_MAX 128
#define DIGEST_HEX_MIN 32
#define SHA256_PREFIX "sha256:"
#define SHA256_HEX 64

#define DEFAULT_DOMAIN "docker.io"
#define LEGACY_DOMAIN "index.docker.io"
#define OFFICIAL_PREFIX "library/"

static bool is_lower(char c)
{
        return c >= 'a' && c <= 'z';
}

static bool is_upper(char c)
{
        return c >= 'A' && c <= 'Z';
}

static bool is_digit(char c)
{
        return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
        return is_lower(c) || is_upper(c) || is_digit(c);
}

static bool is_xdigit(char c)
{
        return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* A span of the text; matchers answer how many bytes they take from `s`, or SIZE_MAX. */
struct span {
        const char *s;
        size_t len;
};

/* domain-component: alphanumeric, hyphens inside. */
static bool domain_component_valid(struct span c)
{
        if (c.len == 0 || c.s[0] == '-' || c.s[c.len - 1] == '-')
                return false;
        for (size_t i = 0; i < c.len; i++) {
                if (!is_alnum(c.s[i]) && c.s[i] != '-')
                        return false;
        }
        return true;
}

static bool domain_name_valid(struct span d)
{
        size_t start = 0;

        for (size_t i = 0; i <= d.len; i++) {
                if (i < d.len && d.s[i] != '.')
                        continue;
                if (!domain_component_valid((struct span){ d.s + start, i - start }))
                        return false;
                start = i + 1;
        }
        return true;
}

/* host [":" port]; host is a domain name or "[" hex and colons "]". */
static bool domain_valid(struct span d)
{
        size_t host = d.len;

        for (size_t i = d.len; i > 0 && (is_digit(d.s[i - 1]) || d.s[i - 1] == ':'); i--) {
                if (d.s[i - 1] != ':')
                        continue;
                if (i == d.len)
                        return false;
                host = i - 1;
                break;
        }
        if (host < 3 || d.s[0] != '[' || d.s[host - 1] != ']')
                return domain_name_valid((struct span){ d.s, host });
        for (size_t i = 1; i < host - 1; i++) {
                if (!is_xdigit(d.s[i]) && d.s[i] != ':')
                        return false;
        }
        return true;
}

/* separator: one of ".", "_", "__", or hyphens. */
static size_t match_separator(struct span s)
{
        size_t n = 0;

        if (s.len == 0)
                return SIZE_MAX;
        if (s.s[0] == '.')
                return 1;
        if (s.s[0] == '_')
                return s.len > 1 && s.s[1] == '_' ? 2 : 1;
        while (n < s.len && s.s[n] == '-')
                n++;
        return n > 0 ? n : SIZE_MAX;
}

static bool path_component_valid(struct span c)
{
        size_t i = 0;

        for (;;) {
                size_t start = i, sep;

                while (i < c.len && (is_lower(c.s[i]) || is_digit(c.s[i])))
                        i++;
                if (i == start)
                        return false;
                if (i == c.len)
                        return true;
                sep = match_separator((struct span){ c.s + i, c.len - i });
                if (sep == SIZE_MAX)
                        return false;
                i += sep;
        }
}

static bool remote_name_valid(struct span p)
{
        size_t start = 0;

        for (size_t i = 0; i <= p.len; i++) {
                if (i < p.len && p.s[i] != '/')
                        continue;
                if (!path_component_valid((struct span){ p.s + start, i - start }))
                        return false;
                start = i + 1;
        }
        return true;
}

static bool tag_valid(struct span t)
{
        if (t.len == 0 || t.len > TAG_LEN_MAX || t.s[0] == '.' || t.s[0] == '-')
                return false;
        for (size_t i = 0; i < t.len; i++) {
                if (!is_alnum(t.s[i]) && t.s[i] != '_' && t.s[i] != '.' && t.s[i] != '-')
                        return false;
        }
        return true;
}

/* The reference grammar's digest, which knows any algorithm: component (separator component)* ":" 32*hex. */
static bool digest_shaped(struct span d)
{
        bool begins = true;
        size_t i;

        for (i = 0; i < d.len && d.s[i] != ':'; i++) {
                char c = d.s[i];
                bool letter = is_lower(c) || is_upper(c);

                if (begins ? !letter : !is_alnum(c) && !strchr("-_+.", c))
                        return false;
                begins = !is_alnum(c);
        }
        if (begins || i == d.len || d.len - i - 1 < DIGEST_HEX_MIN)
                return false;
        for (i++; i < d.len; i++) {
                if (!is_xdigit(d.s[i]))
                        return false;
        }
        return true;
}

/* [domain "/"] remote-name. The first component is the domain wherever it can be. */
static bool split_name(struct span name, struct span *ret_domain, struct span *ret_path)
{
        const char *slash = memchr(name.s, '/', name.len);

        if (slash) {
                struct span domain = { name.s, (size_t)(slash - name.s) };
                struct span path = { slash + 1, name.len - domain.len - 1 };

                if (domain_valid(domain) && remote_name_valid(path)) {
                        *ret_domain = domain;
                        *ret_path = path;
                        return true;
                }
        }
        if (!remote_name_valid(name))
                return false;
        *ret_domain = (struct span){ name.s, 0 };
        *ret_path = name;
        return true;
}

struct parts {
        struct span domain, path, tag, digest;
};

/* name [":" tag] ["@" digest]. A colon may also belong to the domain's port, never to the path: the tag's is the last one
 * behind the last slash. */
static bool split_reference(const char *s, struct parts *ret)
{
        const char *at = strchr(s, '@'), *end = at ? at : s + strlen(s), *colon = NULL;
        struct parts p = { .digest = { "", 0 }, .tag = { "", 0 } };

        if (at) {
                p.digest = (struct span){ at + 1, strlen(at + 1) };
                if (!digest_shaped(p.digest))
                        return false;
        }
        for (const char *c = end; c > s && c[-1] != '/'; c--) {
                if (c[-1] == ':') {
                        colon = c - 1;
                        break;
                }
        }
        if (colon) {
                p.tag = (struct span){ colon + 1, (size_t)(end - colon - 1) };
                if (!tag_valid(p.tag))
                        return false;
                end = colon;
        }
        if (end == s || !split_name((struct span){ s, (size_t)(end - s) }, &p.domain, &p.path))
                return false;
        *ret = p;
        return true;
}

static bool only_name_is_upper(const char *s)
{
        auto_free char *lower = strdup(s);
        struct parts p;

        if (!lower)
                return false;
        for (char *c = lower; *c; c++) {
                if (is_upper(*c))
                        *c = (char)(*c - 'A' + 'a');
        }
        return split_reference(lower, &p);
}

static int copy_part(struct span from, char *to, size_t size, struct err *err)
{
        if (from.len >= size)
                return err_set(err, ENAMETOOLONG, "invalid reference: a part of it is longer than %zu bytes", size - 1);
        memcpy(to, from.s, from.len);
        to[from.len] = '\0';
        return 0;
}

/* Fills *ret from parts that are grammatical. */
static int take_parts(const struct parts *p, struct image_ref *ret, struct err *err)
{
        struct image_ref ref = { .domain = "" };
        int r;

        if (p->path.len > PATH_LEN_MAX)
                return err_set(err, EINVAL, "repository name must not be more than %d characters", PATH_LEN_MAX);
        if (p->domain.len + p->path.len + p->tag.len + p->digest.len + 3 >= REF_TEXT_MAX)
                return err_set(err, ENAMETOOLONG, "invalid reference: longer than %d bytes", REF_TEXT_MAX - 1);
        r = copy_part(p->domain, ref.domain, sizeof(ref.domain), err);
        if (r == 0)
                r = copy_part(p->path, ref.path, sizeof(ref.path), err);
        if (r == 0)
                r = copy_part(p->tag, ref.tag, sizeof(ref.tag), err);
        if (r == 0)
                r = copy_part(p->digest, ref.digest, sizeof(ref.digest), err);
        if (r == 0 && p->digest.len > 0)
                r = image_digest_parse(ref.digest, err);
        if (r == 0)
                *ret = ref;
        return r;
}

int image_digest_parse(const char *s, struct err *err)
{
        const char *colon = strchr(s, ':');

        if (!colon || colon == s || !colon[1])
                return err_set(err, EINVAL, "invalid checksum digest format");
        if (!str_starts(s, SHA256_PREFIX))
                return err_set(err, EINVAL, "unsupported digest algorithm");
        s += strlen(SHA256_PREFIX);
        if (strlen(s) != SHA256_HEX)
                return err_set(err, EINVAL, "invalid checksum digest length");
        if (!hex_is_lower(s, SHA256_HEX))
                return err_set(err, EINVAL, "invalid checksum digest format");
        return 0;
}

bool image_digest_valid(const char *s)
{
        return image_digest_parse(s, NULL) == 0;
}

int image_ref_parse(const char *s, struct image_ref *ret, struct err *err)
{
        struct parts p;

        if (split_reference(s, &p))
                return take_parts(&p, ret, err);
        if (!*s)
                return err_set(err, EINVAL, "repository name must have at least one component");
        if (only_name_is_upper(s))
                return err_set(err, EINVAL, "repository name must be lowercase");
        return err_set(err, EINVAL, "invalid reference format");
}

static bool is_default_domain(struct span d)
{
        return (d.len == strlen(DEFAULT_DOMAIN) && memcmp(d.s, DEFAULT_DOMAIN, d.len) == 0) ||
               (d.len == strlen(LEGACY_DOMAIN) && memcmp(d.s, LEGACY_DOMAIN, d.len) == 0);
}

/* splitDockerDomain: the first component is a domain if it is localhost or holds ".", ":" or an upper-case letter. */
static struct span docker_domain(const char *s)
{
        size_t len = strcspn(s, "/");
        bool upper = false, mark = false;

        for (size_t i = 0; i < len; i++) {
                upper = upper || is_upper(s[i]);
                mark = mark || s[i] == '.' || s[i] == ':';
        }
        if (s[len] == '/' && (upper || mark || (len == 9 && memcmp(s, "localhost", 9) == 0)))
                return (struct span){ s, len };
        return (struct span){ s, 0 };
}

int image_ref_parse_normalized(const char *s, struct image_ref *ret, struct err *err)
{
        struct span domain = docker_domain(s);
        const char *rest = domain.len > 0 ? s + domain.len + 1 : s;
        bool standard = domain.len == 0 || is_default_domain(domain);
        auto_free char *whole = NULL;

        if (hex_is_lower(s, SHA256_HEX))
                return err_set(err, EINVAL, "invalid repository name (%s), cannot specify 64-byte hexadecimal strings",
                               s);
        for (const char *c = rest; *c && *c != ':'; c++) {
                if (is_upper(*c))
                        return err_set(err, EINVAL,
                                       "invalid reference format: repository name (%.*s) must be lowercase",
                                       (int)MIN(strcspn(rest, ":"), (size_t)REF_TEXT_MAX), rest);
        }
        whole = str_printf("%.*s/%s%s", standard ? (int)strlen(DEFAULT_DOMAIN) : (int)domain.len,
                           standard ? DEFAULT_DOMAIN : domain.s, standard && !strchr(rest, '/') ? OFFICIAL_PREFIX : "",
                           rest);
        if (!whole)
                return err_oom(err);
        return image_ref_parse(whole, ret, err);
}

int image_ref_parse_docker(const char *s, struct image_ref *ret, struct err *err)
{
        struct image_ref ref;
        int r;

        r = image_ref_parse_normalized(s, &ref, err);
        if (r < 0)
                return r;
        if (ref.digest[0])
                ref.tag[0] = '\0';
        else if (!ref.tag[0])
                memcpy(ref.tag, "latest", sizeof("latest"));
        *ret = ref;
        return 0;
}

int image_ref_parse_named(const char *s, struct image_ref *ret, struct err *err)
{
        char text[REF_TEXT_MAX];
        struct image_ref ref;
        int r;

        r = image_ref_parse_normalized(s, &ref, err);
        if (r < 0)
                return r;
        image_ref_format(&ref, text);
        if (!str_eq(text, s))
                return err_set(err, EINVAL, "repository name must be canonical");
        *ret = ref;
        return 0;
}

int image_ref_parse_any(const char *s, struct image_ref *ret, struct err *err)
{
        bool bare = hex_is_lower(s, SHA256_HEX);

        if (!bare && !image_digest_valid(s))
                return image_ref_parse_normalized(s, ret, err);
        *ret = (struct image_ref){ .domain = "" };
        (void)snprintf(ret->digest, sizeof(ret->digest), "%s%s", bare ? SHA256_PREFIX : "", s);
        return 0;
}

bool image_ref_is_reserved(const struct image_ref *ref)
{
        return str_eq(ref->domain, IMAGE_BUILTIN_DOMAIN) ||
               (str_eq(ref->domain, DEFAULT_DOMAIN) && str_eq(ref->path, OFFICIAL_PREFIX "sha256"));
}

int image_ref_with_name(const char *name, struct image_ref *ret, struct err *err)
{
        struct parts p = { .tag = { "", 0 }, .digest = { "", 0 } };

        if (!*name || !split_name((struct span){ name, strlen(name) }, &p.domain, &p.path))
                return err_set(err, EINVAL, "invalid reference format");
        return take_parts(&p, ret, err);
}

static void format(const char *domain, const char *path, const struct image_ref *ref, char out[REF_TEXT_MAX])
{
        (void)snprintf(out, REF_TEXT_MAX, "%s%s%s%s%s%s%s", domain, domain[0] && path[0] ? "/" : "", path,
                       ref->tag[0] ? ":" : "", ref->tag, ref->digest[0] && path[0] ? "@" : "", ref->digest);
}

void image_ref_format(const struct image_ref *ref, char out[REF_TEXT_MAX])
{
        format(ref->domain, ref->path, ref, out);
}

void image_ref_familiar(const struct image_ref *ref, char out[REF_TEXT_MAX])
{
        const char *domain = ref->domain, *path = ref->path;

        if (str_eq(domain, DEFAULT_DOMAIN)) {
                domain = "";
                if (str_starts(path, OFFICIAL_PREFIX) && !strchr(path + strlen(OFFICIAL_PREFIX), '/'))
                        path += strlen(OFFICIAL_PREFIX);
        }
        format(domain, path, ref, out);
}
