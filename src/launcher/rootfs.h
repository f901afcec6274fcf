/* The root file system of a container, made by its own first process in the mount namespace that clone3 gave it, before
 * it joins the user namespace (most of these mounts are EPERM after). The order is the one that works from Linux 6.1 on. */
#pragma once

#include "launcher/proto.h"
#include "launcher/validate.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Directories of the launcher's own root, which it makes read-only. */
#define ROOTFS_STORE "/store" /* before Linux 6.15 */
#define ROOTFS_MOUNT "/mnt"   /* likewise: where a container's tmpfs goes */
#define ROOTFS_EMPTY "/empty" /* what a masked directory shows */

struct rootfs_text {
        const uint8_t *data;
        uint32_t len;
};

struct rootfs {
        int upper, store, pts, shm; /* detached mounts of the slot */
        int overlay;                /* its file system context, -EBADF before Linux 6.15 */
        const char *tree;           /* LAUNCH_HEX digits, no NUL */
        bool cgroup2;
        struct rootfs_text hostname, hosts, resolv;
        struct payload secrets; /* validated: n_secrets × (name, value), and more behind */
        uint32_t n_secrets;
        uid_t base; /* of the slot */
        uint32_t uid, gid;
};

/* Five steps; 0 or -errno. After the last one the calling process is in the new root. */
int rootfs_mount(const struct rootfs *r);   /* the writable layer, with its own texts */
int rootfs_image(const struct rootfs *r);   /* -ENOENT: no such tree */
int rootfs_kernel(const struct rootfs *r);  /* /proc, /sys, /dev/…, masks */
int rootfs_secrets(const struct rootfs *r); /* /run/secrets, if there are any */
int rootfs_pivot(const struct rootfs *r);
