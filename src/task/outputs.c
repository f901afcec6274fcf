/* Files that are brought back after the end of a task, one after the other. */

#include "base/fd.h"
#include "base/tar.h"
#include "base/time.h"
#include "task/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define OUTPUT_ENTRIES_MAX 65536
#define OUTPUT_TAR_EXTRA (64 * 1024) /* of an archive, beside the content of one file */

static void collect_next(struct task *t);

void task_outputs_done(struct task *t)
{
        struct task_outputs *o = &t->outputs;

        wire_outputs_free(o->items, o->n);
        o->items = NULL;
        o->n = 0;
        fd_close(o->fd);
        o->fd = -EBADF;
        str_done(&o->text);
}

static const char *error_word(int r)
{
        switch (-r) {
        case ENOENT:
        case ENOTDIR:
        case ELOOP:
        case ESRCH:
                return "not_found";
        case EFBIG:
        case E2BIG:
                return "too_large";
        case EACCES:
        case EPERM:
                return "not_allowed";
        case ETIMEDOUT:
                return "timeout";
        case ENOTSUP:
                return "not_supported";
        default:
                return "failed";
        }
}

static int copy_bytes(struct wire_output *out, const void *data, size_t len, uint64_t left)
{
        if (len > left)
                return -EFBIG;
        out->data = malloc(len ? len : 1);
        if (!out->data)
                return -ENOMEM;
        if (len > 0)
                memcpy(out->data, data, len);
        out->len = len;
        return 0;
}

/* A file's content is the answer's; a directory stays an archive. What the archive says is the container's word. */
static int read_member(struct wire_output *out, const void *archive, size_t len, uint64_t left)
{
        auto_free struct tar_reader *reader = malloc(sizeof(*reader));
        const void *at = archive;
        size_t rest = len;
        struct tar_piece piece;
        int r;

        if (!reader)
                return -ENOMEM;
        tar_reader_init(reader, NULL);
        r = tar_reader_next(reader, &at, &rest, &piece, NULL);
        if (r < 0 || piece.event != TAR_MEMBER)
                return -EIO;
        out->mode = piece.member.mode;
        switch (piece.member.kind) {
        case TAR_KIND_DIRECTORY:
                out->type = WIRE_OUTPUT_DIRECTORY;
                return copy_bytes(out, archive, len, left);
        case TAR_KIND_SYMLINK:
                out->type = WIRE_OUTPUT_SYMLINK;
                return copy_bytes(out, piece.member.target, strlen(piece.member.target), left);
        case TAR_KIND_FILE:
                if (piece.member.size == 0)
                        return copy_bytes(out, "", 0, left);
                r = tar_reader_next(reader, &at, &rest, &piece, NULL);
                if (r < 0 || piece.event != TAR_CONTENT || piece.len != piece.member.size)
                        return -EIO;
                return copy_bytes(out, piece.data, piece.len, left);
        default:
                return -ENOTSUP;
        }
}

static int read_archive(struct task_outputs *o, struct wire_output *out)
{
        struct stat st;
        void *map;
        int r;

        if (fstat(o->fd, &st) < 0)
                return -errno;
        if (st.st_size <= 0)
                return -EIO;
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, o->fd, 0);
        if (map == MAP_FAILED)
                return -errno;
        r = read_member(out, map, (size_t)st.st_size, o->left);
        (void)munmap(map, (size_t)st.st_size);
        if (r == 0)
                o->left -= out->len;
        return r;
}

static void copied(struct task *t, int r)
{
        struct task_outputs *o = &t->outputs;
        struct wire_output *out = &o->items[o->at];

        if (r == 0)
                r = read_archive(o, out);
        if (r < 0)
                out->error = error_word(r);
        fd_close(o->fd);
        o->fd = -EBADF;
        o->at++;
}

static void on_copied(int r, const struct err *err, void *data)
{
        struct task *t = data;

        (void)err;
        if (!task_settle(t) || t->ts->freeing)
                return;
        copied(t, r);
        collect_next(t);
}

static int copy_one(struct task *t)
{
        struct task_outputs *o = &t->outputs;
        uint64_t now = time_mono_ns();
        const struct engine_copy_limits limits = {
                .bytes = o->left + OUTPUT_TAR_EXTRA,
                .entries = OUTPUT_ENTRIES_MAX,
                .timeout_ns = o->deadline_ns > now ? o->deadline_ns - now : 0,
        };
        int r;

        if (limits.timeout_ns == 0)
                return -ETIMEDOUT;
        o->fd = memfd_create("output", MFD_CLOEXEC);
        if (o->fd < 0)
                return -errno;
        r = t->engine->ops->copy_out(t->container, o->items[o->at].path, &limits, o->fd, on_copied, t, NULL);
        t->owed += r == 0;
        return r;
}

static void collect_next(struct task *t)
{
        struct task_outputs *o = &t->outputs;

        while (o->at < o->n) {
                int r = copy_one(t);

                if (r == 0)
                        return;
                copied(t, r);
        }
        if (wire_outputs_write(o->items, o->n, &o->text) < 0)
                str_clear(&o->text);
        wire_outputs_free(o->items, o->n);
        o->items = NULL;
        o->n = 0;
        task_end_by_exit(t);
}

bool task_collect(struct task *t)
{
        struct task_outputs *o = &t->outputs;
        size_t n = t->rec.outputs ? strv_len(t->rec.outputs) : 0;

        if (n == 0 || t->exit.start_mono_ns == 0 || !t->engine->ops->copy_out)
                return false;
        o->items = calloc(n, sizeof(*o->items));
        for (size_t i = 0; o->items && i < n; i++) {
                o->items[i].path = strdup(t->rec.outputs[i]);
                if (!o->items[i].path) {
                        wire_outputs_free(o->items, i);
                        o->items = NULL;
                }
        }
        if (!o->items)
                return false;
        o->n = n;
        o->at = 0;
        o->left = WIRE_OUTPUTS_BYTES_MAX;
        o->deadline_ns = time_mono_ns() + TASK_OUTPUTS_NS;
        collect_next(t);
        return true;
}
