/* Happy path: accept -> read until the blank line -> http_fn -> one response -> close.
 * Failure: too many connections: the oldest that is not served goes. A request over 8 KiB, 5 s gone or anything but GET
 * and HEAD: an error status where one can still be sent, then close. Nothing here can hold up the loop: every
 * connection has one timer and ends by it. Why not libmicrohttpd: it brings threads, gnutls and a timer of its own
 * for a hundred lines. */
#include "io/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/list.h"
#include "base/mem.h"
#include "io/unix_door.h"

enum { MAX_CONNS = 64, MAX_REQUEST = 8192, CONN_MS = 5000, BACKLOG = 64, DEFAULT_MODE = 0660 };

union stream {
	uv_stream_t s;
	uv_tcp_t tcp;
	uv_pipe_t pipe;
};

struct http {
	uv_tcp_t listener;
	bool is_unix;
	struct unix_door *door; /* is_unix: in listener's place */
	http_fn *fn;
	void *arg;
	struct link conns;
	size_t n_conns;
	bool is_closed;
	int n_refs; /* the listener and each connection */
};

struct http_conn {
	struct link link;
	struct http *h;
	union stream stream;
	uv_timer_t timer;
	uv_write_t req;
	int n_handles;
	struct buf in, out;
	bool is_answered, is_closing;
};

static _Thread_local char read_buffer[MAX_REQUEST];

static void http_unref(struct http *h)
{
	if (--h->n_refs > 0)
		return;
	mem_free(h);
}

static void on_conn_closed(uv_handle_t *handle)
{
	struct http_conn *c = handle->data;
	if (--c->n_handles > 0)
		return;
	buf_fini(&c->in);
	buf_fini(&c->out);
	http_unref(c->h);
	mem_free(c);
}

static void conn_close(struct http_conn *c)
{
	if (c->is_closing)
		return;
	c->is_closing = true;
	list_remove(&c->link);
	c->h->n_conns--;
	uv_close((uv_handle_t *)&c->stream, on_conn_closed);
	uv_close((uv_handle_t *)&c->timer, on_conn_closed);
}

static void http_on_timer(uv_timer_t *t)
{
	conn_close(t->data);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
	(void)status;
	mem_free(req);
}

static void http_on_written(uv_write_t *req, int status)
{
	struct http_conn *c = req->data;
	if (status < 0) {
		conn_close(c);
		return;
	}
	if (c->is_closing)
		return;
	/* The client sees the end of the response and closes; a close by us with unread bytes would reset and could cut
	 * it. */
	uv_shutdown_t *bye = mem_alloc(sizeof(*bye));
	if (uv_shutdown(bye, &c->stream.s, on_shutdown) < 0) {
		mem_free(bye);
		conn_close(c);
	}
}

static const char *reason_of(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 431:
		return "Request Header Fields Too Large";
	case 503:
		return "Service Unavailable";
	default:
		return "Error";
	}
}

static void respond(struct http_conn *c, int status, const char *type, const struct buf *body, bool head_only)
{
	c->is_answered = true;
	buf_printf(&c->out, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n%s\r\n",
		status, reason_of(status), type, body->len, status == 405 ? "Allow: GET, HEAD\r\n" : "");
	if (!head_only && body->len)
		buf_add(&c->out, body->data, body->len);
	c->req.data = c;
	uv_buf_t b = uv_buf_init(c->out.data, (unsigned)c->out.len);
	if (uv_write(&c->req, &c->stream.s, &b, 1, http_on_written) < 0)
		conn_close(c);
}

static void http_refuse(struct http_conn *c, int status)
{
	struct buf body;
	buf_init(&body);
	buf_printf(&body, "%s\n", reason_of(status));
	respond(c, status, "text/plain; charset=utf-8", &body, false);
	buf_fini(&body);
}

/* c->in holds a whole request head, NUL-terminated. */
static void http_answer(struct http_conn *c)
{
	char *line_end = strpbrk(c->in.data, "\r\n");
	*line_end = '\0';
	char *method = c->in.data;
	char *path = strchr(method, ' ');
	char *version = path ? strchr(path + 1, ' ') : NULL;
	if (!path || !version || path[1] != '/' || strncmp(version + 1, "HTTP/1.", 7) != 0) {
		http_refuse(c, 400);
		return;
	}
	*path++ = '\0';
	*version = '\0';
	path[strcspn(path, "?#")] = '\0';
	bool is_head = strcmp(method, "HEAD") == 0;
	if (!is_head && strcmp(method, "GET") != 0) {
		http_refuse(c, 405);
		return;
	}
	struct buf body;
	buf_init(&body);
	const char *type = "text/plain; charset=utf-8";
	int status = c->h->fn(c->h->arg, path, &body, &type);
	respond(c, status, type, &body, is_head);
	buf_fini(&body);
}

static bool is_head_complete(const struct buf *in)
{
	return strstr(in->data, "\r\n\r\n") || strstr(in->data, "\n\n");
}

static void http_on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *out)
{
	(void)h;
	(void)suggested;
	*out = uv_buf_init(read_buffer, sizeof(read_buffer));
}

static void http_on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
	struct http_conn *c = s->data;
	if (n < 0) {
		/* A client may close its sending half and still wait for the response. */
		if (!c->is_answered || uv_stream_get_write_queue_size(s) == 0)
			conn_close(c);
		return;
	}
	if (c->is_answered || n == 0)
		return; /* read and dropped until the client closes */
	buf_add(&c->in, b->base, (size_t)n);
	if (memchr(b->base, '\0', (size_t)n))
		http_refuse(c, 400);
	else if (c->in.len > MAX_REQUEST)
		http_refuse(c, 431);
	else if (is_head_complete(&c->in))
		http_answer(c);
}

/* Who has waited longest without being served goes, so that slow clients do not keep a probe out. */
static void http_make_room(struct http *h)
{
	struct http_conn *oldest = LIST_OF(struct http_conn, link, h->conns.next);
	for (struct link *l = h->conns.next; l != &h->conns; l = l->next) {
		struct http_conn *c = LIST_OF(struct http_conn, link, l);
		if (c->is_answered)
			continue;
		oldest = c;
		break;
	}
	conn_close(oldest);
}

static void http_on_connection(uv_stream_t *server, int status)
{
	struct http *h = server->data;
	if (status < 0)
		return;
	if (h->n_conns == MAX_CONNS)
		http_make_room(h);
	struct http_conn *c = mem_alloc(sizeof(*c));
	c->h = h;
	h->n_refs++;
	h->n_conns++;
	list_push(&h->conns, &c->link);
	buf_init(&c->in);
	buf_init(&c->out);
	if (h->is_unix)
		uv_pipe_init(server->loop, &c->stream.pipe, 0);
	else
		uv_tcp_init(server->loop, &c->stream.tcp);
	uv_timer_init(server->loop, &c->timer);
	c->n_handles = 2;
	c->stream.s.data = c->timer.data = c;
	if (uv_accept(server, &c->stream.s) < 0 || uv_timer_start(&c->timer, http_on_timer, CONN_MS, 0) < 0 ||
		uv_read_start(&c->stream.s, http_on_alloc, http_on_read) < 0)
		conn_close(c);
}

/* ---- listening */

static enum err_code parse_inet(const char *text, struct sockaddr_storage *out, struct err *err)
{
	char host[64] = "";
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;
	bool is_v6 = len > 2 && text[0] == '[' && text[len - 1] == ']';
	size_t skip = is_v6 ? 1 : 0;
	char *end = NULL;
	long port = colon && colon[1] >= '0' && colon[1] <= '9' ? strtol(colon + 1, &end, 10) : -1;
	if (len <= 2 * skip || len - 2 * skip >= sizeof(host) || port < 1 || port > 65535 || *end)
		return err_set(err, ERR_INVALID, "%s: expected ADDRESS:PORT, [V6]:PORT or unix:/PATH", text);
	memcpy(host, text + skip, len - 2 * skip);
	if (strcmp(host, "localhost") == 0)
		strcpy(host, "127.0.0.1");
	int rc = is_v6 ? uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)out)
		       : uv_ip4_addr(host, (int)port, (struct sockaddr_in *)out);
	if (rc < 0)
		return err_set(err, ERR_INVALID, "%s: %s is not a numeric address", text, host);
	return ERR_OK;
}

static enum err_code open_inet(uv_loop_t *loop, struct http *h, const char *listen_at, struct err *err)
{
	struct sockaddr_storage addr = {0};
	enum err_code code = parse_inet(listen_at, &addr, err);
	uv_tcp_init(loop, &h->listener);
	if (code)
		return code;
	int rc = uv_tcp_bind(&h->listener, (struct sockaddr *)&addr, 0);
	if (rc == 0)
		rc = uv_listen((uv_stream_t *)&h->listener, BACKLOG, http_on_connection);
	if (rc < 0) {
		code = rc == UV_EADDRINUSE ? ERR_BUSY : rc == UV_EACCES ? ERR_DENIED : ERR_IO;
		return err_set(err, code, "%s: cannot listen: %s", listen_at, uv_strerror(rc));
	}
	return ERR_OK;
}

static enum err_code open_unix(uv_loop_t *loop, struct http *h, const char *path, struct err *err)
{
	const struct unix_door_at at = {.path = path,
		.fd = -1,
		.mode = DEFAULT_MODE,
		.group = "",
		.backlog = BACKLOG,
		.on_connection = http_on_connection,
		.data = h};
	return unix_door_open(loop, &at, &h->door, err);
}

enum err_code http_open(
	uv_loop_t *loop, const char *listen_at, http_fn *fn, void *arg, struct http **out, struct err *err)
{
	struct http *h = mem_alloc(sizeof(*h));
	h->fn = fn;
	h->arg = arg;
	h->n_refs = 1;
	h->is_unix = strncmp(listen_at, "unix:", 5) == 0;
	list_init(&h->conns);
	enum err_code code = h->is_unix ? open_unix(loop, h, listen_at + 5, err) : open_inet(loop, h, listen_at, err);
	h->listener.data = h;
	if (code) {
		http_close(h);
		return code;
	}
	*out = h;
	return ERR_OK;
}

static void http_on_listener_closed(uv_handle_t *handle)
{
	http_unref(handle->data);
}

void http_close(struct http *h)
{
	if (!h || h->is_closed)
		return;
	h->is_closed = true;
	while (!list_empty(&h->conns))
		conn_close(LIST_OF(struct http_conn, link, h->conns.next));
	unix_door_close(h->door, true);
	if (h->is_unix)
		http_unref(h);
	else
		uv_close((uv_handle_t *)&h->listener, http_on_listener_closed);
}
