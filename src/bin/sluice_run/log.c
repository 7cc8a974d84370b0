/* What we and our commands write to stderr. Happy path: written at once. A reader that is slow makes us keep up to
 * SAY_MAX_BYTES (and the loop leaves the commands' stderr unread over SAY_BUSY_BYTES, so they wait, not we). */
#include "bin/sluice_run/sluice_run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/utf8.h"

static struct {
	int fd;
	bool is_socket, is_own; /* own: our own open file description, so O_NONBLOCK is nobody else's business */
	struct buf pending;
} out = {.fd = STDERR_FILENO};

void say_open(void)
{
	struct stat st;
	buf_init(&out.pending);
	if (fstat(STDERR_FILENO, &st) != 0)
		return;
	out.is_socket = S_ISSOCK(st.st_mode);
	if (!S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode))
		return;
	int fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd >= 0) {
		out.fd = fd;
		out.is_own = true;
	}
}

static ssize_t run_log_write_some(const char *bytes, size_t len)
{
	if (out.is_socket)
		return send(out.fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (!out.is_own) {
		/* Shared with others: ask first, and write no more than a pipe with room takes. */
		struct pollfd p = {.fd = out.fd, .events = POLLOUT};
		if (poll(&p, 1, 0) != 1) {
			errno = EAGAIN;
			return -1;
		}
		len = len < 4096 ? len : 4096;
	}
	return write(out.fd, bytes, len);
}

void say_flush(void)
{
	size_t done = 0;
	while (done < out.pending.len) {
		ssize_t n = run_log_write_some(out.pending.data + done, out.pending.len - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			done = out.pending.len; /* nobody reads it any more */
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	buf_consume(&out.pending, done);
}

void say_bytes(const char *bytes, size_t len)
{
	if (out.pending.len + len <= SAY_MAX_BYTES)
		buf_add(&out.pending, bytes, len);
	say_flush();
}

void run_log(const char *fmt, ...)
{
	char line[1024] = "sluice-run: ";
	size_t at = strlen(line);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line + at, sizeof(line) - at - 1, fmt, ap);
	va_end(ap);
	at = 0;
	for (const char *p = line; *p;) {
		size_t n = utf8_control(p);
		line[at++] = n ? ' ' : *p;
		p += n ? n : 1;
	}
	line[at++] = '\n';
	say_bytes(line, at);
}

int say_fd(void)
{
	return out.fd;
}

size_t say_pending(void)
{
	return out.pending.len;
}

void say_close(void)
{
	mono_ms end = mono_now() + 1000;
	for (mono_ms now; out.pending.len && (now = mono_now()) < end; say_flush()) {
		struct pollfd p = {.fd = out.fd, .events = POLLOUT};
		if (poll(&p, 1, (int)(end - now)) < 0 && errno != EINTR)
			break;
	}
	buf_fini(&out.pending);
}
