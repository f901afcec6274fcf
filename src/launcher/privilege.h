/* From root of the host to the user of a task: steps of the child between clone and exec. Each answers 0 or -errno. */
#pragma once

#include "launcher/proto.h"

#include <stddef.h>
#include <stdint.h>

struct sock_filter;

int privilege_keyring(void);    /* before the user namespace: after it EDQUOT at 200 live */
int privilege_join(int userns); /* ids 0, all capabilities in it */
int privilege_rlimits(void);
int privilege_drop(const struct launch_start *s); /* ids, groups, capabilities, no_new_privs */
int privilege_only(uint64_t caps);                /* capabilities of root, no_new_privs */
int privilege_seccomp(void);                      /* last: nothing but exec and exit may follow */

/* The program that privilege_seccomp() loads, for its test. */
const struct sock_filter *privilege_seccomp_program(size_t *ret_n);
