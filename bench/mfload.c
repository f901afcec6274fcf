/* mfload http|docker|exec: drives one contender and prints one JSON object.
 *
 *   mfload http   -s SOCKET | -a PORT -p PATH -b BODY [-x STATUS]
 *   mfload docker -s SOCKET -b BODY
 *   mfload exec   -- COMMAND…
 *     -k K  in flight      -n N  requests      -t S  seconds instead      -w N  warm-up requests
 *     -u UID,UID…  owners on the unix socket, in turn, with -g GID as their group
 *     -a PORT      TCP on 127.0.0.1; -e: with TLS; -f FILE: a key (`id:secret`) a line, in turn
 *     -c           a connection for each request */
#include "mfload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t load_now(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void load_die(const char *what)
{
        fprintf(stderr, "mfload: %s: %s\n", what, strerror(errno));
        exit(1);
}

void samples_add(struct samples *s, uint64_t ns)
{
        if (s->n == s->size) {
                s->size = s->size ? s->size * 2 : 4096;
                s->ns = reallocarray(s->ns, s->size, sizeof(*s->ns));
                if (!s->ns)
                        load_die("samples");
        }
        s->ns[s->n++] = ns;
}

void samples_error(struct samples *s, const char *text, size_t len)
{
        if (s->errors++ == 0) {
                if (len >= sizeof(s->error))
                        len = sizeof(s->error) - 1;
                memcpy(s->error, text, len);
                s->error[len] = '\0';
        }
}

bool pace_more(struct pace *p)
{
        const struct load *l = p->load;
        uint64_t measured;

        if (p->started < l->warmup) {
                p->started++;
                return true;
        }
        /* The measured part begins when the warm-up has ended, so that nothing of it is counted. */
        if (p->ended < l->warmup)
                return false;
        if (p->begin_ns == 0)
                p->begin_ns = load_now();
        measured = p->started - l->warmup;
        if (l->count ? measured >= l->count : (double)(load_now() - p->begin_ns) >= l->seconds * 1e9)
                return false;
        p->started++;
        return true;
}

bool pace_done(struct pace *p)
{
        return ++p->ended > p->load->warmup;
}

static int by_value(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return x < y ? -1 : x > y;
}

static double percentile(const struct samples *s, double p)
{
        size_t i = (size_t)((double)s->n * p);

        if (s->n == 0)
                return 0;
        return (double)s->ns[i < s->n ? i : s->n - 1] / 1e6;
}

static void print_string(const char *s)
{
        putchar('"');
        for (; *s; s++) {
                if (*s == '"' || *s == '\\')
                        printf("\\%c", *s);
                else if ((unsigned char)*s < 0x20)
                        putchar(' ');
                else
                        putchar(*s);
        }
        putchar('"');
}

static void report(struct samples *s)
{
        double sum = 0;

        qsort(s->ns, s->n, sizeof(*s->ns), by_value);
        for (size_t i = 0; i < s->n; i++)
                sum += (double)s->ns[i];
        printf("{\"requests\": %zu, \"errors\": %llu, \"seconds\": %.6f, \"per_second\": %.2f, ", s->n,
               (unsigned long long)s->errors, s->seconds, s->seconds > 0 ? (double)s->n / s->seconds : 0);
        printf("\"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"mean_ms\": %.4f, \"max_ms\": %.4f, ",
               percentile(s, 0.5), percentile(s, 0.9), percentile(s, 0.99), s->n ? sum / (double)s->n / 1e6 : 0,
               s->n ? (double)s->ns[s->n - 1] / 1e6 : 0);
        printf("\"children_cpu_s\": %.6f, \"error\": ", s->cpu_seconds);
        print_string(s->error);
        printf("}\n");
}

static void drive(const char *mode, const struct load *load, struct samples *ret)
{
        if (strcmp(mode, "http") == 0)
                load_http(load, ret);
        else if (strcmp(mode, "docker") == 0)
                load_docker(load, ret);
        else
                load_exec(load, ret);
}

static unsigned parse_owners(char *text, uid_t *ret)
{
        unsigned n = 0;

        for (char *save = NULL, *p = strtok_r(text, ",", &save); p && n < LOAD_OWNERS_MAX;
             p = strtok_r(NULL, ",", &save))
                ret[n++] = (uid_t)strtoul(p, NULL, 10);
        return n;
}

static void read_keys(const char *path, struct load *load)
{
        FILE *f = fopen(path, "re");

        if (!f)
                load_die(path);
        while (load->n_keys < LOAD_OWNERS_MAX && fscanf(f, "%127s", load->keys[load->n_keys]) == 1)
                load->n_keys++;
        fclose(f);
}

int main(int argc, char **argv)
{
        struct load load = { .path = "/v1/tasks", .body = "{}", .expect = 201, .flight = 1, .seconds = 5 };
        const char *mode = argc > 1 ? argv[1] : "";
        struct samples s = { 0 };
        int o;

        if (strcmp(mode, "http") != 0 && strcmp(mode, "docker") != 0 && strcmp(mode, "exec") != 0) {
                fprintf(stderr,
                        "usage: mfload http|docker|exec [-s SOCKET] [-p PATH] [-b BODY] [-x STATUS] [-k FLIGHT] "
                        "[-n COUNT | -t SECONDS] [-w WARMUP] [-u UID,… -g GID] [-a PORT [-e] [-f KEYS]] [-c] [-- "
                        "COMMAND…]\n");
                return 2;
        }
        argv++;
        argc--;
        while ((o = getopt(argc, argv, "+s:p:b:x:k:n:t:w:u:g:a:f:ec")) != -1) {
                switch (o) {
                case 's':
                        load.socket = optarg;
                        break;
                case 'p':
                        load.path = optarg;
                        break;
                case 'b':
                        load.body = optarg;
                        break;
                case 'x':
                        load.expect = (int)strtol(optarg, NULL, 10);
                        break;
                case 'k':
                        load.flight = (unsigned)strtoul(optarg, NULL, 10);
                        break;
                case 'n':
                        load.count = strtoull(optarg, NULL, 10);
                        break;
                case 't':
                        load.seconds = strtod(optarg, NULL);
                        break;
                case 'w':
                        load.warmup = strtoull(optarg, NULL, 10);
                        break;
                case 'u':
                        load.n_owners = parse_owners(optarg, load.owners);
                        break;
                case 'g':
                        load.group = (gid_t)strtoul(optarg, NULL, 10);
                        break;
                case 'a':
                        load.port = (uint16_t)strtoul(optarg, NULL, 10);
                        break;
                case 'f':
                        read_keys(optarg, &load);
                        break;
                case 'e':
                        load.tls = true;
                        break;
                case 'c':
                        load.fresh = true;
                        break;
                default:
                        return 2;
                }
        }
        load.argv = argv + optind;
        if (load.flight < 1 || load.flight > LOAD_FLIGHT_MAX) {
                fprintf(stderr, "mfload: -k is 1 to %d\n", LOAD_FLIGHT_MAX);
                return 2;
        }
        drive(mode, &load, &s);
        report(&s);
        return s.n > 0 ? 0 : 1;
}
