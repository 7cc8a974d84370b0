/* world_redis - TCP connections to the masters and what the masters make of commands. */
#include "codec/reply.h"
#include "sim/world.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct answer { /* a reply on its way back */
	struct event ev;
	struct chan *chan;
	uint64_t no;
	enum cmd_kind kind;
	mono_ms sent;
	struct reply reply;
	char *text;
	struct pending_row *pending;
	struct consumer_row *consumers;
	struct reply *many;
};

/* ---- copies: what a command and a reply point to lives for a moment only ---- */

static void keep(char **at, struct slice *s)
{
	if (!s->p)
		return;
	memcpy(*at, s->p, s->len);
	s->p = *at;
	*at += s->len;
}

enum { CMD_SLICES = 3 };

/* What a command points to outlives its turn here: its slices. Returns how many. */
static size_t slices_of(struct cmd *c, struct slice *out[static CMD_SLICES])
{
	out[0] = &c->stream;
	switch ((int)c->kind) {
	case CMD_LOCK:
	case CMD_LOCK_SWAP:
	case CMD_UNLOCK:
	case CMD_TOMBSTONE:
		out[1] = &c->as.lock.value;
		out[2] = &c->as.lock.expect;
		return 3;
	case CMD_GROUP_CREATE:
		out[1] = &c->as.group.start;
		return 2;
	case CMD_PENDING:
		out[1] = &c->as.pending.consumer;
		return 2;
	case CMD_TAKE:
		out[1] = &c->as.take.consumer;
		return 2;
	case CMD_DONE:
	case CMD_ACK_DEL:
		out[1] = &c->as.done.consumer;
		out[2] = &c->as.done.lock_value;
		return 3;
	case CMD_TAKE_MANY:
	case CMD_DONE_MANY:
		out[1] = &c->as.many.lock_value;
		return 2;
	case CMD_REQUEUE:
	case CMD_LATER:
		out[1] = &c->as.requeue.consumer;
		out[2] = &c->as.requeue.error;
		return 3;
	case CMD_DEAD:
	case CMD_DEAD_ADD:
	case CMD_FEED_DEAD_ADD:
		out[1] = &c->as.dead.consumer;
		out[2] = &c->as.dead.error;
		return 3;
	case CMD_ADD:
	case CMD_ADD_LATER:
		out[1] = &c->as.add.info;
		return 2;
	case CMD_FORGET:
		out[1] = &c->as.forget.consumer;
		return 2;
	case CMD_FEED_OPEN:
		out[1] = &c->as.feed.open.start;
		return 2;
	case CMD_CONFIG_SET_EVENTS:
		out[1] = &c->as.keyspace.flags;
		return 2;
	default:
		return 1;
	}
}

/* Its fields, of the kinds that have some; else NULL. */
static const struct field_list **fields_of(struct cmd *c)
{
	if (c->kind == CMD_DEAD_ADD || c->kind == CMD_FEED_DEAD_ADD)
		return &c->as.dead.fields;
	return c->kind == CMD_REPLAY || c->kind == CMD_ADD_LATER ? &c->as.add.fields : NULL;
}

static void copy_cmd(struct inflight *f, const struct cmd *c)
{
	f->cmd = *c;
	struct slice *slices[CMD_SLICES];
	size_t n = 1, n_slices = slices_of(&f->cmd, slices);
	for (size_t i = 0; i < n_slices; i++)
		n += slices[i]->len;
	f->text = mem_alloc(n);
	char *at = f->text;
	for (size_t i = 0; i < n_slices; i++)
		keep(&at, slices[i]);
	const struct field_list **fields = fields_of(&f->cmd);
	if (fields && *fields)
		*fields = reply_copy_fields((*fields)->v, (*fields)->n);
	if (c->kind != CMD_TAKE_MANY && c->kind != CMD_DONE_MANY)
		return;
	f->many = mem_array(c->as.many.n, sizeof *f->many);
	f->cmd.as.many.v = f->many;
	for (size_t i = 0; i < c->as.many.n; i++) {
		struct slice s = c->as.many.v[i].stream;
		f->many[i] = (struct cmd_entry){{mem_dup(s.p, s.len), s.len}, c->as.many.v[i].id};
	}
}

static void inflight_free(struct world *w, struct event *ev)
{
	struct inflight *f = HEAP_OF(struct inflight, ev, ev);
	(void)w;
	for (size_t i = 0; f->many && i < f->cmd.as.many.n; i++)
		mem_free((void *)(uintptr_t)f->many[i].stream.p);
	mem_free(f->many);
	const struct field_list **fields = fields_of(&f->cmd);
	if (fields)
		mem_free((void *)(uintptr_t)*fields);
	mem_free(f->text);
	mem_free(f);
}

static void copy_rows(struct answer *a)
{
	struct reply *r = &a->reply;
	size_t n = r->text.len + 1;
	for (size_t i = 0; i < r->n; i++)
		n += r->pending ? r->pending[i].consumer.len : r->consumers ? r->consumers[i].name.len : 0;
	char *at = a->text = mem_alloc(n);
	keep(&at, &r->text);
	if (r->many) { /* what their errors say is static */
		a->many = mem_array(r->n, sizeof *a->many);
		memcpy(a->many, r->many, r->n * sizeof *a->many);
		r->many = a->many;
	} else if (r->pending) {
		a->pending = mem_array(r->n + 1, sizeof *a->pending);
		memcpy(a->pending, r->pending, r->n * sizeof *a->pending);
		for (size_t i = 0; i < r->n; i++)
			keep(&at, &a->pending[i].consumer);
		r->pending = a->pending;
	} else if (r->consumers) {
		a->consumers = mem_array(r->n + 1, sizeof *a->consumers);
		memcpy(a->consumers, r->consumers, r->n * sizeof *a->consumers);
		for (size_t i = 0; i < r->n; i++)
			keep(&at, &a->consumers[i].name);
		r->consumers = a->consumers;
	}
}

static void answer_free(struct world *w, struct event *ev)
{
	struct answer *a = HEAP_OF(struct answer, ev, ev);
	(void)w;
	entry_batch_free(a->reply.entries);
	mem_free(a->reply.feed);
	mem_free(a->text);
	mem_free(a->pending);
	mem_free(a->consumers);
	mem_free(a->many);
	mem_free(a);
}

/* ---- answering ---- */

static void arrive(struct world *w, struct event *ev)
{
	struct answer *a = HEAP_OF(struct answer, ev, ev);
	struct role_conn *l = a->chan->rconn;
	if (!l || !l->is_up || l->chan != a->chan) {
		answer_free(w, ev);
		return;
	}
	if (w->o.bug == BUG_LOCK_UNCHECKED && a->kind == CMD_LOCK && a->reply.kind == REPLY_NIL)
		a->reply.kind = REPLY_OK;
	struct reply r = a->reply;
	a->reply.entries = NULL; /* moves */
	a->reply.feed = NULL;
	role_conn_answer(w, l, a->no, &r);
	answer_free(w, ev);
}

static void reply_at(struct world *w, struct inflight *f, const struct reply *r, mono_ms at)
{
	struct chan *c = f->chan;
	if (!c->rconn) {
		entry_batch_free(r->entries);
		mem_free(r->feed);
		return;
	}
	struct answer *a = mem_alloc(sizeof *a);
	a->ev = (struct event){.run = arrive,
		.drop = answer_free,
		.daemon = c->rconn->shard->daemon,
		.gen = c->rconn->shard->daemon->gen,
		.thread = (uint16_t)(THREAD_SHARDS + c->rconn->shard->index)};
	a->chan = c;
	a->no = f->no;
	a->kind = f->cmd.kind;
	a->sent = f->sent;
	a->reply = *r;
	copy_rows(a);
	event_in_order(w, &a->ev, at, &c->replies);
}

static void reply_text(struct world *w, struct inflight *f, const char *text, mono_ms at)
{
	struct reply r;
	reply_set_error(f->cmd.kind, (struct slice){text, strlen(text)}, &r);
	reply_at(w, f, &r, at);
}

/* ---- slots ---- */

/* The slot a command's key is in; SHARD_NONE: it has none. */
static uint16_t slot_of(const struct world *w, const struct cmd *c)
{
	if (c->kind <= CMD_TOMBSTONE)
		return command_lock_slot(c->stream.p, c->stream.len, c->id);
	if (c->kind >= CMD_TRACKING)
		return SHARD_NONE;
	if (c->kind == CMD_FEED_DEAD_ADD)
		return w->rules[c->svc].entries.dlq_slot;
	if (c->kind >= CMD_FEED_OPEN)
		return command_slot(c->stream.p, c->stream.len);
	bool is_dlq = c->kind == CMD_DEAD_ADD || c->kind == CMD_DLQ_LENGTH || c->kind == CMD_DLQ_RANGE ||
		      c->kind == CMD_DLQ_DEL;
	return is_dlq ? w->names[c->svc].dlq_slot : w->names[c->svc].lbs_slot;
}

/* The redirection a cluster answers with; false: it is served here. */
static bool redirected(struct world *w, const struct chan *c, const struct cmd *cmd, char *out, size_t cap)
{
	if (!w->o.is_cluster)
		return false;
	uint16_t slot = slot_of(w, cmd);
	if (slot == SHARD_NONE)
		return false;
	if (slot == w->ask_slot) {
		bool is_target = c->server->index == w->ask_to;
		if (is_target && cmd->asking)
			return false;
		if (!is_target && w->owner[slot] == c->server->index) {
			snprintf(out, cap, "ASK %u %s", slot, w->servers[w->ask_to].addr);
			return true;
		}
	}
	if (w->owner[slot] == c->server->index)
		return false;
	snprintf(out, cap, "MOVED %u %s", slot, w->servers[w->owner[slot]].addr);
	return true;
}

/* ---- executing ---- */

static bool touches_entry(enum cmd_kind k)
{
	return k == CMD_DONE || k == CMD_REQUEUE || k == CMD_LATER || k == CMD_DEAD || k == CMD_ACK_DEL ||
	       k == CMD_UNLOCK;
}

struct later_add { /* planted: the second half of a requeue that acknowledges first */
	struct event ev;
	struct server *server;
	uint16_t svc;
	struct field_list *fields;
};

static void later_add_free(struct world *w, struct event *ev)
{
	struct later_add *a = HEAP_OF(struct later_add, ev, ev);
	(void)w;
	mem_free(a->fields);
	mem_free(a);
}

static void run_later_add(struct world *w, struct event *ev)
{
	struct later_add *a = HEAP_OF(struct later_add, ev, ev);
	struct reply r;
	struct cmd add = {.kind = CMD_REPLAY, .svc = a->svc, .as.add.fields = a->fields};
	model_redis_exec(a->server->model, &add, &w->names[add.svc], "x", w->now, &r);
	server_served(w, a->server);
	later_add_free(w, ev);
}

/* XACK + XDEL now, XADD in a command of its own a little later: lost when the daemon dies between. */
static bool acked_first(struct world *w, struct inflight *f, const char *consumer, struct reply *out)
{
	struct server *s = f->chan->server;
	if (w->o.bug != BUG_ACK_FIRST || f->cmd.kind != CMD_REQUEUE || !f->chan->rconn)
		return false;
	struct cmd read = {.kind = CMD_DEAD_READ, .svc = f->cmd.svc, .id = f->cmd.id};
	model_redis_exec(s->model, &read, &w->names[read.svc], consumer, w->now, out);
	struct entry_batch *b = out->entries;
	out->entries = NULL;
	struct cmd ack = f->cmd;
	ack.kind = CMD_ACK_DEL;
	ack.as = (union cmd_payload){.done.consumer = f->cmd.as.requeue.consumer};
	ack.use_eval = true;
	model_redis_exec(s->model, &ack, &w->names[ack.svc], consumer, w->now, out);
	if (out->kind == REPLY_INT && out->integer == 1 && b && b->n) {
		struct later_add *a = mem_alloc(sizeof *a);
		struct daemon *d = f->chan->rconn->shard->daemon;
		a->ev = (struct event){.run = run_later_add, .drop = later_add_free, .daemon = d, .gen = d->gen};
		a->server = s;
		a->svc = f->cmd.svc;
		a->fields = b->v[0].fields;
		b->v[0].fields = NULL;
		event_at(w, &a->ev, w->now + 20);
		*out = (struct reply){.kind = REPLY_ID, .id = {f->cmd.id.ms + 1, 0}};
	} else if (out->kind == REPLY_INT) {
		*out = (struct reply){.kind = REPLY_NIL};
	}
	entry_batch_free(b);
	return true;
}

/* What is due is forgotten by one command and added by another, a little later: lost when the daemon dies between. */
static void forget_due(struct world *w, struct inflight *f)
{
	struct server *s = f->chan->server;
	const struct command_names *names = &w->names[f->cmd.svc];
	while (f->chan->rconn && model_redis_n_delayed(s->model, names)) {
		int64_t due;
		struct reply r;
		const struct model_entry e = model_redis_delayed(s->model, names, 0, &due);
		if (due > 1700000000000 + s->clock_offset + w->now)
			return;
		struct later_add *a = mem_alloc(sizeof *a);
		struct daemon *d = f->chan->rconn->shard->daemon;
		a->ev = (struct event){.run = run_later_add, .drop = later_add_free, .daemon = d, .gen = d->gen};
		a->server = s;
		a->svc = f->cmd.svc;
		a->fields = reply_copy_fields(e.fields->v, e.fields->n);
		struct cmd drop = {.kind = CMD_DELAYED_DROP, .svc = f->cmd.svc, .id = e.id, .use_eval = true};
		model_redis_exec(s->model, &drop, names, "x", w->now, &r);
		if (r.kind != REPLY_INT) {
			later_add_free(w, &a->ev);
			return;
		}
		event_at(w, &a->ev, w->now + 300);
	}
}

/* The count that the entry has in the LBS. */
static int64_t retry_of(const struct server *s, const struct command_names *names, struct entry_id id)
{
	const struct model_entry *v = model_redis_entries(s->model, names);
	for (size_t i = 0; i < model_redis_n_entries(s->model, names); i++) {
		struct slice n = model_entry_field(&v[i], "_retry_count");
		if (entry_id_cmp(v[i].id, id) == 0 && n.p)
			return strtoll(n.p, NULL, 10);
	}
	return 0;
}

static void execute(struct world *w, struct inflight *f, struct reply *r)
{
	struct chan *c = f->chan;
	struct server *s = c->server;
	char consumer[60];
	/* whose connection it was: also when the client has left since */
	snprintf(consumer, sizeof consumer, "redis-consumer-%s", w->daemons[f->no >> 56].node);
	const struct command_names *names = f->cmd.svc < w->o.n_services ? &w->names[f->cmd.svc] : NULL;
	uint32_t item = touches_entry(f->cmd.kind) && names ? item_of_entry(w, f->cmd.svc, f->cmd.id) : WORLD_ITEMS;
	uint32_t items[CMD_MANY_MAX];
	for (size_t i = 0; f->cmd.kind == CMD_DONE_MANY && names && i < f->cmd.as.many.n; i++)
		items[i] = item_of_entry(w, f->cmd.svc, f->cmd.as.many.v[i].id);
	if (w->o.bug == BUG_DUE_FORGETS_FIRST && f->cmd.kind == CMD_DUE)
		forget_due(w, f);
	if (w->o.bug == BUG_WISH_DROPPED && (f->cmd.kind == CMD_DONE || f->cmd.kind == CMD_DONE_MANY))
		model_redis_drop_wishes(s->model, names);
	bool is_own = names && (f->cmd.kind == CMD_REQUEUE || f->cmd.kind == CMD_LATER) &&
		      model_redis_is_pending(s->model, names, f->cmd.id, consumer);
	int64_t before = is_own ? retry_of(s, names, f->cmd.id) : 0;
	if (w->o.bug == BUG_SUSPECT_COUNTED && is_own && f->cmd.as.requeue.is_suspect)
		f->cmd.as.requeue.retry = before + 1;
	if (w->o.bug == BUG_LEFT_FOR_EVER && f->cmd.kind == CMD_BACK)
		*r = (struct reply){.kind = REPLY_INT, .integer = 1};
	else if (w->o.bug == BUG_DEAD_LATER && f->cmd.kind == CMD_FEED_DEAD_ADD) /* never, as it happens */
		*r = (struct reply){.kind = REPLY_OK};
	else if (!acked_first(w, f, consumer, r))
		model_redis_exec(s->model, &f->cmd, names, consumer, w->now, r);
	if (is_own)
		check_retry(w, &f->cmd, r, item, before);
	if (w->o.entries.is_on) {
		feed_plant(w, s, &f->cmd, r);
		feed_tracks(w, c, &f->cmd, r);
		feed_executed(w, c, &f->cmd, r);
	}
	if (touches_entry(f->cmd.kind))
		check_executed(w, s, &f->cmd, r, consumer, item);
	bool has_added = r->kind == REPLY_ID || (r->kind == REPLY_COUNTS && r->counts[DUE_MOVED]);
	for (size_t i = 0; r->kind == REPLY_MANY && i < r->n; i++) {
		struct cmd one = {.kind = CMD_DONE, .svc = f->cmd.svc, .id = f->cmd.as.many.v[i].id};
		if (f->cmd.kind == CMD_DONE_MANY)
			check_executed(w, s, &one, &r->many[i], consumer, items[i]);
		has_added = true; /* what waited may have gone on */
	}
	if (f->cmd.kind == CMD_DUE && w->o.bug != BUG_DUE_FORGETS_FIRST)
		check_nothing_lost(w, "due");
	if (has_added)
		server_served(w, s);
}

static mono_ms reply_lag(struct world *w, const struct inflight *f)
{
	mono_ms lag = world_lag(w);
	bool is_lease = f->cmd.kind == CMD_RENEW || f->cmd.kind == CMD_LOCK;
	if (w->o.bug == BUG_RENEW_FROM_REPLY && is_lease && !w->is_calm && rng_below(&w->rng, 4) == 0)
		lag += world_between(&w->rng, 0, w->o.ttl_ms / 4); /* a slow answer, within the command's time-out */
	return lag;
}

static void block_over(struct world *w, struct event *ev)
{
	struct chan *c = HEAP_OF(struct chan, unblock, ev);
	struct inflight *f = c->blocked;
	c->blocked = NULL;
	struct reply r = {.kind = REPLY_ENTRIES, .entries = mem_alloc(sizeof(struct entry_batch))};
	reply_at(w, f, &r, w->now + world_lag(w));
	inflight_free(w, &f->ev);
	chan_serve(w, c);
}

static void unblock_client(struct world *w, int64_t client)
{
	for (struct link *l = w->chans.next; l != &w->chans; l = l->next) {
		struct chan *c = LIST_OF(struct chan, all, l);
		if (c->client_id == client && c->blocked)
			event_at(w, &c->unblock, w->now);
	}
}

static bool must_block(struct world *w, struct inflight *f)
{
	return f->cmd.kind == CMD_READ && f->cmd.as.read.block_ms > 0 &&
	       !model_redis_has_new(f->chan->server->model, &w->names[f->cmd.svc]);
}

/* One command; true: it is answered. */
static bool serve_one(struct world *w, struct inflight *f)
{
	struct chan *c = f->chan;
	char moved[80];
	mono_ms at = w->now + reply_lag(w, f);
	if (redirected(w, c, &f->cmd, moved, sizeof moved)) {
		reply_text(w, f, moved, at);
		return true;
	}
	if (must_block(w, f)) {
		c->blocked = f;
		f->block_until = f->block_until ? f->block_until : w->now + f->cmd.as.read.block_ms;
		event_at(w, &c->unblock, f->block_until);
		return false;
	}
	if (w->o.bug == BUG_RENEW_FROM_REPLY && (f->cmd.kind == CMD_RENEW || f->cmd.kind == CMD_LOCK)) {
		c->replies.last = mono_max(
			c->replies.last, at); /* the shard will believe sent = at: as if the key lived shorter */
		f->cmd.as.lock.ttl_ms = mono_max(f->cmd.as.lock.ttl_ms - (c->replies.last - w->now), 1);
	}
	struct reply r;
	execute(w, f, &r);
	if (f->cmd.kind == CMD_UNBLOCK)
		unblock_client(w, f->cmd.as.unblock.client_id);
	if (f->cmd.kind == CMD_PSUBSCRIBE)
		c->is_subscribed = true;
	reply_at(w, f, &r, at);
	return true;
}

void chan_serve(struct world *w, struct chan *c)
{
	while (c->server->is_alive && !c->server->is_paused && !c->blocked && !list_empty(&c->queue)) {
		struct inflight *f = LIST_OF(struct inflight, queue, list_pop(&c->queue));
		if (serve_one(w, f))
			inflight_free(w, &f->ev);
	}
}

/* A blocked read looks again. */
static void look_again(struct world *w, struct chan *c)
{
	struct inflight *f = c->blocked;
	if (must_block(w, f))
		return;
	c->blocked = NULL;
	event_cancel(w, &c->unblock);
	list_push_front(&c->queue, &f->queue);
	chan_serve(w, c);
}

void server_served(struct world *w, struct server *s)
{
	if (!s->is_alive || s->is_paused)
		return;
	gos_look(w);
	for (struct link *l = w->chans.next; l != &w->chans; l = l->next) {
		struct chan *c = LIST_OF(struct chan, all, l);
		if (c->server == s && c->blocked)
			look_again(w, c);
	}
}

/* ---- connections ---- */

struct chan *chan_open(struct world *w, struct server *s, struct role_conn *l)
{
	struct chan *c = mem_alloc(sizeof *c);
	list_push(&w->chans, &c->all);
	list_init(&c->queue);
	c->server = s;
	c->rconn = l;
	c->client_id = ++w->last_client;
	c->unblock = (struct event){.run = block_over};
	return c;
}

static void take_inflight(struct world *w, struct event *ev)
{
	struct inflight *f = HEAP_OF(struct inflight, ev, ev);
	struct chan *c = f->chan;
	if (!c->server->is_alive || (!c->rconn && w->has_regrouped)) {
		inflight_free(w, ev);
		return;
	}
	list_push(&c->queue, &f->queue);
	chan_serve(w, c);
}

void chan_send(struct world *w, struct chan *c, const struct cmd *cmd, uint64_t no, mono_ms late)
{
	struct inflight *f = mem_alloc(sizeof *f);
	f->ev = (struct event){.run = take_inflight, .drop = inflight_free};
	list_init(&f->queue);
	f->chan = c;
	f->no = no;
	f->sent = w->now;
	copy_cmd(f, cmd);
	event_in_order(w, &f->ev, w->now + world_lag(w) + late, &c->requests);
}

/* What has arrived at the server is executed yet, or not: a reset may throw it away. Once the group was deleted it always
 * does: an entry that comes again under its id cannot be told from the one that a late requeue or done was meant for. */
void chan_leave(struct world *w, struct chan *c)
{
	c->rconn = NULL;
	bool is_lost = rng_below(&w->rng, 2) == 0 || w->has_regrouped;
	if (c->blocked) { /* the server sees that a blocked client has gone */
		event_cancel(w, &c->unblock);
		inflight_free(w, &c->blocked->ev);
		c->blocked = NULL;
		is_lost = true;
	}
	while (is_lost && !list_empty(&c->queue))
		inflight_free(w, &LIST_OF(struct inflight, queue, list_pop(&c->queue))->ev);
}

void chans_free(struct world *w)
{
	for (struct link *l; (l = list_pop(&w->chans));) {
		struct chan *c = LIST_OF(struct chan, all, l);
		while (!list_empty(&c->queue))
			inflight_free(w, &LIST_OF(struct inflight, queue, list_pop(&c->queue))->ev);
		if (c->blocked)
			inflight_free(w, &c->blocked->ev);
		mem_free(c);
	}
}
