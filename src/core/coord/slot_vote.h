/* slot_vote - which of several nodes' slot maps is true. One node may have been cut off from the others, or lag
 * behind. Pure. Owner: whoever asks, on its thread. Promise: a map that two nodes agree on, at the highest epoch that
 * was seen, wins; one node alone decides only when nobody else can be asked. */
#pragma once
#include "core/cmd.h"

enum { SLOT_VOTES_MAX = 16, SLOT_VOTE_NONE = -1 };

struct slot_vote {
	struct {
		uint64_t map;
		int64_t epoch;
	} v[SLOT_VOTES_MAX];
	int n;
};

/* The same number for the same map, however its rows are ordered and cut. Masters are told apart by their node ids, by
 * their addresses where they have none. */
uint64_t slot_map_of(const struct slot_range *rows, size_t n);
/* A node's answer (at most SLOT_VOTES_MAX of them). Returns the number of the answer whose map is true, counted from 0,
 * or SLOT_VOTE_NONE: ask another node. */
int slot_vote_add(struct slot_vote *t, uint64_t map, int64_t epoch);
/* Nobody else can be asked. SLOT_VOTE_NONE: nobody answered, or they do not agree. */
int slot_vote_end(const struct slot_vote *t);
