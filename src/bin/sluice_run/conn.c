/* The connection to sluiced. Happy path: connect, hello, welcome, frames. It fails by not being there (tried again
 * after 0.1 s, doubling to 2 s, for ever; said once per reason), by ending, or by talking something else (closed, tried
 * again). A daemon that is there but silent is not left: on one host a socket does not go half-dead, and the fence
 * needs no daemon. */
#include "bin/sluice_run/sluice_run.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	BACKOFF_MIN_MS = 100,
	BACKOFF_MAX_MS = 2000,
	LINE_MAX_BYTES =
		64 * 1024 * 1024, /* a welcome lists up to 10000 leases; an assign has the daemon's max_frame */
	OUT_MAX_BYTES = 16 * 1024 * 1024,
	READ_BYTES = 65536,
	ROUND_MS = 20, /* a burst of assigns, each a fork, must not keep the fences waiting */
};

static void back_off(struct conn *c, mono_ms now)
{
	c->state = CONN_DOWN;
	c->retry_at = now + c->backoff;
	c->backoff = mono_min(2 * c->backoff, BACKOFF_MAX_MS);
}

static void close_it(struct conn *c)
{
	if (c->fd < 0)
		return;
	close(c->fd);
	c->fd = -1;
	c->has_lines = false;
	frame_splitter_fini(&c->in);
	buf_clear(&c->out);
}

void conn_drop(struct runner *r)
{
	struct conn *c = &r->conn;
	if (c->state == CONN_DOWN)
		return;
	close_it(c);
	if (c->backoff < BACKOFF_MIN_MS)
		c->backoff = BACKOFF_MIN_MS;
	back_off(c, r->now);
}

static int conn_connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	memcpy(addr.sun_path, path, strlen(path) + 1); /* cli_parse looked at its length */
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	int why = errno;
	close(fd);
	errno = why;
	return -1;
}

void conn_turn(struct runner *r)
{
	struct conn *c = &r->conn;
	if (c->state != CONN_DOWN || r->now < c->retry_at)
		return;
	c->fd = conn_connect_to(r->opt->socket);
	if (c->fd < 0) {
		if (c->said_errno != errno)
			run_log("cannot connect to %s: %s; trying again. Is sluiced running, and is this its "
				"workers.socket? "
				"(-s, $SLUICED_WORKER)",
				r->opt->socket, strerror(errno));
		c->said_errno = errno;
		back_off(c, r->now);
		return;
	}
	frame_splitter_init(&c->in, LINE_MAX_BYTES);
	c->state = CONN_GREETS;
	frames_hello(r);
}

void conn_send(struct runner *r, const char *frame)
{
	struct conn *c = &r->conn;
	if (c->state == CONN_DOWN)
		return;
	buf_str(&c->out, frame);
	if (c->out.len > OUT_MAX_BYTES) {
		run_log("sluiced does not read what we tell it; connecting again");
		conn_drop(r);
	}
}

static void conn_ended(struct runner *r, int why)
{
	run_log("connection to sluiced lost%s%s; trying again", why ? ": " : "", why ? strerror(why) : "");
	conn_drop(r);
}

void conn_flush(struct runner *r)
{
	struct conn *c = &r->conn;
	size_t done = 0;
	while (c->state != CONN_DOWN && done < c->out.len) {
		ssize_t n = send(c->fd, c->out.data + done, c->out.len - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return; /* what it told before it closed is still to be read; reading finds the end */
		done += (size_t)n;
	}
	if (done)
		buf_consume(&c->out, done);
}

static void act_on_lines(struct runner *r)
{
	struct conn *c = &r->conn;
	enum err_code code = ERR_OK;
	char *line;
	size_t len;
	c->has_lines = false;
	while (c->state != CONN_DOWN && !r->is_over && frame_splitter_next(&c->in, &line, &len, &code)) {
		if (!frames_act(r, line, len)) {
			run_log("this is not the worker protocol: %.80s", line);
			conn_drop(r);
			return;
		}
		c->has_lines = mono_now() - r->now > ROUND_MS;
		if (c->has_lines)
			return;
	}
	if (c->state != CONN_DOWN && code) {
		run_log("a frame of sluiced is too long");
		conn_drop(r);
	}
}

void conn_readable(struct runner *r)
{
	struct conn *c = &r->conn;
	char bytes[READ_BYTES];
	if (c->has_lines) {
		act_on_lines(r);
		return;
	}
	ssize_t n = read(c->fd, bytes, sizeof(bytes));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_ended(r, n < 0 ? errno : 0);
		return;
	}
	frame_splitter_feed(&c->in, bytes, (size_t)n);
	act_on_lines(r);
}
