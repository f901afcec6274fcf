/* File descriptors: close-on-exec always, empty is -EBADF. Nothing here blocks but reads and writes of regular files. */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

void fd_close(int fd); /* accepts -EBADF; keeps errno */
void fd_cleanup(int *fd);
#define auto_fd __attribute__((cleanup(fd_cleanup))) int
#define TAKE_FD(fd)                                                                                                    \
        ({                                                                                                             \
                int *take_ = &(fd);                                                                                    \
                int fd_ = *take_;                                                                                      \
                *take_ = -EBADF;                                                                                       \
                fd_;                                                                                                   \
        })
void fd_replace(int *fd, int with); /* closes *fd, takes `with` */

int fd_write_all(int fd, const void *data, size_t len); /* 0 or -errno; retries EINTR and short writes */
int fd_read_full(int fd, void *data, size_t len);       /* 0, -EPIPE at an early end, -errno */
/* ret is an initialised buffer; its content is replaced. */
int fd_read_file(int dirfd, const char *name, size_t max, struct str *ret, struct err *err); /* -EFBIG above max */

/* Writes name atomically: temporary file NAME.tmp, fsync, rename, fsync of the directory. */
int fd_write_file(int dirfd, const char *name, mode_t mode, const void *data, size_t len, struct err *err);

/* One write to a kernel file (sysctl, cgroup); O_NOFOLLOW. */
int fd_write_knob(int dirfd, const char *name, const char *text, struct err *err);
int fd_read_knob_u64(int dirfd, const char *name, uint64_t *ret); /* "max" is UINT64_MAX; -errno */

int fd_set_nonblock(int fd, bool on);

/* How many more descriptors this process may open, by RLIMIT_NOFILE as it is now. Where the limit is at least `plenty`, nothing
 * is counted, and `plenty` is the answer. */
uint64_t fd_left(uint64_t plenty);

/* The mount through which it was opened (statx(2), stx_mnt_id). A namespace that somebody bound to a name (ip-netns(8)),
 * where everybody may open it, lies on another one than /proc/PID/ns/ leads to. */
int fd_mount(int fd, uint64_t *ret);

/* A memfd of that content, sealed against writing, growing, shrinking and further seals. */
int fd_memfd_sealed(const char *name, const void *data, size_t len, int *ret, struct err *err);

#define FD_MSG_MAX 16 /* descriptors in one message */

/* One message with descriptors over a SOCK_SEQPACKET or datagram unix socket (unix(7), SCM_RIGHTS). Borrowed fds.
 * 0, -EAGAIN when the socket is full, -errno. */
int fd_send(int sock, const void *data, size_t len, const int *fds, size_t n_fds);

/* Receives one message. *ret_len 0 with *ret_n 0 is end of file. The caller owns the descriptors. A message longer
 * than max, or with more descriptors than *ret_n allows, is -EMSGSIZE and closes what came with it. */
int fd_recv(int sock, void *data, size_t max, size_t *ret_len, int *fds, size_t *ret_n);

/* Non-blocking listener at a path, with owner and mode. Replaces a socket that is there, but no other file. */
int fd_listen_unix(const char *path, int type, uid_t uid, gid_t gid, mode_t mode, int *ret, struct err *err);
int fd_connect_unix(const char *path, int type, int *ret, struct err *err); /* blocks while the backlog is full */
int fd_peer_uid(int fd, uid_t *ret);                                        /* SO_PEERCRED */
