/* retry - single operations (take, done, requeue, dead letter, lock calls, …), each repeated until Redis has answered
 * it. Pure. Owner: the shard thread; used by core/shard. Promises: every operation is answered exactly once. What could
 * not be executed yet stays, in order, requeues behind the others; at most RETRY_IN_FLIGHT commands are on their way,
 * the rest waits. A lock call is bounded by the command timeout. */
#pragma once
#include "core/shard/shard_p.h"

enum { RETRY_IN_FLIGHT = 2000 };

struct retry;

/* Heap; retry_free. */
struct retry *retry_new(void);
/* NULL is fine. What is under way is forgotten: nobody is told. */
void retry_free(struct retry *r);
/* MSG_OP, MSG_LOCK_CALL, and MSG_LOCK_ANSWER to an operation's own call. What m owns is taken. */
void retry_msg(struct retry *r, struct shard_ctx *c, struct msg *m);
/* To a call of an operation of this shard. */
void retry_lock_answer(struct retry *r, struct shard_ctx *c, const struct msg_lock_answer *a);
void retry_ask(struct retry *r, struct shard_ctx *c, struct op_ask *ask); /* answered by ctx_answer */
void retry_reply(struct retry *r, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
/* Each step, before its event: what is due is sent again, or fails when its time is over. */
void retry_tick(struct retry *r, struct shard_ctx *c);
/* Each step, after its event: sends what is ready, as far as the limits allow. Returns the next deadline. */
mono_ms retry_flush(struct retry *r, struct shard_ctx *c);
/* The command connection is up or down (both: it was replaced). What was sent over it is answered as lost by the
 * runtime; a WAIT is asked anew. */
void retry_conn(struct retry *r, struct shard_ctx *c, bool is_up);
/* The shard's slots have changed: operations on others are given back as moved. */
void retry_slots(struct retry *r, struct shard_ctx *c);
/* The shard stops: nobody is told. */
void retry_forget_all(struct retry *r, struct shard_ctx *c);
/* Operations that are not answered yet. */
uint32_t retry_count(const struct retry *r);
/* Asserts what holds between turns: every operation is sent, queued or has a timer. */
void retry_check(const struct retry *r, const struct shard_ctx *c);
