/* What could come next on a command line: see scripts.c. Nothing is said of what fails: a shell would show it amid the line. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PATIENCE_S 2 /* with a server */

struct line {
        struct cli *cli;
        const struct cli_command *command; /* NULL: not named yet */
        const struct cli_option *waiting;  /* the option whose value comes next */
        const char *group;                 /* first word of a command of two */
        size_t others;                     /* words that are neither options nor values */
        bool options_ended;
};

static const struct cli_option *find(const struct cli_option *options, const char *word)
{
        bool is_long = str_starts(word, "--");
        const char *name = is_long ? word + 2 : "";
        size_t len = strcspn(name, "="), all = strlen(word);

        for (const struct cli_option *o = options; o && o->name; o++) {
                if (is_long ? strncmp(o->name, name, len) == 0 && !o->name[len] : all > 1 && o->letter == word[all - 1])
                        return o;
        }
        return NULL;
}

static const struct cli_option *find_option(const struct line *l, const char *word)
{
        const struct cli_option *o = l->command ? find(l->command->options, word) : NULL;

        return o ? o : find(cli_common_options, word);
}

/* The server that the line names is the one to ask. */
static void note_value(const struct line *l, const struct cli_option *o, const char *value)
{
        if (str_eq(o->name, "host"))
                l->cli->host = value;
        else if (str_eq(o->name, "key-file"))
                l->cli->key_file = value;
        else if (str_eq(o->name, "cacert"))
                l->cli->cacert = value;
        else if (str_eq(o->name, "pin"))
                l->cli->pin = value;
}

static void pass_other(struct line *l, char *word)
{
        int words = 0;

        if (l->command) {
                l->others++;
                if (l->command->leading)
                        l->options_ended = true;
        } else if (l->group) {
                l->command = cli_find_command(2, (char *[]){ (char *)(uintptr_t)l->group, word }, &words);
        } else {
                l->command = cli_find_command(1, &word, &words);
                l->group = l->command ? NULL : word;
        }
}

/* One word that stands before the cursor. */
static void pass(struct line *l, char *word)
{
        const struct cli_option *o;
        const char *equals;

        if (l->waiting) {
                note_value(l, l->waiting, word);
                l->waiting = NULL;
                return;
        }
        if (l->options_ended || word[0] != '-' || !word[1]) {
                pass_other(l, word);
                return;
        }
        if (str_eq(word, "--")) {
                l->options_ended = true;
                return;
        }
        o = find_option(l, word);
        equals = strchr(word, '=');
        if (o && o->value && !equals)
                l->waiting = o;
        else if (o && o->value)
                note_value(l, o, equals + 1);
}

/* ── candidates ──────────────────────────────────────────────────────────────────────────────────────────────────── */

/* What stands before the value in the word at the cursor ("--network="), and what is typed of the value. */
struct cursor {
        const char *before;
        size_t before_len;
        const char *typed;
};

static void offer(const struct cursor *c, const char *text, const char *about)
{
        auto_str clean = STR_INIT;

        if (!str_starts(text, c->typed) || strpbrk(text, "\t\n") || cli_escape(&clean, about) < 0)
                return;
        for (char *p = clean.data; p && *p; p++)
                if (*p == '\n' || *p == '\t')
                        *p = ' ';
        printf("%.*s%s\t%s\n", (int)c->before_len, c->before, text, clean.data ? clean.data : "");
}

/* A name that a server tells stands in a line that a shell will run: it is made of what names are made of, or not offered. */
static void offer_name(const struct cursor *c, const char *name, const char *about)
{
        static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@[]";

        if (*name && *name != '-' && !name[strspn(name, plain)])
                offer(c, name, about);
}

static void offer_words(const struct cursor *c, const char *words, const char *separators)
{
        while (*words) {
                char word[64];
                size_t len = strcspn(words, separators);

                (void)snprintf(word, sizeof(word), "%.*s", (int)len, words);
                offer(c, word, "");
                words += len;
                words += strspn(words, separators);
        }
}

static void offer_commands(const struct cursor *c, const char *group)
{
        for (const struct cli_command *i = cli_commands; i->name; i++) {
                const char *blank = strchr(i->name, ' ');
                bool seen = false;
                char word[32];

                if (i->hidden || (group && (!blank || strncmp(i->name, group, (size_t)(blank - i->name)) != 0)))
                        continue;
                if (group) {
                        offer(c, blank + 1, i->summary);
                        continue;
                }
                (void)snprintf(word, sizeof(word), "%.*s", (int)(blank ? blank - i->name : (long)strlen(i->name)),
                               i->name);
                for (const struct cli_command *j = cli_commands; blank && j < i; j++)
                        seen = seen || strncmp(j->name, i->name, (size_t)(blank - i->name) + 1) == 0;
                if (!seen)
                        offer(c, word, blank ? "keys of the API" : i->summary);
        }
}

static void offer_options(const struct cursor *c, const struct cli_option *options)
{
        for (const struct cli_option *o = options; o->name; o++) {
                char word[64];

                if (!o->help)
                        continue;
                (void)snprintf(word, sizeof(word), "--%s", o->name);
                offer(c, word, o->help);
                (void)snprintf(word, sizeof(word), "-%c", o->letter);
                if (o->letter && str_eq(c->typed, "-"))
                        offer(c, word, o->help);
        }
}

static void offer_images(const struct line *l, const struct cursor *c)
{
        auto_json doc = NULL;
        json_t *image, *name;
        size_t i, j;

        if (cli_get_json(l->cli, "/v1/images", &doc, NULL) < 0)
                return;
        json_array_foreach(json_object_get(doc, "images"), i, image) {
                json_array_foreach(json_object_get(image, "names"), j, name) {
                        const char *text = json_string_value(name);

                        if (text && str_starts(text, "docker.io/library/"))
                                offer_name(c, text + strlen("docker.io/library/"), "image");
                        if (text)
                                offer_name(c, text, "image");
                }
        }
}

static void offer_tasks(const struct line *l, const struct cursor *c, const char *query)
{
        auto_json doc = NULL;
        json_t *task;
        size_t i;

        if (cli_get_json(l->cli, query, &doc, NULL) < 0)
                return;
        json_array_foreach(json_object_get(doc, "tasks"), i, task) {
                char about[256];

                (void)snprintf(about, sizeof(about), "%s %s", cli_text(task, "status"),
                               cli_text(json_object_get(task, "image"), "ref"));
                offer_name(c, cli_text(task, "id"), about);
        }
}

static void offer_keys(const struct line *l, const struct cursor *c)
{
        auto_json doc = NULL;
        json_t *key;
        size_t i;

        if (cli_get_json(l->cli, "/v1/keys", &doc, NULL) < 0)
                return;
        json_array_foreach(json_object_get(doc, "keys"), i, key) {
                char about[256];

                (void)snprintf(about, sizeof(about), "%s %s", cli_text(key, "role"), cli_text(key, "name"));
                offer_name(c, cli_text(key, "id"), about);
        }
}

static void offer_variables(const struct cursor *c)
{
        for (char **e = environ; *e; e++) {
                char name[128];

                (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(*e, "="), *e);
                offer(c, name, "variable");
        }
}

static void offer_kind(const struct line *l, const struct cursor *c, enum cli_complete kind, const char *words,
                       const char *separators)
{
        switch (kind) {
        case CLI_COMPLETE_NONE:
                return;
        case CLI_COMPLETE_FILE:
                printf(":file\t%.*s\n", (int)c->before_len, c->before);
                return;
        case CLI_COMPLETE_WORDS:
                offer_words(c, words, separators);
                return;
        case CLI_COMPLETE_IMAGE_OR_TASK:
                offer_tasks(l, c, "/v1/tasks?limit=100");
                offer_images(l, c);
                return;
        case CLI_COMPLETE_IMAGE:
                offer_images(l, c);
                return;
        case CLI_COMPLETE_TASK:
                offer_tasks(l, c, "/v1/tasks?limit=100");
                return;
        case CLI_COMPLETE_LIVE:
                offer_tasks(l, c, "/v1/tasks?limit=100&status=running");
                offer_tasks(l, c, "/v1/tasks?limit=100&status=pulling");
                offer_tasks(l, c, "/v1/tasks?limit=100&status=queued");
                return;
        case CLI_COMPLETE_KEY:
                offer_keys(l, c);
                return;
        case CLI_COMPLETE_VARIABLE:
                offer_variables(c);
                return;
        case CLI_COMPLETE_COMMAND:
                offer_commands(c, NULL);
                return;
        }
}

static void complete(const struct line *l, const char *word)
{
        struct cursor c = { .before = word, .typed = word };
        const char *equals = strchr(word, '=');

        if (l->waiting) {
                offer_kind(l, &c, l->waiting->complete, l->waiting->words, " ");
        } else if (!l->options_ended && str_starts(word, "--") && equals) {
                const struct cli_option *o = find_option(l, word);

                c.before_len = (size_t)(equals + 1 - word);
                c.typed = equals + 1;
                if (o)
                        offer_kind(l, &c, o->complete, o->words, " ");
        } else if (!l->options_ended && word[0] == '-') {
                if (l->command)
                        offer_options(&c, l->command->options);
                offer_options(&c, cli_common_options);
        } else if (!l->command) {
                offer_commands(&c, l->group);
        } else {
                offer_kind(l, &c, l->others ? l->command->complete_rest : l->command->complete, l->command->args, "|");
        }
}

int cmd_complete(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
        struct line line = { .cli = cli };

        (void)command;
        (void)alarm(PATIENCE_S);
        for (int i = 0; i + 1 < argc; i++)
                pass(&line, argv[i]);
        complete(&line, argc > 0 ? argv[argc - 1] : "");
        return CLI_OK;
}
