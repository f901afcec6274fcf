/* What is seen of a worker from outside, by /proc/PID (proc(5)). */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What the process wrote and dirtied, rounded up to pages; 0 where the kernel does not say. proc_fd: /proc. */
uint64_t watch_written(int proc_fd, pid_t pid);

/* Grows with every byte that it reads or writes, and with the time for which it computes: one for which it stays the same waits
 * for something. False where the kernel does not say. */
bool watch_activity(int proc_fd, pid_t pid, uint64_t *ret);
