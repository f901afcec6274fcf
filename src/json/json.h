/* Checked reading and writing of JSON, on jansson. Refuses duplicate keys, bad UTF-8, NaN and excess depth.
 *
 * Reading an object goes through a cursor that collects all faults with their JSON Pointers (RFC 6901), so that an
 * answer can name every one; members that nobody asked for are faults too. */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_DEPTH_MAX 64
/* A value takes some 200 bytes of memory, of two in the text, so there may be that many and one more for each so many bytes. */
#define JSON_VALUES_FREE 65536
#define JSON_BYTES_PER_VALUE 16

void json_cleanup(json_t **v);
#define auto_json __attribute__((cleanup(json_cleanup))) json_t *

/* From now on what is freed of any document is overwritten, since it may have been a secret; before the first document, and
 * for the whole process. */
void json_wipe_freed(void);

/* RFC 8259 text; any trailing byte is an error. The caller owns *ret. Strings may hold \u0000 (checked by getters). */
int json_read(const char *text, size_t len, json_t **ret, struct err *err);
/* The same, of at most max_values. */
int json_read_within(const char *text, size_t len, size_t max_values, json_t **ret, struct err *err);
int json_write(const json_t *v, struct str *out); /* compact, reals with 15 digits; -ENOMEM */

/* Appends a JSON string with quotes; bytes must be valid UTF-8. -ENOMEM. */
int json_add_string(struct str *out, const char *s, size_t len);
int json_add_escaped(struct str *out, const char *s, size_t len); /* without the quotes */

struct json_fault {
        char *pointer, *detail;
};

#define JSON_FAULTS_MAX 64

/* All faults of one document; zero-initialised is empty. More than JSON_FAULTS_MAX are not kept. */
struct json_faults {
        struct json_fault *items;
        size_t len;
};
void json_faults_add(struct json_faults *f, const char *pointer, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
void json_faults_done(struct json_faults *f);

/* A cursor over one object. The value is borrowed; `pointer` is its place in the document ("" for the root). */
struct json_obj {
        json_t *value;
        struct json_faults *faults;
        char pointer[256];
        json_t *seen; /* names asked for */
};
int json_obj_init(struct json_obj *o, json_t *value, const char *pointer,
                  struct json_faults *faults); /* faults if no object */
void json_obj_done(struct json_obj *o);        /* reports members that were not asked for */

/* Getters: absent or (for those marked) null leave *ret alone and answer false; a wrong type is a fault and false. */
bool json_get_str(struct json_obj *o, const char *name, const char **ret,
                  size_t *ret_len); /* borrowed; NUL refused if ret_len is NULL */
bool json_get_bool(struct json_obj *o, const char *name, bool *ret);
bool json_get_int(struct json_obj *o, const char *name, int64_t min, int64_t max, int64_t *ret);
bool json_get_enum(struct json_obj *o, const char *name, const char *const *words,
                   int *ret);                                                      /* words: NULL-terminated */
bool json_get_strv(struct json_obj *o, const char *name, size_t max, char ***ret); /* owned; null counts as absent */
bool json_get_any(struct json_obj *o, const char *name, json_t **ret);             /* borrowed */
bool json_get_bytes(struct json_obj *o, const char *name, int64_t *ret); /* number, or text as units_parse_bytes() */
bool json_get_duration(struct json_obj *o, const char *name,
                       int64_t *ret_ns); /* number of seconds, or Go's text; not negative */
void json_obj_pointer(const struct json_obj *o, const char *name, struct str *out); /* escaped pointer of a member */
