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

/* ---- connections ---- */

struct role_conn *role_conn_first(struct role_conns *ls)
{
	return &ls->command;
}

struct role_conn *role_conn_after(struct role_conns *ls, const struct role_conn *l)
{
	if (l == &ls->command)
		return &ls->subscriber;
	return l == &ls->subscriber ? ls->readers : l->more;
}

struct role_conn *role_conn_by_id(struct role_conns *ls, uint32_t id)
{
	for (struct role_conn *l = role_conn_first(ls); l; l = role_conn_after(ls, l))
		if (l->id == id && l->cur)
			return l;
	return NULL;
}

static struct role_conn **reader_at(struct role_conns *ls, uint16_t svc)
{
	struct role_conn **at = &ls->readers;
	while (*at && (*at)->svc != svc)
		at = &(*at)->more;
	return at;
}

/* ---- flights ---- */

static uint32_t inflight_new(struct role_conns *ls, struct inflight f)
{
	if (!ls->free_inflight) {
		uint32_t cap = ls->n_inflights ? ls->n_inflights * 2 : 256;
		ls->inflights = mem_grow(ls->inflights, cap, sizeof *ls->inflights);
		for (uint32_t i = ls->n_inflights ? ls->n_inflights : 1; i < cap; i++) {
			ls->inflights[i] = (struct inflight){.next_free = ls->free_inflight};
			ls->free_inflight = i;
		}
		ls->n_inflights = cap;
	}
	uint32_t i = ls->free_inflight;
	ls->free_inflight = ls->inflights[i].next_free;
	ls->inflights[i] = f;
	return i;
}

static struct inflight inflight_end(struct role_conns *ls, uint64_t index)
{
	struct inflight f = ls->inflights[index];
	ls->inflights[index].next_free = ls->free_inflight;
	ls->free_inflight = (uint32_t)index;
	return f;
}

/* ---- what a connection tells ---- */

static void tell_core(struct role_conn *l, bool up, const char *why)
{
	struct role_conns *ls = l->ls;
	struct shard_event ev = {.kind = SHARD_CONN, .role = l->role, .svc = l->svc, .up = up, .client_id = -1};
	if (up) {
		ev.client_id = redis_client_id(l->cur->conn);
		ev.is_valkey = redis_is_valkey(l->cur->conn);
		ev.has_pushes = redis_resp(l->cur->conn) == 3;
	} else {
		ev.text = (struct slice){why, strlen(why)};
	}
	ls->o.step(ls->o.arg, &ev);
}

static void role_conn_on_up(void *arg, struct redis_conn *c)
{
	struct role_link *lc = arg;
	struct role_conn *l = lc->rconn;
	char addr[HANDOFF_ADDRESS], peer[HANDOFF_PEER];
	redis_addr_format(redis_addr_of(c), addr, sizeof addr);
	redis_peer(c, peer, sizeof peer);
	if (!l)
		return;
	struct handoff_event ev = {.now = mono_now(), .conn = l->id, .role = l->role, .peer = {peer, strlen(peer)}};
	if (lc == l->cur) {
		if (l->role == CONN_COMMAND)
			memset(lc->ls->said, 0, sizeof lc->ls->said);
		ev.kind = HANDOFF_UP;
		ev.text = (struct slice){addr, strlen(addr)};
		role_conns_event(lc->ls, &ev);
		tell_core(l, true, NULL);
		role_conn_doubt_server(lc);
		return;
	}
	bool must_join = l->role == CONN_SUBSCRIBER && l->has_sub;
	ev.kind = HANDOFF_NEW_UP;
	ev.flag = must_join;
	if (l->role == CONN_SUBSCRIBER)
		role_conns_begin_repeats(lc->ls);
	if (must_join)
		role_link_send(lc, &l->sub, (struct inflight){.kind = CMD_PSUBSCRIBE}, MONO_NEVER);
	role_conns_event(lc->ls, &ev);
}

static void count_down(struct role_conns *ls, const struct err *why, bool was_up)
{
	bool is_timeout = why->code == ERR_TIMEOUT;
	enum refusal refusal = reply_refusal_in(why->text);
	if (refusal != REFUSAL_NONE)
		ls->counters[MR_REFUSED_OOM + (refusal - REFUSAL_OOM)]++;
	ls->counters[is_timeout ? MR_RECONNECT_TIMEOUT : was_up ? MR_RECONNECT_CLOSED : MR_RECONNECT_REFUSED]++;
}

/* Who reads it knows the address already; another one, dialled for a while, stays. */
static const char *without_addr(const struct role_conns *ls, const char *text)
{
	static const char word[] = "redis ";
	size_t n = strlen(ls->addr);
	bool is_ours = strncmp(text, word, sizeof word - 1) == 0 && strncmp(text + sizeof word - 1, ls->addr, n) == 0 &&
		       strncmp(text + sizeof word - 1 + n, ": ", 2) == 0;
	return is_ours ? text + sizeof word - 1 + n + 2 : text;
}

/* An attempt that failed as the one before is said once a minute. */
static bool role_conn_is_news(struct role_conns *ls, const char *why)
{
	mono_ms now = mono_now();
	struct role_conns_said *s = &ls->said[0], *other = &ls->said[1];
	if (strcmp(s->why, why) != 0 && (strcmp(other->why, why) == 0 || other->at < s->at))
		s = other;
	if (strcmp(s->why, why) == 0 && now - s->at < SAY_AGAIN_MS)
		return false;
	snprintf(s->why, sizeof s->why, "%s", why);
	s->at = now;
	return true;
}

static void say_down(struct role_conns *ls, const struct role_conn *l, const char *why, bool was_up)
{
	if (was_up)
		log_line(LOG_WARN, "shard=%u redis=%s conn=%s lost: %s", ls->o.index, ls->addr, roles[l->role], why);
	else if (l->role == CONN_COMMAND && role_conn_is_news(ls, why))
		log_line(LOG_WARN, "shard=%u redis=%s %s; trying again", ls->o.index, ls->addr, why);
}

void role_conn_say_lost(const struct role_conn *l, size_t n)
{
	if (n > 0)
		log_line(LOG_WARN, "shard=%u redis=%s conn=%s was left and ended with commands unanswered n=%zu",
			l->ls->o.index, l->ls->addr, roles[l->role], n);
}

static void role_conn_forget(struct role_link **list, struct role_link *lc)
{
	while (*list != lc)
		list = &(*list)->next;
	*list = lc->next;
	lc->next = NULL;
}

static void role_conn_on_down(void *arg, struct redis_conn *c, const struct err *why, bool was_up)
{
	struct role_link *lc = arg;
	struct role_conn *l = lc->rconn;
	if (!l)
		return;
	if (lc == l->cur) {
		const char *text = without_addr(lc->ls, why->text);
		count_down(lc->ls, why, was_up);
		say_down(lc->ls, l, text, was_up);
		l->has_sub = false;
		lc->server =
			(struct role_link_server){.was_up = lc->server.was_up || was_up, .anew_at = lc->server.anew_at};
		role_conn_event(l, HANDOFF_DOWN, (struct slice){why->text, strlen(why->text)});
		tell_core(l, false, text);
		return;
	}
	bool is_next = lc == l->next;
	if (is_next)
		l->next = NULL;
	else
		role_conn_forget(&l->old, lc);
	role_conn_say_lost(l, is_next ? 0 : lc->n_lost);
	if (is_next && redis_ended_at_opt_in(c))
		redis_addr_format(redis_addr_of(c), l->no_opt_in, sizeof l->no_opt_in);
	role_link_close(lc);
	if (is_next)
		role_conn_event(l, HANDOFF_NEW_DOWN, (struct slice){why->text, strlen(why->text)});
	else
		role_conn_check_drained(l);
}

static void role_conn_on_expired(struct role_link *lc, const struct push *p)
{
	struct role_conns *ls = lc->ls;
	if (role_conns_is_repeated(ls, p->stream, p->id, lc->side))
		return;
	struct shard_event ev = {
		.kind = SHARD_EXPIRED, .role = CONN_SUBSCRIBER, .svc = SERVICE_NONE, .stream = p->stream, .id = p->id};
	ls->o.step(ls->o.arg, &ev);
}

/* What a data stream's feed has read as empty has changed; a hint, over whichever connection it comes. */
static void on_changed(struct role_link *lc, const redisReply *r)
{
	struct slice key;
	for (size_t i = 0; reply_changed_key(r, i, &key); i++) {
		struct shard_event ev = {.kind = SHARD_CHANGED, .svc = SERVICE_NONE, .stream = key};
		lc->ls->o.step(lc->ls->o.arg, &ev);
	}
}

static void on_pubsub(struct role_link *lc, const redisReply *r)
{
	struct push p;
	reply_decode_push(r, &p);
	if (p.kind == PUSH_LOCK_EXPIRED) {
		role_conn_on_expired(lc, &p);
	} else if (p.kind == PUSH_CHANGED) {
		on_changed(lc, r);
	} else if (p.kind == PUSH_SUBSCRIBED) {
		struct shard_event ev = {.kind = SHARD_PUSHED, .role = CONN_SUBSCRIBER, .svc = SERVICE_NONE};
		lc->ls->o.step(lc->ls->o.arg, &ev);
	}
}

static void role_conn_on_push(void *arg, struct redis_conn *c, const redisReply *r)
{
	struct role_link *lc = arg;
	struct role_conn *l = lc->rconn;
	(void)c;
	if (!l)
		return;
	struct note note;
	struct handoff_event ev = {.now = mono_now(), .conn = l->id, .note = &note};
	switch (push_decode(r, &note, &ev.text)) {
	case PUSH_IS_PUBSUB:
		on_pubsub(lc, r);
		return;
	case PUSH_IS_BROKEN:
		ev.kind = HANDOFF_BROKEN;
		break;
	case PUSH_IS_NOTE:
		if (lc->ls->o.redis.maint == REDIS_MAINT_OFF)
			return; /* nobody asked for it, or does no longer */
		ev.kind = lc == l->cur || lc == l->next ? HANDOFF_NOTE : HANDOFF_LATE;
		break;
	}
	role_conns_event(lc->ls, &ev);
}

static void free_role_link(void *arg)
{
	mem_free(arg);
}

/* The subscription of a replacement. */
static void on_joined(struct role_link *lc, const redisReply *r)
{
	struct role_conn *l = lc->rconn;
	if (!l || lc != l->next || !r)
		return;
	if (r->type != REDIS_REPLY_ERROR) {
		role_conn_event(l, HANDOFF_JOINED, (struct slice){0});
		return;
	}
	l->next = NULL;
	role_link_close(lc);
	role_conn_event(l, HANDOFF_NEW_DOWN, (struct slice){r->str, r->len});
}

static void answer_core(struct role_link *lc, const struct inflight *f, const redisReply *r)
{
	struct role_conns *ls = lc->ls;
	struct reply reply;
	reply_decode(ls->decoder, (enum cmd_kind)f->kind, r, &reply);
	role_conn_drop_unaligned(lc, r, &reply);
	struct shard_event ev = {
		.kind = SHARD_REPLY, .role = (enum conn_role)f->role, .svc = f->svc, .tag = f->tag, .reply = &reply};
	ls->o.step(ls->o.arg, &ev);
	if (f->role == CONN_COMMAND && r)
		hist_add(&ls->command_time, (double)(ev.now - f->sent) / 1000.0); /* .now: its turn's */
}

static void role_conn_on_reply(void *arg, uint64_t index, const redisReply *r)
{
	struct role_link *lc = arg;
	struct role_conns *ls = lc->ls;
	struct inflight f = inflight_end(ls, index);
	bool is_left = lc->rconn && lc != lc->rconn->cur && lc != lc->rconn->next;
	lc->n_lost += is_left && !r && !f.is_own;
	lc->n_open--;
	if (r)
		fault_answer((uint32_t)index);
	if (ls->is_quitting)
		return;
	if (f.kind == CMD_PSUBSCRIBE)
		on_joined(lc, r);
	else if (!f.is_own)
		answer_core(lc, &f, r);
	else if (f.kind == CMD_RUN_ID)
		role_conn_on_server(lc, r);
	if (lc->is_done)
		return;
	if (!lc->rconn && lc->n_open == 0) {
		lc->is_done = true;
		role_conn_forget(&ls->closing, lc);
		loop_defer(ls->o.loop, free_role_link, lc);
	} else if (lc->rconn && lc != lc->rconn->cur && lc != lc->rconn->next) {
		role_conn_check_drained(lc->rconn);
	}
}

/* ---- opening and closing ---- */

struct role_link *role_conn_dial(struct role_conn *l, const struct redis_opts *o, const char *addr)
{
	static const struct redis_events events = {
		.on_up = role_conn_on_up, .on_down = role_conn_on_down, .on_push = role_conn_on_push};
	struct role_conns *ls = l->ls;
	struct role_link *lc = mem_alloc(sizeof *lc);
	lc->ls = ls;
	lc->rconn = l;
	lc->side = l->cur ? !l->cur->side : 0;
	lc->conn = redis_open(loop_uv(ls->o.loop), o, &events, role_conn_on_reply, lc);
	struct redis_addr to;
	if (addr[0] && strcmp(addr, ls->addr) != 0 && redis_addr_parse(addr, &to, NULL) == ERR_OK)
		redis_redial(lc->conn, &to, "");
	return lc;
}

void role_link_close(struct role_link *lc)
{
	struct role_conns *ls = lc->ls;
	bool is_silent = lc->n_open == 0 || ls->is_quitting;
	lc->rconn = NULL;
	redis_close(lc->conn, is_silent);
	if (is_silent) {
		lc->conn = NULL;
		lc->is_done = true;
		loop_defer(ls->o.loop, free_role_link, lc);
		return;
	}
	lc->next = ls->closing;
	ls->closing = lc;
}

static void open_role_conn(struct role_conn *l)
{
	struct role_conns *ls = l->ls;
	struct redis_opts o = ls->o.redis;
	o.is_subscriber = l->role == CONN_SUBSCRIBER;
	char addr[HANDOFF_ADDRESS];
	handoff_address(ls->handoff, mono_now(), "", addr);
	struct handoff_event ev = {
		.kind = HANDOFF_OPEN, .now = mono_now(), .conn = l->id, .role = l->role, .text = {addr, strlen(addr)}};
	l->cur = role_conn_dial(l, &o, addr);
	role_conns_event(ls, &ev);
}

void role_conns_open(struct role_conns *ls, enum conn_role role, uint16_t svc)
{
	struct role_conn *l = role == CONN_COMMAND ? &ls->command : &ls->subscriber;
	if (role == CONN_READER) {
		struct role_conn **at = reader_at(ls, svc);
		if (*at)
			return;
		l = *at = mem_alloc(sizeof **at);
		*l = (struct role_conn){.ls = ls, .id = (uint32_t)CONN_ROLES + svc, .role = role, .svc = svc};
	}
	if (!l->cur)
		open_role_conn(l);
}

static void close_list(struct role_link **list)
{
	while (*list) {
		struct role_link *lc = *list;
		*list = lc->next;
		lc->next = NULL;
		role_link_close(lc);
	}
}

static void close_role_conn(struct role_conn *l)
{
	close_list(&l->old);
	if (l->next)
		role_link_close(l->next);
	if (l->cur)
		role_link_close(l->cur);
	l->cur = l->next = NULL;
}

static void free_role_conn(void *rconn)
{
	mem_free(rconn);
}

void role_conns_close_reader(struct role_conns *ls, uint16_t svc)
{
	struct role_conn **at = reader_at(ls, svc), *l = *at;
	if (!l)
		return;
	*at = l->more;
	close_role_conn(l);
	role_conn_event(l, HANDOFF_CLOSED, (struct slice){0});
	loop_defer(ls->o.loop, free_role_conn, l);
}

/* ---- sending ---- */

mono_ms role_conn_timeout(const struct role_conns *ls, const struct role_conn *l, mono_ms now)
{
	if (l->relaxed_until > now)
		return mono_max(ls->o.command_timeout_ms, ls->o.rules.relaxed_timeout_ms);
	return ls->o.command_timeout_ms;
}

void role_link_send(struct role_link *lc, const struct cmd *cmd, struct inflight f, mono_ms deadline)
{
	struct role_conns *ls = lc->ls;
	struct command_argv *a = ls->o.argv;
	command_encode(a, cmd, ls->o.names_of(ls->o.arg, cmd->svc), ls->o.self);
	uint32_t i = inflight_new(ls, f);
	lc->n_open++;
	fault_send(i, cmd, ls->o.self);
	if (cmd->asking)
		redis_send_asking(lc->conn, i, command_argc(a), command_args(a), command_lens(a), deadline);
	else
		redis_send(lc->conn, i, command_argc(a), command_args(a), command_lens(a), deadline);
}

bool role_conns_send(struct role_conns *ls, const struct effect *ef, mono_ms now)
{
	struct role_conn *l = ef->role == CONN_SUBSCRIBER ? &ls->subscriber
			      : ef->role == CONN_READER   ? *reader_at(ls, ef->svc)
							  : &ls->command;
	if (!l || !l->cur)
		return false;
	struct inflight f = {.tag = ef->tag,
		.sent = now,
		.svc = ef->cmd.svc,
		.kind = (uint8_t)ef->cmd.kind,
		.role = (uint8_t)ef->role};
	/* .timeout_ms is what the command itself may take and the time-out */
	mono_ms own = ef->timeout_ms ? ef->timeout_ms - ls->o.command_timeout_ms : 0;
	const mono_ms deadline = now + mono_max(ef->timeout_ms, own + role_conn_timeout(ls, l, now));
	l->own_ms = own;
	if (ef->cmd.kind == CMD_PSUBSCRIBE) {
		l->has_sub = true;
		l->sub = ef->cmd;
	}
	role_link_send(l->cur, &ef->cmd, f, deadline);
	return true;
}

/* ---- settings ---- */

static void each_conn(struct role_conns *ls, void (*fn)(struct redis_conn *c, const void *arg), const void *arg)
{
	for (struct role_conn *l = role_conn_first(ls); l; l = role_conn_after(ls, l)) {
		if (l->cur)
			fn(l->cur->conn, arg);
		if (l->next)
			fn(l->next->conn, arg);
	}
}

static void role_conn_set_auth(struct redis_conn *c, const void *arg)
{
	const struct redis_opts *o = arg;
	redis_set_auth(c, o->username, o->password);
}

static void role_conn_set_tls(struct redis_conn *c, const void *arg)
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

static void role_conn_set_next_auth(struct redis_conn *c, const void *arg)
{
	const struct redis_opts *o = arg;
	redis_set_next_auth(c, o->username, o->password);
}

void role_conns_set_auth(struct role_conns *ls, const char *username, const char *password, bool is_for_next)
{
	ls->o.redis.username = username;
	ls->o.redis.password = password;
	each_conn(ls, is_for_next ? role_conn_set_next_auth : role_conn_set_auth, &ls->o.redis);
}

void role_conns_set_tls(struct role_conns *ls, struct redis_tls *tls)
{
	ls->o.redis.tls = tls;
	each_conn(ls, role_conn_set_tls, &ls->o.redis);
}

void role_conns_set_times(struct role_conns *ls, mono_ms command_timeout_ms, const struct redis_times *times)
{
	ls->o.command_timeout_ms = command_timeout_ms;
	ls->o.redis.times = *times;
	each_conn(ls, set_times, &ls->o.redis);
}

void role_conns_set_maintenance(
	struct role_conns *ls, const struct handoff_rules *rules, enum redis_maint mode, const char *endpoint_type)
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

struct role_conns *role_conns_new(const struct role_conns_opts *o)
{
	struct role_conns *ls = mem_alloc(sizeof *ls);
	ls->o = *o;
	redis_addr_format(&o->redis.addr, ls->addr, sizeof ls->addr);
	char name[32];
	snprintf(name, sizeof name, "shard=%u", o->index);
	uint64_t seed;
	rng_secure(&seed, sizeof seed);
	ls->handoff = handoff_new(&o->rules, name, ls->addr, seed);
	ls->decoder = reply_decoder_new();
	ls->deadline = MONO_NEVER;
	ls->command = (struct role_conn){.ls = ls, .id = CONN_COMMAND, .role = CONN_COMMAND, .svc = SERVICE_NONE};
	ls->subscriber =
		(struct role_conn){.ls = ls, .id = CONN_SUBSCRIBER, .role = CONN_SUBSCRIBER, .svc = SERVICE_NONE};
	return ls;
}

void role_conns_quit(struct role_conns *ls)
{
	ls->is_quitting = true;
	while (ls->readers)
		role_conns_close_reader(ls, ls->readers->svc);
	close_role_conn(&ls->subscriber);
	close_role_conn(&ls->command);
	close_list(&ls->closing);
}

void role_conns_free(struct role_conns *ls)
{
	if (!ls)
		return;
	handoff_free(ls->handoff);
	reply_decoder_free(ls->decoder);
	mem_free(ls->seen);
	mem_free(ls->inflights);
	mem_free(ls);
}
