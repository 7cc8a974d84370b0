#include "bench/plain.h"

#include <string.h>
#include <unistd.h>

enum { BATCH = 128, BLOCK_MS = 2000, ARGS = BATCH + 3 };

/* XREADGROUP's answer -> indexes; the ids go into one XACK that is appended. Returns how many. */
static uint32_t take(struct rig *r, redisContext *link, redisReply *x, uint32_t out[BATCH])
{
	static const char before_name[] = "{\"DataStreamName\":\"";
	const char *args[ARGS] = {"XACK", r->names.lbs, r->names.group};
	size_t lens[ARGS] = {4, strlen(r->names.lbs), strlen(r->names.group)};
	const redisReply *list = x->type == REDIS_REPLY_ARRAY && x->elements ? x->element[0]->element[1] : NULL;
	uint32_t n = list ? (uint32_t)list->elements : 0;
	for (uint32_t i = 0; i < n; i++) {
		const redisReply *id = list->element[i]->element[0], *body = list->element[i]->element[1]->element[1];
		out[i] = rig_index(body->str + sizeof before_name - 1, RIG_NAME);
		args[3 + i] = id->str;
		lens[3 + i] = id->len;
	}
	if (n && redisAppendCommandArgv(link, (int)n + 3, args, lens) != REDIS_OK)
		proc_die("redis: %s", link->errstr);
	freeReplyObject(x);
	return n;
}

static void append_read(struct rig *r, redisContext *link, int block_ms)
{
	if (redisAppendCommand(link, "XREADGROUP GROUP %s plain COUNT %d BLOCK %d STREAMS %s >", r->names.group, BATCH,
		    block_ms, r->names.lbs) != REDIS_OK)
		proc_die("redis: %s", link->errstr);
}

static void make_group(struct rig *r, redisContext *link)
{
	freeReplyObject(redisCommand(link, "XGROUP CREATE %s %s 0 MKSTREAM", r->names.lbs, r->names.group));
}

struct floor_cost plain_journey(struct rig *r, uint32_t n)
{
	redisContext *link = r->link[rig_master(r, r->names.lbs_slot)];
	make_group(r, link);
	uint32_t out[BATCH];
	struct meter before;
	meter_read(r, 0, &before);
	append_read(r, link, BLOCK_MS);
	for (uint32_t n_done = 0, last = 0; n_done < n; n_done += last) {
		if (last)
			freeReplyObject(rig_reply(link)); /* of the XACK before */
		last = take(r, link, rig_reply(link), out);
		if (!last)
			proc_die("the plain loop has too few entries to read");
		if (n_done + last < n)
			append_read(r, link, BLOCK_MS);
	}
	freeReplyObject(rig_reply(link));
	struct meter m = meter_since(r, 0, &before);
	return (struct floor_cost){m.at_us / 1e6, m.own_us, m.redis_us};
}

static void follow(struct rig *r, int fd)
{
	redisContext *link = rig_connect(r, rig_master(r, r->names.lbs_slot));
	make_group(r, link);
	for (;;) {
		uint32_t out[BATCH];
		append_read(r, link, BLOCK_MS);
		uint32_t n = take(r, link, rig_reply(link), out);
		if (!n)
			continue;
		if (write(fd, out, n * sizeof *out) < 0)
			_exit(0);
		freeReplyObject(rig_reply(link));
	}
}

pid_t plain_follow(struct rig *r, int *fd)
{
	return floor_fork(r, fd, follow);
}
