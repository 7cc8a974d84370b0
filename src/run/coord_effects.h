/* coord_effects - who does what the coordinator's steps ask for. Coordinator thread. */
#pragma once
#include "run/daemon.h"
#include "run/perform.h"

/* With a struct daemon as their arg. */
extern const struct coord_doers coord_thread_doers;
/* The process ends with that exit status, when the turn is over. */
void coord_end(struct daemon *d, int code);
/* A shard's snapshot has come: kept in the place of its last one, or freed when the shard has stopped. s moves. */
void coord_keep_snapshot(struct daemon *d, uint16_t shard, struct snapshot *s);
