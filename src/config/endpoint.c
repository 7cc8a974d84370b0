#include "config/endpoint.h"
#include "config/text.h"
#include <arpa/inet.h>
#include <string.h>

static const char HOST_BYTES[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

const char *endpoint_path(const char *text)
{
	return strncmp(text, "unix:", 5) == 0 ? text + 5 : NULL;
}

static enum err_code check_path(const char *path, struct err *err)
{
	if (path[0] != '/' || !path[1])
		return err_set(err, ERR_INVALID, "the path after unix: must be absolute");
	if (strlen(path) > ENDPOINT_MAX_PATH)
		return err_set(err, ERR_RANGE, "the path is longer than %d bytes", ENDPOINT_MAX_PATH);
	return ERR_OK;
}

static enum err_code check_port(const char *port, struct err *err)
{
	char shown[TEXT_SHOWN];
	size_t n = strlen(port);
	if (n == 0 || strspn(port, "0123456789") != n || (n > 1 && port[0] == '0'))
		return err_set(err, ERR_INVALID, "%s is not a port number", text_show(port, n, shown));
	unsigned value = 0;
	for (size_t i = 0; i < n && value <= 65535; i++)
		value = value * 10 + (unsigned)(port[i] - '0');
	if (value < 1 || value > 65535)
		return err_set(err, ERR_RANGE, "port %s is out of range 1..65535", n > 10 ? "number" : port);
	return ERR_OK;
}

static enum err_code check_v6(const char *text, struct err *err)
{
	char host[INET6_ADDRSTRLEN] = "";
	struct in6_addr unused;
	size_t n = strcspn(text + 1, "]");
	if (n < sizeof host)
		memcpy(host, text + 1, n);
	if (inet_pton(AF_INET6, host, &unused) != 1)
		return err_set(err, ERR_INVALID, "what is in brackets is not an IPv6 address");
	if (text[n + 1] != ']' || text[n + 2] != ':')
		return err_set(err, ERR_INVALID, "has no port; write [v6]:port");
	return check_port(text + n + 3, err);
}

static enum err_code check_host(const char *text, size_t n, bool is_listen, struct err *err)
{
	char host[INET_ADDRSTRLEN] = "", shown[TEXT_SHOWN];
	struct in_addr unused;
	if (n == 0 && is_listen)
		return err_set(err, ERR_INVALID,
			"has no address; write 0.0.0.0%.20s for all of this host, or 127.0.0.1%.20s", text, text);
	if (n == 0)
		return err_set(err, ERR_INVALID, "has no host; write 127.0.0.1%.20s or the server's name", text);
	if (n > 253 || strspn(text, HOST_BYTES) < n)
		return err_set(err, ERR_INVALID, "%s is not a host name or address", text_show(text, n, shown));
	if (n < sizeof host)
		memcpy(host, text, n);
	if (is_listen && inet_pton(AF_INET, host, &unused) != 1)
		return err_set(err, ERR_INVALID, "%s is not a numeric address", text_show(text, n, shown));
	return ERR_OK;
}

enum err_code endpoint_check(const char *text, bool is_listen, struct err *err)
{
	char shown[TEXT_SHOWN];
	if (strstr(text, "://") || (!endpoint_path(text) && strchr(text, '@'))) /* may carry a password: not shown */
		return err_set(err, ERR_INVALID, "URLs are not supported; write host:port, [v6]:port or unix:/path");
	if (endpoint_path(text))
		return check_path(endpoint_path(text), err);
	if (text[0] == '[')
		return check_v6(text, err);
	const char *colon = strchr(text, ':');
	if (colon && strchr(colon + 1, ':'))
		return err_set(err, ERR_INVALID, "an IPv6 address needs brackets; write [v6]:port");
	if (!colon)
		return err_set(err, ERR_INVALID, "%s has no port; write host:port, [v6]:port or unix:/path",
			text_show(text, strlen(text), shown));
	enum err_code rc = check_host(text, (size_t)(colon - text), is_listen, err);
	return rc ? rc : check_port(colon + 1, err);
}
