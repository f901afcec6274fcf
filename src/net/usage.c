#include "net/usage.h"

#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#define ROOT "/sys/fs/cgroup"
#define ROOT_HYBRID "/sys/fs/cgroup/unified" /* of systemd, beside hierarchies of version 1 */
#define OWN_MAX 65536
#define EVENTS_MAX 4096

bool usage_path(const char *own, const char *cgroup, char *ret, unsigned size)
{
        const char *line = str_starts(own, "0::/") ? own : strstr(own, "\n0::/"), *end;
        int n;

        if (cgroup[0] == '/') {
                n = snprintf(ret, size, "%s", cgroup);
                return n > 0 && (unsigned)n < size;
        }
        if (!line)
                return false;
        line = strchr(line, '/');
        for (end = line + strcspn(line, "\n"); end[-1] != '/'; end--)
                ;
        n = snprintf(ret, size, "%.*s%s", (int)(end - line), line, cgroup);
        return n > 0 && (unsigned)n < size;
}

const char *usage_root(void)
{
        return access(ROOT "/cgroup.procs", F_OK) == 0 ? ROOT : ROOT_HYBRID;
}

bool usage_is_any(const char *cgroup)
{
        struct err ignored = ERR_INIT;
        auto_str own = STR_INIT;
        auto_str events = STR_INIT;
        char relative[PATH_MAX], path[sizeof(ROOT_HYBRID) + PATH_MAX + sizeof("/cgroup.events")];
        int r;

        if (fd_read_file(AT_FDCWD, "/proc/self/cgroup", OWN_MAX, &own, &ignored) < 0 || !own.data ||
            !usage_path(own.data, cgroup, relative, sizeof(relative)))
                return true;
        (void)snprintf(path, sizeof(path), "%s%s/cgroup.events", usage_root(), relative);
        r = fd_read_file(AT_FDCWD, path, EVENTS_MAX, &events, &ignored);
        if (r == -ENOENT || r == -ENODEV) /* the latter: it goes while it is read */
                return false;
        return r < 0 || !events.data || strstr(events.data, "populated 0\n") == NULL;
}
