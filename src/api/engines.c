/* /v1/engines */

#include "api/internal.h"

struct engine *api_engine(const struct api *a, const char *name)
{
        if (!name)
                return a->config.engines[0];
        for (size_t i = 0; i < a->config.n_engines; i++)
                if (str_eq(a->config.engines[i]->ops->name, name))
                        return a->config.engines[i];
        return NULL;
}

/* What lacks says of an engine without the feature. */
static const struct {
        uint32_t bit;
        const char *name, *without;
} features[] = {
        { ENGINE_F_SIGNAL_EXACT, "signal_exact",
          "exit 139 and death by SIGSEGV are the same, reason signal is not known" },
        { ENGINE_F_MEMORY_PEAK, "memory_peak", "usage.memory_peak is null" },
        { ENGINE_F_CPU_USAGE, "cpu_usage", "usage.cpu_ms is null, and limits.cpu_time is refused" },
        { ENGINE_F_DISK_LIMIT, "disk_limit", "limits.disk does not bound the writable layer" },
        { ENGINE_F_EXEC, "exec", "no further programs can be run in a container" },
        { ENGINE_F_COPY_OUT, "copy_out", "outputs are refused" },
        { ENGINE_F_NETWORKS, "networks", "containers stay in the network that they began in" },
        { ENGINE_F_SURVIVES_DAEMON, "survives_daemon", "tasks end with the daemon" },
        { ENGINE_F_COPY_IN, "copy_in", "nothing can be copied into containers that run" },
        { ENGINE_F_LIVE, "live", "no live stdin and output" },
        { ENGINE_F_SECRETS, "secrets", "secrets are refused" },
        { ENGINE_F_REOPEN, "stdio_reopen", "only the first user of a task can open its standard streams again" },
        { ENGINE_F_NETWORK_RULES, "network_rules",
          "nat and internet also reach this host's addresses, other containers, private ranges and metadata services" },
};

static json_t *features_json(uint32_t has)
{
        auto_json o = json_object();

        for (size_t i = 0; o && i < ARRAY_LEN(features); i++)
                if (json_object_set_new(o, features[i].name, json_boolean((has & features[i].bit) != 0)) < 0)
                        return NULL;
        return TAKE_PTR(o);
}

static json_t *lacks_json(uint32_t has)
{
        auto_json list = json_array();

        for (size_t i = 0; list && i < ARRAY_LEN(features); i++)
                if (!(has & features[i].bit) &&
                    json_array_append_new(list, json_pack("{s:s, s:s}", "feature", features[i].name, "means",
                                                          features[i].without)) < 0)
                        return NULL;
        return TAKE_PTR(list);
}

static json_t *findings_json(const struct engine_about *about)
{
        auto_json list = json_array();

        for (size_t i = 0; list && i < about->n_findings; i++)
                if (json_array_append_new(list, json_string(about->findings[i])) < 0)
                        return NULL;
        return TAKE_PTR(list);
}

static json_t *text_or_null(const char *text)
{
        return text && *text ? json_string(text) : json_null();
}

static json_t *state_json(struct engine *e)
{
        const char *notice = e->ops->notice ? e->ops->notice(e) : NULL;
        struct err err = ERR_INIT;
        bool well = !e->ops->check || e->ops->check(e, &err) == 0;

        return json_pack("{s:s, s:s, s:o, s:o}", "name", e->ops->name, "status", well ? "ok" : "failed", "detail",
                         text_or_null(well ? NULL : err.text), "notice", text_or_null(notice));
}

json_t *engines_json(const struct call *c)
{
        auto_json list = json_array();

        for (size_t i = 0; list && i < c->api->config.n_engines; i++)
                if (json_array_append_new(list, state_json(c->api->config.engines[i])) < 0)
                        return NULL;
        return TAKE_PTR(list);
}

/* Who operates the node is told of its host, the others of what the engine can do. */
static json_t *engine_json(const struct call *c, struct engine *e, bool is_default)
{
        bool operates = c->who.role == KEY_ADMIN || c->who.role == KEY_READ;
        struct engine_about about = { .product = "" };
        auto_json o = state_json(e);

        if (e->ops->about && operates)
                e->ops->about(e, &about);
        if (!o || json_object_set_new(o, "default", json_boolean(is_default)) < 0 ||
            json_object_set_new(o, "features", features_json(e->ops->features)) < 0 ||
            json_object_set_new(o, "lacks", lacks_json(e->ops->features)) < 0 ||
            json_object_set_new(o, "product", text_or_null(about.product)) < 0 ||
            json_object_set_new(o, "version", text_or_null(about.version)) < 0 ||
            json_object_set_new(o, "api", text_or_null(about.api)) < 0 ||
            json_object_set_new(o, "findings", findings_json(&about)) < 0)
                return NULL;
        if (!operates &&
            (json_object_set_new(o, "detail", json_null()) < 0 || json_object_set_new(o, "notice", json_null()) < 0))
                return NULL;
        return TAKE_PTR(o);
}

/* {"engines": [{"name", "default", "status", "features": {…}, "lacks": […], …}]} */
void engines_run(struct call *c)
{
        auto_json answer = json_pack("{s:[]}", "engines");

        for (size_t i = 0; answer && i < c->api->config.n_engines; i++)
                if (json_array_append_new(json_object_get(answer, "engines"),
                                          engine_json(c, c->api->config.engines[i], i == 0)) < 0) {
                        call_oom(c);
                        return;
                }
        call_answer_json(c, 200, answer);
}
