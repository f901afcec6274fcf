/* Whose containers and files are whose, and what a container is made with. */

#include "engine/docker/test_fake.h"

#include <sys/mman.h>

/* ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define NODE "00112233445566778899aabbccddeeff"
#define OTHER "ffeeddccbbaa99887766554433221100"
#define OURS "\"Labels\":{\"dev.mayfly.node\":\"" NODE "\"}"

static void test_adoption(void **state)
{
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(fd_write_file(dir, ".node", 0600, NODE, 32, NULL), 0);
        assert_int_equal(fd_write_file(dir, "old", 0600, "test-anything 5 100\nrecord", 26, NULL), 0);
        assert_int_equal(fd_write_file(dir, "gone", 0600, "test-gone 5 100\nrecord", 22, NULL), 0);
        assert_int_equal(fd_write_file(dir, "nonsense", 0600, "nonsense", 8, NULL), 0);
        expect(w, "GET /v1.41/containers/json", -1, 200,
               "[{\"Names\":[\"/test-anything\"],\"State\":\"running\"," OURS
               "},{\"Names\":[\"/test-stray\"],\"State\":\"exited\"," OURS
               "},{\"Names\":[\"/testother\"],\"State\":\"running\"," OURS
               "},{\"Names\":[\"/test-../x\"],\"State\":\"running\"," OURS "},{\"Names\":[]," OURS "},{" OURS "}]");
        expect(w, "/containers/test-anything/logs?", -1, 200, "");
        world_open(w, 0);
        assert_non_null(w->found);
        finish(w);
        assert_int_equal(w->exit.code, 3);
        wait_for(w, "DELETE /v1.41/containers/test-stray?", 1);
        assert_int_equal(asked(w, "DELETE"), 1);
        assert_int_equal(faccessat(dir, "old", F_OK, 0), 0);
        assert_int_equal(faccessat(dir, "gone", F_OK, 0), -1);
        assert_int_equal(faccessat(dir, "nonsense", F_OK, 0), -1);
        w->engine->ops->remove(w->found);
        assert_int_equal(faccessat(dir, "old", F_OK, 0), -1);
}

/* Docker was to start one when the earlier daemon ended, and may do so yet: it is lost, and does not run a second time. One that
 * was not to be started is gone as if it had never been. */
static void test_start_unsure(void **state)
{
        static const char asked_for[] = "test-anything 5 100 " NODE " start\nrecord",
                          not_yet[] = "test-else 5 100 " NODE "\nrecord";
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(fd_write_file(dir, ".node", 0600, NODE, 32, NULL), 0);
        assert_int_equal(fd_write_file(dir, "old", 0600, asked_for, sizeof(asked_for) - 1, NULL), 0);
        assert_int_equal(fd_write_file(dir, "else", 0600, not_yet, sizeof(not_yet) - 1, NULL), 0);
        expect(w, "GET /v1.41/containers/json", -1, 200,
               "[{\"Names\":[\"/test-anything\"],\"State\":\"created\"," OURS
               "},{\"Names\":[\"/test-else\"],\"State\":\"created\"," OURS "}]");
        world_open(w, 0);
        assert_non_null(w->found);
        for (int i = 0; i < TURNS && w->exits == 0; i++)
                assert_int_equal(loop_turn(w->loop, 20, NULL), 0);
        assert_int_equal(w->exits, 1);
        assert_int_equal(w->exit.end, ENGINE_END_LOST);
        wait_for(w, "DELETE /v1.41/containers/test-else?", 1);
        assert_int_equal(asked(w, "DELETE"), 1);
        w->engine->ops->remove(w->found);
        wait_for(w, "DELETE /v1.41/containers/test-anything?", 1);
}

/* The record says so before Docker hears of it. */
static void test_start_recorded(void **state)
{
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        auto_str record = STR_INIT;

        world_open(w, 0);
        get_images(w, 1, NULL);
        expect(w, "/start", -1, 0, "");
        start(w, "one");
        wait_for(w, "/start", 1);
        assert_int_equal(fd_read_file(dir, "one", 256, &record, NULL), 0);
        assert_non_null(strstr(record.data, " start\nrecord"));
        finish(w);
        w->engine->ops->remove(w->c);
}

/* Two nodes of one name: neither deletes what the other one has, and who comes later says so. */
static void test_strangers(void **state)
{
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        const char *notice;

        assert_int_equal(fd_write_file(dir, ".node", 0600, NODE, 32, NULL), 0);
        expect(w, "GET /v1.41/containers/json", -1, 200,
               "[{\"Names\":[\"/test-other\"],\"State\":\"running\",\"Labels\":{\"dev.mayfly.node\":\"" OTHER
               "\"}},{\"Names\":[\"/test-older\"],\"State\":\"exited\",\"Labels\":{}},"
               "{\"Names\":[\"/test-odd\"],\"State\":\"exited\",\"Labels\":{\"dev.mayfly.node\":\"$(reboot)\"}},"
               "{\"Names\":[\"/test-stray\"],\"State\":\"exited\"," OURS "}]");
        world_open(w, 0);
        wait_for(w, "DELETE /v1.41/containers/test-stray?", 1);
        turns(w, 20);
        assert_int_equal(asked(w, "DELETE"), 1);
        notice = w->engine->ops->notice(w->engine);
        assert_non_null(notice);
        assert_non_null(strstr(notice, "(3 now)"));
        assert_non_null(strstr(notice, "label=dev.mayfly.node=" OTHER));
        assert_null(strstr(notice, "reboot"));
        assert_true(found(w, "under this one's name"));
        /* What is asked again does not forget it. */
        assert_int_equal(docker_info_read(CONTAINER_OF(w->engine, struct docker, engine), "{}", 2, NULL), 0);
        assert_true(found(w, "under this one's name"));
}

/* Those of a daemon that wrote no node on them are its own by their records, and by nothing else. */
static void test_older(void **state)
{
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(fd_write_file(dir, "old", 0600, "test-anything 5 100\nrecord", 26, NULL), 0);
        assert_int_equal(fd_write_file(dir, "else", 0600, "test-else 5 100\nrecord", 22, NULL), 0);
        expect(w, "GET /v1.41/containers/json", -1, 200,
               "[{\"Names\":[\"/test-anything\"],\"State\":\"running\",\"Labels\":{}},"
               "{\"Names\":[\"/test-else\"],\"State\":\"running\",\"Labels\":{\"dev.mayfly.node\":\"" OTHER
               "\"}},{\"Names\":[\"/test-older\"],\"State\":\"exited\",\"Labels\":{}}]");
        expect(w, "/containers/test-anything/logs?", -1, 200, "");
        world_open(w, 0);
        assert_non_null(w->found);
        finish(w);
        turns(w, 20);
        assert_int_equal(asked(w, "DELETE"), 0);
        assert_int_equal(faccessat(dir, "old", F_OK, 0), 0);
        assert_int_equal(faccessat(dir, "else", F_OK, 0), -1);
        assert_non_null(strstr(w->engine->ops->notice(w->engine), "(2 now)"));
        w->engine->ops->remove(w->found);
}

static struct docker *docker_of(struct world *w)
{
        return CONTAINER_OF(w->engine, struct docker, engine);
}

/* What an older daemon made ahead has never run, and is no task's: it goes. */
static void test_ahead_of_older(void **state)
{
        struct world *w = *state;

        expect(w, "GET /v1.41/containers/json", -1, 200,
               "[{\"Names\":[\"/test-ahead\"],\"State\":\"created\",\"Labels\":{}},"
               "{\"Names\":[\"/test-task\"],\"State\":\"created\",\"Labels\":{\"dev.mayfly.task\":\"task\"}},"
               "{\"Names\":[\"/test-ran\"],\"State\":\"exited\",\"Labels\":{}},"
               "{\"Names\":[\"/testother\"],\"State\":\"created\",\"Labels\":{}}]");
        world_open(w, 0);
        wait_for(w, "DELETE /v1.41/containers/test-ahead?", 1);
        turns(w, 20);
        assert_int_equal(asked(w, "DELETE"), 1);
        assert_true(found(w, "(3 now"));
}

/* Who deletes them, or gives the other node a name of its own, is told of them no more. */
static void test_strangers_go(void **state)
{
        struct world *w = *state;
        struct docker *d;

        expect(w, "GET /v1.41/containers/json", -1, 200, "[]");
        expect(w, "GET /v1.41/containers/json", 2, 200,
               "[{\"Names\":[\"/test-ran\"],\"State\":\"exited\",\"Labels\":{}}]");
        world_open(w, 0);
        d = docker_of(w);
        assert_true(found(w, "one is test-ran"));
        docker_recount(d); /* not so soon */
        turns(w, 20);
        assert_int_equal(asked(w, "GET /v1.41/containers/json"), 1);
        for (unsigned n = 2; n <= 3; n++) {
                d->strangers_ns = 0;
                docker_recount(d);
                docker_recount(d);
                wait_for(w, "GET /v1.41/containers/json", n);
                turns(w, 20);
                assert_true(found(w, "one is test-ran") == (n == 2));
        }
        assert_null(w->engine->ops->notice(w->engine));
        d->strangers_ns = 0;
        docker_recount(d);
        turns(w, 20);
        assert_int_equal(asked(w, "GET /v1.41/containers/json"), 3);
        assert_int_equal(asked(w, "DELETE"), 0);
}

/* One of an older daemon's that we took over is ours, also when it is counted again. */
static void test_recount_older(void **state)
{
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_int_equal(fd_write_file(dir, "old", 0600, "test-anything 5 100\nrecord", 26, NULL), 0);
        expect(w, "GET /v1.41/containers/json", -1, 200,
               "[{\"Names\":[\"/test-anything\"],\"State\":\"running\",\"Labels\":{}},"
               "{\"Names\":[\"/test-older\"],\"State\":\"exited\",\"Labels\":{}}]");
        expect(w, "/containers/test-anything/logs?", -1, 200, "");
        world_open(w, 0);
        assert_non_null(w->found);
        assert_true(found(w, "(1 now, one is test-older)"));
        docker_of(w)->strangers_ns = 0;
        docker_recount(docker_of(w));
        wait_for(w, "GET /v1.41/containers/json", 2);
        finish(w);
        assert_true(found(w, "(1 now, one is test-older)"));
        w->engine->ops->remove(w->found);
}

/* ── a damaged number ────────────────────────────────────────────────────────────────────────────────────────────── */

static void again(struct world *w)
{
        w->engine->ops->free(w->engine);
        w->engine = NULL;
        w->listed = false;
        w->found = NULL;
        w->fake.n = 0;
}

static void assert_file(int dir, const char *name, const char *text)
{
        auto_str have = STR_INIT;

        assert_int_equal(fd_read_file(dir, name, 256, &have, NULL), 0);
        assert_string_equal(have.data ? have.data : "", text);
}

/* The records tell it: what runs is taken over. */
static void test_node_by_records(void **state)
{
        static const char *const damaged[] = { "nonsense", "", NODE NODE NODE };
        static const char record[] = "test-anything 5 100 " NODE "\nrecord";
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        for (size_t i = 0; i < ARRAY_LEN(damaged); i++) {
                assert_int_equal(fd_write_file(dir, ".node", 0600, damaged[i], strlen(damaged[i]), NULL), 0);
                assert_int_equal(fd_write_file(dir, "old", 0600, record, sizeof(record) - 1, NULL), 0);
                expect(w, "GET /v1.41/containers/json", -1, 200,
                       "[{\"Names\":[\"/test-anything\"],\"State\":\"running\"," OURS "}]");
                expect(w, "/containers/test-anything/logs?", -1, 200, "");
                world_open(w, 0);
                assert_non_null(w->found);
                assert_file(dir, ".node", NODE);
                assert_file(dir, ".node.damaged", damaged[i]);
                assert_null(w->engine->ops->notice(w->engine));
                finish(w);
                w->engine->ops->remove(w->found);
                again(w);
        }
}

/* Nothing tells it, or each something else: another one, and what lies there is told of as what it may be. */
static void test_node_lost(void **state)
{
        static const char one[] = "test-one 5 100 " NODE "\nrecord", two[] = "test-two 5 100 " OTHER "\nrecord";
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        const char *notice;

        assert_int_equal(fd_write_file(dir, ".node", 0600, "nonsense", 8, NULL), 0);
        assert_int_equal(fd_write_file(dir, "one", 0600, one, sizeof(one) - 1, NULL), 0);
        assert_int_equal(fd_write_file(dir, "two", 0600, two, sizeof(two) - 1, NULL), 0);
        expect(w, "GET /v1.41/containers/json", -1, 200,
               "[{\"Names\":[\"/test-one\"],\"State\":\"running\"," OURS "}]");
        world_open(w, 0);
        assert_null(w->found);
        assert_string_not_equal(docker_of(w)->node, NODE);
        assert_string_not_equal(docker_of(w)->node, OTHER);
        assert_file(dir, ".node", docker_of(w)->node);
        assert_file(dir, ".node.damaged", "nonsense");
        notice = w->engine->ops->notice(w->engine);
        assert_non_null(notice);
        assert_non_null(strstr(notice, "docker/.node.damaged"));
        assert_non_null(strstr(notice, "label=dev.mayfly.node=" NODE));
        turns(w, 20);
        assert_int_equal(asked(w, "DELETE"), 0);
}

static void test_node_file(void **state)
{
        struct world *w = *state;
        const struct engine_docker_config config = { .host = w->socket, .name = "test", .records = w->records };
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct err err = ERR_INIT;

        /* By hand. */
        assert_int_equal(fd_write_file(dir, ".node", 0600, NODE "\n", 33, NULL), 0);
        world_open(w, 0);
        assert_string_equal(docker_of(w)->node, NODE);
        assert_int_equal(faccessat(dir, ".node.damaged", F_OK, 0), -1);
        again(w);
        /* Nobody knows what is in it: it may be good. */
        assert_int_equal(unlinkat(dir, ".node", 0), 0);
        assert_int_equal(mkdirat(dir, ".node", 0700), 0);
        assert_int_equal(engine_docker_new(w->loop, &config, &w->engine, &err), -EISDIR);
        assert_non_null(strstr(err.text, "records/.node' cannot be read"));
        assert_int_equal(faccessat(dir, ".node.damaged", F_OK, 0), -1);
}

/* A node's number is made once, stays, and is on each container, and in each record. */
static void test_node(void **state)
{
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        auto_str first = STR_INIT, second = STR_INIT;
        auto_free char *label = NULL;

        world_open(w, 0);
        assert_null(w->engine->ops->notice(w->engine));
        assert_int_equal(fd_read_file(dir, ".node", 64, &first, NULL), 0);
        assert_true(hex_is_lower(first.data, 32));
        get_images(w, 1, NULL);
        run(w, "one");
        w->engine->ops->remove(w->c);
        label = str_printf("\"dev.mayfly.node\":\"%s\"", first.data);
        assert_non_null(strstr(w->fake.created.data, label));
        w->engine->ops->free(w->engine);
        w->engine = NULL;
        w->listed = false;
        w->fake.n = 0;
        world_open(w, 0);
        assert_int_equal(fd_read_file(dir, ".node", 64, &second, NULL), 0);
        assert_string_equal(first.data, second.data);
        w->engine->ops->free(w->engine);
        w->engine = NULL;
        assert_int_equal(fd_write_file(dir, ".node", 0600, "nonsense", 8, NULL), 0);
        w->listed = false;
        w->fake.n = 0;
        world_open(w, 0);
        assert_int_equal(fd_read_file(dir, ".node", 64, &second, NULL), 0);
        assert_true(hex_is_lower(second.data, 32));
        assert_string_not_equal(first.data, second.data);
}

static void test_node_recorded(void **state)
{
        struct world *w = *state;
        auto_fd dir = open(w->records, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        char node[DOCKER_NODE_LEN + 1] = "";

        world_open(w, 0);
        get_images(w, 1, NULL);
        assert_false(docker_records_node(docker_of(w), node));
        run(w, "one");
        assert_true(docker_records_node(docker_of(w), node));
        assert_string_equal(node, docker_of(w)->node);
        w->engine->ops->remove(w->c);
}

/* The hostname is in /etc/hosts where Docker does not write it; control groups are the container's own. */
static void test_body(void **state)
{
        char *cmd[] = { (char[]){ "a\1b" }, NULL };
        struct engine_spec spec = spec_of("abcdefghijklmnop", cmd);
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        start_spec(w, &spec);
        finish(w);
        w->engine->ops->remove(w->c);
        assert_non_null(strstr(w->fake.created.data, "\"ExtraHosts\":[\"abcdefghijkl:127.0.0.1\"]"));
        assert_non_null(strstr(w->fake.created.data, "\"Hostname\":\"abcdefghijkl\""));
        assert_non_null(strstr(w->fake.created.data, "\"Cmd\":[\"a\\u0001b\"]"));
        assert_non_null(strstr(w->fake.created.data, "\"CgroupnsMode\":\"private\""));
        spec.id = "second";
        spec.network = ENGINE_NET_NAT;
        start_spec(w, &spec);
        finish(w);
        w->engine->ops->remove(w->c);
        assert_null(strstr(w->fake.created.data, "ExtraHosts"));
        assert_false(found(w, "control groups"));
        expect(w, "create?name=test-third", 1, 201,
               "{\"Id\":\"x\",\"Warnings\":[\"Your kernel does not support cgroup namespaces.  Cgroup namespace "
               "setting "
               "discarded.\"]}");
        run(w, "third");
        w->engine->ops->remove(w->c);
        assert_true(found(w, "control groups"));
}

/* ── who owns a task's files, by a passwd that is a link ─────────────────────────────────────────────────────────── */

static int to_str(const void *bytes, size_t len, void *data)
{
        return str_add(data, bytes, len);
}

static void archive(struct str *out, const char *name, const char *text, const char *target)
{
        const struct tar_member m = { .kind = target ? TAR_KIND_SYMLINK : TAR_KIND_FILE,
                                      .path = name,
                                      .target = target ? target : "",
                                      .mode = 0644,
                                      .size = text ? strlen(text) : 0 };
        struct tar_writer tar = { .fn = to_str, .data = out };

        str_clear(out);
        assert_int_equal(tar_write_member(&tar, &m), 0);
        assert_int_equal(text ? tar_write_content(&tar, text, strlen(text)) : 0, 0);
        assert_int_equal(tar_write_end(&tar), 0);
}

/* "GET …/archive?path=" of that path, for as long as the test runs. */
static const char *archive_of(const char *method, const char *path)
{
        static char lines[16][512];
        static unsigned next;
        char *out = lines[next++ % 16];
        size_t at = (size_t)snprintf(out, sizeof(lines[0]), "%s /v1.41/containers/test-one/archive?path=", method);

        for (; *path; path++)
                at += (size_t)snprintf(out + at, sizeof(lines[0]) - at, "%%%02X", (unsigned char)*path);
        return out;
}

static void expect_archive(struct world *w, const char *path, const struct str *tar, const char *header)
{
        expect(w, archive_of("GET", path), -1, 200, tar->data);
        w->fake.answers[0].len = tar->len;
        w->fake.answers[0].header = header;
}

static uint64_t owner_of_filled(const struct world *w)
{
        struct tar_reader *r = malloc(sizeof(*r));
        const void *at = w->fake.filled.data;
        size_t len = w->fake.filled.len;
        struct tar_piece p;
        uint64_t uid;

        assert_non_null(r);
        tar_reader_init(r, NULL);
        assert_int_equal(tar_reader_next(r, &at, &len, &p, NULL), 0);
        assert_int_equal(p.event, TAR_MEMBER);
        uid = p.member.uid;
        free(r);
        return uid;
}

static void test_users_link(void **state)
{
        struct engine_file file = { .path = (char[]){ "f" }, .content = (char[]){ "x" }, .len = 1, .mode = 0644 };
        /* {"mode":134218239,"linkTarget":"/far/passwd"} */
        static const char header[] =
                "X-Docker-Container-Path-Stat: eyJtb2RlIjoxMzQyMTgyMzksImxpbmtUYXJnZXQiOiIvZmFyL3Bhc3N3ZCJ9\r\n";
        char *cmd[] = { (char[]){ "true" }, NULL };
        struct engine_spec spec = spec_of("one", cmd);
        auto_str passwd = STR_INIT, group = STR_INIT, up = STR_INIT, loop = STR_INIT;
        struct world *w = *state;

        world_open(w, 0);
        get_images(w, 1, NULL);
        archive(&passwd, "passwd", "ann:x:1234:1234::/:/bin/sh\n", NULL);
        archive(&group, "group", "", NULL);
        archive(&up, "passwd", NULL, "../../../../usr/lib/./passwd");
        archive(&loop, "passwd", NULL, "passwd");
        spec.user = "ann";
        spec.files = &file;
        spec.n_files = 1;
        expect(w, "PUT ", -1, 200, "");
        expect_archive(w, "/etc/group", &group, NULL);
        expect_archive(w, "/usr/lib/passwd", &passwd, NULL);
        expect_archive(w, "/far/passwd", &passwd, NULL);
        /* By name, never above the root. */
        expect_archive(w, "/etc/passwd", &up, NULL);
        start_spec(w, &spec);
        finish(w);
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        assert_int_equal(owner_of_filled(w), 1234);
        assert_int_equal(asked(w, archive_of("GET", "/usr/lib/passwd")), 1);
        w->engine->ops->remove(w->c);
        /* As Docker resolves it. */
        expect_archive(w, "/etc/passwd", &up, header);
        start_spec(w, &spec);
        finish(w);
        assert_int_equal(w->exit.end, ENGINE_END_EXITED);
        assert_int_equal(asked(w, archive_of("GET", "/far/passwd")), 1);
        w->engine->ops->remove(w->c);
        /* One that leads to itself ends. */
        str_clear(&w->fake.log);
        expect_archive(w, "/etc/passwd", &loop, NULL);
        start_spec(w, &spec);
        finish(w);
        assert_int_equal(w->exit.end, ENGINE_END_START_ERROR);
        assert_non_null(strstr(w->exit.text, "ann"));
        assert_int_equal(asked(w, archive_of("GET", "/etc/passwd")), 9);
        w->engine->ops->remove(w->c);
}

/* ── Podman ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void podman_open(struct world *w)
{
        expect(w, "GET /version", -1, 200,
               "{\"ApiVersion\":\"1.41\",\"Version\":\"4.3.1\",\"Components\":[{\"Name\":\"Podman Engine\"}]}");
        world_open(w, 0);
        get_images(w, 1, NULL);
}

struct copied {
        bool done;
        int r;
};

static void on_copied(int r, const struct err *err, void *data)
{
        struct copied *k = data;

        (void)err;
        k->done = true;
        k->r = r;
}

static int copy_out(struct world *w, const char *path, struct tar_piece *p, struct tar_reader *r, struct str *tar)
{
        const struct engine_copy_limits limits = { 1 << 20, 10, NS_PER_S };
        auto_fd fd = memfd_create("tar", MFD_CLOEXEC);
        struct copied k = { .done = false };
        char buf[8192];
        const void *at;
        ssize_t n;
        size_t len;

        assert_int_equal(w->engine->ops->copy_out(w->c, path, &limits, fd, on_copied, &k, NULL), 0);
        turn_until(w, &k.done);
        n = pread(fd, buf, sizeof(buf), 0);
        str_clear(tar);
        assert_int_equal(str_add(tar, buf, (size_t)MAX(n, 0)), 0);
        at = tar->data;
        len = tar->len;
        tar_reader_init(r, NULL);
        if (k.r == 0)
                assert_int_equal(tar_reader_next(r, &at, &len, p, NULL), 0);
        return k.r;
}

/* A link at the end is archived as such: what it leads to is not asked for. */
static void test_podman_links(void **state)
{
        /* {"mode":134218239,"linkTarget":"/far/passwd"}, {"mode":420,"linkTarget":"/etc/f"} */
        static const char link[] =
                "X-Docker-Container-Path-Stat: eyJtb2RlIjoxMzQyMTgyMzksImxpbmtUYXJnZXQiOiIvZmFyL3Bhc3N3ZCJ9\r\n",
                          file[] = "X-Docker-Container-Path-Stat: eyJtb2RlIjo0MjAsImxpbmtUYXJnZXQiOiIvZXRjL2YifQ==\r\n";
        struct tar_reader *r = malloc(sizeof(*r));
        auto_str tar = STR_INIT, tree = STR_INIT;
        struct tar_piece p = { .event = TAR_MORE, .member = { .path = "" } };
        struct world *w = *state;

        assert_non_null(r);
        podman_open(w);
        run(w, "one");
        archive(&tree, "passwd", "root", NULL);
        expect_archive(w, "/etc/l", &tree, link);
        assert_int_equal(copy_out(w, "/etc/l", &p, r, &tar), 0);
        assert_int_equal(p.member.kind, TAR_KIND_SYMLINK);
        assert_string_equal(p.member.path, "l");
        assert_string_equal(p.member.target, "/far/passwd");
        expect(w, archive_of("GET", "/etc/none/"), 1, 404, "{\"message\":\"no such file or directory\"}");
        w->fake.answers[0].header = link;
        assert_int_equal(copy_out(w, "/etc/none/", &p, r, &tar), 0);
        assert_string_equal(p.member.path, "none");
        expect_archive(w, "/etc/f", &tree, file);
        assert_int_equal(copy_out(w, "/etc/f", &p, r, &tar), 0);
        assert_int_equal(p.member.kind, TAR_KIND_FILE);
        expect(w, archive_of("GET", "/etc/gone"), 1, 404, "{\"message\":\"no such file or directory\"}");
        assert_int_equal(copy_out(w, "/etc/gone", &p, r, &tar), -ENOENT);
        w->engine->ops->remove(w->c);
        free(r);
}

/* Each connection of a live container is one stream, whatever comes by it. */
static void test_podman_live(void **state)
{
        struct world *w = *state;
        struct engine_output out;

        podman_open(w);
        hold_open(w);
        start_as(w, "one", true, -EBADF, NULL);
        wait_for(w, "/start", 1);
        turns(w, 5);
        assert_int_equal(w->fake.n_attaches, 2);
        for (int i = 0; i < 2; i++) {
                fake_write(w->fake.attaches[i], "\1\0\0\0\0\0\0\3out\2\0\0\0\0\0\0\2er", 21);
                turns(w, 2);
                conn_close(w->fake.attaches[i]);
        }
        finish(w);
        w->engine->ops->attach(w->c, ENGINE_STDOUT, &out);
        assert_int_equal(out.total, 3);
        w->engine->ops->attach(w->c, ENGINE_STDERR, &out);
        assert_int_equal(out.total, 2);
        w->engine->ops->remove(w->c);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_adoption, setup, teardown),
                cmocka_unit_test_setup_teardown(test_strangers, setup, teardown),
                cmocka_unit_test_setup_teardown(test_older, setup, teardown),
                cmocka_unit_test_setup_teardown(test_ahead_of_older, setup, teardown),
                cmocka_unit_test_setup_teardown(test_strangers_go, setup, teardown),
                cmocka_unit_test_setup_teardown(test_recount_older, setup, teardown),
                cmocka_unit_test_setup_teardown(test_node_by_records, setup, teardown),
                cmocka_unit_test_setup_teardown(test_start_unsure, setup, teardown),
                cmocka_unit_test_setup_teardown(test_start_recorded, setup, teardown),
                cmocka_unit_test_setup_teardown(test_node_lost, setup, teardown),
                cmocka_unit_test_setup_teardown(test_node_file, setup, teardown),
                cmocka_unit_test_setup_teardown(test_node, setup, teardown),
                cmocka_unit_test_setup_teardown(test_node_recorded, setup, teardown),
                cmocka_unit_test_setup_teardown(test_body, setup, teardown),
                cmocka_unit_test_setup_teardown(test_users_link, setup, teardown),
                cmocka_unit_test_setup_teardown(test_podman_links, setup, teardown),
                cmocka_unit_test_setup_teardown(test_podman_live, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
