/* reply_push - what comes without having been asked for: expired locks, tracked keys that changed. */
#include "codec/reply_p.h"

#include "codec/command.h"

static bool starts(const redisReply *r, const char *s)
{
	return reply_is_text(r) && r->len >= strlen(s) && memcmp(r->str, s, strlen(s)) == 0;
}

/* __keyspace@<db>__:<key> -> key. */
static bool keyspace_key(const redisReply *channel, struct slice *key)
{
	if (!starts(channel, "__keyspace@"))
		return false;
	const char *sep = memmem(channel->str, channel->len, "__:", 3);
	if (!sep)
		return false;
	sep += 3;
	*key = (struct slice){sep, channel->len - (size_t)(sep - channel->str)};
	return true;
}

bool reply_changed_key(const struct redisReply *r, size_t i, struct slice *key)
{
	const redisReply *keys = r->element[1];
	*key = (struct slice){NULL, 0};
	if (keys->type == REDIS_REPLY_NIL)
		return i == 0;
	if (!reply_is_list(keys) || i >= keys->elements || !reply_is_text(keys->element[i]))
		return false;
	*key = reply_slice_of(keys->element[i]);
	return true;
}

void reply_decode_push(const struct redisReply *r, struct push *out)
{
	*out = (struct push){.kind = PUSH_OTHER};
	if (!r || (r->type != REDIS_REPLY_PUSH && r->type != REDIS_REPLY_ARRAY) || r->elements == 0 ||
		!reply_is_text(r->element[0]))
		return;
	out->name = reply_slice_of(r->element[0]);
	if (reply_equals(r->element[0], "subscribe") || reply_equals(r->element[0], "psubscribe")) {
		out->kind = PUSH_SUBSCRIBED;
		return;
	}
	if (reply_equals(r->element[0], "invalidate") && r->elements > 1) {
		out->kind = PUSH_CHANGED;
		return;
	}
	const size_t n = reply_equals(r->element[0], "message") ? 3 : reply_equals(r->element[0], "pmessage") ? 4 : 0;
	struct slice key;
	if (n == 0 || r->elements < n || !reply_equals(r->element[n - 1], "expired") ||
		!keyspace_key(r->element[n - 2], &key))
		return;
	if (command_lock_parse(key.p, key.len, &out->stream, &out->id))
		out->kind = PUSH_LOCK_EXPIRED;
}
