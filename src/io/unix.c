/* Happy path: uv_listen -> accept -> credentials and pidfd -> on_accept; bytes in go to on_data; unix_write collects,
 * and a prepare handle writes everything once per round of the loop, just before it waits. Failure: end of file or a
 * read error -> on_end, once. A write error (the peer is gone) does not end the connection at once: what the peer sent
 * before is read first; a peer that only refuses to read is ended after a second. No descriptors left: a new
 * connection is closed at once, which is said every SAY_FULL_MS at most. A connection that is closed with bytes
 * waiting stays in the background for at most a second, then it is cut. */
#include "io/unix.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/mono.h"
#include "io/unix_door.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

enum { BACKLOG = 4096, FLUSH_MS = 1000, READ_BYTES = 64 * 1024, KEEP_BYTES = 64 * 1024, SAY_FULL_MS = 10000 };

struct unix_listener {
	struct unix_door *door;
	const struct unix_events *ev;
	void *arg;
	char *path;
	unsigned n_closed; /* for want of descriptors, not said yet */
	mono_ms said_full_at;
};

struct unix_conn {
	uv_pipe_t pipe;
	uv_prepare_t prepare; /* runs the one write of this round */
	uv_timer_t timer;     /* bounds the last flush, and the wait of a peer that does not read */
	uv_write_t req;
	int n_handles;
	const struct unix_events *ev;
	void *arg, *data;
	int pidfd;
	struct buf out;     /* not given to the kernel yet */
	struct buf sending; /* owned by req */
	size_t sending_left;
	size_t n_taken; /* by the kernel, of all that was written; at least that */
	bool is_sending, is_write_dead;
	bool is_paused, was_reset;
	bool is_detached; /* the owner's pointer is dead: no callback any more */
	bool is_closing;  /* handles are closing */
};

/* libuv asks for a buffer and delivers it before it does anything else, so one a thread is enough. */
static _Thread_local char read_buffer[READ_BYTES];

/* ---- life */

static void unix_on_handle_closed(uv_handle_t *h)
{
	struct unix_conn *c = h->data;
	if (--c->n_handles > 0)
		return;
	buf_fini(&c->out);
	buf_fini(&c->sending);
	mem_free(c);
}

static void destroy(struct unix_conn *c)
{
	if (c->is_closing)
		return;
	c->is_closing = true;
	if (c->pidfd >= 0)
		close(c->pidfd);
	c->pidfd = -1;
	uv_close((uv_handle_t *)&c->pipe, unix_on_handle_closed);
	uv_close((uv_handle_t *)&c->prepare, unix_on_handle_closed);
	uv_close((uv_handle_t *)&c->timer, unix_on_handle_closed);
}

static bool has_output(const struct unix_conn *c)
{
	return !c->is_write_dead && (c->is_sending || c->out.len > 0);
}

/* Nobody owns the connection any more: goes away now, or when what was written is out. */
static void unix_detach(struct unix_conn *c, bool flush)
{
	c->is_detached = true;
	uv_read_stop((uv_stream_t *)&c->pipe);
	if (!flush || !has_output(c))
		destroy(c);
}

static void unix_end(struct unix_conn *c);

static void unix_on_timer(uv_timer_t *t)
{
	unix_end(t->data);
}

static void unix_end(struct unix_conn *c)
{
	if (c->is_detached) {
		destroy(c);
		return;
	}
	int pidfd = unix_take_pidfd(c);
	c->is_detached = true; /* on_end may not touch it any more */
	c->ev->on_end(c->arg, c, pidfd);
	c->data = NULL;
	unix_detach(c, true);
	if (!c->is_closing) /* half-closed by the peer: the answer may still be wanted */
		uv_timer_start(&c->timer, unix_on_timer, FLUSH_MS, 0);
}

/* ---- writing */

static void unix_write_some(struct unix_conn *c);

static void write_failed(struct unix_conn *c)
{
	c->is_write_dead = true;
	buf_clear(&c->out);
	if (c->is_detached)
		destroy(c);
	else
		uv_timer_start(&c->timer, unix_on_timer, FLUSH_MS, 0);
}

/* Empties b; a burst's memory is given back. */
static void unix_reset(struct buf *b)
{
	if (b->cap > KEEP_BYTES)
		buf_fini(b);
	else
		buf_clear(b);
}

static void unix_on_written(uv_write_t *req, int status)
{
	struct unix_conn *c = req->data;
	c->is_sending = false;
	c->n_taken += c->sending_left; /* of a failed one nobody knows how much */
	c->sending_left = 0;
	unix_reset(&c->sending);
	if (c->is_closing)
		return;
	if (status < 0) {
		write_failed(c);
		return;
	}
	unix_write_some(c);
	if (c->is_detached && !has_output(c))
		destroy(c);
}

/* One system call for all that was queued in this round; what the kernel does not take becomes a request. */
static void unix_write_some(struct unix_conn *c)
{
	if (c->is_sending || c->is_write_dead || c->out.len == 0)
		return;
	uv_buf_t b = uv_buf_init(c->out.data, (unsigned)c->out.len);
	int n = uv_try_write((uv_stream_t *)&c->pipe, &b, 1);
	if (n < 0 && n != UV_EAGAIN) {
		write_failed(c);
		return;
	}
	size_t done = n > 0 ? (size_t)n : 0;
	c->n_taken += done;
	if (done == c->out.len) {
		unix_reset(&c->out);
		return;
	}
	struct buf spare = c->sending;
	c->sending = c->out;
	c->out = spare;
	c->sending_left = c->sending.len - done;
	b = uv_buf_init(c->sending.data + done, (unsigned)c->sending_left);
	c->req.data = c;
	int rc = uv_write(&c->req, (uv_stream_t *)&c->pipe, &b, 1, unix_on_written);
	if (rc < 0)
		write_failed(c);
	else
		c->is_sending = true;
}

static void unix_on_prepare(uv_prepare_t *p)
{
	struct unix_conn *c = p->data;
	uv_prepare_stop(p);
	unix_write_some(c);
	if (c->is_detached && !has_output(c))
		destroy(c);
}

void unix_write(struct unix_conn *c, const char *bytes, size_t len)
{
	if (c->is_detached || len == 0)
		return;
	if (c->out.len + len >=
		KEEP_BYTES) /* a burst goes in pieces: its memory is not made and given back each time */
		unix_write_some(c);
	if (c->is_write_dead)
		return;
	buf_add(&c->out, bytes, len);
	uv_prepare_start(&c->prepare, unix_on_prepare);
}

/* Of what libuv has to send. */
static size_t unix_queued(const struct unix_conn *c)
{
	return c->is_sending ? uv_stream_get_write_queue_size((const uv_stream_t *)&c->pipe) : 0;
}

size_t unix_write_pending(const struct unix_conn *c)
{
	return c->out.len + unix_queued(c);
}

size_t unix_may_be_read(const struct unix_conn *c)
{
	size_t n = c->n_taken + (c->sending_left - unix_queued(c));
	return n > 0 && c->was_reset ? n - 1 : n;
}

void unix_unwritten(const struct unix_conn *c, struct buf *out)
{
	if (c->is_write_dead)
		return;
	size_t left = unix_queued(c);
	if (left)
		buf_add(out, c->sending.data + c->sending.len - left, left);
	if (c->out.len)
		buf_add(out, c->out.data, c->out.len);
}

void unix_close(struct unix_conn *c, bool flush)
{
	if (c->is_detached)
		return;
	unix_detach(c, flush);
	if (!c->is_closing)
		uv_timer_start(&c->timer, unix_on_timer, FLUSH_MS, 0);
}

/* ---- reading */

static void unix_on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *out)
{
	(void)suggested;
	(void)h;
	*out = uv_buf_init(read_buffer, READ_BYTES);
}

/* libuv tells the end as soon as the last data is read, before the socket's error is. */
static bool left_unread(const struct unix_conn *c)
{
	int error = 0;
	socklen_t len = sizeof(error);
	return getsockopt(unix_conn_fd(c), SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == ECONNRESET;
}

static void unix_on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
	struct unix_conn *c = s->data;
	if (c->is_detached)
		return;
	if (n > 0) {
		c->ev->on_data(c->arg, c, b->base, (size_t)n);
	} else if (n < 0) {
		c->was_reset = n == UV_ECONNRESET || left_unread(c);
		unix_end(c);
	}
}

int unix_take_pidfd(struct unix_conn *c)
{
	int pidfd = c->pidfd;
	c->pidfd = -1;
	return pidfd;
}

void unix_pause(struct unix_conn *c, bool paused)
{
	if (c->is_detached || c->is_paused == paused)
		return;
	c->is_paused = paused;
	if (paused)
		uv_read_stop((uv_stream_t *)&c->pipe);
	else
		uv_read_start((uv_stream_t *)&c->pipe, unix_on_alloc, unix_on_read);
}

/* ---- new connections */

static struct unix_conn *conn_new(uv_loop_t *loop, const struct unix_events *ev, void *arg)
{
	struct unix_conn *c = mem_alloc(sizeof(*c));
	c->ev = ev;
	c->arg = arg;
	c->pidfd = -1;
	buf_init(&c->out);
	buf_init(&c->sending);
	/* These three cannot fail: they only fill the structure. */
	uv_pipe_init(loop, &c->pipe, 0);
	uv_prepare_init(loop, &c->prepare);
	uv_timer_init(loop, &c->timer);
	c->n_handles = 3;
	c->pipe.data = c->prepare.data = c->timer.data = c;
	return c;
}

static void identify(struct unix_conn *c, struct unix_peer *peer)
{
	int fd = unix_conn_fd(c);
	struct ucred cred = {.pid = 0, .uid = (uid_t)-1, .gid = (gid_t)-1};
	socklen_t len = sizeof(cred);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		cred = (struct ucred){.pid = 0, .uid = (uid_t)-1, .gid = (gid_t)-1};
	*peer = (struct unix_peer){.pid = cred.pid, .uid = cred.uid, .gid = cred.gid};
	int pidfd = -1;
	len = sizeof(pidfd);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) == 0 && pidfd >= 0) {
		fcntl(pidfd, F_SETFD, FD_CLOEXEC);
		c->pidfd = pidfd;
		return;
	}
	peer->is_unwatchable = errno == ENOPROTOOPT && cred.pid == 0;
	if (cred.pid > 0) { /* before Linux 6.5; a peer that has already ended gives -1 */
		c->pidfd = (int)syscall(SYS_pidfd_open, cred.pid, 0);
	}
}

/* The lowest free descriptor is the next one, so its number tells how many are in use. */
static bool is_one_too_many(struct unix_listener *l, int fd)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || (rlim_t)fd + (rlim_t)l->ev->spare_fds < limit.rlim_cur)
		return false;
	mono_ms now = mono_now();
	l->n_closed++;
	if (!l->said_full_at || now - l->said_full_at >= SAY_FULL_MS) {
		log_line(LOG_ERROR, "socket=%s no descriptors left for new connections: closed n=%u limit=%llu",
			l->path, l->n_closed, (unsigned long long)limit.rlim_cur);
		l->said_full_at = now;
		l->n_closed = 0;
	}
	return true;
}

static void unix_on_connection(uv_stream_t *server, int status)
{
	struct unix_listener *l = server->data;
	if (status < 0)
		return;
	struct unix_conn *c = conn_new(server->loop, l->ev, l->arg);
	if (uv_accept(server, (uv_stream_t *)&c->pipe) < 0 || is_one_too_many(l, unix_conn_fd(c))) {
		unix_detach(c, false);
		return;
	}
	struct unix_peer peer;
	identify(c, &peer);
	int rc = uv_read_start((uv_stream_t *)&c->pipe, unix_on_alloc, unix_on_read);
	if (rc < 0) {
		unix_detach(c, false);
		return;
	}
	c->ev->on_accept(c->arg, c, &peer);
}

enum err_code unix_adopt(
	uv_loop_t *loop, int fd, const struct unix_events *ev, void *arg, struct unix_conn **out, struct err *err)
{
	int domain = 0;
	socklen_t len = sizeof(domain);
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX)
		return err_set(err, ERR_INVALID, "descriptor %d is not a unix socket", fd);
	struct unix_conn *c = conn_new(loop, ev, arg);
	int rc = uv_pipe_open(&c->pipe, fd);
	if (rc == 0) {
		struct unix_peer peer;
		fcntl(fd, F_SETFD, FD_CLOEXEC);
		identify(c, &peer);
		rc = uv_read_start((uv_stream_t *)&c->pipe, unix_on_alloc, unix_on_read);
	}
	if (rc < 0) {
		unix_detach(c, false);
		return err_set(err, ERR_INVALID, "descriptor %d cannot be adopted: %s", fd, uv_strerror(rc));
	}
	*out = c;
	return ERR_OK;
}

/* ---- listening */

enum err_code unix_listen(uv_loop_t *loop, const char *path, int fd, mode_t mode, const char *group,
	const struct unix_events *ev, void *arg, struct unix_listener **out, struct err *err)
{
	struct unix_listener *l = mem_alloc(sizeof(*l));
	l->ev = ev;
	l->arg = arg;
	l->path = mem_dup(path, strlen(path));
	const struct unix_door_at at = {.path = path,
		.fd = fd,
		.mode = mode,
		.group = group ? group : "",
		.backlog = BACKLOG,
		.on_connection = unix_on_connection,
		.data = l};
	enum err_code code = unix_door_open(loop, &at, &l->door, err);
	if (code) {
		unix_unlisten(l, true);
		return code;
	}
	*out = l;
	return ERR_OK;
}

void unix_unlisten(struct unix_listener *l, bool unlink_path)
{
	if (!l)
		return;
	unix_door_close(l->door, unlink_path);
	mem_free(l->path);
	mem_free(l);
}

void unix_set_data(struct unix_conn *c, void *data)
{
	c->data = data;
}

void *unix_data(const struct unix_conn *c)
{
	return c->data;
}

int unix_conn_fd(const struct unix_conn *c)
{
	uv_os_fd_t fd = -1;
	uv_fileno((const uv_handle_t *)&c->pipe, &fd);
	return fd;
}
