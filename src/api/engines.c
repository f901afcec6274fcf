/* /v1/engines */

#include "api/internal.h"

static json_t *features_json(uint32_t features)
{
        static const struct {
                uint32_t bit;
                const char *name;
        } known[] = {
                { ENGINE_F_SIGNAL_EXACT, "signal_exact" },
                { ENGINE_F_MEMORY_PEAK, "memory_peak" },
                { ENGINE_F_CPU_USAGE, "cpu_usage" },
                { ENGINE_F_DISK_LIMIT, "disk_limit" },
                { ENGINE_F_EXEC, "exec" },
                { ENGINE_F_COPY_OUT, "copy_out" },
                { ENGINE_F_NETWORKS, "networks" },
                { ENGINE_F_SURVIVES_DAEMON, "survives_daemon" },
                { ENGINE_F_COPY_IN, "copy_in" },
                { ENGINE_F_LIVE, "live" },
                { ENGINE_F_SECRETS, "secrets" },
                { ENGINE_F_REOPEN, "stdio_reopen" },
        };
        auto_json o = json_object();

        for (size_t i = 0; o && i < ARRAY_LEN(known); i++)
                if (json_object_set_new(o, known[i].name, json_boolean((features & known[i].bit) != 0)) < 0)
                        return NULL;
        return TAKE_PTR(o);
}

/* {"engines": [{"name", "default", "features": {…}}]} */
void engines_run(struct call *c)
{
        const struct engine_ops *ops = c->api->config.engine->ops;
        auto_json answer = NULL;

        answer = json_pack("{s:[{s:s, s:b, s:o}]}", "engines", "name", ops->name, "default", 1, "features",
                           features_json(ops->features));
        call_answer_json(c, 200, answer);
}
