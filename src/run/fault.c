/* Happy path: nothing. A point that is armed: one line, one signal. */
#include "run/fault.h"

#ifdef SLUICE_FAULT_POINTS
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME_CAP = 64, EXIT_USAGE = 64 };

/* What recovery does to peers' locks and entries has names of its own. */
enum variant { VARIANT_GUARD = CMD_N, VARIANT_UNGUARD, VARIANT_REQUEUE, VARIANT_DEAD, VARIANT_ACK, VARIANT_N };

static const char *const variants[] = {"door", "undoor", "recover_requeue", "recover_dead", "recover_ack"};
static const char *const plain_messages[MSG_N] = {[MSG_SLOTS] = "slots",
	[MSG_SERVICE] = "service",
	[MSG_CREDITS] = "credits",
	[MSG_LEASE_ACQUIRE] = "lease_acquire",
	[MSG_LEASE_RELEASE] = "lease_release",
	[MSG_CONN] = "conn",
	[MSG_RENEWED] = "renewed",
	[MSG_OWN_IDS] = "own_ids",
	[MSG_LOCK_CALL] = "lock_call",
	[MSG_LOCK_ANSWER] = "lock_answer",
	[MSG_EXPIRED] = "expired",
	[MSG_SCAN] = "scan",
	[MSG_FEED_OPEN] = "feed_open",
	[MSG_FEED_START] = "feed_start",
	[MSG_FEED_ACK] = "feed_ack",
	[MSG_FEED_NACK] = "feed_nack",
	[MSG_FEED_CLOSE] = "feed_close"};
/* The others come by chance. */
static const char *const feed_names[FEED_IS_MOVED + 1] = {[FEED_IS_OPEN] = "feed_is_open",
	[FEED_HAS_ENTRIES] = "feed_has_entries",
	[FEED_HAS_ACKED] = "feed_has_acked",
	[FEED_HAS_NACKED] = "feed_has_nacked",
	[FEED_IS_READ] = "feed_is_read",
	[FEED_IS_IDLE] = "feed_is_idle",
	[FEED_IS_CLOSED] = "feed_is_closed"};
static const char *const lease_names[] = {[LEASE_IS_HELD] = "held",
	[LEASE_IS_BUSY] = "busy",
	[LEASE_IS_LOST] = "lost",
	[LEASE_IS_MOVED] = NULL,
	[LEASE_IS_RECREATED] = "recreated"};
static const char *const source_names[] = {
	[SOURCE_NEW] = "entries", [SOURCE_OWN] = "entries_own", [SOURCE_FETCH] = "entries_fetch"};
static const char *const in_names[FRAME_N] = {[FRAME_HELLO] = "hello",
	[FRAME_CREDITS] = "credits",
	[FRAME_DONE] = "done",
	[FRAME_FAIL] = "fail",
	[FRAME_RELEASE] = "release",
	[FRAME_PROGRESS] = "progress",
	[FRAME_ACK] = "ack",
	[FRAME_NACK] = "nack",
	[FRAME_REVOKED] = "revoked",
	[FRAME_PONG] = "pong",
	[FRAME_BYE] = "bye"};
static const char *const out_names[OUT_ENDED + 1] = {[OUT_WELCOME] = "welcome",
	[OUT_ASSIGN] = "assign",
	[OUT_OK] = "ok",
	[OUT_REVOKE] = "revoke",
	[OUT_PING] = "ping",
	[OUT_ERR] = "err",
	[OUT_ENTRIES] = "entries",
	[OUT_ENDED] = "ended"};

/* Every point that a running daemon can pass. */
static const char *const from_coordinator[] = {"slots", "service", "credits", "lease_acquire", "lease_release",
	"op_take", "op_done", "op_requeue", "op_later", "op_dead", "op_ack_del", "op_fetch", "op_add", "op_leave",
	"op_back", "lock_call", "lock_answer", "scan", "feed_open", "feed_start", "feed_ack", "feed_nack",
	"feed_close"};
static const char *const from_shards[] = {"conn", "held", "busy", "lost", "recreated", "renewed", "entries",
	"entries_own", "own_ids", "op_take", "op_done", "op_requeue", "op_later", "op_dead", "op_ack_del", "op_fetch",
	"op_add", "op_leave", "op_back", "lock_call", "lock_answer", "expired", "feed_is_open", "feed_has_entries",
	"feed_has_acked", "feed_has_nacked", "feed_is_read", "feed_is_idle", "feed_is_closed"};
static const char *const from_workers[] = {"hello", "credits", "done", "fail", "release", "progress", "ack", "nack",
	"revoked", "pong", "bye", "end", "died"};
static const char *const to_workers[] = {"welcome", "assign", "ok", "revoke", "ping", "err", "entries", "ended"};

static const char *command_word(unsigned k)
{
	return k >= CMD_N ? variants[k - CMD_N] : command_name((enum cmd_kind)k);
}

/* ---- the list */

typedef void point_fn(void *arg, const char *kind, const char *name);

static void fault_each(point_fn *fn, void *arg)
{
	for (unsigned k = 0; k < VARIANT_N; k++) {
		if (k == CMD_PING) /* nobody sends it */
			continue;
		fn(arg, "send", command_word(k));
		fn(arg, "answer", command_word(k));
	}
	for (size_t i = 0; i < sizeof from_coordinator / sizeof from_coordinator[0]; i++)
		fn(arg, "post", from_coordinator[i]);
	for (size_t i = 0; i < sizeof from_shards / sizeof from_shards[0]; i++)
		fn(arg, "mail", from_shards[i]);
	for (size_t i = 0; i < sizeof from_workers / sizeof from_workers[0]; i++)
		fn(arg, "read", from_workers[i]);
	for (size_t i = 0; i < sizeof to_workers / sizeof to_workers[0]; i++)
		fn(arg, "write", to_workers[i]);
}

static void print(void *arg, const char *kind, const char *name)
{
	fprintf(arg, "%s.%s\n", kind, name);
}

static int list(void)
{
	fault_each(print, stdout);
	return fflush(stdout) == 0 ? 0 : EXIT_USAGE;
}

/* ---- the one that is armed */

enum fault_action { ACTION_KILL, ACTION_STOP, ACTION_HANG, ACTION_N };
static const char *const action_names[ACTION_N] = {"kill", "stop", "hang"};

struct armed {
	char name[NAME_CAP];
	int n;
	enum fault_action action;
	bool is_known;
};

static struct armed armed;
static atomic_int n_passed;

static void match(void *arg, const char *kind, const char *name)
{
	struct armed *a = arg;
	size_t n = strlen(kind);
	if (strncmp(a->name, kind, n) == 0 && a->name[n] == '.' && strcmp(a->name + n + 1, name) == 0)
		a->is_known = true;
}

/* ACTION_N: there is none of that name. */
static enum fault_action action_of(const char *name)
{
	enum fault_action a = ACTION_KILL;
	while (*name && a < ACTION_N && strcmp(name, action_names[a]) != 0)
		a++;
	return a;
}

static int fault_arm(void)
{
	const char *text = getenv("SLUICE_FAULT");
	if (!text || !*text)
		return 0;
	size_t n = strcspn(text, ":");
	snprintf(armed.name, sizeof armed.name, "%.*s", (int)n, text);
	armed.n = 1;
	const char *rest = text + n + (text[n] == ':');
	if (*rest >= '1' && *rest <= '9') {
		char *end;
		armed.n = (int)strtol(rest, &end, 10);
		rest = end + (*end == ':');
	}
	armed.action = action_of(rest);
	fault_each(match, &armed);
	if (armed.is_known && armed.action < ACTION_N)
		return 0;
	fprintf(stderr, "sluiced: SLUICE_FAULT=%s: no such point or action; see --list-faults\n", text);
	return EXIT_USAGE;
}

bool fault_start(int argc, char **argv, int *status)
{
	bool is_list = argc == 2 && strcmp(argv[1], "--list-faults") == 0;
	*status = is_list ? list() : fault_arm();
	return is_list || *status;
}

void fault_point(const char *kind, const char *name)
{
	size_t n = strlen(kind);
	if (!name || strncmp(armed.name, kind, n) != 0 || armed.name[n] != '.' || strcmp(armed.name + n + 1, name) != 0)
		return;
	if (atomic_fetch_add(&n_passed, 1) + 1 != armed.n)
		return;
	fprintf(stderr, "fault point %s passed %d times: %s\n", armed.name, armed.n, action_names[armed.action]);
	while (armed.action == ACTION_HANG)
		pause();
	kill(getpid(), armed.action == ACTION_KILL ? SIGKILL : SIGSTOP);
}

/* ---- names */

static bool is_recovery(struct slice value)
{
	static const char recovery[] = "recover:";
	return value.len >= sizeof recovery - 1 && memcmp(value.p, recovery, sizeof recovery - 1) == 0;
}

static bool is_a_peers(struct slice consumer, const struct command_self *self)
{
	return consumer.p &&
	       (consumer.len != strlen(self->consumer) || memcmp(consumer.p, self->consumer, consumer.len) != 0);
}

static unsigned fault_kind_of(const struct cmd *c, const struct command_self *self)
{
	if (c->kind == CMD_LOCK && is_recovery(c->as.lock.value))
		return VARIANT_GUARD;
	if (c->kind == CMD_UNLOCK && is_recovery(c->as.lock.value))
		return VARIANT_UNGUARD;
	if (c->kind == CMD_REQUEUE && is_a_peers(c->as.requeue.consumer, self))
		return VARIANT_REQUEUE;
	if (c->kind == CMD_DEAD && is_a_peers(c->as.dead.consumer, self))
		return VARIANT_DEAD;
	if (c->kind == CMD_ACK_DEL && is_a_peers(c->as.done.consumer, self))
		return VARIANT_ACK;
	return (unsigned)c->kind;
}

static _Thread_local unsigned char *inflights;
static _Thread_local size_t n_inflights;

void fault_send(uint32_t inflight, const struct cmd *c, const struct command_self *self)
{
	if (inflight >= n_inflights) { /* lives as long as its thread; never freed */
		size_t n = (size_t)inflight * 2 + 64;
		unsigned char *p = realloc(inflights, n);
		if (!p)
			abort();
		inflights = p;
		n_inflights = n;
	}
	inflights[inflight] = (unsigned char)fault_kind_of(c, self);
	fault_point("send", command_word(inflights[inflight]));
}

void fault_answer(uint32_t inflight)
{
	fault_point("answer", command_word(inflights[inflight]));
}

static const char *message_name(const struct msg *m, char out[NAME_CAP])
{
	if (m->kind == MSG_LEASE)
		return lease_names[m->lease.result];
	if (m->kind == MSG_ENTRIES)
		return m->entries.batch && m->entries.batch->n ? source_names[m->entries.source] : NULL;
	if (m->kind == MSG_FEED)
		return feed_names[m->feed.result];
	if (m->kind != MSG_OP && m->kind != MSG_OP_RESULT)
		return plain_messages[m->kind];
	snprintf(out, NAME_CAP, "op_%s",
		command_name((enum cmd_kind)(m->kind == MSG_OP ? m->op.kind : m->op_result.kind)));
	return out;
}

void fault_post(const struct msg *m)
{
	char name[NAME_CAP];
	fault_point("post", message_name(m, name));
}

void fault_mail(const struct msg *m)
{
	char name[NAME_CAP];
	fault_point("mail", message_name(m, name));
}

void fault_read(const struct frame *f)
{
	fault_point("read", in_names[f->kind]);
}

void fault_write(const struct out_frame *f)
{
	fault_point("write", out_names[f->kind]);
}
#else
bool fault_start(int argc, char **argv, int *status)
{
	(void)argc;
	(void)argv;
	(void)status;
	return false;
}

void fault_point(const char *kind, const char *name)
{
	(void)kind;
	(void)name;
}

void fault_send(uint32_t inflight, const struct cmd *c, const struct command_self *self)
{
	(void)inflight;
	(void)c;
	(void)self;
}

void fault_answer(uint32_t inflight)
{
	(void)inflight;
}

void fault_post(const struct msg *m)
{
	(void)m;
}

void fault_mail(const struct msg *m)
{
	(void)m;
}

void fault_read(const struct frame *f)
{
	(void)f;
}

void fault_write(const struct out_frame *f)
{
	(void)f;
}
#endif
