#include "run/control/redis.h"

#include "codec/rights.h"
#include "codec/script.h"
#include "run/control/down.h"
#include "run/fault.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* DIAL_MS: an attempt to connect is over before sluicectl takes the silence for ours. */
enum { WORDS_KIND = CMD_N, PAGE_BYTES = 1 << 20, DIAL_MS = 4000 };

struct control_redis {
	struct daemon *d;
	struct redis_conn *conn;
	control_redis_fn *fn;
	void *arg;
	struct command_argv *argv;
	struct reply_decoder *decoder;
	char addr[300], why[DOWN_WORDS_CAP];
	mono_ms timeout_ms;
	/* the one command */
	struct buf bytes; /* of its words, when it is none of codec/command */
	const char **words;
	size_t *lens;
	size_t n_words;
	unsigned kind;
	bool is_waiting, is_sent, has_sent, was_moved; /* has_sent: this one, or one before */
	uint64_t number;                               /* answers of an earlier connection are not ours any more */
};

static void control_redis_answer(struct control_redis *c, struct reply *r, const redisReply *raw)
{
	c->is_waiting = c->is_sent = false;
	c->fn(c->arg, r, raw);
}

/* The sentence of io/redis without "redis <address>: ". An attempt to connect that we have cut short tells less than
 * what the daemon knows: NULL. */
static const char *own_reason(const struct err *why)
{
	const char *end = strstr(why->text, ": ");
	return why->code == ERR_TIMEOUT ? NULL : strncmp(why->text, "redis ", 6) == 0 && end ? end + 2 : why->text;
}

static void control_redis_fail(struct control_redis *c, const struct err *why)
{
	if (c->is_sent || !down_words(c->d, down_shard_at(c->d, c->addr), own_reason(why), c->why))
		snprintf(c->why, sizeof c->why, "%s", why->text); /* io/redis names the address */
	if (!c->is_waiting)
		return;
	struct reply none = {.kind = REPLY_NONE};
	control_redis_answer(c, &none, NULL);
}

static void control_redis_transmit(struct control_redis *c)
{
	if (!c->is_waiting || c->is_sent || !redis_is_up(c->conn))
		return;
	c->is_sent = c->has_sent = true;
	mono_ms deadline = mono_now() + c->timeout_ms;
	if (c->kind != WORDS_KIND) {
		fault_point("send", command_name((enum cmd_kind)c->kind));
		redis_send(c->conn, ++c->number, command_argc(c->argv), command_args(c->argv), command_lens(c->argv),
			deadline);
		return;
	}
	/* nothing is sent that the user might not be allowed to */
	assert(rights_have(c->words, c->lens, c->n_words));
	redis_send(c->conn, ++c->number, (int)c->n_words, c->words, c->lens, deadline);
}

/* True when the command goes to another master now. */
static bool control_redis_follow(struct control_redis *c, const struct reply *r)
{
	struct redis_addr to;
	char addr[300];
	snprintf(addr, sizeof addr, "%.*s", (int)r->text.len, r->text.p ? r->text.p : "");
	if (r->kind != REPLY_ERROR || r->error != RERR_MOVED || c->was_moved ||
		redis_addr_parse(addr, &to, NULL) != ERR_OK)
		return false;
	c->was_moved = true;
	c->is_sent = false;
	memcpy(c->addr, addr, sizeof addr);
	redis_redial(c->conn, &to, "moved");
	return true;
}

static void control_redis_on_reply(void *arg, uint64_t number, const redisReply *raw)
{
	struct control_redis *c = arg;
	struct reply r = {.kind = REPLY_NONE};
	if (!c->is_sent || number != c->number || !raw)
		return; /* on_down tells */
	if (c->kind != WORDS_KIND) {
		fault_point("answer", command_name((enum cmd_kind)c->kind));
		reply_decode(c->decoder, (enum cmd_kind)c->kind, raw, &r);
	} else if (raw->type == REDIS_REPLY_ERROR) {
		r = (struct reply){.kind = REPLY_ERROR, .error = RERR_OPERATOR, .text = {raw->str, raw->len}};
	} else {
		r.kind = REPLY_OK;
	}
	if (control_redis_follow(c, &r))
		return;
	if (r.kind == REPLY_ERROR)
		snprintf(c->why, sizeof c->why, "redis %s: %.*s", c->addr, (int)r.text.len,
			r.text.p ? r.text.p : "unexpected answer");
	control_redis_answer(c, &r, raw);
}

static void control_redis_on_up(void *arg, struct redis_conn *conn)
{
	(void)conn;
	control_redis_transmit(arg);
}

static void control_redis_on_down(void *arg, struct redis_conn *conn, const struct err *why, bool was_up)
{
	struct control_redis *c = arg;
	(void)conn;
	if (was_up && c->is_waiting && c->was_moved && !c->is_sent)
		return; /* our own redial */
	control_redis_fail(c, why);
}

static void control_redis_on_push(void *arg, struct redis_conn *conn, const redisReply *reply)
{
	(void)arg;
	(void)conn;
	(void)reply;
}

enum err_code control_redis_open(struct daemon *d, const char *addr, control_redis_fn *fn, void *arg,
	struct control_redis **out, struct err *err)
{
	static const struct redis_events events = {
		.on_up = control_redis_on_up, .on_down = control_redis_on_down, .on_push = control_redis_on_push};
	struct redis_opts o;
	rules_of_redis(d->config, d->login.password, d->login.tls, "sluiced-control", &o);
	enum err_code code = redis_addr_parse(addr, &o.addr, err);
	if (code)
		return code;
	o.maint = REDIS_MAINT_OFF;
	o.times.connect_ms = mono_min(mono_min(o.times.connect_ms, d->config->redis.command_timeout_ms),
		down_is_known(d, down_shard_at(d, addr)) ? DOWN_LOOK_MS : DIAL_MS);
	struct control_redis *c = mem_alloc(sizeof *c);
	c->d = d;
	c->fn = fn;
	c->arg = arg;
	c->timeout_ms = d->config->redis.command_timeout_ms;
	snprintf(c->addr, sizeof c->addr, "%s", addr);
	c->argv = command_argv_new();
	c->decoder = reply_decoder_new();
	c->conn = redis_open(loop_uv(d->loop), &o, &events, control_redis_on_reply, c);
	*out = c;
	return ERR_OK;
}

static void free_later(void *arg)
{
	struct control_redis *c = arg;
	command_argv_free(c->argv);
	reply_decoder_free(c->decoder);
	buf_fini(&c->bytes);
	mem_free(c->words);
	mem_free(c->lens);
	mem_free(c);
}

void control_redis_close(struct control_redis *c)
{
	if (!c)
		return;
	redis_close(c->conn, true);
	loop_defer(c->d->loop, free_later, c); /* we may be inside a callback of it */
}

void control_redis_send(struct control_redis *c, const struct cmd *cmd, const struct command_names *names)
{
	struct command_self self = {.consumer = c->d->shards.rules.consumer,
		.node = c->d->config->node.id,
		.db = (int)c->d->config->redis.db};
	command_encode(c->argv, cmd, names, &self);
	c->kind = (unsigned)cmd->kind;
	c->is_waiting = true;
	c->is_sent = c->was_moved = false;
	control_redis_transmit(c);
}

void control_redis_bytes(struct control_redis *c, const struct slice *words, size_t n)
{
	buf_clear(&c->bytes);
	c->words = mem_grow(c->words, n, sizeof *c->words);
	c->lens = mem_grow(c->lens, n, sizeof *c->lens);
	for (size_t i = 0; i < n; i++) {
		c->lens[i] = words[i].p ? words[i].len : 0;
		buf_add(&c->bytes, c->lens[i] ? words[i].p : "", c->lens[i]);
	}
	const char *at = c->bytes.data;
	for (size_t i = 0; i < n; i++) {
		c->words[i] = at;
		at += c->lens[i];
	}
	c->n_words = n;
	c->kind = WORDS_KIND;
	c->is_waiting = true;
	c->is_sent = c->was_moved = false;
	control_redis_transmit(c);
}

void control_redis_words(struct control_redis *c, const char *const *words)
{
	struct slice v[RIGHT_WORDS + 8];
	size_t n = 0;
	for (; words[n]; n++) {
		assert(n < sizeof v / sizeof v[0]);
		v[n] = (struct slice){words[n], strlen(words[n])};
	}
	control_redis_bytes(c, v, n);
}

size_t control_redis_page(size_t n, size_t most, const struct entry_batch *b)
{
	size_t bytes = 1, want;
	for (size_t i = 0; i < b->n; i++)
		for (size_t k = 0; b->v[i].fields && k < b->v[i].fields->n; k++)
			bytes += b->v[i].fields->v[k].name.len + b->v[i].fields->v[k].value.len;
	want = PAGE_BYTES * b->n / bytes;
	want = want < 4 * n ? want : 4 * n;
	want = want < most ? want : most;
	return want ? want : 1;
}

const char *control_redis_why(const struct control_redis *c)
{
	return c->why;
}

const char *control_redis_untouched(const struct control_redis *c)
{
	return c->has_sent ? "; nothing was changed" : "; nothing was sent";
}

const char *control_redis_addr(const struct control_redis *c)
{
	return c->addr;
}

enum err_code control_redis_to(
	struct daemon *d, const char *addr, control_redis_fn *fn, void *arg, struct control_redis **c, struct err *err)
{
	if (addr && *c && strcmp((*c)->addr, addr) == 0)
		return ERR_OK;
	control_redis_close(*c);
	*c = NULL;
	return addr ? control_redis_open(d, addr, fn, arg, c, err) : ERR_INVALID;
}

void control_redis_hold(struct control_redis *c, const char *stream, int64_t ttl_ms, const char *start)
{
	char *position = command_position_key(stream), *ttl = mem_printf("%lld", (long long)ttl_ms);
	control_redis_words(c,
		(const char *const[]){"EVAL", script_text(SCRIPT_FEED_HOLD), "2", position, stream, ttl, start, NULL});
	mem_free(position);
	mem_free(ttl);
}

void control_redis_delayed(struct control_redis *c, const char *key, double from, size_t skip, size_t n)
{
	char text[3][40];
	snprintf(text[0], sizeof text[0], isinf(from) ? "-inf" : "%.17g", from);
	snprintf(text[1], sizeof text[1], "%zu", skip);
	snprintf(text[2], sizeof text[2], "%zu", n);
	control_redis_words(c, (const char *const[]){"EVAL", script_text(SCRIPT_DELAYED_PAGE), "1", key, text[0],
				       text[1], text[2], NULL});
}
