#include "run/role_conn.h"
#include "base/log.h"
#include "base/rng.h"
#include "codec/push.h"
#include "codec/reply.h"
#include "run/fault.h"
#include "run/role_conn_p.h"
#include <stdio.h>
#include <string.h>

enum { SAY_AGAIN_MS = 60000 };

static const char *const roles[CONN_ROLES] = {"command", "reader", "subscriber"};

/* ---- lanes ---- */

struct lane *lane_first(struct lanes *ls)
{
	return &ls->command;
}

struct lane *lane_after(struct lanes *ls, const struct lane *l)
{
	if (l == &ls->command)
		return &ls->subscriber;
	return l == &ls->subscriber ? ls->readers : l->more;
}

struct lane *lane_by_id(struct lanes *ls, uint32_t id)
{
	for (struct lane *l = lane_first(ls); l; l = lane_after(ls, l))
		if (l->id == id && l->cur)
			return l;
	return NULL;
}

static struct lane **reader_at(struct lanes *ls, uint16_t svc)
{
	struct lane **at = &ls->readers;
	while (*at && (*at)->svc != svc)
		at = &(*at)->more;
	return at;
}

/* ---- flights ---- */

static uint32_t flight_new(struct lanes *ls, struct flight f)
{
	if (!ls->free_flight) {
		uint32_t cap = ls->n_flights ? ls->n_flights * 2 : 256;
		ls->flights = mem_grow(ls->flights, cap, sizeof *ls->flights);
		for (uint32_t i = ls->n_flights ? ls->n_flights : 1; i < cap; i++) {
			ls->flights[i] = (struct flight){.next_free = ls->free_flight};
			ls->free_flight = i;
		}
		ls->n_flights = cap;
	}
	uint32_t i = ls->free_flight;
	ls->free_flight = ls->flights[i].next_free;
	ls->flights[i] = f;
	return i;
}

static struct flight flight_end(struct lanes *ls, uint64_t index)
{
	struct flight f = ls->flights[index];
	ls->flights[index].next_free = ls->free_flight;
	ls->free_flight = (uint32_t)index;
	return f;
}

/* ---- what a connection tells ---- */

static void tell_core(struct lane *l, bool up, const char *why)
{
	struct lanes *ls = l->ls;
	struct shard_event ev = {.kind = SHARD_CONN, .role = l->role, .svc = l->svc, .up = up, .client_id = -1};
	if (up) {
		ev.client_id = redis_client_id(l->cur->conn);
		ev.is_valkey = redis_is_valkey(l->cur->conn);
	} else {
		ev.text = (struct slice){why, strlen(why)};
	}
	ls->o.step(ls->o.arg, &ev);
}

static void on_up(void *arg, struct redis_conn *c)
{
	struct lane_conn *lc = arg;
	struct lane *l = lc->lane;
	char addr[HANDOFF_ADDRESS];
	redis_addr_format(redis_addr_of(c), addr, sizeof addr);
	if (!l)
		return;
	if (lc == l->cur) {
		if (l->role == CONN_COMMAND)
			lc->ls->said[0] = '\0';
		lane_event(l, HANDOFF_UP, (struct slice){addr, strlen(addr)});
		tell_core(l, true, NULL);
		return;
	}
	bool must_join = l->role == CONN_SUBSCRIBER && l->has_sub;
	struct handoff_event ev = {.kind = HANDOFF_NEW_UP, .now = mono_now(), .lane = l->id, .flag = must_join};
	if (must_join)
		lane_conn_send(lc, &l->sub, (struct flight){.kind = CMD_PSUBSCRIBE}, MONO_NEVER);
	lanes_event(lc->ls, &ev);
}

static void count_down(struct lanes *ls, const struct err *why, bool was_up)
{
	bool is_timeout = why->code == ERR_TIMEOUT;
	ls->counters[is_timeout ? MR_RECONNECT_TIMEOUT : was_up ? MR_RECONNECT_CLOSED : MR_RECONNECT_REFUSED]++;
}

/* Who reads it knows the address already; another one, dialled for a while, stays. */
static const char *without_addr(const struct lanes *ls, const char *text)
{
	static const char word[] = "redis ";
	size_t n = strlen(ls->addr);
	bool is_ours = strncmp(text, word, sizeof word - 1) == 0 && strncmp(text + sizeof word - 1, ls->addr, n) == 0 &&
		       strncmp(text + sizeof word - 1 + n, ": ", 2) == 0;
	return is_ours ? text + sizeof word - 1 + n + 2 : text;
}

/* An attempt that failed as the one before is said once a minute. */
static bool is_news(struct lanes *ls, const char *why)
{
	mono_ms now = mono_now();
	if (strcmp(ls->said, why) == 0 && now - ls->said_at < SAY_AGAIN_MS)
		return false;
	snprintf(ls->said, sizeof ls->said, "%s", why);
	ls->said_at = now;
	return true;
}

static void say_down(struct lanes *ls, const struct lane *l, const char *why, bool was_up)
{
	if (was_up)
		log_line(LOG_WARN, "shard=%u redis=%s conn=%s lost: %s", ls->o.index, ls->addr, roles[l->role], why);
	else if (l->role == CONN_COMMAND && is_news(ls, why))
		log_line(LOG_WARN, "shard=%u redis=%s %s; trying again", ls->o.index, ls->addr, why);
}

void lane_say_lost(const struct lane *l, size_t n)
{
	if (n > 0)
		log_line(LOG_WARN, "shard=%u redis=%s conn=%s was left and ended with commands unanswered n=%zu",
			l->ls->o.index, l->ls->addr, roles[l->role], n);
}

static void forget(struct lane_conn **list, struct lane_conn *lc)
{
	while (*list != lc)
		list = &(*list)->next;
	*list = lc->next;
	lc->next = NULL;
}

static void on_down(void *arg, struct redis_conn *c, const struct err *why, bool was_up)
{
	struct lane_conn *lc = arg;
	struct lane *l = lc->lane;
	(void)c;
	if (!l)
		return;
	if (lc == l->cur) {
		const char *text = without_addr(lc->ls, why->text);
		count_down(lc->ls, why, was_up);
		say_down(lc->ls, l, text, was_up);
		l->has_sub = false;
		lane_event(l, HANDOFF_DOWN, (struct slice){why->text, strlen(why->text)});
		tell_core(l, false, text);
		return;
	}
	bool is_next = lc == l->next;
	if (is_next)
		l->next = NULL;
	else
		forget(&l->old, lc);
	lane_say_lost(l, is_next ? 0 : lc->n_lost);
	lane_conn_close(lc);
	if (is_next)
		lane_event(l, HANDOFF_NEW_DOWN, (struct slice){why->text, strlen(why->text)});
	else
		lane_check_drained(l);
}

static void on_expired(struct lane_conn *lc, const struct push *p)
{
	struct lanes *ls = lc->ls;
	if (lanes_is_repeated(ls, p->stream, p->id))
		return;
	struct shard_event ev = {
		.kind = SHARD_EXPIRED, .role = CONN_SUBSCRIBER, .svc = SERVICE_NONE, .stream = p->stream, .id = p->id};
	ls->o.step(ls->o.arg, &ev);
}

static void on_pubsub(struct lane_conn *lc, const redisReply *r)
{
	struct push p;
	reply_decode_push(r, &p);
	if (p.kind == PUSH_LOCK_EXPIRED) {
		on_expired(lc, &p);
	} else if (p.kind == PUSH_SUBSCRIBED) {
		struct shard_event ev = {.kind = SHARD_PUSHED, .role = CONN_SUBSCRIBER, .svc = SERVICE_NONE};
		lc->ls->o.step(lc->ls->o.arg, &ev);
	}
}

static void on_push(void *arg, struct redis_conn *c, const redisReply *r)
{
	struct lane_conn *lc = arg;
	struct lane *l = lc->lane;
	(void)c;
	if (!l)
		return;
	struct note note;
	struct handoff_event ev = {.now = mono_now(), .lane = l->id, .note = &note};
	switch (push_decode(r, &note, &ev.text)) {
	case PUSH_IS_PUBSUB:
		on_pubsub(lc, r);
		return;
	case PUSH_IS_BROKEN:
		ev.kind = HANDOFF_BROKEN;
		break;
	case PUSH_IS_NOTE:
		ev.kind = lc == l->cur || lc == l->next ? HANDOFF_NOTE : HANDOFF_LATE;
		break;
	}
	lanes_event(lc->ls, &ev);
}

static void free_lane_conn(void *arg)
{
	mem_free(arg);
}

/* The subscription of a replacement. */
static void on_joined(struct lane_conn *lc, const redisReply *r)
{
	struct lane *l = lc->lane;
	if (!l || lc != l->next || !r)
		return;
	if (r->type != REDIS_REPLY_ERROR) {
		lane_event(l, HANDOFF_JOINED, (struct slice){0});
		return;
	}
	l->next = NULL;
	lane_conn_close(lc);
	lane_event(l, HANDOFF_NEW_DOWN, (struct slice){r->str, r->len});
}

static void answer_core(struct lanes *ls, const struct flight *f, const redisReply *r)
{
	struct reply reply;
	reply_decode(ls->decoder, (enum cmd_kind)f->kind, r, &reply);
	if (f->role == CONN_COMMAND && r)
		hist_add(&ls->command_time, (double)(mono_now() - f->sent) / 1000.0);
	struct shard_event ev = {
		.kind = SHARD_REPLY, .role = (enum conn_role)f->role, .svc = f->svc, .tag = f->tag, .reply = &reply};
	ls->o.step(ls->o.arg, &ev);
}

static void on_reply(void *arg, uint64_t index, const redisReply *r)
{
	struct lane_conn *lc = arg;
	struct lanes *ls = lc->ls;
	struct flight f = flight_end(ls, index);
	bool is_left = lc->lane && lc != lc->lane->cur && lc != lc->lane->next;
	lc->n_lost += is_left && !r && !f.is_own;
	lc->n_open--;
	if (r)
		fault_answer((uint32_t)index);
	if (ls->is_quitting)
		return;
	if (f.kind == CMD_PSUBSCRIBE)
		on_joined(lc, r);
	else if (!f.is_own)
		answer_core(ls, &f, r);
	if (lc->is_done)
		return;
	if (!lc->lane && lc->n_open == 0) {
		lc->is_done = true;
		forget(&ls->closing, lc);
		loop_defer(ls->o.loop, free_lane_conn, lc);
	} else if (lc->lane && lc != lc->lane->cur && lc != lc->lane->next) {
		lane_check_drained(lc->lane);
	}
}

/* ---- opening and closing ---- */

struct lane_conn *lane_dial(struct lane *l, const struct redis_opts *o, const char *addr)
{
	static const struct redis_events events = {.on_up = on_up, .on_down = on_down, .on_push = on_push};
	struct lanes *ls = l->ls;
	struct lane_conn *lc = mem_alloc(sizeof *lc);
	lc->ls = ls;
	lc->lane = l;
	lc->conn = redis_open(loop_uv(ls->o.loop), o, &events, on_reply, lc);
	struct redis_addr to;
	if (addr[0] && strcmp(addr, ls->addr) != 0 && redis_addr_parse(addr, &to, NULL) == ERR_OK)
		redis_redial(lc->conn, &to, "");
	return lc;
}

void lane_conn_close(struct lane_conn *lc)
{
	struct lanes *ls = lc->ls;
	bool is_silent = lc->n_open == 0 || ls->is_quitting;
	lc->lane = NULL;
	redis_close(lc->conn, is_silent);
	lc->conn = NULL;
	if (is_silent) {
		lc->is_done = true;
		loop_defer(ls->o.loop, free_lane_conn, lc);
		return;
	}
	lc->next = ls->closing;
	ls->closing = lc;
}

static void open_lane(struct lane *l)
{
	struct lanes *ls = l->ls;
	struct redis_opts o = ls->o.redis;
	o.is_subscriber = l->role == CONN_SUBSCRIBER;
	char addr[HANDOFF_ADDRESS];
	handoff_address(ls->handoff, mono_now(), "", addr);
	struct handoff_event ev = {
		.kind = HANDOFF_OPEN, .now = mono_now(), .lane = l->id, .role = l->role, .text = {addr, strlen(addr)}};
	l->cur = lane_dial(l, &o, addr);
	lanes_event(ls, &ev);
}

void lanes_open(struct lanes *ls, enum conn_role role, uint16_t svc)
{
	struct lane *l = role == CONN_COMMAND ? &ls->command : &ls->subscriber;
	if (role == CONN_READER) {
		struct lane **at = reader_at(ls, svc);
		if (*at)
			return;
		l = *at = mem_alloc(sizeof **at);
		*l = (struct lane){.ls = ls, .id = (uint32_t)CONN_ROLES + svc, .role = role, .svc = svc};
	}
	if (!l->cur)
		open_lane(l);
}

static void close_list(struct lane_conn **list)
{
	while (*list) {
		struct lane_conn *lc = *list;
		*list = lc->next;
		lc->next = NULL;
		lane_conn_close(lc);
	}
}

static void close_lane(struct lane *l)
{
	close_list(&l->old);
	if (l->next)
		lane_conn_close(l->next);
	if (l->cur)
		lane_conn_close(l->cur);
	l->cur = l->next = NULL;
}

static void free_lane(void *lane)
{
	mem_free(lane);
}

void lanes_close_reader(struct lanes *ls, uint16_t svc)
{
	struct lane **at = reader_at(ls, svc), *l = *at;
	if (!l)
		return;
	*at = l->more;
	close_lane(l);
	lane_event(l, HANDOFF_CLOSED, (struct slice){0});
	loop_defer(ls->o.loop, free_lane, l);
}

/* ---- sending ---- */

mono_ms lane_timeout(const struct lanes *ls, const struct lane *l, mono_ms now)
{
	if (l->relaxed_until > now)
		return mono_max(ls->o.command_timeout_ms, ls->o.rules.relaxed_timeout_ms);
	return ls->o.command_timeout_ms;
}

void lane_conn_send(struct lane_conn *lc, const struct cmd *cmd, struct flight f, mono_ms deadline)
{
	struct lanes *ls = lc->ls;
	struct command_argv *a = ls->o.argv;
	command_encode(a, cmd, ls->o.names_of(ls->o.arg, cmd->svc), ls->o.self);
	uint32_t i = flight_new(ls, f);
	lc->n_open++;
	fault_send(i, cmd, ls->o.self);
	if (cmd->asking)
		redis_send_asking(lc->conn, i, command_argc(a), command_args(a), command_lens(a), deadline);
	else
		redis_send(lc->conn, i, command_argc(a), command_args(a), command_lens(a), deadline);
}

bool lanes_send(struct lanes *ls, const struct effect *ef, mono_ms now)
{
	struct lane *l = ef->role == CONN_SUBSCRIBER ? &ls->subscriber
			 : ef->role == CONN_READER   ? *reader_at(ls, ef->svc)
						     : &ls->command;
	if (!l || !l->cur)
		return false;
	struct flight f = {.tag = ef->tag,
		.sent = now,
		.svc = ef->cmd.svc,
		.kind = (uint8_t)ef->cmd.kind,
		.role = (uint8_t)ef->role};
	/* .timeout_ms is what the command itself may take and the time-out */
	mono_ms own = ef->timeout_ms ? ef->timeout_ms - ls->o.command_timeout_ms : 0;
	mono_ms deadline = now + mono_max(ef->timeout_ms, own + lane_timeout(ls, l, now));
	l->own_ms = own;
	if (ef->cmd.kind == CMD_PSUBSCRIBE) {
		l->has_sub = true;
		l->sub = ef->cmd;
		deadline = MONO_NEVER;
	}
	lane_conn_send(l->cur, &ef->cmd, f, deadline);
	return true;
}

/* ---- settings ---- */

static void each_conn(struct lanes *ls, void (*fn)(struct redis_conn *c, const void *arg), const void *arg)
{
	for (struct lane *l = lane_first(ls); l; l = lane_after(ls, l)) {
		if (l->cur)
			fn(l->cur->conn, arg);
		if (l->next)
			fn(l->next->conn, arg);
	}
}

static void set_auth(struct redis_conn *c, const void *arg)
{
	const struct redis_opts *o = arg;
	redis_set_auth(c, o->username, o->password);
}

static void set_tls(struct redis_conn *c, const void *arg)
{
	const struct redis_opts *o = arg;
	redis_set_tls(c, o->tls);
}

static void set_times(struct redis_conn *c, const void *arg)
{
	const struct redis_opts *o = arg;
	redis_set_times(c, &o->times);
}

static void set_maint(struct redis_conn *c, const void *arg)
{
	const struct redis_opts *o = arg;
	redis_set_maint(c, o->maint, o->maint_endpoint_type);
}

void lanes_set_auth(struct lanes *ls, const char *username, const char *password)
{
	ls->o.redis.username = username;
	ls->o.redis.password = password;
	each_conn(ls, set_auth, &ls->o.redis);
}

void lanes_set_tls(struct lanes *ls, struct redis_tls *tls)
{
	ls->o.redis.tls = tls;
	each_conn(ls, set_tls, &ls->o.redis);
}

void lanes_set_times(struct lanes *ls, mono_ms command_timeout_ms, const struct redis_times *times)
{
	ls->o.command_timeout_ms = command_timeout_ms;
	ls->o.redis.times = *times;
	each_conn(ls, set_times, &ls->o.redis);
}

void lanes_set_maintenance(
	struct lanes *ls, const struct handoff_rules *rules, enum redis_maint mode, const char *endpoint_type)
{
	/* A connection that has moved keeps what "auto" came to at the configured address. */
	bool is_same = strcmp(ls->o.redis.maint_endpoint_type, endpoint_type) == 0;
	struct redis_opts o = {.maint = mode, .maint_endpoint_type = is_same ? NULL : endpoint_type};
	ls->o.rules = *rules;
	ls->o.redis.maint = mode;
	ls->o.redis.maint_endpoint_type = endpoint_type;
	handoff_set_rules(ls->handoff, rules);
	each_conn(ls, set_maint, &o);
}

/* ---- life ---- */

struct lanes *lanes_new(const struct lanes_opts *o)
{
	struct lanes *ls = mem_alloc(sizeof *ls);
	ls->o = *o;
	redis_addr_format(&o->redis.addr, ls->addr, sizeof ls->addr);
	char name[32];
	snprintf(name, sizeof name, "shard=%u", o->index);
	uint64_t seed;
	rng_secure(&seed, sizeof seed);
	ls->handoff = handoff_new(&o->rules, name, ls->addr, seed);
	ls->decoder = reply_decoder_new();
	ls->deadline = MONO_NEVER;
	ls->command = (struct lane){.ls = ls, .id = CONN_COMMAND, .role = CONN_COMMAND, .svc = SERVICE_NONE};
	ls->subscriber = (struct lane){.ls = ls, .id = CONN_SUBSCRIBER, .role = CONN_SUBSCRIBER, .svc = SERVICE_NONE};
	return ls;
}

void lanes_quit(struct lanes *ls)
{
	ls->is_quitting = true;
	while (ls->readers)
		lanes_close_reader(ls, ls->readers->svc);
	close_lane(&ls->subscriber);
	close_lane(&ls->command);
	close_list(&ls->closing);
}

void lanes_free(struct lanes *ls)
{
	if (!ls)
		return;
	handoff_free(ls->handoff);
	reply_decoder_free(ls->decoder);
	mem_free(ls->seen);
	mem_free(ls->flights);
	mem_free(ls);
}
