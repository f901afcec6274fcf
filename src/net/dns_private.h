/* What the halves of the forwarder share. */
#pragma once

#include "base/list.h"
#include "net/dns.h"
#include "net/dns_msg.h"

#include <netinet/in.h>
#include <stdbool.h>

/* What an event of epoll points to. */
enum dns_kind { DNS_STOP, DNS_RESOLV, DNS_UDP, DNS_LISTENER, DNS_UPSTREAM, DNS_CLIENT, DNS_TCP_UPSTREAM };
struct dns_source {
        enum dns_kind kind;
        int fd;
};

struct dns {
        struct dns_conf conf;
        struct resolv *resolv;
        int epoll;
        struct dns_source stop, watch, udp, listener;
        struct list queries, conns; /* the oldest first */
        unsigned n_queries, n_conns;
        uint16_t *asking, *connected; /* per address of the pool */
        uint8_t buffer[DNS_ANSWER_MAX];
};

uint64_t dns_now_ms(void);
int dns_watch(struct dns *d, struct dns_source *s, uint32_t events);      /* EPOLL_CTL_ADD */
void dns_watch_for(struct dns *d, struct dns_source *s, uint32_t events); /* EPOLL_CTL_MOD */
bool dns_is_task(const struct dns *d, const struct sockaddr_in *from, uint32_t *ret_index);

/* The nth attempt's server; NULL when all were asked often enough. */
const union resolv_address *dns_server(const struct dns *d, unsigned attempt);
bool dns_is_last(const struct dns *d, unsigned attempt);

/* A socket from a port that the kernel chooses at random, connected: it hears that server alone. -errno. */
int dns_connect(const union resolv_address *server, int type);

/* Each: on_*: the source is ready; expire: ends what took too long, and answers when it wants to be called again. */
void dns_udp_on_client(struct dns *d);
void dns_udp_on_upstream(struct dns *d, struct dns_source *s);
void dns_udp_on_servers(struct dns *d); /* they changed: what was asked of one that is gone is asked anew */
uint64_t dns_udp_expire(struct dns *d, uint64_t now);
void dns_udp_free_all(struct dns *d);

void dns_tcp_on_listener(struct dns *d);
void dns_tcp_on_client(struct dns *d, struct dns_source *s, uint32_t events);
void dns_tcp_on_upstream(struct dns *d, struct dns_source *s);
uint64_t dns_tcp_expire(struct dns *d, uint64_t now);
void dns_tcp_free_all(struct dns *d);
