#include "helper.h"
#include <stdio.h>

static struct config *with(const char *variable)
{
	return load_env(ORDERS "redis: {command_timeout: 2s, password: {file: /p}}\n",
		(char *[]){"POD_NAME=n1", (char *)(uintptr_t)variable, NULL});
}

Test(env, overrides_the_file, .init = up)
{
	struct config *c = with("SLUICED_REDIS__COMMAND_TIMEOUT=1s");
	cr_expect(c->redis.command_timeout_ms == 1000);
	config_free(c);
	c = with("SLUICED_REDIS__TLS__ENABLED=true");
	cr_expect(c->redis.tls.enabled);
	config_free(c);
	c = with("SLUICED_SERVICES__0__LEASE__TTL=20s");
	cr_expect(c->services[0].lease.ttl_ms == 20000 && c->services[0].lease.renew_every_ms == 6666);
	config_free(c);
}

Test(env, lists_are_separated_by_commas, .init = up)
{
	struct config *c = with("SLUICED_REDIS__ENDPOINTS=a:1, [::1]:2,unix:/r");
	cr_assert(c->redis.endpoints.n == 3);
	cr_expect_str_eq(c->redis.endpoints.items[1], "[::1]:2");
	config_free(c);
	c = with("SLUICED_WORKERS__ALLOW_UIDS=");
	cr_expect(c->workers.allow_uids.n == 0);
	config_free(c);
}

Test(env, a_password_of_another_kind_replaces_the_files, .init = up)
{
	struct config *c = with("SLUICED_REDIS__PASSWORD__ENV=PW");
	cr_expect_str_eq(c->redis.password.env, "PW");
	cr_expect_str_eq(c->redis.password.file, "");
	config_free(c);
	c = with("SLUICED_REDIS__PASSWORD=");
	cr_expect_str_eq(c->redis.password.file, "");
	config_free(c);
}

Test(env, the_next_number_adds_a_service, .init = up)
{
	struct config *c = with("SLUICED_SERVICES__1__NAME=second");
	cr_assert(c->n_services == 2);
	cr_expect_str_eq(c->services[1].name, "second");
	cr_expect_str_eq(c->services[1].dead_letter.stream, "second-input-dlq");
	config_free(c);
}

Test(env, configures_alone_beside_an_empty_file, .init = up)
{
	static const char *const empty[] = {"", "# nothing\n", "---\n"};
	for (size_t i = 0; i < 3; i++) {
		struct config *c = load_env(empty[i],
			(char *[]){"POD_NAME=n1", "SLUICED_SERVICES__0__NAME=orders", "SLUICED_REDIS__DB=2", NULL});
		cr_assert(c->n_services == 1);
		cr_expect_str_eq(c->services[0].name, "orders");
		cr_expect(c->redis.db == 2);
		config_free(c);
	}
}

Test(env, other_variables_are_nobodys_business, .init = up)
{
	config_free(with("SLUICED_DEBUG=1"));
	config_free(with("SLUICE__X=1"));
	config_free(with("XSLUICED_A__B=1"));
}

static const struct {
	const char *variable, *line;
} WRONG[] = {
	{"SLUICED_REDIS__TOPOLGY=auto", "environment: SLUICED_REDIS__TOPOLGY: redis.topolgy: unknown key (did you mean "
					"SLUICED_REDIS__TOPOLOGY?)"},
	{"SLUICED_REDS__TLS__ENABLED=true", "environment: SLUICED_REDS__TLS__ENABLED: reds: unknown key (did you mean "
					    "SLUICED_REDIS__TLS__ENABLED?)"},
	{"SLUICED_NOTHING__AT_ALL=1", "environment: SLUICED_NOTHING__AT_ALL: nothing: unknown key"},
	{"SLUICED___X=1", "environment: SLUICED___X: : unknown key"},
	{"SLUICED_REDIS__=1", "environment: SLUICED_REDIS__: redis: is a map; name one of its keys"},
	{"SLUICED_REDIS__TLS=1", "environment: SLUICED_REDIS__TLS: redis.tls: is a map; name one of its keys"},
	{"SLUICED_REDIS__DB=1.5", "environment: SLUICED_REDIS__DB: redis.db: \"1.5\" is not a whole number"},
	{"SLUICED_REDIS__DB=", "environment: SLUICED_REDIS__DB: redis.db: has no value"},
	{"SLUICED_REDIS__DB__X=1",
		"environment: SLUICED_REDIS__DB__X: redis.db: is a setting and has no keys; lists are written a,b"},
	{"SLUICED_LOG__LEVEL__=info", "environment: SLUICED_LOG__LEVEL__: log.level: its name ends before the last two "
				      "underscores"},
	{"SLUICED_REDIS__ENDPOINTS__0=a:1", "environment: SLUICED_REDIS__ENDPOINTS__0: redis.endpoints: is a setting "
					    "and has no keys; lists are written a,b"},
	{"SLUICED_REDIS__ENDPOINTS=a:1,b:0",
		"environment: SLUICED_REDIS__ENDPOINTS: redis.endpoints[1]: port 0 is out of range 1..65535"},
	{"SLUICED_REDIS__PASSWORD=hunter2",
		"environment: SLUICED_REDIS__PASSWORD: redis.password: a password does not belong here; "
		"set SLUICED_REDIS__PASSWORD__FILE, __CREDENTIAL or __ENV"},
	{"SLUICED_SERVICES__X__NAME=a", "environment: SLUICED_SERVICES__X__NAME: services: needs the number of a "
					"service, like SLUICED_SERVICES__0__NAME"},
	{"SLUICED_SERVICES__0=a", "environment: SLUICED_SERVICES__0: services[0]: is a map; name one of its keys"},
	{"SLUICED_SERVICES__0__LEASE__TTL=1s",
		"environment: SLUICED_SERVICES__0__LEASE__TTL: services[0].lease.ttl: \"1s\" is out of range 2s..24h"},
	{"SLUICED_SERVICES__2__NAME=c", "environment: SLUICED_SERVICES__2__NAME: services[1].name: is required"},
	{"SLUICED_SERVICES__9999__NAME=c",
		"environment: SLUICED_SERVICES__9999__NAME: services: too many services, 256 are allowed"},
	{"SLUICED_SERVICES__0__NAME=a\xff", "environment: SLUICED_SERVICES__0__NAME: services[0].name: contains "
					    "control characters or bytes that are not UTF-8"},
	{"SLUICED_REDIS__COMMAND_TIMEOUT=9s", "environment: SLUICED_REDIS__COMMAND_TIMEOUT: redis.command_timeout: "
					      "renew_every + command_timeout must be below "
					      "ttl - stop_margin in services[0]: 3333ms + 9000ms, 10000ms - 2000ms"},
	{"SLUICED_WORKERS__SOCKET=w.sock",
		"environment: SLUICED_WORKERS__SOCKET: workers.socket: \"w.sock\" is not an absolute path"},
};

Test(env, wrong_variables_are_named, .init = up)
{
	for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++)
		expect_bad_env(ORDERS, strlen(ORDERS),
			(char *[]){"POD_NAME=n1", (char *)(uintptr_t)WRONG[i].variable, NULL}, WRONG[i].line);
}

Test(env, a_variable_with_an_endless_name_is_refused, .init = up)
{
	char variable[5000] = "SLUICED_A__";
	memset(variable + 11, 'B', sizeof variable - 11);
	memcpy(variable + sizeof variable - 3, "=1", 3);
	struct config *c = NULL;
	struct err err = {0};
	cr_expect(config_load_bytes("t.yaml", ORDERS, strlen(ORDERS), (char *[]){variable, NULL}, &c, &err) ==
		  ERR_INVALID);
	cr_expect(strstr(err.text, "unknown key"), "%s", err.text);
}

/* One underscore where two are meant would be ignored without a word. */
Test(env, one_underscore_is_an_error)
{
	static const struct {
		const char *var, *line;
	} cases[] = {
		{"SLUICED_LOG_LEVEL=debug",
			"environment: SLUICED_LOG_LEVEL: two underscores separate the parts (did you mean "
			"SLUICED_LOG__LEVEL?)"},
		{"SLUICED_REDIS_TLS_CA_FILE=/x",
			"environment: SLUICED_REDIS_TLS_CA_FILE: two underscores separate the parts (did "
			"you mean SLUICED_REDIS__TLS__CA_FILE?)"},
		{"SLUICED_SERVICES_12_NAME=x",
			"environment: SLUICED_SERVICES_12_NAME: two underscores separate the parts (did "
			"you mean SLUICED_SERVICES__12__NAME?)"},
		{"SLUICED_SERVICES__0__LEASE_TTL=3s",
			"environment: SLUICED_SERVICES__0__LEASE_TTL: two underscores separate the parts (did "
			"you mean SLUICED_SERVICES__0__LEASE__TTL?)"},
		{"SLUICED_MAINTENANCE_CIRCUIT_BREAKER__FAILURES=3",
			"environment: SLUICED_MAINTENANCE_CIRCUIT_BREAKER__FAILURES: two underscores separate the "
			"parts (did "
			"you mean SLUICED_MAINTENANCE__CIRCUIT_BREAKER__FAILURES?)"},
		{"SLUICED_WORKERS__ALLOW__UIDS=1",
			"environment: SLUICED_WORKERS__ALLOW__UIDS: two underscores separate the parts (did "
			"you mean SLUICED_WORKERS__ALLOW_UIDS?)"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		expect_bad_env(ORDERS, strlen(ORDERS), (char *[]){"POD_NAME=n1", (char *)(uintptr_t)cases[i].var, NULL},
			cases[i].line);
	config_free(
		load_env(ORDERS, (char *[]){"POD_NAME=n1", "SLUICED_CONTROL=/x", "SLUICED_WORKER=/y", "SLUICED_FOO=1",
					 "SLUICED_=1", "SLUICED_CONFIG=/z", "SLUICED_VERSION=2", NULL}));
}

/* The same, where no setting is called exactly so. */
Test(env, one_underscore_is_an_error_where_a_setting_is_near)
{
	static const struct {
		const char *name, *problem;
	} cases[] = {
		{"REDIS_PASSWORD", "two underscores separate the parts (did you mean SLUICED_REDIS__PASSWORD__FILE?)"},
		{"REDIS", "two underscores separate the parts (did you mean SLUICED_REDIS__TOPOLOGY?)"},
		{"SERVICES_NAME", "two underscores separate the parts (did you mean SLUICED_SERVICES__0__NAME?)"},
		{"SERVICE_NAME", "two underscores separate the parts (did you mean SLUICED_SERVICES__0__NAME?)"},
		{"SERVICES_3_LEASE_TTL",
			"two underscores separate the parts (did you mean SLUICED_SERVICES__3__LEASE__TTL?)"},
		{"WORKER_SOCKET", "two underscores separate the parts (did you mean SLUICED_WORKERS__SOCKET?)"},
		{"Log_Level", "two underscores separate the parts (did you mean SLUICED_LOG__LEVEL?)"},
		{"log_level", "two underscores separate the parts (did you mean SLUICED_LOG__LEVEL?)"},
		{"LOG_LEVLE", "two underscores separate the parts (did you mean SLUICED_LOG__LEVEL?)"},
		{"REDIS_URL", "unknown key; two underscores separate the parts, as in SLUICED_REDIS__TOPOLOGY"},
		{"METRICS_PORT", "unknown key; two underscores separate the parts, as in SLUICED_METRICS__LISTEN"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char var[128], line[256];
		snprintf(var, sizeof var, "SLUICED_%s=x", cases[i].name);
		snprintf(line, sizeof line, "environment: SLUICED_%s: %s", cases[i].name, cases[i].problem);
		expect_bad_env(ORDERS, strlen(ORDERS), (char *[]){"POD_NAME=n1", var, NULL}, line);
	}
}

/* Kubernetes gives them to each container for Services called sluiced, sluiced-redis and sluiced-metrics. */
Test(env, a_service_of_kubernetes_is_nobodys_business)
{
	config_free(load_env(
		ORDERS, (char *[]){"POD_NAME=n1", "SLUICED_SERVICE_HOST=10.0.0.1", "SLUICED_SERVICE_PORT=9438",
				"SLUICED_SERVICE_PORT_METRICS=9438", "SLUICED_PORT=tcp://10.0.0.1:9438",
				"SLUICED_PORT_9438_TCP=tcp://10.0.0.1:9438", "SLUICED_PORT_9438_TCP_PROTO=tcp",
				"SLUICED_PORT_9438_TCP_PORT=9438", "SLUICED_PORT_9438_TCP_ADDR=10.0.0.1",
				"SLUICED_REDIS_SERVICE_HOST=10.0.0.2", "SLUICED_REDIS_SERVICE_PORT_REDIS=6379",
				"SLUICED_REDIS_PORT=tcp://10.0.0.2:6379", "SLUICED_REDIS_PORT_6379_TCP_ADDR=10.0.0.2",
				"SLUICED_METRICS_PORT_53_UDP=udp://10.0.0.3:53", NULL}));
}

Test(env, a_service_called_like_its_stream_is_odd)
{
	char odd[CONFIG_ODD_NAME];
	struct config *c = load("services: [{name: orders}, {name: orders-input}, {name: -input}]\n");
	cr_expect(!config_odd_name(c, 0, odd) && !config_odd_name(c, 2, odd));
	cr_expect(config_odd_name(c, 1, odd));
	cr_expect_str_eq(odd,
		"services[1].name: service orders-input reads the stream orders-input-input (did you mean orders?)");
	config_free(c);
}
