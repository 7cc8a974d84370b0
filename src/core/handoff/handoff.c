#include "core/handoff/handoff_p.h"
#include "core/sm.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

enum { FORGET_NOTE_MS = 60000, STABLE_MS = 1000 };

const char *note_name(enum note_kind kind)
{
	static const char *const names[] = {
		"MOVING", "MIGRATING", "MIGRATED", "FAILING_OVER", "FAILED_OVER", "SMIGRATING", "SMIGRATED"};
	return kind < NOTE_KINDS ? names[kind] : "";
}

const char *handoff_state_name(enum handoff_state s)
{
	static const char *const names[] = {"idle", "waiting", "queued", "dialing", "joining", "draining"};
	return s < HANDOFF_STATES ? names[s] : "";
}

/* ---- effects ---- */

struct handoff_effect *handoff_add(struct handoff *h, enum handoff_effect_kind kind, uint32_t conn)
{
	assert(h->out);
	struct handoff_effects *e = h->out;
	if (e->n == e->cap) {
		e->cap = e->cap ? e->cap * 2 : 16;
		e->v = mem_grow(e->v, e->cap, sizeof *e->v);
	}
	struct handoff_effect *ef = &e->v[e->n++];
	*ef = (struct handoff_effect){.kind = kind, .conn = conn};
	return ef;
}

void handoff_log(struct handoff *h, enum log_level level, const char *fmt, ...)
{
	char line[900];
	size_t n = (size_t)snprintf(line, sizeof line, "%s redis=%s ", h->name, h->configured);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line + n, sizeof line - n, fmt, ap);
	va_end(ap);
	struct handoff_effect *ef = handoff_add(h, HANDOFF_LOG, 0);
	ef->level = level;
	ef->text = text_new(line, strlen(line));
}

void handoff_effects_clear(struct handoff_effects *e)
{
	for (size_t i = 0; i < e->n; i++)
		text_unref(e->v[i].text);
	e->n = 0;
}

void handoff_effects_fini(struct handoff_effects *e)
{
	handoff_effects_clear(e);
	mem_free(e->v);
	*e = (struct handoff_effects){0};
}

/* ---- life ---- */

struct handoff *handoff_new(const struct handoff_rules *rules, const char *name, const char *configured, uint64_t seed)
{
	struct handoff *h = mem_alloc(sizeof *h);
	h->rules = *rules;
	snprintf(h->name, sizeof h->name, "%s", name);
	snprintf(h->configured, sizeof h->configured, "%s", configured);
	rng_seed(&h->rng, seed);
	return h;
}

void handoff_free(struct handoff *h)
{
	if (!h)
		return;
	mem_free(h->conns);
	mem_free(h);
}

void handoff_set_configured(struct handoff *h, const char *configured)
{
	snprintf(h->configured, sizeof h->configured, "%s", configured);
}

void handoff_set_rules(struct handoff *h, const struct handoff_rules *rules)
{
	h->rules = *rules;
}

static struct handoff_conn *handoff_conn_of(struct handoff *h, uint32_t conn)
{
	return conn < h->n_role_conns && h->conns[conn].is_open ? &h->conns[conn] : NULL;
}

uint32_t handoff_index(const struct handoff *h, const struct handoff_conn *l)
{
	assert(l >= h->conns && l < h->conns + h->n_role_conns);
	return (uint32_t)(l - h->conns);
}

/* ---- states ---- */

static const uint16_t allowed[HANDOFF_STATES] = {
	[HANDOFF_IDLE] = 1 << HANDOFF_IDLE | 1 << HANDOFF_WAITING,
	[HANDOFF_WAITING] = 1 << HANDOFF_QUEUED | 1 << HANDOFF_DIALING | 1 << HANDOFF_IDLE | 1 << HANDOFF_DRAINING |
			    1 << HANDOFF_WAITING,
	[HANDOFF_QUEUED] = 1 << HANDOFF_DIALING | 1 << HANDOFF_IDLE | 1 << HANDOFF_DRAINING | 1 << HANDOFF_WAITING,
	[HANDOFF_DIALING] = 1 << HANDOFF_JOINING | 1 << HANDOFF_DRAINING | 1 << HANDOFF_WAITING | 1 << HANDOFF_IDLE,
	[HANDOFF_JOINING] = 1 << HANDOFF_DRAINING | 1 << HANDOFF_WAITING | 1 << HANDOFF_IDLE,
	[HANDOFF_DRAINING] = 1 << HANDOFF_IDLE | 1 << HANDOFF_WAITING | 1 << HANDOFF_DRAINING,
};

static const char *const handoff_states[HANDOFF_STATES] = {
	"idle", "waiting", "queued", "dialing", "joining", "draining"};
static const struct sm handoff_machine = {
	.what = "handoff", .names = handoff_states, .allowed = allowed, .n = HANDOFF_STATES};

void handoff_move(struct handoff *h, struct handoff_conn *l, enum handoff_state to, const char *why)
{
	if (h->out->says_moves)
		handoff_log(h, LOG_DEBUG, "handoff of %s %s -> %s: %s", l->address, handoff_states[l->state],
			handoff_states[to], why);
	sm_move(&handoff_machine, &l->state, to, NULL, (struct slice){0}, why);
}

bool handoff_is_dialing(const struct handoff_conn *l)
{
	return l->state == HANDOFF_DIALING || l->state == HANDOFF_JOINING;
}

void handoff_leave(struct handoff *h, struct handoff_conn *l, enum op_end how)
{
	assert(l->is_open && how <= END_LEFT);
	if (handoff_is_dialing(l))
		handoff_add(h, HANDOFF_DROP_NEW, handoff_index(h, l));
	op_ended(h, l, how);
	handoff_move(h, l, l->left.are_there ? HANDOFF_DRAINING : HANDOFF_IDLE, "its part is over");
}

/* ---- the new one takes over ---- */

static void handoff_switch_over(struct handoff *h, struct handoff_conn *l)
{
	struct handoff_op *op = op_find(h, l->op);
	uint32_t i = handoff_index(h, l);
	handoff_add(h, HANDOFF_SWITCH, i);
	if (op) {
		snprintf(l->address, sizeof l->address, "%s", op->to[0] ? op->to : h->configured);
		breaker_good(h, op->to);
	}
	memcpy(l->peer, l->next_peer, sizeof l->peer);
	l->why[0] = '\0';
	hist_add(&h->metrics.duration, (double)(h->now - l->began) / 1000);
	op_ended(h, l, END_MOVED);
	relax_moved(h, l);
	l->is_up = l->left.are_there = true;
	l->left.are_late = false;
	l->up_at = h->now;
	l->left.close_at = h->now + (l->role == CONN_SUBSCRIBER ? LINGER_MS : h->rules.timeout_ms);
	l->left.unblock_at = l->role == CONN_READER ? h->now : MONO_NEVER;
	handoff_move(h, l, HANDOFF_DRAINING, "the replacement serves");
}

static void handoff_close_old(struct handoff *h, struct handoff_conn *l)
{
	if (!l->left.are_there)
		return;
	l->left.are_there = false;
	handoff_add(h, HANDOFF_CLOSE_OLD, handoff_index(h, l));
	if (l->state == HANDOFF_DRAINING)
		handoff_move(h, l, HANDOFF_IDLE, "the old one is closed");
}

/* ---- notifications ---- */

static bool is_start(enum note_kind k)
{
	return k == NOTE_MOVING || k == NOTE_MIGRATING || k == NOTE_FAILING_OVER || k == NOTE_SMIGRATING;
}

enum note_result { NOTE_ACTED, NOTE_DUPLICATE, NOTE_STALE, NOTE_MALFORMED, NOTE_RESULTS };

static void count_note(struct handoff *h, enum note_kind k, enum note_result r)
{
	h->metrics.c[MH_MOVING_ACTED + (int)k * NOTE_RESULTS + (int)r]++;
}

/* The same announcement reaches every connection. */
static bool is_first(struct handoff *h, const struct note *n)
{
	for (int i = 0; i < SEEN_NOTES; i++) {
		const struct seen_note *s = &h->seen[i];
		if (s->until > h->now && s->kind == n->kind && s->seq == n->seq)
			return false;
	}
	h->seen[h->seen_at++ % SEEN_NOTES] = (struct seen_note){
		(uint8_t)n->kind, n->seq, h->now + mono_max(FORGET_NOTE_MS, h->rules.relaxed_cap_ms)};
	return true;
}

static void handoff_on_moving(struct handoff *h, struct handoff_conn *l, struct note *n)
{
	bool is_new;
	n->seconds = n->seconds < 0 ? 0 : n->seconds > WINDOW_MAX_MS / 1000 ? WINDOW_MAX_MS / 1000 : n->seconds;
	struct handoff_op *op = handoff_op_of(h, n, l, &is_new);
	count_note(h, NOTE_MOVING, !op ? NOTE_STALE : is_new ? NOTE_ACTED : NOTE_DUPLICATE);
	if (!op)
		return;
	if (is_new) {
		handoff_log(h, LOG_NOTICE, "maintenance: MOVING seq=%lld seconds=%lld endpoint=%s", (long long)n->seq,
			(long long)n->seconds, n->endpoint[0] ? n->endpoint : "none: the configured address");
		handoff_add(h, HANDOFF_RENEW_ALL, 0);
	}
	if (l->last_op != op->serial)
		relax_note(h, l, n);
	attempt_join(h, l, op);
}

static void on_note(struct handoff *h, struct handoff_conn *l, const struct note *given)
{
	struct note n = *given;
	if (n.kind == NOTE_MOVING) {
		handoff_on_moving(h, l, &n);
		return;
	}
	bool first = is_first(h, &n),
	     has_effect = is_start(n.kind) || n.kind == NOTE_SMIGRATED || relax_matches(l, n.kind);
	count_note(h, n.kind, !first ? NOTE_DUPLICATE : has_effect ? NOTE_ACTED : NOTE_STALE);
	relax_note(h, l, &n);
	if (!first)
		return;
	handoff_log(h, has_effect ? LOG_NOTICE : LOG_DEBUG, "maintenance: %s seq=%lld%s", note_name(n.kind),
		(long long)n.seq,
		has_effect ? is_start(n.kind) ? ": time-outs relaxed" : "" : " (nothing waits for it)");
	if (is_start(n.kind))
		handoff_add(h, HANDOFF_RENEW_ALL, 0);
	if (n.kind == NOTE_SMIGRATED)
		handoff_add(h, HANDOFF_REFRESH, 0)->seq = n.seq;
}

static void on_broken(struct handoff *h, enum note_kind kind, struct slice name)
{
	if (kind < NOTE_KINDS)
		count_note(h, kind, NOTE_MALFORMED);
	if (h->is_broken_said)
		return;
	h->is_broken_said = true;
	handoff_log(h, LOG_WARN, "a push that is not understood is dropped, and later ones silently: %.*s",
		(int)(name.len < 60 ? name.len : 60), name.p ? name.p : "");
}

/* ---- connections ---- */

static void on_open(struct handoff *h, const struct handoff_event *ev)
{
	if (ev->conn >= h->n_role_conns) {
		h->conns = mem_grow(h->conns, ev->conn + 1, sizeof *h->conns);
		memset(h->conns + h->n_role_conns, 0, (ev->conn + 1 - h->n_role_conns) * sizeof *h->conns);
		h->n_role_conns = ev->conn + 1;
	}
	struct handoff_conn *l = &h->conns[ev->conn];
	*l = (struct handoff_conn){.is_open = true, .role = ev->role, .left.unblock_at = MONO_NEVER};
	relax_clear(l);
	snprintf(l->address, sizeof l->address, "%.*s", (int)ev->text.len, ev->text.p ? ev->text.p : "");
}

static void handoff_on_closed(struct handoff *h, struct handoff_conn *l)
{
	op_ended(h, l, END_LEFT);
	*l = (struct handoff_conn){0};
}

static void handoff_take_text(char *out, size_t cap, struct slice text)
{
	snprintf(out, cap, "%.*s", (int)(text.len < cap ? text.len : cap - 1), text.p ? text.p : "");
}

static void handoff_on_up(struct handoff *h, struct handoff_conn *l, const struct handoff_event *ev)
{
	l->is_up = true;
	l->up_at = h->now;
	l->why[0] = '\0';
	handoff_take_text(l->address, sizeof l->address, ev->text);
	handoff_take_text(l->peer, sizeof l->peer, ev->peer);
	struct handoff_op *op = op_find(h, l->op);
	if (op && (op->until <= h->now || op_has(op, l)))
		handoff_leave(h, l, END_LEFT);
}

static void handoff_on_down(struct handoff *h, struct handoff_conn *l, struct slice why)
{
	bool was_up = l->is_up;
	l->is_up = false;
	if (l->op)
		handoff_leave(h, l, was_up ? END_CUT : END_LEFT);
	relax_clear(l);
	if (was_up && h->now - l->up_at >= STABLE_MS)
		l->n_back = 0;
	l->last_op = 0; /* whoever answers next may say it again, and mean it */
	handoff_take_text(l->why, sizeof l->why, why);
	attempt_come_back(h, l, was_up);
}

static void on_new_up(struct handoff *h, struct handoff_conn *l, const struct handoff_event *ev)
{
	if (l->state != HANDOFF_DIALING)
		return;
	handoff_take_text(l->next_peer, sizeof l->next_peer, ev->peer);
	if (attempt_is_same(h, l))
		return;
	if (ev->flag)
		handoff_move(h, l, HANDOFF_JOINING, "it is up and subscribes");
	else
		handoff_switch_over(h, l);
}

static void handoff_on_event(struct handoff *h, const struct handoff_event *ev)
{
	struct handoff_conn *l = handoff_conn_of(h, ev->conn);
	if (ev->kind == HANDOFF_OPEN)
		on_open(h, ev);
	else if (ev->kind == HANDOFF_BROKEN)
		on_broken(h, ev->note->kind, ev->text);
	else if (ev->kind == HANDOFF_LATE)
		count_note(h, ev->note->kind, NOTE_STALE);
	if (!l)
		return;
	switch (ev->kind) {
	case HANDOFF_CLOSED:
		handoff_on_closed(h, l);
		break;
	case HANDOFF_NOTE:
		on_note(h, l, ev->note);
		break;
	case HANDOFF_UP:
		handoff_on_up(h, l, ev);
		break;
	case HANDOFF_DOWN:
		handoff_on_down(h, l, ev->text);
		break;
	case HANDOFF_NEW_UP:
		on_new_up(h, l, ev);
		break;
	case HANDOFF_NEW_DOWN:
		if (handoff_is_dialing(l))
			attempt_failed(h, l, ev->text);
		break;
	case HANDOFF_JOINED:
		if (l->state == HANDOFF_JOINING)
			handoff_switch_over(h, l);
		break;
	case HANDOFF_DRAINED:
		if (l->role != CONN_SUBSCRIBER)
			handoff_close_old(h, l);
		break;
	case HANDOFF_OPEN:
	case HANDOFF_LATE:
	case HANDOFF_BROKEN:
	case HANDOFF_TICK:
		break;
	}
}

/* ---- time ---- */

/* After a stall of ours, events of the old subscription may lie in its socket: it gets one more moment to be read. */
static bool is_unread(struct handoff *h, struct handoff_conn *l)
{
	if (l->role != CONN_SUBSCRIBER || l->left.are_late || h->now < l->left.close_at + LATE_MS)
		return false;
	l->left.are_late = true;
	l->left.close_at = h->now + LATE_MS;
	return true;
}

static void role_conn_due(struct handoff *h, struct handoff_conn *l)
{
	if (l->left.are_there && l->left.close_at <= h->now && !is_unread(h, l))
		handoff_close_old(h, l);
	if (l->left.are_there && l->left.unblock_at <= h->now) {
		l->left.unblock_at = h->now + UNBLOCK_EVERY_MS;
		handoff_add(h, HANDOFF_UNBLOCK, handoff_index(h, l));
	}
	if (handoff_is_dialing(l) && l->at <= h->now && handoff_index(h, l) != h->heard) {
		const char *why = l->state == HANDOFF_JOINING ? "its subscription is not confirmed in time"
							      : "it is not ready in time";
		handoff_add(h, HANDOFF_DROP_NEW, handoff_index(h, l));
		attempt_failed(h, l, (struct slice){why, strlen(why)});
	}
}

static mono_ms next_of(struct handoff *h, const struct handoff_conn *l)
{
	mono_ms next = MONO_NEVER;
	if (l->left.are_there)
		next = mono_min(l->left.close_at, l->left.unblock_at);
	if (handoff_is_dialing(l) || (l->state == HANDOFF_WAITING && l->is_up))
		next = mono_min(next, handoff_is_dialing(l) ? l->at : admit_at(h, l));
	return next;
}

void handoff_check(struct handoff *h)
{
	for (size_t i = 0; i < h->n_role_conns; i++) {
		const struct handoff_conn *l = &h->conns[i];
		if (!l->is_open)
			continue;
		assert(l->state < HANDOFF_STATES);
		assert(!handoff_is_dialing(l) || (l->op && op_find(h, l->op))); /* for what it was dialled is known */
		assert(!handoff_is_dialing(l) || l->at != MONO_NEVER);          /* nothing waits for ever */
		assert(l->state != HANDOFF_DRAINING || l->left.are_there);
	}
	for (int i = 0; i < BREAKERS; i++)
		assert(!h->breakers[i].n_failures || h->breakers[i].endpoint[0]);
}

mono_ms handoff_step(struct handoff *h, const struct handoff_event *ev, struct handoff_effects *out)
{
	assert(ev->now >= h->now);
	bool is_of_new = ev->kind == HANDOFF_NEW_UP || ev->kind == HANDOFF_NEW_DOWN || ev->kind == HANDOFF_JOINED;
	h->now = ev->now;
	h->out = out;
	h->heard = is_of_new ? ev->conn : UINT32_MAX;
	for (size_t i = 0; i < h->n_role_conns; i++)
		if (h->conns[i].is_open)
			role_conn_due(h, &h->conns[i]);
	handoff_on_event(h, ev);
	admit_due(h);
	mono_ms next = mono_min(op_tick(h), relax_tick(h));
	for (size_t i = 0; i < h->n_role_conns; i++) {
		if (h->conns[i].is_open && h->conns[i].left.unblock_at <= h->now && h->conns[i].left.are_there)
			role_conn_due(h, &h->conns[i]);
		if (h->conns[i].is_open)
			next = mono_min(next, next_of(h, &h->conns[i]));
	}
	handoff_check(h); /* rare and small: in every build */
	return next;
}
