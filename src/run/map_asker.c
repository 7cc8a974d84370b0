#include "run/map_asker.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "codec/command.h"
#include "codec/reply.h"
#include "run/fault.h"

enum { EACH_MS = 500 };

struct map_asker {
	struct map_asker_events ev;
	void *arg;
	uv_loop_t *loop;
	uv_timer_t timer;        /* of all */
	struct redis_conn *conn; /* to addrs[at - 1]; NULL = none */
	char (*addrs)[SLOT_ROW_ADDR];
	size_t n, at;
	bool is_on, is_well;
	int64_t epoch;
	struct command_argv *argv;
	struct reply_decoder *decoder;
};

static void hang_up(struct map_asker *a)
{
	if (a->conn)
		redis_close(a->conn, true);
	a->conn = NULL;
}

static void map_asker_end(struct map_asker *a)
{
	map_asker_stop(a);
	a->ev.on_end(a->arg);
}

bool map_asker_is_well(const struct reply *info, int64_t *epoch)
{
	*epoch = -1;
	if (info->kind != REPLY_TEXT) /* an old ACL, or a proxy that hides it */
		return info->kind == REPLY_ERROR && info->error == RERR_OPERATOR;
	*epoch = info->integer;
	return info->text.len == 2 && memcmp(info->text.p, "ok", 2) == 0;
}

static void on_rows(struct map_asker *a, const struct reply *r)
{
	char odd[SLOT_ROW_ODD];
	struct slot_range *rows = mem_array(r->n + 1, sizeof *rows);
	if (r->n)
		memcpy(rows, r->slots, r->n * sizeof *rows);
	size_t n = slot_rows_complete(rows, r->n, redis_addr_of(a->conn), odd);
	if (a->is_well && n)
		a->ev.on_map(a->arg, rows, n, a->epoch);
	else
		map_asker_next(a);
	mem_free(rows);
}

static void map_asker_on_reply(void *arg, uint64_t tag, const redisReply *raw)
{
	struct map_asker *a = arg;
	struct reply r;
	if (!raw) /* on_down goes on */
		return;
	fault_point("answer", command_name((enum cmd_kind)tag));
	reply_decode(a->decoder, (enum cmd_kind)tag, raw, &r);
	if (tag == CMD_CLUSTER_INFO)
		a->is_well = map_asker_is_well(&r, &a->epoch);
	else if (r.kind == REPLY_SLOTS)
		on_rows(a, &r);
	else
		map_asker_next(a);
}

static void map_asker_send(struct map_asker *a, enum cmd_kind kind)
{
	struct cmd c = {.kind = kind};
	struct command_self self = {.consumer = "", .node = ""};
	command_encode(a->argv, &c, NULL, &self);
	fault_point("send", command_name(kind));
	redis_send(a->conn, (uint64_t)kind, command_argc(a->argv), command_args(a->argv), command_lens(a->argv),
		mono_now() + EACH_MS);
}

static void map_asker_on_up(void *arg, struct redis_conn *c)
{
	struct map_asker *a = arg;
	(void)c;
	map_asker_send(a, CMD_CLUSTER_INFO);
	map_asker_send(a, CMD_SLOTS);
}

static void map_asker_on_down(void *arg, struct redis_conn *c, const struct err *why, bool was_up)
{
	(void)c;
	(void)why;
	(void)was_up;
	map_asker_next(arg);
}

static void map_asker_on_push(void *arg, struct redis_conn *c, const redisReply *reply)
{
	(void)arg;
	(void)c;
	(void)reply;
}

static void map_asker_on_time(uv_timer_t *timer)
{
	map_asker_end(timer->data);
}

void map_asker_next(struct map_asker *a)
{
	static const struct redis_events events = {
		.on_up = map_asker_on_up, .on_down = map_asker_on_down, .on_push = map_asker_on_push};
	hang_up(a);
	while (a->is_on && !a->conn && a->at < a->n) {
		struct redis_opts o;
		a->ev.opts(a->arg, &o);
		o.stay_down = true;
		o.maint = REDIS_MAINT_OFF;
		o.times.connect_ms = mono_min(o.times.connect_ms, EACH_MS);
		a->is_well = false;
		if (redis_addr_parse(a->addrs[a->at++], &o.addr, NULL) == ERR_OK)
			a->conn = redis_open(a->loop, &o, &events, map_asker_on_reply, a);
	}
	if (a->is_on && !a->conn)
		map_asker_end(a);
}

struct map_asker *map_asker_new(uv_loop_t *loop, const struct map_asker_events *ev, void *arg)
{
	struct map_asker *a = mem_alloc(sizeof *a);
	a->ev = *ev;
	a->arg = arg;
	a->loop = loop;
	a->addrs = mem_array(MAP_ASKER_MAX, sizeof *a->addrs);
	a->argv = command_argv_new();
	a->decoder = reply_decoder_new();
	uv_timer_init(loop, &a->timer);
	a->timer.data = a;
	return a;
}

void map_asker_start(struct map_asker *a, const char (*addrs)[SLOT_ROW_ADDR], size_t n, mono_ms limit_ms)
{
	map_asker_stop(a);
	a->n = n < MAP_ASKER_MAX ? n : MAP_ASKER_MAX;
	if (a->n)
		memcpy(a->addrs, addrs, a->n * sizeof *addrs);
	a->at = 0;
	a->is_on = true;
	uv_timer_start(&a->timer, map_asker_on_time, (uint64_t)limit_ms, 0);
	map_asker_next(a);
}

void map_asker_stop(struct map_asker *a)
{
	hang_up(a);
	a->is_on = false;
	uv_timer_stop(&a->timer);
}

static void map_asker_on_closed(uv_handle_t *h)
{
	mem_free(h->data);
}

void map_asker_close(struct map_asker *a)
{
	if (!a)
		return;
	map_asker_stop(a);
	command_argv_free(a->argv);
	reply_decoder_free(a->decoder);
	mem_free(a->addrs);
	uv_close((uv_handle_t *)&a->timer, map_asker_on_closed);
}
