/* Unit tests that cannot run here say why: tools/meson-report.py hands the line on. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

/* Ends the running test as skipped. The reason is a format and its arguments. */
#define skip_because(...)                                                                                              \
        do {                                                                                                           \
                print_message("skipped: ");                                                                            \
                print_message(__VA_ARGS__);                                                                            \
                print_message("\n");                                                                                   \
                skip();                                                                                                \
        } while (0)

#define skip_unless_root()                                                                                             \
        do {                                                                                                           \
                if (geteuid() != 0)                                                                                    \
                        skip_because("needs root");                                                                    \
        } while (0)
