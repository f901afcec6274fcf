#include "base/tar.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LIMIT_BYTES (UINT64_C(1) << 20)
#define LIMIT_MEMBERS 64

/* What is read can be written, and read again as the same. */
struct sink {
        uint8_t data[4 * (TAR_NAME_MAX + TAR_BLOCK)];
        size_t len;
};

static int put(const void *bytes, size_t len, void *data)
{
        struct sink *s = data;

        if (len > sizeof(s->data) - s->len)
                abort();
        memcpy(s->data + s->len, bytes, len);
        s->len += len;
        return 0;
}

static void again(const struct tar_member *m)
{
        static struct sink sink;
        static struct tar_reader r;
        struct tar_writer w = { .fn = put, .data = &sink };
        struct tar_piece p;
        const void *at = sink.data;
        size_t len;

        sink.len = 0;
        if (m->kind == TAR_KIND_UNKNOWN || m->kind == TAR_KIND_CHARACTER || m->kind == TAR_KIND_BLOCK)
                return;
        if (tar_write_member(&w, m) < 0)
                abort();
        len = sink.len;
        if (tar_member_bytes(m) - m->size - (-m->size & (TAR_BLOCK - 1)) != len)
                abort();
        tar_reader_init(&r, NULL);
        if (tar_reader_next(&r, &at, &len, &p, NULL) < 0 || p.event != TAR_MEMBER || p.member.kind != m->kind ||
            strcmp(p.member.path, m->path) != 0 || strcmp(p.member.target, m->target) != 0 ||
            p.member.size != m->size || p.member.mode != m->mode || p.member.mtime != m->mtime)
                abort();
}

/* The first byte is the size of the pieces in which the archive comes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct tar_reader r;
        const struct tar_limits limits = { LIMIT_BYTES, LIMIT_MEMBERS };
        uint64_t content = 0;
        size_t step;

        if (size < 2)
                return 0;
        step = data[0] ? data[0] : size;
        tar_reader_init(&r, &limits);
        for (size_t i = 1; i < size; i += step) {
                const void *at = data + i;
                size_t len = size - i < step ? size - i : step;
                struct tar_piece p;

                do {
                        if (tar_reader_next(&r, &at, &len, &p, NULL) < 0)
                                return 0;
                        if (p.event == TAR_MEMBER)
                                again(&p.member);
                        content += p.event == TAR_CONTENT ? p.len : 0;
                        if (content > LIMIT_BYTES)
                                abort();
                } while (p.event != TAR_MORE && p.event != TAR_END);
                if (p.event == TAR_END)
                        return 0;
        }
        (void)tar_reader_finish(&r, NULL);
        return 0;
}
