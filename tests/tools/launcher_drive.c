/* Drives mayfly-launcher without a daemon:
 *
 *   launcher_drive SOCKET TREE run [-i] [-u UID] [-m BYTES] COMMAND...    one container, its output and how it ended
 *   launcher_drive SOCKET TREE bench COUNT PARALLEL [-i] COMMAND...       latencies from START to EXITED, and CPU
 *
 * As a user whom the ceiling names. TREE is the name of a tree in the launcher's store. */
#include "../launcher/client.h"

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PARALLEL_MAX 64

static int compare(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return x < y ? -1 : x > y;
}

static void print_exit(const struct launch_exit *e)
{
        (void)fprintf(stderr,
                      "stage %u error %d (%s) code %d status %d start_us %llu run_us %llu peak %llu cpu_us %llu "
                      "oom %u pids_refused %u disk %llu full %u\n",
                      e->stage, e->error, strerror(e->error), e->si_code, e->status,
                      (unsigned long long)(e->exec_ns > e->clone_ns ? e->exec_ns - e->clone_ns : 0) / 1000,
                      (unsigned long long)(e->exit_ns - (e->exec_ns ? e->exec_ns : e->clone_ns)) / 1000,
                      (unsigned long long)e->counters.memory_peak, (unsigned long long)e->counters.cpu_ns / 1000,
                      e->counters.oom_kills, e->counters.pids_refused, (unsigned long long)e->counters.disk_used,
                      e->counters.disk_full);
}

static int run(int sock, struct client_spec *spec)
{
        static char out[65536];
        struct client_msg m = { .n_fds = 0 };
        int r = client_run(sock, spec, &m, out, sizeof(out));

        if (r < 0) {
                (void)fprintf(stderr, "run: %s\n", strerror(-r));
                return 1;
        }
        (void)fputs(out, stdout);
        if (m.h.op == LAUNCH_REFUSED) {
                (void)fprintf(stderr, "refused: %d %s\n", m.refused.error, m.refused.text);
                return 1;
        }
        print_exit(&m.exited.exit);
        return 0;
}

/* Clock ticks of the whole launcher and all it waited for, from /proc. */
static double cpu_of(pid_t pid)
{
        char path[64], text[1024];
        unsigned long u, s, cu, cs;
        FILE *f;

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        f = fopen(path, "re");
        if (!f || !fgets(text, sizeof(text), f)) {
                if (f)
                        (void)fclose(f);
                return 0;
        }
        (void)fclose(f);
        if (sscanf(strrchr(text, ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %lu %lu", &u, &s, &cu,
                   &cs) != 4)
                return 0;
        return (double)(u + s + cu + cs) * 1e6 / (double)sysconf(_SC_CLK_TCK);
}

struct flight {
        struct client_task task;
        uint64_t started;
        char id[16];
        int netns;
};

static int begin(int sock, struct client_spec *spec, struct flight *f, unsigned n)
{
        (void)snprintf(f->id, sizeof(f->id), "t%u", n);
        spec->id = f->id;
        spec->netns = f->netns;
        f->started = time_mono_ns();
        return client_start(sock, spec, &f->task);
}

static void print_times(uint64_t *v, size_t n, const char *what)
{
        qsort(v, n, sizeof(*v), compare);
        (void)printf("%-14s p50 %4llu  p90 %4llu  p99 %4llu  max %5llu us\n", what, (unsigned long long)v[n / 2] / 1000,
                     (unsigned long long)v[n * 9 / 10] / 1000, (unsigned long long)v[n * 99 / 100] / 1000,
                     (unsigned long long)v[n - 1] / 1000);
}

static int bench(int sock, struct client_spec *spec, unsigned count, unsigned parallel)
{
        static struct flight flights[PARALLEL_MAX];
        uint64_t *total = calloc(count, sizeof(*total)), *start = calloc(count, sizeof(*start));
        uint64_t *life = calloc(count, sizeof(*life)), begun, cgroup_cpu = 0;
        unsigned sent = 0, done = 0;
        struct ucred peer;
        socklen_t len = sizeof(peer);
        double cpu;

        (void)getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len);
        for (unsigned i = 0; i < parallel; i++)
                flights[i].netns = client_netns();
        cpu = cpu_of(peer.pid);
        begun = time_mono_ns();
        for (; sent < parallel && sent < count; sent++)
                if (begin(sock, spec, &flights[sent], sent) < 0)
                        return 1;
        while (done < count) {
                struct client_msg m;
                unsigned i = 0;

                if (client_receive(sock, &m, 10000) < 0 || m.h.op != LAUNCH_EXITED) {
                        (void)fprintf(stderr, "bench: op %u %s\n", m.h.op,
                                      m.h.op == LAUNCH_REFUSED ? m.refused.text : "");
                        return 1;
                }
                while (i < parallel && !str_eq(flights[i].id, m.exited.id))
                        i++;
                if (m.exited.exit.stage != LAUNCH_STAGE_EXECED || m.exited.exit.status != 0) {
                        print_exit(&m.exited.exit);
                        return 1;
                }
                total[done] = time_mono_ns() - flights[i].started;
                start[done] = m.exited.exit.exec_ns - m.exited.exit.clone_ns;
                life[done] = m.exited.exit.exit_ns - m.exited.exit.clone_ns;
                cgroup_cpu += m.exited.exit.counters.cpu_ns;
                done++;
                client_task_close(&flights[i].task);
                (void)client_send_id(sock, LAUNCH_REMOVE, flights[i].id);
                if (sent < count && begin(sock, spec, &flights[i], sent++) < 0)
                        return 1;
        }
        begun = time_mono_ns() - begun;
        cpu = cpu_of(peer.pid) - cpu;
        print_times(total, count, "START..EXITED");
        print_times(life, count, "clone..reaped");
        print_times(start, count, "clone..exec");
        (void)printf("%.0f/s, CPU per task: launcher and children %.0f us, in the leaf %llu us\n",
                     count * 1e9 / (double)begun, cpu / count, (unsigned long long)(cgroup_cpu / count / 1000));
        return 0;
}

int main(int argc, char **argv)
{
        static const char tree_digits[LAUNCH_HEX + 1] =
                "0000000000000000000000000000000000000000000000000000000000000000";
        const char *tree = argc > 2 && str_eq(argv[2], "-") ? tree_digits : argc > 2 ? argv[2] : "";
        uint32_t count = 0, parallel = 0, uid = 0;
        struct client_spec spec;
        struct client_msg m = { .n_fds = 0 };
        int sock, at = 4;

        if (argc < 5 || strlen(tree) != LAUNCH_HEX) {
                (void)fprintf(stderr, "usage: launcher_drive SOCKET TREE run|bench ...\n");
                return 2;
        }
        if (str_eq(argv[3], "bench")) {
                if (argc < 7 || parse_u32(argv[4], &count) < 0 || parse_u32(argv[5], &parallel) < 0 ||
                    parallel > PARALLEL_MAX || parallel == 0 || count == 0)
                        return 2;
                at = 6;
        }
        spec = client_spec("drive", tree, NULL, client_netns());
        for (; at < argc && argv[at][0] == '-'; at++) {
                if (str_eq(argv[at], "-i"))
                        spec.init = true;
                else if (str_eq(argv[at], "-s"))
                        spec.spec = true;
                else if (str_eq(argv[at], "-u") && at + 1 < argc && parse_u32(argv[++at], &uid) == 0)
                        spec.uid = spec.gid = uid;
                else if (str_eq(argv[at], "-m") && at + 1 < argc && parse_u64(argv[++at], &spec.limits.memory) == 0)
                        spec.limits.disk = spec.limits.shm = 1 << 20;
        }
        spec.argv = (const char *const *)(argv + at);
        sock = client_connect(argv[1]);
        if (sock < 0 || client_hello(sock, &m) < 0) {
                (void)fprintf(stderr, "connect: %s\n", strerror(-sock));
                return 1;
        }
        while (m.h.op != LAUNCH_READY && client_receive(sock, &m, 10000) == 0)
                client_msg_close(&m);
        return count ? bench(sock, &spec, count, parallel) : run(sock, &spec);
}
