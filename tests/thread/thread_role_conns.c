/* Three shards' connections, a thread and a loop each, one TLS material: two servers send them from one to the other for a
 * while; every command is answered by whoever serves. For ThreadSanitizer. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/role_conns_rig.h"
#include "lib/resp_server.h"
#include "lib/test_certs.h"

enum { N_THREADS = 3, N_COMMANDS = 60, N_MOVES = 3 };

static struct redis_tls *tls;
static struct resp_server *servers[2];
static char scripts[2][300];

static bool serves(struct role_conns_rig *r)
{
	int n_ups = role_conns_rig_count(r, "up command");
	return role_conns_rig_count(r, "NULL") == 0 && role_conns_rig_count(r, "down") == 0 && n_ups > N_MOVES;
}

static void *run(void *arg)
{
	struct role_conns_rig r;
	bool *is_good = arg;
	role_conns_rig_init(&r, resp_server_port(servers[0]));
	r.opts.redis.tls = tls;
	role_conns_rig_start(&r);
	role_conns_open(r.role_conns, CONN_COMMAND, SERVICE_NONE);
	*is_good = role_conns_rig_until(&r, "up command", 1);
	role_conns_open(r.role_conns, CONN_SUBSCRIBER, SERVICE_NONE);
	for (uint64_t i = 1; i <= N_COMMANDS && *is_good; i++) {
		char line[40];
		snprintf(line, sizeof line, "reply %llu ", (unsigned long long)i);
		role_conns_rig_send(&r, CONN_COMMAND, CMD_UNBLOCK, i);
		*is_good = role_conns_rig_until(&r, line, 1);
	}
	*is_good = *is_good && role_conns_rig_until(&r, "up command", N_MOVES + 1) && serves(&r);
	role_conns_rig_fini(&r);
	return NULL;
}

int main(void)
{
	alarm(120);
	struct test_certs certs;
	struct err err;
	test_certs_make(&certs);
	struct resp_server_opts opts = {.cert_file = certs.server, .key_file = certs.key};
	for (int i = 0; i < 2; i++)
		servers[i] = resp_server_start((const char *const[]){scripts[i], NULL}, &opts);
	for (int i = 0; i < 2; i++) {
		char to[40];
		snprintf(to, sizeof to, "127.0.0.1:%u", resp_server_port(servers[!i]));
		snprintf(scripts[i], sizeof scripts[i],
			"hello\nexpect CLIENT MAINT_NOTIFICATIONS\nsend +OK\\r\\n\n"
			"wait 30\nsend >4\\r\\n$6\\r\\nMOVING\\r\\n:1\\r\\n:1\\r\\n$%zu\\r\\n%s\\r\\n",
			strlen(to), to);
	}
	bool is_good[N_THREADS] = {false};
	pthread_t threads[N_THREADS];
	if (redis_tls_new(&(struct redis_tls_files){.ca_file = certs.ca}, &tls, &err) != ERR_OK) {
		puts(err.text);
		return 1;
	}
	for (int i = 0; i < N_THREADS; i++)
		if (pthread_create(&threads[i], NULL, run, &is_good[i]))
			return 1;
	int rc = 0;
	for (int i = 0; i < N_THREADS; i++) {
		pthread_join(threads[i], NULL);
		rc |= !is_good[i];
	}
	redis_tls_unref(tls);
	for (int i = 0; i < 2; i++)
		resp_server_stop(servers[i]);
	test_certs_remove(&certs);
	puts(rc ? "failed" : "ok");
	return rc;
}
