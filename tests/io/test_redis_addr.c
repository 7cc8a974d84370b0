/* Addresses as text, and what they say about the kind of endpoint. */
#include <criterion/criterion.h>
#include <string.h>

#include "io/redis/addr.h"

Test(redis_addr, reads_and_writes_the_three_forms)
{
	static const struct {
		const char *text, *host;
		uint16_t port;
	} good[] = {{"127.0.0.1:6379", "127.0.0.1", 6379}, {"redis.example:1", "redis.example", 1},
		{"[::1]:65535", "::1", 65535}, {"unix:/run/redis.sock", "/run/redis.sock", 0}};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct redis_addr a;
		struct err err;
		char back[300];
		cr_assert(redis_addr_parse(good[i].text, &a, &err) == ERR_OK, "%s", err.text);
		cr_assert_str_eq(a.host, good[i].host);
		cr_assert(a.port == good[i].port);
		redis_addr_format(&a, back, sizeof(back));
		cr_assert_str_eq(back, good[i].text);
	}
}

Test(redis_addr, refuses_the_rest_with_its_text)
{
	static const char *const bad[] = {"", ":", ":6379", "host", "host:", "host:0", "host:65536", "host:123456",
		"host:1x", "host:-1", "::1:6379", "[::1]", "[::1]6379", "[::1", "[]:1", "[host]:1", "a b:1",
		"unix:", "unix:relative", "redis://host:1"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct redis_addr a = {.port = 77};
		struct err err;
		cr_assert(redis_addr_parse(bad[i], &a, &err) == ERR_INVALID, "%s", bad[i]);
		cr_assert(a.port == 77, "changed only on success");
		cr_assert(strstr(err.text, bad[i]), "%s", err.text);
	}
}

static const char *type_of(const char *text, const char *peer, bool is_tls)
{
	struct redis_addr a, p;
	struct sockaddr_storage s;
	cr_assert(redis_addr_parse(text, &a, NULL) == ERR_OK);
	if (!peer)
		return redis_addr_endpoint_type(&a, NULL, is_tls);
	cr_assert(redis_addr_parse(peer, &p, NULL) == ERR_OK && redis_addr_numeric(&p, &s));
	return redis_addr_endpoint_type(&a, &s, is_tls);
}

Test(redis_addr, the_endpoint_type_follows_the_configured_address_then_the_peer)
{
	static const char *const internal[] = {"10.1.2.3:1", "172.16.0.1:1", "172.31.255.255:1", "192.168.9.9:1",
		"127.0.0.1:1", "169.254.1.1:1", "100.64.0.1:1", "100.127.255.255:1", "[::1]:1", "[fd00::1]:1",
		"[fe80::1]:1", "[::ffff:10.0.0.1]:1"};
	static const char *const external[] = {"8.8.8.8:1", "172.32.0.1:1", "172.15.0.1:1", "192.169.0.1:1",
		"100.128.0.1:1", "[2001:db8::1]:1", "[::ffff:8.8.8.8]:1"};
	for (size_t i = 0; i < sizeof(internal) / sizeof(internal[0]); i++) {
		cr_assert_str_eq(type_of(internal[i], NULL, false), "internal-ip", "%s", internal[i]);
		cr_assert_str_eq(type_of("name:1", internal[i], true), "internal-fqdn");
	}
	for (size_t i = 0; i < sizeof(external) / sizeof(external[0]); i++) {
		cr_assert_str_eq(type_of(external[i], NULL, true), "external-fqdn", "%s", external[i]);
		cr_assert_str_eq(type_of("name:1", external[i], false), "external-ip");
	}
	cr_assert_str_eq(type_of("8.8.8.8:1", "10.0.0.1:1", false), "external-ip", "a configured address decides");
	cr_assert_str_eq(type_of("unix:/s", NULL, true), "none");
}
