/* What is known of the host (GET /version, GET /info), and what of it weakens or hinders tasks. */

#include "engine/docker/internal.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define INFO_MINOR_MIN 41
#define INFO_MINOR_MAX 51 /* what is known of the API */

/* ── /version ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int minor_of(const char *text, uint32_t *ret)
{
        return text && str_starts(text, "1.") ? parse_u32(text + 2, ret) : -EINVAL;
}

static void plain(char *out, size_t size, const char *text)
{
        (void)snprintf(out, size, "%s", text ? text : "");
        for (char *p = out; *p; p++)
                if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
                        *p = '?';
}

/* Podman names itself in the list of what it is made of. */
static bool is_podman(const json_t *version)
{
        const json_t *parts = json_object_get(version, "Components");

        for (size_t i = 0; i < json_array_size(parts); i++) {
                const char *name = json_string_value(json_object_get(json_array_get(parts, i), "Name"));

                if (name && strstr(name, "Podman"))
                        return true;
        }
        return false;
}

int docker_version_read(struct docker *d, const char *text, size_t len, struct err *err)
{
        auto_json answer = NULL;
        uint32_t newest, oldest = 0;
        const char *least;

        if (json_read(text ? text : "", len, &answer, NULL) < 0 || !json_is_object(answer))
                return err_set(err, EBADMSG, "its answer is not what Docker says: is it Docker's address?");
        if (minor_of(json_string_value(json_object_get(answer, "ApiVersion")), &newest) < 0)
                return err_set(err, EBADMSG, "its version makes no sense: is it Docker's address?");
        if (newest < INFO_MINOR_MIN)
                return err_set(err, EPROTO, "its API 1.%u is older than 1.%d: Docker 20.10 or newer is needed", newest,
                               INFO_MINOR_MIN);
        least = json_string_value(json_object_get(answer, "MinAPIVersion"));
        if (least && minor_of(least, &oldest) == 0 && oldest > INFO_MINOR_MAX)
                return err_set(err, EPROTO, "its API begins with 1.%u, and ours ends with 1.%d: update Mayfly", oldest,
                               INFO_MINOR_MAX);
        (void)snprintf(d->prefix, sizeof(d->prefix), "/v1.%u", MIN(newest, (uint32_t)INFO_MINOR_MAX));
        d->podman = is_podman(answer);
        plain(d->version, sizeof(d->version), json_string_value(json_object_get(answer, "Version")));
        return 0;
}

/* ── /info ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void find(struct docker *d, const char *text)
{
        char *line = d->n_findings < ENGINE_DOCKER_FINDINGS_MAX ? strdup(text) : NULL;

        if (line)
                d->findings[d->n_findings++] = line;
}

static bool is_false(const json_t *info, const char *name)
{
        return json_is_false(json_object_get(info, name));
}

static bool lists(const json_t *list, const char *part)
{
        for (size_t i = 0; i < json_array_size(list); i++) {
                const char *text = json_string_value(json_array_get(list, i));

                if (text && strstr(text, part))
                        return true;
        }
        return false;
}

static void find_isolation(struct docker *d, const json_t *info)
{
        const json_t *options = json_object_get(info, "SecurityOptions");

        if (!lists(options, "name=seccomp"))
                find(d, "containers run without seccomp: use a kernel with CONFIG_SECCOMP_FILTER, and no "
                        "seccomp-profile \"unconfined\"");
        if (!lists(options, "name=userns") && !lists(options, "name=rootless") &&
            !json_is_true(json_object_get(info, "Rootless")))
                find(d, d->podman ? "root in a container is root on the host: run Podman without root"
                                  : "root in a container is root on the host: set \"userns-remap\": \"default\" in "
                                    "/etc/docker/daemon.json, or run Docker without root");
        /* There it has the host's namespace only, whatever it is asked for (podman, pkg/specgen, ParseCgroupNamespace). */
        if (d->podman && str_eq(json_string_value(json_object_get(info, "CgroupVersion")), "1"))
                find(d, "tasks see the host's control groups in /proc/self/cgroup, and want of memory may look like "
                        "exit code "
                        "137: use cgroup version 2");
}

static void find_limits(struct docker *d, const json_t *info)
{
        static const struct {
                const char *member, *text;
        } limits[] = {
                { "MemoryLimit", "memory limits have no effect: boot with cgroup_enable=memory" },
                { "SwapLimit", "swap is not limited: boot with swapaccount=1, or use cgroup version 2" },
                { "PidsLimit", "the number of processes is not limited: use a kernel with CONFIG_CGROUP_PIDS" },
                { "CpuCfsQuota", "processor limits have no effect: use a kernel with CONFIG_CFS_BANDWIDTH" },
                { "IPv4Forwarding", "containers have no network: set net.ipv4.ip_forward=1" },
        };

        for (size_t i = 0; i < ARRAY_LEN(limits); i++)
                if (is_false(info, limits[i].member))
                        find(d, limits[i].text);
}

static void find_rest(struct docker *d, const json_t *info)
{
        const json_t *logs = json_object_get(json_object_get(info, "Plugins"), "Log");
        const char *driver = d->podman ? "k8s-file" : "local";

        if (!d->podman && is_false(info, "LiveRestoreEnabled"))
                find(d, "a restart of Docker ends the tasks: set \"live-restore\": true in /etc/docker/daemon.json");
        if (json_is_array(logs) && !lists(logs, driver))
                find(d, "the log driver that tasks' output is kept by is missing: \"local\", or Podman's \"k8s-file\"");
        if (!str_eq(json_string_value(json_object_get(info, "OSType")), "linux"))
                find(d, "its containers are not Linux containers: nothing runs there");
}

/* ── what GET /info does not tell ────────────────────────────────────────────────────────────────────────────────── */

static const char no_cgroupns[] = "tasks see the host's control groups in /proc/self/cgroup: use a kernel with cgroup "
                                  "namespaces (Linux 4.6 or newer)";

static void find_seen(struct docker *d)
{
        if (d->strangers)
                find(d, d->strangers);
        if (d->cgroups_seen)
                find(d, no_cgroupns);
}

void docker_find_cgroups(struct docker *d)
{
        if (d->cgroups_seen)
                return;
        d->cgroups_seen = true;
        find(d, no_cgroupns);
        log_warn("%s: %s", d->host.shown, no_cgroupns);
}

static void unfind(struct docker *d, const char *text)
{
        for (size_t i = 0; text && i < d->n_findings; i++) {
                if (!str_eq(d->findings[i], text))
                        continue;
                free(d->findings[i]);
                memmove(&d->findings[i], &d->findings[i + 1], (--d->n_findings - i) * sizeof(d->findings[0]));
                return;
        }
}

/* Whose they are, as far as it is known: of another node, of this one before its number was damaged, of an older daemon. */
static char *strangers_text(const struct docker *d, size_t n, const char *node, const char *name)
{
        if (d->node_lost)
                return str_printf("the number of this node was damaged (docker/.node, kept as docker/.node.damaged), "
                                  "and containers there under its name, '%s', may be its own, but are not taken over "
                                  "(%zu now): delete them when nobody uses them; to see them: docker ps -a --filter "
                                  "label=%s=%s",
                                  d->name, n, node ? DOCKER_LABEL_NODE : DOCKER_LABEL_INSTANCE, node ? node : d->name);
        if (!node && name)
                return str_printf("an older Mayfly, or another one, has left containers there under this one's name, "
                                  "'%s', without the number of a node (%zu now, one is %s): if none runs that they "
                                  "belong to: docker rm -f NAME",
                                  d->name, n, name);
        return str_printf("another Mayfly has containers there under this one's name, '%s', or had (%zu now): give "
                          "each a name of its own; to see them: docker ps -a --filter label=%s=%s",
                          d->name, n, node ? DOCKER_LABEL_NODE : DOCKER_LABEL_INSTANCE, node ? node : d->name);
}

void docker_find_strangers(struct docker *d, size_t n, const char *node, const char *name)
{
        auto_free char *before = TAKE_PTR(d->strangers);

        d->strangers_ns = time_mono_ns();
        d->strangers = n > 0 ? strangers_text(d, n, node, name) : NULL;
        if (str_eq(before, d->strangers))
                return;
        unfind(d, before);
        if (d->strangers) {
                find(d, d->strangers);
                log_warn("%s: %s", d->host.shown, d->strangers);
        } else if (before) {
                log_info("%s: no other's containers are there under this one's name any more", d->host.shown);
        }
}

static void findings_clear(struct docker *d)
{
        for (size_t i = 0; i < d->n_findings; i++)
                free(d->findings[i]);
        d->n_findings = 0;
}

void docker_info_done(struct docker *d)
{
        findings_clear(d);
        free(d->strangers);
}

int docker_info_read(struct docker *d, const char *text, size_t len, struct err *err)
{
        auto_json info = NULL;

        if (json_read(text ? text : "", len, &info, NULL) < 0 || !json_is_object(info))
                return err_set(err, EBADMSG, "its description of itself makes no sense");
        d->live_restore = d->podman || json_is_true(json_object_get(info, "LiveRestoreEnabled"));
        findings_clear(d);
        find_limits(d, info);
        d->hindered = d->n_findings > 0;
        find_isolation(d, info);
        find_rest(d, info);
        find_seen(d);
        return 0;
}

static void on_info(struct docker_call *call, int r, const struct err *err, void *data)
{
        struct docker *d = data;
        struct err fault = ERR_INIT;

        d->ping = NULL;
        if (r == 0 && call->status != 200)
                r = err_set(&fault, EREMOTEIO, "GET /info: status %u", call->status);
        else if (r < 0)
                fault = *err;
        if (r == 0)
                r = docker_info_read(d, call->body.data, call->body.len, &fault);
        docker_known(d, r, &fault);
}

int docker_info_begin(struct docker *d, struct err *err)
{
        const struct docker_request q = { .method = "GET", .path = "/info" };

        return docker_call(d, &q, on_info, d, &d->ping, err);
}

void engine_docker_about(const struct engine *e, struct engine_docker_about *ret)
{
        const struct docker *d = CONTAINER_OF(e, const struct docker, engine);

        *ret = (struct engine_docker_about){
                .product = !d->version[0] ? ""
                           : d->podman    ? "Podman"
                                          : "Docker",
                .version = d->version,
                .api = d->prefix[0] ? d->prefix + strlen("/v") : "",
                .findings = (const char *const *)d->findings,
                .n_findings = d->n_findings,
        };
}

void docker_about(const struct engine *e, struct engine_about *ret)
{
        struct engine_docker_about about;

        engine_docker_about(e, &about);
        *ret = (struct engine_about){ .product = about.product,
                                      .version = about.version,
                                      .api = about.api,
                                      .findings = about.findings,
                                      .n_findings = about.n_findings };
}

void engine_docker_watch(struct engine *e, void (*fn)(struct engine *e, void *data), void *data)
{
        struct docker *d = CONTAINER_OF(e, struct docker, engine);

        d->watcher = fn;
        d->watcher_data = data;
}
