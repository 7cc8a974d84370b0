#include "core/turn.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

enum { MIN_CAP = 64, KEEP_CAP = 2048 };

void msg_fini(struct msg *m)
{
	assert(m->kind <= MSG_N);
	switch ((enum msg_kind)m->kind) {
	case MSG_SLOTS:
		mem_free(m->slots.bits);
		break;
	case MSG_SERVICE:
		service_rules_unref(m->service.rules);
		break;
	case MSG_LEASE_ACQUIRE:
		text_unref(m->lease_acquire.stream);
		break;
	case MSG_OP:
		text_unref(m->op.stream);
		text_unref(m->op.error);
		text_unref(m->op.info);
		break;
	case MSG_LOCK_CALL:
		text_unref(m->lock_call.stream);
		text_unref(m->lock_call.value);
		text_unref(m->lock_call.error);
		text_unref(m->lock_call.moved_to);
		mem_free(m->lock_call.fields);
		break;
	case MSG_EXPIRED:
		text_unref(m->expired.stream);
		break;
	case MSG_FEED_OPEN:
		text_unref(m->feed_open.stream);
		break;
	case MSG_FEED_NACK:
		text_unref(m->feed_nack.reason);
		break;
	case MSG_CONN:
		text_unref(m->conn.why);
		break;
	case MSG_LEASE:
		text_unref(m->lease.stream);
		text_unref(m->lease.moved_to);
		break;
	case MSG_RENEWED:
		mem_free(m->renewed.list);
		break;
	case MSG_ENTRIES:
		entry_batch_free(m->entries.batch);
		break;
	case MSG_OWN_IDS:
		mem_free(m->own_ids.page);
		break;
	case MSG_OP_RESULT:
		entry_batch_free(m->op_result.batch);
		text_unref(m->op_result.error);
		text_unref(m->op_result.moved_to);
		break;
	case MSG_MOVED:
		text_unref(m->moved.to);
		break;
	case MSG_REFRESH:
		text_unref(m->refresh.why);
		break;
	case MSG_REPLACED:
		text_unref(m->replaced.why);
		break;
	case MSG_FEED:
		text_unref(m->feed.json);
		text_unref(m->feed.moved_to);
		break;
	case MSG_NOT_STARTED:
		text_unref(m->not_started.why);
		break;
	case MSG_SERVICE_GONE:
	case MSG_CREDITS:
	case MSG_LEASE_RELEASE:
	case MSG_LEASE_FORGET:
	case MSG_LEASE_RENEW:
	case MSG_WAITING:
	case MSG_SCAN:
	case MSG_FLEET:
	case MSG_RENEW_ALL:
	case MSG_STOP:
	case MSG_FEED_START:
	case MSG_FEED_HOLD:
	case MSG_FEED_SHARE:
	case MSG_FEED_TRY:
	case MSG_FEED_ACK:
	case MSG_FEED_CLOSE:
	case MSG_LOCK_ANSWER:
	case MSG_GROUP_LOST:
	case MSG_EMPTY:
	case MSG_STOPPED:
	case MSG_N:
		break;
	}
	m->kind = MSG_N; /* owns nothing any more */
}

bool msg_answer_of_nobody(const struct msg *m, uint16_t to, struct msg *answer)
{
	assert(m->kind < MSG_N && (to != SHARD_NONE || m->kind == MSG_LOCK_CALL));
	if (m->kind == MSG_LEASE_ACQUIRE) {
		const struct msg_lease_acquire *a = &m->lease_acquire;
		*answer = msg_lease((struct msg_lease){.result = LEASE_IS_MOVED,
			.slot = a->slot,
			.good_until = a->good_until,
			.id = a->id,
			.stream = a->stream ? text_ref(a->stream) : NULL});
	} else if (m->kind == MSG_OP) {
		const struct msg_op *op = &m->op;
		*answer = msg_op_result((struct msg_op_result){
			.kind = op->kind, .result = OP_MOVED, .slot = op->slot, .resent = op->resent});
	} else if (m->kind == MSG_LOCK_CALL) {
		const struct msg_lock_call *call = &m->lock_call;
		*answer = msg_lock_answer(
			(struct msg_lock_answer){.kind = call->kind, .result = OP_FAILED, .tag = call->tag});
	} else {
		return false;
	}
	answer->from = m->kind == MSG_LOCK_CALL ? m->from /* the asker */ : to;
	answer->handle = m->handle;
	answer->svc = m->svc;
	return true;
}

void effects_init(struct effects *e)
{
	*e = (struct effects){0};
}

void effects_fini(struct effects *e)
{
	effects_clear(e);
	mem_free(e->v);
	*e = (struct effects){0};
}

struct effect *effects_add(struct effects *e, enum effect_kind kind)
{
	if (e->n == e->cap) {
		e->cap = e->cap ? e->cap * 2 : MIN_CAP;
		e->v = mem_grow(e->v, e->cap, sizeof *e->v);
	}
	struct effect *ef = &e->v[e->n++];
	*ef = (struct effect){.kind = kind};
	return ef;
}

struct msg *effects_msg(struct effects *e, uint16_t to, struct msg m)
{
	assert(m.kind < MSG_N);
	struct effect *ef = effects_add(e, EFF_MSG);
	ef->to = to;
	ef->msg = m;
	return &ef->msg;
}

void effects_log(struct effects *e, enum log_level level, const char *fmt, ...)
{
	assert(fmt && level <= LOG_DEBUG);
	char line[1200]; /* two long values, and what is said of them */
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	size_t len = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
	struct effect *ef = effects_add(e, EFF_LOG);
	ef->level = level;
	ef->text = text_new(line, len);
}

void effect_fini(struct effect *ef)
{
	text_unref(ef->text);
	text_unref(ef->address);
	text_unref(ef->hold);
	text_unref(ef->hold2);
	text_unref(ef->hold3);
	ef->text = ef->address = ef->hold = ef->hold2 = ef->hold3 = NULL;
	if (ef->kind == EFF_MSG)
		msg_fini(&ef->msg);
}

void effects_clear(struct effects *e)
{
	for (size_t i = 0; i < e->n; i++)
		effect_fini(&e->v[i]);
	e->n = 0;
	if (e->cap > KEEP_CAP) { /* a large turn's memory is given back */
		mem_free(e->v);
		e->v = NULL;
		e->cap = 0;
	}
}
