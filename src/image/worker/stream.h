/* The bytes of an archive: uncompressed if they are gzip (RFC 1952, also several members) or zstd (RFC 8878, also several
 * frames), hashed, copied, and bounded. */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum stream_compression { STREAM_PLAIN, STREAM_GZIP, STREAM_ZSTD };

/* Expansion beyond this ratio is a bomb; small archives may, for what they hold is bounded anyway. */
#define STREAM_RATIO_MAX 10000
#define STREAM_RATIO_FREE (UINT64_C(64) << 20)
#define STREAM_TAIL_MAX (UINT64_C(64) << 20) /* bytes behind the end of the archive */
#define STREAM_DIGEST_MAX 72                 /* "sha256:", 64 digits, NUL */

struct stream;

struct stream_options {
        uint64_t max_bytes; /* that come out */
        int copy_fd;        /* gets them if the input is compressed; -EBADF: nobody */
        int hash;   /* whether stream_finish() gives a digest; without it an uncompressed input can be skipped */
        int packed; /* whether what comes by a pipe may be compressed */
};

/* Borrows fd and reads it with pread(2) from offset 0. A pipe is read to its end, and must not be compressed (-EBADMSG) but with
 * `packed`: what else comes by one is what another worker uncompressed. */
int stream_open(int fd, const struct stream_options *options, struct stream **ret, struct err *err);
void stream_close(struct stream *s);
void stream_cleanup(struct stream **s);
#define auto_stream __attribute__((cleanup(stream_cleanup))) struct stream *

enum stream_compression stream_compression(const struct stream *s);
const char *stream_compression_name(const struct stream *s); /* none, gzip, zstd */

/* The next bytes, valid until the next call; *ret_len 0 at the end. -EBADMSG, -EFBIG, -errno. */
int stream_read(struct stream *s, const void **ret, size_t *ret_len, struct err *err);

uint64_t stream_total(const struct stream *s); /* bytes that came out, or were passed over */

/* Passes over at most n bytes without reading them; answers how many (0: read them instead). */
uint64_t stream_skip(struct stream *s, uint64_t n);

/* Reads to the end, which must not be far; digest of all that came out, "" without a hash. */
int stream_finish(struct stream *s, char digest[STREAM_DIGEST_MAX], struct err *err);
