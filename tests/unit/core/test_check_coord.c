/* Each check of the coordinator's invariants fires: one is broken by hand, the next turn ends the process. */
#include "core/coord/coord_p.h"
#include "unit/core/coord_story.h"
#include <signal.h>

static struct entry *held(void)
{
	story_hello(1, 2);
	uint64_t handle = story_assigned(7, "s7");
	struct entry *e = ledger_by_handle(&W.c->ledger, handle);
	cr_assert(e && e->state == ENTRY_ASSIGNED);
	coord_check(W.c); /* all is well */
	return e;
}

#define DIES(name) Test(check_coord, name, .init = story_ready, .fini = story_down, .signal = SIGABRT)

DIES(the_ledger_counts_states)
{
	held();
	W.c->ledger.n_state[ENTRY_READY]++;
	ledger_check(&W.c->ledger);
}

DIES(the_ledger_arms_deadlines)
{
	struct entry *e = held();
	e->deadline = W.now + 1;
	ledger_check(&W.c->ledger);
}

DIES(credits_grants_are_reserved)
{
	held();
	W.c->place.service[0].granted = W.c->place.service[0].reserved + 1;
	credits_check(&W.c->place);
}

DIES(topology_masters_serve)
{
	held();
	W.c->topo.nodes[0].is_master = false;
	topology_check(&W.c->topo);
}

DIES(an_assigned_entry_has_a_worker)
{
	struct entry *e = held();
	e->owner = 0;
	entry_check(W.c, e);
}

DIES(a_lost_lease_has_no_shard)
{
	struct entry *e = held();
	e->is_lost = true;
	entry_check(W.c, e);
}

DIES(a_worker_uses_credits)
{
	struct entry *e = held();
	struct worker *w = workers_find(&W.c->workers, e->owner);
	w->credit_holder.in_use = 0;
	worker_check(W.c, w);
}

DIES(a_shard_is_one_thing)
{
	held();
	W.c->shards.v[0].is_stopping = true;
	shards_check(W.c);
}

DIES(a_turn_ends_with_a_look)
{
	held();
	W.c->place.service[0].owned++;
	story_event((struct coord_event){.kind = COORD_TICK});
}

DIES(reservations_are_given_back)
{
	held();
	W.c->place.service[0].reserved++;
	coord_check(W.c);
}

DIES(time_does_not_go_back)
{
	held();
	W.now -= 1;
	story_event((struct coord_event){.kind = COORD_TICK});
}

DIES(a_state_is_left_only_as_allowed)
{
	entry_move(W.c, held(), ENTRY_LOCKING, MONO_NEVER);
}
