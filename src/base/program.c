#include "base/program.h"

#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int program_find(const char *name, char out[PATH_MAX], struct err *err)
{
        static const char *const places[] = { "", "../libexec/mayfly/" };
        char self[PATH_MAX], path[PATH_MAX];
        ssize_t n;
        char *slash;

        n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        if (n < 0)
                return err_sys(err, "read /proc/self/exe");
        self[n] = '\0';
        slash = strrchr(self, '/');
        if (!slash)
                return err_set(err, ENOENT, "no directory in '%s'", self);
        slash[1] = '\0';
        for (size_t i = 0; i < ARRAY_LEN(places); i++) {
                int len = snprintf(path, sizeof(path), "%s%s%s", self, places[i], name);

                if (len < 0 || (size_t)len >= sizeof(path))
                        return err_set(err, ENAMETOOLONG, "the path of %s is too long", name);
                if (access(path, X_OK) == 0) {
                        memcpy(out, path, (size_t)len + 1);
                        return 0;
                }
        }
        return err_set(err, ENOENT, "%s is neither in %s nor in %s../libexec/mayfly", name, self, self);
}
