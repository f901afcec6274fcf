/* From the image's configuration and the request to the message that starts a container, by the rules of Docker. */

#include "engine/native/internal.h"

#include "base/time.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SPEC_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define SPEC_HOSTNAME 12 /* characters of the id */

/* linux/capability.h, which names them by number only. */
#define CAP(n) (UINT64_C(1) << (n))
#define SPEC_CAPS                                                                                                      \
        (CAP(0) /* CHOWN */ | CAP(1) /* DAC_OVERRIDE */ | CAP(3) /* FOWNER */ | CAP(4) /* FSETID */ |                  \
         CAP(5) /* KILL */ | CAP(6) /* SETGID */ | CAP(7) /* SETUID */ | CAP(8) /* SETPCAP */ |                        \
         CAP(10) /* NET_BIND_SERVICE */ | CAP(18) /* SYS_CHROOT */ | CAP(31) /* SETFCAP */)

static int add_u32(struct str *s, uint32_t v)
{
        return str_add(s, &v, sizeof(v));
}

static int add_record(struct str *s, const void *data, size_t len, struct err *err)
{
        if (len > LAUNCH_PAYLOAD_MAX || s->len + len > LAUNCH_PAYLOAD_MAX)
                return err_set(err, EINVAL, "command, environment and files are larger than %d MiB together",
                               LAUNCH_PAYLOAD_MAX / (1024 * 1024));
        if (add_u32(s, (uint32_t)len) < 0 || str_add(s, data, len) < 0)
                return err_oom(err);
        return 0;
}

static int add_text(struct str *s, const char *text, struct err *err)
{
        return add_record(s, text, strlen(text), err);
}

/* ── command ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int add_args(struct native_container *c, char *const *args, struct err *err)
{
        int r = 0;

        for (; args && *args && r == 0; args++) {
                if (++c->start->argc > LAUNCH_ARGS_MAX)
                        return err_set(err, EINVAL, "the command has more than %d words", LAUNCH_ARGS_MAX);
                r = add_text(&c->head, *args, err);
        }
        return r;
}

/* An entrypoint in the request puts the image's command out of force too. */
static int spec_argv(struct native_container *c, const struct engine_spec *spec, const struct image *image,
                     struct err *err)
{
        char *const *entrypoint = spec->entrypoint ? spec->entrypoint : image->entrypoint;
        char *const *cmd = spec->cmd || spec->entrypoint ? spec->cmd : image->cmd;
        int r = add_args(c, entrypoint, err);

        if (r == 0)
                r = add_args(c, cmd, err);
        if (r == 0 && c->start->argc == 0)
                r = err_set(err, EINVAL, "no command: neither the request nor the image names one");
        return r;
}

/* ── environment ─────────────────────────────────────────────────────────────────────────────────────────────────── */

struct env {
        struct map *index; /* name: position + 1 */
        VEC(const char *) items;
};

static int env_set(struct env *env, const char *item, bool keep, struct err *err)
{
        const char *eq = strchr(item, '=');
        auto_free char *name = NULL;
        size_t at;

        if (!eq || eq == item)
                return 0; /* no assignment: Docker drops it too */
        name = strndup(item, (size_t)(eq - item));
        if (!name)
                return err_oom(err);
        at = (size_t)(uintptr_t)map_find(env->index, name);
        if (at > 0) {
                if (!keep)
                        env->items.items[at - 1] = item;
                return 0;
        }
        if (env->items.len == LAUNCH_ARGS_MAX)
                return err_set(err, EINVAL, "the environment has more than %d variables", LAUNCH_ARGS_MAX);
        if (VEC_ADD(&env->items, item) < 0 ||
            map_set(env->index, name, (void *)(uintptr_t)env->items.len) < 0) // NOLINT(performance-no-int-to-ptr)
                return err_oom(err);
        return 0;
}

static int env_merge(struct env *env, char *const *items, struct err *err)
{
        int r = 0;

        for (; items && *items && r == 0; items++)
                r = env_set(env, *items, false, err);
        return r;
}

static int spec_env(struct native_container *c, const struct engine_spec *spec, const struct image *image,
                    const struct image_user *user, struct err *err)
{
        struct env env = { .index = map_new() };
        char hostname[sizeof("HOSTNAME=") + sizeof(c->hostname)], home[sizeof("HOME=") + sizeof(user->home)];
        int r;

        if (!env.index)
                return err_oom(err);
        (void)snprintf(hostname, sizeof(hostname), "HOSTNAME=%s", c->hostname);
        (void)snprintf(home, sizeof(home), "HOME=%s", user->home[0] ? user->home : "/");
        r = env_set(&env, SPEC_PATH, false, err);
        if (r == 0)
                r = env_set(&env, hostname, false, err);
        if (r == 0)
                r = env_merge(&env, image->env, err);
        if (r == 0)
                r = env_merge(&env, spec->env, err);
        if (r == 0)
                r = env_set(&env, home, true, err);
        for (size_t i = 0; i < env.items.len && r == 0; i++)
                r = add_text(&c->head, env.items.items[i], err);
        c->start->envc = (uint32_t)env.items.len;
        VEC_DONE(&env.items);
        map_free(env.index);
        return r;
}

/* ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static uint32_t type_bits(const struct engine_file *file)
{
        switch (file->type) {
        case ENGINE_FILE_DIRECTORY:
                return S_IFDIR | (file->mode & 07777);
        case ENGINE_FILE_SYMLINK:
                return S_IFLNK;
        case ENGINE_FILE_REGULAR:
                break;
        }
        return S_IFREG | (file->mode & 07777);
}

static int spec_file(struct native_container *c, const char *workdir, const struct engine_file *file, struct err *err)
{
        bool link = file->type == ENGINE_FILE_SYMLINK;
        auto_free char *path = NULL;

        if (!file->path || !file->path[0])
                return err_set(err, EINVAL, "a file without a path");
        path = file->path[0] == '/' ? strdup(file->path) : str_printf("%s/%s", workdir, file->path);
        if (!path || add_u32(&c->tail, type_bits(file)) < 0)
                return err_oom(err);
        if (strlen(path) >= LAUNCH_TEXT_MAX)
                return err_set(err, EINVAL, "the path of a file is longer than %d bytes", LAUNCH_TEXT_MAX - 1);
        if (link && (file->len == 0 || file->len >= LAUNCH_TEXT_MAX || memchr(file->content, '\0', file->len)))
                return err_set(err, EINVAL, "the target of the link '%.80s' is not valid", file->path);
        if (add_text(&c->tail, path, err) < 0)
                return -EINVAL;
        return add_record(&c->tail, file->content, file->type == ENGINE_FILE_DIRECTORY ? 0 : file->len, err);
}

static int spec_files(struct native_container *c, const struct engine_spec *spec, const char *workdir, struct err *err)
{
        int r = 0;

        if (spec->n_files > LAUNCH_FILES_MAX)
                return err_set(err, EINVAL, "more than %d files", LAUNCH_FILES_MAX);
        for (size_t i = 0; i < spec->n_files && r == 0; i++)
                r = spec_file(c, workdir, &spec->files[i], err);
        c->start->n_files = (uint32_t)spec->n_files;
        return r;
}

/* ── secrets ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool is_secret_name(const char *name)
{
        size_t len = name ? strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") : 0;

        return len > 0 && len <= LAUNCH_SECRET_NAME_MAX && !name[len] && !str_eq(name, ".") && !str_eq(name, "..");
}

static int spec_secrets(struct native_container *c, const struct engine_spec *spec, struct err *err)
{
        int r = 0;

        if (spec->n_secrets > LAUNCH_SECRETS_MAX)
                return err_set(err, EINVAL, "more than %d secrets", LAUNCH_SECRETS_MAX);
        for (size_t i = 0; i < spec->n_secrets && r == 0; i++) {
                const struct engine_secret *s = &spec->secrets[i];

                if (!is_secret_name(s->name))
                        return err_set(err, EINVAL, "the name of secret %zu is not valid", i);
                for (size_t k = 0; k < i; k++)
                        if (str_eq(s->name, spec->secrets[k].name))
                                return err_set(err, EINVAL, "the secret '%s' is there twice", s->name);
                if (s->len > LAUNCH_SECRET_MAX)
                        return err_set(err, EINVAL, "the secret '%s' has more than %d bytes", s->name,
                                       LAUNCH_SECRET_MAX);
                r = add_text(&c->tail, s->name, err);
                if (r == 0)
                        r = add_record(&c->tail, s->value, s->len, err);
        }
        c->start->n_secrets = (uint32_t)spec->n_secrets;
        return r;
}

/* ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static void spec_fixed(struct native_container *c, const struct engine_spec *spec, const struct image *image,
                       const struct image_user *user)
{
        struct launch_start *m = c->start;

        m->h.op = LAUNCH_START;
        memcpy(m->id, c->id, LAUNCH_ID_MAX);
        memcpy(m->tree, image->tree, LAUNCH_HEX);
        m->limits = (struct launch_limits){
                .memory = spec->limits.memory,
                .disk = spec->limits.disk,
                .shm = spec->limits.shm,
                .cpu_milli = spec->limits.cpu_milli,
                .pids = spec->limits.pids,
        };
        m->caps = SPEC_CAPS;
        m->flags = (spec->init ? LAUNCH_F_INIT : 0) | (spec->keep_root ? LAUNCH_F_KEEP_ROOT : 0);
        m->uid = user->uid;
        m->gid = user->gid;
        m->n_groups = (uint32_t)MIN(user->n_groups, ARRAY_LEN(m->groups));
        memcpy(m->groups, user->groups, m->n_groups * sizeof(m->groups[0]));
}

int native_spec_build(struct native_container *c, const struct engine_spec *spec, const struct image *image,
                      const struct image_user *user, struct err *err)
{
        const char *workdir = spec->workdir && spec->workdir[0] ? spec->workdir : image->workdir;
        int r;

        if (!workdir || !workdir[0])
                workdir = "/";
        if (workdir[0] != '/' || strlen(workdir) >= LAUNCH_TEXT_MAX)
                return err_set(err, EINVAL, "the working directory '%.80s' is no absolute path of at most %d bytes",
                               workdir, LAUNCH_TEXT_MAX - 1);
        c->start = calloc(1, sizeof(*c->start));
        if (!c->start)
                return err_oom(err);
        c->workdir = strdup(workdir);
        if (!c->workdir)
                return err_oom(err);
        (void)snprintf(c->hostname, sizeof(c->hostname), "%.*s", SPEC_HOSTNAME, c->id);
        spec_fixed(c, spec, image, user);
        r = spec_argv(c, spec, image, err);
        if (r == 0)
                r = spec_env(c, spec, image, user, err);
        if (r == 0)
                r = add_text(&c->head, c->hostname, err);
        if (r == 0)
                r = add_text(&c->head, workdir, err);
        if (r == 0)
                r = spec_secrets(c, spec, err);
        if (r == 0)
                r = spec_files(c, spec, workdir, err);
        if (r == 0 && c->head.len + c->tail.len + 2 * (LAUNCH_TEXT_MAX + sizeof(uint32_t)) > LAUNCH_PAYLOAD_MAX)
                r = err_set(err, EINVAL, "command, environment and files are larger than %d MiB together",
                            LAUNCH_PAYLOAD_MAX / (1024 * 1024));
        return r;
}

/* IPv6 is off inside, so there is no ::1. */
int native_spec_hosts(const struct native_container *c, struct str *out)
{
        char text[INET_ADDRSTRLEN];
        struct in_addr address = { .s_addr = c->netns->address };

        if (address.s_addr == 0)
                return str_addf(out, "127.0.0.1\tlocalhost %s\n", c->hostname);
        return str_addf(out, "127.0.0.1\tlocalhost\n%s\t%s\n", inet_ntop(AF_INET, &address, text, sizeof(text)),
                        c->hostname);
}
