#include "run/topology_move.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "codec/push.h"
#include <stdio.h>
#include <string.h>

struct topology_move {
	uv_loop_t *loop;
	uv_timer_t timer;
	struct topology_move_events ev;
	void *arg;
	struct redis_conn *conn, *next;
	struct handoff *handoff;
	struct handoff_rules rules;
	mono_ms timeout_ms, relaxed_until;
	char addr[HANDOFF_ADDRESS];      /* of the owner's list, which the present connection stands for */
	char no_opt_in[HANDOFF_ADDRESS]; /* where an attempt at a replacement ended at the opt-in */
	enum redis_maint maint;
	unsigned n_down; /* attempts that have failed, since it was up */
	bool is_leaving; /* by the owner's will */
};

static void topology_move_event(struct topology_move *m, struct handoff_event *ev);

static void topology_move_text(
	struct topology_move *m, enum handoff_event_kind kind, const char *text, const struct redis_conn *peer_of)
{
	char peer[HANDOFF_PEER] = "";
	if (peer_of)
		redis_peer(peer_of, peer, sizeof peer);
	struct handoff_event ev = {.kind = kind,
		.now = mono_now(),
		.role = CONN_COMMAND,
		.text = {text, strlen(text)},
		.peer = {peer, strlen(peer)}};
	topology_move_event(m, &ev);
}

/* ---- what connections tell */

static void topology_move_on_up(void *arg, struct redis_conn *c)
{
	struct topology_move *m = arg;
	char addr[HANDOFF_ADDRESS];
	redis_addr_format(redis_addr_of(c), addr, sizeof addr);
	topology_move_text(m, c == m->conn ? HANDOFF_UP : HANDOFF_NEW_UP, addr, c);
	if (c != m->conn)
		return; /* dropped: its name leads where we are */
	m->n_down = 0;
	m->ev.on_up(m->arg);
}

static void topology_move_next_down(struct topology_move *m, const struct err *why)
{
	struct redis_conn *c = m->next;
	if (redis_ended_at_opt_in(c))
		redis_addr_format(redis_addr_of(c), m->no_opt_in, sizeof m->no_opt_in);
	m->next = NULL;
	redis_close(c, true);
	topology_move_text(m, HANDOFF_NEW_DOWN, why->text, NULL);
}

static void topology_move_on_down(void *arg, struct redis_conn *c, const struct err *why, bool was_up)
{
	struct topology_move *m = arg;
	if (c == m->next) {
		topology_move_next_down(m, why);
		return;
	}
	m->n_down = was_up ? 0 : m->n_down + 1;
	if (!m->is_leaving)
		snprintf(m->addr, sizeof m->addr, "%s", m->ev.on_down(m->arg, why));
	m->is_leaving = false;
	handoff_set_configured(m->handoff, m->addr);
	topology_move_text(m, HANDOFF_DOWN, why->text, NULL); /* it says where the next attempt goes */
}

static void topology_move_on_push(void *arg, struct redis_conn *c, const redisReply *reply)
{
	struct topology_move *m = arg;
	struct note n;
	(void)c;
	if (push_decode(reply, &n, NULL) != PUSH_IS_NOTE || m->maint == REDIS_MAINT_OFF)
		return;
	struct handoff_event ev = {.kind = HANDOFF_NOTE, .now = mono_now(), .role = CONN_COMMAND, .note = &n};
	topology_move_event(m, &ev);
}

static void topology_move_on_reply(void *arg, uint64_t tag, const redisReply *reply)
{
	struct topology_move *m = arg;
	m->ev.on_reply(m->arg, tag, reply);
}

/* ---- effects */

/* o->addr is of the owner's list, from which the kind of endpoint to ask for derives; addr is dialled. */
static struct redis_conn *topology_move_open_conn(struct topology_move *m, struct redis_opts *o, const char *addr)
{
	static const struct redis_events events = {
		.on_up = topology_move_on_up, .on_down = topology_move_on_down, .on_push = topology_move_on_push};
	struct redis_addr to;
	struct err err;
	if (redis_addr_parse(m->addr, &o->addr, &err) != ERR_OK)
		log_line(LOG_ERROR, "redis.endpoints: %s", err.text);
	struct redis_conn *c = redis_open(m->loop, o, &events, topology_move_on_reply, m);
	if (strcmp(addr, m->addr) != 0 && redis_addr_parse(addr, &to, NULL) == ERR_OK)
		redis_redial(c, &to, "");
	return c;
}

static void topology_move_dial(struct topology_move *m, const struct handoff_effect *ef)
{
	struct redis_opts o;
	const char *addr = ef->address[0] ? ef->address : m->addr;
	m->ev.opts(m->arg, &o);
	o.maint_endpoint_type = redis_endpoint_type(m->conn);
	o.times.connect_ms = mono_min(mono_max(o.times.connect_ms, m->rules.relaxed_timeout_ms), ef->limit);
	m->next = topology_move_open_conn(m, &o, addr);
	if (strcmp(m->no_opt_in, addr) == 0)
		redis_skip_opt_in(m->next);
}

/* No question is lost: who asks is told that the connection is up, and asks again. */
static void topology_move_switch_over(struct topology_move *m)
{
	struct redis_opts o;
	m->ev.opts(m->arg, &o);
	redis_close(m->conn, true);
	m->conn = m->next;
	m->next = NULL;
	m->no_opt_in[0] = '\0';
	redis_set_times(m->conn, &o.times);
}

static void topology_move_target(struct topology_move *m, const struct handoff_effect *ef)
{
	enum { PATIENT = 8, PAUSE_MS = 100 };
	struct redis_addr to;
	mono_ms pause = m->n_down < PATIENT ? 0 : PAUSE_MS; /* all of the list refuse */
	if (redis_addr_parse(ef->address[0] ? ef->address : m->addr, &to, NULL) == ERR_OK)
		redis_dial_at(m->conn, &to, ef->until + pause, ef->limit);
}

static void topology_move_perform(struct topology_move *m, const struct handoff_effect *ef)
{
	switch (ef->kind) {
	case HANDOFF_DIAL:
		topology_move_dial(m, ef);
		break;
	case HANDOFF_DROP_NEW:
		if (m->next)
			redis_close(m->next, true);
		m->next = NULL;
		break;
	case HANDOFF_SWITCH:
		topology_move_switch_over(m);
		break;
	case HANDOFF_TARGET:
		topology_move_target(m, ef);
		break;
	case HANDOFF_RELAX:
		m->relaxed_until = ef->until;
		redis_relax(m->conn, ef->until, mono_max(m->timeout_ms, m->rules.relaxed_timeout_ms));
		break;
	case HANDOFF_LOG: /* the shards' connections hear the same, and say it */
		log_line(LOG_DEBUG, "%s", ef->text->bytes);
		break;
	case HANDOFF_UNBLOCK:   /* nothing blocks here, */
	case HANDOFF_CLOSE_OLD: /* nothing is left open, */
	case HANDOFF_RENEW_ALL: /* and the rest is the shards' */
	case HANDOFF_REFRESH:
		break;
	}
}

static void topology_move_on_timer(uv_timer_t *timer)
{
	struct handoff_event ev = {.kind = HANDOFF_TICK, .now = mono_now(), .conn = UINT32_MAX};
	topology_move_event(timer->data, &ev);
}

static void topology_move_event(struct topology_move *m, struct handoff_event *ev)
{
	struct handoff_effects effects = {.says_moves = log_is_on(LOG_DEBUG)};
	mono_ms next = handoff_step(m->handoff, ev, &effects);
	bool has_switched = false;
	for (size_t i = 0; i < effects.n; i++) {
		topology_move_perform(m, &effects.v[i]);
		has_switched |= effects.v[i].kind == HANDOFF_SWITCH;
	}
	handoff_effects_fini(&effects);
	if (has_switched) { /* what was left is closed already */
		struct handoff_event drained = {.kind = HANDOFF_DRAINED, .now = ev->now, .role = CONN_COMMAND};
		topology_move_event(m, &drained);
		return;
	}
	if (next == MONO_NEVER)
		uv_timer_stop(&m->timer);
	else
		uv_timer_start(
			&m->timer, topology_move_on_timer, (uint64_t)mono_max(next - (mono_ms)uv_now(m->loop), 1), 0);
}

/* ---- life */

struct topology_move *topology_move_open(uv_loop_t *loop, const struct redis_opts *opts, const char *addr,
	const struct handoff_rules *rules, const struct topology_move_events *ev, void *arg)
{
	struct topology_move *m = mem_alloc(sizeof *m);
	m->loop = loop;
	m->ev = *ev;
	m->arg = arg;
	m->rules = *rules;
	m->maint = opts->maint;
	snprintf(m->addr, sizeof m->addr, "%s", addr);
	uint64_t seed;
	rng_secure(&seed, sizeof seed);
	m->handoff = handoff_new(rules, "topology", addr, seed);
	uv_timer_init(loop, &m->timer);
	m->timer.data = m;
	struct redis_opts o = *opts;
	m->conn = topology_move_open_conn(m, &o, addr);
	topology_move_text(m, HANDOFF_OPEN, addr, NULL);
	return m;
}

static void topology_move_on_timer_closed(uv_handle_t *h)
{
	struct topology_move *m = h->data;
	handoff_free(m->handoff);
	mem_free(m);
}

void topology_move_close(struct topology_move *m)
{
	if (!m)
		return;
	redis_close(m->conn, true);
	if (m->next)
		redis_close(m->next, true);
	uv_close((uv_handle_t *)&m->timer, topology_move_on_timer_closed);
}

/* ---- the owner's calls */

struct redis_conn *topology_move_conn(struct topology_move *m)
{
	return m->conn;
}

void topology_move_redial(struct topology_move *m, const char *addr, const char *why)
{
	struct redis_addr to;
	snprintf(m->addr, sizeof m->addr, "%s", addr);
	m->is_leaving = redis_is_up(m->conn);
	if (redis_addr_parse(addr, &to, NULL) == ERR_OK)
		redis_redial(m->conn, &to, why);
}

mono_ms topology_move_timeout(const struct topology_move *m, mono_ms timeout_ms)
{
	return mono_now() < m->relaxed_until ? mono_max(timeout_ms, m->rules.relaxed_timeout_ms) : timeout_ms;
}

void topology_move_set_rules(
	struct topology_move *m, const struct handoff_rules *rules, mono_ms timeout_ms, const struct redis_opts *opts)
{
	m->rules = *rules;
	m->timeout_ms = timeout_ms;
	m->maint = opts->maint;
	handoff_set_rules(m->handoff, rules);
	redis_set_times(m->conn, &opts->times);
	redis_set_maint(m->conn, opts->maint, opts->maint_endpoint_type);
}

void topology_move_set_auth(struct topology_move *m, const char *username, const char *password)
{
	redis_set_auth(m->conn, username, password);
	if (m->next)
		redis_set_auth(m->next, username, password);
}

void topology_move_set_next_auth(struct topology_move *m, const char *username, const char *password)
{
	redis_set_next_auth(m->conn, username, password);
	if (m->next)
		redis_set_next_auth(m->next, username, password);
}

void topology_move_set_tls(struct topology_move *m, struct redis_tls *tls)
{
	redis_set_tls(m->conn, tls);
	if (m->next)
		redis_set_tls(m->next, tls);
}
