/* The record memfd: a header of ours, the owner, and the caller's opaque record in one of two slots, so that replacing it
 * is one write of the header. Only mayflyd writes it; the launcher merely keeps it open. */

#include "engine/native/internal.h"

#include "base/fd.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#define RECORD_MAGIC UINT32_C(0x4d46524e)
#define RECORD_VERSION 1
#define RECORD_OWNER_MAX 4096

struct record_started {
        uint64_t start_ns;
        uint32_t net_index, net_address;
};

struct record_header {
        uint32_t magic, version;
        uint32_t mode, owner_len;
        uint64_t output_limit;
        struct record_started started;
        uint64_t dropped[NATIVE_STREAMS];
        struct {
                uint32_t slot, len;
        } current; /* replaced as a whole, by one write */
};

/* The first slot follows the header and the owner, the second lies where it never reaches. */
#define RECORD_SLOT_0 (sizeof(struct record_header))
#define RECORD_SLOT_1 (RECORD_SLOT_0 + RECORD_OWNER_MAX + ENGINE_RECORD_MAX)

static off_t slot_offset(uint32_t slot, uint32_t owner_len)
{
        return (off_t)(slot == 0 ? RECORD_SLOT_0 + owner_len : RECORD_SLOT_1);
}

int native_record_write(int fd, const struct native_record *r, const void *owner, const void *data, size_t len,
                        struct err *err)
{
        struct record_header h = {
                .magic = RECORD_MAGIC,
                .version = RECORD_VERSION,
                .mode = r->mode,
                .owner_len = (uint32_t)strlen(owner),
                .output_limit = r->output_limit,
                .started = { r->start_ns, r->net_index, r->net_address },
                .current = { .slot = 0, .len = (uint32_t)len },
        };
        struct iovec iov[] = {
                { .iov_base = &h, .iov_len = sizeof(h) },
                { .iov_base = (void *)owner, .iov_len = h.owner_len },
                { .iov_base = (void *)data, .iov_len = len },
        };
        ssize_t n;

        if (h.owner_len > RECORD_OWNER_MAX || len > ENGINE_RECORD_MAX)
                return err_set(err, EINVAL, "the record of the task is too long");
        n = pwritev(fd, iov, ARRAY_LEN(iov), 0);
        if (n < 0)
                return err_sys(err, "write the record of the task");
        if ((size_t)n != sizeof(h) + h.owner_len + len)
                return err_set(err, EIO, "short write of the record of the task");
        return 0;
}

int native_record_started(int fd, uint32_t net_index, uint32_t net_address, uint64_t start_ns, struct err *err)
{
        const struct record_started s = { start_ns, net_index, net_address };

        if (pwrite(fd, &s, sizeof(s), offsetof(struct record_header, started)) != sizeof(s))
                return err_sys(err, "write the record of the task");
        return 0;
}

int native_record_dropped(int fd, const uint64_t dropped[NATIVE_STREAMS])
{
        ssize_t n = pwrite(fd, dropped, NATIVE_STREAMS * sizeof(dropped[0]), offsetof(struct record_header, dropped));

        return n < 0 ? -errno : 0;
}

int native_record_update(int fd, uint32_t *slot, const void *data, size_t len, struct err *err)
{
        struct record_header h;
        uint32_t next = !*slot;

        if (len > ENGINE_RECORD_MAX)
                return err_set(err, EINVAL, "the record of the task is too long");
        if (pread(fd, &h, sizeof(h), 0) != sizeof(h))
                return err_sys(err, "read the record of the task");
        if (pwrite(fd, data, len, slot_offset(next, h.owner_len)) != (ssize_t)len)
                return err_sys(err, "write the record of the task");
        h.current.slot = next;
        h.current.len = (uint32_t)len;
        if (pwrite(fd, &h.current, sizeof(h.current), offsetof(struct record_header, current)) != sizeof(h.current))
                return err_sys(err, "write the record of the task");
        *slot = next;
        return 0;
}

static int read_part(int fd, off_t at, size_t len, struct str *ret, struct err *err)
{
        if (str_reserve(ret, len + 1) < 0)
                return err_oom(err);
        if (pread(fd, ret->data, len, at) != (ssize_t)len)
                return err_set(err, EBADMSG, "the record of the task is cut");
        ret->len = len;
        ret->data[len] = '\0';
        return 0;
}

int native_record_read(int fd, struct native_record *ret, uint32_t *ret_slot, struct err *err)
{
        struct native_record rec = { .mode = 0 };
        struct record_header h;
        int r;

        if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.magic != RECORD_MAGIC)
                return err_set(err, EBADMSG, "this is no record of a task");
        if (h.version != RECORD_VERSION)
                return err_set(err, ENOTSUP, "the record of the task has version %u", h.version);
        if (h.owner_len > RECORD_OWNER_MAX || h.current.len > ENGINE_RECORD_MAX || h.current.slot > 1)
                return err_set(err, EBADMSG, "the record of the task is damaged");
        rec.mode = h.mode;
        rec.net_index = h.started.net_index;
        rec.net_address = h.started.net_address;
        rec.output_limit = h.output_limit;
        rec.start_ns = h.started.start_ns;
        memcpy(rec.dropped, h.dropped, sizeof(rec.dropped));
        r = read_part(fd, RECORD_SLOT_0, h.owner_len, &rec.owner, err);
        if (r == 0)
                r = read_part(fd, slot_offset(h.current.slot, h.owner_len), h.current.len, &rec.data, err);
        if (r < 0) {
                native_record_done(&rec);
                return r;
        }
        *ret = rec;
        *ret_slot = h.current.slot;
        return 0;
}

void native_record_done(struct native_record *r)
{
        str_done(&r->owner);
        str_done(&r->data);
}
