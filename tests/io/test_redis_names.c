/* Names: every address gets its turn, one that is silent is not the first for ever, a dot at the end is no part of the name.
 * getaddrinfo is ours here: libuv calls it in its own threads. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/redis_rig.h"
#include "lib/test_certs.h"

enum { LISTED_MAX = 64 };

static struct rig R;
static struct test_certs certs;
static struct redis_tls *tls;
static const char *listed[LISTED_MAX]; /* addresses of every name, in the resolver's order */
static int n_listed;
static int silent[LISTED_MAX]; /* sockets that take no connection */
static int n_silent;
static char texts[LISTED_MAX][32];

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
	(void)node;
	(void)hints;
	struct addrinfo **end = res;
	*res = NULL;
	for (int i = 0; i < n_listed; i++) {
		struct sockaddr_in *sin = calloc(1, sizeof *sin);
		*sin = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(service))};
		inet_pton(AF_INET, listed[i], &sin->sin_addr);
		struct addrinfo *a = calloc(1, sizeof *a);
		*a = (struct addrinfo){.ai_family = AF_INET,
			.ai_socktype = SOCK_STREAM,
			.ai_addr = (struct sockaddr *)sin,
			.ai_addrlen = sizeof *sin};
		*end = a;
		end = &a->ai_next;
	}
	return 0;
}

void freeaddrinfo(struct addrinfo *a)
{
	while (a) {
		struct addrinfo *next = a->ai_next;
		free(a->ai_addr);
		free(a);
		a = next;
	}
}

static void up(void)
{
	rig_init(&R);
	n_listed = n_silent = 0;
}

static void down(void)
{
	rig_fini(&R);
	redis_tls_unref(tls);
	for (int i = 0; i < n_silent; i++)
		close(silent[i]);
}

#define NAME_TEST(name) Test(redis_names, name, .init = up, .fini = down)

static const char *other_addr(void)
{
	snprintf(texts[n_listed], sizeof texts[n_listed], "127.9.%d.%d", (int)(getpid() & 255), n_listed + 1);
	return texts[n_listed];
}

static void list_refused(int n)
{
	while (n-- > 0) {
		listed[n_listed] = other_addr();
		n_listed++;
	}
}

/* Accepts nothing and refuses nothing: its queue is full. */
static void list_black_hole(uint16_t port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(port)};
	listed[n_listed] = other_addr();
	inet_pton(AF_INET, listed[n_listed], &sin.sin_addr);
	n_listed++;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(fd, (struct sockaddr *)&sin, sizeof sin), 0);
	cr_assert_eq(listen(fd, 0), 0);
	silent[n_silent++] = fd;
	for (int i = 0; i < 3; i++) {
		int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)connect(c, (struct sockaddr *)&sin, sizeof sin);
		silent[n_silent++] = c;
	}
}

static void dial_name(const char *name)
{
	snprintf(R.opts.addr.host, sizeof R.opts.addr.host, "%s", name);
	rig_open(&R);
}

NAME_TEST(the_last_of_thirty_addresses_is_found)
{
	rig_serve(&R, (const char *const[]){"serve", NULL});
	list_refused(29);
	listed[n_listed++] = "127.0.0.1";
	dial_name("many.example");
	cr_assert(rig_until(&R, "up\n"), "%s", R.story.data);
	cr_assert_eq(rig_count(&R, "down"), 0, "in the first attempt: %s", R.story.data);
}

NAME_TEST(the_last_of_twelve_addresses_is_found_when_the_others_are_silent)
{
	rig_serve(&R, (const char *const[]){"serve", NULL});
	for (int i = 0; i < 11; i++)
		list_black_hole(R.opts.addr.port);
	listed[n_listed++] = "127.0.0.1";
	dial_name("many.example");
	cr_assert(rig_until(&R, "up\n"), "%s", R.story.data);
	cr_assert_eq(rig_count(&R, "down"), 0, "within the connect timeout: %s", R.story.data);
}

/* Takes connections, says nothing. */
static void list_mute(uint16_t port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(port)};
	listed[n_listed] = other_addr();
	inet_pton(AF_INET, listed[n_listed], &sin.sin_addr);
	n_listed++;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(fd, (struct sockaddr *)&sin, sizeof sin), 0);
	cr_assert_eq(listen(fd, 16), 0);
	silent[n_silent++] = fd;
}

NAME_TEST(an_address_that_takes_the_connection_and_is_silent_costs_a_moment)
{
	rig_serve(&R, (const char *const[]){"serve", "serve", NULL});
	list_mute(R.opts.addr.port);
	list_mute(R.opts.addr.port);
	listed[n_listed++] = "127.0.0.1";
	mono_ms began = mono_now();
	dial_name("three.example");
	cr_assert(rig_until(&R, "up\n"), "%s", R.story.data);
	cr_assert_eq(rig_count(&R, "down"), 0, "%s", R.story.data);
	cr_assert(mono_now() - began >= 500 && mono_now() - began < 1500, "%lld ms", (long long)(mono_now() - began));
	char peer[64];
	redis_peer(R.c, peer, sizeof peer);
	cr_assert(strncmp(peer, "127.0.0.1:", 10) == 0, "%s", peer);
	rig_send(&R, 1, "GET a", 2000);
	cr_assert(rig_until(&R, "reply 1 "));
	buf_clear(&R.story);
	began = mono_now();
	redis_redial(R.c, NULL, "again");
	cr_assert(rig_until(&R, "\nup\n"), "%s", R.story.data);
	cr_assert_lt(mono_now() - began, 250, "the one that served is the first again");
}

static int n_accepted(int fd)
{
	int n = 0, c;
	while ((c = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		close(c);
		n++;
	}
	return n;
}

NAME_TEST(the_one_that_hung_is_not_the_first_of_the_next_attempt)
{
	R.opts.times.connect_ms = 500;
	rig_serve(&R, (const char *const[]){"expect HELLO\nsend -LOADING busy\\r\\n\nclose", "serve", NULL});
	list_mute(R.opts.addr.port);
	int mute = silent[n_silent - 1];
	cr_assert_eq(fcntl(mute, F_SETFL, O_NONBLOCK), 0);
	listed[n_listed++] = "127.0.0.1";
	dial_name("two.example");
	cr_assert(rig_until(&R, "down: "), "%s", R.story.data);
	cr_assert_eq(n_accepted(mute), 1, "the first of the first attempt");
	cr_assert(rig_until(&R, "up\n"), "%s", R.story.data);
	cr_assert_eq(n_accepted(mute), 0, "the other one comes first, and is enough");
}

NAME_TEST(the_words_of_the_one_that_came_furthest)
{
	R.opts.times.connect_ms = 400;
	rig_serve(&R, (const char *const[]){"expect HELLO\nsend -WRONGPASS no\\r\\n\nclose", NULL});
	list_mute(R.opts.addr.port);
	listed[n_listed++] = "127.0.0.1";
	list_refused(1);
	dial_name("three.example");
	cr_assert(rig_until(&R, "down: "), "%s", R.story.data);
	cr_assert(strstr(R.story.data, "127.0.0.1:"), "%s", R.story.data);
	cr_assert(strstr(R.story.data, "WRONGPASS"), "%s", R.story.data);
	cr_assert(strstr(R.story.data, "(the last of 3 addresses)"), "%s", R.story.data);
}

NAME_TEST(closed_while_several_are_tried)
{
	rig_serve(&R, (const char *const[]){"serve", NULL});
	for (int i = 0; i < 20; i++)
		list_mute(R.opts.addr.port);
	R.opts.times.connect_ms = 1000;
	dial_name("twenty.example");
	cr_assert(rig_until(&R, "down: "), "%s",
		R.story.data); /* more than are tried at once, in the time of one attempt */
	cr_assert(
		strstr(R.story.data, "no answer to HELLO for 1000 ms (the last of 20 addresses)"), "%s", R.story.data);
	rig_run_for(&R, 100);
}

/* Pushes in the last segment of the handshake, and one that comes in two. */
NAME_TEST(the_winners_bytes_are_all_read)
{
	R.opts.maint = REDIS_MAINT_AUTO;
	R.opts.maint_endpoint_type = "none";
	rig_serve(&R,
		(const char *const[]){"hello\nexpect CLIENT MAINT_NOTIFICATIONS\nsend "
				      "+OK\\r\\n>2\\r\\n+x\\r\\n+one\\r\\n>2\\r\\n+x\nwait 50\n"
				      "send \\r\\n+two\\r\\n\nexpect GET\nsend *2\\r\\n*1\\r\\n:1\\r\\n:2\\r\\n\nserve",
			NULL});
	list_refused(1);
	listed[n_listed++] = "127.0.0.1";
	dial_name("two.example");
	cr_assert(rig_until(&R, "two"), "%s", R.story.data);
	cr_assert(strstr(R.story.data, "one"), "%s", R.story.data);
	cr_assert_eq(rig_count(&R, "up\n"), 1, "%s", R.story.data);
	rig_send(&R, 1, "GET a", 2000);
	cr_assert(rig_until(&R, "reply 1 "), "%s", R.story.data);
}

NAME_TEST(an_array_is_the_first_the_winner_reads)
{
	rig_serve(&R, (const char *const[]){"hello\nexpect GET\nsend *2\\r\\n*1\\r\\n:1\\r\\n:2\\r\\n\nserve", NULL});
	list_refused(1);
	listed[n_listed++] = "127.0.0.1";
	dial_name("two.example");
	cr_assert(rig_until(&R, "up\n"), "%s", R.story.data);
	rig_run_for(&R, 50); /* what has lost is freed */
	rig_send(&R, 1, "GET a", 2000);
	cr_assert(rig_until(&R, "reply 1 [2]"), "%s", R.story.data);
}

NAME_TEST(a_dot_at_the_end_is_no_part_of_the_name_to_verify)
{
	test_certs_make(&certs);
	struct resp_server_opts opts = {.cert_file = certs.server, .key_file = certs.key};
	R.server = resp_server_start((const char *const[]){"serve", NULL}, &opts);
	R.opts.addr.port = resp_server_port(R.server);
	struct err err;
	cr_assert(
		redis_tls_new(&(struct redis_tls_files){.ca_file = certs.ca, .server_name = ""}, &tls, &err) == ERR_OK,
		"%s", err.text);
	R.opts.tls = tls;
	listed[n_listed++] = "127.0.0.1";
	dial_name("localhost.");
	cr_assert(rig_until(&R, "up\n"), "%s", R.story.data);
	test_certs_remove(&certs);
}

NAME_TEST(nor_of_one_that_was_announced)
{
	test_certs_make(&certs);
	struct resp_server_opts opts = {.cert_file = certs.server, .key_file = certs.key};
	R.server = resp_server_start((const char *const[]){"serve", "serve", NULL}, &opts);
	R.opts.addr.port = resp_server_port(R.server);
	struct err err;
	cr_assert(
		redis_tls_new(&(struct redis_tls_files){.ca_file = certs.ca, .server_name = ""}, &tls, &err) == ERR_OK,
		"%s", err.text);
	R.opts.tls = tls;
	listed[n_listed++] = "127.0.0.1";
	dial_name("localhost");
	cr_assert(rig_until(&R, "up\n"), "%s", R.story.data);
	struct redis_addr announced = R.opts.addr;
	snprintf(announced.host, sizeof announced.host, "localhost.");
	buf_clear(&R.story);
	redis_redial(R.c, &announced, "moved");
	cr_assert(rig_until(&R, "\nup\n"), "%s", R.story.data);
	test_certs_remove(&certs);
}

NAME_TEST(nor_of_server_name)
{
	test_certs_make(&certs);
	struct resp_server_opts opts = {.cert_file = certs.other, .key_file = certs.key};
	R.server = resp_server_start((const char *const[]){"serve", NULL}, &opts);
	R.opts.addr.port = resp_server_port(R.server);
	struct err err;
	const struct redis_tls_files files = {.ca_file = certs.ca, .server_name = "elsewhere.example."};
	cr_assert(redis_tls_new(&files, &tls, &err) == ERR_OK, "%s", err.text);
	R.opts.tls = tls;
	listed[n_listed++] = "127.0.0.1";
	dial_name("any.example");
	cr_assert(rig_until(&R, "up\n"), "%s", R.story.data);
	test_certs_remove(&certs);
}
