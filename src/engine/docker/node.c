/* Which node a container is of. Two nodes may have one name and use one Docker; this number they do not share. */

#include "engine/docker/internal.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define NODE_FILE ".node" /* beside the records, whose names are ids */
#define NODE_FILE_MAX 64

static int node_make(struct docker *d, struct err *err)
{
        unsigned char number[DOCKER_NODE_LEN / 2];

        if (getrandom(number, sizeof(number), 0) != sizeof(number))
                return err_sys(err, "make the node's number");
        hex_encode(number, sizeof(number), d->node);
        return fd_write_file(d->records, NODE_FILE, 0600, d->node, DOCKER_NODE_LEN, err);
}

bool docker_node_valid(const char *text)
{
        return text && hex_is_lower(text, DOCKER_NODE_LEN);
}

/* Made once, and on disk before the first container carries it. */
int docker_node_open(struct docker *d, struct err *err)
{
        auto_str text = STR_INIT;
        struct err why = ERR_INIT;
        int r = fd_read_file(d->records, NODE_FILE, NODE_FILE_MAX, &text, &why);

        if (r == -ENOENT)
                return node_make(d, err);
        if (r < 0 && r != -EFBIG) {
                *err = why;
                return r;
        }
        if (r == 0 && docker_node_valid(text.data)) {
                (void)snprintf(d->node, sizeof(d->node), "%s", text.data);
                return 0;
        }
        log_warn("the node's number in '%s' makes no sense: it gets another one", NODE_FILE);
        return node_make(d, err);
}
