/* reconcile - recovers peers' entries: suspects, probes, the guard, requeue or dead letter (doc/decisions/003).
 * Pure. Owner: the shard thread; used by core/shard, for services whose load-balancer stream is read here.
 * Promises: never touches entries of our own consumer; never requeues an entry whose lock was there when it was looked
 * at, nor one whose guard is not there any more; at most RECOVERY_BUSY entries of a service are worked on at once. */
#pragma once
#include "core/shard/shard_p.h"

struct reconcile;

/* seed: of its hashes. Heap; reconcile_free. */
struct reconcile *reconcile_new(uint64_t seed);
/* NULL is fine. */
void reconcile_free(struct reconcile *rc);
/* The service's rules or its place have changed: begins, ends, goes on. */
void reconcile_service(struct reconcile *rc, struct shard_ctx *c, uint16_t svc);
/* The command connection is new: what was asked over the old one is asked again. */
void reconcile_command_up(struct reconcile *rc, struct shard_ctx *c);
void reconcile_scan(struct reconcile *rc, struct shard_ctx *c, uint16_t svc); /* now */
void reconcile_postpone(struct reconcile *rc, struct shard_ctx *c);           /* scans, for a while */
/* A lock of some service expired. */
void reconcile_expired(struct reconcile *rc, struct shard_ctx *c, struct slice stream, struct entry_id id);
/* An answer to a command of recovery; entries in it are freed here. */
void reconcile_reply(struct reconcile *rc, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
/* The answer to a call of a repair; too late: ignored. */
void reconcile_lock_answer(struct reconcile *rc, struct shard_ctx *c, const struct msg_lock_answer *m);
/* The answer to an operation that a repair asked of core/shard/retry. */
void reconcile_op_answer(struct reconcile *rc, struct shard_ctx *c, const struct op_answer *a);
/* Sends what is due. Returns the next deadline. */
mono_ms reconcile_flush(struct reconcile *rc, struct shard_ctx *c);
uint32_t reconcile_count(const struct reconcile *rc); /* repairs under way or waiting */
/* Asserts what holds between turns: each service counts its repairs by state. */
void reconcile_check(const struct reconcile *rc);
