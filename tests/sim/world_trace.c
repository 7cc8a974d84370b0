/* world_trace - one line for everything that happens, when somebody keeps them. In a story only what it tells: commands on
 * entries, frames, and the coordinator's log. */
#include "sim/world.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const msg_names[MSG_N] = {[MSG_SLOTS] = "slots",
	[MSG_SERVICE] = "service",
	[MSG_SERVICE_GONE] = "service_gone",
	[MSG_WAITING] = "waiting",
	[MSG_CREDITS] = "credits",
	[MSG_LEASE_ACQUIRE] = "lease_acquire",
	[MSG_LEASE_RELEASE] = "lease_release",
	[MSG_LEASE_FORGET] = "lease_forget",
	[MSG_LEASE_RENEW] = "lease_renew",
	[MSG_OP] = "op",
	[MSG_LOCK_CALL] = "lock_call",
	[MSG_EXPIRED] = "expired",
	[MSG_SCAN] = "scan",
	[MSG_RENEW_ALL] = "renew_all",
	[MSG_FEED_OPEN] = "feed_open",
	[MSG_FEED_START] = "feed_start",
	[MSG_FEED_HOLD] = "feed_hold",
	[MSG_FEED_ACK] = "feed_ack",
	[MSG_FEED_NACK] = "feed_nack",
	[MSG_FEED_CLOSE] = "feed_close",
	[MSG_STOP] = "stop",
	[MSG_CONN] = "conn",
	[MSG_LEASE] = "lease",
	[MSG_RENEWED] = "renewed",
	[MSG_ENTRIES] = "entries",
	[MSG_OWN_IDS] = "own_ids",
	[MSG_OP_RESULT] = "op_result",
	[MSG_LOCK_ANSWER] = "lock_answer",
	[MSG_MOVED] = "moved",
	[MSG_REFRESH] = "refresh",
	[MSG_REPLACED] = "replaced",
	[MSG_GROUP_LOST] = "group_lost",
	[MSG_FEED] = "feed",
	[MSG_EMPTY] = "empty",
	[MSG_STOPPED] = "stopped",
	[MSG_NOT_STARTED] = "not_started"};

static bool is_told(enum cmd_kind k)
{
	return k == CMD_LOCK || k == CMD_LOCK_SWAP || k == CMD_UNLOCK || k == CMD_TAKE || k == CMD_DONE ||
	       k == CMD_TAKE_MANY || k == CMD_DONE_MANY || k == CMD_REQUEUE || k == CMD_DEAD || k == CMD_ACK_DEL ||
	       k == CMD_DEAD_ADD || k == CMD_TOMBSTONE || k == CMD_GROUP_CREATE;
}

/* "1700000001000-0.0123…" as 1000-0: what the clock of the story says. */
const char *trace_lease(const char *lease, char out[40])
{
	char *end;
	unsigned long long ms = strtoull(lease, &end, 10);
	unsigned long long seq = *end == '-' ? strtoull(end + 1, NULL, 10) : 0;
	snprintf(out, 40, "%llu-%llu", ms - 1700000000000ull, seq);
	return out;
}

void trace_cmd(struct world *w, const struct role_conn *l, const struct cmd *c)
{
	w->n_cmds[c->kind]++;
	bool tell = w->o.story && is_told(c->kind) && !c->use_eval;
	if (!tell && !w->o.trace)
		return;
	char what[160];
	int n = snprintf(
		what, sizeof what, "d%u.s%u %s", l->shard->daemon->index, l->shard->index, command_name(c->kind));
	if (c->stream.p && n < 100)
		n += snprintf(what + n, sizeof what - (size_t)n, " %.*s",
			(int)(c->stream.len < 20 ? c->stream.len : 20), c->stream.p);
	if ((c->id.ms || c->id.seq) && n < 120)
		n += snprintf(what + n, sizeof what - (size_t)n, " %llu-%llu", (unsigned long long)c->id.ms % 100000000,
			(unsigned long long)c->id.seq);
	if (c->kind == CMD_TAKE_MANY || c->kind == CMD_DONE_MANY)
		snprintf(what + n, sizeof what - (size_t)n, " n=%zu", c->as.many.n);
	else if (c->kind == CMD_READ)
		snprintf(what + n, sizeof what - (size_t)n, " count=%lld block=%lld", (long long)c->as.read.count,
			(long long)c->as.read.block_ms);
	else if (c->kind == CMD_REQUEUE)
		snprintf(what + n, sizeof what - (size_t)n, " retry=%lld", (long long)c->as.requeue.retry);
	world_tell(w, "%s%s", what, c->asking ? " asking" : "");
}

void trace_reply(struct world *w, const struct role_conn *l, enum cmd_kind kind, const struct reply *r)
{
	static const char *const kinds[] = {"none", "error", "ok", "nil", "int", "text", "id", "entries", "pending",
		"consumers", "slots", "counts", "position", "feed", "many"};
	if (!w->o.trace)
		return;
	world_say(w, "d%u.s%u   %s = %s %lld %.*s n=%zu", l->shard->daemon->index, l->shard->index, command_name(kind),
		kinds[r->kind], (long long)r->integer, (int)(r->text.len < 60 ? r->text.len : 60),
		r->text.p ? r->text.p : "", r->entries ? r->entries->n : r->n);
}

static const char *trace_msg_words(const struct msg *m, char out[200])
{
	const struct msg_lease_acquire *a = &m->lease_acquire;
	const struct msg_lease *l = &m->lease;
	const struct msg_op *op = &m->op;
	const struct msg_op_result *r = &m->op_result;
	const struct msg_lock_call *call = &m->lock_call;
	const struct msg_lock_answer *answer = &m->lock_answer;
	out[0] = '\0';
	if (m->kind == MSG_LEASE_ACQUIRE)
		snprintf(out, 200, " %s %llu-%llu until=%lld", a->stream->bytes,
			(unsigned long long)a->id.ms % 100000000, (unsigned long long)a->id.seq,
			(long long)a->good_until);
	else if (m->kind == MSG_LEASE)
		snprintf(out, 200, " result=%u lost=%u until=%lld", l->result, l->lost, (long long)l->good_until);
	else if (m->kind == MSG_OP)
		snprintf(out, 200, " %s %llu-%llu%s", command_name((enum cmd_kind)op->kind),
			(unsigned long long)op->id.ms % 100000000, (unsigned long long)op->id.seq,
			op->resent ? " resent" : "");
	else if (m->kind == MSG_OP_RESULT)
		snprintf(out, 200, " %s result=%u%s", command_name((enum cmd_kind)r->kind), r->result,
			r->resent ? " resent" : "");
	else if (m->kind == MSG_LOCK_CALL)
		snprintf(out, 200, " %s %llu-%llu ttl=%lld", command_name((enum cmd_kind)call->kind),
			(unsigned long long)call->id.ms % 100000000, (unsigned long long)call->id.seq,
			(long long)call->ttl_ms);
	else if (m->kind == MSG_LOCK_ANSWER)
		snprintf(out, 200, " %s result=%u integer=%lld", command_name((enum cmd_kind)answer->kind),
			answer->result, (long long)answer->integer);
	return out;
}

void trace_msg(struct world *w, const struct daemon *d, uint16_t shard, bool is_up, const struct msg *m)
{
	char words[200];
	if (!w->o.trace)
		return;
	world_say(w, "d%u %s s%u %s handle=%llx%s", d->index, is_up ? "<" : ">", shard, msg_names[m->kind],
		(unsigned long long)m->handle, trace_msg_words(m, words));
}

void trace_out(struct world *w, const struct sim_worker *k, const struct out_frame *f)
{
	static const char *const reasons[REVOKE_N] = {"lost", "drain", "timeout", "operator", "shutdown"};
	static const char *const outcomes[] = {"done", "requeued", "dead", "lost", "waits"};
	static const char *const fors[] = {"done", "fail", "release", "ack", "nack", "ended"};
	char id[40];
	switch (f->kind) {
	case OUT_WELCOME:
		world_tell(w, "w%u < welcome resumed=%zu gone=%zu until=%lld", k->index, f->welcome.n_resumed,
			f->welcome.n_gone, (long long)f->until_ms);
		break;
	case OUT_ASSIGN:
		world_tell(w, "w%u < assign %s %s retry=%lld until=%lld", k->index, f->assign.stream.p,
			trace_lease(f->lease.p, id), (long long)f->assign.retry, (long long)f->until_ms);
		break;
	case OUT_OK:
		world_tell(w, "w%u < ok %s for=%s outcome=%s", k->index, trace_lease(f->lease.p, id), fors[f->ok_for],
			outcomes[f->outcome]);
		break;
	case OUT_REVOKE:
		world_tell(w, "w%u < revoke %s reason=%s grace=%lld", k->index, trace_lease(f->lease.p, id),
			reasons[f->reason], (long long)f->grace_ms);
		break;
	case OUT_ENTRIES:
	case OUT_ENDED: /* no service here is in entries mode */
		break;
	case OUT_DRAIN:
		world_tell(w, "w%u < drain grace=%lld", k->index, (long long)f->grace_ms);
		break;
	case OUT_PING:
		world_say(w, "w%u < ping until=%lld", k->index, (long long)f->until_ms);
		break;
	case OUT_PONG:
		break;
	case OUT_ERR:
		world_tell(
			w, "w%u < err code=%d %s", k->index, f->error, f->lease.len ? trace_lease(f->lease.p, id) : "");
		break;
	}
}
