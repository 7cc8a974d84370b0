#include "core/turn.h"

#include <stdarg.h>
#include <stdio.h>

enum { MIN_CAP = 64, KEEP_CAP = 2048 };

void msg_fini(struct msg *m)
{
	text_unref(m->stream);
	m->stream = NULL;
	switch ((enum msg_kind)m->kind) {
	case MSG_SLOTS:
		mem_free(m->bits);
		break;
	case MSG_SERVICE:
		service_rules_unref(m->rules);
		break;
	case MSG_RENEWED:
		mem_free(m->renewed);
		break;
	case MSG_ENTRIES:
		entry_batch_free(m->batch);
		break;
	case MSG_OWN_IDS:
		mem_free(m->ids);
		break;
	case MSG_OP_RESULT:
		if (msg_has_batch(m))
			entry_batch_free(m->batch);
		else
			text_unref(m->text);
		break;
	case MSG_OP:
	case MSG_LOCK_CALL:
		mem_free(m->fields);
		text_unref(m->text);
		break;
	case MSG_SERVICE_GONE:
	case MSG_CREDITS:
	case MSG_LEASE_ACQUIRE:
	case MSG_LEASE_RELEASE:
	case MSG_LEASE_FORGET:
	case MSG_LEASE_RENEW:
	case MSG_SCAN:
	case MSG_RENEW_ALL:
	case MSG_STOP:
	case MSG_FEED_OPEN:
	case MSG_FEED_START:
	case MSG_FEED_HOLD:
	case MSG_FEED_ACK:
	case MSG_FEED_NACK:
	case MSG_FEED_CLOSE:
	case MSG_FEED:
	case MSG_CONN:
	case MSG_LEASE:
	case MSG_LOCK_ANSWER:
	case MSG_MOVED:
	case MSG_REFRESH:
	case MSG_REPLACED:
	case MSG_GROUP_LOST:
	case MSG_EXPIRED:
	case MSG_EMPTY:
	case MSG_STOPPED:
	case MSG_NOT_STARTED:
	case MSG_N:
		text_unref(m->text);
		break;
	}
	m->fields = NULL;
	m->text = NULL;
}

bool msg_answer_of_nobody(const struct msg *m, uint16_t to, struct msg *answer)
{
	*answer =
		(struct msg){.from = to, .handle = m->handle, .svc = m->svc, .slot = m->slot, .id = m->id, .op = m->op};
	if (m->kind == MSG_LEASE_ACQUIRE) {
		answer->kind = MSG_LEASE;
		answer->result = LEASE_IS_MOVED;
		answer->ms = m->ms;
	} else if (m->kind == MSG_OP) {
		answer->kind = MSG_OP_RESULT;
		answer->result = OP_MOVED;
		answer->resent = m->resent;
	} else if (m->kind == MSG_LOCK_CALL) {
		answer->kind = MSG_LOCK_ANSWER;
		answer->from = m->from; /* the asker */
		answer->tag = m->tag;
		answer->result = OP_FAILED;
	} else {
		return false;
	}
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

struct msg *effects_msg(struct effects *e, enum msg_kind kind, uint16_t to)
{
	struct effect *ef = effects_add(e, EFF_MSG);
	ef->to = to;
	ef->msg = (struct msg){.kind = (uint8_t)kind};
	return &ef->msg;
}

void effects_log(struct effects *e, enum log_level level, const char *fmt, ...)
{
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
	text_unref(ef->hold);
	text_unref(ef->hold2);
	text_unref(ef->hold3);
	ef->text = ef->hold = ef->hold2 = ef->hold3 = NULL;
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
		*e = (struct effects){0};
	}
}
