/* TLS: the certificate and its name are verified, failures are sentences, large values do not stall. */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "lib/real_redis.h"
#include "lib/redis_rig.h"
#include "lib/test_certs.h"

static struct rig R;
static struct test_certs certs;
static struct redis_tls *tls;

static void up(void)
{
	rig_init(&R);
	test_certs_make(&certs);
	R.opts.stay_down = true;
}

static void down(void)
{
	rig_fini(&R);
	redis_tls_unref(tls);
	test_certs_remove(&certs);
}

#define TLS_TEST(name) Test(redis_tls, name, .init = up, .fini = down)
#define SCRIPTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void dial(const char *const *scripts, const char *cert, const char *host, const struct redis_tls_files *files)
{
	struct resp_server_opts opts = {
		.cert_file = cert, .key_file = certs.key, .client_ca_file = files->cert_file ? certs.ca : NULL};
	R.server = resp_server_start(scripts, &opts);
	snprintf(R.opts.addr.host, sizeof(R.opts.addr.host), "%s", host);
	R.opts.addr.port = resp_server_port(R.server);
	struct err err;
	cr_assert(redis_tls_new(files, &tls, &err) == ERR_OK, "%s", err.text);
	R.opts.tls = tls;
	rig_open(&R);
}

TLS_TEST(talks_to_a_verified_address)
{
	dial(SCRIPTS("serve"), certs.server, "127.0.0.1", &(struct redis_tls_files){.ca_file = certs.ca});
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "ECHO hello", 2000);
	cr_assert(rig_until(&R, "reply 1 hello"));
	cr_assert(strcmp(redis_endpoint_type(R.c), "internal-fqdn") == 0);
}

TLS_TEST(talks_to_a_verified_name)
{
	dial(SCRIPTS("serve"), certs.server, "localhost", &(struct redis_tls_files){.ca_file = certs.ca});
	cr_assert(rig_until(&R, "up\n"));
}

TLS_TEST(server_name_goes_before_the_dialled_name)
{
	dial(SCRIPTS("serve"), certs.other, "127.0.0.1",
		&(struct redis_tls_files){.ca_file = certs.ca, .server_name = "elsewhere.example"});
	cr_assert(rig_until(&R, "up\n"));
}

TLS_TEST(another_name_is_refused)
{
	dial(SCRIPTS("serve"), certs.other, "localhost", &(struct redis_tls_files){.ca_file = certs.ca});
	cr_assert(rig_until(&R, "down: "));
	cr_assert(strstr(R.story.data, "certificate is not accepted: hostname mismatch"), "%s", R.story.data);
}

TLS_TEST(an_address_needs_a_certificate_for_it)
{
	dial(SCRIPTS("serve"), certs.other, "127.0.0.1", &(struct redis_tls_files){.ca_file = certs.ca});
	cr_assert(rig_until(&R, "down: "));
	cr_assert(strstr(R.story.data, "certificate is not accepted: IP address mismatch"), "%s", R.story.data);
}

TLS_TEST(an_expired_certificate_is_refused)
{
	dial(SCRIPTS("serve"), certs.expired, "localhost", &(struct redis_tls_files){.ca_file = certs.ca});
	cr_assert(rig_until(&R, "down: "));
	cr_assert(strstr(R.story.data, "certificate is not accepted: certificate has expired"), "%s", R.story.data);
}

TLS_TEST(an_unknown_authority_is_refused)
{
	dial(SCRIPTS("serve"), certs.server, "localhost", &(struct redis_tls_files){.ca_file = certs.client});
	cr_assert(rig_until(&R, "down: "));
	cr_assert(strstr(R.story.data, "certificate is not accepted: "), "%s", R.story.data);
}

TLS_TEST(a_client_certificate_is_shown)
{
	dial(SCRIPTS("serve"), certs.server, "localhost",
		&(struct redis_tls_files){.ca_file = certs.ca, .cert_file = certs.client, .key_file = certs.key});
	cr_assert(rig_until(&R, "up\n"));
}

TLS_TEST(changed_files_are_known_by_what_is_in_them)
{
	const struct redis_tls_files files = {.ca_file = certs.ca, .cert_file = certs.client, .key_file = certs.key};
	struct redis_tls *again, *other;
	struct err err;
	cr_assert(redis_tls_new(&files, &tls, &err) == ERR_OK, "%s", err.text);
	cr_assert(redis_tls_new(&files, &again, &err) == ERR_OK, "%s", err.text);
	cr_expect(redis_tls_same_files(tls, again));
	cr_assert(rename(certs.server, certs.client) == 0); /* another one by the same name */
	cr_assert(redis_tls_new(&files, &other, &err) == ERR_OK, "%s", err.text);
	cr_expect(!redis_tls_same_files(tls, other));
	redis_tls_unref(again);
	redis_tls_unref(other);
}

TLS_TEST(a_plain_server_is_recognised)
{
	R.server = resp_server_start(SCRIPTS("send -ERR what\\r\\n\nwait 200"), NULL);
	R.opts.addr = (struct redis_addr){.host = "127.0.0.1", .port = resp_server_port(R.server)};
	struct err err;
	cr_assert(redis_tls_new(&(struct redis_tls_files){.ca_file = certs.ca}, &tls, &err) == ERR_OK);
	R.opts.tls = tls;
	rig_open(&R);
	cr_assert(rig_until(&R, "down: "));
	cr_assert(strstr(R.story.data, "TLS handshake: wrong version number"), "%s", R.story.data);
}

TLS_TEST(a_server_that_never_answers_ends_by_the_connect_timeout)
{
	R.server = resp_server_start(SCRIPTS("deaf"), NULL);
	R.opts.addr = (struct redis_addr){.host = "127.0.0.1", .port = resp_server_port(R.server)};
	R.opts.times.connect_ms = 100;
	struct err err;
	cr_assert(redis_tls_new(&(struct redis_tls_files){.ca_file = certs.ca}, &tls, &err) == ERR_OK);
	R.opts.tls = tls;
	rig_open(&R);
	cr_assert(rig_until(&R, "down: "));
	cr_assert(strstr(R.story.data, "TLS handshake: no answer within 100 ms"), "%s", R.story.data);
}

TLS_TEST(large_values_do_not_stall)
{
	/* The server reads nothing for a while, so that writes stop half-way while replies of its own are to be read.
	 */
	dial(SCRIPTS("hello\nexpect ECHO\nsend +first\\r\\n\nwait 200"), certs.server, "localhost",
		&(struct redis_tls_files){.ca_file = certs.ca});
	cr_assert(rig_until(&R, "up\n"));
	static char big[120000];
	memset(big, 'x', sizeof(big));
	const char *argv[] = {"ECHO", big};
	size_t len[] = {4, sizeof(big)};
	for (uint64_t i = 0; i < 100; i++)
		redis_send(R.c, i, 2, argv, len, mono_now() + 8000);
	cr_assert(rig_until(&R, "reply 99 (120000 bytes)"));
	cr_assert(rig_count(&R, "(120000 bytes)") == 99);
}

static uint16_t free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
		  getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	close(fd);
	return ntohs(a.sin_port);
}

/* 64 values of a mebibyte in one go, with small questions between them whose answers come while the values go out. */
TLS_TEST(sixty_four_mebibytes_of_pipelined_writes_reach_a_real_server)
{
	char port[8];
	R.opts.addr = (struct redis_addr){.host = "127.0.0.1", .port = free_port()};
	snprintf(port, sizeof(port), "%u", R.opts.addr.port);
	struct real_redis *server =
		real_redis_start((const char *const[]){"--tls-port", port, "--tls-cert-file", certs.server,
			"--tls-key-file", certs.key, "--tls-ca-cert-file", certs.ca, "--tls-auth-clients", "no", NULL});
	struct err err;
	cr_assert(redis_tls_new(&(struct redis_tls_files){.ca_file = certs.ca}, &tls, &err) == ERR_OK);
	R.opts.tls = tls;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	enum { VALUE = 1 << 20, VALUES = 64 };
	char *value = mem_alloc(VALUE);
	for (size_t i = 0; i < VALUE; i++)
		value[i] = (char)(i * 2654435761u >> 16); /* must not be the same as its neighbour */
	for (uint64_t i = 0; i < VALUES; i++) {
		char key[16];
		snprintf(key, sizeof(key), "k%u", (unsigned)i);
		redis_send(R.c, 0, 3, (const char *[]){"SET", key, value},
			(size_t[]){3, strlen(key), VALUE - (size_t)i}, mono_now() + 60000);
		rig_send(&R, 1, "ECHO small", 60000);
	}
	mem_free(value);
	for (int i = 0; i < 60 && rig_count(&R, "reply 1 small") < VALUES; i++)
		rig_run_for(&R, 500);
	cr_assert_eq(rig_count(&R, "reply 0 +OK"), VALUES);
	cr_assert_eq(rig_count(&R, "reply 1 small"), VALUES);
	rig_send(&R, 2, "STRLEN k63", 5000);
	cr_assert(rig_until(&R, "reply 2 :1048513"), "%.200s", R.story.data);
	real_redis_stop(server);
}

TLS_TEST(close_at_every_step)
{
	struct resp_server_opts opts = {.cert_file = certs.server, .key_file = certs.key};
	R.server = resp_server_start(SCRIPTS("serve"), &opts);
	R.opts.addr = (struct redis_addr){.host = "127.0.0.1", .port = resp_server_port(R.server)};
	struct err err;
	cr_assert(redis_tls_new(&(struct redis_tls_files){.ca_file = certs.ca}, &tls, &err) == ERR_OK);
	R.opts.tls = tls;
	for (int ms = 0; ms < 30; ms++) {
		rig_open(&R);
		for (int i = 0; i < ms; i++)
			uv_run(loop_uv(R.loop), UV_RUN_NOWAIT);
		if (redis_is_up(R.c))
			rig_send(&R, 1, "GET a", 1000);
		redis_close(R.c, ms % 2);
		R.c = NULL;
		rig_run_for(&R, ms % 3);
	}
}

TLS_TEST(files_are_checked_when_loaded)
{
	struct err err;
	cr_assert(redis_tls_new(&(struct redis_tls_files){.ca_file = "/no/such.pem"}, &tls, &err) == ERR_NOT_FOUND);
	cr_assert(strcmp(err.text, "redis.tls.ca_file: /no/such.pem: No such file or directory") == 0, "%s", err.text);
	cr_assert(redis_tls_new(&(struct redis_tls_files){.ca_file = certs.key}, &tls, &err) == ERR_INVALID);
	cr_assert(strstr(err.text, certs.key), "%s", err.text);
	cr_assert(redis_tls_new(&(struct redis_tls_files){.ca_file = certs.ca, .cert_file = certs.client}, &tls,
			  &err) == ERR_INVALID);
	cr_assert(strstr(err.text, "belong together"), "%s", err.text);
	cr_assert(
		redis_tls_new(
			&(struct redis_tls_files){.ca_file = certs.ca, .cert_file = certs.client, .key_file = certs.ca},
			&tls, &err) == ERR_INVALID);
	cr_assert(tls == NULL);
}
