/* The socket. Happy path: connect, one request line, rows, the final line.
 * Fails with one sentence: no such socket, nobody listens, not permitted, silence, an answer cut short or in no form we
 * know. */
#include "bin/sluicectl/sluicectl.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mono.h"

enum { LINE_MAX_BYTES = 256 * 1024 * 1024 };

/* connect() refuses a file or a directory in the same words as a socket that nobody has. */
static bool is_other_file(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && !S_ISSOCK(st.st_mode);
}

static int say_connect_error(const char *path, int e, struct err *err)
{
	if (e == ECONNREFUSED && is_other_file(path)) {
		err_set(err, ERR_IO, "%s: is not a socket (--socket, $SLUICED_CONTROL)", path);
	} else if (e == ENOENT) {
		err_set(err, ERR_NOT_FOUND,
			"no socket at %s: is sluiced running, and is this its control.socket? (--socket, "
			"$SLUICED_CONTROL)",
			path);
	} else if (e == ECONNREFUSED) {
		err_set(err, ERR_IO, "%s: connection refused: nobody listens there, sluiced is not running", path);
	} else if (e == EACCES || e == EPERM) {
		err_set(err, ERR_DENIED, "%s: permission denied: control.mode and control.group say who may connect",
			path);
		return EXIT_DENIED;
	} else if (e == EAGAIN || e == ETIMEDOUT) {
		err_set(err, ERR_TIMEOUT, "%s: timeout: sluiced does not accept connections", path);
	} else {
		err_set(err, ERR_IO, "%s: %s", path, strerror(e));
	}
	return EXIT_UNREACHABLE;
}

/* Returns 0 and the descriptor, or an exit code. */
static int ctl_conn_dial(const struct ctl_options *o, int *out, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	if (strlen(o->socket) >= sizeof(addr.sun_path)) {
		err_set(err, ERR_RANGE, "%s: a socket path has at most %zu bytes", o->socket,
			sizeof(addr.sun_path) - 1);
		return EXIT_USAGE;
	}
	memcpy(addr.sun_path, o->socket, strlen(o->socket));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return say_connect_error(o->socket, errno, err);
	int64_t ms = o->timeout_ms < 0 ? 5000 : o->timeout_ms;
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)); /* connect() and send() keep it */
	int rc;
	do
		rc = connect(fd, (struct sockaddr *)&addr, sizeof(addr));
	while (rc < 0 && errno == EINTR);
	if (rc < 0) {
		int code = say_connect_error(o->socket, errno, err);
		close(fd);
		return code;
	}
	*out = fd;
	return 0;
}

static int send_all(int fd, const struct buf *b, const struct ctl_options *o, struct err *err)
{
	for (size_t at = 0; at < b->len;) {
		ssize_t n = send(fd, b->data + at, b->len - at, MSG_NOSIGNAL);
		if (n >= 0)
			at += (size_t)n;
		else if (errno == EPIPE || errno == ECONNRESET)
			return 0; /* it may have said why before it closed */
		else if (errno != EINTR)
			return say_connect_error(o->socket, errno, err);
	}
	return 0;
}

/* Behind a silence that need not be the daemon's. */
static const char *maybe_redis(enum ctl_verb verb)
{
	static const char looks[] = ": it may be waiting for Redis, sluicectl status tells";
	static const char writes[] =
		": it may be waiting for Redis, sluicectl status tells; what was asked may be done all the same";
	static const char *const words[CTL_VERB_N] = {[CTL_VERB_LS] = looks,
		[CTL_VERB_SHOW] = looks,
		[CTL_VERB_EXPLAIN] = looks,
		[CTL_VERB_TOPOLOGY_REFRESH] = looks,
		[CTL_VERB_DLQ_LS] = looks,
		[CTL_VERB_DLQ_SHOW] = looks,
		[CTL_VERB_ENTRIES_DLQ_LS] = looks,
		[CTL_VERB_ENTRIES_DLQ_SHOW] = looks,
		[CTL_VERB_FLEET] = looks,
		[CTL_VERB_DELAYED_LS] = looks,
		[CTL_VERB_DOCTOR] = looks,
		[CTL_VERB_ADD] = writes,
		[CTL_VERB_DLQ_REPLAY] = writes,
		[CTL_VERB_DLQ_PURGE] = writes,
		[CTL_VERB_ENTRIES_DLQ_REPLAY] = writes,
		[CTL_VERB_ENTRIES_DLQ_PURGE] = writes,
		[CTL_VERB_DELAYED_NOW] = writes,
		[CTL_VERB_DELAYED_DROP] = writes};
	return words[verb] ? words[verb] : "";
}

static int say_silence(const struct ctl_options *o, struct err *err)
{
	struct buf age;
	buf_init(&age);
	cell_age(&age, o->timeout_ms);
	err_set(err, ERR_TIMEOUT, "timeout: sluiced said nothing for %s (--timeout)", age.data);
	buf_fini(&age);
	return EXIT_UNREACHABLE;
}

/* Waits for bytes and appends them. 0 = got some; < 0 = stop quietly, nobody reads our output; else an exit code. */
static int receive(
	int fd, const struct ctl_options *o, bool watch_stdout, mono_ms deadline, struct buf *in, struct err *err)
{
	char bytes[16384];
	struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = watch_stdout ? STDOUT_FILENO : -1}};
	mono_ms left = deadline == MONO_NEVER ? -1 : mono_max(deadline - mono_now(), 0);
	int n = poll(fds, 2, left > 1000000 ? 1000000 : (int)left);
	if (n < 0 && errno == EINTR)
		return o->stop && *o->stop ? -1 : 0;
	if (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL))
		return -1;
	if (n == 0)
		return mono_now() >= deadline ? say_silence(o, err) : 0;
	ssize_t got = recv(fd, bytes, sizeof(bytes), 0);
	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (got <= 0) {
		err_set(err, ERR_IO, "sluiced closed the connection before its answer was complete");
		return EXIT_UNREACHABLE;
	}
	if (in->len + (size_t)got > LINE_MAX_BYTES) {
		err_set(err, ERR_PROTO, "%s: the answer is too long to come from sluiced", o->socket);
		return EXIT_UNREACHABLE;
	}
	buf_add(in, bytes, (size_t)got);
	return 0;
}

/* One line of the reply. True: that was the last one, *code is the exit code. */
static bool ctl_conn_take_line(
	const struct ctl_options *o, const char *line, size_t len, row_fn *fn, void *arg, int *code, struct err *err)
{
	bool is_last = false;
	yyjson_doc *doc = /* without the in-situ flag the bytes are only read */
		yyjson_read_opts((char *)(uintptr_t)line, len, YYJSON_READ_BIGNUM_AS_RAW, &json_alc, NULL);
	yyjson_val *root = yyjson_doc_get_root(doc);
	if (!yyjson_is_obj(root)) {
		err_set(err, ERR_PROTO, "%s: the answer is not sluiced's control protocol", o->socket);
		*code = EXIT_UNREACHABLE;
		is_last = true;
	} else if (yyjson_equals_str(yyjson_obj_get(root, "t"), "err")) {
		err_set(err, ERR_PROTO,
			"%s: a worker socket answers, which is workers.socket; sluicectl needs control.socket "
			"(--socket, $SLUICED_CONTROL)",
			o->socket);
		*code = EXIT_UNREACHABLE;
		is_last = true;
	} else if (yyjson_is_true(yyjson_obj_get(root, "end"))) {
		const char *error = yyjson_get_str(yyjson_obj_get(root, "error"));
		*code = yyjson_get_int(yyjson_obj_get(root, "exit"));
		if (error)
			err_set(err, ERR_INVALID, "%s", error);
		is_last = true;
	} else if (!fn(arg, root, line, len)) {
		*code = 0;
		is_last = true;
	}
	yyjson_doc_free(doc);
	return is_last;
}

static mono_ms silence_ends(const struct ctl_options *o)
{
	return o->timeout_ms < 0 ? MONO_NEVER : mono_now() + o->timeout_ms;
}

static int read_reply(int fd, const struct ctl_options *o, bool watch_stdout, row_fn *fn, void *arg, struct err *err)
{
	struct buf in;
	size_t scanned = 0;
	int code = 0;
	mono_ms deadline = silence_ends(o);
	buf_init(&in);
	for (;;) {
		char *lf = in.len > scanned ? memchr(in.data + scanned, '\n', in.len - scanned) : NULL;
		if (lf) {
			size_t len = (size_t)(lf - in.data);
			bool is_last = ctl_conn_take_line(o, in.data, len, fn, arg, &code, err);
			buf_consume(&in, len + 1);
			scanned = 0;
			if (is_last)
				break;
			deadline = silence_ends(o);
			continue;
		}
		scanned = in.len;
		code = receive(fd, o, watch_stdout, deadline, &in, err);
		if (code != 0)
			break;
	}
	buf_fini(&in);
	return code < 0 ? 0 : code;
}

int conn_ask(const struct ctl_options *o, const struct ctl_request *r, bool watch_stdout, row_fn *fn, void *arg,
	struct err *err)
{
	struct buf line;
	struct err why = {0};
	int fd = -1, code = 0;
	buf_init(&line);
	if (ctl_encode(&line, r, err) != ERR_OK)
		code = EXIT_USAGE;
	if (code == 0)
		code = ctl_conn_dial(o, &fd, err);
	if (code == 0)
		code = send_all(fd, &line, o, err);
	if (code == 0)
		code = read_reply(fd, o, watch_stdout, fn, arg, &why);
	if (why.code)
		err_set(err, why.code, "%s%s", why.text, why.code == ERR_TIMEOUT ? maybe_redis(r->verb) : "");
	if (fd >= 0)
		close(fd);
	buf_fini(&line);
	return code;
}
