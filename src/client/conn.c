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
	w->state = CLIENT_DOWN;
	w->retry_at = w->now + w->backoff;
	w->backoff = mono_min(2 * w->backoff, BACKOFF_MAX_MS);
}

void client_drop(struct sluice_worker *w)
{
	if (w->state == CLIENT_DOWN)
		return;
	close(w->fd); /* that takes it out of the epoll too */
	w->fd = -1;
	w->waits_to_write = false;
	w->is_drained = true;
	w->why_ended = 0;
	buf_clear(&w->out); /* not `in`: the last event stands there */
	w->backoff = mono_max(w->backoff, BACKOFF_MIN_MS);
	client_back_off(w);
}

static int client_dial(struct sluice_worker *w)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	memcpy(addr.sun_path, w->socket, strlen(w->socket) + 1); /* sluice_worker_new looked at its length */
	struct epoll_event reads = {.events = EPOLLIN};
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 &&
		epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &reads) == 0)
		return fd;
	int why = errno;
	close(fd);
	errno = why;
	return -1;
}

void client_connect(struct sluice_worker *w)
{
	if (w->is_over || w->state != CLIENT_DOWN || w->now < w->retry_at)
		return;
	w->fd = client_dial(w);
	if (w->fd < 0) {
		if (w->said_errno != errno)
			client_note(w,
				"cannot connect to %s: %s; trying again. Does sluiced run, and is this its "
				"workers.socket?",
				w->socket, strerror(errno));
		w->said_errno = errno;
		client_back_off(w);
		return;
	}
	frame_splitter_fini(&w->in);
	frame_splitter_init(&w->in, LINE_MAX_BYTES);
	w->state = CLIENT_GREETS;
	client_hello(w);
}

bool client_send(struct sluice_worker *w, const char *bytes, size_t len)
{
	if (w->state == CLIENT_DOWN)
		return false;
	buf_add(&w->out, bytes, len);
	if (w->out.len <= OUT_MAX_BYTES)
		return true;
	client_note(w, "sluiced does not read what we tell it; connecting again");
	client_drop(w);
	return false;
}

void client_flush(struct sluice_worker *w)
{
	size_t done = 0;
	while (w->state != CLIENT_DOWN && done < w->out.len) {
		ssize_t n = send(w->fd, w->out.data + done, w->out.len - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return; /* what it told before it closed is still to be read; reading finds the end */
		done += (size_t)n;
	}
	if (done)
		buf_consume(&w->out, done);
	bool waits = w->state != CLIENT_DOWN && w->out.len > 0;
	if (waits == w->waits_to_write)
		return;
	w->waits_to_write = waits;
	struct epoll_event events = {.events = waits ? EPOLLIN | EPOLLOUT : EPOLLIN};
	if (w->state != CLIENT_DOWN)
		epoll_ctl(w->epoll_fd, EPOLL_CTL_MOD, w->fd, &events);
}

void client_read(struct sluice_worker *w)
{
	char bytes[READ_BYTES];
	if (w->state == CLIENT_DOWN || !w->is_drained || w->why_ended)
		return;
	ssize_t n = read(w->fd, bytes, sizeof(bytes));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	w->is_drained = false;
	if (n <= 0)
		w->why_ended = n < 0 ? errno : -1;
	else
		frame_splitter_feed(&w->in, bytes, (size_t)n);
}
