/* What the init of a container tells the launcher, through a pipe that nothing else in the container can reach: init is
 * not dumpable, so /proc/1/fd and ptrace(2) are refused, and its child's copy closes on exec. */
#pragma once

#include <stdint.h>

#define INIT_REPORT_FD 3 /* close-on-exec is set by init */

enum init_report_kind {
        INIT_REPORT_EXEC = 1, /* ns: the program is about to be executed */
        INIT_REPORT_FAILED,   /* value: errno of exec */
        INIT_REPORT_ENDED,    /* code: CLD_EXITED, CLD_KILLED, CLD_DUMPED; value: exit code or signal */
};

struct init_report {
        uint32_t kind;
        int32_t code;
        int32_t value;
        uint32_t pad;
        uint64_t ns; /* CLOCK_MONOTONIC */
};
