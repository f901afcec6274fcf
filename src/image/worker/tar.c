#include "image/worker/tar.h"
#include "base/str.h"
#include "image/worker/report.h"
#include "image/worker/worker.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct tar {
        struct archive *archive;
        struct stream *stream;
        struct err err;    /* of the stream; libarchive only passes on that there was one */
        const void *first; /* what stream_read() gave before libarchive asked */
        size_t first_len;
        bool empty;
        bool padded;       /* the stream ended within a block, which was filled up with zeros */
        uint64_t data_end; /* of the last entry, in the stream; DATA_END_UNKNOWN */
};

#define BLOCK 512
#define DATA_END_UNKNOWN UINT64_MAX

/* The last block of an archive may lack its padding, and the blocks of zeros that end it: Go's archive/tar reads that (its
 * tryReadFull() of the padding), umoci writes it. libarchive wants the padding, so it gets it here; that nothing else is
 * missing is seen at the end, by check_end(). */
static ssize_t fill_up(struct tar *t, const void **ret)
{
        static const char zeros[BLOCK];
        size_t len = (size_t)(stream_total(t->stream) % BLOCK);

        if (t->padded || len == 0)
                return 0;
        t->padded = true;
        *ret = zeros;
        return (ssize_t)(BLOCK - len);
}

static ssize_t on_read(struct archive *a, void *data, const void **ret)
{
        struct tar *t = data;
        size_t len = t->first_len;

        if (len > 0) {
                *ret = t->first;
                t->first_len = 0;
                return (ssize_t)len;
        }
        if (stream_read(t->stream, ret, &len, &t->err) < 0) {
                archive_set_error(a, t->err.num, "%s", t->err.text);
                return -1;
        }
        return len > 0 ? (ssize_t)len : fill_up(t, ret);
}

static la_int64_t on_skip(struct archive *a, void *data, la_int64_t n)
{
        struct tar *t = data;

        (void)a;
        return n > 0 && t->first_len == 0 ? (la_int64_t)stream_skip(t->stream, (uint64_t)n) : 0;
}

int tar_open(struct stream *s, struct tar **ret, struct err *err)
{
        auto_tar t = calloc(1, sizeof(*t));
        int r;

        if (!t)
                return err_oom(err);
        t->stream = s;
        r = stream_read(s, &t->first, &t->first_len, err);
        if (r < 0)
                return r;
        t->empty = t->first_len == 0;
        t->archive = archive_read_new();
        if (!t->archive || archive_read_support_format_tar(t->archive) != ARCHIVE_OK ||
            archive_read_set_read_callback(t->archive, on_read) != ARCHIVE_OK ||
            archive_read_set_skip_callback(t->archive, on_skip) != ARCHIVE_OK ||
            archive_read_set_callback_data(t->archive, t) != ARCHIVE_OK)
                return err_oom(err);
        /* libarchive knows no empty tar archive; docker does. */
        if (!t->empty && archive_read_open1(t->archive) != ARCHIVE_OK) {
                if (t->err.num)
                        return err_set(err, t->err.num, "%s", t->err.text);
                return err_set(err, EBADMSG, "this is no tar archive");
        }
        *ret = TAKE_PTR(t);
        return 0;
}

void tar_close(struct tar *t)
{
        if (!t)
                return;
        (void)archive_read_free(t->archive);
        free(t);
}

void tar_cleanup(struct tar **t)
{
        tar_close(*t);
}

static int failed(struct tar *t, struct err *err)
{
        const char *text = archive_error_string(t->archive);
        char shown[STR_SHOWN_MAX];

        if (t->err.num)
                return err_set(err, t->err.num, "%s", t->err.text);
        if (archive_errno(t->archive) == ENOMEM)
                return err_oom(err);
        return err_set(err, EBADMSG, "bad tar archive: %s", str_show(text ? text : "corrupt", shown));
}

int tar_clean(const char *name, char out[PATH_MAX], struct err *err)
{
        char shown[STR_SHOWN_MAX];
        unsigned depth = 0;
        size_t n = 0;

        for (const char *p = name + strspn(name, "/"); *p; p += strspn(p, "/")) {
                size_t len = strcspn(p, "/");

                if (len == 2 && p[0] == '.' && p[1] == '.') {
                        if (depth == 0)
                                return err_set(err, EBADMSG, "'%s' leads out of the root", str_show(name, shown));
                        while (n > 0 && out[n - 1] != '/')
                                n--;
                        n -= n > 0;
                        depth--;
                } else if (len != 1 || p[0] != '.') {
                        if (len > NAME_MAX || n + len + 2 > PATH_MAX)
                                return err_set(err, EBADMSG, "'%s' is too long", str_show(name, shown));
                        if (++depth > WORKER_DEPTH_MAX)
                                return err_set(err, EBADMSG, "'%s' is more than %d levels deep", str_show(name, shown),
                                               WORKER_DEPTH_MAX);
                        if (n > 0)
                                out[n++] = '/';
                        memcpy(out + n, p, len);
                        n += len;
                }
                p += len;
        }
        out[n] = '\0';
        return 0;
}

static enum tar_type type_of(struct archive_entry *raw)
{
        if (archive_entry_hardlink(raw))
                return TAR_LINK;
        switch (archive_entry_filetype(raw)) {
        case AE_IFREG:
                return TAR_FILE;
        case AE_IFDIR:
                return TAR_DIR;
        case AE_IFLNK:
                return TAR_SYMLINK;
        case AE_IFIFO:
                return TAR_FIFO;
        default:
                return TAR_OTHER;
        }
}

static int check_ids(const struct tar_entry *e, struct err *err)
{
        la_int64_t uid = archive_entry_uid(e->raw), gid = archive_entry_gid(e->raw);
        char shown[STR_SHOWN_MAX];

        if (uid >= 0 && uid <= WORKER_ID_MAX && gid >= 0 && gid <= WORKER_ID_MAX)
                return 0;
        return err_set(err, EBADMSG, "'%s': owner %lld:%lld is outside 0 to %d", str_show(e->name, shown),
                       (long long)uid, (long long)gid, WORKER_ID_MAX);
}

/* What was filled up must be the padding of the last file, nothing of the file itself, nor of a header. */
static int check_end(const struct tar *t, struct err *err)
{
        uint64_t total = stream_total(t->stream), missing = BLOCK - total % BLOCK;

        if (!t->padded || (t->data_end <= total && total + missing - t->data_end < BLOCK))
                return 0;
        return err_set(err, EBADMSG, "bad tar archive: it is cut short");
}

/* Of links that have contents, and of sparse files, how much lies in the archive is known to libarchive alone. */
static uint64_t data_end_of(const struct tar *t, const struct tar_entry *e)
{
        if (e->type == TAR_LINK || e->sparse)
                return DATA_END_UNKNOWN;
        return tar_offset(t) + e->size;
}

int tar_next(struct tar *t, bool ids, struct tar_entry *ret, struct err *err)
{
        struct tar_entry e = { .target = NULL };
        char shown[STR_SHOWN_MAX];
        int r;

        if (t->empty)
                return 0;
        r = archive_read_next_header(t->archive, &e.raw);
        if (r == ARCHIVE_EOF)
                return check_end(t, err);
        if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
                return failed(t, err);
        /* ARCHIVE_WARN: a name that the C locale cannot hold; its bytes are there all the same. */
        e.name = archive_entry_pathname(e.raw);
        if (!e.name)
                return err_set(err, EBADMSG, "bad tar archive: an entry without a name");
        r = tar_clean(e.name, e.path, err);
        if (r < 0)
                return r;
        e.type = type_of(e.raw);
        if (e.type == TAR_LINK || e.type == TAR_SYMLINK) {
                e.target = e.type == TAR_LINK ? archive_entry_hardlink(e.raw) : archive_entry_symlink(e.raw);
                if (!e.target || !*e.target || strlen(e.target) >= PATH_MAX)
                        return err_set(err, EBADMSG, "'%s' is a link to nothing or too far", str_show(e.name, shown));
        }
        if (archive_entry_size(e.raw) < 0)
                return err_set(err, EBADMSG, "'%s' has a negative size", str_show(e.name, shown));
        e.mode = archive_entry_perm(e.raw) & 07777;
        e.size = e.type == TAR_FILE ? (uint64_t)archive_entry_size(e.raw) : 0;
        e.sparse = archive_entry_sparse_count(e.raw) > 0;
        t->data_end = data_end_of(t, &e);
        e.mtime = (struct timespec){ .tv_sec = archive_entry_mtime(e.raw), .tv_nsec = archive_entry_mtime_nsec(e.raw) };
        if (e.mtime.tv_nsec < 0 || e.mtime.tv_nsec > 999999999)
                e.mtime.tv_nsec = 0;
        if (ids) {
                r = check_ids(&e, err);
                if (r < 0)
                        return r;
                e.uid = (uint32_t)archive_entry_uid(e.raw);
                e.gid = (uint32_t)archive_entry_gid(e.raw);
        }
        *ret = e;
        return 1;
}

int tar_data(struct tar *t, const void **ret, size_t *ret_len, uint64_t *ret_offset, struct err *err)
{
        la_int64_t offset = 0;
        int r;

        r = archive_read_data_block(t->archive, ret, ret_len, &offset);
        if (r == ARCHIVE_EOF)
                return 0;
        if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
                return failed(t, err);
        if (offset < 0)
                return err_set(err, EBADMSG, "bad tar archive: negative offset");
        *ret_offset = (uint64_t)offset;
        return 1;
}

uint64_t tar_offset(const struct tar *t)
{
        la_int64_t n = archive_filter_bytes(t->archive, 0);

        return n > 0 ? (uint64_t)n : 0;
}

void tar_xattrs_start(const struct tar_entry *e)
{
        (void)archive_entry_xattr_reset(e->raw);
}

const char *tar_xattr_next(const struct tar_entry *e, const void **ret, size_t *ret_len)
{
        const char *name = NULL;

        return archive_entry_xattr_next(e->raw, &name, ret, ret_len) == ARCHIVE_OK ? name : NULL;
}
