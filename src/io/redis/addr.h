/* io/redis/addr - what an address says about where it leads. Inside io/redis only; pure; any
 * thread. */
#pragma once
#include "io/redis/conn.h"
#include <sys/socket.h>

/* A numeric host and its port; false when it is a name. */
bool redis_addr_numeric(const struct redis_addr *a, struct sockaddr_storage *out);
/* "ip:port" or "[v6]:port"; a v4 address mapped into v6 as v4. "" for other families. */
void redis_addr_text(const struct sockaddr_storage *a, char *out, size_t cap);
/* RFC 1918, RFC 4193, loopback, link-local, 100.64/10; also as IPv4-mapped. */
bool redis_addr_is_private(const struct sockaddr_storage *a);
/* The moving-endpoint-type to ask for: from the configured address, else (a name) from the peer. peer may be NULL. */
const char *redis_addr_endpoint_type(
	const struct redis_addr *configured, const struct sockaddr_storage *peer, bool is_tls);
