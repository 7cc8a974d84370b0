#include "bench/feed_floor.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

enum { BATCH = 100, HANDS = 2, HAND_STREAMS = 64, ARM_CHUNK = 200 };

static const struct entry_id token = {2, 0};

/* ---- commands */

static void append(struct rig *r, enum cmd_kind kind, const char *name, struct entry_id id, bool use_eval)
{
	struct cmd c = {.kind = kind, .stream = {name, RIG_NAME}, .id = id, .use_eval = use_eval};
	if (kind == CMD_FEED_READ)
		c.as.read.count = BATCH;
	else if (kind == CMD_FEED_CLOSE)
		c.as.feed = (struct cmd_feed){.token = token, .close = {.end = FEED_END_DONE, .ttl_ms = 86400000}};
	else
		c.as.feed = (struct cmd_feed){.token = token, .open.start = {"0", 1}, .ack.now_ms = 1700000000000};
	rig_append(r, r->link, 0, &c, "floor");
}

static void load_scripts(struct rig *r)
{
	char name[RIG_NAME + 1];
	rig_name(name, 0xffff, 0);
	append(r, CMD_FEED_OPEN, name, (struct entry_id){0}, true);
	append(r, CMD_FEED_ACK, name, (struct entry_id){0}, true);
	append(r, CMD_FEED_CLOSE, name, (struct entry_id){0}, true);
	for (int i = 0; i < 3; i++)
		freeReplyObject(rig_reply(r->link[0]));
}

static struct entry_id id_of(const redisReply *entry)
{
	struct entry_id id;
	command_id_parse(entry->element[0]->str, entry->element[0]->len, &id);
	return id;
}

/* ---- the floor: two hands of streams take turns, so that Redis has work while we read */

enum stage { LOCKING, OPENING, READING, CLOSING };

struct stream {
	struct floor_item item;
	struct entry_id pos;
	enum stage stage;
	bool acks;
};

struct hand {
	struct stream v[HAND_STREAMS];
	uint32_t n, n_asked; /* streams that the next read may bring */
};

struct feed_run {
	struct rig *r;
	uint32_t n_streams, most, n_begun, n_ended;
};

/* The items of those that are at this stage. */
static uint32_t hand_items(const struct hand *h, enum stage stage, struct floor_item v[HAND_STREAMS])
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < h->n; i++)
		if (h->v[i].stage == stage)
			v[n++] = h->v[i].item;
	return n;
}

static void stream_send(struct rig *r, const struct stream *s)
{
	if (s->stage == OPENING)
		append(r, CMD_FEED_OPEN, s->item.name, s->pos, false);
	if (s->acks)
		append(r, CMD_FEED_ACK, s->item.name, s->pos, false);
	if (s->stage == OPENING || s->stage == READING)
		append(r, CMD_FEED_READ, s->item.name, s->pos, false);
	if (s->stage == CLOSING)
		append(r, CMD_FEED_CLOSE, s->item.name, s->pos, false);
}

/* What hand_collect and stream_collect take the replies of, in this order. */
static void hand_send(struct feed_run *x, struct hand *h)
{
	struct floor_item v[HAND_STREAMS];
	h->n_asked = x->n_begun < x->n_streams ? x->most - h->n : 0;
	if (h->n_asked)
		floor_append_read(x->r, h->n_asked);
	uint32_t n = hand_items(h, LOCKING, v);
	floor_append(x->r, CMD_LOCK, v, n);
	floor_append(x->r, CMD_TAKE, v, n);
	for (uint32_t i = 0; i < h->n; i++)
		stream_send(x->r, &h->v[i]);
	floor_append(x->r, CMD_DONE, v, hand_items(h, CLOSING, v));
	for (int done = 0; !done;)
		if (redisBufferWrite(x->r->link[0], &done) != REDIS_OK)
			proc_die("redis: %s", x->r->link[0]->errstr);
}

static void stream_collect(struct rig *r, struct stream *s)
{
	if (s->stage == OPENING || s->acks || s->stage == CLOSING)
		freeReplyObject(rig_reply(r->link[0]));
	if (s->stage != OPENING && s->stage != READING)
		return;
	redisReply *list = rig_reply(r->link[0]);
	s->acks = list->elements > 0;
	if (s->acks)
		s->pos = id_of(list->element[list->elements - 1]);
	s->stage = s->acks || s->stage == OPENING ? READING : CLOSING;
	freeReplyObject(list);
}

static void hand_collect(struct feed_run *x, struct hand *h)
{
	static struct floor_item fresh[FLOOR_PAGE];
	struct floor_item v[HAND_STREAMS];
	const uint32_t n_fresh = h->n_asked ? floor_entries(x->r, fresh) : 0;
	uint32_t n = hand_items(h, LOCKING, v), kept = 0;
	floor_skip(x->r, CMD_LOCK, v, n);
	floor_skip(x->r, CMD_TAKE, v, n);
	n = hand_items(h, CLOSING, v);
	for (uint32_t i = 0; i < h->n; i++) {
		struct stream s = h->v[i];
		stream_collect(x->r, &s);
		if (s.stage == LOCKING)
			s.stage = OPENING;
		if (h->v[i].stage != CLOSING)
			h->v[kept++] = s;
	}
	floor_skip(x->r, CMD_DONE, v, n);
	x->n_ended += n;
	x->n_begun += n_fresh;
	h->n = kept;
	for (uint32_t i = 0; i < n_fresh; i++)
		h->v[h->n++] = (struct stream){.item = fresh[i], .stage = LOCKING};
}

struct floor_cost feed_floor(struct rig *r, uint32_t run, uint32_t n, uint32_t n_entries)
{
	(void)run, (void)n_entries; /* the load-balancer stream names them */
	floor_prepare(r);
	load_scripts(r);
	const uint32_t half = (n + HANDS - 1) / HANDS;
	struct feed_run x = {.r = r, .n_streams = n, .most = half < HAND_STREAMS ? half : HAND_STREAMS};
	struct hand *hands = mem_array(HANDS, sizeof *hands);
	struct meter before;
	meter_read(r, 0, &before);
	for (int k = 0; k < HANDS; k++)
		hand_send(&x, &hands[k]);
	for (int k = 0; x.n_ended < n; k = (k + 1) % HANDS) {
		hand_collect(&x, &hands[k]);
		hand_send(&x, &hands[k]);
	}
	struct meter m = meter_since(r, 0, &before);
	mem_free(hands);
	return (struct floor_cost){m.at_us / 1e6, m.own_us, m.redis_us};
}

/* ---- plain: a set of streams at a time, one XREADGROUP for all of it, an XACK for each */

static void plain_read(struct rig *r, uint32_t run, uint32_t from, uint32_t n)
{
	enum { HEAD = 7, MOST = HEAD + 2 * BATCH };
	static char names[BATCH][RIG_NAME + 1];
	const char *argv[MOST] = {"XREADGROUP", "GROUP", "g", "plain", "COUNT", "100", "STREAMS"};
	for (uint32_t i = 0; i < n; i++) {
		rig_name(names[i], run, from + i);
		argv[HEAD + i] = names[i];
		argv[HEAD + n + i] = ">";
	}
	if (redisAppendCommandArgv(r->link[0], (int)(HEAD + 2 * n), argv, NULL) != REDIS_OK)
		proc_die("redis: %s", r->link[0]->errstr);
}

static void plain_ack(struct rig *r, const redisReply *stream)
{
	const char *argv[3 + BATCH] = {"XACK", stream->element[0]->str, "g"};
	const redisReply *list = stream->element[1];
	for (size_t i = 0; i < list->elements; i++)
		argv[3 + i] = list->element[i]->element[0]->str;
	if (redisAppendCommandArgv(r->link[0], (int)(3 + list->elements), argv, NULL) != REDIS_OK)
		proc_die("redis: %s", r->link[0]->errstr);
}

static void plain_groups(struct rig *r, uint32_t run, uint32_t n)
{
	char name[RIG_NAME + 1];
	for (uint32_t i = 0; i < n; i++) {
		rig_name(name, run, i);
		freeReplyObject(redisCommand(r->link[0], "XGROUP CREATE %s g 0", name));
	}
}

struct floor_cost feed_plain(struct rig *r, uint32_t run, uint32_t n, uint32_t n_entries)
{
	plain_groups(r, run, n);
	struct meter before;
	meter_read(r, 0, &before);
	for (uint32_t from = 0; from < n; from += BATCH) {
		uint32_t set = n - from < BATCH ? n - from : BATCH;
		for (uint64_t left = (uint64_t)set * n_entries; left;) {
			plain_read(r, run, from, set);
			redisReply *x = rig_reply(r->link[0]);
			if (x->type != REDIS_REPLY_ARRAY)
				proc_die("the plain group has too few entries to read");
			for (size_t i = 0; i < x->elements; i++) {
				plain_ack(r, x->element[i]);
				left -= x->element[i]->element[1]->elements;
			}
			for (size_t i = 0; i < x->elements; i++)
				freeReplyObject(rig_reply(r->link[0]));
			freeReplyObject(x);
		}
	}
	struct meter m = meter_since(r, 0, &before);
	return (struct floor_cost){m.at_us / 1e6, m.own_us, m.redis_us};
}

/* ---- following: pushes of the invalidation, in between the replies */

struct follower {
	struct rig *r;
	uint32_t run, n;
	struct entry_id *pos;
	int fd;
};

/* What pushes named: read by and by. */
struct woken {
	uint32_t v[1024], n;
};

/* NULL: pushes only, and nothing more is here. */
static redisReply *reply_or_push(struct rig *r, struct woken *w)
{
	for (;;) {
		redisReply *x = rig_reply(r->link[0]);
		if (x->type != REDIS_REPLY_PUSH)
			return x;
		const redisReply *keys = x->elements == 2 ? x->element[1] : NULL;
		for (size_t i = 0; keys && i < keys->elements && w->n < 1024; i++)
			w->v[w->n++] = rig_index(keys->element[i]->str, keys->element[i]->len);
		freeReplyObject(x);
		if (w->n && w->n < 1024 && r->link[0]->reader->pos >= r->link[0]->reader->len)
			return NULL;
	}
}

static void follow_read(struct follower *f, uint32_t i)
{
	char name[RIG_NAME + 1];
	rig_name(name, f->run, i);
	redisAppendCommand(f->r->link[0], "CLIENT CACHING YES");
	append(f->r, CMD_FEED_READ, name, f->pos[i], false);
}

static void follow_arm(struct follower *f)
{
	struct woken w = {.n = 0};
	for (uint32_t i = 0; i < f->n; i++) {
		char name[RIG_NAME + 1];
		rig_name(name, f->run, i);
		append(f->r, CMD_FEED_OPEN, name, f->pos[i], false);
		follow_read(f, i);
		if (i % ARM_CHUNK != ARM_CHUNK - 1 && i != f->n - 1)
			continue;
		for (uint32_t k = 0; k < 3 * (i % ARM_CHUNK + 1); k++)
			freeReplyObject(reply_or_push(f->r, &w));
	}
}

/* The next reply; streams that pushes before it name are noted. */
static redisReply *follow_reply(struct follower *f, struct woken *more)
{
	redisReply *x = NULL;
	while (!x)
		x = reply_or_push(f->r, more);
	return x;
}

/* True: there was something to read. */
static bool follow_take(struct follower *f, uint32_t at, struct woken *more)
{
	freeReplyObject(follow_reply(f, more)); /* of CLIENT CACHING */
	redisReply *x = follow_reply(f, more);
	size_t n = x->elements;
	for (size_t k = 0; k < n; k++)
		if (write(f->fd, &at, sizeof at) < 0)
			_exit(0);
	if (n)
		f->pos[at] = id_of(x->element[n - 1]);
	freeReplyObject(x);
	return n > 0;
}

/* Reads each stream that was named, and acknowledges what it had. */
static void follow_woken(struct follower *f, const struct woken *named, struct woken *more)
{
	uint32_t acked[1024], n_acked = 0;
	for (uint32_t i = 0; i < named->n; i++)
		follow_read(f, named->v[i]);
	for (uint32_t i = 0; i < named->n; i++)
		if (follow_take(f, named->v[i], more))
			acked[n_acked++] = named->v[i];
	for (uint32_t i = 0; i < n_acked; i++) {
		char name[RIG_NAME + 1];
		rig_name(name, f->run, acked[i]);
		append(f->r, CMD_FEED_ACK, name, f->pos[acked[i]], false);
	}
	for (uint32_t i = 0; i < n_acked; i++)
		freeReplyObject(follow_reply(f, more));
}

static uint32_t follow_run, follow_n;

static void follow(struct rig *r, int fd)
{
	struct follower f = {r, follow_run, follow_n, mem_array(follow_n, sizeof *f.pos), fd};
	r->link[0] = rig_connect(r, 0);
	load_scripts(r);
	freeReplyObject(redisCommand(r->link[0], "HELLO 3"));
	freeReplyObject(redisCommand(r->link[0], "CLIENT TRACKING ON OPTIN NOLOOP"));
	redisSetPushCallback(r->link[0], NULL);
	follow_arm(&f);
	if (write(fd, &(uint32_t){UINT32_MAX}, sizeof(uint32_t)) < 0)
		_exit(0);
	struct woken w = {.n = 0};
	for (;;) {
		if (!w.n && reply_or_push(r, &w))
			proc_die("a reply that nobody asked for");
		struct woken named = w;
		w.n = 0;
		follow_woken(&f, &named, &w);
	}
}

pid_t feed_follow(struct rig *r, int *fd, uint32_t run, uint32_t n)
{
	follow_run = run;
	follow_n = n;
	return floor_fork(r, fd, follow);
}
