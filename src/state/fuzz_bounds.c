/* Fuzzes the bounds of a key as JSON: what is read without a fault reads the same when it was written. */

#include "state/bounds.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void drop(struct key *k)
{
        strv_free(k->images);
        strv_free(k->networks);
        strv_free(k->engines);
}

static bool read_bounds(json_t *value, struct key *ret)
{
        struct json_faults faults = { .items = NULL };
        struct json_obj o;
        bool good;

        memset(ret, 0, sizeof(*ret));
        if (json_obj_init(&o, value, "", &faults) == 0) {
                key_bounds_read(&o, ret);
                json_obj_done(&o);
        }
        good = faults.len == 0;
        json_faults_done(&faults);
        return good;
}

static bool same(const struct key_maxima *a, const struct key_maxima *b)
{
        return a->memory == b->memory && a->disk == b->disk && a->shm == b->shm && a->output == b->output &&
               a->cpu_milli == b->cpu_milli && a->pids == b->pids && a->timeout_ns == b->timeout_ns &&
               a->queue_timeout_ns == b->queue_timeout_ns && a->cpu_time_ns == b->cpu_time_ns &&
               a->max_running == b->max_running && a->max_queued == b->max_queued &&
               a->max_connections == b->max_connections && a->rate == b->rate && a->burst == b->burst;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        auto_json value = NULL;
        auto_json written = json_object();
        struct key one, two;

        if (!written || json_read((const char *)data, size, &value, NULL) < 0)
                return 0;
        if (read_bounds(value, &one)) {
                if (key_bounds_write(&one, written) < 0 || !read_bounds(written, &two) ||
                    !same(&one.maxima, &two.maxima))
                        abort();
                drop(&two);
        }
        drop(&one);
        return 0;
}
