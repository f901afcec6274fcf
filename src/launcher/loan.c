#include "launcher/loan.h"

#include "base/str.h"
#include "launcher/sys.h"

#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* The sanitizer keeps books about stacks, of which a lent one is none that it knows. */
#if defined(__SANITIZE_ADDRESS__)
#define LEND false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LEND false
#endif
#endif
#ifndef LEND
#define LEND true
#endif

#define GUARD_SIZE 4096
#define TLS_SIZE 4096
#define TLS_ALIGN 64
#define TCB_SIZE 256 /* what follows the thread pointer, as far as functions that a child calls look at it */

struct loan {
        uint8_t guard[GUARD_SIZE]; /* not accessible */
        _Alignas(4096) uint8_t stack[CHILD_STACK_SIZE];
        _Alignas(4096) uint8_t tls[TLS_SIZE];
        void *thread; /* its thread pointer */
        bool out;
        int busy; /* cleared by the kernel once the child has left (CLONE_CHILD_CLEARTID of clone(2)) */
        struct child child;
        struct launch_start start;
        char *argv[LAUNCH_ARGS_MAX + 1], *envp[LAUNCH_ARGS_MAX + 1];
        uint8_t payload[LAUNCH_INLINE_MAX + 1]; /* one more for the NUL after the last string */
};

/* ── thread-local storage (ELF Handling For Thread-Local Storage, 3) ──────────────────────────────────────────────── */

static size_t tls_size(size_t *ret_align)
{
        const ElfW(Phdr) *headers = (const void *)getauxval(AT_PHDR);
        size_t n = getauxval(AT_PHNUM);

        for (size_t i = 0; i < n; i++)
                if (headers[i].p_type == PT_TLS) {
                        *ret_align = MAX((size_t)headers[i].p_align, (size_t)1);
                        return headers[i].p_memsz;
                }
        *ret_align = 1;
        return 0;
}

/* A copy of ours: its errno, and the canary of the stack. Answers the thread pointer. NULL: it does not fit. */
static void *copy_tls(uint8_t area[TLS_SIZE])
{
        size_t align, size = tls_size(&align);
        uint8_t *from, *to;
#if defined(__x86_64__)
        uintptr_t self;
#endif

        size = (size + align - 1) / align * align;
        if (align > TLS_ALIGN || size > TLS_SIZE - TCB_SIZE - TLS_ALIGN)
                return NULL;
#if defined(__x86_64__)
        /* Variant II: the block ends at the thread pointer, where a pointer to itself is, and again two words later. */
        __asm__("mov %%fs:0, %0" : "=r"(from));
        to = area + TLS_SIZE - TCB_SIZE;
        memcpy(to - size, from - size, size + TCB_SIZE);
        self = (uintptr_t)to;
        memcpy(to, &self, sizeof(self));
        memcpy(to + 2 * sizeof(self), &self, sizeof(self));
#elif defined(__aarch64__)
        /* Variant I: the block begins two words behind the thread pointer, at its own alignment. */
        __asm__("mrs %0, tpidr_el0" : "=r"(from));
        to = area;
        memcpy(to, from, MAX(align, 2 * sizeof(void *)) + size);
#else
#error "no thread-local storage for this architecture"
#endif
        return to;
}

/* ── lending ──────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct loan *make(void)
{
        struct loan *l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                              0);

        if (l == MAP_FAILED)
                return NULL;
        l->thread = mprotect(l->guard, GUARD_SIZE, PROT_NONE) < 0 ? NULL : copy_tls(l->tls);
        if (l->thread)
                return l;
        (void)munmap(l, sizeof(*l));
        return NULL;
}

static struct loan *find(struct loans *ls)
{
        for (unsigned i = 0; i < LOANS; i++) {
                if (!ls->items[i])
                        ls->items[i] = make();
                if (!ls->items[i] || !ls->items[i]->out)
                        return ls->items[i];
        }
        return NULL;
}

struct loan *loan_take(struct loans *ls, const struct child *child)
{
        struct loan *l = !LEND || ls->refused || child->payload_len > LAUNCH_INLINE_MAX ? NULL : find(ls);

        if (!l)
                return NULL;
        l->child = *child;
        l->start = *child->start;
        memcpy(l->payload, child->payload, child->payload_len);
        l->child.start = &l->start;
        l->child.payload = l->payload;
        l->child.argv = l->argv;
        l->child.envp = l->envp;
        return l;
}

/* The environment is as secret as secrets are. */
static void come_back(struct loan *l)
{
        explicit_bzero(l->payload, l->child.payload_len);
        l->out = false;
}

pid_t loan_clone(struct loans *ls, struct loan *l, struct clone_args *args)
{
        const struct clone_args plain = *args;
        pid_t pid;

        args->flags |= CLONE_VM | CLONE_SETTLS | CLONE_CHILD_CLEARTID;
        args->stack = (uintptr_t)l->stack;
        args->stack_size = sizeof(l->stack);
        args->tls = (uintptr_t)l->thread;
        args->child_tid = (uintptr_t)&l->busy;
        l->busy = 1;
        l->out = true;
        pid = sys_clone3_call(args, child_run, &l->child);
        if (pid < 0)
                come_back(l);
        ls->refused = pid == -EINVAL;
        *args = plain;
        return pid;
}

void loans_settle(struct loans *ls)
{
        bool any = false;

        for (unsigned i = 0; i < LOANS && ls->items[i]; i++) {
                struct loan *l = ls->items[i];

                if (l->out && __atomic_load_n(&l->busy, __ATOMIC_ACQUIRE) == 0) {
                        come_back(l);
                        any = true;
                }
        }
        if (any)
                (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}
