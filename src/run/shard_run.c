#include "run/shard_run.h"
#include "base/log.h"
#include "codec/command.h"
#include "codec/reply.h"
#include "core/shard.h"
#include "io/loop.h"
#include "run/fault.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { MAILBOX_LIMIT = 1 << 20, SNAPSHOT_EVERY_MS = 1000 };

struct lane { /* one connection and what it is for */
	struct shard_run *run;
	struct redis_conn *conn;
	enum conn_role role;
	uint16_t svc;
	struct lane *next; /* readers */
};

struct flight { /* a command on its way: what its answer answers */
	uint64_t tag;
	mono_ms sent;
	uint32_t next_free;
	uint16_t svc;
	uint8_t kind, role;
};

struct name_slot {
	uint16_t svc;
	bool used;
	struct command_names names;
};

struct shard_run {
	uint16_t index;
	char addr[300];
	pthread_t thread;
	struct loop *loop;
	struct mailbox *in, *to_coord;
	struct shard *core;
	struct effects effects;
	struct redis_opts redis;
	char *username, *password, *node, *maint_type;
	struct lane command, subscriber;
	struct lane *readers;
	struct shard_rules rules;
	struct command_self self;
	struct command_argv *argv;
	struct reply_decoder *decoder;
	struct flight *flights;
	uint32_t n_flights, free_flight; /* free list, 0 = none; index 0 is unused */
	struct name_slot names[SERVICES_MAX];
	struct flight *unsent;
	size_t n_unsent;
	mono_ms core_deadline, next_snapshot;
	struct hist lag;
	struct hist command_time;
	bool is_quitting;
};

static void step(struct shard_run *s, struct shard_event *ev);

/* ---- names ---- */

static const struct command_names *names_of(const struct shard_run *s, uint16_t svc)
{
	for (size_t i = 0; i < SERVICES_MAX; i++)
		if (s->names[i].used && s->names[i].svc == svc)
			return &s->names[i].names;
	return NULL;
}

static void names_set(struct shard_run *s, const struct service_rules *r)
{
	struct name_slot *slot = NULL;
	for (size_t i = 0; i < SERVICES_MAX; i++) {
		struct name_slot *n = &s->names[i];
		if (n->used && n->svc == r->svc) {
			command_names_fini(&n->names);
			slot = n;
			break;
		}
		if (!n->used && !slot)
			slot = n;
	}
	if (!slot)
		return;
	slot->used = true;
	slot->svc = r->svc;
	command_names_init(&slot->names, r->name, r->dlq, r->serialize, r->dlq_max_len, r->group_start);
	slot->names.dlq_same_slot = r->dlq_same_slot;
}

/* ---- flights ---- */

static uint32_t flight_new(struct shard_run *s, const struct effect *ef, mono_ms now)
{
	if (!s->free_flight) {
		uint32_t cap = s->n_flights ? s->n_flights * 2 : 256;
		s->flights = mem_grow(s->flights, cap, sizeof *s->flights);
		for (uint32_t i = s->n_flights ? s->n_flights : 1; i < cap; i++) {
			s->flights[i] = (struct flight){.next_free = s->free_flight};
			s->free_flight = i;
		}
		s->n_flights = cap;
	}
	uint32_t i = s->free_flight;
	struct flight *f = &s->flights[i];
	s->free_flight = f->next_free;
	*f = (struct flight){.tag = ef->tag, .sent = now, .svc = ef->cmd.svc, .kind = (uint8_t)ef->cmd.kind, .role = (uint8_t)ef->role};
	return i;
}

/* ---- connections ---- */

static void on_up(void *arg, struct redis_conn *c)
{
	struct lane *l = arg;
	struct shard_event ev = {.kind = SHARD_CONN, .role = l->role, .svc = l->svc, .up = true, .client_id = redis_client_id(c)};
	step(l->run, &ev);
}

static void on_down(void *arg, struct redis_conn *c, const struct err *why, bool was_up)
{
	struct lane *l = arg;
	(void)c;
	static const char *const roles[CONN_ROLES] = {"command", "reader", "subscriber"};
	if (was_up)
		log_line(LOG_WARN, "shard=%u redis=%s conn=%s lost: %s", l->run->index, l->run->addr, roles[l->role], why->text);
	else if (l->role == CONN_COMMAND)
		log_line(LOG_WARN, "shard=%u redis=%s cannot connect: %s; trying again", l->run->index, l->run->addr, why->text);
	struct shard_event ev = {.kind = SHARD_CONN, .role = l->role, .svc = l->svc, .text = {why->text, strlen(why->text)}};
	step(l->run, &ev);
}

static void on_push(void *arg, struct redis_conn *c, const redisReply *r)
{
	struct lane *l = arg;
	(void)c;
	struct push p;
	reply_decode_push(r, &p);
	struct shard_event ev = {.role = l->role, .svc = l->svc, .stream = p.stream, .id = p.id};
	switch (p.kind) {
	case PUSH_LOCK_EXPIRED:
		ev.kind = SHARD_EXPIRED;
		break;
	case PUSH_SUBSCRIBED:
		ev.kind = SHARD_PUSHED;
		break;
	case PUSH_OTHER:
		return;
	}
	step(l->run, &ev);
}

static void on_reply(void *arg, uint64_t index, const redisReply *r)
{
	struct lane *l = arg;
	struct shard_run *s = l->run;
	struct flight f = s->flights[index];
	if (r)
		fault_answer((uint32_t)index);
	s->flights[index].next_free = s->free_flight;
	s->free_flight = (uint32_t)index;
	if (s->is_quitting || f.kind == CMD_PSUBSCRIBE)
		return;
	struct reply reply;
	reply_decode(s->decoder, (enum cmd_kind)f.kind, r, &reply);
	if (f.role == CONN_COMMAND && r)
		hist_add(&s->command_time, (double)(mono_now() - f.sent) / 1000.0);
	struct shard_event ev = {.kind = SHARD_REPLY, .role = l->role, .svc = f.svc, .tag = f.tag, .reply = &reply};
	step(s, &ev);
}

static void lane_open(struct lane *l, bool is_subscriber)
{
	static const struct redis_events events = {.on_up = on_up, .on_down = on_down, .on_push = on_push};
	struct redis_opts o = l->run->redis;
	o.is_subscriber = is_subscriber;
	l->conn = redis_open(loop_uv(l->run->loop), &o, &events, on_reply, l);
}

static struct lane **reader_at(struct shard_run *s, uint16_t svc)
{
	struct lane **at = &s->readers;
	while (*at && (*at)->svc != svc)
		at = &(*at)->next;
	return at;
}

static void reader_open(struct shard_run *s, uint16_t svc)
{
	struct lane **at = reader_at(s, svc);
	if (*at)
		return;
	*at = mem_alloc(sizeof **at);
	**at = (struct lane){.run = s, .role = CONN_READER, .svc = svc};
	lane_open(*at, false);
}

static void free_lane(void *lane)
{
	mem_free(lane);
}

static void reader_close(struct shard_run *s, uint16_t svc)
{
	struct lane **at = reader_at(s, svc), *l = *at;
	if (!l)
		return;
	*at = l->next;
	redis_close(l->conn, true);
	l->conn = NULL;
	loop_defer(s->loop, free_lane, l);
}

/* ---- effects ---- */

/* A command without a connection gets its "no answer" after the turn. */
static void no_connection(struct shard_run *s, const struct effect *ef)
{
	s->unsent = mem_grow(s->unsent, s->n_unsent + 1, sizeof *s->unsent);
	s->unsent[s->n_unsent++] = (struct flight){.tag = ef->tag, .svc = ef->cmd.svc, .role = (uint8_t)ef->role};
}

static void answer_unsent(struct shard_run *s)
{
	while (s->n_unsent) {
		struct flight f = s->unsent[--s->n_unsent];
		struct reply none = {.kind = REPLY_NONE};
		struct shard_event ev = {.kind = SHARD_REPLY, .role = (enum conn_role)f.role, .svc = f.svc, .tag = f.tag, .reply = &none};
		step(s, &ev);
	}
}

static void send_command(struct shard_run *s, const struct effect *ef, mono_ms now)
{
	struct lane *l = &s->command;
	if (ef->role == CONN_SUBSCRIBER)
		l = &s->subscriber;
	else if (ef->role == CONN_READER)
		l = *reader_at(s, ef->svc);
	if (!l || !l->conn) {
		no_connection(s, ef);
		return;
	}
	command_encode(s->argv, &ef->cmd, names_of(s, ef->cmd.svc), &s->self);
	uint32_t i = flight_new(s, ef, now);
	fault_send(i, &ef->cmd, &s->self);
	mono_ms wait = ef->timeout_ms ? ef->timeout_ms : s->rules.command_timeout_ms;
	mono_ms deadline = ef->cmd.kind == CMD_PSUBSCRIBE ? MONO_NEVER : now + wait;
	if (ef->cmd.asking)
		redis_send_asking(l->conn, i, command_argc(s->argv), command_args(s->argv), command_lens(s->argv), deadline);
	else
		redis_send(l->conn, i, command_argc(s->argv), command_args(s->argv), command_lens(s->argv), deadline);
}

static void say(const struct effect *ef)
{
	static const enum log_level levels[] = {[SAY_ERROR] = LOG_ERROR, [SAY_WARN] = LOG_WARN, [SAY_NOTICE] = LOG_NOTICE,
		[SAY_INFO] = LOG_INFO, [SAY_DEBUG] = LOG_DEBUG};
	log_line(levels[ef->level], "%s", ef->text ? ef->text->bytes : "");
}

static void to_coord(struct shard_run *s, const struct msg *m)
{
	struct run_msg rm = {.kind = RUN_CORE, .shard = s->index, .core = *m};
	if (m->kind != MSG_LOCK_CALL && m->kind != MSG_LOCK_ANSWER)
		rm.core.from = s->index;
	if (!mailbox_send(s->to_coord, &rm, true))
		msg_fini(&rm.core);
}

static void perform(struct shard_run *s, struct effect *ef, mono_ms now)
{
	switch (ef->kind) {
	case EFF_REDIS:
		send_command(s, ef, now);
		break;
	case EFF_MSG:
		to_coord(s, &ef->msg);
		ef->msg = (struct msg){.kind = MSG_N};
		break;
	case EFF_READER_OPEN:
		reader_open(s, ef->svc);
		break;
	case EFF_READER_CLOSE:
		reader_close(s, ef->svc);
		break;
	case EFF_SAY:
		say(ef);
		break;
	case EFF_SHARD_START:
	case EFF_SHARD_STOP:
	case EFF_FRAME:
	case EFF_CLOSE:
	case EFF_TOPOLOGY:
	case EFF_FATAL:
	case EFF_CTL:
		break;
	}
}

/* One turn: the pure step, then its effects. */
static void step(struct shard_run *s, struct shard_event *ev)
{
	ev->now = mono_now(); /* not the round's: the process may have been stopped within it */
	ev->wall_ms = mono_wall_ms();
	s->core_deadline = shard_step(s->core, ev, &s->effects);
	for (size_t i = 0; i < s->effects.n; i++)
		perform(s, &s->effects.v[i], ev->now);
	effects_clear(&s->effects);
	if (s->n_unsent)
		answer_unsent(s);
	loop_wake_at(s->loop, mono_min(s->core_deadline, s->next_snapshot));
}

/* ---- mailbox ---- */

static void set_auth(struct shard_run *s, struct run_msg *m)
{
	mem_free(s->username);
	if (s->password)
		mem_wipe(s->password, strlen(s->password));
	mem_free(s->password);
	s->username = m->username;
	s->password = m->password;
	s->redis.username = s->username;
	s->redis.password = s->password;
	redis_set_auth(s->command.conn, s->username, s->password);
	if (s->subscriber.conn)
		redis_set_auth(s->subscriber.conn, s->username, s->password);
	for (struct lane *l = s->readers; l; l = l->next)
		redis_set_auth(l->conn, s->username, s->password);
}

static void set_tls(struct shard_run *s, struct redis_tls *tls)
{
	redis_tls_unref(s->redis.tls);
	s->redis.tls = tls;
	redis_set_tls(s->command.conn, tls);
	if (s->subscriber.conn)
		redis_set_tls(s->subscriber.conn, tls);
	for (struct lane *l = s->readers; l; l = l->next)
		redis_set_tls(l->conn, tls);
}

static void quit(struct shard_run *s)
{
	s->is_quitting = true;
	mailbox_refuse(s->in);
	mailbox_drain(s->in);
	while (s->readers)
		reader_close(s, s->readers->svc);
	if (s->subscriber.conn)
		redis_close(s->subscriber.conn, true);
	redis_close(s->command.conn, true);
	s->command.conn = s->subscriber.conn = NULL;
	mailbox_close(s->in);
	loop_stop(s->loop);
}

static void on_core(struct shard_run *s, const struct msg *m)
{
	if (m->kind == MSG_SERVICE)
		names_set(s, m->rules);
	struct shard_event ev = {.kind = SHARD_MSG, .msg = m};
	step(s, &ev);
}

static void on_mail(void *arg, const void *msg)
{
	struct shard_run *s = arg;
	struct run_msg m = *(const struct run_msg *)msg;
	if (s->is_quitting) {
		if (m.kind == RUN_CORE)
			msg_fini(&m.core);
		return;
	}
	switch (m.kind) {
	case RUN_CORE:
		on_core(s, &m.core);
		break;
	case RUN_QUIT:
		quit(s);
		break;
	case RUN_AUTH:
		set_auth(s, &m);
		break;
	case RUN_TLS:
		set_tls(s, m.tls);
		break;
	case RUN_TIMEOUTS:
		s->rules.command_timeout_ms = m.command_timeout_ms;
		break;
	case RUN_SNAPSHOT:
		break;
	}
}

/* ---- snapshots ---- */

static void add_conn(struct snapshot *sn, const struct lane *l)
{
	if (!l->conn || sn->n_conns == SNAPSHOT_CONNS)
		return;
	sn->conns[sn->n_conns++] = (struct snapshot_conn){.role = (uint8_t)l->role, .is_up = redis_is_up(l->conn), .svc = l->svc};
	sn->n_in_flight += redis_n_in_flight(l->conn);
}

static void send_snapshot(struct shard_run *s, mono_ms now)
{
	size_t n = 0;
	for (size_t i = 0; i < SERVICES_MAX; i++)
		n += s->names[i].used;
	struct snapshot *sn = mem_alloc(sizeof *sn + n * sizeof sn->services[0]);
	sn->at = now;
	sn->lag_ms = loop_lag_ms(s->loop);
	sn->n_leases = shard_n_leases(s->core);
	sn->redis = *shard_metrics(s->core);
	hist_merge(&sn->redis.h[HR_COMMAND], &s->command_time);
	sn->lag = s->lag;
	add_conn(sn, &s->command);
	add_conn(sn, &s->subscriber);
	for (struct lane *l = s->readers; l; l = l->next)
		add_conn(sn, l);
	for (size_t i = 0; i < SERVICES_MAX; i++) {
		const struct metrics_service *m = s->names[i].used ? shard_service_metrics(s->core, s->names[i].svc) : NULL;
		if (!m)
			continue;
		struct shard_lengths len = shard_lengths(s->core, s->names[i].svc);
		sn->services[sn->n_services++] = (struct snapshot_service){.svc = s->names[i].svc, .lbs = len.lbs, .pending = len.pending,
			.dlq = len.dlq, .m = *m};
	}
	struct run_msg rm = {.kind = RUN_SNAPSHOT, .shard = s->index, .snapshot = sn};
	if (!mailbox_send(s->to_coord, &rm, false))
		mem_free(sn);
}

static void on_deadline(void *arg, mono_ms now)
{
	struct shard_run *s = arg;
	if (s->is_quitting)
		return;
	hist_add(&s->lag, (double)loop_lag_ms(s->loop) / 1000.0);
	if (now >= s->next_snapshot) {
		s->next_snapshot = now + SNAPSHOT_EVERY_MS;
		send_snapshot(s, now);
	}
	struct shard_event ev = {.kind = SHARD_TICK};
	step(s, &ev);
}

/* ---- life ---- */

static void *thread_main(void *arg)
{
	struct shard_run *s = arg;
	lane_open(&s->command, false);
	if (s->rules.events_on)
		lane_open(&s->subscriber, true);
	loop_wake_at(s->loop, 0);
	loop_run(s->loop);
	loop_free(s->loop);
	return NULL;
}

static void free_all(struct shard_run *s)
{
	shard_free(s->core);
	effects_fini(&s->effects);
	for (size_t i = 0; i < SERVICES_MAX; i++)
		if (s->names[i].used)
			command_names_fini(&s->names[i].names);
	command_argv_free(s->argv);
	reply_decoder_free(s->decoder);
	mem_free(s->flights);
	mem_free(s->unsent);
	mem_free(s->maint_type);
	mem_free(s->username);
	if (s->password)
		mem_wipe(s->password, strlen(s->password));
	mem_free(s->password);
	mem_free(s->node);
	redis_tls_unref(s->redis.tls);
	mem_free(s);
}

enum err_code shard_run_start(const struct shard_run_opts *o, struct shard_run **out, struct err *err)
{
	struct redis_addr addr;
	enum err_code code = redis_addr_parse(o->addr, &addr, err);
	if (code)
		return code;
	struct shard_run *s = mem_alloc(sizeof *s);
	s->index = o->index;
	snprintf(s->addr, sizeof s->addr, "%s", o->addr);
	s->rules = o->rules;
	s->redis = o->redis;
	s->redis.addr = addr;
	s->username = mem_dup(o->redis.username, strlen(o->redis.username));
	s->password = mem_dup(o->redis.password, strlen(o->redis.password));
	s->node = mem_dup(o->node, strlen(o->node));
	s->maint_type = mem_printf("%s", o->redis.maint_endpoint_type ? o->redis.maint_endpoint_type : "");
	s->redis.username = s->username;
	s->redis.password = s->password;
	s->redis.maint_endpoint_type = s->maint_type; /* the configuration it came from ends with a reload */
	s->redis.client_name = s->rules.consumer;
	s->redis.tls = o->redis.tls ? redis_tls_ref(o->redis.tls) : NULL;
	s->to_coord = o->to_coord;
	s->self = (struct command_self){.consumer = s->rules.consumer, .node = s->node, .db = s->rules.db};
	s->argv = command_argv_new();
	s->decoder = reply_decoder_new();
	s->command = (struct lane){.run = s, .role = CONN_COMMAND, .svc = SERVICE_NONE};
	s->subscriber = (struct lane){.run = s, .role = CONN_SUBSCRIBER, .svc = SERVICE_NONE};
	s->loop = loop_new("shard", on_deadline, s);
	s->in = mailbox_open(loop_uv(s->loop), sizeof(struct run_msg), MAILBOX_LIMIT, on_mail, NULL, s);
	s->core = shard_new(&s->rules, s->index);
	effects_init(&s->effects);
	if (pthread_create(&s->thread, NULL, thread_main, s) != 0) {
		free_all(s);
		return err_set(err, ERR_IO, "no thread for shard %u", o->index);
	}
	*out = s;
	return ERR_OK;
}

void shard_run_send(struct shard_run *s, const struct run_msg *m)
{
	struct run_msg copy = *m;
	if (!mailbox_send(s->in, m, true) && m->kind == RUN_CORE)
		msg_fini(&copy.core);
}

void shard_run_stop(struct shard_run *s)
{
	struct run_msg m = {.kind = RUN_QUIT};
	shard_run_send(s, &m);
	pthread_join(s->thread, NULL);
	free_all(s);
}

mono_ms shard_run_last_round(const struct shard_run *s)
{
	return loop_last_round(s->loop);
}
