/* Archives among the files of a request. */

#include "base/tar.h"
#include "base/vec.h"
#include "wire/task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void wire_members_done(struct wire_members *m)
{
        for (size_t i = 0; i < m->len; i++) {
                free(m->items[i].path);
                free(m->items[i].target);
        }
        VEC_DONE(m);
}

/* "a/b" below "/srv/" is "/srv/a/b"; the root's own entry is the directory itself. */
static char *join(const char *dir, const char *path)
{
        size_t len = strlen(dir);

        while (len > 1 && dir[len - 1] == '/')
                len--;
        if (str_eq(path, "."))
                return strndup(dir, len);
        return str_printf("%.*s%s%s", (int)len, dir, len == 1 && dir[0] == '/' ? "" : "/", path);
}

static const struct wire_member *find_file(const struct wire_members *m, const char *path)
{
        for (size_t i = m->len; i > 0; i--)
                if (m->items[i - 1].type == WIRE_MEMBER_FILE && str_eq(m->items[i - 1].path, path))
                        return &m->items[i - 1];
        return NULL;
}

static int fill_hard_link(const struct wire_file *f, const struct tar_member *t, const struct wire_members *all,
                          struct wire_member *m, struct err *err)
{
        auto_free char *target = join(f->path, t->target);
        const struct wire_member *of = target ? find_file(all, target) : NULL;
        char shown[STR_SHOWN_MAX];

        if (!target)
                return err_oom(err);
        if (!of)
                return err_set(err, EBADMSG, "'%s' is a link to no earlier file", str_show(t->path, shown));
        m->data = of->data;
        m->len = of->len;
        m->mode = of->mode;
        return 0;
}

static int fill_member(const struct wire_file *f, const struct tar_member *t, const struct wire_members *all,
                       struct wire_member *m, struct err *err)
{
        char shown[STR_SHOWN_MAX];

        if (t->outside)
                return err_set(err, EBADMSG, "'%s' leads out of the archive", str_show(t->path, shown));
        m->mode = t->mode;
        m->path = join(f->path, t->path);
        if (!m->path)
                return err_oom(err);
        if (strlen(m->path) > WIRE_PATH_MAX)
                return err_set(err, EBADMSG, "'%s' is too long a path", str_show(t->path, shown));
        switch (t->kind) {
        case TAR_KIND_FILE:
                m->data = "";
                return 0;
        case TAR_KIND_DIRECTORY:
                m->type = WIRE_MEMBER_DIRECTORY;
                return 0;
        case TAR_KIND_SYMLINK:
                m->type = WIRE_MEMBER_SYMLINK;
                m->target = strdup(t->target);
                m->data = m->target;
                m->len = strlen(t->target);
                return m->target ? 0 : err_oom(err);
        case TAR_KIND_HARDLINK:
                return fill_hard_link(f, t, all, m, err);
        default:
                return err_set(err, EBADMSG, "'%s' is a device or FIFO", str_show(t->path, shown));
        }
}

static int add_member(const struct wire_file *f, const struct tar_member *t, size_t max, struct wire_members *ret,
                      struct err *err)
{
        struct wire_member m = { .path = NULL };
        int r;

        if (ret->len >= max)
                return err_set(err, E2BIG, "the archive holds too many files");
        r = fill_member(f, t, ret, &m, err);
        if (r == 0 && VEC_ADD(ret, m) < 0)
                r = err_oom(err);
        if (r < 0) {
                free(m.path);
                free(m.target);
        }
        return r;
}

int wire_members_read(const struct wire_file *f, size_t max, struct wire_members *ret, struct err *err)
{
        auto_free struct tar_reader *reader = malloc(sizeof(*reader));
        const void *at = f->content;
        size_t left = f->len;
        bool in_file = false;
        int r;

        if (!reader)
                return err_oom(err);
        tar_reader_init(reader, NULL);
        for (;;) {
                struct tar_piece piece;

                r = tar_reader_next(reader, &at, &left, &piece, err);
                if (r < 0)
                        return -EBADMSG;
                if (piece.event == TAR_MORE || piece.event == TAR_END)
                        break;
                if (piece.event == TAR_CONTENT) {
                        if (in_file) {
                                ret->items[ret->len - 1].data = piece.data;
                                ret->items[ret->len - 1].len = piece.len;
                        }
                        continue;
                }
                in_file = piece.member.kind == TAR_KIND_FILE;
                if (piece.member.kind == TAR_KIND_UNKNOWN)
                        continue;
                r = add_member(f, &piece.member, max, ret, err);
                if (r < 0)
                        return r;
        }
        r = tar_reader_finish(reader, err);
        return r < 0 ? -EBADMSG : 0;
}
