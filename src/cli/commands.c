/* The commands, but for the options of run: commands_run.c. */
#include "cli/commands.h"

#define FLAG(name, letter, help)                                                                                       \
        {                                                                                                              \
                name, letter, NULL, help, CLI_COMPLETE_NONE, NULL, NULL                                                \
        }
#define VALUE(name, letter, value, help)                                                                               \
        {                                                                                                              \
                name, letter, value, help, CLI_COMPLETE_NONE, NULL, NULL                                               \
        }
#define OF_FILE(name, letter, value, help)                                                                             \
        {                                                                                                              \
                name, letter, value, help, CLI_COMPLETE_FILE, NULL, NULL                                               \
        }
#define OF_WORDS(name, letter, value, help, words)                                                                     \
        {                                                                                                              \
                name, letter, value, help, CLI_COMPLETE_WORDS, words, NULL                                             \
        }
#define REFUSED(name, letter, value, why)                                                                              \
        {                                                                                                              \
                name, letter, value, NULL, CLI_COMPLETE_NONE, NULL, why                                                \
        }
/* clang-format off */
#define END { NULL, 0, NULL, NULL, CLI_COMPLETE_NONE, NULL, NULL }
/* clang-format on */

#define NO_TEMPLATE "there are no templates here: take what you need out of --json"

#define SIGNALS "HUP INT QUIT KILL USR1 USR2 TERM CONT STOP"

const struct cli_option cli_common_options[] = {
        VALUE("host", 'H', "URL", "where Mayfly listens: unix://, http://, https://, ssh:// (MAYFLY_HOST)"),
        OF_FILE("key-file", 0, "FILE", "file with the key, id:secret (MAYFLY_KEY_FILE; MAYFLY_KEY holds a key itself)"),
        OF_FILE("cacert", 0, "FILE", "certificates to trust for https://, instead of the system's (MAYFLY_CACERT)"),
        VALUE("pin", 0, "sha256//HASH", "trust only this public key for https:// (MAYFLY_PIN)"),
        REFUSED("key", 0, "KEY",
                "everybody on this machine can read a command line: put the key into MAYFLY_KEY, or into a file for "
                "--key-file"),
        FLAG("json", 0, "answer in JSON, for programs"),
        FLAG("help", 0, "this text"),
        END,
};

static const struct cli_option no_options[] = { END };

static const struct cli_option serve_options[] = {
        OF_FILE("config", 0, "FILE", "configuration (default: /etc/mayfly/mayfly.yaml, where it exists)"),
        FLAG("check", 0, "only check the configuration"),
        END,
};

static const struct cli_option ps_options[] = {
        FLAG("all", 'a', "ended ones, too"),
        FLAG("quiet", 'q', "ids only"),
        OF_WORDS("filter", 'f', "NAME=VALUE",
                 "only these: status=, image=, label=NAME[=VALUE], since= and until= a time or a duration before now",
                 "status=queued status=pulling status=running status=exited status=failed status=killed image= label= "
                 "since= until="),
        VALUE("limit", 'n', "NUMBER", "at most so many, the newest (default: 100; 0: all)"),
        OF_WORDS("format", 0, "WORD", "table or json", "table json"),
        FLAG("no-trunc", 0, "cut nothing, however narrow the terminal is"),
        END,
};

static const struct cli_option logs_options[] = {
        FLAG("follow", 'f', "go on until the task ends"),
        VALUE("tail", 'n', "LINES", "only the last lines: a number, or all"),
        OF_WORDS("stream", 0, "NAME", "only stdout or stderr", "stdout stderr"),
        VALUE("since", 0, "TIME",
              "only what came since then: 2026-01-01T00:00:00Z, seconds since 1970, or how long ago, as 10m"),
        VALUE("until", 0, "TIME", "only what came until then"),
        FLAG("timestamps", 't', "show when each line came"),
        END,
};

static const struct cli_option wait_options[] = {
        VALUE("timeout", 0, "DURATION", "give up after this time, with exit code 124"),
        END,
};

static const struct cli_option stop_options[] = {
        VALUE("time", 't', "SECONDS", "between SIGTERM and SIGKILL (default: what the task asked for)"),
        VALUE("timeout", 0, "SECONDS", NULL),
        END,
};

static const struct cli_option kill_options[] = {
        OF_WORDS("signal", 's', "SIGNAL", "a name or a number (default: KILL)", SIGNALS),
        END,
};

static const struct cli_option inspect_options[] = {
        OF_WORDS("type", 0, "WORD", "task or image, where the name could be both", "task image"),
        REFUSED("format", 'f', "TEMPLATE", NO_TEMPLATE),
        END,
};

static const struct cli_option images_options[] = {
        FLAG("all", 'a', NULL),
        FLAG("quiet", 'q', "digests only"),
        FLAG("no-trunc", 0, "whole digests, and nothing cut, however narrow the terminal is"),
        OF_WORDS("filter", 'f', "NAME=VALUE",
                 "only those: dangling=, pinned=, broken= (true or false), reference=PATTERN, source=, unused-for=7d",
                 "dangling=true dangling=false pinned=true pinned=false broken=true reference= source=pull source=load "
                 "source=import unused-for="),
        FLAG("verify", 0, "read all of the store, and check every blob, layer and tree"),
        FLAG("repair", 0, "with --verify: unpack again what is damaged, mark what cannot be"),
        REFUSED("format", 0, "TEMPLATE", NO_TEMPLATE),
        END,
};

static const struct cli_option history_options[] = {
        FLAG("no-trunc", 0, "whole digests and commands"),
        REFUSED("format", 0, "TEMPLATE", NO_TEMPLATE),
        END,
};

static const struct cli_option prune_options[] = {
        FLAG("yes", 'y', "remove them; without it they are only shown"),
        FLAG("all", 'a', "images with a name, too"),
        FLAG("dangling", 0, "images without a name (the default where nothing else is asked)"),
        VALUE("unused-for", 0, "DURATION", "images that no task was started from for so long: 12h, 7d"),
        VALUE("keep-bytes", 0, "SIZE", "the least recently used ones, until images take no more than this"),
        END,
};

static const struct cli_option import_options[] = {
        VALUE("change", 'c', "LINE",
              "a Dockerfile line: CMD ENTRYPOINT ENV EXPOSE LABEL STOPSIGNAL USER VOLUME WORKDIR"),
        END,
};

static const struct cli_option load_options[] = {
        OF_FILE("input", 'i', "FILE", "the archive, as in docker load"),
        FLAG("quiet", 'q', "no progress, only what was loaded"),
        END,
};

static const struct cli_option save_options[] = {
        OF_FILE("output", 'o', "FILE", "write there; it is complete, or not there (default: stdout)"),
        OF_WORDS("format", 0, "WORD", "docker: also read by docker load (default); oci: an OCI image layout alone",
                 "docker oci"),
        FLAG("quiet", 'q', "no progress"),
        END,
};

static const struct cli_option pull_options[] = {
        FLAG("quiet", 'q', "only the digest, at the end"),
        VALUE("username", 'u', "NAME", "whom the registry knows; the password comes from stdin"),
        FLAG("password-stdin", 0, "reads the password from stdin"),
        OF_WORDS("policy", 0, "WORD", "always: ask the registry what the tag means now (default); missing; never",
                 "always missing never"),
        END,
};

static const struct cli_option login_options[] = {
        VALUE("username", 'u', "NAME", "whom the registry knows (default: asked for)"),
        FLAG("password-stdin", 0, "reads the password from stdin (default: asked for, without echo)"),
        FLAG("list", 0, "only lists where you are logged in"),
        REFUSED("password", 'p', "TEXT", "everybody on this machine sees a command's arguments: use --password-stdin"),
        END,
};

static const struct cli_option rmi_options[] = {
        FLAG("force", 'f', "no error if it is not there"),
        END,
};

static const struct cli_option key_create_options[] = {
        OF_WORDS("role", 0, "ROLE", "admin, deploy, task or read (default: task)", "admin deploy task read"),
        VALUE("name", 0, "TEXT", "what people call it"),
        VALUE("expires", 0, "TIME", "a duration from now (24h, 30d), or a time (RFC 3339); default: never"),
        VALUE("max-memory", 0, "SIZE", "the most memory that a task may ask for"),
        VALUE("max-disk", 0, "SIZE", "the same for its disk"),
        VALUE("max-shm", 0, "SIZE", "the same for its /dev/shm"),
        VALUE("max-output", 0, "SIZE", "the same for its output"),
        VALUE("max-cpus", 0, "NUMBER", "the same for its processors"),
        VALUE("max-pids", 0, "NUMBER", "the same for its processes"),
        VALUE("max-timeout", 0, "DURATION", "the same for its run time"),
        VALUE("max-cpu-time", 0, "DURATION", "the same for its time on processors"),
        VALUE("max-queue-timeout", 0, "DURATION", "the same for its time in the queue"),
        VALUE("max-running", 0, "NUMBER", "tasks that may run at once"),
        VALUE("max-queued", 0, "NUMBER", "tasks that may wait at once"),
        VALUE("max-connections", 0, "NUMBER", "requests that may be answered at once"),
        VALUE("rate", 0, "NUMBER", "requests a second"),
        VALUE("burst", 0, "NUMBER", "requests that may come at once"),
        { "image", 0, "PATTERN", "an image that it may use, as docker.io/library/*; may come again", CLI_COMPLETE_IMAGE,
          NULL, NULL },
        OF_WORDS("network", 0, "MODE", "a network that it may use; may come again", "none nat internet"),
        OF_WORDS("engine", 0, "NAME", "an engine that it may use; may come again", "native docker"),
        END,
};

static const struct cli_option key_list_options[] = {
        FLAG("all", 'a', "revoked and expired ones, too"),
        FLAG("quiet", 'q', "ids only"),
        END,
};

/* ── exit codes ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static const struct cli_exit_code usual_exits[] = {
        { "0", "It is done." },
        { "1", "It failed; stderr says why." },
        { "128+n", "Signal n ended it." },
        { NULL, NULL },
};

static const struct cli_exit_code run_exits[] = {
        { "0-255", "That of the task." },
        { "125", "Mayfly refused or could not run it; stderr says why." },
        { "126", "The command in the image is not executable." },
        { "127", "The command was not found in the image." },
        { "128+n", "The task was ended by signal n: 137 also means a limit, which stderr names." },
        { NULL, NULL },
};

static const struct cli_exit_code wait_exits[] = {
        { "0", "All have ended." },
        { "1", "There is no such task, or Mayfly cannot be asked." },
        { "124", "The time was over before." },
        { "128+n", "Signal n ended it." },
        { NULL, NULL },
};

/* ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────── */

const struct cli_command cli_commands[] = {
        {
                .name = "serve",
                .args = "[--KEY VALUE...]",
                .summary = "start Mayfly on this machine (root)",
                .description = "Starts the daemon and its helpers, and stops all of them by SIGTERM. Every key of the "
                               "configuration is an option, too: mayfly serve --help lists them with their defaults.",
                .options = serve_options,
                .exits = usual_exits,
                .examples = "mayfly serve\n"
                            "mayfly serve --config /etc/mayfly/mayfly.yaml --check\n",
                .failed = CLI_FAILED,
                .bare = true,
        },
        {
                .name = "run",
                .args = "IMAGE [COMMAND] [ARG...]",
                .summary = "run a task, with its output as it comes, and its exit code",
                .description =
                        "Runs a command in a fresh container, which is gone afterwards. Flags are those of docker run "
                        "wherever they mean something here. stdout and stderr come as the task writes them; with -i it "
                        "reads stdin from here. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM and "
                        "SIGCONT "
                        "go on to the task; when the task does not end, a third SIGINT or SIGTERM ends it.\n\n"
                        "There is neither a time-out nor a limit of output unless one is asked for, but for those of "
                        "the "
                        "key. With -d, --wait, --json or --idempotency-key the server keeps the output (mayfly logs), "
                        "which it does up to "
                        "256m of each stream.\n\n"
                        "A secret comes from a file or from a variable of the environment, never from the command "
                        "line, "
                        "which everybody on the machine can read.",
                .options = cli_run_options,
                .exits = run_exits,
                .examples = "mayfly run busybox:demo echo hello\n"
                            "echo hello | mayfly run -i busybox:demo tr a-z A-Z\n"
                            "mayfly run -e NAME=value --network none --timeout 5s busybox:demo env\n"
                            "mayfly run --copy ./src:src --output result.txt:./result.txt busybox:demo sh src/work.sh\n"
                            "id=$(mayfly run -d busybox:demo sleep 10); mayfly wait $id\n",
                .complete = CLI_COMPLETE_IMAGE,
                .complete_rest = CLI_COMPLETE_FILE,
                .failed = CLI_USAGE,
                .leading = true,
        },
        {
                .name = "ps",
                .args = "",
                .summary = "list tasks",
                .description = "Lists the tasks that have not ended, or all of them, the newest first. Filters of one "
                               "name are alternatives for status, and must all hold for labels.",
                .options = ps_options,
                .exits = usual_exits,
                .examples = "mayfly ps\n"
                            "mayfly ps -a --filter status=failed --filter label=app=shop\n"
                            "mayfly stop $(mayfly ps -q)\n",
                .failed = CLI_FAILED,
        },
        {
                .name = "logs",
                .args = "TASK",
                .summary = "show the output of a task",
                .description = "Writes what the task wrote to stdout and stderr, each to its own stream here.",
                .options = logs_options,
                .exits = usual_exits,
                .examples = "mayfly logs -f --tail 10 $(mayfly ps -q -n 1)\n"
                            "mayfly logs -t --since 10m $(mayfly ps -aq -n 1)\n",
                .complete = CLI_COMPLETE_TASK,
                .failed = CLI_FAILED,
        },
        {
                .name = "wait",
                .args = "TASK...",
                .summary = "wait until tasks have ended, and print their exit codes",
                .description = "Prints one exit code on a line for each task, in the order in which they are named. A "
                               "task that never ran has none: its line is a dash.",
                .options = wait_options,
                .exits = wait_exits,
                .examples = "id=$(mayfly run -d busybox:demo sh -c 'exit 3'); mayfly wait $id\n",
                .complete = CLI_COMPLETE_TASK,
                .complete_rest = CLI_COMPLETE_TASK,
                .failed = CLI_FAILED,
        },
        {
                .name = "stop",
                .args = "TASK...",
                .summary = "stop tasks: SIGTERM, then SIGKILL",
                .description = "Cancels tasks, and waits for their end. One that has ended already stays as it is.",
                .options = stop_options,
                .exits = usual_exits,
                .examples = "mayfly stop -t 5 $(mayfly ps -q)\n",
                .complete = CLI_COMPLETE_LIVE,
                .complete_rest = CLI_COMPLETE_LIVE,
                .failed = CLI_FAILED,
        },
        {
                .name = "kill",
                .args = "TASK...",
                .summary = "send a signal to tasks that run",
                .description = "Sends SIGKILL, or another signal, to the first process of each task.",
                .options = kill_options,
                .exits = usual_exits,
                .examples = "mayfly kill -s HUP $(mayfly ps -q -n 1)\n",
                .complete = CLI_COMPLETE_LIVE,
                .complete_rest = CLI_COMPLETE_LIVE,
                .failed = CLI_FAILED,
        },
        {
                .name = "inspect",
                .args = "IMAGE|TASK...",
                .summary = "show all that is known of images or tasks, as JSON",
                .description = "Prints one JSON array with what is known of each.",
                .options = inspect_options,
                .exits = usual_exits,
                .examples = "mayfly inspect busybox:demo\n",
                .complete = CLI_COMPLETE_IMAGE_OR_TASK,
                .complete_rest = CLI_COMPLETE_IMAGE_OR_TASK,
                .failed = CLI_FAILED,
        },
        {
                .name = "images",
                .args = "",
                .summary = "list images",
                .description =
                        "Lists the images that are on the server: also those without a name, which a newer image "
                        "of the same name has taken, as <none>. With --verify it reads and hashes all blobs, "
                        "unpacks each layer once more beside what is there, and compares the two.",
                .options = images_options,
                .exits = usual_exits,
                .examples = "mayfly images\n"
                            "mayfly images -q\n"
                            "mayfly images --json\n"
                            "mayfly images --filter dangling=true\n"
                            "mayfly images --verify --repair\n",
                .failed = CLI_FAILED,
        },
        {
                .name = "history",
                .args = "IMAGE",
                .summary = "show how an image was made",
                .description = "Lists the steps that its configuration tells of, the last one first, with the sizes of "
                               "layers as they are stored.",
                .options = history_options,
                .exits = usual_exits,
                .examples = "mayfly history --no-trunc busybox:demo\n",
                .complete = CLI_COMPLETE_IMAGE,
                .failed = CLI_FAILED,
        },
        {
                .name = "tag",
                .args = "IMAGE NAME:TAG",
                .summary = "give an image one more name",
                .description = "The name then means this image and no other. Who may use the new name's repository may "
                               "use the image by it.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "mayfly tag busybox:demo tools:1\n",
                .complete = CLI_COMPLETE_IMAGE,
                .complete_rest = CLI_COMPLETE_IMAGE,
                .failed = CLI_FAILED,
        },
        {
                .name = "pin",
                .args = "IMAGE...",
                .summary = "keep images from collection and removal",
                .description = "A pinned image stays, however full the disk is and however long nobody uses it.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "mayfly pin busybox:demo\n",
                .complete = CLI_COMPLETE_IMAGE,
                .complete_rest = CLI_COMPLETE_IMAGE,
                .failed = CLI_FAILED,
        },
        {
                .name = "unpin",
                .args = "IMAGE...",
                .summary = "undo mayfly pin",
                .description = "The images may be removed again, by hand and by collection.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "mayfly unpin busybox:demo\n",
                .complete = CLI_COMPLETE_IMAGE,
                .complete_rest = CLI_COMPLETE_IMAGE,
                .failed = CLI_FAILED,
        },
        {
                .name = "import",
                .args = "FILE|- NAME:TAG",
                .summary = "make an image of a root file system (tar; plain, gzip or zstd)",
                .description = "Makes an image of one layer of an archive, which - reads from stdin.",
                .options = import_options,
                .exits = usual_exits,
                .examples = "mayfly import rootfs.tar.gz tools:1\n"
                            "tar -C rootfs -c . | mayfly import --change 'CMD [\"/bin/sh\"]' - tools:1\n",
                .complete = CLI_COMPLETE_FILE,
                .complete_rest = CLI_COMPLETE_IMAGE,
                .failed = CLI_FAILED,
        },
        {
                .name = "load",
                .args = "[FILE|-]",
                .summary = "load images of a docker save or OCI layout archive",
                .description = "Loads all images of an archive, from stdin where no file is named.",
                .options = load_options,
                .exits = usual_exits,
                .examples = "mayfly load image.tar\n"
                            "docker save busybox | mayfly load\n",
                .complete = CLI_COMPLETE_FILE,
                .failed = CLI_FAILED,
        },
        {
                .name = "save",
                .args = "IMAGE...",
                .summary = "write images into an archive",
                .description =
                        "Writes images with their names into one archive, which mayfly load, docker load and other "
                        "tools "
                        "read; layers that several of them have are in it once. A name without a tag stands for all of "
                        "its tags. What is removed meanwhile is still written.",
                .options = save_options,
                .exits = usual_exits,
                .examples = "mayfly save -o busybox.tar busybox:demo\n"
                            "mayfly save busybox:demo | gzip >busybox.tar.gz\n"
                            "mayfly save --format oci -o layout.tar busybox:demo\n",
                .complete = CLI_COMPLETE_IMAGE,
                .complete_rest = CLI_COMPLETE_IMAGE,
                .failed = CLI_FAILED,
        },
        {
                .name = "pull",
                .args = "IMAGE",
                .summary = "pull an image from its registry",
                .description =
                        "Brings an image from its registry, with a bar for each layer on a terminal and a line a step\n"
                        "elsewhere. Several who pull the same share one download; what was begun is gone on with.",
                .options = pull_options,
                .exits = usual_exits,
                .examples = "mayfly pull busybox:1.36\n",
                .complete = CLI_COMPLETE_IMAGE,
                .failed = CLI_FAILED,
        },
        {
                .name = "login",
                .args = "[REGISTRY]",
                .summary = "have the server keep credentials for a registry",
                .description = "Asks the registry whether it takes them, and keeps them sealed, for the pulls and "
                               "tasks of your\n"
                               "key alone. The registry is docker.io by default. pull and run also take what `docker "
                               "login` left\n"
                               "in ~/.docker/config.json, or with its credential helpers.",
                .options = login_options,
                .exits = usual_exits,
                .examples = "mayfly login registry.example:5000\n"
                            "mayfly login -u ann --password-stdin registry.example:5000 < password\n"
                            "mayfly login --list\n",
                .failed = CLI_FAILED,
        },
        {
                .name = "logout",
                .args = "[REGISTRY]",
                .summary = "have the server forget credentials for a registry",
                .description = "Those that `mayfly login` kept. The registry is docker.io by default.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "mayfly logout registry.example:5000\n",
                .failed = CLI_FAILED,
        },
        {
                .name = "rmi",
                .args = "IMAGE...",
                .summary = "remove images",
                .description = "Takes names away from images. An image without a name is removed when nothing uses it.",
                .options = rmi_options,
                .exits = usual_exits,
                .examples = "mayfly rmi busybox:demo\n",
                .complete = CLI_COMPLETE_IMAGE,
                .complete_rest = CLI_COMPLETE_IMAGE,
                .failed = CLI_FAILED,
        },
        {
                .name = "prune",
                .args = "",
                .summary = "remove images that nobody needs",
                .description = "Shows what would go, and how many bytes come back; --yes removes it. Never an image "
                               "that a task uses, that is pinned, or that has just come.",
                .options = prune_options,
                .exits = usual_exits,
                .examples = "mayfly prune\n"
                            "mayfly prune --unused-for 7d --yes\n"
                            "mayfly prune --keep-bytes 10GB\n",
                .failed = CLI_FAILED,
        },
        {
                .name = "key create",
                .args = "",
                .summary = "make a key for the API, and print it as id:secret",
                .description =
                        "Prints the key on one line, and nothing else. It is shown this once: the server keeps only a "
                        "hash. Its role says what it may do: admin all; deploy images; task tasks of its own; read "
                        "look "
                        "at everything. Its bounds hold besides those of the server.",
                .options = key_create_options,
                .exits = usual_exits,
                .examples = "mayfly key create --name ci --expires 30d\n"
                            "MAYFLY_KEY=$(mayfly key create --role task --max-memory 1g --network none)\n",
                .failed = CLI_FAILED,
        },
        {
                .name = "key list",
                .args = "",
                .summary = "list keys",
                .description =
                        "Lists the keys that can be used, the newest first. No secret is shown, as none is kept.",
                .options = key_list_options,
                .exits = usual_exits,
                .examples = "mayfly key list\n",
                .failed = CLI_FAILED,
        },
        {
                .name = "key revoke",
                .args = "KEY...",
                .summary = "revoke keys",
                .description =
                        "Takes effect at once. A key is named by its id; what stands behind a colon is not read.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "mayfly key revoke $(mayfly key list -q)\n",
                .complete = CLI_COMPLETE_KEY,
                .complete_rest = CLI_COMPLETE_KEY,
                .failed = CLI_FAILED,
        },
        {
                .name = "engines",
                .args = "",
                .summary = "list what runs tasks, and how it is",
                .description =
                        "Lists the engines of the server: which is the default, whether each is well, and what it "
                        "lacks. Below stands what was found on a host that Mayfly does not manage, with what to "
                        "do about it.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "mayfly engines\n"
                            "mayfly engines --json\n",
                .failed = CLI_FAILED,
        },
        {
                .name = "version",
                .args = "",
                .summary = "show the versions of the command and of the server",
                .description = "Without a server the command still tells its own version, and fails.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "mayfly version\n"
                            "mayfly version --json\n",
                .failed = CLI_FAILED,
        },
        {
                .name = "completion",
                .args = "bash|zsh|fish",
                .summary = "print a script that completes this command in a shell",
                .description = "The script asks mayfly itself what could come next, so that images, tasks and keys of "
                               "the server are completed, too. make install puts the scripts where the shells look.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "source <(mayfly completion bash)\n"
                            "mayfly completion fish > ~/.config/fish/completions/mayfly.fish\n",
                .complete = CLI_COMPLETE_WORDS,
                .failed = CLI_FAILED,
        },
        {
                .name = "help",
                .args = "[COMMAND]",
                .summary = "explain a command",
                .description = "The same as mayfly COMMAND --help.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "mayfly help run\n",
                .complete = CLI_COMPLETE_COMMAND,
                .failed = CLI_FAILED,
        },
        {
                .name = "dial-stdio",
                .args = "",
                .summary = "connect stdin and stdout to the server",
                .description = "What hosts named ssh:// run at the other end: it hands bytes from stdin to the unix "
                               "socket of the server, and back to stdout.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "ssh machine mayfly dial-stdio\n",
                .failed = CLI_FAILED,
                .hidden = true,
        },
        {
                .name = "__complete",
                .args = "WORD...",
                .summary = "print what could come next",
                .description = "What the scripts of the shells ask.",
                .options = no_options,
                .exits = usual_exits,
                .examples = "mayfly __complete run --net\n",
                .failed = CLI_FAILED,
                .bare = true,
                .hidden = true,
        },
        { .name = NULL },
};

#define OF_TASKS "mayfly run, ps, logs, wait, stop, kill and inspect are for tasks"
#define GONE "what a task wrote is gone with it: mayfly run --output PATH:HOST brings results out"
#define ONCE "a task runs once, from the moment at which mayfly run asks for it; with -d it is left running"
#define USED "mayfly inspect TASK shows what a task used, once it has ended"

const struct cli_elsewhere cli_elsewhere[] = {
        { "attach", "mayfly logs -f TASK follows the output; stdin goes to a task from its start, by mayfly run -i" },
        { "build", "build with another tool, and bring the image by mayfly load, import or pull" },
        { "commit", GONE },
        { "compose", "a task is one container: mayfly run" },
        { "container", OF_TASKS },
        { "cp", "files go in by mayfly run --copy HOST:PATH, and come out by --output PATH:HOST" },
        { "create", ONCE },
        { "diff", GONE },
        { "events", "mayfly wait TASK tells of an end, mayfly logs -f TASK of output" },
        { "exec", "only the command of a task runs in it: let that one start the others, or run another task" },
        { "export", GONE },
        { "image", "mayfly images, pull, import, load, save, history, tag, rmi and prune are for images" },
        { "info", "mayfly version and mayfly engines tell of the server" },
        { "network", "mayfly run --network none, nat or internet" },
        { "port", "a task has no ports that anybody could reach" },
        { "push", "mayfly save IMAGE writes an archive, which skopeo and docker load take on to a registry" },
        { "rename", "a task has an id, not a name: mayfly run --label, and mayfly ps --filter label=" },
        { "restart", ONCE },
        { "rm", "a container is gone with its task, what is known of the task by and by; mayfly rmi removes images" },
        { "start", ONCE },
        { "stats", USED },
        { "system", "mayfly prune removes images, mayfly version and mayfly engines tell of the server" },
        { "top", USED },
        { "update", "limits are given to mayfly run, and stay" },
        { "volume", "files go in by mayfly run --copy HOST:PATH, and come out by --output PATH:HOST" },
        { NULL, NULL },
};

const char *const cli_about[] = {
        "mayfly runs containers that live a millisecond or a year. The server is started by mayfly serve; all other "
        "commands ask it over its API, on this machine or over the network.",
        "The server is named by --host or MAYFLY_HOST: unix:///run/mayfly/mayfly.sock (the default; for root and "
        "members "
        "of the group mayfly), http://127.0.0.1:6293, https://machine:6293, or ssh://user@machine, which runs mayfly "
        "there. Over http:// and https:// a key is needed, which mayfly key create makes.",
        "Tables are for people, and change; --json is for programs.",
        NULL,
};

const struct cli_variable cli_variables[] = {
        { "MAYFLY_HOST", "Where Mayfly listens; --host goes before it." },
        { "MAYFLY_KEY", "The key, id:secret." },
        { "MAYFLY_KEY_FILE", "A file that holds the key; --key-file goes before it, and it before MAYFLY_KEY." },
        { "MAYFLY_CACERT", "A file of certificates to trust for https://, instead of the system's." },
        { "MAYFLY_PIN", "The only public key to trust for https://, as sha256//HASH." },
        { "MAYFLY_REGISTRY_AUTH", "USER:PASSWORD for the registry of the image that mayfly run uses." },
        { "DOCKER_CONFIG", "Directory of Docker's config.json, for credentials of registries; ~/.docker by default." },
        { "NO_COLOR", "Where it is set, nothing is coloured." },
        { NULL, NULL },
};
