/* A directory with a database of its own, and a loop: what the tests of history share. */
#pragma once

#include "base/fd.h"
#include "base/path.h"
#include "history/history.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct fixture {
        char dir[64], path[96];
        struct loop *loop;
        struct history *h;
};

/* In memory where that can be: many files, each with its fsyncs. */
static inline const char *base_dir(void)
{
        return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

/* path_remove_tree() takes one name below a directory. */
static inline void remove_dir(const char *dir)
{
        auto_fd base = open(base_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(path_remove_tree(base, strrchr(dir, '/') + 1), 0);
}

static inline int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        (void)snprintf(f->dir, sizeof(f->dir), "%s/mayfly-history-XXXXXX", base_dir());
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/history.db", f->dir);
        assert_int_equal(loop_new(&f->loop, NULL), 0);
        *state = f;
        return 0;
}

static inline int teardown(void **state)
{
        struct fixture *f = *state;

        history_close(f->h);
        loop_free(f->loop);
        remove_dir(f->dir);
        free(f);
        return 0;
}
