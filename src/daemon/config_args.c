/* The command line's side of the configuration. */
#include "base/fd.h"
#include "base/str.h"
#include "daemon/config.h"

#include <errno.h>
#include <fcntl.h>

#define FLAG_MAX 64

static void print_help(void)
{
        struct config c;

        config_default(&c);
        printf("Usage: mayfly serve [--config FILE] [--check] [--KEY VALUE]...\n"
               "\n"
               "Starts Mayfly and stays in the foreground; SIGTERM or Ctrl-C stops it. Needs root.\n"
               "\n"
               "  --config FILE   YAML with the keys below (default: " CONFIG_DEFAULT_PATH ", if it is there)\n"
               "  --check         validate the configuration and exit\n"
               "  --help          this text\n"
               "\n"
               "Keys, each a flag too; a flag wins over the file:\n"
               "\n");
        for (size_t i = 0; config_key(i); i++) {
                auto_str value = STR_INIT;

                if (config_format(&c, i, &value) < 0)
                        return;
                printf("  --%-26s %s (default: %s)\n", config_key(i), config_key_help(i), value.data);
        }
        printf("\n"
               "Examples:\n"
               "  mayfly serve\n"
               "  mayfly serve --config /etc/mayfly/mayfly.yaml --check\n"
               "  mayfly serve --name test --data /srv/test --run /run/mayfly-test --network.default none\n");
}

/* "--key=value" or "--key value"; *i moves on. -EINVAL: no flag, or no value. */
static int take_flag(int argc, char **argv, int *i, char name[FLAG_MAX], const char **value, struct err *err)
{
        const char *arg = argv[*i], *equals;
        size_t n;

        if (!str_starts(arg, "--") || !arg[2])
                return err_set(err, EINVAL, "%s: not a flag (mayfly serve --help lists them)", arg);
        equals = strchr(arg, '=');
        n = equals ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
        if (n >= FLAG_MAX)
                return err_set(err, EINVAL, "%.40s…: unknown flag", arg);
        for (size_t j = 0; j < n; j++)
                name[j] = arg[2 + j] == '-' ? '_' : arg[2 + j];
        name[n] = '\0';
        if (equals)
                *value = equals + 1;
        else if (str_eq(name, "check") || str_eq(name, "help"))
                *value = NULL;
        else if (++*i < argc)
                *value = argv[*i];
        else
                return err_set(err, EINVAL, "%s: needs a value", arg);
        return 0;
}

static int read_file(struct config *c, const char *path, bool required, struct err *err)
{
        auto_str text = STR_INIT;
        struct err why = ERR_INIT;
        int r;

        r = fd_read_file(AT_FDCWD, path, CONFIG_FILE_MAX, &text, &why);
        if (r == -ENOENT && !required)
                return 0;
        if (r < 0)
                return err_set(err, -r, "%s: %s", path, strerror(-r));
        return config_read_yaml(c, text.data ? text.data : "", text.len, path, err);
}

/* The file comes before all flags, wherever --config stands. */
static int read_config_flag(struct config *c, int argc, char **argv, struct err *err)
{
        const char *path = NULL, *value;
        char name[FLAG_MAX];
        int r;

        for (int i = 0; i < argc; i++) {
                r = take_flag(argc, argv, &i, name, &value, err);
                if (r < 0)
                        return r;
                if (str_eq(name, "help") && !value) {
                        print_help();
                        return 1;
                }
                if (!str_eq(name, "config"))
                        continue;
                if (path)
                        return err_set(err, EINVAL, "--config: given twice");
                path = value;
        }
        return read_file(c, path ? path : CONFIG_DEFAULT_PATH, path != NULL, err);
}

const char *config_path(int argc, char **argv)
{
        const char *path = access(CONFIG_DEFAULT_PATH, F_OK) == 0 ? CONFIG_DEFAULT_PATH : "", *value;
        char name[FLAG_MAX];

        for (int i = 0; i < argc; i++)
                if (take_flag(argc, argv, &i, name, &value, NULL) == 0 && str_eq(name, "config") && value)
                        path = value;
        return path;
}

int config_apply_flags(struct config *c, int argc, char **argv, bool *ret_check, struct err *err)
{
        for (int i = 0; i < argc; i++) {
                struct err why = ERR_INIT;
                const char *value;
                char name[FLAG_MAX];
                int r;

                r = take_flag(argc, argv, &i, name, &value, err);
                if (r < 0)
                        return r;
                if (str_eq(name, "config"))
                        continue;
                if (str_eq(name, "check") && !value) {
                        *ret_check = true;
                        continue;
                }
                r = config_set(c, name, value ? value : "", &why);
                if (r < 0)
                        return err_set(err, EINVAL, "--%s", why.text);
        }
        return 0;
}

int config_from_args(struct config *c, int argc, char **argv, bool *ret_check, struct err *err)
{
        struct config made;
        bool check = false;
        int r;

        config_default(&made);
        r = read_config_flag(&made, argc, argv, err);
        if (r != 0)
                return r;
        r = config_apply_flags(&made, argc, argv, &check, err);
        if (r < 0)
                return r;
        r = config_check(&made, err);
        if (r < 0)
                return r;
        *c = made;
        *ret_check = check;
        return 0;
}

int config_to_args(const struct config *c, char ***ret, struct err *err)
{
        auto_strv args = NULL;
        struct config base;

        config_default(&base);
        for (size_t i = 0; config_key(i); i++) {
                auto_str value = STR_INIT, usual = STR_INIT, flag = STR_INIT;

                if (config_format(c, i, &value) < 0 || config_format(&base, i, &usual) < 0)
                        return err_oom(err);
                if (str_eq(value.data, usual.data))
                        continue;
                if (str_addf(&flag, "--%s=%s", config_key(i), value.data) < 0 || strv_add(&args, flag.data) < 0)
                        return err_oom(err);
        }
        if (!args) {
                args = calloc(1, sizeof(*args));
                if (!args)
                        return err_oom(err);
        }
        *ret = TAKE_PTR(args);
        return 0;
}
