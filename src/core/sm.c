#include "core/sm.h"

#include <assert.h>

enum { WHOSE_MAX = 200 };

void sm_move(const struct sm *sm, uint8_t *state, unsigned to, struct effects *out, struct slice whose, const char *why)
{
	assert(sm_allows(sm, *state, to));
	if (out && out->says_moves)
		effects_log(out, LOG_DEBUG, "%s=%.*s %s -> %s: %s", sm->what,
			(int)(whose.len < WHOSE_MAX ? whose.len : WHOSE_MAX), whose.p ? whose.p : "", sm->names[*state],
			sm->names[to], why);
	*state = (uint8_t)to;
}
