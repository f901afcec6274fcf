#include "base/fd.h"
#include "image/worker.h"
#include "image/worker/compare.h"
#include "image/worker/report.h"
#include "image/worker/worker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int parse_limits(int argc, char **argv, struct worker_limits *ret)
{
        if (argc != 4)
                return -EINVAL;
        return parse_u64(argv[2], &ret->max_bytes) < 0 ? -EINVAL : parse_u64(argv[3], &ret->max_entries);
}

static int do_index(int argc, char **argv, struct str *report, struct err *err)
{
        struct worker_limits limits;

        if (parse_limits(argc, argv, &limits) < 0)
                return err_set(err, EINVAL, "index takes two numbers");
        return worker_index(WORKER_FD_INPUT, WORKER_FD_PLAIN, &limits, report, err);
}

static int do_plain(int argc, char **argv, struct str *report, struct err *err)
{
        struct worker_limits limits;

        if (parse_limits(argc, argv, &limits) < 0)
                return err_set(err, EINVAL, "plain takes two numbers");
        return worker_plain(WORKER_FD_INPUT, WORKER_FD_PLAIN, &limits, report, err);
}

static int do_unpack(int argc, char **argv, struct str *report, struct err *err)
{
        struct worker_limits limits;

        if (parse_limits(argc, argv, &limits) < 0)
                return err_set(err, EINVAL, "unpack takes two numbers");
        return worker_unpack(WORKER_FD_INPUT, WORKER_FD_DIR, &limits, report, err);
}

static int do_merge(int argc, char **argv, struct str *report, struct err *err)
{
        int layers[WORKER_LAYERS_MAX];
        uint32_t n;

        if (argc != 3 || parse_u32(argv[2], &n) < 0 || n > WORKER_LAYERS_MAX)
                return err_set(err, EINVAL, "merge takes a number of layers");
        for (uint32_t i = 0; i < n; i++)
                layers[i] = WORKER_FD_LAYERS + (int)i;
        return worker_merge(layers, n, WORKER_FD_DIR, report, err);
}

static int do_remove(int argc, char **argv, struct str *report, struct err *err)
{
        (void)argc;
        (void)argv;
        (void)report;
        return worker_remove(WORKER_FD_DIR, err);
}

/* All that the file system holds is on disk then, what others wrote included. */
static int do_sync(int argc, char **argv, struct str *report, struct err *err)
{
        (void)argc;
        (void)argv;
        (void)report;
        return syncfs(WORKER_FD_DIR) < 0 ? err_sys(err, "write to disk") : 0;
}

static int do_compare(int argc, char **argv, struct str *report, struct err *err)
{
        (void)argc;
        (void)argv;
        return worker_compare(WORKER_FD_DIR, WORKER_FD_LAYERS, report, err);
}

static const struct {
        const char *name;
        int (*run)(int argc, char **argv, struct str *report, struct err *err);
} commands[] = {
        { "index", do_index },   { "plain", do_plain },     { "unpack", do_unpack }, { "merge", do_merge },
        { "remove", do_remove }, { "compare", do_compare }, { "sync", do_sync },
};

static int run(int argc, char **argv, struct str *report, struct err *err)
{
        int r;

        r = worker_seccomp(err);
        if (r < 0)
                return r;
        for (size_t i = 0; argc > 1 && i < ARRAY_LEN(commands); i++) {
                if (str_eq(argv[1], commands[i].name))
                        return commands[i].run(argc, argv, report, err);
        }
        return err_set(err, EINVAL, "mayfly-worker is started by mayfly-launcher");
}

static int exit_code(int r)
{
        switch (r) {
        case 0:
                return IMAGE_WORKER_DONE;
        case -EBADMSG:
        case -EFBIG:
                return IMAGE_WORKER_BAD;
        case -ENOSPC:
        case -EDQUOT:
                return IMAGE_WORKER_NO_SPACE;
        case -ENOMEM:
                return IMAGE_WORKER_NO_MEMORY;
        default:
                return IMAGE_WORKER_FAILED;
        }
}

int main(int argc, char **argv)
{
        auto_str report = STR_INIT;
        struct err err = ERR_INIT;
        int r;

        r = run(argc, argv, &report, &err);
        if (r < 0) {
                char shown[sizeof(err.text)];

                /* Texts of the C library and of libarchive are ASCII here; whatever else is there must not spoil it. */
                (void)snprintf(shown, sizeof(shown), "%s", err.text);
                for (char *c = shown; *c; c++) {
                        if (*c & '\x80')
                                *c = '?';
                }
                str_clear(&report);
                if (str_addf(&report, "{\"errno\":%d", -r) < 0 || report_member_string(&report, "error", shown) < 0 ||
                    str_addc(&report, '}') < 0)
                        return IMAGE_WORKER_NO_MEMORY;
        }
        if (report.len > 0 && fd_write_all(WORKER_FD_REPORT, report.data, report.len) < 0 && r == 0)
                return IMAGE_WORKER_FAILED;
        return exit_code(r);
}
