#include "helper.h"
#include <stdio.h>

/* Compares two documents and writes "path before -> after class" lines. */
static void expect_diff(const char *before, const char *after, const char *want)
{
	struct config *a = load(before), *b = load(after);
	struct config_change *list;
	struct buf got;
	buf_init(&got);
	buf_str(&got, "");
	size_t n = config_diff(a, b, &list);
	for (size_t i = 0; i < n; i++)
		buf_printf(&got, "%s %s -> %s %s\n", list[i].path, list[i].before ? list[i].before : "none",
			list[i].after ? list[i].after : "none", list[i].needs_restart ? "restart" : "live");
	cr_expect(strcmp(got.data, want) == 0, "\n   got: %s\nwanted: %s", got.data, want);
	config_changes_free(list, n);
	buf_fini(&got);
	config_free(a);
	config_free(b);
}

Test(diff, the_same_settings_written_otherwise_are_no_change, .init = up)
{
	expect_diff(ORDERS, "# later\n" ORDERS "redis: {connect_timeout: 5000ms, endpoints: ['127.0.0.1:6379']}\n", "");
	expect_diff("services: [{name: a}, {name: b}]\n", "services: [{name: b}, {name: a}]\n", "");
}

Test(diff, tells_what_applies_live_and_what_needs_a_restart, .init = up)
{
	expect_diff(ORDERS,
		ORDERS "node: {id: n2}\nredis: {db: 1, endpoints: ['h:1'], username: u, keyspace_events: "
		       "off}\nworkers: {socket: /w, "
		       "allow_uids: [5]}\n"
		       "maintenance: {mode: disabled}\nmetrics: {listen: '127.0.0.1:1'}\nlog: {level: debug}\n",
		"node.id \"n1\" -> \"n2\" restart\n"
		"redis.endpoints [\"127.0.0.1:6379\"] -> [\"h:1\"] restart\n"
		"redis.db 0 -> 1 restart\n"
		"redis.username \"\" -> \"u\" live\n"
		"redis.keyspace_events merge -> off restart\n"
		"workers.socket \"/run/sluiced/worker.sock\" -> \"/w\" restart\n"
		"workers.allow_uids [] -> [5] live\n"
		"maintenance.mode auto -> disabled live\n"
		"metrics.listen \"\" -> \"127.0.0.1:1\" live\n"
		"log.level info -> debug live\n");
}

Test(diff, services_come_go_and_change, .init = up)
{
	expect_diff("services: [{name: a}, {name: b}, {name: c}]\n",
		"services: [{name: c, retry: {max_retries: 1}}, {name: a}, {name: d}]\n",
		"services[b] b -> none live\n"
		"services[c].retry.max_retries 3 -> 1 live\n"
		"services[d] none -> d live\n");
}

Test(diff, follows_what_is_derived, .init = up)
{
	expect_diff(ORDERS, "services: [{name: orders, lease: {ttl: 30s}}]\n",
		"services[orders].lease.ttl 10s -> 30s live\n"
		"services[orders].lease.renew_every 3333ms -> 10s live\n"
		"services[orders].lease.stop_margin 2s -> 6s live\n"
		"services[orders].recovery.min_idle 30s -> 60s live\n"
		"workers.ping_every 3333ms -> 10s live\n");
}
