#include "base/tar.h"

#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* A header, by offset and length (POSIX.1-2017, pax, "ustar Interchange Format"). */
#define NAME 0, 100
#define MODE 100, 8
#define UID 108, 8
#define GID 116, 8
#define SIZE 124, 12
#define MTIME 136, 12
#define SUM 148, 8
#define TYPE 156
#define TARGET 157, 100
#define MAGIC 257
#define PREFIX 345, 155

#define OCTAL_MAX(digits) ((UINT64_C(1) << (3 * (digits))) - 1)

enum { STATE_HEADER, STATE_CONTENT, STATE_RECORDS, STATE_ZERO, STATE_END };

/* ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

bool tar_path_outside(const char *path)
{
        if (path[0] == '/')
                return true;
        for (const char *p = path; *p; p += strspn(p, "/")) {
                size_t len = strcspn(p, "/");

                if (len == 2 && p[0] == '.' && p[1] == '.')
                        return true;
                p += len;
        }
        return false;
}

/* Without "." and empty components, in place; an absolute path stays one. */
static void clean_path(char *path)
{
        size_t n = path[0] == '/' ? 1 : 0;
        const char *p = path;

        while (*(p += strspn(p, "/"))) {
                size_t len = strcspn(p, "/");

                if (len != 1 || p[0] != '.') {
                        if (n > 0 && path[n - 1] != '/')
                                path[n++] = '/';
                        memmove(path + n, p, len);
                        n += len;
                }
                p += len;
        }
        if (n == 0)
                path[n++] = '.';
        path[n] = '\0';
}

/* ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Base 256 as GNU has it: the first bit is set, the rest is a number in two's complement. */
static int parse_binary(const uint8_t *p, size_t len, int64_t *ret)
{
        bool negative = p[0] & 0x40;
        uint64_t v = negative ? UINT64_MAX : 0;

        for (size_t i = 0; i < len; i++) {
                uint8_t b = i > 0 ? p[i] : negative ? p[0] : p[0] & 0x7f;

                if (len - i > 8 && b != (negative ? 0xff : 0))
                        return -ERANGE;
                v = (v << 8) | b;
        }
        if ((v >> 63) != (uint64_t)negative)
                return -ERANGE;
        *ret = (int64_t)v;
        return 0;
}

/* Octal digits between blanks, up to a NUL or a blank; nothing at all is 0. */
static int parse_number(const uint8_t *block, size_t at, size_t len, int64_t *ret)
{
        const uint8_t *p = block + at, *end = p + len;
        int64_t v = 0;

        if (*p & 0x80)
                return parse_binary(p, len, ret);
        while (p < end && *p == ' ')
                p++;
        for (; p < end && *p >= '0' && *p <= '7'; p++)
                v = v * 8 + (*p - '0');
        if (p < end && *p != ' ' && *p != '\0')
                return -EINVAL;
        *ret = v;
        return 0;
}

static int parse_unsigned(const uint8_t *block, size_t at, size_t len, uint64_t *ret)
{
        int64_t v;

        if (parse_number(block, at, len, &v) < 0 || v < 0)
                return -EINVAL;
        *ret = (uint64_t)v;
        return 0;
}

/* Some old programs added the bytes up as signed ones. */
static bool sum_fits(const uint8_t *block)
{
        uint64_t unsigned_sum = 0, want;
        int64_t signed_sum = 0;

        for (size_t i = 0; i < TAR_BLOCK; i++) {
                uint8_t b = i >= 148 && i < 156 ? ' ' : block[i];

                unsigned_sum += b;
                signed_sum += (int8_t)b;
        }
        return parse_unsigned(block, SUM, &want) == 0 && (want == unsigned_sum || (int64_t)want == signed_sum);
}

/* ── extended headers ────────────────────────────────────────────────────────────────────────────────────────────── */

static int parse_decimal(const char *text, size_t len, uint64_t *ret)
{
        char copy[24];

        if (len >= sizeof(copy))
                return -EINVAL;
        memcpy(copy, text, len);
        copy[len] = '\0';
        return parse_u64(copy, ret);
}

/* Seconds, with a sign and a fraction, of which the latter is dropped. */
static int parse_time(const char *text, size_t len, int64_t *ret)
{
        bool negative = len > 0 && text[0] == '-';
        const char *dot = memchr(text, '.', len);
        size_t whole = (dot ? (size_t)(dot - text) : len) - negative;
        uint64_t v;

        if (parse_decimal(text + negative, whole, &v) < 0 || v > INT64_MAX)
                return -EINVAL;
        *ret = negative ? -(int64_t)v : (int64_t)v;
        return 0;
}

static int take_name(const char *text, size_t len, char out[TAR_NAME_MAX + 2], bool *ret_has)
{
        if (len == 0)
                return 0; /* it takes back a global record */
        if (len > TAR_NAME_MAX)
                return -ENAMETOOLONG;
        if (memchr(text, '\0', len))
                return -EINVAL;
        memcpy(out, text, len);
        out[len] = '\0';
        *ret_has = true;
        return 0;
}

static bool is_key(const char *key, size_t len, const char *what)
{
        return strlen(what) == len && memcmp(key, what, len) == 0;
}

static int take_record(struct tar_reader *r, const char *key, size_t key_len, const char *value, size_t len)
{
        int e = 0;

        if (is_key(key, key_len, "path"))
                return take_name(value, len, r->path, &r->next.path);
        if (is_key(key, key_len, "linkpath"))
                return take_name(value, len, r->target, &r->next.target);
        if (key_len >= 11 && memcmp(key, "GNU.sparse.", 11) == 0)
                return -ENOTSUP;
        if (len == 0)
                return 0;
        if (is_key(key, key_len, "size")) {
                e = parse_decimal(value, len, &r->next.size_value);
                r->next.size = true;
        } else if (is_key(key, key_len, "mtime")) {
                e = parse_time(value, len, &r->next.mtime_value);
                r->next.mtime = true;
        } else if (is_key(key, key_len, "uid")) {
                e = parse_decimal(value, len, &r->next.uid_value);
                r->next.uid = true;
        } else if (is_key(key, key_len, "gid")) {
                e = parse_decimal(value, len, &r->next.gid_value);
                r->next.gid = true;
        }
        return e < 0 ? -EINVAL : 0;
}

/* "LENGTH KEY=VALUE\n", one after the other; LENGTH counts all of that. */
static int take_records(struct tar_reader *r)
{
        const char *p = r->records, *end = p + r->next.used;

        while (p < end && *p) {
                const char *blank = memchr(p, ' ', (size_t)(end - p)), *equals;
                uint64_t len;
                int e;

                if (!blank || parse_decimal(p, (size_t)(blank - p), &len) < 0 || len > (uint64_t)(end - p) ||
                    len < (uint64_t)(blank - p) + 3 || p[len - 1] != '\n')
                        return -EINVAL;
                blank++;
                equals = memchr(blank, '=', (size_t)(p + len - blank));
                if (!equals)
                        return -EINVAL;
                e = take_record(r, blank, (size_t)(equals - blank), equals + 1, (size_t)(p + len - 2 - equals));
                if (e < 0)
                        return e;
                p += len;
        }
        return 0;
}

static int take_extended(struct tar_reader *r)
{
        size_t len = strnlen(r->records, r->next.used);

        if (r->type == 'x')
                return take_records(r);
        if (r->type == 'L')
                return take_name(r->records, len, r->path, &r->next.path);
        if (r->type == 'K')
                return take_name(r->records, len, r->target, &r->next.target);
        return 0; /* global records: comments of git-archive(1) and the like */
}

/* ── headers ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static enum tar_kind kind_of(char type)
{
        switch (type) {
        case '\0':
        case '0':
        case '7':
                return TAR_KIND_FILE;
        case '1':
                return TAR_KIND_HARDLINK;
        case '2':
                return TAR_KIND_SYMLINK;
        case '3':
                return TAR_KIND_CHARACTER;
        case '4':
                return TAR_KIND_BLOCK;
        case '5':
                return TAR_KIND_DIRECTORY;
        case '6':
                return TAR_KIND_FIFO;
        default:
                return TAR_KIND_UNKNOWN;
        }
}

static size_t add_field(char *out, size_t n, const uint8_t *block, size_t at, size_t len)
{
        size_t have = strnlen((const char *)block + at, len);

        memcpy(out + n, block + at, have);
        out[n + have] = '\0';
        return n + have;
}

static void read_names(struct tar_reader *r)
{
        static const char posix[] = "ustar"; /* with its NUL; GNU has a blank there, and other things in the prefix */
        size_t n = 0;

        if (!r->next.path) {
                if (memcmp(r->block + MAGIC, posix, sizeof(posix)) == 0 && r->block[345]) {
                        n = add_field(r->path, 0, r->block, PREFIX);
                        r->path[n++] = '/';
                }
                (void)add_field(r->path, n, r->block, NAME);
        }
        if (!r->next.target)
                (void)add_field(r->target, 0, r->block, TARGET);
}

static int read_numbers(struct tar_reader *r, struct tar_member *m)
{
        uint64_t mode = 0;

        if (parse_unsigned(r->block, MODE, &mode) < 0 || parse_unsigned(r->block, SIZE, &m->size) < 0 ||
            parse_unsigned(r->block, UID, &m->uid) < 0 || parse_unsigned(r->block, GID, &m->gid) < 0 ||
            parse_number(r->block, MTIME, &m->mtime) < 0)
                return -EINVAL;
        m->mode = mode & 07777;
        if (r->next.size)
                m->size = r->next.size_value;
        if (r->next.uid)
                m->uid = r->next.uid_value;
        if (r->next.gid)
                m->gid = r->next.gid_value;
        if (r->next.mtime)
                m->mtime = r->next.mtime_value;
        return m->size > TAR_SIZE_MAX ? -EINVAL : 0;
}

static void expect(struct tar_reader *r, int state, uint64_t size)
{
        r->state = state;
        r->left = size;
        r->padding = (uint32_t)(-size & (TAR_BLOCK - 1));
}

static int start_extended(struct tar_reader *r, struct err *err)
{
        uint64_t size;

        if (parse_unsigned(r->block, SIZE, &size) < 0)
                return err_set(err, EBADMSG, "bad tar archive: a header with a bad number");
        if (size > TAR_RECORDS_MAX)
                return err_set(err, ENAMETOOLONG, "bad tar archive: an extended header of more than %d bytes",
                               TAR_RECORDS_MAX);
        r->next.used = 0;
        expect(r, STATE_RECORDS, size);
        return 0;
}

static int count(struct tar_reader *r, const struct tar_member *m, struct err *err)
{
        if (r->limits.members && r->members >= r->limits.members)
                return err_set(err, E2BIG, "the tar archive has more than %u members", r->limits.members);
        if (r->limits.bytes && m->size > r->limits.bytes - r->bytes)
                return err_set(err, EFBIG, "the tar archive holds more than %llu bytes",
                               (unsigned long long)r->limits.bytes);
        r->members++;
        r->bytes += r->limits.bytes ? m->size : 0;
        return 0;
}

static int start_member(struct tar_reader *r, char type, struct tar_piece *ret, struct err *err)
{
        struct tar_member *m = &ret->member;
        int e;

        *m = (struct tar_member){ .kind = kind_of(type), .path = r->path, .target = "" };
        read_names(r);
        if (read_numbers(r, m) < 0)
                return err_set(err, EBADMSG, "bad tar archive: a header with a bad number");
        if (r->path[0] == '\0')
                return err_set(err, EBADMSG, "bad tar archive: a member without a name");
        /* Version 7 had no type for directories. */
        if (m->kind == TAR_KIND_FILE && r->path[strlen(r->path) - 1] == '/')
                m->kind = TAR_KIND_DIRECTORY;
        m->outside = tar_path_outside(r->path);
        clean_path(r->path);
        if (m->kind == TAR_KIND_SYMLINK || m->kind == TAR_KIND_HARDLINK) {
                if (r->target[0] == '\0')
                        return err_set(err, EBADMSG, "bad tar archive: a link to nothing");
                if (m->kind == TAR_KIND_HARDLINK) {
                        m->outside |= tar_path_outside(r->target);
                        clean_path(r->target);
                }
                m->target = r->target;
        }
        /* Of others the size, if there is one, is a hint. */
        if (m->kind != TAR_KIND_FILE && m->kind != TAR_KIND_UNKNOWN)
                m->size = 0;
        e = count(r, m, err);
        if (e < 0)
                return e;
        memset(&r->next, 0, sizeof(r->next));
        expect(r, STATE_CONTENT, m->size);
        ret->event = TAR_MEMBER;
        return 0;
}

static int start_block(struct tar_reader *r, struct tar_piece *ret, struct err *err)
{
        static const uint8_t zero[TAR_BLOCK];
        char type = (char)r->block[TYPE];

        if (memcmp(r->block, zero, sizeof(zero)) == 0) {
                r->state = r->state == STATE_ZERO ? STATE_END : STATE_ZERO;
                return 0;
        }
        if (!sum_fits(r->block))
                return err_set(err, EBADMSG, "this is no tar archive, or a damaged one");
        r->state = STATE_HEADER;
        switch (type) {
        case 'x':
        case 'g':
        case 'L':
        case 'K':
                r->type = type;
                return start_extended(r, err);
        case 'S':
        case 'M':
        case 'V':
        case 'D':
                return err_set(err, ENOTSUP, "the tar archive has members of type '%c', which is not supported", type);
        default:
                return start_member(r, type, ret, err);
        }
}

/* ── the input ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static size_t advance(const void **at, size_t *len, uint64_t n)
{
        size_t step = (size_t)MIN(n, (uint64_t)*len);

        *at = (const uint8_t *)*at + step;
        *len -= step;
        return step;
}

static int read_header(struct tar_reader *r, const void **at, size_t *len, struct tar_piece *ret, struct err *err)
{
        const void *from = *at;
        size_t n = advance(at, len, TAR_BLOCK - r->have);

        memcpy(r->block + r->have, from, n);
        r->have += n;
        if (r->have < TAR_BLOCK)
                return 0;
        r->have = 0;
        return start_block(r, ret, err);
}

static int read_records(struct tar_reader *r, const void **at, size_t *len, struct err *err)
{
        const void *from = *at;
        size_t n = advance(at, len, r->left);
        int e;

        memcpy(r->records + r->next.used, from, n);
        r->next.used += n;
        r->left -= n;
        if (r->left > 0)
                return 0;
        r->records[r->next.used] = '\0';
        e = take_extended(r);
        if (e < 0)
                return err_set(err, e == -EINVAL ? EBADMSG : -e, "bad tar archive: %s",
                               e == -ENOTSUP        ? "sparse files are not supported"
                               : e == -ENAMETOOLONG ? "a name that is too long"
                                                    : "an extended header that makes no sense");
        r->state = STATE_HEADER;
        return 0;
}

int tar_reader_next(struct tar_reader *r, const void **at, size_t *len, struct tar_piece *ret, struct err *err)
{
        ret->event = TAR_MORE;
        while (ret->event == TAR_MORE) {
                int e = 0;

                if (r->state == STATE_END) {
                        ret->event = TAR_END;
                        return 0;
                }
                if (r->state == STATE_CONTENT && r->left == 0)
                        r->state = STATE_HEADER;
                if (r->state == STATE_HEADER && r->padding > 0)
                        r->padding -= (uint32_t)advance(at, len, r->padding);
                /* An extended header may be empty; everything else needs a byte. */
                if (*len == 0 && !(r->state == STATE_RECORDS && r->left == 0))
                        return 0;
                if (r->state == STATE_CONTENT) {
                        ret->event = TAR_CONTENT;
                        ret->data = *at;
                        ret->len = advance(at, len, r->left);
                        r->left -= ret->len;
                } else if (r->state == STATE_RECORDS) {
                        e = read_records(r, at, len, err);
                } else {
                        e = read_header(r, at, len, ret, err);
                }
                if (e < 0)
                        return e;
        }
        return 0;
}

int tar_reader_finish(const struct tar_reader *r, struct err *err)
{
        bool whole = r->left == 0 && r->padding == 0 && r->have == 0 && !r->next.path && !r->next.target;

        return whole && r->state != STATE_RECORDS ? 0 : err_set(err, EBADMSG, "the tar archive is cut off");
}

void tar_reader_init(struct tar_reader *r, const struct tar_limits *limits)
{
        memset(r, 0, sizeof(*r));
        r->state = STATE_HEADER;
        if (limits)
                r->limits = *limits;
}

/* ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct records {
        char data[2 * TAR_NAME_MAX + 512];
        size_t len;
};

static size_t digits(size_t n)
{
        size_t count_ = 1;

        while (n >= 10) {
                n /= 10;
                count_++;
        }
        return count_;
}

static void add_record(struct records *r, const char *key, const char *value, size_t len)
{
        size_t rest = strlen(key) + len + 3, total = rest + digits(rest);

        total = rest + digits(total);
        r->len += (size_t)snprintf(r->data + r->len, sizeof(r->data) - r->len, "%zu %s=", total, key);
        memcpy(r->data + r->len, value, len);
        r->len += len;
        r->data[r->len++] = '\n';
}

static void add_number(struct records *r, const char *key, int64_t v)
{
        char text[24];
        int n = snprintf(text, sizeof(text), "%lld", (long long)v);

        add_record(r, key, text, (size_t)n);
}

static void collect(struct records *r, const struct tar_member *m)
{
        size_t path = strlen(m->path) + (m->kind == TAR_KIND_DIRECTORY), target = m->target ? strlen(m->target) : 0;

        r->len = 0;
        if (path > 100) {
                char name[TAR_NAME_MAX + 2];

                (void)snprintf(name, sizeof(name), "%s%s", m->path, m->kind == TAR_KIND_DIRECTORY ? "/" : "");
                add_record(r, "path", name, path);
        }
        if (target > 100)
                add_record(r, "linkpath", m->target, target);
        if (m->size > OCTAL_MAX(11))
                add_number(r, "size", (int64_t)m->size);
        if (m->uid > OCTAL_MAX(7))
                add_number(r, "uid", (int64_t)m->uid);
        if (m->gid > OCTAL_MAX(7))
                add_number(r, "gid", (int64_t)m->gid);
        if (m->mtime < 0 || (uint64_t)m->mtime > OCTAL_MAX(11))
                add_number(r, "mtime", m->mtime);
}

static char type_of(enum tar_kind kind)
{
        static const char types[] = {
                [TAR_KIND_FILE] = '0',     [TAR_KIND_DIRECTORY] = '5', [TAR_KIND_SYMLINK] = '2',
                [TAR_KIND_HARDLINK] = '1', [TAR_KIND_FIFO] = '6',
        };

        return (size_t)kind < ARRAY_LEN(types) ? types[kind] : '\0';
}

static void put_octal(char *header, size_t at, size_t len, uint64_t v)
{
        uint64_t max = OCTAL_MAX(len - 1);

        /* What does not fit is in the extended header. */
        (void)snprintf(header + at, len, "%0*llo", (int)len - 1, (unsigned long long)(v > max ? 0 : v));
}

static void fill_header(char header[TAR_BLOCK], const char *name, const struct tar_member *m, char type, uint64_t size)
{
        unsigned sum = 0;

        memset(header, 0, TAR_BLOCK);
        memcpy(header, name, strnlen(name, 100));
        put_octal(header, MODE, m->mode & 07777);
        put_octal(header, UID, m->uid);
        put_octal(header, GID, m->gid);
        put_octal(header, SIZE, size);
        put_octal(header, MTIME, m->mtime < 0 ? 0 : (uint64_t)m->mtime);
        header[TYPE] = type;
        if (type == '1' || type == '2')
                memcpy(header + 157, m->target, strnlen(m->target, 100));
        memcpy(header + MAGIC, "ustar", 6);
        memset(header + MAGIC + 6, '0', 2);
        memset(header + 148, ' ', 8);
        for (size_t i = 0; i < TAR_BLOCK; i++)
                sum += (uint8_t)header[i];
        (void)snprintf(header + 148, 8, "%06o", sum);
        header[155] = ' ';
}

static int pad(struct tar_writer *w)
{
        static const uint8_t zero[TAR_BLOCK];
        uint32_t n = w->padding;

        w->padding = 0;
        return n > 0 ? w->fn(zero, n, w->data) : 0;
}

static int put_block(struct tar_writer *w, const char *name, const struct tar_member *m, char type, uint64_t size)
{
        char header[TAR_BLOCK];

        fill_header(header, name, m, type, size);
        w->padding = (uint32_t)(-size & (TAR_BLOCK - 1));
        return w->fn(header, sizeof(header), w->data);
}

static bool is_valid(const struct tar_member *m)
{
        bool link = m->kind == TAR_KIND_SYMLINK || m->kind == TAR_KIND_HARDLINK;

        return type_of(m->kind) && m->path[0] && (!link || (m->target && m->target[0])) && m->size <= TAR_SIZE_MAX &&
               (m->size == 0 || m->kind == TAR_KIND_FILE);
}

uint64_t tar_member_bytes(const struct tar_member *m)
{
        struct records r;
        uint64_t n = TAR_BLOCK + m->size + (-m->size & (TAR_BLOCK - 1));

        if (strlen(m->path) > TAR_NAME_MAX || (m->target && strlen(m->target) > TAR_NAME_MAX))
                return UINT64_MAX;
        collect(&r, m);
        return r.len > 0 ? n + TAR_BLOCK + r.len + (-r.len & (TAR_BLOCK - 1)) : n;
}

int tar_write_member(struct tar_writer *w, const struct tar_member *m)
{
        char name[101];
        struct records r;
        int e;

        if (w->left > 0 || !is_valid(m))
                return -EINVAL;
        if (strlen(m->path) > TAR_NAME_MAX || (m->target && strlen(m->target) > TAR_NAME_MAX))
                return -ENAMETOOLONG;
        e = pad(w);
        collect(&r, m);
        if (e == 0 && r.len > 0) {
                e = put_block(w, "PaxHeaders/member", &(struct tar_member){ .mode = 0644 }, 'x', r.len);
                if (e == 0)
                        e = w->fn(r.data, r.len, w->data);
                if (e == 0)
                        e = pad(w);
        }
        if (e < 0)
                return e;
        (void)snprintf(name, sizeof(name), "%s%s", m->path, m->kind == TAR_KIND_DIRECTORY ? "/" : "");
        w->left = m->size;
        return put_block(w, name, m, type_of(m->kind), m->size);
}

int tar_write_content(struct tar_writer *w, const void *bytes, size_t len)
{
        if (len > w->left)
                return -EINVAL;
        w->left -= len;
        return len > 0 ? w->fn(bytes, len, w->data) : 0;
}

int tar_write_end(struct tar_writer *w)
{
        static const uint8_t zero[2 * TAR_BLOCK];
        int e = w->left > 0 ? -EINVAL : pad(w);

        return e < 0 ? e : w->fn(zero, sizeof(zero), w->data);
}
