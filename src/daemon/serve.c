#include "daemon/serve.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/str.h"
#include "base/time.h"
#include "http/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

/* ── state ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

int serve_open(struct serve *s, struct loop *loop, struct err *err)
{
        auto_free char *db = str_printf("%s/state/state.db", s->config->data);
        auto_free char *seal = str_printf("%s/state/seal.key", s->config->data);
        int r;

        if (!db || !seal)
                return err_oom(err);
        r = seal_new(seal, &s->seal, err);
        if (r == 0)
                r = state_db_open(db, &s->db, err);
        if (r == 0)
                r = keys_new(loop, s->db, &s->keys, err);
        if (r == 0)
                r = logins_new(loop, s->db, s->seal, &s->logins, err);
        return r;
}

/* ── certificate ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static int make_certificate(const char *dir, const char *cert, const char *key, struct err *err)
{
        char host[HOST_NAME_MAX + 1] = "";

        if (access(cert, F_OK) == 0 && access(key, F_OK) == 0)
                return 0;
        if (gethostname(host, sizeof(host) - 1) < 0 || !*host)
                (void)snprintf(host, sizeof(host), "localhost");
        if (path_mkdirs(dir, 0700, err) < 0)
                return err_wrap(err, "'%s'", dir);
        log_info("making a certificate for %s in %s", host, dir);
        return http_tls_make_self_signed(host, cert, key, err);
}

static int open_tls(struct serve *s, struct err *err)
{
        auto_free char *dir = str_printf("%s/state/tls", s->config->data);
        auto_free char *cert = str_printf("%s/state/tls/cert.pem", s->config->data);
        auto_free char *key = str_printf("%s/state/tls/key.pem", s->config->data);
        char pin[HTTP_TLS_PIN_MAX];
        int r = 0;

        if (!dir || !cert || !key)
                return err_oom(err);
        if (!str_eq(s->config->tls_cert, "none")) {
                r = http_tls_new_from_files(s->config->tls_cert, s->config->tls_key, &s->tls, err);
        } else {
                r = make_certificate(dir, cert, key, err);
                if (r == 0)
                        r = http_tls_new_from_files(cert, key, &s->tls, err);
        }
        if (r < 0)
                return err_wrap(err, "tls");
        http_tls_pin(s->tls, pin);
        log_info("the certificate's key is pinned by %s", pin);
        return 0;
}

/* ── listeners ───────────────────────────────────────────────────────────────────────────────────────────────────── */

/* What was passed is told by its address, whatever its order. */
static int bind_missing(struct serve *s, const struct listen_address *addresses, size_t n, struct err *err)
{
        for (size_t i = 0; i < n; i++) {
                bool passed = false;
                int r;

                for (size_t j = 0; j < s->n_fds; j++)
                        passed |= listen_matches(&addresses[i], s->fds[j]);
                if (passed)
                        continue;
                if (s->n_fds == ARRAY_LEN(s->fds))
                        return err_set(err, E2BIG, "more than %d listeners", LISTEN_MAX);
                r = listen_bind(&addresses[i], &s->fds[s->n_fds], err);
                if (r < 0)
                        return r;
                s->n_fds++;
        }
        return 0;
}

/* By the configuration; what a service manager passes and it does not name is plain where only this machine reaches it. */
static bool wants_tls(int fd, const struct listen_address *addresses, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (listen_matches(&addresses[i], fd))
                        return addresses[i].tls;
        return !listen_is_local(fd);
}

static bool is_unix(int fd)
{
        struct sockaddr_storage name = { .ss_family = AF_UNSPEC };
        socklen_t len = sizeof(name);

        return getsockname(fd, (struct sockaddr *)&name, &len) == 0 && name.ss_family == AF_UNIX;
}

static int listen_all(struct serve *s, struct err *err)
{
        struct listen_address addresses[LISTEN_MAX];
        size_t n = 0;
        int r;

        r = listen_parse_list(s->config->listen, addresses, &n, err);
        if (r == 0)
                r = bind_missing(s, addresses, n, err);
        for (size_t i = 0; i < s->n_fds && r == 0; i++) {
                bool tls = wants_tls(s->fds[i], addresses, n);
                struct http_listen listen = {
                        .fd = s->fds[i],
                        .proxy_protocol = s->config->proxy_protocol && !is_unix(s->fds[i]),
                };

                if (tls && !s->tls)
                        r = open_tls(s, err);
                listen.tls = tls ? s->tls : NULL;
                if (r < 0)
                        break;
                s->fds[i] = -EBADF;
                r = api_listen(s->api, &listen, err);
        }
        for (size_t i = 0; i < n && r == 0; i++)
                log_info("listening on %s", addresses[i].text);
        return r;
}

/* ── the API ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct meters_config meters_of(const struct config *c)
{
        return (struct meters_config){
                .key_rate = c->limits.key_rate,
                .key_burst = c->limits.key_burst,
                .address_rate = c->limits.address_rate,
                .address_burst = c->limits.address_burst,
                .key_connections = c->limits.key_connections,
        };
}

static int split_proxies(const char *list, char ***ret)
{
        while (*list && !str_eq(list, "none")) {
                size_t len = strcspn(list, ",");
                auto_free char *one = strndup(list, len);

                if (!one || strv_add(ret, one) < 0)
                        return -ENOMEM;
                list += len + (list[len] == ',');
        }
        return 0;
}

int serve_start(struct serve *s, struct loop *loop, struct api_config *config, struct err *err)
{
        const struct config *c = s->config;
        auto_strv proxies = NULL;
        int r;

        if (split_proxies(c->trusted_proxies, &proxies) < 0)
                return err_oom(err);
        config->keys = s->keys;
        config->logins = s->logins;
        config->max_connections = c->limits.connections;
        config->max_per_address = c->limits.address_connections;
        config->idle_timeout_s = (unsigned)((c->limits.idle_timeout_ms + 999) / 1000);
        config->trusted_proxies = (const char *const *)proxies;
        config->body_budget = c->limits.body_memory;
        config->meters = meters_of(c);
        config->ecs_original_limits = c->ecs_original_limits;
        config->max_uploads = c->limits.uploads;
        config->max_upload_bytes = c->limits.upload_bytes;
        r = api_new(loop, config, &s->api, err);
        return r < 0 ? r : listen_all(s, err);
}

/* ── again ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void reload_config(struct serve *s)
{
        auto_str text = STR_INIT;
        struct err err = ERR_INIT;
        struct config c;
        struct meters_config meters;
        bool check = false;
        int r;

        config_default(&c);
        r = fd_read_file(AT_FDCWD, s->reload_path, CONFIG_FILE_MAX, &text, &err);
        if (r == 0)
                r = config_read_yaml(&c, text.data ? text.data : "", text.len, s->reload_path, &err);
        if (r == 0)
                r = config_apply_flags(&c, s->n_reload_args, s->reload_args, &check, &err);
        if (r == 0)
                r = config_check(&c, &err);
        if (r < 0) {
                log_warn("reload: %s", err.text);
                return;
        }
        log_set_level(config_log_level(&c));
        meters = meters_of(&c);
        api_configure(s->api, &meters);
}

void serve_reload(struct serve *s)
{
        struct err err = ERR_INIT;

        log_info("reading certificate and configuration again");
        if (s->tls && http_tls_reload(s->tls, &err) < 0)
                log_warn("reload: the certificate stays as it was: %s", err.text);
        if (s->api && s->reload_path && *s->reload_path)
                reload_config(s);
}

void serve_stop(struct serve *s)
{
        api_free(TAKE_PTR(s->api));
}

void serve_done(struct serve *s)
{
        http_tls_free(TAKE_PTR(s->tls));
        logins_free(TAKE_PTR(s->logins));
        keys_free(TAKE_PTR(s->keys));
        state_db_close(TAKE_PTR(s->db));
        seal_free(TAKE_PTR(s->seal));
        for (size_t i = 0; i < s->n_fds; i++)
                fd_replace(&s->fds[i], -EBADF);
        s->n_fds = 0;
}
