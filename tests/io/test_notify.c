/* sd_notify without the library. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/notify.h"

static int manager = -1;
static char name[80];

/* A manager's socket; '@' makes it abstract. */
static void listen_at(char first)
{
	alarm(30);
	snprintf(name, sizeof(name), "%c%stmp/sluice-notify.%d", first, first == '@' ? "/" : "", (int)getpid());
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	strcpy(un.sun_path, name);
	size_t len = strlen(name);
	if (first == '@')
		un.sun_path[0] = '\0';
	manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	cr_assert(bind(manager, (struct sockaddr *)&un,
			  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (first != '@'))) == 0);
	setenv("NOTIFY_SOCKET", name, 1);
}

static const char *receive(int *fd)
{
	static char text[1024];
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {text, sizeof(text) - 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(manager, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	text[n > 0 ? n : 0] = '\0';
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	if (fd)
		*fd = -1;
	if (fd && c && c->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(c), sizeof(int));
	return text;
}

Test(notify, without_a_manager_nothing_happens)
{
	unsetenv("NOTIFY_SOCKET");
	cr_assert(!notify_is_on());
	notify_send("READY=1");
	setenv("NOTIFY_SOCKET", "relative", 1);
	cr_assert(!notify_is_on());
	setenv("NOTIFY_SOCKET", "/no/such/socket", 1);
	cr_assert(notify_is_on());
	notify_send("READY=1");
}

Test(notify, speaks_to_a_path_and_to_an_abstract_socket)
{
	static const char kinds[] = {'@', '/'};
	for (int i = 0; i < 2; i++) {
		listen_at(kinds[i]);
		notify_send("READY=1\nSTATUS=up");
		cr_assert_str_eq(receive(NULL), "READY=1\nSTATUS=up");
		notify_status("%d streams\nREADY=1", 3);
		cr_assert_str_eq(receive(NULL), "STATUS=3 streams READY=1");
		close(manager);
	}
	unlink(name);
}

Test(notify, never_blocks_when_the_manager_does_not_read)
{
	listen_at('@');
	for (int i = 0; i < 5000; i++)
		notify_send("WATCHDOG=1");
}

Test(notify, stores_and_removes_descriptors)
{
	listen_at('@');
	int pipe_fd[2], got;
	cr_assert(pipe(pipe_fd) == 0);
	cr_assert(notify_store("worker-1", pipe_fd[0]));
	cr_assert_str_eq(receive(&got), "FDSTORE=1\nFDNAME=worker-1");
	struct stat a, b;
	cr_assert(got >= 0 && fstat(got, &a) == 0 && fstat(pipe_fd[0], &b) == 0 && a.st_ino == b.st_ino);
	cr_assert(notify_unstore("worker-1"));
	cr_assert_str_eq(receive(&got), "FDSTOREREMOVE=1\nFDNAME=worker-1");
	cr_assert(got == -1);
}

Test(notify, says_what_could_not_be_stored)
{
	unsetenv("NOTIFY_SOCKET");
	cr_assert(!notify_store("x", 0) && !notify_unstore("x") && !notify_barrier(10) && notify_store_max() == 0);
	listen_at('@');
	cr_assert(notify_store_max() > 100);
	setenv("FDSTORE", "7", 1);
	cr_assert(notify_store_max() == 7);
	setenv("FDSTORE", "0", 1);
	cr_assert(notify_store_max() == 0);
	mono_ms start = mono_now();
	int n = 0;
	while (n < 100000 && notify_store("x", 0)) /* nobody reads: its queue is full some time */
		n++;
	cr_assert(n < 100000 && mono_now() - start >= 190 && mono_now() - start < 5000);
}

/* A manager that comes to the barrier after a while, or never. */
static void *reads_the_barrier(void *arg)
{
	int got;
	(void)arg;
	poll(&(struct pollfd){.fd = manager, .events = POLLIN}, 1, 5000);
	cr_assert_str_eq(receive(&got), "BARRIER=1");
	poll(NULL, 0, 100);
	close(got);
	return NULL;
}

Test(notify, the_barrier_is_passed_when_the_manager_has_come_to_it)
{
	listen_at('@');
	cr_assert(!notify_barrier(50), "nobody reads");
	int got;
	receive(&got);
	close(got);
	pthread_t t;
	pthread_create(&t, NULL, reads_the_barrier, NULL);
	mono_ms start = mono_now();
	cr_assert(notify_barrier(5000));
	cr_assert(mono_now() - start >= 90 && mono_now() - start < 4000);
	pthread_join(t, NULL);
}

Test(notify, the_watchdog_is_ours_only_with_our_pid)
{
	char pid[16];
	setenv("WATCHDOG_USEC", "30000000", 1);
	cr_assert(notify_watchdog_ms() == 15000);
	setenv("WATCHDOG_PID", "1", 1);
	cr_assert(notify_watchdog_ms() == 0);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("WATCHDOG_PID", pid, 1);
	cr_assert(notify_watchdog_ms() == 15000);
	setenv("WATCHDOG_USEC", "soon", 1);
	cr_assert(notify_watchdog_ms() == 0);
}

/* In a child of its own: descriptors 3 to 5 are the test runner's. */
static bool takes_passed_descriptors(void)
{
	struct notify_fd out[4];
	int src = open("/dev/null", O_RDONLY);
	for (int fd = 3; fd < 6; fd++)
		if (fd != src)
			dup2(src, fd);
	char pid[16];
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", "1", 1);
	setenv("LISTEN_FDS", "3", 1);
	if (notify_take_fds(out, 4) != 0)
		return false;
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "3", 1);
	setenv("LISTEN_FDNAMES", "worker::control", 1);
	if (notify_take_fds(out, 4) != 3 || out[0].fd != 3 || out[2].fd != 5)
		return false;
	if (strcmp(out[0].name, "worker") != 0 || *out[1].name || strcmp(out[2].name, "control") != 0)
		return false;
	return (fcntl(4, F_GETFD) & FD_CLOEXEC) && !getenv("LISTEN_FDS") && notify_take_fds(out, 4) == 0;
}

Test(notify, takes_the_passed_descriptors_once)
{
	pid_t child = fork();
	if (child == 0)
		_exit(takes_passed_descriptors() ? 0 : 1);
	int status;
	cr_assert(waitpid(child, &status, 0) == child && status == 0);
}

/* Every unit of the system shares the manager's queue: another one fills it. Returns how many datagrams it took. */
static int fill_queue(void)
{
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), n = 0;
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	strcpy(un.sun_path, name);
	un.sun_path[0] = '\0';
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
	while (sendto(s, "STATUS=noise", 12, 0, (struct sockaddr *)&un, len) == 12)
		n++;
	close(s);
	return n;
}

Test(notify, what_could_not_be_sent_is_said_again_in_order)
{
	listen_at('@');
	int n = fill_queue();
	notify_send("RELOADING=1\nMONOTONIC_USEC=5");
	notify_status("first");
	notify_send("WATCHDOG=1");
	notify_send("READY=1");
	notify_status("second");
	notify_send("STOPPING=1");
	notify_again();
	for (int i = 0; i < n; i++)
		cr_assert_str_eq(receive(NULL), "STATUS=noise");
	cr_assert_str_eq(receive(NULL), "", "nothing got through");
	notify_again();
	cr_expect_str_eq(receive(NULL), "RELOADING=1\nMONOTONIC_USEC=5");
	cr_expect_str_eq(receive(NULL), "READY=1");
	cr_expect_str_eq(receive(NULL), "STATUS=second", "the first one is not true any more");
	cr_expect_str_eq(receive(NULL), "STOPPING=1");
	cr_expect_str_eq(receive(NULL), "", "no watchdog's sign of life afterwards");
	notify_again();
	cr_expect_str_eq(receive(NULL), "");
}

Test(notify, a_later_word_waits_behind_what_was_not_sent)
{
	listen_at('@');
	int n = fill_queue();
	notify_send("READY=1");
	cr_assert_str_eq(receive(NULL), "STATUS=noise");
	notify_send("STOPPING=1"); /* room for one */
	for (int i = 1; i < n; i++)
		cr_assert_str_eq(receive(NULL), "STATUS=noise");
	cr_expect_str_eq(receive(NULL), "READY=1");
	notify_send("WATCHDOG=1");
	cr_expect_str_eq(receive(NULL), "STOPPING=1");
	cr_expect_str_eq(receive(NULL), "WATCHDOG=1");
}
