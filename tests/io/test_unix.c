/* Unix sockets: modes, stale files, credentials, batching, ends. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "io/loop.h"
#include "io/unix.h"

static struct loop *loop;
static char dir[64], path[108];
static struct unix_listener *listener;
static struct unix_conn *conn; /* the accepted one */
static struct unix_peer peer;
static struct buf got;
static int n_ends, end_pidfd = -1;
static size_t may_be_read; /* at the end */
static bool echo, close_on_data, long_answer;

enum { LONG_ANSWER = 1 << 20 };

static void on_accept(void *arg, struct unix_conn *c, const struct unix_peer *p)
{
	(void)arg;
	conn = c;
	peer = *p;
	unix_set_data(c, &conn);
}

static void on_data(void *arg, struct unix_conn *c, const char *bytes, size_t len)
{
	(void)arg;
	cr_assert(unix_data(c) == &conn);
	buf_add(&got, bytes, len);
	if (echo)
		unix_write(c, bytes, len);
	if (long_answer) {
		static char zeros[LONG_ANSWER];
		unix_write(c, zeros, sizeof(zeros));
	}
	if (close_on_data) {
		unix_close(c, true);
		conn = NULL;
	}
}

static void on_end(void *arg, struct unix_conn *c, int pidfd)
{
	(void)arg;
	cr_assert(c == conn);
	conn = NULL;
	may_be_read = unix_may_be_read(c);
	n_ends++;
	end_pidfd = pidfd;
}

static const struct unix_events events = {.on_accept = on_accept, .on_data = on_data, .on_end = on_end};

static void on_deadline(void *arg, mono_ms now)
{
	(void)arg;
	(void)now;
	loop_stop(loop);
}

static void run_for(mono_ms ms)
{
	loop_wake_at(loop, mono_now() + ms);
	loop_run(loop);
}

static void up(void)
{
	alarm(30);
	signal(SIGPIPE, SIG_IGN); /* signals_open does it in the daemon */
	loop = loop_new("test", on_deadline, NULL);
	buf_init(&got);
	strcpy(dir, "/tmp/sluice-unix.XXXXXX");
	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
}

static void down(void)
{
	if (conn)
		unix_close(conn, false);
	unix_unlisten(listener, true);
	loop_free(loop);
	buf_fini(&got);
	if (end_pidfd >= 0)
		close(end_pidfd);
	unlink(path);
	cr_assert(rmdir(dir) == 0);
}

#define UNIX_TEST(name) Test(unix_socket, name, .init = up, .fini = down)

static enum err_code try_listen(struct unix_listener **out, struct err *err)
{
	return unix_listen(loop_uv(loop), path, -1, 0640, "", &events, NULL, out, err);
}

static void must_listen(void)
{
	struct err err;
	cr_assert(try_listen(&listener, &err) == ERR_OK, "%s", err.text);
}

static int dial(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert(connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0, "%s", strerror(errno));
	return fd;
}

UNIX_TEST(the_mode_is_exact_whatever_the_umask)
{
	umask(0);
	must_listen();
	struct stat st;
	cr_assert(stat(path, &st) == 0);
	cr_assert((st.st_mode & 0777) == 0640, "%o", st.st_mode);
	umask(0777);
	unix_unlisten(listener, true);
	must_listen();
	cr_assert(stat(path, &st) == 0 && (st.st_mode & 0777) == 0640);
}

UNIX_TEST(a_live_listener_is_respected_and_a_stale_one_replaced)
{
	must_listen();
	struct unix_listener *second;
	struct err err;
	cr_assert(try_listen(&second, &err) == ERR_BUSY);
	cr_assert(strstr(err.text, path) && strstr(err.text, "another process listens"), "%s", err.text);
	unix_unlisten(listener, false); /* leaves the file */
	run_for(5);
	cr_assert(access(path, F_OK) == 0);
	must_listen();
}

UNIX_TEST(only_our_own_file_is_removed)
{
	must_listen();
	unlink(path);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	unix_unlisten(listener, true);
	listener = NULL;
	cr_assert(access(path, F_OK) == 0);
}

UNIX_TEST(a_file_that_is_removed_comes_back)
{
	must_listen();
	unlink(path);
	run_for(1500);
	struct stat st;
	cr_assert(stat(path, &st) == 0 && (st.st_mode & 0777) == 0640, "with its mode");
	int c = dial();
	run_for(10);
	cr_assert(conn);
	close(c);
	unix_unlisten(listener, true);
	listener = NULL;
	cr_assert(access(path, F_OK) < 0, "it is ours as the first one was");
}

UNIX_TEST(errors_name_the_path)
{
	struct err err;
	struct unix_listener *l;
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	cr_assert(try_listen(&l, &err) == ERR_INVALID && strstr(err.text, path));
	cr_assert(unix_listen(loop_uv(loop), "/no/such/dir/s", -1, 0600, "", &events, NULL, &l, &err) == ERR_NOT_FOUND);
	cr_assert(strstr(err.text, "/no/such/dir/s: its directory does not exist"), "%s", err.text);
	cr_assert(unix_listen(loop_uv(loop), "/tmp/s", -1, 0600, "no-such-group", &events, NULL, &l, &err) ==
		  ERR_NOT_FOUND);
	char longer[120];
	memset(longer, 'x', sizeof(longer));
	longer[0] = '/';
	longer[108] = '\0';
	cr_assert(unix_listen(loop_uv(loop), longer, -1, 0600, "", &events, NULL, &l, &err) == ERR_RANGE);
}

UNIX_TEST(a_passed_listener_works_and_others_are_refused)
{
	struct err err;
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	cr_assert(unix_listen(loop_uv(loop), path, fd, 0, "", &events, NULL, &listener, &err) == ERR_INVALID,
		"not listening yet");
	cr_assert(bind(fd, (struct sockaddr *)&un, sizeof(un)) == 0 && listen(fd, 5) == 0);
	cr_assert(
		unix_listen(loop_uv(loop), path, fd, 0, "", &events, NULL, &listener, &err) == ERR_OK, "%s", err.text);
	int c = dial();
	run_for(10);
	cr_assert(conn);
	close(c);
	unix_unlisten(listener, true); /* the manager's file: left alone */
	listener = NULL;
	cr_assert(access(path, F_OK) == 0);
}

UNIX_TEST(the_peer_is_known_and_its_pidfd_shows_its_end)
{
	must_listen();
	pid_t child = fork();
	if (child == 0) {
		int fd = dial();
		char c;
		_exit(read(fd, &c, 1) == 1 ? 0 : 1);
	}
	run_for(50);
	cr_assert(conn);
	cr_assert(peer.pid == child && peer.uid == getuid() && peer.gid == getgid());
	cr_assert(fcntl(unix_conn_fd(conn), F_GETFD) & FD_CLOEXEC);
	unix_write(conn, "x", 1);
	run_for(50);
	cr_assert(n_ends == 1 && end_pidfd >= 0);
	struct pollfd p = {.fd = end_pidfd, .events = POLLIN};
	cr_assert(poll(&p, 1, 1000) == 1 && p.revents == POLLIN, "the pidfd says that the process has ended");
	waitpid(child, NULL, 0);
}

UNIX_TEST(the_pidfd_that_was_taken_is_of_the_peer_of_the_accept)
{
	must_listen();
	pid_t child = fork();
	if (child == 0) {
		dial();
		pause();
	}
	run_for(50);
	cr_assert(conn);
	int pidfd = unix_take_pidfd(conn);
	cr_assert(pidfd >= 0 && unix_take_pidfd(conn) == -1);
	unix_close(conn, true);
	conn = NULL;
	run_for(50);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	cr_assert(poll(&p, 1, 0) == 0, "it lives");
	kill(child, SIGKILL);
	cr_assert(poll(&p, 1, 1000) == 1 && n_ends == 0);
	waitpid(child, NULL, 0);
	close(pidfd);
}

UNIX_TEST(what_a_peer_sent_before_it_died_is_read_although_writes_fail)
{
	must_listen();
	int fd = dial();
	run_for(5);
	cr_assert(write(fd, "done", 4) == 4);
	close(fd);
	unix_write(conn, "ping", 4); /* EPIPE at the flush, before the read */
	run_for(20);
	cr_assert(got.len == 4 && memcmp(got.data, "done", 4) == 0);
	cr_assert(n_ends == 1);
}

UNIX_TEST(writes_of_one_round_go_out_together_and_in_order)
{
	must_listen();
	int fd = dial();
	run_for(5);
	for (int i = 0; i < 100; i++)
		unix_write(conn, "0123456789", 10);
	cr_assert(unix_write_pending(conn) == 1000);
	char b[2000];
	cr_assert(recv(fd, b, sizeof(b), MSG_DONTWAIT) < 0, "nothing before the end of the round");
	run_for(5);
	cr_assert(recv(fd, b, sizeof(b), MSG_DONTWAIT) == 1000);
	cr_assert(unix_write_pending(conn) == 0);
	close(fd);
}

UNIX_TEST(a_reader_that_stops_makes_bytes_wait)
{
	must_listen();
	int fd = dial();
	run_for(5);
	static char big[1 << 20];
	memset(big, 'y', sizeof(big));
	unix_write(conn, big, sizeof(big));
	unix_write(conn, big, sizeof(big));
	run_for(10);
	cr_assert(unix_write_pending(conn) > sizeof(big));
	size_t n = 0;
	while (n < 2 * sizeof(big)) {
		ssize_t r = recv(fd, big, sizeof(big), MSG_DONTWAIT);
		if (r > 0)
			n += (size_t)r;
		else
			run_for(1);
	}
	run_for(2);
	cr_assert(unix_write_pending(conn) == 0);
	close(fd);
}

UNIX_TEST(close_with_flush_gives_a_second_then_cuts)
{
	must_listen();
	int fd = dial();
	run_for(5);
	static char big[1 << 20];
	mono_ms start = mono_now(); /* the loop's time: a write of this size takes some */
	unix_write(conn, big, sizeof(big));
	unix_close(conn, true);
	conn = NULL;
	unix_unlisten(listener, true);
	listener = NULL;
	run_for(900);
	char b[16];
	cr_assert(recv(fd, b, sizeof(b), MSG_DONTWAIT) == sizeof(b));
	uv_run(loop_uv(loop), UV_RUN_DEFAULT);
	cr_assert(mono_now() - start >= 990 && mono_now() - start < 1500);
	close(fd);
}

UNIX_TEST(close_with_flush_sends_the_last_words)
{
	must_listen();
	close_on_data = echo = true;
	int fd = dial();
	cr_assert(write(fd, "bye", 3) == 3);
	run_for(20);
	char b[16];
	cr_assert(recv(fd, b, sizeof(b), MSG_DONTWAIT) == 3);
	cr_assert(recv(fd, b, sizeof(b), MSG_DONTWAIT) == 0);
	cr_assert(n_ends == 0);
	close(fd);
}

UNIX_TEST(a_half_closed_peer_still_gets_its_answer)
{
	must_listen();
	long_answer = true;
	int fd = dial();
	cr_assert(write(fd, "ask", 3) == 3);
	shutdown(fd, SHUT_WR);
	run_for(20);
	cr_assert(n_ends == 1, "the end is seen while most of the answer still waits");
	static char b[LONG_ANSWER];
	size_t n = 0;
	for (int i = 0; i < 1000 && n < LONG_ANSWER; i++) {
		ssize_t r = recv(fd, b, sizeof(b), MSG_DONTWAIT);
		if (r > 0)
			n += (size_t)r;
		run_for(1);
	}
	cr_assert(n == LONG_ANSWER, "%zu", n);
	close(fd);
}

/* Of n bytes in the peer's socket it reads so many, then it closes. */
static void ends_with_unread(size_t n, size_t read_bytes)
{
	must_listen();
	int fd = dial();
	run_for(5);
	char b[64] = {0};
	unix_write(conn, b, n);
	run_for(5);
	if (read_bytes)
		cr_assert(read(fd, b, read_bytes) == (ssize_t)read_bytes);
	cr_assert(write(fd, "last words", 10) == 10);
	close(fd);
	run_for(20);
	cr_assert(n_ends == 1);
}

UNIX_TEST(a_peer_that_has_read_all_may_have_read_all)
{
	ends_with_unread(60, 60);
	cr_expect(may_be_read == 60, "%zu", may_be_read);
}

UNIX_TEST(a_peer_that_leaves_a_byte_has_not_read_the_last_one)
{
	ends_with_unread(60, 59);
	cr_expect(may_be_read == 59, "%zu", may_be_read);
}

UNIX_TEST(what_the_kernel_has_not_taken_was_not_read)
{
	must_listen();
	int fd = dial();
	run_for(5);
	long_answer = true;
	cr_assert(write(fd, "x", 1) == 1);
	run_for(5);
	const size_t left = unix_write_pending(conn);
	cr_assert(left > 0 && unix_may_be_read(conn) == LONG_ANSWER - left);
	close(fd);
	run_for(20);
	cr_assert(n_ends == 1 && may_be_read < LONG_ANSWER);
}

UNIX_TEST(a_paused_connection_reads_nothing)
{
	must_listen();
	int fd = dial();
	run_for(5);
	unix_pause(conn, true);
	cr_assert(write(fd, "abc", 3) == 3);
	run_for(10);
	cr_assert(got.len == 0);
	unix_pause(conn, false);
	run_for(10);
	cr_assert(got.len == 3);
	close(fd);
}

/* What was not written, and what the peer then still gets from the next owner of the descriptor. */
UNIX_TEST(what_is_unwritten_can_be_taken_along)
{
	static char block[1 << 16];
	int pair[2];
	struct err err;
	cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	int next = dup(pair[0]);
	cr_assert(unix_adopt(loop_uv(loop), pair[0], &events, NULL, &conn, &err) == ERR_OK);
	unix_set_data(conn, &conn);
	size_t written = 0;
	for (int i = 0; i < 64; i++) {
		memset(block, 'a' + i % 26, sizeof(block));
		unix_write(conn, block, sizeof(block));
		written += sizeof(block);
		if (i == 40)
			run_for(20); /* some of it is with the kernel, some with libuv, some with neither */
	}
	struct buf rest;
	buf_init(&rest);
	unix_unwritten(conn, &rest);
	unix_close(conn, false);
	conn = NULL;
	run_for(20);
	size_t n = 0;
	fcntl(pair[1], F_SETFL, O_NONBLOCK);
	for (ssize_t k; (k = read(pair[1], block, sizeof(block))) > 0; n += (size_t)k)
		for (ssize_t i = 0; i < k; i++)
			cr_assert(block[i] == 'a' + (char)((n + (size_t)i) / sizeof(block) % 26));
	cr_assert(n > 0 && n + rest.len == written, "%zu + %zu of %zu", n, rest.len, written);
	cr_assert(rest.data[0] == 'a' + (char)(n / sizeof(block) % 26) && rest.data[rest.len - 1] == 'a' + 63 % 26);
	cr_assert(write(next, "x", 1) == 1 && read(pair[1], block, 1) == 1, "the connection lives");
	buf_fini(&rest);
	close(next);
	close(pair[1]);
}

UNIX_TEST(a_descriptor_can_be_adopted)
{
	int pair[2];
	cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	struct err err;
	cr_assert(unix_adopt(loop_uv(loop), pair[0], &events, NULL, &conn, &err) == ERR_OK);
	unix_set_data(conn, &conn);
	cr_assert(write(pair[1], "abc", 3) == 3);
	run_for(10);
	cr_assert(got.len == 3);
	close(pair[1]);
	run_for(10);
	cr_assert(n_ends == 1);
	int file = open("/dev/null", O_RDONLY);
	cr_assert(unix_adopt(loop_uv(loop), file, &events, NULL, &conn, &err) == ERR_INVALID);
	close(file);
}
