/* A name with several addresses. Happy path: an attempt (a racer: a connection of its own) to the first address, to the
 * next one 250 ms later or as soon as one has failed (RFC 8305's way), and so on; the first whose handshake is done
 * wins: its socket becomes the connection's at the end of the round, the others are closed. So an address that takes
 * the connection and then is silent costs 250 ms. Failure: when the last one has failed, or the attempt's time is up:
 * the words of the one that came furthest. The next attempt begins behind the first one that hung. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "io/redis/addr.h"
#include "io/redis/conn_p.h"

enum { APART_MS = 250, RACERS_MAX = 16, FOREVER_MS = 24 * 3600 * 1000 };

struct racer {
	struct redis_conn *c;
	int i_addr;
};

struct race {
	struct racer v[RACERS_MAX]; /* in the order of their start */
	int n;
	struct redis_conn *winner;
	struct err why; /* of the one that failed and had come furthest */
	int how_far;
	int first_hung; /* address, -1 = none */
};

/* ---- what racers tell */

static int racer_place(const struct race *r, const struct redis_conn *racer)
{
	int i = 0;
	while (i < r->n && r->v[i].c != racer)
		i++;
	return i;
}

static void racer_remove(struct race *r, int i)
{
	r->n--;
	memmove(&r->v[i], &r->v[i + 1], (size_t)(r->n - i) * sizeof r->v[0]);
}

/* An answer of the server says more than a socket that could not be opened. */
static void race_note(struct race *r, const struct err *why, int how_far)
{
	if (r->why.code && how_far < r->how_far)
		return;
	r->why = *why;
	r->how_far = how_far;
}

static void race_lost(struct redis_conn *c)
{
	static const char word[] = "redis ";
	const struct err *why = &c->dial.race->why;
	const char *text = strncmp(why->text, word, sizeof(word) - 1) == 0 ? why->text + sizeof(word) - 1 : why->text;
	conn_fail(c, why->code, "%s (the last of %d addresses)", text, c->dial.n_addrs);
}

static void racer_on_up(void *arg, struct redis_conn *racer)
{
	struct redis_conn *c = arg;
	if (!c->dial.race->winner)
		c->dial.race->winner = racer;
	conn_kick(c); /* race_adopt, when nothing of it is being read any more */
}

static void racer_on_down(void *arg, struct redis_conn *racer, const struct err *why, bool was_up)
{
	struct redis_conn *c = arg;
	struct race *r = c->dial.race;
	(void)was_up;
	race_note(r, why, (int)racer->dial.reached);
	racer_remove(r, racer_place(r, racer));
	if (r->winner == racer)
		r->winner = NULL;
	redis_close(racer, true);
	if (c->dial.i_addr < c->dial.n_addrs)
		race_next(c);
	else if (r->n == 0)
		race_lost(c);
	conn_rearm(c);
}

static void racer_on_push(void *arg, struct redis_conn *racer, const redisReply *reply)
{
	struct redis_conn *c = arg;
	(void)racer;
	if (c->owner.ev.on_push)
		c->owner.ev.on_push(c->owner.arg, c, reply);
}

static void racer_on_reply(void *arg, uint64_t tag, const redisReply *reply)
{
	(void)arg;
	(void)tag;
	(void)reply;
}

/* ---- the race */

static void race_start_one(struct redis_conn *c)
{
	static const struct redis_events events = {
		.on_up = racer_on_up, .on_down = racer_on_down, .on_push = racer_on_push};
	struct race *r = c->dial.race;
	struct redis_opts o = c->opts;
	o.tls = c->login.tls;
	o.username = c->login.username;
	o.password = c->login.password;
	o.client_name = c->login.client_name;
	o.maint_endpoint_type = c->login.maint_type;
	o.stay_down = true;
	o.times.connect_ms = FOREVER_MS; /* ours rules */
	o.times.ping_idle_ms = 0;
	struct redis_conn *racer = redis_open(c->loop, &o, &events, racer_on_reply, c);
	racer->dial.racer_of = c;
	racer->addr = c->addr;
	racer->dial.addrs = mem_grow(racer->dial.addrs, 1, sizeof *racer->dial.addrs);
	racer->dial.addrs[0] = c->dial.addrs[c->dial.i_addr];
	redis_addr_text(&racer->dial.addrs[0], racer->endpoint, sizeof racer->endpoint);
	r->v[r->n++] = (struct racer){racer, c->dial.i_addr++};
}

void race_next(struct redis_conn *c)
{
	struct race *r = c->dial.race;
	mono_ms now = mono_now();
	if (r->n == RACERS_MAX) { /* its turn is over */
		if (r->first_hung < 0)
			r->first_hung = r->v[0].i_addr;
		redis_close(r->v[0].c, true);
		racer_remove(r, 0);
	}
	race_start_one(c);
	mono_ms apart = mono_min(APART_MS, c->dial.ms / (2 * c->dial.n_addrs));
	c->dial.step_deadline = c->dial.i_addr < c->dial.n_addrs ? now + mono_max(apart, 1) : c->dial.deadline;
}

void race_start(struct redis_conn *c)
{
	c->dial.race = mem_alloc(sizeof *c->dial.race);
	c->dial.race->first_hung = -1;
	race_next(c);
}

void race_expired(struct redis_conn *c)
{
	struct race *r = c->dial.race;
	long long ms = c->dial.ms;
	for (int i = 0; i < r->n; i++) {
		struct redis_conn *racer = r->v[i].c;
		struct err why;
		const char *command = racer->state == CONN_GREETING ? handshake_waits_for(racer) : NULL;
		if (command)
			err_set(&why, ERR_TIMEOUT, "%s: no answer to %s for %lld ms", racer->endpoint, command, ms);
		else if (racer->state == CONN_SECURING)
			err_set(&why, ERR_TIMEOUT, "%s: TLS handshake: no answer within %lld ms", racer->endpoint, ms);
		else
			err_set(&why, ERR_TIMEOUT, "%s: no connection within %lld ms", racer->endpoint, ms);
		race_note(r, &why, (int)racer->dial.reached - 1); /* a refusal says more */
	}
	race_lost(c);
}

void race_set_auth(struct redis_conn *c, const char *username, const char *password)
{
	for (int i = 0; c->dial.race && i < c->dial.race->n; i++)
		redis_set_auth(c->dial.race->v[i].c, username, password);
}

/* An attempt is over: behind the first that hung the next one begins. */
void race_end(struct redis_conn *c)
{
	struct race *r = c->dial.race;
	if (!r)
		return;
	c->dial.race = NULL;
	for (int i = 0; i < r->n; i++) {
		if (r->first_hung < 0)
			r->first_hung = r->v[i].i_addr;
		if (r->v[i].c->state == CONN_GREETING)
			handshake_ended(r->v[i].c);
		redis_close(r->v[i].c, true);
	}
	if (r->first_hung >= 0)
		c->dial.i_addr = r->first_hung + 1;
	mem_free(r);
}

static void race_take(struct redis_conn *c, struct redis_conn *w)
{
	c->wire = w->wire;
	wire_set_owner(c->wire, c);
	c->parser = w->parser;
	c->server = w->server;
	for (struct link *l; (l = list_pop(&w->queue.pending));)
		list_push(&c->queue.pending, l);
	struct heap empty = c->queue.deadlines;
	c->queue.deadlines = w->queue.deadlines;
	w->queue.deadlines = empty;
	c->queue.n_in_flight = w->queue.n_in_flight;
	w->queue.n_in_flight = 0;
	w->wire = NULL;
	w->parser.reader = NULL;
	w->parser.memory = NULL;
}

void race_adopt(struct redis_conn *c)
{
	struct race *r = c->dial.race;
	struct redis_conn *w = r ? r->winner : NULL;
	if (!w || w->state != CONN_UP || c->state != CONN_CONNECTING)
		return;
	int place = racer_place(r, w), i_addr = r->v[place].i_addr;
	race_take(c, w);
	race_end(c);
	c->dial.i_addr = i_addr + 1; /* the next time it is the first again */
	conn_move(c, CONN_GREETING);
	conn_up(c);
}
