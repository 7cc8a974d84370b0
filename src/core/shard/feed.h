/* feed - reads the data streams of entries mode and keeps their positions: one feed per stream that is held here.
 * Pure. Owner: the shard's thread. Times: monotonic ms.
 * Promises: entries are told in stream order, at most `window` frames ahead of what Redis has confirmed; nothing past
 * an entry that failed is told until it is acknowledged or a dead letter; a position moves only by a script that
 * compares the token. Tracking pushes are hints: every open empty stream is polled. */
#pragma once
#include "core/shard/shard_p.h"

struct feeds;

/* seed: of the map by stream name. Never NULL; feeds_free ends it (NULL is fine). */
struct feeds *feeds_new(uint64_t seed);
/* NULL is fine. Positions stay in Redis. */
void feeds_free(struct feeds *fs);
/* MSG_FEED_OPEN, _START, _HOLD, _SHARE, _ACK, _NACK, _CLOSE. What it takes of m is NULL afterwards. */
void feed_msg(struct feeds *fs, struct shard_ctx *c, struct msg *m);
/* An answer with a tag of PART_FEED. Takes reply->feed and reply->entries. */
void feed_reply(struct feeds *fs, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
/* MSG_LOCK_ANSWER to a dead letter that was written elsewhere. */
void feed_lock_answer(struct feeds *fs, struct shard_ctx *c, const struct msg_lock_answer *m);
/* The command connection is up (also: replaced by a handoff), or down. has_pushes: it speaks RESP3. */
void feed_conn(struct feeds *fs, struct shard_ctx *c, bool is_up, bool has_pushes);
/* Slots have changed: feeds of others are told as moved and forgotten. */
void feed_slots(struct feeds *fs, struct shard_ctx *c);
/* A tracking push: this stream has changed; name.p NULL = every stream may have. */
void feed_invalidated(struct feeds *fs, struct shard_ctx *c, struct slice name);
/* Handles what is due. Before the event of the step. */
void feed_tick(struct feeds *fs, struct shard_ctx *c);
/* Sends what may be sent; returns the next deadline. After the event. */
mono_ms feed_flush(struct feeds *fs, struct shard_ctx *c);
/* Without Redis traffic and without a word. */
void feed_forget_all(struct feeds *fs, struct shard_ctx *c);
/* Open feeds of a service. */
struct shard_feeds feed_sums(const struct feeds *fs, uint16_t svc);
/* So many streams of the service wait for a credit. As many feeds give theirs up: first those that wait for a try for
 * half a second and more (FEED_IS_PUT_OFF); then, with coalesce and unless idle_release is 0, idle ones, each once one
 * more read has found nothing: those whose run was told nothing, those that are empty for long, any; then, for 500 ms,
 * those that become empty, or have to wait. is_ahead: nobody waits yet; idle ones only, that have been empty for 25 ms.
 */
void feed_yield(struct feeds *fs, struct shard_ctx *c, uint16_t svc, const struct msg_waiting *waiting);
/* Asserts what holds between turns: entries are told in order and counted by their frames. */
void feed_check(const struct feeds *fs);
