/* No setting may name a key that the daemons keep for themselves: dead letters would be refused as of a wrong type for
 * ever. What those keys are called is said in codec/command_key; here both are held together. */
#include <stdio.h>

#include "codec/command.h"
#include "core/rules.h"
#include "helper.h"
#include "run/rules_from_config.h"

static void expect_refused(const char *service, const char *key, const char *what)
{
	static const char *const settings[] = {
		"dead_letter: {stream: \"%s\"}", "entries: {dead_letter: {stream: \"%s\"}}"};
	static const char *const paths[] = {"dead_letter.stream", "entries.dead_letter.stream"};
	for (size_t i = 0; i < 2; i++) {
		char setting[300], yaml[400], line[500];
		snprintf(setting, sizeof setting, settings[i], key);
		const int before = snprintf(yaml, sizeof yaml, "services: [{name: \"%s\", %s}]\n", service, setting);
		const long at = strstr(yaml, key) - yaml;
		cr_assert(before > 0 && at > 0);
		snprintf(line, sizeof line, "t.yaml:1:%ld: services[0].%s: %s %s", at, paths[i], key, what);
		expect_bad(yaml, line);
	}
}

/* Whoever has the service: this daemon, or another one beside it. */
static void expect_none_of(const char *service)
{
	char yaml[200], what[200];
	snprintf(yaml, sizeof yaml, "services: [{name: \"%s\"}]\n", service);
	struct config *c = load(yaml);
	struct service_rules *r = rules_of_service(&c->services[0], c, 0);
	snprintf(what, sizeof what, "is a key that sluiced keeps for service %s", service);
	size_t n = 0;
	for (uint32_t i = 0; i < r->own.n; i++) {
		if (r->own.v[i].kind != OWN_STATE)
			continue;
		n++;
		expect_refused(service, r->own.v[i].name, what);
		expect_refused("other", r->own.v[i].name, what);
	}
	cr_assert_geq(n, 6);
	service_rules_unref(r);
	config_free(c);
}

Test(own_keys, of_a_service, .init = up)
{
	expect_none_of("orders");
	expect_none_of("{shop}orders");
	expect_none_of("{orders}");
	expect_none_of("a-input");
}

Test(own_keys, of_a_stream, .init = up)
{
	static const char *const streams[] = {"s", "a{t}", "{x}-input"};
	for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
		char *key = command_position_key(streams[i]), lock[100];
		expect_refused("orders", key, "is a key that sluiced keeps, the position in a stream");
		mem_free(key);
		snprintf(lock, sizeof lock, "%s" COMMAND_LOCK_SEP "17-0", streams[i]);
		expect_refused("orders", lock, "has the form of a lock's key");
	}
}

/* Almost one of them: a key that is nobody's. */
Test(own_keys, others_may_be_named, .init = up)
{
	static const char *const keys[] = {"orders-input-active", "{orders-input}-actives", "{orders}-active",
		"{-input}-left", "orders-input}-left", "{orders-input-left", "{}orders-input-left", "-input-left",
		"x-sluice", "{}x-sluice", "{orders-input}-dlq", "{orders-input}x-parked", "{x}-sluice-1"};
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		char yaml[200];
		snprintf(yaml, sizeof yaml, "services: [{name: orders, dead_letter: {stream: \"%s\"}}]\n", keys[i]);
		struct config *c = load(yaml);
		cr_expect_str_eq(c->services[0].dead_letter.stream, keys[i]);
		config_free(c);
	}
}
