#include "engine/engine.h"

const char *engine_network_name(enum engine_network mode)
{
        switch (mode) {
        case ENGINE_NET_NONE:
                return "none";
        case ENGINE_NET_NAT:
                return "nat";
        case ENGINE_NET_INTERNET:
                return "internet";
        }
        return "unknown";
}

void engine_container_watch(struct engine_container *c, const struct engine_events *events, void *data)
{
        c->events = events;
        c->data = data;
}
