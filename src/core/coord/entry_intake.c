/* entry_intake - how an entry comes into the ledger: read, found pending, unreadable. */
#include "core/coord/coord_p.h"
#include <stdio.h>
#include <string.h>

struct entry *entry_enter(struct coord *c, struct coord_service *s, struct entry_id id, enum entry_state state)
{
	entry_reserved_of(c, s)->owned++;
	return ledger_add(&c->ledger, s->svc, id, state, c->now);
}

static size_t escaped(const struct text *t)
{
	size_t n = 0;
	for (uint32_t i = 0; i < t->len; i++) {
		unsigned char ch = (unsigned char)t->bytes[i];
		n += ch < 0x20 ? 6 : (ch == '"' || ch == '\\') ? 2 : 1;
	}
	return n;
}

/* The line of its assign frame, rounded up a little. */
static bool is_too_large(const struct coord_rules *r, const struct coord_service *s, const struct entry_in *in)
{
	size_t trace = in->trace ? in->trace->len + 16 : 0;
	return in->info->len + trace + escaped(in->stream) + strlen(s->rules->name) + 320 > r->max_frame_bytes;
}

/* A record that never gets a lock: an unreadable entry, or one whose data was deleted. */
static void enter_hopeless(
	struct coord *c, struct coord_service *s, const struct entry_in *in, enum dead_reason why, const char *words)
{
	struct entry *e = entry_enter(c, s, in->id, ENTRY_FINISHING);
	e->retry = in->retry;
	e->stream = text_ref(in->stream);
	e->finish = in->problem == ENTRY_DELETED ? FINISH_ACK : FINISH_DEAD;
	e->dead_reason = (uint8_t)why;
	e->note = text_new(words, strlen(words)); /* a dead letter's _dlq_error */
	entry_send_op(c, e);
}

/* Can nobody ever work on it? Then words tell why; else DEAD_N. */
static enum dead_reason why_hopeless(
	const struct coord *c, const struct coord_service *s, const struct entry_in *in, char words[static OWN_WHY_CAP])
{
	if (in->problem != ENTRY_GOOD) {
		snprintf(words, OWN_WHY_CAP, "%s", entry_problem_text(in->problem));
		return DEAD_UNPARSEABLE;
	}
	if (s->rules->entries.is_on && c->topo.is_cluster && in->has_no_position) {
		snprintf(words, OWN_WHY_CAP,
			"in a cluster no key for the position in it lands in its slot: give its "
			"name a hash tag, {like this}");
		return DEAD_BAD_NAME;
	}
	const struct own_name name = {in->stream->bytes, in->stream->len, in->is_position};
	if (services_is_own_key(&c->services, s, &name, words))
		return DEAD_BAD_NAME;
	if (is_too_large(&c->rules, s, in)) {
		snprintf(words, OWN_WHY_CAP, "its assign would have more bytes than workers.max_frame, %lld",
			(long long)c->rules.max_frame_bytes);
		return DEAD_TOO_LARGE;
	}
	return DEAD_N;
}

/* A producer names ids of its own. Once for each service. */
static void look_at_id(struct effects *out, struct coord_service *s, struct entry_id id)
{
	if ((id.ms < SESSION_ID_US && id.seq < SESSION_ID_SEQ) || s->is_id_told)
		return;
	s->is_id_told = true;
	effects_log(out, LOG_WARN,
		"service=%s id=%llu-%llu is no time in milliseconds: a producer names ids itself (XADD without *); "
		"tokens are made from it as %s, ages are wrong",
		s->rules->name, (unsigned long long)id.ms, (unsigned long long)id.seq,
		id.ms < SESSION_ID_US   ? "milliseconds, without what is behind the dash"
		: id.ms < SESSION_ID_NS ? "microseconds"
					: "nanoseconds");
}

/* Behind which entry of its stream it has to stand here; NULL: it may go on. One that is leaving holds up nothing. */
static struct entry *first_of(const struct coord_service *s, const struct text *stream)
{
	if (s->rules->same_stream == SAME_STREAM_ALLOW)
		return NULL;
	struct entry *first = map_get(&s->active, stream->bytes, stream->len);
	return first && first->state != ENTRY_FINISHING ? first : NULL;
}

static void enter_good(struct coord *c, struct coord_service *s, struct entry_in *in, struct entry *e, bool is_start)
{
	struct entry *first = is_start ? NULL : first_of(s, in->stream);
	enum entry_state state = first ? ENTRY_PARKED : ENTRY_LOCKING;
	if (!e)
		e = entry_enter(c, s, in->id, state);
	else
		entry_move(c, e, state, MONO_NEVER);
	e->stream = in->stream;
	e->info = in->info;
	e->trace = in->trace;
	in->stream = in->info = in->trace = NULL;
	e->retry = in->retry;
	e->is_suspect = in->is_suspect && !(is_start && s->rules->entries.is_on); /* those ran well until now */
	e->was_alone = in->was_alone;
	e->lock_slot = in->lock_slot;
	if (s->rules->entries.is_on && !e->feed) {
		e->feed = entry_feed_new(in->data_slot);
	}
	e->is_start = e->start_counted = is_start;
	if (first) {
		entry_unreserve(c, s, e);
		entry_follow(c, e, first);
		return;
	}
	if (is_start) {
		c->n_start++;
	} else {
		entry_lead(s, e);
		entry_reserve_for_lock(c, s, e);
		e->deadline = entry_waits_until(c, e, e->lock_slot);
		entry_arm(c, e);
	}
	entry_send_lease(c, e, topology_shard(&c->topo, e->lock_slot), false);
}

void entry_enter_one(struct coord *c, struct coord_service *s, struct entry_in *in, bool is_start)
{
	struct entry *e = ledger_get(&c->ledger, s->svc, in->id);
	if (e && e->state != ENTRY_FETCHING)
		return; /* held already: recognised by its id */
	look_at_id(c->out, s, in->id);
	if (in->bad_retry)
		effects_log(c->out, LOG_WARN,
			"service=%s id=%llu-%llu _retry_count is not a number of 1 to 9 digits: counts as 0",
			s->rules->name, (unsigned long long)in->id.ms, (unsigned long long)in->id.seq);
	char words[OWN_WHY_CAP];
	const enum dead_reason why = why_hopeless(c, s, in, words);
	if (why != DEAD_N) {
		if (e)
			entry_drop(c, e); /* with its claim */
		enter_hopeless(c, s, in, why, words);
		return;
	}
	enter_good(c, s, in, e, is_start);
}

static void read_answered(struct coord *c, struct coord_service *s, const struct msg *m)
{
	struct credits_service *ps = entry_reserved_of(c, s);
	if (m->from != s->reader.shard || !ps->is_reading)
		return;
	ps->reserved -= ps->granted;
	ps->was_full = m->entries.batch && (int64_t)m->entries.batch->n >= m->entries.n_asked && m->entries.n_asked > 0;
	ps->granted = 0;
	ps->is_reading = false;
	s->is_sifting = m->entries.n_parked > 0 || (s->is_sifting && ps->was_full);
	if (s->rules->same_stream == SAME_STREAM_COALESCE)
		s->m.c[M_MERGED] += m->entries.n_parked;
	credits_read(&c->place, services_pos(&c->services, s), m->entries.batch ? (uint32_t)m->entries.batch->n : 0);
	coord_place_turn(c, s);
	if (s->grant.is_again && !ps->was_full)
		s->grant.again = 0;
	s->grant.is_again = false;
	s->grant.n = 0;
	services_mark_all(&c->services); /* others may wait for these credits */
}

void entry_on_batch(struct coord *c, const struct msg *m)
{
	struct coord_service *s = services_find(&c->services, m->svc);
	if (!s)
		return; /* removed meanwhile; the entries stay pending for whoever serves it again */
	if (m->entries.source == SOURCE_NEW) {
		read_answered(c, s, m);
		s->m.c[M_ENTRIES_READ] += m->entries.batch ? m->entries.batch->n : 0;
	}
	bool is_start = m->entries.source == SOURCE_OWN && !s->reader.own_done;
	for (size_t i = 0; m->entries.batch && i < m->entries.batch->n; i++)
		entry_enter_one(c, s, &m->entries.batch->v[i], is_start);
	if (m->entries.source == SOURCE_OWN && m->entries.is_last && !s->reader.own_done) {
		s->reader.own_done = true;
		coord_is_back(c, s);
		if (!c->n_start)
			worker_try_held(c);
	}
	if (m->entries.source == SOURCE_NEW && m->entries.batch)
		coord_make_room(c, s, (uint32_t)m->entries.batch->n);
	services_mark(&c->services, s);
}
