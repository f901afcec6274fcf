/* The file's side of the configuration: scalars in mappings of sections, and nothing else of YAML. libyaml's events
 * are read one by one, so that what is refused never grows in memory. */
#include "base/str.h"
#include "daemon/config.h"

#include <errno.h>
#include <stdint.h>
#include <yaml.h>

#define KEY_LEN_MAX 80
#define KEYS_MAX 128

struct reader {
        yaml_parser_t parser;
        const char *name, *text;
        size_t len;
        struct config config;
        size_t lines[KEYS_MAX]; /* where a key was set; 0: nowhere */
        struct {
                char name[KEY_LEN_MAX];
                size_t line;
        } sections[KEYS_MAX];
        size_t n_sections;
};

static size_t event_line(const yaml_event_t *e)
{
        return e->start_mark.line + 1;
}

static int fault(const struct reader *r, size_t line, struct err *err, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
static int fault(const struct reader *r, size_t line, struct err *err, const char *fmt, ...)
{
        char text[ERR_TEXT_MAX];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        return err_set(err, EINVAL, "%s:%zu: %s", r->name, line, text);
}

/* Errors of the byte reader (bad UTF-8, control bytes) have an offset and no line. */
static int syntax_fault(const struct reader *r, struct err *err)
{
        const yaml_parser_t *p = &r->parser;
        size_t line = p->problem_mark.line + 1;

        if (p->error == YAML_MEMORY_ERROR)
                return err_oom(err);
        if (p->error == YAML_READER_ERROR) {
                line = 1;
                for (size_t i = 0; i < p->problem_offset && i < r->len; i++)
                        line += r->text[i] == '\n';
        }
        return fault(r, line, err, "%s", p->problem ? p->problem : "not YAML");
}

/* The next event, with what this file may not hold refused. The caller owns *e on success: yaml_event_delete(). */
static int next_event(struct reader *r, yaml_event_t *e, struct err *err)
{
        const char *refused = NULL;
        size_t line;

        if (!yaml_parser_parse(&r->parser, e))
                return syntax_fault(r, err);
        if (e->type == YAML_ALIAS_EVENT || (e->type == YAML_SCALAR_EVENT && e->data.scalar.anchor) ||
            (e->type == YAML_MAPPING_START_EVENT && e->data.mapping_start.anchor))
                refused = "anchors and aliases are not allowed here";
        else if ((e->type == YAML_SCALAR_EVENT && e->data.scalar.tag) ||
                 (e->type == YAML_MAPPING_START_EVENT && e->data.mapping_start.tag))
                refused = "tags are not allowed here";
        else if (e->type == YAML_SEQUENCE_START_EVENT && (e->data.sequence_start.anchor || e->data.sequence_start.tag))
                refused = "anchors and tags are not allowed here";
        if (!refused)
                return 0;
        line = event_line(e);
        yaml_event_delete(e);
        return fault(r, line, err, "%s", refused);
}

/* NULL, with err set: the text holds a NUL. */
static const char *scalar_text(const struct reader *r, const yaml_event_t *e, struct err *err)
{
        const char *text = (const char *)e->data.scalar.value;

        if (strlen(text) == e->data.scalar.length)
                return text;
        (void)fault(r, event_line(e), err, "a value holds a NUL");
        return NULL;
}

static bool is_null(const yaml_event_t *e)
{
        const char *text = (const char *)e->data.scalar.value;

        return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && (!*text || str_eq(text, "~") || str_eq(text, "null"));
}

/* The entries of a list, whose start was read, joined by commas. */
static int read_list(struct reader *r, const char *key, struct str *out, struct err *err)
{
        for (;;) {
                const char *text = NULL;
                yaml_event_t e;
                int rc;

                rc = next_event(r, &e, err);
                if (rc < 0)
                        return rc;
                if (e.type == YAML_SEQUENCE_END_EVENT) {
                        yaml_event_delete(&e);
                        return out->len > 0 ? 0 : str_adds(out, "none");
                }
                if (e.type != YAML_SCALAR_EVENT || is_null(&e))
                        rc = fault(r, event_line(&e), err, "%s: takes a list of plain values", key);
                else
                        text = scalar_text(r, &e, err);
                if (rc == 0 && !text)
                        rc = -EINVAL;
                if (rc == 0 && (strchr(text, ',') || out->len > CONFIG_FILE_MAX))
                        rc = fault(r, event_line(&e), err, "%s: '%.40s' is not one value", key, text);
                if (rc == 0 && str_addf(out, "%s%s", out->len > 0 ? "," : "", text) < 0)
                        rc = err_oom(err);
                yaml_event_delete(&e);
                if (rc < 0)
                        return rc;
        }
}

static int set_value(struct reader *r, const char *key, size_t key_line, const yaml_event_t *e, struct err *err)
{
        struct err why = ERR_INIT;
        auto_str list = STR_INIT;
        const char *value;
        int i, rc;

        i = config_key_find(key, &why);
        if (i < 0)
                return fault(r, key_line, err, "%s", why.text);
        if (r->lines[i])
                return fault(r, key_line, err, "%s: set twice, first in line %zu", key, r->lines[i]);
        if (e->type == YAML_SEQUENCE_START_EVENT && config_is_list((size_t)i)) {
                rc = read_list(r, key, &list, err);
                if (rc < 0)
                        return rc;
                value = list.data;
        } else if (e->type == YAML_SEQUENCE_START_EVENT) {
                return fault(r, event_line(e), err, "%s: takes one value, not a list", key);
        } else if (e->type != YAML_SCALAR_EVENT) {
                return fault(r, key_line, err, "%s: takes one value, not a mapping", key);
        } else {
                value = scalar_text(r, e, err);
                if (!value)
                        return -EINVAL;
                if (is_null(e))
                        return fault(r, key_line, err, "%s: has no value", key);
        }
        if (config_set(&r->config, key, value, &why) < 0)
                return fault(r, event_line(e), err, "%s", why.text);
        r->lines[i] = key_line;
        return 0;
}

/* "tasks:" twice would be two mappings of which a reader might see one. */
static int enter_section(struct reader *r, const char *name, size_t line, struct err *err)
{
        struct err why = ERR_INIT;

        if (!config_is_section(name)) {
                (void)config_key_find(name, &why);
                return fault(r, line, err, "%s", why.num ? why.text : "takes one value, not a mapping");
        }
        for (size_t i = 0; i < r->n_sections; i++)
                if (str_eq(r->sections[i].name, name))
                        return fault(r, line, err, "%s: appears twice, first in line %zu", name, r->sections[i].line);
        if (r->n_sections == KEYS_MAX)
                return fault(r, line, err, "too many sections");
        (void)snprintf(r->sections[r->n_sections].name, KEY_LEN_MAX, "%s", name);
        r->sections[r->n_sections++].line = line;
        return 0;
}

static int read_mapping(struct reader *r, const char *section, struct err *err);

/* The value that follows `key`. */
static int read_value(struct reader *r, const char *section, const char *key, size_t line, struct err *err)
{
        char full[2 * KEY_LEN_MAX];
        yaml_event_t e;
        int rc;

        (void)snprintf(full, sizeof(full), "%s%s%s", section, *section ? "." : "", key);
        rc = next_event(r, &e, err);
        if (rc < 0)
                return rc;
        if ((!*section || config_is_section(full)) && config_key_find(full, NULL) < 0 &&
            (e.type == YAML_MAPPING_START_EVENT || (e.type == YAML_SCALAR_EVENT && is_null(&e)))) {
                rc = enter_section(r, full, line, err);
                if (rc == 0 && e.type == YAML_MAPPING_START_EVENT)
                        rc = read_mapping(r, full, err);
        } else if (config_is_section(full)) {
                rc = fault(r, line, err, "%s: takes keys of its own, not a value", full);
        } else {
                rc = set_value(r, full, line, &e, err);
        }
        yaml_event_delete(&e);
        return rc;
}

static int copy_key(const struct reader *r, const yaml_event_t *e, char key[KEY_LEN_MAX], struct err *err)
{
        const char *text;

        if (e->type != YAML_SCALAR_EVENT)
                return fault(r, event_line(e), err, "a key must be a word");
        text = scalar_text(r, e, err);
        if (!text)
                return -EINVAL;
        if ((size_t)snprintf(key, KEY_LEN_MAX, "%s", text) >= KEY_LEN_MAX)
                return fault(r, event_line(e), err, "unknown key of %zu bytes", strlen(text));
        return 0;
}

/* Up to the end of a mapping whose start was read; recursion ends where no section has that name. */
static int read_mapping(struct reader *r, const char *section, struct err *err)
{
        for (;;) {
                char key[KEY_LEN_MAX];
                yaml_event_t e;
                size_t line;
                bool end;
                int rc;

                rc = next_event(r, &e, err);
                if (rc < 0)
                        return rc;
                line = event_line(&e);
                end = e.type == YAML_MAPPING_END_EVENT;
                if (!end)
                        rc = copy_key(r, &e, key, err);
                yaml_event_delete(&e);
                if (rc < 0 || end)
                        return rc;
                rc = read_value(r, section, key, line, err);
                if (rc < 0)
                        return rc;
        }
}

/* Stream start, at most one document that is empty or a mapping, stream end. */
static int read_stream(struct reader *r, struct err *err)
{
        unsigned documents = 0;
        bool end = false;

        while (!end) {
                yaml_event_t e;
                int rc;

                rc = next_event(r, &e, err);
                if (rc < 0)
                        return rc;
                switch (e.type) {
                case YAML_DOCUMENT_START_EVENT:
                        if (documents++)
                                rc = fault(r, event_line(&e), err, "a second document; there may be one");
                        break;
                case YAML_MAPPING_START_EVENT:
                        rc = read_mapping(r, "", err);
                        break;
                case YAML_SEQUENCE_START_EVENT:
                        rc = fault(r, event_line(&e), err, "expected keys, not a list");
                        break;
                case YAML_SCALAR_EVENT:
                        if (!is_null(&e))
                                rc = fault(r, event_line(&e), err, "expected keys, as 'data: /var/lib/mayfly'");
                        break;
                case YAML_STREAM_END_EVENT:
                        end = true;
                        break;
                default:
                        break;
                }
                yaml_event_delete(&e);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

int config_read_yaml(struct config *c, const char *text, size_t len, const char *name, struct err *err)
{
        struct reader r = { .name = name, .text = text, .len = len, .config = *c };
        int rc;

        if (len > CONFIG_FILE_MAX)
                return err_set(err, EFBIG, "%s: larger than %d bytes", name, CONFIG_FILE_MAX);
        if (!yaml_parser_initialize(&r.parser))
                return err_oom(err);
        yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
        yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
        rc = read_stream(&r, err);
        yaml_parser_delete(&r.parser);
        if (rc == 0)
                *c = r.config;
        return rc;
}
