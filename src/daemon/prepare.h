/* What must be there before the processes start: users, directories, the lock, the launcher's ceiling, sockets. All of it
 * needs root. */
#pragma once

#include "base/err.h"
#include "daemon/config.h"
#include "daemon/listen.h"

#include <stdbool.h>
#include <sys/types.h>

struct users {
        uid_t uid, net_uid, dns_uid;
        gid_t gid, net_gid, dns_gid;
        gid_t api_gid; /* of the API's socket */
        gid_t docker_gid;
        bool has_docker_gid; /* mayflyd needs that group to reach Docker's socket */
};

/* Looks up the configuration's users and groups, as far as its engines need them. -ENOENT: one is missing, the text says how to
 * make it. -EPERM: only root may use Docker's socket. */
int users_find(const struct config *config, struct users *ret, struct err *err);

struct sockets {
        int api, launcher, net; /* listening; launcher and net: of the native engine only */
        int tcp[LISTEN_MAX];    /* of the API, in the configuration's order */
        size_t n_tcp;
};
#define SOCKETS_INIT                                                                                                   \
        {                                                                                                              \
                .api = -EBADF, .launcher = -EBADF, .net = -EBADF                                                       \
        }
void sockets_done(struct sockets *s); /* closes */

/* The group that Docker's socket at `path` is open to: 1 with *ret; 0: `uid` needs none, or nothing is known because the socket
 * is not there yet; -EPERM: the text says what to do. */
int docker_group_find(const char *path, uid_t uid, gid_t *ret, struct err *err);

/* Data and run directories with their owners. *ret_made_run: the run directory was not there before. */
int prepare_dirs(const struct config *config, const struct users *users, bool *ret_made_run, struct err *err);

/* <run>/launcher.conf (launcher/ceiling.h), and for service managers <run>/netd.env with the arguments of mayfly-netd and
 * mayfly-dns. */
int prepare_ceiling(const struct config *config, const struct users *users, struct err *err);
int prepare_netd_env(const struct config *config, const struct users *users, struct err *err);

/* The lock of iptables-legacy, which mayfly-netd takes when it edits Docker's chain: it belongs to root, and is made readable for
 * the group, which is what flock(2) needs. Service managers start netd without root's rights, so that it cannot make or open it
 * itself. -EPERM: it is not root's own file. */
#define PREPARE_XTABLES_LOCK "/run/xtables.lock"
int prepare_xtables_lock(const char *path, gid_t gid, struct err *err);

/* Arguments of mayfly-netd and mayfly-dns after their names, NULL-terminated. The caller owns *ret: strv_free(). */
int prepare_netd_args(const struct config *config, const struct users *users, char ***ret, struct err *err);
int prepare_dns_args(const struct config *config, const struct users *users, char ***ret, struct err *err);

int prepare_sockets(const struct config *config, const struct users *users, struct sockets *ret, struct err *err);

/* Locks an instance: one on a run directory, one on a data directory. -EBUSY names the one that is there. */
struct locks {
        int run, data;
};
#define LOCKS_INIT                                                                                                     \
        {                                                                                                              \
                .run = -EBADF, .data = -EBADF                                                                          \
        }
int locks_take(const struct config *config, struct locks *ret, struct err *err);
int locks_read_old(const struct locks *l, char *text, size_t size); /* what the last holder wrote; -errno */
int locks_sign(const struct locks *l, struct err *err);             /* our pid, for who finds them taken */
void locks_done(struct locks *l);

/* Removes what is in the run directory, and the directory if `made_run`. */
void prepare_undo(const struct config *config, bool made_run);
