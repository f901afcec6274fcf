/* The search for a program along PATH, as execvp(3) does it; shared by the launcher's child and by init, which has no C
 * library. */
#pragma once

#include <errno.h>

#define SEARCH_MAX 4096
#define SEARCH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Answers the value of PATH, or the default. */
static inline const char *search_path(char *const *envp)
{
        for (; *envp; envp++) {
                const char *e = *envp;

                if (e[0] == 'P' && e[1] == 'A' && e[2] == 'T' && e[3] == 'H' && e[4] == '=')
                        return e + 5;
        }
        return SEARCH_DEFAULT;
}

static inline int search_has_slash(const char *name)
{
        for (; *name; name++)
                if (*name == '/')
                        return 1;
        return 0;
}

/* Writes directory and name into out; answers what follows the directory, or NULL at the end of the list. A name that does
 * not fit is left empty (exec answers ENOENT). */
static inline const char *search_next(const char *path, const char *name, char out[SEARCH_MAX])
{
        unsigned n = 0;

        for (; *path && *path != ':'; path++)
                if (n < SEARCH_MAX - 2)
                        out[n++] = *path;
        if (n == 0)
                out[n++] = '.';
        out[n++] = '/';
        for (; *name; name++) {
                if (n >= SEARCH_MAX - 1) {
                        n = 0;
                        break;
                }
                out[n++] = *name;
        }
        out[n] = '\0';
        return *path ? path + 1 : (const char *)0;
}

/* Whether the search goes on after this error; keeps the one to report. */
static inline int search_goes_on(int error, int *report)
{
        if (error == EACCES)
                *report = EACCES;
        return error == EACCES || error == ENOENT || error == ENOTDIR || error == ELOOP || error == ENAMETOOLONG;
}
