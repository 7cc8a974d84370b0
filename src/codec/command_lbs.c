/* command_lbs - the scripts on a service's load-balancer stream: take, done, requeue, later, due, ghosts, dead. */
#include "codec/command_p.h"

#include <assert.h>

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
	if (!c->value.len || (c->kind != CMD_DONE && c->kind != CMD_DONE_MANY))
		return 0;
	return c->kind == CMD_DONE ? 1 : c->n_many;
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
			command_put_lock_of(e, e->c->many[i].stream, e->c->many[i].id);
	}
	put_str(e, e->names->group);
	put_id(e, e->c->id);
	command_put_slice(e, consumer);
	command_put_slice(e, e->c->stream);
	put_str(e, same_stream);
}

static struct slice own_consumer(const struct enc *e)
{
	if (e->c->consumer.p)
		return e->c->consumer;
	return (struct slice){e->self->consumer, strlen(e->self->consumer)};
}

void enc_take(struct enc *e)
{
	put_lbs_script(e, SCRIPT_TAKE, own_consumer(e));
	put_str(e, e->c->only_look ? "1" : "");
}

void enc_sift(struct enc *e)
{
	put_lbs_script(e, SCRIPT_SIFT, own_consumer(e));
	put_i64(e, e->c->count);
	put_i64(e, e->c->count ? COMMAND_SIFT_BUDGET : COMMAND_LOOK_PAGE);
}

void enc_done(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DONE, own_consumer(e));
	put_str(e, e->c->is_heir ? e->self->consumer : "");
	if (e->c->value.len)
		command_put_slice(e, e->c->value);
}

/* All of same_stream's keys and words, whatever .stream says: each entry has its own. */
static void put_many(struct enc *e, enum script s, const char *flag)
{
	struct cmd c = *e->c;
	assert(c.many && c.n_many > 0 && c.n_many <= CMD_MANY_MAX);
	struct entry_id lowest = c.many[0].id, highest = c.many[0].id;
	for (size_t i = 1; i < c.n_many; i++) {
		if (entry_id_cmp(c.many[i].id, lowest) < 0)
			lowest = c.many[i].id;
		if (entry_id_cmp(c.many[i].id, highest) > 0)
			highest = c.many[i].id;
	}
	c.id = lowest;
	c.stream = (struct slice){"", 0};
	struct enc head = *e;
	head.c = &c;
	put_lbs_script(&head, s, own_consumer(e));
	put_str(e, flag);
	put_id(e, highest);
	command_put_slice(e, n_locks_of(&c) ? c.value : (struct slice){0});
	for (size_t i = 0; i < c.n_many; i++) {
		put_id(e, c.many[i].id);
		command_put_slice(e, c.many[i].stream);
	}
}

void enc_take_many(struct enc *e)
{
	put_many(e, SCRIPT_TAKE_MANY, "");
}

void enc_done_many(struct enc *e)
{
	put_many(e, SCRIPT_DONE_MANY, e->c->is_heir ? e->self->consumer : "");
}

void enc_ack_del(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DONE, e->c->consumer);
	put_str(e, "");
}

static void put_suspect(struct enc *e)
{
	put_str(e, !e->c->is_suspect ? "" : e->c->was_alone ? "2" : "1");
}

void enc_requeue(struct enc *e)
{
	put_lbs_script(e, SCRIPT_REQUEUE, e->c->consumer);
	put_i64(e, e->c->min_idle_ms);
	put_i64(e, e->c->retry);
	put_suspect(e);
}

void enc_later(struct enc *e)
{
	put_lbs_script(e, SCRIPT_LATER, e->c->consumer);
	put_i64(e, e->c->min_idle_ms);
	put_i64(e, e->c->retry);
	put_i64(e, e->c->delay_ms);
	put_str(e, e->c->why ? e->c->why : "");
	command_put_slice(e, command_cut_text(e->c->error, COMMAND_REASON_MAX));
	put_suspect(e);
}

void enc_due(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DUE, (struct slice){0});
	put_i64(e, e->c->count);
	put_i64(e, e->c->position);
}

void enc_ghosts(struct enc *e)
{
	put_lbs_script(e, SCRIPT_GHOSTS, (struct slice){0});
	put_i64(e, e->c->count);
	command_put_slice(e, e->c->value);
}

void enc_ghost_back(struct enc *e)
{
	put_lbs_script(e, SCRIPT_GHOST_BACK, (struct slice){0});
}

void enc_dead(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DEAD, e->c->consumer);
	put_i64(e, e->c->min_idle_ms);
	put_i64(e, e->names->dlq_max_len);
	put_str(e, dead_reason_name(e->c->reason));
	put_i64(e, e->c->now_ms);
	put_str(e, e->self->node);
	command_put_slice(e, command_cut_error(e->c->error));
}

void enc_add_later(struct enc *e)
{
	put_lbs_script(e, SCRIPT_ADD_LATER, (struct slice){0});
	if (e->c->at_ms) {
		put_str(e, "");
		put_i64(e, e->c->at_ms);
	} else {
		put_i64(e, e->c->delay_ms);
		put_str(e, "");
	}
	put_str(e, e->c->why ? e->c->why : "");
	if (e->c->fields)
		command_put_fields(e, NULL);
	else
		command_put_input(e);
}

void enc_delayed(struct enc *e)
{
	put_lbs_script(e, SCRIPT_DELAYED, (struct slice){0});
	put_str(e, e->c->kind == CMD_DELAYED_NOW ? "now" : "drop");
}
