/* For tests in which nothing is pulled, in place of pull.c. */
#pragma once

#include "image/pull.h"

#include <errno.h>

int image_pull(struct image_pulls *p, const struct image_pull_request *request, image_pulled_fn fn, void *data,
               struct image_want **ret, struct err *err)
{
        (void)p;
        (void)request;
        (void)fn;
        (void)data;
        (void)ret;
        return err_set(err, ENOTSUP, "there are no pulls");
}

void image_pull_cancel(struct image_want *w)
{
        (void)w;
}
