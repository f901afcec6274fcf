#include "image/users.h"

#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define FIELDS_MAX 7
#define GROUPS_MAX ARRAY_LEN(((struct image_user *)0)->groups)

/* The fields of one line; borrowed from the text. */
struct line {
        struct {
                const char *s;
                size_t len;
        } field[FIELDS_MAX];
        size_t n;
};

/* The next line with something in it; false at the end. Blanks around a line do not count, as with runc. */
static bool next_line(const char **text, struct line *ret)
{
        while (*text && **text) {
                const char *s = *text, *end = s + strcspn(s, "\n");

                *text = *end ? end + 1 : end;
                while (s < end && strchr(" \t\r", *s))
                        s++;
                while (end > s && strchr(" \t\r", end[-1]))
                        end--;
                if (s == end || end - s > IMAGE_USER_LINE_MAX)
                        continue;
                ret->n = 0;
                for (const char *p = s; ret->n < FIELDS_MAX;) {
                        const char *colon = memchr(p, ':', (size_t)(end - p)), *stop = colon ? colon : end;

                        ret->field[ret->n].s = p;
                        ret->field[ret->n++].len = (size_t)(stop - p);
                        if (!colon)
                                break;
                        p = colon + 1;
                }
                return true;
        }
        return false;
}

static bool field_is(const struct line *l, size_t i, const char *s)
{
        return i < l->n && strlen(s) == l->field[i].len && memcmp(l->field[i].s, s, l->field[i].len) == 0;
}

/* A number of an image's file: digits, and not beyond what is mapped. */
static bool field_id(const struct line *l, size_t i, uint32_t *ret)
{
        uint64_t n = 0;

        if (i >= l->n || l->field[i].len == 0 || l->field[i].len > 10)
                return false;
        for (size_t k = 0; k < l->field[i].len; k++) {
                char c = l->field[i].s[k];

                if (c < '0' || c > '9')
                        return false;
                n = n * 10 + (uint64_t)(c - '0');
        }
        if (n > IMAGE_USER_ID_MAX)
                return false;
        *ret = (uint32_t)n;
        return true;
}

/* Strict, so that no overflow turns a large number into root (CVE-2024-40635). 1: a number; 0: a name. */
static int parse_id(const char *s, const char *what, uint32_t *ret, struct err *err)
{
        uint64_t n;

        if (!*s || strspn(s, "0123456789") != strlen(s)) {
                bool sign = (*s == '-' || *s == '+') && s[1] && strspn(s + 1, "0123456789") == strlen(s + 1);

                return sign ? err_set(err, EINVAL, "%s '%.64s' is out of range", what, s) : 0;
        }
        while (s[0] == '0' && s[1])
                s++;
        if (parse_u64(s, &n) < 0 || n > IMAGE_USER_ID_MAX)
                return err_set(err, EINVAL, "%s '%.64s' is above %d", what, s, IMAGE_USER_ID_MAX);
        *ret = (uint32_t)n;
        return 1;
}

static void set_home(struct image_user *u, const struct line *l)
{
        if (l->n > 5 && l->field[5].len > 0 && l->field[5].len < sizeof(u->home)) {
                memcpy(u->home, l->field[5].s, l->field[5].len);
                u->home[l->field[5].len] = '\0';
        }
}

/* The first line whose name or number fits. *name gets its name. */
static bool find_passwd(const char *passwd, const char *user, bool numeric, struct image_user *u, const char **name,
                        size_t *name_len)
{
        struct line l;

        while (next_line(&passwd, &l)) {
                uint32_t uid, gid;

                if (l.n < 4 || !field_id(&l, 2, &uid) || !field_id(&l, 3, &gid))
                        continue;
                if (!field_is(&l, 0, user) && !(numeric && uid == u->uid))
                        continue;
                u->uid = uid;
                u->gid = gid;
                set_home(u, &l);
                *name = l.field[0].s;
                *name_len = l.field[0].len;
                return true;
        }
        return false;
}

static bool has_member(const struct line *l, const char *name, size_t len)
{
        const char *p, *end;

        if (l->n < 4)
                return false;
        p = l->field[3].s;
        end = p + l->field[3].len;
        while (p < end) {
                const char *comma = memchr(p, ',', (size_t)(end - p)), *stop = comma ? comma : end;

                if ((size_t)(stop - p) == len && memcmp(p, name, len) == 0)
                        return true;
                p = stop + 1;
        }
        return false;
}

/* The groups that list the user. More than the engine passes on are left out. */
static void add_memberships(const char *group, const char *name, size_t len, struct image_user *u)
{
        struct line l;

        while (len > 0 && u->n_groups < GROUPS_MAX && next_line(&group, &l)) {
                uint32_t gid;

                if (field_id(&l, 2, &gid) && has_member(&l, name, len))
                        u->groups[u->n_groups++] = gid;
        }
}

static int find_group(const char *group, const char *name, struct image_user *u, struct err *err)
{
        struct line l;
        uint32_t gid;
        int numeric = parse_id(name, "group", &gid, err);

        if (numeric < 0)
                return numeric;
        while (next_line(&group, &l)) {
                uint32_t found;

                if (!field_id(&l, 2, &found))
                        continue;
                if (field_is(&l, 0, name) || (numeric && found == gid)) {
                        u->gid = found;
                        return 0;
                }
        }
        if (!numeric)
                return err_set(err, EINVAL, "the image has no group '%.64s'", name);
        u->gid = gid;
        return 0;
}

int image_users_find(const char *passwd, const char *group, const char *user, struct image_user *ret, struct err *err)
{
        struct image_user u = { .home = "/" };
        const char *colon = strchr(user, ':'), *name = NULL;
        char who[256];
        size_t name_len = 0;
        int numeric, r = 0;

        if ((colon ? (size_t)(colon - user) : strlen(user)) >= sizeof(who))
                return err_set(err, EINVAL, "the user's name is too long");
        (void)snprintf(who, sizeof(who), "%.*s", colon ? (int)(colon - user) : (int)strlen(user), user);
        /* No user at all is root, found by number. */
        numeric = *who ? parse_id(who, "user", &u.uid, err) : 1;
        if (numeric < 0)
                return numeric;
        if (!find_passwd(passwd, who, numeric, &u, &name, &name_len) && !numeric)
                return err_set(err, EINVAL, "the image has no user '%.64s'", who);
        if (colon && colon[1])
                r = find_group(group, colon + 1, &u, err);
        else
                add_memberships(group, name, name_len, &u);
        if (r == 0)
                *ret = u;
        return r;
}
