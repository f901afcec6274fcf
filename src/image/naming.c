/* Who may give a name: one that others' tasks run by is not for everybody to give. */

#include "image/operation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void image_store_set_may_name(struct image_store *s, image_may_name_fn fn, void *data)
{
        s->may_name = fn;
        s->may_name_data = data;
}

int naming_check(const struct op *op, const char *name, struct err *err)
{
        const struct image_store *s = op->store;

        if (!op->namer || !s->may_name || s->may_name(op->namer, name, s->may_name_data))
                return 0;
        return err_set(
                err, EPERM,
                "'%s' is in a private repository: show access to it by a pull with credentials first, or have an "
                "admin give the name",
                name);
}

/* Of what is about to come into the index. */
int step_names(struct op *op)
{
        for (size_t i = 0; i < op->found.n; i++) {
                for (char **name = op->found.items[i].names; name && *name; name++) {
                        int r = naming_check(op, *name, &op->err);

                        if (r < 0)
                                return r;
                }
        }
        return STEP_NEXT;
}
