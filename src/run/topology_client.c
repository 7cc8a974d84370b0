#include "run/topology_client.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/mono.h"
#include "codec/command.h"
#include "codec/reply.h"
#include "core/coord/slot_vote.h"
#include "run/fault.h"
#include "run/map_asker.h"
#include "run/rules_from_config.h"
#include "run/sentinel_client.h"
#include "run/slot_rows.h"
#include "run/topology_move.h"
#include <stdio.h>
#include <string.h>

enum { TOPO_ADDRS_MAX = 128, CONFIRM_MS = 1000, BEHIND_MS = 30000 };

struct topo_addrs {
	char (*v)[300]; /* the configured ones first */
	size_t n, n_configured;
	size_t at, n_tried; /* of this round */
};

/* What the node that is asked says of itself. */
struct topo_info {
	bool is_well, is_refused; /* by this answer to CLUSTER INFO; it is not allowed to us: said */
	int64_t epoch;            /* of this answer, -1 = not told */
	char state[160];          /* cluster_state of this answer, or why it is not told */
};

/* Nodes whose maps are older than the one in use. */
struct topo_behind {
	int64_t best_epoch; /* the highest of a map in use */
	size_t n;           /* answers of this round that were only too old, and the highest of their epochs */
	int64_t epoch;
	mono_ms since; /* the rounds before, too; 0 = no */
};

/* Several nodes are asked, the map of most of them counts. */
struct topo_vote {
	bool is_on;
	struct slot_vote votes;
	struct {
		struct slot_range *rows;
		size_t n;
	} maps[SLOT_VOTES_MAX]; /* of the votes */
};

struct topology_client {
	struct sentinel_client *sentinel; /* not NULL: it does all, nothing else is used */
	struct topo_events ev;
	void *arg;
	struct topology_move *move;
	struct redis_conn *conn; /* its present one */
	struct command_argv *argv;
	struct reply_decoder *decoder;
	enum config_topology mode;
	mono_ms timeout_ms;
	struct topo_addrs addrs;
	bool is_asking, is_sent;
	/* which map is true */
	struct topo_info info;
	struct topo_behind behind;
	uint64_t map_in_use;
	struct topo_vote vote;
	struct map_asker *asker;
	char odd_said[SLOT_ROW_ODD]; /* the row that was left out of the last map, as it was said */
	struct err last;
};

/* All of them are behind, or those that answer are for longer than a node can be cut off and well: it is another
 * cluster than before. */
static void end_of_round(struct topology_client *t)
{
	mono_ms now = mono_now();
	if (t->behind.n == 0)
		t->behind.since = 0;
	else if (t->behind.since == 0)
		t->behind.since = now;
	if (t->behind.n == t->addrs.n || (t->behind.n && now - t->behind.since >= BEHIND_MS))
		t->behind.best_epoch = t->behind.epoch;
	t->addrs.n_tried = t->behind.n = 0;
	t->behind.epoch = 0;
}

static void next_endpoint(struct topology_client *t, const struct err *why)
{
	t->last = *why;
	t->is_sent = false;
	if (++t->addrs.n_tried >= t->addrs.n) {
		end_of_round(t);
		if (t->is_asking && !t->vote.is_on) {
			t->is_asking = false;
			t->ev.on_failed(t->arg, &t->last);
		}
	}
	t->addrs.at = (t->addrs.at + 1) % t->addrs.n;
}

/* This endpoint's answer is of no use. */
static void leave_endpoint(struct topology_client *t, const struct err *why)
{
	next_endpoint(t, why);
	if (t->addrs.n > 1)
		topology_move_redial(t->move, t->addrs.v[t->addrs.at], "next endpoint");
}

static mono_ms deadline_of(const struct topology_client *t)
{
	return mono_now() + topology_move_timeout(t->move, t->timeout_ms);
}

static void topology_client_send(struct topology_client *t, enum cmd_kind kind)
{
	struct cmd c = {.kind = kind};
	struct command_self self = {.consumer = "", .node = ""};
	command_encode(t->argv, &c, NULL, &self);
	fault_point("send", command_name(kind));
	redis_send(t->conn, (uint64_t)kind, command_argc(t->argv), command_args(t->argv), command_lens(t->argv),
		deadline_of(t));
}

static void send_question(struct topology_client *t)
{
	if (!t->is_asking || t->is_sent || t->vote.is_on || !redis_is_up(t->conn))
		return;
	t->is_sent = true;
	if (t->mode == CONFIG_TOPOLOGY_STANDALONE) {
		topology_client_send(t, CMD_ROLE);
		return;
	}
	topology_client_send(t, CMD_CLUSTER_INFO);
	topology_client_send(t, CMD_SLOTS);
}

static void standalone(struct topology_client *t)
{
	char addr[300];
	snprintf(addr, sizeof addr, "%s", t->addrs.v[t->addrs.at]); /* as configured, wherever it leads now */
	t->is_asking = t->is_sent = false;
	t->addrs.n_tried = 0;
	t->ev.on_standalone(t->arg, addr);
}

static void learn(struct topology_client *t, const struct slot_range *ranges, size_t n)
{
	t->addrs.n = t->addrs.n_configured;
	for (size_t i = 0; i < n && t->addrs.n < TOPO_ADDRS_MAX; i++) {
		char addr[SLOT_ROW_ADDR];
		slot_row_addr(&ranges[i], addr);
		bool known = false;
		for (size_t k = 0; k < t->addrs.n && !known; k++)
			known = strcmp(t->addrs.v[k], addr) == 0;
		if (!known)
			memcpy(t->addrs.v[t->addrs.n++], addr, sizeof addr);
	}
	if (t->addrs.at >= t->addrs.n)
		t->addrs.at = 0;
}

static void topology_client_refused(struct topology_client *t, const struct reply *r, const char *what)
{
	char addr[300];
	redis_addr_format(redis_addr_of(t->conn), addr, sizeof addr);
	struct err e;
	err_set(&e, ERR_IO, "redis=%s %s: %.*s", addr, what, (int)r->text.len, r->text.p ? r->text.p : "");
	leave_endpoint(t, &e);
}

/* Once, until it is another or there is none. */
static void say_odd_row(struct topology_client *t, const char *odd)
{
	if (odd[0] && strcmp(odd, t->odd_said) != 0)
		log_line(LOG_WARN, "redis=%s CLUSTER SLOTS: %s: cannot be used, the other rows are",
			t->addrs.v[t->addrs.at], odd);
	snprintf(t->odd_said, sizeof t->odd_said, "%s", odd);
}

/* ---- which map is true */

static void forget_votes(struct topology_client *t)
{
	map_asker_stop(t->asker);
	for (int i = 0; i < t->vote.votes.n; i++)
		mem_free(t->vote.maps[i].rows);
	t->vote.votes.n = 0;
	t->vote.is_on = false;
}

static void use_map(struct topology_client *t, const struct slot_range *rows, size_t n, uint64_t map, int64_t epoch)
{
	learn(t, rows, n);
	t->map_in_use = map;
	t->behind.best_epoch = epoch > t->behind.best_epoch ? epoch : t->behind.best_epoch;
	t->is_asking = t->is_sent = false;
	t->addrs.n_tried = t->behind.n = 0;
	t->behind.since = 0;
	t->ev.on_slots(t->arg, rows, n);
}

static void use_vote(struct topology_client *t, int i)
{
	struct slot_range *rows = t->vote.maps[i].rows;
	size_t n = t->vote.maps[i].n;
	uint64_t map = t->vote.votes.v[i].map;
	int64_t epoch = t->vote.votes.v[i].epoch;
	t->vote.maps[i].rows = NULL;
	forget_votes(t);
	use_map(t, rows, n, map, epoch);
	mem_free(rows);
}

static int vote_for(struct topology_client *t, const struct slot_range *rows, size_t n, int64_t epoch)
{
	struct slot_range *copy = mem_array(n, sizeof *copy);
	memcpy(copy, rows, n * sizeof *copy);
	t->vote.maps[t->vote.votes.n].rows = copy;
	t->vote.maps[t->vote.votes.n].n = n;
	return slot_vote_add(&t->vote.votes, slot_map_of(rows, n), epoch);
}

static void topology_client_on_map(void *arg, const struct slot_range *rows, size_t n, int64_t epoch)
{
	struct topology_client *t = arg;
	int true_one = vote_for(t, rows, n, epoch);
	if (true_one == SLOT_VOTE_NONE)
		map_asker_next(t->asker);
	else
		use_vote(t, true_one);
}

static void topology_client_on_asked(void *arg)
{
	struct topology_client *t = arg;
	int true_one = slot_vote_end(&t->vote.votes);
	if (true_one != SLOT_VOTE_NONE) {
		use_vote(t, true_one);
		return;
	}
	struct err e;
	err_set(&e, ERR_PROTO, "%d nodes of the cluster do not agree about its slots", t->vote.votes.n);
	forget_votes(t);
	t->is_asking = t->is_sent = false;
	t->ev.on_failed(t->arg, &e);
}

static void add_address(char (*list)[SLOT_ROW_ADDR], size_t *n, const char *addr, const char *but)
{
	bool is_there = *n == MAP_ASKER_MAX || strcmp(addr, but) == 0;
	for (size_t i = 0; i < *n && !is_there; i++)
		is_there = strcmp(list[i], addr) == 0;
	if (!is_there)
		snprintf(list[(*n)++], sizeof *list, "%s", addr);
}

/* Another map than the one in use: what do others say? Those it names first, then those that were known before. */
static void weigh_map(struct topology_client *t, const struct slot_range *rows, size_t n)
{
	char others[MAP_ASKER_MAX][SLOT_ROW_ADDR], addr[SLOT_ROW_ADDR], self[SLOT_ROW_ADDR];
	size_t n_others = 0;
	uint64_t map = slot_map_of(rows, n);
	redis_addr_format(redis_addr_of(t->conn), self, sizeof self);
	for (size_t i = 0; i < n; i++) {
		slot_row_addr(&rows[i], addr);
		add_address(others, &n_others, addr, self);
	}
	for (size_t i = 0; i < t->addrs.n; i++)
		add_address(others, &n_others, t->addrs.v[i], self);
	bool is_in_use = map == t->map_in_use && !t->ev.is_in_doubt(t->arg);
	if (is_in_use || n_others == 0) {
		use_map(t, rows, n, map, t->info.epoch);
		return;
	}
	t->vote.is_on = true;
	(void)vote_for(t, rows, n, t->info.epoch);
	map_asker_start(t->asker, (const char(*)[SLOT_ROW_ADDR])others, n_others, CONFIRM_MS);
}

/* False: it was refused, and another endpoint is next. */
static bool is_believable(struct topology_client *t)
{
	char why[160];
	struct reply r = {.text = {why, 0}};
	if (!t->info.is_well) {
		r.text.len = (size_t)snprintf(
			why, sizeof why, "cluster_state:%s, its slot map is not believed", t->info.state);
		topology_client_refused(t, &r, "says");
		return false;
	}
	if (t->info.epoch < 0 && !t->info.is_refused) {
		t->info.is_refused = true;
		log_line(LOG_WARN, "redis=%s CLUSTER INFO is refused, so every node's slot map is believed: %s",
			t->addrs.v[t->addrs.at], t->info.state);
	}
	if (t->info.epoch >= 0 && t->info.epoch < t->behind.best_epoch) {
		t->behind.n++;
		t->behind.epoch = t->info.epoch > t->behind.epoch ? t->info.epoch : t->behind.epoch;
		r.text.len = (size_t)snprintf(why, sizeof why, "epoch %lld, the cluster was at %lld already",
			(long long)t->info.epoch, (long long)t->behind.best_epoch);
		topology_client_refused(t, &r, "is behind");
		return false;
	}
	return true;
}

static void on_info(struct topology_client *t, const struct reply *r)
{
	t->info.is_well = map_asker_is_well(r, &t->info.epoch);
	snprintf(t->info.state, sizeof t->info.state, "%.*s", (int)r->text.len, r->text.p ? r->text.p : "");
}

static void slots(struct topology_client *t, const struct reply *r)
{
	if (!is_believable(t))
		return;
	struct slot_range *copy = mem_array(r->n + 1, sizeof *copy);
	if (r->n)
		memcpy(copy, r->slots, r->n * sizeof *copy);
	char odd[SLOT_ROW_ODD];
	size_t n = slot_rows_complete(copy, r->n, redis_addr_of(t->conn), odd);
	if (r->integer)
		snprintf(odd, sizeof odd, "%.*s", (int)r->text.len, r->text.p);
	say_odd_row(t, odd);
	if (n) {
		weigh_map(t, copy, n);
	} else {
		struct reply none = {.text = {odd, strlen(odd)}};
		topology_client_refused(t, &none, "CLUSTER SLOTS: no row can be used");
	}
	mem_free(copy);
}

/* May this error of CLUSTER SLOTS mean that there is no cluster? Not when the server has said in its HELLO that there
 * is one: then a right is missing, for now, and one of its masters alone would be told MOVED without end. */
static bool may_be_standalone(const struct topology_client *t, const struct reply *r)
{
	return t->mode == CONFIG_TOPOLOGY_AUTO &&
	       (r->error == RERR_NO_CLUSTER || (r->error == RERR_OPERATOR && !redis_is_in_cluster(t->conn)));
}

static void topology_client_on_reply(void *arg, uint64_t tag, const redisReply *raw)
{
	struct topology_client *t = arg;
	struct reply r;
	if (raw)
		fault_point("answer", command_name((enum cmd_kind)tag));
	reply_decode(t->decoder, (enum cmd_kind)tag, raw, &r);
	if (!t->is_asking || r.kind == REPLY_NONE) /* on_down goes on */
		return;
	if (tag == CMD_CLUSTER_INFO) {
		on_info(t, &r);
	} else if (tag == CMD_SLOTS && r.kind == REPLY_SLOTS && r.n > 0) {
		slots(t, &r);
	} else if (tag == CMD_SLOTS && r.kind == REPLY_SLOTS && r.integer) {
		topology_client_refused(t, &r, "CLUSTER SLOTS: no row can be used");
	} else if (tag == CMD_SLOTS && r.kind == REPLY_SLOTS) {
		r.text = (struct slice){"no slot is assigned", 19};
		topology_client_refused(t, &r, "CLUSTER SLOTS");
	} else if (tag == CMD_SLOTS && r.kind == REPLY_ERROR && may_be_standalone(t, &r)) {
		topology_client_send(t, CMD_ROLE);
	} else if (tag == CMD_ROLE && r.kind == REPLY_TEXT && r.text.len == 6 && memcmp(r.text.p, "master", 6) == 0) {
		standalone(t);
	} else if (tag == CMD_ROLE && r.kind == REPLY_TEXT) {
		topology_client_refused(t, &r, "is no master");
	} else if (tag == CMD_ROLE && r.kind == REPLY_ERROR && r.error == RERR_OPERATOR) {
		standalone(t); /* ROLE is not allowed to us: believe the configuration */
	} else {
		topology_client_refused(t, &r, "topology");
	}
	entry_batch_free(r.kind == REPLY_ENTRIES ? r.entries : NULL);
}

/* Also when another connection has taken over: what was asked on the one before is asked again. */
static void topology_client_on_up(void *arg)
{
	struct topology_client *t = arg;
	t->conn = topology_move_conn(t->move);
	t->is_sent = t->info.is_well = false;
	send_question(t);
}

static const char *topology_client_on_down(void *arg, const struct err *why)
{
	struct topology_client *t = arg;
	t->info.is_well = false;
	next_endpoint(t, why);
	return t->addrs.v[t->addrs.at];
}

static void topology_client_opts(void *arg, struct redis_opts *out)
{
	struct topology_client *t = arg;
	t->ev.opts(t->arg, out);
}

struct topology_client *topology_client_open(
	uv_loop_t *loop, const struct config *c, const struct redis_opts *opts, const struct topo_events *ev, void *arg)
{
	static const struct topology_move_events events = {.on_up = topology_client_on_up,
		.on_down = topology_client_on_down,
		.on_reply = topology_client_on_reply,
		.opts = topology_client_opts};
	struct topology_client *t = mem_alloc(sizeof *t);
	if (c->redis.topology == CONFIG_TOPOLOGY_SENTINEL) {
		t->sentinel = sentinel_client_open(loop, c, ev, arg);
		return t;
	}
	t->ev = *ev;
	t->arg = arg;
	t->mode = c->redis.topology;
	t->timeout_ms = c->redis.command_timeout_ms;
	t->addrs.v = mem_array(TOPO_ADDRS_MAX, sizeof *t->addrs.v);
	for (size_t i = 0; i < c->redis.endpoints.n && i < TOPO_ADDRS_MAX; i++)
		snprintf(t->addrs.v[t->addrs.n++], sizeof *t->addrs.v, "%s", c->redis.endpoints.items[i]);
	t->addrs.n_configured = t->addrs.n;
	t->argv = command_argv_new();
	t->decoder = reply_decoder_new();
	static const struct map_asker_events asked = {
		.on_map = topology_client_on_map, .on_end = topology_client_on_asked, .opts = topology_client_opts};
	t->asker = map_asker_new(loop, &asked, t);
	struct handoff_rules rules;
	rules_of_handoff(c, &rules);
	t->move = topology_move_open(loop, opts, t->addrs.v[0], &rules, &events, t);
	t->conn = topology_move_conn(t->move);
	return t;
}

void topology_client_ask(struct topology_client *t)
{
	if (t->sentinel) {
		sentinel_client_ask(t->sentinel);
		return;
	}
	t->is_asking = true;
	send_question(t);
}

const char *topology_client_sentinel(const struct topology_client *t, size_t i, enum sentinel_heard *heard)
{
	return t && t->sentinel ? sentinel_client_at(t->sentinel, i, heard) : NULL;
}

bool topology_client_sentinels(const struct topology_client *t, struct sentinel_state *out)
{
	if (!t->sentinel)
		return false;
	*out = *sentinel_client_state(t->sentinel);
	return true;
}

void topology_client_set_auth(struct topology_client *t, const char *username, const char *password)
{
	if (t->conn)
		topology_move_set_auth(t->move, username, password);
}

void topology_client_set_next_auth(struct topology_client *t, const char *username, const char *password)
{
	if (t->move)
		topology_move_set_next_auth(t->move, username, password);
}

void topology_client_set_tls(struct topology_client *t, struct redis_tls *tls)
{
	if (t->conn)
		topology_move_set_tls(t->move, tls);
}

void topology_client_set_rules(struct topology_client *t, const struct config *c, const struct redis_opts *opts)
{
	if (!t->conn)
		return;
	struct handoff_rules rules;
	rules_of_handoff(c, &rules);
	t->timeout_ms = c->redis.command_timeout_ms;
	topology_move_set_rules(t->move, &rules, t->timeout_ms, opts);
}

void topology_client_close(struct topology_client *t)
{
	if (!t)
		return;
	if (t->sentinel) {
		sentinel_client_close(t->sentinel);
		mem_free(t);
		return;
	}
	topology_move_close(t->move);
	forget_votes(t);
	map_asker_close(t->asker);
	command_argv_free(t->argv);
	reply_decoder_free(t->decoder);
	mem_free(t->addrs.v);
	mem_free(t);
}
