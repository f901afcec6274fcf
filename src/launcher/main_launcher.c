/* mayfly-launcher: makes, signals and reaps containers, and starts image workers. See server.h for what it serves and
 * proto.h for how it is asked. */
#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "launcher/ceiling.h"
#include "launcher/server.h"
#include "launcher/setup.h"
#include "launcher/skeleton.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

struct place {
        int listener, socket_dir, proc, store;
        bool detached;
        const char *socket_name;
};

static int open_store(const char *path, int *ret, struct err *err)
{
        auto_fd fd = -EBADF;
        struct stat st;
        int r = path_mkdirs(path, 0700, err);

        if (r < 0)
                return r;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, "open %s", path);
        if (st.st_uid != 0 || (st.st_mode & 077))
                return err_set(err, EPERM, "%s must belong to root and be closed to all others", path);
        if (mkdirat(fd, "trees", 0700) < 0 && errno != EEXIST)
                return err_sys(err, "make %s/trees", path);
        *ret = TAKE_FD(fd);
        return 0;
}

/* Everything that needs the host's mounts; the launcher leaves them at the end. */
static int take_place(struct server *s, const struct ceiling *c, struct place *p, struct err *err)
{
        auto_fd store = -EBADF;
        int r = open_store(c->store, &store, err);

        if (r == 0)
                r = validate_host_init(&s->host, err);
        if (r == 0)
                r = setup_listener(c, &p->listener, &p->socket_dir, &p->socket_name, err);
        if (r < 0)
                return r;
        p->proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (p->proc < 0)
                return err_sys(err, "open /proc");
        /* What an earlier launcher left ends here, before anything of it is touched. */
        r = cgroup_open(&s->cgroup, c->name, c->cgroup, err);
        if (r == 0)
                r = skeleton_make(store, c->id_base, err);
        if (r == 0)
                r = setup_mounts(c->store, &p->store, &p->detached, err);
        return r;
}

static int serve(const struct setup *setup, struct err *err)
{
        static struct ceiling ceiling;
        static struct server server;
        struct place place = { .listener = -EBADF, .socket_dir = -EBADF, .proc = -EBADF, .store = -EBADF };
        struct server_fds fds;
        int r = ceiling_load(setup->ceiling, &ceiling, err);

        if (r == 0)
                r = setup_process(setup, err);
        if (r == 0)
                r = take_place(&server, &ceiling, &place, err);
        if (r < 0)
                return r;
        fds = (struct server_fds){
                place.listener, place.proc, setup->init, setup->worker, place.store, place.detached
        };
        r = server_init(&server, &ceiling, &fds, err);
        if (r == 0)
                r = server_run(&server, err);
        server_done(&server);
        if (place.socket_dir >= 0)
                (void)unlinkat(place.socket_dir, place.socket_name, 0);
        return r;
}

int main(int argc, char **argv)
{
        struct err err = ERR_INIT;
        struct setup setup;
        int r = setup_parse(argc, argv, &setup, &err);

        if (r == 0)
                r = setup.sealed ? serve(&setup, &err) : setup_reexec(&setup, &err);
        if (r < 0)
                (void)fprintf(stderr, "mayfly-launcher: %s\n", err.text);
        return r < 0 ? 1 : 0;
}
