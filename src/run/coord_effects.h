/* coord_effects - performs what the coordinator's steps ask for. Coordinator thread. */
#pragma once
#include "run/daemon.h"

/* One effect of a turn, after the step has returned. A message in it moves; the rest is freed with the turn's effects.
 */
void coord_perform(struct daemon *d, struct effect *ef);
/* The process ends with that exit status, when the turn is over. */
void coord_end(struct daemon *d, int code);
/* A shard's snapshot has come: kept in the place of its last one, or freed when the shard has stopped. s moves. */
void coord_keep_snapshot(struct daemon *d, uint16_t shard, struct snapshot *s);
