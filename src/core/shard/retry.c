#include "core/shard/retry.h"

#include "core/shard/retry_p.h"

#include <assert.h>
#include <string.h>

enum { WAIT_BLOCK_MS = 200 };

struct retry *retry_new(void)
{
	struct retry *r = mem_alloc(sizeof *r);
	shard_pool_init(&r->pool, sizeof(struct op));
	shard_pool_init(&r->batches, sizeof(struct op_batch_slot));
	heap_init(&r->timers);
	list_init(&r->ready);
	list_init(&r->going_back);
	list_init(&r->waiting);
	list_init(&r->covered);
	retry_groups_init(r);
	return r;
}

static void retry_drop(struct op *op)
{
	text_unref(op->entry.stream);
	text_unref(op->lock.value);
	text_unref(op->dead.error);
	text_unref(op->entry.info);
	text_unref(op->entry.consumer);
	mem_free(op->entry.fields);
}

/* Every operation: calls fn, which may finish it. */
static void retry_each(
	struct retry *r, struct shard_ctx *c, void (*fn)(struct retry *, struct shard_ctx *, struct op *))
{
	for (uint32_t i = 0; i < shard_pool_end(&r->pool); i++) {
		struct op *op = shard_pool_at(&r->pool, i);
		if (op && op->is_live)
			fn(r, c, op);
	}
}

static void drop_one(struct retry *r, struct shard_ctx *c, struct op *op)
{
	(void)c;
	retry_drop(op);
	heap_remove(&r->timers, &op->timer);
	retry_unqueue(r, op);
	op->is_live = false;
	shard_pool_put(&r->pool, op->index);
}

void retry_free(struct retry *r)
{
	if (!r)
		return;
	retry_each(r, NULL, drop_one);
	retry_batches_free(r);
	heap_fini(&r->timers);
	shard_pool_fini(&r->batches);
	shard_pool_fini(&r->pool);
	mem_free(r);
}

void retry_forget_all(struct retry *r, struct shard_ctx *c)
{
	retry_each(r, c, drop_one);
	retry_batches_free(r);
}

uint32_t retry_count(const struct retry *r)
{
	return shard_pool_count(&r->pool);
}

/* ---- times and queues ---- */

void retry_set_timer(struct retry *r, struct op *op)
{
	assert(op->is_live);
	/* what a part asked for is waited for once sent; a lock call never longer than that */
	mono_ms at = op->sent.in_flight && op->asker.whom == OP_FOR_PART ? MONO_NEVER : op->not_after;
	if (!op->sent.in_flight && list_empty(&op->queue))
		at = mono_min(at, op->sent.at);
	heap_set(&r->timers, &op->timer, at);
}

static struct link *queue_of(struct retry *r, const struct op *op)
{
	const bool is_back = op->sent.command == CMD_REQUEUE || op->sent.command == CMD_LATER;
	return is_back ? &r->going_back : &r->ready;
}

void retry_queue(struct retry *r, struct op *op)
{
	assert(op->is_live && !op->sent.in_flight);
	retry_unqueue(r, op);
	list_push(queue_of(r, op), &op->queue);
	retry_set_timer(r, op);
}

void retry_queue_first(struct retry *r, struct op *op)
{
	assert(op->is_live && !op->sent.in_flight);
	retry_unqueue(r, op);
	list_push_front(queue_of(r, op), &op->queue);
	retry_set_timer(r, op);
}

void retry_next(struct retry *r, struct op *op, enum cmd_kind command)
{
	assert(op->is_live && command < CMD_N);
	op->sent.command = (uint8_t)command;
	op->sent.tries = 0;
	op->sent.use_eval = false;
	op->dead.is_calling = false;
	retry_queue(r, op);
}

/* ---- beginning ---- */

static uint16_t slot_of(const struct shard_ctx *c, const struct op *op)
{
	const struct service_rules *r = ctx_service(c, op->svc)->rules;
	if (op->kind == CMD_FEED_CLOSE)
		return op->slot;
	return op->kind == CMD_DEAD_ADD ? r->dlq.slot : r->lbs_slot;
}

static enum cmd_kind first_command(const struct shard_ctx *c, const struct op *op)
{
	if (op->kind == CMD_DEAD && !ctx_service(c, op->svc)->rules->dlq.is_same_slot)
		return CMD_PENDING;
	return (enum cmd_kind)op->kind;
}

static struct op *op_new(struct retry *r, const struct shard_ctx *c, enum op_for whom)
{
	uint32_t index;
	struct op *op = shard_pool_get(&r->pool, &index);
	op->index = index;
	op->is_live = true;
	op->asker.whom = (uint8_t)whom;
	op->sent.at = c->now;
	op->not_after = MONO_NEVER;
	list_init(&op->queue);
	return op;
}

/* Starts it, or gives it back at once when it cannot run here. */
static void retry_start(struct retry *r, struct shard_ctx *c, struct op *op, enum cmd_kind kind)
{
	op->kind = (uint8_t)kind;
	op->sent.command = (uint8_t)kind;
	if (!ctx_service(c, op->svc)) {
		retry_finish(r, c, op, OP_FAILED, NULL);
		return;
	}
	if (op->done.unlocks) /* not before replicas know that it is done */
		op->done.unlocks = ctx_service(c, op->svc)->rules->wait_replicas == 0;
	if (op->asker.whom != OP_FOR_CALL)
		op->slot = slot_of(c, op);
	if (!op->sent.asking && !ctx_serves(c, op->slot)) {
		retry_finish(r, c, op, OP_MOVED, NULL);
		return;
	}
	op->sent.command = (uint8_t)first_command(c, op);
	retry_queue(r, op);
}

static void retry_begin(struct retry *r, struct shard_ctx *c, struct msg *m)
{
	struct msg_op *given = &m->op;
	enum cmd_kind kind = (enum cmd_kind)given->kind;
	struct op *op = op_new(r, c, OP_FOR_COORD);
	op->svc = m->svc;
	op->asker.handle = m->handle;
	op->slot = given->slot;
	op->entry.id = given->id;
	op->try.n = given->retry;
	op->try.is_suspect = given->is_suspect;
	op->dead.reason = given->reason;
	op->later.at_ms = given->at_ms;
	op->later.delay_ms = given->delay_ms;
	op->later.is_fail = given->is_fail;
	op->later.tries = given->tries;
	op->done.is_heir = given->is_heir;
	op->only_look = given->only_look;
	op->sent.asking = given->asking;
	op->sent.again = given->resent;
	op->releases = given->releases;
	op->done.unlocks = given->unlocks;
	op->entry.stream = given->stream;
	op->dead.error = given->error;
	op->entry.info = given->info;
	given->stream = given->error = given->info = NULL;
	if (retry_is_add(kind)) /* somebody waits, but not for ever */
		op->not_after = c->now + c->rules->command_timeout_ms;
	retry_start(r, c, op, kind);
}

/* Another shard's recovery waits, but not for ever. */
static void retry_begin_call(struct retry *r, struct shard_ctx *c, struct msg *m)
{
	struct msg_lock_call *call = &m->lock_call;
	struct op *op = op_new(r, c, OP_FOR_CALL);
	op->svc = m->svc;
	op->asker.from = m->from;
	op->slot = call->slot;
	op->asker.tag = call->tag;
	op->entry.id = call->id;
	op->try.n = call->retry;
	op->dead.reason = call->reason;
	op->lock.ttl_ms = call->ttl_ms;
	op->sent.asking = call->asking;
	op->entry.stream = call->stream;
	op->lock.value = call->value;
	op->dead.error = call->error;
	op->entry.fields = call->fields;
	call->stream = call->value = call->error = NULL;
	call->fields = NULL;
	op->not_after = c->now + c->rules->command_timeout_ms;
	retry_start(r, c, op, (enum cmd_kind)call->kind);
}

void retry_ask(struct retry *r, struct shard_ctx *c, struct op_ask *ask)
{
	assert(ask->kind < CMD_N && ask->svc != SERVICE_NONE);
	struct op *op = op_new(r, c, ask->is_leases ? OP_FOR_LEASE : OP_FOR_PART);
	op->asker.handle = ask->handle;
	op->svc = ask->svc;
	op->asker.tag = ask->tag;
	op->entry.id = ask->id;
	op->try.n = ask->retry;
	op->try.is_suspect = ask->is_suspect;
	op->try.was_alone = ask->was_alone;
	op->dead.reason = (uint8_t)ask->reason;
	op->sent.asking = ask->asking;
	op->entry.stream = ask->stream;
	op->dead.error = ask->error;
	op->entry.consumer = ask->consumer;
	op->entry.min_idle_ms = ask->min_idle_ms;
	op->not_after = ask->not_after;
	retry_start(r, c, op, ask->kind);
}

/* ---- sending ---- */

void retry_was_sent(struct retry *r, struct shard_ctx *c, struct op *op)
{
	op->sent.in_flight = true;
	op->sent.conn = r->conn;
	op->sent.at = c->now;
	op->sent.n_evals = r->n_evals[op->sent.command];
	r->n_in_flight++;
	retry_set_timer(r, op);
}

/* Whoever must have the entry pending: what somebody else has claimed meanwhile is left to it. */
static struct slice consumer_of(const struct shard_ctx *c, const struct op *op)
{
	const bool is_ours =
		op->asker.whom == OP_FOR_COORD || op->sent.command == CMD_ACK_DEL || op->sent.command == CMD_PENDING;
	return op->entry.consumer || !is_ours ? slice_of(op->entry.consumer) : slice_str(c->rules->consumer);
}

static void fill_requeue(const struct shard_ctx *c, const struct op *op, struct cmd_requeue *to)
{
	to->consumer = consumer_of(c, op);
	to->min_idle_ms = op->entry.min_idle_ms;
	to->retry = op->try.n;
	to->is_suspect = op->try.is_suspect;
	to->was_alone = op->try.was_alone;
	if (op->sent.command == CMD_REQUEUE)
		return;
	to->delay_ms = op->later.delay_ms;
	to->why = op->later.is_fail ? "fail" : "release";
	to->tries = op->later.tries;
	to->error = slice_of(op->dead.error);
}

static void fill_dead(const struct shard_ctx *c, const struct op *op, struct cmd_dead *to)
{
	to->consumer = consumer_of(c, op);
	to->min_idle_ms = op->entry.min_idle_ms;
	to->reason = (enum dead_reason)op->dead.reason;
	to->error = slice_of(op->dead.error);
	to->now_ms = c->wall_ms;
	to->n_tries = op->try.n;
	to->fields = op->entry.fields;
}

static void fill_add(const struct op *op, struct cmd_add *to)
{
	to->info = slice_of(op->entry.info);
	if (op->sent.command == CMD_ADD)
		return;
	to->delay_ms = op->later.delay_ms;
	to->at_ms = op->later.at_ms;
	to->why = "add";
}

static void fill_payload(const struct shard_ctx *c, const struct op *op, struct cmd *cmd)
{
	const struct service_rules *rules = ctx_service(c, op->svc)->rules;
	switch ((int)cmd->kind) { /* the others have none */
	case CMD_TAKE:
		cmd->as.take.only_look = op->only_look;
		break;
	case CMD_DONE:
		cmd->as.done.is_heir = op->done.is_heir;
		if (op->done.unlocks)
			cmd->as.done.lock_value = slice_str(c->rules->lock_value);
		break;
	case CMD_ACK_DEL:
		cmd->as.done.consumer = consumer_of(c, op);
		break;
	case CMD_PENDING: /* of this very entry, whatever its idle time */
		cmd->as.pending = (struct cmd_pending){.count = 1, .consumer = consumer_of(c, op)};
		break;
	case CMD_REQUEUE:
	case CMD_LATER:
		fill_requeue(c, op, &cmd->as.requeue);
		break;
	case CMD_DEAD:
	case CMD_DEAD_ADD:
	case CMD_FEED_DEAD_ADD:
		fill_dead(c, op, &cmd->as.dead);
		break;
	case CMD_ADD:
	case CMD_ADD_LATER:
		fill_add(op, &cmd->as.add);
		break;
	case CMD_LOCK:
	case CMD_RENEW:
	case CMD_UNLOCK:
	case CMD_TOMBSTONE:
		cmd->as.lock.value = slice_of(op->lock.value);
		cmd->as.lock.ttl_ms = op->lock.ttl_ms > 0 ? op->lock.ttl_ms : rules->lease.ttl_ms;
		break;
	case CMD_FEED_CLOSE: /* a finished stream and its position go */
		cmd->as.feed.token = op->entry.id;
		cmd->as.feed.close.end = FEED_END_DELETE;
		cmd->as.feed.close.ttl_ms = rules->entries.position_ttl_ms;
		break;
	case CMD_FORGET:
		cmd->as.forget.consumer = slice_of(op->entry.consumer);
		cmd->as.forget.min_idle_ms = op->entry.min_idle_ms;
		break;
	}
}

/* The server did not know its script. What was sent together learns that together: the text goes once. */
static bool needs_text(const struct retry *r, const struct op *op)
{
	return op->sent.use_eval && op->sent.n_evals == r->n_evals[op->sent.command];
}

void retry_send(struct retry *r, struct shard_ctx *c, struct op *op, uint64_t tag)
{
	struct effect *ef = ctx_redis(c, tag, (enum cmd_kind)op->sent.command, op->svc);
	ef->cmd.stream = slice_of(op->entry.stream);
	ef->cmd.id = op->entry.id;
	ef->cmd.asking = op->sent.asking;
	ef->cmd.use_eval = needs_text(r, op);
	r->n_evals[op->sent.command] += ef->cmd.use_eval;
	fill_payload(c, op, &ef->cmd);
	retry_was_sent(r, c, op);
}

void retry_call_dead_add(struct retry *r, struct shard_ctx *c, struct op *op)
{
	assert(op->entry.fields && !op->dead.is_calling);
	struct msg_lock_call call = {.kind = CMD_DEAD_ADD,
		.reason = op->dead.reason,
		.slot = ctx_service(c, op->svc)->rules->dlq.slot,
		.tag = tag_of(PART_RETRY, shard_pool_renew(&r->pool, op->index), op->index),
		.id = op->entry.id,
		.error = text_ref(op->dead.error),
		.fields = op->entry.fields};
	op->entry.fields = NULL;
	ctx_msg(c, msg_lock_call(call))->svc = op->svc;
	op->dead.is_calling = true;
	op->sent.at =
		c->now + 2 * c->rules->command_timeout_ms; /* no answer: the coordinator has lost it; read it again */
	retry_set_timer(r, op);
}

static void back_to_done(struct retry *r, struct op *op)
{
	op->sent.again = true;
	retry_next(r, op, CMD_DONE);
}

/* A WAIT speaks of its own connection only: what was done over another is asked again over this one. */
void retry_wait(struct retry *r, struct op *op)
{
	assert(op->done.is_done);
	if (op->sent.conn != r->conn) {
		back_to_done(r, op);
		return;
	}
	op->sent.command = CMD_WAIT;
	list_push(&r->waiting, &op->queue);
	retry_set_timer(r, op);
}

/* One WAIT for all operations that were done before it: it blocks the connection, so it is short. */
static void send_wait(struct retry *r, struct shard_ctx *c)
{
	if (r->is_wait_in_flight || list_empty(&r->waiting) || !c->is_up || c->now < r->wait_at)
		return;
	uint32_t replicas = 0;
	for (struct link *l; (l = list_pop(&r->waiting));) {
		const struct op *op = LIST_OF(struct op, queue, l);
		uint32_t want = ctx_service(c, op->svc)->rules->wait_replicas;
		replicas = want > replicas ? want : replicas;
		list_push(&r->covered, l);
	}
	struct effect *ef = ctx_redis(c, tag_of(PART_RETRY, ++r->wait_gen, WAIT_INDEX), CMD_WAIT, SERVICE_NONE);
	ef->cmd.as.wait.n_replicas = replicas;
	ef->cmd.as.wait.block_ms = mono_min(c->rules->command_timeout_ms / 2, WAIT_BLOCK_MS);
	r->is_wait_in_flight = true;
	r->n_in_flight++;
}

/* A worker that ends may give back 50,000 entries: what others wait for goes first, and one in eight goes back. */
static struct link *pop_ready(struct retry *r)
{
	enum { BACK_SHARE = 8 };
	const bool is_backs_turn = ++r->n_popped % BACK_SHARE == 0;
	struct link *first = list_pop(is_backs_turn ? &r->going_back : &r->ready);
	return first ? first : list_pop(is_backs_turn ? &r->ready : &r->going_back);
}

mono_ms retry_flush(struct retry *r, struct shard_ctx *c)
{
	const struct op_group *g = r->groups;
	while (c->is_up && r->n_in_flight + g[GROUP_DONE].n + g[GROUP_TAKE].n < RETRY_IN_FLIGHT) {
		struct link *l = pop_ready(r);
		if (!l)
			break;
		struct op *op = LIST_OF(struct op, queue, l);
		if (c->now >= op->not_after)
			retry_set_timer(r, op); /* fails with the next tick */
		else if (!retry_group_add(r, c, op))
			retry_send(r, c, op, tag_of(PART_RETRY, shard_pool_renew(&r->pool, op->index), op->index));
	}
	retry_groups_flush(r, c);
	send_wait(r, c);
	mono_ms wait = !r->is_wait_in_flight && c->is_up && !list_empty(&r->waiting) ? r->wait_at : MONO_NEVER;
	return mono_min(wait, heap_deadline(&r->timers));
}

/* ---- times, connections, slots ---- */

void retry_tick(struct retry *r, struct shard_ctx *c)
{
	struct heap_node *top;
	while ((top = heap_due(&r->timers, c->now))) {
		struct op *op = HEAP_OF(struct op, timer, top);
		if (c->now >= op->not_after)
			retry_finish(r, c, op, OP_FAILED, NULL);
		else if (op->dead.is_calling)
			retry_next(r, op, CMD_PENDING);
		else
			retry_queue(r, op);
	}
}

static void renew_one_now(struct retry *r, struct shard_ctx *c, struct op *op)
{
	(void)c;
	if (!op->sent.in_flight && !op->dead.is_calling && list_empty(&op->queue))
		retry_queue(r, op);
}

/* Also a handoff: what is on its way is still answered over the old connection. */
void retry_conn(struct retry *r, struct shard_ctx *c, bool is_up)
{
	if (is_up) {
		retry_each(r, c, renew_one_now);
		return;
	}
	r->conn++;
	memset(r->n_flying, 0, sizeof r->n_flying);
	for (struct link *l; (l = list_pop(&r->waiting));)
		back_to_done(r, LIST_OF(struct op, queue, l));
}

static void slots_one(struct retry *r, struct shard_ctx *c, struct op *op)
{
	if (ctx_serves(c, op->slot))
		op->sent.asking = false;
	else if (!op->sent.asking)
		retry_finish(r, c, op, OP_MOVED, NULL);
}

void retry_slots(struct retry *r, struct shard_ctx *c)
{
	retry_each(r, c, slots_one);
}

void retry_msg(struct retry *r, struct shard_ctx *c, struct msg *m)
{
	if (m->kind == MSG_LOCK_CALL)
		retry_begin_call(r, c, m);
	else
		retry_begin(r, c, m);
}

void retry_lock_answer(struct retry *r, struct shard_ctx *c, const struct msg_lock_answer *a)
{
	struct op *op = shard_pool_find(&r->pool, tag_gen(a->tag), tag_index(a->tag));
	if (!op || !op->dead.is_calling)
		return;
	if (a->result == OP_DONE) {
		retry_next(r, op, CMD_ACK_DEL);
		return;
	}
	op->sent.at = c->now + ctx_backoff(c, op->sent.tries++, 200, 5000);
	retry_set_timer(r, op);
}

void retry_check(const struct retry *r, const struct shard_ctx *c)
{
	uint32_t n = 0, n_in_flight = 0, n_grouped = 0;
	for (uint32_t i = 0; i < shard_pool_end(&r->pool); i++) {
		const struct op *op = shard_pool_at(&r->pool, i);
		if (!op || !op->is_live)
			continue;
		assert(op->kind < CMD_N && op->sent.command < CMD_N && op->asker.whom < OP_FOR_NOBODY);
		assert(ctx_service(c, op->svc));
		assert(!(op->sent.in_flight && op->dead.is_calling));
		assert(!op->sent.in_flight || list_empty(&op->queue));                  /* sent or queued, not both */
		assert(op->sent.in_flight || !list_empty(&op->queue) || op->timer.pos); /* nothing waits for ever */
		n_grouped += op->is_grouped;
		n++;
		n_in_flight += op->sent.in_flight;
	}
	assert(n == shard_pool_count(&r->pool));
	assert(n_grouped == r->groups[GROUP_DONE].n + r->groups[GROUP_TAKE].n);
	assert(r->is_wait_in_flight || list_empty(&r->covered));
	assert(n_in_flight <= r->n_in_flight); /* more: answers that nobody waits for any more, and a WAIT */
}
