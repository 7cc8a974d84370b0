/* shard_story - one shard on a fake clock: events go in, what comes out is written down as a story, one line an effect.
 * Commands wait in a queue until the test answers them. Everything static: each test program has its own copy. */
#pragma once
#include "base/buf.h"
#include "base/rng.h"
#include "core/shard/shard.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

enum { STORY_CMDS = 60000 };

struct sent { /* a command that waits for its answer */
	enum cmd_kind kind;
	uint64_t tag;
	uint16_t svc;
	struct entry_id id;
	bool asking, use_eval;
	int64_t count;  /* PENDING, FEED_READ */
	int64_t ttl_ms; /* LOCK, RENEW, TOMBSTONE */
};

struct story {
	struct shard *s;
	struct effects out;
	mono_ms now, next;
	struct buf text;
	struct sent *sent;
	size_t n_sent;
	bool mute;              /* no lines */
	bool no_scan, no_audit; /* not part of the story: never answered */
	const char *consumer;   /* who we are; NULL = redis-consumer-me */
	bool hide[CMD_N], hide_msg[MSG_N];
	bool say;    /* log lines too */
	bool reads;  /* and that a feed is read to its end */
	bool ghosts; /* and the look for entries that nobody has */
	bool trials; /* and what is asked of the server beside the work: its clock, whether it takes writes */
	uint64_t n_msgs[MSG_N], n_cmds[CMD_N];
	char moved[40];       /* id and stream of the last lease that was told to have moved */
	struct msg last_call; /* MSG_LOCK_CALL: plain fields only */
	struct msg *calls;    /* all of them that wait for an answer */
	size_t n_calls;
};

static struct story W;
static const struct entry_id ID7 = {7, 0};

#define UNUSED __attribute__((unused))

static const char *const story_cmds[CMD_N] = {"lock", "lock_get", "lock_swap", "renew", "unlock", "probe", "tomb",
	"group_create", "read", "read_own", "heartbeat", "fetch", "take", "take_many", "done", "done_many", "requeue",
	"dead", "dead_add", "dead_read", "ack_del", "pending", "consumers", "length", "pending_sum", "unread",
	"dlq_length", "trial", "add", "dlq_range", "dlq_del", "replay", "later", "sift", "due", "add_later", "ghosts",
	"ghost_back", "delayed_now", "delayed_drop", "leave", "back", "left", "forget", "fleet", "feed_open",
	"feed_read", "feed_ack", "feed_fail", "feed_close", "feed_pick", "feed_dead_add", "feed_dlq_length", "tracking",
	"caching", "wait", "unblock", "slots", "cluster_info", "role", "run_id", "time", "config_get", "config_set",
	"psubscribe", "ping"};
static const char *const story_results[] = {"done", "parked", "gone", "not_ours", "deleted", "moved", "failed"};
static const char *const story_leases[] = {"held", "busy", "lost", "moved", "recreated"};
static const char *const story_lost[] = {"expired", "taken", "missing", "not_pending", "replaced"};

static void story_slice(const char *name, struct slice s)
{
	if (s.p)
		buf_printf(&W.text, " %s=%.*s", name, (int)s.len, s.p);
}

/* The lock value that it writes, compares or deletes; of a group its start, of CONFIG SET the flags. */
static struct slice story_value(const struct cmd *c)
{
	switch ((int)c->kind) {
	case CMD_LOCK:
	case CMD_LOCK_SWAP:
	case CMD_TOMBSTONE:
		return c->as.lock.value;
	case CMD_DONE:
		return c->as.done.lock_value;
	case CMD_DONE_MANY:
		return c->as.many.lock_value;
	case CMD_GROUP_CREATE:
		return c->as.group.start;
	case CMD_CONFIG_SET_EVENTS:
		return c->as.keyspace.flags;
	default:
		return (struct slice){0};
	}
}

static struct slice story_consumer(const struct cmd *c)
{
	switch ((int)c->kind) {
	case CMD_PENDING:
		return c->as.pending.consumer;
	case CMD_ACK_DEL:
		return c->as.done.consumer;
	case CMD_REQUEUE:
	case CMD_LATER:
		return c->as.requeue.consumer;
	case CMD_DEAD:
		return c->as.dead.consumer;
	case CMD_FORGET:
		return c->as.forget.consumer;
	default:
		return (struct slice){0};
	}
}

static void story_payload(const struct cmd *c)
{
	story_slice("value", story_value(c));
	if (c->kind == CMD_TAKE_MANY || c->kind == CMD_DONE_MANY)
		buf_printf(&W.text, " n=%zu", c->as.many.n);
	if (c->kind == CMD_LOCK_SWAP)
		story_slice("expect", c->as.lock.expect);
	if (c->kind == CMD_FEED_OPEN)
		story_slice("expect", c->as.feed.open.start);
	story_slice("consumer", story_consumer(c));
	if (c->kind == CMD_READ)
		buf_printf(
			&W.text, " count=%lld block=%lld", (long long)c->as.read.count, (long long)c->as.read.block_ms);
	if (c->kind == CMD_LATER)
		buf_printf(&W.text, " delay=%lld why=%s", (long long)c->as.requeue.delay_ms, c->as.requeue.why);
	if (c->kind == CMD_LATER && c->as.requeue.tries)
		buf_printf(&W.text, " tries=%u", c->as.requeue.tries);
	if (c->kind == CMD_REQUEUE)
		buf_printf(&W.text, " retry=%lld idle=%lld", (long long)c->as.requeue.retry,
			(long long)c->as.requeue.min_idle_ms);
	const int64_t min_idle_ms = c->kind == CMD_PENDING  ? c->as.pending.min_idle_ms
				    : c->kind == CMD_DEAD   ? c->as.dead.min_idle_ms
				    : c->kind == CMD_FORGET ? c->as.forget.min_idle_ms
							    : 0;
	if (min_idle_ms)
		buf_printf(&W.text, " idle=%lld", (long long)min_idle_ms);
	if (c->kind == CMD_WAIT)
		buf_printf(&W.text, " %lld", (long long)c->as.wait.n_replicas);
	if (c->kind == CMD_UNBLOCK)
		buf_printf(&W.text, " %lld", (long long)c->as.unblock.client_id);
	if (c->kind == CMD_TOMBSTONE)
		buf_printf(&W.text, " ttl=%lld", (long long)c->as.lock.ttl_ms);
	if (c->kind == CMD_FEED_ACK && c->as.feed.ack.n_added >= 0)
		buf_printf(&W.text, " n=%lld", (long long)c->as.feed.ack.n_added);
	if (c->kind == CMD_FEED_OPEN)
		buf_printf(&W.text, "%s%s", c->as.feed.open.was_alone ? " counts" : "",
			c->as.feed.open.is_suspect ? " alone" : "");
}

static bool is_left_out_of_story(const struct cmd *c)
{
	const char *me = W.consumer ? W.consumer : "redis-consumer-me";
	const struct slice whose = story_consumer(c);
	const bool is_mine = whose.p && whose.len == strlen(me) && memcmp(whose.p, me, whose.len) == 0;
	if (c->kind == CMD_PENDING && ((W.no_scan && !whose.p) || (W.no_audit && is_mine)))
		return true;
	return c->kind == CMD_GHOSTS && !W.ghosts;
}

static void story_cmd(const struct effect *ef)
{
	const struct cmd *c = &ef->cmd;
	cr_assert_lt(W.n_sent, STORY_CMDS);
	if (is_left_out_of_story(c))
		return;
	W.n_cmds[c->kind]++;
	if ((c->kind == CMD_TIME || c->kind == CMD_TRIAL) && !W.trials)
		return;
	if (c->kind != CMD_PSUBSCRIBE)
		W.sent[W.n_sent++] = (struct sent){c->kind, ef->tag, c->svc, c->id, c->asking, c->use_eval,
			c->kind == CMD_PENDING     ? c->as.pending.count
			: c->kind == CMD_FEED_READ ? c->as.read.count
						   : 0,
			c->kind == CMD_LOCK || c->kind == CMD_RENEW || c->kind == CMD_TOMBSTONE ? c->as.lock.ttl_ms
												: 0};
	if (W.mute || W.hide[c->kind])
		return;
	buf_printf(&W.text, "[%5lld] %s", (long long)W.now, story_cmds[c->kind]);
	if (c->stream.p)
		buf_printf(&W.text, " %.*s", (int)c->stream.len, c->stream.p);
	if (c->id.ms || c->id.seq)
		buf_printf(&W.text, " %llu-%llu", (unsigned long long)c->id.ms, (unsigned long long)c->id.seq);
	story_payload(c);
	buf_str(&W.text, c->use_eval ? " eval" : "");
	buf_str(&W.text, c->kind == CMD_UNLOCK && c->as.lock.use_delifeq ? " delifeq" : "");
	buf_str(&W.text, c->asking ? " asking\n" : "\n");
}

static void story_text(const struct text *t)
{
	if (t)
		buf_printf(&W.text, " \"%.60s\"", t->bytes);
}

static void story_entry_id(struct entry_id id)
{
	if (id.ms)
		buf_printf(&W.text, " %llu-%llu", (unsigned long long)id.ms, (unsigned long long)id.seq);
}

static void story_feed(const struct msg_feed *m)
{
	static const char *const results[] = {"open", "entries", "acked", "nacked", "buried", "bad_ack", "read",
		"cleared", "idle", "put_off", "lost", "closed", "refused", "gone", "remade", "wrong_type", "moved"};
	buf_printf(&W.text, "feed %s", results[m->result]);
	story_entry_id(m->id);
	if (m->result == FEED_HAS_ENTRIES)
		buf_printf(&W.text, " %s", m->json->bytes);
	if (m->wait_ms && (m->result == FEED_IS_OPEN || m->result == FEED_IS_PUT_OFF)) {
		buf_printf(&W.text, " waits=%lld", (long long)m->wait_ms);
		story_entry_id(m->bad);
	}
	if (m->result == FEED_HAS_LOST)
		buf_printf(&W.text, " n=%u", m->n_entries);
	if (m->result == FEED_HAS_NACKED)
		buf_printf(&W.text, " tries=%u wait=%lld", m->tries, (long long)m->wait_ms);
	story_text(m->moved_to);
	buf_str(&W.text, m->asking ? " asking" : "");
	buf_str(&W.text, m->is_position ? " position" : "");
	buf_str(&W.text, m->before.had_progress || m->has_more || m->is_dead || m->is_nack ? " +" : "");
}

static void story_lease_msg(uint64_t handle, const struct msg_lease *m)
{
	buf_printf(&W.text, "lease %llu %s", (unsigned long long)handle, story_leases[m->result]);
	if (m->result == LEASE_IS_LOST)
		buf_printf(&W.text, " %s", story_lost[m->lost]);
	if (m->result != LEASE_IS_BUSY)
		buf_printf(&W.text, " until=%lld", (long long)m->good_until);
	if (m->has_take)
		buf_printf(&W.text, " take=%s%s", story_results[m->taken], m->was_merged ? " merged" : "");
	if (m->lasts_ms)
		buf_printf(&W.text, " lasts=%lld", (long long)m->lasts_ms);
	if (m->result == LEASE_IS_MOVED)
		snprintf(W.moved, sizeof W.moved, "%llu-%llu %s", (unsigned long long)m->id.ms,
			(unsigned long long)m->id.seq, m->stream->bytes);
	story_text(m->moved_to);
	buf_str(&W.text, m->asking ? " asking" : "");
	buf_str(&W.text, m->was_ours ? " +" : "");
}

static void story_op_result(const struct msg_op_result *m)
{
	buf_printf(&W.text, "op %s %s", story_cmds[m->kind], story_results[m->result]);
	story_entry_id(m->new_id);
	story_entry_id(m->next);
	story_text(m->error);
	story_text(m->moved_to);
	buf_str(&W.text, m->resent ? " resent" : "");
	buf_str(&W.text, m->releases ? " released" : "");
	buf_str(&W.text, m->asking ? " asking" : "");
}

static void story_lock_call(const struct msg_lock_call *m)
{
	buf_printf(&W.text, "call %s %llu-%llu", story_cmds[m->kind], (unsigned long long)m->id.ms,
		(unsigned long long)m->id.seq);
	story_text(m->value);
	story_text(m->error);
}

static void story_msg_body(const struct msg *m)
{
	switch (m->kind) {
	case MSG_LEASE:
		story_lease_msg(m->handle, &m->lease);
		break;
	case MSG_RENEWED:
		buf_str(&W.text, "renewed");
		for (uint32_t i = 0; i < m->renewed.list->n && i < 4; i++)
			buf_printf(&W.text, " %llu:%lld", (unsigned long long)m->renewed.list->v[i].handle,
				(long long)m->renewed.list->v[i].good_until);
		break;
	case MSG_ENTRIES:
		buf_printf(&W.text, "entries %s n=%zu asked=%lld%s", m->entries.source == SOURCE_NEW ? "new" : "own",
			m->entries.batch ? m->entries.batch->n : 0, (long long)m->entries.n_asked,
			m->entries.is_last ? " +" : "");
		break;
	case MSG_OWN_IDS:
		buf_printf(&W.text, "own_ids pass=%lld n=%u%s", (long long)m->own_ids.pass, m->own_ids.page->n,
			m->own_ids.is_last ? " +" : "");
		break;
	case MSG_OP_RESULT:
		story_op_result(&m->op_result);
		break;
	case MSG_LOCK_CALL:
		story_lock_call(&m->lock_call);
		break;
	case MSG_LOCK_ANSWER:
		buf_printf(&W.text, "answer %s %s n=%lld%s", story_cmds[m->lock_answer.kind],
			story_results[m->lock_answer.result], (long long)m->lock_answer.integer,
			m->lock_answer.hold_off_until > 0 ? " +" : "");
		break;
	case MSG_CONN:
		buf_printf(&W.text, "conn %d", m->conn.role);
		story_text(m->conn.why);
		buf_str(&W.text, m->conn.is_up ? " +" : "");
		break;
	case MSG_MOVED:
		buf_printf(&W.text, "moved slot=%u", m->moved.slot);
		story_text(m->moved.to);
		buf_str(&W.text, m->moved.asking ? " asking" : "");
		break;
	case MSG_REFRESH:
		buf_str(&W.text, "refresh");
		story_text(m->refresh.why);
		buf_str(&W.text, m->refresh.is_announced ? " +" : "");
		break;
	case MSG_REPLACED:
		buf_str(&W.text, "replaced");
		break;
	case MSG_GROUP_LOST:
		buf_str(&W.text, m->group_lost.is_remade ? "group_lost +" : "group_lost");
		break;
	case MSG_EXPIRED:
		buf_printf(&W.text, "expired %s", m->expired.stream->bytes);
		break;
	case MSG_FEED:
		story_feed(&m->feed);
		break;
	case MSG_WAITING:
		buf_printf(&W.text, "waiting n=%u merged=%u", m->waiting.n, m->waiting.n_merged);
		break;
	case MSG_EMPTY:
		buf_str(&W.text, "empty");
		break;
	case MSG_STOPPED:
		buf_str(&W.text, "stopped");
		break;
	default:
		buf_printf(&W.text, "msg %d", m->kind);
		break;
	}
}

static void story_msg(const struct msg *m)
{
	W.n_msgs[m->kind]++;
	if (m->kind == MSG_LOCK_CALL) {
		cr_assert_lt(W.n_calls, STORY_CMDS);
		struct msg *call = &W.calls[W.n_calls++];
		*call = *m;
		call->lock_call.stream = call->lock_call.value = call->lock_call.error = NULL;
		call->lock_call.fields = NULL;
		call->lock_call.moved_to = NULL;
		W.last_call = *call;
	}
	if (W.mute || W.hide_msg[m->kind] || (m->kind == MSG_FEED && m->feed.result == FEED_IS_READ && !W.reads))
		return;
	buf_printf(&W.text, "[%5lld] > ", (long long)W.now);
	story_msg_body(m);
	buf_str(&W.text, "\n");
}

static void story_effects(void)
{
	for (size_t i = 0; i < W.out.n; i++) {
		const struct effect *ef = &W.out.v[i];
		if (ef->kind == EFF_REDIS)
			story_cmd(ef);
		else if (ef->kind == EFF_MSG)
			story_msg(&ef->msg);
		else if (ef->kind == EFF_LOG && (W.say || ef->level == LOG_ERROR))
			buf_printf(&W.text, "[%5lld] say %s\n", (long long)W.now, ef->text->bytes);
		else if (ef->kind == EFF_READER_OPEN || ef->kind == EFF_READER_CLOSE)
			buf_printf(&W.text, "[%5lld] reader %s\n", (long long)W.now,
				ef->kind == EFF_READER_OPEN ? "open" : "close");
	}
	effects_clear(&W.out);
}

static void story_event(struct shard_event ev)
{
	ev.now = W.now;
	ev.wall_ms = 1700000000000 + W.now;
	W.next = shard_step(W.s, &ev, &W.out);
	story_effects();
}

/* Steps at every deadline until t, then it is t. */
UNUSED static void story_until(mono_ms t)
{
	int n_same = 0;
	while (W.next <= t) {
		n_same = W.next <= W.now ? n_same + 1 : 0;
		cr_assert_lt(
			n_same, 1000, "the shard asks for the same moment again and again (%lld)", (long long)W.now);
		W.now = mono_max(W.next, W.now);
		story_event((struct shard_event){.kind = SHARD_TICK});
	}
	W.now = t;
}

UNUSED static void story_msg_in(struct msg m)
{
	story_event((struct shard_event){.kind = SHARD_MSG, .msg = &m});
}

UNUSED static void story_conn(enum conn_role role, bool up)
{
	story_event((struct shard_event){.kind = SHARD_CONN,
		.role = role,
		.svc = 1,
		.up = up,
		.is_valkey = up,
		.has_pushes = up,
		.client_id = up ? 33 : -1});
}

/* The oldest waiting command of this kind; it does not wait any more. */
UNUSED static struct sent story_take(enum cmd_kind kind)
{
	for (size_t i = 0; i < W.n_sent; i++)
		if (W.sent[i].kind == kind) {
			struct sent s = W.sent[i];
			memmove(&W.sent[i], &W.sent[i + 1], (--W.n_sent - i) * sizeof s);
			return s;
		}
	cr_assert_fail("no %s is waiting for an answer", story_cmds[kind]);
	return (struct sent){0};
}

UNUSED static bool story_waits(enum cmd_kind kind)
{
	for (size_t i = 0; i < W.n_sent; i++)
		if (W.sent[i].kind == kind)
			return true;
	return false;
}

UNUSED static void story_reply(enum cmd_kind kind, struct reply r)
{
	story_event((struct shard_event){.kind = SHARD_REPLY, .tag = story_take(kind).tag, .reply = &r});
}

UNUSED static void story_ok(enum cmd_kind kind)
{
	story_reply(kind, (struct reply){.kind = REPLY_OK});
}
UNUSED static void story_nil(enum cmd_kind kind)
{
	story_reply(kind, (struct reply){.kind = REPLY_NIL});
}
UNUSED static void story_int(enum cmd_kind kind, int64_t n)
{
	story_reply(kind, (struct reply){.kind = REPLY_INT, .integer = n});
}
UNUSED static void story_txt(enum cmd_kind kind, const char *s)
{
	story_reply(kind, (struct reply){.kind = REPLY_TEXT, .text = {s, strlen(s)}});
}
/* As codec/reply_error does. */
static enum refusal story_refusal(enum reply_error e, const char *s)
{
	static const struct {
		const char *word;
		enum refusal refusal;
	} words[] = {{"OOM", REFUSAL_OOM}, {"MISCONF", REFUSAL_MISCONF}, {"READONLY", REFUSAL_READONLY},
		{"NOREPLICAS", REFUSAL_NOREPLICAS}, {"NOPERM", REFUSAL_NOPERM}, {"WRONGTYPE", REFUSAL_WRONGTYPE},
		{"LOADING", REFUSAL_LOADING}, {"BUSY ", REFUSAL_BUSY}, {"CLUSTERDOWN", REFUSAL_CLUSTERDOWN},
		{"TRYAGAIN", REFUSAL_TRYAGAIN}};
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		if (strncmp(s, words[i].word, strlen(words[i].word)) == 0)
			return words[i].refusal;
	return e == RERR_OPERATOR ? REFUSAL_OTHER : REFUSAL_NONE;
}
UNUSED static void story_error(enum cmd_kind kind, enum reply_error e, const char *s)
{
	story_reply(kind, (struct reply){.kind = REPLY_ERROR,
				  .error = e,
				  .refusal = story_refusal(e, s),
				  .text = {s, strlen(s)},
				  .moved_slot = 5});
}

/* The connection dies: every waiting command (but reads, on their own connection) gets no answer, then it is down. */
UNUSED static void story_cut(void)
{
	struct sent *reads = mem_array(W.n_sent + 1, sizeof *reads);
	size_t n_reads = 0;
	while (W.n_sent) {
		struct sent old = W.sent[0];
		memmove(&W.sent[0], &W.sent[1], --W.n_sent * sizeof old);
		if (old.kind == CMD_READ)
			reads[n_reads++] = old;
		else
			story_event((struct shard_event){
				.kind = SHARD_REPLY, .tag = old.tag, .reply = &(struct reply){.kind = REPLY_NONE}});
	}
	memcpy(W.sent, reads, n_reads * sizeof *reads);
	W.n_sent = n_reads;
	mem_free(reads);
	story_conn(CONN_COMMAND, false);
}

/* Forgets what was told and what waits for an answer of the noise around. */
UNUSED static void story_clear(void)
{
	buf_clear(&W.text);
}

UNUSED static void story_drop_waiting(enum cmd_kind kind)
{
	while (story_waits(kind))
		story_take(kind);
}

UNUSED static void story_expect(const char *want, const char *file, int line)
{
	const char *got = W.text.data ? W.text.data : "";
	cr_assert_str_eq(got, want, "%s:%d: the story is\n%s--- but should be\n%s", file, line, got, want);
	buf_clear(&W.text);
}
#define expect_story(want) story_expect((want), __FILE__, __LINE__)

UNUSED static struct slice slice_str_(const char *s)
{
	return (struct slice){s, strlen(s)};
}

UNUSED static struct service_rules *story_rules(void)
{
	struct service_rules *r = mem_alloc(sizeof *r);
	atomic_init(&r->refs, 1);
	r->svc = 1;
	r->lbs_slot = 5;
	r->dlq.slot = 5;
	r->dlq.is_same_slot = true;
	r->recovery.probe = true;
	r->read_batch = 128;
	r->max_retries = 3;
	r->recovery.scan_page = 100;
	r->lease.ttl_ms = 10000;
	r->lease.renew_ms = 3333;
	r->lease.stop_margin_ms = 2000;
	r->recovery.scan_interval_ms = 60000;
	r->recovery.forget_consumer_ms = 86400000;
	r->recovery.min_idle_ms = 30000;
	strcpy(r->name, "orders");
	return r;
}

static void story_begin(void)
{
	alarm(60);
	static const struct shard_rules rules = {
		.consumer = "redis-consumer-me",
		.lock_value = "redis-consumer-me/20",
		.incarnation = 0x20,
		.command_timeout_ms = 3000,
		.events_on = true,
		.events_merge = true,
		.is_checked = true,
		.seed = 42,
	};
	struct shard_rules who = rules;
	if (W.consumer) {
		snprintf(who.consumer, sizeof who.consumer, "%s", W.consumer);
		snprintf(who.lock_value, sizeof who.lock_value, "%s/20", W.consumer);
	}
	W.sent = mem_array(STORY_CMDS, sizeof *W.sent);
	W.calls = mem_array(STORY_CMDS, sizeof *W.calls);
	W.s = shard_new(&who, 2);
	effects_init(&W.out);
	W.now = 1000;
	W.next = MONO_NEVER;
	uint8_t *bits = mem_alloc(SLOTS / 8);
	memset(bits, 0xff, SLOTS / 8);
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = bits});
}

/* A shard with a service it does not read, connected to a server it knows. */
UNUSED static void story_up(void)
{
	story_begin();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = story_rules()});
	story_conn(CONN_COMMAND, true);
	story_txt(CMD_RUN_ID, "abc");
	story_txt(CMD_ROLE, "master");
	story_clear();
}

UNUSED static void story_entries(enum cmd_kind kind, uint64_t first, size_t n)
{
	struct entry_batch *b = mem_alloc(sizeof *b + n * sizeof b->v[0]);
	b->n = n;
	for (size_t i = 0; i < n; i++) {
		b->v[i].id = (struct entry_id){first + i, 0};
		b->v[i].stream = text_new("s1", 2);
		b->v[i].lock_slot = 9;
	}
	story_reply(kind, (struct reply){.kind = REPLY_ENTRIES, .entries = b});
}

UNUSED static void story_pending(enum cmd_kind kind, uint64_t first, size_t n, const char *consumer, int64_t idle_ms)
{
	struct pending_row *rows = mem_array(n + 1, sizeof *rows);
	for (size_t i = 0; i < n; i++)
		rows[i] = (struct pending_row){
			.id = {first + i, 0}, .idle_ms = idle_ms, .consumer = {consumer, strlen(consumer)}};
	story_reply(kind, (struct reply){.kind = REPLY_PENDING, .pending = rows, .n = n});
	mem_free(rows);
}

UNUSED static void story_down(void)
{
	shard_free(W.s);
	effects_fini(&W.out);
	buf_fini(&W.text);
	mem_free(W.sent);
	mem_free(W.calls);
}
