#include "image/prove.h"

#include "base/str.h"
#include "base/time.h"
#include "image/pull_internal.h"
#include "image/registry_url.h"
#include "image/trust.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct image_proof {
        struct image_pulls *pulls;
        struct registry_call *call;
        struct image_ref ref;
        char *owner;
        image_done_fn fn;
        void *data;
};

bool image_pulls_enabled(const struct image_pulls *p)
{
        return registries_enabled(p->config.registries);
}

bool image_policy_is_open(const struct image_pulls *p, const struct image_ref *ref)
{
        struct trust_wish wish = { .n_pins = 0 };

        if (!p->config.trust || trust_is_empty(p->config.trust))
                return true;
        trust_look(p->config.trust, ref, &wish);
        return wish.n_pins == 0 && !wish.rule;
}

bool image_login_kept(const struct image_pulls *p, const char *owner, const char *registry, struct str *username,
                      struct str *password)
{
        char name[256];

        return p->config.kept && registry_name(registry, name, NULL) == 0 &&
               p->config.kept(owner, name, username, password, p->config.kept_data);
}

bool image_access_known(const struct image_pulls *p, const char *owner, const struct image_ref *ref)
{
        return !access_is_closed(p->access, ref) || access_look(p->access, owner, ref, time_real_ms()) == ACCESS_FRESH;
}

int image_note_pulling(struct image_pulls *p, const struct image_ref *ref, struct err *err)
{
        bool closed = access_close(p->access, ref);

        if (closed)
                pulls_save(p);
        else if (!access_is_closed(p->access, ref))
                return err_set(err, ENOSPC, "no more private repositories can be remembered here");
        return closed;
}

void image_note_failed(struct image_pulls *p, const struct image_ref *ref)
{
        if (access_reopen(p->access, ref))
                pulls_save(p);
}

void image_note_pulled(struct image_pulls *p, const char *owner, const struct image_ref *ref)
{
        if (access_prove(p->access, owner, ref, time_real_ms()))
                pulls_save(p);
}

static void proof_free(struct image_proof *x)
{
        free(x->owner);
        free(x);
}

void image_prove_cancel(struct image_proof *x)
{
        if (x->call)
                registry_cancel(x->call);
        proof_free(x);
}

static void on_head(struct registry_call *call, int r, const struct registry_answer *answer, const struct err *err,
                    void *arg)
{
        struct image_proof *x = arg;
        struct image_pulls *p = x->pulls;
        struct err fine = ERR_INIT;
        bool save = false;

        (void)call;
        (void)answer;
        x->call = NULL;
        if (r == 0)
                save = access_prove(p->access, x->owner, &x->ref, time_real_ms());
        else if (r == -EACCES || r == -ENOENT)
                save = access_forget(p->access, x->owner, &x->ref);
        else if (access_look(p->access, x->owner, &x->ref, time_real_ms()) != ACCESS_NONE)
                r = 0;
        if (save)
                pulls_save(p);
        x->fn(r, r == 0 ? &fine : err, x->data);
        proof_free(x);
}

int image_prove(struct image_pulls *p, const struct image_pull_request *request, image_done_fn fn, void *data,
                struct image_proof **ret, struct err *err)
{
        static const struct registry_handler handler = { .done = on_head };
        struct image_proof *x = calloc(1, sizeof(*x));
        struct registry_request q = { .what = REGISTRY_HEAD,
                                      .username = request->username,
                                      .password = request->password };
        int r;

        if (!x)
                return err_oom(err);
        *x = (struct image_proof){ .pulls = p, .fn = fn, .data = data };
        r = image_ref_parse_docker(request->ref, &x->ref, err);
        if (r == 0) {
                x->owner = strdup(request->owner ? request->owner : "");
                r = x->owner ? 0 : err_oom(err);
        }
        if (r == 0) {
                q.ref = &x->ref;
                q.reference = x->ref.digest[0] ? x->ref.digest : x->ref.tag;
                r = registry_start(p->config.registries, &q, &handler, x, &x->call, err);
        }
        if (r < 0) {
                proof_free(x);
                return r;
        }
        *ret = x;
        return 0;
}
