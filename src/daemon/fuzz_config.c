#include "base/str.h"
#include "daemon/config.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What passes must survive the way to a child and back. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct err err = ERR_INIT;
        auto_strv args = NULL;
        struct config c;

        config_default(&c);
        if (config_read_yaml(&c, (const char *)data, size, "fuzz.yaml", &err) < 0 || config_check(&c, &err) < 0)
                return 0;
        if (config_to_args(&c, &args, &err) < 0)
                return 0;
        for (size_t i = 0; args[i]; i++) {
                auto_free char *key = strdup(args[i] + 2);
                struct config back;
                char *value;

                if (!key)
                        return 0;
                value = strchr(key, '=');
                if (!value)
                        abort();
                *value++ = '\0';
                config_default(&back);
                if (config_set(&back, key, value, &err) < 0)
                        abort();
        }
        return 0;
}
