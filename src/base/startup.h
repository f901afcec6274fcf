/* What only the start of a program needed. */
#pragma once

/* Gives back the pages of code and constants of the program and of its libraries, once, when it has started: what runs from
 * then on is found again in the page cache as it is touched, and what only made ready (relocations, libraries' set-up, reading
 * the configuration) counts as this process's memory no longer. Nothing that was ever written is touched. madvise(2),
 * dl_iterate_phdr(3). */
void startup_forget(void);
