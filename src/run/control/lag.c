#include "run/control/lag.h"

#include <stdio.h>
#include <string.h>

#include "codec/script.h"
#include "run/control/redis.h"

/* What is asked is an extra: when an answer takes LAG_WAIT_MS, or all of them LAG_ALL_MS, nothing more is asked. */
enum { LAG_CONNS = 16, LAG_WAIT_MS = 400, LAG_ALL_MS = 1500 };

struct lag {
	struct control_req *q;
	struct control_redis *conns[LAG_CONNS]; /* by master */
	size_t n_conns, n_asked;
	int64_t value;
	mono_ms began, asked;
	bool is_asking, is_answered, has_failed; /* failed: a master does not answer in time, nothing more is asked */
};

struct lag *lag_new(struct control_req *q)
{
	struct lag *l = mem_alloc(sizeof *l);
	l->q = q;
	l->value = -1;
	l->began = mono_now();
	return l;
}

void lag_free(struct lag *l)
{
	for (size_t i = 0; l && i < l->n_conns; i++)
		control_redis_close(l->conns[i]);
	mem_free(l);
}

static void lag_on_answer(void *arg, struct reply *r, const redisReply *raw)
{
	struct lag *l = arg;
	if (!l->is_asking)
		return; /* too late */
	l->is_asking = false;
	l->is_answered = true;
	l->has_failed = r->kind == REPLY_NONE;
	l->value = r->kind == REPLY_OK && raw->type == REDIS_REPLY_INTEGER ? raw->integer : -1;
	control_go_on(l->q);
}

static struct control_redis *lag_conn(struct lag *l, const char *addr)
{
	for (size_t i = 0; i < l->n_conns; i++)
		if (strcmp(control_redis_addr(l->conns[i]), addr) == 0)
			return l->conns[i];
	struct err err;
	if (l->n_conns == LAG_CONNS ||
		control_redis_open(l->q->d, addr, lag_on_answer, l, &l->conns[l->n_conns], &err) != ERR_OK)
		return NULL;
	return l->conns[l->n_conns++];
}

bool lag_ask(struct lag *l, const struct entry *e)
{
	const struct coord *c = l->q->d->core;
	const struct entry_feed *f = e->feed;
	bool is_open =
		f && f->state == ENTRY_FEED_OPEN && f->shard < c->shards.n && c->shards.v[f->shard].is_up[CONN_COMMAND];
	if (!is_open || l->is_answered || l->has_failed || l->n_asked == LAG_STREAMS ||
		mono_now() - l->began > LAG_ALL_MS)
		return false;
	const char *addr = view_addr(l->q->d, f->slot);
	struct control_redis *conn = addr ? lag_conn(l, addr) : NULL;
	if (!conn)
		return false;
	char from[COMMAND_ID_CAP], most[24];
	command_id_format(from, f->pos);
	snprintf(most, sizeof most, "%d", LAG_MAX);
	l->n_asked++;
	l->is_asking = true;
	l->asked = mono_now();
	char *position = command_position_key(e->stream->bytes);
	control_redis_words(conn, (const char *const[]){"EVAL", script_text(SCRIPT_FEED_LAG), "2", position,
					  e->stream->bytes, from, most, NULL});
	mem_free(position);
	return true;
}

mono_ms lag_waits(struct lag *l)
{
	const mono_ms left = l->asked + LAG_WAIT_MS - mono_now();
	if (!l->is_asking || left > 0)
		return l->is_asking ? left : 0;
	l->is_asking = false;
	l->is_answered = l->has_failed = true;
	return 0;
}

int64_t lag_take(struct lag *l)
{
	int64_t value = l->value;
	l->value = -1;
	l->is_answered = false;
	return value;
}
