/* mayfly: the command. */
#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const struct {
        const char *name;
        cli_main_fn *run;
} programs[] = {
        { "serve", cmd_serve },
        { "run", cmd_run },
        { "ps", cmd_ps },
        { "logs", cmd_logs },
        { "wait", cmd_wait },
        { "stop", cmd_stop },
        { "kill", cmd_kill },
        { "inspect", cmd_inspect },
        { "images", cmd_images },
        { "history", cmd_history },
        { "tag", cmd_tag },
        { "pin", cmd_pin },
        { "unpin", cmd_unpin },
        { "import", cmd_import },
        { "load", cmd_load },
        { "login", cmd_login },
        { "logout", cmd_logout },
        { "pull", cmd_pull },
        { "save", cmd_save },
        { "rmi", cmd_rmi },
        { "prune", cmd_prune },
        { "key create", cmd_key_create },
        { "key list", cmd_key_list },
        { "key revoke", cmd_key_revoke },
        { "engines", cmd_engines },
        { "version", cmd_version },
        { "completion", cmd_completion },
        { "help", cmd_help },
        { "dial-stdio", cmd_dial },
        { "__complete", cmd_complete },
};

static cli_main_fn *find_program(const struct cli_command *command)
{
        for (size_t i = 0; i < ARRAY_LEN(programs); i++)
                if (str_eq(programs[i].name, command->name))
                        return programs[i].run;
        return NULL;
}

/* Options before the command are those of every command, and one more. */
static const struct cli_option root_options[] = {
        { .name = "version", .letter = 'v', .help = "the version of this command" },
        { .name = NULL },
};
static const struct cli_command root = {
        .name = "", .args = "COMMAND", .options = root_options, .failed = CLI_USAGE, .leading = true
};

static int unknown(char *const *argv, int argc)
{
        const char *similar;

        if (cli_is_group(argv[0])) {
                bool asked = argc > 1 && (str_eq(argv[1], "--help") || str_eq(argv[1], "-h"));

                if (argc > 1 && !asked)
                        cli_error("%s %s: unknown command", argv[0], argv[1]);
                cli_print_group(argv[0], !asked);
                return asked ? CLI_OK : CLI_USAGE;
        }
        for (const struct cli_elsewhere *e = cli_elsewhere; e->word; e++) {
                if (str_eq(e->word, argv[0])) {
                        cli_error("there is no mayfly %s: %s", e->word, e->instead);
                        return CLI_USAGE;
                }
        }
        similar = cli_suggest(argv[0]);
        if (similar)
                cli_error("%s: unknown command; did you mean %s? (mayfly help lists all)", argv[0], similar);
        else
                cli_error("%s: unknown command (mayfly help lists all)", argv[0]);
        return CLI_USAGE;
}

/* What was printed and cannot be written is no success, whatever printed it. */
static int finish(const struct cli_command *command, int code)
{
        struct err err = ERR_INIT;

        if (code == command->failed && cli_signal)
                return 128 + cli_signal;
        return code == CLI_OK && cli_flush(&err) < 0 ? cli_fail(command, &err) : code;
}

static const char *from_environment(const char *name, const char *otherwise)
{
        const char *value = getenv(name);

        return value && *value ? value : otherwise;
}

/* Where a standard stream is closed, the next descriptor, a connection, would take its place. What stands there instead
 * cannot be read, or written: the failure is told, not swallowed. */
static int keep_standard_fds(void)
{
        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
                if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
                        return -EBADF;
        return 0;
}

int main(int argc, char **argv)
{
        struct cli cli = {
                .host = from_environment("MAYFLY_HOST", CLI_DEFAULT_HOST),
                .key = from_environment("MAYFLY_KEY", NULL),
                .key_file = from_environment("MAYFLY_KEY_FILE", NULL),
                .cacert = from_environment("MAYFLY_CACERT", NULL),
                .pin = from_environment("MAYFLY_PIN", NULL),
        };
        bool version = false;
        const struct cli_binding bindings[] = { { "version", cli_set_true, &version } };
        const struct cli_command *command;
        struct err err = ERR_INIT;
        int r, words = 0;

        if (keep_standard_fds() < 0)
                return CLI_USAGE;
        (void)signal(SIGPIPE, SIG_IGN);
        argc--;
        argv++;
        r = cli_parse(&cli, &root, bindings, ARRAY_LEN(bindings), &argc, argv, &err);
        if (r != 0)
                return r > 0 ? finish(&root, CLI_OK) : cli_fail(&root, &err);
        if (version) {
                printf("mayfly %s\n", MAYFLY_VERSION);
                return finish(&root, CLI_OK);
        }
        if (argc == 0) {
                cli_print_overview(true);
                return CLI_USAGE;
        }
        command = cli_find_command(argc, argv, &words);
        if (!command)
                return finish(&root, unknown(argv, argc));
        return finish(command, find_program(command)(&cli, command, argc - words, argv + words));
}
