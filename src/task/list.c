/* Live and ended tasks in one list. */

#include "image/ref.h"
#include "task/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct listing {
        struct tasks *ts;
        struct history_query query; /* its texts are ours */
        char *texts[4 + HISTORY_LABELS_MAX];
        size_t n_texts;
        char image[REF_TEXT_MAX];
        tasks_list_fn fn;
        void *data;
};

/* One line: a live task, or a record. */
struct line {
        const char *id;
        struct task *task;
        const struct history_record *record;
};

typedef VEC(struct line) lines_t;

static void listing_free(struct listing *l)
{
        for (size_t i = 0; i < l->n_texts; i++)
                free(l->texts[i]);
        free(l);
}

/* ── filters ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* A task that has not got its image yet has the reference as it was given. */
static bool image_matches(const char *image, const char *given)
{
        char text[REF_TEXT_MAX];
        struct image_ref ref;

        if (str_eq(image, given))
                return true;
        if (!given || image_ref_parse_docker(given, &ref, NULL) < 0)
                return false;
        image_ref_format(&ref, text);
        return str_eq(image, text);
}

static bool has_label(const struct task *t, const char *label)
{
        for (char **l = t->rec.labels; l && *l; l++)
                if (str_eq(*l, label))
                        return true;
        return false;
}

static bool matches(const struct history_query *q, const struct task *t)
{
        if (t->nameless || (q->owner && !str_eq(q->owner, t->rec.owner)))
                return false;
        if (q->status && !str_eq(q->status, wire_status_names[t->state]))
                return false;
        if (q->image && !image_matches(q->image, t->rec.image_ref))
                return false;
        if (q->before && strcmp(t->id, q->before) >= 0)
                return false;
        for (int i = 0; i < HISTORY_LABELS_MAX && q->labels[i]; i++)
                if (!has_label(t, q->labels[i]))
                        return false;
        return t->rec.created_ms >= q->since_ms && (q->until_ms == 0 || t->rec.created_ms < q->until_ms);
}

/* ── the text ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int line_order(const void *a, const void *b)
{
        const struct line *x = a, *y = b;
        int order = strcmp(y->id, x->id);

        /* Of a task that is in both, the record comes first. */
        return order ? order : (x->task ? 1 : 0) - (y->task ? 1 : 0);
}

/* Live tasks not older than `oldest` (NULL: any); the older ones belong to a later page. */
static int add_live(const struct listing *l, const char *oldest, lines_t *lines)
{
        struct task *t;

        LIST_FOREACH(t, &l->ts->all, node) {
                const struct line line = { .id = t->id, .task = t };

                if (!matches(&l->query, t) || (oldest && strcmp(t->id, oldest) < 0))
                        continue;
                if (VEC_ADD(lines, line) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int line_write(const struct line *line, struct str *out)
{
        struct wire_task now;

        if (line->record)
                return str_add(out, line->record->document.data, line->record->document.len);
        task_describe(line->task, &now);
        now.has_output = false;
        return wire_task_write(&now, out);
}

static int lines_write(const lines_t *lines, unsigned limit, bool more, struct str *out)
{
        const char *last = NULL;
        unsigned n = 0;
        int r = str_adds(out, "{\"tasks\":[");

        for (size_t i = 0; r == 0 && i < lines->len; i++) {
                const struct line *line = &lines->items[i];

                if (str_eq(last, line->id))
                        continue;
                if (n == limit) {
                        more = true;
                        break;
                }
                if (n++ > 0)
                        r = str_addc(out, ',');
                if (r == 0)
                        r = line_write(line, out);
                last = line->id;
        }
        if (r < 0)
                return r;
        return more && last ? str_addf(out, "],\"next_cursor\":\"%s\"}", last)
                            : str_adds(out, "],\"next_cursor\":null}");
}

static int list_write(const struct listing *l, const struct history_record *records, size_t n, bool more,
                      struct str *out)
{
        lines_t lines = { .items = NULL };
        int r = 0;

        for (size_t i = 0; r == 0 && i < n; i++) {
                const struct line line = { .id = records[i].id, .record = &records[i] };

                r = VEC_ADD(&lines, line);
        }
        if (r == 0)
                r = add_live(l, more && n > 0 ? records[n - 1].id : NULL, &lines);
        if (r == 0 && lines.len > 0)
                qsort(lines.items, lines.len, sizeof(*lines.items), line_order);
        if (r == 0)
                r = lines_write(&lines, l->query.limit, more, out);
        VEC_DONE(&lines);
        return r;
}

static void on_list(int r, const struct history_record *records, size_t n, bool more, const struct err *err, void *data)
{
        struct listing *l = data;
        struct err why = ERR_INIT;
        auto_str text = STR_INIT;

        if (r == 0 && list_write(l, records, n, more, &text) < 0) {
                r = err_oom(&why);
                err = &why;
        }
        l->fn(r, r == 0 ? &text : NULL, err, l->data);
        listing_free(l);
}

static bool keep(struct listing *l, const char **ret, const char *text)
{
        if (!text)
                return true;
        l->texts[l->n_texts] = strdup(text);
        *ret = l->texts[l->n_texts];
        l->n_texts += *ret != NULL;
        return *ret;
}

static bool copy_query(struct listing *l, const struct history_query *q)
{
        struct image_ref ref;
        bool ok;

        l->query = *q;
        ok = keep(l, &l->query.owner, q->owner) && keep(l, &l->query.status, q->status) &&
             keep(l, &l->query.before, q->before);
        for (int i = 0; ok && i < HISTORY_LABELS_MAX && q->labels[i]; i++)
                ok = keep(l, &l->query.labels[i], q->labels[i]);
        if (q->image && image_ref_parse_docker(q->image, &ref, NULL) == 0)
                image_ref_format(&ref, l->image);
        else if (q->image)
                (void)snprintf(l->image, sizeof(l->image), "%s", q->image);
        l->query.image = q->image ? l->image : NULL;
        return ok;
}

int tasks_list(struct tasks *ts, const struct history_query *q, tasks_list_fn fn, void *data, struct err *err)
{
        struct listing *l = calloc(1, sizeof(*l));
        int r;

        if (!l)
                return err_oom(err);
        l->ts = ts;
        l->fn = fn;
        l->data = data;
        r = copy_query(l, q) ? history_list(ts->history, &l->query, on_list, l, err) : err_oom(err);
        if (r < 0)
                listing_free(l);
        return r;
}
