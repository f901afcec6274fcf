/* WWW-Authenticate and Location of a registry. */
#include "image/challenge.h"
#include "image/registry_url.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct image_challenge c = { .basic = false };
        struct registry_url base, url;
        char *text = malloc(size + 1);

        if (!text)
                return 0;
        memcpy(text, data, size);
        text[size] = '\0';
        (void)image_challenge_parse(text, &c, NULL);
        (void)registry_url_parse(c.realm, &url, NULL);
        if (registry_url_parse("https://registry.example:5000/v2/a/b", &base, NULL) == 0 &&
            registry_url_join(&base, text, &url, NULL) == 0) {
                char whole[REGISTRY_URL_MAX + 300];

                registry_url_format(&url, whole, sizeof(whole));
                if (registry_url_parse(whole, &base, NULL) < 0 || !registry_url_same_origin(&base, &url))
                        abort();
        }
        free(text);
        return 0;
}
