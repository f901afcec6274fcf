/* Fuzzes the body of POST /v1/tasks: whatever is accepted is within its bounds, and reads back as the same once written. */

#include "wire/task.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_text(const char *text, size_t len, struct wire_task_request *r)
{
        struct json_faults faults = { 0 };
        auto_json body = NULL;
        int e = json_read(text, len, &body, NULL);

        if (e < 0)
                return e;
        e = wire_task_request_read(body, r, &faults);
        if ((e < 0) != (faults.len > 0))
                abort();
        json_faults_done(&faults);
        return e;
}

static void check(const struct wire_task_request *r)
{
        const struct wire_limits *l = &r->limits;

        if (!r->image || strlen(r->image) > WIRE_IMAGE_MAX || strv_len(r->cmd) > WIRE_ARGV_MAX)
                abort();
        if (l->memory < WIRE_MEMORY_MIN || l->disk < WIRE_DISK_MIN || l->shm < WIRE_SHM_MIN || l->pids < 1)
                abort();
        if (l->cpu_milli < WIRE_CPU_MILLI_MIN || l->output < 0 || l->output > WIRE_OUTPUT_MAX || l->grace_ns < 0)
                abort();
        for (size_t i = 0; i < r->n_files; i++)
                if (!r->files[i].path || !r->files[i].content || r->files[i].mode > 07777)
                        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct wire_task_request first = { .image = NULL }, second = { .image = NULL };
        auto_str a = STR_INIT, b = STR_INIT;

        if (read_text((const char *)data, size, &first) < 0)
                return 0;
        check(&first);
        if (wire_task_request_write(&first, &a) < 0 || read_text(a.data, a.len, &second) < 0)
                abort();
        if (wire_task_request_write(&second, &b) < 0 || !str_eq(a.data, b.data))
                abort();
        wire_task_request_done(&first);
        wire_task_request_done(&second);
        return 0;
}
