/* A shard's connections against scripted servers: announcements at every byte of what a server says, on the way that they
 * take in the daemon: io/redis -> codec/push -> core/handoff -> run/role_conn. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/role_conns_rig.h"
#include "lib/resp_server.h"

#define SCRIPTS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OPT_IN "hello\nexpect CLIENT MAINT_NOTIFICATIONS\n"
#define OPTED_IN OPT_IN "send +OK\\r\\n\n"

static struct role_conns_rig R;
static struct resp_server *OLD, *NEW;

static void up(void)
{
	alarm(120);
}

static void end(void)
{
	role_conns_rig_fini(&R);
	resp_server_stop(OLD);
	resp_server_stop(NEW);
}

/* The server that the others name: it must be there before their scripts are written. */
static void begin_new(const char *const *new)
{
	NEW = resp_server_start(new, NULL);
}

static void begin_old(const char *const *old)
{
	OLD = resp_server_start(old, NULL);
	role_conns_rig_init(&R, resp_server_port(OLD));
	role_conns_rig_start(&R);
}

static void add_escaped(struct buf *out, const char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf_printf(out, "\\x%02x", (unsigned char)bytes[i]);
}

/* A line of a script that says `bytes` in two segments, cut at `cut`. */
static void add_in_two(struct buf *out, const char *bytes, size_t cut)
{
	buf_str(out, "send ");
	add_escaped(out, bytes, cut);
	buf_str(out, "\nwait 2\nsend ");
	add_escaped(out, bytes + cut, strlen(bytes) - cut);
	buf_str(out, "\n");
}

static void add_moving(struct buf *out, int seq, int seconds)
{
	char to[40];
	snprintf(to, sizeof to, "127.0.0.1:%u", resp_server_port(NEW));
	buf_printf(out, ">4\r\n$6\r\nMOVING\r\n:%d\r\n:%d\r\n$%zu\r\n%s\r\n", seq, seconds, strlen(to), to);
}

static const char *text_of(struct buf *b)
{
	buf_add(b, "", 1);
	b->len--;
	return b->data;
}

static bool is_relaxed(void)
{
	struct snapshot *sn = mem_alloc(sizeof *sn);
	sn->conns = mem_array(role_conns_count(R.role_conns), sizeof *sn->conns);
	role_conns_snapshot(R.role_conns, sn);
	bool is = sn->conns[0].is_relaxed;
	mem_free(sn->conns);
	mem_free(sn);
	return is;
}

/* Answers of the old server once the new one serves: heard by the new one only. */
static void expect_served_by_the_new_one(size_t cut)
{
	role_conns_rig_send(&R, CONN_COMMAND, CMD_UNBLOCK, 90);
	cr_assert(role_conns_rig_until(&R, "reply 90", 1), "cut at %zu", cut);
	cr_assert(
		strstr(resp_server_heard(NEW, 0), "CLIENT UNBLOCK"), "cut at %zu: %s", cut, resp_server_heard(NEW, 0));
	cr_assert_eq(role_conns_rig_count(&R, "down"), 0, "cut at %zu:\n%s", cut, R.story.data);
}

static struct buf script_of_old;

/* MOVING before +OK in two segments; returns the length of both. */
static size_t begin_moving_before_ok(size_t cut)
{
	struct buf said;
	buf_init(&said);
	begin_new(SCRIPTS(OPTED_IN));
	add_moving(&said, 3, 0);
	buf_str(&said, "+OK\r\n");
	size_t len = said.len;
	buf_clear(&script_of_old); /* the server before it is gone */
	buf_str(&script_of_old, OPT_IN);
	add_in_two(&script_of_old, text_of(&said), cut);
	begin_old(SCRIPTS(text_of(&script_of_old)));
	buf_fini(&said);
	return len;
}

Test(role_conns, moving_before_ok_at_every_byte, .init = up)
{
	for (size_t cut = 1, len = 2; cut < len; cut++) {
		len = begin_moving_before_ok(cut);
		role_conns_open(R.role_conns, CONN_COMMAND, SERVICE_NONE);
		cr_assert(role_conns_rig_until(&R, "up command", 2), "cut at %zu", cut);
		cr_assert_eq(role_conns_rig_count(&R, "hurry"), 1);
		expect_served_by_the_new_one(cut);
		cr_assert_null(strstr(resp_server_heard(OLD, 0), "UNBLOCK"));
		end();
	}
}

Test(role_conns, moving_before_ok_reader, .init = up)
{
	for (size_t cut = 1, len = 2; cut < len; cut += 7) {
		len = begin_moving_before_ok(cut);
		role_conns_open(R.role_conns, CONN_READER, 0);
		cr_assert(role_conns_rig_until(&R, "up reader", 2), "cut at %zu", cut);
		role_conns_rig_send(&R, CONN_READER, CMD_READ, 1);
		cr_assert(role_conns_rig_until(&R, "reply 1", 1));
		cr_assert(strstr(resp_server_heard(NEW, 0), "XREADGROUP"), "%s", resp_server_heard(NEW, 0));
		cr_assert_null(strstr(resp_server_heard(OLD, 0), "XREADGROUP"));
		end();
	}
}

Test(role_conns, moving_before_ok_subscriber, .init = up)
{
	for (size_t cut = 1, len = 2; cut < len; cut += 7) {
		len = begin_moving_before_ok(cut);
		role_conns_open(R.role_conns, CONN_SUBSCRIBER, SERVICE_NONE);
		cr_assert(role_conns_rig_until(&R, "up subscriber", 1), "cut at %zu", cut);
		role_conns_rig_send(&R, CONN_SUBSCRIBER, CMD_PSUBSCRIBE, 1);
		for (int i = 0; i < 100 && !strstr(resp_server_heard(NEW, 0), "PSUBSCRIBE"); i++)
			role_conns_rig_run_for(&R, 50);
		cr_assert(strstr(resp_server_heard(NEW, 0), "PSUBSCRIBE"), "%s", resp_server_heard(NEW, 0));
		cr_assert_eq(role_conns_rig_count(&R, "down"), 0);
		end();
	}
}

Test(role_conns, moving_between_handshake_replies, .init = up)
{
	struct buf said, script;
	buf_init(&said);
	buf_init(&script);
	begin_new(SCRIPTS(OPTED_IN));
	add_moving(&said, 3, 0);
	buf_str(&said, "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n");
	add_moving(&said, 3, 0);
	buf_str(&script, "expect HELLO\nsend ");
	add_escaped(&script, said.data, said.len);
	buf_str(&script, "\nexpect CLIENT MAINT_NOTIFICATIONS\nsend +OK\\r\\n\n");
	begin_old(SCRIPTS(text_of(&script)));
	role_conns_open(R.role_conns, CONN_COMMAND, SERVICE_NONE);
	cr_assert(role_conns_rig_until(&R, "up command", 2));
	cr_assert_eq(role_conns_rig_count(&R, "hurry"), 1);
	expect_served_by_the_new_one(0);
	end();
	buf_fini(&said);
	buf_fini(&script);
}

Test(role_conns, pushes_inside_a_pipeline_at_every_byte, .init = up)
{
	for (size_t cut = 1, len = 2; cut < len; cut++) {
		struct buf said, script;
		buf_init(&said);
		buf_init(&script);
		begin_new(SCRIPTS(OPTED_IN));
		buf_str(&said, ":1\r\n>4\r\n$9\r\nMIGRATING\r\n:2\r\n:2\r\n$6\r\n[\"27\"]\r\n:2\r\n");
		add_moving(&said, 3, 0);
		buf_str(&said, ">1\r\n+NEVER_HEARD\r\n:3\r\n>3\r\n$8\r\nMIGRATED\r\n:4\r\n$6\r\n[\"27\"]\r\n:4\r\n");
		len = said.len;
		buf_str(&script, OPTED_IN "expect CLIENT\nexpect CLIENT\nexpect CLIENT\nexpect CLIENT\n");
		add_in_two(&script, text_of(&said), cut);
		begin_old(SCRIPTS(text_of(&script)));
		role_conns_open(R.role_conns, CONN_COMMAND, SERVICE_NONE);
		cr_assert(role_conns_rig_until(&R, "up command\n", 1));
		for (uint64_t i = 1; i <= 4; i++)
			role_conns_rig_send(&R, CONN_COMMAND, CMD_UNBLOCK, i);
		cr_assert(role_conns_rig_until(&R, "reply 4", 1), "cut at %zu", cut);
		cr_assert(role_conns_rig_until(&R, "up command", 2), "cut at %zu", cut);
		for (int i = 1; i <= 4; i++) {
			char line[40];
			snprintf(line, sizeof line, "reply %d :%d\n", i, i);
			cr_assert_eq(
				role_conns_rig_count(&R, line), 1, "cut at %zu: no %sin\n%s", cut, line, R.story.data);
		}
		cr_assert_eq(role_conns_rig_count(&R, "hurry"), 2, "cut at %zu:\n%s", cut, R.story.data);
		cr_assert(is_relaxed(), "cut at %zu", cut); /* by MOVING, or after it */
		expect_served_by_the_new_one(cut);
		end();
		buf_fini(&said);
		buf_fini(&script);
	}
}

#define EVENT(stream)                                                                                                  \
	">4\\r\\n$8\\r\\npmessage\\r\\n$1\\r\\n*\\r\\n+__keyspace@0__:" stream                                         \
	"<MUTEX_KEY_SEP>1-1\\r\\n$7\\r\\nexpired\\r\\n"
#define SUBSCRIBED ">3\\r\\n$10\\r\\npsubscribe\\r\\n$1\\r\\n*\\r\\n:1\\r\\n"

Test(role_conns, subscriber_hears_both, .init = up)
{
	struct buf said, script;
	buf_init(&said);
	buf_init(&script);
	begin_new(SCRIPTS(OPTED_IN "expect PSUBSCRIBE\nmeet\nwait 50\nsend " SUBSCRIBED EVENT("e2") EVENT("e3") "\n"));
	add_moving(&said, 3, 0);
	buf_str(&script, OPTED_IN "expect PSUBSCRIBE\nsend " SUBSCRIBED EVENT("e1") "\ntrickle ");
	add_escaped(&script, said.data, said.len);
	buf_str(&script, "\nmeet\nsend " EVENT("e2") "\nwait 100\ntrickle " EVENT("e3") "\n");
	begin_old(SCRIPTS(text_of(&script)));
	role_conns_open(R.role_conns, CONN_SUBSCRIBER, SERVICE_NONE);
	cr_assert(role_conns_rig_until(&R, "up subscriber\n", 1));
	role_conns_rig_send(&R, CONN_SUBSCRIBER, CMD_PSUBSCRIBE, 1);
	cr_assert(role_conns_rig_until(&R, "expired e3", 1));
	role_conns_rig_run_for(&R, 1000);
	for (int i = 1; i <= 3; i++) {
		char line[40];
		snprintf(line, sizeof line, "expired e%d\n", i);
		cr_assert_eq(role_conns_rig_count(&R, line), 1, "%s", R.story.data);
	}
	cr_assert_eq(role_conns_rig_count(&R, "down"), 0);
	end();
	buf_fini(&said);
	buf_fini(&script);
}

#define ENTRY                                                                                                          \
	"%1\\r\\n$12\\r\\norders-input\\r\\n*1\\r\\n*2\\r\\n$3\\r\\n1-1\\r\\n*2\\r\\n$9\\r\\nlbs-input\\r\\n$2\\r\\n{" \
	"}\\r\\n"

Test(role_conns, a_read_on_the_old_connection_ends_there, .init = up)
{
	struct buf said, script;
	buf_init(&said);
	buf_init(&script);
	begin_new(SCRIPTS(OPTED_IN));
	add_moving(&said, 3, 0);
	buf_str(&script, OPTED_IN "expect XREADGROUP\ntrickle ");
	add_escaped(&script, said.data, said.len);
	buf_str(&script, "\nwait 300\nsend " ENTRY "\n");
	begin_old(SCRIPTS(OPTED_IN "expect CLIENT UNBLOCK 7\nsend :1\\r\\n\n", text_of(&script)));
	role_conns_open(R.role_conns, CONN_COMMAND, SERVICE_NONE);
	cr_assert(role_conns_rig_until(&R, "up command\n", 1));
	role_conns_open(R.role_conns, CONN_READER, 0);
	cr_assert(role_conns_rig_until(&R, "up reader\n", 1));
	role_conns_rig_send(&R, CONN_READER, CMD_READ, 1);
	cr_assert(role_conns_rig_until(&R, "hurry\nup reader\n", 1));
	role_conns_rig_send(&R, CONN_READER, CMD_READ, 2);
	cr_assert(role_conns_rig_until(&R, "reply 1 [1]\n", 1));
	cr_assert(role_conns_rig_until(&R, "reply 2 ", 1));
	cr_assert(strstr(resp_server_heard(OLD, 0), "CLIENT UNBLOCK 7"), "%s", resp_server_heard(OLD, 0));
	cr_assert(strstr(resp_server_heard(NEW, 0), "XREADGROUP"), "%s", resp_server_heard(NEW, 0));
	cr_assert_eq(role_conns_rig_count(&R, "down"), 0);
	end();
	buf_fini(&said);
	buf_fini(&script);
}

#define SERVER(id) "expect INFO\nsend $13\\r\\nrun_id:" id "\\r\\n\\r\\n\n"

/* Once: the same again soon is how that server answers. */
Test(role_conns, an_answer_of_unknown_shape_ends_the_connection, .init = up)
{
	begin_new(SCRIPTS("serve"));
	begin_old(SCRIPTS(OPTED_IN "expect CLIENT UNBLOCK\nsend +what\\r\\n\n",
		OPTED_IN SERVER("aaaa") "expect CLIENT UNBLOCK\nsend +what\\r\\n\n"));
	role_conns_open(R.role_conns, CONN_COMMAND, SERVICE_NONE);
	cr_assert(role_conns_rig_until(&R, "up command\n", 1));
	role_conns_rig_send(&R, CONN_COMMAND, CMD_UNBLOCK, 1);
	cr_assert(role_conns_rig_until(&R, "reply 1 NULL\n", 1), "%s", R.story.data);
	cr_assert(role_conns_rig_until(&R, "up command\n", 2), "%s", R.story.data);
	cr_assert_eq(role_conns_rig_count(&R, "down"), 1);
	role_conns_rig_send(&R, CONN_COMMAND, CMD_UNBLOCK, 2);
	char odd[40];
	snprintf(odd, sizeof odd, "reply 2 kind=%d\n", (int)REPLY_ERROR);
	cr_assert(role_conns_rig_until(&R, odd, 1), "%s", R.story.data);
	cr_assert_eq(role_conns_rig_count(&R, "down"), 1);
	end();
}

/* An address that leads to another server each time: who connects anew is right, once; then it is told. */
Test(role_conns, connections_that_stay_at_different_servers_are_not_made_anew_for_ever, .init = up)
{
	begin_new(SCRIPTS("serve"));
	begin_old(SCRIPTS(OPTED_IN "expect CLIENT UNBLOCK\nclose\n", OPTED_IN SERVER("aaaa"), OPTED_IN SERVER("bbbb"),
		OPTED_IN SERVER("cccc"), OPTED_IN SERVER("dddd"), OPTED_IN SERVER("eeee")));
	role_conns_open(R.role_conns, CONN_COMMAND, SERVICE_NONE);
	cr_assert(role_conns_rig_until(&R, "up command\n", 1));
	role_conns_open(R.role_conns, CONN_READER, 0);
	cr_assert(role_conns_rig_until(&R, "up reader\n", 1));
	role_conns_rig_send(&R, CONN_COMMAND, CMD_UNBLOCK, 1); /* it ends */
	cr_assert(role_conns_rig_until(&R, "up command\n", 2));
	cr_assert(role_conns_rig_until(&R, "up reader\n", 2), "the older one is made anew: %s", R.story.data);
	cr_assert(role_conns_rig_until(&R, "up command\n", 3), "the same: %s", R.story.data);
	role_conns_rig_run_for(&R, 1000);
	cr_assert_eq(role_conns_rig_count(&R, "down"), 3, "%s", R.story.data);
	end();
}

/* The commands' connection leads to the server of before; a subscriber is behind the reader, which has shown that, or
 * not. */
static void leave_with_subscriber(bool is_newer)
{
	const char *commands = OPTED_IN "expect INFO\nexpect CLIENT UNBLOCK\nsend $13\\r\\nrun_id:aaaa\\r\\n\\r\\n\n";
	const char *reader = OPTED_IN "expect CLIENT UNBLOCK\nclose\n", *subscriber = OPTED_IN "serve\n";
	const char *again = OPTED_IN SERVER("bbbb");
	begin_new(SCRIPTS("serve"));
	begin_old(is_newer ? SCRIPTS(commands, reader, again, subscriber, again)
			   : SCRIPTS(commands, reader, subscriber, again, again, again));
	role_conns_open(R.role_conns, CONN_COMMAND, SERVICE_NONE);
	cr_assert(role_conns_rig_until(&R, "up command\n", 1));
	role_conns_open(R.role_conns, CONN_READER, 0);
	cr_assert(role_conns_rig_until(&R, "up reader\n", 1));
	for (int i = 0; i < 2; i++)
		if ((i == 1) == is_newer) {
			role_conns_open(R.role_conns, CONN_SUBSCRIBER, SERVICE_NONE);
			cr_assert(role_conns_rig_until(&R, "up subscriber\n", 1));
			role_conns_rig_run_for(&R, 5);
		} else {
			role_conns_rig_send(&R, CONN_READER, CMD_UNBLOCK, 1); /* it ends */
			cr_assert(role_conns_rig_until(&R, "up reader\n", 2));
			role_conns_rig_run_for(&R, 5);
		}
	role_conns_rig_send(&R, CONN_COMMAND, CMD_UNBLOCK, 2); /* says who it is */
	cr_assert(role_conns_rig_until(&R, "up command\n", 2), "%s", R.story.data);
	role_conns_rig_run_for(&R, 100);
	cr_assert_eq(role_conns_rig_count(&R, "down subscriber"), !is_newer, "%s", R.story.data);
	cr_assert_eq(role_conns_rig_count(&R, "down reader"), 1, "%s", R.story.data);
	end();
}

Test(role_conns, a_subscriber_of_before_goes_with_the_commands, .init = up)
{
	leave_with_subscriber(false);
}

Test(role_conns, a_subscriber_that_came_up_behind_the_newer_one_stays, .init = up)
{
	leave_with_subscriber(true);
}

Test(role_conns, opened_in_the_window, .init = up)
{
	struct buf said, script;
	buf_init(&said);
	buf_init(&script);
	begin_new(SCRIPTS(OPTED_IN));
	add_moving(&said, 3, 5);
	buf_str(&script, OPTED_IN "send ");
	add_escaped(&script, said.data, said.len);
	begin_old(SCRIPTS(text_of(&script), "serve"));
	role_conns_open(R.role_conns, CONN_COMMAND, SERVICE_NONE);
	cr_assert(role_conns_rig_until(&R, "up command", 2));
	role_conns_open(R.role_conns, CONN_READER, 0);
	cr_assert(role_conns_rig_until(&R, "up reader", 1));
	cr_assert_eq(resp_server_n_conns(OLD), 1);
	cr_assert(
		strstr(resp_server_heard(NEW, 1), "moving-endpoint-type internal-ip"), "%s", resp_server_heard(NEW, 1));
	end();
	buf_fini(&said);
	buf_fini(&script);
}

Test(role_conns, the_type_asked_for_is_the_configured_addresses, .init = up)
{
	struct buf said, script;
	buf_init(&said);
	buf_init(&script);
	begin_new(SCRIPTS(OPTED_IN "expect CLIENT UNBLOCK\nclose"));
	add_moving(&said, 3, 0);
	buf_str(&script, OPTED_IN "send ");
	add_escaped(&script, said.data, said.len);
	begin_old(SCRIPTS(text_of(&script), OPTED_IN));
	role_conns_open(R.role_conns, CONN_COMMAND, SERVICE_NONE);
	cr_assert(role_conns_rig_until(&R, "up command", 2));
	cr_assert(
		strstr(resp_server_heard(NEW, 0), "moving-endpoint-type internal-ip"), "%s", resp_server_heard(NEW, 0));
	role_conns_rig_run_for(&R, 1100); /* the window is over: the configured address is next */
	role_conns_set_maintenance(R.role_conns, &R.opts.rules, REDIS_MAINT_AUTO, "external-fqdn");
	role_conns_rig_send(&R, CONN_COMMAND, CMD_UNBLOCK, 1);
	cr_assert(role_conns_rig_until(&R, "reply 1 NULL\ndown command\nup command\n", 1));
	cr_assert(strstr(resp_server_heard(OLD, 1), "moving-endpoint-type external-fqdn"), "%s",
		resp_server_heard(OLD, 1));
	end();
	buf_fini(&said);
	buf_fini(&script);
}

Test(role_conns, a_subscription_that_is_not_confirmed_has_an_end, .init = up)
{
	begin_new(SCRIPTS(OPTED_IN));
	R.opts.command_timeout_ms = 300;
	begin_old(SCRIPTS(OPTED_IN "expect PSUBSCRIBE\nmute", OPTED_IN));
	role_conns_open(R.role_conns, CONN_SUBSCRIBER, SERVICE_NONE);
	cr_assert(role_conns_rig_until(&R, "up subscriber", 1));
	role_conns_rig_send(&R, CONN_SUBSCRIBER, CMD_PSUBSCRIBE, 1);
	cr_assert(role_conns_rig_until(&R, "down subscriber\nup subscriber\n", 1), "%s", R.story.data);
	end();
}
