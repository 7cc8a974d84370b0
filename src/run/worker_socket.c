#include "run/worker_socket.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/mono.h"
#include "base/rng.h"
#include "codec/frame.h"
#include "core/coord/session.h"
#include "run/descriptors.h"
#include "run/fault.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	LOOK_MS = 100,         /* between two looks at who has too much unread */
	STUCK_MS = 1000,       /* without taking anything: it does not read */
	LOOKED_AWAY_MS = 2000, /* since the last look: it was us */
	GIVEN_KEPT = 32        /* frames of which it is known where they end */
};

/* The latest frames that gave it something to do: which of them it cannot have read is known when it has closed. */
struct worker_given {
	size_t end[GIVEN_KEPT]; /* bytes sent up to there */
	uint32_t n;
};

struct worker_conn {
	uint64_t id;
	struct link link;
	struct unix_conn *conn;
	struct frame_splitter splitter;
	pid_t pid;
	bool is_slow, is_told;
	bool is_over;   /* more than write_buffer is unread */
	size_t n_given; /* of what is unread, at most: assigns, which its credits bound; they end it only when stuck */
	size_t n_sent, n_taken; /* by us; by the kernel when it took something last */
	struct worker_given given;
	mono_ms taken_at;
	bool has_greeted, is_welcome; /* between the two it waits, and what it says meanwhile does too */
	bool waits, is_freed;
};

struct watch { /* a process whose connection is gone */
	uv_poll_t poll;
	struct worker_socket *door;
	uint64_t session;
	int fd;
};

struct worker_socket {
	uv_loop_t *loop;
	worker_event_fn *fn;
	void *arg;
	struct unix_listener *listener;
	struct frame_decoder *decoder;
	struct buf out;
	struct map conns;   /* session -> worker_conn */
	struct map watches; /* session -> watch */
	struct link all;
	uint64_t last_id;
	size_t max_frame, write_buffer;
	uint32_t *uids;
	size_t n_uids;
	size_t n_slow, n_freed, n_over;
	mono_ms looked_at;
	bool is_sweeping;
	bool said_unwatchable;
};

static bool worker_socket_same_id(const void *value, const void *key, size_t len)
{
	const struct worker_conn *w = value;
	return len == sizeof w->id && memcmp(&w->id, key, len) == 0;
}

static bool worker_socket_same_watch(const void *value, const void *key, size_t len)
{
	const struct watch *w = value;
	return len == sizeof w->session && memcmp(&w->session, key, len) == 0;
}

static struct worker_conn *conn_of(const struct worker_socket *d, uint64_t session)
{
	return map_get(&d->conns, &session, sizeof session);
}

static void worker_socket_tell(struct worker_socket *d, struct coord_event *ev)
{
	d->fn(d->arg, ev);
}

/* ---- the peer's process ---- */

static void watch_closed(uv_handle_t *h)
{
	struct watch *w = h->data;
	close(w->fd);
	mem_free(w);
}

static void watch_end(struct watch *w)
{
	map_remove(&w->door->watches, &w->session, sizeof w->session);
	uv_close((uv_handle_t *)&w->poll, watch_closed);
}

static void on_exit_seen(uv_poll_t *p, int status, int events)
{
	struct watch *w = p->data;
	fault_point("read", "died");
	(void)status;
	(void)events;
	struct coord_event ev = {.kind = COORD_PEER_DEAD, .session = w->session};
	struct worker_socket *d = w->door;
	watch_end(w);
	worker_socket_tell(d, &ev);
}

/* Takes fd. A process that is dead already is told of in the next round. */
static void watch_process(struct worker_socket *d, uint64_t session, int fd)
{
	struct watch *w = mem_alloc(sizeof *w);
	*w = (struct watch){.door = d, .session = session, .fd = fd};
	if (uv_poll_init(d->loop, &w->poll, fd) != 0) {
		close(fd);
		mem_free(w);
		return;
	}
	w->poll.data = w;
	map_put(&d->watches, &w->session, sizeof w->session, w);
	uv_poll_start(&w->poll, UV_READABLE, on_exit_seen);
}

/* Without this a process that lives and connects again and again would cost a descriptor each time. */
void worker_socket_forget_session(struct worker_socket *d, uint64_t session)
{
	struct watch *w = map_get(&d->watches, &session, sizeof session);
	if (w)
		watch_end(w);
}

/* ---- connections ---- */

static void worker_socket_forget(struct worker_socket *d, struct worker_conn *w)
{
	map_remove(&d->conns, &w->id, sizeof w->id);
	list_remove(&w->link);
	d->n_over -= w->is_over;
	frame_splitter_fini(&w->splitter);
	mem_free(w);
}

static bool worker_socket_is_allowed(const struct worker_socket *d, uid_t uid)
{
	for (size_t i = 0; i < d->n_uids; i++)
		if (d->uids[i] == uid)
			return true;
	return d->n_uids == 0;
}

static struct worker_conn *enter(struct worker_socket *d, struct unix_conn *c, pid_t pid)
{
	struct worker_conn *w = mem_alloc(sizeof *w);
	*w = (struct worker_conn){.id = ++d->last_id, .conn = c, .pid = pid};
	frame_splitter_init(&w->splitter, d->max_frame);
	list_push(&d->all, &w->link);
	map_put(&d->conns, &w->id, sizeof w->id, w);
	unix_set_data(c, w);
	return w;
}

static void tell_unwatchable(struct worker_socket *d)
{
	if (d->said_unwatchable)
		return;
	d->said_unwatchable = true;
	log_line(LOG_WARN, "a worker is in another PID namespace, and this kernel, older than Linux 6.5, does not tell "
			   "when it ends: what such workers hold goes back resume_grace after their connection closed");
}

static void worker_socket_on_accept(void *arg, struct unix_conn *c, const struct unix_peer *peer)
{
	struct worker_socket *d = arg;
	if (peer->is_unwatchable)
		tell_unwatchable(d);
	struct worker_conn *w = enter(d, c, peer->pid);
	uint64_t r[2];
	char key[33];
	rng_secure(r, sizeof r);
	snprintf(key, sizeof key, "%016llx%016llx", (unsigned long long)r[0], (unsigned long long)r[1]);
	struct coord_event ev = {.kind = COORD_ACCEPT,
		.session = w->id,
		.pid = peer->pid,
		.uid = peer->uid,
		.flag = worker_socket_is_allowed(d, peer->uid),
		.text = {key, 32}};
	worker_socket_tell(d, &ev);
}

static void bad_input(struct worker_socket *d, uint64_t session, enum frame_error error, const char *text)
{
	struct coord_event ev = {
		.kind = COORD_BAD_INPUT, .session = session, .error = error, .text = {text, strlen(text)}};
	worker_socket_tell(d, &ev);
}

/* One line; false when the session is over. */
static bool worker_socket_take_line(struct worker_socket *d, uint64_t session, char *line, size_t len)
{
	struct frame f;
	struct err err;
	if (frame_decode(d->decoder, line, len, &f, &err) != ERR_OK) {
		bad_input(d, session, FERR_BAD_FRAME, err.text);
	} else {
		fault_read(&f);
		struct coord_event ev = {.kind = COORD_FRAME, .session = session, .frame = &f};
		worker_socket_tell(d, &ev);
	}
	return conn_of(d, session) != NULL;
}

/* The lines that have come, up to a hello that is not answered yet. */
static void take_lines(struct worker_socket *d, struct worker_conn *w)
{
	uint64_t session = w->id;
	for (;;) {
		w->waits = w->has_greeted && !w->is_welcome;
		unix_pause(w->conn, w->waits);
		if (w->waits)
			return;
		char *line;
		size_t n;
		enum err_code code;
		if (!frame_splitter_next(&w->splitter, &line, &n, &code)) {
			if (code != ERR_OK) {
				char text[80];
				snprintf(text, sizeof text, "a line is longer than %zu bytes", d->max_frame);
				bad_input(d, session, FERR_TOO_BIG, text);
			}
			return;
		}
		w->has_greeted = true;
		if (!worker_socket_take_line(d, session, line, n))
			return;
	}
}

static void worker_socket_on_data(void *arg, struct unix_conn *c, const char *bytes, size_t len)
{
	struct worker_conn *w = unix_data(c);
	frame_splitter_feed(&w->splitter, bytes, len);
	take_lines(arg, w);
}

/* How many of the latest frames that gave it something to do it has not read to their end. */
static size_t n_unread(const struct worker_conn *w, size_t may_be_read)
{
	const uint32_t kept = w->given.n < GIVEN_KEPT ? w->given.n : GIVEN_KEPT;
	uint32_t n = 0;
	while (n < kept && w->given.end[(w->given.n - 1 - n) % GIVEN_KEPT] > may_be_read)
		n++;
	return n;
}

static void worker_socket_on_end(void *arg, struct unix_conn *c, int pidfd)
{
	struct worker_socket *d = arg;
	struct worker_conn *w = unix_data(c);
	uint64_t session = w->id;
	fault_point("read", "end");
	struct coord_event ev = {.kind = COORD_END, .session = session, .n = n_unread(w, unix_may_be_read(c))};
	worker_socket_forget(d, w);
	if (pidfd >= 0)
		watch_process(d, session, pidfd); /* what is told may end that */
	worker_socket_tell(d, &ev);
}

/* What is spared is for Redis, for operators and for the processes of connections already here. */
static const struct unix_events events = {.on_accept = worker_socket_on_accept,
	.on_data = worker_socket_on_data,
	.on_end = worker_socket_on_end,
	.spare_fds = DESCRIPTORS_KEPT};

/* ---- from process to process ---- */

int worker_socket_let_go(struct worker_socket *d, uint64_t session, struct buf *input, struct buf *output)
{
	struct worker_conn *w = conn_of(d, session);
	int fd = w ? fcntl(unix_conn_fd(w->conn), F_DUPFD_CLOEXEC, 0) : -1;
	if (fd < 0)
		return -1;
	const struct frame_splitter *s = &w->splitter;
	if (s->pending.len > s->start)
		buf_add(input, s->pending.data + s->start, s->pending.len - s->start);
	unix_unwritten(w->conn, output);
	unix_close(w->conn, false);
	worker_socket_forget(d, w);
	return fd;
}

static bool is_its(int fd, const struct state_conn *r)
{
	struct ucred cred;
	socklen_t len = sizeof cred;
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.pid == r->pid && cred.uid == r->uid;
}

enum err_code worker_socket_adopt(struct worker_socket *d, int fd, const struct state_conn *r, struct err *err)
{
	struct unix_conn *c;
	if (r->key.len != SESSION_KEY || !is_its(fd, r))
		return err_set(err, ERR_INVALID, "the descriptor is not the connection of that worker");
	enum err_code code = unix_adopt(d->loop, fd, &events, d, &c, err);
	if (code)
		return code;
	struct worker_conn *w = enter(d, c, (pid_t)r->pid);
	w->has_greeted = w->is_welcome = true;
	if (r->input.len)
		frame_splitter_feed(&w->splitter, r->input.p, r->input.len);
	unix_write(c, r->output.p, r->output.len);
	w->n_sent = r->output.len;
	struct frame f = {.kind = FRAME_HELLO,
		.hello.v = 1,
		.credits = r->credits,
		.hello.name = r->name,
		.hello.has_services = r->has_services,
		.hello.services = r->services,
		.hello.n_services = r->n_services,
		.hello.session = r->key,
		.hello.resume = r->leases,
		.hello.n_resume = r->n_leases};
	struct coord_event ev = {.kind = COORD_ADOPT,
		.session = w->id,
		.pid = w->pid,
		.uid = r->uid,
		.flag = worker_socket_is_allowed(d, r->uid),
		.text = r->key,
		.frame = &f,
		.until = r->told_until,
		.n = (size_t)r->n_pings};
	worker_socket_tell(d, &ev);
	return ERR_OK;
}

/* ---- the coordinator's side ---- */

static void found_slow(struct worker_socket *d, struct worker_conn *w)
{
	d->n_slow += !w->is_slow;
	w->is_slow = true;
}

static void set_over(struct worker_socket *d, struct worker_conn *w, bool is_over)
{
	if (w->is_over == is_over)
		return;
	w->is_over = is_over;
	w->n_taken = 0;
	w->taken_at = mono_now();
	d->n_over += is_over ? 1 : (size_t)-1;
}

/* After a write. A turn may assign more than write_buffer before the worker can have read anything of it. */
static void limit_unread(struct worker_socket *d, struct worker_conn *w, enum out_kind kind)
{
	size_t unread = unix_write_pending(w->conn);
	size_t before = unread > d->out.len ? unread - d->out.len : 0;
	w->n_given = w->n_given < before ? w->n_given : before;
	if (kind == OUT_ASSIGN || kind == OUT_WELCOME || kind == OUT_ENTRIES) /* the window bounds those */
		w->n_given += d->out.len;
	set_over(d, w, unread > d->write_buffer);
	if (unread > d->write_buffer + w->n_given)
		found_slow(d, w);
}

static void worker_socket_look_at(struct worker_socket *d, struct worker_conn *w, mono_ms now)
{
	size_t unread = unix_write_pending(w->conn);
	set_over(d, w, unread > d->write_buffer);
	if (!w->is_over)
		return;
	if (w->n_sent - unread > w->n_taken || now - d->looked_at > LOOKED_AWAY_MS) {
		w->n_taken = w->n_sent - unread;
		w->taken_at = now;
	} else if (now - w->taken_at >= STUCK_MS) {
		found_slow(d, w);
	}
}

static void look_for_stuck(struct worker_socket *d)
{
	if (!d->n_over)
		return;
	mono_ms now = mono_now();
	if (now - d->looked_at < LOOK_MS)
		return;
	for (struct link *l = d->all.next; l != &d->all; l = l->next) {
		struct worker_conn *w = LIST_OF(struct worker_conn, link, l);
		if (w->is_over)
			worker_socket_look_at(d, w, now);
	}
	d->looked_at = now;
}

void worker_socket_send(struct worker_socket *d, uint64_t session, const struct out_frame *f)
{
	struct worker_conn *w = conn_of(d, session);
	if (!w)
		return;
	fault_write(f);
	buf_clear(&d->out);
	frame_encode(&d->out, f);
	unix_write(w->conn, d->out.data, d->out.len);
	w->is_welcome = w->is_welcome || f->kind == OUT_WELCOME;
	if (w->waits && w->is_welcome && !w->is_freed) {
		w->is_freed = true;
		d->n_freed++;
	}
	w->n_sent += d->out.len;
	if (f->kind == OUT_ASSIGN || f->kind == OUT_ENTRIES)
		w->given.end[w->given.n++ % GIVEN_KEPT] = w->n_sent;
	limit_unread(d, w, f->kind);
}

static void tell_slow(struct worker_socket *d)
{
	d->n_slow--;
	for (struct link *l = d->all.next; l != &d->all; l = l->next) {
		struct worker_conn *w = LIST_OF(struct worker_conn, link, l);
		if (!w->is_slow || w->is_told)
			continue;
		w->is_told = true;
		bad_input(d, w->id, FERR_SLOW_READER, "it does not read what it is sent");
		return; /* the list has changed */
	}
}

static void go_on(struct worker_socket *d)
{
	d->n_freed--;
	for (struct link *l = d->all.next; l != &d->all; l = l->next) {
		struct worker_conn *w = LIST_OF(struct worker_conn, link, l);
		if (!w->is_freed)
			continue;
		w->is_freed = false;
		take_lines(d, w);
		return;
	}
}

/* What is told here ends in another call of this: that one leaves all to the first. */
void worker_socket_sweep(struct worker_socket *d)
{
	if (d->is_sweeping)
		return;
	d->is_sweeping = true;
	look_for_stuck(d);
	while (d->n_slow || d->n_freed)
		if (d->n_slow)
			tell_slow(d);
		else
			go_on(d);
	d->is_sweeping = false;
}

void worker_socket_drop(struct worker_socket *d, uint64_t session)
{
	struct worker_conn *w = conn_of(d, session);
	if (!w)
		return;
	int fd = unix_take_pidfd(w->conn);
	unix_close(w->conn, true);
	worker_socket_forget(d, w);
	if (fd >= 0)
		watch_process(d, session, fd);
}

void worker_socket_limits(struct worker_socket *d, const struct config *c)
{
	d->max_frame = c->workers.max_frame_bytes;
	d->write_buffer = c->workers.write_buffer_bytes;
	mem_free(d->uids);
	d->n_uids = c->workers.allow_uids.n;
	d->uids = mem_array(d->n_uids + 1, sizeof *d->uids);
	if (d->n_uids)
		memcpy(d->uids, c->workers.allow_uids.items, d->n_uids * sizeof *d->uids);
}

enum err_code worker_socket_open(uv_loop_t *loop, const struct config *c, int fd, worker_event_fn *fn, void *arg,
	struct worker_socket **out, struct err *err)
{
	struct worker_socket *d = mem_alloc(sizeof *d);
	d->loop = loop;
	d->fn = fn;
	d->arg = arg;
	d->decoder = frame_decoder_new();
	list_init(&d->all);
	uint64_t seed;
	rng_secure(&seed, sizeof seed);
	map_init(&d->conns, worker_socket_same_id, seed);
	map_init(&d->watches, worker_socket_same_watch, seed);
	worker_socket_limits(d, c);
	enum err_code code = unix_listen(
		loop, c->workers.socket, fd, (mode_t)c->workers.mode, c->workers.group, &events, d, &d->listener, err);
	if (code) {
		worker_socket_close(d);
		return code;
	}
	*out = d;
	return ERR_OK;
}

void worker_socket_close(struct worker_socket *d)
{
	if (!d)
		return;
	if (d->listener)
		unix_unlisten(d->listener, true);
	for (struct link *l; (l = list_pop(&d->all));) {
		struct worker_conn *w = LIST_OF(struct worker_conn, link, l);
		unix_close(w->conn, true);
		worker_socket_forget(d, w);
	}
	size_t pos = 0;
	for (struct watch *w; (w = map_next(&d->watches, &pos));)
		watch_end(w);
	map_fini(&d->watches);
	map_fini(&d->conns);
	frame_decoder_free(d->decoder);
	buf_fini(&d->out);
	mem_free(d->uids);
	mem_free(d);
}
