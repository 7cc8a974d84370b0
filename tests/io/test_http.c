/* The little HTTP server, over TCP and unix. Requests are written by hand: what clients do wrong matters most. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/http.h"
#include "io/loop.h"

static struct loop *loop;
static struct http *http;
static char path[64], at[80];

static int page(void *arg, const char *asked, struct buf *body, const char **type)
{
	(void)arg;
	if (strcmp(asked, "/metrics") != 0)
		return 404;
	*type = "text/plain; version=0.0.4";
	for (int i = 0; i < 100000; i++)
		buf_str(body, "line 1\n");
	return 200;
}

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
	loop = loop_new("test", on_deadline, NULL);
	snprintf(path, sizeof(path), "/tmp/sluice-http.%d", (int)getpid());
	snprintf(at, sizeof(at), "unix:%s", path);
	struct err err;
	cr_assert(http_open(loop_uv(loop), at, page, NULL, &http, &err) == ERR_OK, "%s", err.text);
}

static void down(void)
{
	http_close(http);
	loop_free(loop);
	cr_assert(access(path, F_OK) != 0);
}

#define HTTP_TEST(name) Test(http, name, .init = up, .fini = down)

static int dial(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	cr_assert(connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0);
	return fd;
}

/* All that comes until the server closes its half. */
static const char *ask(int fd, const char *request, size_t *len)
{
	static char got[1 << 20];
	size_t n = 0;
	ssize_t r = *request ? send(fd, request, strlen(request), MSG_NOSIGNAL) : 0;
	cr_assert(r == (ssize_t)strlen(request));
	for (int i = 0; i < 2000; i++) {
		r = recv(fd, got + n, sizeof(got) - 1 - n, MSG_DONTWAIT);
		if (r == 0)
			break;
		if (r > 0)
			n += (size_t)r;
		else
			run_for(1);
	}
	got[n] = '\0';
	if (len)
		*len = n;
	return got;
}

HTTP_TEST(get_gets_a_whole_large_page)
{
	int fd = dial();
	size_t len;
	const char *r = ask(fd, "GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", &len);
	cr_assert(strncmp(r,
			  "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: "
			  "700000\r\nConnection: close\r\n\r\nline 1\n",
			  110) == 0);
	cr_assert(len > 700000 && strcmp(r + len - 7, "line 1\n") == 0);
	close(fd);
}

HTTP_TEST(head_gets_no_body)
{
	int fd = dial();
	const char *r = ask(fd, "HEAD /metrics HTTP/1.0\n\n", NULL);
	cr_assert(strstr(r, "Content-Length: 700000\r\n") && strcmp(r + strlen(r) - 4, "\r\n\r\n") == 0);
	close(fd);
}

HTTP_TEST(wrong_requests_get_a_status)
{
	static const struct {
		const char *request, *status;
	} cases[] = {{"GET /other HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "},
		{"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "}, {"hello\r\n\r\n", "HTTP/1.1 400 "},
		{"\r\n\r\n", "HTTP/1.1 400 "}, {"GET metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = dial();
		const char *r = ask(fd, cases[i].request, NULL);
		cr_assert(strncmp(r, cases[i].status, strlen(cases[i].status)) == 0, "%s", r);
		close(fd);
	}
	static char big[9000];
	memset(big, 'a', sizeof(big) - 1);
	int fd = dial();
	cr_assert(strncmp(ask(fd, big, NULL), "HTTP/1.1 431 ", 13) == 0);
	close(fd);
}

HTTP_TEST(a_request_in_pieces_and_a_half_closed_client)
{
	int fd = dial();
	cr_assert(send(fd, "GET /met", 8, 0) == 8);
	run_for(5);
	cr_assert(send(fd, "rics HTTP/1.1\r\n\r", 16, 0) == 16);
	run_for(5);
	size_t len;
	cr_assert(send(fd, "\n", 1, 0) == 1);
	shutdown(fd, SHUT_WR);
	ask(fd, "", &len);
	cr_assert(len > 700000);
	close(fd);
}

HTTP_TEST(of_too_many_connections_the_oldest_go)
{
	int fds[80];
	for (int i = 0; i < 80; i++) {
		fds[i] = dial();
		run_for(1);
	}
	char c;
	cr_assert(recv(fds[15], &c, 1, MSG_DONTWAIT) == 0);
	cr_assert(recv(fds[16], &c, 1, MSG_DONTWAIT) < 0);
	size_t len;
	ask(fds[79], "GET /metrics HTTP/1.1\r\n\r\n", &len);
	cr_assert(len > 700000);
	for (int i = 0; i < 80; i++)
		close(fds[i]);
}

HTTP_TEST(closing_with_connections_open)
{
	int fd = dial();
	run_for(2);
	http_close(http);
	http = NULL;
	run_for(2);
	char c;
	cr_assert(recv(fd, &c, 1, MSG_DONTWAIT) == 0);
	close(fd);
}

HTTP_TEST(addresses_are_checked)
{
	static const char *const bad[] = {"", "9438", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:9x",
		"name:80", "[::1:80", "::1:80", ":80"};
	struct http *h = NULL;
	struct err err;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert(http_open(loop_uv(loop), bad[i], page, NULL, &h, &err) == ERR_INVALID, "%s", bad[i]);
	cr_assert(http_open(loop_uv(loop), at, page, NULL, &h, &err) == ERR_BUSY);
	int taken = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(in);
	char text[32];
	cr_assert(bind(taken, (struct sockaddr *)&in, len) == 0 && listen(taken, 1) == 0);
	cr_assert(getsockname(taken, (struct sockaddr *)&in, &len) == 0);
	snprintf(text, sizeof(text), "127.0.0.1:%d", ntohs(in.sin_port));
	cr_assert(http_open(loop_uv(loop), text, page, NULL, &h, &err) == ERR_BUSY, "%s", err.text);
	close(taken);
	cr_assert(http_open(loop_uv(loop), text, page, NULL, &h, &err) == ERR_OK, "%s", err.text);
	http_close(h);
}
