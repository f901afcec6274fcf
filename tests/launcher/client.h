/* Speaks the launcher's protocol as mayflyd does, one call after the other: for tests and measurements. */
#pragma once

#include "launcher/proto.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client_file {
        const char *path;
        const void *content;
        size_t len;
        uint32_t mode; /* without a type: a file */
};

struct client_secret {
        const char *name, *value;
};

struct client_spec {
        const char *id;
        const char *tree;        /* LAUNCH_HEX digits */
        const char *const *argv; /* NULL-terminated */
        const char *const *env;
        const char *workdir; /* NULL: / */
        const void *input;
        size_t input_len;
        const struct client_file *files;
        size_t n_files;
        const struct client_secret *secrets;
        size_t n_secrets;
        uint64_t caps;
        uint32_t uid, gid;
        struct launch_limits limits;
        bool init;
        bool spec; /* the payload in a memfd */
        bool keep_root;
        int netns; /* borrowed */
};

/* What a running container needs of us. */
struct client_task {
        int out, err; /* read ends */
        int record;
};

struct client_msg {
        union {
                struct launch_header h;
                struct launch_exited exited;
                struct launch_adopt adopt;
                struct launch_refused refused;
                struct launch_stats stats;
                struct launch_hello hello;
                uint8_t raw[4096];
        };
        size_t len;
        int fds[16];
        size_t n_fds;
};

#define CLIENT_CAPS UINT64_C(0x800405fb)

struct client_spec client_spec(const char *id, const char *tree, const char *const *argv, int netns);
int client_connect(const char *path);               /* -errno */
int client_hello(int sock, struct client_msg *ret); /* sends HELLO and reads the answer */
int client_netns(void);                             /* a new network namespace with lo up; the caller owns it */
int client_start(int sock, const struct client_spec *spec, struct client_task *ret);
int client_receive(int sock, struct client_msg *ret, int timeout_ms); /* -ETIMEDOUT, -EPIPE at the end */
int client_send_id(int sock, uint32_t op, const char *id);
int client_signal(int sock, const char *id, int signo);
/* COPY_OUT; fd is borrowed. The answer is to be received. */
int client_copy(int sock, const char *id, const char *file, uint64_t max_bytes, uint32_t max_entries,
                uint32_t timeout_ms, int fd);
void client_task_close(struct client_task *t);
void client_msg_close(struct client_msg *m);

/* START, then waits for EXITED or REFUSED; reads up to max bytes of standard output into out (NUL after it). */
int client_run(int sock, const struct client_spec *spec, struct client_msg *ret, char *out, size_t max);
