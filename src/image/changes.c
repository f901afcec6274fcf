#include "image/changes.h"

#include "base/str.h"
#include "image/manifest.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PORT_MAX 65535

/* ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool is_space(char c)
{
        return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *skip_space(const char *s)
{
        while (is_space(*s))
                s++;
        return s;
}

/* The end of the word at s: blanks in quotes and behind a backslash belong to it. */
static const char *word_end(const char *s)
{
        char quote = '\0';

        for (; *s; s++) {
                if (*s == '\\' && quote != '\'' && s[1])
                        s++;
                else if (quote && *s == quote)
                        quote = '\0';
                else if (!quote && (*s == '"' || *s == '\''))
                        quote = *s;
                else if (!quote && is_space(*s))
                        break;
        }
        return s;
}

static const char *env_find(const json_t *env, const char *name, size_t len)
{
        const json_t *v;
        size_t i;

        json_array_foreach(env, i, v) {
                const char *s = json_string_value(v);

                if (strncmp(s, name, len) == 0 && s[len] == '=')
                        return s + len + 1;
        }
        return NULL;
}

/* Expands the variable behind the "$" at *s, and moves *s behind it. */
static int expand(const char **s, const char *end, const json_t *env, struct str *out)
{
        const char *p = *s + 1, *name, *value, *word = NULL, *close = NULL;
        char op = '\0';
        size_t len = 0;

        if (p < end && *p == '{') {
                close = memchr(p, '}', (size_t)(end - p));
                if (!close)
                        return -EINVAL;
                p++;
        }
        name = p;
        while (p < (close ? close : end) && (isalnum((unsigned char)*p) || *p == '_'))
                p++;
        len = (size_t)(p - name);
        if (!close && len == 0) {
                *s += 1;
                return str_addc(out, '$');
        }
        if (close && close - p >= 2 && p[0] == ':' && (p[1] == '-' || p[1] == '+')) {
                op = p[1];
                word = p + 2;
        } else if (len == 0 || (close && p != close)) {
                return -EINVAL;
        }
        *s = close ? close + 1 : p;
        value = env_find(env, name, len);
        if (op == '+')
                return value && *value ? str_add(out, word, (size_t)(close - word)) : 0;
        if (op == '-' && (!value || !*value))
                return str_add(out, word, (size_t)(close - word));
        return value ? str_adds(out, value) : 0;
}

/* Whether the character stands for itself. */
static bool is_plain(const char *s, const char *end, char quote)
{
        if (quote == '\'')
                return *s != '\'';
        if (*s == '\\')
                return s + 1 == end;
        if (*s == '"' || *s == '\'')
                return quote && *s != quote;
        return *s != '$';
}

/* Quotes and backslashes go, variables are put in. -EINVAL: a quote or brace is not closed. */
static int unquote(const char *s, const char *end, const json_t *env, struct str *out)
{
        char quote = '\0';
        int r = 0;

        while (r == 0 && s < end) {
                if (is_plain(s, end, quote)) {
                        r = str_addc(out, *s++);
                } else if (*s == '\\') {
                        /* Within double quotes it is only taken away before what it makes plain. */
                        if (quote && !strchr("\"$\\", s[1]))
                                r = str_addc(out, '\\');
                        if (r == 0)
                                r = str_addc(out, s[1]);
                        s += 2;
                } else if (*s == '$') {
                        r = expand(&s, end, env, out);
                } else {
                        quote = quote ? '\0' : *s;
                        s++;
                }
        }
        return r == 0 && quote ? -EINVAL : r;
}

static int bad_line(struct err *err, int r, const char *what)
{
        return r == -ENOMEM ? err_oom(err) : err_set(err, EINVAL, "%s", what);
}

/* ── instructions ─────────────────────────────────────────────────────────────────────────────────────────────────── */

struct change {
        json_t *config;
        const char *args;
        struct err *err;
};

static json_t *env_of(const struct change *c)
{
        return json_object_get(c->config, "Env");
}

static int set_member(const struct change *c, const char *name, json_t *value)
{
        return json_object_set_new(c->config, name, value) < 0 ? err_oom(c->err) : 0;
}

static json_t *make_member(const struct change *c, const char *name, json_t *(*make)(void))
{
        json_t *v = json_object_get(c->config, name);

        if (!v && json_object_set_new(c->config, name, make()) == 0)
                v = json_object_get(c->config, name);
        return v;
}

/* The JSON form: a list of strings. NULL where it is not one. */
static json_t *json_form(const char *args)
{
        json_t *list = NULL;
        const json_t *v;
        size_t i;

        if (*args != '[' || json_read(args, strlen(args), &list, NULL) < 0)
                return NULL;
        json_array_foreach(list, i, v) {
                if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v)) {
                        json_decref(list);
                        return NULL;
                }
        }
        return list;
}

static int set_command(const struct change *c, const char *name)
{
        json_t *list = json_form(c->args);

        if (!list && *c->args)
                list = json_pack("[s, s, s]", "/bin/sh", "-c", c->args);
        if (!list)
                return err_set(c->err, EINVAL, "it needs a command in UTF-8");
        return set_member(c, name, list);
}

static int change_cmd(const struct change *c)
{
        return set_command(c, "Cmd");
}

static int change_entrypoint(const struct change *c)
{
        return set_command(c, "Entrypoint");
}

static int text_value(const struct change *c, const char *from, const char *to, struct str *out)
{
        int r = unquote(from, to, env_of(c), out);

        if (r == 0 && !utf8_valid(out->data ? out->data : "", out->len))
                r = -EINVAL;
        return r < 0 ? bad_line(c->err, r, "a quote or brace is not closed, or it is not UTF-8") : 0;
}

static int env_set(const struct change *c, const char *key, const char *value)
{
        json_t *env = make_member(c, "Env", json_array);
        auto_free char *pair = str_printf("%s=%s", key, value);
        size_t len = strlen(key), i;
        const json_t *v;

        if (!env || !pair)
                return err_oom(c->err);
        json_array_foreach(env, i, v) {
                const char *s = json_string_value(v);

                if (strncmp(s, key, len) == 0 && s[len] == '=')
                        return json_array_set_new(env, i, json_string(pair)) < 0 ? err_oom(c->err) : 0;
        }
        return json_array_append_new(env, json_string(pair)) < 0 ? err_oom(c->err) : 0;
}

static int label_set(const struct change *c, const char *key, const char *value)
{
        json_t *labels = make_member(c, "Labels", json_object);

        return !labels || json_object_set_new(labels, key, json_string(value)) < 0 ? err_oom(c->err) : 0;
}

static int set_pair(const struct change *c, const char *from, const char *equals, const char *to,
                    int (*set)(const struct change *c, const char *key, const char *value))
{
        auto_str key = STR_INIT, value = STR_INIT;
        int r;

        r = text_value(c, from, equals, &key);
        if (r == 0)
                r = text_value(c, equals + 1, to, &value);
        if (r < 0)
                return r;
        if (key.len == 0 || strchr(key.data, '='))
                return err_set(c->err, EINVAL, "a name is empty or holds '='");
        return set(c, key.data, value.data ? value.data : "");
}

/* `K=V K2="V 2"`, or `K V to the end`. */
static int set_pairs(const struct change *c, int (*set)(const struct change *c, const char *key, const char *value))
{
        const char *end = word_end(c->args), *equals = memchr(c->args, '=', (size_t)(end - c->args));
        int r = 0;

        if (!equals) {
                const char *value = skip_space(end);
                auto_str key = STR_INIT, text = STR_INIT;

                if (!*value)
                        return err_set(c->err, EINVAL, "it needs names and values");
                r = text_value(c, c->args, end, &key);
                if (r == 0)
                        r = text_value(c, value, value + strlen(value), &text);
                return r < 0 ? r : set(c, key.data ? key.data : "", text.data ? text.data : "");
        }
        for (const char *p = c->args; r == 0 && *p; p = skip_space(end)) {
                end = word_end(p);
                equals = memchr(p, '=', (size_t)(end - p));
                if (!equals)
                        return err_set(c->err, EINVAL, "'%.*s' is not of the form name=value", (int)MIN(end - p, 64),
                                       p);
                r = set_pair(c, p, equals, end, set);
        }
        return r;
}

static int change_env(const struct change *c)
{
        return set_pairs(c, env_set);
}

static int change_label(const struct change *c)
{
        return set_pairs(c, label_set);
}

static int parse_port(const char *s, size_t len, uint32_t *ret)
{
        char text[8];

        if (len == 0 || len >= sizeof(text))
                return -EINVAL;
        memcpy(text, s, len);
        text[len] = '\0';
        return parse_u32(text, ret) < 0 || *ret == 0 || *ret > PORT_MAX ? -EINVAL : 0;
}

/* "80", "80/udp", "8000-8010/tcp" */
static int expose(const struct change *c, const char *word)
{
        json_t *ports = make_member(c, "ExposedPorts", json_object);
        const char *slash = strchr(word, '/'), *end = slash ? slash : word + strlen(word);
        const char *protocol = slash ? slash + 1 : "tcp", *dash = memchr(word, '-', (size_t)(end - word));
        uint32_t first, last;
        char key[32];

        if (!ports)
                return err_oom(c->err);
        if (parse_port(word, (size_t)((dash ? dash : end) - word), &first) < 0 ||
            parse_port(dash ? dash + 1 : word, (size_t)(end - (dash ? dash + 1 : word)), &last) < 0 || last < first ||
            (!str_eq(protocol, "tcp") && !str_eq(protocol, "udp") && !str_eq(protocol, "sctp")))
                return err_set(c->err, EINVAL, "'%.64s' is no port", word);
        for (uint32_t port = first; port <= last; port++) {
                (void)snprintf(key, sizeof(key), "%u/%s", port, protocol);
                if (json_object_set_new(ports, key, json_object()) < 0)
                        return err_oom(c->err);
        }
        return 0;
}

static int add_volume(const struct change *c, const char *path)
{
        json_t *volumes = make_member(c, "Volumes", json_object);

        if (!*path)
                return err_set(c->err, EINVAL, "a volume needs a path");
        return !volumes || json_object_set_new(volumes, path, json_object()) < 0 ? err_oom(c->err) : 0;
}

static int each_word(const struct change *c, int (*fn)(const struct change *c, const char *word))
{
        int r = *c->args ? 0 : err_set(c->err, EINVAL, "it needs arguments");
        const char *end;

        for (const char *p = c->args; r == 0 && *p; p = skip_space(end)) {
                auto_str word = STR_INIT;

                end = word_end(p);
                r = text_value(c, p, end, &word);
                if (r == 0)
                        r = fn(c, word.data ? word.data : "");
        }
        return r;
}

static int change_expose(const struct change *c)
{
        return each_word(c, expose);
}

static int change_volume(const struct change *c)
{
        auto_json list = json_form(c->args);
        const json_t *v;
        size_t i;
        int r = 0;

        if (!list)
                return each_word(c, add_volume);
        json_array_foreach(list, i, v) {
                if (r == 0)
                        r = add_volume(c, json_string_value(v));
        }
        return r;
}

static int whole_text(const struct change *c, struct str *out)
{
        int r = text_value(c, c->args, c->args + strlen(c->args), out);

        return r == 0 && out->len == 0 ? err_set(c->err, EINVAL, "it needs an argument") : r;
}

static int change_user(const struct change *c)
{
        auto_str text = STR_INIT;
        int r = whole_text(c, &text);

        return r < 0 ? r : set_member(c, "User", json_string(text.data));
}

static int change_stopsignal(const struct change *c)
{
        auto_str text = STR_INIT;
        int r = whole_text(c, &text);

        return r < 0 ? r : set_member(c, "StopSignal", json_string(text.data));
}

/* Relative to the one before; as Go's path.Clean. */
static int change_workdir(const struct change *c)
{
        const char *before = json_string_value(json_object_get(c->config, "WorkingDir"));
        auto_str text = STR_INIT, whole = STR_INIT, clean = STR_INIT;
        int r = whole_text(c, &text);

        if (r < 0)
                return r;
        if (str_addf(&whole, "%s/%s", text.data[0] != '/' && before ? before : "", text.data) < 0)
                return err_oom(c->err);
        for (const char *p = whole.data; *p;) {
                size_t len;

                p += strspn(p, "/");
                len = strcspn(p, "/");
                if (len == 2 && memcmp(p, "..", 2) == 0) {
                        while (clean.len > 0 && clean.data[--clean.len] != '/')
                                ;
                } else if (len > 0 && !(len == 1 && *p == '.')) {
                        if (str_addc(&clean, '/') < 0 || str_add(&clean, p, len) < 0)
                                return err_oom(c->err);
                }
                p += len;
        }
        if (clean.len == 0 && str_addc(&clean, '/') < 0)
                return err_oom(c->err);
        return set_member(c, "WorkingDir", json_stringn(clean.data, clean.len));
}

static const struct {
        const char *name;
        int (*apply)(const struct change *c);
} instructions[] = {
        { "CMD", change_cmd },       { "ENTRYPOINT", change_entrypoint }, { "ENV", change_env },
        { "EXPOSE", change_expose }, { "LABEL", change_label },           { "STOPSIGNAL", change_stopsignal },
        { "USER", change_user },     { "VOLUME", change_volume },         { "WORKDIR", change_workdir },
};

int image_change_apply(json_t *config, const char *line, struct err *err)
{
        const char *word = skip_space(line), *end = word_end(word);
        auto_free char *args = NULL;
        size_t len;

        if (strlen(line) > IMAGE_CHANGE_MAX)
                return err_set(err, EINVAL, "--change is longer than %u bytes", IMAGE_CHANGE_MAX);
        args = strdup(skip_space(end));
        if (!args)
                return err_oom(err);
        for (len = strlen(args); len > 0 && is_space(args[len - 1]); len--)
                args[len - 1] = '\0';
        for (size_t i = 0; i < ARRAY_LEN(instructions); i++) {
                const struct change c = { config, args, err };
                int r;

                if (strlen(instructions[i].name) != (size_t)(end - word) ||
                    strncasecmp(instructions[i].name, word, (size_t)(end - word)) != 0)
                        continue;
                r = instructions[i].apply(&c);
                return r < 0 ? err_wrap(err, "--change %s", instructions[i].name) : 0;
        }
        return err_set(err, EINVAL, "--change: '%.*s' is no instruction that an import takes", (int)MIN(end - word, 32),
                       word);
}

int image_import_config(const char *diff_id, char *const *changes, const char *created, json_t **ret, struct err *err)
{
        auto_json o = json_pack("{s:s, s:s, s:s, s:{}, s:{s:s, s:[s]}, s:[{s:s, s:s}]}", "created", created,
                                "architecture", image_host_architecture(), "os", "linux", "config", "rootfs", "type",
                                "layers", "diff_ids", diff_id, "history", "created", created, "comment",
                                "imported by mayfly");

        if (!o)
                return err_oom(err);
        for (size_t i = 0; changes && changes[i]; i++) {
                int r;

                if (i >= IMAGE_CHANGES_MAX)
                        return err_set(err, EINVAL, "more than %d changes", IMAGE_CHANGES_MAX);
                r = image_change_apply(json_object_get(o, "config"), changes[i], err);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(o);
        return 0;
}
