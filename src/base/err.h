/* Errors: a number and a text on the caller's stack, so that reporting one cannot fail. */
#pragma once

#include <stddef.h>

#define ERR_TEXT_MAX 512

struct err {
        int num; /* positive errno; 0 while untouched */
        char text[ERR_TEXT_MAX];
};

/* clang-format off */
#define ERR_INIT { 0 }
/* clang-format on */

/* Each of these answers -errno, so `return err_set(err, EINVAL, "…")` is the idiom. `err` may be NULL. */

/* Sets number and text. Texts that do not fit are cut. */
int err_set(struct err *err, int num, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set() with the current errno (EIO if it is 0), its description appended after ": ". */
int err_sys(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts context and ": " before the text that is there; once per layer that adds meaning. -EIO where err is NULL. */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

int err_oom(struct err *err);

#if defined(__clang_analyzer__) && !defined(ERR_PLAIN)
/* The analyzer does not see into err.c, and would follow an error as if it were a success. */
#define err_set(...) (err_set(__VA_ARGS__), -1)
#define err_sys(...) (err_sys(__VA_ARGS__), -1)
#define err_wrap(...) (err_wrap(__VA_ARGS__), -1)
#define err_oom(...) (err_oom(__VA_ARGS__), -1)
#endif
