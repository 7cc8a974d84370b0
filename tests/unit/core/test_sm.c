#include "core/sm.h"
#include <criterion/criterion.h>
#include <signal.h>

enum { OFF, ON, BROKEN, N };

static const uint16_t allowed[N] = {[OFF] = 1 << ON, [ON] = 1 << OFF | 1 << BROKEN, [BROKEN] = 0};
static const char *const names[N] = {"off", "on", "broken"};
static const struct sm lamp = {.what = "lamp", .names = names, .allowed = allowed, .n = N};

Test(sm, says_old_state_new_state_and_cause)
{
	struct effects out;
	effects_init(&out);
	uint8_t state = OFF;
	sm_move(&lamp, &state, ON, &out, (struct slice){"kitchen", 7}, "it is dark");
	cr_assert(state == ON && out.n == 0, "nobody wants the lines");
	out.says_moves = true;
	sm_move(&lamp, &state, BROKEN, &out, (struct slice){"kitchen", 7}, "it is old");
	cr_assert(state == BROKEN && out.n == 1 && out.v[0].level == LOG_DEBUG);
	cr_assert_str_eq(out.v[0].text->bytes, "lamp=kitchen on -> broken: it is old");
	effects_fini(&out);
}

Test(sm, knows_what_is_allowed)
{
	cr_assert(sm_allows(&lamp, OFF, ON) && !sm_allows(&lamp, OFF, BROKEN) && !sm_allows(&lamp, OFF, N));
}

Test(sm, a_move_that_is_not_allowed_is_a_bug, .signal = SIGABRT)
{
	uint8_t state = BROKEN;
	sm_move(&lamp, &state, ON, NULL, (struct slice){0}, "magic");
}
