#include "base/log.h"
#include "base/mono.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char out[1 << 20];
static int out_fd;

/* stderr becomes a file that slurp() reads. */
static void up(void)
{
	alarm(60);
	char path[] = "/tmp/sluice-test-log-XXXXXX";
	out_fd = mkstemp(path);
	unlink(path);
	dup2(out_fd, STDERR_FILENO);
	unsetenv("JOURNAL_STREAM");
}

static const char *slurp(void)
{
	ssize_t n = pread(out_fd, out, sizeof(out) - 1, 0);
	cr_assert(n >= 0);
	out[n] = '\0';
	return out;
}

static int n_lines(const char *s)
{
	int n = 0;
	for (; *s; s++)
		n += *s == '\n';
	return n;
}

Test(log, journal_puts_the_priority_first, .init = up)
{
	log_open(LOG_DEBUG, LOG_JOURNAL);
	log_line(LOG_ERROR, "a=%d", 1);
	log_line(LOG_WARN, "b");
	log_line(LOG_NOTICE, "c");
	log_line(LOG_INFO, "d");
	log_line(LOG_DEBUG, "e");
	cr_assert_str_eq(slurp(), "<3>a=1\n<4>b\n<5>c\n<6>d\n<7>e\n");
}

Test(log, text_has_time_and_level, .init = up)
{
	log_open(LOG_INFO, LOG_TEXT);
	log_line(LOG_NOTICE, "shard=2 hello");
	int year, ms, end = 0;
	sscanf(slurp(), "%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%3dZ notice shard=2 hello%n", &year, &ms, &end);
	cr_assert(end > 0, "%s", out);
	cr_assert_str_eq(out + end, "\n");
}

Test(log, json_is_one_object_per_line, .init = up)
{
	log_open(LOG_INFO, LOG_JSON);
	log_line(LOG_WARN, "say \"%s\" \xFF", "hi");
	slurp();
	cr_assert(strncmp(out, "{\"time\":\"20", 11) == 0);
	cr_assert_not_null(strstr(out, "Z\",\"level\":\"warn\",\"msg\":\"say \\\"hi\\\" \xEF\xBF\xBD\"}\n"), "%s", out);
}

Test(log, auto_is_journal_only_on_the_journals_own_stream, .init = up)
{
	struct stat st;
	char env[64];
	fstat(STDERR_FILENO, &st);
	log_open(LOG_INFO, LOG_AUTO);
	log_line(LOG_INFO, "x");
	cr_assert_eq(slurp()[0], '2');
	snprintf(env, sizeof(env), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino + 1);
	setenv("JOURNAL_STREAM", env, 1);
	log_open(LOG_INFO, LOG_AUTO);
	cr_assert(ftruncate(out_fd, 0) == 0 && lseek(out_fd, 0, SEEK_SET) == 0);
	log_line(LOG_INFO, "x");
	cr_assert_eq(slurp()[0], '2');
	snprintf(env, sizeof(env), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", env, 1);
	log_open(LOG_INFO, LOG_AUTO);
	cr_assert(ftruncate(out_fd, 0) == 0 && lseek(out_fd, 0, SEEK_SET) == 0);
	log_line(LOG_INFO, "x");
	cr_assert_str_eq(slurp(), "<6>x\n");
}

Test(log, level_decides, .init = up)
{
	log_open(LOG_NOTICE, LOG_JOURNAL);
	log_line(LOG_INFO, "hidden");
	cr_assert_not(log_is_on(LOG_INFO));
	log_set_level(LOG_INFO);
	cr_assert(log_is_on(LOG_INFO));
	log_line(LOG_INFO, "seen");
	cr_assert_str_eq(slurp(), "<6>seen\n");
}

Test(log, levels_have_names, .init = up)
{
	static const char *const names[] = {"error", "warn", "notice", "info", "debug"};
	for (int i = 0; i < 5; i++)
		cr_assert_str_eq(log_level_name((enum log_level)i), names[i]);
}

Test(log, a_fact_is_one_line, .init = up)
{
	log_open(LOG_INFO, LOG_JOURNAL);
	log_line(LOG_INFO, "a\nb\tc\x1b[31m");
	cr_assert_str_eq(slurp(), "<6>a b c?[31m\n");
}

/* U+009B begins an escape sequence on a terminal, as ESC [ does, and U+0085 a line. */
Test(log, controls_beyond_ascii_are_cleaned, .init = up)
{
	log_open(LOG_INFO, LOG_JOURNAL);
	log_line(LOG_NOTICE, "a\xc2\x9b"
			     "31mb\xc2\x85"
			     "c\xc2\x80\xc2\x9f \xc2\xa0Û\xc2");
	cr_assert_str_eq(slurp(), "<5>a?31mb?c?? \xc2\xa0Û\xc2\n");
}

Test(log, a_long_line_is_cut, .init = up)
{
	char text[10000];
	memset(text, '"', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_open(LOG_INFO, LOG_JOURNAL);
	log_line(LOG_INFO, "%s", text);
	size_t len = strlen(slurp());
	cr_assert(len > 3000 && len <= 4096 && n_lines(out) == 1);
	cr_assert_str_eq(out + len - 5, "\"…\n");
	log_open(LOG_INFO, LOG_JSON);
	log_line(LOG_INFO, "%s", text);
	size_t json = strlen(slurp()) - len;
	cr_assert(json > 2000 && json <= 4096 && n_lines(out) == 2, "%zu", json);
	cr_assert_str_eq(out + len + json - 3, "\"}\n");
}

Test(log, a_flood_is_limited_but_errors_are_not, .init = up)
{
	log_open(LOG_INFO, LOG_JOURNAL);
	for (int i = 0; i < 2000; i++)
		log_line(LOG_INFO, "flood");
	int n = n_lines(slurp());
	cr_assert(n >= 200 && n < 400, "%d", n);
	for (int i = 0; i < 300; i++)
		log_line(LOG_ERROR, "bad");
	slurp();
	int n_bad = 0, n_said = 0;
	unsigned long long n_left_out = 0, part;
	for (char *at = out; *at; at = strchr(at, '\n') + 1) {
		n_bad += strncmp(at, "<3>bad\n", 7) == 0;
		if (sscanf(at, "<4>suppressed n=%llu", &part) == 1) {
			n_said++;
			n_left_out += part;
		}
	}
	cr_assert_eq(n_bad, 300);
	cr_assert(n_said >= 1 && n_left_out > 0 && n_left_out <= 1800, "%d %llu", n_said, n_left_out);
}

Test(log, a_flood_of_debug_lines_leaves_room_for_what_matters, .init = up)
{
	log_open(LOG_DEBUG, LOG_JOURNAL);
	for (int i = 0; i < 2000; i++)
		log_line(LOG_DEBUG, "flood");
	log_line(LOG_INFO, "new certificates");
	cr_assert(strstr(slurp(), "<6>new certificates\n"));
}

Test(log, what_was_asked_for_is_written_whatever_level_and_limit, .init = up)
{
	log_open(LOG_ERROR, LOG_JOURNAL);
	for (int i = 0; i < 500; i++)
		log_asked("state n=%d", i);
	cr_assert_eq(n_lines(slurp()), 500);
	log_open(LOG_INFO, LOG_JOURNAL);
	log_line(LOG_INFO, "there is room left");
	slurp();
	cr_assert(strstr(out, "<5>state n=499\n<6>there is room left\n"), "%s", out + strlen(out) - 80);
}

struct seen {
	int n;
	enum log_level level;
	char text[64];
};

static void tap(void *arg, enum log_level level, const char *text)
{
	struct seen *s = arg;
	s->n++;
	s->level = level;
	snprintf(s->text, sizeof(s->text), "%s", text);
	log_line(LOG_INFO, "from the tap");
}

Test(log, tap_hears_lines_and_may_log, .init = up)
{
	struct seen s = {0};
	log_open(LOG_INFO, LOG_JOURNAL);
	log_tap(tap, &s);
	log_line(LOG_WARN, "hello");
	log_line(LOG_DEBUG, "not on");
	cr_assert_eq(s.n, 1);
	cr_assert_eq(s.level, LOG_WARN);
	cr_assert_str_eq(s.text, "hello");
	log_tap(NULL, NULL);
	log_line(LOG_WARN, "bye");
	cr_assert_eq(s.n, 1);
	cr_assert_str_eq(slurp(), "<4>hello\n<6>from the tap\n<4>bye\n");
}

Test(log, closed_stderr_drops_and_counts, .init = up)
{
	log_open(LOG_INFO, LOG_JOURNAL);
	close(STDERR_FILENO);
	errno = ENOENT;
	log_line(LOG_INFO, "x");
	cr_assert_eq(errno, ENOENT, "errno is the caller's");
	cr_assert_eq(log_n_dropped(), 1);
}

Test(log, full_disk_drops_and_counts, .init = up)
{
	int full = open("/dev/full", O_WRONLY);
	cr_assert(full >= 0);
	dup2(full, STDERR_FILENO);
	log_open(LOG_INFO, LOG_JOURNAL);
	log_line(LOG_INFO, "x");
	cr_assert_eq(log_n_dropped(), 1);
	log_line(LOG_INFO, "y");
	dup2(out_fd, STDERR_FILENO);
	log_line(LOG_INFO, "back");
	log_line(LOG_INFO, "again");
	cr_assert_str_eq(slurp(), "<4>log lines lost n=2: they could not be written\n<6>back\n<6>again\n");
}

Test(log, broken_pipe_does_not_kill, .init = up)
{
	int fds[2];
	cr_assert(pipe(fds) == 0);
	dup2(fds[1], STDERR_FILENO);
	close(fds[0]);
	close(fds[1]);
	log_open(LOG_INFO, LOG_JOURNAL);
	log_line(LOG_INFO, "x");
	log_line(LOG_INFO, "y");
	cr_assert_eq(log_n_dropped(), 2);
}

Test(log, line_cut_by_a_limit_is_ended_before_the_next, .init = up)
{
	struct rlimit before;
	getrlimit(RLIMIT_FSIZE, &before);
	setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 10, .rlim_max = before.rlim_max});
	log_open(LOG_INFO, LOG_JOURNAL);
	log_line(LOG_INFO, "0123456789");
	log_line(LOG_INFO, "0123456789");
	setrlimit(RLIMIT_FSIZE, &before);
	log_line(LOG_INFO, "back");
	cr_assert_eq(log_n_dropped(), 2);
	cr_assert_str_eq(slurp(), "<6>0123456\n<4>log lines lost n=2: they could not be written\n<6>back\n");
}

static void expect_quick_drops(void)
{
	log_open(LOG_DEBUG, LOG_JOURNAL);
	mono_ms before = mono_now();
	char text[1000];
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (int i = 0; i < 2000; i++)
		log_line(LOG_ERROR, "%s", text);
	mono_ms took = mono_now() - before;
	cr_assert(took < 1500, "took %lld ms", (long long)took);
	cr_assert(log_n_dropped() > 500);
}

Test(log, full_pipe_does_not_block, .init = up)
{
	int fds[2];
	cr_assert(pipe(fds) == 0);
	dup2(fds[1], STDERR_FILENO);
	expect_quick_drops();
}

Test(log, full_nonblocking_pipe_does_not_block, .init = up)
{
	int fds[2];
	cr_assert(pipe(fds) == 0);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	dup2(fds[1], STDERR_FILENO);
	expect_quick_drops();
}

Test(log, stalled_journal_socket_does_not_block_and_lines_stay_whole, .init = up)
{
	int fds[2];
	cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
	dup2(fds[1], STDERR_FILENO);
	expect_quick_drops();
	size_t len = 0;
	ssize_t n;
	while ((n = recv(fds[0], out + len, sizeof(out) - 1 - len, MSG_DONTWAIT)) > 0)
		len += (size_t)n;
	log_line(LOG_ERROR, "back");
	n = recv(fds[0], out + len, sizeof(out) - 1 - len, MSG_DONTWAIT);
	cr_assert(n > 0);
	out[len + (size_t)n] = '\0';
	cr_assert_not_null(strstr(out, ": they could not be written\n<3>back\n"));
}

static void *many(void *arg) /* 200 lines */
{
	for (int i = 0; i < 200; i++)
		log_line(LOG_ERROR, "thread %0100d", 0);
	return arg;
}

Test(log, threads_do_not_mix_lines, .init = up)
{
	pthread_t t[4];
	log_open(LOG_INFO, LOG_JOURNAL);
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, many, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	slurp();
	cr_assert_eq(n_lines(out), 800);
	for (char *at = out; *at; at = strchr(at, '\n') + 1)
		cr_assert(strncmp(at, "<3>thread 000", 13) == 0);
}
