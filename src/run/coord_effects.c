/* coord_effects - what the coordinator's steps ask for, done: messages and threads of shards, frames, the end.
 *
 * Happy path: run/perform calls them, in order, after the step has returned. Failure: a full mailbox drops what is
 * answered for a shard that does not run, and the coordinator's own deadlines go on. */
#include "run/coord_effects.h"
#include "base/log.h"
#include "core/turn.h"
#include "run/fault.h"
#include <string.h>

/* It arrives in a turn to come, as if it came from the shard. */
static void say_for_shard(void *arg, const struct msg *m)
{
	struct daemon *d = arg;
	struct run_msg rm = {.kind = RUN_CORE, .shard = m->from, .core = *m};
	if (!mailbox_send(d->mail, &rm, true))
		msg_fini(&rm.core);
}

static void shard_start(void *arg, const struct effect *ef)
{
	struct daemon *d = arg;
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

static void shard_stop(void *arg, uint16_t shard)
{
	struct daemon *d = arg;
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

static bool to_shard(void *arg, uint16_t shard, const struct msg *msg)
{
	struct daemon *d = arg;
	struct run_msg m = {.kind = RUN_CORE, .core = *msg};
	fault_post(&m.core);
	if (d->shards.v[shard])
		shard_thread_send(d->shards.v[shard], &m);
	return d->shards.v[shard] != NULL;
}

static void to_worker(void *arg, const struct effect *ef)
{
	struct daemon *d = arg;
	if (d->workers)
		worker_socket_send(d->workers, ef->session, &ef->frame);
}

static void drop_worker(void *arg, uint64_t session)
{
	struct daemon *d = arg;
	if (d->workers)
		worker_socket_drop(d->workers, session);
}

static void forget_session(void *arg, uint64_t session)
{
	struct daemon *d = arg;
	if (d->workers)
		worker_socket_forget_session(d->workers, session);
}

static void ask_topology(void *arg)
{
	struct daemon *d = arg;
	topology_client_ask(d->topo.client);
}

static void answer_control(void *arg, const struct effect *ef)
{
	struct daemon *d = arg;
	if (d->control)
		control_socket_result(
			d->control, ef->ctl.request, ef->ctl.result, ef->ctl.id, ef->text ? ef->text->bytes : "");
}

void coord_end(struct daemon *d, int code)
{
	d->end.exit_code = code;
	d->end.is_ending = true;
}

static void end(void *arg, const struct effect *ef)
{
	if (ef->exit_code)
		log_line(LOG_ERROR, "%s", ef->text ? ef->text->bytes : "internal error");
	coord_end(arg, ef->exit_code);
}

static void coord_thread_say(void *arg, const struct effect *ef)
{
	(void)arg;
	run_say(ef);
}

const struct coord_doers coord_thread_doers = {
	.to_shard = to_shard,
	.from_nobody = say_for_shard,
	.start_shard = shard_start,
	.stop_shard = shard_stop,
	.frame = to_worker,
	.close = drop_worker,
	.forget_session = forget_session,
	.ask_topology = ask_topology,
	.end = end,
	.control = answer_control,
	.log = coord_thread_say,
};
