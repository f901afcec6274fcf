#include "net/msg.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte is the number of descriptors that came with the packet. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct net_msg msg;

        if (size < 1 || msg_parse(data + 1, size - 1, data[0], &msg) < 0)
                return 0;
        if (msg.op == 0 || msg.op >= NET_OP_RESOLV || msg.mode > NET_INTERNET || msg.count > NET_ACQUIRE_MAX)
                abort();
        if (data[0] != (msg.op == NET_OP_ADOPT ? 1 : 0))
                abort();
        return 0;
}
