/* world_feed - entries mode in the world: producers that add to a data stream and then to the load-balancer stream, workers
 * that work on entries, pushes of tracked keys, and what ENTRIES promises of order, positions and tokens (E1–E5). */
#include "sim/world.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLOCKS_APART_MS = 160 }; /* two masters', one's before and after a step: 150, and something */

/* ---- keys and their entries ---- */

static struct sim_key *key_of(struct world *w, struct slice name)
{
	for (uint32_t i = 0; i < w->n_keys; i++)
		if (strlen(w->keys[i].name) == name.len && memcmp(w->keys[i].name, name.p, name.len) == 0)
			return &w->keys[i];
	return NULL;
}

static struct slice name_of(const struct sim_key *k)
{
	return (struct slice){k->name, strlen(k->name)};
}

/* The newest of that id: a stream that was deleted may give it again. */
static struct sim_entry *entry_of(struct sim_key *k, struct entry_id id)
{
	for (uint32_t i = k ? k->n : 0; i-- > 0;)
		if (entry_id_cmp(k->v[i].id, id) == 0)
			return &k->v[i];
	return NULL;
}

static bool is_over(const struct sim_entry *e)
{
	return e->is_passed || e->is_dead;
}

/* The first entry that is behind the position. */
static struct sim_entry *first_open(struct sim_key *k)
{
	for (uint32_t i = 0; i < k->n; i++)
		if (!is_over(&k->v[i]))
			return &k->v[i];
	return NULL;
}

static struct server *server_of_key(struct world *w, struct slice name)
{
	return server_of_slot(w, command_slot(name.p, name.len));
}

/* ---- pushes ---- */

struct changed { /* a tracking push on its way */
	struct event ev;
	struct chan *chan;
	char name[24];
};

static void changed_free(struct world *w, struct event *ev)
{
	(void)w;
	mem_free(HEAP_OF(struct changed, ev, ev));
}

static void changed_arrives(struct world *w, struct event *ev)
{
	struct changed *p = HEAP_OF(struct changed, ev, ev);
	struct role_conn *l = p->chan->rconn;
	if (l && l->is_up && l->chan == p->chan) {
		struct shard_event se = {.kind = SHARD_CHANGED, .role = l->role, .svc = l->svc};
		se.stream = (struct slice){p->name, strlen(p->name)};
		wshard_step(w, l->shard, &se);
	}
	mem_free(p);
}

/* Once, as Redis does; now and then it forgets: the table is bounded. */
static void push_changed(struct world *w, struct chan *c, uint32_t i)
{
	struct changed *p = mem_alloc(sizeof *p);
	snprintf(p->name, sizeof p->name, "%s", c->tracked[i]);
	memmove(c->tracked[i], c->tracked[c->n_tracked - 1], sizeof c->tracked[i]);
	c->n_tracked--;
	if (!c->rconn || rng_below(&w->rng, 8) == 0) {
		mem_free(p);
		return;
	}
	struct wshard *s = c->rconn->shard;
	p->ev = (struct event){.run = changed_arrives,
		.drop = changed_free,
		.daemon = s->daemon,
		.gen = s->daemon->gen,
		.thread = (uint16_t)(THREAD_SHARDS + s->index)};
	p->chan = c;
	event_in_order(w, &p->ev, w->now + world_lag(w), &c->replies);
}

static void changed(struct world *w, const struct server *s, struct slice name, const struct chan *by)
{
	for (struct link *l = w->chans.next; l != &w->chans; l = l->next) {
		struct chan *c = LIST_OF(struct chan, all, l);
		for (uint32_t i = 0; c->server == s && c != by && i < c->n_tracked; i++)
			if (strlen(c->tracked[i]) == name.len && memcmp(c->tracked[i], name.p, name.len) == 0)
				push_changed(w, c, i--);
	}
}

/* A stream that is moved is deleted where it was; one that was not there leaves without a word. */
void feed_slot_moves(struct world *w, struct server *from, uint16_t slot)
{
	for (uint32_t i = 0; i < w->n_keys; i++) {
		struct slice name = name_of(&w->keys[i]);
		const struct model_entry *v;
		if (command_slot(name.p, name.len) == slot && model_redis_feed_entries(from->model, name, &v))
			changed(w, from, name, NULL);
	}
}

static void track(struct chan *c, struct slice name)
{
	if (c->n_tracked == WORLD_TRACKED || name.len >= sizeof c->tracked[0])
		return;
	snprintf(c->tracked[c->n_tracked++], sizeof c->tracked[0], "%.*s", (int)name.len, name.p);
}

/* What a connection remembers of tracking. After the command; may change the answer. */
void feed_tracks(struct world *w, struct chan *c, const struct cmd *cmd, struct reply *r)
{
	if (cmd->kind == CMD_TRACKING && r->kind == REPLY_OK) {
		c->is_tracking = w->o.tracking == WORLD_TRACKS;
		if (!c->is_tracking)
			*r = (struct reply){.kind = REPLY_ERROR, .error = RERR_OPERATOR, .text = {"ERR unknown", 11}};
	}
	if (cmd->kind == CMD_FEED_READ && c->is_caching && r->kind == REPLY_FEED)
		track(c, cmd->stream);
	c->is_caching = cmd->kind == CMD_CACHING && c->is_tracking;
}

/* ---- producers ---- */

/* First the data, then the load-balancer stream. False: its master does not answer. */
bool feed_produce(struct world *w, uint16_t svc, const char *stream)
{
	struct slice name = {stream, strlen(stream)};
	struct server *s = server_of_key(w, name);
	struct sim_key *k = key_of(w, name);
	if (!s->is_alive || s->is_paused || (!k && w->n_keys == WORLD_KEYS))
		return false;
	if (!k) {
		k = &w->keys[w->n_keys++];
		*k = (struct sim_key){.svc = svc};
		snprintf(k->name, sizeof k->name, "%s", stream);
	}
	for (uint64_t n = 1 + rng_below(&w->rng, 3); n > 0 && k->n < WORLD_ENTRIES; n--) {
		char value[16];
		int len = snprintf(value, sizeof value, "%u", k->n);
		const struct field f = {{"n", 1}, {value, (size_t)len}};
		struct entry_id id = model_redis_feed_add(s->model, name, &f, 1, w->now);
		if (s->replica) {
			model_redis_next_id(s->replica, id);
			model_redis_feed_add(s->replica, name, &f, 1, w->now);
		}
		k->v[k->n++] = (struct sim_entry){.id = id, .n_bad = k->n_bad};
		k->n_bad = 0;
		world_tell(w, "entry %s %llu-%llu", stream, (unsigned long long)id.ms % 100000000,
			(unsigned long long)id.seq);
	}
	changed(w, s, name, NULL);
	return true;
}

void feed_woken(struct world *w, const char *stream)
{
	struct sim_key *k = key_of(w, (struct slice){stream, strlen(stream)});
	for (uint32_t i = 0; k && i < k->n; i++)
		if (!k->v[i].woken)
			k->v[i].woken = w->now;
}

mono_ms feed_longest_wait(struct world *w)
{
	mono_ms most = 0;
	for (uint32_t i = 0; i < w->n_keys; i++)
		for (uint32_t n = 0; n < w->keys[i].n; n++) {
			const struct sim_entry *e = &w->keys[i].v[n];
			if (e->woken)
				most = mono_max(most, (e->given ? e->given : w->now) - e->woken);
		}
	return most;
}

bool feed_forget_ended(struct world *w)
{
	if (!world_settled(w))
		return false;
	w->n_items = w->n_keys = w->n_known = 0;
	return true;
}

/* ---- what Redis did ---- */

static void blame(struct sim_key *k)
{
	struct sim_entry *e = first_open(k);
	if (e)
		e->n_bad++;
	else
		k->n_bad++;
}

/* Redis has counted a try: the entry behind the position is not given again before its pause is over. */
static void must_pause(struct world *w, struct sim_key *k)
{
	struct model_position_view v;
	if (!model_redis_position(server_of_key(w, name_of(k))->model, name_of(k), w->now, &v))
		return;
	uint32_t i = 0;
	while (i < k->n && entry_id_cmp(k->v[i].id, v.pos) <= 0) /* a copy of it may be in the dead letters already */
		i++;
	if (i < k->n)
		k->v[i].not_before = w->now + v.pause_ms;
}

static void check_tries(
	struct world *w, struct sim_key *k, const struct chan *by, const struct cmd *c, const struct reply *r)
{
	bool is_heard = by->rconn && by->rconn->is_up && by->rconn->chan == by;
	if (r->kind == REPLY_POSITION && !is_heard) { /* counted once more: its owner waits as long as it knows of */
		k->tries = r->integer;
	} else if (c->kind == CMD_FEED_CLOSE) {
		bool is_counted = c->as.feed.close.end == FEED_END_DEATH && r->kind == REPLY_INT && r->integer == 1;
		k->tries += is_counted;
		if (is_counted)
			must_pause(w, k);
	} else if (r->kind == REPLY_POSITION) {
		if (r->integer > k->tries)
			must_pause(w, k);
		k->tries = r->integer;
	}
}

static void check_open(struct world *w, struct sim_key *k, const struct cmd *c, const struct reply *r)
{
	if (r->kind != REPLY_POSITION)
		return;
	if (entry_id_cmp(c->as.feed.token, k->token) < 0 && !w->has_lost)
		world_fail(w, "E3: %s is opened with a token below its owner's", k->name);
	k->token = c->as.feed.token;
	if (r->n_lost)
		world_fail(w, "%lld entries of %s are called lost, but nobody takes any away", (long long)r->n_lost,
			k->name);
	if (r->n & POSITION_DEATH)
		blame(k);
}

static void check_ack(struct world *w, struct sim_key *k, const struct cmd *c)
{
	if (entry_id_cmp(c->as.feed.token, k->token) < 0 && !w->has_lost)
		world_fail(w, "E3: the position of %s is moved with a token below its owner's", k->name);
	for (uint32_t i = 0; i < k->n; i++) {
		struct sim_entry *e = &k->v[i];
		if (entry_id_cmp(e->id, c->id) > 0 || e->is_passed)
			continue;
		if (!e->was_worked && !e->is_dead)
			world_fail(w, "E2: %s %llu-%llu is passed, but nobody has finished it", k->name,
				(unsigned long long)e->id.ms, (unsigned long long)e->id.seq);
		e->is_passed = true;
	}
	k->tries = 0;
}

static void check_close(struct world *w, struct sim_key *k, const struct cmd *c, const struct reply *r)
{
	const struct sim_entry *e = first_open(k);
	if (r->integer == 1 && c->as.feed.close.end == FEED_END_DEATH)
		blame(k);
	if (r->integer != 2)
		return;
	k->token = (struct entry_id){0};
	if (e)
		world_fail(w, "E2: %s is deleted, but %llu-%llu was not finished", k->name,
			(unsigned long long)e->id.ms, (unsigned long long)e->id.seq);
}

static void check_dead(struct world *w, struct sim_key *k, const struct cmd *c)
{
	struct sim_entry *e = entry_of(k, c->id);
	if (!e)
		return;
	e->is_dead = true;
	if (c->as.dead.reason == DEAD_MAX_RETRIES && e->n_bad <= w->rules[k->svc].entries.max_retries && !w->has_lost)
		world_fail(w, "E5: %s %llu-%llu is a dead letter after %u failures", k->name,
			(unsigned long long)c->id.ms, (unsigned long long)c->id.seq, e->n_bad);
}

void feed_executed(struct world *w, struct chan *by, const struct cmd *c, const struct reply *r)
{
	struct sim_key *k = key_of(w, c->stream);
	if (!k)
		return;
	bool is_one = r->kind == REPLY_INT && r->integer == 1;
	if (c->kind == CMD_FEED_OPEN || c->kind == CMD_FEED_FAIL || c->kind == CMD_FEED_CLOSE)
		check_tries(w, k, by, c, r);
	if (c->kind == CMD_FEED_OPEN)
		check_open(w, k, c, r);
	else if (c->kind == CMD_FEED_ACK && is_one)
		check_ack(w, k, c);
	else if (c->kind == CMD_FEED_CLOSE && r->kind == REPLY_INT)
		check_close(w, k, c, r);
	else if (c->kind == CMD_FEED_DEAD_ADD && r->kind == REPLY_ID)
		check_dead(w, k, c);
	if (c->kind == CMD_FEED_ACK && r->kind == REPLY_INT && r->integer == -1)
		w->n_refused++;
	if ((c->kind == CMD_FEED_ACK && is_one && c->as.feed.ack.trim) ||
		(c->kind == CMD_FEED_CLOSE && r->integer == 2))
		changed(w, by->server, c->stream, by);
}

/* ---- planted bugs ---- */

/* The position as if the token had not been compared. */
static void unfenced(struct world *w, struct server *s, const struct cmd *c, struct reply *r)
{
	struct model_position_view v;
	if (!model_redis_position(s->model, c->stream, w->now, &v))
		return;
	struct cmd mine = *c;
	mine.as.feed.token =
		(struct entry_id){strtoull(v.token, NULL, 10) / 1000000, strtoull(v.token, NULL, 10) % 1000000};
	mine.use_eval = true;
	model_redis_exec(s->model, &mine, &w->names[c->svc], "x", w->now, r);
}

/* After the model has answered. */
void feed_plant(struct world *w, struct server *s, const struct cmd *c, struct reply *r)
{
	if (w->o.bug == BUG_ACK_UNFENCED && c->kind == CMD_FEED_ACK && r->kind == REPLY_INT && r->integer == -1)
		unfenced(w, s, c, r);
	if (w->o.bug == BUG_OPEN_UNFENCED && c->kind == CMD_FEED_OPEN && r->kind == REPLY_NIL)
		unfenced(w, s, c, r);
	if (w->o.bug == BUG_PAUSE_FORGOTTEN && c->kind == CMD_FEED_OPEN)
		r->wait_ms = 0;
	if (w->o.bug == BUG_READ_SKIPS && c->kind == CMD_FEED_READ && r->kind == REPLY_FEED && r->feed->n > 1) {
		memmove(&r->feed->v[0], &r->feed->v[1], (r->feed->n - 1) * sizeof r->feed->v[0]);
		r->feed->n--;
	}
}

/* ---- workers ---- */

static void next_due(struct world *w, struct sim_worker *k, struct hold *h)
{
	const struct service_rules *r = &w->rules[h->svc];
	if (h->n_queue)
		h->result_at = w->now + world_between(&w->rng, 1, k->work_max / 8 + 1);
	else if (h->is_nacked || r->entries.idle_release_ms)
		h->result_at = MONO_NEVER;
	else
		h->result_at = w->now + world_between(&w->rng, 100, 600);
}

void feed_begin(struct world *w, struct sim_worker *k, struct hold *h)
{
	h->is_feed = true;
	h->result = FRAME_DONE;
	next_due(w, k, h);
}

/* The daemon tells everything behind the position again. */
void feed_resumed(struct world *w, struct sim_worker *k, struct hold *h)
{
	h->n_queue = 0;
	h->is_nacked = false;
	h->expected = h->last_given = (struct entry_id){0};
	next_due(w, k, h);
}

static void finished(struct world *w, struct hold *h, struct entry_id id)
{
	struct sim_key *key = key_of(w, (struct slice){h->stream, strlen(h->stream)});
	for (uint32_t i = 0; key && i < key->n; i++)
		if (entry_id_cmp(key->v[i].id, id) <= 0 && key->v[i].given_as == h->token)
			key->v[i].was_worked = true;
	if (entry_id_cmp(id, h->finished) > 0)
		h->finished = id;
}

static void nack(struct world *w, struct sim_worker *k, struct hold *h)
{
	struct entry_id id = h->queue[0];
	struct sim_entry *e = entry_of(key_of(w, (struct slice){h->stream, strlen(h->stream)}), id);
	bool is_dead = rng_below(&w->rng, 6) == 0;
	if (e)
		e->n_bad++;
	if (id.seq || id.ms) /* what is before it is finished, without a word of its own */
		finished(w, h, (struct entry_id){id.seq ? id.ms : id.ms - 1, id.seq ? id.seq - 1 : UINT64_MAX});
	h->n_queue = 0;
	h->is_nacked = true;
	if (w->o.bug != BUG_NACK_FORGOTTEN)
		worker_word(w, k, FRAME_NACK, h->lease, id, is_dead);
	h->expected = id;
}

/* The first entry of the queue is finished; or nobody waits for anything: true = the lease is done. */
bool feed_due(struct world *w, struct sim_worker *k, struct hold *h)
{
	if (h->n_queue == 0) {
		struct sim_key *key = key_of(w, (struct slice){h->stream, strlen(h->stream)});
		if (!key || !first_open(key))
			return true;
		next_due(w, k, h); /* it knows how its stream ends */
		return false;
	}
	if (!k->is_welcome) { /* it waits for its connection */
		h->result_at = w->now + 50;
		return false;
	}
	struct entry_id id = h->queue[0];
	bool is_known = entry_id_cmp(id, h->finished) <= 0;
	if (!is_known && !w->is_calm && rng_below(&w->rng, 100) < k->nack_pct) {
		nack(w, k, h);
		if (w->o.bug == BUG_NACK_FORGOTTEN) /* as if the answer had come */
			feed_nacked(w, k, h, true, 100);
	} else {
		finished(w, h, id);
		memmove(h->queue, h->queue + 1, --h->n_queue * sizeof h->queue[0]);
		if (h->n_queue == 0 || rng_below(&w->rng, 2))
			worker_word(w, k, FRAME_ACK, h->lease, id, false);
	}
	next_due(w, k, h);
	return false;
}

static void given(struct world *w, struct hold *h, struct sim_key *key, struct entry_id id)
{
	for (uint32_t i = 0; i < key->n; i++) {
		struct sim_entry *e = &key->v[i];
		int order = entry_id_cmp(e->id, id);
		if (order < 0 && !is_over(e) && e->given_as < h->token)
			world_fail(w, "E1: %s %llu-%llu is given, but %llu-%llu before it was not", key->name,
				(unsigned long long)id.ms, (unsigned long long)id.seq, (unsigned long long)e->id.ms,
				(unsigned long long)e->id.seq);
		bool is_owner = h->token == key->token.ms * 1000000 + key->token.seq;
		bool is_stale = w->now >= h->until;                /* what was sent before its worker was stopped */
		bool is_known = !w->has_lost && !w->has_regrouped; /* by another run with its token: not to this one */
		if (order == 0 && is_owner && !is_stale && w->now + CLOCKS_APART_MS < e->not_before && is_known)
			world_fail(w, "E5: %s %llu-%llu is given %lld ms before its next try", key->name,
				(unsigned long long)id.ms, (unsigned long long)id.seq,
				(long long)(e->not_before - w->now));
		if (order == 0) {
			w->n_repeated += e->n_given++ > 0;
			e->given = e->given ? e->given : w->now;
			e->given_as = e->given_as > h->token ? e->given_as : h->token;
		}
	}
	if (entry_id_cmp(id, h->last_given) <= 0)
		world_fail(w, "E1: %s %llu-%llu is given after %llu-%llu", key->name, (unsigned long long)id.ms,
			(unsigned long long)id.seq, (unsigned long long)h->last_given.ms,
			(unsigned long long)h->last_given.seq);
	h->last_given = id;
	if (h->n_queue < WORLD_QUEUE)
		h->queue[h->n_queue++] = id;
	else
		world_fail(w, "E1: %s: more is given than the window allows", key->name);
}

/* Behind an entry that was nacked nothing comes but that, alone; before it only what a failover has made come again. An
 * owner that does not know yet that it is none reads what the next one's acks have left of a trimmed stream. */
static void check_expected(struct world *w, struct hold *h, struct sim_key *key, const struct entry_id *ids, uint32_t n)
{
	const struct sim_entry *e = entry_of(key, h->expected);
	if ((!h->expected.ms && !h->expected.seq) || (e && is_over(e)))
		return;
	int order = entry_id_cmp(ids[n - 1], h->expected);
	bool has_it = !h->comes_alone && entry_id_cmp(ids[0], h->expected) <= 0;
	if (!has_it && (order > 0 || (order == 0 && n > 1)))
		world_fail(w, "E1: %s: %llu-%llu is given while %llu-%llu is to be tried again", h->stream,
			(unsigned long long)ids[n - 1].ms, (unsigned long long)ids[n - 1].seq,
			(unsigned long long)h->expected.ms, (unsigned long long)h->expected.seq);
	if (order >= 0)
		h->expected = (struct entry_id){0};
}

/* ["17-0",["n","1"]],["18-0",… */
static uint32_t parse(struct slice text, struct entry_id *ids, uint32_t most)
{
	uint32_t n = 0, depth = 0;
	for (size_t i = 0; i < text.len; i++) {
		depth -= text.p[i] == ']';
		if (text.p[i] != '[' || ++depth != 1 || n == most)
			continue;
		const char *end = memchr(text.p + i + 2, '"', text.len - i - 2);
		if (end && command_id_parse(text.p + i + 2, (size_t)(end - (text.p + i + 2)), &ids[n]))
			n++;
	}
	return n;
}

void feed_entries(struct world *w, struct sim_worker *k, struct hold *h, struct slice text)
{
	struct entry_id ids[WORLD_QUEUE];
	struct sim_key *key = key_of(w, (struct slice){h->stream, strlen(h->stream)});
	uint32_t n = parse(text, ids, WORLD_QUEUE);
	if (h->is_nacked || !key || n == 0) /* void: told before the nack was known */
		return;
	check_expected(w, h, key, ids, n);
	if (entry_id_cmp(ids[0], h->last_given) <= 0 && w->has_lost) { /* a failover has lost the acks */
		h->n_queue = 0;
		h->last_given = (struct entry_id){0};
	}
	bool was_idle = h->n_queue == 0;
	for (uint32_t i = 0; i < n; i++)
		given(w, h, key, ids[i]);
	if (was_idle)
		next_due(w, k, h);
}

/* The barrier: what comes now goes on behind it. */
void feed_nacked(struct world *w, struct sim_worker *k, struct hold *h, bool waits, mono_ms retry_ms)
{
	if (!h->is_nacked)
		return;
	h->is_nacked = false;
	h->last_given = (struct entry_id){0};
	h->comes_alone = retry_ms > 0;
	if (!waits)
		h->expected = (struct entry_id){0};
	next_due(w, k, h);
}

/* ---- the end ---- */

/* E4: whatever was added in order is finished, or a dead letter; unless what would have woken its stream was lost. */
bool feed_settled(struct world *w)
{
	for (uint32_t i = 0; i < w->n_keys; i++) {
		bool is_excused = false;
		for (uint32_t k = 0; k < w->n_items; k++)
			if (strcmp(w->items[k].stream, w->keys[i].name) == 0)
				is_excused |= w->items[k].is_deleted || is_dead_letter(w, w->items[k].svc, k);
		if (!is_excused && first_open(&w->keys[i]))
			return false;
	}
	return true;
}

void feed_show(struct world *w)
{
	for (uint32_t i = 0; i < w->n_keys; i++) {
		struct sim_key *k = &w->keys[i];
		struct model_position_view v = {0};
		struct server *s = server_of_key(w, name_of(k));
		bool is_there = model_redis_position(s->model, name_of(k), w->now, &v);
		fprintf(stderr, "key %s: position %s%llu-%llu token %s tries %lld run %d\n", k->name,
			is_there ? "" : "none ", (unsigned long long)v.pos.ms, (unsigned long long)v.pos.seq,
			is_there ? v.token : "none", (long long)v.tries, v.run);
		for (uint32_t n = 0; n < k->n; n++)
			if (!is_over(&k->v[n]))
				fprintf(stderr, "  %llu-%llu given %u worked %d failed %u\n",
					(unsigned long long)k->v[n].id.ms, (unsigned long long)k->v[n].id.seq,
					k->v[n].n_given, k->v[n].was_worked, k->v[n].n_bad);
	}
}
