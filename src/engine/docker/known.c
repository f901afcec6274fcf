/* What is remembered of images, by their IDs, until containers of them are made. An ID names the same for ever. */

#include "engine/docker/internal.h"

#include <stdlib.h>

void docker_image_free(struct docker_image *image)
{
        if (!image)
                return;
        list_remove(&image->node);
        free(image->user);
        free(image->workdir);
        free(image);
}

void docker_images_free(struct docker *d)
{
        struct docker_image *image;

        while ((image = LIST_FIRST(&d->images_used, struct docker_image, node)))
                docker_image_free(image);
        map_free(d->images);
        d->images = NULL;
}

static struct docker_image *touch(struct docker *d, const char *digest)
{
        struct docker_image *image = map_find(d->images, digest);

        if (image) {
                list_remove(&image->node);
                list_append(&d->images_used, &image->node);
        }
        return image;
}

const struct docker_image *docker_image_find(struct docker *d, const char *digest)
{
        return touch(d, digest);
}

int docker_image_note(struct docker *d, struct docker_image *image)
{
        struct docker_image *oldest;
        int r;

        if (touch(d, image->digest)) {
                docker_image_free(image);
                return 0;
        }
        r = map_set(d->images, image->digest, image);
        if (r < 0) {
                docker_image_free(image);
                return r;
        }
        list_append(&d->images_used, &image->node);
        if (map_len(d->images) > DOCKER_IMAGES_MAX) {
                oldest = LIST_FIRST(&d->images_used, struct docker_image, node);
                (void)map_remove(d->images, oldest->digest);
                docker_image_free(oldest);
        }
        return 0;
}
