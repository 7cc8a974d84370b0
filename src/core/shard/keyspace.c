#include "core/shard/keyspace.h"
#include "core/sm.h"

#include <assert.h>

enum { AGAIN_MS = 200, AGAIN_MAX_MS = 5000, CONFIRM_MS = 5000, LOOK_MS = 60000, LOOK_MAX_SHIFT = 4 };

void keyspace_init(struct keyspace *k)
{
	*k = (struct keyspace){.at = MONO_NEVER};
}

#define BIT(s) (1u << (s))
enum { DOWN_OR_ASK = 1 << KEYSPACE_DOWN | 1 << KEYSPACE_ASKING }; /* a connection went or came: from everywhere */
static const uint16_t allowed[] = {
	[KEYSPACE_DOWN] = DOWN_OR_ASK,
	[KEYSPACE_ASKING] = DOWN_OR_ASK | BIT(KEYSPACE_SETTING) | BIT(KEYSPACE_SUBSCRIBING) | BIT(KEYSPACE_REFUSED),
	[KEYSPACE_SETTING] = DOWN_OR_ASK | BIT(KEYSPACE_SUBSCRIBING) | BIT(KEYSPACE_REFUSED),
	[KEYSPACE_SUBSCRIBING] = DOWN_OR_ASK | BIT(KEYSPACE_READY),
	[KEYSPACE_READY] = DOWN_OR_ASK,
	[KEYSPACE_REFUSED] = DOWN_OR_ASK,
};
static const char *const keyspace_states[] = {"down", "asking", "setting", "subscribing", "ready", "refused"};
static const struct sm keyspace_machine = {
	.what = "keyspace", .names = keyspace_states, .allowed = allowed, .n = KEYSPACE_REFUSED + 1};

static void keyspace_move(struct keyspace *k, struct shard_ctx *c, enum keyspace_state to, const char *why)
{
	sm_move(&keyspace_machine, &k->state, to, c->out, slice_str("events"), why);
}

static void keyspace_tell(struct shard_ctx *c, bool is_up, struct slice why)
{
	struct text *words = why.p ? text_new(why.p, why.len) : NULL;
	ctx_msg(c, msg_conn((struct msg_conn){.role = CONN_SUBSCRIBER, .is_up = is_up, .why = words}));
}

static void keyspace_ask(struct keyspace *k, struct shard_ctx *c)
{
	keyspace_move(k, c, KEYSPACE_ASKING, "the flags are asked for");
	k->in_flight = false;
	k->gen++;
	k->at = c->now;
}

void keyspace_conn(struct keyspace *k, struct shard_ctx *c, bool is_up, struct slice why)
{
	if (!c->rules->events_on)
		return;
	k->tries = k->n_denied = 0;
	k->were_on = false;
	if (is_up) {
		keyspace_ask(k, c);
		return;
	}
	keyspace_move(k, c, KEYSPACE_DOWN, "the connection is down");
	k->in_flight = false;
	k->gen++;
	k->at = MONO_NEVER;
	keyspace_tell(c, false, why);
}

static void was_denied(struct keyspace *k)
{
	if (k->n_denied < LOOK_MAX_SHIFT)
		k->n_denied++;
}

/* The server cannot answer now; another error is a refusal. */
static bool is_for_now(const struct reply *reply)
{
	return reply->error == RERR_RETRY || reply->error == RERR_REFRESH;
}

static mono_ms look_at(const struct keyspace *k, const struct shard_ctx *c)
{
	return c->now + ((mono_ms)LOOK_MS << k->n_denied);
}

/* The command connection is new: the server may be, too; flags are not kept over its restart. */
void keyspace_command_up(struct keyspace *k, struct shard_ctx *c)
{
	if (k->state != KEYSPACE_DOWN)
		keyspace_ask(k, c);
}

void keyspace_pushed(struct keyspace *k, struct shard_ctx *c)
{
	assert(k->state <= KEYSPACE_REFUSED);
	if (k->state != KEYSPACE_SUBSCRIBING)
		return;
	keyspace_move(k, c, KEYSPACE_READY, "confirmed");
	k->at = look_at(k, c);
	k->tries = 0;
	c->metrics.c[MR_SETUP_OK]++;
	keyspace_tell(c, true, (struct slice){0});
}

static uint64_t keyspace_tag(const struct keyspace *k)
{
	return tag_of(PART_KEYSPACE, k->gen & 0x0fffffff, 0);
}

static void subscribe(struct keyspace *k, struct shard_ctx *c)
{
	struct effect *ef = ctx_redis(c, tag_of(PART_KEYSPACE, k->gen & 0x0fffffff, 1), CMD_PSUBSCRIBE, SERVICE_NONE);
	ef->role = CONN_SUBSCRIBER;
	ef->cmd.as.keyspace.db = c->rules->db;
	keyspace_move(k, c, KEYSPACE_SUBSCRIBING, "the flags are set");
	k->at = c->now + CONFIRM_MS;
}

/* The flags are not to be had. */
static void denied(struct keyspace *k, struct shard_ctx *c, struct slice why)
{
	c->metrics.c[MR_SETUP_DENIED]++;
	was_denied(k);
	if (c->rules->events_required) {
		if (!k->is_denied_said)
			effects_log(c->out, LOG_ERROR,
				"shard=%u keyspace events cannot be switched on, and redis.keyspace_events is require: "
				"%.*s",
				c->index, (int)(why.len < 300 ? why.len : 300), why.p ? why.p : "");
		k->is_denied_said = true;
		keyspace_move(k, c, KEYSPACE_REFUSED, "the flags are not to be had");
		k->at = c->now + ctx_backoff(c, k->tries++, AGAIN_MS, AGAIN_MAX_MS);
		keyspace_tell(c, false, why);
		return;
	}
	if (!k->is_denied_said)
		effects_log(c->out, LOG_WARN,
			"shard=%u keyspace events cannot be switched on, going on with what is set: %.*s", c->index,
			(int)(why.len < 300 ? why.len : 300), why.p ? why.p : "");
	k->is_denied_said = true;
	subscribe(k, c);
}

static bool has_flags(struct slice flags, bool *has_k, bool *has_x)
{
	*has_k = *has_x = false;
	for (size_t i = 0; i < flags.len; i++) {
		*has_k |= flags.p[i] == 'K';
		*has_x |= flags.p[i] == 'x' || flags.p[i] == 'A';
	}
	return *has_k && *has_x;
}

/* They are set: whoever read that they were not to be had reads that, too. */
static void flags_are_on(struct keyspace *k, struct shard_ctx *c)
{
	if (k->is_denied_said)
		effects_log(c->out, LOG_NOTICE, "shard=%u keyspace events are switched on now", c->index);
	k->is_denied_said = false;
	k->were_on = true;
	k->n_denied = 0;
}

static void on_flags(struct keyspace *k, struct shard_ctx *c, struct slice flags)
{
	bool has_k, has_x;
	if (has_flags(flags, &has_k, &has_x)) {
		flags_are_on(k, c);
		subscribe(k, c);
		return;
	}
	if (!c->rules->events_merge) {
		denied(k, c, slice_str("notify-keyspace-events lacks K and x"));
		return;
	}
	char merged[64];
	size_t n = flags.len < sizeof merged - 2 ? flags.len : 0;
	if (n)
		memcpy(merged, flags.p, n);
	if (!has_k)
		merged[n++] = 'K';
	if (!has_x)
		merged[n++] = 'x';
	struct effect *ef = ctx_redis(c, keyspace_tag(k), CMD_CONFIG_SET_EVENTS, SERVICE_NONE);
	ef->hold = text_new(merged, n);
	ef->cmd.as.keyspace.flags = slice_of(ef->hold);
	keyspace_move(k, c, KEYSPACE_SETTING, "flags are missing");
	k->in_flight = true;
	k->at = MONO_NEVER;
}

static void keyspace_again(struct keyspace *k, struct shard_ctx *c)
{
	keyspace_move(k, c, KEYSPACE_ASKING, "the flags are asked for");
	k->at = c->now + ctx_backoff(c, k->tries, AGAIN_MS, AGAIN_MAX_MS);
	k->tries = (uint8_t)(k->tries < 100 ? k->tries + 1 : k->tries);
}

/* The answer to a look while all is well; what fails now is looked at another time. */
static void looked(struct keyspace *k, struct shard_ctx *c, const struct reply *reply)
{
	bool has_k, has_x;
	bool is_answer = reply->kind != REPLY_NONE && reply->kind != REPLY_ERROR;
	if (is_answer && !has_flags(reply->text, &has_k, &has_x)) {
		keyspace_ask(k, c);
		return;
	}
	if (is_answer)
		flags_are_on(k, c);
	else if (reply->kind == REPLY_ERROR && !is_for_now(reply))
		was_denied(k);
	k->at = look_at(k, c);
}

void keyspace_reply(struct keyspace *k, struct shard_ctx *c, uint64_t t, const struct reply *reply)
{
	if (t != keyspace_tag(k) || !k->in_flight)
		return;
	k->in_flight = false;
	if (k->state == KEYSPACE_READY) {
		looked(k, c, reply);
	} else if (reply->kind == REPLY_NONE) {
		keyspace_again(k, c);
	} else if (reply->kind == REPLY_ERROR && is_for_now(reply)) {
		c->metrics.c[MR_SETUP_ERROR]++;
		keyspace_again(k, c);
	} else if (reply->kind == REPLY_ERROR) {
		denied(k, c, reply->text);
	} else if (k->state == KEYSPACE_SETTING) {
		if (k->were_on)
			effects_log(c->out, LOG_WARN,
				"shard=%u keyspace events had been switched off on the server: switched on again",
				c->index);
		flags_are_on(k, c);
		subscribe(k, c);
	} else {
		on_flags(k, c, reply->text);
	}
}

mono_ms keyspace_flush(struct keyspace *k, struct shard_ctx *c)
{
	if (k->at > c->now || k->in_flight)
		return k->at;
	if (!c->is_up || k->state == KEYSPACE_DOWN)
		return MONO_NEVER;
	if (k->state == KEYSPACE_READY)
		k->gen++;
	else
		keyspace_ask(k, c); /* also: a confirmation that never came */
	ctx_redis(c, keyspace_tag(k), CMD_CONFIG_GET_EVENTS, SERVICE_NONE);
	k->in_flight = true;
	k->at = MONO_NEVER;
	return MONO_NEVER;
}

void keyspace_check(const struct keyspace *k)
{
	assert(k->state <= KEYSPACE_REFUSED);
	assert(!k->in_flight || k->state == KEYSPACE_ASKING || k->state == KEYSPACE_SETTING ||
		k->state == KEYSPACE_READY);
	assert(k->state != KEYSPACE_DOWN || k->at == MONO_NEVER);
	assert(k->state != KEYSPACE_SETTING || k->in_flight);
}
