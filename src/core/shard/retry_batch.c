/* retry_batch - takes, and dones, go to Redis together in one command, which costs it half as much as each alone. The
 * first goes at once, alone or with what its step has; while its answer is on the way a few more wait for that, so that
 * the more there is to do the more goes together. */
#include "core/shard/retry_p.h"

#include <assert.h>

enum { BATCH_FEW = 32 }; /* so many do not wait */

static bool is_batchable(const struct op *op)
{
	if (op->sent.asking || op->sent.command != op->kind)
		return false;
	return op->sent.command == CMD_DONE || (op->sent.command == CMD_TAKE && !op->only_look);
}

static bool are_alike(const struct op *a, const struct op *b)
{
	return a->sent.command == b->sent.command && a->svc == b->svc && a->sent.use_eval == b->sent.use_eval &&
	       a->done.is_heir == b->done.is_heir && a->done.unlocks == b->done.unlocks;
}

void retry_groups_init(struct retry *r)
{
	for (int k = 0; k < GROUPS; k++)
		list_init(&r->groups[k].ops);
}

static struct op_batch *batch_new(struct retry *r, uint32_t n, uint64_t *tag)
{
	uint32_t index;
	struct op_batch_slot *slot = shard_pool_get(&r->batches, &index);
	struct op_batch *b = mem_alloc(sizeof *b + n * (sizeof b->entries[0] + sizeof b->ops[0]));
	b->ops = (struct op_ref *)&b->entries[n];
	slot->batch = b;
	*tag = tag_of(PART_RETRY, shard_pool_renew(&r->batches, index), index | BATCH_BIT);
	return slot->batch;
}

static void batch_add(struct retry *r, struct op_batch *b, struct op *op)
{
	b->entries[b->n] = (struct cmd_entry){.stream = slice_of(op->entry.stream), .id = op->entry.id};
	b->ops[b->n].index = op->index;
	b->ops[b->n++].gen = shard_pool_renew(&r->pool, op->index);
	op->is_grouped = false;
}

static void send_many(struct retry *r, struct shard_ctx *c, struct op_group *g, struct op_batch *b, uint64_t tag)
{
	const struct op *first = LIST_OF(struct op, queue, g->ops.next);
	enum cmd_kind kind = first->sent.command == CMD_DONE ? CMD_DONE_MANY : CMD_TAKE_MANY;
	struct cmd *cmd = &ctx_redis(c, tag, kind, first->svc)->cmd;
	cmd->use_eval = first->sent.use_eval;
	cmd->as.many.is_heir = kind == CMD_DONE_MANY && first->done.is_heir;
	if (first->done.unlocks)
		cmd->as.many.lock_value = slice_str(c->rules->lock_value);
	for (struct link *l; (l = list_pop(&g->ops));) {
		struct op *op = LIST_OF(struct op, queue, l);
		batch_add(r, b, op);
		retry_was_sent(r, c, op);
	}
	cmd->as.many.v = b->entries;
	cmd->as.many.n = b->n;
}

static void group_send(struct retry *r, struct shard_ctx *c, enum op_group_kind which)
{
	struct op_group *g = &r->groups[which];
	if (g->n == 0)
		return;
	uint64_t tag;
	struct op_batch *b = batch_new(r, g->n, &tag);
	b->conn = r->conn;
	b->which = (uint8_t)which;
	r->n_flying[which]++;
	if (g->n > 1) {
		send_many(r, c, g, b, tag);
	} else { /* alone, as it is */
		struct op *op = LIST_OF(struct op, queue, list_pop(&g->ops));
		batch_add(r, b, op);
		retry_send(r, c, op, tag);
	}
	assert(b->n == g->n);
	g->n = 0;
}

static enum op_group_kind group_of(const struct op *op)
{
	return op->sent.command == CMD_DONE ? GROUP_DONE : GROUP_TAKE;
}

bool retry_group_add(struct retry *r, struct shard_ctx *c, struct op *op)
{
	assert(!op->is_grouped && c->is_up);
	if (!is_batchable(op))
		return false;
	enum op_group_kind which = group_of(op);
	struct op_group *g = &r->groups[which];
	if (g->n == CMD_MANY_MAX || (g->n > 0 && !are_alike(LIST_OF(struct op, queue, g->ops.next), op)))
		group_send(r, c, which);
	list_push(&g->ops, &op->queue);
	op->is_grouped = true;
	g->n++;
	return true;
}

void retry_unqueue(struct retry *r, struct op *op)
{
	list_remove(&op->queue);
	if (!op->is_grouped)
		return;
	struct op_group *g = &r->groups[group_of(op)];
	assert(g->n > 0);
	g->n--;
	op->is_grouped = false;
}

void retry_groups_flush(struct retry *r, struct shard_ctx *c)
{
	if (!c->is_up)
		return;
	/* dones first: what they end may be what a take would have to wait for */
	for (int k = 0; k < GROUPS; k++)
		if (r->n_flying[k] == 0 || r->groups[k].n >= BATCH_FEW)
			group_send(r, c, (enum op_group_kind)k);
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
	if (b->conn == r->conn)
		r->n_flying[b->which]--;
	struct reply whole = *reply; /* of one alone; no answer, or an error: that of each */
	whole.entries = NULL;
	bool is_each = b->n > 1 && reply->kind == REPLY_MANY && reply->n == b->n;
	if (b->n > 1 && !is_each && reply->kind != REPLY_ERROR && reply->kind != REPLY_NONE)
		whole = (struct reply){.kind = REPLY_ERROR, .error = RERR_BAD, .text = {odd, sizeof odd - 1}};
	r->n_in_flight -= b->n;
	for (uint32_t i = 0; i < b->n; i++) {
		struct op *op = shard_pool_find(&r->pool, b->ops[i].gen, b->ops[i].index);
		if (op && op->sent.in_flight)
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
