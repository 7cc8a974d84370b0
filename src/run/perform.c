/* Happy path: the step -> each effect to its doer -> the list is empty. Failure: a message to a shard that does not run
 * is answered in its place; a command without a connection gets "no answer", in a turn to come. */
#include "run/perform.h"

#include <string.h>

#include "base/mem.h"

struct shard_unsent {
	uint64_t tag;
	uint16_t svc;
	enum conn_role role;
};

static void message_to_shard(const struct effect *ef, const struct coord_doers *doers, void *arg)
{
	struct msg m = ef->msg;
	if (doers->to_shard(arg, ef->to, &m))
		return;
	struct msg answer;
	if (msg_answer_of_nobody(&m, ef->to, &answer))
		doers->from_nobody(arg, &answer);
	msg_fini(&m);
}

static void coord_perform(struct effect *ef, const struct coord_doers *doers, void *arg)
{
	switch (ef->kind) {
	case EFF_MSG:
		message_to_shard(ef, doers, arg);
		ef->msg = (struct msg){.kind = MSG_N};
		break;
	case EFF_SHARD_START:
		doers->start_shard(arg, ef);
		break;
	case EFF_SHARD_STOP:
		doers->stop_shard(arg, ef->to);
		break;
	case EFF_FRAME:
		doers->frame(arg, ef);
		break;
	case EFF_CLOSE:
		doers->close(arg, ef->session);
		break;
	case EFF_SESSION_OVER:
		doers->forget_session(arg, ef->session);
		break;
	case EFF_TOPOLOGY:
		doers->ask_topology(arg);
		break;
	case EFF_FATAL:
		doers->end(arg, ef);
		break;
	case EFF_CTL:
		doers->control(arg, ef);
		break;
	case EFF_LOG:
		doers->log(arg, ef);
		break;
	case EFF_REDIS:
	case EFF_READER_OPEN:
	case EFF_READER_CLOSE:
		break;
	}
}

mono_ms coord_turn(
	struct coord *c, struct coord_event *ev, struct effects *out, const struct coord_doers *doers, void *arg)
{
	const mono_ms next = coord_step(c, ev, out);
	for (size_t i = 0; i < out->n; i++)
		coord_perform(&out->v[i], doers, arg);
	effects_clear(out);
	return next;
}

/* ---- a shard's ---- */

void shard_turns_fini(struct shard_turns *t)
{
	effects_fini(&t->effects);
	mem_free(t->unsent);
	*t = (struct shard_turns){0};
}

static void shard_perform(struct shard_turns *t, struct effect *ef, const struct shard_doers *doers, void *arg)
{
	switch (ef->kind) {
	case EFF_REDIS:
		if (doers->send(arg, ef))
			break;
		t->unsent = mem_grow(t->unsent, t->n_unsent + 1, sizeof *t->unsent);
		t->unsent[t->n_unsent++] = (struct shard_unsent){.tag = ef->tag, .svc = ef->cmd.svc, .role = ef->role};
		break;
	case EFF_MSG:
		doers->to_coord(arg, &ef->msg);
		ef->msg = (struct msg){.kind = MSG_N};
		break;
	case EFF_READER_OPEN:
		doers->open_reader(arg, ef->svc);
		break;
	case EFF_READER_CLOSE:
		doers->close_reader(arg, ef->svc);
		break;
	case EFF_LOG:
		doers->log(arg, ef);
		break;
	case EFF_SHARD_START:
	case EFF_SHARD_STOP:
	case EFF_FRAME:
	case EFF_CLOSE:
	case EFF_SESSION_OVER:
	case EFF_TOPOLOGY:
	case EFF_FATAL:
	case EFF_CTL:
		break;
	}
}

mono_ms shard_turn(
	struct shard *s, struct shard_event *ev, struct shard_turns *t, const struct shard_doers *doers, void *arg)
{
	const mono_ms next = shard_step(s, ev, &t->effects);
	for (size_t i = 0; i < t->effects.n; i++)
		shard_perform(t, &t->effects.v[i], doers, arg);
	effects_clear(&t->effects);
	return next;
}

bool shard_turn_unsent(struct shard_turns *t, struct shard_event *ev)
{
	static const struct reply none = {.kind = REPLY_NONE};
	if (t->n_unsent == 0)
		return false;
	const struct shard_unsent u = t->unsent[0];
	memmove(t->unsent, t->unsent + 1, --t->n_unsent * sizeof *t->unsent);
	*ev = (struct shard_event){.kind = SHARD_REPLY, .role = u.role, .svc = u.svc, .tag = u.tag, .reply = &none};
	return true;
}
