/* Happy path, one command at a time: HELLO 3 [AUTH] [SETNAME] -> SELECT -> CLIENT MAINT_NOTIFICATIONS -> [CLIENT ID] ->
 * up. A server that does not know HELLO 3: [AUTH] -> [CLIENT SETNAME] -> SELECT -> CLIENT ID on RESP2. Nothing is sent
 * before the answer to what stands before it: after a refused AUTH the server would run it as somebody else. Failure:
 * one sentence with the server's words, then the usual reconnect. The attempt's deadline covers all of it. Why no NUL
 * or length checks on words: they come from the configuration, which has checked them. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/fnv.h"
#include "base/log.h"
#include "io/redis/addr.h"
#include "io/redis/conn_p.h"

/* ---- reading answers */

static bool is_error(const redisReply *r)
{
	return r->type == REDIS_REPLY_ERROR;
}

static bool handshake_starts_with(const char *text, const char *start)
{
	return strncasecmp(text, start, strlen(start)) == 0;
}

enum { WORDS_MAX = 1024 };

/* The server's words up to where it quotes ours, which may be a password: "unknown command 'AUTH', with args
 * beginning with: …". */
static int words_len(const char *words)
{
	const char *quoted = strstr(words, ", with args");
	size_t n = quoted ? (size_t)(quoted - words) : strlen(words);
	return (int)(n < WORDS_MAX ? n : WORDS_MAX);
}

static bool is_auth_error(const char *words)
{
	return handshake_starts_with(words, "WRONGPASS") || handshake_starts_with(words, "NOAUTH") ||
	       handshake_starts_with(words, "NOPERM") || strstr(words, "invalid password") ||
	       strstr(words, "without any password configured");
}

static void handshake_refused(struct redis_conn *c, const char *what, const redisReply *r)
{
	if (!is_error(r))
		conn_fail(c, ERR_PROTO, "%s got an answer that makes no sense", what);
	else if (handshake_starts_with(r->str, "NOAUTH") && !*c->login.password)
		conn_fail(c, ERR_DENIED,
			"authentication refused: NOAUTH Redis wants a password, redis.password is not set");
	else if (is_auth_error(r->str))
		conn_fail(c, ERR_DENIED, "authentication refused: %.*s", words_len(r->str), r->str);
	else
		conn_fail(c, ERR_IO, "%s refused: %.*s", what, words_len(r->str), r->str);
}

/* What stands under a key of HELLO's answer (a map, flat in hiredis), or NULL. */
static const redisReply *hello_value(const redisReply *r, const char *key)
{
	for (size_t i = 0; i + 1 < r->elements; i += 2)
		if (r->element[i]->str && strcmp(r->element[i]->str, key) == 0)
			return r->element[i + 1];
	return NULL;
}

static long long hello_number(const redisReply *r, const char *key)
{
	const redisReply *v = hello_value(r, key);
	return v && v->type == REDIS_REPLY_INTEGER ? v->integer : -1;
}

/* ---- sending */

static void send_words(struct redis_conn *c, enum redis_cmd_kind kind, const char **words)
{
	command_own(c, kind, MONO_NEVER, words); /* the attempt's deadline watches */
}

static void send_hello(struct redis_conn *c)
{
	const char *words[8] = {"HELLO", "3"};
	int n = 2;
	if (*c->login.password || *c->login.username) {
		words[n++] = "AUTH";
		words[n++] = *c->login.username ? c->login.username : "default";
		words[n++] = c->login.password;
	}
	if (*c->login.client_name) {
		words[n++] = "SETNAME";
		words[n++] = c->login.client_name;
	}
	send_words(c, REDIS_CMD_HELLO, words);
}

static void send_auth(struct redis_conn *c, enum redis_cmd_kind kind, mono_ms deadline)
{
	if (*c->login.username)
		command_own(c, kind, deadline, (const char *[]){"AUTH", c->login.username, c->login.password, NULL});
	else
		command_own(c, kind, deadline, (const char *[]){"AUTH", c->login.password, NULL});
}

static void send_setname(struct redis_conn *c)
{
	send_words(c, REDIS_CMD_SETNAME, (const char *[]){"CLIENT", "SETNAME", c->login.client_name, NULL});
}

static void send_select(struct redis_conn *c)
{
	char db[12];
	snprintf(db, sizeof(db), "%d", c->opts.db);
	send_words(c, REDIS_CMD_SELECT, (const char *[]){"SELECT", db, NULL});
}

/* ---- maintenance notifications */

const char *handshake_endpoint_type(const struct redis_conn *c)
{
	if (*c->login.maint_type)
		return c->login.maint_type;
	struct sockaddr_storage peer;
	bool has_peer = c->wire && wire_peer(c->wire, &peer);
	return redis_addr_endpoint_type(&c->opts.addr, has_peer ? &peer : NULL, c->login.tls != NULL);
}

static void send_maint(struct redis_conn *c)
{
	send_words(c, REDIS_CMD_MAINT,
		(const char *[]){"CLIENT", "MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type",
			handshake_endpoint_type(c), NULL});
}

/* Whose connection it is: that of a name, when this one tries one of its addresses. */
static const struct redis_conn *handshake_root(const struct redis_conn *c)
{
	return c->dial.racer_of ? c->dial.racer_of : c;
}

/* True the first time for an endpoint, in the whole process. Two endpoints in one place only cost a repeated line. */
static bool handshake_is_news(const char *endpoint)
{
	static _Atomic uint64_t told[64];
	uint64_t h = fnv(endpoint, strlen(endpoint));
	return atomic_exchange_explicit(&told[h % 64], h, memory_order_relaxed) != h;
}

/* False when the connection cannot go on. */
static bool maint_refused(struct redis_conn *c, const char *words)
{
	c->server.maint = REDIS_MAINT_REFUSED;
	if (c->opts.maint == REDIS_MAINT_REQUIRED) {
		conn_fail(c, ERR_IO, "maintenance notifications refused: %s", words);
		return false;
	}
	if (handshake_is_news(handshake_root(c)
				      /* an unknown subcommand is what most servers say, and nothing to worry about */
				      ->endpoint)) {
		bool is_plain = strstr(words, "nknown") && !handshake_starts_with(words, "no RESP3");
		log_line(LOG_INFO, "redis=%s has no maintenance notifications, works without%s%s",
			handshake_root(c)->endpoint, is_plain ? "" : ": ", is_plain ? "" : words);
	}
	return true;
}

static uint64_t opt_in_hash(const struct redis_conn *c)
{
	const char *endpoint = handshake_root(c)->endpoint;
	uint64_t h = fnv(endpoint, strlen(endpoint));
	return h ? h : 1;
}

bool redis_ended_at_opt_in(const struct redis_conn *c)
{
	uint64_t h = opt_in_hash(c);
	const uint64_t *without = handshake_root(c)->without_opt_in;
	return without[0] == h || without[1] == h;
}

void redis_skip_opt_in(struct redis_conn *c)
{
	if (redis_ended_at_opt_in(c))
		return;
	c->without_opt_in[1] = c->without_opt_in[0];
	c->without_opt_in[0] = opt_in_hash(c);
}

static const struct redis_cmd *handshake_head(const struct redis_conn *c)
{
	return list_empty(&c->queue.pending) ? NULL : LIST_OF(struct redis_cmd, link, c->queue.pending.next);
}

const char *handshake_waits_for(const struct redis_conn *c)
{
	const struct redis_cmd *head = handshake_head(c);
	return head ? head->name : NULL;
}

void handshake_ended(struct redis_conn *c)
{
	const struct redis_cmd *head = handshake_head(c);
	if (head && head->kind == REDIS_CMD_MAINT && c->opts.maint == REDIS_MAINT_AUTO)
		redis_skip_opt_in(c->dial.racer_of ? c->dial.racer_of : c);
}

/* ---- the sequence */

static void after_maint(struct redis_conn *c)
{
	if (c->server.client_id < 0)
		send_words(c, REDIS_CMD_ID, (const char *[]){"CLIENT", "ID", NULL});
	else
		conn_up(c);
}

static void after_select(struct redis_conn *c)
{
	bool is_wanted = c->server.resp == 3 && c->opts.maint != REDIS_MAINT_OFF;
	if (is_wanted && c->opts.maint == REDIS_MAINT_AUTO && redis_ended_at_opt_in(c))
		is_wanted = !maint_refused(c, "CLIENT MAINT_NOTIFICATIONS ended the attempt before this one");
	if (is_wanted)
		send_maint(c);
	else
		after_maint(c);
}

static void after_setname(struct redis_conn *c)
{
	if (c->opts.db > 0)
		send_select(c);
	else
		after_select(c);
}

static void after_auth(struct redis_conn *c)
{
	if (*c->login.client_name)
		send_setname(c);
	else
		after_setname(c);
}

void handshake_start(struct redis_conn *c)
{
	conn_move(c, CONN_GREETING);
	command_parser_begin(c);
	send_hello(c);
}

/* The server has no HELLO 3. */
static void fall_back(struct redis_conn *c, const char *words)
{
	c->server.resp = 2;
	if (c->opts.maint != REDIS_MAINT_OFF) {
		char text[128];
		snprintf(text, sizeof(text), "no RESP3: %.*s", words_len(words), words);
		if (!maint_refused(c, text))
			return;
	}
	if (*c->login.password || *c->login.username)
		send_auth(c, REDIS_CMD_AUTH, MONO_NEVER);
	else
		after_auth(c);
}

/* NOAUTH, though the password was in it: the newest servers say so of any command that they do not know. */
static bool has_no_hello(const struct redis_conn *c, const char *words)
{
	return handshake_starts_with(words, "ERR unknown command") || handshake_starts_with(words, "NOPROTO") ||
	       (handshake_starts_with(words, "NOAUTH") && *c->login.password);
}

static void hello_reply(struct redis_conn *c, const redisReply *r)
{
	if (is_error(r) && has_no_hello(c, r->str)) {
		fall_back(c, r->str);
		return;
	}
	if (r->type != REDIS_REPLY_MAP && r->type != REDIS_REPLY_ARRAY) {
		handshake_refused(c, "HELLO", r);
		return;
	}
	c->server.resp = hello_number(r, "proto") == 2 || r->type == REDIS_REPLY_ARRAY ? 2 : 3;
	c->server.client_id = hello_number(r, "id");
	const redisReply *server = hello_value(r, "server");
	c->server.is_valkey = server && server->str && strcasecmp(server->str, "valkey") == 0;
	const redisReply *mode = hello_value(r, "mode");
	c->server.is_in_cluster = mode && mode->str && strcasecmp(mode->str, "cluster") == 0;
	if (c->server.resp == 2 && c->opts.maint != REDIS_MAINT_OFF &&
		!maint_refused(c, "no RESP3: HELLO 3 was answered in RESP2"))
		return;
	after_setname(c);
}

static void maint_reply(struct redis_conn *c, const redisReply *r)
{
	bool is_ok = (r->type == REDIS_REPLY_STATUS || r->type == REDIS_REPLY_STRING) && strcasecmp(r->str, "OK") == 0;
	if (is_ok)
		c->server.maint = REDIS_MAINT_ON;
	else if (is_error(r) && handshake_starts_with(r->str, "NOAUTH"))
		handshake_refused(c, "CLIENT MAINT_NOTIFICATIONS", r);
	else
		maint_refused(c, r->str ? r->str : "an answer other than OK");
	if (c->state == CONN_GREETING)
		after_maint(c);
}

/* Nothing depends on a name or an id: only a missing authentication ends the attempt. */
static bool is_tolerable(struct redis_conn *c, const char *what, const redisReply *r)
{
	if (!is_error(r) || !handshake_starts_with(r->str, "NOAUTH"))
		return true;
	handshake_refused(c, what, r);
	return false;
}

void handshake_reply(struct redis_conn *c, enum redis_cmd_kind kind, const redisReply *r)
{
	switch (kind) {
	case REDIS_CMD_HELLO:
		hello_reply(c, r);
		break;
	case REDIS_CMD_AUTH:
		if (r->type == REDIS_REPLY_STATUS)
			after_auth(c);
		else
			handshake_refused(c, "AUTH", r);
		break;
	case REDIS_CMD_SETNAME:
		if (is_tolerable(c, "CLIENT SETNAME", r))
			after_setname(c);
		break;
	case REDIS_CMD_SELECT:
		if (r->type == REDIS_REPLY_STATUS)
			after_select(c);
		else
			handshake_refused(c, "SELECT", r);
		break;
	case REDIS_CMD_MAINT:
		maint_reply(c, r);
		break;
	case REDIS_CMD_ID:
		if (!is_tolerable(c, "CLIENT ID", r))
			break;
		if (r->type == REDIS_REPLY_INTEGER)
			c->server.client_id = r->integer;
		conn_up(c);
		break;
	case REDIS_CMD_REAUTH:
		if (is_error(r))
			log_line(LOG_WARN,
				"redis=%s refuses the new credentials, the connection goes on with the old: %.*s",
				c->endpoint, words_len(r->str), r->str);
		break;
	case REDIS_CMD_PING: /* any answer is a sign of life */
	case REDIS_CMD_ASKING:
	case REDIS_CMD_USER:
		break;
	}
}

static bool is_user_waiting(const struct redis_conn *c)
{
	for (const struct link *l = c->queue.pending.next; l != &c->queue.pending; l = l->next)
		if (LIST_OF(struct redis_cmd, link, l)->kind == REDIS_CMD_USER)
			return true;
	return false;
}

void handshake_reauth(struct redis_conn *c)
{
	if ((!*c->login.password && !*c->login.username) || (c->server.resp == 2 && c->opts.is_subscriber))
		return;
	mono_ms now = mono_now();
	if (c->login.again_by == 0)
		c->login.again_by = now + c->opts.times.connect_ms;
	if (is_user_waiting(c) && now < c->login.again_by)
		return; /* asked again when it is answered */
	c->login.again_by = 0;
	mono_ms since = now;
	if (!list_empty(&c->queue.pending)) { /* its answer comes after theirs, and a read may block for long */
		const struct redis_cmd *last = LIST_OF(struct redis_cmd, link, c->queue.pending.prev);
		since = mono_max(since, last->deadline.pos ? heap_at(&c->queue.deadlines, &last->deadline) : 0);
	}
	send_auth(c, REDIS_CMD_REAUTH, since + c->opts.times.connect_ms);
}
