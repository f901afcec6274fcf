/* mayfly: the command. */
#include "base/str.h"
#include "cli/cli.h"
#include "cli/options.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

const struct cli_command cli_commands[] = {
        { "serve", "", "Start Mayfly on this machine (root)",
          "  mayfly serve\n  mayfly serve --config /etc/mayfly/mayfly.yaml --check\n", cmd_serve, CLI_FAILED, false },
        { "run", "IMAGE [COMMAND] [ARG...]", "Run a task and answer with its output and exit code",
          "  mayfly run busybox:demo echo hello\n"
          "  echo hello | mayfly run -i busybox:demo tr a-z A-Z\n"
          "  mayfly run -e NAME=value --network none --timeout 5s busybox:demo env\n"
          "  mayfly run --copy ./script.sh:script.sh busybox:demo sh script.sh\n"
          "  mayfly run --json busybox:demo true\n",
          cmd_run, CLI_USAGE, true },
        { "images", "", "List images", "  mayfly images\n  mayfly images -q\n  mayfly images --json\n", cmd_images,
          CLI_FAILED, false },
        { "inspect", "IMAGE|TASK...", "Show all that is known of images or tasks, as JSON",
          "  mayfly inspect busybox:demo\n", cmd_inspect, CLI_FAILED, false },
        { "import", "FILE|- NAME:TAG", "Make an image of a root file system (tar, plain, gzip or zstd)",
          "  mayfly import rootfs.tar.gz tools:1\n"
          "  tar -C rootfs -c . | mayfly import - tools:1 --change 'CMD [\"/bin/sh\"]'\n",
          cmd_import, CLI_FAILED, false },
        { "load", "[FILE|-]", "Load images of a docker save or OCI layout archive",
          "  mayfly load image.tar\n  docker save busybox | mayfly load -\n", cmd_load, CLI_FAILED, false },
        { "rmi", "IMAGE...", "Remove images", "  mayfly rmi busybox:demo\n", cmd_rmi, CLI_FAILED, false },
        { "version", "", "Show the versions of the command and of the server",
          "  mayfly version\n  mayfly version --json\n", cmd_version, CLI_FAILED, false },
        { .name = NULL },
};

static void print_help(FILE *to)
{
        fprintf(to, "Usage: mayfly [--host URL] COMMAND\n\n"
                    "Containers that live a millisecond or a year.\n\nCommands:\n");
        for (const struct cli_command *c = cli_commands; c->name; c++)
                fprintf(to, "  %-10s %s\n", c->name, c->summary);
        fprintf(to, "\nOptions:\n"
                    "  -H, --host URL   where Mayfly listens (MAYFLY_HOST; default " CLI_DEFAULT_HOST ")\n"
                    "      --json       answers as JSON\n"
                    "      --version    the version of this command\n"
                    "      --help       this text\n"
                    "\nmayfly COMMAND --help shows a command's options and examples.\n");
}

/* Options before the command. 0: the command follows; 1: done; -EINVAL. */
static int parse_global(struct cli *cli, int *argc, char ***argv, struct err *err)
{
        while (*argc > 0 && (*argv)[0][0] == '-') {
                const char *word = (*argv)[0];

                if (str_eq(word, "--help") || str_eq(word, "-h")) {
                        print_help(stdout);
                        return 1;
                }
                if (str_eq(word, "--version") || str_eq(word, "-v")) {
                        printf("mayfly %s\n", MAYFLY_VERSION);
                        return 1;
                }
                if (str_eq(word, "--json")) {
                        cli->json = true;
                } else if (str_starts(word, "--host=")) {
                        cli->host = word + strlen("--host=");
                } else if (str_eq(word, "--host") || str_eq(word, "-H")) {
                        if (*argc < 2)
                                return err_set(err, EINVAL, "%s: needs a value", word);
                        --*argc;
                        cli->host = *++*argv;
                } else {
                        return err_set(err, EINVAL, "%s: unknown option (mayfly --help lists them)", word);
                }
                --*argc;
                ++*argv;
        }
        return 0;
}

static const struct cli_command *find_command(const char *name)
{
        for (const struct cli_command *c = cli_commands; c->name; c++)
                if (str_eq(c->name, name))
                        return c;
        return NULL;
}

int main(int argc, char **argv)
{
        const char *host = getenv("MAYFLY_HOST");
        struct cli cli = { .host = host && *host ? host : CLI_DEFAULT_HOST, .key = getenv("MAYFLY_KEY") };
        const struct cli_command *command;
        struct err err = ERR_INIT;
        int r;

        (void)signal(SIGPIPE, SIG_IGN);
        argc--;
        argv++;
        r = parse_global(&cli, &argc, &argv, &err);
        if (r < 0) {
                cli_error("%s", err.text);
                return CLI_USAGE;
        }
        if (r > 0)
                return CLI_OK;
        if (argc == 0) {
                print_help(stderr);
                return CLI_USAGE;
        }
        if (str_eq(argv[0], "help")) {
                print_help(stdout);
                return CLI_OK;
        }
        command = find_command(argv[0]);
        if (!command) {
                cli_error("%s: unknown command (mayfly --help lists them)", argv[0]);
                return CLI_USAGE;
        }
        return command->run(&cli, command, argc - 1, argv + 1);
}
