/* A launcher of the tests' own, with a store, a socket and a tree that holds busybox, and containers in it. */
#pragma once

#include "client.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#define BASE 2013265920u
#define TREE "00000000000000000000000000000000000000000000000000000000000000aa"
#define OUT_MAX 65536

extern const char *launcher, *busybox, *clear, *die;
extern char dir[64], name[32], conf[96], path[96]; /* of the launcher: directory, instance, ceiling, socket */
extern pid_t pid;
extern int sock, netns;
extern const char *case_name;
extern bool case_failed;
extern char out[OUT_MAX]; /* what the last container wrote */
extern struct client_msg msg;

#define CHECK(x)                                                                                                       \
        do {                                                                                                           \
                if (!(x) && !case_failed) {                                                                            \
                        (void)printf("not ok - launcher: %s: %s:%d: %s\n", case_name, __FILE__, __LINE__, #x);         \
                        case_failed = true;                                                                            \
                }                                                                                                      \
        } while (0)

void write_text(const char *file, const char *text, mode_t mode);
void make_store(void);
void start_launcher(void);
int stop_launcher(int signo); /* answers its status */

/* HELLO and all up to READY; the number of ADOPTs, the last of them in `adopt` (or NULL). */
int greet(struct client_msg *adopt);
void reconnect(void);

const char *new_id(void);
struct client_spec spec_of(const char *const *argv);
struct client_spec shell(const char *script);                                      /* sh -c */
const struct launch_exit *run(struct client_spec *spec);                           /* to its end; removed */
const struct launch_exit *sh(const char *script);                                  /* run(shell()) */
bool exited(const struct launch_exit *e, int code);                                /* by itself */
void start(struct client_spec *spec, struct client_task *t, const char *expected); /* until it has written that */
void wait_exited(const char *id);                                                  /* removes it */

struct test {
        const char *name;
        void (*run)(void);
};
extern const struct test root_tests[]; /* cases_root.c; ends with a NULL */
