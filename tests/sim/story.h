/* story - a small world that goes like clockwork (everything takes 2 ms there and 2 ms back), and what it tells.
 * Lines: commands on entries (d0.s0 = daemon 0, shard 0), frames (w0 = worker 0), and the coordinators' log.
 * Ids are shortened to the milliseconds of the story's clock. */
#pragma once
#include "sim/world.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

static struct world W;

__attribute__((unused)) static void story_with(struct world_opts o)
{
	alarm(60);
	o.seed = o.seed ? o.seed : 1;
	o.n_daemons = o.n_daemons ? o.n_daemons : 1;
	o.n_masters = o.n_masters ? o.n_masters : 1;
	o.n_services = 1;
	o.serialize = true;
	o.ttl_ms = o.ttl_ms ? o.ttl_ms : 10000;
	o.lag_min_ms = o.lag_max_ms = 2;
	o.max_retries = o.max_retries ? o.max_retries : 3;
	o.story = true;
	world_init(&W, &o);
	world_until(&W, 1500);
}

__attribute__((unused)) static void story_up(void)
{
	story_with((struct world_opts){.n_daemons = 1});
}

__attribute__((unused)) static struct sim_worker *story_worker(struct daemon *d, uint32_t credits, mono_ms work)
{
	struct sim_worker *k = world_worker(&W, d, credits);
	k->work_min = k->work_max = work;
	world_until(&W, W.now + 20);
	return k;
}

__attribute__((unused)) static void story_for(mono_ms ms)
{
	world_until(&W, W.now + ms);
}

__attribute__((unused)) static void story_clear(void)
{
	buf_clear(&W.trace);
}

__attribute__((unused)) static void story_down(void)
{
	cr_expect(!W.failed, "%s", W.why);
	world_fini(&W);
}

/* The story since the last one. */
static void story_expect(const char *want, const char *file, int line)
{
	const char *got = W.trace.data ? W.trace.data : "";
	cr_expect_str_eq(got, want, "%s:%d: the story is\n%s--- but should be\n%s", file, line, got, want);
	buf_clear(&W.trace);
}
#define expect_story(want) story_expect((want), __FILE__, __LINE__)
