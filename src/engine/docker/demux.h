/* The multiplexed stream of attach and logs (Engine API, ContainerAttach, "Stream format"): frames of an 8-byte header
 * {stream, 0, 0, 0, size big-endian} and as many bytes; a parser of outside input, fed in pieces of any size. */
#pragma once

#include "base/err.h"
#include "engine/engine.h"

#include <stddef.h>
#include <stdint.h>

#define DEMUX_HEADER 8
#define DEMUX_ERROR_MAX 256 /* bytes kept of an error that the daemon puts into the stream */

/* Zero-initialised is ready. */
struct demux {
        uint8_t head[DEMUX_HEADER];
        unsigned have;  /* bytes of the header */
        uint32_t left;  /* bytes of the frame that are still to come */
        uint8_t stream; /* of the frame */
        size_t error_len;
        char error[DEMUX_ERROR_MAX];
};

/* A piece of a frame, as soon as it is there: a frame that is cut off is handed on as far as it came. */
typedef void (*demux_fn)(enum engine_stream stream, const void *bytes, size_t len, void *data);

/* -EBADMSG: an unknown stream; -EREMOTEIO: the daemon's own error, whose text is in err. Then the demux is of no more use. */
int demux_feed(struct demux *d, const void *bytes, size_t len, demux_fn fn, void *data, struct err *err);

/* The stream's end: an error that the daemon had begun to tell; 0 where there was none. */
int demux_finish(const struct demux *d, struct err *err);
