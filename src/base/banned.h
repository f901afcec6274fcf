/* Functions that nobody here may call: each call becomes a compile error that names it. The build includes this file
 * before every source. The declarations must come first, so that the macros leave them alone. */
#pragma once

#if __STDC_HOSTED__

#include <alloca.h> /* IWYU pragma: keep */
#include <stdio.h>  /* IWYU pragma: keep */
#include <stdlib.h> /* IWYU pragma: keep */
#include <string.h> /* IWYU pragma: keep */
#include <time.h>   /* IWYU pragma: keep */

#define BANNED(func) sorry_##func##_is_banned

/* No bound on what they write. */
#undef strcpy
#define strcpy(...) BANNED(strcpy)
#undef strcat
#define strcat(...) BANNED(strcat)
#undef strncat
#define strncat(...) BANNED(strncat)
#undef sprintf
#define sprintf(...) BANNED(sprintf)
#undef vsprintf
#define vsprintf(...) BANNED(vsprintf)
#undef alloca
#define alloca(...) BANNED(alloca)

/* No error can be seen: parse_u32() and its like. */
#undef atoi
#define atoi(...) BANNED(atoi)
#undef atol
#define atol(...) BANNED(atol)
#undef atoll
#define atoll(...) BANNED(atoll)

/* State shared by all callers. */
#undef strtok
#define strtok(...) BANNED(strtok)
#undef gmtime
#define gmtime(...) BANNED(gmtime)
#undef localtime
#define localtime(...) BANNED(localtime)
#undef ctime
#define ctime(...) BANNED(ctime)
#undef asctime
#define asctime(...) BANNED(asctime)

/* A shell, or a name that somebody else can take first. */
#undef system
#define system(...) BANNED(system)
#undef popen
#define popen(...) BANNED(popen)
#undef mktemp
#define mktemp(...) BANNED(mktemp)
#undef tmpnam
#define tmpnam(...) BANNED(tmpnam)

#ifdef __clang_analyzer__
/* `return -errno` is a failure: the analyzer would follow it with errno at zero, into outputs that nobody set. */
#include <errno.h>
static inline int *errno_of_failure(void)
{
        int *e = __errno_location();

        if (*e <= 0)
                __builtin_unreachable();
        return e;
}
#undef errno
#define errno (*errno_of_failure())
#endif

#endif
