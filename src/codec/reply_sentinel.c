#include "codec/reply_sentinel.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

static bool sentinel_is_text(const redisReply *r)
{
	return r && (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS);
}

static bool sentinel_is_list(const redisReply *r)
{
	return r && (r->type == REDIS_REPLY_ARRAY || r->type == REDIS_REPLY_MAP || r->type == REDIS_REPLY_PUSH);
}

static bool put_addr(const redisReply *host, const redisReply *port, char out[static SENTINEL_ADDR])
{
	if (!sentinel_is_text(host) || !sentinel_is_text(port) || host->len == 0 || host->len > 255 || port->len > 5)
		return false;
	bool is_v6 = memchr(host->str, ':', host->len) != NULL;
	snprintf(out, SENTINEL_ADDR, is_v6 ? "[%.*s]:%.*s" : "%.*s:%.*s", (int)host->len, host->str, (int)port->len,
		port->str);
	return true;
}

bool sentinel_decode_addr(const struct redisReply *r, char out[static SENTINEL_ADDR])
{
	return sentinel_is_list(r) && r->elements == 2 && put_addr(r->element[0], r->element[1], out);
}

/* The value of a field in a flat list of names and values. */
static const redisReply *sentinel_field(const redisReply *r, const char *name)
{
	for (size_t i = 0; sentinel_is_list(r) && i + 1 < r->elements; i += 2)
		if (sentinel_is_text(r->element[i]) && r->element[i]->len == strlen(name) &&
			memcmp(r->element[i]->str, name, r->element[i]->len) == 0)
			return r->element[i + 1];
	return NULL;
}

int64_t sentinel_decode_epoch(const struct redisReply *r)
{
	const redisReply *v = sentinel_field(r, "config-epoch");
	int64_t epoch = 0;
	for (size_t i = 0; sentinel_is_text(v) && i < v->len && i < 18 && v->str[i] >= '0' && v->str[i] <= '9'; i++)
		epoch = 10 * epoch + (v->str[i] - '0');
	return epoch;
}

size_t sentinel_decode_peers(const struct redisReply *r, char (*out)[SENTINEL_ADDR], size_t cap)
{
	size_t n = 0;
	for (size_t i = 0; sentinel_is_list(r) && i < r->elements && n < cap; i++)
		n += put_addr(sentinel_field(r->element[i], "ip"), sentinel_field(r->element[i], "port"), out[n]);
	return n;
}

bool sentinel_is_switch(const struct redisReply *push, const char *master)
{
	const size_t n = strlen(master);
	if (!sentinel_is_list(push) || push->elements != 3)
		return false;
	const redisReply *channel = push->element[1], *text = push->element[2];
	static const char name[] = "+switch-master";
	return sentinel_is_text(channel) && channel->len == sizeof name - 1 &&
	       memcmp(channel->str, name, sizeof name - 1) == 0 && sentinel_is_text(text) && text->len > n &&
	       memcmp(text->str, master, n) == 0 && text->str[n] == ' ';
}

void sentinel_decode_role(const struct redisReply *r, char out[static SENTINEL_ROLE])
{
	const redisReply *role = sentinel_is_list(r) && r->elements ? r->element[0] : NULL;
	bool is_text = sentinel_is_text(role);
	snprintf(out, SENTINEL_ROLE, "%.*s", is_text ? (int)role->len : 0, is_text ? role->str : "");
}

const char *sentinel_error(const struct redisReply *r)
{
	return r->type == REDIS_REPLY_ERROR ? r->str : NULL;
}
