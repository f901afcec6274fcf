/* What `mayfly run` makes of its words, its files and stdin. */
#include "base/fd.h"
#include "base/path.h"
#include "base/str.h"
#include "base/tar.h"
#include "base/time.h"
#include "cli/run_input.h"
#include "cli/run_options.h"
#include "cli/run_output.h"
#include "cli/run_values.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

static const struct cli_exit_code exits[] = { { NULL, NULL } };
static const struct cli_command command = { .name = "run",
                                            .args = "",
                                            .summary = "",
                                            .description = "",
                                            .examples = "",
                                            .options = cli_run_options,
                                            .exits = exits,
                                            .leading = true };

static int parse(struct run_options *o, struct err *err, const char *const *words)
{
        struct cli cli = { .host = "" };
        char **owned = strv_dup((char *const *)(uintptr_t)words), *argv[64];
        int n, r;

        assert_non_null(owned);
        n = (int)strv_len(owned);
        assert_in_range(n, 1, ARRAY_LEN(argv) - 1);
        memcpy(argv, owned, (size_t)(n + 1) * sizeof(*argv)); /* parsing moves words */
        r = run_options_parse(&cli, &command, n, argv, o, err);
        strv_free(owned);
        return r;
}

#define WORDS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void test_defaults(void **state)
{
        struct err err = ERR_INIT;
        struct run_options o;

        (void)state;
        assert_int_equal(parse(&o, &err, WORDS("busybox", "echo", "-n", "--x")), 0);
        assert_string_equal(o.request.image, "busybox");
        assert_int_equal(strv_len(o.request.cmd), 3);
        assert_string_equal(o.request.cmd[1], "-n");
        assert_null(o.request.entrypoint);
        assert_int_equal(o.request.limits.timeout_ns, 0);
        assert_true(o.live);
        run_options_done(&o);
        assert_int_equal(parse(&o, &err, WORDS("-d", "busybox")), 0);
        assert_int_equal(o.request.limits.timeout_ns, WIRE_TIMEOUT_MAX_NS);
        assert_int_equal(o.request.limits.output, WIRE_OUTPUT_MAX);
        assert_false(o.live);
        run_options_done(&o);
}

static void test_all_flags(void **state)
{
        struct wire_task_request *q;
        struct err err = ERR_INIT;
        struct run_options o;

        (void)state;
        assert_int_equal(
                parse(&o, &err,
                      WORDS("--rm", "-i", "-e", "A=1", "--env=B=2=3", "-w", "/w", "-uroot", "--entrypoint", "/bin/sh",
                            "--init", "--network", "none", "-m", "64m", "--cpus", ".5", "--pids-limit=7",
                            "--shm-size=1m", "--disk", "2m", "--timeout", "1m30s", "--copy", "a:b", "--output-limit",
                            "3m", "--on-output-limit=kill", "--stop-timeout", "2", "--cpu-time=3s", "-l", "b=2",
                            "--label", "a", "--label=b=3", "--output", "out:there", "--pull=always", "--retries=2",
                            "--stop-signal=TERM", "--security-opt", "no-new-privileges", "--restart=no",
                            "--idempotency-key=k", "--env", "A=3", "img")),
                0);
        q = &o.request;
        assert_true(o.interactive && q->init && q->kill_on_output_limit);
        assert_int_equal(strv_len(q->env), 2);
        assert_string_equal(q->env[0], "A=3");
        assert_string_equal(q->env[1], "B=2=3");
        assert_string_equal(q->workdir, "/w");
        assert_string_equal(q->user, "root");
        assert_string_equal(q->entrypoint[0], "/bin/sh");
        assert_int_equal(strv_len(q->cmd), 0); /* the image's does not come after another entrypoint */
        assert_non_null(q->cmd);
        assert_int_equal(q->network, WIRE_NET_NONE);
        assert_int_equal(q->limits.memory, 64 << 20);
        assert_int_equal(q->limits.cpu_milli, 500);
        assert_int_equal(q->limits.pids, 7);
        assert_int_equal(q->limits.shm, 1 << 20);
        assert_int_equal(q->limits.disk, 2 << 20);
        assert_int_equal(q->limits.timeout_ns, 90 * (int64_t)NS_PER_S);
        assert_int_equal(q->limits.output, 3 << 20);
        assert_int_equal(q->limits.grace_ns, 2 * (int64_t)NS_PER_S);
        assert_int_equal(q->limits.cpu_time_ns, 3 * (int64_t)NS_PER_S);
        assert_string_equal(o.copies[0], "a:b");
        assert_string_equal(q->outputs[0], "out");
        assert_int_equal(strv_len(q->labels), 2);
        assert_string_equal(q->labels[0], "a=");
        assert_string_equal(q->labels[1], "b=3");
        assert_int_equal(q->pull, WIRE_PULL_ALWAYS);
        assert_int_equal(q->retries, 2);
        assert_non_null(o.idempotency_key);
        run_options_done(&o);
}

static void test_attach(void **state)
{
        struct err err = ERR_INIT;
        struct run_options o;

        (void)state;
        assert_int_equal(parse(&o, &err, WORDS("-a", "stdin", "-a=STDOUT", "-i", "img")), 0);
        assert_true(o.attach_given && o.attached[0] && o.attached[1] && !o.attached[2]);
        run_options_done(&o);
        assert_int_equal(parse(&o, &err, WORDS("-a", "stdio", "img")), -EINVAL);
        assert_int_equal(parse(&o, &err, WORDS("-d", "-a", "stdout", "img")), -EINVAL);
        assert_int_equal(parse(&o, &err, WORDS("-d", "--wait=3s", "img")), -EINVAL);
        assert_int_equal(parse(&o, &err, WORDS("-d", "--output=a:b", "img")), -EINVAL);
}

static void test_refused_flags(void **state)
{
        static const char *const flags[] = { "--restart=always",
                                             "-p80:80",
                                             "-v/a:/b",
                                             "--name=x",
                                             "-t",
                                             "--privileged",
                                             "--mount=x",
                                             "--network=host",
                                             "--network=foo",
                                             "--pull=often",
                                             "--network=name=nat,alias=x",
                                             "--security-opt=seccomp=unconfined",
                                             "--stop-signal=INT",
                                             "--ipc=host",
                                             "--retries=11",
                                             "--label==x",
                                             "--output=x",
                                             "--secret=/x",
                                             "--gpus=all",
                                             "--tmpfs=/x",
                                             "--ulimit=nofile=1",
                                             "--cap-add=SYS_ADMIN",
                                             "--read-only",
                                             "--pids-limit=0",
                                             "--cpus=0",
                                             "--memory=x",
                                             "--stop-timeout=-1",
                                             "--env==x" };

        (void)state;
        for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
                struct err err = ERR_INIT;
                struct run_options o;

                if (parse(&o, &err, WORDS(flags[i], "img")) != -EINVAL)
                        fail_msg("%s was taken", flags[i]);
        }
}

/* ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct dir {
        char path[64];
};

static int dir_make(void **state)
{
        static struct dir d;

        (void)snprintf(d.path, sizeof(d.path), "/tmp/mayfly-test-run-XXXXXX");
        *state = &d;
        return mkdtemp(d.path) && chdir(d.path) == 0 ? 0 : -1;
}

static int dir_remove(void **state)
{
        auto_fd tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct dir *d = *state;

        return chdir("/") == 0 && path_remove_tree(tmp, d->path + strlen("/tmp/")) == 0 ? 0 : -1;
}

static void write_file(const char *path, const char *text, mode_t mode)
{
        auto_fd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
}

static void test_env_file(void **state)
{
        struct err err = ERR_INIT;
        auto_strv env = NULL;

        (void)state;
        write_file("env", "\xef\xbb\xbf# no\n\n  A=1\r\nB= two \nMAYFLY_NO_SUCH\nHERE\n", 0600);
        assert_int_equal(setenv("HERE", "yes", 1), 0);
        assert_int_equal(run_env_file(&env, "env", &err), 0);
        assert_int_equal(strv_len(env), 3);
        assert_string_equal(env[0], "A=1");
        assert_string_equal(env[1], "B= two ");
        assert_string_equal(env[2], "HERE=yes");
        write_file("env", "A B=1\n", 0600);
        assert_int_equal(run_env_file(&env, "env", &err), -EINVAL);
        assert_string_equal(err.text, "env: variable 'A B' contains whitespaces");
        write_file("env", "=1\n", 0600);
        assert_int_equal(run_env_file(&env, "env", &err), -EINVAL);
        assert_int_equal(run_env_file(&env, "none", &err), -ENOENT);
}

static void test_label_file(void **state)
{
        struct err err = ERR_INIT;
        auto_strv labels = NULL;

        (void)state;
        write_file("labels", "# no\nA=1\nbare\n", 0600);
        assert_int_equal(run_label_file(&labels, "labels", &err), 0);
        assert_int_equal(strv_len(labels), 1);
        assert_string_equal(labels[0], "A=1");
}

static void test_secrets(void **state)
{
        struct wire_task_request q = { .image = NULL };
        struct err err = ERR_INIT;

        (void)state;
        write_file("secret", "of the file\n", 0600);
        assert_int_equal(setenv("TOKEN", "of here", 1), 0);
        assert_int_equal(run_secret_add(&q, "TOKEN", &err), 0);
        assert_int_equal(run_secret_add(&q, "other=secret", &err), 0);
        assert_int_equal(q.n_secrets, 2);
        assert_string_equal(q.secrets[0].name, "TOKEN");
        assert_memory_equal(q.secrets[0].value, "of here", 7);
        assert_int_equal(q.secrets[1].len, 12);
        assert_int_equal(run_secret_add(&q, "MAYFLY_NO_SUCH", &err), -ENOENT);
        assert_int_equal(run_secret_add(&q, "x=none", &err), -ENOENT);
        assert_int_equal(run_secret_add(&q, "a/b=secret", &err), -EINVAL);
        write_file("auth", "user:pass:word\nmore\n", 0600);
        assert_int_equal(run_registry_auth(&q, "auth", &err), 0);
        assert_string_equal(q.registry_username, "user");
        assert_string_equal(q.registry_password, "pass:word");
        write_file("auth", "user:\n", 0600);
        assert_int_equal(run_registry_auth(&q, "auth", &err), -EINVAL);
        wire_task_request_done(&q);
}

static const struct wire_member *find_member(const struct wire_members *m, const char *path)
{
        for (size_t i = 0; i < m->len; i++)
                if (str_eq(m->items[i].path, path))
                        return &m->items[i];
        fail_msg("%s is not there", path);
        return NULL;
}

static void test_copy(void **state)
{
        struct wire_task_request q = { .image = NULL };
        struct wire_members members = { .items = NULL };
        struct err err = ERR_INIT;

        (void)state;
        assert_int_equal(mkdir("d", 0700), 0);
        assert_int_equal(mkdir("d/e", 0750), 0);
        write_file("d/e/f", "deep", 0750);
        write_file("one", "1", 0644);
        assert_int_equal(symlink("/etc/passwd", "d/link"), 0);
        assert_int_equal(run_copy("one:/x/two", &q, &err), 0);
        assert_int_equal(run_copy("./one:in/", &q, &err), 0);
        assert_int_equal(run_copy("d:to", &q, &err), 0);
        assert_int_equal(run_copy("d/:into/", &q, &err), 0);
        assert_int_equal(q.n_files, 4);
        assert_string_equal(q.files[0].path, "/x/two");
        assert_memory_equal(q.files[0].content, "1", 1);
        assert_string_equal(q.files[1].path, "in/one");
        assert_string_equal(q.files[2].path, "to");
        assert_string_equal(q.files[3].path, "into/d");
        assert_true(q.files[2].tar && !q.files[1].tar);
        assert_int_equal(wire_members_read(&q.files[2], 100, &members, &err), 0);
        assert_int_equal(find_member(&members, "to/e/f")->mode, 0750);
        assert_memory_equal(find_member(&members, "to/e/f")->data, "deep", 4);
        assert_int_equal(find_member(&members, "to/link")->type, WIRE_MEMBER_SYMLINK);
        assert_string_equal(find_member(&members, "to/link")->target, "/etc/passwd");
        assert_int_equal(mkfifo("d/fifo", 0600), 0);
        assert_int_equal(run_copy("d:to", &q, &err), -EINVAL);
        assert_int_equal(run_copy("none:to", &q, &err), -ENOENT);
        assert_int_equal(run_copy("/dev/null:to", &q, &err), -EINVAL);
        assert_int_equal(run_copy("nocolon", &q, &err), -EINVAL);
        assert_int_equal(run_copy("one:", &q, &err), -EINVAL);
        assert_int_equal(run_copy(":one", &q, &err), -EINVAL);
        wire_members_done(&members);
        wire_task_request_done(&q);
}

static void assert_file(const char *path, const char *text, mode_t mode)
{
        auto_str content = STR_INIT;
        struct stat st;

        assert_int_equal(fd_read_file(AT_FDCWD, path, 1000, &content, NULL), 0);
        assert_string_equal(content.data, text);
        assert_int_equal(lstat(path, &st), 0);
        assert_int_equal(st.st_mode, S_IFREG | mode);
}

static void test_output_file(void **state)
{
        char text[] = "result", path[] = "/tmp/result.txt", evil[] = "/home/x/.profile";
        struct wire_output o = { .path = path, .mode = 04755, .data = text, .len = 6 };
        struct err err = ERR_INIT;

        (void)state;
        write_file("victim", "mine", 0600);
        assert_int_equal(symlink("victim", "link"), 0);
        assert_int_equal(mkdir("dir", 0755), 0);
        assert_int_equal(run_write_output("/tmp/result.txt:out", &o, &err), 0);
        assert_file("out", "result", 0755);
        assert_int_equal(run_write_output("/tmp/result.txt:dir", &o, &err), 0);
        assert_file("dir/result.txt", "result", 0755);
        assert_int_equal(run_write_output("/tmp/result.txt:link", &o, &err), 0);
        assert_file("link", "result", 0755);
        assert_file("victim", "mine", 0600);
        assert_int_equal(run_write_output("/tmp/result.txt:none/out", &o, &err), -ENOENT);
        /* What it is called is not for the answer to say. */
        o.path = evil;
        assert_int_equal(run_write_output("/tmp/result.txt:dir", &o, &err), 0);
        assert_int_equal(access("dir/.profile", F_OK), -1);
        o.error = "not_found";
        assert_int_equal(run_write_output("/tmp/result.txt:out", &o, &err), -ENOENT);
        o.error = NULL;
        o.type = WIRE_OUTPUT_SYMLINK;
        assert_int_equal(run_write_output("/tmp/result.txt:out", &o, &err), -ELOOP);
}

struct archive {
        struct str bytes;
        struct tar_writer writer;
};

static int add_bytes(const void *bytes, size_t len, void *data)
{
        return str_add(data, bytes, len);
}

static void add_member(struct archive *a, enum tar_kind kind, const char *path, const char *target, uint32_t mode,
                       const char *content)
{
        const struct tar_member m = {
                .kind = kind, .path = path, .target = target, .mode = mode, .size = content ? strlen(content) : 0
        };

        assert_int_equal(tar_write_member(&a->writer, &m), 0);
        if (content)
                assert_int_equal(tar_write_content(&a->writer, content, strlen(content)), 0);
}

/* What a task left may be made to lead out of the directory. */
static void test_output_special(void **state)
{
        char text[] = "result", path[] = "r", got[16] = "";
        struct wire_output o = { .path = path, .mode = 0644, .data = text, .len = 6 };
        struct err err = ERR_INIT;
        auto_fd reader = -EBADF;
        struct stat st;

        (void)state;
        assert_int_equal(mkfifo("fifo", 0600), 0);
        reader = open("fifo", O_RDWR | O_CLOEXEC | O_NONBLOCK);
        assert_int_equal(run_write_output("r:fifo", &o, &err), 0);
        assert_int_equal(read(reader, got, sizeof(got)), 6);
        assert_string_equal(got, "result");
        assert_int_equal(lstat("fifo", &st), 0);
        assert_true(S_ISFIFO(st.st_mode));
        if (mknod("null", S_IFCHR | 0666, makedev(1, 3)) < 0)
                return; /* not root */
        assert_int_equal(run_write_output("r:null", &o, &err), 0);
        assert_int_equal(lstat("null", &st), 0);
        assert_true(S_ISCHR(st.st_mode));
        /* A link to one, which anybody can plant, is replaced as any link. */
        assert_int_equal(symlink("null", "planted"), 0);
        assert_int_equal(run_write_output("r:planted", &o, &err), 0);
        assert_file("planted", "result", 0644);
}

static void test_output_directory(void **state)
{
        struct archive a = { .writer = { .fn = add_bytes } };
        char path[] = "work/res";
        struct wire_output o = { .path = path, .type = WIRE_OUTPUT_DIRECTORY };
        struct err err = ERR_INIT;
        struct stat st;

        (void)state;
        a.writer.data = &a.bytes;
        assert_int_equal(mkdir("elsewhere", 0755), 0);
        write_file("elsewhere/keep", "mine", 0600);
        add_member(&a, TAR_KIND_DIRECTORY, "res", "", 0755, NULL);
        add_member(&a, TAR_KIND_DIRECTORY, "res/locked", "", 0500, NULL);
        add_member(&a, TAR_KIND_FILE, "res/locked/f", "", 04711, "in");
        add_member(&a, TAR_KIND_SYMLINK, "res/out", "../elsewhere", 0777, NULL);
        assert_int_equal(tar_write_end(&a.writer), 0);
        o.data = a.bytes.data;
        o.len = a.bytes.len;
        assert_int_equal(run_write_output("work/res:to", &o, &err), 0);
        assert_file("to/locked/f", "in", 0711);
        assert_int_equal(stat("to/locked", &st), 0);
        assert_int_equal(st.st_mode & 07777, 0500);
        assert_int_equal(lstat("to/out", &st), 0);
        assert_true(S_ISLNK(st.st_mode));

        str_clear(&a.bytes);
        add_member(&a, TAR_KIND_DIRECTORY, "res", "", 0755, NULL);
        add_member(&a, TAR_KIND_SYMLINK, "res/out", "../elsewhere", 0777, NULL);
        add_member(&a, TAR_KIND_FILE, "res/out/keep", "", 0644, "theirs");
        assert_int_equal(tar_write_end(&a.writer), 0);
        o.data = a.bytes.data;
        o.len = a.bytes.len;
        assert_true(run_write_output("work/res:new", &o, &err) < 0);
        assert_file("elsewhere/keep", "mine", 0600);
        str_done(&a.bytes);
}

static void test_stdin(void **state)
{
        struct wire_task_request q = { .image = NULL };
        struct err err = ERR_INIT;
        auto_fd fd = -EBADF;

        (void)state;
        write_file("in", "a\nb", 0600);
        fd = open("in", O_RDONLY | O_CLOEXEC);
        assert_int_equal(run_read_stdin(fd, &q, &err), 0);
        assert_int_equal(q.stdin_len, 3);
        wire_task_request_done(&q);
        fd_replace(&fd, open("in", O_RDONLY | O_CLOEXEC));
        assert_int_equal(truncate("in", WIRE_BODY_MAX + 1), 0);
        assert_int_equal(run_read_stdin(fd, &q, &err), -EFBIG);
        wire_task_request_done(&q);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_all_flags),
                cmocka_unit_test(test_refused_flags),
                cmocka_unit_test(test_attach),
                cmocka_unit_test_setup_teardown(test_env_file, dir_make, dir_remove),
                cmocka_unit_test_setup_teardown(test_label_file, dir_make, dir_remove),
                cmocka_unit_test_setup_teardown(test_secrets, dir_make, dir_remove),
                cmocka_unit_test_setup_teardown(test_copy, dir_make, dir_remove),
                cmocka_unit_test_setup_teardown(test_output_file, dir_make, dir_remove),
                cmocka_unit_test_setup_teardown(test_output_special, dir_make, dir_remove),
                cmocka_unit_test_setup_teardown(test_output_directory, dir_make, dir_remove),
                cmocka_unit_test_setup_teardown(test_stdin, dir_make, dir_remove),
        };

        return cmocka_run_group_tests_name("cli/run", tests, NULL, NULL);
}
