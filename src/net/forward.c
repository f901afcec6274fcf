#include "net/forward.h"

#include "base/fd.h"
#include "base/str.h"
#include "net/link.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>

#define CONF_DIR "/proc/sys/net/ipv4/conf"
#define IP_FORWARD "/proc/sys/net/ipv4/ip_forward"
#define RECORD_OFF "ip_forward 0\n"
#define RECORD_ON "ip_forward 1\n"

/* "ip_forward 0" or "ip_forward 1", then names of interfaces whose own switch was on. */
bool forward_record_valid(const char *text)
{
        if (!str_starts(text, RECORD_OFF) && !str_starts(text, RECORD_ON))
                return false;
        for (text += strlen(RECORD_OFF); *text; text++) {
                size_t len = strcspn(text, "\n");

                if (len == 0 || len >= IFNAMSIZ || text[len] != '\n' || memchr(text, '/', len) || text[0] == '.')
                        return false;
                text += len;
        }
        return true;
}

static int open_conf(const char *name, size_t len, int flags)
{
        char path[sizeof(CONF_DIR) + IFNAMSIZ + 16];

        (void)snprintf(path, sizeof(path), CONF_DIR "/%.*s/forwarding", (int)len, name);
        return open(path, flags | O_CLOEXEC | O_NOFOLLOW);
}

static bool is_on(const char *name)
{
        auto_fd fd = open_conf(name, strlen(name), O_RDONLY);
        char c = '0';

        return fd >= 0 && read(fd, &c, 1) == 1 && c == '1';
}

static int add_interfaces(struct str *record, struct err *err)
{
        DIR *dir = opendir(CONF_DIR);
        struct dirent *e;
        int r = 0;

        if (!dir)
                return err_sys(err, "open " CONF_DIR);
        while (r == 0 && (e = readdir(dir)) != NULL) {
                if (e->d_name[0] == '.' || strlen(e->d_name) >= IFNAMSIZ || str_eq(e->d_name, "all"))
                        continue;
                if (is_on(e->d_name) && str_addf(record, "%s\n", e->d_name) < 0)
                        r = err_oom(err);
        }
        closedir(dir);
        return r;
}

static int make_record(int state_dir, bool on, struct err *err)
{
        auto_str record = STR_INIT;
        int r;

        if (str_adds(&record, on ? RECORD_ON : RECORD_OFF) < 0)
                return err_oom(err);
        r = on ? 0 : add_interfaces(&record, err);
        if (r < 0)
                return r;
        return fd_write_file(state_dir, FORWARD_FILE, 0600, record.data, record.len, err);
}

/* 1 and the record; 0 if there is none. */
static int read_record(int state_dir, struct str *ret, struct err *err)
{
        struct err cause = ERR_INIT;
        int r = fd_read_file(state_dir, FORWARD_FILE, FORWARD_RECORD_MAX, ret, &cause);

        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return err_set(err, -r, "%s", cause.text);
        return ret->data && strlen(ret->data) == ret->len && forward_record_valid(ret->data);
}

static int is_forwarding(bool *ret, struct err *err)
{
        uint64_t on;
        int r = fd_read_knob_u64(AT_FDCWD, IP_FORWARD, &on);

        if (r < 0)
                return err_set(err, -r, "read " IP_FORWARD ": %s", strerror(-r));
        *ret = on != 0;
        return 0;
}

int forward_enable(int state_dir, struct err *err)
{
        auto_str record = STR_INIT;
        bool on = false;
        int r = is_forwarding(&on, err);

        if (r == 0)
                r = read_record(state_dir, &record, err);
        if (r == 0)
                r = make_record(state_dir, on, err);
        if (r < 0)
                return err_wrap(err, "record of ip_forward");
        return on ? 0 : fd_write_knob(AT_FDCWD, IP_FORWARD, "1", err);
}

int forward_keep(int state_dir, struct err *err)
{
        bool on;
        int r = is_forwarding(&on, err);

        if (r < 0 || on)
                return r;
        r = make_record(state_dir, false, err);
        if (r == 0)
                r = fd_write_knob(AT_FDCWD, IP_FORWARD, "1", err);
        return r < 0 ? r : 1;
}

static void switch_on(const char *name, size_t len)
{
        auto_fd fd = open_conf(name, len, O_WRONLY);

        if (fd >= 0) /* else the interface has gone */
                (void)fd_write_all(fd, "1", 1);
}

int forward_restore(int state_dir, struct err *err)
{
        auto_str record = STR_INIT;
        int r = read_record(state_dir, &record, err);

        if (r <= 0)
                return r;
        r = 0;
        /* Docker, which may have come after us, needs it, and never switches it off itself. */
        if (str_starts(record.data, RECORD_OFF) && link_index("docker0") == 0) {
                r = fd_write_knob(AT_FDCWD, IP_FORWARD, "0", err);
                for (const char *p = record.data + strlen(RECORD_OFF); r == 0 && *p; p += strcspn(p, "\n") + 1)
                        switch_on(p, strcspn(p, "\n"));
        }
        if (r == 0 && unlinkat(state_dir, FORWARD_FILE, 0) < 0)
                r = err_sys(err, "remove the record of ip_forward");
        return r;
}
