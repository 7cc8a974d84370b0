/* coord_story - one coordinator on a fake clock with one shard that the test plays: events go in, frames and messages to
 * the shard come out as lines. Everything static: each test program has its own copy. */
#pragma once
#include "base/buf.h"
#include "core/coord/coord_p.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

static struct {
	struct coord *c;
	struct effects out;
	struct coord_rules rules;
	mono_ms now, next;
	struct buf text;
	uint64_t last_handle;
	bool last_takes;       /* it is taken behind its lock */
	bool last_is_over;     /* it is only to be released */
	bool last_releases;    /* of the last operation */
	uint32_t n_leaving;    /* of our leaving that are answered at once, unless they are shown */
	bool is_leaving_shown; /* and left without an answer */
	bool is_fleet_shown;   /* what readers hear of workers */
	uint32_t n_back;       /* how often it was said that we are back */
	bool back_asks;        /* the last time with ASKING */
	uint32_t n_errors;     /* lines of that level */
	char error[300];       /* the last of them */
	char key[33];          /* of the last welcome */
} W;

static const char *const story_outcomes[] = {"done", "requeued", "dead", "lost", "waits"};
static const char *const story_reasons[] = {"lost", "drain", "timeout", "operator", "shutdown"};
static const char *const story_errors[] = {"bad_frame", "too_big", "bad_version", "bad_hello", "unauthorized",
	"hello_timeout", "slow_reader", "silent", "too_many_sessions", "limit", "unknown_type", "unknown_lease",
	"not_owner", "bad_field", "internal"};

/* "7-0.hash" as 7-0 */
static int story_id(struct slice lease)
{
	const char *dot = lease.len ? memchr(lease.p, '.', lease.len) : NULL;
	return dot ? (int)(dot - lease.p) : 0;
}

static void story_frame(const struct effect *ef)
{
	const struct out_frame *f = &ef->frame;
	buf_printf(&W.text, "[%5lld] w%llu ", (long long)W.now, (unsigned long long)ef->session);
	switch (f->kind) {
	case OUT_WELCOME:
		buf_printf(&W.text, "welcome until=%lld", (long long)f->until_ms);
		for (size_t i = 0; i < f->welcome.n_resumed; i++)
			buf_printf(&W.text, " resumed=%.*s", story_id(f->welcome.resumed[i]), f->welcome.resumed[i].p);
		for (size_t i = 0; i < f->welcome.n_gone; i++)
			buf_printf(&W.text, " gone=%.*s:%s", story_id(f->welcome.gone[i].lease),
				f->welcome.gone[i].lease.p, story_outcomes[f->welcome.gone[i].outcome]);
		memcpy(W.key, f->welcome.session.p, 32);
		break;
	case OUT_ASSIGN:
		buf_printf(&W.text, "assign %.*s %.*s token=%.*s retry=%lld until=%lld", story_id(f->lease), f->lease.p,
			(int)f->assign.stream.len, f->assign.stream.p, (int)f->assign.token.len, f->assign.token.p,
			(long long)f->assign.retry, (long long)f->until_ms);
		break;
	case OUT_OK:
		buf_printf(&W.text, "ok %.*s for=%d %s", story_id(f->lease), f->lease.p, f->ok_for,
			story_outcomes[f->outcome]);
		if (f->ok_for == OK_FOR_ACK || f->ok_for == OK_FOR_NACK)
			buf_printf(&W.text, " %llu-%llu", (unsigned long long)f->entry.ms,
				(unsigned long long)f->entry.seq);
		break;
	case OUT_REVOKE:
		buf_printf(&W.text, "revoke %.*s %s grace=%lld", story_id(f->lease), f->lease.p,
			story_reasons[f->reason], (long long)f->grace_ms);
		break;
	case OUT_DRAIN:
		buf_printf(&W.text, "drain grace=%lld", (long long)f->grace_ms);
		break;
	case OUT_PING:
		buf_printf(&W.text, "ping until=%lld", (long long)f->until_ms);
		break;
	case OUT_PONG:
		buf_printf(&W.text, "pong %lld", (long long)f->n);
		break;
	case OUT_ERR:
		buf_printf(&W.text, "err %s %.*s", story_errors[f->error], story_id(f->lease),
			f->lease.p ? f->lease.p : "");
		break;
	case OUT_ENTRIES:
		buf_printf(&W.text, "entries %.*s [%.*s]%s", story_id(f->lease), f->lease.p, (int)f->info.len,
			f->info.p, f->more ? " more" : "");
		break;
	case OUT_ENDED:
		buf_printf(&W.text, "ended %.*s", story_id(f->lease), f->lease.p);
		if (f->outcome != GONE_DONE)
			buf_printf(&W.text, " outcome=%d", f->outcome);
		break;
	}
	buf_str(&W.text, "\n");
}

static void story_entry_id(struct entry_id id)
{
	buf_printf(&W.text, " %llu-%llu", (unsigned long long)id.ms, (unsigned long long)id.seq);
}

static void story_msg(const struct msg *m)
{
	static const char *const ops[CMD_N] = {[CMD_TAKE] = "take",
		[CMD_DONE] = "done",
		[CMD_REQUEUE] = "requeue",
		[CMD_LATER] = "later",
		[CMD_DEAD] = "dead",
		[CMD_ACK_DEL] = "ack",
		[CMD_LEAVE] = "leave",
		[CMD_FETCH] = "fetch"};
	static const char *const names[MSG_N] = {[MSG_CREDITS] = "credits",
		[MSG_LEASE_ACQUIRE] = "acquire",
		[MSG_LEASE_RELEASE] = "release",
		[MSG_LEASE_FORGET] = "forget",
		[MSG_FEED_OPEN] = "feed_open",
		[MSG_FEED_START] = "feed_start",
		[MSG_FEED_HOLD] = "feed_hold",
		[MSG_FEED_SHARE] = "feed_share",
		[MSG_FEED_TRY] = "feed_try",
		[MSG_FEED_ACK] = "feed_ack",
		[MSG_FEED_NACK] = "feed_nack",
		[MSG_FEED_CLOSE] = "feed_close",
		[MSG_WAITING] = "waiting",
		[MSG_FLEET] = "fleet",
		[MSG_LOCK_ANSWER] = "lock_answer",
		[MSG_OP] = "op"};
	static const char *const ends[FEED_ENDS] = {"keep", "done", "death", "delete", "forget"};
	if (m->kind == MSG_OP && m->op.kind == CMD_LEAVE)
		W.n_leaving += !W.is_leaving_shown;
	W.n_back += m->kind == MSG_OP && m->op.kind == CMD_BACK;
	if (m->kind == MSG_OP && m->op.kind == CMD_BACK)
		W.back_asks = m->op.asking;
	bool is_mark =
		m->kind == MSG_OP && (m->op.kind == CMD_BACK || (m->op.kind == CMD_LEAVE && !W.is_leaving_shown));
	bool is_plain_open = m->kind == MSG_FEED_OPEN && !m->feed_open.is_suspect;
	if (!names[m->kind] || is_mark || is_plain_open || (m->kind == MSG_FLEET && !W.is_fleet_shown))
		return;
	if (m->kind == MSG_LEASE_ACQUIRE) {
		W.last_handle = m->handle;
		W.last_takes = m->lease_acquire.takes;
		W.last_is_over = m->lease_acquire.is_over;
	}
	if (m->kind == MSG_OP)
		W.last_releases = m->op.releases;
	buf_printf(&W.text, "[%5lld] s ", (long long)W.now);
	if (m->kind == MSG_OP)
		buf_printf(&W.text,
			m->op.kind == CMD_LATER ? "%s %llu-%llu retry=%u%s delay=%lld" : "%s %llu-%llu retry=%u%s",
			ops[m->op.kind] ? ops[m->op.kind] : "?", (unsigned long long)m->op.id.ms,
			(unsigned long long)m->op.id.seq, m->op.retry,
			m->op.resent                                                                 ? " resent"
			: m->op.is_suspect && (m->op.kind == CMD_REQUEUE || m->op.kind == CMD_LATER) ? " suspect"
												     : "",
			(long long)m->op.delay_ms);
	else if (m->kind == MSG_CREDITS)
		buf_printf(&W.text, "credits %u:%lld", m->svc, (long long)m->credits.n);
	else if (m->kind == MSG_WAITING)
		buf_printf(&W.text, "waiting %u:%u%s", m->svc, m->waiting.n, m->waiting.is_ahead ? " ahead" : "");
	else if (m->kind == MSG_FLEET)
		buf_printf(&W.text, "fleet %u:%lld by %u%s", m->svc, (long long)m->fleet.credits, m->fleet.n_workers,
			m->fleet.may_get_more ? " more" : "");
	else if (m->kind == MSG_LOCK_ANSWER)
		buf_printf(&W.text, "lock_answer %llu%s", (unsigned long long)m->lock_answer.tag,
			m->lock_answer.result == OP_FAILED ? " failed" : "");
	else
		buf_printf(&W.text, "%s %llu", names[m->kind], (unsigned long long)(m->handle & 0xff));
	if (m->kind == MSG_OP && m->op.tries)
		buf_printf(&W.text, " tries=%u", m->op.tries);
	if (m->kind == MSG_FEED_START)
		story_entry_id(m->feed_start.told);
	else if (m->kind == MSG_FEED_ACK)
		story_entry_id(m->feed_ack.id);
	else if (m->kind == MSG_FEED_NACK)
		story_entry_id(m->feed_nack.id);
	if (m->kind == MSG_FEED_CLOSE)
		buf_printf(&W.text, " %s", ends[m->feed_close.end]);
	else if (m->kind == MSG_FEED_OPEN)
		buf_printf(&W.text, "%s%s", m->feed_open.is_suspect ? " suspect" : "",
			m->feed_open.was_alone ? " counts" : "");
	else if (m->kind == MSG_FEED_NACK)
		buf_printf(&W.text, "%s%s", m->feed_nack.is_again ? " again" : "",
			m->feed_nack.is_counted ? " counted" : "");
	else if (m->kind == MSG_FEED_START && m->feed_start.is_suspect)
		buf_str(&W.text, " suspect");
	buf_str(&W.text, "\n");
}

static void story_event(struct coord_event ev)
{
	ev.now = W.now;
	ev.wall_ms = 1700000000000 + W.now;
	W.next = coord_step(W.c, &ev, &W.out);
	for (size_t i = 0; i < W.out.n; i++) {
		const struct effect *ef = &W.out.v[i];
		if (ef->kind == EFF_FRAME)
			story_frame(ef);
		else if (ef->kind == EFF_MSG)
			story_msg(&ef->msg);
		else if (ef->kind == EFF_CLOSE)
			buf_printf(
				&W.text, "[%5lld] w%llu closed\n", (long long)W.now, (unsigned long long)ef->session);
		else if (ef->kind == EFF_FATAL)
			buf_printf(&W.text, "[%5lld] ends with %d\n", (long long)W.now, ef->exit_code);
		else if (ef->kind == EFF_LOG && ef->level == LOG_ERROR && ++W.n_errors)
			snprintf(W.error, sizeof W.error, "%s", ef->text->bytes);
	}
	effects_clear(&W.out);
	while (W.n_leaving > 0) {
		W.n_leaving--;
		struct msg m = {.kind = MSG_OP_RESULT,
			.handle = COORD_LEAVING_HANDLE,
			.op_result.kind = CMD_LEAVE,
			.op_result.result = OP_DONE};
		story_event((struct coord_event){.kind = COORD_MSG, .msg = &m});
	}
}

/* Steps at every deadline until t, then it is t. */
UNUSED static void story_until(mono_ms t)
{
	for (int n = 0; W.next <= t; n++) {
		cr_assert_lt(
			n, 1000, "the coordinator asks for the same moment again and again (%lld)", (long long)W.now);
		W.now = mono_max(W.next, W.now);
		story_event((struct coord_event){.kind = COORD_TICK});
	}
	W.now = t;
}

UNUSED static void story_expect(const char *want, const char *file, int line)
{
	const char *got = W.text.data ? W.text.data : "";
	cr_expect_str_eq(got, want, "%s:%d: the story is\n%s--- but should be\n%s", file, line, got, want);
	buf_clear(&W.text);
}
#define expect_story(want) story_expect((want), __FILE__, __LINE__)

UNUSED static void story_clear(void)
{
	buf_clear(&W.text);
}

/* ---- the shard's part ---- */

UNUSED static void story_from_shard(struct msg m)
{
	story_event((struct coord_event){.kind = COORD_MSG, .msg = &m});
}

static struct entry_batch *story_batch(uint64_t id, const char *stream)
{
	struct entry_batch *b = mem_alloc(sizeof *b + sizeof b->v[0]);
	if (!id)
		return b;
	b->n = 1;
	b->v[0] = (struct entry_in){.id = {id, 0}, .lock_slot = 9};
	b->v[0].stream = text_new(stream, strlen(stream));
	b->v[0].info = text_new("{}", 2);
	return b;
}

/* One that a worker has died with. */
UNUSED static void story_read_suspect(uint64_t id, const char *stream)
{
	struct entry_batch *b = story_batch(id, stream);
	b->v[0].is_suspect = true;
	story_from_shard((struct msg){
		.kind = MSG_ENTRIES, .svc = 0, .entries.source = SOURCE_NEW, .entries.n_asked = 1, .entries.batch = b});
}

UNUSED static void story_read(uint16_t svc, uint64_t id, const char *stream)
{
	story_from_shard((struct msg){.kind = MSG_ENTRIES,
		.svc = svc,
		.entries.source = SOURCE_NEW,
		.entries.n_asked = 1,
		.entries.batch = story_batch(id, stream)});
}

UNUSED static void story_own(uint16_t svc, uint64_t id, const char *stream)
{
	story_from_shard((struct msg){.kind = MSG_ENTRIES,
		.svc = svc,
		.entries.source = SOURCE_OWN,
		.entries.is_last = true,
		.entries.batch = story_batch(id, stream)});
}

UNUSED static void story_lease(uint64_t handle, enum lease_result r, mono_ms until, bool was_ours)
{
	story_from_shard((struct msg){.kind = MSG_LEASE,
		.handle = handle,
		.lease.result = (uint8_t)r,
		.lease.good_until = until,
		.lease.was_ours = was_ours});
}

UNUSED static void story_op(uint64_t handle, enum cmd_kind op, enum op_result r, bool resent)
{
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.handle = handle,
		.op_result.kind = (uint8_t)op,
		.op_result.result = (uint8_t)r,
		.op_result.resent = resent});
}

/* Read, locked until 10 s from now, taken: given to whoever has a credit. Returns its handle. */
UNUSED static uint64_t story_assigned(uint64_t id, const char *stream)
{
	story_read(0, id, stream);
	uint64_t handle = W.last_handle;
	story_lease(handle, LEASE_IS_HELD, W.now + 10000, false);
	story_op(handle, CMD_TAKE, OP_DONE, false);
	return handle;
}

UNUSED static uint64_t story_taken_suspect(uint64_t id, const char *stream)
{
	story_read_suspect(id, stream);
	uint64_t handle = W.last_handle;
	story_lease(handle, LEASE_IS_HELD, W.now + 10000, false);
	story_op(handle, CMD_TAKE, OP_DONE, false);
	return handle;
}

/* ---- workers ---- */

UNUSED static void story_accept(uint64_t session)
{
	char key[33];
	snprintf(key, sizeof key, "%032llu", (unsigned long long)session);
	story_event((struct coord_event){
		.kind = COORD_ACCEPT, .session = session, .pid = 10, .uid = 7, .flag = true, .text = {key, 32}});
}

UNUSED static void story_up(uint64_t session, struct frame f)
{
	story_event((struct coord_event){.kind = COORD_FRAME, .session = session, .frame = &f});
}

UNUSED static void story_hello(uint64_t session, int64_t credits)
{
	story_accept(session);
	story_up(
		session, (struct frame){.kind = FRAME_HELLO, .hello.v = 1, .credits = credits, .hello.name = {"w", 1}});
}

UNUSED static struct slice story_text(uint64_t id, char out[SESSION_LEASE_CAP])
{
	int n = session_lease_format(out, (struct entry_id){id, 0}, 77);
	return (struct slice){out, (size_t)n};
}

UNUSED static void story_says(uint64_t session, enum frame_kind kind, uint64_t id)
{
	char text[SESSION_LEASE_CAP];
	story_up(session, (struct frame){.kind = kind, .lease = story_text(id, text)});
}

/* Comes back with the key of the last welcome and one lease. */
UNUSED static void story_back(uint64_t session, uint64_t id)
{
	char text[SESSION_LEASE_CAP];
	struct slice lease = story_text(id, text);
	char key[33];
	memcpy(key, W.key, 33);
	story_accept(session);
	story_up(session, (struct frame){.kind = FRAME_HELLO,
				  .hello.v = 1,
				  .credits = 1,
				  .hello.name = {"w", 1},
				  .hello.session = {key, 32},
				  .hello.resume = &lease,
				  .hello.n_resume = 1});
}

/* ---- life ---- */

static struct retry_rules story_retry;     /* zeroed: nothing waits */
static struct entries_rules story_entries; /* zeroed: names are handed out */
enum { STORY_SERVICES = 16 };
static const struct own_key *story_own_keys[STORY_SERVICES];
static uint32_t story_n_own[STORY_SERVICES];

UNUSED static void story_services_of(uint16_t n, uint32_t max_streams, mono_ms ttl_ms)
{
	struct service_rules *v[STORY_SERVICES];
	cr_assert_leq(n, STORY_SERVICES);
	for (uint16_t i = 0; i < n; i++) {
		v[i] = mem_alloc(sizeof *v[i]);
		atomic_init(&v[i]->refs, 1);
		v[i]->svc = i;
		v[i]->lbs_slot = v[i]->dlq.slot = 5;
		v[i]->weight = 1;
		v[i]->read_batch = 128;
		v[i]->max_streams = max_streams;
		v[i]->max_retries = 1;
		v[i]->lease.ttl_ms = ttl_ms;
		v[i]->lease.renew_ms = ttl_ms / 3;
		v[i]->lease.stop_margin_ms = ttl_ms / 5;
		v[i]->hash = 77u + i;
		v[i]->retry = story_retry;
		v[i]->entries = story_entries;
		v[i]->own.v = story_own_keys[i];
		v[i]->own.n = story_n_own[i];
		snprintf(v[i]->name, sizeof v[i]->name, i ? "mail" : "orders");
	}
	story_event((struct coord_event){.kind = COORD_SERVICES, .services = v, .n = n});
}

UNUSED static void story_services(uint16_t n, uint32_t max_streams)
{
	story_services_of(n, max_streams, 10000);
}

static void story_begin(void)
{
	alarm(60);
	W.rules = (struct coord_rules){.max_sessions = 3,
		.is_checked = true,
		.max_frame_bytes = 4096,
		.hello_timeout_ms = 10000,
		.resume_grace_ms = 5000,
		.topology_refresh_ms = 1000000,
		.drain_timeout_ms = 60000,
		.node = "me",
		.incarnation = 1,
		.seed = 1};
	W.now = 1000;
	effects_init(&W.out);
	W.c = coord_new(&W.rules);
}

UNUSED static void story_new(void)
{
	story_begin();
	story_services(1, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
}

/* Nothing was left by a former process. */
UNUSED static void story_ready(void)
{
	story_new();
	story_own(0, 0, "");
	story_clear();
}

UNUSED static void story_down(void)
{
	coord_free(W.c);
	effects_fini(&W.out);
	buf_fini(&W.text);
}
