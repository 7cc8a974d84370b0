#include "run/sentinel_client.h"

#include <stdio.h>
#include <string.h>

#include "base/fnv.h"
#include "base/log.h"
#include "base/mem.h"
#include "codec/reply_sentinel.h"
#include "core/coord/slot_vote.h"

enum { KNOWN_MAX = SLOT_VOTES_MAX, CANDIDATES_MAX = 4, EACH_MAX_MS = 1000, AVOID_MS = 30000 /* one that is silent */ };
enum question { ASK_ADDR, ASK_EPOCH, ASK_PEERS, ASK_ROLE, ASK_EVENTS };

/* All Sentinels that are known. */
struct sentinels {
	char (*addr)[SENTINEL_ADDR]; /* the configured ones first */
	size_t n, n_configured;
	size_t first; /* who is asked first: in turn, so that each is heard of */
	enum sentinel_heard heard[KNOWN_MAX];
	mono_ms avoid_until[KNOWN_MAX];
	bool is_tried[KNOWN_MAX]; /* in this look-up */
	bool is_named[KNOWN_MAX]; /* by another in this look-up, or the last */
	bool has_names;           /* others were named at all, maybe ones for which there was no place */
};

/* The connection of a look-up. */
struct sentinel_dialled {
	struct redis_conn *conn; /* NULL = none */
	char addr[SENTINEL_ADDR];
	size_t who;   /* which Sentinel it leads to */
	bool is_role; /* it leads to a candidate, else to a Sentinel */
	bool has_answered;
};

/* Masters by the Sentinels' words, in the order of their votes. */
struct sentinel_candidates {
	char v[CANDIDATES_MAX][SENTINEL_ADDR];
	size_t n, i; /* i: the one that is asked for its role */
};

/* What Sentinels tell by themselves. */
struct sentinel_events {
	struct redis_conn *conn; /* for ever, to one Sentinel after the other */
	size_t at;
};

struct sentinel_client {
	uv_loop_t *loop;
	struct topo_events ev;
	void *arg;
	char *master;
	mono_ms each_ms; /* for a connection, and for an answer */
	struct sentinels known;
	/* one look-up */
	bool is_asking;
	struct sentinel_dialled dialled;
	char addr[SENTINEL_ADDR]; /* what the Sentinel says */
	int64_t epoch;
	struct slot_vote vote;
	struct sentinel_state state; /* of the last look-up */
	char (*said)[SENTINEL_ADDR]; /* by vote */
	struct sentinel_candidates candidates;
	struct err why;
	char in_use[SENTINEL_ADDR];
	struct sentinel_events events;
};

static void try_sentinel(struct sentinel_client *s);
static void try_candidate(struct sentinel_client *s);

static void sentinel_hang_up(struct sentinel_client *s)
{
	if (s->dialled.conn)
		redis_close(s->dialled.conn, true);
	s->dialled.conn = NULL;
}

static void give_up(struct sentinel_client *s)
{
	sentinel_hang_up(s);
	s->is_asking = false;
	s->ev.on_failed(s->arg, &s->why);
}

/* ---- the candidates' own word */

static void add_candidate(struct sentinel_client *s, const char *addr)
{
	for (size_t i = 0; i < s->candidates.n; i++)
		if (strcmp(s->candidates.v[i], addr) == 0)
			return;
	if (addr[0] && s->candidates.n < CANDIDATES_MAX)
		snprintf(s->candidates.v[s->candidates.n++], SENTINEL_ADDR, "%s", addr);
}

static int64_t highest_epoch(const struct slot_vote *v)
{
	int64_t top = 0;
	for (int i = 0; i < v->n; i++)
		top = v->v[i].epoch > top ? v->v[i].epoch : top;
	return top;
}

/* The answer that a majority of the known Sentinels gives at the highest epoch, or SLOT_VOTE_NONE. */
static int majority(const struct sentinel_client *s)
{
	const struct slot_vote *v = &s->vote;
	const int64_t top = highest_epoch(v);
	for (int i = 0; i < v->n; i++) {
		size_t n = 0;
		for (int k = 0; k < v->n; k++)
			n += v->v[k].epoch == top && v->v[k].map == v->v[i].map;
		if (v->v[i].epoch == top && n > s->known.n / 2)
			return i;
	}
	return SLOT_VOTE_NONE;
}

static void decide(struct sentinel_client *s)
{
	const int64_t top = highest_epoch(&s->vote);
	int winner = majority(s);
	s->state = (struct sentinel_state){
		.n_known = s->known.n, .n_answered = (size_t)s->vote.n, .has_majority = winner != SLOT_VOTE_NONE};
	s->candidates.n = s->candidates.i = 0;
	if (winner != SLOT_VOTE_NONE)
		add_candidate(s, s->said[winner]);
	else
		add_candidate(s, s->in_use);
	for (int i = 0; winner == SLOT_VOTE_NONE && i < s->vote.n; i++)
		if (s->vote.v[i].epoch == top)
			add_candidate(s, s->said[i]);
	try_candidate(s);
}

static void sentinel_use(struct sentinel_client *s, const char *addr)
{
	sentinel_hang_up(s);
	s->is_asking = false;
	snprintf(s->in_use, sizeof s->in_use, "%s", addr);
	s->ev.on_standalone(s->arg, s->in_use);
}

static void on_role(struct sentinel_client *s, const redisReply *r)
{
	char role[SENTINEL_ROLE];
	sentinel_decode_role(r, role);
	/* not allowed to us: the Sentinels' word has to do */
	if (sentinel_error(r) || strcmp(role, "master") == 0) {
		char addr[SENTINEL_ADDR];
		snprintf(addr, sizeof addr, "%s", s->dialled.addr);
		sentinel_use(s, addr);
		return;
	}
	err_set(&s->why, ERR_IO, "redis=%s is no master yet, its role is %s", s->dialled.addr, role);
	try_candidate(s);
}

/* ---- the Sentinels' */

static void sentinel_learn(struct sentinel_client *s, const redisReply *r)
{
	char peers[KNOWN_MAX][SENTINEL_ADDR];
	size_t n = sentinel_decode_peers(r, peers, KNOWN_MAX);
	for (size_t i = 0; i < n && s->known.n < KNOWN_MAX; i++) {
		bool is_there = false;
		for (size_t k = 0; k < s->known.n && !is_there; k++)
			is_there = strcmp(s->known.addr[k], peers[i]) == 0;
		if (!is_there)
			memcpy(s->known.addr[s->known.n++], peers[i], SENTINEL_ADDR);
	}
	s->known.has_names |= n > 0;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < s->known.n; k++)
			s->known.is_named[k] |= strcmp(s->known.addr[k], peers[i]) == 0;
}

static void sentinel_keep(struct sentinels *k, size_t from, size_t to)
{
	if (from == to)
		return;
	memcpy(k->addr[to], k->addr[from], SENTINEL_ADDR);
	k->heard[to] = k->heard[from];
	k->avoid_until[to] = k->avoid_until[from];
}

/* Whoever was learned, did not answer and is not named by those that did has moved away: it neither counts for the
 * majority nor takes a new one's place. Those that are configured stay. */
static void sentinel_forget(struct sentinels *k)
{
	size_t left = k->n_configured;
	if (!k->has_names)
		return;
	for (size_t i = k->n_configured; i < k->n; i++)
		if (k->is_named[i] || k->heard[i] == SENTINEL_ANSWERS)
			sentinel_keep(k, i, left++);
	for (size_t i = left; i < KNOWN_MAX; i++) {
		k->heard[i] = SENTINEL_UNASKED;
		k->avoid_until[i] = 0;
	}
	k->n = left;
	k->has_names = false;
	memset(k->is_named, 0, sizeof k->is_named);
}

/* The last of its answers has come. */
static void sentinel_vote(struct sentinel_client *s)
{
	if (s->dialled.has_answered && s->vote.n < SLOT_VOTES_MAX) {
		snprintf(s->said[s->vote.n], SENTINEL_ADDR, "%s", s->addr);
		(void)slot_vote_add(&s->vote, fnv(s->addr, strlen(s->addr)), s->epoch);
	}
	s->known.heard[s->dialled.who] = s->dialled.has_answered ? SENTINEL_ANSWERS : SENTINEL_KNOWS_NOT;
	s->known.avoid_until[s->dialled.who] = 0;
	if (majority(s) != SLOT_VOTE_NONE)
		decide(s);
	else
		try_sentinel(s);
}

static void on_addr(struct sentinel_client *s, const redisReply *r)
{
	s->dialled.has_answered = sentinel_decode_addr(r, s->addr);
	if (s->dialled.has_answered)
		return;
	if (sentinel_error(r))
		err_set(&s->why, ERR_DENIED, "sentinel %s: %.200s", s->dialled.addr, sentinel_error(r));
	else
		err_set(&s->why, ERR_NOT_FOUND, "sentinel %s knows no master named %.100s", s->dialled.addr, s->master);
}

static void sentinel_on_reply(void *arg, uint64_t tag, const redisReply *r)
{
	struct sentinel_client *s = arg;
	if (!r) /* on_down goes on */
		return;
	switch ((enum question)tag) {
	case ASK_ADDR:
		on_addr(s, r);
		break;
	case ASK_EPOCH:
		s->epoch = sentinel_decode_epoch(r);
		break;
	case ASK_PEERS:
		sentinel_learn(s, r);
		sentinel_vote(s);
		break;
	case ASK_ROLE:
		on_role(s, r);
		break;
	case ASK_EVENTS:
		break;
	}
}

static void sentinel_send(struct redis_conn *c, enum question tag, const char **words, mono_ms deadline)
{
	size_t lens[4];
	int n = 0;
	for (; words[n]; n++)
		lens[n] = strlen(words[n]);
	redis_send(c, tag, n, words, lens, deadline);
}

static void sentinel_on_up(void *arg, struct redis_conn *c)
{
	struct sentinel_client *s = arg;
	mono_ms deadline = mono_now() + s->each_ms;
	if (s->dialled.is_role) {
		sentinel_send(c, ASK_ROLE, (const char *[]){"ROLE", NULL}, deadline);
		return;
	}
	sentinel_send(c, ASK_ADDR, (const char *[]){"SENTINEL", "GET-MASTER-ADDR-BY-NAME", s->master, NULL}, deadline);
	sentinel_send(c, ASK_EPOCH, (const char *[]){"SENTINEL", "MASTER", s->master, NULL}, deadline);
	sentinel_send(c, ASK_PEERS, (const char *[]){"SENTINEL", "SENTINELS", s->master, NULL}, deadline);
}

static void sentinel_on_down(void *arg, struct redis_conn *c, const struct err *why, bool was_up)
{
	struct sentinel_client *s = arg;
	(void)c;
	(void)was_up;
	s->why = *why;
	if (s->dialled.is_role) {
		try_candidate(s);
		return;
	}
	s->known.heard[s->dialled.who] = why->code == ERR_DENIED ? SENTINEL_REFUSES : SENTINEL_SILENT;
	s->known.avoid_until[s->dialled.who] = why->code == ERR_TIMEOUT ? mono_now() + AVOID_MS : 0;
	try_sentinel(s);
}

static void sentinel_on_push(void *arg, struct redis_conn *c, const redisReply *reply)
{
	(void)arg;
	(void)c;
	(void)reply;
}

static bool sentinel_dial(struct sentinel_client *s, const char *addr, bool is_role)
{
	static const struct redis_events events = {
		.on_up = sentinel_on_up, .on_down = sentinel_on_down, .on_push = sentinel_on_push};
	struct redis_opts o;
	sentinel_hang_up(s);
	if (is_role)
		s->ev.opts(s->arg, &o);
	else
		s->ev.sentinel_opts(s->arg, &o);
	o.stay_down = true;
	o.maint = REDIS_MAINT_OFF;
	o.times.connect_ms = mono_min(o.times.connect_ms, s->each_ms);
	if (redis_addr_parse(addr, &o.addr, &s->why) != ERR_OK)
		return false;
	s->dialled.is_role = is_role;
	s->dialled.has_answered = false;
	s->epoch = 0;
	snprintf(s->dialled.addr, sizeof s->dialled.addr, "%s", addr);
	s->dialled.conn = redis_open(s->loop, &o, &events, sentinel_on_reply, s);
	return true;
}

/* Those that let us wait in vain lately come last: each may cost that again. n_known: all were asked. */
static size_t next_sentinel(const struct sentinel_client *s)
{
	for (int pass = 0; pass < 2; pass++)
		for (size_t k = 0; k < s->known.n; k++) {
			const size_t i = (s->known.first + k) % s->known.n;
			if (!s->known.is_tried[i] && (pass > 0 || mono_now() >= s->known.avoid_until[i]))
				return i;
		}
	return s->known.n;
}

static void try_sentinel(struct sentinel_client *s)
{
	for (size_t i; (i = next_sentinel(s)) < s->known.n && s->vote.n < SLOT_VOTES_MAX;) {
		s->known.is_tried[i] = true;
		s->dialled.who = i;
		if (sentinel_dial(s, s->known.addr[i], false))
			return;
	}
	decide(s);
}

static void try_candidate(struct sentinel_client *s)
{
	while (s->candidates.i < s->candidates.n)
		if (sentinel_dial(s, s->candidates.v[s->candidates.i++], true))
			return;
	give_up(s);
}

/* ---- events: a hint */

static void events_on_up(void *arg, struct redis_conn *c)
{
	(void)arg;
	sentinel_send(c, ASK_EVENTS, (const char *[]){"SUBSCRIBE", "+switch-master", NULL}, 0);
}

static void events_on_down(void *arg, struct redis_conn *c, const struct err *why, bool was_up)
{
	struct sentinel_client *s = arg;
	struct redis_opts o;
	struct redis_addr a;
	(void)why;
	(void)was_up;
	s->ev.sentinel_opts(s->arg, &o);
	redis_set_auth(c, o.username, o.password);
	s->events.at = (s->events.at + 1) % s->known.n;
	if (s->known.n > 1 && s->events.at && redis_addr_parse(s->known.addr[s->events.at], &a, NULL) == ERR_OK)
		redis_redial(c, &a, "next sentinel"); /* a pause after each round */
}

static void events_on_push(void *arg, struct redis_conn *c, const redisReply *reply)
{
	struct sentinel_client *s = arg;
	(void)c;
	if (sentinel_is_switch(reply, s->master))
		s->ev.on_hint(s->arg);
}

static void events_open(struct sentinel_client *s)
{
	static const struct redis_events events = {
		.on_up = events_on_up, .on_down = events_on_down, .on_push = events_on_push};
	struct redis_opts o;
	s->ev.sentinel_opts(s->arg, &o);
	o.is_subscriber = true;
	if (redis_addr_parse(s->known.addr[0], &o.addr, NULL) == ERR_OK)
		s->events.conn = redis_open(s->loop, &o, &events, sentinel_on_reply, s);
}

/* ---- life */

struct sentinel_client *sentinel_client_open(
	uv_loop_t *loop, const struct config *c, const struct topo_events *ev, void *arg)
{
	struct sentinel_client *s = mem_alloc(sizeof *s);
	s->loop = loop;
	s->ev = *ev;
	s->arg = arg;
	s->master = mem_printf("%s", c->redis.sentinel.master);
	s->each_ms = mono_min(mono_min(c->redis.connect_timeout_ms, c->redis.command_timeout_ms), EACH_MAX_MS);
	s->known.addr = mem_array(KNOWN_MAX, sizeof *s->known.addr);
	s->said = mem_array(SLOT_VOTES_MAX, sizeof *s->said);
	for (size_t i = 0; i < c->redis.endpoints.n && s->known.n < KNOWN_MAX; i++)
		snprintf(s->known.addr[s->known.n++], SENTINEL_ADDR, "%s", c->redis.endpoints.items[i]);
	s->known.n_configured = s->known.n;
	s->known.first = s->known.n - 1;
	events_open(s);
	return s;
}

void sentinel_client_ask(struct sentinel_client *s)
{
	if (s->is_asking)
		return;
	s->is_asking = true;
	sentinel_forget(&s->known);
	memset(s->known.is_tried, 0, sizeof s->known.is_tried);
	s->known.first = (s->known.first + 1) % s->known.n;
	s->vote.n = 0;
	err_set(&s->why, ERR_IO, "no sentinel answers");
	try_sentinel(s);
}

const char *sentinel_client_at(const struct sentinel_client *s, size_t i, enum sentinel_heard *heard)
{
	*heard = i < s->known.n ? s->known.heard[i] : SENTINEL_UNASKED;
	return i < s->known.n ? s->known.addr[i] : NULL;
}

const struct sentinel_state *sentinel_client_state(const struct sentinel_client *s)
{
	return &s->state;
}

void sentinel_client_close(struct sentinel_client *s)
{
	if (!s)
		return;
	sentinel_hang_up(s);
	if (s->events.conn)
		redis_close(s->events.conn, true);
	mem_free(s->master);
	mem_free(s->known.addr);
	mem_free(s->said);
	mem_free(s);
}
