#include "base/secret.h"
#include "helper.h"
#include "config/options.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

Test(load, a_name_is_enough_and_the_rest_is_the_documented_default, .init = up)
{
	struct config *c = load(ORDERS);
	cr_expect_str_eq(c->node.id, "n1");
	cr_expect(c->redis.topology == CONFIG_TOPOLOGY_AUTO);
	cr_expect(c->redis.endpoints.n == 1);
	cr_expect_str_eq(c->redis.endpoints.items[0], "127.0.0.1:6379");
	cr_expect(c->redis.connect_timeout_ms == 5000 && c->redis.command_timeout_ms == 3000);
	cr_expect(c->redis.reconnect.initial_ms == 100 && c->redis.reconnect.max_ms == 5000);
	cr_expect(c->redis.keyspace_events == CONFIG_KEYSPACE_MERGE && c->redis.topology_refresh_ms == 30000);
	cr_expect(!c->redis.fail_fast && !c->redis.tls.enabled);
	cr_expect(c->workers.mode == 0660 && c->workers.max_sessions == 1024 && c->workers.allow_uids.n == 0);
	cr_expect(c->workers.max_frame_bytes == 1 << 20 && c->workers.write_buffer_bytes == 4 << 20);
	cr_expect(c->workers.resume_grace_ms == 5000 && c->workers.progress_timeout_ms == 0);
	cr_expect(c->maintenance.mode == CONFIG_MAINTENANCE_AUTO && c->maintenance.max_handoff_retries == 3);
	cr_expect(c->maintenance.circuit_breaker.failures == 5 && c->maintenance.circuit_breaker.reset_ms == 60000);
	cr_expect(c->shutdown.mode == CONFIG_SHUTDOWN_AUTO && c->shutdown.drain_timeout_ms == 60000);
	cr_expect(c->log.level == LOG_INFO && c->log.format == LOG_AUTO);
	cr_expect_str_eq(c->metrics.listen, "");
	cr_assert(c->n_services == 1);
	struct config_service *s = &c->services[0];
	cr_expect_str_eq(s->group_start, "0");
	cr_expect(s->same_stream == CONFIG_SAME_STREAM_SERIALIZE && s->max_streams == 10000 && s->read_batch == 128);
	cr_expect(s->recovery.interval_ms == 60000 && s->recovery.jitter_pct == 10 && s->recovery.probe);
	cr_expect(s->retry.max_retries == 3 && s->dead_letter.max_len == 10000);
	cr_expect_str_eq(s->dead_letter.stream, "orders-input-dlq");
	config_free(c);
}

static unsigned leases_per_core(const char *ttl)
{
	char yaml[200];
	snprintf(yaml, sizeof yaml, "node: {id: n1}\nservices: [{name: orders, lease: {ttl: %s}}]\n", ttl);
	struct config *c = load(yaml);
	const unsigned n = config_leases_per_core(&c->services[0]);
	config_free(c);
	return n;
}

Test(load, a_short_lease_bears_some_thousand_streams_a_core, .init = up)
{
	cr_expect_eq(leases_per_core("2s"), 20 * (2000 - 1000 - 666 - 1));
	cr_expect_eq(leases_per_core("3s"), 20 * (3000 - 1000 - 1000 - 1));
	cr_expect_eq(leases_per_core("10s"), 20 * (10000 - 2000 - 3333 - 1), "above any default max_streams");
}

Test(load, reads_every_shape_of_value, .init = up)
{
	struct config *c = load("node: {id: 'n-7.example:1'}\n"
				"redis:\n"
				"  topology: standalone\n"
				"  endpoints:\n    - unix:/run/redis@6379.sock\n    - '[::1]:6380'\n"
				"  db: 3\n"
				"  password: \"\"\n"
				"  tls: {enabled: true, cert_file: /c, key_file: /k, server_name: r}\n"
				"services:\n"
				"  - name: '{shop}'\n    group_start: $\n    same_stream: allow\n"
				"    recovery: {jitter: 0%, probe: false, min_idle: 1h}\n"
				"    dead_letter: {stream: graveyard, max_len: 0}\n"
				"  - name: größe\n"
				"workers: {allow_uids: [0, 1000], mode: 0600, max_frame: 65536, write_buffer: 16MiB}\n"
				"metrics: {listen: 127.0.0.1:9438}\n"
				"log: {level: debug, format: json}\n");
	cr_expect_str_eq(c->node.id, "n-7.example:1");
	cr_expect_str_eq(c->redis.endpoints.items[0], "unix:/run/redis@6379.sock");
	cr_expect_str_eq(c->redis.endpoints.items[1], "[::1]:6380");
	cr_expect(c->redis.db == 3 && c->redis.tls.enabled);
	cr_expect_str_eq(c->services[0].group_start, "$");
	cr_expect(c->services[0].same_stream == CONFIG_SAME_STREAM_ALLOW);
	cr_expect(c->services[0].recovery.jitter_pct == 0 && !c->services[0].recovery.probe);
	cr_expect(c->services[0].recovery.min_idle_ms == 3600000 && c->services[0].dead_letter.max_len == 0);
	cr_expect_str_eq(c->services[0].dead_letter.stream, "graveyard");
	cr_expect_str_eq(c->services[1].dead_letter.stream, "größe-input-dlq");
	cr_expect(c->workers.allow_uids.n == 2 && c->workers.allow_uids.items[1] == 1000);
	cr_expect(c->workers.mode == 0600 && c->workers.max_frame_bytes == 65536);
	cr_expect(c->workers.write_buffer_bytes == 16 << 20);
	cr_expect(c->log.level == LOG_DEBUG && c->log.format == LOG_JSON);
	config_free(c);
}

Test(load, a_section_whose_lines_are_all_comments_is_empty, .init = up)
{
	struct config *c = load("redis:\n  # db: 1\n  tls:\n  endpoints:\nworkers: {}\n"
				"services:\n  - name: orders\n    lease:\n      # ttl: 5s\n");
	cr_expect(c->redis.endpoints.n == 1 && c->services[0].lease.ttl_ms == 10000);
	config_free(c);
}

Test(load, accepts_a_byte_order_mark_and_carriage_returns, .init = up)
{
	struct config *c = load("\xef\xbb\xbfservices:\r\n  - name: orders\r\n");
	cr_expect_str_eq(c->services[0].name, "orders");
	config_free(c);
}

Test(load, refuses_nul_bytes, .init = up)
{
	static const char yaml[] = "services: [{name: a\0}]\n";
	expect_bad_env(yaml, sizeof yaml - 1, NULL, "t.yaml:1:20: yaml: a NUL byte");
}

static void expect_lease(const char *lease, int64_t renew, int64_t margin, int64_t command)
{
	char yaml[200];
	snprintf(yaml, sizeof yaml, "services: [{name: orders, lease: {%s}}]\n", lease);
	struct config *c = load(yaml);
	struct config_service *s = &c->services[0];
	cr_expect(s->lease.renew_every_ms == renew, "%s: renew_every %lld", lease, (long long)s->lease.renew_every_ms);
	cr_expect(s->lease.stop_margin_ms == margin, "%s: stop_margin %lld", lease, (long long)s->lease.stop_margin_ms);
	cr_expect(s->command_timeout_ms == command, "%s: command %lld", lease, (long long)s->command_timeout_ms);
	cr_expect(s->lease.renew_every_ms + s->command_timeout_ms < s->lease.ttl_ms - s->lease.stop_margin_ms);
	config_free(c);
}

Test(load, lease_times_are_derived_from_ttl, .init = up)
{
	expect_lease("", 3333, 2000, 3000);
	expect_lease("ttl: 30s", 10000, 6000, 3000);
	expect_lease("ttl: 24h", 28800000, 17280000, 3000);
	expect_lease("ttl: 30s, renew_every: 5s, stop_margin: 10s", 5000, 10000, 3000);
}

Test(load, the_default_command_timeout_yields_to_short_leases, .init = up)
{
	expect_lease("ttl: 2s", 666, 1000, 333);
	expect_lease("ttl: 3s", 1000, 1000, 999);
	expect_lease("ttl: 5s", 1666, 1000, 2333);
	expect_lease("ttl: 6s, stop_margin: 4s", 1333, 4000, 666);
}

Test(load, times_against_leases_are_derived_unless_written, .init = up)
{
	struct config *c = load("services: [{name: a, lease: {ttl: 60s}}, {name: b, lease: {ttl: 3s}}]\n");
	cr_expect(c->services[0].recovery.min_idle_ms == 120000 && c->services[1].recovery.min_idle_ms == 30000);
	cr_expect(c->workers.resume_grace_ms == 1500 && c->workers.ping_every_ms == 1000);
	config_free(c);
	c = load("services: [{name: a, recovery: {min_idle: 20s}}]\nworkers: {resume_grace: 9s, ping_every: 1s}\n");
	cr_expect(c->services[0].recovery.min_idle_ms == 20000);
	cr_expect(c->workers.resume_grace_ms == 9000 && c->workers.ping_every_ms == 1000);
	config_free(c);
}

Test(load, node_id_is_the_setting_then_the_pod_then_the_host, .init = up)
{
	char host[256] = "";
	gethostname(host, sizeof host - 1);
	struct config *c = load_env("node: {id: x}\n" ORDERS, (char *[]){"POD_NAME=p", NULL});
	cr_expect_str_eq(c->node.id, "x");
	config_free(c);
	c = load_env(ORDERS, (char *[]){"POD_IP=10.0.0.1", "POD_NAME=p", NULL});
	cr_expect_str_eq(c->node.id, "p");
	config_free(c);
	c = load_env(ORDERS, (char *[]){"POD_IP=10.0.0.1", "POD_NAME=", NULL});
	cr_expect_str_eq(c->node.id, "10.0.0.1");
	config_free(c);
	c = load_env(ORDERS, NULL);
	cr_expect_str_eq(c->node.id, host);
	config_free(c);
	expect_bad_env(ORDERS, strlen(ORDERS), (char *[]){"POD_NAME=a/b", NULL},
		"environment: POD_NAME: node.id: \"a/b\" cannot be a node id; set node.id");
}

static char dir[] = "/tmp/sluice-config-XXXXXX";

static const char *write_file(const char *name, const char *text, size_t len)
{
	static char path[200];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	cr_assert(f && fwrite(text, 1, len, f) == len && fclose(f) == 0);
	return path;
}

static void up_files(void)
{
	up();
	cr_assert(mkdtemp(dir));
}

static void down_files(void)
{
	char command[100];
	snprintf(command, sizeof command, "rm -rf %s", dir);
	cr_assert(system(command) == 0);
}

Test(load, files_that_cannot_be_read_say_so_with_the_right_exit_status, .init = up_files, .fini = down_files)
{
	struct config *c = NULL;
	struct err err = {0};
	char line[300];
	cr_expect(config_load("/nonexistent/sluiced.yaml", &c, &err) == ERR_NOT_FOUND);
	cr_expect_str_eq(err.text, "/nonexistent/sluiced.yaml: No such file or directory");
	cr_expect(config_exit_status(err.code) == 66);
	cr_expect(config_load(dir, &c, &err) == ERR_INVALID && config_exit_status(err.code) == 78);
	const char *path = write_file("a.yaml", ORDERS "x: 1\n", strlen(ORDERS "x: 1\n"));
	snprintf(line, sizeof line, "%s:2:1: x: unknown key", path);
	cr_expect(config_load(path, &c, &err) == ERR_INVALID);
	cr_expect_str_eq(err.text, line);
	cr_assert(chmod(path, 0) == 0);
	if (geteuid() != 0) {
		cr_expect(config_load(path, &c, &err) == ERR_DENIED && config_exit_status(err.code) == 77);
	}
	cr_expect(config_exit_status(ERR_DENIED) == 77 && config_exit_status(ERR_RANGE) == 78);
	cr_expect(c == NULL);
}

Test(load, a_file_over_one_mebibyte_is_refused, .init = up_files, .fini = down_files)
{
	size_t len = (1 << 20) + 1;
	char *text = mem_alloc(len);
	memset(text, '#', len);
	struct config *c = NULL;
	struct err err = {0};
	cr_expect(config_load(write_file("big.yaml", text, len), &c, &err) == ERR_MEMORY);
	cr_expect(config_exit_status(err.code) == 78);
	mem_free(text);
}

Test(load, the_largest_files_are_read_quickly, .init = up)
{
	struct buf b;
	buf_init(&b);
	buf_str(&b, "services:\n");
	for (int i = 0; i < OPTION_MAX_SERVICES; i++)
		buf_printf(&b, "- {name: s%d, lease: {ttl: 5s}, recovery: {page: 7}, retry: {max_retries: 1}}\n", i);
	struct config *c = load(b.data);
	cr_expect(c->n_services == OPTION_MAX_SERVICES && c->services[OPTION_MAX_SERVICES - 1].recovery.page == 7);
	config_free(c);
	buf_str(&b, "- {name: one_more}\n");
	expect_bad(b.data, "t.yaml:258:3: services[256]: too many services, 256 are allowed");
	buf_clear(&b);
	for (int i = 0; i < 200000; i++)
		buf_str(&b, "[");
	expect_bad(b.data, "t.yaml:1:1: yaml: expected a map of settings, got a list");
	buf_fini(&b);
}

Test(load, a_very_long_file_name_does_not_hide_the_problem, .init = up)
{
	char name[1000], *end = name + sizeof name - 1;
	memset(name, 'd', sizeof name);
	*end = '\0';
	memcpy(end - 2, "\n!", 2);
	struct config *c = NULL;
	struct err err = {0};
	cr_expect(config_load_bytes(name, "x: 1\n", 5, NULL, &c, &err) == ERR_INVALID);
	cr_expect(strstr(err.text, "d?!:1:1: x: unknown key") && !strchr(err.text, '\n'), "%s", err.text);
}

static struct config *with_password(const char *kind, const char *value)
{
	char yaml[300];
	snprintf(yaml, sizeof yaml, "redis: {password: {%s: %s}}\n" ORDERS, kind, value);
	return load(yaml);
}

static void expect_password(struct config *c, const char *want)
{
	const char *got = NULL;
	struct err err = {0};
	enum err_code rc = config_password(c, &got, &err);
	cr_expect(rc == ERR_OK, "%s", err.text);
	cr_expect(want ? got && strcmp(got, want) == 0 : !got);
	secret_drop(got);
	config_free(c);
}

Test(password, comes_from_a_file_a_credential_or_a_variable, .init = up_files, .fini = down_files)
{
	expect_password(load(ORDERS), NULL);
	expect_password(with_password("file", "\"\""), NULL);
	expect_password(with_password("file", write_file("p", "s3cret\n", 7)), "s3cret");
	expect_password(with_password("file", write_file("p", "s3cret\r\n", 8)), "s3cret");
	expect_password(with_password("file", write_file("p", " two\n\n", 6)), " two\n");
	expect_password(with_password("file", write_file("p", "cr\r", 3)), "cr\r");
	setenv("CREDENTIALS_DIRECTORY", dir, 1);
	write_file("redis", "from systemd", 12);
	expect_password(with_password("credential", "redis"), "from systemd");
	setenv("SLUICE_TEST_PW", "from env", 1);
	expect_password(with_password("env", "SLUICE_TEST_PW"), "from env");
	cr_expect_str_empty(getenv("SLUICE_TEST_PW"), "wiped");
	expect_password(with_password("env", "SLUICE_TEST_PW"), "from env"); /* remembered for reloads */
	setenv("SLUICE_TEST_PW", "another", 1);
	expect_password(with_password("env", "SLUICE_TEST_PW"), "another");
	setenv("SLUICE_TEST_PW", "of a cluster's secret\n", 1);
	expect_password(with_password("env", "SLUICE_TEST_PW"), "of a cluster's secret");
	cr_expect_str_empty(getenv("SLUICE_TEST_PW"), "wiped");
	expect_password(with_password("env", "SLUICE_TEST_PW"), "of a cluster's secret");
}

static void expect_no_password(struct config *c, enum err_code code, const char *problem)
{
	const char *got = (char *)-1;
	struct err err = {0};
	cr_expect(config_password(c, &got, &err) == code, "%s", err.text);
	cr_expect(got == (char *)-1);
	cr_expect(strstr(err.text, problem), "%s", err.text);
	config_free(c);
}

Test(password, that_cannot_be_had_is_an_error, .init = up_files, .fini = down_files)
{
	expect_no_password(
		with_password("file", "/nonexistent/p"), ERR_NOT_FOUND, "redis.password.file: /nonexistent/p: ");
	expect_no_password(with_password("file", "/"), ERR_INVALID, "redis.password.file: /: Is a directory");
	expect_no_password(with_password("file", write_file("p", "\n", 1)), ERR_INVALID, "is empty");
	expect_no_password(with_password("file", write_file("p", "a\0b", 3)), ERR_INVALID, "contains a NUL byte");
	unsetenv("CREDENTIALS_DIRECTORY");
	expect_no_password(with_password("credential", "x"), ERR_NOT_FOUND, "$CREDENTIALS_DIRECTORY is not set");
	setenv("SLUICE_TEST_EMPTY", "", 1);
	expect_no_password(with_password("env", "SLUICE_TEST_EMPTY"), ERR_INVALID, "is empty");
	setenv("SLUICE_TEST_EMPTY", "\n", 1);
	expect_no_password(with_password("env", "SLUICE_TEST_EMPTY"), ERR_INVALID, "is empty");
	expect_no_password(with_password("env", "SLUICE_TEST_NONE"), ERR_NOT_FOUND, "SLUICE_TEST_NONE is not set");
}
