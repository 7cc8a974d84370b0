#include "core/shard/shard_p.h"

#include <assert.h>

enum { REFRESH_EVERY_MS = 1000 };

void ctx_init(struct shard_ctx *c, const struct shard_rules *rules, uint16_t index)
{
	*c = (struct shard_ctx){.rules = rules, .index = index, .slots.changed_at = -1};
	c->said.refresh_at = c->said.moved_at = -REFRESH_EVERY_MS;
	rng_seed(&c->rng, rules->seed + index);
}

static void release_retired(struct shard_ctx *c)
{
	for (size_t i = 0; i < c->retired.n; i++)
		text_unref(c->retired.v[i]);
	c->retired.n = 0;
}

void ctx_fini(struct shard_ctx *c)
{
	release_retired(c);
	for (size_t i = 0; i < c->asks.n; i++) {
		text_unref(c->asks.v[i].stream);
		text_unref(c->asks.v[i].consumer);
		text_unref(c->asks.v[i].error);
	}
	for (size_t i = 0; i < c->n_services; i++)
		if (c->services[i]) {
			service_rules_unref(c->services[i]->rules);
			mem_free(c->services[i]);
		}
	mem_free(c->services);
	mem_free(c->asks.v);
	mem_free(c->answers.v);
	mem_free(c->retired.v);
	mem_free(c->slots.bits);
}

void ctx_begin(struct shard_ctx *c, mono_ms now, int64_t wall_ms, struct effects *out)
{
	assert(now >= c->now);
	release_retired(c);
	c->now = now;
	c->wall_ms = wall_ms;
	c->out = out;
}

struct shard_service *ctx_service(const struct shard_ctx *c, uint16_t svc)
{
	return svc < c->n_services ? c->services[svc] : NULL;
}

struct shard_service *ctx_service_put(struct shard_ctx *c, struct service_rules *rules)
{
	assert(rules->svc != SERVICE_NONE);
	uint16_t svc = rules->svc;
	if (svc >= c->n_services) {
		c->services = mem_grow(c->services, (size_t)svc + 1, sizeof *c->services);
		while (c->n_services <= svc)
			c->services[c->n_services++] = NULL;
	}
	struct shard_service *s = c->services[svc];
	if (!s) {
		s = c->services[svc] = mem_alloc(sizeof *s);
		s->lengths = SHARD_LENGTHS_UNKNOWN;
		s->credits = -1;
		s->due_at = MONO_NEVER;
	}
	service_rules_unref(s->rules);
	s->rules = rules;
	s->is_gone = false;
	return s;
}

struct metrics_service *ctx_metrics(struct shard_ctx *c, uint16_t svc)
{
	struct shard_service *s = ctx_service(c, svc);
	return s ? &s->metrics : &c->nowhere;
}

void ctx_dead_trimmed(struct shard_ctx *c, uint16_t svc, uint64_t n, bool of_entries)
{
	enum { SAY_EVERY_MS = 60000 };
	struct shard_service *s = ctx_service(c, svc);
	if (!s || n == 0)
		return;
	s->metrics.c[M_DEAD_TRIMMED] += n;
	s->n_trimmed += n;
	if (s->trimmed_said_at && c->now < s->trimmed_said_at + SAY_EVERY_MS)
		return;
	const struct service_rules *r = s->rules;
	const char *own = of_entries ? r->entries.dlq : r->dlq.name;
	effects_log(c->out, LOG_WARN,
		"shard=%u service=%s dead letters lost n=%llu: %.200s%s is longer than max_len=%lld, the oldest are "
		"trimmed",
		c->index, r->name, (unsigned long long)s->n_trimmed, *own ? own : r->name,
		*own         ? ""
		: of_entries ? "-entries-dlq"
			     : "-input-dlq",
		(long long)(of_entries ? r->entries.dlq_max_len : r->dlq.max_len));
	s->trimmed_said_at = mono_max(c->now, 1);
	s->n_trimmed = 0;
}

void ctx_due_at(struct shard_ctx *c, uint16_t svc, mono_ms at)
{
	struct shard_service *s = ctx_service(c, svc);
	if (!s || at >= s->due_at)
		return;
	s->due_at = at;
	s->is_due_news = c->news.is_due = true;
}

bool ctx_serves(const struct shard_ctx *c, uint16_t slot)
{
	assert(slot < SLOTS);
	if (!c->slots.are_told)
		return true;
	return c->slots.bits && (c->slots.bits[slot / 8] >> (slot % 8) & 1);
}

mono_ms ctx_hold_off(const struct shard_ctx *c, const struct service_rules *r)
{
	if (c->slots.changed_at < 0)
		return 0;
	mono_ms end = c->slots.changed_at + r->lease.ttl_ms + r->lease.ttl_ms / 3;
	return c->now < end ? end : 0;
}

struct effect *ctx_redis(struct shard_ctx *c, uint64_t tag, enum cmd_kind kind, uint16_t svc)
{
	assert(kind < CMD_N);
	struct effect *ef = effects_add(c->out, EFF_REDIS);
	ef->role = CONN_COMMAND;
	ef->svc = svc;
	ef->tag = tag;
	ef->cmd.kind = kind;
	ef->cmd.svc = svc;
	return ef;
}

struct msg *ctx_msg(struct shard_ctx *c, struct msg m)
{
	m.from = c->index;
	return effects_msg(c->out, SHARD_NONE, m);
}

void ctx_retire(struct shard_ctx *c, struct text *t)
{
	if (!t)
		return;
	if (c->retired.n == c->retired.cap) {
		c->retired.cap = c->retired.cap ? c->retired.cap * 2 : 64;
		c->retired.v = mem_grow(c->retired.v, c->retired.cap, sizeof *c->retired.v);
	}
	c->retired.v[c->retired.n++] = t;
}

void ctx_refresh(struct shard_ctx *c, struct slice why)
{
	if (c->now < c->said.refresh_at + REFRESH_EVERY_MS)
		return;
	c->said.refresh_at = c->now;
	ctx_msg(c, msg_refresh((struct msg_refresh){.why = text_new(why.p, why.len)}));
}

static void tell_moved(struct shard_ctx *c, const struct reply *reply)
{
	if (reply->moved_slot == c->said.moved_slot && c->now < c->said.moved_at + REFRESH_EVERY_MS)
		return;
	c->said.moved_slot = reply->moved_slot;
	c->said.moved_at = c->now;
	ctx_msg(c, msg_moved((struct msg_moved){.slot = reply->moved_slot,
			   .asking = reply->error == RERR_ASK,
			   .to = text_new(reply->text.p, reply->text.len)}));
}

enum verdict ctx_judge(
	struct shard_ctx *c, const char *what, enum cmd_kind kind, uint16_t svc, const struct reply *reply)
{
	assert(kind < CMD_N);
	if (reply->kind == REPLY_NONE)
		return VERDICT_LOST;
	if (reply->kind != REPLY_ERROR) {
		if (kind != CMD_WAIT) /* how many have confirmed decides */
			refusals_accepted(&c->refusals, kind, svc);
		return VERDICT_ANSWER;
	}
	if (reply->refusal != REFUSAL_NONE)
		refusals_add(c, what, kind, svc, reply);
	switch (reply->error) {
	case RERR_RETRY:
		return VERDICT_AGAIN;
	case RERR_REFRESH:
		ctx_refresh(c, reply->text);
		return VERDICT_AGAIN;
	case RERR_MOVED:
		tell_moved(c, reply);
		return VERDICT_MOVED;
	case RERR_ASK: /* for another key of the slot: the load-balancer stream may still be here, and its reader too */
		if (cmd_is_on_lbs(kind))
			tell_moved(c, reply);
		else
			ctx_refresh(c, slice_str("ask"));
		return VERDICT_MOVED;
	case RERR_NOSCRIPT:
		return VERDICT_EVAL;
	case RERR_NOGROUP: {
		struct shard_service *s = ctx_service(c, svc);
		if (s)
			c->news.is_group_lost = s->is_group_lost = true;
		return VERDICT_NO_GROUP;
	}
	case RERR_NO_CLUSTER:
	case RERR_OPERATOR:
	case RERR_BAD:
		break;
	}
	if (reply->refusal == REFUSAL_NONE)
		refusals_add(c, what, kind, svc, reply);
	return VERDICT_REFUSED;
}

mono_ms ctx_backoff(struct shard_ctx *c, unsigned tries, mono_ms first, mono_ms cap)
{
	assert(first > 0 && cap >= first);
	mono_ms wait = tries < 16 ? mono_min(first << tries, cap) : cap;
	return rng_jitter(&c->rng, wait, 25);
}

void ctx_ask(struct shard_ctx *c, const struct op_ask *ask)
{
	assert(ask->kind < CMD_N && ask->svc != SERVICE_NONE);
	if (c->asks.n == c->asks.cap) {
		c->asks.cap = c->asks.cap ? c->asks.cap * 2 : 64;
		c->asks.v = mem_grow(c->asks.v, c->asks.cap, sizeof *c->asks.v);
	}
	c->asks.v[c->asks.n++] = *ask;
}

void ctx_answer(struct shard_ctx *c, const struct op_answer *answer)
{
	assert(answer->kind < CMD_N && answer->result <= OP_FAILED);
	if (c->answers.n == c->answers.cap) {
		c->answers.cap = c->answers.cap ? c->answers.cap * 2 : 64;
		c->answers.v = mem_grow(c->answers.v, c->answers.cap, sizeof *c->answers.v);
	}
	c->answers.v[c->answers.n++] = *answer;
}
