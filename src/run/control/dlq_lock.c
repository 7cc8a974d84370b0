/* One replay of one service's dead letters at a time, whichever daemon runs it: a lock in Redis beside them, named like
 * a lock of a stream of their name, so that it needs no right of its own, and good for as long as a lease. It is
 * renewed as the replay goes on; a replay whose lock has become somebody else's stops before it adds anything more. */
#include "run/control/dlq.h"

#include <stdio.h>
#include <string.h>

static const struct entry_id lock_id = {0, 1}; /* no entry has it */

static void dlq_lock_send(struct dlq_job *j, enum cmd_kind kind, enum dlq_stage stage)
{
	size_t len = strlen(j->names.dlq);
	struct cmd c = {.kind = kind,
		.stream = {j->names.dlq, len},
		.id = lock_id,
		.as.lock.value = {j->lock.value, strlen(j->lock.value)},
		.as.lock.ttl_ms = j->rules->lease.ttl_ms,
		.use_eval = j->use_eval};
	dlq_send(j, command_lock_slot(j->names.dlq, len, lock_id), &c, stage);
}

mono_ms dlq_lock_every(const struct dlq_job *j)
{
	return j->rules->lease.ttl_ms / 3;
}

bool dlq_lock_step(struct dlq_job *j, mono_ms now)
{
	static unsigned n_replays;
	if (!j->is_replay || j->q->r.dry_run)
		return false;
	if (!j->lock.held_at) {
		if (!j->lock.value[0])
			snprintf(j->lock.value, sizeof j->lock.value, "%s/replay-%u", j->q->d->shards.rules.lock_value,
				++n_replays);
		dlq_lock_send(j, CMD_LOCK, DLQ_LOCK);
		return true;
	}
	if (now - j->lock.held_at < dlq_lock_every(j))
		return false;
	dlq_lock_send(j, CMD_RENEW, DLQ_RENEW);
	return true;
}

static bool is_ours(const struct dlq_job *j, const struct reply *r)
{
	return r->kind == REPLY_TEXT && r->text.len == strlen(j->lock.value) &&
	       memcmp(r->text.p, j->lock.value, r->text.len) == 0;
}

void dlq_lock_answer(struct dlq_job *j, const struct reply *r)
{
	enum dlq_stage stage = j->stage;
	j->stage = DLQ_LOOK;
	if (stage == DLQ_LOCK && r->kind == REPLY_OK) {
		j->lock.held_at = loop_now(j->q->d->loop);
	} else if (stage == DLQ_LOCK && r->kind == REPLY_NIL) {
		dlq_lock_send(j, CMD_LOCK_GET, DLQ_HOLDER);
	} else if (stage == DLQ_HOLDER && (r->kind == REPLY_TEXT || r->kind == REPLY_NIL)) {
		int n = r->kind == REPLY_TEXT ? (int)mono_min((mono_ms)r->text.len, 340) : 0;
		dlq_over(j, 1, "another replay of %s is under way%s%.*s; if it has died, try again in %lld s",
			j->names.dlq, n ? ": " : "", n, n ? r->text.p : "",
			(long long)(j->rules->lease.ttl_ms + 999) / 1000);
	} else if (stage == DLQ_RENEW && is_ours(j, r)) {
		j->lock.held_at = loop_now(j->q->d->loop);
	} else if (stage == DLQ_RENEW && (r->kind == REPLY_TEXT || r->kind == REPLY_NIL)) {
		j->lock.held_at = 0;
		dlq_over(j, 1,
			"this replay of %s stood still for too long and another one may have begun: start it again "
			"when "
			"that has ended",
			j->names.dlq);
	} else if (stage != DLQ_UNLOCK) {
		j->lock.held_at = 0;
		dlq_over(j, 1, "%s", control_redis_why(j->conns.asked));
	}
	if (stage == DLQ_UNLOCK)
		j->lock.held_at = 0; /* or it runs out by itself */
}

bool dlq_lock_give_back(struct dlq_job *j)
{
	if (!j->lock.held_at)
		return false;
	dlq_lock_send(j, CMD_UNLOCK, DLQ_UNLOCK);
	return j->is_waiting;
}
