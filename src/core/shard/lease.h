/* lease - the locks this shard holds: acquires, renews, stops work in time, releases.
 * Pure. Owner: the shard thread; used by core/shard. Times: monotonic ms.
 * Promises: a lease is good until sent + T of the last renewal that Redis confirmed, `sent` being the step that sent
 * it. LEASE_IS_LOST comes at good_until - stop_margin, once, if steps happen at the returned deadlines; nothing extends
 * that. */
#pragma once
#include "core/shard/shard_p.h"

struct leases;

/* seed: of its hashes. Heap; leases_free. */
struct leases *leases_new(uint64_t seed);
/* NULL is fine. Locks stay in Redis. */
void leases_free(struct leases *ls);

/* MSG_LEASE_ACQUIRE, _RELEASE, _FORGET, _RENEW. What m owns is taken. */
void lease_msg(struct leases *ls, struct shard_ctx *c, struct msg *m);
/* The answer to a lease's command. One that came too late (lost, released, moved meanwhile) is ignored. */
void lease_reply(struct leases *ls, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
/* What the take behind a lock came to, or an operation has ended its lease. */
void lease_op_answer(struct leases *ls, struct shard_ctx *c, const struct op_answer *a);
/* Deadlines that are due at c->now. Runs before the step's event. */
void lease_tick(struct leases *ls, struct shard_ctx *c);
/* Sends what waits and may be sent, hands out confirmed renewals. Runs last in a step. Returns the next deadline. */
mono_ms lease_flush(struct leases *ls, struct shard_ctx *c);
/* Everything that waits or is held asks Redis now: the connection may be about to go. */
void lease_renew_all(struct leases *ls, struct shard_ctx *c);
/* The connection for commands is up, perhaps to another server. Hurries too. */
void lease_connected(struct leases *ls, struct shard_ctx *c, bool is_valkey);
/* Gives back what is on slots that are not served here (c->slots), unless .asking. */
void lease_slots(struct leases *ls, struct shard_ctx *c);
/* What became of an unlock that another shard was asked for. */
void lease_lock_answer(struct shard_ctx *c, uint16_t svc, const struct msg_lock_answer *m);
/* The service's times have changed: looks at all leases. */
void lease_rules(struct leases *ls, struct shard_ctx *c, uint16_t svc);
/* The shard stops: locks stay in Redis, nobody is told. */
void lease_forget_all(struct leases *ls, struct shard_ctx *c);
/* Leases of any state, those being released too. */
uint32_t lease_count(const struct leases *ls);
/* Asserts what holds between turns: every lease is sent, queued or has a timer, and its fence is never later. */
void lease_check(const struct leases *ls, const struct shard_ctx *c);
