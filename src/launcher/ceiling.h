/* The ceiling: what the launcher may ever grant, read once from a file that only root writes (mode at most 0644, regular,
 * owner uid 0). No message raises it. One `key value` per line, blank lines and lines that begin with '#' are skipped;
 * an unknown or repeated key is an error:
 *
 *   store PATH          required: directory of layers/, trees/, skeleton/… (absolute; made if absent, root 0700)
 *   socket PATH         where to listen (absolute; 0600, owned by uid), or
 *   socket-fd N         an inherited listener; without either key, the one that systemd passes (LISTEN_FDS)
 *   uid N, gid N        required: the one peer
 *   name NAME           instance, [a-z0-9-]{1,32}, default mayfly: names the cgroup
 *   cgroup WHERE        auto (default): `delegated` where systemd delegated the own cgroup, else `root`
 *   id-base N           default 2013265920: the store's owners are id-base to id-base + 65535, those of slot n begin
 *                       at id-base + 65536 × (n + 1)
 *   slots N             containers that live at once, 1 to 4096, default 512
 *   caps N              mask of capabilities, decimal, bit n for capability n (linux/capability.h); default the 11
 *   memory-max N        bytes of memory + disk + shm of one container, default 2^62
 *   cpu-max N           thousandths of a processor of one container, default 1024000
 *   pids-max N          of one container, default 32768 */
#pragma once

#include "base/err.h"

#include <stdint.h>
#include <sys/types.h>

#define CEILING_FILE_MAX (16 * 1024)
#define CEILING_NAME_MAX 32
#define CEILING_PATH_MAX 512
#define CEILING_SLOTS_MAX 4096
#define CEILING_IDS 65536u

/* CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT SETFCAP */
#define CEILING_CAPS_DEFAULT                                                                                           \
        ((UINT64_C(1) << 0) | (UINT64_C(1) << 1) | (UINT64_C(1) << 3) | (UINT64_C(1) << 4) | (UINT64_C(1) << 5) |      \
         (UINT64_C(1) << 6) | (UINT64_C(1) << 7) | (UINT64_C(1) << 8) | (UINT64_C(1) << 10) | (UINT64_C(1) << 18) |    \
         (UINT64_C(1) << 31))

enum ceiling_cgroup { CEILING_CGROUP_AUTO, CEILING_CGROUP_ROOT, CEILING_CGROUP_DELEGATED };

struct ceiling {
        char store[CEILING_PATH_MAX];
        char socket[CEILING_PATH_MAX]; /* empty: socket_fd, or systemd's */
        char name[CEILING_NAME_MAX + 1];
        int socket_fd; /* -EBADF: not given */
        enum ceiling_cgroup cgroup;
        uid_t uid;
        gid_t gid;
        uint32_t id_base;
        uint32_t slots;
        uint64_t caps;
        uint64_t memory_max;
        uint32_t cpu_max, pids_max;
};

/* text is NUL-terminated. -EINVAL with the line's number in err. */
int ceiling_parse(const char *text, struct ceiling *ret, struct err *err);

/* Reads the file; -EPERM if somebody else than root owns it or may write it. */
int ceiling_load(const char *path, struct ceiling *ret, struct err *err);
