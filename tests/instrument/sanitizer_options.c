/* Linked into the programs of a sanitized build. Options are compiled in, because the launcher starts itself anew with an
 * empty environment.
 *
 * Leaks: the daemons are undumpable, so LeakSanitizer may not look at them; the unit tests look for leaks. Reports go to
 * standard error, which is the instance's log: tests/lib/mayfly.py fails where it finds one there. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void)
{
        return "detect_leaks=0:abort_on_error=1:strict_string_checks=1:detect_stack_use_after_return=1";
}

const char *__ubsan_default_options(void)
{
        return "print_stacktrace=1";
}
