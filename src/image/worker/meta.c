#include "image/worker/meta.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/vec.h"
#include "image/worker/tar.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define META_CHUNK (64U << 10)

static char implied_mark;

int meta_init(struct meta *m)
{
        *m = (struct meta){ .implied = map_new() };
        return m->implied ? 0 : -ENOMEM;
}

static void list_done(struct meta_list *l)
{
        for (size_t i = 0; i < l->len; i++) {
                free(l->items[i].path);
                free(l->items[i].target);
        }
        VEC_DONE(l);
}

void meta_done(struct meta *m)
{
        map_free(m->implied);
        list_done(&m->whiteouts);
        list_done(&m->opaques);
        list_done(&m->links);
        *m = (struct meta){ .implied = NULL };
}

int meta_imply(struct meta *m, const char *path)
{
        return map_set(m->implied, path, &implied_mark);
}

void meta_make_explicit(struct meta *m, const char *path)
{
        (void)map_remove(m->implied, path);
}

bool meta_implied(const struct meta *m, const char *path)
{
        return map_find(m->implied, path) != NULL;
}

int meta_add(struct meta_list *l, const char *path, const char *target)
{
        auto_free char *p = strdup(path);
        auto_free char *t = target ? strdup(target) : NULL;
        int r;

        if (!p || (target && !t))
                return -ENOMEM;
        r = VEC_ADD(l, ((struct meta_record){ .path = p, .target = t }));
        if (r < 0)
                return r;
        (void)TAKE_PTR(p);
        (void)TAKE_PTR(t);
        return 0;
}

/* Buffers records, so that the whole file never lies in memory. */
struct writer {
        int fd;
        size_t total;
        struct str buffer;
};

static int writer_flush(struct writer *w)
{
        int r = fd_write_all(w->fd, w->buffer.data, w->buffer.len);

        w->total += w->buffer.len;
        str_clear(&w->buffer);
        return w->total > META_MAX ? -EFBIG : r;
}

static int write_record(struct writer *w, char type, const char *path, const char *target)
{
        int r;

        r = str_addc(&w->buffer, type);
        if (r == 0)
                r = str_add(&w->buffer, path, strlen(path) + 1);
        if (r == 0 && target)
                r = str_add(&w->buffer, target, strlen(target) + 1);
        if (r == 0 && w->buffer.len > META_CHUNK)
                r = writer_flush(w);
        return r;
}

static int write_list(struct writer *w, char type, const struct meta_list *l)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < l->len; i++)
                r = write_record(w, type, l->items[i].path, l->items[i].target);
        return r;
}

static int write_all(const struct meta *m, struct writer *w)
{
        const char *path;
        size_t pos = 0;
        void *mark;
        int r;

        r = str_adds(&w->buffer, META_MAGIC);
        while (r == 0 && map_next(m->implied, &pos, &path, &mark))
                r = write_record(w, 'I', path, NULL);
        if (r == 0)
                r = write_list(w, 'W', &m->whiteouts);
        if (r == 0)
                r = write_list(w, 'O', &m->opaques);
        if (r == 0)
                r = write_list(w, 'L', &m->links);
        return r < 0 ? r : writer_flush(w);
}

int meta_write(const struct meta *m, int dirfd, struct err *err)
{
        struct writer w = { .fd = -EBADF };
        auto_fd fd = -EBADF;
        int r;

        fd = openat(dirfd, META_NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, "create '%s'", META_NAME);
        w.fd = fd;
        r = write_all(m, &w);
        str_done(&w.buffer);
        return r < 0 ? err_set(err, -r, "write '%s': %s", META_NAME, strerror(-r)) : 0;
}

/* The next NUL-terminated path at *pos, cleaned already or an error. */
static const char *take_path(const struct str *s, size_t *pos)
{
        const char *path = s->data + *pos;
        char cleaned[PATH_MAX];
        size_t len = strnlen(path, s->len - *pos);

        if (*pos + len >= s->len || tar_clean(path, cleaned, NULL) < 0 || !str_eq(path, cleaned))
                return NULL;
        *pos += len + 1;
        return path;
}

static int read_record(struct meta *m, const struct str *s, size_t *pos)
{
        char type = s->data[(*pos)++];
        const char *path = take_path(s, pos), *target;

        if (!path)
                return -EBADMSG;
        switch (type) {
        case 'I':
                return meta_imply(m, path);
        case 'W':
                return path[0] ? meta_add(&m->whiteouts, path, NULL) : -EBADMSG;
        case 'O':
                return meta_add(&m->opaques, path, NULL);
        case 'L':
                target = take_path(s, pos);
                return target && target[0] && path[0] ? meta_add(&m->links, path, target) : -EBADMSG;
        default:
                return -EBADMSG;
        }
}

int meta_read(struct meta *m, int dirfd, struct err *err)
{
        const size_t magic = strlen(META_MAGIC);
        auto_str s = STR_INIT;
        struct stat st;
        size_t pos = magic;
        int r;

        /* A link or a device in its place would be the work of a worker that was taken over. */
        if (fstatat(dirfd, META_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return err_sys(err, "stat '%s'", META_NAME);
        if (!S_ISREG(st.st_mode))
                return err_set(err, EBADMSG, "'%s' is no file", META_NAME);
        r = fd_read_file(dirfd, META_NAME, META_MAX, &s, err);
        if (r < 0)
                return r;
        if (s.len < magic || memcmp(s.data, META_MAGIC, magic) != 0)
                return err_set(err, EBADMSG, "'%s' is not what a worker writes", META_NAME);
        while (pos < s.len) {
                r = read_record(m, &s, &pos);
                if (r == -ENOMEM)
                        return err_oom(err);
                if (r < 0)
                        return err_set(err, EBADMSG, "'%s' is not what a worker writes", META_NAME);
        }
        return 0;
}
