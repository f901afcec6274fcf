#define ERR_PLAIN
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *err, int num, const char *fmt, ...)
{
        va_list ap;

        if (!err)
                return -num;
        err->num = num;
        va_start(ap, fmt);
        (void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
        return -num;
}

int err_sys(struct err *err, const char *fmt, ...)
{
        int num = errno > 0 ? errno : EIO;
        size_t len;
        va_list ap;

        if (!err)
                return -num;
        err->num = num;
        va_start(ap, fmt);
        (void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
        len = strlen(err->text);
        errno = num;
        (void)snprintf(err->text + len, sizeof(err->text) - len, ": %m");
        return -num;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
        char old[ERR_TEXT_MAX];
        size_t len;
        va_list ap;

        if (!err)
                return -EIO;
        if (err->num <= 0)
                err->num = EIO;
        memcpy(old, err->text, sizeof(old));
        old[sizeof(old) - 1] = '\0';
        va_start(ap, fmt);
        (void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
        len = strlen(err->text);
        (void)snprintf(err->text + len, sizeof(err->text) - len, ": %s", old);
        return -err->num;
}

int err_oom(struct err *err)
{
        return err_set(err, ENOMEM, "out of memory");
}
