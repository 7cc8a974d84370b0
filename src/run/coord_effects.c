/* coord_effects - what the coordinator's steps ask for, done: messages and threads of shards, frames, the end.
 *
 * Happy path: each effect of a turn, in order, after the step has returned. Failure: a shard that does not run is
 * answered for, in a turn to come; a full mailbox drops such an answer, and the coordinator's own deadlines go on. */
#include "run/coord_effects.h"
#include "base/log.h"
#include "core/turn.h"
#include "run/fault.h"
#include <string.h>

/* In the place of a shard that does not run: it arrives in a turn to come, as if it came from there. */
static void say_for_shard(struct daemon *d, const struct msg *m)
{
	struct run_msg rm = {.kind = RUN_CORE, .shard = m->from, .core = *m};
	if (!mailbox_send(d->mail, &rm, true))
		msg_fini(&rm.core);
}

static void shard_start(struct daemon *d, const struct effect *ef)
{
	struct shard_thread_opts o = {.index = ef->to,
		.addr = ef->address->bytes,
		.rules = d->shards.rules,
		.node = d->config->node.id,
		.to_coord = d->mail,
		.host = d->core->topo.is_cluster ? NULL : d->loop};
	o.rules.seed += ef->to;
	rules_of_redis(d->config, d->login.password, d->login.tls, o.rules.consumer, &o.redis);
	rules_of_handoff(d->config, &o.handoff);
	struct err err;
	d->shards.since[ef->to] = mono_now();
	if (shard_thread_start(&o, &d->shards.v[ef->to], &err) != ERR_OK) {
		struct msg m = msg_not_started((struct msg_not_started){.why = text_new(err.text, strlen(err.text))});
		m.from = ef->to;
		say_for_shard(d, &m);
	}
	d->shards.n = ef->to < d->shards.n ? d->shards.n : (uint16_t)(ef->to + 1);
}

static void shard_stop(struct daemon *d, uint16_t shard)
{
	if (shard >= SHARDS_MAX || !d->shards.v[shard])
		return;
	shard_thread_stop(d->shards.v[shard]);
	d->shards.v[shard] = NULL;
	metrics_keep(d, shard);
	mem_free(d->shards.snapshots[shard]);
	d->shards.snapshots[shard] = NULL;
}

void coord_keep_snapshot(struct daemon *d, uint16_t shard, struct snapshot *s)
{
	struct snapshot *old = s; /* of a shard that has stopped: counted already */
	if (d->shards.v[shard] && s->at >= d->shards.since[shard]) {
		old = d->shards.snapshots[shard];
		d->shards.snapshots[shard] = s;
	}
	mem_free(old);
}

static void to_shard(struct daemon *d, const struct effect *ef)
{
	struct run_msg m = {.kind = RUN_CORE, .core = ef->msg};
	fault_post(&m.core);
	if (d->shards.v[ef->to]) {
		shard_thread_send(d->shards.v[ef->to], &m);
		return;
	}
	struct msg answer;
	if (msg_answer_of_nobody(&m.core, ef->to, &answer))
		say_for_shard(d, &answer);
	msg_fini(&m.core);
}

void coord_end(struct daemon *d, int code)
{
	d->end.exit_code = code;
	d->end.is_ending = true;
}

void coord_perform(struct daemon *d, struct effect *ef)
{
	switch (ef->kind) {
	case EFF_MSG:
		to_shard(d, ef);
		ef->msg = (struct msg){.kind = MSG_N};
		break;
	case EFF_SHARD_START:
		shard_start(d, ef);
		break;
	case EFF_SHARD_STOP:
		shard_stop(d, ef->to);
		break;
	case EFF_FRAME:
		if (d->workers)
			worker_socket_send(d->workers, ef->session, &ef->frame);
		break;
	case EFF_CLOSE:
		if (d->workers)
			worker_socket_drop(d->workers, ef->session);
		break;
	case EFF_TOPOLOGY:
		topology_client_ask(d->topo.client);
		break;
	case EFF_FATAL:
		if (ef->exit_code)
			log_line(LOG_ERROR, "%s", ef->text ? ef->text->bytes : "internal error");
		coord_end(d, ef->exit_code);
		break;
	case EFF_CTL:
		if (d->control)
			control_socket_result(d->control, ef->ctl.request, ef->ctl.result, ef->ctl.id,
				ef->text ? ef->text->bytes : "");
		break;
	case EFF_LOG:
		run_say(ef);
		break;
	case EFF_REDIS:
	case EFF_READER_OPEN:
	case EFF_READER_CLOSE:
		break;
	}
}
