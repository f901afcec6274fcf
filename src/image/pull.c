#include "image/pull_internal.h"

#include "base/log.h"
#include "base/time.h"
#include "image/choose.h"
#include "image/prove.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARALLEL_DEFAULT 6
#define PROGRESS_NS (200 * NS_PER_MS)
#define OWNER_ASKS 8 /* questions of one owner at once: all share the connections of the registry client */

/* RESOLVE ─▶ CHOOSE ─▶ TRUST ─▶ FETCH ─▶ ENDED; LOOK, PROVE ─▶ TRUST ─▶ ENDED; any ─▶ ENDED; FETCH ─▶ RESOLVE once, where another's job was refused */
enum pull_state { PULL_PROVE, PULL_LOOK, PULL_RESOLVE, PULL_CHOOSE, PULL_TRUST, PULL_FETCH, PULL_ENDED };

struct pull {
        struct image_pulls *pulls;
        struct list node, wants;
        char *key, *owner;
        char name[REF_TEXT_MAX];
        struct image_ref ref;
        char reference[IMAGE_DIGEST_MAX + 80];
        struct credentials credentials;
        bool all, lenient; /* the owner may use all; the image that is here will do if need be */
        bool hidden;       /* PROVE: the name is not what was asked for, nor the owner's to know before it is proven */
        enum pull_state state;
        struct registry_call *call;
        bool waits; /* to ask this, while its owner asks enough */
        enum registry_what asked;
        char asked_for[IMAGE_DIGEST_MAX + 80];
        struct image_ref trusted_as; /* the name under which the policy is to take it */
        struct trust_check *check;
        struct str manifest; /* what is fetched once it is trusted; empty: the image is here */
        char media[IMAGE_MEDIA_MAX];
        struct job *job;
        bool refused; /* by another's job; once is enough */
        bool direct;  /* a mirror's manifest was another one: no mirror is asked */
        bool due;     /* progress was made that nobody was told yet */
        uint64_t told_ns, begun_real_ms;
        char top[IMAGE_DIGEST_MAX]; /* what the tag means: an index, perhaps */
        struct image_descriptor child;
        bool authenticated;
        int result;
        struct err err;
        struct image_pull_result answer;
};

struct image_want {
        struct list node; /* of the pull's, or of those that are answered at once */
        struct image_pulls *pulls;
        struct pull *pull;
        image_pulled_fn fn;
        image_progress_fn progress;
        void *data;
        int result;
        struct err err;
        struct image_pull_result answer;
};

/* ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────── */

int credentials_copy(struct credentials *to, const char *username, const char *password, struct err *err)
{
        *to = (struct credentials){ .username = NULL };
        if (!username || !*username)
                return 0;
        to->username = strdup(username);
        to->password = strdup(password ? password : "");
        if (!to->username || !to->password) {
                credentials_done(to);
                return err_oom(err);
        }
        registry_credentials_key(username, to->password, to->key);
        return to->key[0] ? 0 : err_oom(err);
}

void credentials_done(struct credentials *c)
{
        if (c->username)
                OPENSSL_cleanse(c->username, strlen(c->username));
        if (c->password)
                OPENSSL_cleanse(c->password, strlen(c->password));
        free(c->username);
        free(c->password);
        *c = (struct credentials){ .username = NULL };
}

/* ── proofs ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct save {
        int dir;
        char *text;
        int r;
        struct err err;
};

static void save_run(void *data)
{
        struct save *s = data;

        s->r = access_write(s->dir, s->text, &s->err);
}

static void save_done(void *data)
{
        struct save *s = data;

        if (s->r < 0)
                log_error("images: who may use what: %s", s->err.text);
        free(s->text);
        free(s);
}

/* On the queue of the store's own writing, so that it comes before an index that names what is closed. */
void pulls_save(struct image_pulls *p)
{
        struct save *s = calloc(1, sizeof(*s));
        struct err err = ERR_INIT;
        int r = s ? access_text(p->access, time_real_ms(), &s->text, &err) : err_oom(&err);

        if (r == 0) {
                s->dir = image_store_layout(p->config.store)->dir;
                r = loop_work(p->loop, 2, save_run, save_done, s);
        }
        if (r == 0)
                return;
        log_error("images: who may use what: it cannot be written");
        free(s ? s->text : NULL);
        free(s);
}

/* A name of the image whose repository decides: one that is open, else one that this owner has proven, else any. */
static bool may_use_name(const struct image_pulls *p, const char *owner, const char *name, uint64_t now,
                         enum access_proof *best, struct image_ref *ret)
{
        struct image_ref ref;
        enum access_proof proof;

        if (image_ref_parse_docker(name, &ref, NULL) < 0 || !access_is_closed(p->access, &ref))
                return true;
        proof = access_look(p->access, owner, &ref, now);
        if (proof >= *best) {
                *best = proof;
                *ret = ref;
        }
        return proof == ACCESS_FRESH;
}

/* True: yes; else *ret is what to ask for, and *ret_proof what is known. */
static bool may_use(const struct image_pulls *p, const char *owner, const struct image *image,
                    enum access_proof *ret_proof, struct image_ref *ret)
{
        uint64_t now = time_real_ms();
        enum access_proof best = ACCESS_NONE;

        *ret = (struct image_ref){ .domain = "" };
        for (char **name = image->names; name && *name; name++)
                if (may_use_name(p, owner, *name, now, &best, ret))
                        return true;
        *ret_proof = best;
        return (!image->names || !image->names[0]) && !image->lost;
}

bool image_pulls_may_use(const struct image_pulls *p, const char *owner, const struct image *image)
{
        enum access_proof proof;
        struct image_ref ref;

        return may_use(p, owner, image, &proof, &ref);
}

bool image_pulls_may_know(const struct image_pulls *p, const char *owner, const char *name)
{
        struct image_ref ref;

        return image_ref_parse_docker(name, &ref, NULL) < 0 || !access_is_closed(p->access, &ref) ||
               access_look(p->access, owner, &ref, time_real_ms()) != ACCESS_NONE;
}

static bool may_name(const char *owner, const char *name, void *data)
{
        return image_pulls_may_know(data, owner, name);
}

/* ── end of a pull ────────────────────────────────────────────────────────────────────────────────────────────────── */

static void pull_move(struct pull *pull, enum pull_state to)
{
        static const bool allowed[PULL_ENDED + 1][PULL_ENDED + 1] = {
                [PULL_PROVE] = { [PULL_TRUST] = true, [PULL_ENDED] = true },
                [PULL_LOOK] = { [PULL_RESOLVE] = true, [PULL_TRUST] = true, [PULL_ENDED] = true },
                [PULL_RESOLVE] = { [PULL_CHOOSE] = true, [PULL_TRUST] = true, [PULL_ENDED] = true },
                [PULL_CHOOSE] = { [PULL_TRUST] = true, [PULL_ENDED] = true },
                [PULL_TRUST] = { [PULL_FETCH] = true, [PULL_ENDED] = true },
                [PULL_FETCH] = { [PULL_RESOLVE] = true, [PULL_ENDED] = true },
        };

        if (!allowed[pull->state][to])
                abort();
        pull->state = to;
        pulls_kick(pull->pulls);
}

/* What failed without telling where. */
static void hide_name(struct pull *pull, int r)
{
        bool refused = r == -EACCES || r == -ENOENT;

        (void)snprintf(pull->name, sizeof(pull->name), "%s", pull->answer.digest);
        (void)snprintf(pull->answer.ref, sizeof(pull->answer.ref), "%s", pull->answer.digest);
        (void)err_set(&pull->err, -r, "%s",
                      refused ? "it is in a private repository, to which no access is shown"
                              : "access to its repository cannot be shown now");
}

static void pull_end(struct pull *pull, int r, const struct err *err)
{
        if (pull->state == PULL_ENDED)
                return;
        pull->result = r;
        if (r < 0) {
                if (err != &pull->err)
                        pull->err = *err;
                if (pull->hidden)
                        hide_name(pull, r);
                (void)err_wrap(&pull->err, "image %s", pull->name);
        }
        pull_move(pull, PULL_ENDED);
}

static void pull_free(struct pull *pull)
{
        if (pull->call)
                registry_cancel(pull->call);
        if (pull->check)
                trust_check_cancel(pull->check);
        if (pull->job)
                job_leave(pull->job);
        str_done(&pull->manifest);
        list_remove(&pull->node);
        credentials_done(&pull->credentials);
        free(pull->key);
        free(pull->owner);
        free(pull);
}

/* ── asking the registry ──────────────────────────────────────────────────────────────────────────────────────────── */

static void on_answer(struct registry_call *c, int r, const struct registry_answer *answer, const struct err *err,
                      void *arg);

static void pull_ask_now(struct pull *pull)
{
        static const struct registry_handler handler = { .done = on_answer };
        const struct registry_request q = {
                .what = pull->asked,
                .ref = &pull->ref,
                .reference = pull->asked_for,
                .username = pull->credentials.username,
                .password = pull->credentials.password,
                .direct = pull->direct,
        };
        struct err err = ERR_INIT;
        int r = registry_start(pull->pulls->config.registries, &q, &handler, pull, &pull->call, &err);

        pull->waits = false;
        if (r < 0)
                pull_end(pull, r, &err);
}

static bool may_ask(const struct image_pulls *p, const char *owner)
{
        const struct pull *pull;
        unsigned n = 0;

        LIST_FOREACH(pull, &p->pulls, node)
                n += (pull->call || pull->check) && str_eq(pull->owner, owner);
        return n < OWNER_ASKS;
}

/* Whoever asks registries that answer slowly, or not at all, leaves connections to others. */
static void pull_ask(struct pull *pull, enum registry_what what, const char *reference)
{
        pull->asked = what;
        (void)snprintf(pull->asked_for, sizeof(pull->asked_for), "%s", reference);
        pull->waits = !may_ask(pull->pulls, pull->owner);
        if (!pull->waits)
                pull_ask_now(pull);
}

static void ask_some(struct image_pulls *p)
{
        const char *full = NULL;
        struct pull *pull;

        LIST_FOREACH(pull, &p->pulls, node) {
                if (!pull->waits || (full && str_eq(full, pull->owner)))
                        continue;
                if (may_ask(p, pull->owner))
                        pull_ask_now(pull);
                else
                        full = pull->owner;
        }
}

static void resolve(struct pull *pull)
{
        pull_ask(pull, REGISTRY_MANIFEST, pull->reference);
}

static void prove(struct pull *pull)
{
        if (access_prove(pull->pulls->access, pull->owner, &pull->ref, time_real_ms()))
                pulls_save(pull->pulls);
}

/* What is damaged has to be brought again: it is as good as not here. */
static const struct image *local_image(const struct pull *pull)
{
        const struct image *image = image_store_find(pull->pulls->config.store, pull->name, NULL);

        return image && !image->broken ? image : NULL;
}

static void fetch(struct pull *pull);

/* ── trust ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void trusted(int r, unsigned retry_after_s, const struct err *err, void *data)
{
        struct pull *pull = data;

        pull->check = NULL;
        pull->answer.retry_after_s = retry_after_s;
        if (r == 0 && pull->manifest.len > 0) {
                fetch(pull);
                return;
        }
        if (r == 0 && !image_store_by_digest(pull->pulls->config.store, pull->answer.digest)) {
                (void)err_set(&pull->err, ENOENT, "it was removed meanwhile");
                pull_end(pull, -ENOENT, &pull->err);
                return;
        }
        pull_end(pull, r, err);
}

static void trust_ask(struct pull *pull)
{
        struct trust_question q = {
                .ref = &pull->trusted_as,
                .digest = pull->answer.digest,
                .top = pull->top,
        };
        struct credentials kept = { .username = NULL };
        const struct credentials *credentials = &pull->credentials;
        struct err err = ERR_INIT;
        int r;

        /* What was proven in one registry may be signed in another, which those credentials are not for. */
        if (!str_eq(pull->trusted_as.domain, pull->ref.domain)) {
                credentials = &kept;
                (void)image_pulls_kept(pull->pulls, pull->owner, pull->trusted_as.domain, &kept.username,
                                       &kept.password);
        }
        q.username = credentials->username;
        q.password = credentials->password;
        r = trust_glance(pull->pulls->trusted, &q, &err);
        if (r == 1)
                r = trust_check_start(pull->pulls->trusted, &q, trusted, pull, &pull->check, &err);
        credentials_done(&kept);
        if (r < 0 || !pull->check)
                trusted(r, 0, &err, pull);
}

/* On with the image of answer.digest, if the policy takes it. */
static void trust(struct pull *pull)
{
        pull_move(pull, PULL_TRUST);
        trust_ask(pull);
}

/* A name in a repository that is closed to him says nothing of an image, and nobody is asked about it in his name. */
static bool may_look(const struct image_pulls *p, const struct image_pull_request *q, const struct image_ref *ref,
                     const struct image_ref *proving)
{
        return q->all || !access_is_closed(p->access, ref) ||
               access_look(p->access, q->owner, ref, time_real_ms()) != ACCESS_NONE ||
               (proving && str_eq(ref->domain, proving->domain) && str_eq(ref->path, proving->path));
}

/* The name of an image, among those that it has and he has access to, under which the policy takes it most easily: 0, 1 and
 * -EKEYREJECTED as trust_glance(). What was asked for by its name, or by a digest with a repository, is looked at under that.
 * proving: the repository to which access is shown first; NULL: none. */
static int glance(const struct image_pulls *p, const struct image_pull_request *request, const struct image *image,
                  const struct image_ref *asked, const struct image_ref *proving, struct image_ref *ret,
                  struct err *err)
{
        struct trust_question q = { .ref = asked, .digest = image->digest, .top = "" };
        const struct image_ref nameless = { .domain = "" };
        struct image_ref ref;
        int best = -EKEYREJECTED, r;

        if (asked) {
                *ret = *asked;
                return trust_glance(p->trusted, &q, err);
        }
        if (!image->names || !image->names[0]) {
                *ret = nameless;
                q.ref = &nameless;
                return trust_glance(p->trusted, &q, err);
        }
        (void)err_set(err, EKEYREJECTED, "it is not trusted under any of its names");
        *ret = nameless;
        for (char **name = image->names; *name && best != 0; name++) {
                struct err why = ERR_INIT;

                if (image_ref_parse_normalized(*name, &ref, NULL) < 0 || !may_look(p, request, &ref, proving))
                        continue;
                q.ref = &ref;
                r = trust_glance(p->trusted, &q, &why);
                if (r < 0 && best < 0)
                        *err = why;
                if (r > best || r == 0 || best < 0)
                        *ret = ref;
                best = r == 0 ? 0 : MAX(best, r);
        }
        return best;
}

static void here_already(struct pull *pull, const struct image *image, const char *top)
{
        (void)snprintf(pull->answer.digest, sizeof(pull->answer.digest), "%s", image->digest);
        (void)snprintf(pull->top, sizeof(pull->top), "%s", top);
        trust(pull);
}

static void proven(struct pull *pull, int r, const struct err *err)
{
        struct image_pulls *p = pull->pulls;

        if (r == 0) {
                prove(pull);
        } else if (r == -EACCES || r == -ENOENT) {
                if (access_forget(p->access, pull->owner, &pull->ref))
                        pulls_save(p);
        } else if (access_look(p->access, pull->owner, &pull->ref, time_real_ms()) != ACCESS_NONE) {
                r = 0;
        }
        if (r == 0)
                pull->hidden = false;
        if (r == 0 && !image_store_by_digest(p->config.store, pull->answer.digest)) {
                (void)err_set(&pull->err, ENOENT, "it was removed meanwhile");
                pull_end(pull, -ENOENT, &pull->err);
                return;
        }
        if (r == 0)
                trust(pull);
        else
                pull_end(pull, r, err);
}

static void looked(struct pull *pull, int r, const struct registry_answer *answer, const struct err *err)
{
        const struct image *image = local_image(pull);

        if (r == 0 && image && tops_is(pull->pulls, pull->name, answer->digest, image->digest)) {
                prove(pull);
                tops_note(pull->pulls, pull->name, answer->digest, image->digest);
                here_already(pull, image, answer->digest);
                return;
        }
        if ((r == -EHOSTUNREACH || r == -EBUSY) && image && pull->lenient &&
            (pull->all || image_pulls_may_use(pull->pulls, pull->owner, image) ||
             access_look(pull->pulls->access, pull->owner, &pull->ref, time_real_ms()) != ACCESS_NONE)) {
                here_already(pull, image, "");
                return;
        }
        /* Some registries know no HEAD. */
        if (r < 0 && !(r == -EHOSTUNREACH && strstr(err->text, "status 405"))) {
                pull_end(pull, r, err);
                return;
        }
        pull_move(pull, PULL_RESOLVE);
        resolve(pull);
}

static void fetch(struct pull *pull)
{
        struct image_pulls *p = pull->pulls;
        struct job_source source = {
                .ref = &pull->ref,
                .name = pull->name,
                .owner = pull->owner,
                .credentials = &pull->credentials,
                .manifest = pull->manifest.data,
                .len = pull->manifest.len,
                .media_type = pull->media,
                .digest = pull->answer.digest,
        };
        struct err err = ERR_INIT;
        bool save;
        int r;

        save = access_prove(p->access, pull->owner, &pull->ref, time_real_ms());
        if (pull->authenticated)
                save |= access_close(p->access, &pull->ref);
        source.closed = access_is_closed(p->access, &pull->ref);
        if (save)
                pulls_save(p);
        if (pull->authenticated && !source.closed)
                r = err_set(&err, ENOSPC, "no more private repositories can be remembered here");
        else
                r = job_get(p, &source, &pull->job, &err);
        if (r < 0)
                pull_end(pull, r, &err);
        else
                pull_move(pull, PULL_FETCH);
}

/* The digest that the body has must be all that anybody says it has. */
static int check_digest(const struct pull *pull, const struct registry_answer *answer, char digest[IMAGE_DIGEST_MAX],
                        struct err *err)
{
        const char *wanted = pull->state == PULL_CHOOSE ? pull->child.digest : pull->ref.digest;
        int r = image_sha256_text(answer->body, answer->len, digest, err);

        if (r < 0)
                return r;
        if (wanted[0] && !str_eq(wanted, digest))
                return err_set(err, EBADMSG, "digest mismatch: the manifest %s has %s", wanted, digest);
        if (answer->digest[0] && str_starts(answer->digest, "sha256:") && !str_eq(answer->digest, digest))
                return err_set(err, EBADMSG, "digest mismatch: the registry says that the manifest has %s, it has %s",
                               image_digest_valid(answer->digest) ? answer->digest : "another one", digest);
        if (pull->state == PULL_CHOOSE && answer->len != pull->child.size)
                return err_set(err, EBADMSG, "the manifest has another size than its index says");
        return 0;
}

static void resolved(struct pull *pull, const struct registry_answer *answer)
{
        char digest[IMAGE_DIGEST_MAX];
        enum manifest_kind kind = MANIFEST_IMAGE;
        struct err err = ERR_INIT;
        int r;

        r = check_digest(pull, answer, digest, &err);
        if (r == -EBADMSG && !pull->direct && registries_mirrored(pull->pulls->config.registries, &pull->ref)) {
                pull->direct = true;
                pull_ask(pull, REGISTRY_MANIFEST, pull->state == PULL_CHOOSE ? pull->child.digest : pull->reference);
                return;
        }
        if (r == 0)
                r = manifest_kind(answer->body, answer->len, answer->media_type, &kind, pull->media, &err);
        if (r == 0 && kind == MANIFEST_INDEX && pull->state == PULL_CHOOSE)
                r = err_set(&err, EOPNOTSUPP, "its index names another index");
        if (r == 0 && kind == MANIFEST_INDEX)
                r = manifest_choose(answer->body, answer->len, &pull->child, &err);
        str_clear(&pull->manifest);
        if (r == 0 && kind == MANIFEST_IMAGE && str_add(&pull->manifest, answer->body, answer->len) < 0)
                r = err_oom(&err);
        if (r < 0) {
                pull_end(pull, r, &err);
                return;
        }
        if (pull->state == PULL_RESOLVE) {
                memcpy(pull->top, digest, sizeof(pull->top));
                pull->authenticated = answer->authenticated;
        }
        if (kind == MANIFEST_INDEX) {
                pull_move(pull, PULL_CHOOSE);
                pull_ask(pull, REGISTRY_MANIFEST, pull->child.digest);
        } else {
                (void)snprintf(pull->answer.digest, sizeof(pull->answer.digest), "%s", digest);
                trust(pull);
        }
}

static void on_answer(struct registry_call *c, int r, const struct registry_answer *answer, const struct err *err,
                      void *arg)
{
        struct pull *pull = arg;

        (void)c;
        pull->call = NULL;
        pull->answer.retry_after_s = r == -EBUSY ? answer->retry_after_s : 0;
        if (pull->state == PULL_PROVE)
                proven(pull, r, err);
        else if (pull->state == PULL_LOOK)
                looked(pull, r, answer, err);
        else if (r < 0)
                pull_end(pull, r, err);
        else
                resolved(pull, answer);
}

/* ── the tick ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* What a registry may say of the credentials with which it was asked, and not of what was asked for. */
static bool may_be_anothers(int r)
{
        return r == -EACCES || r == -ENOENT || r == -EBUSY;
}

static void look_at_job(struct pull *pull)
{
        struct job *job = pull->job;

        if (job->state == JOB_DONE) {
                pull->answer.pulled = job->moved;
                tops_note(pull->pulls, pull->name, pull->top, job->digest);
                pull_end(pull, 0, NULL);
        } else if (job->state == JOB_FAILED && may_be_anothers(job->result) && !pull->refused &&
                   !str_eq(job->credentials.key, pull->credentials.key)) {
                pull->refused = true;
                job_leave(TAKE_PTR(pull->job));
                pull_move(pull, PULL_RESOLVE);
                resolve(pull);
        } else if (job->state == JOB_FAILED) {
                pull->answer.retry_after_s = job->result == -EBUSY ? job->retry_after_s : 0;
                pull_end(pull, job->result, &job->err);
        }
}

static void describe(const struct pull *pull, struct image_pull_progress *ret)
{
        *ret = (struct image_pull_progress){
                .ref = pull->name,
                .owner = pull->owner,
                .begun_real_ms = pull->begun_real_ms,
        };
        if (pull->job)
                job_progress(pull->job, ret);
}

static void tell_progress(struct pull *pull)
{
        struct image_pull_progress progress;
        uint64_t now = time_mono_ns();
        struct image_want *w;

        if (!pull->job)
                return;
        if (now - pull->told_ns < PROGRESS_NS) {
                pull->due = true;
                return;
        }
        pull->told_ns = now;
        pull->due = false;
        describe(pull, &progress);
        LIST_FOREACH(w, &pull->wants, node)
                if (w->progress)
                        w->progress(&progress, w->data);
}

static void answer_want(struct image_want *w)
{
        list_remove(&w->node);
        w->fn(w->result, &w->answer, w->result < 0 ? &w->err : NULL, w->data);
        free(w);
}

/* Who is told may ask for the next, or cancel others: from the first on each time. */
static void answer_pull(struct pull *pull)
{
        struct image_want *w;

        while ((w = LIST_FIRST(&pull->wants, struct image_want, node))) {
                w->result = pull->result;
                w->err = pull->err;
                w->answer = pull->answer;
                answer_want(w);
        }
}

static void answer_all(struct image_pulls *p)
{
        struct image_want *w;
        struct pull *pull;

        while ((w = LIST_FIRST(&p->wants, struct image_want, node)))
                answer_want(w);
        LIST_FOREACH(pull, &p->pulls, node) {
                if (pull->state == PULL_ENDED)
                        answer_pull(pull);
                if (list_empty(&pull->wants)) {
                        pull_free(pull);
                        pulls_kick(p); /* others may ask now */
                }
        }
}

static void on_tick(struct loop_timer *timer, void *data)
{
        struct image_pulls *p = data;
        struct pull *pull;
        bool due = false;

        (void)timer;
        do {
                p->ticking = true;
                p->again = false;
                jobs_tick(p);
                blobs_tick(p);
                feeds_tick(p);
                LIST_FOREACH(pull, &p->pulls, node) {
                        if (pull->state == PULL_FETCH)
                                tell_progress(pull);
                        if (pull->state == PULL_FETCH)
                                look_at_job(pull);
                }
                answer_all(p);
                ask_some(p);
                p->ticking = false;
        } while (p->again);
        LIST_FOREACH(pull, &p->pulls, node)
                due |= pull->due;
        if (due)
                (void)loop_timer_set(p->loop, &p->timer, time_mono_ns() + PROGRESS_NS, on_tick, p);
}

void pulls_kick(struct image_pulls *p)
{
        p->again = true;
        if (!p->ticking)
                (void)loop_timer_set(p->loop, &p->timer, time_mono_ns(), on_tick, p);
}

/* ── wants ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* Without a tag in the text it is what docker would make of it. */
static int pull_fill(struct pull *pull, const struct image_pull_request *q, const struct image_ref *ref,
                     const char *reference, struct err *err)
{
        pull->ref = *ref;
        pull->all = q->all;
        pull->lenient = q->policy == IMAGE_PULL_MISSING;
        pull->owner = strdup(q->owner ? q->owner : "");
        pull->begun_real_ms = time_real_ms();
        (void)snprintf(pull->reference, sizeof(pull->reference), "%s", reference);
        return pull->owner ? 0 : err_oom(err);
}

bool image_pulls_kept(const struct image_pulls *p, const char *owner, const char *registry, char **ret_username,
                      char **ret_password)
{
        struct str username = STR_INIT, password = STR_INIT;
        bool found = image_login_kept(p, owner, registry, &username, &password) && username.data && password.data;

        if (found) {
                *ret_username = TAKE_PTR(username.data);
                *ret_password = TAKE_PTR(password.data);
                return true;
        }
        if (password.data)
                OPENSSL_cleanse(password.data, password.len);
        str_done(&username);
        str_done(&password);
        return false;
}

/* Those of the request, else those that are kept for its owner. */
static int credentials_of(const struct image_pulls *p, const struct image_pull_request *q, const char *registry,
                          struct credentials *ret, struct err *err)
{
        struct credentials kept = { .username = NULL };
        int r = 0;

        if (q->username && *q->username)
                return credentials_copy(ret, q->username, q->password, err);
        if (image_pulls_kept(p, q->owner ? q->owner : "", registry, &kept.username, &kept.password))
                r = credentials_copy(ret, kept.username, kept.password, err);
        credentials_done(&kept);
        return r;
}

static struct pull *pull_find(struct image_pulls *p, const char *key)
{
        struct pull *pull;

        LIST_FOREACH(pull, &p->pulls, node) {
                if (pull->state != PULL_ENDED && str_eq(pull->key, key))
                        return pull;
        }
        return NULL;
}

/* How a pull begins. image: one that is here, for a proof (PULL_PROVE), or for a look at its signatures (PULL_TRUST). */
struct beginning {
        enum pull_state state;
        const struct image_ref *ref, *trusted_as;
        const char *name;
        bool hidden; /* the name is not what was asked for */
        const struct image *image;
};

static void pull_begin(struct pull *pull, const struct beginning *b)
{
        const char *digest = b->image ? b->image->digest : "";

        (void)snprintf(pull->answer.digest, sizeof(pull->answer.digest), "%s", digest);
        pull->trusted_as = *b->trusted_as;
        pull->hidden = b->hidden;
        pull->state = b->state == PULL_RESOLVE && local_image(pull) ? PULL_LOOK : b->state;
        if (b->image)
                tops_find(pull->pulls, b->trusted_as, digest, pull->top);
        if (pull->state == PULL_TRUST)
                trust_ask(pull);
        else
                pull_ask(pull, pull->state == PULL_RESOLVE ? REGISTRY_MANIFEST : REGISTRY_HEAD, pull->reference);
}

/* The pull of this, which there is or begins now; takes the credentials if it begins. */
static int pull_get_with(struct image_pulls *p, const struct image_pull_request *q, const struct beginning *b,
                         struct credentials *credentials, struct pull **ret, struct err *err)
{
        const struct image_ref *ref = b->ref;
        char as[REF_TEXT_MAX];
        auto_free char *key = NULL;
        struct pull *pull;
        int r;

        image_ref_format(b->trusted_as, as);
        key = str_printf("%s\n%s\n%s\n%s\n%s\n%d\n%d\n%d", q->owner ? q->owner : "", b->image ? b->image->digest : "",
                         b->name, as, credentials->key,
                         q->policy == IMAGE_PULL_MISSING && image_store_find(p->config.store, b->name, NULL),
                         (int)b->state, b->hidden);
        if (!key)
                return err_oom(err);
        pull = pull_find(p, key);
        if (pull) {
                *ret = pull;
                return 0;
        }
        pull = calloc(1, sizeof(*pull));
        if (!pull)
                return err_oom(err);
        pull->pulls = p;
        list_init(&pull->node);
        list_init(&pull->wants);
        pull->key = TAKE_PTR(key);
        (void)snprintf(pull->name, sizeof(pull->name), "%s", b->name);
        (void)snprintf(pull->answer.ref, sizeof(pull->answer.ref), "%s", b->name);
        r = pull_fill(pull, q, ref, b->image ? b->image->digest : ref->digest[0] ? ref->digest : ref->tag, err);
        if (r < 0) {
                pull_free(pull);
                return r;
        }
        pull->credentials = *credentials;
        *credentials = (struct credentials){ .username = NULL };
        list_append(&p->pulls, &pull->node);
        pull_begin(pull, b);
        *ret = pull;
        return 0;
}

static int pull_get(struct image_pulls *p, const struct image_pull_request *q, const struct beginning *b,
                    struct pull **ret, struct err *err)
{
        struct credentials credentials = { .username = NULL };
        int r;

        r = credentials_of(p, q, b->ref->domain, &credentials, err);
        if (r == 0)
                r = pull_get_with(p, q, b, &credentials, ret, err);
        credentials_done(&credentials);
        return r;
}

static int absent(const struct image_pull_request *q, const struct image_ref *ref, struct err *err)
{
        char shown[STR_SHOWN_MAX];

        if (ref && str_eq(ref->domain, IMAGE_BUILTIN_DOMAIN))
                return err_set(err, ENOENT, "there is no image '%s': %s is no registry", str_show(q->ref, shown),
                               IMAGE_BUILTIN_DOMAIN);
        return err_set(err, ENOENT, "there is no image '%s' here", str_show(q->ref, shown));
}

/* What the answer calls it: the name that was asked for, else one that it has and that is his to know, else what was asked. */
static void name_it(const struct image_pulls *p, const struct image_pull_request *q, const struct image *image,
                    const char *name, struct image_pull_result *ret)
{
        const char *called = NULL;

        for (char **n = image->names; n && *n; n++) {
                if (str_eq(*n, name)) {
                        called = *n;
                        break;
                }
                if (!called && (q->all || image_pulls_may_know(p, q->owner, *n)))
                        called = *n;
        }
        (void)snprintf(ret->ref, sizeof(ret->ref), "%s", called ? called : q->ref);
        (void)snprintf(ret->digest, sizeof(ret->digest), "%s", image->digest);
}

static bool has_name(const struct image *image, const char *name)
{
        for (char **n = image->names; n && *n; n++)
                if (str_eq(*n, name))
                        return true;
        return false;
}

static bool is_of(const struct image *image, const struct image_ref *repository)
{
        struct image_ref ref;

        for (char **n = image->names; n && *n; n++)
                if (image_ref_parse_normalized(*n, &ref, NULL) == 0 && str_eq(ref.domain, repository->domain) &&
                    str_eq(ref.path, repository->path))
                        return true;
        return false;
}

/* What a name in a closed repository means is told to who has shown access there, whatever else the image is called. */
static bool is_asked_closed(const struct image_pulls *p, const char *owner, const struct image *image,
                            const struct image_ref *asked)
{
        return asked && is_of(image, asked) && access_is_closed(p->access, asked) &&
               access_look(p->access, owner, asked, time_real_ms()) == ACCESS_NONE;
}

/* Where access to an image is proven that was asked for by a name of its own: there, and not under another that it has. */
static void prefer_asked(const struct image_pulls *p, const char *owner, const struct image *image,
                         const struct image_ref *asked, struct image_ref *closed, enum access_proof *proof)
{
        if (!asked || !is_of(image, asked) || !access_is_closed(p->access, asked))
                return;
        *closed = *asked;
        *proof = access_look(p->access, owner, asked, time_real_ms());
}

/* The credentials of a request are for the registry that it names, and for no other. */
static int pull_here(struct image_pulls *p, const struct image_pull_request *q, const struct image_ref *asked,
                     const struct beginning *b, struct pull **ret, struct err *err)
{
        struct image_pull_request own = *q;

        if (!asked || !str_eq(asked->domain, b->ref->domain))
                own.username = own.password = NULL;
        return pull_get(p, &own, b, ret, err);
}

/* Of an image that is here, and need not be asked for: who may use it, and whether it is trusted. */
static int decide_here(struct image_pulls *p, const struct image_pull_request *q, const struct image *image,
                       const struct image_ref *asked, struct image_want *w, struct pull **ret_pull, struct err *err)
{
        enum access_proof proof = ACCESS_NONE;
        struct image_ref closed, as;
        struct beginning b = { .state = PULL_TRUST, .ref = &as, .trusted_as = &as, .image = image };
        struct err why = ERR_INIT;
        char name[REF_TEXT_MAX];
        int r;

        if (q->all || (may_use(p, q->owner, image, &proof, &closed) && !is_asked_closed(p, q->owner, image, asked))) {
                r = glance(p, q, image, asked, NULL, &as, &why);
                if (r < 0)
                        return err_set(err, why.num, "image %s: %s", w->answer.ref, why.text);
                b.name = w->answer.ref;
                return r == 0 ? 0 : pull_here(p, q, asked, &b, ret_pull, err);
        }
        prefer_asked(p, q->owner, image, asked, &closed, &proof);
        r = glance(p, q, image, asked, &closed, &as, &why);
        if (!registries_enabled(p->config.registries)) {
                if (proof != ACCESS_HELD)
                        return -ENOENT;
                return r < 0 ? err_set(err, why.num, "image %s: %s", w->answer.ref, why.text) : 0;
        }
        image_ref_format(&closed, name);
        b.state = PULL_PROVE;
        b.ref = &closed;
        b.name = name;
        b.hidden = !asked || !is_of(image, asked);
        return pull_here(p, q, asked, &b, ret_pull, err);
}

/* Whether he may hear what is wrong with it. */
static bool is_known_to(const struct image_pulls *p, const struct image_pull_request *q, const struct image *image)
{
        bool known = q->all || image_pulls_may_use(p, q->owner, image);

        for (char **name = image->names; !known && name && *name; name++)
                known = image_pulls_may_know(p, q->owner, *name);
        return known;
}

/* Decides: 0 with *ret_pull set: the pull will answer; 0 without: w->answer is it; -errno. */
static int decide(struct image_pulls *p, const struct image_pull_request *q, struct image_want *w,
                  struct pull **ret_pull, struct err *err)
{
        struct image_ref ref;
        char name[REF_TEXT_MAX] = "";
        const struct beginning remotely = { .state = PULL_RESOLVE, .ref = &ref, .trusted_as = &ref, .name = name };
        struct err why = ERR_INIT;
        const struct image *image;
        bool named, remote, lost;
        int r;

        named = !image_digest_valid(q->ref) && image_ref_parse_docker(q->ref, &ref, NULL) == 0;
        if (named)
                image_ref_format(&ref, name);
        image = image_store_find(p->config.store, q->ref, &why);
        if (!image && why.num && !named)
                return err_set(err, why.num, "%s", why.text);
        remote = named && registries_enabled(p->config.registries) && !str_eq(ref.domain, IMAGE_BUILTIN_DOMAIN) &&
                 q->policy != IMAGE_PULL_NEVER;
        /* Whose it is was lost with its names: a pull tells. */
        lost = image && image->lost && !q->all && (!image->names || !image->names[0]);
        if (remote && (!image || lost || image->broken || q->policy == IMAGE_PULL_ALWAYS ||
                       (!ref.digest[0] && tops_is_old(p, name))))
                return pull_get(p, q, &remotely, ret_pull, err);
        if (!image || lost || (image->broken && !is_known_to(p, q, image)))
                return absent(q, named ? &ref : NULL, err);
        name_it(p, q, image, name, &w->answer);
        if (image->broken)
                return err_set(err, EUCLEAN, "image %s is damaged, and has to be brought again", w->answer.ref);
        r = decide_here(p, q, image, named && (ref.digest[0] || has_name(image, name)) ? &ref : NULL, w, ret_pull, err);
        return r == -ENOENT && !err->num ? absent(q, named ? &ref : NULL, err) : r;
}

int image_pull(struct image_pulls *p, const struct image_pull_request *request, image_pulled_fn fn, void *data,
               struct image_want **ret, struct err *err)
{
        struct image_want *w = calloc(1, sizeof(*w));
        struct pull *pull = NULL;

        if (!w)
                return err_oom(err);
        w->pulls = p;
        w->fn = fn;
        w->data = data;
        w->progress = request->progress;
        w->result = decide(p, request, w, &pull, &w->err);
        w->pull = pull;
        list_init(&w->node);
        list_append(pull ? &pull->wants : &p->wants, &w->node);
        pulls_kick(p);
        *ret = w;
        return 0;
}

void image_pull_cancel(struct image_want *w)
{
        struct image_pulls *p = w->pulls;

        list_remove(&w->node);
        free(w);
        pulls_kick(p);
}

bool image_pulls_next(struct image_pulls *p, size_t *pos, struct image_pull_progress *ret)
{
        struct pull *pull;
        size_t i = 0;

        LIST_FOREACH(pull, &p->pulls, node) {
                if (pull->state == PULL_PROVE || pull->state == PULL_ENDED ||
                    (pull->state == PULL_TRUST && pull->manifest.len == 0) || i++ < *pos)
                        continue;
                ++*pos;
                describe(pull, ret);
                return true;
        }
        return false;
}

/* ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────── */

int image_pulls_new(struct loop *loop, const struct image_pulls_config *config, struct image_pulls **ret,
                    struct err *err)
{
        const struct access_config proofs = { .fresh_ms = config->proof_fresh_ms, .hold_ms = config->proof_hold_ms };
        struct image_pulls *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return err_oom(err);
        p->loop = loop;
        p->config = *config;
        if (p->config.parallel == 0)
                p->config.parallel = PARALLEL_DEFAULT;
        list_init(&p->wants);
        list_init(&p->pulls);
        list_init(&p->jobs);
        list_init(&p->blobs);
        list_init(&p->feeds);
        p->tops = map_new();
        r = p->tops ? access_open(image_store_layout(config->store)->dir, &proofs, &p->access, err) : err_oom(err);
        if (r == 0)
                r = trust_memory_open(loop, image_store_layout(config->store)->dir, config->trust, config->registries,
                                      &p->trusted, err);
        if (r < 0) {
                image_pulls_free(p);
                return r;
        }
        image_store_set_may_name(config->store, may_name, p);
        *ret = p;
        return 0;
}

void image_pulls_free(struct image_pulls *p)
{
        struct image_want *w;
        struct pull *pull;

        if (!p)
                return;
        image_store_set_may_name(p->config.store, NULL, NULL);
        p->ticking = true;
        LIST_FOREACH(w, &p->wants, node) {
                list_remove(&w->node);
                free(w);
        }
        LIST_FOREACH(pull, &p->pulls, node) {
                LIST_FOREACH(w, &pull->wants, node) {
                        list_remove(&w->node);
                        free(w);
                }
                pull_free(pull);
        }
        jobs_free(p);
        blobs_free(p);
        feeds_free(p);
        loop_timer_cancel(&p->timer);
        access_free(p->access);
        trust_memory_free(p->trusted);
        tops_free(p->tops);
        free(p);
}
