/* What every command is: one description, from which --help, the manual pages and the completions are made. Data only,
 * so that the program that writes the manual pages needs nothing else of the command. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Exit codes of docker run: the task's own, or one of these; 128 + n after a signal. */
enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 125, CLI_NOT_EXECUTABLE = 126, CLI_NOT_FOUND = 127 };

/* What a word on the command line names, so that a shell can complete it. */
enum cli_complete {
        CLI_COMPLETE_NONE,
        CLI_COMPLETE_FILE,
        CLI_COMPLETE_WORDS, /* of cli_option.words; of a command: of its args, "a|b" */
        CLI_COMPLETE_IMAGE,
        CLI_COMPLETE_TASK, /* any that the server knows */
        CLI_COMPLETE_LIVE, /* a task that has not ended */
        CLI_COMPLETE_KEY,
        CLI_COMPLETE_IMAGE_OR_TASK,
        CLI_COMPLETE_VARIABLE, /* of the environment */
        CLI_COMPLETE_COMMAND,
};

struct cli_option {
        const char *name;  /* without dashes */
        char letter;       /* 0: none */
        const char *value; /* what it takes; NULL: it is a flag, which "=false" turns off */
        const char *help;  /* NULL: it is accepted, and not worth telling */
        enum cli_complete complete;
        const char *words;   /* CLI_COMPLETE_WORDS: between blanks */
        const char *refused; /* it means nothing here: why, and what to use instead */
};

struct cli_exit_code {
        const char *code, *meaning;
};

struct cli_command {
        const char *name; /* one word, or two ("key create") */
        const char *args; /* of the synopsis */
        const char *summary;
        const char *description;           /* paragraphs, with an empty line between */
        const struct cli_option *options;  /* ends with a NULL name; its own, cli_common_options come too */
        const struct cli_exit_code *exits; /* ends with a NULL code */
        const char *examples;              /* lines of a shell; those with # are comments */
        enum cli_complete complete;        /* what its first other word names */
        enum cli_complete complete_rest;   /* and the following ones */
        int failed;                        /* exit code of wrong usage and of failures before anything ran */
        bool leading; /* options end at the first word that is none: the rest is another command's */
        bool bare;    /* takes every word as it comes, options included */
        bool hidden;  /* for programs, not for people */
};

extern const struct cli_command cli_commands[];      /* ends with a NULL name */
extern const struct cli_option cli_common_options[]; /* of every command; ends with a NULL name */
extern const struct cli_option cli_run_options[];    /* of run: commands_run.c */
extern const char *const cli_about[];                /* paragraphs on the whole, NULL-terminated */

/* Commands of docker(1) that have no counterpart by their name: what to do instead. */
struct cli_elsewhere {
        const char *word, *instead;
};
extern const struct cli_elsewhere cli_elsewhere[]; /* ends with a NULL word */

struct cli_variable {
        const char *name, *meaning;
};
extern const struct cli_variable cli_variables[]; /* of the environment; ends with a NULL name */

/* A script for each shell that completes the command in it: scripts.c. */
struct cli_script {
        const char *shell, *text;
};
extern const struct cli_script cli_scripts[]; /* ends with a NULL shell */

#define CLI_DEFAULT_SOCKET "/run/mayfly/mayfly.sock"
#define CLI_DEFAULT_HOST "unix://" CLI_DEFAULT_SOCKET
#define CLI_TAGLINE "Containers that live a millisecond or a year."
#define CLI_DATE "November 21, 2026" /* of the descriptions */
