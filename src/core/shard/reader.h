/* reader - reads the load-balancer streams that live on this master: credits, batches, own pending entries, heartbeat,
 * audit. Pure. Owner: the shard thread; used by core/shard. Promises: never two reads of one stream at once, never more
 * than the credits; every grant of credits ends in exactly one MSG_ENTRIES (of what was read, or of nothing); own
 * pending entries are read before the first read of new ones. */
#pragma once
#include "core/shard/shard_p.h"

struct readers;

/* Heap; readers_free. */
struct readers *readers_new(void);
/* NULL is fine. */
void readers_free(struct readers *rs);
/* The service's rules or its place have changed: opens, closes, goes on. */
void reader_service(struct readers *rs, struct shard_ctx *c, uint16_t svc);
/* What our workers can take: told to the other daemons. m stays the caller's. */
void reader_fleet(struct readers *rs, struct shard_ctx *c, uint16_t svc, const struct msg_fleet *m);
/* MSG_CREDITS for a service. One it does not read: the grant comes back as used up, so that nobody waits. */
void reader_credits(struct readers *rs, struct shard_ctx *c, uint16_t svc, const struct msg_credits *m);
/* The reader's connection is up (with the server's number of it, for UNBLOCK) or down. Another number while it is
 * up: it was replaced. */
void reader_conn(struct readers *rs, struct shard_ctx *c, uint16_t svc, bool is_up, int64_t client_id);
/* The command connection is new: what was asked over the old one is asked again. */
void reader_command_up(struct readers *rs, struct shard_ctx *c);
/* An answer to a reader's command; entries in it move. */
void reader_reply(struct readers *rs, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
/* From the master that has the dead letters: how many they are. */
void reader_lock_answer(struct readers *rs, struct shard_ctx *c, const struct msg_lock_answer *m);
/* Sends what is due. Returns the next deadline. */
mono_ms reader_flush(struct readers *rs, struct shard_ctx *c);
/* Asserts what holds between turns: a reader for each service that is read here, a grant used by one read at a time. */
void reader_check(const struct readers *rs, const struct shard_ctx *c);
