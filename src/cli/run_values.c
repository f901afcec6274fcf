#include "cli/run_values.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define PAIRS_FILE_MAX (1 << 20)
#define BLANKS " \t\v\f\r"
#define AUTH_VARIABLE "MAYFLY_REGISTRY_AUTH"

/* ── variables ───────────────────────────────────────────────────────────────────────────────────────────────────── */

int run_env_add(char ***env, const char *word, struct err *err)
{
        const char *equals = strchr(word, '='), *value;
        auto_free char *pair = NULL;

        if (!*word || equals == word)
                return err_set(err, EINVAL, "invalid environment variable: %s", word);
        if (equals)
                return strv_add(env, word) < 0 ? err_oom(err) : 0;
        value = getenv(word);
        if (!value)
                return 0;
        pair = str_printf("%s=%s", word, value);
        return !pair || strv_add(env, pair) < 0 ? err_oom(err) : 0;
}

typedef int (*pair_fn)(char ***pairs, const char *word, struct err *err);

static int pair_line(char ***pairs, const char *line, pair_fn fn, struct err *err)
{
        const char *end;

        line += strspn(line, BLANKS);
        if (!*line || *line == '#')
                return 0;
        end = strchrnul(line, '=');
        if (end == line)
                return err_set(err, EINVAL, "no variable name on line '%s'", line);
        if (strcspn(line, BLANKS) < (size_t)(end - line))
                return err_set(err, EINVAL, "variable '%.*s' contains whitespaces", (int)(end - line), line);
        return fn(pairs, line, err);
}

static int pairs_file(char ***pairs, const char *path, pair_fn fn, struct err *err)
{
        auto_str text = STR_INIT;
        char *line, *next;
        int r;

        r = fd_read_file(AT_FDCWD, path, PAIRS_FILE_MAX, &text, err);
        if (r < 0)
                return r;
        if (text.len == 0)
                return 0;
        if (strlen(text.data) != text.len || !utf8_valid(text.data, text.len))
                return err_set(err, EINVAL, "%s is not UTF-8 text", path);
        line = text.data + (str_starts(text.data, "\xef\xbb\xbf") ? 3 : 0);
        for (; line && r == 0; line = next) {
                next = strchr(line, '\n');
                if (next)
                        *next++ = '\0';
                if (*line && line[strlen(line) - 1] == '\r')
                        line[strlen(line) - 1] = '\0';
                r = pair_line(pairs, line, fn, err);
        }
        return r < 0 ? err_wrap(err, "%s", path) : 0;
}

int run_env_file(char ***env, const char *path, struct err *err)
{
        return pairs_file(env, path, run_env_add, err);
}

/* ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

int run_label_add(char ***labels, const char *word, struct err *err)
{
        const char *name = word + strspn(word, " \t"), *equals = strchrnul(word, '=');
        auto_free char *pair = NULL;

        if (name >= equals)
                return err_set(err, EINVAL, "invalid label '%s': empty name", word);
        if (strcspn(name, " \t") < (size_t)(equals - name))
                return err_set(err, EINVAL, "label '%.*s' contains whitespaces", (int)(equals - name), name);
        pair = str_printf("%s%s", word, *equals ? "" : "=");
        return !pair || strv_add(labels, pair) < 0 ? err_oom(err) : 0;
}

static int add_pair(char ***labels, const char *word, struct err *err)
{
        if (!strchr(word, '='))
                return 0;
        return run_label_add(labels, word, err);
}

int run_label_file(char ***labels, const char *path, struct err *err)
{
        return pairs_file(labels, path, add_pair, err);
}

/* ── several of one name ─────────────────────────────────────────────────────────────────────────────────────────── */

static size_t name_len(const char *pair)
{
        return strcspn(pair, "=");
}

static int by_name(const void *a, const void *b)
{
        const char *x = *(char *const *)a, *y = *(char *const *)b;
        size_t nx = name_len(x), ny = name_len(y);
        int r = memcmp(x, y, MIN(nx, ny));

        return r ? r : (nx > ny) - (nx < ny);
}

void run_unique(char **v, bool sorted)
{
        size_t n = v ? strv_len(v) : 0, kept = 0;

        for (size_t i = 0; i < n; i++) {
                size_t j = 0;

                while (j < kept && by_name(&v[j], &v[i]) != 0)
                        j++;
                if (j < kept)
                        free(v[j]);
                else
                        kept++;
                v[j] = v[i];
        }
        if (n)
                v[kept] = NULL;
        if (sorted && kept > 1)
                qsort(v, kept, sizeof(*v), by_name);
}

/* ── secrets ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int add_secret(struct wire_task_request *q, const char *name, const void *value, size_t len, struct err *err)
{
        struct wire_secret *secrets = realloc(q->secrets, (q->n_secrets + 1) * sizeof(*secrets));

        if (!secrets)
                return err_oom(err);
        q->secrets = secrets;
        secrets += q->n_secrets++;
        *secrets = (struct wire_secret){ .name = strdup(name), .value = malloc(len + 1), .len = len };
        if (!secrets->name || !secrets->value)
                return err_oom(err);
        memcpy(secrets->value, value, len);
        secrets->value[len] = '\0';
        return 0;
}

/* A text that held a secret. */
static void wipe(struct str *s)
{
        if (s->data)
                explicit_bzero(s->data, s->cap);
}

static int secret_of_file(struct wire_task_request *q, const char *name, const char *path, struct err *err)
{
        auto_str text = STR_INIT;
        int r;

        r = fd_read_file(AT_FDCWD, path, WIRE_SECRET_MAX, &text, err);
        if (r == 0 && !utf8_valid(text.data ? text.data : "", text.len))
                r = err_set(err, EILSEQ, "%s is not UTF-8 text: put it in by --copy, or encode it", path);
        if (r == 0)
                r = add_secret(q, name, text.data ? text.data : "", text.len, err);
        wipe(&text);
        return r;
}

int run_secret_add(struct wire_task_request *q, const char *word, struct err *err)
{
        const char *equals = strchr(word, '='), *value;
        auto_free char *name = NULL;

        name = strndup(word, strcspn(word, "="));
        if (!name)
                return err_oom(err);
        if (!*name || strlen(name) > WIRE_SECRET_NAME_MAX || strchr(name, '/'))
                return err_set(err, EINVAL, "'%s' is no name of a secret", name);
        if (equals)
                return secret_of_file(q, name, equals + 1, err);
        value = getenv(name);
        if (!value)
                return err_set(err, ENOENT, "there is no variable %s here (--secret NAME=FILE reads a file)", name);
        return add_secret(q, name, value, strlen(value), err);
}

static int parse_auth(struct wire_task_request *q, const char *text, const char *what, struct err *err)
{
        const char *colon = strchr(text, ':');
        size_t end = strcspn(text, "\r\n");

        if (!colon || colon == text || (size_t)(colon - text) + 1 >= end)
                return err_set(err, EINVAL, "%s: not USER:PASSWORD on the first line", what);
        free(q->registry_username);
        free(q->registry_password);
        q->registry_username = strndup(text, (size_t)(colon - text));
        q->registry_password = strndup(colon + 1, end - (size_t)(colon + 1 - text));
        return q->registry_username && q->registry_password ? 0 : err_oom(err);
}

int run_registry_auth(struct wire_task_request *q, const char *path, struct err *err)
{
        const char *here = getenv(AUTH_VARIABLE);
        auto_str text = STR_INIT;
        int r;

        if (!path)
                return here && *here ? parse_auth(q, here, AUTH_VARIABLE, err) : 0;
        r = fd_read_file(AT_FDCWD, path, 2 * WIRE_CREDENTIAL_MAX, &text, err);
        if (r == 0)
                r = parse_auth(q, text.data ? text.data : "", path, err);
        wipe(&text);
        return r;
}
