/* handoff_story - one shard's connections on a fake clock: connection 0 = command (C), 2 = subscriber (S), 3 = reader (B).
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
	size_t n[HANDOFF_LOG + 1];
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

static const char *role_conn_name(uint32_t conn)
{
	return conn == C ? "C" : conn == S ? "S" : conn == B ? "B" : "?";
}

static void write_effect(const struct handoff_effect *e)
{
	static const char *const names[] = {
		"dial", "drop_new", "switch", "unblock", "close_old", "target", "relax", "hurry", "refresh", "say"};
	W.n[e->kind]++;
	if (e->kind == HANDOFF_LOG && !W.say)
		return;
	buf_printf(&W.text, "[%6lld] %s", (long long)W.now, names[e->kind]);
	if (e->kind == HANDOFF_LOG)
		buf_printf(&W.text, " %s\n", e->text->bytes);
	else if (e->kind == HANDOFF_RENEW_ALL)
		buf_str(&W.text, "\n");
	else if (e->kind == HANDOFF_REFRESH)
		buf_printf(&W.text, " seq=%lld\n", (long long)e->seq);
	else if (e->kind == HANDOFF_RELAX)
		buf_printf(&W.text, " %s %lld\n", role_conn_name(e->conn), (long long)e->until);
	else if (e->kind == HANDOFF_DIAL || e->kind == HANDOFF_TARGET)
		buf_printf(&W.text, " %s %s limit=%lld at=%lld\n", role_conn_name(e->conn),
			e->address[0] ? e->address : "configured", (long long)e->limit, (long long)e->until);
	else
		buf_printf(&W.text, " %s\n", role_conn_name(e->conn));
}

static void step(struct handoff_event ev)
{
	ev.now = W.now;
	W.next = handoff_step(W.h, &ev, &W.out);
	for (size_t i = 0; i < W.out.n; i++)
		write_effect(&W.out.v[i]);
	handoff_effects_clear(&W.out);
}

static UNUSED void event(enum handoff_event_kind kind, uint32_t conn, const char *text)
{
	struct handoff_event ev = {.kind = kind,
		.conn = conn,
		.role = conn == B   ? CONN_READER
			: conn == S ? CONN_SUBSCRIBER
				    : CONN_COMMAND};
	if (text)
		ev.text = (struct slice){text, strlen(text)};
	ev.flag = kind == HANDOFF_NEW_UP && conn == S;
	step(ev);
}

/* The present connection, or the replacement, is up with this one answering. */
static UNUSED void up_at(enum handoff_event_kind kind, uint32_t conn, const char *address, const char *peer)
{
	step((struct handoff_event){.kind = kind,
		.conn = conn,
		.flag = kind == HANDOFF_NEW_UP && conn == S,
		.text = {address, strlen(address)},
		.peer = {peer, strlen(peer)}});
}

static UNUSED void note(uint32_t conn, enum note_kind kind, int64_t seq, int64_t seconds, const char *endpoint)
{
	struct note n = {.kind = kind, .seq = seq, .seconds = seconds};
	snprintf(n.endpoint, sizeof n.endpoint, "%s", endpoint ? endpoint : "");
	step((struct handoff_event){.kind = HANDOFF_NOTE, .conn = conn, .note = &n});
}

/* Lets time pass, with a tick at every deadline. */
static UNUSED void run_to(mono_ms to)
{
	int turns = 0;
	while (W.next <= to) {
		cr_assert_lt(++turns, 10000, "the deadline does not move: %lld at %lld", (long long)W.next,
			(long long)W.now);
		W.now = W.next > W.now ? W.next : W.now;
		step((struct handoff_event){.kind = HANDOFF_TICK, .conn = UINT32_MAX});
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

static UNUSED void start_at(const struct handoff_rules *r, const char *configured, const char *peer)
{
	handoff_free(W.h);
	W.h = handoff_new(r, "shard=0", configured, 7);
	W.now = 0;
	const uint32_t conns[] = {C, S, B};
	for (int i = 0; i < 3; i++) {
		event(HANDOFF_OPEN, conns[i], configured);
		up_at(HANDOFF_UP, conns[i], configured, peer);
	}
	forget();
}

static UNUSED void start(const struct handoff_rules *r)
{
	start_at(r, "a:1", "");
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
