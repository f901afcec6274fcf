/* All that is in the built-in image: the task by which health is checked. */
#include "launcher/init/call.h"

_Noreturn void program_start(long *stack)
{
        static const char word[] = "ok\n";
        long n = call(__NR_write, 1, (long)word, sizeof(word) - 1, 0, 0);

        (void)stack;
        for (;;)
                (void)call(__NR_exit_group, n == sizeof(word) - 1 ? 0 : 1, 0, 0, 0, 0);
}
