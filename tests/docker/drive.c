/* Drives the Docker engine alone, without tasks: commands come as lines of JSON on stdin, what happens goes as such to stdout.
 * The tests beside it start it, kill it, and put a proxy between it and Docker.
 *
 *   {"op":"run","id":ID,"image":REF, "cmd":[…], "pull":"always","never", "username", "password", "stdin":TEXT,
 *    "output":BYTES, "memory":BYTES, "network":"none", "init":true, "keep":true, "discard":true, "file":{PATH:TEXT}, "env":[…]}
 *   {"op":"signal","id":ID,"signo":N}   {"op":"remove","id":ID}   {"op":"stats","id":ID}
 *   {"op":"exec","id":NEW,"in":ID,"cmd":[…]}
 *   {"op":"in"|"out","id":ID,"path":PATH,"tar":FILE}   {"op":"load","tar":FILE}
 *   {"op":"attach"|"detach","id":ID,"network":NAME}
 *   {"op":"pull","id":ANY,"image":REF,…}   {"op":"about"}   {"op":"check"}   {"op":"quit"} */

#include "base/fd.h"
#include "base/log.h"
#include "base/map.h"
#include "base/time.h"
#include "engine/docker/docker.h"
#include "json/json.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES (1 << 20)
#define OUTPUT_DEFAULT (1 << 20)
#define COPY_BYTES (64 << 20)

struct drive {
        struct loop *loop;
        struct engine *engine;
        const char *out; /* directory of outputs */
        struct str input;
        struct map *runs;
        struct engine_events events;
        bool listed, quit;
};

struct run {
        struct drive *drive;
        char id[64];
        json_t *request;
        struct engine_container *c;
        bool ended, only_pull;
};

struct asked {
        struct drive *drive;
        char op[16], id[64];
        int fd;
};

/* ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void tell(json_t *o)
{
        auto_str line = STR_INIT;

        if (json_write(o, &line) == 0 && str_addc(&line, '\n') == 0)
                (void)fd_write_all(STDOUT_FILENO, line.data, line.len);
        json_decref(o);
}

static void tell_done(const char *op, const char *id, int r, const struct err *err)
{
        tell(json_pack("{s:s, s:s, s:i, s:s}", "done", op, "id", id, "r", r, "text", r < 0 ? err->text : ""));
}

static const char *text_of(const json_t *o, const char *name)
{
        return json_string_value(json_object_get(o, name));
}

static char **strings_of(const json_t *o, const char *name)
{
        const json_t *list = json_object_get(o, name);
        char **v = NULL;

        for (size_t i = 0; i < json_array_size(list); i++)
                (void)strv_add(&v, json_string_value(json_array_get(list, i)));
        return v;
}

/* ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct run *run_new(struct drive *d, const char *id)
{
        struct run *run = calloc(1, sizeof(*run));

        if (!run)
                exit(2);
        run->drive = d;
        (void)snprintf(run->id, sizeof(run->id), "%s", id ? id : "");
        (void)map_set(d->runs, run->id, run);
        return run;
}

static void run_free(struct run *run)
{
        (void)map_remove(run->drive->runs, run->id);
        if (run->c)
                run->drive->engine->ops->remove(run->c);
        json_decref(run->request);
        free(run);
}

static void save(const struct run *run, enum engine_stream stream, struct engine_output *o)
{
        auto_free char *path = str_printf("%s/%s.%d", run->drive->out, run->id, stream + 1);
        bool discard = json_is_true(json_object_get(run->request, "discard"));
        auto_fd fd = path && !discard ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -EBADF;
        static char buf[1 << 16];
        off_t at = 0;
        ssize_t n;

        run->drive->engine->ops->attach(run->c, stream, o);
        while (fd >= 0 && (n = pread(o->fd, buf, sizeof(buf), at)) > 0) {
                (void)fd_write_all(fd, buf, (size_t)n);
                at += n;
        }
}

static void on_exited(struct engine_container *c, const struct engine_exit *e, void *data)
{
        static const char *const ends[] = {
                "exited", "signaled", "not_found", "not_executable", "start_error", "lost"
        };
        struct run *run = data;
        struct engine_output out, err;

        (void)c;
        save(run, ENGINE_STDOUT, &out);
        save(run, ENGINE_STDERR, &err);
        run->ended = true;
        tell(json_pack("{s:s, s:s, s:i, s:i, s:b, s:s, s:I, s:I, s:I, s:I, s:I}", "ended", run->id, "end", ends[e->end],
                       "code", e->code, "signo", e->signo, "oom", (int)e->oom, "text", e->text, "stdout",
                       (json_int_t)out.total, "stderr", (json_int_t)err.total, "kept_out", (json_int_t)out.kept,
                       "kept_err", (json_int_t)err.kept, "ns",
                       (json_int_t)(e->create_mono_ns ? e->end_mono_ns - e->create_mono_ns : 0)));
        if (!json_is_true(json_object_get(run->request, "keep")))
                run_free(run);
}

static void failed(struct run *run, const char *step, int r, const struct err *err)
{
        tell(json_pack("{s:s, s:s, s:i, s:s}", "failed", run->id, "step", step, "r", r, "text", err->text));
        run_free(run);
}

static size_t files_of(const json_t *o, struct engine_file out[16])
{
        size_t n = 0;
        const char *path;
        json_t *text;

        json_object_foreach(json_object_get(o, "file"), path, text) {
                if (n == 16)
                        break;
                out[n++] = (struct engine_file){ .path = (char *)(uintptr_t)path,
                                                 .content = (char *)(uintptr_t)json_string_value(text),
                                                 .len = json_string_length(text),
                                                 .mode = 0644 };
        }
        return n;
}

static uint64_t number_of(const json_t *o, const char *name, uint64_t otherwise)
{
        const json_t *n = json_object_get(o, name);

        return json_is_integer(n) ? (uint64_t)json_integer_value(n) : otherwise;
}

static void on_image(int r, const struct engine_image *image, const struct err *image_err, void *data)
{
        struct run *run = data;
        const json_t *o = run->request;
        const struct engine_ops *ops = run->drive->engine->ops;
        auto_strv cmd = strings_of(o, "cmd");
        auto_strv env = strings_of(o, "env");
        const char *in = text_of(o, "stdin");
        struct engine_file files[16];
        struct err err = ERR_INIT;
        struct engine_spec spec = {
                .id = run->id,
                .owner = "drive",
                .cmd = cmd,
                .env = env,
                .user = text_of(o, "user"),
                .workdir = text_of(o, "workdir"),
                .stdin_fd = -EBADF,
                .stdin_data = in,
                .stdin_len = in ? strlen(in) : 0,
                .files = files,
                .n_files = files_of(o, files),
                .limits = { .memory = number_of(o, "memory", 128 << 20),
                            .disk = 64 << 20,
                            .shm = 16 << 20,
                            .cpu_milli = 1000,
                            .pids = 128,
                            .output = number_of(o, "output", OUTPUT_DEFAULT) },
                .network = str_eq(text_of(o, "network"), "nat") ? ENGINE_NET_NAT : ENGINE_NET_NONE,
                .init = json_is_true(json_object_get(o, "init")),
                .record = run->id,
                .record_len = strlen(run->id),
        };

        if (r < 0) {
                failed(run, "image", r, image_err);
                return;
        }
        if (run->only_pull) {
                tell(json_pack("{s:s, s:s, s:s, s:s}", "pulled", run->id, "ref", image->ref, "digest", image->digest));
                run_free(run);
                return;
        }
        spec.digest = image->digest;
        r = ops->create(run->drive->engine, &spec, &run->drive->events, run, &run->c, &err);
        if (r < 0) {
                failed(run, "create", r, &err);
                return;
        }
        r = ops->start(run->c, &err);
        if (r < 0)
                failed(run, "start", r, &err);
}

static void op_run(struct drive *d, json_t *o, bool only_pull)
{
        const char *pull = text_of(o, "pull");
        const struct engine_image_request q = {
                .ref = text_of(o, "image"),
                .owner = "drive",
                .pull = str_eq(pull, "always")  ? ENGINE_PULL_ALWAYS
                        : str_eq(pull, "never") ? ENGINE_PULL_NEVER
                                                : ENGINE_PULL_MISSING,
                .username = text_of(o, "username"),
                .password = text_of(o, "password"),
        };
        struct run *run = run_new(d, text_of(o, "id"));
        struct err err = ERR_INIT;
        int r;

        run->request = json_incref(o);
        run->only_pull = only_pull;
        r = d->engine->ops->ensure_image(d->engine, &q, on_image, run, &err);
        if (r < 0)
                failed(run, "image", r, &err);
}

/* ── what else can be asked ──────────────────────────────────────────────────────────────────────────────────────── */

static struct asked *asked_new(struct drive *d, const json_t *o)
{
        struct asked *a = calloc(1, sizeof(*a));
        const char *id = text_of(o, "id"), *tar = text_of(o, "tar");

        if (!a)
                exit(2);
        a->drive = d;
        (void)snprintf(a->op, sizeof(a->op), "%s", text_of(o, "op"));
        (void)snprintf(a->id, sizeof(a->id), "%s", id ? id : "");
        a->fd = tar ? open(tar, str_eq(a->op, "out") ? O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC : O_RDONLY | O_CLOEXEC,
                           0600)
                    : -EBADF;
        return a;
}

static void on_done(int r, const struct err *err, void *data)
{
        struct asked *a = data;

        tell_done(a->op, a->id, r, err);
        fd_close(a->fd);
        free(a);
}

static void on_stats(int r, const struct engine_stats *stats, const struct err *err, void *data)
{
        struct asked *a = data;

        if (r == 0)
                tell(json_pack("{s:s, s:s, s:i, s:I, s:I}", "done", a->op, "id", a->id, "r", 0, "memory",
                               (json_int_t)stats->memory_now, "cpu", (json_int_t)stats->cpu_ns));
        else
                tell_done(a->op, a->id, r, err);
        fd_close(a->fd);
        free(a);
}

static void op_exec(struct drive *d, json_t *o, struct run *in)
{
        struct run *run = run_new(d, text_of(o, "id"));
        auto_strv cmd = strings_of(o, "cmd");
        struct err err = ERR_INIT;
        int r = in ? d->engine->ops->exec(in->c, cmd, &d->events, run, &run->c, &err) : err_set(&err, ESRCH, "no run");

        run->request = json_incref(o);
        if (r < 0)
                failed(run, "exec", r, &err);
}

static int ask(struct drive *d, const json_t *o, struct run *run, struct asked *a, struct err *err)
{
        const struct engine_copy_limits limits = { COPY_BYTES, 10000, 60 * NS_PER_S };
        const struct engine_ops *ops = d->engine->ops;
        const char *path = text_of(o, "path"), *network = text_of(o, "network");

        if (str_eq(a->op, "load"))
                return engine_docker_load(d->engine, a->fd, on_done, a, err);
        if (!run || !run->c)
                return err_set(err, ESRCH, "no run");
        if (str_eq(a->op, "stats"))
                return ops->stats(run->c, on_stats, a, err);
        if (str_eq(a->op, "in"))
                return ops->copy_in(run->c, path, a->fd, on_done, a, err);
        if (str_eq(a->op, "out"))
                return ops->copy_out(run->c, path, &limits, a->fd, on_done, a, err);
        if (str_eq(a->op, "attach"))
                return ops->network_attach(run->c, network, on_done, a, err);
        if (str_eq(a->op, "detach"))
                return ops->network_detach(run->c, network, on_done, a, err);
        if (str_eq(a->op, "signal")) {
                int r = ops->signal(run->c, (int)number_of(o, "signo", SIGKILL), err);

                if (r == 0)
                        on_done(0, err, a);
                return r;
        }
        return err_set(err, EINVAL, "no such op");
}

static void op_about(struct drive *d)
{
        struct engine_docker_about about;
        struct err err = ERR_INIT;
        json_t *findings = json_array();

        engine_docker_about(d->engine, &about);
        for (size_t i = 0; i < about.n_findings; i++)
                (void)json_array_append_new(findings, json_string(about.findings[i]));
        tell(json_pack("{s:{s:s, s:s, s:s, s:o}, s:i, s:s}", "about", "product", about.product, "version",
                       about.version, "api", about.api, "findings", findings, "check",
                       d->engine->ops->check(d->engine, &err), "text", err.text));
}

static void command(struct drive *d, json_t *o)
{
        const char *op = text_of(o, "op"), *in = text_of(o, "in");
        struct run *run = map_find(d->runs, in ? in : text_of(o, "id") ? text_of(o, "id") : "");
        struct err err = ERR_INIT;
        struct asked *a;
        int r;

        if (str_eq(op, "quit")) {
                d->quit = true;
        } else if (str_eq(op, "run") || str_eq(op, "pull")) {
                op_run(d, o, str_eq(op, "pull"));
        } else if (str_eq(op, "exec")) {
                op_exec(d, o, run);
        } else if (str_eq(op, "remove")) {
                if (run)
                        run_free(run);
        } else if (str_eq(op, "about") || str_eq(op, "check")) {
                op_about(d);
        } else if (op) {
                a = asked_new(d, o);
                r = ask(d, o, run, a, &err);
                if (r < 0)
                        on_done(r, &err, a);
        }
}

/* ── program ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_stdin(struct loop_io *io, uint32_t events, void *data)
{
        static char buf[1 << 16];
        struct drive *d = data;
        ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
        char *nl;

        (void)io;
        (void)events;
        if (n <= 0 || d->input.len > LINE_MAX_BYTES || str_add(&d->input, buf, (size_t)n) < 0) {
                d->quit = true;
                return;
        }
        while ((nl = memchr(d->input.data, '\n', d->input.len))) {
                size_t len = (size_t)(nl - d->input.data);
                auto_json o = NULL;

                if (json_read(d->input.data, len, &o, NULL) == 0)
                        command(d, o);
                memmove(d->input.data, nl + 1, d->input.len - len - 1);
                d->input.len -= len + 1;
        }
}

static void on_found(struct engine_container *c, const char *id, const void *record, size_t len, void *data)
{
        struct drive *d = data;
        struct run *run = run_new(d, id);

        run->request = json_object();
        run->c = c;
        engine_container_watch(c, &d->events, run);
        tell(json_pack("{s:s, s:s%}", "found", id, "record", (const char *)record, len));
}

static void on_listed(int r, const struct err *err, void *data)
{
        struct drive *d = data;

        d->listed = true;
        tell_done("list", "", r, err);
}

static const char *option(int argc, char **argv, const char *name)
{
        for (int i = 1; i + 1 < argc; i += 2)
                if (str_eq(argv[i], name))
                        return argv[i + 1];
        return NULL;
}

int main(int argc, char **argv)
{
        const char *prewarm = option(argc, argv, "--prewarm"), *lost = option(argc, argv, "--lost");
        const char *seconds = option(argc, argv, "--timeout");
        struct engine_docker_config config = {
                .host = option(argc, argv, "--host"),
                .name = option(argc, argv, "--name"),
                .records = option(argc, argv, "--records"),
                .tls_ca = option(argc, argv, "--ca"),
                .tls_cert = option(argc, argv, "--cert"),
                .tls_key = option(argc, argv, "--key"),
                .prewarm = prewarm ? (unsigned)strtoul(prewarm, NULL, 10) : 0,
                .lost_ns = lost ? strtoul(lost, NULL, 10) * NS_PER_S : 0,
                .timeout_s = seconds ? (unsigned)strtoul(seconds, NULL, 10) : 0,
        };
        struct drive d = { .out = option(argc, argv, "--out"), .events = { .exited = on_exited } };
        struct loop_io *io = NULL;
        struct err err = ERR_INIT;
        size_t pos = 0;
        const char *key;
        void *run;

        (void)signal(SIGPIPE, SIG_IGN);
        if (getenv("MAYFLY_DEBUG"))
                log_set_level(LOG_LEVEL_DEBUG);
        if (!config.name || !config.records || !d.out) {
                (void)fprintf(stderr,
                              "usage: docker-drive --host HOST --name NAME --records DIR --out DIR [--prewarm N] "
                              "[--ca FILE --cert FILE --key FILE] [--lost SECONDS] [--timeout SECONDS]\n");
                return 2;
        }
        d.runs = map_new();
        if (!d.runs || loop_new(&d.loop, &err) < 0 || engine_docker_new(d.loop, &config, &d.engine, &err) < 0 ||
            d.engine->ops->list(d.engine, on_found, on_listed, &d, &err) < 0 ||
            loop_io_add(d.loop, STDIN_FILENO, EPOLLIN, on_stdin, &d, &io, &err) < 0) {
                (void)fprintf(stderr, "%s\n", err.text);
                return 1;
        }
        while (!d.quit && loop_turn(d.loop, 1000, &err) >= 0)
                ;
        while (map_next(d.runs, &pos, &key, &run)) {
                json_decref(((struct run *)run)->request);
                free(run);
        }
        d.engine->ops->free(d.engine);
        loop_io_remove(io);
        loop_free(d.loop);
        map_free(d.runs);
        str_done(&d.input);
        return 0;
}
