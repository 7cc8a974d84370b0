/* sm - how every state machine of the core moves: a table of what is allowed, and one debug line for each transition
 * with the old state, the new one and the cause. Pure; any thread. */
#pragma once
#include "core/turn.h"

struct sm {
	const char *what;         /* "lease", "entry", … */
	const char *const *names; /* of its states, in their order; n of them */
	const uint16_t *allowed;  /* from each state: a bit for each one it may go to */
	uint8_t n;
};

/* May it go from one to the other? */
static inline bool sm_allows(const struct sm *sm, unsigned from, unsigned to)
{
	return from < sm->n && to < sm->n && (sm->allowed[from] >> to & 1);
}

/* The only way *state changes: asserts that the move is allowed. whose: for the line, a stream's name say; why: a few
 * words. out NULL: no line; else one when out->says_moves. */
void sm_move(
	const struct sm *sm, uint8_t *state, unsigned to, struct effects *out, struct slice whose, const char *why);
