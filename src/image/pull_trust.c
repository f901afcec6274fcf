#include "image/pull_trust.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/map.h"
#include "base/str.h"
#include "json/json.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_NAME "trust.json"
#define FILE_MAX (16U << 20)
#define REMEMBERED_MAX 20000
#define WRITE_QUEUE 2 /* as all of the store's own writing */
#define ARTIFACTS_MAX 16
#define CANDIDATES_MAX 3

enum step { STEP_TAG, STEP_REFERRERS, STEP_FALLBACK, STEP_ARTIFACT, STEP_PAYLOAD, STEP_INDEX };

struct trust_memory {
        struct loop *loop;
        int dirfd;
        const struct trust *trust;
        struct registries *registries;
        struct map *good; /* "docker.io/library/busybox:1\nsha256:…" */
};

struct trust_check {
        struct trust_memory *memory;
        trust_checked_fn fn;
        void *data;
        struct image_ref ref;
        char digest[IMAGE_DIGEST_MAX];
        char *username, *password;
        struct trust_wish wish;
        bool starting;
        int start_r; /* of a first question that could not be asked */
        enum step step;
        struct registry_call *call;
        char candidates[CANDIDATES_MAX][IMAGE_DIGEST_MAX];
        size_t n_candidates, candidate;
        bool index_known; /* or looked for already */
        size_t pin;       /* the next that may be the index */
        char reference[IMAGE_DIGEST_MAX + 80];

        struct image_descriptor artifacts[ARTIFACTS_MAX];
        size_t n_artifacts, artifact;
        bool by_tag; /* the signatures below are the tag's */
        struct trust_signatures signatures;
        size_t signature;
        struct str payload;
        unsigned seen[TRUST_FAULTS], n_seen;
};

static char good;

/* ── what was good ────────────────────────────────────────────────────────────────────────────────────────────────── */

static char *good_key(const struct image_ref *ref, const char *digest)
{
        char name[REF_TEXT_MAX];

        image_ref_format(ref, name);
        return str_printf("%s\n%s", name, digest);
}

static bool is_remembered(const struct trust_memory *m, const struct image_ref *ref, const char *digest)
{
        auto_free char *key = good_key(ref, digest);

        return key && map_find(m->good, key);
}

struct writing {
        int dirfd, r;
        struct str text;
        struct err err;
};

static void write_run(void *data)
{
        struct writing *w = data;

        w->r = fd_write_file(w->dirfd, FILE_NAME, 0600, w->text.data, w->text.len, &w->err);
}

static void write_done(void *data)
{
        struct writing *w = data;

        if (w->r < 0)
                log_warn("images: " FILE_NAME ": %s", w->err.text);
        str_done(&w->text);
        free(w);
}

static int memory_text(const struct trust_memory *m, struct str *out)
{
        auto_json o = json_pack("{s:s, s:[]}", "policy", trust_fingerprint(m->trust), "good");
        const char *key;
        size_t pos = 0;
        void *value;

        while (o && map_next(m->good, &pos, &key, &value))
                if (json_array_append_new(json_object_get(o, "good"), json_string(key)) < 0)
                        return -ENOMEM;
        return o ? json_write(o, out) : -ENOMEM;
}

/* What is lost is asked for again, so nobody waits for the disk. */
static void memory_save(const struct trust_memory *m)
{
        struct writing *w = calloc(1, sizeof(*w));

        if (!w)
                return;
        w->dirfd = m->dirfd;
        if (memory_text(m, &w->text) == 0 && loop_work(m->loop, WRITE_QUEUE, write_run, write_done, w) == 0)
                return;
        str_done(&w->text);
        free(w);
}

static void remember(struct trust_memory *m, const struct image_ref *ref, const char *digest)
{
        auto_free char *key = good_key(ref, digest);

        if (map_len(m->good) >= REMEMBERED_MAX) {
                struct map *fresh = map_new();

                if (!fresh)
                        return;
                map_free(m->good);
                m->good = fresh;
        }
        if (key && map_set(m->good, key, &good) == 0)
                memory_save(m);
}

static int memory_read(struct trust_memory *m)
{
        auto_str text = STR_INIT;
        auto_json o = NULL;
        const json_t *v;
        size_t i;

        if (fd_read_file(m->dirfd, FILE_NAME, FILE_MAX, &text, NULL) < 0 ||
            json_read(text.data, text.len, &o, NULL) < 0)
                return 0;
        v = json_object_get(o, "policy");
        if (!json_is_string(v) || !str_eq(json_string_value(v), trust_fingerprint(m->trust)))
                return 0;
        json_array_foreach(json_object_get(o, "good"), i, v) {
                if (json_is_string(v) && i < REMEMBERED_MAX && map_set(m->good, json_string_value(v), &good) < 0)
                        return -ENOMEM;
        }
        return 0;
}

int trust_memory_open(struct loop *loop, int dirfd, const struct trust *trust, struct registries *registries,
                      struct trust_memory **ret, struct err *err)
{
        struct trust_memory *m = calloc(1, sizeof(*m));

        if (!m)
                return err_oom(err);
        *m = (struct trust_memory){ .loop = loop, .dirfd = dirfd, .trust = trust, .registries = registries };
        m->good = map_new();
        if (!m->good || (!trust_is_empty(trust) && memory_read(m) < 0)) {
                trust_memory_free(m);
                return err_oom(err);
        }
        *ret = m;
        return 0;
}

void trust_memory_free(struct trust_memory *m)
{
        if (!m)
                return;
        map_free(m->good);
        free(m);
}

/* ── what needs no question ───────────────────────────────────────────────────────────────────────────────────────── */

static int refuse_pinned(const struct trust_wish *w, const struct trust_question *q, struct err *err)
{
        return err_set(err, EKEYREJECTED, "it is not trusted: trust.pinned wants %s%s, and it is %s", w->pins[0],
                       w->n_pins > 1 ? " or another" : "", *q->top ? q->top : q->digest);
}

int trust_glance(const struct trust_memory *m, const struct trust_question *q, struct err *err)
{
        struct trust_wish w;
        char text[300];
        int r = 0;

        if (trust_is_empty(m->trust))
                return 0;
        trust_look(m->trust, q->ref, &w);
        for (size_t i = 0; i < w.n_pins; i++)
                if (str_eq(w.pins[i], q->digest) || str_eq(w.pins[i], q->top))
                        return 0;
        if ((w.n_pins > 0 || w.rule) && is_remembered(m, q->ref, q->digest))
                return 0;
        if (w.n_pins > 0) {
                r = *q->top ? refuse_pinned(&w, q, err) : 1;
        } else if (w.rule) {
                trust_rule_text(w.rule, text, sizeof(text));
                r = trust_rule_rejects(w.rule) ? err_set(err, EKEYREJECTED, "it is not trusted: %s", text)
                    : !q->ref->domain[0] ? err_set(err, EKEYREJECTED, "it is not trusted: %s, and it has no name", text)
                                         : 1;
        }
        if (r == 1 && !registries_enabled(m->registries))
                return err_set(err, EKEYREJECTED, "it is not trusted: no registry may be asked for its signatures");
        return r;
}

/* ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void wipe(char *s)
{
        if (s)
                OPENSSL_cleanse(s, strlen(s));
        free(s);
}

static void check_free(struct trust_check *c)
{
        if (c->call)
                registry_cancel(c->call);
        trust_signatures_done(&c->signatures);
        str_done(&c->payload);
        wipe(c->username);
        wipe(c->password);
        free(c);
}

static void check_end(struct trust_check *c, int r, unsigned retry_after_s, const struct err *err)
{
        if (r == 0)
                remember(c->memory, &c->ref, c->digest);
        c->fn(r, retry_after_s, err, c->data);
        check_free(c);
}

static void check_fail(struct trust_check *c, int r, unsigned retry_after_s, const struct err *err)
{
        struct err why = *err;

        (void)err_wrap(&why, "its signatures");
        check_end(c, r, retry_after_s, &why);
}

static void add_seen(struct str *out, unsigned n, const char *what)
{
        if (n > 0)
                (void)str_addf(out, ", %u %s", n, what);
}

/* What is missing, and what there is instead. */
static void check_refuse(struct trust_check *c)
{
        auto_str text = STR_INIT;
        struct err err = ERR_INIT;
        char wanted[300];

        if (c->wish.n_pins > 0) {
                const struct trust_question q = { .digest = c->digest, .top = "" };

                check_end(c, refuse_pinned(&c->wish, &q, &err), 0, &err);
                return;
        }
        trust_rule_text(c->wish.rule, wanted, sizeof(wanted));
        (void)str_addf(&text, "it is not trusted: %s; ", wanted);
        if (c->n_seen == 0) {
                (void)str_addf(&text, "there is none of %s", c->candidates[0]);
                for (size_t i = 1; i < c->n_candidates; i++)
                        (void)str_addf(&text, " or %s", c->candidates[i]);
        } else {
                (void)str_addf(&text, "of %u there", c->n_seen);
                add_seen(&text, c->seen[TRUST_OTHER_KEY], "by another key, or of something that was changed");
                add_seen(&text, c->seen[TRUST_OTHER_IMAGE], "of another image");
                add_seen(&text, c->seen[TRUST_OTHER_REPOSITORY], "of another repository or tag");
                add_seen(&text, c->seen[TRUST_UNREADABLE], "cannot be read");
        }
        check_end(c, err_set(&err, EKEYREJECTED, "%s", text.data ? text.data : "it is not trusted"), 0, &err);
}

/* ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_answer(struct registry_call *call, int r, const struct registry_answer *answer, const struct err *err,
                      void *arg);

static int on_data(struct registry_call *call, const void *data, size_t len, void *arg)
{
        struct trust_check *c = arg;

        (void)call;
        return len > TRUST_PAYLOAD_MAX - MIN(c->payload.len, TRUST_PAYLOAD_MAX) ? -EFBIG
                                                                                : str_add(&c->payload, data, len);
}

static void ask(struct trust_check *c, enum step step, enum registry_what what, const char *reference, uint64_t size)
{
        static const struct registry_handler handler = { .data = on_data, .done = on_answer };
        const struct registry_request q = {
                .what = what,
                .ref = &c->ref,
                .reference = reference,
                .username = c->username,
                .password = c->password,
                .size = size,
        };
        struct err err = ERR_INIT;
        int r;

        c->step = step;
        r = registry_start(c->memory->registries, &q, &handler, c, &c->call, &err);
        if (r < 0 && c->starting)
                c->start_r = r;
        else if (r < 0)
                check_end(c, r, 0, &err);
}

static void ask_index(struct trust_check *c, const char *reference)
{
        (void)snprintf(c->reference, sizeof(c->reference), "%s", reference);
        ask(c, STEP_INDEX, REGISTRY_MANIFEST, c->reference, 0);
}

static void ask_candidate(struct trust_check *c)
{
        char tag[IMAGE_DIGEST_MAX + 4];
        const char *reference = c->ref.digest[0] ? c->ref.digest : c->ref.tag;

        if (c->candidate < c->n_candidates) {
                trust_signature_tag(c->candidates[c->candidate], tag);
                ask(c, STEP_TAG, REGISTRY_MANIFEST, tag, 0);
        } else if (!c->index_known && *reference && !str_eq(reference, c->digest)) {
                c->index_known = true;
                ask_index(c, reference);
        } else {
                check_refuse(c);
        }
}

static void ask_pin(struct trust_check *c)
{
        if (c->pin < c->wish.n_pins)
                ask_index(c, c->wish.pins[c->pin++]);
        else
                check_refuse(c);
}

static void next_artifact(struct trust_check *c)
{
        if (c->artifact < c->n_artifacts && c->n_seen < TRUST_SIGNATURES_MAX) {
                ask(c, STEP_ARTIFACT, REGISTRY_MANIFEST, c->artifacts[c->artifact++].digest, 0);
                return;
        }
        c->candidate++;
        ask_candidate(c);
}

static void next_signature(struct trust_check *c)
{
        if (c->signature < c->signatures.n && c->n_seen < TRUST_SIGNATURES_MAX) {
                const struct trust_signature *s = &c->signatures.items[c->signature];

                str_clear(&c->payload);
                ask(c, STEP_PAYLOAD, REGISTRY_BLOB, s->payload, s->size);
        } else if (c->by_tag) {
                ask(c, STEP_REFERRERS, REGISTRY_REFERRERS, c->candidates[c->candidate], 0);
        } else {
                next_artifact(c);
        }
}

static void note(struct trust_check *c, enum trust_fault fault)
{
        c->seen[fault]++;
        c->n_seen++;
}

static void take_signatures(struct trust_check *c, const struct registry_answer *answer, bool by_tag)
{
        trust_signatures_done(&c->signatures);
        c->signature = 0;
        c->by_tag = by_tag;
        if (trust_signatures_read(answer->body, answer->len, &c->signatures, NULL) < 0 || c->signatures.n == 0)
                note(c, TRUST_UNREADABLE);
        next_signature(c);
}

static void take_referrers(struct trust_check *c, const struct registry_answer *answer)
{
        c->artifact = c->n_artifacts = 0;
        if (trust_referrers_read(answer->body, answer->len, c->artifacts, ARTIFACTS_MAX, &c->n_artifacts, NULL) < 0)
                note(c, TRUST_UNREADABLE);
        next_artifact(c);
}

static void take_artifact(struct trust_check *c, const struct registry_answer *answer)
{
        char digest[IMAGE_DIGEST_MAX];

        if (image_sha256_text(answer->body, answer->len, digest, NULL) == 0 &&
            str_eq(digest, c->artifacts[c->artifact - 1].digest)) {
                take_signatures(c, answer, false);
                return;
        }
        note(c, TRUST_UNREADABLE);
        next_artifact(c);
}

static void take_payload(struct trust_check *c)
{
        const struct trust_signature *s = &c->signatures.items[c->signature];
        enum trust_fault fault = TRUST_UNREADABLE;
        char digest[IMAGE_DIGEST_MAX];

        if (image_sha256_text(c->payload.data ? c->payload.data : "", c->payload.len, digest, NULL) == 0 &&
            str_eq(digest, s->payload))
                fault = trust_verify(c->wish.rule, &c->ref, c->candidates[c->candidate], c->payload.data,
                                     c->payload.len, s->base64);
        if (fault == TRUST_GOOD) {
                check_end(c, 0, 0, NULL);
                return;
        }
        note(c, fault);
        c->signature++;
        next_signature(c);
}

static bool holds(const struct registry_answer *answer, const char *digest)
{
        auto_index x = { .entries = NULL };
        bool found = false;

        if (image_index_parse(answer->body, answer->len, &x, NULL) < 0)
                return false;
        for (size_t i = 0; i < x.n; i++)
                found |= str_eq(x.entries[i].descriptor.digest, digest);
        return found;
}

/* An index that holds this very manifest stands for it; what the tag leads to now may be another image's. */
static void take_index(struct trust_check *c, const struct registry_answer *answer)
{
        char digest[IMAGE_DIGEST_MAX];
        bool right;

        right = image_sha256_text(answer->body, answer->len, digest, NULL) == 0 && holds(answer, c->digest) &&
                (!image_digest_valid(c->reference) || str_eq(c->reference, digest));
        if (c->wish.n_pins > 0) {
                if (right)
                        check_end(c, 0, 0, NULL);
                else
                        ask_pin(c);
                return;
        }
        if (right && c->n_candidates < CANDIDATES_MAX)
                memcpy(c->candidates[c->n_candidates++], digest, sizeof(digest));
        ask_candidate(c);
}

/* ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void absent(struct trust_check *c)
{
        switch (c->step) {
        case STEP_TAG:
                ask(c, STEP_REFERRERS, REGISTRY_REFERRERS, c->candidates[c->candidate], 0);
                break;
        case STEP_REFERRERS: {
                char tag[IMAGE_DIGEST_MAX];

                trust_referrers_tag(c->candidates[c->candidate], tag);
                ask(c, STEP_FALLBACK, REGISTRY_MANIFEST, tag, 0);
                break;
        }
        case STEP_FALLBACK:
                c->artifact = c->n_artifacts = 0;
                next_artifact(c);
                break;
        case STEP_ARTIFACT:
                note(c, TRUST_UNREADABLE);
                next_artifact(c);
                break;
        case STEP_PAYLOAD:
                note(c, TRUST_UNREADABLE);
                c->signature++;
                next_signature(c);
                break;
        case STEP_INDEX:
                if (c->wish.n_pins > 0)
                        ask_pin(c);
                else
                        ask_candidate(c);
                break;
        }
}

static void on_answer(struct registry_call *call, int r, const struct registry_answer *answer, const struct err *err,
                      void *arg)
{
        struct trust_check *c = arg;

        (void)call;
        c->call = NULL;
        /* Registries answer an API that they lack in many ways; that it can be reached the question before has shown. */
        if (r == -ENOENT || r == -EBADMSG || r == -EFBIG || (r < 0 && r != -ENOMEM && c->step == STEP_REFERRERS)) {
                absent(c);
                return;
        }
        if (r < 0) {
                check_fail(c, r, r == -EBUSY ? answer->retry_after_s : 0, err);
                return;
        }
        switch (c->step) {
        case STEP_TAG:
                take_signatures(c, answer, true);
                break;
        case STEP_REFERRERS:
        case STEP_FALLBACK:
                take_referrers(c, answer);
                break;
        case STEP_ARTIFACT:
                take_artifact(c, answer);
                break;
        case STEP_PAYLOAD:
                take_payload(c);
                break;
        case STEP_INDEX:
                take_index(c, answer);
                break;
        }
}

/* ── the beginning ────────────────────────────────────────────────────────────────────────────────────────────────── */

static void add_candidate(struct trust_check *c, const char *digest)
{
        if (*digest && (c->n_candidates == 0 || !str_eq(c->candidates[0], digest)))
                (void)snprintf(c->candidates[c->n_candidates++], IMAGE_DIGEST_MAX, "%s", digest);
}

int trust_check_start(struct trust_memory *m, const struct trust_question *q, trust_checked_fn fn, void *data,
                      struct trust_check **ret, struct err *err)
{
        struct trust_check *c = calloc(1, sizeof(*c));

        if (!c)
                return err_oom(err);
        c->memory = m;
        c->fn = fn;
        c->data = data;
        c->ref = *q->ref;
        (void)snprintf(c->digest, sizeof(c->digest), "%s", q->digest);
        c->username = q->username ? strdup(q->username) : NULL;
        c->password = q->password ? strdup(q->password) : NULL;
        if ((q->username && !c->username) || (q->password && !c->password)) {
                check_free(c);
                return err_oom(err);
        }
        trust_look(m->trust, q->ref, &c->wish);
        add_candidate(c, q->top);
        add_candidate(c, q->digest);
        c->index_known = *q->top;
        c->starting = true;
        if (c->wish.n_pins > 0)
                ask_pin(c);
        else
                ask_candidate(c);
        c->starting = false;
        if (c->start_r < 0) {
                int r = c->start_r;

                check_free(c);
                return err_set(err, -r, "its signatures cannot be asked for: %s", strerror(-r));
        }
        *ret = c;
        return 0;
}

void trust_check_cancel(struct trust_check *c)
{
        check_free(c);
}
