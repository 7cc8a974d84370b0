/* The connection to sluiced. Happy path: connect, hello, welcome, frames. It fails by not being there (tried again
 * after 0.1 s, doubling to 2 s, for ever; said once per reason), by ending, or by talking something else (closed, tried
 * again). A daemon that is there but silent is not left: on one host a socket does not go half-dead, and the fence
 * needs no daemon. */
#include "client/client_p.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	BACKOFF_MIN_MS = 100,
	BACKOFF_MAX_MS = 2000,
	/* a welcome lists up to 10000 leases; an assign has the daemon's max_frame */
	LINE_MAX_BYTES = 64 * 1024 * 1024,
	OUT_MAX_BYTES = 16 * 1024 * 1024,
	READ_BYTES = 65536,
};

static void client_back_off(struct sluice_worker *w)
{
	w->conn.state = CLIENT_DOWN;
	w->conn.retry_at = w->now + w->conn.backoff;
	w->conn.backoff = mono_min(2 * w->conn.backoff, BACKOFF_MAX_MS);
}

void client_drop(struct sluice_worker *w)
{
	if (w->conn.state == CLIENT_DOWN)
		return;
	close(w->conn.fd); /* that takes it out of the epoll too */
	w->conn.fd = -1;
	w->conn.waits_to_write = false;
	w->conn.is_drained = true;
	w->conn.why_ended = 0;
	buf_clear(&w->conn.out); /* not `in`: the last event stands there */
	w->conn.backoff = mono_max(w->conn.backoff, BACKOFF_MIN_MS);
	client_back_off(w);
}

static int client_dial(struct sluice_worker *w)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	memcpy(addr.sun_path, w->hello.socket,
		strlen(w->hello.socket) + 1); /* sluice_worker_new looked at its length */
	struct epoll_event reads = {.events = EPOLLIN};
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 &&
		epoll_ctl(w->conn.epoll_fd, EPOLL_CTL_ADD, fd, &reads) == 0)
		return fd;
	int why = errno;
	close(fd);
	errno = why;
	return -1;
}

void client_connect(struct sluice_worker *w)
{
	if (w->is_over || w->conn.state != CLIENT_DOWN || w->now < w->conn.retry_at)
		return;
	w->conn.fd = client_dial(w);
	if (w->conn.fd < 0) {
		client_trouble(w,
			"cannot connect to %s: %s; trying again. Does sluiced run, and is this its workers.socket?",
			w->hello.socket, strerror(errno));
		client_back_off(w);
		return;
	}
	frame_splitter_fini(&w->conn.in);
	frame_splitter_init(&w->conn.in, LINE_MAX_BYTES);
	w->conn.state = CLIENT_GREETS;
	client_hello(w);
}

bool client_send(struct sluice_worker *w, const char *bytes, size_t len)
{
	if (w->conn.state == CLIENT_DOWN)
		return false;
	buf_add(&w->conn.out, bytes, len);
	if (w->conn.out.len <= OUT_MAX_BYTES)
		return true;
	client_trouble(w, "sluiced does not read what we tell it; connecting again");
	client_drop(w);
	return false;
}

void client_flush(struct sluice_worker *w)
{
	size_t done = 0;
	while (w->conn.state != CLIENT_DOWN && done < w->conn.out.len) {
		ssize_t n = send(w->conn.fd, w->conn.out.data + done, w->conn.out.len - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return; /* what it told before it closed is still to be read; reading finds the end */
		done += (size_t)n;
	}
	if (done)
		buf_consume(&w->conn.out, done);
	bool waits = w->conn.state != CLIENT_DOWN && w->conn.out.len > 0;
	if (waits == w->conn.waits_to_write)
		return;
	w->conn.waits_to_write = waits;
	struct epoll_event events = {.events = waits ? EPOLLIN | EPOLLOUT : EPOLLIN};
	if (w->conn.state != CLIENT_DOWN)
		epoll_ctl(w->conn.epoll_fd, EPOLL_CTL_MOD, w->conn.fd, &events);
}

void client_read(struct sluice_worker *w)
{
	char bytes[READ_BYTES];
	if (w->conn.state == CLIENT_DOWN || !w->conn.is_drained || w->conn.why_ended)
		return;
	ssize_t n = read(w->conn.fd, bytes, sizeof(bytes));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	w->conn.is_drained = false;
	if (n <= 0)
		w->conn.why_ended = n < 0 ? errno : -1;
	else
		frame_splitter_feed(&w->conn.in, bytes, (size_t)n);
}
