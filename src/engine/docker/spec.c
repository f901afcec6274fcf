/* From what is to run to the body of POST /containers/create: a part that is the same for all that run the same, and one's own. */

#include "engine/docker/internal.h"

#include <errno.h>
#include <string.h>

#define SPEC_MEMORY_MIN (UINT64_C(6) * 1024 * 1024) /* Docker refuses less */
#define SPEC_HOSTNAME 12                            /* characters of the id */
#define SPEC_OWN "\1"                               /* stands for the hostname; JSON writes that byte otherwise */
#define SPEC_LOG_MIN (UINT64_C(1) << 20)
#define SPEC_LOG_MAX (UINT64_C(256) << 20)

static int add_string(struct str *out, const char *text, struct err *err)
{
        if (!utf8_valid(text, strlen(text)))
                return err_set(err, EINVAL, "a text that is not UTF-8, which Docker does not take");
        return json_add_string(out, text, strlen(text)) < 0 ? err_oom(err) : 0;
}

static int add_member(struct str *out, const char *name, const char *value, struct err *err)
{
        if (str_addf(out, ",\"%s\":", name) < 0)
                return err_oom(err);
        return add_string(out, value, err);
}

static int add_list(struct str *out, const char *name, char *const *items, struct err *err)
{
        int r = str_addf(out, ",\"%s\":[", name);

        for (size_t i = 0; r == 0 && items[i]; i++) {
                r = i > 0 ? str_addc(out, ',') : 0;
                if (r == 0)
                        r = add_string(out, items[i], err);
                if (r == -EINVAL)
                        return r;
        }
        if (r == 0)
                r = str_addc(out, ']');
        return r < 0 ? err_oom(err) : 0;
}

/* The driver `local` keeps bytes as they are (json-file makes UTF-8 of them), as Podman's k8s-file does. Each line costs some 30
 * bytes more. */
static int add_log(const struct docker *d, struct str *out, uint64_t output)
{
        uint64_t size = MIN(MAX(MIN(output, SPEC_LOG_MAX) * 4, SPEC_LOG_MIN), SPEC_LOG_MAX);

        return str_addf(out, ",\"LogConfig\":{\"Type\":\"%s\",\"Config\":{\"max-size\":\"%llu\"%s}}",
                        d->podman ? "k8s-file" : "local", (unsigned long long)size,
                        d->podman ? "" : ",\"max-file\":\"1\",\"compress\":\"false\"");
}

/* As the native engine isolates, as far as Docker has it: seccomp, masked and read-only paths are Docker's own. */
static int add_host(const struct docker *d, struct str *out, const struct engine_spec *spec)
{
        const struct engine_limits *l = &spec->limits;
        unsigned long long memory = MAX(l->memory, SPEC_MEMORY_MIN);
        const char *network = spec->network == ENGINE_NET_NONE ? "none" : "bridge";
        int r = str_addf(
                out,
                ",\"HostConfig\":{\"NetworkMode\":\"%s\",\"Memory\":%llu,\"MemorySwap\":%llu,\"NanoCpus\":%llu,"
                "\"PidsLimit\":%u,\"ShmSize\":%llu,\"IpcMode\":\"private\",\"CgroupnsMode\":\"private\",\"Init\":%s",
                network, memory, memory, (unsigned long long)l->cpu_milli * 1000000, l->pids,
                (unsigned long long)l->shm, spec->init ? "true" : "false");

        if (r == 0)
                r = str_adds(out, ",\"CapDrop\":[\"ALL\"],\"CapAdd\":[\"CHOWN\",\"DAC_OVERRIDE\",\"FOWNER\",\"FSETID\","
                                  "\"KILL\",\"SETGID\",\"SETUID\",\"SETPCAP\",\"NET_BIND_SERVICE\",\"SYS_CHROOT\","
                                  "\"SETFCAP\"],\"SecurityOpt\":[\"no-new-privileges\"],"
                                  "\"RestartPolicy\":{\"Name\":\"no\"}");
        /* Podman would put those that were configured out of force. */
        if (r == 0 && !d->podman)
                r = str_adds(out, ",\"Ulimits\":[{\"Name\":\"core\",\"Soft\":0,\"Hard\":0}]");
        if (r == 0)
                r = add_log(d, out, l->output);
        /* Where there is a network Docker writes the line itself, with the address. */
        if (r == 0 && spec->network == ENGINE_NET_NONE)
                r = str_adds(out, ",\"ExtraHosts\":[\"" SPEC_OWN ":127.0.0.1\"]");
        return r == 0 ? str_addc(out, '}') : r;
}

int docker_spec_build(const struct docker *d, const struct docker_container *c, const struct engine_spec *spec,
                      struct str *out, struct err *err)
{
        const char *in = c->has_stdin ? "true" : "false";
        int r = str_adds(out, "\"Image\":");

        r = r < 0 ? err_oom(err) : add_string(out, spec->digest, err);
        if (r == 0 && spec->cmd)
                r = add_list(out, "Cmd", spec->cmd, err);
        if (r == 0 && spec->entrypoint)
                r = add_list(out, "Entrypoint", spec->entrypoint, err);
        if (r == 0 && spec->env)
                r = add_list(out, "Env", spec->env, err);
        if (r == 0 && spec->workdir)
                r = add_member(out, "WorkingDir", spec->workdir, err);
        if (r == 0 && spec->user)
                r = add_member(out, "User", spec->user, err);
        if (r < 0)
                return r;
        if (str_addf(out,
                     ",\"AttachStdout\":true,\"AttachStderr\":true,\"AttachStdin\":%s,"
                     "\"OpenStdin\":%s,\"StdinOnce\":%s,\"Tty\":false,\"Healthcheck\":{\"Test\":[\"NONE\"]},"
                     "\"Hostname\":\"" SPEC_OWN "\"",
                     in, in, in) < 0 ||
            add_host(d, out, spec) < 0)
                return err_oom(err);
        return 0;
}

int docker_spec_own(const struct docker *d, const char *shared, const char *id, const char *task, struct str *out)
{
        int r = str_addc(out, '{');

        while (r == 0 && *shared) {
                size_t n = strcspn(shared, SPEC_OWN);

                r = str_add(out, shared, n);
                shared += n;
                if (r == 0 && *shared) {
                        r = str_addf(out, "%.*s", SPEC_HOSTNAME, id);
                        shared++;
                }
        }
        if (r == 0)
                r = str_addf(out, ",\"Labels\":{\"" DOCKER_LABEL_INSTANCE "\":\"%s\",\"" DOCKER_LABEL_NODE "\":\"%s\"",
                             d->name, d->node);
        if (r == 0 && task)
                r = str_addf(out, ",\"" DOCKER_LABEL_TASK "\":\"%s\"", task);
        return r == 0 ? str_adds(out, "}}") : r;
}
