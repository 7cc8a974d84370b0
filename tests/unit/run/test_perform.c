#include <criterion/criterion.h>

#include "run/perform.h"

static uint64_t sent[16];
static size_t n_sent;

static bool has_no_connection(void *arg, const struct effect *ef)
{
	(void)arg;
	cr_assert_lt(n_sent, 16);
	sent[n_sent++] = ef->tag;
	return false;
}

static void drops(void *arg, const struct msg *m)
{
	struct msg gone = *m;
	(void)arg;
	msg_fini(&gone);
}

static void opens(void *arg, uint16_t svc)
{
	(void)arg;
	(void)svc;
}

static void hears(void *arg, const struct effect *ef)
{
	(void)arg;
	(void)ef;
}

Test(perform, what_has_no_connection_is_answered_in_order_in_turns_to_come)
{
	static const struct shard_doers doers = {.send = has_no_connection,
		.to_coord = drops,
		.open_reader = opens,
		.close_reader = opens,
		.log = hears};
	struct shard *s =
		shard_new(&(struct shard_rules){.consumer = "c", .lock_value = "c/1", .command_timeout_ms = 1000}, 0);
	struct shard_turns t = {0};
	effects_init(&t.effects);
	struct shard_event ev = {.kind = SHARD_CONN, .role = CONN_COMMAND, .up = true, .now = 1000, .wall_ms = 1000};
	shard_turn(s, &ev, &t, &doers, NULL);
	const size_t n = n_sent;
	cr_assert_geq(n, 2, "%zu were sent", n);
	cr_assert_eq(t.effects.n, 0);
	for (size_t i = 0; i < n; i++) {
		cr_assert(shard_turn_unsent(&t, &ev));
		cr_assert_eq(ev.kind, SHARD_REPLY);
		cr_assert_eq(ev.reply->kind, REPLY_NONE);
		cr_assert_eq(ev.tag, sent[i]);
	}
	cr_assert_not(shard_turn_unsent(&t, &ev));
	shard_turns_fini(&t);
	shard_free(s);
}
