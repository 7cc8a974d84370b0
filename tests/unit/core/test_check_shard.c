/* Each check of a shard's invariants fires: one is broken by hand, looking ends the process. */
#include "core/shard/feed_p.h"
#include "core/shard/keyspace.h"
#include "core/shard/lease_p.h"
#include "core/shard/reconcile_p.h"
#include "core/shard/retry_p.h"
#include "unit/core/shard_story.h"
#include <signal.h>

static struct shard_rules rules = {
	.consumer = "redis-consumer-me", .lock_value = "redis-consumer-me/20", .command_timeout_ms = 3000};
static struct shard_ctx C;
static struct effects out;

static void begin(void)
{
	alarm(60);
	effects_init(&out);
	ctx_init(&C, &rules, 0);
	ctx_begin(&C, 1000, 1700000001000, &out);
	ctx_service_put(&C, story_rules())->is_read = true;
}

static void end(void)
{
	ctx_fini(&C);
	effects_fini(&out);
}

#define DIES(name) Test(check_shard, name, .init = begin, .fini = end, .signal = SIGABRT)

static struct lease *one_lease(struct leases *ls)
{
	struct msg m = msg_lease_acquire(
		(struct msg_lease_acquire){.id = {7, 0}, .stream = text_new("s1", 2), .slot = 9, .good_until = 9000});
	m.handle = m.svc = 1;
	lease_msg(ls, &C, &m);
	lease_check(ls, &C); /* all is well */
	return shard_pool_at(&ls->pool, 0);
}

DIES(a_lease_is_sent_or_queued)
{
	struct leases *ls = leases_new(1);
	one_lease(ls)->in_flight = true;
	lease_check(ls, &C);
}

DIES(a_fence_comes_in_time)
{
	struct leases *ls = leases_new(1);
	struct lease *l = one_lease(ls);
	heap_set(&ls->timers, &l->timer, l->good_until + 1);
	lease_check(ls, &C);
}

static struct op *one_op(struct retry *r)
{
	struct msg m = msg_op((struct msg_op){.kind = CMD_DONE, .id = {7, 0}, .slot = 5, .stream = text_new("s1", 2)});
	m.handle = m.svc = 1;
	retry_msg(r, &C, &m);
	retry_check(r, &C); /* all is well */
	return shard_pool_at(&r->pool, 0);
}

DIES(an_operation_does_not_wait_for_ever)
{
	struct retry *r = retry_new();
	struct op *op = one_op(r);
	list_remove(&op->queue);
	heap_remove(&r->timers, &op->timer);
	retry_check(r, &C);
}

DIES(who_waits_for_others_is_counted)
{
	struct retry *r = retry_new();
	one_op(r)->is_grouped = true;
	retry_check(r, &C);
}

DIES(entries_are_told_in_order)
{
	struct feeds *fs = feeds_new(1);
	struct msg m = msg_feed_open((struct msg_feed_open){.token = {7, 0}, .stream = text_new("k", 1), .slot = 9});
	m.handle = m.svc = 1;
	feed_msg(fs, &C, &m);
	feed_check(fs); /* all is well */
	struct feed *f = shard_pool_at(&fs->pool, 0);
	struct feed_window *w = &feed_at_work(f)->window;
	w->v = mem_array(2, sizeof *w->v);
	w->v[0] = w->v[1] = (struct feed_sent){.id = {8, 0}, .ends = true};
	w->n = w->cap = w->n_frames = 2;
	feed_check(fs);
}

DIES(repairs_are_counted)
{
	struct reconcile *rc = reconcile_new(1);
	reconcile_service(rc, &C, 1);
	reconcile_check(rc); /* all is well */
	rc->v[1]->n_queued++;
	reconcile_check(rc);
}

DIES(a_subscriber_that_is_down_asks_nothing)
{
	struct keyspace k;
	keyspace_init(&k);
	keyspace_check(&k); /* all is well */
	k.in_flight = true;
	keyspace_check(&k);
}

DIES(a_turn_of_a_shard_ends_with_a_look)
{
	struct shard_rules r = rules;
	r.is_checked = true;
	struct shard *s = shard_new(&r, 0);
	struct service_rules *orders = story_rules();
	struct msg m = msg_service((struct msg_service){.rules = orders, .is_read = true});
	struct shard_event ev = {.kind = SHARD_MSG, .now = 1000, .msg = &m};
	shard_step(s, &ev, &out);
	orders->svc = 2; /* nobody may change rules that are shared */
	ev = (struct shard_event){.kind = SHARD_TICK, .now = 1001};
	shard_step(s, &ev, &out);
}
