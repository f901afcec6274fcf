#include "image/worker/stream.h"
#include "base/fd.h"
#include "base/str.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#define IN_SIZE (128U << 10)
#define OUT_SIZE (256U << 10)
#define WINDOW_LOG_MAX 27 /* of zstd: 128 MiB, what its own tool accepts */

struct stream {
        int fd;
        struct stream_options options;
        enum stream_compression compression;
        uint64_t in_total, out_total;
        uint64_t in_offset;
        const uint8_t *next; /* of `in`, not yet taken by the decoder */
        size_t avail;
        bool pipe;
        bool in_end;
        bool unit_open; /* within a gzip member or zstd frame */
        bool end;
        z_stream gzip;
        bool gzip_ready;
        ZSTD_DStream *zstd;
        EVP_MD_CTX *hash;
        uint8_t in[IN_SIZE];
        uint8_t out[OUT_SIZE];
};

/* Enough to see what it is. */
#define MAGIC_MAX 6

static int fill(struct stream *s, struct err *err)
{
        bool first = s->in_offset == 0;
        ssize_t n;

        s->next = s->in;
        s->avail = 0;
        do {
                if (s->pipe)
                        n = read(s->fd, s->in + s->avail, sizeof(s->in) - s->avail);
                else
                        n = pread(s->fd, s->in, sizeof(s->in), (off_t)s->in_offset);
                s->avail += n > 0 ? (size_t)n : 0;
        } while ((n < 0 && errno == EINTR) || (n > 0 && s->pipe && first && s->avail < MAGIC_MAX));
        if (n < 0)
                return err_sys(err, "read the archive");
        s->in_offset += s->avail;
        s->in_total += s->avail;
        s->in_end = s->avail == 0;
        return 0;
}

static bool begins_with(const struct stream *s, const char *magic, size_t len)
{
        return s->avail >= len && memcmp(s->next, magic, len) == 0;
}

static int detect(struct stream *s, struct err *err)
{
        if (begins_with(s, "\x1f\x8b", 2)) {
                s->compression = STREAM_GZIP;
                if (inflateInit2(&s->gzip, 16 + MAX_WBITS) != Z_OK)
                        return err_oom(err);
                s->gzip_ready = true;
        } else if (begins_with(s, "\x28\xb5\x2f\xfd", 4)) {
                s->compression = STREAM_ZSTD;
                s->zstd = ZSTD_createDStream();
                if (!s->zstd || ZSTD_isError(ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
                        return err_oom(err);
        } else if (begins_with(s, "BZh", 3) || begins_with(s,
                                                           "\xfd"
                                                           "7zXZ",
                                                           5)) {
                return err_set(err, EBADMSG, "the archive is compressed by neither gzip nor zstd");
        }
        s->unit_open = s->compression != STREAM_PLAIN;
        if (s->pipe && !s->options.packed && s->unit_open)
                return err_set(err, EBADMSG, "the layer is no tar archive once it is uncompressed");
        return 0;
}

int stream_open(int fd, const struct stream_options *options, struct stream **ret, struct err *err)
{
        auto_stream s = calloc(1, sizeof(*s));
        struct stat st;
        int r;

        if (!s)
                return err_oom(err);
        s->fd = fd;
        s->pipe = fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
        s->options = *options;
        if (options->hash) {
                s->hash = EVP_MD_CTX_new();
                if (!s->hash || EVP_DigestInit_ex(s->hash, EVP_sha256(), NULL) != 1)
                        return err_oom(err);
        }
        r = fill(s, err);
        if (r == 0)
                r = detect(s, err);
        if (r == 0)
                *ret = TAKE_PTR(s);
        return r;
}

void stream_close(struct stream *s)
{
        if (!s)
                return;
        if (s->gzip_ready)
                (void)inflateEnd(&s->gzip);
        (void)ZSTD_freeDStream(s->zstd);
        EVP_MD_CTX_free(s->hash);
        free(s);
}

void stream_cleanup(struct stream **s)
{
        stream_close(*s);
}

enum stream_compression stream_compression(const struct stream *s)
{
        return s->compression;
}

const char *stream_compression_name(const struct stream *s)
{
        return s->compression == STREAM_GZIP ? "gzip" : s->compression == STREAM_ZSTD ? "zstd" : "none";
}

/* One step of the decoder from `in` to `out`. */
static int gunzip(struct stream *s, size_t *ret_len, struct err *err)
{
        int z;

        if (!s->unit_open) {
                /* Another member follows; anything else behind the last one is no gzip. */
                if (s->next[0] != 0x1f || inflateReset(&s->gzip) != Z_OK)
                        return err_set(err, EBADMSG, "the gzip stream is followed by something else");
                s->unit_open = true;
        }
        s->gzip.next_in = (Bytef *)s->next;
        s->gzip.avail_in = (uInt)s->avail;
        s->gzip.next_out = s->out;
        s->gzip.avail_out = OUT_SIZE;
        z = inflate(&s->gzip, Z_NO_FLUSH);
        s->next += s->avail - s->gzip.avail_in;
        s->avail = s->gzip.avail_in;
        *ret_len = OUT_SIZE - s->gzip.avail_out;
        if (z == Z_STREAM_END)
                s->unit_open = false;
        else if (z == Z_MEM_ERROR)
                return err_oom(err);
        else if (z != Z_OK && z != Z_BUF_ERROR)
                return err_set(err, EBADMSG, "bad gzip data: %s", s->gzip.msg ? s->gzip.msg : "corrupt");
        return 0;
}

static int unzstd(struct stream *s, size_t *ret_len, struct err *err)
{
        ZSTD_inBuffer in = { s->next, s->avail, 0 };
        ZSTD_outBuffer out = { s->out, OUT_SIZE, 0 };
        size_t z = ZSTD_decompressStream(s->zstd, &out, &in);

        if (ZSTD_isError(z))
                return err_set(err, EBADMSG, "bad zstd data: %s", ZSTD_getErrorName(z));
        s->next += in.pos;
        s->avail -= in.pos;
        s->unit_open = z != 0;
        *ret_len = out.pos;
        return 0;
}

static int decode(struct stream *s, size_t *ret_len, struct err *err)
{
        *ret_len = 0;
        while (*ret_len == 0) {
                int r = 0;

                if (s->avail == 0 && !s->in_end)
                        r = fill(s, err);
                if (r < 0)
                        return r;
                if (s->in_end && !s->unit_open)
                        return 0;
                /* At the end of the input the decoder may still hold output; if not, it never ends. */
                r = s->compression == STREAM_GZIP ? gunzip(s, ret_len, err) : unzstd(s, ret_len, err);
                if (r < 0)
                        return r;
                if (s->in_end && *ret_len == 0 && s->unit_open)
                        return err_set(err, EBADMSG, "the %s stream is cut short", stream_compression_name(s));
        }
        return 0;
}

uint64_t stream_total(const struct stream *s)
{
        return s->out_total;
}

static int check_limits(struct stream *s, struct err *err)
{
        if (s->out_total > s->options.max_bytes)
                return err_set(err, EFBIG, "the archive is larger than %" PRIu64 " bytes", s->options.max_bytes);
        if (s->out_total > STREAM_RATIO_FREE && s->out_total / STREAM_RATIO_MAX > s->in_total)
                return err_set(err, EFBIG, "the archive expands more than %d times", STREAM_RATIO_MAX);
        return 0;
}

int stream_read(struct stream *s, const void **ret, size_t *ret_len, struct err *err)
{
        const void *data = s->out;
        size_t len = 0;
        int r = 0;

        if (s->end) {
                *ret = s->out;
                *ret_len = 0;
                return 0;
        }
        if (s->compression != STREAM_PLAIN) {
                r = decode(s, &len, err);
        } else {
                if (s->avail == 0)
                        r = fill(s, err);
                data = s->next;
                len = s->avail;
                s->avail = 0;
        }
        if (r < 0)
                return r;
        s->out_total += len;
        s->end = len == 0;
        r = check_limits(s, err);
        if (r < 0)
                return r;
        if (s->hash && EVP_DigestUpdate(s->hash, data, len) != 1)
                return err_set(err, EIO, "cannot compute SHA-256");
        if (s->compression != STREAM_PLAIN && s->options.copy_fd >= 0) {
                r = fd_write_all(s->options.copy_fd, data, len);
                if (r < 0)
                        return err_set(err, -r, "write the uncompressed archive: %s", strerror(-r));
        }
        *ret = data;
        *ret_len = len;
        return 0;
}

uint64_t stream_skip(struct stream *s, uint64_t n)
{
        struct stat st;

        if (s->compression != STREAM_PLAIN || s->pipe || s->hash || s->end || s->avail > 0 || fstat(s->fd, &st) < 0)
                return 0;
        /* Never beyond the end, so that an archive that is cut short is seen to be. */
        n = MIN(n, (uint64_t)st.st_size > s->in_offset ? (uint64_t)st.st_size - s->in_offset : 0);
        s->in_offset += n;
        s->in_total += n;
        s->out_total += n;
        return n;
}

int stream_finish(struct stream *s, char digest[STREAM_DIGEST_MAX], struct err *err)
{
        unsigned char hash[SHA256_DIGEST_LENGTH];
        const void *data;
        uint64_t tail = 0;
        size_t len = 1;
        int r;

        for (; len > 0; tail += len) {
                r = stream_read(s, &data, &len, err);
                if (r < 0)
                        return r;
                if (tail > STREAM_TAIL_MAX)
                        return err_set(err, EFBIG, "more than %" PRIu64 " bytes follow the end of the archive",
                                       STREAM_TAIL_MAX);
        }
        digest[0] = '\0';
        if (!s->hash)
                return 0;
        if (EVP_DigestFinal_ex(s->hash, hash, NULL) != 1)
                return err_set(err, EIO, "cannot compute SHA-256");
        (void)snprintf(digest, STREAM_DIGEST_MAX, "sha256:");
        hex_encode(hash, sizeof(hash), digest + 7);
        return 0;
}
