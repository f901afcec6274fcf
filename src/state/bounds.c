#include "state/bounds.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RATE_MAX 1e6
#define SECONDS_MAX 9223372036.0 /* that can be read again: "2562047h47m16.8s" can be written as text only */

enum kind { KIND_BYTES, KIND_COUNT, KIND_COUNT32, KIND_DURATION, KIND_CPUS, KIND_RATE };

struct member {
        const char *name;
        enum kind kind;
        size_t offset;
};

#define MEMBER(m) offsetof(struct key_maxima, m)

static const struct member members[] = {
        { "memory", KIND_BYTES, MEMBER(memory) },
        { "disk", KIND_BYTES, MEMBER(disk) },
        { "shm", KIND_BYTES, MEMBER(shm) },
        { "output", KIND_BYTES, MEMBER(output) },
        { "cpus", KIND_CPUS, MEMBER(cpu_milli) },
        { "pids", KIND_COUNT, MEMBER(pids) },
        { "timeout", KIND_DURATION, MEMBER(timeout_ns) },
        { "queue_timeout", KIND_DURATION, MEMBER(queue_timeout_ns) },
        { "cpu_time", KIND_DURATION, MEMBER(cpu_time_ns) },
        { "max_running", KIND_COUNT32, MEMBER(max_running) },
        { "max_queued", KIND_COUNT32, MEMBER(max_queued) },
        { "max_connections", KIND_COUNT32, MEMBER(max_connections) },
        { "rate", KIND_RATE, MEMBER(rate) },
        { "burst", KIND_COUNT32, MEMBER(burst) },
};

static const struct {
        const char *name;
        size_t offset;
} lists[] = {
        { "images", offsetof(struct key, images) },
        { "networks", offsetof(struct key, networks) },
        { "engines", offsetof(struct key, engines) },
};

static void fault(struct json_obj *o, const char *name, const char *detail)
{
        auto_str pointer = STR_INIT;

        json_obj_pointer(o, name, &pointer);
        json_faults_add(o->faults, pointer.data ? pointer.data : name, "%s", detail);
}

/* A positive number, at most `max`, with three decimals; 0 after a fault. */
static double read_number(struct json_obj *o, const char *name, double max)
{
        json_t *value;
        double number;

        if (!json_get_any(o, name, &value) || json_is_null(value))
                return 0;
        number = json_number_value(value);
        if (json_is_number(value) && number >= 0.001 && number <= max)
                return round(number * 1000) / 1000;
        fault(o, name, "must be a number above 0");
        return 0;
}

static void read_whole(struct json_obj *o, const struct member *m, void *to)
{
        int64_t value = 0;
        bool there;

        if (m->kind == KIND_BYTES)
                there = json_get_bytes(o, m->name, &value);
        else if (m->kind == KIND_DURATION)
                there = json_get_duration(o, m->name, &value);
        else
                there = json_get_int(o, m->name, 1, INT32_MAX, &value);
        if (!there)
                return;
        if (value <= 0)
                fault(o, m->name, "must be above 0: leave it out where there is no maximum");
        else if (m->kind == KIND_COUNT32)
                *(uint32_t *)to = (uint32_t)value;
        else
                *(int64_t *)to = value;
}

static void read_limits(struct json_obj *parent, struct key *ret)
{
        struct json_obj o;
        json_t *value;

        if (!json_get_any(parent, "limits", &value) || json_is_null(value))
                return;
        if (json_obj_init(&o, value, "/limits", parent->faults) < 0)
                return;
        for (size_t i = 0; i < ARRAY_LEN(members); i++) {
                void *to = (char *)&ret->maxima + members[i].offset;
                json_t *one;

                /* What lists write for "none" is read as such. */
                if (json_get_any(&o, members[i].name, &one) && json_is_null(one))
                        continue;
                if (members[i].kind == KIND_CPUS)
                        *(int64_t *)to = llround(read_number(&o, "cpus", 1024) * 1000);
                else if (members[i].kind == KIND_RATE)
                        *(double *)to = read_number(&o, "rate", RATE_MAX);
                else
                        read_whole(&o, &members[i], to);
        }
        json_obj_done(&o);
}

static bool network_known(const char *name)
{
        return str_eq(name, "none") || str_eq(name, "nat") || str_eq(name, "internet");
}

static void check_list(struct json_obj *o, const char *name, char *const *list)
{
        if (list && !list[0])
                fault(o, name, "must not be empty: leave it out where all are allowed");
        for (; list && *list; list++) {
                size_t len = strlen(*list);

                if (len == 0 || len > KEY_PATTERN_MAX)
                        fault(o, name, "an entry is empty or too long");
                else if (str_eq(name, "networks") && !network_known(*list))
                        fault(o, name, "must be of none, nat, internet");
        }
}

void key_bounds_read(struct json_obj *o, struct key *ret)
{
        read_limits(o, ret);
        for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
                char ***to = (char ***)((char *)ret + lists[i].offset);

                if (json_get_strv(o, lists[i].name, KEY_LIST_MAX, to))
                        check_list(o, lists[i].name, *to);
        }
}

static json_t *member_json(const struct key *k, const struct member *m)
{
        const void *from = (const char *)&k->maxima + m->offset;
        int64_t value;

        if (m->kind == KIND_RATE)
                return *(const double *)from > 0 ? json_real(*(const double *)from) : json_null();
        value = m->kind == KIND_COUNT32 ? *(const uint32_t *)from : *(const int64_t *)from;
        if (value == 0)
                return json_null();
        if (m->kind == KIND_CPUS)
                return json_real((double)value / 1000);
        if (m->kind == KIND_DURATION)
                return json_real(fmin((double)value / 1e9, SECONDS_MAX));
        return json_integer(value);
}

static json_t *list_json(char *const *list)
{
        auto_json array = NULL;

        if (!list)
                return json_null();
        array = json_array();
        for (; array && *list; list++)
                if (json_array_append_new(array, json_string(*list)) < 0)
                        return NULL;
        return TAKE_PTR(array);
}

int key_bounds_write(const struct key *k, json_t *object)
{
        json_t *limits = json_object();
        bool bad = json_object_set_new(object, "limits", limits) < 0;

        for (size_t i = 0; i < ARRAY_LEN(members) && !bad; i++)
                bad = json_object_set_new(limits, members[i].name, member_json(k, &members[i])) < 0;
        for (size_t i = 0; i < ARRAY_LEN(lists) && !bad; i++) {
                char *const *list = *(char ***)((char *)(uintptr_t)k + lists[i].offset);

                bad = json_object_set_new(object, lists[i].name, list_json(list)) < 0;
        }
        return bad ? -ENOMEM : 0;
}
