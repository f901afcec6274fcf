/* A further process in a container: POST /containers/ID/exec, POST /exec/ID/start (hijacked), GET /exec/ID/json. It is a container
 * of the engine's that has no record, and that Docker deletes with the one it is in. */

#include "engine/docker/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EXEC_LAG_NS (10 * NS_PER_MS) /* Docker may say that it runs for a while after its output has ended */
#define EXEC_END_NS (30 * NS_PER_S)
#define EXEC_CLOSED_NS NS_PER_S /* between questions of one that has closed its output, and runs on */

static void look(struct docker_container *c);

static void on_look(struct loop_timer *timer, void *data)
{
        (void)timer;
        look(data);
}

/* Docker writes why there is no process into its stdout, Podman into its stderr. */
static bool never_ran(struct docker_container *c, int code)
{
        bool docker = docker_output_begins(c, ENGINE_STDOUT, "OCI runtime exec failed");
        bool podman = docker_output_begins(c, ENGINE_STDERR, "Error: ") &&
                      docker_output_holds(c, ENGINE_STDERR, "OCI runtime attempted to invoke a command that");
        enum engine_stream stream = docker ? ENGINE_STDOUT : ENGINE_STDERR;
        char text[256];
        ssize_t n;

        if ((code != 126 && code != 127) || (!docker && !podman))
                return false;
        n = docker_output_read(c, stream, text, sizeof(text) - 1);
        text[MAX(n, 0)] = '\0';
        text[strcspn(text, "\r\n")] = '\0';
        docker_output_drop(c, stream);
        docker_container_failed(c, docker_start_end(text), code == 127 ? ENOENT : EACCES, text);
        return true;
}

static void on_seen(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;
        struct engine_exit e = { .end = ENGINE_END_EXITED, .start_mono_ns = c->start_ns };
        struct docker_run_state state;

        c->call = NULL;
        if (r < 0) {
                docker_container_failed(c, ENGINE_END_LOST, 0, err->text);
                return;
        }
        if (call->status != 200 || docker_exec_read(call->body.data, call->body.len, &state) < 0) {
                docker_container_failed(c, ENGINE_END_LOST, 0, "the container has gone");
                return;
        }
        if (state.running) {
                uint64_t now = time_mono_ns(), in = now - c->gone_ns < EXEC_END_NS ? EXEC_LAG_NS : EXEC_CLOSED_NS;

                if (loop_timer_set(c->docker->loop, &c->timer, now + in, on_look, c) < 0)
                        docker_container_failed(c, ENGINE_END_LOST, 0, "out of memory");
                return;
        }
        e.code = state.code;
        if (!never_ran(c, e.code))
                docker_container_ended(c, &e);
}

static void look(struct docker_container *c)
{
        auto_free char *path = str_printf("/exec/%s/json", c->exec);
        const struct docker_request q = { .method = "GET", .path = path };
        struct err err = ERR_INIT;

        if (!path || docker_call(c->docker, &q, on_seen, c, &c->call, &err) < 0)
                docker_container_failed(c, ENGINE_END_LOST, 0, "out of memory");
}

void docker_exec_ended(struct docker_container *c)
{
        c->state = DOCKER_INSPECTING;
        c->gone_ns = time_mono_ns();
        look(c);
}

static void on_created(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker_container *c = data;
        struct err fault = ERR_INIT;
        char text[200], id[DOCKER_EXEC_ID_MAX + 1];

        c->call = NULL;
        if (r < 0) {
                docker_container_failed(c, ENGINE_END_START_ERROR, -r, err->text);
                return;
        }
        docker_call_message(call, text, sizeof(text));
        if (call->status != 201 || docker_exec_id_read(call->body.data, call->body.len, id) < 0) {
                docker_container_failed(c, ENGINE_END_START_ERROR,
                                        call->status == 404 || call->status == 409 ? ESRCH : EREMOTEIO, text);
                return;
        }
        c->exec = strdup(id);
        c->state = DOCKER_ATTACHING;
        r = c->exec ? docker_streams_open(c, &fault) : err_oom(&fault);
        if (r < 0)
                docker_container_failed(c, ENGINE_END_START_ERROR, -r, fault.text);
}

static int exec_body(char *const *argv, struct str *out, struct err *err)
{
        int r = str_adds(out, "{\"AttachStdout\":true,\"AttachStderr\":true,\"Tty\":false,\"Cmd\":[");

        for (size_t i = 0; r == 0 && argv[i]; i++) {
                size_t len = strlen(argv[i]);

                if (!utf8_valid(argv[i], len))
                        return err_set(err, EINVAL, "a text that is not UTF-8, which Docker does not take");
                r = i > 0 ? str_addc(out, ',') : 0;
                if (r == 0)
                        r = json_add_string(out, argv[i], len);
        }
        if (r == 0)
                r = str_adds(out, "]}");
        return r < 0 ? err_oom(err) : 0;
}

/* The process belongs to nobody who could be paused or asked for stdin. */
int docker_container_exec(struct engine_container *base, char *const *argv, const struct engine_events *events,
                          void *data, struct engine_container **ret, struct err *err)
{
        struct docker_container *in = CONTAINER_OF(base, struct docker_container, base), *c;
        auto_free char *path = str_printf("/containers/%s/exec", in->name);
        struct docker_request q = { .method = "POST", .path = path };
        auto_str body = STR_INIT;
        int r;

        if (in->state < DOCKER_RUNNING || in->state >= DOCKER_INSPECTING || in->is_exec)
                return err_set(err, ESRCH, "container %s does not run", in->id);
        if (!argv || !argv[0])
                return err_set(err, EINVAL, "no command");
        r = path ? exec_body(argv, &body, err) : err_oom(err);
        if (r < 0)
                return r;
        c = docker_container_new(in->docker, in->id, err);
        if (!c)
                return -ENOMEM;
        c->is_exec = true;
        c->state = DOCKER_CREATING;
        c->create_ns = time_mono_ns();
        c->output_limit = in->output_limit;
        (void)snprintf(c->name, sizeof(c->name), "%s", in->name);
        c->workdir = strdup("/");
        q.body = body.data;
        q.body_len = body.len;
        r = c->workdir ? docker_output_open(c, err) : err_oom(err);
        if (r == 0)
                r = docker_call(c->docker, &q, on_created, c, &c->call, err);
        if (r < 0) {
                docker_container_free(c);
                return r;
        }
        c->base.events = events;
        c->base.data = data;
        *ret = &c->base;
        return 0;
}
