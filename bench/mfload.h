/* The load driver of the benchmark: K requests in flight, the latency of each. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LOAD_FLIGHT_MAX 512
#define LOAD_OWNERS_MAX 64
#define LOAD_KEY_MAX 128

struct load {
        const char *socket; /* path of a unix socket, or… */
        uint16_t port;      /* …TCP on 127.0.0.1 */
        bool tls;
        bool fresh;       /* http: a connection for each request */
        const char *path; /* of the request */
        const char *body; /* JSON */
        int expect;       /* HTTP status of a good answer */
        char **argv;      /* exec: the command; each "{}" becomes a serial number */
        unsigned flight;
        uint64_t count;  /* measured requests; 0: by time */
        uint64_t warmup; /* requests before that, not measured */
        double seconds;
        uid_t owners[LOAD_OWNERS_MAX]; /* http: whose the connections are, in turn; root's where there are none */
        unsigned n_owners;
        gid_t group;                              /* of the owners: who may open the socket */
        char keys[LOAD_OWNERS_MAX][LOAD_KEY_MAX]; /* http over TCP: `id:secret`, in turn */
        unsigned n_keys;
};

/* Latencies of good answers in nanoseconds, in the order of their ends. */
struct samples {
        uint64_t *ns;
        size_t n, size;
        uint64_t errors;
        double seconds;     /* from the first measured request to the end of the last one */
        double cpu_seconds; /* exec: of the children and all that they waited for */
        char error[200];    /* of the first one */
};

uint64_t load_now(void);
void load_die(const char *what) __attribute__((noreturn));
void samples_add(struct samples *s, uint64_t ns);
void samples_error(struct samples *s, const char *text, size_t len);

/* Progress of a run, shared by the drivers: which request is measured, and when it is over. */
struct pace {
        const struct load *load;
        uint64_t started, ended; /* requests, the warm-up included */
        uint64_t begin_ns;       /* of the measured part; 0: not yet */
};
bool pace_more(struct pace *p); /* whether to start another; counts it as started */
bool pace_done(struct pace *p); /* counts an end; whether that one was measured */

void load_http(const struct load *load, struct samples *ret);   /* one connection a slot, or one a request */
void load_docker(const struct load *load, struct samples *ret); /* create, start, wait, remove */
void load_exec(const struct load *load, struct samples *ret);   /* posix_spawn to waitpid */

/* A connection. All of these end the program where they fail, but for an end of file or EAGAIN of link_receive(). */
struct link {
        int fd;
        struct ssl_st *tls; /* NULL: plain */
};
struct link link_open(const struct load *load, unsigned slot);
void link_close(struct link *l);
void link_send(struct link *l, const char *text, size_t len);
ssize_t link_receive(struct link *l, char *buffer, size_t size); /* as recv(2); TLS: EAGAIN where no data has come */
