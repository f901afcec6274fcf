#include "net/msg.h"

#include <errno.h>
#include <string.h>

static bool mode_valid(uint32_t mode)
{
        return mode == NET_NONE || mode == NET_NAT || mode == NET_INTERNET;
}

int msg_parse(const void *data, size_t len, size_t n_fds, struct net_msg *ret)
{
        struct net_msg m, rest;
        bool ok;

        if (len != sizeof(m))
                return -EBADMSG;
        memcpy(&m, data, sizeof(m));

        /* What an operation uses is checked and taken out of `rest`; the remainder must be 0. */
        rest = m;
        rest.op = rest.seq = 0;
        switch (m.op) {
        case NET_OP_HELLO:
                ok = m.version != 0;
                rest.version = 0;
                break;
        case NET_OP_ADOPT:
                ok = mode_valid(m.mode) && (m.mode == NET_NONE) == (m.address == 0);
                rest.mode = rest.index = rest.address = 0;
                break;
        case NET_OP_SYNCED:
                ok = true;
                break;
        case NET_OP_ACQUIRE:
                ok = mode_valid(m.mode) && m.count >= 1 && m.count <= NET_ACQUIRE_MAX;
                rest.mode = rest.count = 0;
                break;
        case NET_OP_CLEAN:
        case NET_OP_DROP:
                ok = true;
                rest.index = 0;
                break;
        default:
                ok = false;
        }
        if (!ok || n_fds != (m.op == NET_OP_ADOPT ? 1 : 0) || memcmp(&rest, &(struct net_msg){ 0 }, sizeof(rest)) != 0)
                return -EBADMSG;
        *ret = m;
        return 0;
}
