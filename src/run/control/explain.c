#include "run/control/explain.h"

#include "codec/frame.h"
#include "run/control/down.h"

#include <stdio.h>
#include <string.h>

/* ---- the service as a whole */

void explain_group_gone(char out[static FACTS_GONE_CAP], const struct daemon *d, const struct coord_service *s)
{
	char since[FACTS_SINCE_CAP];
	out[0] = '\0';
	if (!s->audit.gone_at)
		return;
	facts_since(since, loop_now(d->loop) - s->audit.gone_at);
	snprintf(out, FACTS_GONE_CAP,
		"the consumer group of %.100s-input was found gone since %s, and was made again: "
		"after FLUSHALL, DEL or a Redis that came back empty what was in the stream before is lost",
		s->rules->name, since);
}

/* What the master refuses, of what concerns service s; false: nothing, or there is no master. */
static bool facts_refused(struct facts *f, const struct daemon *d, const struct coord_service *s, uint16_t shard)
{
	const struct shard_refused *r = view_refused(d, shard);
	if (!r || shard >= d->core->topo.n_nodes || (r->svc != SERVICE_NONE && r->svc != s->svc))
		return false;
	char age[24];
	facts_age(age, mono_now() - r->since);
	facts_add(f, "redis %s refuses, %llu times in %s: %s", d->core->topo.nodes[shard].addr,
		(unsigned long long)r->n, age, r->words);
	facts_advice(f, "sluicectl doctor");
	return true;
}

/* "; it is down since 02:13:05 (38 s)", or nothing. */
static const char *and_since(const struct daemon *d, uint16_t shard, char out[static DOWN_SINCE_CAP + 30])
{
	char since[DOWN_SINCE_CAP];
	out[0] = '\0';
	if (!down_is_known(d, shard))
		return out;
	down_since(d, shard, since);
	snprintf(out, DOWN_SINCE_CAP + 30, "; it is down since %s", since);
	return out;
}

static void facts_no_worker(struct facts *f, const struct daemon *d)
{
	const struct coord *c = d->core;
	char age[24];
	facts_age(age, loop_now(d->loop) - (c->workers.alone_since ? c->workers.alone_since : c->started_at));
	if (c->workers.n)
		facts_add(f, "%u connected, for other services", c->workers.n);
	else if (c->workers.alone_since)
		facts_add(f, "the last worker went %s ago", age);
	else
		facts_add(f, "no worker has connected since the daemon started %s ago", age);
}

/* Entries mode: what those do that hold credits without work. They give them up soon, but for what a worker ends. */
static void rest_words(char out[static 100], const struct view_service *v)
{
	size_t n = 0;
	out[0] = '\0';
	if (v->feeds.idle)
		n = (size_t)snprintf(out, 100, ", %lld of them idle", (long long)v->feeds.idle);
	if (v->feeds.blocked)
		snprintf(out + n, 100 - n, ", %lld of them wait%s to try an entry again", (long long)v->feeds.blocked,
			v->feeds.blocked == 1 ? "s" : "");
}

/* A worker of the service that was told to stop one of its streams and has not, in time; NULL: none. */
static const struct worker *who_does_not_stop(const struct coord *c, uint64_t service)
{
	for (const struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		const struct worker *m = LIST_OF(struct worker, all, l);
		for (uint32_t i = 0; !m->is_gone && i < m->s.n_outcomes; i++)
			if (m->s.outcomes[i].used && m->s.outcomes[i].is_zombie && m->s.outcomes[i].service == service)
				return m;
	}
	return NULL;
}

/* No credit is free: who has them. */
static void facts_no_credit(struct facts *f, const struct coord *c, const struct coord_service *s,
	const struct view_service *v, const char *rest)
{
	const uint16_t pos = services_pos(&c->services, s);
	const struct worker *hung = v->stuck ? who_does_not_stop(c, s->rules->hash) : NULL;
	char others[60] = "", stuck[100] = "";
	const long long n_work = v->in_use - v->stuck;
	const long long n_others = (long long)credits_in_use(&c->place, pos) - (long long)v->in_use;
	if (v->stuck)
		snprintf(stuck, sizeof stuck, ", and %lld that %s told to stop and %s not,", (long long)v->stuck,
			v->workers == 1 ? "it was" : "they were", v->workers == 1 ? "has" : "have");
	if (n_others > 0)
		snprintf(others, sizeof others, ", and %lld of other services,", n_others);
	facts_add(f, "waiting for credits: %lld worker%s of %s %s %lld stream%s in work%s%s%s and no credit is free",
		(long long)v->workers, text_plural(v->workers), s->rules->name, v->workers == 1 ? "has" : "have",
		n_work, text_plural(n_work), rest, stuck, others);
	if (hung)
		facts_advice(f, "look at worker %s (pid %lld), or restart it: it does not stop what was taken from it",
			hung->s.name, (long long)hung->s.pid);
	else if (v->feeds.idle && !service_idle_may_yield(s->rules))
		facts_advice(f,
			"%s services[].entries.idle_release, or let workers say done: an empty stream keeps "
			"its credit",
			s->rules->entries.idle_release_ms ? "shorten" : "set");
	else
		facts_advice(f, "start more workers, or raise their credits");
}

void explain_service(struct facts *f, struct daemon *d, const struct coord_service *s)
{
	const struct coord *c = d->core;
	uint16_t pos = services_pos(&c->services, s);
	const struct credits_service *p = &c->place.service[pos];
	struct view_service *v = view_services(d);
	const char *name = s->rules->name;
	char rest[100];
	rest_words(rest, &v[pos]);
	if (c->stop.is_on) {
		facts_add(f, "the daemon is stopping");
		facts_next(f, "another daemon of the group takes it, or this one when it is started again");
	} else if (c->drain.is_on) {
		facts_add(f, "the daemon is draining");
		facts_advice(f, "sluicectl undrain");
	} else if (p->is_paused) {
		facts_add(f, "service %s is paused", name);
		facts_advice(f, "sluicectl resume %s", name);
	} else if (service_has_no_master(&c->topo, s)) {
		facts_add(f, "service %s: slot %u has no master, nothing is read", name, s->rules->lbs_slot);
		facts_advice(f, "give the slot to a master (redis-cli --cluster fix); sluicectl doctor");
	} else if (s->reader.shard == SHARD_NONE || !c->shards.v[s->reader.shard].is_up[CONN_COMMAND]) {
		char since[DOWN_SINCE_CAP + 30];
		facts_add(f, "the Redis master of %s-input is not reachable: %s%s", name,
			s->reader.shard != SHARD_NONE ? c->shards.v[s->reader.shard].why : "no topology",
			and_since(d, s->reader.shard, since));
		facts_advice(f, "sluicectl nodes, sluicectl doctor");
	} else if (facts_refused(f, d, s, s->reader.shard)) {
		facts_next(f, "it is tried again until Redis takes it");
	} else if (!s->reader.own_done) {
		facts_add(f, "the daemon still looks at the entries of its former process");
	} else if (v[pos].workers == 0) {
		facts_add(f, "no worker serves %s", name);
		facts_no_worker(f, d);
		facts_advice(f, "start a worker for %s", name);
	} else if (v[pos].credits == 0) {
		facts_add(f, "%lld worker%s of %s %s no work now: credits=0", (long long)v[pos].workers,
			text_plural(v[pos].workers), name, v[pos].workers == 1 ? "takes" : "take");
		facts_advice(f, "its own output says why (sluice-run: a command that cannot be started)");
	} else if (s->rules->entries.is_on && !credits_has_taker(&c->place, pos)) {
		facts_add(f, "no worker of %s takes entries", name);
		facts_advice(f, "sluice-run --each, or \"entries\": true in hello");
	} else if (p->owned >= p->max_streams) {
		facts_add(f, "this daemon holds max_streams=%u streams of %s%s", p->max_streams, name, rest);
		facts_advice(f, "raise services[].max_streams, or start another daemon");
	} else if (credits_free(&c->place, pos) == 0) {
		facts_no_credit(f, c, s, &v[pos], rest);
	} else {
		facts_add(f,
			credits_free(&c->place, pos) == 1 ? "%u credit of %s is free" : "%u credits of %s are free",
			credits_free(&c->place, pos), name);
	}
	mem_free(v);
}

/* ---- an entry we hold */

static void about_worker(struct facts *f, const struct coord *c, const struct entry *e, mono_ms now)
{
	const struct worker *m = e->owner ? workers_find(&((struct coord *)(uintptr_t)c)->workers, e->owner) : NULL;
	char age[24];
	facts_age(age, now - e->assigned_at);
	if (m)
		facts_add(f, "worker %s (session %llu, pid %lld) has it for %s", m->s.name, (unsigned long long)m->s.id,
			(long long)m->s.pid, age);
}

static void about_lease(struct facts *f, const struct entry *e, mono_ms now)
{
	if (e->good_until > now)
		facts_add(f, "its lease is held here and good for another %lld ms unless renewed",
			(long long)(e->good_until - now));
	else if (e->good_until)
		facts_add(f, "its lease ran out %lld ms ago", (long long)(now - e->good_until));
}

static void about_master(struct facts *f, const struct daemon *d, const struct coord_service *s, const struct entry *e)
{
	const struct coord *c = d->core;
	uint16_t shard = c->topo.is_known ? topology_shard(&c->topo, e->lock_slot) : SHARD_NONE;
	char since[DOWN_SINCE_CAP + 30];
	if (shard == SHARD_NONE || shard >= c->shards.n)
		facts_add(f, "no master serves its lock's slot %u", e->lock_slot);
	else if (!c->shards.v[shard].is_up[CONN_COMMAND])
		facts_add(f, "the master of its lock, %s, is not reachable: %s%s", c->topo.nodes[shard].addr,
			c->shards.v[shard].why, and_since(d, shard, since));
	else
		facts_refused(f, d, s, shard);
}

/* The master of its service's stream: who runs next, and how it ends, is decided there. */
static void about_lbs_master(struct facts *f, const struct daemon *d, const struct coord_service *s)
{
	char down[DOWN_WORDS_CAP];
	if (down_words(d, s->reader.shard, NULL, down))
		facts_add(f, "%s", down);
}

static void why_parked(
	struct facts *f, const struct daemon *d, const struct coord_service *s, const struct entry *e, mono_ms now)
{
	const struct entry *first = e->stream ? map_get(&s->active, e->stream->bytes, e->stream->len) : NULL;
	if (first && first != e) {
		char id[COMMAND_ID_CAP];
		command_id_format(id, first->id);
		facts_add(f, "parked behind entry %s of the same stream, which is %s here", id,
			ctl_state_name(view_state(first, now)));
	} else {
		facts_add(f, "parked: another daemon runs an entry of the same stream");
	}
	about_lbs_master(f, d, s);
	facts_next(f, "it is taken when that entry has ended");
}

static void why_locking(
	struct facts *f, const struct daemon *d, const struct coord_service *s, const struct entry *e, mono_ms now)
{
	switch ((int)e->state) {
	case ENTRY_FETCHING:
		facts_add(f, "it is pending for this daemon and is being read again");
		break;
	case ENTRY_BUSY:
		facts_add(f, "somebody else holds its lock");
		facts_next(f, "the lock is tried again in %lld ms", (long long)mono_max(0, e->deadline - now));
		break;
	case ENTRY_TAKING:
		facts_add(f, "it is locked here; Redis is being asked whether the stream is free");
		facts_refused(f, d, s, s->reader.shard);
		break;
	default:
		facts_add(f, "its lock is being acquired");
		break;
	}
	about_master(f, d, s, e);
}

static void why_finishing(struct facts *f, const struct daemon *d, const struct coord_service *s, const struct entry *e)
{
	static const char *const what[] = {[FINISH_NONE] = "its outcome",
		[FINISH_DONE] = "done",
		[FINISH_REQUEUE] = "its way back to the stream",
		[FINISH_DEAD] = "the dead letter",
		[FINISH_ACK] = "its removal"};
	facts_add(f, "the work has ended; %s waits for Redis' confirmation",
		e->finish <= FINISH_ACK ? what[e->finish] : what[0]);
	about_lbs_master(f, d, s);
	facts_refused(f, d, s, s->reader.shard);
}

/* The first entry behind the position failed: it waits for its next try, or that is under way. */
static void about_retry(struct facts *f, const struct coord_service *s, const struct entry *e, mono_ms now)
{
	const struct entry_feed *feed = e->feed;
	char id[COMMAND_ID_CAP], next[48] = "it is tried again now";
	command_id_format(id, feed->trouble->bad);
	if (entry_feed_is_blocked(e, now)) {
		char age[24];
		facts_age(age, feed->trouble->blocked_until - now);
		snprintf(next, sizeof next, "next try in %s", age);
	}
	facts_add(f, "entry %s failed %u of %u times, %s: %s", id, feed->tries, s->rules->entries.max_retries + 1, next,
		e->note ? e->note->bytes : "no reason given, or it was given to who had the stream before");
	facts_next(f, "nothing else of its stream until it is acknowledged or a dead letter");
	if (entry_feed_is_blocked(e, now))
		facts_delayed_now(f, s->rules->name, e->stream->bytes);
}

/* It has nothing to do, and keeps others waiting for its credit, maybe. */
static void about_idle(struct facts *f, const struct service_rules *r)
{
	char age[24];
	if (!r->entries.idle_release_ms) {
		facts_next(f, "it keeps a credit of its worker until that says done (idle_release is 0)");
		return;
	}
	facts_age(age, r->entries.idle_release_ms);
	facts_next(f, "it gives the credit of its worker back when it was empty for %s (idle_release)%s", age,
		service_idle_may_yield(r) ? ", sooner when another stream waits for one" : "");
}

/* Entries that it has lost since it is here: none of them comes again. */
static void about_losses(struct facts *f, const struct coord_service *s, const struct entry *e)
{
	const struct entry_losses *l = &e->feed->trouble->losses;
	char id[COMMAND_ID_CAP];
	if (l->n_lost)
		facts_add(f,
			"%u of its entries %s trimmed or deleted before %s acknowledged (MAXLEN, XTRIM, XDEL): %s lost",
			l->n_lost, l->n_lost == 1 ? "was" : "were", l->n_lost == 1 ? "it was" : "they were",
			l->n_lost == 1 ? "it is" : "they are");
	if (!l->n_dead)
		return;
	command_id_format(id, l->dead);
	facts_add(f, "%u of its entries became %s since it is here, the last one %s", l->n_dead,
		l->n_dead == 1 ? "a dead letter" : "dead letters", id);
	char word[FACTS_WORD_CAP];
	facts_advice(
		f, "sluicectl entries-dlq show %s --stream %s", s->rules->name, facts_word(word, e->stream->bytes));
}

/* Entries mode: what it waits for. */
static void about_feed(struct facts *f, const struct coord_service *s, const struct entry *e, mono_ms now)
{
	const struct entry_feed *feed = e->feed;
	char id[COMMAND_ID_CAP], age[24];
	if (!feed)
		return;
	about_losses(f, s, e);
	if (feed->trouble->blocked_until)
		about_retry(f, s, e, now);
	if (entry_feed_is_blocked(e, now))
		return;
	command_id_format(id, feed->pos);
	mono_ms waits = entry_feed_waits_since(e);
	if (waits == MONO_NEVER) {
		facts_add(f, "entries mode: everything up to %s is acknowledged, it waits for entries", id);
		about_idle(f, s->rules);
		return;
	}
	facts_age(age, now - waits);
	const struct entry_nack *nack = &feed->trouble->nack;
	if (nack->is_on) {
		char bad[COMMAND_ID_CAP];
		command_id_format(bad, nack->id);
		facts_add(f,
			"entries mode: everything up to %s is acknowledged; entry %s failed, and Redis has not "
			"confirmed its "
			"%s for %s",
			id, bad, nack->is_dead ? "dead letter" : "try, or its dead letter,", age);
		return;
	}
	facts_add(f,
		"entries mode: everything up to %s is acknowledged, and nothing was heard of what is out for %s; "
		"window=%u: more frames than those are not told ahead",
		id, age, s->rules->entries.window);
}

static void why(struct facts *f, struct daemon *d, const struct coord_service *s, const struct entry *e)
{
	const struct coord *c = d->core;
	mono_ms now = loop_now(d->loop);
	char age[24];
	facts_age(age, now - e->since);
	switch (view_state(e, now)) {
	case CTL_STATE_BLOCKED:
	case CTL_STATE_ASSIGNED:
		about_feed(f, s, e, now);
		about_worker(f, c, e, now);
		about_lease(f, e, now);
		about_master(f, d, s, e);
		if (c->rules.progress_timeout_ms && (!e->feed || entry_feed_waits_since(e) != MONO_NEVER))
			facts_next(f, "it is taken back when the worker is silent about it for %lld ms",
				(long long)c->rules.progress_timeout_ms);
		break;
	case CTL_STATE_REVOKING:
		facts_add(f, "its worker was told to stop %s ago (reason %s)", age,
			frame_revoke_name((enum revoke_reason)e->revoke));
		about_worker(f, c, e, now);
		facts_next(f, "it goes back when the worker has stopped, in %lld ms at the latest",
			(long long)mono_max(0, e->deadline - now));
		break;
	case CTL_STATE_LOST:
		facts_add(f, "the lease was lost %s ago; its worker has not said yet that it stopped", age);
		about_master(f, d, s, e);
		facts_next(f, "whoever owns it now runs it");
		break;
	case CTL_STATE_PARKED:
		why_parked(f, d, s, e, now);
		break;
	case CTL_STATE_READY:
		explain_service(f, d, s);
		if (e->is_suspect) {
			facts_add(f,
				"a worker died with it and maybe because of it: it waits %s for a worker that holds "
				"nothing else",
				age);
			facts_next(f,
				e->feed ? "after %d s any worker gets it, entry by entry"
					: "after %d s a worker is let run empty for it",
				SUSPECT_WAIT_MS / 1000);
		} else {
			facts_next(f, "it is assigned when a credit is free");
		}
		break;
	case CTL_STATE_LIMBO:
		facts_add(f, "the connection of its worker dropped %s ago, the worker may come back", age);
		facts_next(f, "it is given out anew in %lld ms", (long long)mono_max(0, e->deadline - now));
		break;
	case CTL_STATE_LOCKING:
		why_locking(f, d, s, e, now);
		break;
	case CTL_STATE_FINISHING:
	case CTL_STATE_N:
		why_finishing(f, d, s, e);
		break;
	}
}

const struct coord_service *explain_sharer(const struct coord *c, const struct entry *e)
{
	const struct coord_service *s = services_find(&((struct coord *)(uintptr_t)c)->services, e->svc);
	for (uint16_t i = 0; s && s->rules->entries.is_on && e->stream && i < c->services.n; i++) {
		const struct coord_service *other = &c->services.v[i];
		if (other != s && other->rules && other->rules->entries.is_on &&
			map_get(&other->active, e->stream->bytes, e->stream->len))
			return other;
	}
	return NULL;
}

/* Entries mode: two services take the position from each other. */
static void about_sharer(struct facts *f, const struct coord *c, const struct entry *e)
{
	const struct coord_service *other = explain_sharer(c, e);
	if (!other)
		return;
	facts_add(f,
		"service %s has this data stream, too: they share its position, take it from each other in turns, and "
		"what one acknowledges the other does not get",
		other->rules->name);
	facts_advice(f, "name a data stream in one service only; for two readers add the events to two streams");
}

static void explain_entry(struct control_req *q, const struct entry *e)
{
	struct daemon *d = q->d;
	const struct coord_service *s = services_find(&d->core->services, e->svc);
	if (!s)
		return;
	char id[COMMAND_ID_CAP];
	command_id_format(id, e->id);
	enum ctl_state state = view_state(e, loop_now(d->loop));
	struct facts f = {0};
	why(&f, d, s, e);
	about_sharer(&f, d->core, e);
	struct ctl_explain row = {.service = s->rules->name,
		.stream = e->stream ? e->stream->bytes : q->r.stream,
		.id = id,
		.state = ctl_state_name(state),
		.running = state == CTL_STATE_ASSIGNED || state == CTL_STATE_BLOCKED};
	row.owner = e->good_until || state == CTL_STATE_ASSIGNED || state == CTL_STATE_BLOCKED
			    ? d->shards.rules.consumer
			    : NULL;
	facts_encode(q, &f, &row);
	facts_fini(&f);
}

void control_explain(struct control_req *q)
{
	struct view_match m;
	if (!control_match(q, &m))
		return;
	size_t n = 0;
	for (int pass = 0; pass < 2; pass++) { /* what runs first */
		uint32_t pos = 0;
		for (const struct entry *e; (e = ledger_next(&q->d->core->ledger, &pos));) {
			if (!view_matches(&m, e) || (e->state == ENTRY_ASSIGNED) != (pass == 0))
				continue;
			explain_entry(q, e);
			n++;
		}
	}
	if (n)
		control_end(q, 0, NULL);
	else
		control_explain_remote(q);
}
