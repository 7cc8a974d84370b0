#include "io/redis/addr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

static bool parse_port(const char *text, uint16_t *out)
{
	unsigned v = 0;
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9' || p - text >= 5)
			return false;
		v = 10 * v + (unsigned)(*p - '0');
	}
	*out = (uint16_t)v;
	return v >= 1 && v <= 65535;
}

static enum err_code parse_unix(const char *text, struct redis_addr *out, struct err *err)
{
	struct sockaddr_un un;
	const char *path = text + strlen("unix:");
	if (*path != '/')
		return err_set(err, ERR_INVALID, "%s: the path of a unix socket starts with /", text);
	if (strlen(path) >= sizeof(un.sun_path))
		return err_set(err, ERR_INVALID, "%s: the path of a unix socket has at most %zu bytes", text,
			sizeof(un.sun_path) - 1);
	*out = (struct redis_addr){.port = 0};
	snprintf(out->host, sizeof(out->host), "%s", path);
	return ERR_OK;
}

enum err_code redis_addr_parse(const char *text, struct redis_addr *out, struct err *err)
{
	if (strncmp(text, "unix:", 5) == 0)
		return parse_unix(text, out, err);
	struct redis_addr a = {.port = 0};
	bool is_v6 = text[0] == '[';
	const char *host = text + is_v6;
	size_t len = strcspn(host, is_v6 ? "]" : ":");
	const char *rest = host + len;
	if (is_v6 && *rest == ']')
		rest++;
	if (len == 0 || *rest != ':')
		return err_set(err, ERR_INVALID, "%s: expected host:port, [v6]:port or unix:/path", text);
	if (len >= sizeof(a.host) || strcspn(host, " \t\r\n/,") < len)
		return err_set(err, ERR_INVALID, "%s: not a host name", text);
	if (!parse_port(rest + 1, &a.port))
		return err_set(err, ERR_INVALID,
			"%s: expected a port from 1 to 65535 after the host (a v6 address stands in brackets)", text);
	memcpy(a.host, host, len);
	struct in6_addr v6;
	if (is_v6 && inet_pton(AF_INET6, a.host, &v6) != 1)
		return err_set(err, ERR_INVALID, "%s: not a v6 address in the brackets", text);
	*out = a;
	return ERR_OK;
}

void redis_addr_format(const struct redis_addr *a, char *out, size_t cap)
{
	if (a->port == 0)
		snprintf(out, cap, "unix:%s", a->host);
	else
		snprintf(out, cap, strchr(a->host, ':') ? "[%s]:%u" : "%s:%u", a->host, a->port);
}

bool redis_addr_numeric(const struct redis_addr *a, struct sockaddr_storage *out)
{
	memset(out, 0, sizeof(*out));
	if (a->port == 0)
		return false;
	return uv_ip4_addr(a->host, a->port, (struct sockaddr_in *)out) == 0 ||
	       uv_ip6_addr(a->host, a->port, (struct sockaddr_in6 *)out) == 0;
}

void redis_addr_text(const struct sockaddr_storage *a, char *out, size_t cap)
{
	char ip[INET6_ADDRSTRLEN] = "";
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
	out[0] = '\0';
	if (a->ss_family == AF_INET && inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof(ip)))
		snprintf(out, cap, "%s:%u", ip, ntohs(v4->sin_port));
	if (a->ss_family != AF_INET6)
		return;
	bool is_mapped = IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr);
	if (is_mapped && inet_ntop(AF_INET, v6->sin6_addr.s6_addr + 12, ip, sizeof(ip)))
		snprintf(out, cap, "%s:%u", ip, ntohs(v6->sin6_port));
	else if (inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof(ip)))
		snprintf(out, cap, "[%s]:%u", ip, ntohs(v6->sin6_port));
}

static bool is_private_v4(uint32_t ip)
{
	static const struct {
		uint32_t net, mask;
	} nets[] = {{0x0a000000, 0xff000000}, {0xac100000, 0xfff00000}, {0xc0a80000, 0xffff0000},
		{0x7f000000, 0xff000000}, {0xa9fe0000, 0xffff0000}, {0x64400000, 0xffc00000}};
	for (size_t i = 0; i < sizeof(nets) / sizeof(nets[0]); i++)
		if ((ip & nets[i].mask) == nets[i].net)
			return true;
	return false;
}

bool redis_addr_is_private(const struct sockaddr_storage *a)
{
	if (a->ss_family == AF_INET)
		return is_private_v4(ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr));
	if (a->ss_family != AF_INET6)
		return false;
	const struct in6_addr *ip = &((const struct sockaddr_in6 *)a)->sin6_addr;
	if (IN6_IS_ADDR_V4MAPPED(ip)) {
		uint32_t v4;
		memcpy(&v4, ip->s6_addr + 12, sizeof(v4));
		return is_private_v4(ntohl(v4));
	}
	return IN6_IS_ADDR_LOOPBACK(ip) || IN6_IS_ADDR_LINKLOCAL(ip) || (ip->s6_addr[0] & 0xfe) == 0xfc;
}

const char *redis_addr_endpoint_type(
	const struct redis_addr *configured, const struct sockaddr_storage *peer, bool is_tls)
{
	if (configured->port == 0)
		return "none";
	struct sockaddr_storage own;
	bool is_private = redis_addr_numeric(configured, &own) ? redis_addr_is_private(&own)
							       : peer && redis_addr_is_private(peer);
	if (is_private)
		return is_tls ? "internal-fqdn" : "internal-ip";
	return is_tls ? "external-fqdn" : "external-ip";
}
