#include "core/handoff/handoff_p.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

enum { RETRY_MS = 100, RETRY_MAX_MS = 2000, FORGET_NOTE_MS = 60000, READER_FIRST_MS = 200 };

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
	struct handoff_effects *e = h->out;
	if (e->n == e->cap) {
		e->cap = e->cap ? e->cap * 2 : 16;
		e->v = mem_grow(e->v, e->cap, sizeof *e->v);
	}
	struct handoff_effect *ef = &e->v[e->n++];
	*ef = (struct handoff_effect){.kind = kind, .conn = conn};
	return ef;
}

static void add_to(struct handoff *h, enum handoff_effect_kind kind, uint32_t conn, const char *address, bool now)
{
	struct handoff_effect *ef = handoff_add(h, kind, conn);
	snprintf(ef->address, sizeof ef->address, "%s", address);
	ef->now = now;
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

void handoff_set_rules(struct handoff *h, const struct handoff_rules *rules)
{
	h->rules = *rules;
}

static struct handoff_conn *handoff_conn_of(struct handoff *h, uint32_t conn)
{
	return conn < h->n_role_conns && h->conns[conn].is_open ? &h->conns[conn] : NULL;
}

static uint32_t index_of(const struct handoff *h, const struct handoff_conn *l)
{
	return (uint32_t)(l - h->conns);
}

/* ---- states ---- */

static const uint8_t allowed[HANDOFF_STATES] = {
	[HANDOFF_IDLE] = 1 << HANDOFF_IDLE | 1 << HANDOFF_WAITING,
	[HANDOFF_WAITING] = 1 << HANDOFF_QUEUED | 1 << HANDOFF_DIALING | 1 << HANDOFF_IDLE | 1 << HANDOFF_DRAINING |
			    1 << HANDOFF_WAITING,
	[HANDOFF_QUEUED] = 1 << HANDOFF_DIALING | 1 << HANDOFF_IDLE | 1 << HANDOFF_DRAINING | 1 << HANDOFF_WAITING,
	[HANDOFF_DIALING] = 1 << HANDOFF_JOINING | 1 << HANDOFF_DRAINING | 1 << HANDOFF_WAITING | 1 << HANDOFF_IDLE,
	[HANDOFF_JOINING] = 1 << HANDOFF_DRAINING | 1 << HANDOFF_WAITING | 1 << HANDOFF_IDLE,
	[HANDOFF_DRAINING] = 1 << HANDOFF_IDLE | 1 << HANDOFF_WAITING | 1 << HANDOFF_DRAINING,
};

static void handoff_move(struct handoff_conn *l, enum handoff_state to)
{
	assert(allowed[l->state] & 1 << to);
	l->state = (uint8_t)to;
}

static bool is_dialing(const struct handoff_conn *l)
{
	return l->state == HANDOFF_DIALING || l->state == HANDOFF_JOINING;
}

/* Its part in the operation is over, or never was; what was left before may still drain. */
static void leave(struct handoff *h, struct handoff_conn *l, enum op_end how)
{
	if (is_dialing(l))
		handoff_add(h, HANDOFF_DROP_NEW, index_of(h, l));
	op_ended(h, l, how);
	handoff_move(l, l->has_old ? HANDOFF_DRAINING : HANDOFF_IDLE);
}

/* ---- an operation, for one connection ---- */

static void handoff_begin(struct handoff *h, struct handoff_conn *l, struct op *op)
{
	op->n_open++;
	op->is_said = false;
	l->op = op->serial;
	l->n_tries = 0;
	l->given_up = 0;
	l->began = h->now;
	mono_ms early = op->jitter / 4;
	mono_ms wait = l->role == CONN_READER ? (mono_ms)rng_below(&h->rng, (uint64_t)early + 1)
					      : early + (mono_ms)rng_below(&h->rng, (uint64_t)(op->jitter - early) + 1);
	l->at = mono_max(op->due, h->now) + wait;
	l->latest = mono_max(op->due, h->now) + mono_max(op->jitter, READER_FIRST_MS);
	handoff_move(l, HANDOFF_WAITING);
}

static void join(struct handoff *h, struct handoff_conn *l, struct op *op)
{
	if (l->last_op == op->serial)
		return; /* this connection heard it, or has moved for it already */
	l->last_op = op->serial;
	if (l->op)
		leave(h, l, END_SUPERSEDED);
	bool is_there = op->to[0] ? strcmp(l->address, op->to) == 0 : l->is_up && l->up_at > op->due;
	if (!is_there)
		handoff_begin(h, l, op);
}

static void failed(struct handoff *h, struct handoff_conn *l, struct slice why)
{
	struct op *op = op_find(h, l->op);
	if (!op)
		return;
	snprintf(op->why, sizeof op->why, "%.*s", (int)(why.len < 150 ? why.len : 150), why.p ? why.p : "");
	breaker_result(h, op->to, false);
	uint64_t step = (uint64_t)mono_min((mono_ms)RETRY_MS << mono_min(l->n_tries, 10), RETRY_MAX_MS);
	mono_ms wait = (mono_ms)(step / 2 + rng_below(&h->rng, step / 2 + 1));
	l->n_tries++;
	if (l->n_tries > h->rules.max_retries || h->now + wait >= op->until || !breaker_allows(h, op->to)) {
		l->given_up = op->serial;
		op_ended(h, l, END_FAILED);
		handoff_move(l, l->has_old ? HANDOFF_DRAINING : HANDOFF_IDLE);
		return;
	}
	l->at = h->now + wait;
	handoff_move(l, HANDOFF_WAITING);
}

static void handoff_switch_over(struct handoff *h, struct handoff_conn *l)
{
	struct op *op = op_find(h, l->op);
	uint32_t i = index_of(h, l);
	handoff_add(h, HANDOFF_SWITCH, i);
	if (op) {
		snprintf(l->address, sizeof l->address, "%s", op->to[0] ? op->to : h->configured);
		breaker_result(h, op->to, true);
	}
	hist_add(&h->metrics.duration, (double)(h->now - l->began) / 1000);
	op_ended(h, l, END_MOVED);
	relax_moved(h, l);
	l->is_up = l->has_old = true;
	l->is_late = false;
	l->up_at = h->now;
	l->close_at = h->now + (l->role == CONN_SUBSCRIBER ? LINGER_MS : h->rules.timeout_ms);
	l->unblock_at = l->role == CONN_READER ? h->now : MONO_NEVER;
	handoff_move(l, HANDOFF_DRAINING);
}

static void handoff_close_old(struct handoff *h, struct handoff_conn *l)
{
	if (!l->has_old)
		return;
	l->has_old = false;
	handoff_add(h, HANDOFF_CLOSE_OLD, index_of(h, l));
	if (l->state == HANDOFF_DRAINING)
		handoff_move(l, HANDOFF_IDLE);
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
	struct op *op = handoff_op_of(h, n, l->address, &is_new);
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
	join(h, l, op);
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
	*l = (struct handoff_conn){.is_open = true, .role = ev->role, .unblock_at = MONO_NEVER};
	relax_clear(l);
	snprintf(l->address, sizeof l->address, "%.*s", (int)ev->text.len, ev->text.p ? ev->text.p : "");
}

static void handoff_on_closed(struct handoff *h, struct handoff_conn *l)
{
	op_ended(h, l, END_LEFT);
	*l = (struct handoff_conn){0};
}

static struct op *op_to(struct handoff *h, const char *address)
{
	for (int i = 0; i < OPS; i++)
		if (h->ops[i].serial && h->ops[i].until > h->now && h->ops[i].to[0] &&
			strcmp(h->ops[i].to, address) == 0)
			return &h->ops[i];
	return NULL;
}

static void handoff_on_up(struct handoff *h, struct handoff_conn *l, struct slice address)
{
	l->is_up = true;
	l->up_at = h->now;
	l->n_tries = 0;
	snprintf(l->address, sizeof l->address, "%.*s", (int)address.len, address.p);
	if (op_to(h, l->address))
		breaker_result(h, l->address, true);
	struct op *op = op_find(h, l->op);
	if (op && (op->until <= h->now || strcmp(op->to, l->address) == 0))
		leave(h, l, END_LEFT);
}

/* The present connection ended, or an attempt to open it failed: where does the next one go? */
static void handoff_on_down(struct handoff *h, struct handoff_conn *l)
{
	bool was_up = l->is_up;
	l->is_up = false;
	if (l->op)
		leave(h, l, was_up ? END_CUT : END_LEFT);
	relax_clear(l);
	struct op *op = was_up ? NULL : op_to(h, l->address);
	if (op) {
		breaker_result(h, op->to, false);
		if (++l->n_tries > h->rules.max_retries)
			l->given_up = op->serial;
	}
	char to[HANDOFF_ADDRESS];
	op_target(h, h->now, l->given_up, l->address, to);
	if (op_to(h, to))
		breaker_trial(h, to);
	if (strcmp(to, l->address) == 0)
		return;
	add_to(h, HANDOFF_TARGET, index_of(h, l), to, true);
	snprintf(l->address, sizeof l->address, "%s", to);
}

static void on_new_up(struct handoff *h, struct handoff_conn *l, bool must_join)
{
	if (l->state != HANDOFF_DIALING)
		return;
	if (must_join)
		handoff_move(l, HANDOFF_JOINING);
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
		handoff_on_up(h, l, ev->text);
		break;
	case HANDOFF_DOWN:
		handoff_on_down(h, l);
		break;
	case HANDOFF_NEW_UP:
		on_new_up(h, l, ev->flag);
		break;
	case HANDOFF_NEW_DOWN:
		if (is_dialing(l))
			failed(h, l, ev->text);
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
	if (l->role != CONN_SUBSCRIBER || l->is_late || h->now < l->close_at + LATE_MS)
		return false;
	l->is_late = true;
	l->close_at = h->now + LATE_MS;
	return true;
}

static void role_conn_due(struct handoff *h, struct handoff_conn *l)
{
	if (l->has_old && l->close_at <= h->now && !is_unread(h, l))
		handoff_close_old(h, l);
	if (l->has_old && l->unblock_at <= h->now) {
		l->unblock_at = h->now + UNBLOCK_EVERY_MS;
		handoff_add(h, HANDOFF_UNBLOCK, index_of(h, l));
	}
	if (is_dialing(l) && l->at <= h->now) {
		char why[80];
		int n = snprintf(why, sizeof why, "not ready within %lld ms", (long long)h->rules.timeout_ms);
		handoff_add(h, HANDOFF_DROP_NEW, index_of(h, l));
		failed(h, l, (struct slice){why, (size_t)n});
	}
}

static void give_up(struct handoff *h, struct handoff_conn *l, struct op *op, const char *why)
{
	if (op) {
		snprintf(op->why, sizeof op->why, "%s", why);
		l->given_up = op->serial;
	}
	leave(h, l, END_FAILED);
}

static void handoff_dial(struct handoff *h, struct handoff_conn *l)
{
	struct op *op = op_find(h, l->op);
	if (!op) {
		leave(h, l, END_LEFT);
		return;
	}
	if (!breaker_allows(h, op->to)) {
		if (breaker_is_trying(h, op->to) && h->now + RETRY_MS < op->until) {
			l->at = h->now + RETRY_MS;
			handoff_move(l, HANDOFF_WAITING);
			return;
		}
		give_up(h, l, op, "its circuit breaker is open");
		return;
	}
	breaker_trial(h, op->to);
	add_to(h, HANDOFF_DIAL, index_of(h, l), op->to, true);
	l->at = h->now + h->rules.timeout_ms;
	handoff_move(l, HANDOFF_DIALING);
}

/* A reader that has not come to its end with the operation of C: under way, or it has not heard yet. */
static bool goes_before(const struct handoff_conn *reader, const struct handoff_conn *c)
{
	if (!reader->is_open || !reader->is_up || reader->role != CONN_READER)
		return false;
	if (reader->last_op == c->op)
		return reader->op == c->op || reader->has_old;
	return strcmp(reader->address, c->address) == 0;
}

/* When it may dial. A blocked read is ended through C, which waits a little for the readers. */
static mono_ms turn_of(const struct handoff *h, const struct handoff_conn *l)
{
	if (l->role != CONN_COMMAND || l->n_tries > 0)
		return l->at;
	for (size_t i = 0; i < h->n_role_conns; i++)
		if (goes_before(&h->conns[i], l))
			return mono_max(l->at, l->latest);
	return l->at;
}

/* The next one to dial: readers first, then who waits longest. */
static struct handoff_conn *next_due(struct handoff *h)
{
	struct handoff_conn *best = NULL;
	for (size_t i = 0; i < h->n_role_conns; i++) {
		struct handoff_conn *l = &h->conns[i];
		bool is_waiting = l->state == HANDOFF_WAITING || l->state == HANDOFF_QUEUED;
		if (!l->is_open || !l->is_up || !is_waiting || turn_of(h, l) > h->now)
			continue;
		bool is_reader = l->role == CONN_READER, best_is = best && best->role == CONN_READER;
		if (!best || (is_reader && !best_is) || (is_reader == best_is && l->at < best->at))
			best = l;
	}
	return best;
}

static void queue(struct handoff *h, size_t n_queued)
{
	for (size_t i = 0; i < h->n_role_conns; i++) {
		struct handoff_conn *l = &h->conns[i];
		if (!l->is_open || !l->is_up || l->state != HANDOFF_WAITING || turn_of(h, l) > h->now)
			continue;
		if (h->rules.queue == 0 || n_queued < h->rules.queue) {
			handoff_move(l, HANDOFF_QUEUED);
			n_queued++;
			continue;
		}
		give_up(h, l, op_find(h, l->op), "the queue of handoffs is full");
	}
}

static void admit(struct handoff *h)
{
	size_t n_dialing = 0, n_queued = 0;
	for (size_t i = 0; i < h->n_role_conns; i++)
		n_dialing += h->conns[i].is_open && is_dialing(&h->conns[i]);
	struct handoff_conn *l;
	while (n_dialing < h->rules.max_concurrent && (l = next_due(h))) {
		handoff_dial(h, l);
		n_dialing += is_dialing(l);
	}
	for (size_t i = 0; i < h->n_role_conns; i++)
		n_queued += h->conns[i].is_open && h->conns[i].state == HANDOFF_QUEUED;
	if (next_due(h))
		queue(h, n_queued);
}

static mono_ms next_of(const struct handoff *h, const struct handoff_conn *l)
{
	mono_ms next = MONO_NEVER;
	if (l->has_old)
		next = mono_min(l->close_at, l->unblock_at);
	if (is_dialing(l) || (l->state == HANDOFF_WAITING && l->is_up))
		next = mono_min(next, is_dialing(l) ? l->at : turn_of(h, l));
	return next;
}

mono_ms handoff_step(struct handoff *h, const struct handoff_event *ev, struct handoff_effects *out)
{
	h->now = ev->now;
	h->out = out;
	for (size_t i = 0; i < h->n_role_conns; i++)
		if (h->conns[i].is_open)
			role_conn_due(h, &h->conns[i]);
	handoff_on_event(h, ev);
	admit(h);
	mono_ms next = mono_min(op_tick(h), relax_tick(h));
	for (size_t i = 0; i < h->n_role_conns; i++) {
		if (h->conns[i].is_open && h->conns[i].unblock_at <= h->now && h->conns[i].has_old)
			role_conn_due(h, &h->conns[i]);
		if (h->conns[i].is_open)
			next = mono_min(next, next_of(h, &h->conns[i]));
	}
	return next;
}
