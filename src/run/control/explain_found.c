/* explain_found - the rows of explain for what a search in Redis has found. */
#include "run/control/explain_remote_p.h"

#include <stdio.h>
#include <string.h>

#include "codec/packed.h"

static void found_row(struct seek *j, struct facts *f, struct ctl_explain *row)
{
	char id[COMMAND_ID_CAP];
	command_id_format(id, j->id);
	const struct coord_service *s = seek_service(j);
	row->service = s ? s->rules->name : "";
	row->stream = j->stream ? j->stream->bytes : j->q->r.stream;
	row->id = id;
	facts_encode(j->q, f, row);
	facts_fini(f);
	j->found.n++;
	j->found.is_coming |= strcmp(row->state, "dead") != 0;
}

void found_waiting(struct seek *j)
{
	struct facts f = {0};
	const struct coord_service *s = seek_service(j);
	char age[24];
	facts_age(age, view_age_ms(mono_wall_ms(), j->id));
	facts_add(&f, "no daemon has read it, it waits in %s for %s", j->lbs.lbs, age);
	if (j->found.n > j->n_before) { /* of this service: the one that the registry names */
		facts_add(&f, "an earlier entry of its stream comes first: the one above");
		facts_next(&f, "it begins when all that were added before it have ended");
	} else {
		if (s)
			explain_service(&f, j->q->d, s);
		facts_next(&f, "the next daemon of the group with a free credit reads it, in order");
	}
	found_row(j, &f, &(struct ctl_explain){.state = "waiting"});
	seek_go_on(j);
}

void found_parked(struct seek *j)
{
	struct facts f = {0};
	char age[24];
	facts_age(age, view_age_ms(mono_wall_ms(), j->id));
	facts_add(&f, "parked: it waits until the running entry of the same stream has ended, for %s", age);
	facts_next(&f, "it begins when all that were added before it have ended");
	found_row(j, &f, &(struct ctl_explain){.state = "parked"});
	seek_go_on(j);
}

void found_ghost(struct seek *j)
{
	const struct coord_service *s = seek_service(j);
	struct facts f = {0};
	facts_add(&f,
		"it was delivered to a consumer of the group, but nobody has it: that consumer was deleted (XGROUP "
		"DELCONSUMER), or is about to delete the entry");
	facts_next(
		&f, "one of the daemons finds it within recovery.interval and lease.ttl, and puts it back uncounted");
	if (s)
		facts_advice(&f, "sluicectl scan %s", s->rules->name);
	found_row(j, &f, &(struct ctl_explain){.state = "ghost"});
	seek_go_on(j);
}

/* Is it what core/coord/entry_outcome says of a lost position? */
static bool is_taken_turn(struct slice reason)
{
	static const char words[] = "a newer owner has the position";
	return reason.len >= sizeof words - 1 && memcmp(reason.p, words, sizeof words - 1) == 0;
}

void found_delayed(struct seek *j, int64_t due_ms)
{
	struct packed room = {0};
	struct packed_entry e = {.n = 0};
	const struct coord_service *s = seek_service(j);
	struct facts f = {0};
	char in[24];
	facts_age(in, due_ms - mono_wall_ms());
	const bool is_known = packed_decode(&room, (struct slice){j->packed, j->packed_len}, &e);
	const bool is_release = e.why.len == 7 && memcmp(e.why.p, "release", 7) == 0;
	if (!is_known)
		facts_add(&f, "it waits, next try in %s", in);
	else if (e.why.len == 4 && memcmp(e.why.p, "fail", 4) == 0)
		facts_add(&f, "failed %u of %u times, next try in %s%s%.*s", packed_retries(&e),
			s ? s->rules->max_retries + 1 : 0, in, e.reason.len ? ": " : "", (int)e.reason.len,
			e.reason.len ? e.reason.p : "");
	else if (is_release)
		facts_add(&f, "%.*s%s, next try in %s", (int)e.reason.len, e.reason.len ? e.reason.p : "",
			e.reason.len ? "" : "its worker gave it back", in);
	else
		facts_add(&f, "added for later, due in %s", in);
	if (is_release && packed_retries(&e) && !e.tries)
		facts_add(&f, "it failed %u of %u times", packed_retries(&e), s ? s->rules->max_retries + 1 : 0);
	facts_next(&f, "it goes back to %s when it is due; nothing of its stream begins before it", j->lbs.lbs);
	if (e.stream.len && !j->stream)
		j->stream = text_new(e.stream.p, e.stream.len);
	if (is_taken_turn(e.reason))
		facts_advice(&f, "when two services name this data stream, name it in one only (sluice-guarantees(7))");
	else if (s)
		facts_delayed_now(&f, s->rules->name, j->stream ? j->stream->bytes : j->q->r.stream);
	found_row(j, &f, &(struct ctl_explain){.state = "delayed"});
	packed_fini(&room);
	seek_go_on(j);
}

/* The daemon's node id, or the name of another client of the group. */
static const char *node_of(const char *consumer)
{
	static const char prefix[] = "redis-consumer-";
	return strncmp(consumer, prefix, sizeof prefix - 1) == 0 ? consumer + sizeof prefix - 1 : consumer;
}

void found_elsewhere(struct seek *j, const struct reply *lock, const char *why)
{
	struct facts f = {0};
	char since[FACTS_SINCE_CAP];
	const bool is_locked = lock->kind == REPLY_TEXT, is_known = lock->kind != REPLY_NONE;
	facts_since(since, j->idle_ms);
	facts_add(&f, "node %.200s has it since %s: it is pending for consumer %.200s, %lld deliver%s",
		node_of(j->consumer), since, j->consumer, (long long)j->deliveries, j->deliveries == 1 ? "y" : "ies");
	if (is_locked)
		facts_add(&f, "lock held by %.*s", (int)lock->text.len, lock->text.p);
	else if (is_known)
		facts_add(&f, "its lock is missing: the owner is locking it, or has died");
	else
		facts_add(&f, "whether its lock is held is not known: %s", why);
	if (is_locked) {
		facts_next(&f, "its owner runs it; when the lock expires, it goes back to the stream");
		facts_advice(&f, "sluicectl explain there, on node %.200s, tells more", node_of(j->consumer));
	} else {
		facts_next(&f, "when its owner stays silent, it goes back to the stream");
	}
	found_row(j, &f, &(struct ctl_explain){.state = "elsewhere", .owner = j->consumer, .running = is_locked});
	seek_go_on(j);
}

void found_dead(struct seek *j, const struct entry_in *e)
{
	struct facts f = {0};
	char age[24];
	struct slice reason = {"?", 1}, error = {"", 0};
	for (size_t i = 0; e->fields && i < e->fields->n; i++) {
		const struct field *v = &e->fields->v[i];
		if (v->name.len == 11 && memcmp(v->name.p, "_dlq_reason", 11) == 0)
			reason = v->value;
		else if (v->name.len == 10 && memcmp(v->name.p, "_dlq_error", 10) == 0)
			error = v->value;
	}
	j->id = e->id;
	facts_age(age, view_age_ms(mono_wall_ms(), e->id));
	facts_add(&f, "it is a dead letter in %s since %s: %.*s", j->dlq.dlq, age, (int)reason.len, reason.p);
	if (error.len)
		facts_add(&f, "its error: %.*s", (int)mono_min((mono_ms)error.len, 500), error.p);
	const struct coord_service *s = seek_service(j);
	char word[FACTS_WORD_CAP];
	if (s && !j->want.by_id)
		facts_next(&f, "sluicectl dlq ls %s --stream %s tells whether there are more", s->rules->name,
			facts_word(word, j->q->r.stream));
	if (s)
		facts_advice(&f, "sluicectl dlq replay %s --id %llu-%llu", s->rules->name, (unsigned long long)e->id.ms,
			(unsigned long long)e->id.seq);
	found_row(j, &f, &(struct ctl_explain){.state = "dead"});
	seek_go_on(j);
}
