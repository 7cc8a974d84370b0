/* command_lbs - the scripts on a service's load-balancer stream: take, done, requeue, later, due, ghosts, dead. */
#include "codec/command_p.h"

#include <assert.h>
#include <stdio.h>

/* What the scripts are told of same_stream; an entry without a name is nobody's second. */
static const char *same_stream_word(const struct enc *e, bool has_stream)
{
	static const char *const words[] = {
		[SAME_STREAM_SERIALIZE] = "serialize", [SAME_STREAM_ALLOW] = "", [SAME_STREAM_COALESCE] = "coalesce"};
	return has_stream ? words[e->names->same_stream] : "";
}

/* It is about what waits: it needs those keys whatever same_stream says. */
static bool is_waiting_cmd(enum cmd_kind k)
{
	return k >= CMD_LATER && k <= CMD_DELAYED_DROP;
}

/* Locks that go with what is done. */
static size_t n_locks_of(const struct cmd *c)
{
	if (c->kind == CMD_DONE)
		return c->as.done.lock_value.len > 0;
	return c->kind == CMD_DONE_MANY && c->as.many.lock_value.len > 0 ? c->as.many.n : 0;
}

/* Keys and the arguments that all scripts on the LBS begin with. consumer absent = whoever has it. Where nothing can
 * wait the other keys are left out: while a slot moves, a script whose keys are not all in one place has to wait. */
static void put_lbs_script(struct enc *e, enum script s, struct slice consumer)
{
	const char *same_stream =
		same_stream_word(e, e->c->stream.p || (is_waiting_cmd(e->c->kind) && e->c->kind != CMD_LATER));
	const bool dlq = s == SCRIPT_DEAD, waits = *same_stream || is_waiting_cmd(e->c->kind);
	const size_t n_locks = n_locks_of(e->c);
	command_put_script(e, s, (waits ? 5 : 1) + dlq + (int)n_locks);
	put_str(e, e->names->lbs);
	if (waits) {
		put_str(e, e->names->registry);
		put_str(e, e->names->delayed);
		put_str(e, e->names->delayed_data);
		put_str(e, e->names->parked);
	}
	if (dlq)
		put_str(e, e->names->dlq);
	for (size_t i = 0; i < n_locks; i++) {
		if (e->c->kind == CMD_DONE)
			command_put_lock(e);
		else
			command_put_lock_of(e, e->c->as.many.v[i].stream, e->c->as.many.v[i].id);
	}
	put_str(e, e->names->group);
	put_id(e, e->c->id);
	command_put_slice(e, consumer);
	command_put_slice(e, e->c->stream);
	put_str(e, same_stream);
}

static struct slice or_own(const struct enc *e, struct slice consumer)
{
	return consumer.p ? consumer : slice_str(e->self->consumer);
}

void enc_take(struct enc *e)
{
	put_lbs_script(e, SCRIPT_TAKE, or_own(e, e->c->as.take.consumer));
	put_str(e, e->c->as.take.only_look ? "1" : "");
}

void enc_sift(struct enc *e)
{
	put_lbs_script(e, SCRIPT_SIFT, slice_str(e->self->consumer));
	put_i64(e, e->c->as.read.count);
	put_i64(e, e->c->as.read.count ? COMMAND_SIFT_BUDGET : COMMAND_LOOK_PAGE);
}

void enc_done(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DONE, or_own(e, e->c->as.done.consumer));
	put_str(e, e->c->as.done.is_heir ? e->self->consumer : "");
	if (e->c->as.done.lock_value.len)
		command_put_slice(e, e->c->as.done.lock_value);
}

/* All of same_stream's keys and words, whatever .stream says: each entry has its own. */
static void put_many(struct enc *e, enum script s, const char *flag)
{
	struct cmd c = *e->c;
	assert(c.as.many.v && c.as.many.n > 0 && c.as.many.n <= CMD_MANY_MAX);
	struct entry_id lowest = c.as.many.v[0].id, highest = c.as.many.v[0].id;
	for (size_t i = 1; i < c.as.many.n; i++) {
		if (entry_id_cmp(c.as.many.v[i].id, lowest) < 0)
			lowest = c.as.many.v[i].id;
		if (entry_id_cmp(c.as.many.v[i].id, highest) > 0)
			highest = c.as.many.v[i].id;
	}
	c.id = lowest;
	c.stream = (struct slice){"", 0};
	struct enc head = *e;
	head.c = &c;
	put_lbs_script(&head, s, slice_str(e->self->consumer));
	put_str(e, flag);
	put_id(e, highest);
	command_put_slice(e, n_locks_of(&c) ? c.as.many.lock_value : (struct slice){0});
	for (size_t i = 0; i < c.as.many.n; i++) {
		put_id(e, c.as.many.v[i].id);
		command_put_slice(e, c.as.many.v[i].stream);
	}
}

void enc_take_many(struct enc *e)
{
	put_many(e, SCRIPT_TAKE_MANY, "");
}

void enc_done_many(struct enc *e)
{
	put_many(e, SCRIPT_DONE_MANY, e->c->as.many.is_heir ? e->self->consumer : "");
}

void enc_ack_del(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DONE, e->c->as.done.consumer);
	put_str(e, "");
}

static void put_suspect(struct enc *e)
{
	put_str(e, !e->c->as.requeue.is_suspect ? "" : e->c->as.requeue.was_alone ? "2" : "1");
}

void enc_requeue(struct enc *e)
{
	put_lbs_script(e, SCRIPT_REQUEUE, e->c->as.requeue.consumer);
	put_i64(e, e->c->as.requeue.min_idle_ms);
	put_i64(e, e->c->as.requeue.retry);
	put_suspect(e);
}

/* As codec/packed reads it. */
static void put_why(struct enc *e)
{
	char why[32];
	const struct cmd_requeue *r = &e->c->as.requeue;
	int n = snprintf(why, sizeof why, "%s", r->why ? r->why : "");
	if (r->tries)
		snprintf(why + n, sizeof why - (size_t)n, " %u", r->tries);
	put_str(e, why);
}

void enc_later(struct enc *e)
{
	put_lbs_script(e, SCRIPT_LATER, e->c->as.requeue.consumer);
	put_i64(e, e->c->as.requeue.min_idle_ms);
	put_i64(e, e->c->as.requeue.retry);
	put_i64(e, e->c->as.requeue.delay_ms);
	put_why(e);
	command_put_slice(e, command_cut_text(e->c->as.requeue.error, COMMAND_REASON_MAX));
	put_suspect(e);
}

void enc_due(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DUE, (struct slice){0});
	put_i64(e, e->c->as.due.count);
	put_i64(e, e->c->as.due.position);
}

void enc_ghosts(struct enc *e)
{
	put_lbs_script(e, SCRIPT_GHOSTS, (struct slice){0});
	put_i64(e, e->c->as.ghosts.count);
	put_str(e, e->c->as.ghosts.only_last ? "$" : "");
}

void enc_ghost_back(struct enc *e)
{
	put_lbs_script(e, SCRIPT_GHOST_BACK, (struct slice){0});
}

void enc_dead(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DEAD, e->c->as.dead.consumer);
	put_i64(e, e->c->as.dead.min_idle_ms);
	put_i64(e, e->names->dlq_max_len);
	put_str(e, dead_reason_name(e->c->as.dead.reason));
	put_i64(e, e->c->as.dead.now_ms);
	put_str(e, e->self->node);
	command_put_slice(e, command_cut_error(e->c->as.dead.error));
}

void enc_add_later(struct enc *e)
{
	put_lbs_script(e, SCRIPT_ADD_LATER, (struct slice){0});
	if (e->c->as.add.at_ms) {
		put_str(e, "");
		put_i64(e, e->c->as.add.at_ms);
	} else {
		put_i64(e, e->c->as.add.delay_ms);
		put_str(e, "");
	}
	put_str(e, e->c->as.add.why ? e->c->as.add.why : "");
	if (e->c->as.add.fields)
		command_put_fields(e, e->c->as.add.fields, NULL);
	else
		command_put_input(e);
}

void enc_delayed(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DELAYED, (struct slice){0});
	put_str(e, e->c->kind == CMD_DELAYED_NOW ? "now" : "drop");
}
