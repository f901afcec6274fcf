/* Keep-alive HTTP/1.1 over a unix socket, one connection and at most one request a slot. A "task" is one request, or with
 * Docker's API a chain of them: create, start, wait, remove. */
#include "mfload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_MAX (1024 * 1024)
#define ID_MAX 80

enum docker_step { CREATE, START, WAIT, REMOVE, STEPS };

struct slot {
        int fd;
        uint64_t begin; /* of the task; 0: idle */
        unsigned step, steps;
        char id[ID_MAX]; /* of Docker's container */
        char *in;        /* the answer so far */
        size_t in_len;
};

static int connect_to(const char *path)
{
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || strlen(path) >= sizeof(a.sun_path))
                load_die("socket");
        memcpy(a.sun_path, path, strlen(path));
        if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
                load_die(path);
        return fd;
}

/* Who connects is who asks, for as long as the connection lives, so one process can be many owners. */
static int connect_as(const struct load *load, unsigned slot)
{
        uid_t owner;
        int fd;

        if (load->n_owners == 0)
                return connect_to(load->socket);
        owner = load->owners[slot % load->n_owners];
        if (setegid(load->group) < 0 || seteuid(owner) < 0)
                load_die("become an owner");
        fd = connect_to(load->socket);
        if (seteuid(0) < 0 || setegid(0) < 0)
                load_die("become root again");
        return fd;
}

static void send_request(struct slot *s, const char *method, const char *path, const char *body)
{
        char text[16384];
        size_t len = strlen(body), sent = 0;
        int n = snprintf(
                text, sizeof(text),
                "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                method, path, len, body);

        if (n < 0 || (size_t)n >= sizeof(text)) {
                errno = EMSGSIZE;
                load_die("request");
        }
        while (sent < (size_t)n) {
                ssize_t w = send(s->fd, text + sent, (size_t)n - sent, MSG_NOSIGNAL);

                if (w < 0)
                        load_die("send");
                sent += (size_t)w;
        }
        s->in_len = 0;
}

/* Where the body begins and ends in what has come; false: more must come. */
static bool chunked_end(const char *p, const char *end)
{
        for (;;) {
                const char *eol = memmem(p, (size_t)(end - p), "\r\n", 2);
                unsigned long n;

                if (!eol)
                        return false;
                n = strtoul(p, NULL, 16);
                if ((unsigned long)(end - eol) < n + 4)
                        return false;
                p = eol + 2 + n + 2;
                if (n == 0)
                        return true;
        }
}

static const char *header(const char *head, const char *end, const char *name)
{
        size_t len = strlen(name);

        for (const char *p = head; p < end;) {
                const char *eol = memmem(p, (size_t)(end - p), "\r\n", 2);

                if (!eol)
                        return NULL;
                if ((size_t)(eol - p) > len && strncasecmp(p, name, len) == 0 && p[len] == ':')
                        return p + len + 1 + strspn(p + len + 1, " ");
                p = eol + 2;
        }
        return NULL;
}

/* Status of a complete answer; 0: more must come. */
static int answer_status(const struct slot *s, const char **ret_body)
{
        const char *end = s->in + s->in_len, *body = memmem(s->in, s->in_len, "\r\n\r\n", 4), *value;
        int status;

        if (!body || s->in_len < 12)
                return 0;
        body += 4;
        status = (int)strtol(s->in + 9, NULL, 10);
        *ret_body = body;
        if (status == 204 || status == 304)
                return status;
        value = header(s->in, body, "Content-Length");
        if (value)
                return (size_t)(end - body) >= strtoul(value, NULL, 10) ? status : 0;
        value = header(s->in, body, "Transfer-Encoding");
        if (value)
                return chunked_end(body, end) ? status : 0;
        return status;
}

static void docker_step(struct slot *s, const struct load *load)
{
        char path[200];

        switch (s->step) {
        case CREATE:
                send_request(s, "POST", "/containers/create", load->body);
                return;
        case START:
                snprintf(path, sizeof(path), "/containers/%s/start", s->id);
                break;
        case WAIT:
                snprintf(path, sizeof(path), "/containers/%s/wait", s->id);
                break;
        default:
                snprintf(path, sizeof(path), "/containers/%s?force=1", s->id);
                send_request(s, "DELETE", path, "");
                return;
        }
        send_request(s, "POST", path, "");
}

static bool docker_good(struct slot *s, int status, const char *body)
{
        const char *id;

        switch (s->step) {
        case CREATE:
                id = strstr(body, "\"Id\":\"");
                if (status != 201 || !id)
                        return false;
                memcpy(s->id, id + 6, 64);
                s->id[64] = '\0';
                return true;
        case WAIT:
                return status == 200 && strstr(body, "\"StatusCode\":0");
        default:
                return status == 204;
        }
}

static bool step_good(struct slot *s, const struct load *load, int status, const char *body)
{
        if (s->steps > 1)
                return docker_good(s, status, body);
        return status == load->expect;
}

static void begin(struct slot *s, const struct load *load)
{
        s->begin = load_now();
        s->step = 0;
        if (s->steps > 1)
                docker_step(s, load);
        else
                send_request(s, "POST", load->path, load->body);
}

/* Reads what came. True: the task of this slot has ended. */
static bool advance(struct slot *s, const struct load *load, bool *ret_good)
{
        const char *body = NULL;
        ssize_t n = recv(s->fd, s->in + s->in_len, ANSWER_MAX - s->in_len, 0);
        int status;

        if (n <= 0) {
                errno = n < 0 ? errno : ECONNRESET;
                load_die("the server closed the connection");
        }
        s->in_len += (size_t)n;
        s->in[s->in_len] = '\0';
        status = answer_status(s, &body);
        if (status == 0)
                return false;
        *ret_good = step_good(s, load, status, body);
        if (*ret_good && ++s->step < s->steps) {
                docker_step(s, load);
                return false;
        }
        return true;
}

/* Opens one connection for each request in flight, and at least one for each owner. */
static unsigned open_slots(struct slot *slots, const struct load *load, unsigned steps, int ep)
{
        unsigned n = load->flight > load->n_owners ? load->flight : load->n_owners;

        for (unsigned i = 0; i < n; i++) {
                struct epoll_event e = { .events = EPOLLIN, .data.ptr = &slots[i] };

                slots[i] = (struct slot){ .fd = connect_as(load, i), .steps = steps, .in = malloc(ANSWER_MAX + 1) };
                if (!slots[i].in || epoll_ctl(ep, EPOLL_CTL_ADD, slots[i].fd, &e) < 0)
                        load_die("slot");
        }
        return n;
}

static void run(const struct load *load, unsigned steps, struct samples *ret)
{
        static struct slot slots[LOAD_FLIGHT_MAX];
        struct pace pace = { .load = load };
        int ep = epoll_create1(EPOLL_CLOEXEC);
        unsigned live = 0, n_slots = open_slots(slots, load, steps, ep), next = 0;

        for (;;) {
                struct epoll_event events[64];
                int n;

                /* In turn, so that with fewer in flight than owners each has its share. */
                while (live < load->flight && pace_more(&pace)) {
                        while (slots[next].begin != 0)
                                next = (next + 1) % n_slots;
                        begin(&slots[next], load);
                        next = (next + 1) % n_slots;
                        live++;
                }
                if (live == 0)
                        break;
                n = epoll_wait(ep, events, 64, -1);
                for (int i = 0; i < n; i++) {
                        struct slot *s = events[i].data.ptr;
                        bool good = false;

                        if (!advance(s, load, &good))
                                continue;
                        if (pace_done(&pace) && good)
                                samples_add(ret, load_now() - s->begin);
                        if (!good)
                                samples_error(ret, s->in, s->in_len);
                        s->begin = 0;
                        live--;
                }
        }
        ret->seconds = (double)(load_now() - pace.begin_ns) / 1e9;
        for (unsigned i = 0; i < n_slots; i++) {
                close(slots[i].fd);
                free(slots[i].in);
        }
        close(ep);
}

void load_http(const struct load *load, struct samples *ret)
{
        run(load, 1, ret);
}

void load_docker(const struct load *load, struct samples *ret)
{
        run(load, STEPS, ret);
}
