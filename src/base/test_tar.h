/* Archives for tests: ustar (POSIX.1-2017, pax, "ustar Interchange Format"), as far as they need it. Out of memory ends
 * the test. */
#pragma once

#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_TAR_BLOCK 512

struct test_tar_entry {
        const char *name;
        char type;          /* '0' file, '1' hard link, '2' symbolic link, '3' device, '5' directory, '6' fifo */
        const char *target; /* of links */
        const void *data;
        size_t len;
        unsigned mode; /* 0: 0644, directories 0755 */
        unsigned uid, gid;
};

static inline void test_tar_check(int r)
{
        if (r < 0)
                abort();
}

static inline void test_tar_pad(struct str *out)
{
        while (out->len % TEST_TAR_BLOCK)
                test_tar_check(str_addc(out, '\0'));
}

static inline void test_tar_entry(struct str *out, const struct test_tar_entry *e)
{
        char header[TEST_TAR_BLOCK] = { 0 };
        unsigned sum = 0, mode = e->mode ? e->mode : e->type == '5' ? 0755 : 0644;

        (void)snprintf(header, 100, "%s", e->name);
        (void)snprintf(header + 100, 8, "%07o", mode & 07777);
        (void)snprintf(header + 108, 8, "%07o", e->uid & 07777777);
        (void)snprintf(header + 116, 8, "%07o", e->gid & 07777777);
        (void)snprintf(header + 124, 12, "%011o", (unsigned)e->len & 0x7fffffff);
        (void)snprintf(header + 136, 12, "%011o", 1000000000u);
        header[156] = e->type;
        (void)snprintf(header + 157, 100, "%s", e->target ? e->target : "");
        (void)snprintf(header + 257, 6, "ustar");
        header[263] = header[264] = '0';
        memset(header + 148, ' ', 8);
        for (size_t i = 0; i < sizeof(header); i++)
                sum += (unsigned char)header[i];
        (void)snprintf(header + 148, 7, "%06o", sum & 0777777);
        test_tar_check(str_add(out, header, sizeof(header)));
        if (e->len > 0)
                test_tar_check(str_add(out, e->data, e->len));
        test_tar_pad(out);
}

static inline void test_tar_file(struct str *out, const char *name, const char *text)
{
        test_tar_entry(out, &(struct test_tar_entry){ .name = name, .type = '0', .data = text, .len = strlen(text) });
}

static inline void test_tar_other(struct str *out, const char *name, char type, const char *target)
{
        test_tar_entry(out, &(struct test_tar_entry){ .name = name, .type = type, .target = target });
}

static inline void test_tar_end(struct str *out)
{
        char zero[2 * TEST_TAR_BLOCK] = { 0 };

        test_tar_check(str_add(out, zero, sizeof(zero)));
}
