#include "json/json.h"

#include "base/time.h"
#include "base/units.h"

#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REAL_DIGITS 15 /* what a double holds of any decimal: 0.1 stays 0.1 */

/* Jansson's scanner does not look whether the text of a token could grow (load.c, lex_save()): it goes on byte by byte, asks
 * for megabytes for each of them, and takes the end of a string for granted if memory is found again. So what failed once
 * fails until the parser gives up. */
static _Thread_local struct {
        bool reading, failed;
} memory;

static void *memory_get(size_t size)
{
        void *p = memory.failed ? NULL : malloc(size);

        memory.failed = !p && memory.reading;
        return p;
}

__attribute__((constructor)) static void memory_init(void)
{
        json_set_alloc_funcs(memory_get, free);
}

static void wiping_free(void *p)
{
        if (p)
                explicit_bzero(p, malloc_usable_size(p));
        free(p);
}

void json_wipe_freed(void)
{
        json_set_alloc_funcs(memory_get, wiping_free);
}

void json_cleanup(json_t **v)
{
        json_decref(*v);
}

struct measure {
        size_t depth, values;
};

/* The parser recurses, and takes much memory for little text, so what comes from outside is measured first. Text that is no
 * JSON may be measured wrongly, which does no harm: the parser refuses it at the first fault. */
static struct measure measure(const char *text, size_t len)
{
        struct measure m = { .values = 1 };
        bool in_string = false;
        size_t depth = 0;

        for (size_t i = 0; i < len; i++) {
                char c = text[i];

                if (in_string) {
                        if (c == '\\')
                                i++;
                        else if (c == '"')
                                in_string = false;
                } else if (c == '"') {
                        in_string = true;
                } else if (c == '{' || c == '[') {
                        m.values++;
                        depth++;
                        m.depth = MAX(m.depth, depth);
                } else if ((c == '}' || c == ']') && depth > 0) {
                        depth--;
                } else if (c == ',') {
                        m.values++;
                }
        }
        return m;
}

static json_t *json_load(const char *text, size_t len, json_error_t *error, bool *ret_failed)
{
        json_t *v;

        memory.reading = true;
        v = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, error);
        *ret_failed = memory.failed;
        memory.reading = memory.failed = false;
        return v;
}

int json_read_within(const char *text, size_t len, size_t max_values, json_t **ret, struct err *err)
{
        const struct measure m = measure(text, len);
        json_error_t error;
        bool failed;
        json_t *v;

        if (m.depth > JSON_DEPTH_MAX)
                return err_set(err, EINVAL, "JSON is nested more than %d deep", JSON_DEPTH_MAX);
        if (m.values > max_values)
                return err_set(err, EINVAL, "JSON of more than %zu values", max_values);
        v = json_load(text, len, &error, &failed);
        if (failed)
                json_decref(v);
        if (failed || (!v && json_error_code(&error) == json_error_out_of_memory))
                return err_oom(err);
        if (!v)
                return err_set(err, EINVAL, "JSON line %d, column %d: %s", error.line, error.column, error.text);
        *ret = v;
        return 0;
}

int json_read(const char *text, size_t len, json_t **ret, struct err *err)
{
        return json_read_within(text, len, JSON_VALUES_FREE + len / JSON_BYTES_PER_VALUE, ret, err);
}

static int write_part(const char *part, size_t len, void *data)
{
        return str_add(data, part, len);
}

int json_write(const json_t *v, struct str *out)
{
        size_t before = out->len;

        if (json_dump_callback(v, write_part, out, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(REAL_DIGITS)) ==
            0)
                return 0;
        out->len = before;
        if (out->data)
                out->data[before] = '\0';
        return -ENOMEM;
}

static int add_escape(struct str *out, unsigned char c)
{
        static const char short_for[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
        const char *p = c ? strchr(short_for, c) : NULL;
        char e[2] = { '\\', 0 };

        if (!p)
                return str_addf(out, "\\u%04x", c);
        e[1] = letters[p - short_for];
        return str_add(out, e, 2);
}

int json_add_escaped(struct str *out, const char *s, size_t len)
{
        size_t start = 0, i;
        int r;

        r = len > PTRDIFF_MAX / 2 ? -ENOMEM : str_reserve(out, len + 2);
        for (i = 0; r == 0 && i < len; i++) {
                unsigned char c = (unsigned char)s[i];

                if (c >= 0x20 && c != '"' && c != '\\')
                        continue;
                r = str_add(out, s + start, i - start);
                if (r == 0)
                        r = add_escape(out, c);
                start = i + 1;
        }
        return r == 0 ? str_add(out, s + start, len - start) : r;
}

int json_add_string(struct str *out, const char *s, size_t len)
{
        size_t before = out->len;
        int r = str_addc(out, '"');

        if (r == 0)
                r = json_add_escaped(out, s, len);
        if (r == 0)
                r = str_addc(out, '"');
        if (r < 0 && out->data) {
                out->len = before;
                out->data[before] = '\0';
        }
        return r;
}

/* Stands in where there is no memory for a fault: a faulty document must never pass for a good one. */
static struct json_fault fault_oom = { .pointer = (char *)"", .detail = (char *)"out of memory" };

void json_faults_add(struct json_faults *f, const char *pointer, const char *fmt, ...)
{
        struct json_fault fault = { 0 };
        struct json_fault *items;
        va_list ap;
        int n;

        if (f->len >= JSON_FAULTS_MAX || f->items == &fault_oom)
                return;
        va_start(ap, fmt);
        n = vasprintf(&fault.detail, fmt, ap);
        va_end(ap);
        if (n < 0)
                fault.detail = NULL;
        fault.pointer = strdup(pointer);
        items = realloc(f->items, (f->len + 1) * sizeof(*items));
        if (items)
                f->items = items;
        if (items && fault.detail && fault.pointer) {
                f->items[f->len++] = fault;
                return;
        }
        free(fault.detail);
        free(fault.pointer);
        if (f->len == 0) {
                free(f->items);
                *f = (struct json_faults){ .items = &fault_oom, .len = 1 };
        }
}

void json_faults_done(struct json_faults *f)
{
        if (f->items != &fault_oom) {
                for (size_t i = 0; i < f->len; i++) {
                        free(f->items[i].pointer);
                        free(f->items[i].detail);
                }
                free(f->items);
        }
        *f = (struct json_faults){ 0 };
}
