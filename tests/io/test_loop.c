/* loop, mailbox, signals. */
#include <criterion/criterion.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "io/loop.h"
#include "io/mailbox.h"
#include "io/signals.h"

static struct loop *loop;
static char story[256];
static size_t n;
static mono_ms fired_at;

static void tell(char c)
{
	if (n < sizeof(story) - 1)
		story[n++] = c;
}

static void on_deadline(void *arg, mono_ms now)
{
	(void)arg;
	fired_at = now;
	tell('d');
	loop_stop(loop);
}

static void up(void)
{
	alarm(30);
	loop = loop_new("test", on_deadline, NULL);
}

static void down(void)
{
	loop_free(loop);
}

#define LOOP_TEST(name) Test(loop, name, .init = up, .fini = down)

static void run_for(mono_ms ms)
{
	loop_wake_at(loop, mono_now() + ms);
	loop_run(loop);
}

LOOP_TEST(one_deadline_a_later_call_replaces_it)
{
	mono_ms start = mono_now();
	loop_wake_at(loop, start + 5000);
	loop_wake_at(loop, start + 30);
	loop_run(loop);
	cr_assert(fired_at >= start + 30 && fired_at < start + 500, "%lld", (long long)(fired_at - start));
	cr_assert(loop_lag_ms(loop) < 400);
	cr_assert(mono_now() - loop_last_round(loop) < 400);
	cr_assert(loop_now(loop) <= mono_now() && loop_now(loop) > mono_now() - 400);
}

LOOP_TEST(at_once_is_not_late_since_the_hosts_start)
{
	loop_wake_at(loop, 0);
	loop_run(loop);
	cr_assert(loop_lag_ms(loop) < 400, "%lld", (long long)loop_lag_ms(loop));
}

static void deferred_again(void *arg)
{
	(void)arg;
	tell('2');
}

static void deferred(void *arg)
{
	(void)arg;
	tell('1');
	loop_defer(loop, deferred_again, NULL);
}

LOOP_TEST(what_is_deferred_runs_once_and_later)
{
	loop_defer(loop, deferred, NULL);
	tell('0');
	run_for(5);
	cr_assert_str_eq(story, "012d");
}

LOOP_TEST(what_is_deferred_at_the_end_still_runs)
{
	loop_defer(loop, deferred, NULL);
	loop_free(loop);
	cr_assert_str_eq(story, "12");
	loop = loop_new("test", on_deadline, NULL);
}

/* ---- tasks, attached loops */

static struct loop_task task;

static void on_prepare(uv_prepare_t *p)
{
	(void)p;
	tell('p');
}

/* Tells a 'p' where a round's writes would go. */
static void tell_prepares(uv_prepare_t *p)
{
	uv_prepare_init(loop_uv(loop), p);
	uv_prepare_start(p, on_prepare);
}

static void run_again(void *arg)
{
	int *n_left = arg;
	tell('t');
	if (*n_left > 0)
		loop_soon(loop, &task);
	*n_left -= 1;
}

LOOP_TEST(a_task_and_what_it_asks_for_run_before_the_writes_of_their_round)
{
	static uv_prepare_t p;
	int n_left = 2;
	tell_prepares(&p);
	loop_task_init(&task, run_again, &n_left);
	loop_soon(loop, &task);
	loop_soon(loop, &task); /* asked for already */
	run_for(1);
	cr_assert(strncmp(story, "tttp", 4) == 0 && !strchr(story + 4, 't'), "%s", story);
	uv_close((uv_handle_t *)&p, NULL);
}

LOOP_TEST(a_task_that_is_dropped_does_not_run)
{
	int n_left = 0;
	loop_task_init(&task, run_again, &n_left);
	loop_soon(loop, &task);
	loop_task_drop(&task);
	run_for(1);
	cr_assert_str_eq(story, "d");
}

LOOP_TEST(tasks_without_end_do_not_starve_the_rest)
{
	int n_left = INT_MAX;
	loop_task_init(&task, run_again, &n_left);
	loop_soon(loop, &task);
	run_for(1); /* ends by its deadline */
	loop_task_drop(&task);
}

static mono_ms attached_at;

static void on_attached(void *arg, mono_ms now)
{
	(void)arg;
	attached_at = now;
	tell('a');
}

LOOP_TEST(an_attached_loop_has_a_deadline_of_its_own)
{
	struct loop *guest = loop_attach(loop, "guest", on_attached, NULL);
	cr_assert(loop_uv(guest) == loop_uv(loop) && !loop_running());
	mono_ms start = mono_now();
	loop_wake_at(guest, start + 10);
	run_for(30);
	cr_assert_str_eq(story, "ad");
	cr_assert(attached_at >= start + 10 && attached_at < start + 400 && loop_lag_ms(guest) < 400);
	cr_assert(loop_last_round(guest) == loop_last_round(loop));
	loop_defer(guest, deferred, NULL); /* runs, though its guest has gone */
	loop_wake_at(guest, mono_now() + 1);
	loop_free(guest);
	run_for(10);
	cr_assert_str_eq(story, "ad12d");
}

static int n_past;

static void always_past(void *arg, mono_ms now)
{
	(void)arg;
	(void)now;
	if (++n_past < 20)
		loop_wake_at(*(struct loop **)arg, 0);
}

static void on_async(uv_async_t *a)
{
	tell('a');
	uv_close((uv_handle_t *)a, NULL);
}

Test(loop, deadlines_in_the_past_do_not_starve_the_rest)
{
	struct loop *l = NULL;
	l = loop_new("test", always_past, &l);
	uv_async_t async;
	uv_async_init(loop_uv(l), &async, on_async);
	uv_async_send(&async);
	loop_wake_at(l, 0);
	uv_run(loop_uv(l), UV_RUN_ONCE);
	cr_assert(n_past < 20 && story[0] == 'a', "%d", n_past);
	loop_free(l);
}

static void on_msg(void *arg, const void *msg)
{
	char c = *(const char *)msg;
	tell(c);
	if (c == 'r') { /* sent during a round: belongs to the next */
		struct mailbox **m = arg;
		cr_assert(mailbox_send(*m, "x", false));
	}
}

static void on_end(void *arg)
{
	(void)arg;
	tell('.');
}

LOOP_TEST(a_mailbox_delivers_rounds_and_has_a_limit)
{
	struct mailbox *m = NULL;
	m = mailbox_open(loop_uv(loop), 1, 3, on_msg, on_end, &m);
	cr_assert(mailbox_send(m, "a", false));
	cr_assert(mailbox_send(m, "r", false));
	cr_assert(mailbox_send(m, "b", false));
	cr_assert(!mailbox_send(m, "c", false));
	cr_assert(mailbox_send(m, "f", true));
	cr_assert(mailbox_length(m) == 4);
	run_for(5);
	cr_assert_str_eq(story, "arbf.x.d");
	cr_assert(mailbox_send(m, "y", false));
	mailbox_refuse(m);
	cr_assert(!mailbox_send(m, "z", true));
	mailbox_drain(m);
	cr_assert_str_eq(story, "arbf.x.dy.");
	mailbox_close(m);
}

static struct mailbox *boxes[2];

static void on_play(void *arg, const void *msg)
{
	char c = *(const char *)msg;
	(void)arg;
	tell(c);
	char next = (char)(c + 1);
	if (c < '4')
		cr_assert(mailbox_send(boxes[c % 2], &next, false));
}

static void serve(void *arg)
{
	(void)arg;
	cr_assert(loop_running() == loop);
	cr_assert(mailbox_send(boxes[0], "1", false));
}

LOOP_TEST(what_two_on_one_loop_tell_each_other_comes_before_the_writes_of_the_round)
{
	static uv_prepare_t p;
	tell_prepares(&p);
	for (int i = 0; i < 2; i++)
		boxes[i] = mailbox_open(loop_uv(loop), 1, 3, on_play, NULL, NULL);
	loop_task_init(&task, serve, NULL);
	loop_soon(loop, &task);
	run_for(1);
	cr_assert(strncmp(story, "1234p", 5) == 0, "%s", story);
	mailbox_send(boxes[0], "4", false);
	mailbox_close(boxes[0]);
	mailbox_close(boxes[1]);
	uv_close((uv_handle_t *)&p, NULL);
}

static void serve_and_close(void *arg)
{
	serve(arg);
	mailbox_close(boxes[0]);
}

LOOP_TEST(a_mailbox_that_is_closed_delivers_nothing_more)
{
	boxes[0] = mailbox_open(loop_uv(loop), 1, 3, on_play, NULL, NULL);
	loop_task_init(&task, serve_and_close, NULL);
	loop_soon(loop, &task);
	run_for(1);
	cr_assert_str_eq(story, "d");
}

static void on_msg_close(void *arg, const void *msg)
{
	struct mailbox **m = arg;
	tell(*(const char *)msg);
	mailbox_close(*m);
}

LOOP_TEST(a_mailbox_may_be_closed_by_its_own_message)
{
	struct mailbox *m = NULL;
	m = mailbox_open(loop_uv(loop), 1, 3, on_msg_close, on_end, &m);
	mailbox_send(m, "a", false);
	mailbox_send(m, "b", false);
	run_for(5);
	cr_assert_str_eq(story, "ad");
}

static int last_signal;

static void on_signal(void *arg, int signo)
{
	(void)arg;
	last_signal = signo;
	tell('s');
}

LOOP_TEST(signals_arrive_and_pipe_is_ignored)
{
	struct signals *s = signals_open(loop_uv(loop), on_signal, NULL);
	static const int all[] = {SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
	for (int i = 0; i < 5; i++) {
		kill(getpid(), all[i]);
		run_for(5);
		cr_assert(last_signal == all[i]);
	}
	kill(getpid(), SIGPIPE);
	signals_close(s);
}

LOOP_TEST(signals_before_they_are_watched_wait)
{
	signals_hold();
	kill(getpid(), SIGUSR1); /* would end us */
	kill(getpid(), SIGHUP);
	struct signals *s = signals_open(loop_uv(loop), on_signal, NULL);
	run_for(5);
	cr_assert_str_eq(story, "ssd");
	signals_close(s);
}

LOOP_TEST(signals_blocked_by_whoever_started_us_arrive)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	struct signals *s = signals_open(loop_uv(loop), on_signal, NULL);
	kill(getpid(), SIGTERM);
	run_for(5);
	cr_assert(last_signal == SIGTERM);
	signals_close(s);
}
