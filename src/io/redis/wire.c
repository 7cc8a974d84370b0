/* Happy path: connect -> [TLS] -> bytes both ways. What the owner appended goes out at wire_flush: uv_try_write first,
 * and what the kernel does not take becomes one request; nothing more is encrypted or handed over before that is
 * through. Why no hiredis socket: its TLS layer loses a write watch after a WANT_READ and moves its buffer at each
 * partial write; with memory buffers TLS never sees the socket, and neither can happen. Failure: one on_end, always
 * from a callback of the loop. */
#include "io/redis/wire.h"

#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "io/redis/tls.h"

enum { READ_BYTES = 64 * 1024, TLS_ROUND_BYTES = 256 * 1024, KEEPALIVE_S = 60 };

struct wire {
	union {
		uv_handle_t any;
		uv_stream_t stream;
		uv_tcp_t tcp;
		uv_pipe_t pipe;
	} h;
	uv_connect_t connect;
	uv_write_t write;
	const struct wire_events *ev;
	void *arg;
	struct tls_session *tls;
	bool is_tcp, is_secure, is_sending, is_closed;
	bool has_secret, is_sending_secret; /* in out, in sending: wiped when they are emptied */
	bool is_connecting, is_gone;        /* the handle is closed; the connect request's callback may be due still */
	struct buf out;                     /* plain, not flushed */
	size_t out_pos;                     /* of it, already encrypted */
	struct buf sending;                 /* given to libuv */
	int failed;                         /* uv error of a write, told at the end of the stream */
	struct err why;                     /* or a TLS error of a write */
};

/* libuv asks for a buffer and delivers it before it does anything else, so one a thread is enough. */
static _Thread_local char read_buffer[READ_BYTES];
static _Thread_local char plain_buffer[READ_BYTES];

static void wire_fail(struct wire *w, const struct err *why)
{
	if (!w->is_closed)
		w->ev->on_end(w->arg, why);
}

static void fail_uv(struct wire *w, int status)
{
	struct err why;
	if (status == UV_EOF)
		err_set(&why, ERR_IO, "the server closed the connection%s",
			w->tls && !w->is_secure ? " during the TLS handshake" : "");
	else
		err_set(&why, ERR_IO, "connection lost: %s", uv_strerror(status));
	wire_fail(w, &why);
}

/* ---- writing */

static void empty(struct buf *b, bool *has_secret)
{
	if (*has_secret)
		mem_wipe(b->data, b->cap);
	*has_secret = false;
	buf_clear(b);
}

static void wire_on_written(uv_write_t *req, int status)
{
	struct wire *w = req->data;
	w->is_sending = false;
	empty(&w->sending, &w->is_sending_secret);
	if (w->is_closed)
		return;
	if (status < 0)
		w->failed = status;
	wire_flush(w);
}

/* Sends w->sending as far as the kernel takes it; the rest as a request. False = nothing more may be added to it now.
 */
static bool send_some(struct wire *w)
{
	uv_buf_t b = uv_buf_init(w->sending.data, (unsigned)w->sending.len);
	int n = uv_try_write(&w->h.stream, &b, 1);
	if (n < 0 && n != UV_EAGAIN) {
		w->failed = n;
		empty(&w->sending, &w->is_sending_secret);
		return false;
	}
	size_t done = n > 0 ? (size_t)n : 0;
	if (done == w->sending.len) {
		empty(&w->sending, &w->is_sending_secret);
		return true;
	}
	b = uv_buf_init(w->sending.data + done, (unsigned)(w->sending.len - done));
	w->write.data = w;
	int rc = uv_write(&w->write, &w->h.stream, &b, 1, wire_on_written);
	if (rc < 0)
		w->failed = rc;
	else
		w->is_sending = true;
	return false;
}

static void flush_plain(struct wire *w)
{
	if (w->out.len == 0)
		return;
	struct buf spare = w->sending;
	w->sending = w->out;
	w->out = spare;
	w->is_sending_secret = w->has_secret;
	w->has_secret = false;
	send_some(w);
}

static void flush_tls(struct wire *w)
{
	do {
		size_t left = w->out.len - w->out_pos;
		while (w->is_secure && left > 0 && w->sending.len < TLS_ROUND_BYTES) {
			int n = tls_write(w->tls, w->out.data + w->out_pos,
				left < TLS_ROUND_BYTES ? left : TLS_ROUND_BYTES, &w->why);
			if (n < 0)
				w->failed = UV_EPROTO;
			if (n <= 0)
				break;
			w->out_pos += (size_t)n;
			left -= (size_t)n;
			tls_take(w->tls, &w->sending);
		}
		if (left == 0 && w->out_pos) {
			empty(&w->out, &w->has_secret);
			w->out_pos = 0;
		}
		tls_take(w->tls, &w->sending);
		if (w->sending.len == 0)
			return;
	} while (send_some(w) && w->is_secure && w->out.len > w->out_pos && !w->failed);
}

void wire_flush(struct wire *w)
{
	if (w->is_closed || w->is_connecting || w->is_sending || w->failed)
		return;
	if (w->tls)
		flush_tls(w);
	else
		flush_plain(w);
	/* A write error: the peer is gone and reading ends too, after what it sent before. Where it does not, our own
	 * deadlines end it. */
}

struct buf *wire_out(struct wire *w, size_t len, bool is_secret)
{
	w->has_secret = w->has_secret || is_secret;
	if (w->has_secret)
		buf_reserve_wiping(&w->out, len);
	return &w->out;
}

/* ---- reading */

static void wire_on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *out)
{
	(void)h;
	(void)suggested;
	*out = uv_buf_init(read_buffer, READ_BYTES);
}

/* False when the handshake is not done, or failed. */
static bool go_on_securing(struct wire *w)
{
	struct err why;
	int rc = tls_handshake(w->tls, &why);
	wire_flush(w); /* also the alert that says why we refuse */
	if (rc < 0)
		wire_fail(w, &why);
	if (rc <= 0)
		return false;
	w->is_secure = true;
	w->ev->on_secure(w->arg);
	return !w->is_closed;
}

static void read_tls(struct wire *w, const char *bytes, size_t len)
{
	tls_feed(w->tls, bytes, len);
	if (!w->is_secure && !go_on_securing(w))
		return;
	struct err why;
	int n;
	while ((n = tls_read(w->tls, plain_buffer, sizeof(plain_buffer), &why)) > 0) {
		w->ev->on_bytes(w->arg, plain_buffer, (size_t)n);
		if (w->is_closed)
			return;
	}
	if (n < 0) {
		wire_fail(w, &why);
		return;
	}
	wire_flush(w); /* key updates; a write that waited for this read */
}

static void wire_on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
	struct wire *w = s->data;
	if (w->is_closed || n == 0)
		return;
	if (n < 0 && w->why.code)
		wire_fail(w, &w->why);
	else if (n < 0)
		fail_uv(w, (int)n);
	else if (w->tls)
		read_tls(w, b->base, (size_t)n);
	else
		w->ev->on_bytes(w->arg, b->base, (size_t)n);
}

/* ---- life */

static void maybe_free(struct wire *w)
{
	if (!w->is_gone || w->is_connecting)
		return;
	tls_session_free(w->tls);
	empty(&w->out, &w->has_secret);
	empty(&w->sending, &w->is_sending_secret);
	buf_fini(&w->out);
	buf_fini(&w->sending);
	mem_free(w);
}

static void wire_on_closed(uv_handle_t *h)
{
	struct wire *w = h->data;
	w->is_gone = true;
	maybe_free(w);
}

void wire_close(struct wire *w)
{
	if (!w || w->is_closed)
		return;
	if (w->tls && w->is_secure && !w->failed && !w->is_sending) {
		tls_bye(w->tls);
		tls_take(w->tls, &w->sending);
		uv_buf_t b = uv_buf_init(w->sending.data, (unsigned)w->sending.len);
		if (w->sending.len)
			uv_try_write(&w->h.stream, &b, 1);
	}
	w->is_closed = true;
	uv_close(&w->h.any, wire_on_closed);
}

static void on_connected(uv_connect_t *req, int status)
{
	struct wire *w = req->data;
	w->is_connecting = false;
	if (w->is_closed) {
		maybe_free(w);
		return;
	}
	if (status == 0 && w->is_tcp) {
		uv_tcp_nodelay(&w->h.tcp, 1);
		uv_tcp_keepalive(&w->h.tcp, 1, KEEPALIVE_S);
	}
	if (status == 0)
		status = uv_read_start(&w->h.stream, wire_on_alloc, wire_on_read);
	w->ev->on_connect(w->arg, status);
}

int wire_open(uv_loop_t *loop, const struct sockaddr *addr, const char *path, const struct wire_events *ev, void *arg,
	struct wire **out)
{
	struct wire *w = mem_alloc(sizeof(*w));
	w->ev = ev;
	w->arg = arg;
	w->is_tcp = addr != NULL;
	buf_init(&w->out);
	buf_init(&w->sending);
	int rc = w->is_tcp ? uv_tcp_init(loop, &w->h.tcp) : uv_pipe_init(loop, &w->h.pipe, 0);
	w->h.any.data = w;
	w->connect.data = w;
	w->is_connecting = true;
	if (rc == 0 && w->is_tcp)
		rc = uv_tcp_connect(&w->connect, &w->h.tcp, addr, on_connected);
	else if (rc == 0)
		uv_pipe_connect(&w->connect, &w->h.pipe, path, on_connected);
	if (rc < 0) {
		w->is_connecting = false;
		wire_close(w);
		return rc;
	}
	*out = w;
	return 0;
}

enum err_code wire_secure(struct wire *w, struct redis_tls *tls, const char *name, struct err *err)
{
	enum err_code code = tls_session_new(tls, name, &w->tls, err);
	if (code)
		return code;
	if (tls_handshake(w->tls, err) < 0)
		return err->code;
	wire_flush(w);
	return ERR_OK;
}

void wire_set_owner(struct wire *w, void *arg)
{
	w->arg = arg;
}

bool wire_peer(const struct wire *w, struct sockaddr_storage *out)
{
	int len = sizeof(*out);
	return w->is_tcp && uv_tcp_getpeername(&w->h.tcp, (struct sockaddr *)out, &len) == 0;
}
