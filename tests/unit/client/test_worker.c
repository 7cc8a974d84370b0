/* libsluice-worker in a loop of one's own, against a daemon that this test plays. The whole protocol is held by tests/conformance. */
#include "client/sluice-worker.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mono.h"

struct stage {
	char path[64];
	int listener, conn;
	struct sluice_worker *w;
	struct sluice_event e;
	char said[65536]; /* by the worker, over this connection */
	size_t n_said;
};

static void raise_stage(struct stage *s, enum sluice_mode mode)
{
	*s = (struct stage){.conn = -1};
	snprintf(s->path, sizeof(s->path), "/tmp/sluice-worker-test-%d", (int)getpid());
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", s->path);
	unlink(s->path);
	s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(s->listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(listen(s->listener, 4), 0);
	s->w = sluice_worker_new(
		&(struct sluice_options){.socket = s->path, .name = "tester", .credits = 4, .mode = mode});
	cr_assert_not_null(s->w);
}

static void strike_stage(struct stage *s)
{
	sluice_worker_free(s->w);
	close(s->conn);
	close(s->listener);
	unlink(s->path);
}

/* Until an event of this type comes; others are passed over. False after `ms`. */
static bool happens(struct stage *s, enum sluice_event_type type, int ms)
{
	for (mono_ms end = mono_now() + ms; mono_now() < end;) {
		sluice_worker_step(s->w);
		while (sluice_worker_next(s->w, &s->e))
			if (s->e.type == type)
				return true;
		struct pollfd p = {sluice_worker_fd(s->w), POLLIN, 0};
		int wait = sluice_worker_timeout(s->w);
		poll(&p, 1, wait < 10 ? wait : 10);
	}
	return false;
}

static void hears(struct stage *s)
{
	ssize_t n = recv(s->conn, s->said + s->n_said, sizeof(s->said) - s->n_said - 1, MSG_DONTWAIT);
	s->n_said += n > 0 ? (size_t)n : 0;
	s->said[s->n_said] = '\0';
}

/* Whether the worker says this within a while. */
static bool says(struct stage *s, const char *text)
{
	for (mono_ms end = mono_now() + 5000; mono_now() < end;) {
		happens(s, SLUICE_FAILED, 1);
		hears(s);
		if (strstr(s->said, text))
			return true;
	}
	return false;
}

static void tell(struct stage *s, const char *text)
{
	cr_assert_eq(write(s->conn, text, strlen(text)), (ssize_t)strlen(text));
}

static void welcome(struct stage *s, const char *resumed, const char *gone, mono_ms until)
{
	char text[1024];
	if (s->conn >= 0)
		close(s->conn);
	s->n_said = 0;
	struct pollfd p = {s->listener, POLLIN, 0};
	for (int i = 0; i < 500 && poll(&p, 1, 0) == 0; i++)
		happens(s, SLUICE_FAILED, 10);
	s->conn = accept(s->listener, NULL, NULL);
	cr_assert(says(s, "\"hello\""));
	snprintf(text, sizeof(text),
		"{\"t\":\"welcome\",\"v\":1,\"session\":\"s1\",\"lease_ms\":3000,\"now_ms\":%lld,\"until_ms\":%lld,"
		"\"resumed\":[%s],"
		"\"gone\":[%s]}\n",
		(long long)mono_now(), (long long)until, resumed, gone);
	tell(s, text);
	cr_assert(happens(s, SLUICE_UP, 5000));
}

static void assign(struct stage *s, const char *lease, mono_ms until, const char *more)
{
	char text[1024];
	snprintf(text, sizeof(text),
		"{\"t\":\"assign\",\"lease\":\"%s\",\"service\":\"orders\",\"stream\":\"st:%s\",\"id\":\"1-0\","
		"\"token\":\"1234567890123456789\","
		"\"retry\":2,\"info\":{\"n\":12345678901234567890},\"until_ms\":%lld%s}\n",
		lease, lease, (long long)until, more);
	tell(s, text);
	cr_assert(happens(s, SLUICE_ASSIGN, 5000));
	cr_assert_str_eq(s->e.lease, lease);
}

Test(sluice_worker, options_that_are_refused)
{
	char path[200];
	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	cr_assert_null(sluice_worker_new(&(struct sluice_options){.credits = SLUICE_CREDITS_MAX + 1}));
	cr_assert_null(sluice_worker_new(&(struct sluice_options){.credits = -1}));
	cr_assert_null(sluice_worker_new(&(struct sluice_options){.socket = path}));
}

Test(sluice_worker, one_stream_from_assign_to_confirmed)
{
	struct stage s;
	int mark;
	raise_stage(&s, SLUICE_STREAMS);
	welcome(&s, "", "", mono_now() + 60000);
	cr_assert(strstr(s.said, "\"name\":\"tester\",\"credits\":4}"));
	assign(&s, "L1", mono_now() + 60000, ",\"trace\":{\"traceparent\":\"00-1\"}");
	cr_assert_str_eq(s.e.stream, "st:L1");
	cr_assert_str_eq(s.e.info, "{\"n\":12345678901234567890}");
	cr_assert_str_eq(s.e.traceparent, "00-1");
	cr_assert_null(s.e.baggage);
	cr_assert_eq(s.e.retry, 2);
	sluice_worker_set_user(s.w, "L1", &mark);
	sluice_worker_progress(s.w, "L1", "half");
	sluice_worker_done(s.w, "L1");
	sluice_worker_fail(s.w, "L1", "one answer is enough", false, -1);
	cr_assert(says(
		&s, "{\"t\":\"progress\",\"lease\":\"L1\",\"note\":\"half\"}\n{\"t\":\"done\",\"lease\":\"L1\"}\n"));
	tell(&s, "{\"t\":\"ok\",\"lease\":\"L1\",\"for\":\"done\",\"outcome\":\"done\"}\n");
	cr_assert(happens(&s, SLUICE_CONFIRMED, 5000));
	cr_assert_eq(s.e.user, &mark);
	cr_assert_str_eq(s.e.reason, "done");
	cr_assert_eq(sluice_worker_held(s.w), 0);
	cr_assert_null(strstr(s.said, "\"fail\""));
	strike_stage(&s);
}

Test(sluice_worker, answers_are_told_again_and_what_is_gone_is_said)
{
	struct stage s;
	raise_stage(&s, SLUICE_STREAMS);
	welcome(&s, "", "", mono_now() + 60000);
	assign(&s, "works", mono_now() + 60000, "");
	assign(&s, "lost", mono_now() + 60000, "");
	assign(&s, "told", mono_now() + 60000, "");
	sluice_worker_fail(s.w, "told", "\"why\"", true, 5);
	cr_assert(says(
		&s, "{\"t\":\"fail\",\"lease\":\"told\",\"reason\":\"\\\"why\\\"\",\"dead\":true,\"retry_ms\":5}\n"));
	welcome(&s, "\"works\",\"told\"", "{\"lease\":\"lost\",\"outcome\":\"lost\"}", mono_now() + 60000);
	cr_assert(strstr(s.said, "\"session\":\"s1\",\"resume\":["));
	cr_assert(happens(&s, SLUICE_GONE, 5000));
	cr_assert_str_eq(s.e.lease, "lost");
	cr_assert(says(&s, "{\"t\":\"fail\",\"lease\":\"told\""));
	sluice_worker_revoked(s.w, "lost");
	cr_assert_eq(sluice_worker_held(s.w), 2);
	cr_assert_not(happens(&s, SLUICE_GONE, 50), "it is not said of the others");
	cr_assert_null(strstr(s.said, "revoked"));
	strike_stage(&s);
}

Test(sluice_worker, the_fence_and_a_revoke_stop)
{
	struct stage s;
	raise_stage(&s, SLUICE_STREAMS);
	welcome(&s, "", "", mono_now() + 60000);
	assign(&s, "a", mono_now() + 60000, "");
	tell(&s, "{\"t\":\"revoke\",\"lease\":\"a\",\"reason\":\"drain\",\"grace_ms\":1000}\n");
	cr_assert(happens(&s, SLUICE_STOP, 5000));
	cr_assert_str_eq(s.e.reason, "drain");
	cr_assert_leq(s.e.by_ms, mono_now() + 800);
	sluice_worker_revoked(s.w, "a");
	cr_assert(says(&s, "{\"t\":\"revoked\",\"lease\":\"a\"}\n"));
	assign(&s, "b", mono_now() + 400, "");
	mono_ms until = mono_now() + 400;
	cr_assert(happens(&s, SLUICE_STOP, 5000));
	cr_assert_str_eq(s.e.reason, "fence");
	cr_assert_leq(mono_now(), until + 50);
	cr_assert_leq(s.e.by_ms, until);
	strike_stage(&s);
}

Test(sluice_worker, entries_come_once_and_a_nack_is_a_barrier)
{
	static const char both[] = "{\"t\":\"entries\",\"lease\":\"e\",\"e\":[[\"1-1\",[\"k\",\"v\",\"k\",{\"b64\":\"/"
				   "wBB\"}]],[\"1-2\",[\"k\",\"w\"],3]]}\n";
	struct stage s;
	raise_stage(&s, SLUICE_EACH);
	welcome(&s, "", "", mono_now() + 60000);
	cr_assert(strstr(s.said, "\"entries\":true"));
	assign(&s, "e", mono_now() + 60000, ",\"entries\":{\"pos\":\"1-0\"}");
	cr_assert_str_eq(s.e.pos, "1-0");
	tell(&s, both);
	cr_assert(happens(&s, SLUICE_ENTRIES, 5000));
	cr_assert_eq(s.e.n_entries, 2);
	cr_assert_str_eq(s.e.entries[0].id, "1-1");
	cr_assert_eq(s.e.entries[0].n_fields, 2);
	struct sluice_bytes v = sluice_entry_get(&s.e.entries[0], "k");
	cr_assert(v.len == 3 && memcmp(v.data, "\xff\0A", 4) == 0, "the last of its name, as bytes");
	cr_assert_eq(s.e.entries[1].tries, 3);
	cr_assert_null(sluice_entry_get(&s.e.entries[1], "no").data);
	tell(&s, both);
	cr_assert_not(happens(&s, SLUICE_ENTRIES, 50), "each entry once");
	sluice_worker_ack(s.w, "e", "1-1");
	sluice_worker_nack(s.w, "e", "1-2", "bad", false, -1);
	cr_assert(says(&s, "{\"t\":\"ack\",\"lease\":\"e\",\"id\":\"1-1\"}\n{\"t\":\"nack\",\"lease\":\"e\",\"id\":\"1-"
			   "2\",\"reason\":\"bad\"}\n"));
	tell(&s, both);
	cr_assert_not(happens(&s, SLUICE_ENTRIES, 50), "void before the nack's ok");
	tell(&s, "{\"t\":\"ok\",\"lease\":\"e\",\"for\":\"nack\",\"id\":\"1-2\",\"outcome\":\"waits\"}\n");
	cr_assert(happens(&s, SLUICE_NACKED, 5000));
	tell(&s, both);
	cr_assert(happens(&s, SLUICE_ENTRIES, 5000));
	cr_assert(s.e.n_entries == 1 && strcmp(s.e.entries[0].id, "1-2") == 0,
		"what is acknowledged does not come again");
	strike_stage(&s);
}

/* What is to be said of it takes the place of its Info, which is freed (under make asan a leak would end the test). */
Test(sluice_worker, a_stream_that_is_not_in_entries_mode_is_given_back)
{
	struct stage s;
	raise_stage(&s, SLUICE_EACH);
	welcome(&s, "", "", mono_now() + 60000);
	tell(&s, "{\"t\":\"assign\",\"lease\":\"a\",\"service\":\"orders\",\"stream\":\"s\",\"id\":\"1-0\",\"token\":"
		 "\"1\","
		 "\"retry\":0,\"info\":{\"n\":1},\"until_ms\":99999999999}\n");
	do /* the first line is that it is connected */
		cr_assert(happens(&s, SLUICE_NOTE, 5000));
	while (!strstr(s.e.text, "orders is not in entries mode"));
	cr_assert(says(&s, "{\"t\":\"release\",\"lease\":\"a\",\"retry_ms\":30000}\n"));
	strike_stage(&s);
}

/* It was written between our hello and now: one of us was stopped meanwhile. */
Test(sluice_worker, a_welcome_that_comes_late_is_of_our_clock)
{
	struct stage s;
	char text[300];
	raise_stage(&s, SLUICE_STREAMS);
	for (struct pollfd p = {s.listener, POLLIN, 0}; poll(&p, 1, 0) == 0;)
		happens(&s, SLUICE_FAILED, 10);
	s.conn = accept(s.listener, NULL, NULL);
	cr_assert(says(&s, "\"hello\""));
	snprintf(text, sizeof(text),
		"{\"t\":\"welcome\",\"v\":1,\"session\":\"s1\",\"lease_ms\":100,\"now_ms\":%lld,\"until_ms\":%lld,"
		"\"resumed\":[],\"gone\":[]}\n",
		(long long)mono_now(), (long long)mono_now() + 100);
	poll(NULL, 0, 300);
	tell(&s, text);
	cr_assert(happens(&s, SLUICE_UP, 5000));
	strike_stage(&s);
}

Test(sluice_worker, leaves_when_all_is_confirmed)
{
	struct stage s;
	raise_stage(&s, SLUICE_STREAMS);
	welcome(&s, "", "", mono_now() + 60000);
	assign(&s, "a", mono_now() + 60000, "");
	sluice_worker_leave(s.w);
	cr_assert(says(&s, "{\"t\":\"credits\",\"n\":0}\n"));
	sluice_worker_done(s.w, "a");
	cr_assert_not(happens(&s, SLUICE_LEFT, 50));
	tell(&s, "{\"t\":\"ok\",\"lease\":\"a\",\"for\":\"done\",\"outcome\":\"done\"}\n");
	cr_assert(happens(&s, SLUICE_LEFT, 5000));
	sluice_worker_bye(s.w);
	hears(&s);
	cr_assert(strstr(s.said, "{\"t\":\"bye\"}\n"));
	strike_stage(&s);
}

Test(sluice_worker, a_daemon_that_refuses_or_is_of_another_host_is_an_end)
{
	struct stage s;
	raise_stage(&s, SLUICE_STREAMS);
	welcome(&s, "", "", mono_now() + 60000);
	tell(&s, "{\"t\":\"err\",\"code\":\"unauthorized\",\"msg\":\"not you\",\"fatal\":true}\n");
	cr_assert(happens(&s, SLUICE_FAILED, 5000));
	cr_assert_str_eq(s.e.reason, "unauthorized");
	cr_assert(strstr(s.e.text, "not you"));
	strike_stage(&s);
}
