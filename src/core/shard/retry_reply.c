/* retry_reply - what Redis answers to an operation on an entry, and what its asker is told. */
#include "core/shard/retry_p.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { AGAIN_MS = 50, AGAIN_MAX_MS = 1000, REFUSED_MS = 200, REFUSED_MAX_MS = 5000 };

static struct text *words_of(const struct reply *reply)
{
	return text_new(reply->text.p, reply->text.len);
}

static void tell_coord(struct shard_ctx *c, struct op *op, enum op_result result, const struct reply *reply)
{
	struct msg_op_result told = {.kind = op->kind,
		.result = (uint8_t)result,
		.resent = op->sent.again,
		.releases = op->releases && result != OP_MOVED,
		.slot = op->slot,
		.next = op->done.next};
	if (reply) {
		told.asking = reply->kind == REPLY_ERROR && reply->error == RERR_ASK;
		told.was_merged = op->kind == CMD_TAKE && reply->kind == REPLY_INT && reply->integer == 4;
		if (op->kind != CMD_DONE)
			told.new_id = reply->id;
		if (op->kind == CMD_FETCH && result == OP_DONE)
			told.batch = reply->entries;
		if (reply->kind == REPLY_ERROR && result == OP_MOVED)
			told.moved_to = words_of(reply);
		else if (reply->kind == REPLY_ERROR)
			told.error = words_of(reply);
	}
	struct msg *m = ctx_msg(c, msg_op_result(told));
	m->handle = op->asker.handle;
	m->svc = op->svc;
	if (told.releases)
		ctx_answer(c, &(struct op_answer){.is_leases = true,
				      .is_released = true,
				      .is_unlocked = op->done.is_unlocked,
				      .handle = op->asker.handle});
}

static void tell_caller(struct shard_ctx *c, const struct op *op, enum op_result result, const struct reply *reply)
{
	const struct shard_service *s = ctx_service(c, op->svc);
	struct msg *m = ctx_msg(c, msg_lock_answer((struct msg_lock_answer){.kind = op->kind,
					   .result = (uint8_t)result,
					   .tag = op->asker.tag,
					   .integer = reply ? reply->integer : 0,
					   .hold_off_until = s ? ctx_hold_off(c, s->rules) : 0}));
	m->from = op->asker.from;
	m->svc = op->svc;
}

/* Answers and forgets. Entries in reply move when the answer takes them (fetch, dlq range). */
void retry_finish(struct retry *r, struct shard_ctx *c, struct op *op, enum op_result result, const struct reply *reply)
{
	assert(op->is_live && result <= OP_FAILED);
	switch ((enum op_for)op->asker.whom) {
	case OP_FOR_COORD:
		tell_coord(c, op, result, reply);
		break;
	case OP_FOR_CALL:
		tell_caller(c, op, result, reply);
		break;
	case OP_FOR_LEASE:
		ctx_answer(c, &(struct op_answer){.is_leases = true,
				      .handle = op->asker.handle,
				      .result = result,
				      .n = reply ? reply->integer : 0});
		break;
	case OP_FOR_NOBODY:
		break;
	case OP_FOR_PART:
		ctx_answer(c, &(struct op_answer){.tag = op->asker.tag,
				      .kind = (enum cmd_kind)op->kind,
				      .result = result,
				      .id = reply ? reply->id : (struct entry_id){0}});
		break;
	}
	heap_remove(&r->timers, &op->timer);
	retry_unqueue(r, op);
	ctx_retire(c, op->entry.stream);
	ctx_retire(c, op->lock.value);
	ctx_retire(c, op->dead.error);
	ctx_retire(c, op->entry.info);
	ctx_retire(c, op->entry.consumer);
	mem_free(op->entry.fields);
	op->is_live = false;
	shard_pool_put(&r->pool, op->index);
}

/* ---- what an answer means ---- */

typedef void answer_fn(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply);

static void on_plain(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	retry_finish(r, c, op, OP_DONE, reply);
}

static void on_take(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	int64_t n = reply->kind == REPLY_INT ? reply->integer : 0;
	retry_finish(r, c, op, n == 1 ? OP_DONE : n == 2 || n == 4 ? OP_PARKED : OP_GONE, reply);
}

static void on_done(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	bool has_next = reply->kind == REPLY_ID;
	if (reply->integer != 1 && reply->integer != 3 && !has_next && !op->done.is_done) {
		retry_finish(r, c, op, OP_GONE, reply);
		return;
	}
	if (has_next)
		op->done.next = reply->id;
	op->done.is_done = true;
	op->done.is_unlocked = op->done.unlocks && (has_next || reply->integer == 1);
	if (ctx_service(c, op->svc)->rules->wait_replicas == 0) {
		retry_finish(r, c, op, OP_DONE, reply);
		return;
	}
	retry_wait(r, op);
}

static void on_requeue(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	enum op_result result = OP_GONE;
	if (reply->kind == REPLY_ID)
		result = OP_DONE;
	else if (reply->kind == REPLY_INT)
		result = reply->integer == 2 ? OP_DELETED : OP_NOT_OURS;
	else if (op->sent.again) /* gone after a lost reply: the first one did it */
		result = OP_DONE;
	retry_finish(r, c, op, result, reply);
}

static void on_later(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	enum op_result result = OP_NOT_OURS;
	if (reply->kind != REPLY_INT) /* gone after a lost reply: the first one did it */
		result = op->sent.again ? OP_DONE : OP_GONE;
	else if (reply->integer)
		result = reply->integer == 2 ? OP_DELETED : OP_DONE;
	if (result == OP_DONE)
		ctx_due_at(c, op->svc, c->now + op->later.delay_ms);
	retry_finish(r, c, op, result, NULL);
}

static void on_add_later(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	if (!op->later.at_ms)
		ctx_due_at(c, op->svc, c->now + op->later.delay_ms);
	retry_finish(r, c, op, OP_DONE, reply);
}

/* A dead letter to another slot, step by step; each may find that the entry is not ours any more. */
static void on_dead_pending(struct retry *r, struct shard_ctx *c, struct op *op, const struct reply *reply)
{
	bool is_it = reply->n > 0 && entry_id_cmp(reply->pending[0].id, op->entry.id) == 0;
	if (!is_it)
		retry_finish(r, c, op, op->sent.again ? OP_DONE : OP_GONE, NULL);
	else if (reply->pending[0].idle_ms < op->entry.min_idle_ms)
		retry_finish(r, c, op, OP_NOT_OURS, NULL);
	else
		retry_next(r, op, CMD_DEAD_READ);
}

static void on_dead_read(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	struct entry_batch *b = reply->entries;
	if (!b || b->n == 0 || !b->v[0].fields) {
		op->dead.is_deleted = true;
		retry_next(r, op, CMD_ACK_DEL);
		return;
	}
	mem_free(op->entry.fields);
	op->entry.fields = b->v[0].fields;
	b->v[0].fields = NULL;
	retry_call_dead_add(r, c, op);
}

static void on_ack_del(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	bool is_acked = reply->integer == 1 || op->sent.again;
	retry_finish(r, c, op, !is_acked ? OP_GONE : op->dead.is_deleted ? OP_DELETED : OP_DONE, NULL);
}

static void on_dead(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	if (op->sent.command == CMD_PENDING)
		on_dead_pending(r, c, op, reply);
	else if (op->sent.command == CMD_DEAD_READ)
		on_dead_read(r, c, op, reply);
	else if (op->sent.command == CMD_ACK_DEL)
		on_ack_del(r, c, op, reply);
	else if (reply->integer == 1 || reply->integer == 2)
		retry_finish(r, c, op, reply->integer == 1 ? OP_DONE : OP_DELETED, reply);
	else
		retry_finish(r, c, op, op->sent.again ? OP_DONE : OP_GONE, reply);
}

/* SET NX was refused: it may be our own earlier value, then it is made to last. */
static void on_lock(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	bool is_mine = reply->kind == REPLY_TEXT && slice_eq(reply->text, slice_of(op->lock.value));
	if (op->sent.command == CMD_LOCK && reply->kind != REPLY_OK)
		retry_next(r, op, CMD_LOCK_GET);
	else if (op->sent.command == CMD_LOCK_GET && is_mine)
		retry_next(r, op, CMD_RENEW);
	else
		retry_finish(r, c, op, op->sent.command == CMD_LOCK || is_mine ? OP_DONE : OP_GONE, NULL);
}

static void on_fetch(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	if (!reply->entries || reply->entries->n == 0) {
		retry_finish(r, c, op, OP_GONE, reply);
		return;
	}
	bool is_taken = op->asker.whom == OP_FOR_COORD;
	retry_finish(r, c, op, OP_DONE, reply);
	if (is_taken)
		reply->entries = NULL;
}

static answer_fn *const answers[CMD_N] = {
	[CMD_TAKE] = on_take,
	[CMD_DONE] = on_done,
	[CMD_REQUEUE] = on_requeue,
	[CMD_GHOST_BACK] = on_requeue,
	[CMD_LATER] = on_later,
	[CMD_ADD_LATER] = on_add_later,
	[CMD_DEAD] = on_dead,
	[CMD_ACK_DEL] = on_ack_del,
	[CMD_FETCH] = on_fetch,
	[CMD_LOCK] = on_lock,
};

static void note_trimmed(struct shard_ctx *c, const struct op *op, const struct reply *reply)
{
	const enum cmd_kind k = (enum cmd_kind)op->sent.command;
	if (k == CMD_DEAD || k == CMD_DEAD_ADD || k == CMD_FEED_DEAD_ADD)
		ctx_dead_trimmed(c, op->svc, reply->n, k == CMD_FEED_DEAD_ADD);
}

static void retry_answered(struct retry *r, struct shard_ctx *c, struct op *op, struct reply *reply)
{
	note_trimmed(c, op, reply);
	answer_fn *fn = answers[op->kind];
	(fn ? fn : on_plain)(r, c, op, reply);
}

static void retry_again(struct retry *r, struct shard_ctx *c, struct op *op, mono_ms first, mono_ms cap)
{
	op->sent.at = c->now + ctx_backoff(c, op->sent.tries, first, cap);
	op->sent.tries = (uint8_t)(op->sent.tries < 100 ? op->sent.tries + 1 : op->sent.tries);
	retry_set_timer(r, op);
}

/* A WAIT speaks of its own connection only: what was done before is asked again over the new one. */
static void wait_lost(struct retry *r, struct shard_ctx *c)
{
	struct link *l;
	while ((l = list_pop(&r->covered)) || (l = list_pop(&r->waiting))) {
		struct op *op = LIST_OF(struct op, queue, l);
		op->sent.again = true;
		op->sent.command = CMD_DONE;
		retry_again(r, c, op, AGAIN_MS, AGAIN_MAX_MS);
	}
}

/* The workers wait for their ok as long as replicas are missing: somebody must know. A single one may be late. */
static void say_wait_short(struct shard_ctx *c, uint8_t tries, uint16_t svc, int64_t n)
{
	enum { LATE_TRIES = 2 };
	if (tries < LATE_TRIES)
		return;
	char words[96];
	int len = snprintf(words, sizeof words, "NOREPLICAS confirmed by %lld, services[].wait_replicas is %u",
		(long long)n, ctx_service(c, svc)->rules->wait_replicas);
	struct reply reply = {
		.kind = REPLY_ERROR, .refusal = REFUSAL_NOREPLICAS, .text = {.p = words, .len = (size_t)len}};
	refusals_add(c, "wait", CMD_WAIT, svc, &reply);
}

static void wait_answered(struct retry *r, struct shard_ctx *c, const struct reply *reply)
{
	r->is_wait_in_flight = false;
	enum verdict v = ctx_judge(c, "wait", CMD_WAIT, SERVICE_NONE, reply);
	if (v == VERDICT_LOST) {
		wait_lost(r, c);
		return;
	}
	int64_t n = v == VERDICT_ANSWER ? reply->integer : -1;
	bool is_short = false;
	uint16_t short_svc = SERVICE_NONE;
	for (struct link *l; (l = list_pop(&r->covered));) {
		struct op *op = LIST_OF(struct op, queue, l);
		if (n >= ctx_service(c, op->svc)->rules->wait_replicas) {
			retry_finish(r, c, op, OP_DONE, NULL);
		} else {
			is_short = true;
			short_svc = op->svc;
			retry_wait(r, op);
		}
	}
	if (is_short && n >= 0)
		say_wait_short(c, r->wait_tries, short_svc, n);
	else if (!is_short)
		refusals_accepted(&c->refusals, CMD_WAIT, short_svc);
	r->wait_tries = is_short ? (uint8_t)(r->wait_tries < 100 ? r->wait_tries + 1 : 100) : 0;
	r->wait_at = is_short ? c->now + ctx_backoff(c, r->wait_tries, AGAIN_MS, AGAIN_MAX_MS) : c->now;
}

/* A dead letter that another shard writes by us, to a stream that has gone ahead of its slot: it follows, once. */
static void op_moved(struct retry *r, struct shard_ctx *c, struct op *op, const struct reply *reply)
{
	const bool is_dead_add = op->kind == CMD_DEAD_ADD || op->kind == CMD_FEED_DEAD_ADD;
	if (op->asker.whom != OP_FOR_CALL || !is_dead_add || reply->error != RERR_ASK || op->sent.asking) {
		retry_finish(r, c, op, OP_MOVED, reply);
		return;
	}
	struct msg *m = ctx_msg(c, msg_lock_call((struct msg_lock_call){.kind = op->kind,
					   .reason = op->dead.reason,
					   .asking = true,
					   .slot = op->slot,
					   .retry = op->try.n,
					   .tag = op->asker.tag,
					   .id = op->entry.id,
					   .stream = op->entry.stream ? text_ref(op->entry.stream) : NULL,
					   .error = op->dead.error ? text_ref(op->dead.error) : NULL,
					   .moved_to = words_of(reply),
					   .fields = op->entry.fields}));
	m->from = op->asker.from;
	m->svc = op->svc;
	op->entry.fields = NULL;
	op->asker.whom = OP_FOR_NOBODY;
	retry_finish(r, c, op, OP_MOVED, NULL);
}

void retry_op_reply(struct retry *r, struct shard_ctx *c, struct op *op, const struct reply *given)
{
	struct reply reply = *given;
	op->sent.in_flight = false;
	hist_add(&c->metrics.h[HR_COMMAND], (double)(c->now - op->sent.at) / 1000);
	enum verdict v = ctx_judge(c, "operation", (enum cmd_kind)op->sent.command, op->svc, &reply);
	if (op->asker.whom == OP_FOR_LEASE && v != VERDICT_ANSWER && v != VERDICT_EVAL) {
		retry_finish(
			r, c, op, OP_FAILED, NULL); /* asked again by the coordinator, as an operation of its own */
		entry_batch_free(reply.entries);
		return;
	}
	switch (v) {
	case VERDICT_ANSWER:
		retry_answered(r, c, op, &reply);
		break;
	case VERDICT_LOST:
		op->sent.again = true;
		if (retry_is_add((enum cmd_kind)op
					 ->kind)) /* it may be there already, and nothing tells: the operator decides */
			retry_finish(r, c, op, OP_FAILED, NULL);
		else
			retry_again(r, c, op, AGAIN_MS, AGAIN_MAX_MS);
		break;
	case VERDICT_AGAIN:
	case VERDICT_NO_GROUP:
		if (retry_is_add((enum cmd_kind)op->kind) && reply.refusal != REFUSAL_NONE &&
			reply.refusal != REFUSAL_BUSY && reply.refusal != REFUSAL_TRYAGAIN)
			retry_finish(
				r, c, op, OP_FAILED, &reply); /* an operator waits: the server's words are the answer */
		else
			retry_again(r, c, op, AGAIN_MS, AGAIN_MAX_MS);
		break;
	case VERDICT_REFUSED:
		if (retry_is_add((enum cmd_kind)op->kind))
			retry_finish(r, c, op, OP_FAILED, &reply);
		else
			retry_again(r, c, op, REFUSED_MS, REFUSED_MAX_MS);
		break;
	case VERDICT_EVAL:
		op->sent.use_eval = true;
		retry_queue_first(r, op); /* those behind it need not find out, too */
		break;
	case VERDICT_MOVED:
		op_moved(r, c, op, &reply);
		break;
	}
	entry_batch_free(reply.entries);
}

void retry_reply(struct retry *r, struct shard_ctx *c, uint64_t tag, const struct reply *reply)
{
	struct op *op = NULL;
	if (tag_index(tag) == WAIT_INDEX) {
		r->n_in_flight--;
		if (tag_gen(tag) == (r->wait_gen & 0x0fffffff) && r->is_wait_in_flight)
			wait_answered(r, c, reply);
	} else if (tag_index(tag) & BATCH_BIT) {
		retry_batch_reply(r, c, tag, reply);
		return;
	} else {
		r->n_in_flight--;
		op = shard_pool_find(&r->pool, tag_gen(tag), tag_index(tag));
	}
	if (op && op->sent.in_flight)
		retry_op_reply(r, c, op, reply);
	else
		entry_batch_free(reply->entries);
}
