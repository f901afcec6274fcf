#include "net/nl.h"

#include "base/fd.h"

#include <errno.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#define NL_ANSWER_MAX 32768 /* what the kernel puts into one datagram of a dump */

int nl_init(struct nl *nl, int bus, struct err *err)
{
        int one = 1;

        nl->seq = 0;
        nl->last = NULL;
        nl->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, bus);
        if (nl->fd < 0)
                return err_sys(err, "netlink socket %d", bus);
        /* Both only make answers smaller and filters exact; kernels that lack them answer all. */
        (void)setsockopt(nl->fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
        (void)setsockopt(nl->fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one));
        return 0;
}

void nl_done(struct nl *nl)
{
        fd_cleanup(&nl->fd);
        nl->fd = -EBADF;
}

static size_t batch_len(const struct nl *nl)
{
        return nl->last ? nl->start + MNL_ALIGN(nl->last->nlmsg_len) : 0;
}

int nl_room(const struct nl *nl)
{
        return batch_len(nl) + NL_REQUEST_MAX <= sizeof(nl->batch);
}

struct nlmsghdr *nl_put(struct nl *nl, uint16_t type, uint16_t flags, const void *header, size_t len)
{
        nl->start = batch_len(nl);
        if (!nl->last)
                nl->first = nl->seq + 1;
        nl->last = mnl_nlmsg_put_header(nl->batch + nl->start);
        nl->last->nlmsg_type = type;
        nl->last->nlmsg_flags = NLM_F_REQUEST | flags;
        nl->last->nlmsg_seq = ++nl->seq;
        memcpy(mnl_nlmsg_put_extra_header(nl->last, len), header, len);
        return nl->last;
}

struct answers {
        uint32_t first, last;
        nl_fn fn;
        void *data;
        int result;
        bool ended, interrupted;
};

static void note_result(struct answers *a, int r)
{
        if (r < 0 && a->result == 0)
                a->result = r;
}

static void take_answer(struct answers *a, const struct nlmsghdr *msg)
{
        if (msg->nlmsg_seq - a->first > a->last - a->first)
                return; /* left over from an earlier request */
        if (msg->nlmsg_flags & NLM_F_DUMP_INTR)
                a->interrupted = true;
        if (msg->nlmsg_type == NLMSG_ERROR || msg->nlmsg_type == NLMSG_DONE) {
                /* Both begin with a negative errno or 0; the DONE of old dumps may be empty. */
                if (mnl_nlmsg_get_payload_len(msg) >= sizeof(int))
                        note_result(a, *(const int *)mnl_nlmsg_get_payload(msg));
                if (msg->nlmsg_seq == a->last)
                        a->ended = true;
        } else if (msg->nlmsg_type >= NLMSG_MIN_TYPE && a->fn) {
                note_result(a, a->fn(msg, a->data));
        }
}

static int read_answers(int fd, struct answers *a)
{
        char buf[NL_ANSWER_MAX] __attribute__((aligned(8)));

        while (!a->ended) {
                ssize_t n = recv(fd, buf, sizeof(buf), MSG_TRUNC);
                const struct nlmsghdr *msg = (const struct nlmsghdr *)buf;
                int rest = (int)n;

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0 || (size_t)n > sizeof(buf))
                        return -EPROTO;
                for (; mnl_nlmsg_ok(msg, rest); msg = mnl_nlmsg_next(msg, &rest))
                        take_answer(a, msg);
        }
        return a->interrupted ? -EINTR : a->result;
}

static int exchange(struct nl *nl, nl_fn fn, void *data)
{
        struct answers a = { .first = nl->first, .last = nl->seq, .fn = fn, .data = data };
        struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
        size_t len = batch_len(nl);
        ssize_t n;

        if (!nl->last)
                return 0;
        nl->last = NULL;
        do
                n = sendto(nl->fd, nl->batch, len, 0, (struct sockaddr *)&kernel, sizeof(kernel));
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        return read_answers(nl->fd, &a);
}

int nl_run(struct nl *nl, nl_fn fn, void *data)
{
        if (nl->last)
                nl->last->nlmsg_flags |= NLM_F_ACK; /* errors are answered without it, so the last one is enough */
        return exchange(nl, fn, data);
}

int nl_dump(struct nl *nl, nl_fn fn, void *data)
{
        if (nl->last)
                nl->last->nlmsg_flags |= NLM_F_DUMP;
        return exchange(nl, fn, data);
}

void nl_attrs(const struct nlmsghdr *msg, size_t header, const struct nlattr **table, size_t max)
{
        const struct nlattr *attr;

        mnl_attr_for_each(attr, msg, header)
        {
                if (mnl_attr_get_type(attr) <= max)
                        table[mnl_attr_get_type(attr)] = attr;
        }
}

void nl_nested(const struct nlattr *nest, const struct nlattr **table, size_t max)
{
        const struct nlattr *attr;

        if (!nest)
                return;
        mnl_attr_for_each_nested(attr, nest)
        {
                if (mnl_attr_get_type(attr) <= max)
                        table[mnl_attr_get_type(attr)] = attr;
        }
}

uint32_t nl_u32(const struct nlattr *attr, uint32_t fallback)
{
        return attr && mnl_attr_get_payload_len(attr) >= sizeof(uint32_t) ? mnl_attr_get_u32(attr) : fallback;
}

const char *nl_text(const struct nlattr *attr)
{
        return attr && mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) == 0 ? mnl_attr_get_str(attr) : NULL;
}
