/* Answers, as the command reads them. */

#include "wire/task.h"

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct wire_task_list list;
        struct wire_task task;
        auto_json value = NULL;

        if (json_read((const char *)data, size, &value, NULL) < 0)
                return 0;
        if (wire_task_read(value, &task, NULL) == 0) {
                auto_str text = STR_INIT;

                (void)wire_task_write(&task, &text);
                wire_task_done(&task);
        }
        if (wire_task_list_read(value, &list, NULL) == 0)
                wire_task_list_done(&list);
        return 0;
}
