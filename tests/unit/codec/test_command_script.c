/* Every script against a real server, with the odd cases. */
#include "codec/script.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "codec/command.h"
#include "lib/real_redis.h"

#define S(text) ((struct slice){text, sizeof(text) - 1})

static struct real_redis *redis;
static struct command_names names;
static const struct command_self me = {.consumer = "me", .node = "n1"};
static struct reply reply;

static void up(void)
{
	alarm(60);
	redis = real_redis_start(NULL);
	command_names_init(&names, "orders", "", SAME_STREAM_SERIALIZE, 1000, "0");
}

static void down(void)
{
	real_redis_stop(redis);
	command_names_fini(&names);
}

TestSuite(script, .init = up, .fini = down);

static struct reply exec(struct cmd c)
{
	const struct cmd_entry alone = {c.stream, c.id};
	c.use_eval = true;
	if ((c.kind == CMD_TAKE_MANY || c.kind == CMD_DONE_MANY) && !c.as.many.v) {
		c.as.many.v = &alone;
		c.as.many.n = 1;
	}
	real_redis_exec(redis, &c, &names, &me, &reply);
	return reply;
}

static int64_t number(struct cmd c)
{
	exec(c);
	cr_assert_eq(reply.kind, REPLY_INT, "%s: kind %d %.*s", command_name(c.kind), reply.kind, (int)reply.text.len,
		reply.text.p ? reply.text.p : "");
	return reply.integer;
}

#define NUMBER(...) number((struct cmd){__VA_ARGS__})
#define EXEC(...) exec((struct cmd){__VA_ARGS__})

/* Adds and reads one entry as consumer; its id. */
static struct entry_id given(const char *consumer, const char *stream)
{
	const struct command_self self = {.consumer = consumer, .node = "n"};
	struct reply r;
	EXEC(.kind = CMD_GROUP_CREATE);
	const struct reply added = EXEC(.kind = CMD_ADD, .stream = {stream, strlen(stream)});
	cr_assert_eq(added.kind, REPLY_ID);
	real_redis_exec(redis, &(struct cmd){.kind = CMD_READ, .as.read.count = 1}, &names, &self, &r);
	cr_assert(r.kind == REPLY_ENTRIES && r.entries->n == 1);
	cr_assert_eq(entry_id_cmp(r.entries->v[0].id, added.id), 0);
	entry_batch_free(r.entries);
	return added.id;
}

static const char *registry(const char *stream)
{
	const redisReply *r = real_redis_command(redis, "HGET %s %s", names.registry, stream);
	return r->type == REDIS_REPLY_STRING ? r->str : "none";
}

static const char *id_text(struct entry_id id)
{
	static char text[4][COMMAND_ID_CAP];
	static int turn;
	turn = (turn + 1) % 4;
	command_id_format(text[turn], id);
	return text[turn];
}

static long long n_of(const char *what, const char *key)
{
	return real_redis_command(redis, "%s %s", what, key)->integer;
}

static int64_t n_pending(void)
{
	return NUMBER(.kind = CMD_PENDING_SUM);
}

/* ---- texts */

Test(script, sha_is_the_servers)
{
	for (int s = 0; s < SCRIPT_N; s++) {
		const char *text = script_text((enum script)s);
		const redisReply *r = real_redis_command(redis, "SCRIPT LOAD %s", text);
		cr_assert_eq(r->type, REDIS_REPLY_STRING, "%s", r->str);
		cr_expect_str_eq(r->str, script_sha((enum script)s));
	}
}

Test(script, missing_text_is_noscript)
{
	real_redis_exec(redis, &(struct cmd){.kind = CMD_TAKE, .stream = S("a")}, &names, &me, &reply);
	cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_NOSCRIPT);
}

Test(script, a_missing_group_is_nogroup)
{
	const enum cmd_kind kinds[] = {CMD_TAKE, CMD_DONE, CMD_TAKE_MANY, CMD_DONE_MANY, CMD_REQUEUE, CMD_DEAD,
		CMD_ACK_DEL, CMD_PENDING, CMD_CONSUMERS, CMD_READ, CMD_READ_OWN, CMD_HEARTBEAT, CMD_PENDING_SUM};
	for (int with_stream = 0; with_stream < 2; with_stream++) {
		for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
			struct cmd c = {.kind = kinds[i], .stream = S("a"), .id = {5, 0}};
			if (kinds[i] == CMD_PENDING)
				c.as.pending.count = 1;
			else if (kinds[i] == CMD_READ || kinds[i] == CMD_READ_OWN)
				c.as.read.count = 1;
			exec(c);
			cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_NOGROUP, "%s: %.*s",
				command_name(kinds[i]), (int)reply.text.len, reply.text.p);
		}
		EXEC(.kind = CMD_ADD, .stream = S("a"));
	}
}

Test(script, a_wrong_type_of_stream_is_the_operators)
{
	const enum cmd_kind kinds[] = {
		CMD_TAKE, CMD_DONE, CMD_TAKE_MANY, CMD_DONE_MANY, CMD_REQUEUE, CMD_DEAD, CMD_ACK_DEL};
	real_redis_command(redis, "SET %s x", names.lbs);
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		EXEC(.kind = kinds[i], .stream = S("a"), .id = {5, 0});
		cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_OPERATOR, "%s", command_name(kinds[i]));
		cr_expect_eq(strncmp(reply.text.p, "WRONGTYPE", 9), 0);
	}
}

/* ---- locks */

#define LOCK .stream = S("a"), .id = {5, 0}

Test(script, unlock_deletes_only_its_own_value)
{
	cr_expect_eq(EXEC(.kind = CMD_LOCK, LOCK, .as.lock.value = S("me/1"), .as.lock.ttl_ms = 9000).kind, REPLY_OK);
	cr_expect_eq(EXEC(.kind = CMD_LOCK, LOCK, .as.lock.value = S("me/1"), .as.lock.ttl_ms = 9000).kind, REPLY_NIL);
	cr_expect_eq(NUMBER(.kind = CMD_UNLOCK, LOCK, .as.lock.value = S("me/2")), 0);
	cr_expect_eq(EXEC(.kind = CMD_LOCK_GET, LOCK).kind, REPLY_TEXT);
	cr_expect_eq(NUMBER(.kind = CMD_UNLOCK, LOCK, .as.lock.value = S("me/1")), 1);
	cr_expect_eq(NUMBER(.kind = CMD_UNLOCK, LOCK, .as.lock.value = S("me/1")), 0);
	cr_expect_eq(NUMBER(.kind = CMD_PROBE, LOCK), -2);
}

Test(script, swap_compares_first)
{
	cr_expect_eq(NUMBER(.kind = CMD_LOCK_SWAP, LOCK, .as.lock.expect = S("me/1"), .as.lock.value = S("me/2"),
			     .as.lock.ttl_ms = 9000),
		0);
	cr_expect_eq(NUMBER(.kind = CMD_LOCK_SWAP, LOCK, .as.lock.expect = S(""), .as.lock.value = S("me/2"),
			     .as.lock.ttl_ms = 9000),
		0);
	EXEC(.kind = CMD_LOCK, LOCK, .as.lock.value = S("me/1"), .as.lock.ttl_ms = 1000);
	cr_expect_eq(NUMBER(.kind = CMD_LOCK_SWAP, LOCK, .as.lock.expect = S("me/1"), .as.lock.value = S("me/2"),
			     .as.lock.ttl_ms = 9000),
		9000);
	cr_expect_gt(NUMBER(.kind = CMD_PROBE, LOCK), 5000);
	long long lasts = NUMBER(.kind = CMD_LOCK_SWAP, LOCK, .as.lock.expect = S("me/2"), .as.lock.value = S("me/2"),
		.as.lock.ttl_ms = 1000);
	cr_expect(lasts > 5000 && lasts <= 9000, "a lock is never shortened: %lld", lasts);
	cr_expect_gt(NUMBER(.kind = CMD_PROBE, LOCK), 5000);
	EXEC(.kind = CMD_RENEW, LOCK, .as.lock.ttl_ms = 20000);
	cr_expect(reply.kind == REPLY_TEXT && memcmp(reply.text.p, "me/2", 4) == 0);
	cr_expect_gt(NUMBER(.kind = CMD_PROBE, LOCK), 15000);
	cr_expect_eq(EXEC(.kind = CMD_TOMBSTONE, LOCK, .as.lock.value = S("gone:1-0"), .as.lock.ttl_ms = 9000).kind,
		REPLY_OK);
	NUMBER(.kind = CMD_UNLOCK, LOCK, .as.lock.value = S("gone:1-0"));
	cr_expect_eq(EXEC(.kind = CMD_TOMBSTONE, LOCK, .as.lock.value = S("gone:1-0"), .as.lock.ttl_ms = 9000).kind,
		REPLY_NIL);
}

Test(script, a_lock_of_a_wrong_type_is_an_error)
{
	real_redis_command(redis, "HSET a<MUTEX_KEY_SEP>5-0 f v");
	cr_expect_eq(EXEC(.kind = CMD_UNLOCK, LOCK, .as.lock.value = S("x")).error, RERR_OPERATOR);
	cr_expect_eq(EXEC(.kind = CMD_LOCK_SWAP, LOCK, .as.lock.expect = S("x"), .as.lock.value = S("y"),
			     .as.lock.ttl_ms = 9)
			     .error,
		RERR_OPERATOR);
}

/* ---- take */

Test(script, take_registers_and_can_be_sent_again)
{
	const struct entry_id id = given("me", "a");
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id), 1);
	cr_expect_str_eq(registry("a"), id_text(id));
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id), 1);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id, .as.take.consumer = S("other")), 0);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = {5, 0}), 0);
}

Test(script, take_parks_a_second_entry_until_the_first_has_ended)
{
	const struct entry_id first = given("other", "a"), second = given("me", "a"), elsewhere = given("me", "b");
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first, .as.take.consumer = S("other")), 1);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second, .as.take.only_look = true), 2);
	cr_expect_eq(n_pending(), 3, "only looked at");
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 2);
	cr_expect_eq(n_pending(), 2, "pending for nobody");
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("b"), .id = elsewhere), 1);
	EXEC(.kind = CMD_DONE, .stream = S("a"), .id = first, .as.done.consumer = S("other"), .as.done.is_heir = true);
	cr_assert_eq(reply.kind, REPLY_ID);
	cr_expect_eq(entry_id_cmp(reply.id, second), 0);
	cr_expect_str_eq(registry("a"), id_text(second));
	cr_expect_eq(n_of("ZCARD", names.parked), 0);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 1);
}

/* ---- many at once ---- */

/* What each was answered, "1 2 0 …"; an id, or the first word of an error. */
static const char *each(enum cmd_kind kind, const struct cmd_entry *many, size_t n, bool is_heir)
{
	static char text[CMD_MANY_MAX * COMMAND_ID_CAP];
	EXEC(.kind = kind, .as.many = {.v = many, .n = n, .is_heir = is_heir});
	cr_assert_eq(reply.kind, REPLY_MANY, "%.*s", (int)reply.text.len, reply.text.p ? reply.text.p : "");
	cr_assert_eq(reply.n, n);
	size_t at = 0;
	text[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		const struct reply *r = &reply.many[i];
		const char *sep = i ? " " : "";
		if (r->kind == REPLY_INT)
			at += (size_t)snprintf(text + at, sizeof text - at, "%s%lld", sep, (long long)r->integer);
		else if (r->kind == REPLY_ID)
			at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", sep, id_text(r->id));
		else
			at += (size_t)snprintf(
				text + at, sizeof text - at, "%s%.*s", sep, (int)strcspn(r->text.p, " "), r->text.p);
	}
	return text;
}

Test(script, many_takes_are_as_each_alone)
{
	const struct entry_id a = given("me", "a"), b = given("other", "b"), again = given("me", "a"),
			      c = given("me", "c");
	const struct cmd_entry many[] = {{S("c"), c}, {S("a"), a}, {S("b"), b}, {S("a"), again}, {S("d"), {5, 0}}};
	cr_expect_str_eq(each(CMD_TAKE_MANY, many, 5, false), "1 1 0 2 0");
	cr_expect_str_eq(registry("a"), id_text(a));
	cr_expect_str_eq(registry("b"), "none");
	cr_expect_str_eq(registry("c"), id_text(c));
	cr_expect_eq(n_of("ZCARD", names.parked), 1, "the second one of its stream waits");
	cr_expect_eq(n_pending(), 3);
	cr_expect_str_eq(each(CMD_TAKE_MANY, many, 4, false), "1 1 0 0", "asked again");
}

Test(script, many_dones_are_as_each_alone)
{
	const struct entry_id a = given("me", "a"), b = given("other", "b"), again = given("me", "a"),
			      c = given("me", "c"), never_taken = given("me", "e");
	const struct cmd_entry first[] = {{S("a"), a}, {S("c"), c}, {S("a"), again}};
	each(CMD_TAKE_MANY, first, 3, false);
	NUMBER(.kind = CMD_TAKE, .stream = S("b"), .id = b, .as.take.consumer = S("other"));
	const struct cmd_entry many[] = {{S("e"), never_taken}, {S("b"), b}, {S("c"), c}, {S("a"), a}};
	char want[80];
	snprintf(want, sizeof want, "1 0 1 %s", id_text(again));
	cr_expect_str_eq(each(CMD_DONE_MANY, many, 4, true), want, "the one that waited is ours now");
	cr_expect_str_eq(registry("a"), id_text(again));
	cr_expect_str_eq(registry("b"), id_text(b), "somebody else's");
	cr_expect_str_eq(registry("c"), "none");
	cr_expect_eq(n_of("XLEN", names.lbs), 2);
	cr_expect_str_eq(each(CMD_DONE_MANY, many, 4, true), "0 0 0 0");
	const struct cmd_entry last[] = {{S("a"), again}, {S("c"), c}};
	cr_expect_str_eq(each(CMD_DONE_MANY, last, 2, true), "1 0");
	cr_expect_str_eq(registry("a"), "none");
}

static void registry_is(const char *encoding, int64_t n_streams)
{
	const redisReply *x = real_redis_command(redis, "OBJECT ENCODING %s", names.registry);
	cr_expect_str_eq(x->str, encoding);
	cr_expect_eq(n_of("HLEN", names.registry), n_streams);
}

/* A small hash is a list to Redis, and looked through from its start by each take and done. */
Test(script, a_batch_of_takes_makes_the_registry_a_table)
{
	struct cmd_entry many[20];
	char name[20][8];
	for (size_t i = 0; i < 20; i++) {
		snprintf(name[i], sizeof name[i], "s%zu", i);
		many[i] = (struct cmd_entry){{name[i], strlen(name[i])}, given("me", name[i])};
	}
	each(CMD_TAKE_MANY, many, 16, false);
	registry_is("hashtable", 16);
	each(CMD_TAKE_MANY, many, 20, false);
	registry_is("hashtable", 20);
	for (size_t i = 0; i < 20; i++)
		cr_expect_str_eq(registry(name[i]), id_text(many[i].id));
	each(CMD_DONE_MANY, many, 20, false);
	cr_expect_eq(n_of("EXISTS", names.registry), 0, "nothing of ours stays in it");
}

static void lock(const char *stream, struct entry_id id, const char *value)
{
	const struct cmd c = {.kind = CMD_LOCK, .stream = {stream, strlen(stream)}, .id = id, .as.lock.ttl_ms = 9000};
	struct cmd with = c;
	with.as.lock.value = (struct slice){value, strlen(value)};
	cr_assert_eq(exec(with).kind, REPLY_OK);
}

static bool is_locked(const char *stream, struct entry_id id)
{
	return NUMBER(.kind = CMD_PROBE, .stream = {stream, strlen(stream)}, .id = id) > 0;
}

Test(script, done_deletes_its_own_lock_only)
{
	const struct entry_id a = given("me", "a"), b = given("me", "b"), next = given("me", "a"),
			      c = given("other", "c");
	lock("a", a, "me/1");
	lock("b", b, "me/2");
	lock("c", c, "me/1");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = a);
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = next);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("b"), .id = b, .as.done.lock_value = S("me/1")), 3,
		"another's lock");
	cr_expect(is_locked("b", b));
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("c"), .id = c, .as.done.lock_value = S("me/1")), 0);
	cr_expect(is_locked("c", c), "not done: it stays");
	EXEC(.kind = CMD_DONE, .stream = S("a"), .id = a, .as.done.lock_value = S("me/1"), .as.done.is_heir = true);
	cr_assert_eq(reply.kind, REPLY_ID);
	cr_expect(!is_locked("a", a));
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = next, .as.done.lock_value = S("me/1")), 3,
		"it has none");
}

Test(script, many_dones_delete_their_own_locks_only)
{
	names.same_stream = SAME_STREAM_ALLOW;
	const struct entry_id a = given("me", "a"), b = given("me", "b"), c = given("other", "c"), d = given("me", "d");
	const struct cmd_entry many[] = {{S("a"), a}, {S("b"), b}, {S("c"), c}, {S("d"), d}};
	lock("a", a, "me/1");
	lock("b", b, "me/2");
	lock("c", c, "me/1");
	lock("d", d, "me/1");
	EXEC(.kind = CMD_DONE_MANY, .as.many.v = many, .as.many.n = 4, .as.many.lock_value = S("me/1"));
	cr_assert(reply.kind == REPLY_MANY && reply.n == 4);
	static const int64_t want[] = {1, 3, 0, 1};
	for (size_t i = 0; i < 4; i++)
		cr_expect_eq(reply.many[i].integer, want[i]);
	cr_expect(!is_locked("a", a) && is_locked("b", b) && is_locked("c", c) && !is_locked("d", d));
}

/* Between the lowest and the highest of them lie more of ours than one look tells of. */
Test(script, many_find_theirs_among_thousands)
{
	struct cmd_entry all[1000];
	for (size_t i = 0; i < 1000; i++)
		all[i] = (struct cmd_entry){S("s"), given("me", "s")};
	names.same_stream = SAME_STREAM_ALLOW;
	const struct cmd_entry ends[] = {all[999], all[0], all[500], {S("s"), {7, 7}}};
	cr_expect_str_eq(each(CMD_TAKE_MANY, ends, 4, false), "1 1 1 0");
	cr_expect_str_eq(each(CMD_DONE_MANY, ends, 4, false), "1 1 1 0");
	cr_expect_eq(n_pending(), 997);
	each(CMD_DONE_MANY, all + 100, CMD_MANY_MAX, false);
	cr_expect_eq(n_pending(), 997 - CMD_MANY_MAX);
}

Test(script, many_with_a_registry_of_a_wrong_type)
{
	const struct entry_id a = given("me", "a"), b = given("me", "b");
	const struct cmd_entry many[] = {{S("a"), a}, {S("b"), b}, {S("c"), {5, 0}}};
	real_redis_command(redis, "SET %s x", names.registry);
	cr_expect_str_eq(each(CMD_TAKE_MANY, many, 3, false), "WRONGTYPE WRONGTYPE 0");
	cr_expect_str_eq(each(CMD_DONE_MANY, many, 3, false), "1 1 0");
	cr_expect_eq(n_pending(), 0);
}

/* A wish without fields could never run, and would stand in the way of the next one. */
Test(script, an_entry_whose_data_is_gone_is_no_wish)
{
	const struct entry_id first = given("me", "a"), second = given("me", "a");
	names.same_stream = SAME_STREAM_COALESCE;
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	real_redis_command(redis, "XDEL %s %s", names.lbs, id_text(second));
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 0);
	cr_expect_eq(n_of("ZCARD", names.parked), 0);
	cr_expect_eq(n_pending(), 1);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = first), 1);
	cr_expect_eq(n_of("HLEN", names.registry), 0);
}

Test(script, many_merge_into_one_wish)
{
	const struct entry_id first = given("me", "a"), second = given("me", "a"), third = given("me", "a"),
			      b = given("me", "b");
	names.same_stream = SAME_STREAM_COALESCE;
	const struct cmd_entry many[] = {{S("a"), first}, {S("a"), second}, {S("b"), b}, {S("a"), third}};
	cr_expect_str_eq(each(CMD_TAKE_MANY, many, 4, false), "1 4 1 4");
	const struct cmd_entry done[] = {many[0], many[2]};
	cr_expect_str_eq(each(CMD_DONE_MANY, done, 2, false), "1 1");
	cr_expect_eq(n_of("XLEN", names.lbs), 1, "the wish runs as a new entry");
	cr_expect_str_neq(registry("a"), "none");
	cr_expect_str_eq(registry("b"), "none");
}

/* Who ends it wants no more: the next one goes to the end, under a new id, and keeps its turn. */
Test(script, what_waits_goes_to_the_end_without_an_heir)
{
	const struct entry_id first = given("me", "a"), second = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = first), 1);
	EXEC(.kind = CMD_READ, .as.read.count = 9);
	cr_assert_eq(reply.entries->n, 1);
	cr_expect_gt(entry_id_cmp(reply.entries->v[0].id, second), 0);
	cr_expect_str_eq(registry("a"), id_text(reply.entries->v[0].id));
	cr_expect_eq(n_of("XLEN", names.lbs), 1);
	entry_batch_free(reply.entries);
}

/* A token never falls: what waits behind an entry that was requeued gets a younger id. */
Test(script, what_waits_behind_a_younger_entry_gets_a_younger_id)
{
	const struct entry_id first = given("me", "a"), second = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	EXEC(.kind = CMD_REQUEUE, .stream = S("a"), .id = first);
	const struct entry_id again = reply.id;
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 2);
	EXEC(.kind = CMD_READ, .as.read.count = 1);
	entry_batch_free(reply.entries);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = again, .as.done.is_heir = true), 1);
	EXEC(.kind = CMD_READ, .as.read.count = 1);
	cr_assert_eq(reply.entries->n, 1);
	cr_expect_gt(entry_id_cmp(reply.entries->v[0].id, again), 0);
	entry_batch_free(reply.entries);
}

Test(script, sift_reads_past_entries_of_running_streams)
{
	const struct entry_id first = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	for (int i = 0; i < 700; i++)
		EXEC(.kind = CMD_ADD, .stream = S("a"));
	EXEC(.kind = CMD_ADD, .stream = S("b"));
	EXEC(.kind = CMD_ADD, .stream = S("c"));
	EXEC(.kind = CMD_SIFT, .as.read.count = 1);
	cr_expect(reply.entries->n == 0 && reply.integer == COMMAND_SIFT_BUDGET);
	entry_batch_free(reply.entries);
	EXEC(.kind = CMD_SIFT, .as.read.count = 1);
	cr_assert(reply.entries->n == 1 && reply.integer == 700 - COMMAND_SIFT_BUDGET);
	cr_expect_str_eq(reply.entries->v[0].stream->bytes, "b");
	entry_batch_free(reply.entries);
	cr_expect_eq(n_pending(), 2);
	cr_expect_eq(n_of("ZCARD", names.parked), 700);
}

Test(script, a_look_delivers_nothing_merges_and_names_each_stream_that_waits_once)
{
	const struct entry_id first = given("me", "a");
	names.same_stream = SAME_STREAM_COALESCE;
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	for (int i = 0; i < COMMAND_LOOK_PAGE - 3; i++)
		EXEC(.kind = CMD_ADD, .stream = S("a"));
	EXEC(.kind = CMD_ADD, .stream = S("b"));
	EXEC(.kind = CMD_ADD, .stream = S("c"));
	EXEC(.kind = CMD_ADD, .stream = S("b"));
	EXEC(.kind = CMD_ADD, .stream = S("d")); /* beyond a page */
	EXEC(.kind = CMD_SIFT);
	cr_assert(reply.entries->n == 2 && reply.integer == COMMAND_LOOK_PAGE - 3);
	cr_expect_str_eq(reply.entries->v[0].stream->bytes, "b");
	cr_expect_str_eq(reply.entries->v[1].stream->bytes, "c");
	entry_batch_free(reply.entries);
	EXEC(.kind = CMD_SIFT);
	cr_expect(reply.entries->n == 3 && reply.integer == 0, "d is in sight, the wish is one");
	entry_batch_free(reply.entries);
	cr_expect_eq(n_pending(), 1);
	cr_expect_eq(n_of("ZCARD", names.parked), 1);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = first), 1);
	EXEC(.kind = CMD_READ, .as.read.count = 10);
	cr_expect_eq(reply.entries->n, 5, "and it goes on behind them");
	entry_batch_free(reply.entries);
}

/* Whoever has it is its stream's runner, also when that could not be written at once. */
Test(script, what_waits_and_is_taken_waits_on_when_there_is_no_room)
{
	const struct entry_id first = given("me", "a"), second = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 2);
	real_redis_command(redis, "XCLAIM %s %s go 0 %s FORCE", names.lbs, names.group, id_text(second));
	real_redis_command(redis, "XACK %s %s %s", names.lbs, names.group, id_text(first));
	real_redis_command(redis, "CONFIG SET maxmemory 1");
	EXEC(.kind = CMD_DUE, .as.due.count = 100);
	cr_expect_eq(n_of("ZCARD", names.parked), 1);
	real_redis_command(redis, "CONFIG SET maxmemory 0");
	EXEC(.kind = CMD_DUE, .as.due.count = 100);
	cr_expect_eq(n_of("ZCARD", names.parked), 0);
	cr_expect_str_eq(registry("a"), id_text(second));
}

Test(script, coalesce_keeps_the_newest_wish)
{
	names.same_stream = SAME_STREAM_COALESCE;
	const struct entry_id first = given("me", "a"), second = given("me", "a"), third = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = third), 4);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 4); /* older: nothing of it is left */
	cr_expect_eq(n_of("XLEN", names.lbs), 1);
	cr_expect_eq(n_of("HLEN", names.registry), 2);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = first, .as.done.is_heir = true), 1);
	cr_expect_eq(n_of("HLEN", names.registry), 1);
	EXEC(.kind = CMD_READ, .as.read.count = 9);
	cr_assert_eq(reply.entries->n, 1);
	cr_expect_str_eq(registry("a"), id_text(reply.entries->v[0].id));
	entry_batch_free(reply.entries);
}

/* Somebody has deleted it: there is nothing to run again. */
Test(script, a_deleted_entry_is_no_wish)
{
	names.same_stream = SAME_STREAM_COALESCE;
	const struct entry_id first = given("me", "a"), second = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	real_redis_command(redis, "XDEL %s %s", names.lbs, id_text(second));
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 0);
	cr_expect_eq(n_pending(), 1);
	cr_expect_eq(n_of("HLEN", names.registry), 1);
	cr_expect_eq(n_of("ZCARD", names.parked), 0);
}

/* ---- later */

Test(script, later_keeps_the_streams_turn_and_comes_back_as_it_was)
{
	const struct entry_id first = given("me", "a"), second = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	cr_expect_eq(NUMBER(.kind = CMD_LATER, .stream = S("a"), .id = first, .as.requeue.consumer = S("you"),
			     .as.requeue.why = "fail"),
		0);
	cr_expect_eq(NUMBER(.kind = CMD_LATER, .stream = S("a"), .id = first, .as.requeue.retry = 1,
			     .as.requeue.why = "fail"),
		1);
	cr_expect_eq(EXEC(.kind = CMD_LATER, .stream = S("a"), .id = first, .as.requeue.why = "fail").kind, REPLY_NIL);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 2);
	EXEC(.kind = CMD_DUE, .as.due.count = 100);
	cr_expect(reply.kind == REPLY_COUNTS && reply.counts[DUE_MOVED] == 1 && reply.counts[DUE_WAIT_MS] == -1);
	cr_expect(reply.counts[DUE_PARKED] == 1 && reply.counts[DUE_WANTED] == 1 && reply.counts[DUE_WOKEN] == 0);
	EXEC(.kind = CMD_READ, .as.read.count = 9);
	cr_assert(reply.entries->n == 1 && reply.entries->v[0].retry == 1);
	cr_expect_str_eq(registry("a"), id_text(reply.entries->v[0].id));
	entry_batch_free(reply.entries);
}

Test(script, later_is_refused_whole_when_there_is_no_room)
{
	const struct entry_id id = given("me", "a");
	real_redis_command(redis, "SET %s x", names.delayed);
	cr_expect_eq(
		EXEC(.kind = CMD_LATER, .stream = S("a"), .id = id, .as.requeue.why = "fail").error, RERR_OPERATOR);
	cr_expect_eq(n_of("HLEN", names.delayed_data), 0);
	cr_expect_eq(n_pending(), 1);
}

Test(script, what_waits_can_be_hurried_and_dropped)
{
	EXEC(.kind = CMD_GROUP_CREATE);
	const struct entry_id one =
		EXEC(.kind = CMD_ADD_LATER, .stream = S("a"), .as.add.delay_ms = 60000, .as.add.why = "add").id;
	const struct entry_id two =
		EXEC(.kind = CMD_ADD_LATER, .stream = S("a"), .as.add.delay_ms = 60000, .as.add.why = "add").id;
	cr_expect_neq(entry_id_cmp(one, two), 0);
	cr_expect_eq(EXEC(.kind = CMD_DELAYED_NOW, .id = one).kind, REPLY_ID);
	cr_expect_eq(NUMBER(.kind = CMD_DELAYED_NOW, .id = one), 0);
	cr_expect_eq(NUMBER(.kind = CMD_DELAYED_DROP, .id = two), 1);
	cr_expect_eq(NUMBER(.kind = CMD_DELAYED_DROP, .id = two), 0);
	cr_expect_eq(n_of("XLEN", names.lbs), 1);
	cr_expect_eq(n_of("ZCARD", names.delayed) + n_of("HLEN", names.delayed_data), 0);
}

Test(script, take_without_serialize_knows_no_second)
{
	names.same_stream = SAME_STREAM_ALLOW;
	const struct entry_id first = given("me", "a"), second = given("me", "a");
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first), 1);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 1);
	cr_expect_eq(n_of("EXISTS", names.registry), 0);
}

Test(script, take_replaces_a_stale_registration)
{
	const struct entry_id id = given("me", "a"), acked = given("me", "x");
	real_redis_command(
		redis, "XACK %s %s %s", names.lbs, names.group, id_text(acked)); /* as Go does, without XDEL */
	const char *stale[] = {"5-0", "", "nonsense", "-", "+", "1", "99999999999999999999999-1", "(5-0",
		id_text(acked), "99999999999999-0"};
	for (size_t i = 0; i < sizeof stale / sizeof stale[0]; i++) {
		real_redis_command(redis, "HSET %s a %s", names.registry, stale[i]);
		cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id), 1, "%s", stale[i]);
		cr_expect_str_eq(registry("a"), id_text(id), "%s", stale[i]);
	}
}

Test(script, a_registry_of_a_wrong_type_stops_only_take)
{
	const struct entry_id one = given("me", "a"), two = given("me", "a"), three = given("me", "a"),
			      four = given("me", "a");
	real_redis_command(redis, "SET %s precious", names.registry);
	EXEC(.kind = CMD_TAKE, .stream = S("a"), .id = one);
	cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_OPERATOR);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = one), 1);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = one), 0);
	cr_expect_eq(EXEC(.kind = CMD_REQUEUE, .stream = S("a"), .id = two, .as.requeue.retry = 1).kind, REPLY_ID);
	cr_expect_eq(NUMBER(.kind = CMD_DEAD, .stream = S("a"), .id = three), 1);
	cr_expect_eq(NUMBER(.kind = CMD_ACK_DEL, .stream = S("a"), .id = four), 1);
	cr_expect_str_eq(real_redis_command(redis, "GET %s", names.registry)->str, "precious");
}

/* ---- done */

Test(script, done_counts_once_and_cleans_up)
{
	const struct entry_id id = given("me", "a"), other = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id);
	cr_expect_eq(
		NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = other), 1); /* never took it: the registry stays */
	cr_expect_str_eq(registry("a"), id_text(id));
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = id), 1);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = id), 0);
	cr_expect_str_eq(registry("a"), "none");
	cr_expect_eq(n_of("XLEN", names.lbs), 0);
	cr_expect_eq(n_pending(), 0);
}

Test(script, done_is_refused_once_another_consumer_has_claimed)
{
	const struct entry_id id = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id);
	real_redis_command(redis, "XCLAIM %s %s go 0 %s", names.lbs, names.group, id_text(id));
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = id), 0);
	cr_expect_eq(n_pending(), 1);
	cr_expect_eq(n_of("XLEN", names.lbs), 1);
	cr_expect_str_eq(registry("a"), id_text(id));
	cr_expect_eq(NUMBER(.kind = CMD_ACK_DEL, .stream = S("a"), .id = id, .as.done.consumer = S("me")), 0);
	cr_expect_eq(NUMBER(.kind = CMD_ACK_DEL, .stream = S("a"), .id = id, .as.done.consumer = S("go")), 1);
	cr_expect_str_eq(registry("a"), "none");
}

Test(script, done_of_what_was_acked_elsewhere_cleans_the_registry)
{
	const struct entry_id id = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id);
	real_redis_command(redis, "XACK %s %s %s", names.lbs, names.group, id_text(id));
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = id), 0);
	cr_expect_str_eq(registry("a"), "none");
	cr_expect_eq(n_of("XLEN", names.lbs), 1); /* not ours to delete */
}

Test(script, a_group_made_anew_keeps_the_registration)
{
	const struct entry_id id = given("me", "a"), second = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id);
	real_redis_command(redis, "XGROUP DESTROY %s %s", names.lbs, names.group);
	EXEC(.kind = CMD_GROUP_CREATE);
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = id), 0);
	cr_expect_str_eq(registry("a"), id_text(id));
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = second), 0);
}

/* ---- requeue */

static struct entry_id requeued(struct cmd c)
{
	c.kind = CMD_REQUEUE;
	exec(c);
	cr_assert_eq(reply.kind, REPLY_ID);
	return reply.id;
}

#define REQUEUED(...) requeued((struct cmd){__VA_ARGS__})

/* The entry's fields as name=value,… */
static const char *fields(const char *key, const char *id)
{
	static char text[8192];
	const redisReply *r = real_redis_command(redis, "XRANGE %s %s %s", key, id, id);
	size_t n = 0;
	text[0] = '\0';
	for (size_t i = 0; r->elements == 1 && i < r->element[0]->element[1]->elements; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, "%s%c", r->element[0]->element[1]->element[i]->str,
			i % 2 ? ',' : '=');
	return text;
}

/* An entry of these fields, delivered to me. */
static struct entry_id given_fields(const char *xadd_tail)
{
	char command[512];
	snprintf(command, sizeof command, "XADD %s * %s", names.lbs, xadd_tail);
	EXEC(.kind = CMD_GROUP_CREATE);
	const redisReply *r = real_redis_command(redis, command);
	struct entry_id id;
	cr_assert(r->type == REDIS_REPLY_STRING && command_id_parse(r->str, r->len, &id));
	EXEC(.kind = CMD_READ, .as.read.count = 100); /* also what was requeued before */
	entry_batch_free(reply.entries);
	return id;
}

Test(script, requeue_writes_the_count_in_place)
{
	struct entry_id id = REQUEUED(.id = given_fields("a 1 _retry_count 7 b 2"), .as.requeue.retry = 8);
	cr_expect_str_eq(fields(names.lbs, id_text(id)), "a=1,_retry_count=8,b=2,");
	id = REQUEUED(.id = given_fields("a 1 b 2"), .as.requeue.retry = 1);
	cr_expect_str_eq(fields(names.lbs, id_text(id)), "a=1,b=2,_retry_count=1,");
	id = REQUEUED(.id = given_fields("a 1 b 2"), .as.requeue.retry = 0);
	cr_expect_str_eq(fields(names.lbs, id_text(id)), "a=1,b=2,");
	id = REQUEUED(.id = given_fields("_retry_count junk a 1 _retry_count 3"), .as.requeue.retry = 0);
	cr_expect_str_eq(fields(names.lbs, id_text(id)), "_retry_count=0,a=1,_retry_count=0,");
}

Test(script, requeue_moves_once)
{
	const struct entry_id id = given("me", "a");
	const struct entry_id new = REQUEUED(.stream = S("a"), .id = id, .as.requeue.retry = 1);
	cr_expect_gt(entry_id_cmp(new, id), 0);
	cr_expect_eq(EXEC(.kind = CMD_REQUEUE, .stream = S("a"), .id = id, .as.requeue.retry = 1).kind, REPLY_NIL);
	cr_expect_eq(n_of("XLEN", names.lbs), 1);
	cr_expect_eq(n_pending(), 0);
	cr_expect_str_eq(registry("a"), "none");
}

Test(script, requeue_checks_consumer_and_idle)
{
	const struct entry_id id = given("them", "a");
	cr_expect_eq(NUMBER(.kind = CMD_REQUEUE, .id = id, .as.requeue.consumer = S("me")), 0);
	cr_expect_eq(NUMBER(.kind = CMD_REQUEUE, .id = id, .as.requeue.consumer = S("them"),
			     .as.requeue.min_idle_ms = 60000),
		0);
	cr_expect_eq(NUMBER(.kind = CMD_DEAD, .id = id, .as.dead.consumer = S("me")), 0);
	cr_expect_eq(NUMBER(.kind = CMD_DEAD, .id = id, .as.dead.min_idle_ms = 60000), 0);
	cr_expect_eq(n_pending(), 1);
	real_redis_command(redis, "XCLAIM %s %s them 0 %s IDLE 70000", names.lbs, names.group, id_text(id));
	REQUEUED(.id = id, .as.requeue.consumer = S("them"), .as.requeue.min_idle_ms = 60000);
}

Test(script, requeue_keeps_the_streams_turn)
{
	const struct entry_id first = given("me", "a"), second = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = first);
	const struct entry_id new = REQUEUED(.stream = S("a"), .id = first, .as.requeue.retry = 1);
	cr_expect_str_eq(registry("a"), id_text(new));
	EXEC(.kind = CMD_READ, .as.read.count = 1);
	entry_batch_free(reply.entries);
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = new), 1);
	const struct entry_id newer = REQUEUED(.stream = S("a"), .id = second, .as.requeue.retry = 0);
	cr_expect_str_eq(registry("a"), id_text(new));
	real_redis_command(redis, "XDEL %s %s", names.lbs, id_text(new));
	cr_expect_eq(NUMBER(.kind = CMD_REQUEUE, .stream = S("a"), .id = new), 2); /* somebody deleted it: turn over */
	cr_expect_str_eq(registry("a"), "none");
	(void)newer;
}

Test(script, a_deleted_entry_is_acknowledged)
{
	const struct entry_id one = given("me", "a"), two = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = two);
	real_redis_command(redis, "XDEL %s %s %s", names.lbs, id_text(one), id_text(two));
	EXEC(.kind = CMD_READ_OWN, .as.read.count = 9);
	cr_assert_eq(reply.entries->n, 2);
	cr_expect_eq(reply.entries->v[0].problem, ENTRY_DELETED);
	entry_batch_free(reply.entries);
	cr_expect_eq(NUMBER(.kind = CMD_REQUEUE, .stream = S("a"), .id = one, .as.requeue.retry = 1), 2);
	cr_expect_eq(NUMBER(.kind = CMD_DEAD, .stream = S("a"), .id = two), 2);
	cr_expect_eq(n_pending(), 0);
	cr_expect_eq(n_of("XLEN", names.lbs), 0);
	cr_expect_eq(n_of("EXISTS", names.dlq), 0);
	cr_expect_str_eq(registry("a"), "none");
}

/* ---- dead letters */

Test(script, dead_letters_carry_why)
{
	const struct entry_id id = given_fields("a 1 _retry_count 4 _dlq_error older _orig_id 1-1");
	EXEC(.kind = CMD_TAKE, .stream = S("s"), .id = id);
	cr_expect_eq(NUMBER(.kind = CMD_DEAD, .stream = S("s"), .id = id, .as.dead.reason = DEAD_MAX_RETRIES,
			     .as.dead.error = S("boom"), .as.dead.now_ms = 1700),
		1);
	char expected[256];
	snprintf(expected, sizeof expected,
		"a=1,_retry_count=4,_dlq_reason=max_retries_exceeded,_dlq_at=1700,_dlq_node=n1,_dlq_error=boom,_orig_"
		"id=%s,",
		id_text(id));
	EXEC(.kind = CMD_DLQ_RANGE, .as.read.count = 5);
	cr_assert_eq(reply.entries->n, 1);
	const struct entry_id dead = reply.entries->v[0].id;
	entry_batch_free(reply.entries);
	cr_expect_str_eq(fields(names.dlq, id_text(dead)), expected);
	cr_expect_eq(n_of("XLEN", names.lbs), 0);
	cr_expect_eq(n_pending(), 0);
	cr_expect_str_eq(registry("s"), "none");
	cr_expect_eq(NUMBER(.kind = CMD_DEAD, .stream = S("s"), .id = id), 0);
}

Test(script, dead_letters_by_hand_are_the_same)
{
	const struct entry_id one = given_fields("a 1 _dlq_at 3"), two = given_fields("a 1 _dlq_at 3");
	NUMBER(.kind = CMD_DEAD, .id = one, .as.dead.reason = DEAD_REJECTED, .as.dead.error = S("no"),
		.as.dead.now_ms = 9);
	const struct reply read = EXEC(.kind = CMD_DEAD_READ, .id = two);
	cr_assert(read.entries->n == 1 && read.entries->v[0].fields);
	const struct reply added = EXEC(.kind = CMD_DEAD_ADD, .id = two, .as.dead.reason = DEAD_REJECTED,
		.as.dead.error = S("no"), .as.dead.now_ms = 9, .as.dead.fields = read.entries->v[0].fields);
	entry_batch_free(read.entries);
	cr_assert_eq(added.kind, REPLY_ID);
	cr_expect_eq(NUMBER(.kind = CMD_ACK_DEL, .id = two), 1);
	cr_expect_eq(NUMBER(.kind = CMD_ACK_DEL, .id = two), 0);
	EXEC(.kind = CMD_DLQ_RANGE, .as.read.count = 5);
	cr_assert_eq(reply.entries->n, 2);
	const struct field_list *a = reply.entries->v[0].fields, *b = reply.entries->v[1].fields;
	cr_assert_eq(a->n, b->n);
	for (size_t i = 0; i < a->n; i++) {
		cr_expect(a->v[i].name.len == b->v[i].name.len &&
			  memcmp(a->v[i].name.p, b->v[i].name.p, a->v[i].name.len) == 0);
		if (i + 1 < a->n) /* the last is _orig_id */
			cr_expect(a->v[i].value.len == b->v[i].value.len &&
				  memcmp(a->v[i].value.p, b->v[i].value.p, a->v[i].value.len) == 0);
	}
	entry_batch_free(reply.entries);
}

Test(script, dead_letters_are_trimmed_roughly)
{
	names.dlq_max_len = 10;
	for (int i = 0; i < 250; i++)
		NUMBER(.kind = CMD_DEAD, .id = given("me", "a"));
	cr_expect_leq(NUMBER(.kind = CMD_DLQ_LENGTH), 110);
	cr_expect_geq(NUMBER(.kind = CMD_DLQ_LENGTH), 10);
}

/* ---- what nobody has read */

Test(script, unread_is_the_first_that_the_group_was_not_given)
{
	cr_expect_eq(EXEC(.kind = CMD_UNREAD).kind, REPLY_NIL, "no stream");
	given("me", "a");
	cr_expect_eq(EXEC(.kind = CMD_UNREAD).kind, REPLY_NIL, "all are given out");
	const struct entry_id second = EXEC(.kind = CMD_ADD, .stream = S("b")).id;
	EXEC(.kind = CMD_ADD, .stream = S("c"));
	EXEC(.kind = CMD_UNREAD);
	cr_expect(reply.kind == REPLY_ID && entry_id_cmp(reply.id, second) == 0);
	real_redis_command(redis, "XGROUP DESTROY %s %s", names.lbs, names.group);
	cr_expect_eq(EXEC(.kind = CMD_UNREAD).kind, REPLY_NIL, "no group");
	real_redis_command(redis, "SET %s text", names.lbs);
	cr_expect_eq(EXEC(.kind = CMD_UNREAD).kind, REPLY_NIL, "not a stream: XLEN tells of it");
}

/* ---- what may be refused changes nothing */

static void expect_untouched(struct entry_id id)
{
	cr_expect_eq(n_pending(), 1);
	cr_expect_eq(n_of("XLEN", names.lbs), 1);
	cr_expect_str_eq(registry("a"), id_text(id));
}

Test(script, out_of_memory_loses_nothing)
{
	const struct entry_id id = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id);
	real_redis_command(redis, "CONFIG SET maxmemory 1");
	const enum cmd_kind kinds[] = {CMD_REQUEUE, CMD_DEAD};
	for (size_t i = 0; i < 2; i++) {
		EXEC(.kind = kinds[i], .stream = S("a"), .id = id);
		cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_RETRY, "%.*s", (int)reply.text.len,
			reply.text.p);
		expect_untouched(id);
	}
	cr_expect_eq(NUMBER(.kind = CMD_DONE, .stream = S("a"), .id = id), 1); /* still works */
}

Test(script, a_wrong_type_of_dead_letter_stream_loses_nothing)
{
	const struct entry_id id = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id);
	real_redis_command(redis, "SET %s x", names.dlq);
	EXEC(.kind = CMD_DEAD, .stream = S("a"), .id = id);
	cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_OPERATOR);
	expect_untouched(id);
}

Test(script, no_replicas_loses_nothing)
{
	const struct entry_id id = given("me", "a");
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id);
	real_redis_command(redis, "CONFIG SET min-replicas-to-write 1");
	const enum cmd_kind kinds[] = {CMD_REQUEUE, CMD_DEAD, CMD_DONE, CMD_ACK_DEL};
	for (size_t i = 0; i < 4; i++) {
		EXEC(.kind = kinds[i], .stream = S("a"), .id = id);
		cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_RETRY, "%s %.*s", command_name(kinds[i]),
			(int)reply.text.len, reply.text.p);
		expect_untouched(id);
	}
}

/* ---- bytes */

static struct field_list *list_of(size_t n, size_t value_len)
{
	struct field_list *l = mem_alloc(sizeof *l + n * sizeof l->v[0]);
	char *value = mem_alloc(value_len + 1);
	for (size_t i = 0; i < value_len; i++)
		value[i] = (char)(i * 37);
	l->n = n;
	for (size_t i = 0; i < n; i++)
		l->v[i] = (struct field){S("f\0\r\n\xff"), {value, value_len}};
	return l;
}

static struct entry_id given_list(const struct field_list *l)
{
	EXEC(.kind = CMD_GROUP_CREATE);
	const struct reply added = EXEC(.kind = CMD_REPLAY, .as.add.fields = l);
	cr_assert_eq(added.kind, REPLY_ID);
	EXEC(.kind = CMD_READ, .as.read.count = 1);
	entry_batch_free(reply.entries);
	return added.id;
}

static void list_free(struct field_list *l)
{
	mem_free((char *)(uintptr_t)l->v[0].value.p);
	mem_free(l);
}

Test(script, requeue_is_byte_exact)
{
	struct field_list *l = list_of(2, 64 * 1024);
	l->v[1].name = S("");
	const struct entry_id id = REQUEUED(.id = given_list(l), .as.requeue.retry = 0);
	EXEC(.kind = CMD_DEAD_READ, .id = id);
	cr_assert(reply.kind == REPLY_ENTRIES && reply.entries->n == 1);
	const struct field_list *got = reply.entries->v[0].fields;
	cr_assert_eq(got->n, 2);
	for (size_t i = 0; i < 2; i++) {
		cr_expect_eq(got->v[i].name.len, l->v[i].name.len);
		cr_expect_eq(memcmp(got->v[i].name.p, l->v[i].name.p, l->v[i].name.len), 0);
		cr_assert_eq(got->v[i].value.len, 64 * 1024);
		cr_expect_eq(memcmp(got->v[i].value.p, l->v[i].value.p, 64 * 1024), 0);
	}
	entry_batch_free(reply.entries);
	list_free(l);
}

Test(script, more_fields_than_lua_can_pass_are_refused_untouched)
{
	struct field_list *fits = list_of(3950, 1), *too_many = list_of(3951, 1);
	struct entry_id id = REQUEUED(.id = given_list(fits), .as.requeue.retry = 1);
	EXEC(.kind = CMD_READ, .as.read.count = 1);
	entry_batch_free(reply.entries);
	EXEC(.kind = CMD_REQUEUE, .id = id); /* 3951 by now */
	cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_OPERATOR);
	id = given_list(too_many);
	EXEC(.kind = CMD_DEAD, .id = id);
	cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_OPERATOR);
	cr_expect_eq(n_pending(), 2);
	list_free(fits);
	list_free(too_many);
}

/* ---- RESP3 */

Test(script, resp3_says_the_same)
{
	real_redis_use_resp(redis, 3);
	const struct entry_id id = given("me", "a");
	cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id), 1);
	EXEC(.kind = CMD_CONSUMERS);
	cr_assert(reply.kind == REPLY_CONSUMERS && reply.n == 1);
	cr_expect(reply.consumers[0].name.len == 2 && reply.consumers[0].n_pending == 1);
	EXEC(.kind = CMD_PENDING, .as.pending.count = 9);
	cr_expect(reply.kind == REPLY_PENDING && reply.n == 1);
	const struct entry_id new = REQUEUED(.stream = S("a"), .id = id, .as.requeue.retry = 1);
	cr_expect_eq(EXEC(.kind = CMD_REQUEUE, .stream = S("a"), .id = id).kind, REPLY_NIL);
	EXEC(.kind = CMD_FETCH, .id = new);
	cr_assert(reply.kind == REPLY_ENTRIES && reply.entries->n == 1);
	cr_expect_eq(reply.entries->v[0].retry, 1);
	entry_batch_free(reply.entries);
	EXEC(.kind = CMD_RUN_ID);
	cr_expect(reply.kind == REPLY_TEXT && reply.text.len == 40);
	EXEC(.kind = CMD_TIME);
	cr_expect(reply.kind == REPLY_INT && reply.integer > 1700000000000);
	cr_expect_eq(EXEC(.kind = CMD_TRIAL).kind, REPLY_NIL);
	EXEC(.kind = CMD_ROLE);
	cr_expect(reply.kind == REPLY_TEXT && memcmp(reply.text.p, "master", 6) == 0);
	EXEC(.kind = CMD_SLOTS);
	cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_NO_CLUSTER);
	EXEC(.kind = CMD_CLUSTER_INFO);
	cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_NO_CLUSTER);
	cr_expect_eq(EXEC(.kind = CMD_CONFIG_SET_EVENTS, .as.keyspace.flags = S("Kx")).kind, REPLY_OK);
	EXEC(.kind = CMD_CONFIG_GET_EVENTS);
	cr_expect(reply.kind == REPLY_TEXT && reply.text.len == 2);
}

/* ---- entries mode: the position and its fence */

#define FEED(k, t, ...) .kind = CMD_FEED_##k, .stream = S("s"), .as.feed.token = {t, 0}, __VA_ARGS__

static void xadd(const char *id)
{
	cr_assert_eq(real_redis_command(redis, "XADD s %s n 1", id)->type, REDIS_REPLY_STRING);
}

static const char *position_field(const char *field)
{
	const redisReply *r = real_redis_command(redis, "HGET {s}-sluice %s", field);
	return r->type == REDIS_REPLY_STRING ? r->str : "none";
}

static void expect_open(uint64_t token, uint64_t pos, int64_t tries, size_t flags)
{
	const struct reply r = EXEC(FEED(OPEN, token, .as.feed.open.start = S("0")));
	cr_expect(r.kind == REPLY_POSITION && r.id.ms == pos && r.integer == tries && r.n == flags,
		"kind %d, pos %llu, tries %lld, flags %zu", r.kind, (unsigned long long)r.id.ms, (long long)r.integer,
		r.n);
}

Test(script, a_position_moves_forward_only_and_for_its_owner_only)
{
	xadd("5-0"), xadd("6-0"), xadd("7-0");
	expect_open(100, 0, 0, 0);
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {6, 0}, .as.feed.ack.now_ms = 1700)), 1);
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {6, 0})), 0);
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {5, 0})), 0);
	cr_expect_str_eq(position_field("pos"), "6-0");
	cr_expect_str_eq(position_field("at"), "1700");
	expect_open(101, 6, 0, POSITION_DEATH | POSITION_PROGRESS); /* the first one never closed */
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {7, 0})), -1);
	cr_expect_eq(EXEC(FEED(FAIL, 100)).kind, REPLY_NIL);
	cr_expect_eq(NUMBER(FEED(CLOSE, 100, .as.feed.close.end = FEED_END_DELETE, .as.feed.close.ttl_ms = 1)), 0);
	cr_expect_eq(EXEC(FEED(OPEN, 100, .as.feed.open.start = S("0"))).kind, REPLY_NIL);
	cr_expect_str_eq(position_field("pos"), "6-0");
	expect_open(101, 6, 0, 0); /* the same again: no death */
}

Test(script, tokens_are_compared_as_text)
{
	expect_open(9007199254740, 0, 0, POSITION_AT_END); /* 9007199254740000000: beyond what a double holds exactly */
	real_redis_command(redis, "HSET {s}-sluice token 9007199254740000001");
	cr_expect_eq(NUMBER(FEED(ACK, 9007199254740, .id = {6, 0})), -1);
	cr_expect_eq(EXEC(FEED(OPEN, 9007199254740, .as.feed.open.start = S("0"))).kind, REPLY_NIL);
	expect_open(9007199254741, 0, 0, POSITION_DEATH | POSITION_AT_END);
}

static void expect_alone(uint64_t token, uint64_t pos, int64_t tries, size_t flags)
{
	const struct reply r = EXEC(FEED(OPEN, token, .as.feed.open.start = S("0"), .as.feed.open.is_suspect = true));
	cr_expect(r.id.ms == pos && r.integer == tries && r.n == flags, "pos %llu, tries %lld, flags %zu",
		(unsigned long long)r.id.ms, (long long)r.integer, r.n);
}

Test(script, an_end_that_nobody_knows_is_counted_when_it_was_alone)
{
	const size_t unknown = POSITION_DEATH, suspect = POSITION_DEATH | POSITION_SUSPECT;
	xadd("5-0"), xadd("6-0");
	expect_open(100, 0, 0, 0);
	expect_open(101, 0, 0, unknown); /* once: one of many, as far as anybody knows */
	expect_open(102, 0, 0, suspect); /* twice and nothing acknowledged */
	expect_alone(102, 0, 0, 0);      /* begins, its worker has nothing else */
	expect_alone(102, 0, 0, 0);
	expect_open(103, 0, 1, suspect);
	expect_open(104, 0, 1, unknown); /* it had not begun */
	expect_alone(104, 0, 1, 0);
	expect_open(104, 0, 1, 0); /* shares its worker again */
	expect_open(105, 0, 1, suspect);
	expect_alone(105, 0, 1, 0);
	cr_expect_eq(NUMBER(FEED(ACK, 105, .id = {5, 0})), 1);
	expect_open(106, 5, 1, suspect | POSITION_PROGRESS); /* the next entry's first */
	cr_expect_eq(NUMBER(FEED(ACK, 106, .id = {6, 0})), 1);
	expect_open(107, 6, 0, unknown | POSITION_PROGRESS | POSITION_AT_END); /* progress: counted anew */
	cr_expect_eq(NUMBER(FEED(CLOSE, 107, .as.feed.close.end = FEED_END_KEEP)), 1);
	cr_expect_str_eq(position_field("died"), "none");
}

Test(script, an_end_with_nothing_left_to_do_counts_nothing)
{
	const size_t idle = POSITION_DEATH | POSITION_AT_END;
	xadd("5-0");
	expect_open(100, 0, 0, 0);
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {5, 0})), 1);
	expect_alone(101, 5, 0, idle | POSITION_PROGRESS);
	for (uint64_t token = 102; token < 106; token++) /* its worker had nothing else, and there is nothing to try */
		expect_alone(token, 5, 0, idle);
	cr_expect_str_eq(position_field("died"), "0");
	cr_expect_str_eq(position_field("ends"), "0");
	xadd("6-0");
	expect_alone(106, 5, 1, POSITION_DEATH | POSITION_SUSPECT); /* now there may be */
}

Test(script, tries_end_with_the_entry_that_had_them)
{
	xadd("5-0");
	expect_open(100, 0, 0, 0);
	cr_expect_eq(EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 3)).integer, 3);
	real_redis_command(redis, "XDEL s 5-0");
	expect_open(100, 0, 0, POSITION_AT_END);
	xadd("6-0");
	expect_open(100, 0, 0, 0);
}

static uint32_t n_ends(uint64_t token)
{
	return EXEC(FEED(OPEN, token, .as.feed.open.start = S("0"))).n_ends;
}

Test(script, unknown_ends_in_a_row_are_counted_until_something_is_acknowledged)
{
	xadd("5-0"), xadd("6-0");
	cr_expect_eq(n_ends(100), 0);
	cr_expect_eq(n_ends(101), 1);
	cr_expect_eq(n_ends(101), 0, "the same run");
	cr_expect_eq(n_ends(102), 2);
	cr_expect_eq(n_ends(103), 3);
	cr_expect_eq(NUMBER(FEED(ACK, 103, .id = {5, 0})), 1);
	cr_expect_eq(n_ends(104), 0);
	cr_expect_eq(n_ends(105), 1);
	cr_expect_eq(NUMBER(FEED(CLOSE, 105, .as.feed.close.end = FEED_END_KEEP)), 1);
	cr_expect_str_eq(position_field("ends"), "none");
	cr_expect_eq(n_ends(106), 0);
}

Test(script, a_dead_owner_that_had_nothing_else_is_counted)
{
	xadd("5-0");
	expect_open(100, 0, 0, 0);
	const struct reply r = EXEC(FEED(OPEN, 101, .as.feed.open.start = S("0"), .as.feed.open.was_alone = true));
	cr_expect(r.integer == 1 && r.n == (POSITION_DEATH | POSITION_SUSPECT));
	cr_expect_eq(EXEC(FEED(OPEN, 101, .as.feed.open.start = S("0"), .as.feed.open.was_alone = true)).integer, 1);
	cr_expect_eq(NUMBER(FEED(CLOSE, 101, .as.feed.close.end = FEED_END_KEEP)), 1);
	cr_expect_eq(EXEC(FEED(OPEN, 102, .as.feed.open.start = S("0"), .as.feed.open.was_alone = true)).integer,
		1); /* it was closed */
}

Test(script, a_stream_made_again_has_no_tries_of_the_old_one)
{
	xadd("5-0");
	expect_alone(100, 0, 0, 0);
	NUMBER(FEED(ACK, 100, .id = {5, 0}));
	real_redis_command(redis, "DEL s");
	xadd("3-0");
	expect_open(101, 0, 0, POSITION_REMADE | POSITION_DEATH | POSITION_PROGRESS);
}

Test(script, tries_are_counted_and_an_ack_ends_them)
{
	xadd("5-0");
	expect_open(100, 0, 0, 0);
	cr_expect_eq(EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 1)).integer, 1);
	cr_expect_eq(EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 2)).integer, 2);
	cr_expect_eq(EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 2)).integer, 2, "told once more, or late");
	expect_open(100, 0, 2, 0);
	cr_expect_eq(NUMBER(FEED(CLOSE, 100, .as.feed.close.end = FEED_END_DEATH)), 1);
	cr_expect_eq(NUMBER(FEED(CLOSE, 100, .as.feed.close.end = FEED_END_DEATH)), 1);
	expect_open(101, 0, 3, 0); /* counted once, by the close */
	cr_expect_eq(NUMBER(FEED(ACK, 101, .id = {5, 0})), 1);
	cr_expect_str_eq(position_field("tries"), "0");
}

/* 1 min, 8 min, 10 min, and a tenth more. */
#define MINUTES                                                                                                        \
	{                                                                                                              \
		.first_ms = 60000, .factor = 8, .max_ms = 600000, .permille = 1100                                     \
	}

/* The next try of 6-0 waits for less than that, and not much less. */
static void expect_waits(struct reply r, int64_t ms)
{
	cr_expect(r.kind == REPLY_POSITION && r.wait_ms <= ms && r.wait_ms > ms - 10000 && r.bad.ms == 6,
		"%d: %lld ms of %lld, entry %llu", r.kind, (long long)r.wait_ms, (long long)ms,
		(unsigned long long)r.bad.ms);
}

static void open_behind_5(void)
{
	xadd("5-0"), xadd("6-0"), xadd("7-0");
	expect_open(100, 0, 0, 0);
	NUMBER(FEED(ACK, 100, .id = {5, 0}));
}

Test(script, the_pause_before_a_try_is_kept_for_every_owner_and_an_ack_ends_it)
{
	open_behind_5();
	cr_expect_eq(EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 1, .as.feed.pause = MINUTES)).wait_ms, 66000);
	expect_waits(EXEC(FEED(OPEN, 100, .as.feed.open.start = S("0"))), 66000);
	cr_expect_eq(EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 2, .as.feed.pause = MINUTES)).wait_ms, 528000);
	cr_expect_eq(EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 3, .as.feed.pause = MINUTES)).wait_ms, 660000);
	cr_expect_eq(NUMBER(FEED(CLOSE, 100, .as.feed.close.end = FEED_END_KEEP)), 1);
	expect_waits(EXEC(FEED(OPEN, 101, .as.feed.open.start = S("0"))), 660000);
	expect_waits(EXEC(FEED(OPEN, 102, .as.feed.open.start = S("0"))), 660000); /* after a kill -9 */
	NUMBER(FEED(ACK, 102, .id = {6, 0}));
	cr_expect_str_eq(position_field("not_before"), "none");
	cr_expect_str_eq(position_field("pause"), "none");
}

Test(script, a_death_that_is_counted_has_a_pause_like_a_failure)
{
	open_behind_5();
	cr_expect_eq(NUMBER(FEED(CLOSE, 100, .as.feed.close.end = FEED_END_DEATH, .as.feed.pause = MINUTES)), 1);
	expect_waits(EXEC(FEED(OPEN, 101, .as.feed.open.start = S("0"))), 66000);
	real_redis_command(redis, "HSET {s}-sluice not_before 5"); /* its time has come */
	expect_waits(EXEC(FEED(OPEN, 102, .as.feed.open.start = S("0"), .as.feed.open.was_alone = true,
			     .as.feed.pause = MINUTES)),
		528000);
	expect_waits(EXEC(FEED(OPEN, 102, .as.feed.open.start = S("0"), .as.feed.open.was_alone = true,
			     .as.feed.pause = MINUTES)),
		528000);
}

Test(script, an_end_within_the_pause_before_a_try_counts_none_and_keeps_the_pause)
{
	open_behind_5();
	const struct cmd_pause asked = {.first_ms = 900000, .factor = 1, .max_ms = 900000, .permille = 1000};
	cr_expect_eq(EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 1, .as.feed.pause = asked)).wait_ms, 900000);
	for (uint64_t token = 101; token < 105; token++) { /* each dies with nothing but that entry, which nobody had */
		const struct reply r = EXEC(FEED(OPEN, token, .as.feed.open.start = S("0"),
			.as.feed.open.was_alone = true, .as.feed.open.is_suspect = true, .as.feed.pause = MINUTES));
		expect_waits(r, 900000);
		cr_expect_eq(r.integer, 1);
		cr_expect_eq(r.n, POSITION_DEATH | (token == 101 ? POSITION_PROGRESS : 0));
	}
	real_redis_command(redis, "HSET {s}-sluice not_before 5");
	expect_alone(105, 5, 2, POSITION_DEATH | POSITION_SUSPECT); /* it may have been given by now */
}

Test(script, a_clock_that_was_set_back_makes_no_pause_longer)
{
	open_behind_5();
	cr_expect_eq(EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 1, .as.feed.pause = MINUTES)).wait_ms, 66000);
	real_redis_command(redis, "HSET {s}-sluice not_before 99999999999999");
	expect_waits(EXEC(FEED(OPEN, 101, .as.feed.open.start = S("0"))), 66000);
	cr_expect_neq(strcmp(position_field("not_before"), "99999999999999"), 0, "it is right from here on");
	real_redis_command(redis, "HSET {s}-sluice not_before 5");
	cr_expect_eq(EXEC(FEED(OPEN, 102, .as.feed.open.start = S("0"))).wait_ms, 0);
}

Test(script, a_position_without_a_pause_has_none)
{
	open_behind_5();
	real_redis_command(redis, "HINCRBY {s}-sluice tries 1"); /* as release 0.1 counts */
	const struct reply r = EXEC(FEED(OPEN, 101, .as.feed.open.start = S("0")));
	cr_expect(r.integer == 1 && r.wait_ms == 0 && r.bad.ms == 0);
	real_redis_command(redis, "HSET {s}-sluice not_before x pause y");
	cr_expect_eq(EXEC(FEED(OPEN, 102, .as.feed.open.start = S("0"))).wait_ms, 0, "no number: no pause");
}

Test(script, a_replay_leaves_no_pause)
{
	open_behind_5();
	EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 1, .as.feed.pause = MINUTES));
	real_redis_command(redis, "EVAL %s 2 {s}-sluice s 60000 0", script_text(SCRIPT_FEED_HOLD));
	const struct reply r = EXEC(FEED(OPEN, 101, .as.feed.open.start = S("0")));
	cr_expect(r.integer == 1 && r.wait_ms == 0);
	real_redis_command(redis, "EVAL %s 2 {t}-sluice t 60000 0", script_text(SCRIPT_FEED_HOLD));
	cr_expect_eq(n_of("EXISTS", "{t}-sluice"), 0, "with start 0 no position is made");
}

Test(script, what_is_deleted_or_made_again_does_not_wait)
{
	open_behind_5();
	EXEC(FEED(FAIL, 100, .as.feed.fail.n_tries = 1, .as.feed.pause = MINUTES));
	real_redis_command(redis, "XDEL s 6-0 7-0");
	cr_expect_eq(EXEC(FEED(OPEN, 101, .as.feed.open.start = S("0"))).wait_ms, 0);
	real_redis_command(redis, "DEL s");
	xadd("3-0");
	cr_expect_eq(EXEC(FEED(OPEN, 101, .as.feed.open.start = S("0"))).wait_ms, 0);
}

Test(script, an_ack_of_an_id_the_stream_never_had_is_refused_when_asked_to)
{
	xadd("5-0");
	expect_open(100, 0, 0, 0);
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {6, 0}, .as.feed.ack.check = true)), -2);
	cr_expect_str_eq(position_field("pos"), "0-0");
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {5, 0}, .as.feed.ack.check = true)), 1);
}

Test(script, an_ack_trims_exactly_what_it_passes)
{
	xadd("5-0"), xadd("5-1"), xadd("6-0");
	expect_open(100, 0, 0, 0);
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {5, 0}, .as.feed.ack.trim = true)), 1);
	cr_expect_eq(n_of("XLEN", "s"), 2);
}

Test(script, what_was_made_again_with_lower_ids_is_neither_trimmed_nor_deleted)
{
	xadd("5-0"), xadd("6-0");
	expect_open(100, 0, 0, 0);
	real_redis_command(redis, "DEL s");
	xadd("3-0"), xadd("4-0");
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {5, 0}, .as.feed.ack.trim = true)), 1);
	cr_expect_eq(n_of("XLEN", "s"), 2);
	cr_expect_eq(NUMBER(FEED(CLOSE, 100, .as.feed.close.end = FEED_END_DELETE, .as.feed.close.ttl_ms = 1000)), 1);
	cr_expect_eq(n_of("XLEN", "s"), 2);
	expect_open(101, 0, 0, POSITION_REMADE);
}

Test(script, an_ack_of_what_was_deleted_trims_what_is_before_it)
{
	xadd("5-0"), xadd("6-0"), xadd("7-0"), xadd("8-0");
	expect_open(100, 0, 0, 0);
	real_redis_command(redis, "XDEL s 6-0");
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {6, 0}, .as.feed.ack.trim = true)), 1);
	cr_expect_eq(n_of("XLEN", "s"), 2);
	real_redis_command(redis, "XDEL s 8-0");
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {8, 0}, .as.feed.ack.trim = true)), 1);
	cr_expect_eq(n_of("XLEN", "s"), 0);
	real_redis_command(redis, "DEL s");
	real_redis_command(redis, "SET s x");
	cr_expect_eq(NUMBER(FEED(ACK, 100, .id = {9, 0}, .as.feed.ack.trim = true)), 1);
	cr_expect_eq(n_of("EXISTS", "s"), 1);
}

Test(script, a_stream_made_again_starts_at_0_0)
{
	xadd("5-0");
	expect_open(100, 0, 0, 0);
	NUMBER(FEED(ACK, 100, .id = {5, 0}));
	real_redis_command(redis, "DEL s");
	expect_open(100, 5, 0, POSITION_AT_END); /* gone is not made again */
	xadd("3-0");
	expect_open(100, 0, 0, POSITION_REMADE);
}

static void expect_lost(uint64_t token, int64_t n_lost, int64_t n_added)
{
	const struct reply r = EXEC(FEED(OPEN, token, .as.feed.open.start = S("0")));
	cr_expect(r.n_lost == n_lost && r.n_added == n_added, "lost %lld of %lld", (long long)r.n_lost,
		(long long)r.n_added);
}

static void close_run(uint64_t token)
{
	cr_expect_eq(NUMBER(FEED(CLOSE, token, .as.feed.close.end = FEED_END_KEEP)), 1);
}

Test(script, entries_that_are_gone_before_they_were_acknowledged_are_counted_once)
{
	xadd("1-0"), xadd("2-0");
	real_redis_command(redis, "XTRIM s MAXLEN 1"); /* before anybody read it: not ours */
	xadd("3-0"), xadd("4-0"), xadd("5-0");
	expect_lost(100, 0, 1);
	NUMBER(FEED(ACK, 100, .id = {2, 0}, .as.feed.ack.n_added = 2));
	cr_expect_str_eq(position_field("n"), "2-0:2");
	close_run(100);
	expect_lost(101, 0, 2);
	close_run(101);
	real_redis_command(redis, "XTRIM s MAXLEN 1");
	expect_lost(102, 2, 4); /* 3-0 and 4-0 */
	close_run(102);
	expect_lost(103, 0, 4);
	close_run(103);
	real_redis_command(redis, "XDEL s 5-0");
	expect_lost(104, 1, 5);
	xadd("6-0"), xadd("7-0");
	NUMBER(FEED(ACK, 104, .id = {6, 0}, .as.feed.ack.n_added = 6, .as.feed.ack.trim = true));
	close_run(104);
	expect_lost(105, 0, 6);
}

Test(script, what_a_worker_may_be_at_work_on_is_not_called_lost)
{
	xadd("1-0"), xadd("2-0"), xadd("3-0");
	expect_lost(100, 0, 0);
	real_redis_command(redis, "XTRIM s MAXLEN 0"); /* its worker was told all three */
	expect_lost(100, 0, 0);                        /* its connection was lost, it was restarted */
	NUMBER(FEED(ACK, 100, .id = {2, 0}, .as.feed.ack.n_added = 2));
	expect_lost(101, 0, 2); /* it has died: perhaps another comes back with them */
	close_run(101);
	expect_lost(102, 1, 3);
}

Test(script, behind_the_highest_id_a_read_is_no_error)
{
	const struct entry_id highest = {UINT64_MAX, UINT64_MAX};
	xadd("18446744073709551615-18446744073709551615");
	const struct reply r = EXEC(.kind = CMD_FEED_READ, .stream = S("s"), .id = highest, .as.read.count = 2);
	cr_assert(r.kind == REPLY_FEED && r.feed->n == 1, "kind %d", r.kind);
	cr_expect_eq(entry_id_cmp(r.feed->v[0].id, highest), 0, "who reads it knows it already");
	mem_free(r.feed);
}

static int64_t lag_behind(const char *id)
{
	const redisReply *r =
		real_redis_command(redis, "EVAL %s 2 {s}-sluice s %s 10", script_text(SCRIPT_FEED_LAG), id);
	return r->type == REDIS_REPLY_INTEGER ? r->integer : -1;
}

Test(script, behind_the_highest_id_nothing_is_unread)
{
	xadd("5-0"), xadd("18446744073709551615-18446744073709551615");
	cr_expect_eq(lag_behind("5-0"), 1);
	cr_expect_eq(lag_behind("18446744073709551615-18446744073709551615"), 0);
	expect_open(100, 0, 0, 0);
	NUMBER(FEED(ACK, 100, .id = {UINT64_MAX, UINT64_MAX}));
	cr_expect_eq(NUMBER(FEED(CLOSE, 100, .as.feed.close.end = FEED_END_DELETE, .as.feed.close.ttl_ms = 50000)), 2);
	cr_expect_eq(n_of("EXISTS", "s") + n_of("EXISTS", "{s}-sluice"), 0);
}

/* Counting must not move megabytes within Redis: what was added since is asked of its counters, where it has any. */
Test(script, the_lag_of_large_entries_is_what_was_added_since)
{
	for (int i = 1; i <= 5; i++)
		real_redis_command(redis, "EVAL %s 1 s %d",
			"redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'f', "
			"string.rep('x', 200000))",
			i);
	cr_expect_eq(lag_behind("4-0"), 1);
	cr_expect_eq(lag_behind("3-0"), -1, "two are too much to be counted, and no position says what was added");
	cr_expect_eq(lag_behind("0-5"), 5, "nothing is before it");
	expect_lost(100, 0, 0);
	NUMBER(FEED(ACK, 100, .id = {1, 0}, .as.feed.ack.n_added = 1));
	cr_expect_eq(lag_behind("1-0"), 4);
	cr_expect_eq(lag_behind("2-0"), -1, "the count is of another position");
	real_redis_command(redis, "HSET {s}-sluice n 1-0:9");
	cr_expect_eq(lag_behind("1-0"), 2, "those that were counted are there");
	real_redis_command(redis, "HSET {s}-sluice n 1-0:-90");
	cr_expect_eq(lag_behind("1-0"), -1);
}

Test(script, the_lag_of_small_entries_is_counted_up_to_the_most)
{
	for (int i = 1; i <= 12; i++)
		real_redis_command(redis, "XADD s %d-0 f v", i);
	real_redis_command(redis, "XDEL s 8-0");
	cr_expect_eq(lag_behind("0-0"), 10);
	cr_expect_eq(lag_behind("2-0"), 9);
	cr_expect_eq(lag_behind("11-0"), 1);
	cr_expect_eq(lag_behind("12-0"), 0);
}

/* Somebody wrote to it by hand: what is no number counts for nothing, and the stream goes on. */
Test(script, a_position_with_values_that_are_none_is_opened)
{
	xadd("5-0");
	real_redis_command(
		redis, "HSET {s}-sluice token x pos 0-0 tries -5 run 1 died x ends y n : not_before z pause -1");
	expect_open(100, 0, 0, POSITION_DEATH);
	expect_open(101, 0, 0, POSITION_DEATH | POSITION_SUSPECT);
	real_redis_command(redis, "HSET {s}-sluice tries 99999999999999999999 died 1e300 ends 1e300 n 0-0:9e99 "
				  "not_before 99999999999999999999 pause 5");
	const struct reply r = EXEC(FEED(OPEN, 102, .as.feed.open.start = S("0")));
	cr_expect(r.kind == REPLY_POSITION && r.integer == 1000000000 && r.wait_ms == 5, "tries %lld, wait %lld",
		(long long)r.integer, (long long)r.wait_ms);
	real_redis_command(redis, "HSET {s}-sluice tries nan pos 99999999999999999999-0");
	expect_open(102, 0, 0, 0);
	real_redis_command(redis, "DEL s");
	real_redis_command(redis, "HSET {s}-sluice tries nan pos 99999999999999999999-0");
	expect_open(102, 0, 0, POSITION_AT_END);
	real_redis_command(redis, "HSET {s}-sluice pos x");
	cr_expect_eq(EXEC(FEED(FAIL, 102, .as.feed.fail.n_tries = 1, .as.feed.pause = MINUTES)).kind, REPLY_POSITION);
	real_redis_command(redis, "HDEL {s}-sluice pos");
	cr_expect_eq(NUMBER(FEED(CLOSE, 102, .as.feed.close.end = FEED_END_DELETE, .as.feed.close.ttl_ms = 50000)), 2);
}

Test(script, what_is_gone_in_the_middle_is_counted_when_the_position_is_behind_it)
{
	xadd("1-0"), xadd("2-0"), xadd("3-0");
	expect_lost(100, 0, 0);
	NUMBER(FEED(ACK, 100, .id = {1, 0}, .as.feed.ack.n_added = 1));
	close_run(100);
	real_redis_command(redis, "XDEL s 2-0");
	expect_lost(101, 0, 1);
	NUMBER(FEED(ACK, 101, .id = {3, 0}, .as.feed.ack.n_added = 2));
	close_run(101);
	expect_lost(102, 1, 3);
}

Test(script, where_it_is_not_known_nothing_is_called_lost)
{
	xadd("1-0"), xadd("2-0"), xadd("3-0");
	expect_lost(100, 0, 0);
	NUMBER(FEED(ACK, 100, .id = {1, 0}, .as.feed.ack.n_added = -1));
	close_run(100);
	expect_lost(101, 0, -1); /* would have to be counted */
	close_run(101);
	real_redis_command(redis, "HSET {s}-sluice n 1-0:0 pos 2-0"); /* as an older daemon moves it */
	real_redis_command(redis, "XTRIM s MAXLEN 1");
	expect_lost(102, 0, 2);
	close_run(102);
	real_redis_command(redis, "DEL s");
	expect_lost(103, 0, 2); /* gone: how many were unread nobody knows */
	close_run(103);
	xadd("9-0");
	expect_lost(104, 0, 0); /* made again */
	close_run(104);
	real_redis_command(redis, "HSET {s}-sluice n x");
	expect_lost(105, 0, 0);
}

Test(script, where_a_stream_without_position_starts)
{
	xadd("5-0");
	const struct reply r = EXEC(FEED(OPEN, 100, .as.feed.open.start = S("$")));
	cr_expect(r.kind == REPLY_POSITION && r.id.ms == 5);
	real_redis_command(redis, "DEL s");
	real_redis_command(redis, "DEL {s}-sluice");
	cr_expect_eq(EXEC(FEED(OPEN, 100, .as.feed.open.start = S("$"))).id.ms, 0);
}

Test(script, close_keeps_lets_go_or_deletes_what_is_read)
{
	xadd("5-0"), xadd("6-0");
	expect_open(100, 0, 0, 0);
	NUMBER(FEED(ACK, 100, .id = {5, 0}));
	cr_expect_eq(NUMBER(FEED(CLOSE, 100, .as.feed.close.end = FEED_END_KEEP)), 1);
	cr_expect_eq(n_of("PTTL", "{s}-sluice"), -1);
	expect_open(101, 5, 0, 0); /* a clean end is no death */
	cr_expect_eq(NUMBER(FEED(CLOSE, 101, .as.feed.close.end = FEED_END_DONE, .as.feed.close.ttl_ms = 50000)), 1);
	cr_expect_gt(n_of("PTTL", "{s}-sluice"), 40000);
	expect_open(102, 5, 0, 0);
	cr_expect_eq(n_of("PTTL", "{s}-sluice"), -1);
	cr_expect_eq(NUMBER(FEED(CLOSE, 102, .as.feed.close.end = FEED_END_DELETE, .as.feed.close.ttl_ms = 50000)),
		1); /* one is unread */
	cr_expect_eq(n_of("EXISTS", "s"), 1);
	NUMBER(FEED(ACK, 102, .id = {6, 0}));
	cr_expect_eq(NUMBER(FEED(CLOSE, 102, .as.feed.close.end = FEED_END_DELETE, .as.feed.close.ttl_ms = 50000)), 2);
	cr_expect_eq(n_of("EXISTS", "s") + n_of("EXISTS", "{s}-sluice"), 0);
}

Test(script, a_data_stream_of_another_type_says_so)
{
	real_redis_command(redis, "SET s x");
	EXEC(FEED(OPEN, 100, .as.feed.open.start = S("0")));
	cr_expect(reply.kind == REPLY_ERROR && strncmp(reply.text.p, "WRONGTYPE", 9) == 0);
}

Test(script, entries_are_read_byte_exact)
{
	real_redis_command(redis, "XADD s 5-0 %b %b a 1 a 2", "\xff\x00", (size_t)2, "", (size_t)0);
	const struct reply r = EXEC(.kind = CMD_FEED_READ, .stream = S("s"), .as.read.count = 10);
	cr_assert(r.kind == REPLY_FEED && r.feed->n == 1);
	cr_expect_eq(r.feed->v[0].id.ms, 5);
	cr_expect_arr_eq(
		r.feed->v[0].json, "[\"5-0\",[{\"b64\":\"/wA=\"},\"\",\"a\",\"1\",\"a\",\"2\"]", r.feed->v[0].len);
	mem_free(r.feed);
	const struct reply none = EXEC(.kind = CMD_FEED_READ, .stream = S("s"), .id = {5, 0}, .as.read.count = 10);
	cr_assert(none.kind == REPLY_FEED && none.feed->n == 0);
	mem_free(none.feed);
}

Test(script, a_consumer_is_forgotten_when_it_is_idle_and_has_nothing)
{
	EXEC(.kind = CMD_GROUP_CREATE);
	real_redis_command(redis, "XGROUP CREATECONSUMER orders-input orders-group old");
	struct reply r = EXEC(.kind = CMD_FLEET, .as.fleet.credits = 5, .as.fleet.n_workers = 1);
	cr_expect(r.kind == REPLY_INT && r.integer == 1, "%d", r.kind);
	r = EXEC(.kind = CMD_FORGET, .as.forget.consumer = {"old", 3}, .as.forget.min_idle_ms = 60000);
	cr_expect_eq(r.integer, 0, "it was seen just now");
	r = EXEC(.kind = CMD_FORGET, .as.forget.consumer = {"old", 3});
	cr_expect_eq(r.integer, 1);
	r = EXEC(.kind = CMD_FORGET, .as.forget.consumer = {"old", 3});
	cr_expect_eq(r.integer, 0, "it is gone");
}

Test(script, who_leaves_is_known_until_it_is_back)
{
	cr_expect_eq(EXEC(.kind = CMD_LEFT).n, 0);
	cr_expect_eq(number((struct cmd){.kind = CMD_LEAVE}), 1);
	struct reply r = EXEC(.kind = CMD_LEFT);
	cr_assert(r.kind == REPLY_CONSUMERS && r.n == 1);
	cr_expect(r.consumers[0].name.len == 2 && memcmp(r.consumers[0].name.p, "me", 2) == 0);
	cr_expect(r.consumers[0].idle_ms >= 0 && r.consumers[0].idle_ms < 60000);
	cr_expect_eq(number((struct cmd){.kind = CMD_LEAVE}), 0, "said again: the same");
	cr_expect_eq(number((struct cmd){.kind = CMD_BACK}), 1);
	cr_expect_eq(number((struct cmd){.kind = CMD_BACK}), 0);
	cr_expect_eq(EXEC(.kind = CMD_LEFT).n, 0);
}

/* ---- entries that nobody has */

static struct reply ghosts(struct entry_id from, int64_t count)
{
	return EXEC(.kind = CMD_GHOSTS, .id = from, .as.ghosts.count = count);
}

Test(script, an_entry_of_a_deleted_consumer_is_found_and_goes_back_as_it_was)
{
	const struct entry_id mine = given("me", "a"), lost = given("you", "b");
	NUMBER(.kind = CMD_TAKE, .stream = S("b"), .id = lost, .as.take.consumer = S("you"));
	cr_expect_eq(ghosts((struct entry_id){0, 0}, 50).n, 0);
	cr_expect_eq(NUMBER(.kind = CMD_GHOST_BACK, .stream = S("b"), .id = lost), 0, "somebody has it");
	real_redis_command(redis, "XGROUP DELCONSUMER orders-input orders-group you");
	const struct reply found = ghosts((struct entry_id){0, 0}, 50);
	cr_assert(found.kind == REPLY_PENDING && found.n == 1 && found.id.ms == 0);
	cr_expect_eq(entry_id_cmp(found.pending[0].id, lost), 0);
	const struct reply back = EXEC(.kind = CMD_GHOST_BACK, .stream = S("b"), .id = lost);
	cr_assert(back.kind == REPLY_ID && entry_id_cmp(back.id, lost) > 0);
	const struct entry_id new = back.id;
	cr_expect_str_eq(registry("b"), id_text(new));
	cr_expect_eq(EXEC(.kind = CMD_GHOST_BACK, .stream = S("b"), .id = lost).kind, REPLY_NIL);
	cr_expect_eq(NUMBER(.kind = CMD_GHOST_BACK, .stream = S("b"), .id = new), 0, "not delivered yet");
	EXEC(.kind = CMD_READ, .as.read.count = 9);
	cr_assert(reply.entries->n == 1 && reply.entries->v[0].retry == 0);
	entry_batch_free(reply.entries);
	cr_expect_eq(n_pending(), 2);
	(void)mine;
}

Test(script, what_waits_for_its_stream_is_no_ghost_however_it_is_written)
{
	static const char *const inputs[] = {"{\"DataStreamName\":\"a\",\"Info\":1}",
		"{\"Info\":1,\"DataStreamName\":\"a\"}", " { \"DataStreamName\" : \"\\u0061\" } "};
	NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = given("me", "a"));
	for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
		real_redis_command(redis, "XADD orders-input * lbs-input %s", inputs[i]);
		EXEC(.kind = CMD_READ, .as.read.count = 1);
		const struct entry_id id = reply.entries->v[0].id;
		entry_batch_free(reply.entries);
		cr_expect_eq(NUMBER(.kind = CMD_TAKE, .stream = S("a"), .id = id), 2);
		cr_expect_eq(NUMBER(.kind = CMD_GHOST_BACK, .stream = S("a"), .id = id), 0);
	}
	EXEC(.kind = CMD_ADD, .stream = S("unread"));
	cr_expect_eq(ghosts((struct entry_id){0, 0}, 50).n, 0);
}

Test(script, ghosts_are_found_page_by_page)
{
	struct entry_id last = {0, 0};
	for (int i = 0; i < 7; i++)
		last = given("you", "a");
	real_redis_command(redis, "XGROUP DELCONSUMER orders-input orders-group you");
	size_t n = 0, pages = 0;
	struct entry_id from = {0, 0};
	do {
		const struct reply r = ghosts(from, 3);
		cr_assert_eq(r.kind, REPLY_PENDING);
		n += r.n;
		pages++;
		from = entry_id_next(r.id);
	} while (from.seq != 1 || from.ms != 0);
	cr_expect(n == 7 && pages == 3);
	const struct reply floor = EXEC(.kind = CMD_GHOSTS, .as.ghosts.count = 3, .as.ghosts.only_last = true);
	cr_expect(floor.n == 0 && entry_id_cmp(floor.id, last) == 0);
	real_redis_command(redis, "XGROUP DESTROY orders-input orders-group");
	cr_expect_eq(ghosts((struct entry_id){0, 0}, 50).n, 0);
}

/* Pages of the delayed set go on where the last one ended, within one time, too. */
static void expect_delayed(const char *from, int skip, int n, const char *expected)
{
	char got[200] = "";
	const redisReply *r =
		real_redis_command(redis, "EVAL %s 1 z %s %d %d", script_text(SCRIPT_DELAYED_PAGE), from, skip, n);
	for (size_t i = 0; i < r->elements; i++)
		snprintf(got + strlen(got), sizeof got - strlen(got), "%s ", r->element[i]->str);
	cr_expect_str_eq(got, expected);
}

Test(script, a_page_of_what_waits_begins_behind_what_was_seen)
{
	real_redis_command(redis, "ZADD z 5 a 7 b 7 c 7 d 9.5 e");
	expect_delayed("-inf", 0, 2, "a 5 b 7 ");
	expect_delayed("7", 1, 2, "c 7 d 7 ");
	expect_delayed("7", 3, 9, "e 9.5 ");
	expect_delayed("9.5", 1, 9, "");
	expect_delayed("0", 0, 1, "a 5 ");
	expect_delayed("6", 0, 1, "b 7 ");
	cr_expect_eq(real_redis_command(redis, "EVAL %s 1 z x 0 1", script_text(SCRIPT_DELAYED_PAGE))->type,
		REDIS_REPLY_ERROR);
}
