/* handoff_story - one shard's connections on a fake clock: lane 0 = command (C), 2 = subscriber (S), 3 = reader (B).
 * Everything static: each test program has its own copy. */
#pragma once
#include "core/handoff/handoff.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/rng.h"

enum { C = CONN_COMMAND, B = CONN_READER + 2, S = CONN_SUBSCRIBER };

#define UNUSED __attribute__((unused))

static struct {
	struct handoff *h;
	struct handoff_effects out;
	struct buf text;
	mono_ms now, next;
	bool say;
	size_t n[HANDOFF_SAY + 1];
} W;

static const struct handoff_rules rules = {.relaxed_timeout_ms = 10000,
	.relaxed_cap_ms = 60000,
	.post_relaxed_ms = 20000,
	.timeout_ms = 15000,
	.max_retries = 3,
	.max_concurrent = 10,
	.breaker_failures = 5,
	.breaker_half_open = 1,
	.breaker_reset_ms = 60000};

static const char *lane_name(uint32_t lane)
{
	return lane == C ? "C" : lane == S ? "S" : lane == B ? "B" : "?";
}

static void write_effect(const struct handoff_effect *e)
{
	static const char *const names[] = {
		"dial", "drop_new", "switch", "unblock", "close_old", "target", "relax", "hurry", "refresh", "say"};
	W.n[e->kind]++;
	if (e->kind == HANDOFF_SAY && !W.say)
		return;
	buf_printf(&W.text, "[%6lld] %s", (long long)W.now, names[e->kind]);
	if (e->kind == HANDOFF_SAY)
		buf_printf(&W.text, " %s\n", e->text->bytes);
	else if (e->kind == HANDOFF_HURRY)
		buf_str(&W.text, "\n");
	else if (e->kind == HANDOFF_REFRESH)
		buf_printf(&W.text, " seq=%lld\n", (long long)e->seq);
	else if (e->kind == HANDOFF_RELAX)
		buf_printf(&W.text, " %s %lld\n", lane_name(e->lane), (long long)e->until);
	else if (e->kind == HANDOFF_DIAL || e->kind == HANDOFF_TARGET)
		buf_printf(&W.text, " %s %s\n", lane_name(e->lane), e->address[0] ? e->address : "configured");
	else
		buf_printf(&W.text, " %s\n", lane_name(e->lane));
}

static void step(struct handoff_event ev)
{
	ev.now = W.now;
	W.next = handoff_step(W.h, &ev, &W.out);
	for (size_t i = 0; i < W.out.n; i++)
		write_effect(&W.out.v[i]);
	handoff_effects_clear(&W.out);
}

static UNUSED void event(enum handoff_event_kind kind, uint32_t lane, const char *text)
{
	struct handoff_event ev = {.kind = kind,
		.lane = lane,
		.role = lane == B   ? CONN_READER
			: lane == S ? CONN_SUBSCRIBER
				    : CONN_COMMAND};
	if (text)
		ev.text = (struct slice){text, strlen(text)};
	ev.flag = kind == HANDOFF_NEW_UP && lane == S;
	step(ev);
}

static UNUSED void note(uint32_t lane, enum note_kind kind, int64_t seq, int64_t seconds, const char *endpoint)
{
	struct note n = {.kind = kind, .seq = seq, .seconds = seconds};
	snprintf(n.endpoint, sizeof n.endpoint, "%s", endpoint ? endpoint : "");
	step((struct handoff_event){.kind = HANDOFF_NOTE, .lane = lane, .note = &n});
}

/* Lets time pass, with a tick at every deadline. */
static UNUSED void run_to(mono_ms to)
{
	int turns = 0;
	while (W.next <= to) {
		cr_assert_lt(++turns, 10000, "the deadline does not move: %lld at %lld", (long long)W.next,
			(long long)W.now);
		W.now = W.next > W.now ? W.next : W.now;
		step((struct handoff_event){.kind = HANDOFF_TICK, .lane = UINT32_MAX});
		if (W.next <= W.now)
			cr_assert_lt(++turns, 9000);
	}
	W.now = to;
}

static UNUSED bool told(const char *what)
{
	buf_add(&W.text, "", 1);
	bool is = strstr(W.text.data, what) != NULL;
	W.text.len--;
	return is;
}

static UNUSED void forget(void)
{
	W.text.len = 0;
	memset(W.n, 0, sizeof W.n);
}

#define EXPECT(what) cr_assert(told(what), "no \"%s\" in:\n%.*s", what, (int)W.text.len, W.text.data)
#define EXPECT_NOT(what) cr_assert(!told(what), "\"%s\" in:\n%.*s", what, (int)W.text.len, W.text.data)

static UNUSED void start(const struct handoff_rules *r)
{
	handoff_free(W.h);
	W.h = handoff_new(r, "shard=0", "a:1", 7);
	W.now = 0;
	const uint32_t lanes[] = {C, S, B};
	for (int i = 0; i < 3; i++) {
		event(HANDOFF_OPEN, lanes[i], "a:1");
		event(HANDOFF_UP, lanes[i], "a:1");
	}
	forget();
}

static UNUSED void up(void)
{
	buf_init(&W.text);
	start(&rules);
}

static UNUSED void down(void)
{
	handoff_free(W.h);
	handoff_effects_fini(&W.out);
	buf_fini(&W.text);
}

TestSuite(handoff, .init = up, .fini = down);

static UNUSED uint64_t count(enum metric_handoff m)
{
	return handoff_metrics(W.h)->c[m];
}

static UNUSED void moving_all(int64_t seq, int64_t seconds, const char *endpoint)
{
	note(C, NOTE_MOVING, seq, seconds, endpoint);
	note(S, NOTE_MOVING, seq, seconds, endpoint);
	note(B, NOTE_MOVING, seq, seconds, endpoint);
}
