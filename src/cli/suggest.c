#include "cli/cli.h"

#define WORD_MAX 32
#define TYPOS_MAX 2

/* Edits between two words: a letter wrong, missing, too many, or two exchanged (the optimal string alignment distance). */
static size_t distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
        size_t d[WORD_MAX + 1][WORD_MAX + 1];

        for (size_t i = 0; i <= a_len; i++)
                d[i][0] = i;
        for (size_t j = 0; j <= b_len; j++)
                d[0][j] = j;
        for (size_t i = 1; i <= a_len; i++) {
                for (size_t j = 1; j <= b_len; j++) {
                        size_t wrong = a[i - 1] != b[j - 1];

                        d[i][j] = MIN(MIN(d[i - 1][j] + 1, d[i][j - 1] + 1), d[i - 1][j - 1] + wrong);
                        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                                d[i][j] = MIN(d[i][j], d[i - 2][j - 2] + 1);
                }
        }
        return d[a_len][b_len];
}

static size_t typos(const char *a, const char *b)
{
        size_t a_len = strlen(a), b_len = strlen(b);

        if (a_len > WORD_MAX || b_len > WORD_MAX)
                return WORD_MAX;
        return distance(a, a_len, b, b_len);
}

bool cli_similar(const char *a, const char *b)
{
        /* Of a short word too little would be left to know it by. */
        return typos(a, b) <= MIN(strlen(b) / 2, TYPOS_MAX);
}

const char *cli_suggest(const char *word)
{
        const char *best = NULL;
        size_t best_typos = 0;

        for (const struct cli_command *c = cli_commands; c->name; c++) {
                size_t n = typos(word, c->name);

                if (c->hidden || !cli_similar(word, c->name) || (best && n >= best_typos))
                        continue;
                best = c->name;
                best_typos = n;
        }
        return best;
}

bool cli_is_group(const char *word)
{
        size_t len = strlen(word);

        for (const struct cli_command *c = cli_commands; c->name; c++)
                if (strncmp(c->name, word, len) == 0 && c->name[len] == ' ')
                        return true;
        return false;
}

const struct cli_command *cli_find_command(int argc, char *const *argv, int *ret_words)
{
        for (const struct cli_command *c = cli_commands; c->name; c++) {
                const char *blank = strchr(c->name, ' ');
                size_t len = blank ? (size_t)(blank - c->name) : strlen(c->name);

                if (argc < 1 || strncmp(argv[0], c->name, len) != 0 || argv[0][len])
                        continue;
                if (blank && (argc < 2 || !str_eq(argv[1], blank + 1)))
                        continue;
                *ret_words = blank ? 2 : 1;
                return c;
        }
        return NULL;
}
