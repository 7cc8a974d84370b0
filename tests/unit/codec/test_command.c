/* What each command looks like on the wire, and the text forms of keys. */
#include "codec/command.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "codec/script.h"

#define S(text) ((struct slice){text, sizeof(text) - 1})

static struct command_names names;
static struct command_argv *args;
static struct command_self self = {.consumer = "redis-consumer-n1", .node = "n1", .db = 0};
static char line[8192];

static void up(void)
{
	command_names_init(&names, "orders", "", SAME_STREAM_SERIALIZE, 500, "0");
	command_names_entries(&names, "orders", "", 500);
	args = command_argv_new();
}

static void down(void)
{
	command_names_fini(&names);
	command_argv_free(args);
}

TestSuite(command, .init = up, .fini = down);

/* The arguments in one line; scripts by name. */
static const char *wire(const struct cmd *c)
{
	command_encode(args, c, &names, &self);
	size_t n = 0;
	for (int i = 0; i < command_argc(args); i++) {
		const char *a = command_args(args)[i];
		size_t len = command_lens(args)[i];
		for (int s = 0; s < SCRIPT_N; s++) {
			static const char *const script[SCRIPT_N] = {[SCRIPT_SWAP] = "swap",
				[SCRIPT_UNLOCK] = "unlock",
				[SCRIPT_TAKE] = "take",
				[SCRIPT_DONE] = "done",
				[SCRIPT_TAKE_MANY] = "take_many",
				[SCRIPT_DONE_MANY] = "done_many",
				[SCRIPT_REQUEUE] = "requeue",
				[SCRIPT_LATER] = "later",
				[SCRIPT_DEAD] = "dead",
				[SCRIPT_DUE] = "due",
				[SCRIPT_SIFT] = "sift",
				[SCRIPT_ADD_LATER] = "add_later",
				[SCRIPT_DELAYED] = "delayed",
				[SCRIPT_GHOSTS] = "ghosts",
				[SCRIPT_GHOST_BACK] = "ghost_back",
				[SCRIPT_BURY] = "bury",
				[SCRIPT_UNREAD] = "unread",
				[SCRIPT_FEED_OPEN] = "feed_open",
				[SCRIPT_FEED_ACK] = "feed_ack",
				[SCRIPT_FEED_FAIL] = "feed_fail",
				[SCRIPT_FEED_CLOSE] = "feed_close",
				[SCRIPT_LEFT] = "left",
				[SCRIPT_FORGET] = "forget",
				[SCRIPT_FLEET] = "fleet"};
			if ((len == 40 && memcmp(a, script_sha((enum script)s), 40) == 0) ||
				(len == strlen(script_text((enum script)s)) &&
					memcmp(a, script_text((enum script)s), len) == 0)) {
				a = script[s];
				len = strlen(a);
			}
		}
		n += (size_t)snprintf(line + n, sizeof line - n, "%s%.*s", i ? " " : "", (int)len, len ? a : "");
		if (len == 0)
			n += (size_t)snprintf(line + n, sizeof line - n, "''");
	}
	return line;
}

#define EXPECT_WIRE(expected, ...) cr_expect_str_eq(wire(&(struct cmd){__VA_ARGS__}), expected)
#define ENTRY .stream = S("s:7"), .id = {5, 1}

Test(command, locks_are_plain_commands)
{
	EXPECT_WIRE("SET s:7<MUTEX_KEY_SEP>5-1 me/1 NX PX 10000", .kind = CMD_LOCK, ENTRY, .as.lock.value = S("me/1"),
		.as.lock.ttl_ms = 10000);
	EXPECT_WIRE("GET s:7<MUTEX_KEY_SEP>5-1", .kind = CMD_LOCK_GET, ENTRY);
	EXPECT_WIRE("GETEX s:7<MUTEX_KEY_SEP>5-1 PX 10000", .kind = CMD_RENEW, ENTRY, .as.lock.ttl_ms = 10000);
	EXPECT_WIRE("PTTL s:7<MUTEX_KEY_SEP>5-1", .kind = CMD_PROBE, ENTRY);
	EXPECT_WIRE("SET s:7<MUTEX_KEY_SEP>5-1 gone:6-0 XX PX 40000", .kind = CMD_TOMBSTONE, ENTRY,
		.as.lock.value = S("gone:6-0"), .as.lock.ttl_ms = 40000);
	EXPECT_WIRE("EVALSHA swap 1 s:7<MUTEX_KEY_SEP>5-1 old new 10000", .kind = CMD_LOCK_SWAP, ENTRY,
		.as.lock.expect = S("old"), .as.lock.value = S("new"), .as.lock.ttl_ms = 10000);
	EXPECT_WIRE(
		"EVALSHA unlock 1 s:7<MUTEX_KEY_SEP>5-1 me/1", .kind = CMD_UNLOCK, ENTRY, .as.lock.value = S("me/1"));
	EXPECT_WIRE("DELIFEQ s:7<MUTEX_KEY_SEP>5-1 me/1", .kind = CMD_UNLOCK, ENTRY, .as.lock.value = S("me/1"),
		.as.lock.use_delifeq = true);
}

Test(command, reads_never_block_for_ever)
{
	EXPECT_WIRE("XREADGROUP GROUP orders-group redis-consumer-n1 COUNT 8 BLOCK 2000 STREAMS orders-input >",
		.kind = CMD_READ, .as.read.count = 8, .as.read.block_ms = 2000);
	EXPECT_WIRE("XREADGROUP GROUP orders-group redis-consumer-n1 COUNT 8 STREAMS orders-input >", .kind = CMD_READ,
		.as.read.count = 8);
	EXPECT_WIRE("XREADGROUP GROUP orders-group redis-consumer-n1 COUNT 100 STREAMS orders-input 5-1",
		.kind = CMD_READ_OWN, .as.read.count = 100, .id = {5, 1});
	EXPECT_WIRE("XREADGROUP GROUP orders-group redis-consumer-n1 COUNT 1 STREAMS orders-input 99999999999999-0",
		.kind = CMD_HEARTBEAT);
}

Test(command, looks_at_the_load_balancer_stream)
{
	EXPECT_WIRE("XGROUP CREATE orders-input orders-group 0 MKSTREAM", .kind = CMD_GROUP_CREATE);
	EXPECT_WIRE("XGROUP CREATE orders-input orders-group $ MKSTREAM", .kind = CMD_GROUP_CREATE,
		.as.group.start = S("$"));
	EXPECT_WIRE("XRANGE orders-input 5-1 5-1", .kind = CMD_FETCH, .id = {5, 1});
	EXPECT_WIRE("XRANGE orders-input 5-1 5-1", .kind = CMD_DEAD_READ, .id = {5, 1});
	EXPECT_WIRE("XPENDING orders-input orders-group 0-0 + 100", .kind = CMD_PENDING, .as.pending.count = 100);
	EXPECT_WIRE("XPENDING orders-input orders-group IDLE 30000 5-1 + 100 c2", .kind = CMD_PENDING,
		.as.pending.count = 100, .id = {5, 1}, .as.pending.min_idle_ms = 30000, .as.pending.consumer = S("c2"));
	EXPECT_WIRE("XPENDING orders-input orders-group", .kind = CMD_PENDING_SUM);
	EXPECT_WIRE("XINFO CONSUMERS orders-input orders-group", .kind = CMD_CONSUMERS);
	EXPECT_WIRE("XLEN orders-input", .kind = CMD_LENGTH);
	EXPECT_WIRE("EVALSHA unread 1 orders-input orders-group", .kind = CMD_UNREAD);
	EXPECT_WIRE("XLEN orders-input-dlq", .kind = CMD_DLQ_LENGTH);
}

static struct field_list *three_fields(void)
{
	static _Alignas(struct field_list) char room[sizeof(struct field_list) + 3 * sizeof(struct field)];
	struct field_list *l = (struct field_list *)room;
	l->n = 3;
	l->v[0] = (struct field){S("lbs-input"), S("{}")};
	l->v[1] = (struct field){S("_dlq_error"), S("older")};
	l->v[2] = (struct field){S("_retry_count"), S("2")};
	return l;
}

#define LBS_KEYS                                                                                                       \
	"orders-input {orders-input}-active {orders-input}-delayed {orders-input}-delayed-data {orders-input}-parked"

Test(command, scripts_declare_their_keys)
{
	EXPECT_WIRE("EVALSHA take 5 " LBS_KEYS " orders-group 5-1 redis-consumer-n1 s:7 serialize ''", .kind = CMD_TAKE,
		ENTRY);
	names.same_stream = SAME_STREAM_ALLOW;
	EXPECT_WIRE("EVAL take 1 orders-input orders-group 5-1 redis-consumer-n1 s:7 '' ''", .kind = CMD_TAKE, ENTRY,
		.use_eval = true);
	names.same_stream = SAME_STREAM_COALESCE;
	EXPECT_WIRE("EVALSHA done 5 " LBS_KEYS " orders-group 5-1 redis-consumer-n1 s:7 coalesce ''", .kind = CMD_DONE,
		ENTRY);
	names.same_stream = SAME_STREAM_SERIALIZE;
	EXPECT_WIRE("EVALSHA done 5 " LBS_KEYS " orders-group 5-1 redis-consumer-n1 s:7 serialize redis-consumer-n1",
		.kind = CMD_DONE, ENTRY, .as.done.is_heir = true);
	EXPECT_WIRE("EVALSHA done 5 " LBS_KEYS " orders-group 5-1 '' s:7 serialize ''", .kind = CMD_ACK_DEL, ENTRY);
	EXPECT_WIRE("EVALSHA requeue 5 " LBS_KEYS " orders-group 5-1 c2 s:7 serialize 30000 3 ''", .kind = CMD_REQUEUE,
		ENTRY, .as.requeue.consumer = S("c2"), .as.requeue.min_idle_ms = 30000, .as.requeue.retry = 3);
	EXPECT_WIRE("EVALSHA requeue 5 " LBS_KEYS " orders-group 5-1 c2 s:7 serialize 0 3 1", .kind = CMD_REQUEUE,
		ENTRY, .as.requeue.consumer = S("c2"), .as.requeue.retry = 3, .as.requeue.is_suspect = true);
	EXPECT_WIRE("EVALSHA done 6 " LBS_KEYS
		    " s:7<MUTEX_KEY_SEP>5-1 orders-group 5-1 redis-consumer-n1 s:7 serialize '' me/1",
		.kind = CMD_DONE, ENTRY, .as.done.lock_value = S("me/1"));
	EXPECT_WIRE("EVALSHA requeue 5 " LBS_KEYS " orders-group 5-1 c2 s:7 serialize 0 3 2", .kind = CMD_REQUEUE,
		ENTRY, .as.requeue.consumer = S("c2"), .as.requeue.retry = 3, .as.requeue.is_suspect = true,
		.as.requeue.was_alone = true);
	const struct cmd_entry many[] = {{S("b"), {7, 0}}, {S("a"), {5, 1}}, {S(""), {6, 9}}};
	EXPECT_WIRE("EVALSHA take_many 5 " LBS_KEYS
		    " orders-group 5-1 redis-consumer-n1 '' serialize '' 7-0 '' 7-0 b 5-1 a 6-9 ''",
		.kind = CMD_TAKE_MANY, .as.many.v = many, .as.many.n = 3);
	EXPECT_WIRE("EVAL done_many 5 " LBS_KEYS
		    " orders-group 5-1 redis-consumer-n1 '' serialize redis-consumer-n1 7-0 '' 7-0 b 5-1 a",
		.kind = CMD_DONE_MANY, .as.many.v = many, .as.many.n = 2, .as.many.is_heir = true, .use_eval = true);
	names.same_stream = SAME_STREAM_ALLOW;
	EXPECT_WIRE("EVALSHA done_many 1 orders-input orders-group 7-0 redis-consumer-n1 '' '' '' 7-0 '' 7-0 b",
		.kind = CMD_DONE_MANY, .as.many.v = many, .as.many.n = 1);
	EXPECT_WIRE("EVALSHA done_many 3 orders-input b<MUTEX_KEY_SEP>7-0 a<MUTEX_KEY_SEP>5-1 orders-group 5-1 "
		    "redis-consumer-n1 '' '' '' 7-0 me/1 7-0 b 5-1 a",
		.kind = CMD_DONE_MANY, .as.many.v = many, .as.many.n = 2, .as.many.lock_value = S("me/1"));
	names.same_stream = SAME_STREAM_SERIALIZE;
	EXPECT_WIRE("EVALSHA dead 6 " LBS_KEYS " orders-input-dlq orders-group 5-1 '' s:7 serialize 0 500 rejected "
		    "1700 n1 no disk",
		.kind = CMD_DEAD, ENTRY, .as.dead.reason = DEAD_REJECTED, .as.dead.now_ms = 1700,
		.as.dead.error = S("no disk"));
	EXPECT_WIRE(
		"EVALSHA dead 2 orders-input orders-input-dlq orders-group 5-1 '' '' '' 0 500 unparseable 1700 n1 ''",
		.kind = CMD_DEAD, .id = {5, 1}, .as.dead.reason = DEAD_UNPARSEABLE, .as.dead.now_ms = 1700);
}

Test(command, who_leaves)
{
	EXPECT_WIRE("EVALSHA left 1 {orders-input}-left leave redis-consumer-n1", .kind = CMD_LEAVE);
	EXPECT_WIRE("EVALSHA left 1 {orders-input}-left back redis-consumer-n1", .kind = CMD_BACK);
	EXPECT_WIRE("EVALSHA left 1 {orders-input}-left list redis-consumer-n1", .kind = CMD_LEFT);
	EXPECT_WIRE("EVALSHA fleet 1 {orders-input}-fleet redis-consumer-n1 {\"version\":\"" SLUICE_VERSION
		    "\",\"credits\":7,\"workers\":2}",
		.kind = CMD_FLEET, .as.fleet.credits = 7, .as.fleet.n_workers = 2);
	EXPECT_WIRE("EVALSHA forget 2 orders-input {orders-input}-left orders-group c2 86400000", .kind = CMD_FORGET,
		.as.forget.consumer = S("c2"), .as.forget.min_idle_ms = 86400000);
}

Test(command, what_nobody_has)
{
	EXPECT_WIRE("EVALSHA ghosts 5 " LBS_KEYS " orders-group 5-1 '' '' serialize 50 ''", .kind = CMD_GHOSTS,
		.id = {5, 1}, .as.ghosts.count = 50);
	EXPECT_WIRE("EVALSHA ghosts 5 " LBS_KEYS " orders-group 0-0 '' '' serialize 50 $", .kind = CMD_GHOSTS,
		.as.ghosts.count = 50, .as.ghosts.only_last = true);
	EXPECT_WIRE(
		"EVALSHA ghost_back 5 " LBS_KEYS " orders-group 5-1 '' s:7 serialize", .kind = CMD_GHOST_BACK, ENTRY);
}

Test(command, what_waits)
{
	EXPECT_WIRE("EVALSHA later 5 " LBS_KEYS " orders-group 5-1 c2 s:7 serialize 0 2 8000 fail no disk ''",
		.kind = CMD_LATER, ENTRY, .as.requeue.consumer = S("c2"), .as.requeue.retry = 2,
		.as.requeue.delay_ms = 8000, .as.requeue.why = "fail", .as.requeue.error = S("no disk"));
	EXPECT_WIRE("EVALSHA later 5 " LBS_KEYS " orders-group 5-1 c2 s:7 serialize 0 0 8000 release 3 no disk ''",
		.kind = CMD_LATER, ENTRY, .as.requeue.consumer = S("c2"), .as.requeue.delay_ms = 8000,
		.as.requeue.why = "release", .as.requeue.tries = 3, .as.requeue.error = S("no disk"));
	EXPECT_WIRE("EVALSHA due 5 " LBS_KEYS " orders-group 0-0 '' '' serialize 100 7", .kind = CMD_DUE,
		.as.due.count = 100, .as.due.position = 7);
	EXPECT_WIRE("EVALSHA add_later 5 " LBS_KEYS " orders-group 0-0 '' s:7 serialize 5000 '' add lbs-input "
		    "{\"DataStreamName\":\"s:7\",\"Info\":{}}",
		.kind = CMD_ADD_LATER, .stream = S("s:7"), .as.add.delay_ms = 5000, .as.add.why = "add");
	EXPECT_WIRE("EVALSHA add_later 5 " LBS_KEYS " orders-group 0-0 '' s:7 serialize '' 1700 replay lbs-input {} "
		    "_dlq_error older _retry_count 2",
		.kind = CMD_ADD_LATER, .stream = S("s:7"), .as.add.at_ms = 1700, .as.add.why = "replay",
		.as.add.fields = three_fields());
	EXPECT_WIRE("EVALSHA delayed 5 " LBS_KEYS " orders-group 5-1 '' '' serialize now", .kind = CMD_DELAYED_NOW,
		.id = {5, 1});
	EXPECT_WIRE("EVALSHA delayed 5 " LBS_KEYS " orders-group 5-1 '' '' serialize drop", .kind = CMD_DELAYED_DROP,
		.id = {5, 1});
}

Test(command, dead_letters_in_another_slot_look_the_same)
{
	EXPECT_WIRE(
		"EVALSHA bury 1 orders-input-dlq 500 * lbs-input {} _retry_count 2 _dlq_reason operator _dlq_at 1700 "
		"_dlq_node n1 _dlq_error why _orig_id 5-1",
		.kind = CMD_DEAD_ADD, .id = {5, 1}, .as.dead.fields = three_fields(), .as.dead.reason = DEAD_OPERATOR,
		.as.dead.now_ms = 1700, .as.dead.error = S("why"));
	EXPECT_WIRE("XADD orders-input * lbs-input {} _dlq_error older _retry_count 2", .kind = CMD_REPLAY,
		.as.add.fields = three_fields());
	EXPECT_WIRE("XRANGE orders-input-dlq 5-1 + COUNT 10", .kind = CMD_DLQ_RANGE, .id = {5, 1}, .as.read.count = 10);
	EXPECT_WIRE("XDEL orders-input-dlq 5-1", .kind = CMD_DLQ_DEL, .id = {5, 1});
}

Test(command, add_writes_the_documented_json)
{
	EXPECT_WIRE("XADD orders-input * lbs-input {\"DataStreamName\":\"a\\\"b\",\"Info\":{}}", .kind = CMD_ADD,
		.stream = S("a\"b"));
	EXPECT_WIRE("XADD orders-input * lbs-input {\"DataStreamName\":\"a\",\"Info\":{\"n\":1e400}}", .kind = CMD_ADD,
		.stream = S("a"), .as.add.info = S("{\"n\":1e400}"));
}

Test(command, speaks_to_any_node)
{
	EXPECT_WIRE("WAIT 1 500", .kind = CMD_WAIT, .as.wait.n_replicas = 1, .as.wait.block_ms = 500);
	EXPECT_WIRE("CLIENT UNBLOCK 42", .kind = CMD_UNBLOCK, .as.unblock.client_id = 42);
	EXPECT_WIRE("CLUSTER SLOTS", .kind = CMD_SLOTS);
	EXPECT_WIRE("CLUSTER INFO", .kind = CMD_CLUSTER_INFO);
	EXPECT_WIRE("ROLE", .kind = CMD_ROLE);
	EXPECT_WIRE("INFO server", .kind = CMD_RUN_ID);
	EXPECT_WIRE("TIME", .kind = CMD_TIME);
	EXPECT_WIRE("SET sluiced-doctor<MUTEX_KEY_SEP>{orders-input} trial XX PX 1000", .kind = CMD_TRIAL);
	EXPECT_WIRE("CONFIG GET notify-keyspace-events", .kind = CMD_CONFIG_GET_EVENTS);
	EXPECT_WIRE(
		"CONFIG SET notify-keyspace-events Kx", .kind = CMD_CONFIG_SET_EVENTS, .as.keyspace.flags = S("Kx"));
	EXPECT_WIRE("PSUBSCRIBE __keyspace@3__:*<MUTEX_KEY_SEP>*", .kind = CMD_PSUBSCRIBE, .as.keyspace.db = 3);
	EXPECT_WIRE("PING", .kind = CMD_PING);
}

Test(command, every_kind_has_a_name_and_arguments)
{
	for (int k = 0; k < CMD_N; k++) {
		cr_assert(command_name((enum cmd_kind)k), "kind %d", k);
		const struct cmd_entry entry = {.stream = {"s", 1}};
		struct cmd c = {.kind = (enum cmd_kind)k, .stream = {"s", 1}};
		if (k == CMD_TAKE_MANY || k == CMD_DONE_MANY)
			c.as.many = (struct cmd_many){.v = &entry, .n = 1};
		else if (k == CMD_DEAD_ADD || k == CMD_FEED_DEAD_ADD)
			c.as.dead.fields = three_fields();
		else if (k == CMD_REPLAY)
			c.as.add.fields = three_fields();
		wire(&c);
		cr_expect_gt(command_argc(args), 0, "kind %d", k);
	}
	for (int r = 0; r < DEAD_N; r++)
		cr_expect(dead_reason_name((enum dead_reason)r));
}

Test(command, cuts_an_error_between_characters)
{
	static char text[2000];
	memset(text, 'x', sizeof text);
	memcpy(text + 1022, "\xe2\x82\xac", 3); /* would be cut in its middle */
	wire(&(struct cmd){.kind = CMD_DEAD, .as.dead.error = {text, sizeof text}});
	cr_expect_eq(command_lens(args)[command_argc(args) - 1], 1022);
	memset(text, 0x80, sizeof text); /* no UTF-8 at all */
	wire(&(struct cmd){.kind = CMD_DEAD, .as.dead.error = {text, sizeof text}});
	cr_expect_eq(command_lens(args)[command_argc(args) - 1], 1024);
	wire(&(struct cmd){.kind = CMD_DEAD, .as.dead.error = {text, 1024}});
	cr_expect_eq(command_lens(args)[command_argc(args) - 1], 1024);
}

static void expect_names(
	const char *service, const char *dlq, const char *lbs, const char *registry, const char *dead, bool same_slot)
{
	struct command_names n;
	command_names_init(&n, service, dlq, SAME_STREAM_SERIALIZE, 0, "$");
	cr_expect_str_eq(n.lbs, lbs);
	cr_expect_str_eq(n.registry, registry);
	cr_expect_str_eq(n.dlq, dead);
	cr_expect_eq(n.dlq_same_slot, same_slot);
	cr_expect_eq(n.lbs_slot, command_slot(n.registry, strlen(n.registry)), "%s", service);
	command_names_fini(&n);
}

Test(command, names_of_a_service)
{
	expect_names("orders", "", "orders-input", "{orders-input}-active", "orders-input-dlq", false);
	expect_names(
		"orders", "{orders-input}-dead", "orders-input", "{orders-input}-active", "{orders-input}-dead", true);
	expect_names("{eu}orders", "", "{eu}orders-input", "{eu}orders-input-active", "{eu}orders-input-dlq", true);
	cr_expect_str_eq(names.group, "orders-group");
}

static uint16_t slot(const char *key)
{
	return command_slot(key, strlen(key));
}

Test(command, slots_follow_the_cluster_specification)
{
	cr_expect_eq(slot("123456789"), 0x31C3);
	cr_expect_eq(slot("foo"), 12182);
	cr_expect_eq(slot(""), 0);
	cr_expect_eq(slot("{user1000}.following"), slot("user1000"));
	cr_expect_eq(slot("foo{{bar}}zap"), slot("{bar"));
	cr_expect_eq(slot("foo{bar}{zap}"), slot("bar"));
	cr_expect_neq(slot("foo{}{bar}"), slot("bar"));
}

Test(command, the_slot_of_a_lock_is_the_slot_of_its_key)
{
	const char *streams[] = {"orders:7", "{t}x", "a{", "a}b{c", "{}x{y}", "x", "{a}{b}", "é"};
	for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++) {
		char key[128];
		snprintf(key, sizeof key, "%s<MUTEX_KEY_SEP>1700000000000-12", streams[i]);
		const struct entry_id id = {1700000000000, 12};
		cr_expect_eq(command_lock_slot(streams[i], strlen(streams[i]), id), slot(key), "%s", streams[i]);
	}
}

static bool parses(const char *s)
{
	struct entry_id id;
	return command_id_parse(s, strlen(s), &id);
}

Test(command, ids_are_exact)
{
	struct entry_id id;
	char text[COMMAND_ID_CAP];
	const char *most = "18446744073709551615-18446744073709551615";
	cr_assert(command_id_parse(most, strlen(most), &id));
	cr_expect_eq(command_id_format(text, id), (int)strlen(most));
	cr_expect_str_eq(text, most);
	cr_expect(parses("0-0"));
	const char *bad[] = {"", "-", "1", "1-", "-1", "01-0", "1-00", "1-2-3", "18446744073709551616-0", " 1-2",
		"1-2 ", "a-b", "+1-2", "99999999999999999999-0"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_expect_not(parses(bad[i]), "%s", bad[i]);
}

static bool lock_is(const char *key, const char *stream, uint64_t ms, uint64_t seq)
{
	struct slice s;
	struct entry_id id;
	return command_lock_parse(key, strlen(key), &s, &id) && s.len == strlen(stream) &&
	       memcmp(s.p, stream, s.len) == 0 && id.ms == ms && id.seq == seq;
}

Test(command, locks_parse_from_their_last_separator)
{
	cr_expect(lock_is("s:7<MUTEX_KEY_SEP>5-1", "s:7", 5, 1));
	cr_expect(lock_is("a<MUTEX_KEY_SEP>1-1<MUTEX_KEY_SEP>5-1", "a<MUTEX_KEY_SEP>1-1", 5, 1));
	cr_expect(lock_is("x<MUTEX_KEY_SEP>18446744073709551615-18446744073709551615", "x", UINT64_MAX, UINT64_MAX));
	struct slice s;
	struct entry_id id;
	const char *bad[] = {"", "s", "<MUTEX_KEY_SEP>5-1", "s<MUTEX_KEY_SEP>", "s<MUTEX_KEY_SEP>5",
		"s<MUTEX_KEY_SEP>x-1", "s<MUTEX_KEY_SE>5-1"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_expect_not(command_lock_parse(bad[i], strlen(bad[i]), &s, &id), "%s", bad[i]);
}

Test(command, a_trial_write_goes_where_the_stream_is)
{
	static const char *const lbs[] = {"orders-input", "{shop}orders-input", "a{b}-input"};
	for (size_t i = 0; i < sizeof lbs / sizeof lbs[0]; i++) {
		char *key = command_trial_key(lbs[i]);
		struct slice stream;
		struct entry_id id;
		cr_expect_eq(command_slot(key, strlen(key)), command_slot(lbs[i], strlen(lbs[i])), "%s", key);
		cr_expect(
			!command_lock_parse(key, strlen(key), &stream, &id), "%s is no lock: nobody recovers it", key);
		mem_free(key);
	}
}
