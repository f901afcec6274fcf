/* The files of a task: PUT /containers/ID/archive takes a tar before the container starts. Which directories on the way there
 * are has to be asked for one by one (HEAD), because Docker makes missing ones root's, and an entry of the archive would
 * change the mode of one that is there. */

#include "engine/docker/internal.h"

#include "base/tar.h"
#include "base/vec.h"
#include "image/users.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILES_USERS_MAX (4 * 1024 * 1024) /* bytes of an archive with one of passwd and group */
#define FILES_LINKS_MAX 8                 /* that lead to one of them */

struct docker_files {
        struct str tar;      /* of the files */
        struct str dirs;     /* of the missing directories, which come first */
        VEC(char *) parents; /* absolute, each after those above it */
        size_t at;
        char *user, *missing; /* the directory last found missing */
        struct str users[2];  /* passwd, group */
        unsigned asked;
        char *linked; /* where the link leads that is in the place of the one that is asked for */
        unsigned links;
        uint64_t uid, gid;
        bool known;
};

void docker_files_free(struct docker_files *f)
{
        if (!f)
                return;
        str_done(&f->tar);
        str_done(&f->dirs);
        for (size_t i = 0; i < f->parents.len; i++)
                free(f->parents.items[i]);
        VEC_DONE(&f->parents);
        for (int i = 0; i < 2; i++)
                str_done(&f->users[i]);
        free(f->user);
        free(f->missing);
        free(f->linked);
        free(f);
}

static void users_next(struct docker_files *f, unsigned which)
{
        f->asked = which;
        f->links = 0;
        free(f->linked);
        f->linked = NULL;
}

void docker_files_again(struct docker_files *f)
{
        if (!f)
                return;
        f->at = 0;
        str_clear(&f->dirs);
        free(f->missing);
        f->missing = NULL;
        if (!f->known) {
                users_next(f, 0);
                str_clear(&f->users[0]);
                str_clear(&f->users[1]);
        }
}

static int to_str(const void *bytes, size_t len, void *data)
{
        return str_add(data, bytes, len);
}

/* A writer pads its last member with the next one; here each has a writer of its own. */
static int pad(struct str *s)
{
        static const char zeros[TAR_BLOCK];

        return str_add(s, zeros, -s->len & (TAR_BLOCK - 1));
}

/* ── paths ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* "." and ".." are gone by name, as Docker's archives do not know them. */
static char *path_plain(const char *workdir, const char *path)
{
        auto_free char *whole = path[0] == '/' ? strdup(path) : str_printf("%s/%s", workdir, path);
        auto_str out = STR_INIT;
        char *save = NULL;

        for (char *part = whole ? strtok_r(whole, "/", &save) : NULL; part; part = strtok_r(NULL, "/", &save)) {
                if (str_eq(part, "."))
                        continue;
                if (str_eq(part, "..")) {
                        char *slash = out.data ? strrchr(out.data, '/') : NULL;

                        out.len = slash ? (size_t)(slash - out.data) : 0;
                        if (out.data)
                                out.data[out.len] = '\0';
                } else if (str_addf(&out, "/%s", part) < 0) {
                        return NULL;
                }
        }
        return out.len > 0 ? str_take(&out) : whole ? strdup("/") : NULL;
}

static bool parent_known(const struct docker_files *f, const char *path)
{
        for (size_t i = f->parents.len; i > 0; i--)
                if (str_eq(f->parents.items[i - 1], path))
                        return true;
        return false;
}

/* The working directory and what is above it are there: Docker has made them. */
static bool leads_to(const char *parent, const char *workdir)
{
        size_t len = strlen(parent);

        return strncmp(parent, workdir, len) == 0 && (workdir[len] == '/' || workdir[len] == '\0');
}

static int add_parents(struct docker_files *f, const char *workdir, const char *path)
{
        for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
                char *parent = strndup(path, (size_t)(slash - path));

                if (!parent)
                        return -ENOMEM;
                if (leads_to(parent, workdir) || parent_known(f, parent)) {
                        free(parent);
                } else if (VEC_ADD(&f->parents, parent) < 0) {
                        free(parent);
                        return -ENOMEM;
                }
        }
        return 0;
}

/* Made by the archive itself, and so neither asked for nor made twice. */
static void drop_parent(struct docker_files *f, const char *path)
{
        for (size_t i = 0; i < f->parents.len; i++)
                if (str_eq(f->parents.items[i], path))
                        f->parents.items[i][0] = '\0';
}

static int add_file(struct docker_container *c, struct docker_files *f, const struct engine_file *file)
{
        auto_free char *path = path_plain(c->workdir, file->path);
        auto_free char *target = file->type == ENGINE_FILE_SYMLINK ? strndup(file->content, file->len) : NULL;
        struct tar_member m = { .path = path ? path + 1 : NULL, .target = target ? target : "", .mode = file->mode };
        struct tar_writer w = { .fn = to_str, .data = &f->tar };
        int r;

        if (!path || (file->type == ENGINE_FILE_SYMLINK && !target))
                return -ENOMEM;
        if (!m.path[0])
                return 0;
        m.uid = f->uid;
        m.gid = f->gid;
        m.kind = target ? TAR_KIND_SYMLINK : file->type == ENGINE_FILE_DIRECTORY ? TAR_KIND_DIRECTORY : TAR_KIND_FILE;
        m.size = file->type == ENGINE_FILE_REGULAR ? file->len : 0;
        if (target)
                m.mode = 0777;
        r = tar_write_member(&w, &m);
        if (r == 0 && m.size > 0)
                r = tar_write_content(&w, file->content, file->len);
        if (r == 0)
                r = pad(&f->tar);
        if (r == 0)
                r = add_parents(f, c->workdir, path);
        return r;
}

/* ── who owns them ───────────────────────────────────────────────────────────────────────────────────────────────── */

/* "", "uid" and "uid:gid" need no file; a uid alone is of group 0 unless the image's passwd says otherwise. */
static bool ids_plain(const char *user, uint64_t *uid, uint64_t *gid)
{
        uint32_t u = 0, g = 0;
        const char *colon = strchr(user, ':');
        auto_free char *first = colon ? strndup(user, (size_t)(colon - user)) : strdup(user);

        if (!first)
                return false;
        if (user[0] && parse_u32(first, &u) < 0)
                return false;
        if (colon && parse_u32(colon + 1, &g) < 0)
                return false;
        if (user[0] && !colon && u != 0)
                return false;
        *uid = u;
        *gid = g;
        return true;
}

/* The archive once more, with the owner that is known now. */
static int own_files(struct docker_files *f)
{
        auto_str out = STR_INIT;
        struct tar_writer w = { .fn = to_str, .data = &out };
        struct tar_reader *r = malloc(sizeof(*r));
        const void *at = f->tar.data;
        size_t len = f->tar.len;
        struct tar_piece p;
        int e = r ? 0 : -ENOMEM;

        if (r)
                tar_reader_init(r, NULL);
        while (e == 0) {
                e = tar_reader_next(r, &at, &len, &p, NULL);
                if (e < 0 || p.event == TAR_MORE || p.event == TAR_END)
                        break;
                if (p.event == TAR_MEMBER) {
                        p.member.uid = f->uid;
                        p.member.gid = f->gid;
                        e = tar_write_member(&w, &p.member);
                } else {
                        e = tar_write_content(&w, p.data, p.len);
                }
        }
        free(r);
        if (e == 0)
                e = pad(&out);
        if (e < 0)
                return e;
        str_done(&f->tar);
        f->tar = out;
        out = (struct str)STR_INIT;
        return 0;
}

struct docker_files *docker_files_new(struct docker_container *c, const struct engine_spec *spec, const char *user,
                                      struct err *err)
{
        struct docker_files *f = calloc(1, sizeof(*f));
        int r = 0;

        if (f)
                f->user = strdup(user);
        if (!f || !f->user) {
                docker_files_free(f);
                (void)err_oom(err);
                return NULL;
        }
        f->known = ids_plain(user, &f->uid, &f->gid);
        for (size_t i = 0; r == 0 && i < spec->n_files; i++)
                r = add_file(c, f, &spec->files[i]);
        for (size_t i = 0; r == 0 && i < spec->n_files; i++) {
                auto_free char *path = path_plain(c->workdir, spec->files[i].path);

                if (path && spec->files[i].type == ENGINE_FILE_DIRECTORY)
                        drop_parent(f, path);
        }
        if (r == 0)
                return f;
        docker_files_free(f);
        (void)err_set(err, -r, "files: %s", strerror(-r));
        return NULL;
}

/* ── asking and putting ──────────────────────────────────────────────────────────────────────────────────────────── */

static int next_step(struct docker_container *c, struct err *err);

static void proceed(struct docker_container *c)
{
        struct err err = ERR_INIT;
        int r = next_step(c, &err);

        if (r < 0)
                docker_container_filled(c, r, &err);
}

static int archive_call(struct docker_container *c, const char *method, const char *path, const struct str *body,
                        docker_call_fn fn, struct err *err)
{
        static const char digits[] = "0123456789ABCDEF";
        auto_str url = STR_INIT;
        struct docker_request q = { .method = method, .type = "application/x-tar", .keep = DOCKER_STAT };
        int r = str_addf(&url, "/containers/%s/archive?path=", c->name);

        for (const unsigned char *p = (const unsigned char *)path; r == 0 && *p; p++) {
                const char hex[] = { '%', digits[*p >> 4], digits[*p & 15] };

                r = str_add(&url, hex, sizeof(hex));
        }
        if (r < 0)
                return err_oom(err);
        q.path = url.data;
        q.body = body ? body->data : NULL;
        q.body_len = body ? body->len : 0;
        return docker_call(c->docker, &q, fn, c, &c->call, err);
}

static void on_put(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;
        struct err fault = ERR_INIT;
        char text[200];

        c->call = NULL;
        if (r == 0 && call->status != 200) {
                docker_call_message(call, text, sizeof(text));
                r = err_set(&fault, call->status == 404 ? ENOENT : EINVAL, "files: %s", text);
                err = &fault;
        }
        docker_container_filled(c, r, err);
}

static int add_missing(struct docker_files *f, const char *path)
{
        const struct tar_member m = {
                .kind = TAR_KIND_DIRECTORY, .path = path + 1, .target = "", .mode = 0755, .uid = f->uid, .gid = f->gid
        };
        struct tar_writer w = { .fn = to_str, .data = &f->dirs };

        free(f->missing);
        f->missing = strdup(path);
        return f->missing ? tar_write_member(&w, &m) : -ENOMEM;
}

static void on_asked(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;
        struct docker_files *f = c->files;

        c->call = NULL;
        if (r == 0 && call->status == 404)
                r = add_missing(f, f->parents.items[f->at]);
        f->at++;
        if (r < 0)
                docker_container_filled(c, r, err);
        else
                proceed(c);
}

/* Docker says in a header where the link leads in the end, inside the container's root (moby, daemon/archive.go). Whatever comes
 * is a path in the container for the next call, and no more. */
static char *link_target(const struct docker_call *call, const char *path, const char *pointed)
{
        const char *slash = strrchr(path, '/');
        auto_free char *parent = slash ? strndup(path, (size_t)(slash - path)) : NULL;
        auto_free char *resolved = docker_stat_link(call->kept);
        const char *target = resolved && resolved[0] == '/' && !str_eq(resolved, path) ? resolved : pointed;

        return parent && target[0] && strlen(target) <= ENGINE_PATH_MAX ? path_plain(parent, target) : NULL;
}

/* The text of the one file in an archive of it; empty where there is none. Where there is a link: its target, the caller's. */
static char *read_text(const struct docker_call *call, const char *path, struct str *out)
{
        struct tar_reader *r = malloc(sizeof(*r));
        const void *at = call->body.data;
        size_t len = call->body.len;
        struct tar_piece p = { .event = TAR_MEMBER };
        char *target = NULL;

        if (r)
                tar_reader_init(r, NULL);
        while (r && len > 0 && !target && tar_reader_next(r, &at, &len, &p, NULL) == 0 && p.event != TAR_MORE &&
               p.event != TAR_END) {
                if (p.event == TAR_MEMBER && p.member.kind == TAR_KIND_SYMLINK)
                        target = link_target(call, path, p.member.target);
                else if (p.event == TAR_CONTENT && out->len + p.len < FILES_USERS_MAX)
                        (void)str_add(out, p.data, p.len);
        }
        free(r);
        return target;
}

static const char *users_path(const struct docker_files *f)
{
        return f->linked ? f->linked : f->asked == 0 ? "/etc/passwd" : "/etc/group";
}

/* True: it is a link, whose target is asked for next. */
static bool users_take(struct docker_files *f, const struct docker_call *call)
{
        char *target = read_text(call, users_path(f), &f->users[f->asked]);

        if (!target)
                return false;
        free(f->linked);
        f->linked = target;
        return ++f->links <= FILES_LINKS_MAX;
}

static int users_known(struct docker_files *f, struct err *err)
{
        struct image_user user = { .uid = 0 };
        int r = image_users_find(f->users[0].data, f->users[1].data, f->user, &user, err);

        f->uid = user.uid;
        f->gid = user.gid;
        f->known = true;
        return r == 0 ? own_files(f) : r;
}

static void on_users(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;
        struct docker_files *f = c->files;
        struct err fault = ERR_INIT;

        c->call = NULL;
        if (r == 0 && !(call->status == 200 && users_take(f, call))) {
                users_next(f, f->asked + 1);
                if (f->asked == 2) {
                        r = users_known(f, &fault);
                        err = &fault;
                }
        }
        if (r < 0)
                docker_container_filled(c, r, err);
        else
                proceed(c);
}

static int next_step(struct docker_container *c, struct err *err)
{
        struct docker_files *f = c->files;
        struct tar_writer w = { .fn = to_str, .data = &f->dirs };

        if (!f->known)
                return archive_call(c, "GET", users_path(f), NULL, on_users, err);
        for (; f->at < f->parents.len; f->at++) {
                const char *path = f->parents.items[f->at];
                size_t len = f->missing ? strlen(f->missing) : 0;

                if (!path[0])
                        continue;
                if (len == 0 || strncmp(path, f->missing, len) != 0 || path[len] != '/')
                        return archive_call(c, "HEAD", path, NULL, on_asked, err);
                if (add_missing(f, path) < 0)
                        return err_oom(err);
        }
        if (str_add(&f->dirs, f->tar.data, f->tar.len) < 0 || tar_write_end(&w) < 0)
                return err_oom(err);
        return archive_call(c, "PUT", "/", &f->dirs, on_put, err);
}

int docker_files_put(struct docker_container *c, struct err *err)
{
        return next_step(c, err);
}
