/* Four threads, a loop and a TLS connection each, one shared TLS material, against one scripted server. For
 * ThreadSanitizer. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/loop.h"
#include "io/redis/conn.h"
#include "lib/resp_server.h"
#include "lib/test_certs.h"

enum { N_THREADS = 4, N_COMMANDS = 500 };

static struct redis_tls *tls;
static uint16_t port;

struct worker {
	pthread_t thread;
	struct loop *loop;
	struct redis_conn *conn;
	uint64_t n_got;
	bool has_failed;
};

static void on_up(void *arg, struct redis_conn *c)
{
	(void)arg;
	for (uint64_t i = 0; i < N_COMMANDS; i++)
		redis_send(c, i, 2, (const char *[]){"ECHO", "hello"}, (size_t[]){4, 5}, mono_now() + 30000);
}

static void on_down(void *arg, struct redis_conn *c, const struct err *why, bool was_up)
{
	(void)c;
	(void)was_up;
	struct worker *w = arg;
	printf("down: %s\n", why->text);
	w->has_failed = true;
	loop_stop(w->loop);
}

static void on_reply(void *arg, uint64_t tag, const redisReply *reply)
{
	struct worker *w = arg;
	if (!reply || tag != w->n_got++ || strcmp(reply->str, "hello") != 0)
		w->has_failed = true;
	if (w->n_got == N_COMMANDS)
		loop_stop(w->loop);
}

static void on_deadline(void *arg, mono_ms now)
{
	(void)now;
	struct worker *w = arg;
	w->has_failed = true;
	loop_stop(w->loop);
}

static void *run(void *arg)
{
	struct worker *w = arg;
	struct redis_opts opts = {.addr = {.host = "localhost", .port = port},
		.tls = tls,
		.times = {.connect_ms = 30000, .backoff_initial_ms = 10, .backoff_max_ms = 100},
		.maint = REDIS_MAINT_AUTO};
	struct redis_events ev = {.on_up = on_up, .on_down = on_down};
	w->loop = loop_new("worker", on_deadline, w);
	loop_wake_at(w->loop, mono_now() + 60000);
	w->conn = redis_open(loop_uv(w->loop), &opts, &ev, on_reply, w);
	loop_run(w->loop);
	redis_close(w->conn, true);
	loop_free(w->loop);
	return NULL;
}

int main(void)
{
	struct test_certs certs;
	struct err err;
	test_certs_make(&certs);
	struct resp_server_opts opts = {.cert_file = certs.server, .key_file = certs.key};
	struct resp_server *server = resp_server_start((const char *const[]){"serve", NULL}, &opts);
	port = resp_server_port(server);
	bool has_failed = redis_tls_new(&(struct redis_tls_files){.ca_file = certs.ca}, &tls, &err) != ERR_OK;
	struct worker workers[N_THREADS] = {0};
	for (int i = 0; i < N_THREADS && !has_failed; i++)
		if (pthread_create(&workers[i].thread, NULL, run, &workers[i]))
			return 1;
	for (int i = 0; i < N_THREADS && !has_failed; i++)
		pthread_join(workers[i].thread, NULL);
	for (int i = 0; i < N_THREADS; i++)
		has_failed = has_failed || workers[i].has_failed || workers[i].n_got != N_COMMANDS;
	redis_tls_unref(tls);
	resp_server_stop(server);
	test_certs_remove(&certs);
	puts(has_failed ? "failed" : "ok");
	return has_failed;
}
