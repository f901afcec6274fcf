/* Which layers and trees are known to be on disk. Commits do not wait for it: the file system is written out behind them
 * (syncfs(2), by a process of its own), and then each gets its mark, a symlink of its name in store/settled/ that says which
 * directory it vouches for: by its inode and its birth. So a mark whose removal a power cut undid vouches for nothing that came by
 * the same name later, and removing one need not wait for the disk. (An empty file vouches for whatever has the name: those are of
 * older launchers.)
 *
 *   commit ─▶ FRESH ─▶ settle_begin() ─▶ BEING WRITTEN ─▶ settle_end(): marked, or never
 *
 * After a power cut what has no mark may hold anything, so it is thrown away; mayflyd unpacks it again from its blobs. The file
 * `life` says whose page cache vouches for what has none: the same boot, and the same parent of the launcher, so that a
 * launcher that died alone takes over what it left. Marks go before what they vouch for. */
#pragma once

#include "base/err.h"
#include "launcher/proto.h"

#include <stdbool.h>
#include <stddef.h>

#define SETTLE_NAME_MAX (LAUNCH_HEX + 2) /* 'l' or 't', the name, NUL */
#define SETTLE_LIFE_MAX 96
#define SETTLE_ID_MAX 64

struct settle_names {
        char (*items)[SETTLE_NAME_MAX];
        size_t len, cap;
};

struct settle {
        int dir;
        int layers, trees; /* borrowed */
        bool made; /* just now: what is in the store is older than marks, and was written out when it was committed */
        bool same; /* the file system's cache is the one of whoever wrote `life` */
        struct settle_names fresh, writing;
};

#define SETTLE_NONE                                                                                                    \
        {                                                                                                              \
                .dir = -EBADF, .layers = -EBADF, .trees = -EBADF                                                       \
        }

/* mount: of the store, layers and trees its directories; proc_fd: /proc. */
int settle_open(struct settle *s, int mount, int layers, int trees, int proc_fd, struct err *err);
void settle_close(struct settle *s);

/* Of what lies in the store when it is opened. True: it stays (its mark is there, or will be); false: throw it away. */
bool settle_known(struct settle *s, enum launch_kind kind, const char *name);
/* All that is there was asked for: forgets marks of what is not, and says whose cache it is from now on. */
int settle_opened(struct settle *s, int proc_fd, bool (*there)(enum launch_kind kind, const char *name, void *data),
                  void *data, struct err *err);

/* It was committed; -ENOMEM. */
int settle_add(struct settle *s, enum launch_kind kind, const char *name);
int settle_remove(struct settle *s, enum launch_kind kind, const char *name); /* before it goes */

bool settle_wanted(const struct settle *s);
void settle_begin(struct settle *s);
void settle_end(struct settle *s, bool good);
