/* What Docker says of itself, of containers, of images and of what is wrong, through the functions that read it. */

#include "engine/docker/internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_host(struct docker *d, const char *text, size_t size)
{
        struct err err = ERR_INIT;
        char message[64];

        if (docker_version_read(d, text, size, &err) == 0 && strncmp(d->prefix, "/v1.", 4) != 0)
                abort();
        (void)docker_info_read(d, text, size, &err);
        if (d->n_findings > ENGINE_DOCKER_FINDINGS_MAX)
                abort();
        docker_message(text, size, 500, message, sizeof(message));
        for (const char *p = message; *p; p++)
                if (*p < ' ' || *p > '~')
                        abort();
        (void)docker_pull_error(text, size % 2);
        (void)docker_start_end(text);
        free(docker_stat_link(text));
        docker_info_done(d);
}

static void read_one(const char *text, size_t size)
{
        struct docker_run_state s = { .code = 0 };
        char id[DOCKER_EXEC_ID_MAX + 1] = "";
        struct docker_image *image = NULL;
        struct engine_stats stats;
        int code = 0;

        (void)docker_inspect_read(text, size, &s);
        if (s.code < 0 || s.code > 255)
                abort();
        (void)docker_exec_read(text, size, &s);
        (void)docker_wait_read(text, size, &code);
        if (s.code < 0 || s.code > 255 || code < 0 || code > 255)
                abort();
        if (docker_exec_id_read(text, size, id) == 0 && !hex_is_lower(id, strlen(id)))
                abort();
        (void)docker_stats_read(text, size, &stats);
        if (docker_image_read(text, size, &image) == 0 && (!image_digest_valid(image->digest) || !image->user))
                abort();
        docker_image_free(image);
}

/* What gets into paths of calls, and what is deleted, has a name of ours. */
static void check_names(const struct map *m)
{
        const char *name;
        size_t pos = 0;
        void *item;

        while (map_next(m, &pos, &name, &item))
                if (!str_starts(name, "test-") || strlen(name) >= DOCKER_NAME_MAX || strpbrk(name, "/?%. "))
                        abort();
}

static void read_all(struct docker *d, const char *text, size_t size)
{
        struct docker_listed l;

        if (docker_listed_read(d, text, size, &l) < 0)
                return;
        check_names(l.ours);
        check_names(l.unsaid);
        if (l.node && !docker_node_valid(l.node))
                abort();
        if (l.others + map_len(l.ours) + map_len(l.unsaid) > json_array_size(l.all))
                abort();
        docker_listed_done(&l);
}

static void on_event(const json_t *line, void *data)
{
        const char *name = docker_event_oom(data, line);

        if (name && strlen(name) > DOCKER_LINE_MAX)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static char name[] = "test";
        static struct docker d = { .name = name, .node = "00112233445566778899aabbccddeeff" };
        struct docker_lines lines = { .line = STR_INIT };
        char *text = malloc(size + 1);

        if (!text)
                return 0;
        memcpy(text, data, size);
        text[size] = '\0';
        read_host(&d, text, size);
        read_one(text, size);
        read_all(&d, text, size);
        if (docker_lines_feed(&lines, text, size, on_event, &d) == 0)
                docker_lines_end(&lines, on_event, &d);
        docker_lines_done(&lines);
        free(text);
        return 0;
}
