/* The life of one connection: open, dial again after a failure, close.
 *
 * Happy path: redis_open -> the timer fires at once -> dial -> connect -> [TLS] -> handshake -> on_up.
 * Failure: whatever fails calls conn_fail: the wire is closed, what is pending becomes dead, and the idle handle tells
 * the owner at the end of the round: the NULL replies in order, then on_down. Then WAITING, with a jittered backoff
 * that doubles until it has been up for a second. One timer serves every deadline. A deadline that is found past is not
 * believed at once: after a stall of our own process the answer may lie in the socket, so the loop reads first
 * (conn_look_again). */
#include "io/redis/conn.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/secret.h"
#include "io/redis/addr.h"
#include "io/redis/conn_p.h"

enum { STABLE_MS = 1000, MAX_LOOKS = 8 };

/* ---- states */

#define TO(state) (1u << (state))
static const unsigned allowed[CONN_N_STATES] = {
	[CONN_WAITING] = TO(CONN_RESOLVING) | TO(CONN_CONNECTING) | TO(CONN_DROPPED) | TO(CONN_CLOSED),
	[CONN_RESOLVING] = TO(CONN_CONNECTING) | TO(CONN_DROPPED) | TO(CONN_CLOSED),
	[CONN_CONNECTING] = TO(CONN_SECURING) | TO(CONN_GREETING) | TO(CONN_DROPPED) | TO(CONN_CLOSED),
	[CONN_SECURING] = TO(CONN_GREETING) | TO(CONN_DROPPED) | TO(CONN_CLOSED),
	[CONN_GREETING] = TO(CONN_UP) | TO(CONN_DROPPED) | TO(CONN_CLOSED),
	[CONN_UP] = TO(CONN_DROPPED) | TO(CONN_CLOSED),
	[CONN_DROPPED] = TO(CONN_WAITING) | TO(CONN_CLOSED),
	[CONN_CLOSED] = 0,
};

void conn_move(struct redis_conn *c, enum conn_state to)
{
	assert(allowed[c->state] & TO(to));
	c->state = to;
	c->watch.n_looks = 0;
	if (to >= CONN_RESOLVING && to <= CONN_UP)
		c->dial.reached = to;
}

/* ---- deadlines */

static mono_ms ping_at(const struct redis_conn *c)
{
	/* Something in flight has its own deadline; a blocking read would hold up our PING. */
	if (c->opts.times.ping_idle_ms <= 0 || c->queue.n_in_flight > 0)
		return MONO_NEVER;
	return c->watch.heard_at + c->opts.times.ping_idle_ms;
}

/* Of one that was left, while something waits on it. */
static mono_ms silent_at(const struct redis_conn *c)
{
	if (c->watch.silent_ms <= 0 || c->queue.n_in_flight == 0)
		return MONO_NEVER;
	return mono_max(c->watch.heard_at, c->watch.left_at) + c->watch.silent_ms;
}

static mono_ms next_deadline(const struct redis_conn *c)
{
	switch (c->state) {
	case CONN_WAITING:
		return c->retry.at;
	case CONN_CONNECTING:
		if (c->dial.race && c->dial.i_addr < c->dial.n_addrs)
			return mono_min(c->dial.deadline, c->dial.step_deadline);
		return c->dial.deadline;
	case CONN_RESOLVING:
	case CONN_SECURING:
	case CONN_GREETING:
		return c->dial.deadline;
	case CONN_UP:
		return mono_min(silent_at(c), mono_min(heap_deadline(&c->queue.deadlines), ping_at(c)));
	case CONN_DROPPED:
	case CONN_CLOSED:
		break;
	}
	return MONO_NEVER;
}

static void expired(struct redis_conn *c, mono_ms now);

static void redis_on_timer(uv_timer_t *t)
{
	struct redis_conn *c = t->data;
	mono_ms now = mono_now();
	if (now >= next_deadline(c))
		expired(c, now);
	conn_rearm(c);
}

void conn_rearm(struct redis_conn *c)
{
	mono_ms at = next_deadline(c);
	if (at == MONO_NEVER) {
		uv_timer_stop(&c->handles.timer);
		return;
	}
	mono_ms now = (mono_ms)uv_now(c->loop); /* what libuv adds the time-out to */
	if (at > now)
		c->watch.n_looks = 0;
	/* At least 1 ms: libuv runs a timer of 0 again before it looks at any socket. */
	uv_timer_start(&c->handles.timer, redis_on_timer, at > now ? (uint64_t)(at - now) : 1, 0);
}

/* True when the loop should read before the deadline counts: once, and again while bytes keep coming, but not for ever.
 */
static bool conn_look_again(struct redis_conn *c)
{
	if (c->watch.n_looks > 0 && (!c->watch.has_heard || c->watch.n_looks >= MAX_LOOKS))
		return false;
	c->watch.n_looks++;
	c->watch.has_heard = false;
	return true;
}

static mono_ms ping_timeout(const struct redis_conn *c, mono_ms now)
{
	return c->watch.relaxed_until > now ? mono_max(c->opts.times.connect_ms, c->watch.relaxed_ms)
					    : c->opts.times.connect_ms;
}

static void expired(struct redis_conn *c, mono_ms now)
{
	if (c->state == CONN_WAITING) {
		dial_start(c);
		return;
	}
	if (conn_look_again(c))
		return;
	if (c->state == CONN_CONNECTING && now < c->dial.deadline) {
		c->watch.n_looks = 0;
		race_next(c);
		return;
	}
	if (c->dial.race) {
		race_expired(c);
		return;
	}
	if (c->state == CONN_UP && silent_at(c) <= now) {
		conn_fail(c, ERR_TIMEOUT, "silent since it was left (%zu waiting)", c->queue.n_in_flight);
		return;
	}
	if (c->state == CONN_UP && heap_deadline(&c->queue.deadlines) > now) {
		c->watch.n_looks = 0;
		command_own(c, REDIS_CMD_PING, now + ping_timeout(c, now), (const char *[]){"PING", NULL});
		return;
	}
	const struct redis_cmd *head =
		list_empty(&c->queue.pending) ? NULL : LIST_OF(struct redis_cmd, link, c->queue.pending.next);
	if (c->state == CONN_RESOLVING)
		conn_fail(c, ERR_TIMEOUT, "resolving the name took longer than %lld ms", (long long)c->dial.ms);
	else if (c->state == CONN_CONNECTING)
		conn_fail(c, ERR_TIMEOUT, "no connection within %lld ms", (long long)c->dial.ms);
	else if (c->state == CONN_SECURING)
		conn_fail(c, ERR_TIMEOUT, "TLS handshake: no answer within %lld ms", (long long)c->dial.ms);
	else
		conn_fail(c, ERR_TIMEOUT, "no answer to %s for %lld ms (%zu waiting)",
			head ? head->name : "the handshake", (long long)(head ? now - head->sent_at : c->dial.ms),
			c->queue.n_in_flight);
}

/* ---- the end of an attempt or a connection */

static void let_go(struct redis_conn *c)
{
	wire_close(c->wire);
	c->wire = NULL;
	if (!c->parser.is_running) /* else the parser's loop frees it */
		command_parser_end(c->parser.reader, c->parser.memory);
	c->parser.reader = NULL;
	c->parser.memory = NULL;
	race_end(c);
	dial_end(c);
	command_kill_all(c);
}

void conn_fail(struct redis_conn *c, enum err_code code, const char *fmt, ...)
{
	if (c->state == CONN_DROPPED || c->state == CONN_CLOSED)
		return;
	char text[400];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	err_set(&c->down, code, "redis %s: %s", c->endpoint, text);
	c->was_up = c->state == CONN_UP;
	if (c->state == CONN_GREETING)
		handshake_ended(c);
	conn_move(c, CONN_DROPPED);
	let_go(c);
	conn_kick(c);
}

static void tell_down(struct redis_conn *c)
{
	mono_ms now = mono_now();
	if (c->was_up && now - c->watch.up_at >= STABLE_MS)
		c->retry.backoff = c->opts.times.backoff_initial_ms;
	mono_ms wait = c->retry.backoff / 2 +
		       (mono_ms)rng_below(&c->rng, (uint64_t)(c->retry.backoff - c->retry.backoff / 2) + 1);
	if (c->retry.at_once)
		c->retry.at = now;
	else
		c->retry.at = c->opts.stay_down ? MONO_NEVER : now + wait;
	if (!c->retry.at_once)
		c->retry.backoff = mono_min(2 * c->retry.backoff, c->opts.times.backoff_max_ms);
	c->retry.at_once = false;
	conn_move(c, CONN_WAITING);
	struct err why = c->down; /* the callback may redial and so write it again */
	if (c->owner.ev.on_down)
		c->owner.ev.on_down(c->owner.arg, c, &why, c->was_up);
}

static void redis_on_handle_closed(uv_handle_t *h)
{
	struct redis_conn *c = h->data;
	if (--c->handles.n_open > 0)
		return;
	redis_fail_all_dead(c, false);
	command_free_spare(c);
	heap_fini(&c->queue.deadlines);
	redis_tls_unref(c->login.tls);
	mem_free(c->login.username);
	secret_drop(c->login.password);
	mem_free(c->login.client_name);
	mem_free(c->login.maint_type);
	mem_free(c->dial.addrs);
	mem_free(c);
}

static void close_handles(struct redis_conn *c)
{
	if (uv_is_closing((uv_handle_t *)&c->handles.idle))
		return;
	uv_close((uv_handle_t *)&c->handles.timer, redis_on_handle_closed);
	uv_close((uv_handle_t *)&c->handles.idle, redis_on_handle_closed);
	uv_close((uv_handle_t *)&c->handles.prepare, redis_on_handle_closed);
}

/* Tells nobody anything: what an owner sends from here on would wait for the next event. */
static void redis_on_prepare(uv_prepare_t *p)
{
	struct redis_conn *c = p->data;
	uv_prepare_stop(p);
	if (c->wire)
		wire_flush(c->wire);
	if (c->state != CONN_CLOSED)
		conn_rearm(c);
}

/* libuv runs first what was started last: so connections are written, and the shard's step counts on it. */
void conn_flush_soon(struct redis_conn *c)
{
	if (!uv_is_closing((uv_handle_t *)&c->handles.prepare))
		uv_prepare_start(&c->handles.prepare, redis_on_prepare);
}

static void redis_on_idle(uv_idle_t *i)
{
	struct redis_conn *c = i->data;
	uv_idle_stop(i);
	if (c->wire)
		wire_flush(c->wire);
	redis_fail_all_dead(c, true);
	race_adopt(c);
	if (c->queue.n_dead > 0) /* sent by the callbacks just now: next round */
		conn_kick(c);
	else if (c->state == CONN_DROPPED)
		tell_down(c);
	else if (c->state == CONN_CLOSED)
		close_handles(c);
	if (c->state != CONN_CLOSED)
		conn_rearm(c);
}

void conn_kick(struct redis_conn *c)
{
	if (!uv_is_closing((uv_handle_t *)&c->handles.idle))
		uv_idle_start(&c->handles.idle, redis_on_idle);
}

void conn_up(struct redis_conn *c)
{
	conn_move(c, CONN_UP);
	c->watch.up_at = c->watch.heard_at = mono_now();
	memset(c->without_opt_in, 0, sizeof(c->without_opt_in)); /* asked again on the next one */
	if (c->login.has_changed)
		handshake_reauth(c);
	c->login.has_changed = false;
	conn_kick(c);
	if (c->owner.ev.on_up)
		c->owner.ev.on_up(c->owner.arg, c);
}

/* ---- the owner's calls */

static char *redis_copy(const char *s)
{
	return mem_printf("%s", s ? s : "");
}

static const char *keep(const char *secret)
{
	return secret_keep(secret ? secret : "", secret ? strlen(secret) : 0);
}

static char *copy_maint_type(const char *type)
{
	return redis_copy(type && strcmp(type, "auto") != 0 ? type : "");
}

static void set_addr(struct redis_conn *c, const struct redis_addr *addr)
{
	c->addr = *addr;
	redis_addr_format(addr, c->endpoint, sizeof(c->endpoint));
	c->dial.first_addr = 0;
}

static void take_times(struct redis_conn *c, const struct redis_times *times)
{
	struct redis_times *t = &c->opts.times;
	*t = *times;
	t->backoff_initial_ms = mono_max(t->backoff_initial_ms, 1);
	t->backoff_max_ms = mono_max(t->backoff_max_ms, t->backoff_initial_ms);
}

struct redis_conn *redis_open(uv_loop_t *loop, const struct redis_opts *opts, const struct redis_events *ev,
	redis_reply_fn *on_reply, void *arg)
{
	struct redis_conn *c = mem_alloc(sizeof(*c));
	c->loop = loop;
	c->opts = *opts;
	take_times(c, &opts->times);
	c->retry.backoff = c->opts.times.backoff_initial_ms;
	set_addr(c, &opts->addr);
	c->login.tls = redis_tls_ref(opts->tls);
	c->login.username = redis_copy(opts->username);
	c->login.password = keep(opts->password);
	c->login.client_name = redis_copy(opts->client_name);
	c->login.maint_type = copy_maint_type(opts->maint_endpoint_type);
	c->owner.ev = *ev;
	c->owner.on_reply = on_reply;
	c->owner.arg = arg;
	c->server.resp = 3;
	c->server.client_id = -1;
	uint64_t seed;
	rng_secure(&seed, sizeof(seed));
	rng_seed(&c->rng, seed);
	list_init(&c->queue.pending);
	list_init(&c->queue.dead);
	list_init(&c->queue.spare);
	heap_init(&c->queue.deadlines);
	/* These cannot fail: they only fill the structure. */
	uv_timer_init(loop, &c->handles.timer);
	uv_idle_init(loop, &c->handles.idle);
	uv_prepare_init(loop, &c->handles.prepare);
	c->handles.timer.data = c->handles.idle.data = c->handles.prepare.data = c;
	c->handles.n_open = 3;
	c->retry.at = mono_now();
	conn_rearm(c);
	return c;
}

void redis_close(struct redis_conn *c, bool silent)
{
	if (!c)
		return;
	if (c->state == CONN_CLOSED) {
		if (silent) /* after all */
			redis_fail_all_dead(c, false);
		return;
	}
	conn_move(c, CONN_CLOSED);
	dial_forget_lookup(c);
	let_go(c);
	uv_timer_stop(&c->handles.timer);
	if (silent) {
		redis_fail_all_dead(c, false);
		close_handles(c);
	} else {
		conn_kick(c);
	}
}

void redis_redial(struct redis_conn *c, const struct redis_addr *addr, const char *why)
{
	if (c->state == CONN_CLOSED)
		return;
	if (c->state == CONN_WAITING) {
		c->retry.at = mono_now();
	} else {
		c->retry.at_once = true;
		conn_fail(c, ERR_IO, "%s", why);
	}
	if (addr)
		set_addr(c, addr);
	conn_rearm(c);
}

void redis_dial_at(struct redis_conn *c, const struct redis_addr *addr, mono_ms at, mono_ms limit_ms)
{
	c->dial.limit_ms = limit_ms;
	if (c->state != CONN_WAITING) {
		redis_redial(c, addr, "another address is to be tried");
		return;
	}
	set_addr(c, addr);
	c->retry.at = at;
	conn_rearm(c);
}

void redis_retry(struct redis_conn *c)
{
	if (c->state == CONN_DROPPED)
		c->retry.at_once = true;
	if (c->state != CONN_WAITING)
		return;
	c->retry.at = mono_now();
	conn_rearm(c);
}

static void take_auth(struct redis_conn *c, const char *username, const char *password)
{
	const char *old = c->login.password;
	c->login.password = keep(password);
	secret_drop(old);
	mem_free(c->login.username);
	c->login.username = redis_copy(username);
}

void redis_set_auth(struct redis_conn *c, const char *username, const char *password)
{
	take_auth(c, username, password);
	race_set_auth(c, username, password);
	if (c->state == CONN_UP)
		handshake_reauth(c);
	else if (c->state == CONN_GREETING)
		c->login.has_changed = true;
}

void redis_set_next_auth(struct redis_conn *c, const char *username, const char *password)
{
	take_auth(c, username, password);
	if (c->state == CONN_WAITING && c->down.code == ERR_DENIED)
		redis_retry(c);
}

void redis_set_tls(struct redis_conn *c, struct redis_tls *tls)
{
	struct redis_tls *old = c->login.tls;
	c->login.tls = redis_tls_ref(tls);
	redis_tls_unref(old);
}

void redis_set_times(struct redis_conn *c, const struct redis_times *times)
{
	take_times(c, times);
	mono_ms longest = c->opts.times.backoff_max_ms;
	c->retry.backoff = mono_max(mono_min(c->retry.backoff, longest), c->opts.times.backoff_initial_ms);
	if (c->state == CONN_WAITING && !c->opts.stay_down)
		c->retry.at = mono_min(c->retry.at, mono_now() + longest);
	if (c->state != CONN_CLOSED)
		conn_rearm(c);
}

void redis_set_maint(struct redis_conn *c, enum redis_maint mode, const char *endpoint_type)
{
	c->opts.maint = mode;
	if (!endpoint_type)
		return;
	mem_free(c->login.maint_type);
	c->login.maint_type = copy_maint_type(endpoint_type);
}

void redis_relax(struct redis_conn *c, mono_ms until, mono_ms timeout_ms)
{
	mono_ms now = mono_now(), at_least_until = now + timeout_ms;
	bool was_relaxed = c->watch.relaxed_until > now;
	c->watch.relaxed_until = until;
	c->watch.relaxed_ms = timeout_ms;
	if (was_relaxed || until <= now)
		return;
	for (struct link *l = c->queue.pending.next; l != &c->queue.pending; l = l->next) {
		struct redis_cmd *cmd = LIST_OF(struct redis_cmd, link, l);
		if (heap_at(&c->queue.deadlines, &cmd->deadline) < at_least_until)
			heap_set(&c->queue.deadlines, &cmd->deadline, at_least_until);
	}
	c->dial.deadline = mono_max(c->dial.deadline, at_least_until);
	if (c->state != CONN_CLOSED)
		conn_rearm(c);
}

void redis_leave(struct redis_conn *c, mono_ms at, mono_ms silent_ms)
{
	c->watch.silent_ms = silent_ms;
	c->watch.left_at = mono_now();
	c->opts.times.ping_idle_ms = 0;
	for (struct link *l = c->queue.pending.next; l != &c->queue.pending; l = l->next) {
		struct redis_cmd *cmd = LIST_OF(struct redis_cmd, link, l);
		if (cmd->deadline.pos && heap_at(&c->queue.deadlines, &cmd->deadline) > at)
			heap_set(&c->queue.deadlines, &cmd->deadline, at);
	}
	if (c->state != CONN_CLOSED)
		conn_rearm(c);
}

bool redis_is_in_cluster(const struct redis_conn *c)
{
	return c->server.is_in_cluster;
}

bool redis_is_up(const struct redis_conn *c)
{
	return c->state == CONN_UP;
}

int redis_resp(const struct redis_conn *c)
{
	return c->server.resp;
}

int64_t redis_client_id(const struct redis_conn *c)
{
	return c->server.client_id;
}

bool redis_is_valkey(const struct redis_conn *c)
{
	return c->server.is_valkey;
}

enum redis_maint_state redis_maint(const struct redis_conn *c)
{
	return c->server.maint;
}

const char *redis_endpoint_type(const struct redis_conn *c)
{
	return handshake_endpoint_type(c);
}

void redis_peer(const struct redis_conn *c, char *out, size_t cap)
{
	struct sockaddr_storage peer;
	out[0] = '\0';
	if (c->wire && wire_peer(c->wire, &peer))
		redis_addr_text(&peer, out, cap);
}

const struct redis_addr *redis_addr_of(const struct redis_conn *c)
{
	return &c->addr;
}
