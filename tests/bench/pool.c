#include "bench/pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "bench/proc.h"

enum { READ_BYTES = 256 * 1024, EVENTS = 256, LEASE = 72, KEY = 40 };

struct held {
	char lease[LEASE];
};

struct session {
	int fd; /* -1: not connected */
	bool wants_out;
	char key[KEY]; /* to resume with */
	struct buf in, out;
	struct held *held;
	size_t n_held, cap_held;
};

struct pool {
	struct pool_opts o;
	char path[108];
	int epoll;
	struct session *sessions;
	struct pool_counts counts;
	bool fails;
	char void_lease
		[LEASE]; /* of the stream with the bad entry: what comes before the nack's ok does not count; "" = none */
	void (*watch)(void *arg);
	void *watch_arg;
	char *read_buffer;
};

static const uint64_t WATCHED = UINT64_MAX;

struct pool *pool_open(const struct pool_opts *o)
{
	struct pool *p = mem_alloc(sizeof *p);
	p->o = *o;
	snprintf(p->path, sizeof p->path, "%s", o->path);
	p->epoll = epoll_create1(EPOLL_CLOEXEC);
	p->sessions = mem_array((size_t)o->n_sessions, sizeof *p->sessions);
	p->read_buffer = mem_alloc(READ_BYTES);
	for (int i = 0; i < o->n_sessions; i++)
		p->sessions[i].fd = -1;
	return p;
}

void pool_close(struct pool *p)
{
	for (int i = 0; i < p->o.n_sessions; i++) {
		struct session *s = &p->sessions[i];
		if (s->fd >= 0)
			close(s->fd);
		buf_fini(&s->in);
		buf_fini(&s->out);
		mem_free(s->held);
	}
	close(p->epoll);
	mem_free(p->sessions);
	mem_free(p->read_buffer);
	mem_free(p);
}

/* ---- leases held */

static void hold(struct session *s, const char *lease, size_t len)
{
	if (s->n_held == s->cap_held) {
		s->cap_held = s->cap_held ? s->cap_held * 2 : 64;
		s->held = mem_grow(s->held, s->cap_held, sizeof *s->held);
	}
	snprintf(s->held[s->n_held++].lease, LEASE, "%.*s", (int)len, lease);
}

static void say(struct session *s, const char *what, const char *lease, size_t len)
{
	buf_str(&s->out, "{\"t\":\"");
	buf_str(&s->out, what);
	buf_str(&s->out, "\",\"lease\":\"");
	buf_add(&s->out, lease, len);
	buf_add(&s->out, "\"}\n", 3);
}

static void say_done(struct session *s, const char *lease, size_t len)
{
	say(s, "done", lease, len);
}

/* ---- writing */

static void watch_output(struct pool *p, struct session *s, bool on)
{
	if (s->wants_out == on)
		return;
	s->wants_out = on;
	struct epoll_event ev = {.events = EPOLLIN | (on ? EPOLLOUT : 0u), .data.u64 = (uint64_t)(s - p->sessions)};
	epoll_ctl(p->epoll, EPOLL_CTL_MOD, s->fd, &ev);
}

static void flush(struct pool *p, struct session *s)
{
	while (s->fd >= 0 && s->out.len) {
		ssize_t n = send(s->fd, s->out.data, s->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n <= 0)
			break;
		buf_consume(&s->out, (size_t)n);
	}
	if (s->fd >= 0)
		watch_output(p, s, s->out.len > 0);
}

/* ---- connecting */

static void hello(struct pool *p, struct session *s, int i)
{
	buf_clear(&s->in);
	buf_clear(&s->out);
	buf_printf(&s->out, "{\"t\":\"hello\",\"v\":1,\"name\":\"bench%d\",\"credits\":%d", i, p->o.credits);
	if (p->o.takes_entries)
		buf_str(&s->out, ",\"entries\":true");
	if (s->key[0])
		buf_printf(&s->out, ",\"session\":\"%s\"", s->key);
	if (s->n_held) {
		buf_str(&s->out, ",\"resume\":[");
		for (size_t k = 0; k < s->n_held; k++)
			buf_printf(&s->out, "%s\"%s\"", k ? "," : "", s->held[k].lease);
		buf_str(&s->out, "]");
	}
	buf_str(&s->out, "}\n");
}

void pool_connect(struct pool *p, int i)
{
	struct session *s = &p->sessions[i];
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "%s", p->path);
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&a, sizeof a) < 0)
		proc_die("worker %d: %s: %s", i, p->path, strerror(errno));
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)i};
	epoll_ctl(p->epoll, EPOLL_CTL_ADD, s->fd, &ev);
	s->wants_out = false;
	hello(p, s, i);
	flush(p, s);
}

void pool_connect_all(struct pool *p)
{
	for (int i = 0; i < p->o.n_sessions; i++)
		if (p->sessions[i].fd < 0)
			pool_connect(p, i);
}

void pool_drop(struct pool *p, int i)
{
	struct session *s = &p->sessions[i];
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	p->counts.n_held -= s->n_held;
}

void pool_drop_all(struct pool *p)
{
	for (int i = 0; i < p->o.n_sessions; i++)
		pool_drop(p, i);
}

void pool_finish(struct pool *p)
{
	p->o.finishes = true;
	for (int i = 0; i < p->o.n_sessions; i++) {
		struct session *s = &p->sessions[i];
		for (size_t k = 0; k < s->n_held; k++)
			say_done(s, s->held[k].lease, strlen(s->held[k].lease));
		p->counts.n_held -= s->n_held;
		s->n_held = 0;
		flush(p, s);
	}
}

void pool_fails(struct pool *p, bool fails)
{
	p->fails = fails;
}

void pool_credits(struct pool *p, int credits)
{
	p->o.credits = credits;
}

/* ---- frames */

/* The string after `before`, up to its closing quote; no escapes in what we look for. */
static const char *string_after(const char *line, size_t len, const char *before, size_t *n)
{
	size_t skip = strlen(before);
	const char *at = memmem(line, len, before, skip);
	if (!at)
		return NULL;
	at += skip;
	const char *end = memchr(at, '"', len - (size_t)(at - line));
	*n = end ? (size_t)(end - at) : 0;
	return end ? at : NULL;
}

static void on_assign(struct pool *p, struct session *s, const char *line, size_t len)
{
	size_t n, n_stream;
	const char *lease = string_after(line, len, "\"lease\":\"", &n);
	if (!lease)
		proc_die("an assign without a lease: %.*s", (int)len, line);
	p->counts.n_assigned++;
	if (p->o.on_assign) {
		const char *stream = string_after(line, len, "\"stream\":\"", &n_stream);
		p->o.on_assign(p->o.arg, stream, stream ? n_stream : 0);
	}
	if (p->o.on_assign_frame)
		p->o.on_assign_frame(p->o.arg, line, len);
	if (p->o.finishes) {
		say(s, p->fails ? "fail" : "done", lease, n);
		return;
	}
	if (p->o.n_entries)
		return;
	p->counts.n_held++;
	hold(s, lease, n);
}

/* What is not resumed is not held any more; how many of each matters, not which. */
static void on_welcome(struct pool *p, struct session *s, const char *line, size_t len)
{
	size_t n;
	const char *key = string_after(line, len, "\"session\":\"", &n);
	if (key)
		snprintf(s->key, sizeof s->key, "%.*s", (int)n, key);
	size_t n_gone = 0;
	const char *at = memmem(line, len, "\"gone\":[", 8);
	for (const char *end = line + len; at && (at = memmem(at, (size_t)(end - at), "\"outcome\"", 9)); at += 9)
		n_gone++;
	p->counts.n_welcome++;
	p->counts.n_gone += n_gone;
	p->counts.n_resumed += s->n_held - n_gone;
	p->counts.n_held += s->n_held;
}

static void on_err(struct pool *p, const char *line, size_t len)
{
	if (memmem(line, len, "\"not_owner\"", 11) || memmem(line, len, "\"unknown_lease\"", 15))
		p->counts.n_refused++;
	else
		p->counts.n_errors++;
	if (p->counts.n_refused + p->counts.n_errors <= 3)
		fprintf(stderr, "bench: the daemon said %.*s\n", (int)(len < 300 ? len : 300), line);
}

uint32_t pool_entries(const char *frame, size_t len, const char **last_id, size_t *id_len)
{
	static const char start[] = "\"e\":[[\"";
	const char *first = memmem(frame, len, start, sizeof start - 1), *last = memrchr(frame, '[', len);
	last = last ? memrchr(frame, '[', (size_t)(last - frame)) : NULL; /* [id, [its fields]] */
	const char *end = last && first ? memchr(last + 2, '"', len - (size_t)(last + 2 - frame)) : NULL;
	if (!end)
		proc_die("not entries: %.*s", (int)(len < 300 ? len : 300), frame);
	*last_id = last + 2;
	*id_len = (size_t)(end - *last_id);
	const char *seq = memchr(first + sizeof start - 1, '-', 30), *last_seq = memchr(*last_id, '-', *id_len);
	uint64_t from = strtoull(seq + 1, NULL, 10), to = strtoull(last_seq + 1, NULL, 10);
	return to >= from ? (uint32_t)(to - from) + 1 : 1;
}

/* The bad entry of the frame is not acknowledged, what is before it is. True: there is one, or what comes is void. */
static bool on_bad(struct pool *p, struct session *s, const char *line, size_t len, const char *lease, size_t n_lease)
{
	if (n_lease == strlen(p->void_lease) && memcmp(p->void_lease, lease, n_lease) == 0)
		return true;
	const char *at = memmem(line, len, p->o.bad, strlen(p->o.bad)), *id = NULL;
	for (int i = 0; i < 2 && at; i++) /* [id, [its fields]] */
		at = id = memrchr(line, '[', (size_t)(at - line));
	const char *end = id ? memchr(id + 2, '"', len - (size_t)(id + 2 - line)) : NULL;
	if (!end)
		return false;
	snprintf(p->void_lease, LEASE, "%.*s", (int)n_lease, lease);
	buf_printf(&s->out, "{\"t\":\"nack\",\"lease\":\"%s\",\"id\":\"%.*s\"}\n", p->void_lease, (int)(end - id - 2),
		id + 2);
	p->counts.n_nacked++;
	return true;
}

static void on_entries(struct pool *p, struct session *s, const char *line, size_t len)
{
	size_t n, id_len;
	const char *lease = string_after(line, len, "\"lease\":\"", &n), *id;
	if (p->o.bad && on_bad(p, s, line, len, lease, n))
		return;
	p->counts.n_entries += pool_entries(line, len, &id, &id_len);
	if (p->o.on_entries)
		p->o.on_entries(p->o.arg, line, len);
	buf_str(&s->out, "{\"t\":\"ack\",\"lease\":\"");
	buf_add(&s->out, lease, n);
	buf_str(&s->out, "\",\"id\":\"");
	buf_add(&s->out, id, id_len);
	buf_add(&s->out, "\"}\n", 3);
	const char *seq = memchr(id, '-', id_len);
	if (p->o.n_entries && seq && strtoul(seq + 1, NULL, 10) == p->o.n_entries)
		say_done(s, lease, n);
}

static void on_ok(struct pool *p, const char *line, size_t len)
{
	if (p->o.bad && memmem(line, len, "\"for\":\"nack\"", 12))
		p->void_lease[0] = '\0';
	else if (p->o.takes_entries && memmem(line, len, "\"for\":\"ack\"", 11))
		p->counts.n_acked++;
	else
		p->counts.n_ok++;
}

static void on_line(struct pool *p, struct session *s, const char *line, size_t len)
{
	size_t n;
	const char *t = string_after(line, len < 24 ? len : 24, "{\"t\":\"", &n);
	if (!t)
		proc_die("not a frame: %.*s", (int)len, line);
	if (n == 6 && memcmp(t, "assign", 6) == 0)
		on_assign(p, s, line, len);
	else if (n == 7 && memcmp(t, "entries", 7) == 0)
		on_entries(p, s, line, len);
	else if (n == 2 && memcmp(t, "ok", 2) == 0)
		on_ok(p, line, len);
	else if (n == 4 && memcmp(t, "ping", 4) == 0) {
		p->counts.n_pings++;
		buf_str(&s->out, "{\"t\":\"pong\"}\n");
	} else if (n == 7 && memcmp(t, "welcome", 7) == 0)
		on_welcome(p, s, line, len);
	else if (n == 6 && memcmp(t, "revoke", 6) == 0) {
		p->counts.n_revoked++;
		p->counts.n_lost += memmem(line, len, "\"reason\":\"lost\"", 15) != NULL;
	} else if (n == 3 && memcmp(t, "err", 3) == 0)
		on_err(p, line, len);
}

static void take_lines(struct pool *p, struct session *s, const char *bytes, size_t len)
{
	const char *at = bytes, *end = bytes + len;
	for (const char *nl; (nl = memchr(at, '\n', (size_t)(end - at))); at = nl + 1) {
		if (!s->in.len) {
			on_line(p, s, at, (size_t)(nl - at));
			continue;
		}
		buf_add(&s->in, at, (size_t)(nl - at));
		on_line(p, s, s->in.data, s->in.len);
		buf_clear(&s->in);
	}
	if (at < end)
		buf_add(&s->in, at, (size_t)(end - at));
}

static void serve(struct pool *p, struct session *s)
{
	if (s->fd < 0)
		return;
	ssize_t n = recv(s->fd, p->read_buffer, READ_BYTES, MSG_DONTWAIT);
	if (n > 0) {
		take_lines(p, s, p->read_buffer, (size_t)n);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		p->counts.n_closed++;
		pool_drop(p, (int)(s - p->sessions));
		return;
	}
	flush(p, s);
}

void pool_round(struct pool *p, int64_t wait_us)
{
	struct epoll_event ev[EVENTS];
	struct timespec wait = {.tv_sec = wait_us / 1000000, .tv_nsec = wait_us % 1000000 * 1000};
	int n = epoll_pwait2(p->epoll, ev, EVENTS, &wait, NULL);
	for (int i = 0; i < n; i++) {
		if (ev[i].data.u64 == WATCHED)
			p->watch(p->watch_arg);
		else
			serve(p, &p->sessions[ev[i].data.u64]);
	}
}

void pool_watch(struct pool *p, int fd, void (*fn)(void *arg), void *arg)
{
	p->watch = fn;
	p->watch_arg = arg;
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = WATCHED};
	epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &ev);
}

const struct pool_counts *pool_counts(const struct pool *p)
{
	return &p->counts;
}
