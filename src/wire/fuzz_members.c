/* Archives among the files of a request: what is taken lies below the file's own path, and its content within the archive. */

#include "base/str.h"
#include "wire/task.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DIR "/srv/x"
#define MEMBERS_MAX 64

static bool within(const struct wire_file *f, const void *data, size_t len)
{
        uintptr_t from = (uintptr_t)f->content, at = (uintptr_t)data;

        return len == 0 || (at >= from && at - from <= f->len && len <= f->len - (at - from));
}

static bool climbs(const char *path)
{
        for (const char *p = path; (p = strstr(p, "/..")); p += 3)
                if (p[3] == '/' || !p[3])
                        return true;
        return false;
}

static void check(const struct wire_file *f, const struct wire_member *m)
{
        const char *rest = m->path + strlen(DIR);

        if (strlen(m->path) > WIRE_PATH_MAX || !str_starts(m->path, DIR) || (*rest && *rest != '/') || climbs(m->path))
                abort();
        if (m->type == WIRE_MEMBER_SYMLINK ? m->len != strlen(m->target) : !within(f, m->data, m->len))
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const struct wire_file f = {
                .path = (char *)DIR, .content = (void *)(uintptr_t)data, .len = size, .tar = true
        };
        struct wire_members m = { .items = NULL };

        if (wire_members_read(&f, MEMBERS_MAX, &m, NULL) == 0)
                for (size_t i = 0; i < m.len; i++)
                        check(&f, &m.items[i]);
        if (m.len > MEMBERS_MAX)
                abort();
        wire_members_done(&m);
        return 0;
}
