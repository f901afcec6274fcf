/* The probe that runs inside a task and asserts from there what hardening.md's table of defaults says. Static, so that any
 * image can hold it; nothing of the product is linked.
 *
 *   probe all KEY=VALUE…   every group below
 *   probe GROUP KEY=VALUE…
 *   probe COMMAND           small commands that other tests use: see probe.c
 *
 * Each assertion prints one line: "ok NAME", "not ok NAME: WHY" or "skip NAME: WHY". */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* KEY=VALUE of the command line; NULL if it is not there. */
const char *option(const char *key);
uint64_t option_number(const char *key, uint64_t fallback);

void pass(const char *name);
void fail(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
void skip(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
void check(bool good, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
int failures(void);

/* Contents of a small file, NUL-terminated; "" if it cannot be read (errno says why). A static buffer. */
const char *slurp(const char *path);

/* What the kernel says to an attempt: the errno of a call that answered -1, 0 if it succeeded. */
#define TRY(call) ((call) == -1 ? errno : 0)

void probe_privileges(void); /* privileges.c: capabilities, namespaces, no_new_privs, limits, descriptors */
void probe_paths(void);      /* paths.c: masks, read-only trees, devices, shm, mounts, /proc */
void probe_calls(void);      /* calls.c: seccomp, call by call, and what it must stop */
void probe_network(void);    /* network.c: what answers and what must not */
