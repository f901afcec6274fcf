/* Strings: a growable byte buffer, and strict helpers for NUL-terminated text. */
#pragma once

#include "base/err.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialised is empty. `data` is always followed by a NUL that `len` does not count, or NULL while cap is 0. */
struct str {
        char *data;
        size_t len, cap;
};

/* clang-format off */
#define STR_INIT { 0 }
/* clang-format on */

/* Each answers 0 or -ENOMEM and leaves the buffer as it was on failure. */
int str_reserve(struct str *s, size_t more);
int str_add(struct str *s, const void *data, size_t len);
int str_adds(struct str *s, const char *text);
int str_addc(struct str *s, char c);
int str_addf(struct str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int str_addv(struct str *s, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
void str_clear(struct str *s); /* empties, keeps the memory */
char *str_take(struct str *s); /* the caller owns the text (never NULL unless out of memory) */
void str_done(struct str *s);
#define auto_str __attribute__((cleanup(str_done))) struct str

/* free() as a cleanup, and handing on. */
void free_cleanup(void *p);
#define auto_free __attribute__((cleanup(free_cleanup)))
#define TAKE_PTR(p)                                                                                                    \
        ({                                                                                                             \
                __typeof__(p) *take_ = &(p);                                                                           \
                __typeof__(p) ptr_ = *take_;                                                                           \
                *take_ = NULL;                                                                                         \
                ptr_;                                                                                                  \
        })

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CONTAINER_OF(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

bool str_eq(const char *a, const char *b); /* NULL equals only NULL */
bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);
char *str_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* caller owns; NULL: out of memory */

/* NULL-terminated arrays of owned strings. */
char **strv_dup(char *const *v); /* NULL: out of memory (or v is NULL) */
void strv_free(char **v);
size_t strv_len(char *const *v);
int strv_add(char ***v, const char *s); /* copies s */
void strv_cleanup(char ***v);
#define auto_strv __attribute__((cleanup(strv_cleanup))) char **

/* Strict decimal: digits only, no sign, no blank, no leading zero but "0"; -EINVAL or -ERANGE. */
int parse_u32(const char *s, uint32_t *ret);
int parse_u64(const char *s, uint64_t *ret);

/* RFC 3629: shortest form, no surrogates, at most U+10FFFF. NUL is valid here. */
bool utf8_valid(const void *data, size_t len);
size_t utf8_len(const char *text); /* bytes of the character that the text begins with; 0: it is none, or the end */

void hex_encode(const void *data, size_t len, char *out);  /* writes 2*len digits, lower case, and a NUL */
int hex_decode(const char *hex, size_t hexlen, void *out); /* lower case only; -EINVAL */
bool hex_is_lower(const char *s, size_t len);              /* exactly len lower-case hex digits, then NUL */

/* RFC 4648 section 4, padded. Decoding refuses anything outside the alphabet and non-canonical ends. */
int base64_encode(struct str *out, const void *data, size_t len);
int base64_decode(struct str *out, const char *text, size_t len); /* -EINVAL */

/* A name from outside, for a text that people read: printable ASCII but the backslash stays, the rest becomes \xNN; what
 * does not fit is cut with three dots. Answers `out`. */
#define STR_SHOWN_MAX 160
const char *str_show(const char *name, char out[STR_SHOWN_MAX]);
