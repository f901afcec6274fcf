/* WebSocket: the parser hands over the connection after the handshake, wslay does the framing, and we read and write. */

#include "base/time.h"
#include "http/handshake.h"
#include "http/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <wslay/wslay.h>

#define MAX_MESSAGE (1024 * 1024)
#define OUT_MAX (64 * 1024)
#define READ_PER_TURN (256 * 1024)
#define PINGS_MAX 64 /* that may be answered before the peer has read any answer */
#define PING_S 30
#define DEAD_S 60
#define CLOSE_S 10
#define LINGER_S 2
#define MESSAGE_FREE (64 * 1024) /* bytes of a message that are not accounted for: what live streams are made of */
#define CLOSE_REASON_MAX 123     /* RFC 6455, section 5.5 */

/*   NEW ──▶ OPEN ──▶ CLOSING ──▶ LINGER ──▶ (closed, freed)
 *    │        │          └───────────────────▲
 *    └────────┴──────────────────────────────┘
 * CLOSING: ours is sent, and the peer's awaited; LINGER: nothing it sends matters any more, but it may still read. */
enum ws_state { WS_NEW, WS_OPEN, WS_CLOSING, WS_LINGER };

struct http_ws {
        struct http_server *server;
        struct http_conn *conn; /* NULL while NEW */
        struct MHD_UpgradeResponseHandle *handle;
        struct loop_io *io;
        struct loop_timer timer;
        struct http_ws_handler handler;
        void *arg;
        wslay_event_context_ptr wslay;
        enum ws_state state;
        int fd;
        char *first; /* what came behind the handshake */
        size_t first_at, first_len;
        char *out; /* framed, and not yet taken by the socket */
        size_t out_at, out_len, turn_read;
        struct http_source *source; /* in whose part of the budget of bodies lies what follows */
        size_t message_len;         /* of the message that is coming, so far */
        size_t message_charged, charged;
        bool frame_is_data;
        uint64_t heard_ns, state_ns;
        unsigned pings;
        unsigned code;
        bool paused, was_high, end_of_file;
        bool close_waits; /* wslay would send it before what is queued, and then nothing more */
        unsigned close_code;
        char close_reason[CLOSE_REASON_MAX];
        size_t close_len;
        struct list dirty_node; /* of server->ws_dirty */
};

/* ── ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void ws_free(struct http_ws *ws)
{
        list_remove(&ws->dirty_node);
        loop_io_remove(ws->io);
        loop_timer_cancel(&ws->timer);
        http_budget_give(ws->server, ws->source, ws->message_charged + ws->charged);
        http_source_put(ws->source);
        if (ws->wslay)
                wslay_event_context_free(ws->wslay);
        free(ws->first);
        free(ws->out);
        free(ws);
}

static void ws_finish(struct http_ws *ws)
{
        struct http_conn *c = ws->conn;

        if (c) {
                loop_io_remove(ws->io);
                ws->io = NULL;
                c->ws = NULL;
                (void)MHD_upgrade_action(ws->handle, MHD_UPGRADE_ACTION_CLOSE);
                c->parser->dirty = true;
                http_server_defer(ws->server);
        }
        ws->server->open--;
        ws->handler.closed(ws, ws->code, ws->arg);
        ws_free(ws);
}

void http_ws_end(struct http_ws *ws)
{
        ws_finish(ws);
}

void http_ws_orphan(struct http_ws *ws)
{
        ws_finish(ws);
}

void http_ws_hung_up(struct http_ws *ws)
{
        /* Else reading shows it, after what was sent before. */
        if (ws->paused || ws->pings > PINGS_MAX)
                ws_finish(ws);
}

static void on_timer(struct loop_timer *timer, void *data);

static void ws_set_timer(struct http_ws *ws, uint64_t seconds)
{
        (void)loop_timer_set(ws->server->loop, &ws->timer, time_mono_ns() + seconds * NS_PER_S, on_timer, ws);
}

static void ws_set_state(struct http_ws *ws, enum ws_state state)
{
        static const uint64_t looks_s[] = { [WS_OPEN] = PING_S, [WS_CLOSING] = 1, [WS_LINGER] = 1 };

        ws->state = state;
        ws->state_ns = time_mono_ns();
        ws_set_timer(ws, looks_s[state]);
}

/* ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static ssize_t would_block(struct http_ws *ws)
{
        wslay_event_set_error(ws->wslay, WSLAY_ERR_WOULDBLOCK);
        return -1;
}

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, int flags, void *data)
{
        struct http_ws *ws = data;
        ssize_t n;

        (void)flags;
        if (ws->paused || ws->pings > PINGS_MAX || ws->turn_read >= READ_PER_TURN)
                return would_block(ws);
        if (ws->first_at < ws->first_len) {
                n = (ssize_t)MIN(len, ws->first_len - ws->first_at);
                memcpy(buf, ws->first + ws->first_at, (size_t)n);
                ws->first_at += (size_t)n;
                return n;
        }
        do {
                n = recv(ws->fd, buf, len, MSG_DONTWAIT);
        } while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN)
                return would_block(ws);
        if (n <= 0) {
                ws->end_of_file = true;
                wslay_event_set_error(ctx, WSLAY_ERR_CALLBACK_FAILURE);
                return -1;
        }
        ws->heard_ns = time_mono_ns();
        ws->turn_read += (size_t)n;
        return n;
}

/* Gathers frames, so that a header does not cost a system call. */
static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *bytes, size_t len, int flags, void *data)
{
        struct http_ws *ws = data;

        (void)flags;
        len = MIN(len, OUT_MAX - ws->out_len);
        if (len == 0)
                return would_block(ws);
        if (!ws->out)
                ws->out = malloc(OUT_MAX);
        if (!ws->out) {
                wslay_event_set_error(ctx, WSLAY_ERR_CALLBACK_FAILURE);
                return -1;
        }
        memcpy(ws->out + ws->out_len, bytes, len);
        ws->out_len += len;
        return (ssize_t)len;
}

/* 1: all is written; 0: the socket is full; -errno. */
static int ws_write(struct http_ws *ws)
{
        for (;;) {
                ssize_t n;

                if (ws->out_at == ws->out_len) {
                        ws->out_at = ws->out_len = 0;
                        if (wslay_event_want_write(ws->wslay) && wslay_event_send(ws->wslay) != 0)
                                return -ENOMEM;
                        if (ws->out_len == 0 && ws->close_waits) {
                                ws->close_waits = false;
                                (void)wslay_event_queue_close(ws->wslay, (uint16_t)ws->close_code,
                                                              (const uint8_t *)ws->close_reason, ws->close_len);
                                continue;
                        }
                        if (ws->out_len == 0)
                                return 1;
                }
                n = send(ws->fd, ws->out + ws->out_at, ws->out_len - ws->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? 0 : -errno;
                ws->out_at += (size_t)n;
        }
}

static void on_frame(wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_start_arg *f, void *data)
{
        struct http_ws *ws = data;

        (void)ctx;
        ws->frame_is_data = !wslay_is_ctrl_frame(f->opcode);
}

/* The library gathers a message; what it gathers is a body. */
static void on_piece(wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_chunk_arg *piece, void *data)
{
        struct http_ws *ws = data;
        size_t more;

        if (!ws->frame_is_data)
                return;
        ws->message_len += piece->data_length;
        if (ws->message_len <= MESSAGE_FREE)
                return;
        more = ws->message_len - MESSAGE_FREE - ws->message_charged;
        if (http_budget_take(ws->server, ws->source, more) == 0) {
                ws->message_charged += more;
                return;
        }
        (void)wslay_event_shutdown_read(ctx);
        http_ws_close(ws, WSLAY_CODE_MESSAGE_TOO_BIG, "too much memory is in use for requests");
}

static void message_told(struct http_ws *ws)
{
        http_budget_give(ws->server, ws->source, ws->message_charged);
        ws->message_charged = ws->message_len = 0;
}

static void on_message(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *m, void *data)
{
        struct http_ws *ws = data;

        if (m->opcode == WSLAY_PING)
                ws->pings++;
        if (m->opcode == WSLAY_CONNECTION_CLOSE)
                ws->code = m->status_code ? m->status_code : WSLAY_CODE_NO_STATUS_RCVD;
        /* Its last piece was too much: nothing is read any more. */
        if ((m->opcode != WSLAY_TEXT_FRAME && m->opcode != WSLAY_BINARY_FRAME) || !wslay_event_get_read_enabled(ctx))
                return;
        ws->handler.message(ws, m->opcode == WSLAY_TEXT_FRAME, m->msg, m->msg_length, ws->arg);
        message_told(ws);
}

/* Reads on to see the end of the connection. */
static int ws_linger(struct http_ws *ws)
{
        char scrap[4096];
        ssize_t n;

        for (size_t total = 0; total < READ_PER_TURN; total += (size_t)n) {
                n = recv(ws->fd, scrap, sizeof(scrap), MSG_DONTWAIT);
                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n <= 0)
                        return -ECONNRESET;
        }
        return 0;
}

/* 0, or -errno: it is at its end. */
static int ws_advance(struct http_ws *ws)
{
        int r;

        ws->turn_read = 0;
        if (ws->state != WS_LINGER && wslay_event_want_read(ws->wslay) && wslay_event_recv(ws->wslay) != 0 &&
            ws->end_of_file)
                return -ECONNRESET;
        r = ws_write(ws);
        if (r < 0)
                return r;
        if (r > 0)
                ws->pings = 0;
        if (ws->state == WS_OPEN && wslay_event_get_close_sent(ws->wslay))
                ws_set_state(ws, WS_CLOSING);
        if (ws->state == WS_CLOSING && r > 0) {
                if (wslay_event_get_close_received(ws->wslay))
                        return -ESHUTDOWN;
                if (!wslay_event_want_read(ws->wslay)) {
                        ws_set_state(ws, WS_LINGER);
                        (void)shutdown(ws->fd, SHUT_WR);
                }
        }
        return ws->state == WS_LINGER ? ws_linger(ws) : 0;
}

static void ws_watch(struct http_ws *ws)
{
        bool writes = ws->out_at < ws->out_len || wslay_event_want_write(ws->wslay);
        bool reads = ws->state == WS_LINGER ||
                     (!ws->paused && ws->pings <= PINGS_MAX && wslay_event_want_read(ws->wslay));

        (void)loop_io_set(ws->io, (reads ? EPOLLIN : 0) | (writes ? EPOLLOUT : 0));
}

/* What the peer says is not read: neither is its end. */
static bool ws_is_deaf(const struct http_ws *ws)
{
        return ws->paused || ws->pings > PINGS_MAX;
}

static void ws_turn(struct http_ws *ws)
{
        /* Without a watcher there was no memory for it. */
        if (!ws->io || ws_advance(ws) < 0 || (ws->conn->is_hung_up && ws_is_deaf(ws))) {
                ws_finish(ws);
                return;
        }
        if (ws->was_high && http_ws_pending(ws) < HTTP_WS_LOW) {
                ws->was_high = false;
                if (ws->handler.drained && ws->state == WS_OPEN)
                        ws->handler.drained(ws, ws->arg);
        }
        ws_watch(ws);
}

static void on_io(struct loop_io *io, uint32_t events, void *data)
{
        (void)io;
        (void)events;
        ws_turn(data);
}

static void ws_touch(struct http_ws *ws)
{
        if (ws->state == WS_NEW)
                return;
        list_remove(&ws->dirty_node);
        list_append(&ws->server->ws_dirty, &ws->dirty_node);
        http_server_defer(ws->server);
}

void http_ws_run_dirty(struct http_server *s)
{
        struct list now;
        struct http_ws *ws;

        /* What they make dirty in turn has its turn later. */
        list_init(&now);
        while ((ws = LIST_FIRST(&s->ws_dirty, struct http_ws, dirty_node))) {
                list_remove(&ws->dirty_node);
                list_append(&now, &ws->dirty_node);
        }
        while ((ws = LIST_FIRST(&now, struct http_ws, dirty_node))) {
                list_remove(&ws->dirty_node);
                ws_turn(ws);
        }
}

/* ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void on_timer(struct loop_timer *timer, void *data)
{
        struct http_ws *ws = data;
        uint64_t now = time_mono_ns(), silent = (now - ws->heard_ns) / NS_PER_S;
        uint64_t age = (now - ws->state_ns) / NS_PER_S;

        (void)timer;
        if ((ws->state == WS_CLOSING && age >= CLOSE_S) || (ws->state == WS_LINGER && age >= LINGER_S) ||
            (ws->state == WS_OPEN && !ws->paused && silent >= DEAD_S)) {
                ws_finish(ws);
                return;
        }
        if (ws->state == WS_OPEN && !ws->paused && silent >= PING_S / 2) {
                const struct wslay_event_msg ping = { .opcode = WSLAY_PING };

                (void)wslay_event_queue_msg(ws->wslay, &ping);
                ws_touch(ws);
        }
        ws_set_timer(ws, ws->state == WS_OPEN ? PING_S : 1);
}

/* ── the handshake ─────────────────────────────────────────────────────────────────────────────────────────────────── */

int http_websocket_check(struct http_request *r, const char **why)
{
        const struct http_handshake h = {
                .method = r->method,
                .http_1_0 = r->http_1_0,
                .upgrade = http_header(r, "Upgrade"),
                .connection = http_header(r, "Connection"),
                .key = http_header(r, "Sec-WebSocket-Key"),
                .version = http_header(r, "Sec-WebSocket-Version"),
                .origin = http_header(r, "Origin"),
                .host = http_header(r, "Host"),
        };
        int status = http_handshake_check(&h, why);

        if (status == 426) {
                (void)http_add_header(r, "Upgrade", "websocket");
                (void)http_add_header(r, "Sec-WebSocket-Version", "13");
        }
        return status;
}

bool http_origin_is_ours(const struct http_request *r)
{
        return http_origin_allowed(http_header(r, "Origin"), http_header(r, "Host"));
}

static int ws_wslay(struct http_ws *ws)
{
        static const struct wslay_event_callbacks callbacks = {
                .recv_callback = on_recv,
                .send_callback = on_send,
                .on_frame_recv_start_callback = on_frame,
                .on_frame_recv_chunk_callback = on_piece,
                .on_msg_recv_callback = on_message,
        };

        if (wslay_event_context_server_init(&ws->wslay, &callbacks, ws) != 0) {
                ws->wslay = NULL;
                return -ENOMEM;
        }
        wslay_event_config_set_max_recv_msg_length(ws->wslay,
                                                   ws->handler.max_message ? ws->handler.max_message : MAX_MESSAGE);
        return 0;
}

int http_websocket_accept(struct http_request *r, const struct http_ws_handler *handler, void *arg,
                          struct http_ws **ret)
{
        const char *why;
        struct http_ws *ws;
        int e;

        if (r->gone)
                return -ECONNRESET;
        if (r->replied)
                return -EALREADY;
        if (r->state != HTTP_WAIT || http_websocket_check(r, &why) != 0)
                return -EPROTO;
        ws = calloc(1, sizeof(*ws));
        if (!ws)
                return -ENOMEM;
        ws->server = r->server;
        ws->handler = *handler;
        ws->arg = arg;
        ws->code = WSLAY_CODE_ABNORMAL_CLOSURE;
        ws->source = http_body_source(r);
        list_init(&ws->dirty_node);
        e = ws_wslay(ws);
        if (e == 0)
                e = http_request_answered(r, MHD_HTTP_SWITCHING_PROTOCOLS, NULL);
        if (e < 0) {
                ws_free(ws);
                return e;
        }
        r->ws = ws;
        r->server->open++;
        http_request_resume(r);
        *ret = ws;
        return 0;
}

static void on_upgraded(void *data, struct MHD_Connection *mhd, void *context, const char *first, size_t first_len,
                        MHD_socket fd, struct MHD_UpgradeResponseHandle *handle)
{
        struct http_request *r = context;
        struct http_conn *c = r->conn;
        struct http_ws *ws = r->ws;

        (void)data;
        (void)mhd;
        r->ws = NULL;
        r->state = HTTP_UPGRADED;
        c->ws = ws;
        list_remove(&c->watch_node);
        ws->conn = c;
        ws->handle = handle;
        ws->fd = fd;
        ws->heard_ns = time_mono_ns();
        ws_set_state(ws, WS_OPEN);
        http_request_tell_gone(r, true);
        if (first_len > 0) {
                ws->first = malloc(first_len);
                if (ws->first)
                        memcpy(ws->first, first, first_len);
                ws->first_len = ws->first ? first_len : 0;
                ws->end_of_file = !ws->first;
        }
        (void)loop_io_add(ws->server->loop, fd, EPOLLIN, on_io, ws, &ws->io, NULL);
        /* Not now: the parser is not done with the handshake. */
        ws_touch(ws);
}

struct MHD_Response *http_ws_response(struct http_request *r)
{
        struct MHD_Response *response = MHD_create_response_for_upgrade(on_upgraded, NULL);
        char accept[HTTP_ACCEPT_MAX];
        const char *key = http_header(r, "Sec-WebSocket-Key");

        if (!response)
                return NULL;
        http_handshake_accept(key ? key : "", accept);
        if (MHD_add_response_header(response, MHD_HTTP_HEADER_UPGRADE, "websocket") == MHD_YES &&
            MHD_add_response_header(response, "Sec-WebSocket-Accept", accept) == MHD_YES)
                return response;
        MHD_destroy_response(response);
        return NULL;
}

/* ── use ───────────────────────────────────────────────────────────────────────────────────────────────────────────── */

size_t http_ws_pending(const struct http_ws *ws)
{
        return wslay_event_get_queued_msg_length(ws->wslay) + ws->out_len - ws->out_at;
}

static ssize_t ws_send(struct http_ws *ws, uint8_t opcode, const void *data, size_t len)
{
        const struct wslay_event_msg m = { .opcode = opcode, .msg = data, .msg_length = len };
        size_t waits = http_ws_pending(ws);
        int r;

        if (ws->state > WS_OPEN)
                return -ESHUTDOWN;
        if (waits > 0 && len > HTTP_WS_MAX - MIN(waits, (size_t)HTTP_WS_MAX)) {
                ws->was_high = true;
                return -EAGAIN;
        }
        r = wslay_event_queue_msg(ws->wslay, &m);
        if (r != 0)
                return r == WSLAY_ERR_NO_MORE_MSG ? -ESHUTDOWN : -ENOMEM;
        if (waits + len >= HTTP_WS_LOW)
                ws->was_high = true;
        ws_touch(ws);
        return (ssize_t)(waits + len);
}

ssize_t http_ws_send_text(struct http_ws *ws, const void *text, size_t len)
{
        return ws_send(ws, WSLAY_TEXT_FRAME, text, len);
}

ssize_t http_ws_send_binary(struct http_ws *ws, const void *data, size_t len)
{
        return ws_send(ws, WSLAY_BINARY_FRAME, data, len);
}

int http_ws_charge(struct http_ws *ws, size_t bytes)
{
        int e = http_budget_take(ws->server, ws->source, bytes);

        if (e == 0)
                ws->charged += bytes;
        return e;
}

void http_ws_release(struct http_ws *ws, size_t bytes)
{
        bytes = MIN(bytes, ws->charged);
        ws->charged -= bytes;
        http_budget_give(ws->server, ws->source, bytes);
}

void http_ws_close(struct http_ws *ws, unsigned code, const char *reason)
{
        if (ws->close_waits || wslay_event_get_close_sent(ws->wslay))
                return;
        ws->close_waits = true;
        ws->close_code = code;
        ws->close_len = reason ? MIN(strlen(reason), sizeof(ws->close_reason)) : 0;
        memcpy(ws->close_reason, reason ? reason : "", ws->close_len);
        /* A peer that neither reads nor answers ends it in time, too. */
        if (ws->state == WS_OPEN)
                ws_set_state(ws, WS_CLOSING);
        ws->paused = false;
        ws_touch(ws);
}

void http_ws_pause(struct http_ws *ws)
{
        ws->paused = true;
        ws_touch(ws);
}

void http_ws_resume(struct http_ws *ws)
{
        ws->paused = false;
        ws->heard_ns = time_mono_ns();
        ws_touch(ws);
}
