/* reader - reads the load-balancer streams that live on this master: credits, batches, own pending entries, heartbeat,
 * audit. Pure. Owner: the shard thread; used by core/shard. Promises: never two reads of one stream at once, never more
 * than the credits; every grant of credits ends in exactly one MSG_ENTRIES (of what was read, or of nothing); own
 * pending entries are read before the first read of new ones. */
#pragma once
#include "core/shard/shard_p.h"

struct readers;

struct readers *readers_new(void);
void readers_free(struct readers *rs);
/* The service's rules or its place have changed: opens, closes, goes on. */
void reader_service(struct readers *rs, struct shard_ctx *c, uint16_t svc);
void reader_credits(struct readers *rs, struct shard_ctx *c, uint16_t svc, const struct msg_credits *m);
void reader_conn(struct readers *rs, struct shard_ctx *c, uint16_t svc, bool is_up, int64_t client_id);
void reader_command_up(struct readers *rs, struct shard_ctx *c);
void reader_reply(struct readers *rs, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
/* From the master that has the dead letters: how many they are. */
void reader_lock_answer(struct readers *rs, struct shard_ctx *c, const struct msg_lock_answer *m);
/* Sends what is due. Returns the next deadline. */
mono_ms reader_flush(struct readers *rs, struct shard_ctx *c);
