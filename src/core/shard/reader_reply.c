/* reader_reply - what Redis answers to a reader, and what follows from it. */
#include "core/shard/reader_p.h"

enum { AGAIN_MS = 100, AGAIN_MAX_MS = 1000, REFUSED_MS = 500, REFUSED_MAX_MS = 5000 };

static void group_made(struct shard_ctx *c, struct reader *r)
{
	if (r->was_lost) {
		ctx_msg(c, msg_group_lost((struct msg_group_lost){.is_remade = true}))->svc = r->svc;
		if (r->lost.is_said)
			effects_log(c->out, LOG_WARN, "shard=%u service=%s the consumer group is made again", c->index,
				reader_rules(c, r)->name);
	}
	r->was_lost = false;
	if (r->state == READER_AWAY)
		reader_move(r, c, READER_GROUP, "it is served here again");
	reader_move(r, c, r->is_again ? READER_RUN : READER_OWN, "the group is there");
}

static void on_own(struct shard_ctx *c, struct reader *r, struct reply *reply)
{
	struct entry_batch *b = reply->entries;
	bool is_last = !b || b->n < OWN_PAGE;
	if (b && b->n > 0)
		r->own_after = b->v[b->n - 1].id;
	reply->entries = NULL;
	reader_entries(c, r->svc, SOURCE_OWN, b, 0)->entries.is_last = is_last;
	r->reader_queries[READER_QUERY_OWN].at = c->now;
	if (is_last)
		reader_move(r, c, READER_RUN, "own entries are known");
}

/* One page of our own pending ids. A pass that breaks off is not ended: the next one begins anew with a new number.
 * Once a second, or after as long as so many ids may take: with 100,000 leases a pass every 2 s cost as much as a
 * third of their renewals. A server that is slow is let rest, but a stall is no reason to look away for minutes. */
static void on_audit(struct shard_ctx *c, struct reader *r, const struct reply *reply)
{
	struct reader_query_state *s = &r->reader_queries[READER_QUERY_AUDIT];
	bool is_last = reply->n < AUDIT_PAGE;
	struct id_page *page = mem_alloc(sizeof *page + reply->n * sizeof page->v[0]);
	page->n = (uint32_t)reply->n;
	for (size_t i = 0; i < reply->n; i++)
		page->v[i] = reply->pending[i].id;
	struct msg_own_ids ids = {.page = page, .pass = r->audit.pass, .began = r->audit.began, .is_last = is_last};
	ctx_msg(c, msg_own_ids(ids))->svc = r->svc;
	r->audit.n += (uint32_t)reply->n;
	if (!is_last) {
		r->audit.from = entry_id_next(reply->pending[reply->n - 1].id);
		s->at = c->now;
		return;
	}
	r->audit.from = (struct entry_id){0};
	mono_ms rest = mono_min(10 * (c->now - r->audit.began), AUDIT_REST_MS);
	mono_ms every = mono_max(EVERY_MS, mono_max(rest, (mono_ms)r->audit.n * 1000 / AUDIT_PER_S));
	s->at = mono_max(c->now, r->audit.began + every);
}

/* Again when the next one is due, in the order of the daemons' ranks, and once a second all the same: another daemon
 * may have given back something for earlier. A full page: at once. */
static void on_due(struct shard_ctx *c, struct reader *r, const struct reply *reply)
{
	struct reader_query_state *s = &r->reader_queries[READER_QUERY_DUE];
	struct shard_service *sv = ctx_service(c, r->svc);
	const int64_t *n = reply->counts;
	mono_ms rank = mono_min((mono_ms)sv->rank * DUE_RANK_MS, DUE_RANK_MAX_MS);
	r->due_position = n[DUE_POSITION];
	sv->lengths.delayed = n[DUE_DELAYED];
	sv->lengths.wanted = n[DUE_WANTED];
	sv->lengths.parked = n[DUE_PARKED];
	if (n[DUE_WOKEN] > 0)
		effects_log(c->out, LOG_NOTICE,
			"shard=%u service=%s streams=%lld that nobody ran any more go on with what waited for them",
			c->index, reader_rules(c, r)->name, (long long)n[DUE_WOKEN]);
	s->at = c->now + (n[DUE_WAIT_MS] < 0 ? EVERY_MS : mono_min(n[DUE_WAIT_MS] + rank, EVERY_MS));
	if (n[DUE_MOVED] >= DUE_PAGE || n[DUE_WOKEN] >= DUE_WOKEN_PAGE)
		s->at = c->now;
	s->at = mono_min(s->at, mono_max(sv->due_at, c->now)); /* given back while it was asked */
}

/* Streams that wait for a credit: those that have no work now give theirs up. */
static void on_look(struct shard_ctx *c, struct reader *r, const struct reply *reply)
{
	const struct msg_waiting waiting = {
		.n = reply->entries ? (uint32_t)reply->entries->n : 0, .n_merged = (uint32_t)reply->integer};
	r->look_ms = waiting.n_merged ? LOOK_MS : mono_min(r->look_ms * 2, LOOK_MAX_MS);
	r->reader_queries[READER_QUERY_LOOK].at = c->now + r->look_ms;
	if (waiting.n || waiting.n_merged)
		ctx_msg(c, msg_waiting(waiting))->svc = r->svc;
}

static void reader_answered(struct shard_ctx *c, struct reader *r, enum reader_query e, struct reply *reply)
{
	struct reader_query_state *s = &r->reader_queries[e];
	struct shard_lengths *lengths = &ctx_service(c, r->svc)->lengths;
	s->at = c->now + EVERY_MS;
	switch (e) {
	case READER_QUERY_GROUP:
		if (r->state == READER_GROUP || r->state == READER_AWAY)
			group_made(c, r);
		break;
	case READER_QUERY_OWN:
		if (r->state == READER_OWN)
			on_own(c, r, reply);
		break;
	case READER_QUERY_READ:
		s->at = c->now;
		r->has_sift = r->has_sift || r->is_sifting;
		break;
	case READER_QUERY_HEARTBEAT:
		s->at = s->sent + reader_rules(c, r)->lease.ttl_ms / 3;
		break;
	case READER_QUERY_AUDIT:
		on_audit(c, r, reply);
		break;
	case READER_QUERY_LENGTH:
		lengths->lbs = reply->integer;
		break;
	case READER_QUERY_PENDING_SUM:
		lengths->pending = reply->integer;
		break;
	case READER_QUERY_UNREAD:
		lengths->unread_ms = reply->kind == REPLY_ID ? (int64_t)reply->id.ms : -1;
		break;
	case READER_QUERY_DLQ_LENGTH:
		lengths->dlq = reply->integer;
		break;
	case READER_QUERY_FEED_DLQ_LENGTH: /* a call, always */
		break;
	case READER_QUERY_DUE:
		on_due(c, r, reply);
		break;
	case READER_QUERY_FLEET:
		s->at = r->is_fleet_news ? mono_max(c->now, s->sent + EVERY_MS) : c->now + FLEET_MS;
		break;
	case READER_QUERY_UNBLOCK:
		s->at = MONO_NEVER;
		break;
	case READER_QUERY_TRIAL:
		s->at = c->trial_at;
		break;
	case READER_QUERY_LOOK:
		on_look(c, r, reply);
		break;
	case READER_QUERY_N:
		break;
	}
}

static void reader_again(struct shard_ctx *c, struct reader *r, enum reader_query e, mono_ms first, mono_ms cap)
{
	struct reader_query_state *s = &r->reader_queries[e];
	if (e == READER_QUERY_TRIAL) {
		c->trial_at = mono_min(c->trial_at, c->now + EVERY_MS);
		s->at = c->trial_at;
		return;
	}
	s->at = e == READER_QUERY_UNBLOCK ? MONO_NEVER : c->now + ctx_backoff(c, s->tries, first, cap);
	s->tries = (uint8_t)(s->tries < 100 ? s->tries + 1 : s->tries);
	if (e == READER_QUERY_AUDIT)
		r->audit.from = (struct entry_id){0};
}

/* The user may not write such a key: then there are no trials over this connection, and nobody is told. */
static bool is_trial_forbidden(struct shard_ctx *c, enum reader_query e, const struct reply *reply)
{
	if (e != READER_QUERY_TRIAL || reply->kind != REPLY_ERROR || reply->refusal != REFUSAL_NOPERM)
		return false;
	c->trial_at = MONO_NEVER;
	return true;
}

/* A user of before there was such a key: the others do not see our credits, and all else goes on. */
static bool is_fleet_forbidden(struct reader *r, enum reader_query e, const struct reply *reply)
{
	if (e != READER_QUERY_FLEET || reply->kind != REPLY_ERROR || reply->refusal != REFUSAL_NOPERM)
		return false;
	r->is_fleet_forbidden = true;
	return true;
}

/* What it asked about is elsewhere. Of a slot on its way only the stream itself counts, not a key beside it. */
static bool is_stream_away(enum reader_query e, const struct reply *reply)
{
	if (reply->error == RERR_ASK)
		return cmd_is_on_lbs(reader_command(e));
	return e != READER_QUERY_DLQ_LENGTH && e != READER_QUERY_TRIAL;
}

static void judged(struct readers *rs, struct shard_ctx *c, struct reader *r, enum reader_query e, struct reply *reply)
{
	switch (ctx_judge(c, "reader", reader_command(e), r->svc, reply)) {
	case VERDICT_ANSWER:
		r->reader_queries[e].tries = 0;
		reader_answered(c, r, e, reply);
		break;
	case VERDICT_EVAL:
		r->reader_queries[e].use_eval = true;
		r->reader_queries[e].at = c->now;
		r->has_sift = r->has_sift && e != READER_QUERY_READ;
		break;
	case VERDICT_LOST:
	case VERDICT_AGAIN:
		reader_again(c, r, e, AGAIN_MS, AGAIN_MAX_MS);
		break;
	case VERDICT_REFUSED:
		reader_again(c, r, e, REFUSED_MS, REFUSED_MAX_MS);
		break;
	case VERDICT_MOVED:
		reader_again(c, r, e, REFUSED_MS, REFUSED_MAX_MS);
		if (is_stream_away(e, reply))
			reader_move(r, c, READER_AWAY, "redirected");
		break;
	case VERDICT_NO_GROUP:
		reader_again(c, r, e, AGAIN_MS, AGAIN_MAX_MS);
		reader_group_lost(rs, c, r);
		break;
	}
}

/* The read on the connection that was left, while none has begun on the new one: what it brought ends the grant. */
static void reader_left_reply(struct readers *rs, struct shard_ctx *c, struct reader *r, struct reply *reply)
{
	r->grant.is_left = false;
	r->reader_queries[READER_QUERY_READ].at = c->now;
	if (reply->entries && reply->entries->n > 0) {
		reader_entries(c, r->svc, SOURCE_NEW, reply->entries, r->grant.credits);
		r->grant.credits = 0;
	} else {
		entry_batch_free(reply->entries);
	}
	heap_set(&rs->timers, &r->timer, c->now);
}

void reader_reply(struct readers *rs, struct shard_ctx *c, uint64_t tag, const struct reply *given)
{
	struct reply reply = *given;
	uint16_t svc = (uint16_t)(tag_index(tag) >> 8);
	enum reader_query e = (enum reader_query)(tag_index(tag) & 0xff);
	struct reader *r = svc < rs->n ? rs->v[svc] : NULL;
	struct reader_query_state *s = r ? &r->reader_queries[e] : NULL;
	if (r && e == READER_QUERY_READ && r->grant.is_left && tag_gen(tag) == r->grant.left_gen) {
		reader_left_reply(rs, c, r, &reply);
		return;
	}
	if (!s || !s->in_flight || s->gen != tag_gen(tag)) {
		if (e == READER_QUERY_READ && reply.entries) /* of a reader closed meanwhile: they are pending for us */
			reader_entries(c, svc, SOURCE_NEW, reply.entries, 0);
		else
			entry_batch_free(reply.entries);
		return;
	}
	s->in_flight = false;
	if (e == READER_QUERY_READ) { /* whatever came of it, the grant has ended */
		int64_t n_parked = reply.kind == REPLY_ENTRIES ? reply.integer : 0;
		reader_entries(c, svc, SOURCE_NEW, reply.entries, r->grant.asked)->entries.n_parked =
			(uint32_t)n_parked;
		reply.entries = NULL;
		r->grant.asked = r->grant.credits = 0;
		r->reader_queries[READER_QUERY_UNBLOCK].at = MONO_NEVER;
		reader_look_anew(c, r);
	} else {
		hist_add(&c->metrics.h[HR_COMMAND], (double)(c->now - s->sent) / 1000);
	}
	if (is_trial_forbidden(c, e, &reply) || is_fleet_forbidden(r, e, &reply))
		s->at = MONO_NEVER;
	else
		judged(rs, c, r, e, &reply);
	entry_batch_free(reply.entries);
	heap_set(&rs->timers, &r->timer, c->now);
}

void reader_lock_answer(struct readers *rs, struct shard_ctx *c, const struct msg_lock_answer *m)
{
	uint16_t svc = (uint16_t)(tag_index(m->tag) >> 8);
	struct reader *r = svc < rs->n ? rs->v[svc] : NULL;
	bool is_entries = (tag_index(m->tag) & 0xff) == READER_QUERY_FEED_DLQ_LENGTH;
	enum reader_query e = is_entries ? READER_QUERY_FEED_DLQ_LENGTH : READER_QUERY_DLQ_LENGTH;
	struct reader_query_state *s = r ? &r->reader_queries[e] : NULL;
	if (!s || s->gen != tag_gen(m->tag))
		return;
	struct shard_lengths *lengths = &ctx_service(c, svc)->lengths;
	s->at = c->now + EVERY_MS;
	if (m->result == OP_DONE)
		*(is_entries ? &lengths->entries_dlq : &lengths->dlq) = m->integer;
	heap_set(&rs->timers, &r->timer, c->now);
}
