/* retry_batch - takes, and dones, that one step has go to Redis in one command, which costs it half as much. None waits
 * for others: a step that has one sends one. */
#include "core/shard/retry_p.h"

#include <assert.h>

static bool is_batchable(const struct op *op)
{
	if (op->asking || op->command != op->kind)
		return false;
	return op->command == CMD_DONE || (op->command == CMD_TAKE && !op->only_look);
}

static bool are_alike(const struct op *a, const struct op *b)
{
	return a->command == b->command && a->svc == b->svc && a->use_eval == b->use_eval && a->is_heir == b->is_heir &&
	       a->unlocks == b->unlocks;
}

bool retry_group_add(struct retry *r, struct shard_ctx *c, struct op_group *g, struct op *op)
{
	if (!is_batchable(op))
		return false;
	if (g->n == CMD_MANY_MAX || (g->n > 0 && !are_alike(LIST_OF(struct op, queue, g->ops.next), op)))
		retry_group_send(r, c, g);
	list_push(&g->ops, &op->queue);
	g->n++;
	return true;
}

static struct op_batch *batch_new(struct retry *r, uint32_t n, uint32_t *index)
{
	struct op_batch_slot *slot = shard_pool_get(&r->batches, index);
	size_t ops = n * sizeof slot->batch->ops[0];
	slot->batch = mem_alloc(sizeof *slot->batch + ops + n * sizeof slot->batch->entries[0]);
	slot->batch->entries = (struct cmd_entry *)&slot->batch->ops[n];
	return slot->batch;
}

void retry_group_send(struct retry *r, struct shard_ctx *c, struct op_group *g)
{
	if (g->n == 0)
		return;
	struct op *op = LIST_OF(struct op, queue, list_pop(&g->ops));
	if (g->n == 1) {
		g->n = 0;
		retry_send(r, c, op);
		return;
	}
	uint32_t index;
	struct op_batch *b = batch_new(r, g->n, &index);
	uint64_t tag = tag_of(PART_RETRY, shard_pool_renew(&r->batches, index), index | BATCH_BIT);
	enum cmd_kind kind = op->command == CMD_DONE ? CMD_DONE_MANY : CMD_TAKE_MANY;
	struct cmd *cmd = &ctx_redis(c, tag, kind, op->svc)->cmd;
	cmd->use_eval = op->use_eval;
	const bool op_unlocks = op->unlocks;
	cmd->is_heir = kind == CMD_DONE_MANY && op->is_heir;
	for (; op; op = list_empty(&g->ops) ? NULL : LIST_OF(struct op, queue, list_pop(&g->ops))) {
		b->entries[b->n] = (struct cmd_entry){.stream = slice_of(op->stream), .id = op->id};
		b->ops[b->n].index = op->index;
		b->ops[b->n++].gen = shard_pool_renew(&r->pool, op->index);
		retry_was_sent(r, c, op);
	}
	assert(b->n == g->n);
	if (op_unlocks)
		cmd->value = slice_str(c->rules->lock_value);
	cmd->many = b->entries;
	cmd->n_many = b->n;
	g->n = 0;
}

void retry_batch_reply(struct retry *r, struct shard_ctx *c, uint64_t tag, const struct reply *reply)
{
	static const char odd[] = "answer of unknown shape";
	uint32_t index = tag_index(tag) & ~(uint32_t)BATCH_BIT;
	struct op_batch_slot *slot = shard_pool_find(&r->batches, tag_gen(tag), index);
	entry_batch_free(reply->entries);
	if (!slot)
		return;
	struct op_batch *b = slot->batch;
	struct reply whole = *reply; /* no answer, or an error: that of each */
	bool is_each = reply->kind == REPLY_MANY && reply->n == b->n;
	if (!is_each && reply->kind != REPLY_ERROR && reply->kind != REPLY_NONE)
		whole = (struct reply){.kind = REPLY_ERROR, .error = RERR_BAD, .text = {odd, sizeof odd - 1}};
	r->n_in_flight -= b->n;
	for (uint32_t i = 0; i < b->n; i++) {
		struct op *op = shard_pool_find(&r->pool, b->ops[i].gen, b->ops[i].index);
		if (op && op->in_flight)
			retry_op_reply(r, c, op, is_each ? &reply->many[i] : &whole);
	}
	mem_free(b);
	slot->batch = NULL;
	shard_pool_put(&r->batches, index);
}

void retry_batches_free(struct retry *r)
{
	for (uint32_t i = 0; i < shard_pool_end(&r->batches); i++) {
		struct op_batch_slot *slot = shard_pool_at(&r->batches, i);
		if (!slot || !slot->batch)
			continue;
		r->n_in_flight -= slot->batch->n;
		mem_free(slot->batch);
		slot->batch = NULL;
		shard_pool_put(&r->batches, i);
	}
}
