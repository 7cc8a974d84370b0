/* One shard's connections on a fake clock: lane 0 = command (C), 2 = subscriber (S), 3 = reader (B). Each test is one row
 * of the table of behaviours that this program prints (row at the top of each test). */
#include "core/handoff.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/rng.h"

enum { C = CONN_COMMAND, B = CONN_READER + 2, S = CONN_SUBSCRIBER };

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

static void row(const char *behaviour)
{
	printf("| handoff | %s\n", behaviour);
}

static const char *lane_name(uint32_t lane)
{
	return lane == C ? "C" : lane == S ? "S" : lane == B ? "B" : "?";
}

static void write_effect(const struct handoff_effect *e)
{
	static const char *const names[] = {"dial", "drop_new", "switch", "unblock", "close_old", "target", "relax", "hurry",
		"refresh", "say"};
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

static void event(enum handoff_event_kind kind, uint32_t lane, const char *text)
{
	struct handoff_event ev = {.kind = kind, .lane = lane, .role = lane == B ? CONN_READER : lane == S ? CONN_SUBSCRIBER : CONN_COMMAND};
	if (text)
		ev.text = (struct slice){text, strlen(text)};
	ev.flag = kind == HANDOFF_NEW_UP && lane == S;
	step(ev);
}

static void note(uint32_t lane, enum note_kind kind, int64_t seq, int64_t seconds, const char *endpoint)
{
	struct note n = {.kind = kind, .seq = seq, .seconds = seconds};
	snprintf(n.endpoint, sizeof n.endpoint, "%s", endpoint ? endpoint : "");
	step((struct handoff_event){.kind = HANDOFF_NOTE, .lane = lane, .note = &n});
}

/* Lets time pass, with a tick at every deadline. */
static void run_to(mono_ms to)
{
	int turns = 0;
	while (W.next <= to) {
		cr_assert_lt(++turns, 10000, "the deadline does not move: %lld at %lld", (long long)W.next, (long long)W.now);
		W.now = W.next > W.now ? W.next : W.now;
		step((struct handoff_event){.kind = HANDOFF_TICK, .lane = UINT32_MAX});
		if (W.next <= W.now)
			cr_assert_lt(++turns, 9000);
	}
	W.now = to;
}

static bool told(const char *what)
{
	buf_add(&W.text, "", 1);
	bool is = strstr(W.text.data, what) != NULL;
	W.text.len--;
	return is;
}

static void forget(void)
{
	W.text.len = 0;
	memset(W.n, 0, sizeof W.n);
}

#define EXPECT(what) cr_assert(told(what), "no \"%s\" in:\n%.*s", what, (int)W.text.len, W.text.data)
#define EXPECT_NOT(what) cr_assert(!told(what), "\"%s\" in:\n%.*s", what, (int)W.text.len, W.text.data)

static void start(const struct handoff_rules *r)
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

static void up(void)
{
	buf_init(&W.text);
	start(&rules);
}

static void down(void)
{
	handoff_free(W.h);
	handoff_effects_fini(&W.out);
	buf_fini(&W.text);
}

TestSuite(handoff, .init = up, .fini = down);

static uint64_t count(enum metric_handoff m)
{
	return handoff_metrics(W.h)->c[m];
}

static void moving_all(int64_t seq, int64_t seconds, const char *endpoint)
{
	note(C, NOTE_MOVING, seq, seconds, endpoint);
	note(S, NOTE_MOVING, seq, seconds, endpoint);
	note(B, NOTE_MOVING, seq, seconds, endpoint);
}

Test(handoff, make_before_break)
{
	row("MOVING: C switches when the new one is up, the old one is closed when nothing waits on it");
	note(C, NOTE_MOVING, 7, 15, "b:2");
	EXPECT("hurry");
	EXPECT("[     0] relax C 15000");
	run_to(1000);
	EXPECT("dial C b:2");
	EXPECT_NOT("switch");
	event(HANDOFF_NEW_UP, C, NULL);
	EXPECT("[  1000] switch C");
	EXPECT("relax C 21000"); /* post_handoff_relaxed */
	EXPECT_NOT("close_old");
	cr_assert_eq(handoff_state(W.h, C), HANDOFF_DRAINING);
	run_to(3000);
	EXPECT_NOT("close_old");
	event(HANDOFF_DRAINED, C, NULL);
	EXPECT("[  3000] close_old C");
	cr_assert_eq(handoff_state(W.h, C), HANDOFF_IDLE);
	cr_assert_eq(count(MH_HANDOFF_OK), 1);
}

Test(handoff, drain_is_bounded)
{
	row("MOVING: what never finishes on the old connection is given up at handoff_timeout");
	note(C, NOTE_MOVING, 7, 15, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_UP, C, NULL);
	run_to(15999);
	EXPECT_NOT("close_old");
	run_to(16000);
	EXPECT("[ 16000] close_old C");
}

Test(handoff, subscriber_joins_first)
{
	row("MOVING: S subscribes on the new one, sees the confirmations, listens to both for a while, leaves the old one");
	note(S, NOTE_MOVING, 7, 15, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_UP, S, NULL);
	EXPECT_NOT("switch");
	cr_assert_eq(handoff_state(W.h, S), HANDOFF_JOINING);
	run_to(1200);
	event(HANDOFF_JOINED, S, NULL);
	EXPECT("[  1200] switch S");
	event(HANDOFF_DRAINED, S, NULL);
	run_to(1699);
	EXPECT_NOT("close_old");
	run_to(1700);
	EXPECT("[  1700] close_old S");
}

Test(handoff, two_subscribers_one_event)
{
	row("S: what both deliver is dropped once, however many");
	struct handoff_seen *s = mem_alloc(sizeof *s);
	struct slice name = {"orders", 6};
	for (uint64_t i = 1; i < 20000; i++) {
		cr_assert(!handoff_seen_before(s, name, (struct entry_id){i, 0}));
		if (i > 100)
			cr_assert(handoff_seen_before(s, name, (struct entry_id){i - 100, 0}));
	}
	mem_free(s);
}

Test(handoff, reader_is_unblocked)
{
	row("MOVING: B goes first; the old blocked read is ended through C, again until it returns");
	moving_all(7, 15, "b:2");
	run_to(250);
	EXPECT("dial B");
	EXPECT_NOT("dial C");
	EXPECT_NOT("dial S");
	event(HANDOFF_NEW_UP, B, NULL);
	EXPECT("[   250] unblock B");
	run_to(500);
	EXPECT("[   500] unblock B");
	event(HANDOFF_DRAINED, B, NULL);
	EXPECT("[   500] close_old B");
	forget();
	run_to(5000);
	EXPECT_NOT("unblock B");
}

Test(handoff, one_operation_for_all)
{
	row("Same seq on N connections: each moves once, one operation is counted; the same twice: ignored");
	moving_all(7, 15, "b:2");
	moving_all(7, 15, "b:2");
	run_to(1000);
	moving_all(7, 14, "b:2");
	cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	cr_assert_eq(W.n[HANDOFF_DROP_NEW], 0);
	cr_assert_eq(W.n[HANDOFF_HURRY], 1);
	event(HANDOFF_NEW_UP, C, NULL);
	event(HANDOFF_NEW_UP, B, NULL);
	event(HANDOFF_NEW_UP, S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	moving_all(7, 9, "b:2"); /* the new connections hear of it with the remaining time */
	run_to(16000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	cr_assert_eq(count(MH_HANDOFF_OK), 1);
	cr_assert_eq(count(MH_MOVING_ACTED), 1);
	cr_assert_eq(count(MH_MOVING_DUPLICATE), 11);
}

Test(handoff, null_endpoint)
{
	row("MOVING with null: the configured address, resolved anew, at half the time; with 0 or 1 s left: now");
	note(C, NOTE_MOVING, 7, 15, NULL);
	run_to(7499);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	run_to(8500);
	EXPECT("dial C configured");
	event(HANDOFF_NEW_UP, C, NULL);
	EXPECT("switch C");
	note(C, NOTE_MOVING, 7, 6, NULL); /* sent again to the late joiner */
	forget();
	run_to(14000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	for (int64_t seconds = -1; seconds < 2; seconds++) {
		start(&rules);
		note(C, NOTE_MOVING, 7, seconds, NULL);
		EXPECT("[     0] dial C configured");
	}
}

Test(handoff, newer_wins)
{
	row("A newer MOVING with another endpoint wins, the first one's end does not undo it; an older seq changes nothing");
	note(C, NOTE_MOVING, 7, 15, "b:2");
	run_to(1000);
	note(C, NOTE_MOVING, 9, 15, "c:3");
	EXPECT("drop_new C");
	run_to(2000);
	EXPECT("dial C c:3");
	event(HANDOFF_NEW_DOWN, B, "late"); /* of nobody */
	note(C, NOTE_MOVING, 8, 15, "d:4");
	event(HANDOFF_NEW_UP, C, NULL);
	event(HANDOFF_DRAINED, C, NULL);
	forget();
	note(C, NOTE_MOVING, 8, 15, "d:4");
	run_to(15000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	cr_assert_eq(count(MH_MOVING_STALE), 2);
	cr_assert_eq(count(MH_HANDOFF_SUPERSEDED), 1);
	cr_assert_eq(count(MH_HANDOFF_OK), 1);
}

Test(handoff, lower_seq_after_the_window)
{
	row("After a window a lower seq is accepted again");
	note(C, NOTE_MOVING, 7, 5, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_UP, C, NULL);
	event(HANDOFF_DRAINED, C, NULL);
	forget();
	run_to(5001);
	note(C, NOTE_MOVING, 2, 5, "c:3");
	run_to(7000);
	EXPECT("dial C c:3");
}

Test(handoff, late_ones)
{
	row("Read long after it was sent, on a connection that was left: ignored");
	struct note n = {.kind = NOTE_MOVING, .seq = 1, .seconds = 5, .endpoint = "z:9"};
	step((struct handoff_event){.kind = HANDOFF_LATE, .lane = C, .note = &n});
	run_to(3000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	cr_assert_eq(count(MH_MOVING_STALE), 1);
}

Test(handoff, trouble_retries_then_stays)
{
	row("Trouble: retries with backoff in the window, max_handoff_retries, the old one serves; then the configured address");
	note(C, NOTE_MOVING, 7, 15, "b:2");
	for (int i = 0; i < 4; i++) {
		run_to(W.now + 2500);
		cr_assert_eq(W.n[HANDOFF_DIAL], (size_t)i + 1);
		event(HANDOFF_NEW_DOWN, C, "connection refused");
	}
	run_to(12000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 4);
	cr_assert_eq(W.n[HANDOFF_SWITCH], 0);
	cr_assert_eq(count(MH_HANDOFF_FAILED), 1);
	event(HANDOFF_DOWN, C, "closed");
	EXPECT_NOT("target C"); /* stays at the configured address */
}

Test(handoff, trouble_is_bounded_by_the_window)
{
	row("Trouble: no retry after the window");
	note(C, NOTE_MOVING, 7, 1, "b:2");
	event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(950);
	if (W.n[HANDOFF_DIAL] > 1)
		event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(1000);
	forget();
	event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(20000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	cr_assert_eq(handoff_state(W.h, C), HANDOFF_IDLE);
}

Test(handoff, hanging_endpoint)
{
	row("Trouble: an endpoint that hangs is dropped at handoff_timeout");
	note(C, NOTE_MOVING, 7, 60, "b:2");
	run_to(1000);
	EXPECT("dial C");
	run_to(16001);
	EXPECT("drop_new C");
	run_to(18000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 2);
}

Test(handoff, breaker)
{
	row("Circuit breaker per endpoint: opens, half-opens by time, closes");
	struct handoff_rules r = rules;
	r.breaker_failures = 2;
	r.breaker_reset_ms = 5000;
	start(&r);
	note(C, NOTE_MOVING, 7, 30, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(2000);
	event(HANDOFF_NEW_DOWN, C, "refused");
	const char *endpoint;
	cr_assert_eq(handoff_breaker(W.h, &endpoint), BREAKER_OPEN);
	cr_assert_str_eq(endpoint, "b:2");
	cr_assert_eq(handoff_gauges(W.h).n_breakers_open, 1);
	note(B, NOTE_MOVING, 7, 30, "b:2");
	run_to(6000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 2);
	run_to(7500);
	note(S, NOTE_MOVING, 7, 30, "b:2");
	run_to(9500);
	cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_HALF_OPEN);
	event(HANDOFF_NEW_UP, S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_CLOSED);
}

Test(handoff, old_one_ends_first)
{
	row("The old one ends before the new one is ready: reconnects go to the new endpoint in the window, after it to the configured");
	moving_all(7, 5, "b:2");
	run_to(600);
	event(HANDOFF_DOWN, C, "closed");
	EXPECT("drop_new C");
	EXPECT("target C b:2");
	event(HANDOFF_UP, C, "b:2");
	event(HANDOFF_DOWN, S, "closed");
	EXPECT("target S b:2");
	char at[HANDOFF_ADDRESS];
	handoff_address(W.h, W.now, "", at);
	cr_assert_str_eq(at, "b:2");
	run_to(5100);
	handoff_address(W.h, W.now, "", at);
	cr_assert_str_eq(at, "a:1");
	forget();
	event(HANDOFF_DOWN, C, "closed");
	EXPECT("target C a:1");
	run_to(30000);
	cr_assert_eq(count(MH_HANDOFF_FALLBACK) + count(MH_HANDOFF_FAILED), 1);
}

Test(handoff, reconnect_gives_the_endpoint_up)
{
	row("In the window a new endpoint that refuses the reconnects is left for the configured address after the retries");
	note(C, NOTE_MOVING, 7, 30, "b:2");
	event(HANDOFF_DOWN, C, "closed");
	EXPECT("target C b:2");
	forget();
	for (int i = 0; i < 3; i++)
		event(HANDOFF_DOWN, C, "refused");
	cr_assert_eq(W.n[HANDOFF_TARGET], 0);
	event(HANDOFF_DOWN, C, "refused");
	EXPECT("target C a:1");
}

Test(handoff, inside_the_handshake)
{
	row("MOVING inside the handshake or while reconnecting: acted upon when the connection is up, else by the next attempt");
	event(HANDOFF_DOWN, C, "closed");
	note(C, NOTE_MOVING, 7, 15, "b:2");
	run_to(2000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	event(HANDOFF_UP, C, "a:1");
	EXPECT("dial C b:2");
	start(&rules);
	event(HANDOFF_DOWN, C, "closed");
	note(C, NOTE_MOVING, 7, 15, "b:2");
	event(HANDOFF_DOWN, C, "closed again");
	EXPECT("target C b:2");
	event(HANDOFF_UP, C, "b:2");
	run_to(3000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
}

Test(handoff, cap_and_queue)
{
	row("Many at once: max_concurrent_handoffs, the reader first, a queue that may be full");
	struct handoff_rules r = rules;
	r.max_concurrent = 1;
	r.queue = 1;
	start(&r);
	moving_all(7, 0, "b:2");
	cr_assert_eq(W.n[HANDOFF_DIAL], 1);
	cr_assert_eq(handoff_gauges(W.h).n_queued, 1);
	run_to(1500);
	event(HANDOFF_NEW_UP, C, NULL);
	cr_assert_eq(W.n[HANDOFF_DIAL], 2);
	event(HANDOFF_NEW_UP, S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	run_to(5000);
	cr_assert_eq(count(MH_HANDOFF_FAILED), 1);
	r.queue = 0;
	start(&r);
	moving_all(7, 0, "b:2");
	event(HANDOFF_NEW_UP, C, NULL);
	EXPECT("dial B");
	EXPECT_NOT("dial S");
}

Test(handoff, jitter_stays_small)
{
	row("Jitter: at most a tenth of the window, and a second");
	for (uint64_t seed = 1; seed < 200; seed++) {
		start(&rules);
		moving_all((int64_t)seed, 4, "b:2");
		run_to(401);
		cr_assert_eq(W.n[HANDOFF_DIAL], 3);
		start(&rules);
		moving_all((int64_t)seed, 100, "b:2");
		run_to(1001);
		cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	}
}

Test(handoff, relaxed_windows)
{
	row("Relaxed: starts are counted, their ends undo them, an unmatched end does nothing, the cap ends what is never closed");
	note(C, NOTE_MIGRATED, 1, 0, NULL);
	cr_assert_eq(W.n[HANDOFF_RELAX], 0);
	note(C, NOTE_MIGRATING, 2, 2, NULL);
	EXPECT("relax C 60000");
	note(C, NOTE_MIGRATING, 4, 2, NULL);
	note(C, NOTE_FAILED_OVER, 5, 0, NULL);
	note(C, NOTE_MIGRATED, 6, 0, NULL);
	note(C, NOTE_MIGRATED, 6, 0, NULL); /* sent twice */
	cr_assert(handoff_is_relaxed(W.h, C));
	note(C, NOTE_MIGRATED, 7, 0, NULL);
	cr_assert(!handoff_is_relaxed(W.h, C));
	EXPECT("relax C 0");
	cr_assert_eq(W.n[HANDOFF_HURRY], 2);
	run_to(1000);
	note(S, NOTE_FAILING_OVER, 9, 2, NULL);
	run_to(60999);
	cr_assert(handoff_is_relaxed(W.h, S));
	run_to(61000);
	cr_assert(!handoff_is_relaxed(W.h, S));
	note(S, NOTE_FAILED_OVER, 10, 0, NULL);
	cr_assert_eq(count(MH_FAILED_OVER_STALE), 2);
}

Test(handoff, migrated_does_not_end_moving)
{
	row("Relaxed: MIGRATED during MOVING does not end MOVING's window; a dead connection leaves nothing behind");
	note(C, NOTE_MIGRATING, 1, 2, NULL);
	note(C, NOTE_MOVING, 2, 30, NULL);
	note(C, NOTE_MIGRATED, 3, 0, NULL);
	cr_assert(handoff_is_relaxed(W.h, C));
	event(HANDOFF_DOWN, C, "closed");
	cr_assert(!handoff_is_relaxed(W.h, C));
}

Test(handoff, replayed_completions)
{
	row("Replayed completions on new connections change nothing");
	for (uint32_t lane = 0; lane < 4; lane++) {
		note(lane, NOTE_MIGRATED, 8, 0, NULL);
		note(lane, NOTE_FAILED_OVER, 9, 0, NULL);
	}
	run_to(100000);
	for (int i = 0; i < HANDOFF_SAY; i++)
		cr_assert_eq(W.n[i], 0, "effect %d", i);
}

Test(handoff, slots_moved)
{
	row("SMIGRATED: one topology reload per seq, whatever the number of connections");
	note(C, NOTE_SMIGRATING, 18, 0, NULL);
	cr_assert(handoff_is_relaxed(W.h, C));
	note(C, NOTE_SMIGRATED, 19, 0, NULL);
	note(S, NOTE_SMIGRATED, 19, 0, NULL);
	note(B, NOTE_SMIGRATED, 19, 0, NULL);
	cr_assert_eq(W.n[HANDOFF_REFRESH], 1);
	cr_assert(!handoff_is_relaxed(W.h, C));
	note(C, NOTE_SMIGRATED, 20, 0, NULL);
	cr_assert_eq(W.n[HANDOFF_REFRESH], 2);
}

Test(handoff, one_line_each)
{
	row("Seen from outside: one line per notification and per handoff, broken pushes once");
	W.say = true;
	moving_all(7, 15, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_UP, C, NULL);
	event(HANDOFF_NEW_UP, B, NULL);
	event(HANDOFF_NEW_UP, S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	run_to(2000);
	EXPECT("say shard=0 redis=a:1 maintenance: MOVING seq=7 seconds=15 endpoint=b:2\n");
	EXPECT("handoff seq=7 to b:2 done: moved=3");
	cr_assert_eq(W.n[HANDOFF_SAY], 2);
	struct note broken = {.kind = NOTE_KINDS};
	for (int i = 0; i < 3; i++)
		step((struct handoff_event){.kind = HANDOFF_BROKEN, .lane = C, .note = &broken, .text = {"WHAT", 4}});
	cr_assert_eq(W.n[HANDOFF_SAY], 3);
}

Test(handoff, huge_window)
{
	row("Seconds: huge is capped");
	note(C, NOTE_MOVING, 7, INT64_MAX, "b:2");
	run_to(400000);
	char at[HANDOFF_ADDRESS];
	handoff_address(W.h, W.now, "", at);
	cr_assert_str_eq(at, "a:1");
	cr_assert(!handoff_is_relaxed(W.h, C));
}

Test(handoff, closed_in_the_middle)
{
	row("A connection that is closed in the middle (service gone, shutdown) leaves nothing");
	moving_all(7, 15, "b:2");
	run_to(1000);
	event(HANDOFF_CLOSED, B, NULL);
	event(HANDOFF_NEW_UP, B, NULL);
	event(HANDOFF_CLOSED, C, NULL);
	event(HANDOFF_CLOSED, S, NULL);
	struct handoff_gauges g = handoff_gauges(W.h);
	cr_assert_eq(g.n_active + g.n_queued + g.n_relaxed, 0);
	run_to(20000);
	cr_assert_eq(W.next, MONO_NEVER);
}

/* ---- anything in any order ---- */

struct model { /* what run/lanes would have */
	bool is_up, has_new, new_is_up;
	int n_old;
};

static void check_effects(struct model *m)
{
	for (size_t i = 0; i < W.out.n; i++) {
		const struct handoff_effect *e = &W.out.v[i];
		struct model *l = &m[e->lane];
		if (e->kind == HANDOFF_DIAL) {
			cr_assert(!l->has_new && l->is_up);
			l->has_new = true;
			l->new_is_up = false;
		} else if (e->kind == HANDOFF_DROP_NEW) {
			cr_assert(l->has_new);
			l->has_new = false;
		} else if (e->kind == HANDOFF_SWITCH) {
			cr_assert(l->has_new && l->new_is_up);
			l->has_new = false;
			l->n_old++;
		} else if (e->kind == HANDOFF_CLOSE_OLD) {
			cr_assert_gt(l->n_old, 0);
			l->n_old = 0;
		} else if (e->kind == HANDOFF_TARGET) {
			cr_assert(!l->is_up && e->address[0]);
		}
	}
	handoff_effects_clear(&W.out);
}

static void random_turn(struct rng *r, struct model *m, bool calm)
{
	static const char *const ends[] = {"a:1", "b:2", "c:3", ""};
	uint32_t lane = (uint32_t)rng_below(r, 4);
	struct model *l = &m[lane];
	struct note n = {.kind = rng_below(r, 2) ? NOTE_MOVING : (enum note_kind)rng_below(r, NOTE_KINDS), .seq = (int64_t)rng_below(r, 40),
		.seconds = (int64_t)rng_below(r, 20)};
	snprintf(n.endpoint, sizeof n.endpoint, "%s", ends[rng_below(r, 4)]);
	struct handoff_event ev = {.kind = HANDOFF_TICK, .now = W.now, .lane = lane, .note = &n};
	switch (rng_below(r, calm ? 4 : 7)) {
	case 0:
		if (l->has_new && !l->new_is_up) {
			l->new_is_up = true;
			ev.kind = HANDOFF_NEW_UP;
			ev.flag = lane == S;
		}
		break;
	case 1:
		ev.kind = l->n_old ? HANDOFF_DRAINED : HANDOFF_TICK;
		break;
	case 2:
		ev.kind = l->has_new && l->new_is_up ? HANDOFF_JOINED : HANDOFF_TICK;
		break;
	case 3:
		if (!l->is_up) {
			l->is_up = true;
			ev.kind = HANDOFF_UP;
			ev.text = (struct slice){"b:2", 3};
		}
		break;
	case 4:
		l->is_up = false;
		ev.kind = HANDOFF_DOWN;
		break;
	case 5:
		if (l->has_new) {
			l->has_new = false;
			ev.kind = HANDOFF_NEW_DOWN;
		}
		break;
	default:
		ev.kind = HANDOFF_NOTE;
		break;
	}
	W.next = handoff_step(W.h, &ev, &W.out);
	check_effects(m);
}

Test(handoff, anything_in_any_order)
{
	row("200 random rounds: never two replacements, no switch to one that is not up, everything ends idle");
	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct rng r;
		rng_seed(&r, seed);
		handoff_free(W.h);
		W.h = handoff_new(&rules, "shard=0", "a:1", seed);
		W.now = 0;
		struct model m[4] = {{0}};
		const enum conn_role roles[4] = {CONN_COMMAND, CONN_READER, CONN_SUBSCRIBER, CONN_READER};
		for (uint32_t i = 0; i < 4; i++) {
			step((struct handoff_event){.kind = HANDOFF_OPEN, .lane = i, .role = roles[i], .text = {"a:1", 3}});
			step((struct handoff_event){.kind = HANDOFF_UP, .lane = i, .text = {"a:1", 3}});
			m[i].is_up = true;
		}
		for (int i = 0; i < 400; i++) {
			W.now += (mono_ms)rng_below(&r, 300);
			random_turn(&r, m, false);
		}
		for (int i = 0; i < 3000; i++) {
			W.now += 500;
			random_turn(&r, m, true);
		}
		for (uint32_t i = 0; i < 4; i++)
			cr_assert(handoff_state(W.h, i) == HANDOFF_IDLE && !m[i].n_old && !m[i].has_new && !handoff_is_relaxed(W.h, i),
				"seed %llu lane %u: %s", (unsigned long long)seed, i, handoff_state_name(handoff_state(W.h, i)));
	}
}
