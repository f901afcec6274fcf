/* Frames and events of live connections. */

#include "wire/stream.h"

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct wire_log_event event;
        struct wire_frame frame;

        for (int server = 0; server < 2; server++)
                if (wire_frame_read((const char *)data, size, server, &frame, NULL) == 0)
                        wire_frame_done(&frame);
        if (wire_log_event_read((const char *)data, size, &event, NULL) == 0)
                wire_log_event_done(&event);
        if (wire_text_cut(data, size) > size || (size > 0 && wire_text_cut(data, size) == 0))
                __builtin_trap();
        return 0;
}
