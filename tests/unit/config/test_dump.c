#include "helper.h"
#include "config/options.h"

static char *dump(const struct config *c)
{
	struct buf b;
	buf_init(&b);
	config_dump(c, &b);
	return buf_take(&b);
}

static void expect_line(const char *text, const char *line)
{
	const char *at = strstr(text, line);
	cr_expect(at && (at == text || at[-1] == '\n') && at[strlen(line)] == '\n', "no line '%s' in\n%s", line, text);
}

Test(dump, tells_value_and_origin, .init = up)
{
	struct config *c =
		load_env("redis:\n  password: {file: /etc/pw}\nservices:\n  - name: orders\n    lease: {ttl: 30s}\n",
			(char *[]){"POD_NAME=n1", "SLUICED_LOG__LEVEL=debug", NULL});
	char *text = dump(c);
	expect_line(text, "  id: \"n1\"  # env POD_NAME");
	expect_line(text, "    file: \"/etc/pw\"  # t.yaml:2, password ***");
	expect_line(text, "  command_timeout: 3s  # default");
	expect_line(text, "  - name: \"orders\"  # t.yaml:4");
	expect_line(text, "      ttl: 30s  # t.yaml:5");
	expect_line(text, "      renew_every: 10s  # default, derived");
	expect_line(text, "      min_idle: 60s  # default, derived");
	expect_line(text, "      stream: \"orders-input-dlq\"  # default, derived");
	expect_line(text, "  mode: \"0660\"  # default");
	expect_line(text, "  level: debug  # env SLUICED_LOG__LEVEL");
	mem_free(text);
	config_free(c);
}

Test(dump, names_the_host_when_the_node_has_no_id, .init = up)
{
	struct config *c = load_env(ORDERS, NULL);
	char *text = dump(c);
	cr_expect(strstr(text, "\"  # default, the host name\n"));
	mem_free(text);
	config_free(c);
}

static const char *const GOOD[] = {
	ORDERS,
	"services: [{name: a, lease: {ttl: 2s}}, {name: b, lease: {ttl: 1h}}]\n",
	"services: [{name: a, lease: {ttl: 6s, stop_margin: 4s}}]\n",
	"redis: {command_timeout: 4s}\nservices: [{name: '{a}', lease: {ttl: 20s}, group_start: $}]\n",
	"services: [{name: 'ü#:-', dead_letter: {stream: \"x '\\\\\\\" y\", max_len: 0}}]\n",
	ORDERS "redis: {endpoints: ['[::1]:1', 'unix:/a b'], password: {env: X}, username: 'null'}\n",
	ORDERS "workers: {allow_uids: [1, 2], mode: '0777', max_frame: 1025, socket: '/a # b'}\n",
	ORDERS "metrics: {listen: '[::]:9438'}\nlog: {level: error, format: json}\nnode: {id: '0123'}\n",
};

Test(dump, loads_again_to_the_same, .init = up)
{
	for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
		struct config *c = load(GOOD[i]);
		char *text = dump(c);
		struct config *again = load(text);
		struct config_change *changes;
		size_t n = config_diff(c, again, &changes);
		cr_expect(
			n == 0, "%s: %s was %s, is %s", GOOD[i], changes[0].path, changes[0].before, changes[0].after);
		for (size_t s = 0; s < c->n_services; s++)
			cr_expect(c->services[s].command_timeout_ms == again->services[s].command_timeout_ms);
		config_changes_free(changes, n);
		config_free(again);
		config_free(c);
		mem_free(text);
	}
}

Test(defaults, load_once_a_service_has_a_name, .init = up)
{
	struct buf b;
	buf_init(&b);
	config_print_defaults(&b);
	struct config *printed = load(b.data), *built_in = load("services: [{name: orders}]\n");
	struct config_change *changes;
	size_t n = config_diff(printed, built_in, &changes);
	cr_expect(n == 0, "%s", changes[0].path);
	config_changes_free(changes, n);
	config_free(printed);
	config_free(built_in);
	buf_fini(&b);
}

Test(defaults, tell_range_class_and_help_of_every_setting, .init = up)
{
	struct buf b, range;
	buf_init(&b);
	config_print_defaults(&b);
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		const struct option *o = &options[id];
		buf_init(&range);
		option_range(o, &range);
		cr_expect(range.len && strstr(b.data, range.data), "%s: range %s", o->path, range.data);
		cr_expect(strstr(b.data, o->help), "%s: help", o->path);
		buf_fini(&range);
	}
	expect_line(b.data, "      # duration: 2s..24h [live]");
	expect_line(b.data, "      # duration: 100ms..12h; 0 = derived: ttl / 3 [live]");
	expect_line(b.data, "  # path: absolute, at most 107 bytes [restart]");
	buf_fini(&b);
}
