/* Which node a container is of. Two nodes may have one name and use one Docker; this number they do not share. */

#include "engine/docker/internal.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define NODE_FILE ".node" /* beside the records, whose names are ids */
#define NODE_ASIDE ".node.damaged"
#define NODE_FILE_MAX 64

static int node_write(struct docker *d, struct err *err)
{
        return fd_write_file(d->records, NODE_FILE, 0600, d->node, DOCKER_NODE_LEN, err);
}

static int node_make(struct docker *d, struct err *err)
{
        unsigned char number[DOCKER_NODE_LEN / 2];

        if (getrandom(number, sizeof(number), 0) != sizeof(number))
                return err_sys(err, "make the node's number");
        hex_encode(number, sizeof(number), d->node);
        return node_write(d, err);
}

bool docker_node_valid(const char *text)
{
        return text && hex_is_lower(text, DOCKER_NODE_LEN);
}

/* Who starts Mayfly at night wants it to run, and his tasks, too: what runs in Docker has a record, which tells the number. Without one
 * there is nothing to take over; what lies there nevertheless is told of (docker_find_strangers()). */
static int node_repair(struct docker *d, const char *path, struct err *err)
{
        (void)unlinkat(d->records, NODE_ASIDE, 0);
        if (linkat(d->records, NODE_FILE, d->records, NODE_ASIDE, 0) < 0)
                return err_sys(err, "set aside '%s/" NODE_FILE "', which is damaged", path);
        if (docker_records_node(d, d->node)) {
                log_warn("the node's number in '%s/" NODE_FILE "' was damaged, and is kept as '" NODE_ASIDE
                         "': the records of its containers tell that it is %s",
                         path, d->node);
                return node_write(d, err);
        }
        d->node_lost = true;
        log_error("the node's number in '%s/" NODE_FILE "' was damaged, and is kept as '" NODE_ASIDE
                  "': it gets another one, and takes over no containers of the old one",
                  path);
        return node_make(d, err);
}

/* Made once, and on disk before the first container carries it. */
int docker_node_open(struct docker *d, const char *path, struct err *err)
{
        auto_str text = STR_INIT;
        struct err why = ERR_INIT;
        int r = fd_read_file(d->records, NODE_FILE, NODE_FILE_MAX, &text, &why);

        if (r == -ENOENT)
                return node_make(d, err);
        if (r < 0 && r != -EFBIG)
                return err_set(err, -r,
                               "the node's number in '%s/" NODE_FILE "' cannot be read: %s; without it the containers "
                               "of this node are not known: mend that, or restore the file",
                               path, strerror(-r));
        /* Who wrote it by hand ended the line. */
        if (r == 0 && text.len > 0 && text.data[text.len - 1] == '\n')
                text.data[--text.len] = '\0';
        if (r < 0 || text.len != DOCKER_NODE_LEN || !docker_node_valid(text.data))
                return node_repair(d, path, err);
        (void)snprintf(d->node, sizeof(d->node), "%s", text.data);
        return 0;
}
