/* Happy path: numeric or unix address -> connect; a name -> uv_getaddrinfo -> its address, or a race of all of them
 * (race.c). Failure: one sentence. A look-up that hangs in the resolver is kept
 * and used by the next attempt, so that a connection never occupies more than one of libuv's look-up threads; one for
 * another name is left to itself. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "io/redis/addr.h"
#include "io/redis/conn_p.h"

struct lookup {
	uv_getaddrinfo_t req;
	struct redis_conn *c; /* NULL = nobody waits any more */
	char host[256];
};

/* ---- what the wire tells */

static void on_connect(void *arg, int status)
{
	struct redis_conn *c = arg;
	if (status < 0) {
		conn_fail(c, ERR_IO, "cannot connect: %s", uv_strerror(status));
		return;
	}
	if (!c->login.tls) {
		handshake_start(c);
		conn_rearm(c);
		return;
	}
	conn_move(c, CONN_SECURING);
	struct err err;
	if (wire_secure(c->wire, c->login.tls, c->addr.port ? c->addr.host : "", &err))
		conn_fail(c, err.code, "%s", err.text);
	conn_rearm(c);
}

static void on_secure(void *arg)
{
	handshake_start(arg);
	conn_rearm(arg);
}

static void dial_on_end(void *arg, const struct err *why)
{
	struct redis_conn *c = arg;
	const char *command = c->state == CONN_GREETING ? handshake_waits_for(c) : NULL;
	if (command)
		conn_fail(c, why->code, "%s (%s was not answered)", why->text, command);
	else
		conn_fail(c, why->code, "%s", why->text);
}

static const struct wire_events wire_events = {
	.on_connect = on_connect, .on_secure = on_secure, .on_bytes = command_bytes, .on_end = dial_on_end};

/* ---- addresses */

static void start_connecting(struct redis_conn *c)
{
	conn_move(c, CONN_CONNECTING);
	c->dial.i_addr = 0;
	if (c->dial.n_addrs > 1) {
		race_start(c);
		return;
	}
	c->dial.i_addr = 1;
	int rc = wire_open(c->loop, (const struct sockaddr *)&c->dial.addrs[0], NULL, &wire_events, c, &c->wire);
	if (rc < 0)
		conn_fail(c, ERR_IO, "cannot connect: %s", uv_strerror(rc));
}

/* ---- names */

static bool is_inet(const struct addrinfo *a)
{
	return a->ai_family == AF_INET || a->ai_family == AF_INET6;
}

/* The resolver's list from first_addr on, then the ones before it. */
static void take_addrs(struct redis_conn *c, const struct addrinfo *list)
{
	int n = 0, i = 0;
	for (const struct addrinfo *a = list; a; a = a->ai_next)
		n += is_inet(a);
	c->dial.n_addrs = n;
	if (n == 0)
		return;
	c->dial.first_addr %= n;
	c->dial.addrs = mem_grow(c->dial.addrs, (size_t)n, sizeof *c->dial.addrs);
	for (const struct addrinfo *a = list; a; a = a->ai_next)
		if (is_inet(a))
			memcpy(&c->dial.addrs[(i++ - c->dial.first_addr + n) % n], a->ai_addr, a->ai_addrlen);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *res)
{
	struct lookup *l = req->data;
	struct redis_conn *c = l->c;
	mem_free(l);
	if (c)
		c->dial.lookup = NULL;
	if (!c || c->state != CONN_RESOLVING) {
		uv_freeaddrinfo(res);
		return;
	}
	take_addrs(c, status == 0 ? res : NULL);
	uv_freeaddrinfo(res);
	if (status < 0)
		conn_fail(c, ERR_NOT_FOUND, "cannot resolve the name: %s", uv_strerror(status));
	else if (c->dial.n_addrs == 0)
		conn_fail(c, ERR_NOT_FOUND, "the name has no address");
	else
		start_connecting(c);
	conn_rearm(c);
}

void dial_forget_lookup(struct redis_conn *c)
{
	if (!c->dial.lookup)
		return;
	c->dial.lookup->c = NULL;
	uv_cancel((uv_req_t *)&c->dial.lookup
			  ->req); /* works when no thread has taken it yet; on_resolved comes in both cases */
	c->dial.lookup = NULL;
}

static void resolve(struct redis_conn *c)
{
	conn_move(c, CONN_RESOLVING);
	if (c->dial.lookup && strcmp(c->dial.lookup->host, c->addr.host) == 0)
		return;
	dial_forget_lookup(c);
	struct lookup *l = mem_alloc(sizeof(*l));
	l->c = c;
	l->req.data = l;
	snprintf(l->host, sizeof(l->host), "%s", c->addr.host);
	char port[8];
	snprintf(port, sizeof(port), "%u", c->addr.port);
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC, .ai_flags = AI_NUMERICSERV};
	int rc = uv_getaddrinfo(c->loop, &l->req, on_resolved, l->host, port, &hints);
	if (rc < 0) {
		mem_free(l);
		conn_fail(c, ERR_NOT_FOUND, "cannot resolve the name: %s", uv_strerror(rc));
		return;
	}
	c->dial.lookup = l;
}

void dial_start(struct redis_conn *c)
{
	c->dial.ms = c->dial.limit_ms > 0 ? c->dial.limit_ms : c->opts.times.connect_ms;
	c->dial.limit_ms = 0;
	c->dial.deadline = mono_now() + c->dial.ms;
	c->dial.step_deadline = c->dial.deadline;
	c->server.resp = 3;
	c->server.client_id = -1;
	c->server.is_in_cluster = false;
	c->server.maint = REDIS_MAINT_UNASKED;
	c->login.has_changed = false;
	c->login.again_by = 0;
	c->dial.n_addrs = 0;
	c->dial.addrs = mem_grow(c->dial.addrs, 1, sizeof *c->dial.addrs);
	if (c->addr.port == 0) {
		conn_move(c, CONN_CONNECTING);
		int rc = wire_open(c->loop, NULL, c->addr.host, &wire_events, c, &c->wire);
		if (rc < 0)
			conn_fail(c, ERR_IO, "cannot connect: %s", uv_strerror(rc));
	} else if (c->dial.racer_of) {
		c->dial.n_addrs = 1;
		start_connecting(c);
	} else if (redis_addr_numeric(&c->addr, &c->dial.addrs[0])) {
		c->dial.n_addrs = 1;
		start_connecting(c);
	} else {
		resolve(c);
	}
}

/* The one that served is the first again, one that hung is not. */
void dial_end(struct redis_conn *c)
{
	if (c->dial.n_addrs > 0)
		c->dial.first_addr = (c->dial.first_addr + c->dial.i_addr - c->was_up) % c->dial.n_addrs;
	c->dial.n_addrs = c->dial.i_addr = 0;
}
