/* retry - single operations (take, done, requeue, dead letter, lock calls, …), each repeated until Redis has answered
 * it. Pure. Owner: the shard thread; used by core/shard. Promises: every operation is answered exactly once. What could
 * not be executed yet stays, in order; at most RETRY_IN_FLIGHT commands are on their way, the rest waits. A lock call
 * is bounded by the command timeout. */
#pragma once
#include "core/shard/shard_p.h"

enum { RETRY_IN_FLIGHT = 2000 };

struct retry;

struct retry *retry_new(void);
void retry_free(struct retry *r);
/* MSG_OP, MSG_LOCK_CALL, and MSG_LOCK_ANSWER to an operation's own call. What m owns is taken. */
void retry_msg(struct retry *r, struct shard_ctx *c, struct msg *m);
/* To a call of an operation of this shard. */
void retry_lock_answer(struct retry *r, struct shard_ctx *c, const struct msg_lock_answer *a);
void retry_ask(struct retry *r, struct shard_ctx *c, struct op_ask *ask); /* answered by ctx_answer */
void retry_reply(struct retry *r, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
void retry_tick(struct retry *r, struct shard_ctx *c);
mono_ms retry_flush(struct retry *r, struct shard_ctx *c);
void retry_conn(struct retry *r, struct shard_ctx *c, bool is_up);
void retry_slots(struct retry *r, struct shard_ctx *c);
void retry_forget_all(struct retry *r, struct shard_ctx *c);
uint32_t retry_count(const struct retry *r);
