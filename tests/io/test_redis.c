/* The life of a connection against a scripted server. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "lib/redis_rig.h"

static struct rig R;

static void up(void)
{
	rig_init(&R);
}

static void down(void)
{
	rig_fini(&R);
}

#define IO_TEST(name) Test(redis, name, .init = up, .fini = down)
#define SCRIPTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void expect_story(const char *want)
{
	cr_assert(strcmp(R.story.data, want) == 0, "story:\n%swanted:\n%s", R.story.data, want);
}

/* Replaces the server's port by PORT, so that stories can be compared. */
static void hide_port(void)
{
	char port[16];
	int n = snprintf(port, sizeof(port), ":%u", R.opts.addr.port);
	char *p;
	while ((p = strstr(R.story.data, port))) {
		memcpy(p, ":P", 2);
		memmove(p + 2, p + n, strlen(p + n) + 1);
	}
}

IO_TEST(greets_then_answers_in_order)
{
	rig_serve(&R, SCRIPTS("serve"));
	R.opts.username = "ann";
	R.opts.password = "s3cret";
	R.opts.client_name = "sluiced-1";
	R.opts.db = 4;
	R.opts.maint = REDIS_MAINT_AUTO;
	rig_open(&R);
	cr_assert(rig_until(&R, "up"));
	cr_assert(redis_is_up(R.c));
	cr_assert(redis_resp(R.c) == 3);
	cr_assert(!redis_is_valkey(R.c));
	cr_assert(redis_client_id(R.c) == 7);
	cr_assert(redis_maint(R.c) == REDIS_MAINT_REFUSED);
	rig_send(&R, 1, "ECHO one", 2000);
	rig_send(&R, 2, "ECHO two", 2000);
	cr_assert(rig_until(&R, "reply 2"));
	expect_story("up\nreply 1 one\nreply 2 two\n");
	cr_assert(strcmp(resp_server_heard(R.server, 0),
			  "HELLO 3 AUTH ann s3cret SETNAME sluiced-1; SELECT 4; CLIENT MAINT_NOTIFICATIONS ON "
			  "moving-endpoint-type internal-ip; ECHO one; ECHO two") == 0,
		"%s", resp_server_heard(R.server, 0));
}

IO_TEST(an_error_reply_is_an_answer)
{
	rig_serve(&R, SCRIPTS("hello\nexpect GET\nsend -WRONGTYPE no\\r\\n"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up"));
	rig_send(&R, 1, "GET x", 2000);
	rig_send(&R, 2, "ECHO on", 2000);
	cr_assert(rig_until(&R, "reply 2"));
	expect_story("up\nreply 1 -WRONGTYPE no\nreply 2 on\n");
}

IO_TEST(knows_a_valkey_by_its_word)
{
	rig_serve(&R,
		SCRIPTS("expect HELLO\nsend %3\\r\\n$6\\r\\nserver\\r\\n$6\\r\\nvalkey\\r\\n$5\\r\\nproto\\r\\n:3\\r\\n"
			"$2\\r\\nid\\r\\n:7\\r\\n"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up"));
	cr_assert(redis_is_valkey(R.c));
	cr_assert(redis_client_id(R.c) == 7);
}

IO_TEST(falls_back_to_resp2_when_hello_is_unknown)
{
	rig_serve(&R, SCRIPTS("expect HELLO\nsend -ERR unknown command 'HELLO'\\r\\n\nexpect AUTH pw\nsend +OK\\r\\n\n"
			      "expect CLIENT SETNAME me\nsend +OK\\r\\n\nexpect CLIENT ID\nsend :42\\r\\n"));
	R.opts.password = "pw";
	R.opts.client_name = "me";
	R.opts.maint = REDIS_MAINT_AUTO;
	rig_open(&R);
	cr_assert(rig_until(&R, "up"));
	cr_assert(redis_resp(R.c) == 2);
	cr_assert(redis_client_id(R.c) == 42);
	cr_assert(!strstr(resp_server_heard(R.server, 0), "MAINT"));
}

IO_TEST(falls_back_to_resp2_on_noproto)
{
	rig_serve(&R, SCRIPTS("expect HELLO\nsend -NOPROTO sorry this protocol version is not supported\\r\\n\nexpect "
			      "CLIENT ID\nsend :1\\r\\n"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up"));
	cr_assert(redis_resp(R.c) == 2);
}

IO_TEST(falls_back_to_resp2_when_an_unknown_hello_is_told_to_log_in_first)
{
	rig_serve(&R,
		SCRIPTS("expect HELLO\nsend -NOAUTH Authentication required.\\r\\n\nexpect AUTH pw\nsend +OK\\r\\n\n"
			"expect CLIENT ID\nsend :42\\r\\n"));
	R.opts.password = "pw";
	rig_open(&R);
	cr_assert(rig_until(&R, "up"));
	cr_assert(redis_resp(R.c) == 2);
}

IO_TEST(a_wrong_password_is_told_and_nothing_else_is_sent)
{
	rig_serve(&R, SCRIPTS("expect HELLO\nsend -WRONGPASS invalid username-password pair or user is "
			      "disabled.\\r\\n\nserve",
			      "hello"));
	R.opts.password = "bad-secret";
	R.opts.db = 3;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	hide_port();
	expect_story("down: redis 127.0.0.1:P: authentication refused: WRONGPASS invalid username-password pair or "
		     "user is disabled.\nup\n");
	cr_assert(!strstr(resp_server_heard(R.server, 0), "SELECT"));
	cr_assert(!strstr(R.story.data, "bad-secret"));
}

IO_TEST(loading_is_a_reason_to_come_back)
{
	rig_serve(&R, SCRIPTS("expect HELLO\nsend -LOADING Redis is loading the dataset in memory\\r\\n", "serve"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	hide_port();
	expect_story("down: redis 127.0.0.1:P: HELLO refused: LOADING Redis is loading the dataset in memory\nup\n");
}

IO_TEST(too_many_clients_is_told_in_the_servers_words)
{
	rig_serve(&R, SCRIPTS("send -ERR max number of clients reached\\r\\n\nexpect HELLO\nclose", "serve"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	cr_assert(strstr(R.story.data, "ERR max number of clients reached"), "%s", R.story.data);
}

IO_TEST(maintenance_off_is_never_asked)
{
	rig_serve(&R, SCRIPTS("serve"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up"));
	cr_assert(strcmp(resp_server_heard(R.server, 0), "HELLO 3") == 0);
	cr_assert(redis_maint(R.c) == REDIS_MAINT_UNASKED);
}

IO_TEST(maintenance_required_and_refused_stays_down)
{
	rig_serve(&R, SCRIPTS("serve", "hello\nexpect CLIENT MAINT_NOTIFICATIONS\nsend +QUEUED\\r\\n",
			      "hello\nexpect CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type external-fqdn\nsend "
			      "+OK\\r\\n"));
	R.opts.maint = REDIS_MAINT_REQUIRED;
	R.opts.maint_endpoint_type = "external-fqdn";
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	hide_port();
	expect_story("down: redis 127.0.0.1:P: maintenance notifications refused: ERR unknown subcommand "
		     "'MAINT_NOTIFICATIONS'. Try CLIENT HELP.\n"
		     "down: redis 127.0.0.1:P: maintenance notifications refused: QUEUED\nup\n");
	cr_assert(redis_maint(R.c) == REDIS_MAINT_ON);
}

IO_TEST(maintenance_required_needs_resp3)
{
	rig_serve(&R, SCRIPTS("expect HELLO\nsend -ERR unknown command `HELLO`\\r\\n"));
	R.opts.maint = REDIS_MAINT_REQUIRED;
	R.opts.stay_down = true;
	rig_open(&R);
	cr_assert(rig_until(&R, "down"));
	hide_port();
	expect_story(
		"down: redis 127.0.0.1:P: maintenance notifications refused: no RESP3: ERR unknown command `HELLO`\n");
}

IO_TEST(pushes_may_stand_anywhere)
{
	rig_serve(&R,
		SCRIPTS("expect HELLO\nsend "
			">4\\r\\n$6\\r\\nMOVING\\r\\n:0\\r\\n:15\\r\\n_\\r\\n%1\\r\\n$2\\r\\nid\\r\\n:9\\r\\n>1\\r\\n$"
			"4\\r\\nA-ok\\r\\n\n"
			"expect CLIENT MAINT_NOTIFICATIONS\nsend "
			">3\\r\\n+MIGRATED\\r\\n:1\\r\\n$6\\r\\n[\"27\"]\\r\\n+OK\\r\\n\n"
			"expect ECHO\ntrickle "
			">2\\r\\n$6\\r\\nMOVING\\r\\n:1\\r\\n$3\\r\\none\\r\\n>0\\r\\n>1\\r\\n$9\\r\\nsubscribe\\r\\n\n"
			"expect ECHO\nsend $3\\r\\ntwo\\r\\n"));
	R.opts.maint = REDIS_MAINT_AUTO;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "ECHO one", 2000);
	rig_send(&R, 2, "ECHO two", 2000);
	cr_assert(rig_until(&R, "reply 2"));
	expect_story("push MOVING +0 +15 nil\npush A-ok\npush +MIGRATED +1 [\"27\"]\nup\npush MOVING +1\nreply 1 "
		     "one\npush\npush subscribe\n"
		     "reply 2 two\n");
}

/* Whatever stands in a push, the replies around it belong to their commands. */
IO_TEST(broken_pushes_answer_nothing)
{
	static const char *const pushes[] = {
		">-1", ">0", ">1\\r\\n~-1", ">1\\r\\n*-1", ">1\\r\\n>-1", ">1\\r\\n%-1", ">1\\r\\n$-1", ">1\\r\\n_"};
	for (size_t i = 0; i < sizeof pushes / sizeof *pushes; i++) {
		char script[300];
		snprintf(script, sizeof script,
			"hello\nexpect ECHO\ntrickle %s\\r\\n:1\\r\\n%s\\r\\n\nexpect ECHO\nsend "
			"%s\\r\\n:2\\r\\n\nserve",
			pushes[i], pushes[i], pushes[i]);
		rig_serve(&R, SCRIPTS(script));
		rig_open(&R);
		cr_assert(rig_until(&R, "up\n"));
		rig_send(&R, 1, "ECHO 1", 2000);
		rig_send(&R, 2, "ECHO 2", 2000);
		cr_assert(rig_until(&R, "reply 2"), "%s: %s", pushes[i], R.story.data);
		const char *word = i < 2 ? "" : " nil";
		char story[200];
		snprintf(story, sizeof story, "up\npush%s\nreply 1 :1\npush%s\npush%s\nreply 2 :2\n", word, word, word);
		expect_story(story);
		rig_fini(&R);
		rig_init(&R);
	}
}

IO_TEST(subscriptions_are_told_by_push_and_answered_once)
{
	rig_serve(&R,
		SCRIPTS("hello\nexpect PSUBSCRIBE a* b*\nsend "
			">3\\r\\n$10\\r\\npsubscribe\\r\\n$2\\r\\na*\\r\\n:1\\r\\n\n"
			"send >4\\r\\n$8\\r\\npmessage\\r\\n$2\\r\\na*\\r\\n$2\\r\\nax\\r\\n$1\\r\\n1\\r\\n\n"
			"send >3\\r\\n$10\\r\\npsubscribe\\r\\n$2\\r\\nb*\\r\\n:2\\r\\n\n"
			"expect PSUBSCRIBE c*\nsend -NOPERM this user has no permissions to access the channel\\r\\n"));
	R.opts.is_subscriber = true;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "PSUBSCRIBE a* b*", 2000);
	cr_assert(rig_until(&R, "reply 1"));
	rig_send(&R, 2, "PSUBSCRIBE c*", 2000);
	cr_assert(rig_until(&R, "reply 2"));
	expect_story("up\npush psubscribe a* +1\npush pmessage a* ax 1\npush psubscribe b* +2\nreply 1 [3]\n"
		     "reply 2 -NOPERM this user has no permissions to access the channel\n");
	cr_assert(redis_is_up(R.c));
}

IO_TEST(resp2_subscriptions_look_the_same)
{
	rig_serve(&R, SCRIPTS("expect HELLO\nsend -ERR unknown command\\r\\n\nexpect CLIENT ID\nsend :1\\r\\n\nexpect "
			      "SUBSCRIBE a\n"
			      "send "
			      "*3\\r\\n$9\\r\\nsubscribe\\r\\n$1\\r\\na\\r\\n:1\\r\\n*3\\r\\n$7\\r\\nmessage\\r\\n$"
			      "1\\r\\na\\r\\n$2\\r\\nhi\\r\\n\n"
			      "expect PING\nsend *2\\r\\n$4\\r\\npong\\r\\n$0\\r\\n\\r\\n"));
	R.opts.is_subscriber = true;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "SUBSCRIBE a", 2000);
	cr_assert(rig_until(&R, "message a hi"));
	rig_send(&R, 2, "PING", 2000);
	cr_assert(rig_until(&R, "reply 2"));
	expect_story("up\npush subscribe a :1\nreply 1 [3]\npush message a hi\nreply 2 [2]\n");
}

IO_TEST(a_command_past_its_deadline_ends_the_connection)
{
	rig_serve(&R, SCRIPTS("hello\nexpect ECHO\nsend $1\\r\\na\\r\\n\nmute", "serve"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "ECHO a", 100);
	rig_send(&R, 2, "XREADGROUP block", 5000);
	rig_send(&R, 3, "ECHO c", 100);
	cr_assert(rig_until(&R, "waiting)\nup\n"));
	cr_assert(strstr(R.story.data, "up\nreply 1 a\nreply 2 NULL\nreply 3 NULL\ndown up: redis 127.0.0.1:") ==
			  R.story.data,
		"%s", R.story.data);
	cr_assert(strstr(R.story.data, "no answer to XREADGROUP for "));
}

IO_TEST(relaxed_deadlines_are_never_shorter)
{
	rig_serve(&R, SCRIPTS("hello\nexpect ECHO\nwait 300\nsend $1\\r\\na\\r\\n\nmute"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "ECHO a", 100);
	rig_send(&R, 2, "ECHO b", 0);
	redis_relax(R.c, mono_now() + 5000, 2000);
	redis_relax(R.c, mono_now() + 5000, 1);
	cr_assert(rig_until(&R, "reply 1"));
	expect_story("up\nreply 1 a\n");
}

IO_TEST(a_ping_in_a_relaxed_window_waits_as_long)
{
	rig_serve(&R, SCRIPTS("hello\nexpect PING\nwait 900\nsend +PONG\\r\\n"));
	R.opts.times.connect_ms = 300; /* what a PING gets otherwise */
	R.opts.times.ping_idle_ms = 20;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	redis_relax(R.c, mono_now() + 5000, 4000);
	rig_run_for(&R, 1200);
	expect_story("up\n");
	redis_relax(R.c, 0, 0);
	cr_assert(redis_is_up(R.c));
}

static void stall(struct rig *r, const char *line)
{
	(void)r;
	(void)line;
	mono_ms end = mono_now() + 400;
	while (mono_now() < end)
		;
}

IO_TEST(after_a_stall_the_socket_is_read_before_a_deadline_counts)
{
	rig_serve(&R, SCRIPTS("hello\nexpect ECHO\nsend +go\\r\\n\nwait 50\nexpect ECHO\nsend +in time\\r\\n"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "ECHO a", 2000);
	rig_send(&R, 2, "ECHO b", 200);
	R.on_next_event = stall; /* the answer to 2 lies in the socket meanwhile */
	cr_assert(rig_until(&R, "reply 2"));
	expect_story("up\nreply 1 +go\nreply 2 +in time\n");
}

IO_TEST(an_idle_connection_is_pinged_and_a_dead_one_noticed)
{
	rig_serve(&R, SCRIPTS("hello\nexpect PING\nsend +PONG\\r\\n\nexpect PING\nmute", "serve"));
	R.opts.times.ping_idle_ms = 30;
	R.opts.times.connect_ms = 100;
	rig_open(&R);
	cr_assert(rig_until(&R, "waiting)\nup\n"));
	cr_assert(strstr(R.story.data, "no answer to PING"), "%s", R.story.data);
	cr_assert(rig_count(&R, "reply") == 0);
}

IO_TEST(one_that_was_left_is_not_pinged)
{
	rig_serve(&R, SCRIPTS("hello\nexpect ECHO\nwait 150\nsend +late\\r\\n\nmute"));
	R.opts.times.ping_idle_ms = 20;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "ECHO a", 2000);
	redis_leave(R.c, mono_now() + 2000, 0);
	cr_assert(rig_until(&R, "reply 1 +late"));
	rig_run_for(&R, 100);
	expect_story("up\nreply 1 +late\n");
	cr_assert_null(strstr(resp_server_heard(R.server, 0), "PING"), "%s", resp_server_heard(R.server, 0));
}

IO_TEST(comes_back_after_the_server_closed)
{
	rig_serve(&R, SCRIPTS("hello\nexpect GET\nclose", "hello\nexpect GET\nreset", "close", "serve"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	cr_assert(rig_until(&R, "down up: "));
	rig_send(&R, 2, "GET refused", 2000);
	cr_assert(rig_until(&R, "connection\nreply 2 NULL\nup\n"), "%s", R.story.data);
	rig_send(&R, 3, "GET a", 2000);
	cr_assert(rig_until(&R, "reply 3 NULL\n"));
	cr_assert(rig_until(&R, "down: "));
	cr_assert(rig_until(&R, "answered)\nup\n"));
	cr_assert(resp_server_n_conns(R.server) == 4, "%d", resp_server_n_conns(R.server));
}

IO_TEST(nobody_listens_and_backoff_grows)
{
	rig_serve(&R, SCRIPTS("serve"));
	resp_server_stop(R.server);
	R.server = NULL;
	R.opts.times.backoff_initial_ms = 40;
	R.opts.times.backoff_max_ms = 100;
	rig_open(&R);
	rig_run_for(&R, 500);
	int n = rig_count(&R, "cannot connect: connection refused");
	cr_assert(n >= 4 && n <= 12, "%d attempts", n);
}

IO_TEST(new_times_cut_a_long_pause_and_count_from_the_next_attempt)
{
	rig_serve(&R, SCRIPTS("close", "deaf"));
	R.opts.times =
		(struct redis_times){.connect_ms = 600000, .backoff_initial_ms = 600000, .backoff_max_ms = 600000};
	rig_open(&R);
	cr_assert(rig_until(&R, "down"));
	redis_set_times(R.c, &(struct redis_times){.connect_ms = 50, .backoff_initial_ms = 10, .backoff_max_ms = 20});
	cr_assert(rig_until(&R, "no answer to HELLO for "));
	cr_assert(rig_until(&R, "waiting)\ndown: "), "and again: %s", R.story.data);
}

IO_TEST(stays_down_until_retry_when_asked)
{
	rig_serve(&R, SCRIPTS("close", "serve"));
	R.opts.stay_down = true;
	rig_open(&R);
	cr_assert(rig_until(&R, "down"));
	rig_run_for(&R, 150);
	cr_assert(rig_count(&R, "\n") == 1);
	redis_retry(R.c);
	cr_assert(rig_until(&R, "up\n"));
}

IO_TEST(redial_moves_to_another_address)
{
	rig_serve(&R, SCRIPTS("hello\nmute"));
	struct resp_server *other = resp_server_start(SCRIPTS("serve"), NULL);
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	struct redis_addr to = {.host = "localhost", .port = resp_server_port(other)};
	redis_redial(R.c, &to, "moved");
	cr_assert(rig_count(&R, "reply") == 0, "no callback inside the call");
	cr_assert(rig_until(&R, "moved\nup\n"));
	hide_port();
	expect_story("up\nreply 1 NULL\ndown up: redis 127.0.0.1:P: moved\nup\n");
	cr_assert(strcmp(redis_endpoint_type(R.c), "internal-ip") == 0);
	redis_close(R.c, true);
	R.c = NULL;
	resp_server_stop(other);
}

IO_TEST(a_silent_server_ends_by_the_connect_timeout)
{
	rig_serve(&R, SCRIPTS("mute", "serve"));
	R.opts.times.connect_ms = 100;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	cr_assert(strstr(R.story.data, "no answer to HELLO"), "%s", R.story.data);
}

IO_TEST(an_unresolvable_name_is_said)
{
	R.opts.addr = (struct redis_addr){.host = "no-such-host.invalid", .port = 6379};
	R.opts.stay_down = true;
	rig_open(&R);
	cr_assert(rig_until(&R, "down"));
	cr_assert(strstr(R.story.data, "down: redis no-such-host.invalid:6379: "), "%s", R.story.data);
}

IO_TEST(garbage_ends_the_connection_not_the_process)
{
	rig_serve(&R, SCRIPTS("hello\nexpect GET\nsend HTTP/1.1 400\\r\\n", "hello\nsend :5\\r\\n\nmute",
			      "hello\nsend >1\\r\\n$9\\r\\nsubscribe\\r\\n"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	cr_assert(rig_until(&R, "push subscribe"));
	cr_assert(strstr(R.story.data, "not the Redis protocol"), "%s", R.story.data);
	cr_assert(strstr(R.story.data, "a reply that nobody asked for"), "%s", R.story.data);
}

IO_TEST(a_reply_is_limited_in_elements_of_an_array_and_of_all_its_arrays)
{
	char nested[256] = "hello\nexpect GET\nsend ";
	for (int i = 0; i < 20; i++) /* each line asks for memory for four */
		strcat(nested, "*4\\r\\n");
	rig_serve(&R, SCRIPTS("hello\nexpect GET\nsend *2\\r\\n*4\\r\\n:1\\r\\n:2\\r\\n:3\\r\\n:4\\r\\n*0\\r\\n\n"
			      "expect GET\nsend *5\\r\\n",
			      nested));
	R.opts.max_reply_elements = 4;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	cr_assert(rig_until(&R, "reply 1 [2]"));
	rig_send(&R, 2, "GET b", 2000);
	cr_assert(rig_until(&R, "down"));
	cr_assert(strstr(R.story.data, "Multi-bulk length out of range"), "%s", R.story.data);
	while (!redis_is_up(R.c))
		rig_run_for(&R, 5);
	rig_send(&R, 3, "GET c", 2000);
	cr_assert(rig_until(&R, "reply 3 NULL"));
	cr_assert(strstr(R.story.data, "a reply has too many elements"), "%s", R.story.data);
}

IO_TEST(a_reply_is_limited_in_bytes)
{
	rig_serve(&R, SCRIPTS("hello\nexpect GET\nsend "
			      "*3\\r\\n$40\\r\\n0123456789012345678901234567890123456789\\r\\n\nwait 20\n"
			      "send $40\\r\\n0123456789012345678901234567890123456789\\r\\n\nmute",
			      "serve"));
	R.opts.max_reply_bytes = 90; /* more than the answer to HELLO */
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 0, "GET a", 2000);
	cr_assert(rig_until(&R, "down"));
	cr_assert(strstr(R.story.data, "a reply is longer than 90 bytes"), "%s", R.story.data);
	while (!redis_is_up(R.c))
		rig_run_for(&R, 5);
	for (uint64_t i = 1; i <= 20; i++) /* together they may be longer */
		rig_send(&R, i, "ECHO 0123456789", 2000);
	cr_assert(rig_until(&R, "reply 20 0123456789"));
	cr_assert(rig_count(&R, "down") == 1, "%s", R.story.data);
}

IO_TEST(a_large_value_goes_through_both_ways)
{
	rig_serve(&R, SCRIPTS("serve"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	static char big[100000];
	memset(big, 'x', sizeof(big));
	const char *argv[] = {"ECHO", big};
	size_t len[] = {4, sizeof(big)};
	for (uint64_t i = 0; i < 50; i++)
		redis_send(R.c, i, 2, argv, len, mono_now() + 5000);
	cr_assert(rig_until(&R, "reply 49 (100000 bytes)"));
	cr_assert(rig_count(&R, "(100000 bytes)") == 50);
}

IO_TEST(new_credentials_are_used_at_once_and_a_refusal_costs_nothing)
{
	rig_serve(&R,
		SCRIPTS("hello\nexpect AUTH ann one\nsend +OK\\r\\n\nexpect AUTH ann two\nsend -WRONGPASS no\\r\\n\n"
			"expect ECHO a\nsend +a\\r\\n\nclose",
			"serve"));
	R.opts.username = "ann";
	R.opts.password = "zero";
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	redis_set_auth(R.c, "ann", "one");
	redis_set_auth(R.c, "ann", "two");
	rig_send(&R, 1, "ECHO a", 2000);
	cr_assert(rig_until(&R, "reply 1 +a\n"));
	cr_assert(strcmp(R.story.data, "up\nreply 1 +a\n") == 0, "%s", R.story.data);
	cr_assert(rig_until(&R, "connection\nup\n"));
	cr_assert(strcmp(resp_server_heard(R.server, 1), "HELLO 3 AUTH ann two") == 0, "the next one uses them");
}

IO_TEST(new_credentials_wait_for_what_may_block)
{
	rig_serve(&R, SCRIPTS("hello\nexpect ECHO a\nsend +a\\r\\n\nexpect AUTH two\nsend -WRONGPASS no\\r\\n\nexpect "
			      "ECHO b\n"
			      "send +b\\r\\n"));
	R.opts.password = "one";
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "ECHO a", 2000);
	redis_set_auth(R.c, "", "two");
	cr_assert(rig_until(&R, "reply 1 +a\n"));
	rig_send(&R, 2, "ECHO b", 2000);
	cr_assert(rig_until(&R, "reply 2 +b\n"));
}

IO_TEST(asking_goes_before_the_command)
{
	rig_serve(&R, SCRIPTS("serve"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	redis_send_asking(R.c, 1, 2, (const char *[]){"ECHO", "a"}, (size_t[]){4, 1}, mono_now() + 1000);
	cr_assert(rig_until(&R, "reply 1 a"));
	cr_assert(strcmp(resp_server_heard(R.server, 0), "HELLO 3; ASKING; ECHO a") == 0);
	expect_story("up\nreply 1 a\n");
}

/* ---- close at every step: ASan and valgrind watch */

static void close_silently(struct rig *r, const char *line)
{
	(void)line;
	redis_close(r->c, true);
	r->c = NULL;
}

static void close_loudly(struct rig *r, const char *line)
{
	(void)line;
	redis_close(r->c, false);
	r->c = NULL;
}

IO_TEST(close_before_anything)
{
	rig_serve(&R, SCRIPTS("serve"));
	rig_open(&R);
	redis_close(R.c, false);
	R.c = NULL;
	rig_run_for(&R, 20);
	expect_story("");
}

IO_TEST(close_while_resolving)
{
	R.opts.addr = (struct redis_addr){.host = "localhost", .port = 1};
	rig_open(&R);
	for (int i = 0; i < 3; i++)
		uv_run(loop_uv(R.loop), UV_RUN_NOWAIT);
}

IO_TEST(close_while_connecting_and_greeting)
{
	rig_serve(&R, SCRIPTS("mute"));
	for (int rounds = 1; rounds < 12; rounds++) {
		rig_open(&R);
		for (int i = 0; i < rounds; i++)
			uv_run(loop_uv(R.loop), UV_RUN_NOWAIT);
		redis_close(R.c, rounds % 2);
		R.c = NULL;
	}
}

IO_TEST(close_with_commands_pending_tells_null)
{
	rig_serve(&R, SCRIPTS("hello\nmute"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	rig_send(&R, 2, "GET b", 0);
	redis_close(R.c, false);
	R.c = NULL;
	expect_story("up\n");
	rig_run_for(&R, 20);
	expect_story("up\nreply 1 NULL\nreply 2 NULL\n");
}

IO_TEST(close_silently_with_commands_pending)
{
	rig_serve(&R, SCRIPTS("hello\nmute"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	rig_run_for(&R, 20);
	redis_close(R.c, true);
	R.c = NULL;
	rig_run_for(&R, 20);
	expect_story("up\n");
}

/* Whoever waits for the NULLs of one that it has closed may go away before they come. */
IO_TEST(close_silently_after_all)
{
	rig_serve(&R, SCRIPTS("hello\nmute"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	redis_close(R.c, false);
	redis_close(R.c, true);
	R.c = NULL;
	rig_run_for(&R, 20);
	expect_story("up\n");
}

IO_TEST(close_inside_on_up)
{
	rig_serve(&R, SCRIPTS("serve"));
	R.on_next_event = close_silently;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_run_for(&R, 20);
}

IO_TEST(close_inside_on_down)
{
	rig_serve(&R, SCRIPTS("close"));
	R.on_next_event = close_loudly;
	rig_open(&R);
	cr_assert(rig_until(&R, "down"));
	rig_run_for(&R, 50);
	cr_assert(rig_count(&R, "down") == 1);
}

IO_TEST(close_inside_a_push_with_more_behind_it)
{
	rig_serve(&R, SCRIPTS("hello\nexpect GET\nsend >1\\r\\n+A\\r\\n>1\\r\\n+B\\r\\n+one\\r\\n"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	R.on_next_event = close_loudly;
	cr_assert(rig_until(&R, "reply 1"));
	rig_run_for(&R, 20);
	expect_story("up\npush +A\nreply 1 NULL\n");
}

IO_TEST(close_inside_a_reply_with_more_behind_it)
{
	rig_serve(&R, SCRIPTS("hello\nexpect GET\nexpect GET\nsend +one\\r\\n+two\\r\\n"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	rig_send(&R, 2, "GET a", 2000);
	R.on_next_event = close_silently;
	cr_assert(rig_until(&R, "reply 1"));
	rig_run_for(&R, 20);
	expect_story("up\nreply 1 +one\n");
}

IO_TEST(close_inside_a_null_reply)
{
	rig_serve(&R, SCRIPTS("hello\nexpect GET\nclose"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	rig_send(&R, 2, "GET a", 2000);
	R.on_next_event = close_silently;
	cr_assert(rig_until(&R, "reply 1 NULL"));
	rig_run_for(&R, 20);
	expect_story("up\nreply 1 NULL\n");
}

static void redial_inside(struct rig *r, const char *line)
{
	(void)line;
	redis_redial(r->c, NULL, "again");
}

IO_TEST(redial_inside_a_push)
{
	rig_serve(&R, SCRIPTS("hello\nexpect GET\nsend >1\\r\\n+A\\r\\n>1\\r\\n+B\\r\\n", "serve"));
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	R.on_next_event = redial_inside;
	cr_assert(rig_until(&R, "again\nup\n"));
	cr_assert(rig_count(&R, "+B") == 0);
}

IO_TEST(close_while_subscribed)
{
	rig_serve(&R, SCRIPTS("serve"));
	R.opts.is_subscriber = true;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "PSUBSCRIBE a*", 2000);
	cr_assert(rig_until(&R, "reply 1"));
}
