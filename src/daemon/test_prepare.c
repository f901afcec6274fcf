/* Needs root: it makes files that belong to others. */
#include "daemon/prepare.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/test_skip.h"
#include "launcher/ceiling.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
        char dir[32];
        struct config config;
        struct users users;
};

static int setup(void **state)
{
        static struct fixture f;

        (void)snprintf(f.dir, sizeof(f.dir), "/tmp/mayfly-test-XXXXXX");
        if (!mkdtemp(f.dir))
                return -1;
        config_default(&f.config);
        (void)snprintf(f.config.data, sizeof(f.config.data), "%s/data", f.dir);
        (void)snprintf(f.config.run, sizeof(f.config.run), "%s/run", f.dir);
        f.users = (struct users){ .uid = 1001, .gid = 1002, .net_uid = 1003, .net_gid = 1004, .api_gid = 1005 };
        *state = &f;
        return 0;
}

static int teardown(void **state)
{
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct fixture *f = *state;

        return path_remove_tree(tmp, f->dir + strlen("/tmp/"));
}

static void assert_owner(const char *parent, const char *name, mode_t mode, uid_t uid, gid_t gid)
{
        auto_free char *path = str_printf("%s/%s", parent, name);
        struct stat st;

        assert_int_equal(lstat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, mode);
        assert_int_equal(st.st_uid, uid);
        assert_int_equal(st.st_gid, gid);
}

static void test_dirs(void **state)
{
        struct fixture *f = *state;
        struct err err = ERR_INIT;
        bool made = false;

        skip_unless_root();
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), 0);
        assert_true(made);
        assert_owner(f->config.data, ".", 0755, 0, 0);
        assert_owner(f->config.data, "store", 0700, 0, 0);
        assert_owner(f->config.data, "state", 0700, 1001, 1002);
        assert_owner(f->config.run, ".", 0755, 0, 0);
        assert_owner(f->config.run, "netd", 0700, 1003, 1004);
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), 0);
        assert_false(made);
        prepare_undo(&f->config, true);
        assert_int_equal(access(f->config.run, F_OK), -1);
}

static void test_dirs_of_others_are_refused(void **state)
{
        struct fixture *f = *state;
        struct err err = ERR_INIT;
        bool made;

        skip_unless_root();
        assert_int_equal(mkdir(f->config.data, 0755), 0);
        assert_int_equal(chown(f->config.data, 1001, 1001), 0);
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), -EPERM);
        assert_int_equal(chown(f->config.data, 0, 0), 0);
        assert_int_equal(chmod(f->config.data, 01777), 0);
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), -EPERM);
        assert_owner(f->config.data, ".", 01777, 0, 0);
        assert_int_equal(chmod(f->config.data, 0755), 0);
        assert_int_equal(chown(f->dir, 1001, 1001), 0);
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), -EPERM);
        assert_int_equal(chown(f->dir, 0, 0), 0);
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), 0);
}

/* A link of root's that leads through somebody's directory: he could swap what it leads to. */
static void test_dirs_behind_links(void **state)
{
        struct fixture *f = *state;
        auto_free char *theirs = str_printf("%s/theirs", f->dir);
        auto_free char *real = str_printf("%s/theirs/real", f->dir);
        auto_free char *link = str_printf("%s/link", f->dir);
        struct err err = ERR_INIT;
        bool made;

        skip_unless_root();
        assert_int_equal(mkdir(theirs, 0755), 0);
        assert_int_equal(mkdir(real, 0755), 0);
        assert_int_equal(symlink(real, link), 0);
        (void)snprintf(f->config.data, sizeof(f->config.data), "%s/data", link);
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), 0);
        assert_int_equal(chown(theirs, 1001, 1001), 0);
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), -EPERM);
        assert_non_null(strstr(err.text, "/theirs'"));
}

/* What is written is what the launcher reads. */
static void test_ceiling(void **state)
{
        struct fixture *f = *state;
        auto_free char *path = str_printf("%s/launcher.conf", f->config.run);
        struct err err = ERR_INIT;
        struct ceiling ceiling;
        bool made;

        skip_unless_root();
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), 0);
        assert_int_equal(prepare_ceiling(&f->config, &f->users, &err), 0);
        assert_owner(f->config.run, "launcher.conf", 0600, 0, 0);
        assert_int_equal(ceiling_load(path, &ceiling, &err), 0);
        assert_int_equal(ceiling.uid, 1001);
        assert_int_equal(ceiling.gid, 1002);
        assert_int_equal(ceiling.slots, f->config.slots);
        assert_int_equal(ceiling.id_base, f->config.id_base);
        assert_string_equal(ceiling.name, "mayfly");
        assert_true(str_ends(ceiling.store, "/data/store"));
        assert_string_equal(ceiling.socket, "");
}

static void test_netd_env(void **state)
{
        struct fixture *f = *state;
        auto_free char *path = str_printf("%s/netd.env", f->config.run);
        struct err err = ERR_INIT;
        auto_str text = STR_INIT;
        bool made;

        skip_unless_root();
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), 0);
        assert_int_equal(prepare_netd_env(&f->config, &f->users, &err), 0);
        assert_int_equal(fd_read_file(AT_FDCWD, path, 4096, &text, &err), 0);
        assert_true(str_starts(text.data, "MAYFLY_NETD_ARGS=--socket "));
        assert_non_null(strstr(text.data, " --peer-uid 1001 --peer-gid 1002 --user 1003:1004 --pool 10.213.0.0/16 "));
        assert_non_null(strstr(text.data, " --id-range 2013265920:2046885887 "));
        assert_non_null(strstr(text.data, "\nMAYFLY_DNS_ARGS=--pool 10.213.0.0/16 --user "));
}

static void test_xtables_lock(void **state)
{
        struct fixture *f = *state;
        auto_free char *path = str_printf("%s/xtables.lock", f->dir);
        struct err err = ERR_INIT;
        struct stat st;

        skip_unless_root();
        for (int i = 0; i < 2; i++) {
                assert_int_equal(prepare_xtables_lock(path, 1004, &err), 0);
                assert_int_equal(stat(path, &st), 0);
                assert_int_equal(st.st_mode & 07777, 0640);
                assert_int_equal(st.st_uid, 0);
                assert_int_equal(st.st_gid, 1004);
        }
        /* What others may have put there is left as it is. */
        assert_int_equal(chown(path, 1001, 0), 0);
        assert_int_equal(prepare_xtables_lock(path, 1004, &err), -EPERM);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(symlink("/etc/passwd", path), 0);
        assert_int_equal(prepare_xtables_lock(path, 1004, &err), -ELOOP);
        assert_int_equal(unlink(path), 0);
}

static void test_sockets(void **state)
{
        struct fixture *f = *state;
        struct sockets sockets = SOCKETS_INIT;
        struct err err = ERR_INIT;
        bool made;

        skip_unless_root();
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), 0);
        assert_int_equal(prepare_sockets(&f->config, &f->users, &sockets, &err), 0);
        assert_owner(f->config.run, "mayfly.sock", 0660, 1001, 1005);
        assert_owner(f->config.run, "launcher.sock", 0600, 1001, 1002);
        assert_owner(f->config.run, "netd.sock", 0600, 1001, 1002);
        sockets_done(&sockets);
}

static void test_one_instance(void **state)
{
        struct fixture *f = *state;
        struct locks first = LOCKS_INIT, second = LOCKS_INIT;
        struct config other = f->config;
        struct err err = ERR_INIT;
        char old[64], mine[32];
        bool made;

        skip_unless_root();
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), 0);
        assert_int_equal(locks_take(&f->config, &first, &err), 0);
        assert_int_equal(locks_sign(&first, &err), 0);
        assert_int_equal(locks_take(&f->config, &second, &err), -EBUSY);
        (void)snprintf(mine, sizeof(mine), "(pid %d)", getpid());
        assert_non_null(strstr(err.text, mine));
        /* The same data, though another run directory. */
        (void)snprintf(other.run, sizeof(other.run), "%s/run2", f->dir);
        assert_int_equal(prepare_dirs(&other, &f->users, &made, &err), 0);
        assert_int_equal(locks_take(&other, &second, &err), -EBUSY);
        assert_non_null(strstr(err.text, f->config.data));
        locks_done(&first);
        assert_int_equal(locks_take(&f->config, &second, &err), 0);
        assert_int_equal(locks_read_old(&second, old, sizeof(old)), 0);
        assert_int_equal(strtol(old, NULL, 10), getpid());
        locks_done(&second);
}

static void test_users(void **state)
{
        struct fixture *f = *state;
        struct err err = ERR_INIT;
        struct users users;

        (void)snprintf(f->config.user, sizeof(f->config.user), "no-such-user-here");
        assert_int_equal(users_find(&f->config, &users, &err), -ENOENT);
        assert_non_null(strstr(err.text, "useradd --system --user-group --no-create-home"));
        (void)snprintf(f->config.user, sizeof(f->config.user), "daemon");
        (void)snprintf(f->config.net_user, sizeof(f->config.net_user), "bin");
        (void)snprintf(f->config.dns_user, sizeof(f->config.dns_user), "sys");
        (void)snprintf(f->config.group, sizeof(f->config.group), "no-such-group-here");
        assert_int_equal(users_find(&f->config, &users, &err), -ENOENT);
        assert_non_null(strstr(err.text, "groupadd --system no-such-group-here"));
        (void)snprintf(f->config.group, sizeof(f->config.group), "daemon");
        assert_int_equal(users_find(&f->config, &users, &err), 0);
        assert_true(users.uid != 0 && users.net_uid != 0 && users.uid != users.net_uid);
        assert_true(users.dns_uid != 0 && users.dns_uid != users.uid && users.dns_uid != users.net_uid);
        (void)snprintf(f->config.dns_user, sizeof(f->config.dns_user), "bin");
        assert_int_equal(users_find(&f->config, &users, &err), -EINVAL);
        (void)snprintf(f->config.user, sizeof(f->config.user), "root");
        assert_int_equal(users_find(&f->config, &users, &err), -EINVAL);
}

/* The engine Docker alone needs neither launcher nor netd, nor their users. */
static void test_docker_alone(void **state)
{
        struct sockets sockets = SOCKETS_INIT;
        struct fixture *f = *state;
        struct err err = ERR_INIT;
        struct users users;
        char path[200];
        bool made;

        (void)snprintf(f->config.engines, sizeof(f->config.engines), "docker");
        (void)snprintf(f->config.docker.host, sizeof(f->config.docker.host), "tcp://127.0.0.1:2375");
        (void)snprintf(f->config.user, sizeof(f->config.user), "daemon");
        (void)snprintf(f->config.group, sizeof(f->config.group), "daemon");
        (void)snprintf(f->config.net_user, sizeof(f->config.net_user), "no-such-user-here");
        assert_int_equal(users_find(&f->config, &users, &err), 0);
        assert_false(users.has_docker_gid);
        assert_int_equal(prepare_dirs(&f->config, &f->users, &made, &err), 0);
        assert_int_equal(prepare_sockets(&f->config, &f->users, &sockets, &err), 0);
        assert_true(sockets.api >= 0);
        assert_true(sockets.launcher < 0 && sockets.net < 0);
        sockets_done(&sockets);
        (void)snprintf(path, sizeof(path), "%s/launcher.sock", f->config.run);
        assert_int_equal(access(path, F_OK), -1);
        (void)snprintf(path, sizeof(path), "%s/store", f->config.data);
        assert_int_equal(access(path, F_OK), -1);
}

/* mayflyd gets the socket's group, and never root's. */
static void test_docker_group(void **state)
{
        struct fixture *f = *state;
        struct err err = ERR_INIT;
        auto_fd fd = -EBADF;
        char path[200];
        gid_t gid = 0;

        (void)snprintf(path, sizeof(path), "%s-socket", f->config.data);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(fchown(fd, 0, 4321), 0);
        assert_int_equal(fchmod(fd, 0660), 0);
        assert_int_equal(docker_group_find(path, 1000, &gid, &err), 1);
        assert_int_equal(gid, 4321);
        assert_int_equal(fchmod(fd, 0640), 0);
        assert_int_equal(docker_group_find(path, 1000, &gid, &err), -EPERM);
        assert_non_null(strstr(err.text, "dockerd --group docker"));
        assert_int_equal(fchown(fd, 0, 0), 0);
        assert_int_equal(fchmod(fd, 0660), 0);
        assert_int_equal(docker_group_find(path, 1000, &gid, &err), -EPERM);
        assert_int_equal(fchmod(fd, 0666), 0);
        assert_int_equal(docker_group_find(path, 1000, &gid, &err), 0);
        assert_int_equal(fchmod(fd, 0600), 0);
        assert_int_equal(fchown(fd, 1000, 0), 0);
        assert_int_equal(docker_group_find(path, 1000, &gid, &err), 0);
        assert_int_equal(unlink(path), 0);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(test_dirs),
                CASE(test_dirs_of_others_are_refused),
                CASE(test_ceiling),
                CASE(test_netd_env),
                CASE(test_sockets),
                CASE(test_xtables_lock),
                CASE(test_users),
                CASE(test_one_instance),
                CASE(test_docker_alone),
                CASE(test_docker_group),
                CASE(test_dirs_behind_links),
        };

        return cmocka_run_group_tests_name("daemon/prepare", tests, NULL, NULL);
}
