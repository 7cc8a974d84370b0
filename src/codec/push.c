#include "codec/push.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool push_is_text(const redisReply *r)
{
	return r && (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS || r->type == REDIS_REPLY_VERB) &&
	       r->str;
}

static bool push_equals(const redisReply *r, const char *word)
{
	return r->len == strlen(word) && strncasecmp(r->str, word, r->len) == 0;
}

/* Digits with an optional sign; too many count as the most that there is. */
static bool read_text_number(const char *s, size_t len, int64_t *out)
{
	bool is_negative = len > 0 && s[0] == '-';
	size_t i = len > 0 && (s[0] == '-' || s[0] == '+');
	if (i == len)
		return false;
	int64_t n = 0;
	for (; i < len; i++) {
		if (!isdigit((unsigned char)s[i]))
			return false;
		const int digit = s[i] - '0';
		n = n > (INT64_MAX - digit) / 10 ? INT64_MAX : n * 10 + digit;
	}
	*out = is_negative ? -n : n;
	return true;
}

static bool push_read_number(const redisReply *r, int64_t *out)
{
	if (!r)
		return false;
	if (r->type == REDIS_REPLY_INTEGER) {
		*out = r->integer;
		return true;
	}
	return push_is_text(r) && read_text_number(r->str, r->len, out);
}

/* ---- endpoints ---- */

/* Not "unix": with a port behind it, it is written like the path of a socket. */
static bool is_name(const char *host, size_t len)
{
	if (len == 4 && memcmp(host, "unix", 4) == 0)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)host[i]) && !strchr("-._", host[i]))
			return false;
	return len > 0;
}

static bool is_v6(const char *host, size_t len)
{
	char text[64];
	struct in6_addr addr;
	if (len >= sizeof text)
		return false;
	memcpy(text, host, len);
	text[len] = '\0';
	return inet_pton(AF_INET6, text, &addr) == 1;
}

bool push_endpoint(const char *text, size_t len, char out[HANDOFF_ADDRESS])
{
	out[0] = '\0';
	const char *colon = memrchr(text, ':', len);
	int64_t port;
	if (!colon || memchr(text, '\0', len))
		return false;
	size_t host_len = (size_t)(colon - text), port_len = len - host_len - 1;
	if (host_len > 255 || port_len == 0 || port_len > 5 || !isdigit((unsigned char)colon[1]) ||
		!read_text_number(colon + 1, port_len, &port) || port < 1 || port > 65535)
		return false;
	bool has_brackets = host_len > 2 && text[0] == '[' && colon[-1] == ']';
	const char *host = has_brackets ? text + 1 : text;
	host_len -= has_brackets ? 2 : 0;
	if (is_v6(host, host_len))
		snprintf(out, HANDOFF_ADDRESS, "[%.*s]:%lld", (int)host_len, host, (long long)port);
	else if (!has_brackets && is_name(host, host_len))
		snprintf(out, HANDOFF_ADDRESS, "%.*s:%lld", (int)host_len, host, (long long)port);
	return out[0] != '\0';
}

/* ---- pushes ---- */

static bool is_pubsub(const redisReply *name)
{
	static const char *const names[] = {"message", "pmessage", "smessage", "subscribe", "psubscribe", "ssubscribe",
		"unsubscribe", "punsubscribe", "sunsubscribe", "invalidate", "monitor"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (push_equals(name, names[i]))
			return true;
	return false;
}

static bool has_time(enum note_kind k)
{
	return k == NOTE_MOVING || k == NOTE_MIGRATING || k == NOTE_FAILING_OVER;
}

enum push_class push_decode(const struct redisReply *r, struct note *out, struct slice *name)
{
	*out = (struct note){.kind = NOTE_KINDS};
	if (name)
		*name = (struct slice){"", 0};
	if (!r || (r->type != REDIS_REPLY_PUSH && r->type != REDIS_REPLY_ARRAY) || r->elements == 0 ||
		!push_is_text(r->element[0]))
		return PUSH_IS_BROKEN;
	const redisReply *first = r->element[0];
	if (name)
		*name = (struct slice){first->str, first->len};
	if (is_pubsub(first))
		return PUSH_IS_PUBSUB;
	int kind = 0;
	while (kind < NOTE_KINDS && !push_equals(first, note_name((enum note_kind)kind)))
		kind++;
	out->kind = (enum note_kind)kind;
	if (kind == NOTE_KINDS || r->elements < 2 || !push_read_number(r->element[1], &out->seq) || out->seq < 0)
		return PUSH_IS_BROKEN;
	/* MIGRATING may have its shards here */
	bool has_seconds = has_time(out->kind) && r->elements > 2 && push_read_number(r->element[2], &out->seconds);
	if (out->seconds < 0)
		out->seconds = 0;
	if (out->kind == NOTE_MOVING && r->elements > 3 && push_is_text(r->element[3]))
		(void)push_endpoint(r->element[3]->str, r->element[3]->len, out->endpoint);
	if (out->kind == NOTE_MOVING && !has_seconds && !out->endpoint[0])
		return PUSH_IS_BROKEN; /* it says neither where nor when */
	return PUSH_IS_NOTE;
}
