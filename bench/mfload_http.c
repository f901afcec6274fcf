/* HTTP/1.1, one connection and at most one request a slot; the connection is kept, or made for each request. A "task" is one
 * request, or with Docker's API a chain of them: create, start, wait, remove. */
#include "mfload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <unistd.h>

#define ANSWER_MAX (1024 * 1024)
#define ID_MAX 80

enum docker_step { CREATE, START, WAIT, REMOVE, STEPS };

struct slot {
        struct link link;
        unsigned number; /* whose it is follows from that */
        uint64_t begin;  /* of the task, its connection included where it has one of its own; 0: idle */
        unsigned step, steps;
        char id[ID_MAX]; /* of Docker's container */
        char *in;        /* the answer so far */
        size_t in_len;
};

static void send_request(struct slot *s, const struct load *load, const char *method, const char *path,
                         const char *body)
{
        char text[16384], key[LOAD_KEY_MAX + 32] = "";
        int n;

        if (load->n_keys > 0)
                snprintf(key, sizeof(key), "Authorization: Bearer %s\r\n", load->keys[s->number % load->n_keys]);
        n = snprintf(
                text, sizeof(text),
                "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%s%sContent-Length: %zu\r\n"
                "\r\n%s",
                method, path, key, load->fresh ? "Connection: close\r\n" : "", strlen(body), body);
        if (n < 0 || (size_t)n >= sizeof(text)) {
                errno = EMSGSIZE;
                load_die("request");
        }
        link_send(&s->link, text, (size_t)n);
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
                send_request(s, load, "POST", "/containers/create", load->body);
                return;
        case START:
                snprintf(path, sizeof(path), "/containers/%s/start", s->id);
                break;
        case WAIT:
                snprintf(path, sizeof(path), "/containers/%s/wait", s->id);
                break;
        default:
                snprintf(path, sizeof(path), "/containers/%s?force=1", s->id);
                send_request(s, load, "DELETE", path, "");
                return;
        }
        send_request(s, load, "POST", path, "");
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

static void connect_slot(struct slot *s, const struct load *load, int ep)
{
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = s };

        s->link = link_open(load, s->number);
        if (epoll_ctl(ep, EPOLL_CTL_ADD, s->link.fd, &e) < 0)
                load_die("epoll");
}

static void begin(struct slot *s, const struct load *load, int ep)
{
        s->begin = load_now();
        s->step = 0;
        if (load->fresh)
                connect_slot(s, load, ep);
        if (s->steps > 1)
                docker_step(s, load);
        else
                send_request(s, load, "POST", load->path, load->body);
}

/* Reads what came. True: the task of this slot has ended. */
static bool advance(struct slot *s, const struct load *load, bool *ret_good)
{
        const char *body = NULL;
        ssize_t n = link_receive(&s->link, s->in + s->in_len, ANSWER_MAX - s->in_len);
        int status;

        if (n < 0 && errno == EAGAIN)
                return false;
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

/* At least one slot for each owner, with a connection unless each request makes its own. */
static unsigned open_slots(struct slot *slots, const struct load *load, unsigned steps, int ep)
{
        unsigned owners = load->n_owners > load->n_keys ? load->n_owners : load->n_keys;
        unsigned n = load->flight > owners ? load->flight : owners;

        for (unsigned i = 0; i < n; i++) {
                slots[i] = (struct slot){ .link.fd = -1, .number = i, .steps = steps, .in = malloc(ANSWER_MAX + 1) };
                if (!slots[i].in)
                        load_die("slot");
                if (!load->fresh)
                        connect_slot(&slots[i], load, ep);
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
                        begin(&slots[next], load, ep);
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
                        if (load->fresh)
                                link_close(&s->link);
                        s->begin = 0;
                        live--;
                }
        }
        ret->seconds = (double)(load_now() - pace.begin_ns) / 1e9;
        for (unsigned i = 0; i < n_slots; i++) {
                link_close(&slots[i].link);
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
