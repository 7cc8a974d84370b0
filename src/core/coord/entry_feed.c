/* entry_feed - entries mode in the coordinator: the feed of a stream held here, between its shard and its worker.
 *
 *   NONE --taken, resumed--> OPENING --opened--> OPEN --finish--> CLOSING --> NONE (then the outcome goes to Redis)
 *                              ^  another master |
 *                              +-----------------+
 * What a worker was told last is kept here, so that a feed that goes on in another shard does not tell it again. */
#include "core/coord/coord_p.h"

#include "base/buf.h"

#include <stdio.h>
#include <string.h>

enum { FEED_CLOSE_WAIT_MS = 1500, FEED_REASON_MAX = 1024 };
enum { FEED_KEEP_MS = 2000 /* one that has to wait for longer when it is opened is not given out before */ };

static bool is_id_newer(struct entry_id a, struct entry_id b)
{
	return entry_id_cmp(a, b) > 0;
}

static bool has_unacked(const struct entry_feed *f)
{
	return is_id_newer(f->last, f->pos);
}

/* The entry waits for its next try; none, 0: nothing does. */
static void feed_block(struct entry_feed *f, struct entry_id bad, mono_ms until)
{
	if (f->trouble == &entry_no_trouble && !until)
		return;
	struct entry_trouble *t = entry_troubled(f);
	t->bad = bad;
	t->blocked_until = until;
}

/* ---- to the shard ---- */

static void feed_send(struct coord *c, const struct entry *e, struct msg what)
{
	struct msg *m = coord_send(c, e->feed->shard, what);
	m->handle = entry_handle(e);
	m->svc = e->svc;
}

static void open_at(struct coord *c, struct entry *e, uint16_t shard, bool asking)
{
	struct entry_feed *f = e->feed;
	f->state = ENTRY_FEED_OPENING;
	if (shard == SHARD_NONE || shard >= c->shards.n || !c->shards.v[shard].is_on) {
		f->shard = SHARD_NONE;
		entry_wait_for_route(c);
		return;
	}
	f->shard = shard;
	feed_send(c, e,
		msg_feed_open((struct msg_feed_open){.token = e->id,
			.stream = text_ref(e->stream),
			.slot = f->slot,
			.asking = asking,
			.is_adopted = f->is_adopted,
			.is_suspect = e->is_suspect,
			.was_alone = e->was_alone}));
}

void entry_feed_open(struct coord *c, struct entry *e)
{
	open_at(c, e, topology_shard(&c->topo, e->feed->slot), false);
}

void entry_feed_reroute(struct coord *c, struct entry *e)
{
	if (e->feed && e->feed->state == ENTRY_FEED_OPENING && e->feed->shard == SHARD_NONE)
		entry_feed_open(c, e);
}

void entry_feed_shard_gone(struct entry *e, uint16_t shard)
{
	struct entry_feed *f = e->feed;
	if (!f || f->shard != shard)
		return;
	f->shard = SHARD_NONE;
	f->is_adopted = true;
	if (f->state == ENTRY_FEED_OPEN)
		f->state = ENTRY_FEED_OPENING;
}

/* Its worker gets entries from here on; again: everything behind the position. */
static void feed_go(struct coord *c, struct entry *e, bool again)
{
	struct entry_feed *f = e->feed;
	if (again)
		f->last = (struct entry_id){0};
	f->is_started = true;
	f->waits_since = c->now;
	feed_send(c, e,
		msg_feed_start(
			(struct msg_feed_start){.epoch = ++f->epoch, .told = f->last, .is_suspect = e->is_suspect}));
}

void entry_feed_start(struct coord *c, struct entry *e)
{
	if (e->feed->state == ENTRY_FEED_OPEN)
		feed_go(c, e, true);
}

void entry_feed_resume(struct coord *c, struct entry *e)
{
	struct entry_feed *f = e->feed;
	f->last = (struct entry_id){0};
	f->is_adopted = true;
	f->suspect.is_hushed = false;
	entry_nack_over(f);
	if (f->state == ENTRY_FEED_OPEN)
		feed_go(c, e, true);
	else if (f->state == ENTRY_FEED_NONE)
		entry_feed_open(c, e);
}

void entry_feed_hush(struct coord *c, struct entry *e, bool on)
{
	struct entry_feed *f = e->feed;
	if (!f || f->suspect.is_hushed == on)
		return;
	f->suspect.is_hushed = on;
	if (f->state != ENTRY_FEED_OPEN || f->is_held || e->state != ENTRY_ASSIGNED)
		return;
	if (on)
		feed_send(c, e, msg_plain(MSG_FEED_HOLD));
	else
		feed_go(c, e, false);
}

void entry_feed_share(struct coord *c, struct entry *e)
{
	if (e->feed && e->feed->state == ENTRY_FEED_OPEN)
		feed_send(c, e, msg_plain(MSG_FEED_SHARE));
}

void entry_feed_hold(struct coord *c, struct entry *e)
{
	if (e->feed && e->feed->state == ENTRY_FEED_OPEN)
		feed_send(c, e, msg_plain(MSG_FEED_HOLD));
}

bool entry_feed_close(struct coord *c, struct entry *e, enum feed_end end)
{
	struct entry_feed *f = e->feed;
	if (!f || f->state == ENTRY_FEED_NONE)
		return false;
	if (f->shard == SHARD_NONE || !c->shards.v[f->shard].is_on) {
		f->state = ENTRY_FEED_NONE;
		return false;
	}
	feed_send(c, e, msg_feed_close((struct msg_feed_close){.end = (uint8_t)end}));
	f->state = end == FEED_END_FORGET ? ENTRY_FEED_NONE : ENTRY_FEED_CLOSING;
	return f->state == ENTRY_FEED_CLOSING;
}

mono_ms entry_feed_close_by(const struct coord *c)
{
	return c->now + FEED_CLOSE_WAIT_MS;
}

/* After the outcome: nobody waits for it. */
void entry_feed_delete(struct coord *c, struct entry *e)
{
	uint16_t shard = topology_shard(&c->topo, e->feed->slot);
	if (shard == SHARD_NONE || !c->shards.v[shard].is_on)
		return;
	struct msg_op op = {.kind = CMD_FEED_CLOSE, .slot = e->feed->slot, .id = e->id, .stream = text_ref(e->stream)};
	coord_send(c, shard, msg_op(op))->svc = e->svc;
}

/* ---- to the worker ---- */

static struct effect *feed_frame(struct coord *c, struct entry *e, const struct worker *w, enum out_kind kind)
{
	char lease[SESSION_LEASE_CAP];
	int n = entry_lease_format(lease, e, services_find(&c->services, e->svc)->rules->hash);
	struct effect *ef = worker_frame(c->out, w, kind);
	ef->hold = text_new(lease, (size_t)n);
	ef->frame.lease = (struct slice){ef->hold->bytes, (size_t)n};
	return ef;
}

static struct worker *feed_worker(struct coord_workers *ws, const struct entry *e)
{
	struct worker *w = e->owner ? workers_find(ws, e->owner) : NULL;
	return w && w->s.state == SESSION_READY ? w : NULL;
}

static struct effect *say_feed_ok(struct coord *c, struct entry *e, enum ok_for ok_for, struct entry_id id)
{
	struct worker *w = feed_worker(&c->workers, e);
	if (!w)
		return NULL;
	struct effect *ef = feed_frame(c, e, w, OUT_OK);
	ef->frame.ok_for = ok_for;
	ef->frame.entry = id;
	return ef;
}

static void say_nacked(struct coord *c, struct entry *e, struct entry_id id, mono_ms retry_ms, bool is_dead)
{
	entry_nack_over(e->feed);
	struct effect *ef = say_feed_ok(c, e, OK_FOR_NACK, id);
	if (!ef)
		return;
	ef->frame.outcome = is_dead ? GONE_DEAD : GONE_WAITS;
	ef->frame.retry_ms = retry_ms;
}

/* ---- from the shard ---- */

/* A suspect may wait for a worker in which all is quiet. */
static void feed_is_quiet(struct coord_services *ss, const struct entry *e)
{
	struct coord_service *s = services_find(ss, e->svc);
	if (!list_empty(&s->suspects) && !entry_feed_is_out(e))
		services_mark(ss, s);
}

static void feed_confirm(struct coord *c, struct entry *e, struct entry_id id)
{
	struct entry_feed *f = e->feed;
	if (!is_id_newer(id, f->pos))
		return;
	f->pos = id;
	f->tries = 0;
	f->has_progress = true;
	services_find(&c->services, e->svc)->deaths = (struct service_deaths){0};
	f->waits_since = e->heard = c->now;
	feed_is_quiet(&c->services, e);
	if (is_id_newer(f->trouble->bad, id))
		return;
	if (f->trouble->bad.ms || f->trouble->bad.seq) { /* why it failed is old */
		text_unref(e->note);
		e->note = NULL;
		entry_troubled(f)->n_noted = 0;
	}
	feed_block(f, (struct entry_id){0}, 0);
}

static void send_nack(struct coord *c, struct entry *e, bool is_again, bool is_counted)
{
	struct entry_nack *nack = &entry_troubled(e->feed)->nack;
	nack->is_sent = true;
	feed_send(c, e,
		msg_feed_nack((struct msg_feed_nack){.id = nack->id,
			.delay_ms = nack->again_ms,
			.is_dead = nack->is_dead,
			.is_again = is_again,
			.is_counted = is_counted,
			.reason = text_ref(nack->reason)}));
}

/* Did the shard that had the feed count the try of the nack? m: the position as the next one found it. */
static bool nack_was_counted(const struct entry_feed *f, const struct msg_feed *m)
{
	if (!f->trouble->nack.is_sent || f->trouble->nack.is_dead || is_id_newer(f->pos, m->id))
		return false;
	return m->tries > (entry_id_cmp(m->id, f->pos) == 0 ? f->tries : 0);
}

/* A nack was on its way when the feed moved: what was told from its entry on is void, and the shard that has the feed
 * now answers it, unless its dead letter was written before. */
static void nack_again(struct coord *c, struct entry *e, bool was_counted)
{
	struct entry_feed *f = e->feed;
	f->last = (struct entry_id){0};
	if (is_id_newer(f->trouble->nack.id, f->pos))
		send_nack(c, e, true, was_counted);
	else
		say_nacked(c, e, f->trouble->nack.id, 0, true);
}

/* Deaths of owners are counted by whoever recovers their entries, without knowing whose fault they were. The position
 * holds what the last owner did. It had progress, or there is nothing to do: what was counted is void, however often it
 * was. Else the tries of the data stream's own entry are used up first: two more deaths than those are needed until
 * that entry is found alone. */
static bool deaths_used_up(struct coord_service *s, struct entry *e, const struct msg_feed *m)
{
	if (m->before.is_unknown && (m->before.had_progress || m->is_at_end))
		e->retry = 0;
	return m->before.n_ends > s->rules->max_retries + s->rules->entries.max_retries + 2;
}

void entry_feed_note_tries(struct coord *c, struct entry *e, struct entry_id bad, uint32_t tries)
{
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "entry %llu-%llu failed %u of %u times", (unsigned long long)bad.ms, (unsigned long long)bad.seq,
		tries, services_find(&c->services, e->svc)->rules->entries.max_retries + 1);
	if (e->note)
		buf_printf(&b, ": %.*s", (int)e->note->len, e->note->bytes);
	text_unref(e->note);
	e->note = text_new(b.data, b.len);
	entry_troubled(e->feed)->n_noted = tries;
	buf_fini(&b);
}

/* It is back in the load-balancer stream when its entry may be tried again. */
static void put_off(struct coord *c, struct entry *e, const struct msg_feed *m)
{
	entry_feed_note_tries(c, e, m->bad, m->tries);
	entry_put_off(c, e, m->wait_ms);
}

static void on_feed_open(struct coord *c, struct entry *e, const struct msg *m)
{
	struct coord_service *s = services_find(&c->services, e->svc);
	struct entry_feed *f = e->feed;
	bool was_counted = nack_was_counted(f, &m->feed);
	f->state = ENTRY_FEED_OPEN;
	f->pos = m->feed.id;
	f->tries = (uint32_t)m->feed.tries;
	bool is_dead = deaths_used_up(s, e, &m->feed);
	if (e->state == ENTRY_TAKING && m->feed.is_suspect)
		e->is_suspect = true;
	if (is_id_newer(f->asked, f->pos))
		feed_send(c, e, msg_feed_ack((struct msg_feed_ack){.id = f->asked}));
	if (f->trouble->nack.is_on) {
		nack_again(c, e, was_counted);
	} else if (m->feed.wait_ms) {
		feed_block(f, m->feed.bad, c->now + m->feed.wait_ms);
	}
	if (e->state == ENTRY_TAKING && is_dead)
		entry_dead_letter(c, e, DEAD_MAX_RETRIES);
	else if (e->state == ENTRY_TAKING && m->feed.wait_ms > FEED_KEEP_MS)
		put_off(c, e, &m->feed);
	else if (e->state == ENTRY_TAKING)
		entry_ready(c, e);
	else if (e->state == ENTRY_ASSIGNED && !f->is_held && !f->suspect.is_hushed)
		feed_go(c, e, false);
}

static void on_feed_entries(struct coord *c, struct entry *e, const struct msg *m)
{
	struct entry_feed *f = e->feed;
	struct worker *w = feed_worker(&c->workers, e);
	if (!w || e->state != ENTRY_ASSIGNED || m->feed.epoch != f->epoch || f->is_held || f->suspect.is_hushed)
		return;
	if (!has_unacked(f))
		f->waits_since = c->now;
	/* of the first frame nobody knows: its worker may die of the assign */
	worker_is_given(w, entry_feed_is_out(e) || !(f->asked.ms || f->asked.seq) ? NULL : e);
	struct effect *ef = feed_frame(c, e, w, OUT_ENTRIES);
	ef->hold2 = text_ref(m->feed.json);
	ef->frame.info = (struct slice){m->feed.json->bytes, m->feed.json->len};
	ef->frame.more = m->feed.has_more;
	f->last = m->feed.id;
	entry_arm(c, e);
}

static void feed_has_dead(struct coord *c, struct entry *e, struct entry_id id)
{
	struct entry_losses *l = &entry_troubled(e->feed)->losses;
	l->n_dead++;
	l->dead = id;
	feed_confirm(c, e, id);
}

static void on_feed_nacked(struct coord *c, struct entry *e, const struct msg *m)
{
	struct entry_feed *f = e->feed;
	if (f->trouble->nack.is_on && !m->feed.is_dead) {
		text_unref(e->note);
		e->note = text_ref(f->trouble->nack.reason);
	}
	if (m->feed.is_dead) {
		feed_has_dead(c, e, m->feed.id);
	} else {
		f->tries = (uint32_t)m->feed.tries;
		feed_block(f, m->feed.id, c->now + m->feed.wait_ms);
	}
	f->last = f->pos; /* what was told behind it is void */
	say_nacked(c, e, m->feed.id, m->feed.wait_ms, m->feed.is_dead);
}

static void on_feed_moved(struct coord *c, struct entry *e, const struct msg *m)
{
	struct entry_feed *f = e->feed;
	f->state = ENTRY_FEED_NONE;
	f->is_adopted = true;
	if (e->state == ENTRY_FINISHING) {
		entry_send_op(c, e);
		return;
	}
	uint16_t to = m->feed.asking ? coord_shard_asked(c, m->from, m->feed.moved_to) : SHARD_NONE;
	if (to == SHARD_NONE && topology_shard(&c->topo, f->slot) != m->from)
		to = topology_shard(&c->topo, f->slot);
	open_at(c, e, to, m->feed.asking && to != SHARD_NONE);
	coord_ask_topology(c, "moved");
}

/* Drained: nothing is out, so its worker loses nothing by letting go. */
static void feed_let_go(struct coord *c, struct entry *e)
{
	if (e->state == ENTRY_ASSIGNED && e->feed->is_held && !has_unacked(e->feed))
		entry_revoke(c, e, REVOKE_DRAIN, REVOKE_GRACE_MS);
}

static void on_feed_told(struct coord *c, struct entry *e, const struct msg *m)
{
	struct worker *w = feed_worker(&c->workers, e);
	switch ((enum feed_result)m->feed.result) {
	case FEED_IS_OPEN:
		on_feed_open(c, e, m);
		break;
	case FEED_HAS_ENTRIES:
		on_feed_entries(c, e, m);
		break;
	case FEED_HAS_ACKED:
		feed_confirm(c, e, m->feed.id);
		say_feed_ok(c, e, OK_FOR_ACK, m->feed.id);
		feed_let_go(c, e);
		break;
	case FEED_HAS_NACKED:
		on_feed_nacked(c, e, m);
		feed_let_go(c, e);
		break;
	case FEED_HAS_BURIED:
		feed_has_dead(c, e, m->feed.id);
		break;
	case FEED_BAD_ACK:
		if (m->feed.is_nack)
			entry_nack_over(e->feed);
		if (!m->feed.is_nack && !is_id_newer(m->feed.id, e->feed->asked))
			e->feed->asked = e->feed->pos; /* nor is it acknowledged where the feed is opened next */
		if (w)
			worker_say_bad_entry(c, w, e);
		break;
	case FEED_IS_CLEARED:
		e->feed->suspect.is_cleared = true;
		if (e->state == ENTRY_ASSIGNED)
			entry_clear_suspect(c, e);
		break;
	case FEED_IS_READ:
		e->feed->suspect.is_read = true;
		break;
	case FEED_IS_IDLE:
		if (e->state == ENTRY_ASSIGNED)
			entry_end(c, e, 0);
		break;
	case FEED_IS_PUT_OFF:
		if (e->state == ENTRY_ASSIGNED) {
			entry_feed_note_tries(c, e, m->feed.bad, m->feed.tries);
			entry_end(c, e, m->feed.wait_ms);
		}
		break;
	case FEED_HAS_LOST:
		entry_troubled(e->feed)->losses.n_lost += m->feed.n_entries;
		break;
	case FEED_IS_CLOSED:
	case FEED_IS_REFUSED:
	case FEED_IS_GONE:
	case FEED_IS_REMADE:
	case FEED_IS_WRONG_TYPE:
	case FEED_IS_MOVED:
		break;
	}
}

void entry_on_feed(struct coord *c, const struct msg *m)
{
	struct entry *e = ledger_by_handle(&c->ledger, m->handle);
	if (!e || !e->feed || e->feed->shard != m->from || e->feed->state == ENTRY_FEED_NONE)
		return;
	if (m->feed.result == FEED_IS_MOVED)
		on_feed_moved(c, e, m);
	else if (m->feed.result >= FEED_IS_CLOSED)
		entry_feed_ended(c, e, m);
	else if (e->feed->state != ENTRY_FEED_CLOSING || m->feed.result == FEED_HAS_ACKED)
		on_feed_told(c, e, m);
}

/* ---- from the worker ---- */

static void take_nack(struct coord *c, struct entry *e, const struct frame *f)
{
	struct entry_feed *feed = e->feed;
	struct worker *w = workers_find(&c->workers, e->owner);
	if (feed->trouble->nack.is_on) { /* the entries behind that one are void, and itself it is not told again yet */
		if (w)
			worker_say_bad_entry(c, w, e);
		return;
	}
	const struct slice reason = f->reason;
	entry_troubled(feed)->nack = (struct entry_nack){.is_on = true,
		.is_dead = f->dead,
		.id = f->entry,
		.reason = reason.p ? text_new(reason.p, text_fit(reason.p, reason.len, FEED_REASON_MAX)) : NULL,
		.again_ms = f->has_retry_ms ? f->retry_ms : -1};
	if (feed->state == ENTRY_FEED_OPEN) /* else on its way elsewhere */
		send_nack(c, e, false, false);
}

void entry_feed_word(struct coord *c, struct entry *e, const struct frame *f)
{
	struct entry_feed *feed = e->feed;
	e->heard = feed->waits_since = c->now;
	if (f->kind == FRAME_NACK) {
		take_nack(c, e, f);
		return;
	}
	bool is_void = feed->trouble->nack.is_on && !is_id_newer(feed->trouble->nack.id, f->entry);
	if (!is_void && is_id_newer(f->entry, feed->asked))
		feed->asked = f->entry;
	if (feed->state == ENTRY_FEED_OPEN)
		feed_send(c, e, msg_feed_ack((struct msg_feed_ack){.id = f->entry}));
}

/* ---- drains, silence ---- */

void entry_feed_drain(struct coord *c, struct entry *e, bool on)
{
	struct entry_feed *f = e->feed;
	if (!f || e->state != ENTRY_ASSIGNED || f->is_held == on)
		return;
	f->is_held = on;
	if (f->state != ENTRY_FEED_OPEN)
		return;
	if (on) {
		feed_send(c, e, msg_plain(MSG_FEED_HOLD));
		feed_let_go(c, e);
	} else if (!f->suspect.is_hushed) {
		feed_go(c, e, false);
	}
}

bool entry_feed_is_out(const struct entry *e)
{
	return has_unacked(e->feed) && is_id_newer(e->feed->last, e->feed->asked);
}

mono_ms entry_feed_waits_since(const struct entry *e)
{
	return has_unacked(e->feed) ? e->feed->waits_since : MONO_NEVER;
}
