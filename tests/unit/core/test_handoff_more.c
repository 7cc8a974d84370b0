/* Relaxed windows, what is seen from outside, ends, and anything in any order. */
#include "handoff_story.h"

Test(handoff, relaxed_windows)
{
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
	cr_assert_eq(W.n[HANDOFF_RENEW_ALL], 2);
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
	note(C, NOTE_MIGRATING, 1, 2, NULL);
	note(C, NOTE_MOVING, 2, 30, NULL);
	note(C, NOTE_MIGRATED, 3, 0, NULL);
	cr_assert(handoff_is_relaxed(W.h, C));
	event(HANDOFF_DOWN, C, "closed");
	cr_assert(!handoff_is_relaxed(W.h, C));
	note(B, NOTE_MOVING, 3, 0, "b:2");
	EXPECT("relax B 1000"); /* "now" has a window too */
}

Test(handoff, the_new_connection_is_told_too)
{
	struct handoff_rules r = rules;
	r.post_relaxed_ms = 14000;
	start(&r);
	note(C, NOTE_MOVING, 7, 15, "b:2");
	run_to(1000);
	EXPECT("[     0] relax C 15000");
	event(HANDOFF_NEW_UP, C, NULL);
	EXPECT("[  1000] relax C 15000"); /* the same time, but another connection */
}

Test(handoff, a_storm_on_one_connection_while_another_dials)
{
	note(B, NOTE_MOVING, 1, 15, "b:2");
	run_to(1000);
	EXPECT("dial B b:2");
	forget();
	for (int64_t seq = 2; seq < 40; seq++)
		note(C, NOTE_MOVING, seq, 15, seq % 2 ? "c:3" : NULL);
	EXPECT_NOT("drop_new B"); /* there is room for what is under way */
	event(HANDOFF_NEW_UP, B, NULL);
	EXPECT("switch B");
	cr_assert(count(MH_HANDOFF_SUPERSEDED) >= 20);
	run_to(20000);
	cr_assert_eq(count(MH_HANDOFF_OK), 1);
}

Test(handoff, more_at_once_than_can_be_remembered)
{
	for (uint32_t conn = 0; conn < 12; conn++) {
		step((struct handoff_event){
			.kind = HANDOFF_OPEN, .conn = 10 + conn, .role = CONN_READER, .text = {"a:1", 3}});
		up_at(HANDOFF_UP, 10 + conn, "a:1", "");
	}
	for (uint32_t conn = 0; conn < 12; conn++) {
		char to[] = "x:1";
		to[0] = (char)('b' + conn);
		note(10 + conn, NOTE_MOVING, 1 + conn, 1, to);
		run_to(W.now + 20); /* one second: it is dialled at once */
	}
	cr_assert_eq(W.n[HANDOFF_DIAL], 12);
	cr_assert_eq(W.n[HANDOFF_DROP_NEW], 4, "the oldest make room");
	run_to(5000);
}

Test(handoff, an_older_one_is_said_again)
{
	note(C, NOTE_MOVING, 7, 15, "b:2");
	note(B, NOTE_MOVING, 7, 15, "b:2");
	run_to(1000);
	note(C, NOTE_MOVING, 9, 15, "c:3");
	run_to(2000);
	EXPECT("dial C c:3");
	forget();
	note(C, NOTE_MOVING, 7, 13, "b:2");
	EXPECT_NOT("drop_new"); /* while it dials */
	event(HANDOFF_NEW_UP, C, NULL);
	event(HANDOFF_DRAINED, C, NULL);
	forget();
	note(C, NOTE_MOVING, 7, 13, "b:2");
	run_to(14000);
	EXPECT_NOT("dial C"); /* and when it is there */
	cr_assert_eq(count(MH_MOVING_STALE), 2);
	note(S, NOTE_MOVING, 7, 1, "b:2");
	run_to(14900);
	EXPECT("dial S b:2"); /* who has not heard of the newer one obeys, and hears of it later */
}

static void all_up(const char *address)
{
	const uint32_t conns[] = {B, C, S};
	for (int i = 0; i < 3; i++) {
		up_at(HANDOFF_NEW_UP, conns[i], address, "");
		event(HANDOFF_JOINED, conns[i], NULL);
		event(HANDOFF_DRAINED, conns[i], NULL);
	}
}

#define EXPECT_FROM(from, to)                                                                                          \
	do {                                                                                                           \
		char at[HANDOFF_ADDRESS];                                                                              \
		handoff_address(W.h, W.now, from, at);                                                                 \
		cr_assert_str_eq(at, to);                                                                              \
	} while (0)

/* The first leads to b for 15 s; b itself is announced to go within 6 s. What was left is not dialled again. */
Test(handoff, a_longer_window_does_not_lead_back_to_what_was_left)
{
	moving_all(1, 15, "b:2");
	run_to(1000);
	all_up("b:2");
	EXPECT_FROM("a:1", "b:2");
	run_to(2000);
	moving_all(2, 6, NULL);
	run_to(6000);
	all_up("a:1");
	run_to(9000); /* the second window is over, the first is not */
	EXPECT_FROM("a:1", "a:1");
	EXPECT_FROM("b:2", "a:1");
	forget();
	event(HANDOFF_DOWN, C, "closed");
	EXPECT_NOT("target C b:2");
	moving_all(3, 2, "c:3");
	EXPECT_FROM("a:1", "c:3"); /* the next one leads from where we are */
	run_to(12000);
	EXPECT_FROM("a:1", "a:1");
}

/* A new place that is only renewed is still the one that was announced. */
Test(handoff, a_renewal_of_the_new_place_leaves_it_announced)
{
	moving_all(1, 15, "b:2");
	run_to(1000);
	all_up("b:2");
	run_to(2000);
	moving_all(2, 4, "b:2");
	run_to(4500);
	all_up("b:2");
	run_to(7000);
	EXPECT_FROM("a:1", "b:2");
	run_to(16000);
	EXPECT_FROM("a:1", "a:1");
}

Test(handoff, replayed_completions)
{
	for (uint32_t conn = 0; conn < 4; conn++) {
		note(conn, NOTE_MIGRATED, 8, 0, NULL);
		note(conn, NOTE_FAILED_OVER, 9, 0, NULL);
	}
	run_to(100000);
	for (int i = 0; i < HANDOFF_LOG; i++)
		cr_assert_eq(W.n[i], 0, "effect %d", i);
}

Test(handoff, slots_moved)
{
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
	cr_assert_eq(W.n[HANDOFF_LOG], 2);
	struct note broken = {.kind = NOTE_KINDS};
	for (int i = 0; i < 3; i++)
		step((struct handoff_event){.kind = HANDOFF_BROKEN, .conn = C, .note = &broken, .text = {"WHAT", 4}});
	cr_assert_eq(W.n[HANDOFF_LOG], 3);
}

Test(handoff, huge_window)
{
	note(C, NOTE_MOVING, 7, INT64_MAX, "b:2");
	run_to(400000);
	char at[HANDOFF_ADDRESS];
	handoff_address(W.h, W.now, "", at);
	cr_assert_str_eq(at, "a:1");
	cr_assert(!handoff_is_relaxed(W.h, C));
}

Test(handoff, closed_in_the_middle)
{
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

struct model { /* what run/role_conn would have */
	bool is_up, has_new, new_is_up;
	int n_old;
};

static void check_effects(struct model *m)
{
	for (size_t i = 0; i < W.out.n; i++) {
		const struct handoff_effect *e = &W.out.v[i];
		struct model *l = &m[e->conn];
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
	uint32_t conn = (uint32_t)rng_below(r, 4);
	struct model *l = &m[conn];
	struct note n = {.kind = rng_below(r, 2) ? NOTE_MOVING : (enum note_kind)rng_below(r, NOTE_KINDS),
		.seq = (int64_t)rng_below(r, 40),
		.seconds = (int64_t)rng_below(r, 20)};
	snprintf(n.endpoint, sizeof n.endpoint, "%s", ends[rng_below(r, 4)]);
	struct handoff_event ev = {.kind = HANDOFF_TICK, .now = W.now, .conn = conn, .note = &n};
	switch (rng_below(r, calm ? 4 : 7)) {
	case 0:
		if (l->has_new && !l->new_is_up) {
			l->new_is_up = true;
			ev.kind = HANDOFF_NEW_UP;
			ev.flag = conn == S;
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
	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct rng r;
		rng_seed(&r, seed);
		handoff_free(W.h);
		W.h = handoff_new(&rules, "shard=0", "a:1", seed);
		W.now = 0;
		struct model m[4] = {{0}};
		const enum conn_role roles[4] = {CONN_COMMAND, CONN_READER, CONN_SUBSCRIBER, CONN_READER};
		for (uint32_t i = 0; i < 4; i++) {
			step((struct handoff_event){
				.kind = HANDOFF_OPEN, .conn = i, .role = roles[i], .text = {"a:1", 3}});
			step((struct handoff_event){.kind = HANDOFF_UP, .conn = i, .text = {"a:1", 3}});
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
			cr_assert(handoff_state(W.h, i) == HANDOFF_IDLE && !m[i].n_old && !m[i].has_new &&
					  !handoff_is_relaxed(W.h, i),
				"seed %llu lane %u: %s", (unsigned long long)seed, i,
				handoff_state_name(handoff_state(W.h, i)));
	}
}
