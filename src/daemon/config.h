/* Configuration: a YAML file and the same keys as flags (`--data /x`, `--network.default nat`); a flag wins. Unknown keys,
 * wrong types and duplicate keys are errors with their line. Needs base and libyaml only, so that the supervisor stays
 * small. */
#pragma once

#include "base/err.h"
#include "base/log.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_DEFAULT_PATH "/etc/mayfly/mayfly.yaml"
#define CONFIG_FILE_MAX (256 * 1024)
#define CONFIG_ID_RANGE 65536u /* ids of one slot */

struct config {
        char name[16];               /* instance: cgroup, nft table, link prefix; [a-z][a-z0-9-]* */
        char data[108], run[80];     /* directories */
        char user[32], net_user[32]; /* mayfly, mayfly-net */
        char dns_user[32];           /* mayfly-dns */
        char group[32];              /* who may open the socket: mayfly */
        char log_level[8];           /* error warn info debug */
        char engines[32];            /* native, docker, by commas; the first is the default */
        struct {
                char host[300];                                /* unix:///PATH or tcp://HOST[:PORT] */
                char tls_ca[108], tls_cert[108], tls_key[108]; /* PEM files; "none" */
                uint32_t prewarm;
        } docker;
        char listen[512];          /* addresses beside the unix socket (listen.h), by commas; "none" */
        char trusted_proxies[512]; /* addresses and CIDRs, by commas; "none" */
        bool proxy_protocol;       /* on the network's listeners, from trusted proxies */
        bool ecs_original_limits;
        char tls_cert[108], tls_key[108]; /* PEM files; "none": our own in <data>/state/tls */
        uint32_t id_base, slots;          /* ids.base 2013265920, ids.slots 512 */
        struct {
                uint32_t max_running, max_queued;
                double overcommit;
                uint64_t reserve;
        } tasks;
        struct {
                uint32_t connections, address_connections, key_connections; /* at once */
                uint32_t address_rate, address_burst, key_rate, key_burst;  /* requests a second; 0: no bound */
                uint32_t key_running, key_queued;                           /* tasks of one key; 0: no bound */
                uint32_t uploads;
                uint64_t upload_bytes, body_memory;
                uint64_t idle_timeout_ms;
        } limits;
        struct {
                char mode[12];        /* network.default: nat */
                char pool[20];        /* network.pool: 10.213.0.0/16 */
                uint32_t stock;       /* network.stock: namespaces kept ready */
                uint32_t connections; /* of a task at once; 0: any number */
        } network;
        struct {
                uint64_t max_tasks, max_bytes, max_waiting, max_age_ms;
        } history;
        struct {
                uint64_t max_layer_bytes, max_archive_bytes, keep_for_ms;
                uint32_t parallel, high_water, low_water; /* the marks in percent; high_water 0: never */
        } images;
        struct {
                bool enabled;
                char insecure[1024], allow[1024], realms[1024], no_proxy[1024]; /* hosts, by commas; "none" */
                char mirrors[2048];                                             /* REGISTRY=URL, by commas; "none" */
                char proxy[256];                                                /* http://HOST:PORT; "none" */
                char certs[108];                                                /* directory; "none" */
                uint32_t parallel, retries;
                uint64_t stall_ms, connect_ms, wait_max_ms;
                uint64_t proof_ms, proof_hold_ms, tag_max_age_ms; /* the last: 0, never */
        } registries;
        struct {
                char keys[108];       /* directory of NAME.pub; "none" */
                char signed_by[4096]; /* REPOSITORY=KEY, by commas; "none" */
                char pinned[16384];   /* IMAGE=sha256:…, by commas; "none" */
        } trust;
};

void config_default(struct config *c);
/* text: the file's; name: for messages ("mayfly.yaml:12: …"). Fails at the first fault and leaves *c alone. */
int config_read_yaml(struct config *c, const char *text, size_t len, const char *name, struct err *err);
/* One flag without its dashes; -ENOENT: no such key. */
int config_set(struct config *c, const char *key, const char *value, struct err *err);
int config_check(const struct config *c, struct err *err); /* what only the whole can tell */
enum log_level config_log_level(const struct config *c);
bool config_has_engine(const struct config *c, const char *name);

/* argv of serve, without the program's name: --config FILE, --check, every key. *ret_check: validate only. Reads the file;
 * without --config the default path if it is there. -EINVAL with a text for the user; 1 after --help was printed. */
int config_from_args(struct config *c, int argc, char **argv, bool *ret_check, struct err *err);

/* The keys of such arguments alone, over what `c` holds; the file, and what only the whole can tell, are left out. */
int config_apply_flags(struct config *c, int argc, char **argv, bool *ret_check, struct err *err);

/* The flags that make `c` out of the defaults, NULL-terminated: a child gets exactly what was checked, and needs no right
 * to read the file. The caller owns *ret: strv_free(). */
int config_to_args(const struct config *c, char ***ret, struct err *err);

/* The file that config_from_args() read: what --config named, or the default's; "" where there is none. */
const char *config_path(int argc, char **argv);

/* The table of keys. */
const char *config_key(size_t i); /* NULL after the last */
const char *config_key_help(size_t i);
int config_key_find(const char *name, struct err *err);               /* its index; -ENOENT, err names the nearest */
bool config_is_list(size_t i);                                        /* takes a list */
bool config_is_section(const char *name);                             /* "tasks" */
int config_format(const struct config *c, size_t i, struct str *out); /* a value as a file has it; -ENOMEM */
