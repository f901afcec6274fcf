#include "launcher/ceiling.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

enum key_type { KEY_PATH, KEY_NAME, KEY_CGROUP, KEY_U32, KEY_U64, KEY_FD };

struct key {
        const char *name;
        enum key_type type;
        size_t offset;
        uint64_t min, max;
};

#define AT(member) offsetof(struct ceiling, member)
static const struct key keys[] = {
        { "store", KEY_PATH, AT(store), 0, 0 },
        { "socket", KEY_PATH, AT(socket), 0, 0 },
        { "socket-fd", KEY_FD, AT(socket_fd), 3, 1023 },
        { "uid", KEY_U32, AT(uid), 0, UINT32_MAX - 1 },
        { "gid", KEY_U32, AT(gid), 0, UINT32_MAX - 1 },
        { "name", KEY_NAME, AT(name), 0, 0 },
        { "cgroup", KEY_CGROUP, AT(cgroup), 0, 0 },
        { "id-base", KEY_U32, AT(id_base), CEILING_IDS, UINT32_MAX },
        { "slots", KEY_U32, AT(slots), 1, CEILING_SLOTS_MAX },
        { "caps", KEY_U64, AT(caps), 0, UINT64_MAX },
        { "memory-max", KEY_U64, AT(memory_max), 1, UINT64_MAX >> 2 },
        { "cpu-max", KEY_U32, AT(cpu_max), 1, UINT32_MAX },
        { "pids-max", KEY_U32, AT(pids_max), 1, UINT32_MAX },
};
#undef AT

#define KEY_SEEN(name_) (seen & (1u << key_index(name_)))

static size_t key_index(const char *name)
{
        size_t i = 0;

        while (i < ARRAY_LEN(keys) && !str_eq(keys[i].name, name))
                i++;
        return i;
}

static bool name_valid(const char *name)
{
        size_t n = strlen(name);

        return n > 0 && n <= CEILING_NAME_MAX && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n &&
               name[0] != '-';
}

static int set_path(char *at, const char *value)
{
        size_t n = strlen(value);

        /* The store's path becomes an argument of mount(2): nothing that its option parsers know. */
        if (n >= CEILING_PATH_MAX || value[0] != '/' || strpbrk(value, ",:\\\"") || strstr(value, "/../"))
                return -EINVAL;
        memcpy(at, value, n + 1);
        return 0;
}

static int set_cgroup(enum ceiling_cgroup *at, const char *value)
{
        if (str_eq(value, "auto"))
                *at = CEILING_CGROUP_AUTO;
        else if (str_eq(value, "root"))
                *at = CEILING_CGROUP_ROOT;
        else if (str_eq(value, "delegated"))
                *at = CEILING_CGROUP_DELEGATED;
        else
                return -EINVAL;
        return 0;
}

static int set_number(const struct key *key, char *at, const char *value)
{
        uint64_t v;

        if (parse_u64(value, &v) < 0 || v < key->min || v > key->max)
                return -EINVAL;
        if (key->type == KEY_U64)
                *(uint64_t *)(void *)at = v;
        else if (key->type == KEY_U32)
                *(uint32_t *)(void *)at = (uint32_t)v;
        else
                *(int *)(void *)at = (int)v;
        return 0;
}

static int set_value(const struct key *key, struct ceiling *c, const char *value)
{
        char *at = (char *)c + key->offset;

        switch (key->type) {
        case KEY_PATH:
                return set_path(at, value);
        case KEY_NAME:
                if (!name_valid(value))
                        return -EINVAL;
                memcpy(at, value, strlen(value) + 1);
                return 0;
        case KEY_CGROUP:
                return set_cgroup(&c->cgroup, value);
        case KEY_U32:
        case KEY_U64:
        case KEY_FD:
                return set_number(key, at, value);
        }
        return -EINVAL;
}

static int parse_line(char *line, unsigned number, struct ceiling *c, unsigned *seen, struct err *err)
{
        char *value = strchr(line, ' ');
        size_t i;

        if (!value)
                return err_set(err, EINVAL, "line %u: no value", number);
        *value++ = '\0';
        value += strspn(value, " ");
        i = key_index(line);
        if (i == ARRAY_LEN(keys))
                return err_set(err, EINVAL, "line %u: unknown key '%s'", number, line);
        if (*seen & (1u << i))
                return err_set(err, EINVAL, "line %u: '%s' is given twice", number, line);
        *seen |= 1u << i;
        if (set_value(&keys[i], c, value) < 0)
                return err_set(err, EINVAL, "line %u: '%s' is no value of %s", number, value, line);
        return 0;
}

static int check_whole(const struct ceiling *c, unsigned seen, struct err *err)
{
        static const char *const required[] = { "store", "uid", "gid" };

        for (size_t i = 0; i < ARRAY_LEN(required); i++)
                if (!KEY_SEEN(required[i]))
                        return err_set(err, EINVAL, "'%s' is missing", required[i]);
        if (KEY_SEEN("socket") && KEY_SEEN("socket-fd"))
                return err_set(err, EINVAL, "'socket' and 'socket-fd' exclude each other");
        if ((uint64_t)c->id_base + (uint64_t)CEILING_IDS * (c->slots + 1) > UINT32_MAX)
                return err_set(err, EINVAL, "the ids of %u slots from %u on do not fit in 32 bits", c->slots,
                               c->id_base);
        return 0;
}

int ceiling_parse(const char *text, struct ceiling *ret, struct err *err)
{
        struct ceiling c = {
                .name = "mayfly",
                .socket_fd = -EBADF,
                .id_base = 2013265920u,
                .slots = 512,
                .caps = CEILING_CAPS_DEFAULT,
                .memory_max = UINT64_C(1) << 62,
                .cpu_max = 1024000,
                .pids_max = 32768,
        };
        auto_free char *copy = strdup(text);
        unsigned seen = 0, number = 0;
        int r;

        if (!copy)
                return err_oom(err);
        for (char *line = copy, *next; line; line = next) {
                next = strchr(line, '\n');
                if (next)
                        *next++ = '\0';
                number++;
                if (line[0] == '\0' || line[0] == '#')
                        continue;
                r = parse_line(line, number, &c, &seen, err);
                if (r < 0)
                        return r;
        }
        r = check_whole(&c, seen, err);
        if (r < 0)
                return r;
        *ret = c;
        return 0;
}

int ceiling_load(const char *path, struct ceiling *ret, struct err *err)
{
        auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        char text[CEILING_FILE_MAX + 1];
        struct stat st;
        ssize_t n;
        int r;

        if (fd < 0)
                return err_sys(err, "open %s", path);
        if (fstat(fd, &st) < 0)
                return err_sys(err, "stat %s", path);
        if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & 022))
                return err_set(err, EPERM, "%s must be a file that root owns and nobody else can write", path);
        if (st.st_size > CEILING_FILE_MAX)
                return err_set(err, EFBIG, "%s is larger than %d bytes", path, CEILING_FILE_MAX);
        n = pread(fd, text, CEILING_FILE_MAX, 0);
        if (n < 0)
                return err_sys(err, "read %s", path);
        text[n] = '\0';
        if (strlen(text) != (size_t)n)
                return err_set(err, EINVAL, "%s holds a NUL", path);
        r = ceiling_parse(text, ret, err);
        return r < 0 ? err_wrap(err, "%s", path) : 0;
}
