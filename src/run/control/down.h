/* down - what the daemon knows of a master that does not answer, in words for an operator. Coordinator thread. */
#pragma once
#include "run/control/facts.h"
#include "run/daemon.h"

/* DOWN_LOOK_MS: a server that is down has that long to answer, for the daemon may wait before it tries again. */
enum { DOWN_LOOK_MS = 500, DOWN_SINCE_CAP = FACTS_SINCE_CAP, DOWN_WORDS_CAP = 600 };

/* The shard's command connection is down and an attempt to have it back has failed. SHARD_NONE is not down. */
bool down_is_known(const struct daemon *d, uint16_t shard);
/* "02:13:05 (38 s)", the day before it when that is long ago: since when it is down. */
void down_since(const struct daemon *d, uint16_t shard, char out[static DOWN_SINCE_CAP]);
/* "redis 127.0.0.1:6379 is down since 02:13:05 (38 s): connection refused". why: what one knows better than the daemon,
 * NULL = nothing. False, "" in out: it is not known to be down. */
bool down_words(const struct daemon *d, uint16_t shard, const char *why, char out[static DOWN_WORDS_CAP]);
/* The same when every master is known to be down: of the first, and how many others are. False, "" in out: one may be
 * up. */
bool down_all(const struct daemon *d, char out[static DOWN_WORDS_CAP]);
/* Why no master is known yet, as the last attempt to ask for the topology has it. */
const char *down_topology(const struct daemon *d);
/* Why the key, whose slot is given, has no master to ask: no topology, or a slot that nobody serves. Returns out. */
const char *down_no_master(const struct daemon *d, const char *key, uint16_t slot, char out[static DOWN_WORDS_CAP]);
/* The shard of the master at that address; SHARD_NONE: there is none. */
uint16_t down_shard_at(const struct daemon *d, const char *addr);
