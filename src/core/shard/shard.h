/* shard - one cluster master's part of the daemon as one pure step: composes lease, retry, reader, reconcile and
 * keyspace. Pure. Owner: the shard's thread. Times: monotonic ms. Promise: MSG_LEASE lost (expired) comes at
 * good_until - stop_margin at the latest, if steps happen at the returned deadlines. */
#pragma once
#include "core/metric.h"
#include "core/turn.h"

struct shard;

/* rules are copied. index is this shard's number in messages (.from). */
struct shard *shard_new(const struct shard_rules *rules, uint16_t index);
/* NULL is fine. Locks stay in Redis. */
void shard_free(struct shard *s);
/* Handles one event (after every timer that is due at ev->now) and appends effects. What ev owns is taken.
 * Returns the next deadline, MONO_NEVER = none. */
mono_ms shard_step(struct shard *s, const struct shard_event *ev, struct effects *out);

/* Of its server, since shard_new. Valid as long as s. */
const struct metrics_redis *shard_metrics(const struct shard *s);
const struct metrics_service *shard_service_metrics(const struct shard *s, uint16_t svc); /* NULL: unknown here */
uint32_t shard_n_leases(const struct shard *s);
/* The result of the 1 Hz look-ups of services read here; -1 = not known. */
struct shard_lengths {
	int64_t lbs, pending, dlq, entries_dlq;
	int64_t wanted;          /* nobody has read them yet, or they are due: the same on every daemon */
	int64_t delayed, parked; /* wait for their time; for a running entry of their stream */
	int64_t unread_ms; /* since when the oldest entry that nobody has read is there, Unix time; -1 = none, too */
};
/* False: nothing that work depends on. now: monotonic ms. */
bool shard_refused(const struct shard *s, mono_ms now, struct shard_refused *out);
/* The server's clock minus ours, ms, as measured last; 0 until then. */
int64_t shard_clock_offset(const struct shard *s);
#define SHARD_LENGTHS_UNKNOWN ((struct shard_lengths){-1, -1, -1, -1, -1, -1, -1, -1})
/* Entries mode: of the service's data streams that are read here. */
struct shard_feeds {
	int64_t behind;  /* entries that were read, and are not acknowledged; the least that is behind */
	int64_t blocked; /* streams that wait for a retry */
	int64_t idle;    /* streams with a worker that have no entry for it */
};
struct shard_feeds shard_feeds_of(const struct shard *s, uint16_t svc);
/* How long the service's streams are, by the last answers; SHARD_LENGTHS_UNKNOWN before. */
struct shard_lengths shard_lengths(const struct shard *s, uint16_t svc);
