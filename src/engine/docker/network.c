/* Networks of a container that runs: POST /networks/NAME/connect and /disconnect. */

#include "engine/docker/internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NETWORK_NAME_MAX 255

struct change {
        engine_done_fn fn;
        void *data;
};

static int change_error(unsigned status, const char *text)
{
        if (strcasestr(text, "already exists in network") || strcasestr(text, "is already connected"))
                return -EEXIST;
        if (strcasestr(text, "is not connected"))
                return -ENOTCONN;
        if (status == 404)
                return strcasestr(text, "no such container") ? -ESRCH : -ENOENT;
        return status == 403 ? -EPERM : -EREMOTEIO;
}

static void on_changed(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct change *k = data;
        struct err fault = ERR_INIT;

        r = docker_call_result(call, r, err, "network", change_error, &fault);
        k->fn(r, &fault, k->data);
        free(k);
}

/* Docker's own grammar of names ([a-zA-Z0-9][a-zA-Z0-9_.-]*): nothing else gets into a URL. */
static bool name_valid(const char *name)
{
        size_t len = strlen(name);

        return len > 0 && len <= NETWORK_NAME_MAX && isalnum((unsigned char)name[0]) &&
               strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == len;
}

static int change(struct engine_container *base, const char *network, const char *verb, engine_done_fn fn, void *data,
                  struct err *err)
{
        struct docker_container *c = CONTAINER_OF(base, struct docker_container, base);
        auto_free char *path = str_printf("/networks/%s/%s", network, verb);
        auto_free char *body = str_printf("{\"Container\":\"%s\"}", c->name);
        struct docker_request q = { .method = "POST", .path = path, .body = body, .drop = free };
        struct change *k;
        int r;

        if (!name_valid(network))
                return err_set(err, EINVAL, "that is no name of a network");
        if (c->state < DOCKER_RUNNING || c->state == DOCKER_ENDED || c->is_exec)
                return err_set(err, ESRCH, "container %s does not run", c->id);
        k = path && body ? calloc(1, sizeof(*k)) : NULL;
        if (!k)
                return err_oom(err);
        *k = (struct change){ .fn = fn, .data = data };
        q.body_len = strlen(body);
        r = docker_call(c->docker, &q, on_changed, k, NULL, err);
        if (r < 0)
                free(k);
        return r;
}

int docker_container_network_attach(struct engine_container *c, const char *network, engine_done_fn fn, void *data,
                                    struct err *err)
{
        return change(c, network, "connect", fn, data, err);
}

int docker_container_network_detach(struct engine_container *c, const char *network, engine_done_fn fn, void *data,
                                    struct err *err)
{
        return change(c, network, "disconnect", fn, data, err);
}
