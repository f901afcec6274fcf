#include "net/docker.h"

#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/x_tables.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmocka.h>

#define RULE sizeof(struct rule)
#define HEAD sizeof(struct head)
#define ACCEPT (-NF_ACCEPT - 1)
#define RETURN (-NF_REPEAT - 1)

struct rule {
        struct ipt_entry entry;
        struct xt_standard_target target;
};
struct head {
        struct ipt_entry entry;
        struct xt_error_target target;
};

static void add(struct docker_legacy *t, const void *entry, size_t size)
{
        memcpy(t->entries + t->size, entry, size);
        t->size += size;
        t->n++;
}

static void add_rule(struct docker_legacy *t, int verdict)
{
        struct rule r = { .entry = { .target_offset = sizeof(r.entry), .next_offset = sizeof(r) },
                          .target.verdict = verdict };

        r.target.target.u.user.target_size = XT_ALIGN(sizeof(r.target));
        add(t, &r, sizeof(r));
}

static void add_head(struct docker_legacy *t, const char *chain)
{
        struct head h = { .entry = { .target_offset = sizeof(h.entry), .next_offset = sizeof(h) } };

        h.target.target.u.user.target_size = XT_ALIGN(sizeof(h.target));
        (void)snprintf(h.target.target.u.user.name, sizeof(h.target.target.u.user.name), XT_ERROR_TARGET);
        (void)snprintf(h.target.errorname, sizeof(h.target.errorname), "%s", chain);
        add(t, &h, sizeof(h));
}

/* FORWARD jumps to `chain`, whose one rule jumps to OTHER. */
static struct docker_legacy table(const char *chain)
{
        struct docker_legacy t = { .entries = calloc(1, 4096) };

        assert_non_null(t.entries);
        add_rule(&t, ACCEPT);                 /* INPUT */
        add_rule(&t, (int)(4 * RULE + HEAD)); /* FORWARD */
        add_rule(&t, ACCEPT);
        add_rule(&t, ACCEPT); /* OUTPUT */
        add_head(&t, chain);
        add_rule(&t, (int)(6 * RULE + 2 * HEAD));
        add_rule(&t, RETURN);
        add_head(&t, "OTHER");
        add_rule(&t, RETURN);
        add_head(&t, XT_ERROR_TARGET);
        t.hook_entry[2] = RULE;
        t.underflow[2] = 2 * RULE;
        t.hook_entry[3] = t.underflow[3] = 3 * RULE;
        return t;
}

static int verdict_at(const struct docker_legacy *t, size_t at)
{
        return ((const struct rule *)(t->entries + at))->target.verdict;
}

static void drop(struct docker_legacy *t)
{
        free(t->entries);
        free(t->from);
}

static void goes_in_first_and_out_again(void **state)
{
        struct docker_legacy old = table(DOCKER_CHAIN), with = { .n = 0 }, again = { .n = 0 };
        const size_t chain = 4 * RULE + HEAD, added = DOCKER_RULES * RULE;

        (void)state;
        assert_int_equal(docker_legacy_edit(&old, "mf", true, &with), 1);
        assert_int_equal(with.n, old.n + DOCKER_RULES);
        assert_int_equal(with.size, old.size + added);
        assert_int_equal(verdict_at(&with, RULE), chain); /* to what is the chain's first now */
        assert_int_equal(verdict_at(&with, chain + added), 6 * RULE + 2 * HEAD + added);
        for (int i = 0; i < DOCKER_RULES; i++) {
                const struct rule *r = (const struct rule *)(with.entries + chain + (size_t)i * RULE);

                assert_int_equal(r->target.verdict, ACCEPT);
                assert_string_equal(i & 2 ? r->entry.ip.outiface : r->entry.ip.iniface, i & 1 ? "mfi" : "mfn");
                assert_int_equal(with.from[5 + i], -1);
        }
        assert_int_equal(with.from[4], 4);
        assert_int_equal(with.from[5 + DOCKER_RULES], 5);
        assert_memory_equal(with.hook_entry, old.hook_entry, sizeof(old.hook_entry));
        assert_int_equal(docker_legacy_edit(&with, "mf", true, &again), 0);
        assert_int_equal(docker_legacy_edit(&with, "mfx", false, &again), 0); /* another instance's */
        assert_int_equal(docker_legacy_edit(&with, "mf", false, &again), 1);
        assert_int_equal(again.size, old.size);
        assert_memory_equal(again.entries, old.entries, old.size);
        drop(&old);
        drop(&with);
        drop(&again);
}

static void leaves_what_it_does_not_know(void **state)
{
        struct docker_legacy old = table("DOCKER-USES"), ret = { .n = 0 };

        (void)state;
        assert_int_equal(docker_legacy_edit(&old, "mf", true, &ret), 0);
        drop(&old);
        old = table(DOCKER_CHAIN);
        for (size_t cut = 1; cut < old.size; cut++) {
                struct docker_legacy part = old;

                part.size = old.size - cut;
                assert_int_equal(docker_legacy_edit(&part, "mf", true, &ret), -EBADMSG);
        }
        ((struct ipt_entry *)old.entries)->next_offset = 1;
        assert_int_equal(docker_legacy_edit(&old, "mf", true, &ret), -EBADMSG);
        ((struct ipt_entry *)old.entries)->next_offset = RULE;
        ((struct ipt_entry *)old.entries)->target_offset = 0xfff8;
        assert_int_equal(docker_legacy_edit(&old, "mf", true, &ret), -EBADMSG);
        assert_null(ret.entries);
        drop(&old);
}

static void waits_for_the_lock_a_while(void **state)
{
        char path[] = "/tmp/test-docker-legacy.XXXXXX";
        int theirs = mkstemp(path), ours = open(path, O_RDONLY | O_CLOEXEC);

        (void)state;
        assert_true(theirs >= 0 && ours >= 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(flock(theirs, LOCK_EX), 0);
        assert_int_equal(docker_legacy_lock(ours), -EBUSY);
        assert_int_equal(flock(theirs, LOCK_UN), 0);
        assert_int_equal(docker_legacy_lock(ours), 0);
        assert_int_equal(flock(theirs, LOCK_EX | LOCK_NB), -1);
        close(ours);
        close(theirs);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(goes_in_first_and_out_again),
                cmocka_unit_test(leaves_what_it_does_not_know),
                cmocka_unit_test(waits_for_the_lock_a_while),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
