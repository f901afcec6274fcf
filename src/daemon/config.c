#include "daemon/config.h"

#include "base/str.h"
#include "base/time.h"
#include "base/units.h"
#include "daemon/listen.h"
#include "launcher/work.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>

enum kind {
        KIND_NAME,
        KIND_USER,
        KIND_PATH,
        KIND_WORD,
        KIND_CIDR,
        KIND_U32,
        KIND_RATIO,
        KIND_BYTES,
        KIND_AGE,
        KIND_FILE,
        KIND_LISTEN,
        KIND_PROXIES,
        KIND_HOSTS,
        KIND_MIRRORS,
        KIND_SIGNED,
        KIND_PINNED,
        KIND_URL,
        KIND_ENGINES,
        KIND_DOCKER,
        KIND_BOOL
};

struct key {
        const char *name;
        enum kind kind;
        size_t offset, size;
        uint64_t min, max; /* of numbers; RATIO in thousandths */
        const char *const *words;
        const char *help;
};

static const char *const log_levels[] = { "error", "warn", "info", "debug", NULL };
static const char *const booleans[] = { "false", "true", NULL };
static const char *const networks[] = { "none", "nat", "internet", NULL };

#define TEXT(member) offsetof(struct config, member), sizeof(((struct config *)NULL)->member), 0, 0, NULL
#define WORD(member, words) offsetof(struct config, member), sizeof(((struct config *)NULL)->member), 0, 0, words
#define NUMBER(member, min, max)                                                                                       \
        offsetof(struct config, member), sizeof(((struct config *)NULL)->member), min, max, NULL

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)
#define SECOND_MS UINT64_C(1000)
#define DOCKER_PREWARM_MAX 64 /* ENGINE_DOCKER_PREWARM_MAX */
#define DAY_MS (24 * 3600 * SECOND_MS)

/* Two workers for each layer, and as many for one that is unpacked while it comes, and for a check of the store: what the launcher
 * does not take, it refuses. */
#define IMAGES_PARALLEL_MAX 28
_Static_assert(2 * (IMAGES_PARALLEL_MAX + 2) + WORK_RUNNING_MAX <= WORK_TOKENS_MAX, "all of them have a place");

static const struct key keys[] = {
        { "name", KIND_NAME, TEXT(name), "instance: names its cgroup, nft table and links" },
        { "data", KIND_PATH, TEXT(data), "directory of images and history" },
        { "run", KIND_PATH, TEXT(run), "directory of the sockets" },
        { "user", KIND_USER, TEXT(user), "user of mayflyd" },
        { "net_user", KIND_USER, TEXT(net_user), "user of mayfly-netd" },
        { "dns_user", KIND_USER, TEXT(dns_user), "user of mayfly-dns" },
        { "group", KIND_USER, TEXT(group), "group that may use the API's socket" },
        { "log_level", KIND_WORD, WORD(log_level, log_levels), "error, warn, info or debug" },
        { "engines", KIND_ENGINES, TEXT(engines), "list: native, docker; the first is the default" },
        { "docker.host", KIND_DOCKER, TEXT(docker.host),
          "Docker's socket, as unix:///var/run/docker.sock, or tcp://HOST:2376" },
        { "docker.tls.ca", KIND_FILE, TEXT(docker.tls_ca),
          "who signs Docker's certificate, PEM; none: the system's authorities" },
        { "docker.tls.cert", KIND_FILE, TEXT(docker.tls_cert), "our certificate for Docker, PEM" },
        { "docker.tls.key", KIND_FILE, TEXT(docker.tls_key), "its key, PEM" },
        { "docker.prewarm", KIND_U32, NUMBER(docker.prewarm, 0, DOCKER_PREWARM_MAX),
          "containers made ahead in Docker" },
        { "listen", KIND_LISTEN, TEXT(listen), "list: addresses of the API, as tcp://127.0.0.1:6293, https://*:6293" },
        { "trusted_proxies", KIND_PROXIES, TEXT(trusted_proxies), "list: proxies that tell who the client is" },
        { "proxy_protocol", KIND_BOOL, WORD(proxy_protocol, booleans), "trusted proxies send a PROXY header" },
        { "ecs.original_limits", KIND_BOOL, WORD(ecs_original_limits, booleans),
          "the ECS API is as tight as the original" },
        { "tls.cert", KIND_FILE, TEXT(tls_cert), "certificate with its chain, PEM; none: one of our own" },
        { "tls.key", KIND_FILE, TEXT(tls_key), "its key, PEM" },
        { "ids.base", KIND_U32, NUMBER(id_base, CONFIG_ID_RANGE, UINT32_MAX), "first user id of containers" },
        { "ids.slots", KIND_U32, NUMBER(slots, 1, 4096), "ranges of 65,536 ids, one a container" },
        { "tasks.max_running", KIND_U32, NUMBER(tasks.max_running, 1, 4096), "tasks at once" },
        { "tasks.max_queued", KIND_U32, NUMBER(tasks.max_queued, 1, 1000000), "tasks waiting, more are refused" },
        { "tasks.overcommit", KIND_RATIO, NUMBER(tasks.overcommit, 10, 1000000), "sum of limits, in parts of the RAM" },
        { "tasks.reserve", KIND_BYTES, NUMBER(tasks.reserve, 0, TIB), "available memory below which nothing starts" },
        { "limits.connections", KIND_U32, NUMBER(limits.connections, 16, 1000000), "connections to the API" },
        { "limits.address_connections", KIND_U32, NUMBER(limits.address_connections, 0, 1000000),
          "connections of one address, 0: any number" },
        { "limits.address_rate", KIND_U32, NUMBER(limits.address_rate, 0, 1000000),
          "requests a second of one address, 0: any number" },
        { "limits.address_burst", KIND_U32, NUMBER(limits.address_burst, 0, 1000000),
          "requests of it at once, 0: twice the rate" },
        { "limits.key_connections", KIND_U32, NUMBER(limits.key_connections, 0, 1000000),
          "requests of one key that are being answered, 0: any number" },
        { "limits.key_rate", KIND_U32, NUMBER(limits.key_rate, 0, 1000000),
          "requests a second of one key, 0: any number" },
        { "limits.key_burst", KIND_U32, NUMBER(limits.key_burst, 0, 1000000),
          "requests of it at once, 0: twice the rate" },
        { "limits.key_running", KIND_U32, NUMBER(limits.key_running, 0, 4096),
          "tasks of one owner that run, 0: any number" },
        { "limits.key_queued", KIND_U32, NUMBER(limits.key_queued, 0, 1000000),
          "tasks of one owner that wait, 0: any number" },
        { "limits.body_memory", KIND_BYTES, NUMBER(limits.body_memory, 64 * MIB, TIB),
          "memory for the bodies of all requests" },
        { "limits.uploads", KIND_U32, NUMBER(limits.uploads, 1, 1024), "archives that come in at once" },
        { "limits.upload_bytes", KIND_BYTES, NUMBER(limits.upload_bytes, MIB, 64 * TIB), "size of them all together" },
        { "limits.idle_timeout", KIND_AGE, NUMBER(limits.idle_timeout_ms, SECOND_MS, DAY_MS),
          "a connection that is silent so long is closed" },
        { "network.default", KIND_WORD, WORD(network.mode, networks), "none, nat or internet" },
        { "network.pool", KIND_CIDR, TEXT(network.pool), "IPv4 addresses of containers" },
        { "network.connections", KIND_U32, NUMBER(network.connections, 0, 1 << 24),
          "connections of a task at once, 0: any number" },
        { "network.stock", KIND_U32, NUMBER(network.stock, 0, 1024), "network namespaces kept ready" },
        { "history.max_tasks", KIND_U32, NUMBER(history.max_tasks, 1, 100000000), "ended tasks kept" },
        { "history.max_bytes", KIND_BYTES, NUMBER(history.max_bytes, MIB, 64 * TIB), "output kept" },
        { "history.max_waiting", KIND_BYTES, NUMBER(history.max_waiting, MIB, TIB),
          "results kept while the disk is full" },
        { "history.max_age", KIND_AGE, NUMBER(history.max_age_ms, SECOND_MS, 3650 * DAY_MS), "age of what is kept" },
        { "images.max_layer_bytes", KIND_BYTES, NUMBER(images.max_layer_bytes, KIB, 64 * TIB), "a layer, unpacked" },
        { "images.max_archive_bytes", KIND_BYTES, NUMBER(images.max_archive_bytes, KIB, 64 * TIB),
          "an uploaded archive" },
        { "images.parallel", KIND_U32, NUMBER(images.parallel, 1, IMAGES_PARALLEL_MAX),
          "layers that are unpacked at once" },
        { "images.high_water", KIND_U32, NUMBER(images.high_water, 0, 99),
          "percent of the disk above which images are removed, 0: never" },
        { "images.low_water", KIND_U32, NUMBER(images.low_water, 0, 98), "percent at which that ends" },
        { "images.keep_for", KIND_AGE, NUMBER(images.keep_for_ms, 0, 3650 * DAY_MS),
          "what came within this time is not removed so" },
        { "registries.enabled", KIND_BOOL, WORD(registries.enabled, booleans), "images that are absent are pulled" },
        { "registries.insecure", KIND_HOSTS, TEXT(registries.insecure),
          "list: hosts that may be spoken to in plain HTTP" },
        { "registries.allow", KIND_HOSTS, TEXT(registries.allow),
          "list: hosts that may be at any address, link-local and this host's too" },
        { "registries.realms", KIND_HOSTS, TEXT(registries.realms),
          "list: token servers elsewhere that may be told credentials" },
        { "registries.mirrors", KIND_MIRRORS, TEXT(registries.mirrors),
          "list: REGISTRY=URL, tried in this order before the registry" },
        { "registries.proxy", KIND_URL, TEXT(registries.proxy), "proxy to registries, as http://proxy:3128" },
        { "registries.no_proxy", KIND_HOSTS, TEXT(registries.no_proxy),
          "list: hosts, and .DOMAIN, reached without it" },
        { "registries.certs", KIND_FILE, TEXT(registries.certs),
          "directory of HOST[:PORT]/ca.crt, client.cert, client.key" },
        { "registries.parallel", KIND_U32, NUMBER(registries.parallel, 1, 64), "layers that are downloaded at once" },
        { "registries.retries", KIND_U32, NUMBER(registries.retries, 0, 100),
          "of a request that fails for the moment" },
        { "registries.stall", KIND_AGE, NUMBER(registries.stall_ms, SECOND_MS, DAY_MS),
          "a download that hardly moves so long is cut" },
        { "registries.connect_timeout", KIND_AGE, NUMBER(registries.connect_ms, 100, DAY_MS), "of a connection" },
        { "registries.wait_max", KIND_AGE, NUMBER(registries.wait_max_ms, 0, DAY_MS),
          "a registry that wants a longer pause (Retry-After) is too busy" },
        { "registries.proof", KIND_AGE, NUMBER(registries.proof_ms, 0, 3650 * DAY_MS),
          "how long a key's access to a repository counts" },
        { "registries.proof_hold", KIND_AGE, NUMBER(registries.proof_hold_ms, 0, 3650 * DAY_MS),
          "the same, while the registry cannot be asked" },
        { "registries.tag_max_age", KIND_AGE, NUMBER(registries.tag_max_age_ms, 0, 3650 * DAY_MS),
          "a tag that was looked up longer ago is looked up again; 0: never" },
        { "trust.keys", KIND_FILE, TEXT(trust.keys), "directory of NAME.pub, keys that sign images" },
        { "trust.signed", KIND_SIGNED, TEXT(trust.signed_by),
          "list: REPOSITORY=NAME, whose images must be signed by that key; also =accept, =reject" },
        { "trust.pinned", KIND_PINNED, TEXT(trust.pinned), "list: IMAGE=sha256:…, which must be that one" },
};

const char *config_key(size_t i)
{
        return i < ARRAY_LEN(keys) ? keys[i].name : NULL;
}

const char *config_key_help(size_t i)
{
        return i < ARRAY_LEN(keys) ? keys[i].help : NULL;
}

static void copy_text(char *out, size_t size, const char *text)
{
        size_t n = MIN(strlen(text), size - 1);

        memcpy(out, text, n);
        out[n] = '\0';
}

void config_default(struct config *c)
{
        *c = (struct config){
                .id_base = UINT32_C(2013265920),
                .slots = 512,
                .tasks = { .max_running = 512, .max_queued = 10000, .overcommit = 4, .reserve = 128 * MIB },
                .limits = {
                        .connections = 4096,
                        .address_connections = 1024,
                        .address_rate = 10000,
                        .address_burst = 20000,
                        .key_connections = 2048,
                        .key_rate = 10000,
                        .key_burst = 20000,
                        .key_queued = 5000,
                        .body_memory = 512 * MIB,
                        .uploads = 16,
                        .upload_bytes = 128 * GIB,
                        .idle_timeout_ms = 60 * SECOND_MS,
                },
                .network.stock = 16,
                .network.connections = 8192,
                .history = { .max_tasks = 100000, .max_bytes = GIB, .max_waiting = 128 * MIB, .max_age_ms = 7 * DAY_MS },
                .images = {
                        .max_layer_bytes = 64 * GIB,
                        .max_archive_bytes = 64 * GIB,
                        .keep_for_ms = 3600 * SECOND_MS,
                        .parallel = 4,
                        .high_water = 85,
                        .low_water = 75,
                },
        };
        c->registries.enabled = true;
        c->registries.parallel = 6;
        c->registries.retries = 4;
        c->registries.stall_ms = 20 * SECOND_MS;
        c->registries.connect_ms = 10 * SECOND_MS;
        c->registries.wait_max_ms = 15 * SECOND_MS;
        c->registries.proof_ms = 5 * 60 * SECOND_MS;
        c->registries.proof_hold_ms = DAY_MS;
        copy_text(c->registries.insecure, sizeof(c->registries.insecure), "none");
        copy_text(c->registries.allow, sizeof(c->registries.allow), "none");
        copy_text(c->registries.realms, sizeof(c->registries.realms), "none");
        copy_text(c->registries.no_proxy, sizeof(c->registries.no_proxy), "none");
        copy_text(c->registries.mirrors, sizeof(c->registries.mirrors), "none");
        copy_text(c->registries.proxy, sizeof(c->registries.proxy), "none");
        copy_text(c->registries.certs, sizeof(c->registries.certs), "/etc/mayfly/registries");
        copy_text(c->trust.keys, sizeof(c->trust.keys), "/etc/mayfly/trust");
        copy_text(c->trust.signed_by, sizeof(c->trust.signed_by), "none");
        copy_text(c->trust.pinned, sizeof(c->trust.pinned), "none");
        copy_text(c->name, sizeof(c->name), "mayfly");
        copy_text(c->data, sizeof(c->data), "/var/lib/mayfly");
        copy_text(c->run, sizeof(c->run), "/run/mayfly");
        copy_text(c->user, sizeof(c->user), "mayfly");
        copy_text(c->net_user, sizeof(c->net_user), "mayfly-net");
        copy_text(c->dns_user, sizeof(c->dns_user), "mayfly-dns");
        copy_text(c->group, sizeof(c->group), "mayfly");
        copy_text(c->log_level, sizeof(c->log_level), "info");
        copy_text(c->engines, sizeof(c->engines), "native");
        copy_text(c->docker.host, sizeof(c->docker.host), "unix:///var/run/docker.sock");
        copy_text(c->docker.tls_ca, sizeof(c->docker.tls_ca), "none");
        copy_text(c->docker.tls_cert, sizeof(c->docker.tls_cert), "none");
        copy_text(c->docker.tls_key, sizeof(c->docker.tls_key), "none");
        copy_text(c->listen, sizeof(c->listen), "none");
        copy_text(c->trusted_proxies, sizeof(c->trusted_proxies), "none");
        copy_text(c->tls_cert, sizeof(c->tls_cert), "none");
        copy_text(c->tls_key, sizeof(c->tls_key), "none");
        copy_text(c->network.mode, sizeof(c->network.mode), "nat");
        copy_text(c->network.pool, sizeof(c->network.pool), "10.213.0.0/16");
}

/* ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool name_valid(const char *s)
{
        if (!islower((unsigned char)*s))
                return false;
        for (; *s; s++)
                if (!islower((unsigned char)*s) && !isdigit((unsigned char)*s) && *s != '-')
                        return false;
        return true;
}

/* What useradd(8) takes. */
static bool user_valid(const char *s)
{
        if (!islower((unsigned char)*s) && *s != '_')
                return false;
        for (; *s; s++)
                if (!islower((unsigned char)*s) && !isdigit((unsigned char)*s) && *s != '-' && *s != '_')
                        return false;
        return true;
}

/* Absolute, plain: no empty, "." or ".." component; no byte that means something to overlay's options, to systemd's
 * environment files or to a terminal. */
static bool path_valid(const char *s)
{
        if (*s != '/' || !s[1])
                return false;
        while (*s) {
                const char *end = s + 1;

                while (*end && *end != '/') {
                        if (iscntrl((unsigned char)*end) || strchr(" \"'\\$%:,", *end))
                                return false;
                        end++;
                }
                if (end == s + 1 || (end == s + 2 && s[1] == '.') || (end == s + 3 && s[1] == '.' && s[2] == '.'))
                        return false;
                s = end;
        }
        return true;
}

static bool file_valid(const char *s)
{
        return str_eq(s, "none") || path_valid(s);
}

static bool proxy_valid(const char *s)
{
        unsigned char bytes[16];
        char text[64];
        uint32_t bits = 0, most;
        const char *slash = strchr(s, '/');
        size_t len = slash ? (size_t)(slash - s) : strlen(s);

        if (len == 0 || len >= sizeof(text))
                return false;
        memcpy(text, s, len);
        text[len] = '\0';
        most = strchr(text, ':') ? 128 : 32;
        if (inet_pton(most == 128 ? AF_INET6 : AF_INET, text, bytes) != 1)
                return false;
        return !slash || (parse_u32(slash + 1, &bits) == 0 && bits <= most);
}

static bool each_valid(const char *s, bool (*valid)(const char *entry))
{
        if (str_eq(s, "none"))
                return true;
        for (;;) {
                size_t len = strcspn(s, ",");
                char entry[512];

                if (len >= sizeof(entry))
                        return false;
                memcpy(entry, s, len);
                entry[len] = '\0';
                if (!valid(entry))
                        return false;
                if (!s[len])
                        return true;
                s += len + 1;
        }
}

static bool proxies_valid(const char *s)
{
        return each_valid(s, proxy_valid);
}

/* A host as references have it, perhaps of a whole domain. */
static bool host_valid(const char *s)
{
        size_t len;

        if (*s == '[') {
                len = strspn(s + 1, "0123456789abcdefABCDEF:.") + 1;
                if (s[len] != ']')
                        return false;
                s += len + 1;
        } else {
                len = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_");
                if (len == 0)
                        return false;
                s += len;
        }
        return !*s || (*s == ':' && s[1] && strspn(s + 1, "0123456789") == strlen(s + 1) && strlen(s + 1) <= 5);
}

static bool url_valid(const char *s)
{
        size_t len;
        char host[300];

        if (str_eq(s, "none"))
                return true;
        if (!str_starts(s, "http://") && !str_starts(s, "https://"))
                return false;
        s = strchr(s, ':') + 3;
        len = strcspn(s, "/");
        if (len >= sizeof(host) ||
            s[len + strspn(s + len, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./-_")])
                return false;
        memcpy(host, s, len);
        host[len] = '\0';
        return host_valid(host);
}

static bool mirror_valid(const char *s)
{
        const char *equals = strchr(s, '=');
        char host[300];

        if (!equals || (size_t)(equals - s) >= sizeof(host) || str_eq(equals + 1, "none"))
                return false;
        memcpy(host, s, (size_t)(equals - s));
        host[equals - s] = '\0';
        return host_valid(host) && url_valid(equals + 1);
}

#define NAME_BYTES "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

/* "REPOSITORY=KEY"; what exactly a repository is the daemon knows (image/trust.c). */
static bool signed_valid(const char *s)
{
        size_t len = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789._-/:[]");
        const char *key;

        if (s[len] == '*' && (len == 0 || s[len - 1] == '/'))
                len++;
        key = s + len + 1;
        return len > 0 && s[len] == '=' && *key && *key != '.' && !key[strspn(key, NAME_BYTES)];
}

static bool pinned_valid(const char *s)
{
        size_t len = strspn(s, NAME_BYTES "/:[]");
        const char *digest = s + len + 1;

        return len > 0 && s[len] == '=' && str_starts(digest, "sha256:") && strlen(digest) == 71 &&
               strspn(digest + 7, "0123456789abcdef") == 64;
}

static bool signed_list_valid(const char *s)
{
        return each_valid(s, signed_valid);
}

static bool pinned_list_valid(const char *s)
{
        return each_valid(s, pinned_valid);
}

static bool hosts_valid(const char *s)
{
        return each_valid(s, host_valid);
}

static bool mirrors_valid(const char *s)
{
        return each_valid(s, mirror_valid);
}

static bool engine_valid(const char *s)
{
        return str_eq(s, "native") || str_eq(s, "docker");
}

/* At least one, none twice. */
static bool engines_valid(const char *s)
{
        const char *comma = strchr(s, ',');
        size_t len = comma ? (size_t)(comma - s) : strlen(s);

        return !str_eq(s, "none") && each_valid(s, engine_valid) &&
               (!comma || (strlen(comma + 1) != len || strncmp(s, comma + 1, len) != 0)) &&
               (!comma || !strchr(comma + 1, ','));
}

static bool docker_host_valid(const char *s)
{
        if (str_starts(s, "unix://"))
                return path_valid(s + strlen("unix://")) && strlen(s) - strlen("unix://") <= 107;
        return str_starts(s, "tcp://") && host_valid(s + strlen("tcp://"));
}

/* Private space only (RFC 1918, RFC 6598): netd answers for the whole range. */
static bool cidr_valid(const char *s)
{
        static const struct {
                uint32_t net;
                unsigned bits;
        } allowed[] = {
                { 0x0a000000, 8 },
                { 0xac100000, 12 },
                { 0xc0a80000, 16 },
                { 0x64400000, 10 },
        };
        const char *slash = strchr(s, '/');
        struct in_addr addr;
        char text[20];
        uint32_t bits, host;

        if (!slash || (size_t)(slash - s) >= sizeof(text) || parse_u32(slash + 1, &bits) < 0 || bits < 8 || bits > 24)
                return false;
        memcpy(text, s, (size_t)(slash - s));
        text[slash - s] = '\0';
        if (inet_pton(AF_INET, text, &addr) != 1)
                return false;
        host = ntohl(addr.s_addr);
        if (host & (UINT32_MAX >> bits))
                return false;
        for (size_t i = 0; i < ARRAY_LEN(allowed); i++)
                if (bits >= allowed[i].bits && (host & ~(UINT32_MAX >> allowed[i].bits)) == allowed[i].net)
                        return true;
        return false;
}

/* Digits with at most one point; strtod(3) alone would take "inf" and "0x1p3". */
static bool ratio_read(const char *s, double *ret)
{
        unsigned points = 0;

        if (!isdigit((unsigned char)*s) || strlen(s) > 16)
                return false;
        for (const char *p = s; *p; p++) {
                if (*p == '.')
                        points++;
                else if (!isdigit((unsigned char)*p))
                        return false;
        }
        if (points > 1)
                return false;
        *ret = strtod(s, NULL);
        return isfinite(*ret);
}

static int set_text(const struct key *k, void *to, const char *value, struct err *err)
{
        static const struct {
                bool (*valid)(const char *s);
                const char *what;
        } grammar[] = {
                [KIND_NAME] = { name_valid, "a name of a-z, 0-9 and -, beginning with a letter" },
                [KIND_USER] = { user_valid, "a user or group name" },
                [KIND_PATH] = { path_valid, "an absolute path without ., .., blanks and the bytes \"'\\$%:," },
                [KIND_CIDR] = { cidr_valid, "a private IPv4 range of /8 to /24, as 10.213.0.0/16" },
                [KIND_FILE] = { file_valid, "none, or an absolute path without ., .., blanks and the bytes \"'\\$%:," },
                [KIND_HOSTS] = { hosts_valid, "none, or hosts separated by commas, as registry.example:5000" },
                [KIND_MIRRORS] = { mirrors_valid, "none, or REGISTRY=URL separated by commas" },
                [KIND_SIGNED] = { signed_list_valid, "none, or REPOSITORY=KEY separated by commas" },
                [KIND_PINNED] = { pinned_list_valid, "none, or IMAGE=sha256:… separated by commas" },
                [KIND_URL] = { url_valid, "none, or a URL of http or https" },
                [KIND_ENGINES] = { engines_valid, "native, docker or both, separated by a comma" },
                [KIND_DOCKER] = { docker_host_valid, "unix:///PATH, of at most 107 bytes, or tcp://HOST:PORT" },
                [KIND_PROXIES] = { proxies_valid, "none, or addresses and CIDRs separated by commas" },
        };

        if (!grammar[k->kind].valid(value))
                return err_set(err, EINVAL, "'%s' is not %s", value, grammar[k->kind].what);
        if (strlen(value) >= k->size)
                return err_set(err, EINVAL, "'%s' is longer than %zu bytes", value, k->size - 1);
        copy_text(to, k->size, value);
        return 0;
}

static int set_listen(const struct key *k, void *to, const char *value, struct err *err)
{
        struct listen_address addresses[LISTEN_MAX];
        size_t n;
        int r;

        r = listen_parse_list(value, addresses, &n, err);
        if (r < 0)
                return r;
        if (strlen(value) >= k->size)
                return err_set(err, EINVAL, "longer than %zu bytes", k->size - 1);
        copy_text(to, k->size, n > 0 ? value : "none");
        return 0;
}

static int set_bool(bool *to, const char *value, struct err *err)
{
        if (!str_eq(value, "true") && !str_eq(value, "false"))
                return err_set(err, EINVAL, "'%s' is not true or false", value);
        *to = str_eq(value, "true");
        return 0;
}

static int set_word(const struct key *k, void *to, const char *value, struct err *err)
{
        for (size_t i = 0; k->words[i]; i++) {
                if (str_eq(k->words[i], value)) {
                        copy_text(to, k->size, value);
                        return 0;
                }
        }
        return err_set(err, EINVAL, "'%s' is not one of: %s", value, k->help);
}

static int set_number(const struct key *k, void *to, const char *value, struct err *err)
{
        static const char *const what[] = {
                [KIND_U32] = "a whole number",
                [KIND_BYTES] = "a size, as 512m or 1.5g",
                [KIND_AGE] = "a duration, as 36h or 90s",
        };
        uint64_t number;
        int64_t wide = 0;
        int r;

        switch (k->kind) {
        case KIND_BYTES:
                r = units_parse_bytes(value, &wide);
                number = (uint64_t)wide;
                break;
        case KIND_AGE:
                r = time_parse_duration(value, &wide);
                number = wide < 0 ? 0 : (uint64_t)wide / NS_PER_MS;
                break;
        default:
                r = parse_u64(value, &number);
                break;
        }
        if (r == -ERANGE)
                return err_set(err, EINVAL, "'%s' is out of range", value);
        if (r < 0 || wide < 0)
                return err_set(err, EINVAL, "'%s' is not %s", value, what[k->kind]);
        if (number < k->min)
                return err_set(err, EINVAL, "'%s' is too small", value);
        if (number > k->max)
                return err_set(err, EINVAL, "'%s' is too large", value);
        if (k->size == sizeof(uint32_t))
                *(uint32_t *)to = (uint32_t)number;
        else
                *(uint64_t *)to = number;
        return 0;
}

static int set_ratio(const struct key *k, void *to, const char *value, struct err *err)
{
        double ratio;

        if (!ratio_read(value, &ratio))
                return err_set(err, EINVAL, "'%s' is not a number, as 4 or 1.5", value);
        if (ratio * 1000 < (double)k->min)
                return err_set(err, EINVAL, "'%s' is too small", value);
        if (ratio * 1000 > (double)k->max)
                return err_set(err, EINVAL, "'%s' is too large", value);
        *(double *)to = ratio;
        return 0;
}

static int key_set(const struct key *k, struct config *c, const char *value, struct err *err)
{
        void *to = (char *)c + k->offset;
        int r;

        if (k->kind == KIND_WORD)
                r = set_word(k, to, value, err);
        else if (k->kind == KIND_LISTEN)
                r = set_listen(k, to, value, err);
        else if (k->kind == KIND_BOOL)
                r = set_bool(to, value, err);
        else if (k->kind == KIND_RATIO)
                r = set_ratio(k, to, value, err);
        else if (k->kind == KIND_U32 || k->kind == KIND_BYTES || k->kind == KIND_AGE)
                r = set_number(k, to, value, err);
        else
                r = set_text(k, to, value, err);
        return r < 0 ? err_wrap(err, "%s", k->name) : 0;
}

/* ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

#define KEY_MAX 64 /* longer than any key with its section */

bool config_is_list(size_t i)
{
        static const enum kind lists[] = { KIND_LISTEN,  KIND_PROXIES, KIND_HOSTS, KIND_MIRRORS,
                                           KIND_ENGINES, KIND_SIGNED,  KIND_PINNED };
        bool found = false;

        for (size_t k = 0; i < ARRAY_LEN(keys) && k < ARRAY_LEN(lists); k++)
                found |= keys[i].kind == lists[k];
        return found;
}

bool config_is_section(const char *name)
{
        size_t n = strlen(name);

        for (size_t i = 0; i < ARRAY_LEN(keys); i++)
                if (strncmp(keys[i].name, name, n) == 0 && keys[i].name[n] == '.')
                        return true;
        return false;
}

/* Levenshtein's distance; both are shorter than KEY_MAX. */
static size_t distance(const char *a, const char *b)
{
        size_t row[KEY_MAX + 1], n = strlen(b);

        for (size_t j = 0; j <= n; j++)
                row[j] = j;
        for (size_t i = 1; a[i - 1]; i++) {
                size_t diagonal = row[0];

                row[0] = i;
                for (size_t j = 1; j <= n; j++) {
                        size_t change = diagonal + (a[i - 1] != b[j - 1]);

                        diagonal = row[j];
                        row[j] = MIN(change, MIN(row[j], row[j - 1]) + 1);
                }
        }
        return row[n];
}

static int unknown_key(const char *name, struct err *err)
{
        const char *best = NULL;
        size_t least = 4;

        for (size_t i = 0; strlen(name) < KEY_MAX && i < ARRAY_LEN(keys); i++) {
                size_t d = distance(name, keys[i].name);

                if (d < least && d * 2 < strlen(name)) {
                        least = d;
                        best = keys[i].name;
                }
        }
        if (best)
                return err_set(err, ENOENT, "%s: unknown key (did you mean %s?)", name, best);
        return err_set(err, ENOENT, "%s: unknown key", name);
}

/* What people write for one engine, and what flags have for a point. */
static const char *key_of_alias(const char *name)
{
        static const struct {
                const char *alias, *name;
        } aliases[] = {
                { "engine", "engines" },
                { "docker_host", "docker.host" },
        };

        for (size_t i = 0; i < ARRAY_LEN(aliases); i++)
                if (str_eq(aliases[i].alias, name))
                        return aliases[i].name;
        return name;
}

int config_key_find(const char *name, struct err *err)
{
        name = key_of_alias(name);
        for (size_t i = 0; i < ARRAY_LEN(keys); i++)
                if (str_eq(keys[i].name, name))
                        return (int)i;
        return unknown_key(name, err);
}

int config_set(struct config *c, const char *key, const char *value, struct err *err)
{
        int i = config_key_find(key, err);

        return i < 0 ? i : key_set(&keys[i], c, value, err);
}

/* The largest unit that leaves no rest: 128m, 36h. */
static int format_exact(struct str *out, uint64_t value, const char *const *units, const uint64_t *sizes, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (value && value % sizes[i] == 0)
                        return str_addf(out, "%llu%s", (unsigned long long)(value / sizes[i]), units[i]);
        return str_addc(out, '0');
}

static int format_bytes(struct str *out, uint64_t value)
{
        static const char *const units[] = { "t", "g", "m", "k", "b" };
        static const uint64_t sizes[] = { TIB, GIB, MIB, KIB, 1 };

        return format_exact(out, value, units, sizes, ARRAY_LEN(units));
}

static int format_age(struct str *out, uint64_t ms)
{
        static const char *const units[] = { "h", "m", "s", "ms" };
        static const uint64_t sizes[] = { 3600 * SECOND_MS, 60 * SECOND_MS, SECOND_MS, 1 };

        return format_exact(out, ms, units, sizes, ARRAY_LEN(units));
}

/* "4", "1.5": without the zeros at the end. */
static int format_ratio(struct str *out, double ratio)
{
        char text[32];
        size_t n;

        n = (size_t)snprintf(text, sizeof(text), "%.3f", ratio);
        while (text[n - 1] == '0')
                n--;
        return str_add(out, text, text[n - 1] == '.' ? n - 1 : n);
}

int config_format(const struct config *c, size_t i, struct str *out)
{
        const struct key *k = &keys[i];
        const char *at = (const char *)c + k->offset;
        const void *value = at;

        switch (k->kind) {
        case KIND_U32:
                return str_addf(out, "%u", *(const uint32_t *)value);
        case KIND_BYTES:
                return format_bytes(out, *(const uint64_t *)value);
        case KIND_AGE:
                return format_age(out, *(const uint64_t *)value);
        case KIND_RATIO:
                return format_ratio(out, *(const double *)value);
        case KIND_BOOL:
                return str_adds(out, *(const bool *)value ? "true" : "false");
        default:
                return str_adds(out, at);
        }
}

enum log_level config_log_level(const struct config *c)
{
        for (size_t i = 0; log_levels[i]; i++)
                if (str_eq(log_levels[i], c->log_level))
                        return (enum log_level)i; /* the same order */
        return LOG_LEVEL_INFO;
}

bool config_has_engine(const struct config *c, const char *name)
{
        const char *at = strstr(c->engines, name);

        return at && (at == c->engines || at[-1] == ',');
}

/* ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool is_below(const char *path, const char *parent)
{
        size_t n = strlen(parent);

        return strncmp(path, parent, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* Of "HOST", "HOST:PORT", "[::1]:PORT". A name that only begins as an address does is a name. */
static bool is_loopback(const char *text)
{
        bool bracketed = *text == '[';
        char host[INET_ADDRSTRLEN];
        struct in_addr four;
        size_t len;

        text += bracketed;
        len = strcspn(text, bracketed ? "]" : ":/");
        if (len >= sizeof(host))
                return false;
        memcpy(host, text, len);
        host[len] = '\0';
        if (bracketed)
                return str_eq(host, "::1") && text[len] == ']';
        return str_eq(host, "localhost") || (inet_pton(AF_INET, host, &four) == 1 && ntohl(four.s_addr) >> 24 == 127);
}

/* As the engine takes it (engine_docker_host_check()), which this program does not link. */
static int check_docker(const struct config *c, struct err *err)
{
        bool tcp = str_starts(c->docker.host, "tcp://"), cert = !str_eq(c->docker.tls_cert, "none");

        if (!config_has_engine(c, "docker"))
                return 0;
        /* What the policy wants verified comes by the store, which needs the native engine, and then goes to Docker. */
        if (!config_has_engine(c, "native") &&
            (!str_eq(c->trust.signed_by, "none") || !str_eq(c->trust.pinned, "none")))
                return err_set(err, EINVAL,
                               "trust: needs the native engine, which verifies images: engines has docker alone");
        if (cert != !str_eq(c->docker.tls_key, "none"))
                return err_set(err, EINVAL, "docker.tls.cert, docker.tls.key: both or none");
        if (!cert && !str_eq(c->docker.tls_ca, "none"))
                return err_set(err, EINVAL, "docker.tls.ca: needs docker.tls.cert and docker.tls.key");
        if (!tcp && cert)
                return err_set(err, EINVAL, "docker.tls: certificates are for tcp://, docker.host is %s",
                               c->docker.host);
        if (tcp && !cert && !is_loopback(c->docker.host + strlen("tcp://")))
                return err_set(err, EINVAL,
                               "docker.host: %s without certificates: whoever reaches it is root there; set "
                               "docker.tls.cert and docker.tls.key",
                               c->docker.host);
        return 0;
}

int config_check(const struct config *c, struct err *err)
{
        uint64_t ids = (uint64_t)(c->slots + 1) * CONFIG_ID_RANGE;

        if (c->id_base % CONFIG_ID_RANGE)
                return err_set(err, EINVAL, "ids.base: %u is not a multiple of 65536", c->id_base);
        /* The last id is (uid_t)-1, which means "none" to the kernel. */
        if ((uint64_t)c->id_base + ids > UINT32_MAX)
                return err_set(err, EINVAL, "ids.base: %u leaves no room for %u slots of 65536 ids", c->id_base,
                               c->slots);
        if (c->tasks.max_running > c->slots)
                return err_set(err, EINVAL, "tasks.max_running: %u tasks need as many ids.slots, there are %u",
                               c->tasks.max_running, c->slots);
        if (c->images.high_water > 0 && c->images.low_water >= c->images.high_water)
                return err_set(err, EINVAL, "images.low_water: %u must be below images.high_water, %u",
                               c->images.low_water, c->images.high_water);
        if (is_below(c->run, c->data) || is_below(c->data, c->run))
                return err_set(err, EINVAL, "run: %s and data: %s may not lie in one another", c->run, c->data);
        if (str_eq(c->tls_cert, "none") != str_eq(c->tls_key, "none"))
                return err_set(err, EINVAL, "tls.cert, tls.key: both or none");
        if (c->proxy_protocol && str_eq(c->trusted_proxies, "none"))
                return err_set(err, EINVAL, "proxy_protocol: needs trusted_proxies");
        if (str_eq(c->user, "root") || str_eq(c->net_user, "root") || str_eq(c->dns_user, "root"))
                return err_set(err, EINVAL, "user, net_user, dns_user: may not be root");
        if (str_eq(c->user, c->net_user))
                return err_set(err, EINVAL, "net_user: must be another user than user, '%s'", c->user);
        if (str_eq(c->dns_user, c->user) || str_eq(c->dns_user, c->net_user))
                return err_set(err, EINVAL, "dns_user: must be another user than user and net_user, '%s'", c->dns_user);
        return check_docker(c, err);
}
