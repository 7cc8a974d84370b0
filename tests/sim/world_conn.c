/* world_conn - a shard's side of its connections, as io/redis behaves: replies in order, exactly one for each command,
 * NULL for all of them before the connection is reported down, then dialled again with backoff, for ever. */
#include "sim/world.h"
#include <string.h>

enum { BACKOFF_MIN = 100, BACKOFF_MAX = 1000, CONNECT_MS = 2000 };

static void wait_free(struct wait *t)
{
	list_remove(&t->link);
	mem_free(t);
}

static void rearm(struct world *w, struct role_conn *l)
{
	mono_ms at = MONO_NEVER;
	for (struct link *k = l->waits.next; k != &l->waits; k = k->next)
		at = mono_min(at, LIST_OF(struct wait, link, k)->deadline);
	event_at(w, &l->timeout, at);
}

/* ---- down ---- */

static void tell_conn(struct world *w, struct role_conn *l, bool up, const char *why)
{
	struct shard_event ev = {.kind = SHARD_CONN,
		.role = l->role,
		.svc = l->svc,
		.up = up,
		.has_pushes = up && l->shard->daemon->has_pushes,
		.is_valkey = up, /* whether it has its commands is another matter: model_redis_set_delifeq */
		.client_id = up ? l->chan->client_id : -1,
		.text = {why, why ? strlen(why) : 0}};
	wshard_step(w, l->shard, &ev);
}

static void dial_later(struct world *w, struct role_conn *l)
{
	mono_ms wait = world_between(&w->rng, l->backoff / 2, l->backoff);
	l->backoff = mono_min(2 * l->backoff, BACKOFF_MAX);
	event_at(w, &l->dial, w->now + wait);
}

/* In a later round: the answers that will not come, then the news. */
static void bury(struct world *w, struct event *ev)
{
	struct role_conn *l = HEAP_OF(struct role_conn, bury, ev);
	struct wshard *s = l->shard;
	uint32_t gen = s->daemon->gen;
	size_t n = 0;
	for (struct link *k = l->dead.next; k != &l->dead; k = k->next)
		n++;
	for (; n > 0; n--) {
		struct wait *t = LIST_OF(struct wait, link, l->dead.next);
		struct reply none = {.kind = REPLY_NONE};
		struct shard_event se = {
			.kind = SHARD_REPLY, .role = l->role, .svc = t->svc, .tag = t->tag, .reply = &none};
		bool is_silent = t->kind == CMD_PSUBSCRIBE;
		wait_free(t);
		if (!is_silent)
			wshard_step(w, s, &se);
		if (gen != s->daemon->gen || (l->role == CONN_READER && !l->shard))
			return;
	}
	if (!list_empty(&l->dead)) {
		event_at(w, ev, w->now);
	} else if (l->is_broken) {
		l->is_broken = false;
		dial_later(w, l);
		tell_conn(w, l, false, "lost");
	}
}

void role_conn_break(struct world *w, struct role_conn *l, const char *why)
{
	if (!l->is_up)
		return;
	world_say(w, "d%u.s%u conn=%d lost: %s", l->shard->daemon->index, l->shard->index, l->role, why);
	struct chan *c = l->chan;
	l->is_up = false;
	l->is_broken = true;
	l->chan = NULL;
	chan_leave(w, c);
	for (struct link *k; (k = list_pop(&l->waits));)
		list_push(&l->dead, k);
	event_cancel(w, &l->timeout);
	event_at(w, &l->bury, w->now);
}

static void timed_out(struct world *w, struct event *ev)
{
	role_conn_break(w, HEAP_OF(struct role_conn, timeout, ev), "a command timed out");
}

/* ---- up ---- */

static void dial(struct world *w, struct event *ev)
{
	struct role_conn *l = HEAP_OF(struct role_conn, dial, ev);
	struct server *s = l->shard->server;
	if (!s->is_alive || s->is_paused) {
		dial_later(w, l);
		tell_conn(w, l, false, s->is_alive ? "no connection in time" : "connection refused");
		return;
	}
	l->chan = chan_open(w, s, l);
	l->is_up = true;
	l->backoff = BACKOFF_MIN;
	tell_conn(w, l, true, NULL);
}

static void role_conn_event(struct world *w, struct role_conn *l, struct event *ev, event_fn *run)
{
	struct daemon *d = l->shard->daemon;
	(void)w;
	*ev = (struct event){
		.run = run, .daemon = d, .gen = d->gen, .thread = (uint16_t)(THREAD_SHARDS + l->shard->index)};
	list_init(&ev->held);
}

void role_conn_open(struct world *w, struct role_conn *l, struct wshard *s, enum conn_role role, uint16_t svc)
{
	*l = (struct role_conn){.shard = s, .role = role, .svc = svc, .backoff = BACKOFF_MIN};
	list_init(&l->link);
	list_init(&l->waits);
	list_init(&l->dead);
	role_conn_event(w, l, &l->dial, dial);
	role_conn_event(w, l, &l->bury, bury);
	role_conn_event(w, l, &l->timeout, timed_out);
	l->timeout.is_late = true;
	event_at(w, &l->dial, w->now + world_lag(w));
}

void role_conn_close(struct world *w, struct role_conn *l)
{
	event_cancel(w, &l->dial);
	event_cancel(w, &l->bury);
	event_cancel(w, &l->timeout);
	if (l->chan)
		chan_leave(w, l->chan);
	while (!list_empty(&l->waits))
		wait_free(LIST_OF(struct wait, link, l->waits.next));
	while (!list_empty(&l->dead))
		wait_free(LIST_OF(struct wait, link, l->dead.next));
	l->chan = NULL;
	l->is_up = false;
}

/* ---- commands ---- */

void role_conn_send(struct world *w, struct role_conn *l, const struct effect *ef)
{
	struct daemon *d = l->shard->daemon;
	trace_cmd(w, l, &ef->cmd);
	struct wait *t = mem_alloc(sizeof *t);
	mono_ms timeout = ef->timeout_ms ? ef->timeout_ms : d->shard_rules.command_timeout_ms;
	*t = (struct wait){.tag = ef->tag,
		.no = (uint64_t)d->index << 56 | ++w->last_no,
		.svc = ef->cmd.svc,
		.kind = ef->cmd.kind,
		.deadline = ef->cmd.kind == CMD_PSUBSCRIBE ? MONO_NEVER : w->now + timeout};
	list_init(&t->link);
	if (!l->is_up) {
		list_push(&l->dead, &t->link);
		event_at(w, &l->bury, w->now);
		return;
	}
	list_push(&l->waits, &t->link);
	bool is_late = ef->cmd.kind == CMD_FEED_ACK && w->has_storm && !w->is_calm && rng_below(&w->faults, 60) == 0;
	chan_send(w, l->chan, &ef->cmd, t->no, is_late ? fault_dies_acking(w, d) : 0);
	rearm(w, l);
}

void role_conn_answer(struct world *w, struct role_conn *l, uint64_t no, const struct reply *r)
{
	struct wait *t = list_empty(&l->waits) ? NULL : LIST_OF(struct wait, link, l->waits.next);
	if (!t || t->no != no) {
		world_fail(w, "the world mixed up replies");
		entry_batch_free(r->entries);
		return;
	}
	struct shard_event ev = {.kind = SHARD_REPLY, .role = l->role, .svc = t->svc, .tag = t->tag, .reply = r};
	enum cmd_kind kind = t->kind;
	wait_free(t);
	rearm(w, l);
	if (kind == CMD_PSUBSCRIBE)
		ev = (struct shard_event){.kind = SHARD_PUSHED, .role = l->role, .svc = l->svc};
	else
		trace_reply(w, l, kind, r);
	wshard_step(w, l->shard, &ev);
}
