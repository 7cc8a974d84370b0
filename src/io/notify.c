/* Happy path: one datagram to $NOTIFY_SOCKET per call. Failure: the manager is busy and its queue is full (every unit
 * of the system shares it), or nobody listens: what was to be said is kept, the last of each kind in the order it was
 * said, and said again with the next call or notify_again. A watchdog's sign of life is worth nothing later: dropped.
 * Nothing blocks. */
#include "io/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_FD = 3, STORE_WAIT_MS = 200, STORE_MAX_UNSAID = 4096 };

/* False when there is no manager or its address makes no sense. */
static bool address(struct sockaddr_un *out, socklen_t *len)
{
	const char *path = getenv("NOTIFY_SOCKET");
	if (!path || (path[0] != '@' && path[0] != '/') || !path[1])
		return false;
	size_t n = strlen(path);
	if (n > sizeof(out->sun_path) - (path[0] == '/'))
		return false;
	memset(out, 0, sizeof(*out));
	out->sun_family = AF_UNIX;
	memcpy(out->sun_path, path, n);
	if (path[0] == '@')
		out->sun_path[0] = '\0';
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] == '/'));
	return true;
}

/* Waits for room when wait_ms > 0. Returns whether it was sent. */
static bool notify_transmit(const char *state, int fd, mono_ms wait_ms)
{
	struct sockaddr_un to;
	socklen_t to_len;
	if (!address(&to, &to_len))
		return false;
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		return false;
	struct timeval wait = {.tv_sec = wait_ms / 1000, .tv_usec = wait_ms % 1000 * 1000};
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)(size_t)state, .iov_len = strlen(state)};
	struct msghdr msg = {.msg_name = &to, .msg_namelen = to_len, .msg_iov = &iov, .msg_iovlen = 1};
	if (fd >= 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	ssize_t n;
	do
		n = sendmsg(s, &msg, MSG_NOSIGNAL | (wait_ms > 0 ? 0 : MSG_DONTWAIT));
	while (n < 0 && errno == EINTR);
	close(s);
	return n >= 0;
}

/* ---- what could not be sent */

enum { UNSENT_MAX = 6, UNSENT_BYTES = 600 };

static char unsent[UNSENT_MAX][UNSENT_BYTES]; /* in the order it was said */
static size_t n_unsent;

static void forget_unsent(size_t i)
{
	memmove(unsent[i], unsent[i + 1], (--n_unsent - i) * sizeof(unsent[0]));
}

/* Both begin with the same word before the '='. */
static bool is_of_kind(const char *a, const char *b)
{
	size_t n = strcspn(a, "=");
	return strncmp(a, b, n + 1) == 0;
}

static void keep_unsent(const char *state)
{
	for (size_t i = 0; i < n_unsent; i++)
		if (is_of_kind(unsent[i], state)) {
			forget_unsent(i);
			break;
		}
	if (n_unsent == UNSENT_MAX)
		forget_unsent(0);
	snprintf(unsent[n_unsent++], sizeof(unsent[0]), "%s", state);
}

void notify_again(void)
{
	while (n_unsent && notify_transmit(unsent[0], -1, 0))
		forget_unsent(0);
}

bool notify_is_on(void)
{
	struct sockaddr_un to;
	socklen_t len;
	return address(&to, &len);
}

void notify_send(const char *state)
{
	bool is_sign_of_life = strcmp(state, "WATCHDOG=1") == 0;
	notify_again();
	bool is_sent = (is_sign_of_life || n_unsent == 0) && notify_transmit(state, -1, 0);
	if (!is_sent && !is_sign_of_life && notify_is_on())
		keep_unsent(state);
}

void notify_status(const char *fmt, ...)
{
	char text[512] = "STATUS=";
	size_t head = strlen(text);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text + head, sizeof(text) - head, fmt, ap);
	va_end(ap);
	for (char *p = text; *p; p++)
		if (*p == '\n') /* a newline would start another assignment */
			*p = ' ';
	notify_send(text);
}

/* A number from the environment, or -1. */
static long long env_number(const char *name)
{
	const char *text = getenv(name);
	if (!text || *text < '0' || *text > '9')
		return -1;
	char *end;
	errno = 0;
	long long v = strtoll(text, &end, 10);
	return *end || errno ? -1 : v;
}

mono_ms notify_watchdog_ms(void)
{
	if (getenv("WATCHDOG_PID") && env_number("WATCHDOG_PID") != getpid())
		return 0;
	long long usec = env_number("WATCHDOG_USEC");
	if (usec <= 0)
		return 0;
	return mono_max(usec / 2000, 1);
}

size_t notify_store_max(void)
{
	if (!notify_is_on())
		return 0;
	long long n = env_number("FDSTORE"); /* not said before systemd 254 */
	return n < 0 ? STORE_MAX_UNSAID : (size_t)n;
}

bool notify_store(const char *name, int fd)
{
	char text[256];
	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s", name);
	return notify_transmit(text, fd, STORE_WAIT_MS);
}

bool notify_unstore(const char *name)
{
	char text[256];
	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
	return notify_transmit(text, -1, STORE_WAIT_MS);
}

/* The manager closes the descriptor it gets when it comes to it. */
bool notify_barrier(mono_ms wait_ms)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) != 0)
		return false;
	bool ok = notify_transmit("BARRIER=1", ends[1], STORE_WAIT_MS);
	close(ends[1]);
	struct pollfd p = {.fd = ends[0], .events = 0};
	mono_ms end = mono_now() + wait_ms;
	for (mono_ms left = wait_ms; ok && left > 0; left = end - mono_now()) {
		int n = poll(&p, 1, (int)left);
		if (n > 0)
			break;
		ok = n < 0 && errno == EINTR;
	}
	close(ends[0]);
	return ok && p.revents;
}

size_t notify_take_fds(struct notify_fd *out, size_t cap)
{
	long long n = env_number("LISTEN_PID") == getpid() ? env_number("LISTEN_FDS") : 0;
	const char *names = getenv("LISTEN_FDNAMES");
	size_t count = 0;
	for (long long i = 0; i < n; i++) {
		int fd = FIRST_FD + (int)i;
		size_t len = names ? strcspn(names, ":") : 0;
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && count < cap) {
			out[count].fd = fd;
			snprintf(out[count].name, sizeof(out[count].name), "%.*s", (int)len, names ? names : "");
			count++;
		}
		if (names)
			names = names[len] ? names + len + 1 : NULL;
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return count;
}
