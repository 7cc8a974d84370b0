#include "shard_story.h"

static void quiet(void)
{
	W.hide[CMD_RUN_ID] = W.hide[CMD_ROLE] = true;
}

static void begin(void)
{
	story_up();
	quiet();
}

static void with_events(bool merge, bool required)
{
	alarm(60);
	story_down();
	struct shard_rules r = {
		.consumer = "redis-consumer-me",
		.lock_value = "redis-consumer-me/20",
		.incarnation = 0x20,
		.command_timeout_ms = 3000,
		.events_on = merge || required,
		.events_merge = merge,
		.events_required = required,
		.seed = 42,
	};
	W = (struct story){.now = 1000, .next = MONO_NEVER};
	W.sent = mem_array(STORY_CMDS, sizeof *W.sent);
	W.calls = mem_array(STORY_CMDS, sizeof *W.calls);
	W.s = shard_new(&r, 2);
	quiet();
	story_conn(CONN_COMMAND, true);
	story_clear();
}

/* ---- keyspace ---- */

Test(keyspace, merges_flags_then_subscribes, .init = begin, .fini = story_down)
{
	story_conn(CONN_SUBSCRIBER, true);
	story_txt(CMD_CONFIG_GET_EVENTS, "Eg");
	story_ok(CMD_CONFIG_SET_EVENTS);
	story_event((struct shard_event){.kind = SHARD_PUSHED});
	expect_story("[ 1000] config_get\n"
		     "[ 1000] config_set value=EgKx\n"
		     "[ 1000] psubscribe\n"
		     "[ 1000] > conn 2 +\n");
	cr_assert_eq(shard_metrics(W.s)->c[MR_SETUP_OK], 1);
}

Test(keyspace, flags_that_are_there_are_not_written, .init = begin, .fini = story_down)
{
	static const char *const enough[] = {"Kx", "AK", "xKE", "KEA"};
	for (size_t i = 0; i < 4; i++) {
		story_conn(CONN_SUBSCRIBER, true);
		story_txt(CMD_CONFIG_GET_EVENTS, enough[i]);
		story_event((struct shard_event){.kind = SHARD_PUSHED});
	}
	cr_assert_eq(W.n_cmds[CMD_CONFIG_SET_EVENTS], 0);
	cr_assert_eq(W.n_cmds[CMD_PSUBSCRIBE], 4);
}

Test(keyspace, only_what_is_missing_is_added, .init = begin, .fini = story_down)
{
	static const char *const set[][2] = {{"", "Kx"}, {"x", "xK"}, {"KEg", "KEgx"}, {"A", "AK"}};
	for (size_t i = 0; i < 4; i++) {
		story_conn(CONN_SUBSCRIBER, true);
		story_clear();
		story_txt(CMD_CONFIG_GET_EVENTS, set[i][0]);
		char want[64];
		snprintf(want, sizeof want, "[ 1000] config_set value=%s\n", set[i][1]);
		expect_story(want);
	}
}

Test(keyspace, config_forbidden_is_said_once_and_goes_on, .init = begin, .fini = story_down)
{
	W.say = true;
	story_conn(CONN_SUBSCRIBER, true);
	story_clear();
	story_error(CMD_CONFIG_GET_EVENTS, RERR_OPERATOR, "NOPERM config");
	expect_story(
		"[ 1000] say shard=2 keyspace events cannot be switched on, going on with what is set: NOPERM config\n"
		"[ 1000] psubscribe\n");
	story_conn(CONN_SUBSCRIBER, false);
	story_conn(CONN_SUBSCRIBER, true);
	story_clear();
	story_error(CMD_CONFIG_GET_EVENTS, RERR_OPERATOR, "NOPERM config");
	expect_story("[ 1000] psubscribe\n");
	cr_assert_eq(shard_metrics(W.s)->c[MR_SETUP_DENIED], 2);
}

Test(keyspace, what_was_forbidden_is_asked_again_in_growing_pauses, .init = begin, .fini = story_down)
{
	story_conn(CONN_SUBSCRIBER, true);
	story_error(CMD_CONFIG_GET_EVENTS, RERR_OPERATOR, "NOPERM config");
	story_event((struct shard_event){.kind = SHARD_PUSHED});
	W.say = true;
	static const mono_ms pauses[] = {120000, 240000, 480000, 960000, 960000};
	for (size_t i = 0; i < sizeof pauses / sizeof *pauses; i++) {
		story_until(W.now + pauses[i] - 1);
		cr_assert_not(story_waits(CMD_CONFIG_GET_EVENTS), "%zu", i);
		story_until(W.now + 1);
		story_clear();
		story_error(CMD_CONFIG_GET_EVENTS, RERR_OPERATOR, "NOPERM config");
		expect_story("");
	}
	story_until(W.now + 960000);
	story_clear();
	story_txt(CMD_CONFIG_GET_EVENTS, "");
	story_txt(CMD_CONFIG_GET_EVENTS, "");
	story_ok(CMD_CONFIG_SET_EVENTS);
	cr_assert(strstr(W.text.data, "config_set value=Kx\n"), "%s", W.text.data);
	cr_assert(strstr(W.text.data, "say shard=2 keyspace events are switched on now\n"), "%s", W.text.data);
}

Test(keyspace, flags_that_others_take_away_are_set_again, .init = begin, .fini = story_down)
{
	story_conn(CONN_SUBSCRIBER, true);
	story_txt(CMD_CONFIG_GET_EVENTS, "Kx");
	story_event((struct shard_event){.kind = SHARD_PUSHED});
	W.say = true;
	story_until(60999);
	cr_assert_not(story_waits(CMD_CONFIG_GET_EVENTS));
	story_until(61000);
	story_clear();
	story_txt(CMD_CONFIG_GET_EVENTS, "AK"); /* the look */
	expect_story("");
	story_until(121000);
	story_clear();
	story_txt(CMD_CONFIG_GET_EVENTS, "Eg"); /* the look */
	story_txt(CMD_CONFIG_GET_EVENTS, "Eg");
	story_ok(CMD_CONFIG_SET_EVENTS);
	cr_assert(strstr(W.text.data, "config_set value=EgKx\n"), "%s", W.text.data);
	cr_assert(strstr(W.text.data, "keyspace events had been switched off on the server: switched on again\n"), "%s",
		W.text.data);
	story_event((struct shard_event){.kind = SHARD_PUSHED});
	story_clear();
	story_until(181000);
	story_cut(); /* a look that is not answered changes nothing */
	story_conn(CONN_COMMAND, true);
	cr_assert(story_waits(CMD_CONFIG_GET_EVENTS));
}

Test(keyspace, required_and_forbidden_is_not_ready, .init = begin, .fini = story_down)
{
	with_events(true, true);
	story_conn(CONN_SUBSCRIBER, true);
	story_clear();
	story_error(CMD_CONFIG_GET_EVENTS, RERR_OPERATOR, "NOPERM config");
	expect_story("[ 1000] say shard=2 keyspace events cannot be switched on, and redis.keyspace_events is require: "
		     "NOPERM config\n"
		     "[ 1000] > conn 2 \"NOPERM config\"\n");
	story_until(1500); /* an operator may repair it */
	cr_assert(story_waits(CMD_CONFIG_GET_EVENTS));
	story_txt(CMD_CONFIG_GET_EVENTS, "Kx");
	story_event((struct shard_event){.kind = SHARD_PUSHED});
	cr_assert(strstr(W.text.data, "> conn 2 +\n"));
}

Test(keyspace, required_but_not_to_be_merged_is_looked_at_only, .init = begin, .fini = story_down)
{
	with_events(false, true);
	story_conn(CONN_SUBSCRIBER, true);
	story_clear();
	story_txt(CMD_CONFIG_GET_EVENTS, "K");
	cr_assert(
		strstr(W.text.data, "[ 1000] > conn 2 \"notify-keyspace-events lacks K and x\"\n"), "%s", W.text.data);
}

Test(keyspace, off_does_nothing, .init = begin, .fini = story_down)
{
	with_events(false, false);
	story_conn(CONN_SUBSCRIBER, true);
	story_conn(CONN_SUBSCRIBER, false);
	expect_story("");
}

Test(keyspace, again_after_every_reconnect, .init = begin, .fini = story_down)
{
	story_conn(CONN_SUBSCRIBER, true);
	story_txt(CMD_CONFIG_GET_EVENTS, "Kx");
	story_event((struct shard_event){.kind = SHARD_PUSHED});
	story_conn(CONN_SUBSCRIBER, false);
	story_clear();
	story_cut();
	story_conn(CONN_SUBSCRIBER, true);
	cr_assert_not(story_waits(CMD_CONFIG_GET_EVENTS)); /* over the command connection */
	story_conn(CONN_COMMAND, true);
	cr_assert(story_waits(CMD_CONFIG_GET_EVENTS));
	story_txt(CMD_CONFIG_GET_EVENTS, "");
	story_cut(); /* restarted meanwhile: its flags are gone again */
	story_conn(CONN_COMMAND, true);
	cr_assert(story_waits(CMD_CONFIG_GET_EVENTS));
	cr_assert_not(story_waits(CMD_CONFIG_SET_EVENTS));
}

Test(keyspace, a_confirmation_that_never_comes_is_asked_for_again, .init = begin, .fini = story_down)
{
	story_conn(CONN_SUBSCRIBER, true);
	story_txt(CMD_CONFIG_GET_EVENTS, "Kx");
	story_until(5999);
	cr_assert_not(story_waits(CMD_CONFIG_GET_EVENTS));
	story_until(6000);
	cr_assert(story_waits(CMD_CONFIG_GET_EVENTS));
}

Test(keyspace, an_answer_to_a_former_question_is_too_late, .init = begin, .fini = story_down)
{
	story_conn(CONN_SUBSCRIBER, true);
	story_conn(CONN_SUBSCRIBER, false);
	story_conn(CONN_SUBSCRIBER, true);
	story_clear();
	story_txt(CMD_CONFIG_GET_EVENTS, "");
	expect_story("");
	story_txt(CMD_CONFIG_GET_EVENTS, "Kx");
	expect_story("[ 1000] psubscribe\n");
}

Test(keyspace, busy_is_asked_again, .init = begin, .fini = story_down)
{
	story_conn(CONN_SUBSCRIBER, true);
	story_error(CMD_CONFIG_GET_EVENTS, RERR_RETRY, "LOADING");
	cr_assert_not(story_waits(CMD_CONFIG_GET_EVENTS));
	story_until(1300);
	cr_assert(story_waits(CMD_CONFIG_GET_EVENTS));
	cr_assert_eq(W.n_cmds[CMD_PSUBSCRIBE], 0);
}

/* ---- the whole ---- */

Test(shard, tells_of_its_connections, .init = begin, .fini = story_down)
{
	story_event(
		(struct shard_event){.kind = SHARD_CONN, .role = CONN_COMMAND, .up = false, .text = {"timed out", 9}});
	story_event(
		(struct shard_event){.kind = SHARD_CONN, .role = CONN_READER, .svc = 1, .up = true, .client_id = 3});
	expect_story("[ 1000] > conn 0 \"timed out\"\n"
		     "[ 1000] > conn 1 +\n");
}

Test(shard, asks_who_is_there_at_every_connect, .init = story_up, .fini = story_down)
{
	story_cut();
	story_clear();
	story_conn(CONN_COMMAND, true);
	expect_story("[ 1000] > conn 0 +\n"
		     "[ 1000] run_id\n"
		     "[ 1000] role\n");
	story_txt(CMD_ROLE, "slave");
	expect_story("[ 1000] > refresh \"connected to a server that is not a master\"\n");
}

Test(shard, without_slots_is_empty, .init = begin, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_OP, .op.kind = CMD_DONE, .handle = 1, .svc = 1, .op.id = ID7});
	story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
		.handle = 1,
		.svc = 1,
		.lease_acquire.slot = 9,
		.lease_acquire.id = ID7,
		.lease_acquire.stream = text_new("s1", 2)});
	story_clear();
	story_msg_in((struct msg){.kind = MSG_SLOTS});
	expect_story("[ 1000] > lease 1 moved until=0\n"
		     "[ 1000] > op done moved\n"
		     "[ 1000] > empty\n");
}

Test(shard, slots_told_to_come_from_another_master_prove_nothing, .init = begin, .fini = story_down)
{
	uint8_t *bits = mem_alloc(SLOTS / 8);
	memset(bits, 0xff, SLOTS / 8);
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = bits, .slots.was_elsewhere = true});
	story_msg_in((struct msg){.kind = MSG_LOCK_CALL,
		.lock_call.kind = CMD_PROBE,
		.svc = 1,
		.lock_call.slot = 9,
		.lock_call.id = ID7});
	story_clear();
	story_int(CMD_PROBE, -2);
	expect_story("[ 1000] > answer probe done n=-2 +\n");
}

Test(shard, shows_its_counts, .init = begin, .fini = story_down)
{
	cr_assert_not_null(shard_service_metrics(W.s, 1));
	cr_assert_null(shard_service_metrics(W.s, 2));
	cr_assert_null(shard_service_metrics(W.s, 9999));
	cr_assert_eq(shard_lengths(W.s, 77).lbs, -1);
	cr_assert_eq(shard_n_leases(W.s), 0);
	story_msg_in((struct msg){.kind = MSG_OP, .op.kind = CMD_TAKE, .handle = 1, .svc = 1, .op.id = ID7});
	W.now += 20;
	story_int(CMD_TAKE, 1);
	cr_assert_geq(shard_metrics(W.s)->h[HR_COMMAND].n, 1);
}

Test(shard, a_lease_of_an_unknown_service_is_not_held_here, .init = begin, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
		.handle = 1,
		.svc = 8,
		.lease_acquire.slot = 9,
		.lease_acquire.id = ID7,
		.lease_acquire.stream = text_new("s1", 2)});
	expect_story("[ 1000] > lease 1 moved until=0\n");
}

Test(shard, after_stop_nothing_is_kept_and_nothing_leaks, .init = begin, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = story_rules(), .service.is_read = true});
	story_msg_in((struct msg){.kind = MSG_OP,
		.op.kind = CMD_FETCH,
		.handle = 1,
		.svc = 1,
		.op.id = ID7,
		.op.stream = text_new("s1", 2)});
	story_msg_in((struct msg){.kind = MSG_STOP});
	story_clear();
	story_entries(CMD_FETCH, 1, 2);
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = story_rules()});
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = mem_alloc(SLOTS / 8)});
	expect_story("");
	cr_assert_eq(W.next, MONO_NEVER);
}

/* Whatever comes in whatever order: no crash, no leak, no moment asked for for ever. */
static void random_reply(uint64_t x)
{
	if (!W.n_sent)
		return;
	struct sent s = W.sent[x % W.n_sent];
	memmove(&W.sent[x % W.n_sent], &W.sent[x % W.n_sent + 1], (W.n_sent - x % W.n_sent - 1) * sizeof s);
	W.n_sent--;
	struct reply r = {.kind = (enum reply_kind)(x >> 8 & 7), .integer = (int64_t)(x >> 16 & 3) - 1};
	r.id = (struct entry_id){x >> 20 & 15, 0};
	r.error = (enum reply_error)(x >> 24 & 7);
	r.text = slice_str_(x >> 32 & 1 ? "redis-consumer-me/20" : x >> 33 & 1 ? "redis-consumer-me/1" : "someone");
	struct pending_row rows[3] = {{.id = {1 + (x >> 40 & 3), 0}, .idle_ms = 40000, .consumer = r.text},
		{.id = {5, 0}, .idle_ms = 50, .consumer = {"z", 1}},
		{.id = {9, 1}, .consumer = {"redis-consumer-me", 17}}};
	struct consumer_row people[2] = {
		{.name = {"z", 1}, .n_pending = x >> 44 & 3, .idle_ms = (int64_t)(x >> 30 & 0x7fff)},
		{.name = {"someone", 7}, .n_pending = 2, .idle_ms = 20000}};
	r.pending = rows;
	r.consumers = people;
	if (r.kind >= REPLY_INT &&
		(s.kind == CMD_PENDING || s.kind == CMD_CONSUMERS)) { /* the codec sees to the shape */
		r.kind = s.kind == CMD_PENDING ? REPLY_PENDING : REPLY_CONSUMERS;
		r.n = (x >> 48) % (s.kind == CMD_PENDING ? 4 : 3);
	}
	if (r.kind == REPLY_ENTRIES) {
		r.entries = mem_alloc(sizeof *r.entries + sizeof r.entries->v[0]);
		r.entries->n = x >> 50 & 1;
		if (r.entries->n && x >> 51 & 1)
			r.entries->v[0] = (struct entry_in){.id = {x >> 20 & 15, 0}, .problem = ENTRY_BAD_JSON};
		else if (r.entries->n)
			r.entries->v[0] = (struct entry_in){.id = {x >> 20 & 15, 0},
				.stream = text_new("s", 1),
				.info = text_new("{}", 2),
				.retry = (uint32_t)(x >> 52 & 7)};
	}
	story_event((struct shard_event){.kind = SHARD_REPLY, .tag = s.tag, .reply = &r});
}

static void random_msg(uint64_t x)
{
	static const uint8_t kinds[] = {MSG_LEASE_ACQUIRE, MSG_LEASE_ACQUIRE, MSG_LEASE_RELEASE, MSG_LEASE_FORGET,
		MSG_LEASE_RENEW, MSG_OP, MSG_OP, MSG_OP, MSG_LOCK_CALL, MSG_LOCK_ANSWER, MSG_LOCK_ANSWER, MSG_CREDITS,
		MSG_RENEW_ALL, MSG_SCAN, MSG_EXPIRED, MSG_SERVICE, MSG_SLOTS, MSG_SERVICE_GONE};
	static const uint8_t ops[] = {CMD_TAKE, CMD_DONE, CMD_REQUEUE, CMD_DEAD, CMD_FETCH, CMD_ACK_DEL, CMD_ADD,
		CMD_LOCK, CMD_PROBE, CMD_TOMBSTONE, CMD_UNLOCK, CMD_DEAD_ADD};
	const uint8_t op = ops[(x >> 8) % sizeof ops], result = (uint8_t)((x >> 33) % (OP_FAILED + 1));
	const uint16_t slot = (uint16_t)(x >> 21 & 7);
	const struct entry_id id = {x >> 24 & 15, 0};
	const bool flag = x >> 28 & 1, asking = (x >> 36 & 7) == 0;
	const mono_ms ms = x >> 29 & 1 ? W.now + 3000 : 0;
	const int64_t n = (int64_t)(x >> 30 & 7) - 2;
	struct msg m = msg_plain((enum msg_kind)kinds[x % sizeof kinds]);
	if (m.kind == MSG_LEASE_ACQUIRE)
		m = msg_lease_acquire((struct msg_lease_acquire){.id = id,
			.stream = text_new("s", 1),
			.good_until = ms,
			.slot = slot,
			.asking = asking,
			.is_startup = flag});
	if (m.kind == MSG_OP)
		m = msg_op((struct msg_op){.kind = op,
			.asking = asking,
			.is_heir = flag,
			.only_look = flag,
			.is_fail = flag,
			.slot = slot,
			.id = id,
			.stream = text_new("s", 1),
			.delay_ms = ms,
			.at_ms = n});
	if (m.kind == MSG_LOCK_CALL)
		m = msg_lock_call((struct msg_lock_call){.kind = op,
			.slot = slot,
			.id = id,
			.stream = text_new("s", 1),
			.value = text_new("recover:x", 9),
			.ttl_ms = n});
	if (m.kind == MSG_LOCK_ANSWER)
		m = msg_lock_answer((struct msg_lock_answer){.kind = op,
			.result = result,
			.tag = W.n_calls ? W.calls[(x >> 40) % W.n_calls].lock_call.tag : 0,
			.integer = n,
			.hold_off_until = ms});
	if (m.kind == MSG_CREDITS)
		m = msg_credits((struct msg_credits){.n = n, .block_cap_ms = ms, .is_sifting = flag});
	if (m.kind == MSG_EXPIRED)
		m = msg_expired((struct msg_expired){.id = id, .stream = text_new("s", 1)});
	if (m.kind == MSG_SERVICE) {
		m.service =
			(struct msg_service){.rules = story_rules(), .is_read = (x >> 43 & 7) != 0, .asking = asking};
		m.service.rules->wait_replicas = x >> 41 & 1;
		m.service.rules->dlq.is_same_slot = x >> 42 & 1;
	}
	if (m.kind == MSG_SLOTS) {
		m.slots = (struct msg_slots){.bits = mem_alloc(SLOTS / 8), .was_elsewhere = flag};
		memset(m.slots.bits, x >> 44 & 3 ? 0xff : 0xf3, SLOTS / 8);
	}
	m.handle = 1 + (x >> 16 & 31);
	m.svc = 1;
	if (m.kind == MSG_SERVICE_GONE && (x >> 46 & 7))
		m.kind = MSG_RENEW_ALL;
	story_msg_in(m);
}

Test(shard, survives_whatever_comes, .init = begin, .fini = story_down)
{
	W.mute = true;
	struct rng rng;
	rng_seed(&rng, 7);
	for (int i = 0; i < 60000; i++) {
		uint64_t x = rng_next(&rng);
		if (W.n_calls > 100)
			W.n_calls = 0;
		switch (rng_below(&rng, 12)) {
		case 0:
			story_until(W.now + (mono_ms)rng_below(&rng, 2000));
			break;
		case 1:
			if ((x & 15) == 0)
				story_cut();
			story_conn((enum conn_role)(x >> 8 & 1), (x >> 10 & 3) != 0);
			break;
		case 2:
		case 3:
		case 4:
			random_msg(x);
			break;
		default:
			random_reply(x);
			break;
		}
	}
}
