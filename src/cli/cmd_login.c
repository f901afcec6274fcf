#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/password.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct wish {
        const char *registry, *username;
        bool password_stdin, list;
};

static void wipe(struct str *s)
{
        if (s->data)
                explicit_bzero(s->data, s->len);
        str_done(s);
}
#define auto_wiped __attribute__((cleanup(wipe))) struct str

static int add_text(json_t *o, const char *name, const char *value, struct err *err)
{
        json_t *text = json_string(value);

        if (!text)
                return err_set(err, EINVAL, "%s: it is no UTF-8", name);
        return json_object_set_new(o, name, text) < 0 ? err_oom(err) : 0;
}

static int read_secret(const struct wish *w, struct str *username, struct str *password, struct err *err)
{
        int r = 0;

        if (w->username)
                r = str_adds(username, w->username) < 0 ? err_oom(err) : 0;
        else if (w->password_stdin)
                r = err_set(err, EINVAL, "--password-stdin needs --username");
        else
                r = cli_ask("Username: ", true, username, err);
        if (r == 0)
                r = w->password_stdin ? cli_read_password(password, err) : cli_ask("Password: ", false, password, err);
        return r == -ENXIO ? err_wrap(err, "mayfly login asks on a terminal, or takes --username and --password-stdin")
                           : r;
}

static int login(const struct cli *cli, const struct wish *w, struct err *err)
{
        auto_wiped username = STR_INIT, password = STR_INIT;
        auto_json body = json_object();
        auto_json answer = NULL;
        auto_str told = STR_INIT;
        int r;

        if (!body)
                return err_oom(err);
        r = read_secret(w, &username, &password, err);
        if (r == 0 && w->registry)
                r = add_text(body, "registry", w->registry, err);
        if (r == 0)
                r = add_text(body, "username", username.data, err);
        if (r == 0)
                r = add_text(body, "password", password.data, err);
        if (r == 0)
                r = cli_post_json(cli, "/v1/registries/login", body, &answer, err);
        if (r < 0)
                return r;
        if (cli->json)
                return cli_print_json(answer, err);
        if (str_addf(&told, "%s takes %s: kept for your pulls and tasks", cli_text(answer, "registry"),
                     cli_text(answer, "username")) < 0)
                return err_oom(err);
        cli_print_line("", told.data);
        return 0;
}

static int list(const struct cli *cli, struct err *err)
{
        static const char *const header[] = { "REGISTRY", "USERNAME", "SINCE" };
        auto_table table = { .columns = ARRAY_LEN(header) };
        auto_json doc = NULL;
        json_t *all, *one;
        size_t i;
        int r;

        r = cli_get_json(cli, "/v1/registries", &doc, err);
        if (r < 0)
                return r;
        all = json_object_get(doc, "registries");
        for (i = 0; i < ARRAY_LEN(header) && !cli->json; i++)
                cli_table_add(&table, header[i]);
        json_array_foreach(all, i, one) {
                char since[CLI_AGE_MAX];

                if (cli->json) {
                        r = cli_print_json(one, err);
                        if (r < 0)
                                return r;
                        continue;
                }
                cli_ago(cli_text(one, "created_at"), since);
                cli_table_add(&table, cli_text(one, "registry"));
                cli_table_add(&table, cli_text(one, "username"));
                cli_table_add(&table, since);
        }
        return cli->json ? 0 : cli_table_print(&table, err);
}

int cmd_login(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct wish w = { .registry = NULL };
        const struct cli_binding options[] = {
                { "username", cli_set_text, &w.username },
                { "password-stdin", cli_set_true, &w.password_stdin },
                { "list", cli_set_true, &w.list },
        };
        struct err err = ERR_INIT;
        int r;

        r = cli_parse(cli, command, options, ARRAY_LEN(options), &argc, argv, &err);
        if (r == 0 && (argc > 1 || (w.list && argc > 0)))
                r = err_set(&err, EINVAL, "at most one registry is to be named (mayfly login REGISTRY)");
        if (r != 0)
                return r > 0 ? CLI_OK : cli_fail(command, &err);
        w.registry = argc ? argv[0] : NULL;
        r = w.list ? list(cli, &err) : login(cli, &w, &err);
        if (r == 0)
                r = cli_flush(&err);
        return r < 0 ? cli_fail(command, &err) : CLI_OK;
}
