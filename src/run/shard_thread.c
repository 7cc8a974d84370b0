#include "run/shard_thread.h"
#include "base/log.h"
#include "base/secret.h"
#include "codec/command.h"
#include "core/shard/shard.h"
#include "io/loop.h"
#include "run/perform.h"
#include "run/role_conn.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAILBOX_LIMIT = 1 << 20, SNAPSHOT_EVERY_MS = 1000, SNAPSHOT_SOON_MS = 20 };

struct name_slot {
	uint16_t svc;
	bool used;
	struct command_names names;
};

/* Who it says it is to Redis. Owned. */
struct shard_login {
	char *username, *node, *maint_type;
	const char *password; /* secret_keep's */
};

struct shard_clock {
	mono_ms now, core_deadline, next_snapshot; /* now: of the turn */
	struct mono_wall wall;
	struct hist lag;
};

struct shard_thread {
	uint16_t index;
	char addr[300];
	pthread_t thread;
	struct loop *loop;
	struct mailbox *in, *to_coord;
	struct shard *core;
	struct shard_turns turns;
	struct redis_opts redis;
	struct shard_login login;
	struct role_conns *role_conns;
	struct shard_rules rules;
	struct command_self self;
	struct command_argv *argv;
	struct name_slot names[SERVICES_MAX];
	struct shard_clock clock;
	bool is_refused; /* and the coordinator knows */
	bool is_quitting;
};

/* ---- names ---- */

static const struct command_names *names_of(void *arg, uint16_t svc)
{
	const struct shard_thread *s = arg;
	for (size_t i = 0; i < SERVICES_MAX; i++)
		if (s->names[i].used && s->names[i].svc == svc)
			return &s->names[i].names;
	return NULL;
}

static void names_set(struct shard_thread *s, const struct service_rules *r)
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
	command_names_init(&slot->names, r->name, r->dlq.name, r->same_stream, r->dlq.max_len, r->group_start);
	command_names_entries(&slot->names, r->name, r->entries.dlq, r->entries.dlq_max_len);
	slot->names.dlq_same_slot = r->dlq.is_same_slot;
}

/* ---- effects ---- */

static bool send_command(void *arg, const struct effect *ef)
{
	struct shard_thread *s = arg;
	return role_conns_send(s->role_conns, ef, s->clock.now);
}

static void to_coord(void *arg, const struct msg *m)
{
	struct shard_thread *s = arg;
	struct run_msg rm = {.kind = RUN_CORE, .shard = s->index, .core = *m};
	if (m->kind != MSG_LOCK_CALL && m->kind != MSG_LOCK_ANSWER)
		rm.core.from = s->index;
	if (!mailbox_send(s->to_coord, &rm, true))
		msg_fini(&rm.core);
}

static void shard_thread_open_reader(void *arg, uint16_t svc)
{
	struct shard_thread *s = arg;
	role_conns_open(s->role_conns, CONN_READER, svc);
}

static void shard_thread_close_reader(void *arg, uint16_t svc)
{
	struct shard_thread *s = arg;
	role_conns_close_reader(s->role_conns, svc);
}

static void shard_thread_say(void *arg, const struct effect *ef)
{
	(void)arg;
	run_say(ef);
}

static const struct shard_doers doers = {.send = send_command,
	.to_coord = to_coord,
	.open_reader = shard_thread_open_reader,
	.close_reader = shard_thread_close_reader,
	.log = shard_thread_say};

static void shard_thread_wake(void *arg)
{
	struct shard_thread *s = arg;
	loop_wake_at(s->loop,
		mono_min(role_conns_deadline(s->role_conns), mono_min(s->clock.core_deadline, s->clock.next_snapshot)));
}

/* One turn: the pure step, then its effects. */
static void step(struct shard_thread *s, struct shard_event *ev)
{
	/* not the round's: the process may have been stopped within it */
	mono_read(&s->clock.wall, &ev->now, &ev->wall_ms);
	s->clock.now = ev->now;
	s->turns.effects.says_moves = log_is_on(LOG_DEBUG);
	s->clock.core_deadline = shard_turn(s->core, ev, &s->turns, &doers, s);
	struct shard_refused refused;
	if (!s->is_refused && shard_refused(s->core, ev->now, &refused))
		s->clock.next_snapshot = mono_min(s->clock.next_snapshot, ev->now); /* whoever asks why is to hear it */
	if (ev->kind == SHARD_CONN) /* a little later: many come up or go down together */
		s->clock.next_snapshot = mono_min(s->clock.next_snapshot, ev->now + SNAPSHOT_SOON_MS);
	struct shard_event unsent;
	if (shard_turn_unsent(&s->turns, &unsent))
		step(s, &unsent); /* and that one the next */
	if (!ev->has_more)
		shard_thread_wake(s);
}

static void on_turn(void *arg, struct shard_event *ev)
{
	step(arg, ev);
}

/* ---- mailbox ---- */

static void shard_thread_set_auth(struct shard_thread *s, struct run_msg *m)
{
	mem_free(s->login.username);
	secret_drop(s->login.password);
	s->login.username = m->username;
	s->login.password = m->password;
	s->redis.username = s->login.username;
	s->redis.password = s->login.password;
	role_conns_set_auth(s->role_conns, s->login.username, s->login.password, m->is_for_next);
}

static void shard_thread_set_tls(struct shard_thread *s, struct redis_tls *tls)
{
	role_conns_set_tls(s->role_conns, tls);
	redis_tls_unref(s->redis.tls);
	s->redis.tls = tls;
}

static void set_maintenance(struct shard_thread *s, const struct run_msg *m)
{
	char *old = s->login.maint_type;
	s->login.maint_type = mem_printf("%s", m->maint.endpoint_type);
	s->redis.maint_endpoint_type = s->login.maint_type;
	role_conns_set_maintenance(s->role_conns, &m->maint.rules, m->maint.mode, s->login.maint_type);
	mem_free(old);
}

static void quit(struct shard_thread *s)
{
	s->is_quitting = true;
	mailbox_refuse(s->in);
	mailbox_drain(s->in);
	role_conns_quit(s->role_conns);
	mailbox_close(s->in);
	if (!loop_is_attached(s->loop))
		loop_stop(s->loop);
}

static void on_core(struct shard_thread *s, const struct msg *m)
{
	if (m->kind == MSG_SERVICE)
		names_set(s, m->service.rules);
	struct shard_event ev = {.kind = SHARD_MSG, .msg = m, .has_more = true};
	step(s, &ev);
}

/* The last of those that came together. */
static void shard_thread_on_mail_end(void *arg)
{
	struct shard_thread *s = arg;
	struct shard_event ev = {.kind = SHARD_TICK};
	if (!s->is_quitting)
		step(s, &ev);
}

static void shard_thread_on_mail(void *arg, const void *msg)
{
	struct shard_thread *s = arg;
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
		shard_thread_set_auth(s, &m);
		break;
	case RUN_TLS:
		shard_thread_set_tls(s, m.tls);
		break;
	case RUN_TIMES:
		s->rules.command_timeout_ms = m.times.command_timeout_ms;
		role_conns_set_times(s->role_conns, m.times.command_timeout_ms, &m.times.redis);
		break;
	case RUN_MAINT:
		set_maintenance(s, &m);
		break;
	case RUN_SNAPSHOT:
		break;
	}
}

/* ---- snapshots ---- */

static void send_snapshot(struct shard_thread *s, mono_ms now)
{
	size_t n = 0;
	for (size_t i = 0; i < SERVICES_MAX; i++)
		n += s->names[i].used;
	size_t n_conns = role_conns_count(s->role_conns);
	struct snapshot *sn =
		mem_alloc(sizeof *sn + n * sizeof sn->services[0] + n_conns * sizeof(struct snapshot_conn));
	sn->conns = (struct snapshot_conn *)&sn->services[n];
	sn->at = now;
	sn->lag_ms = loop_lag_ms(s->loop);
	sn->n_leases = shard_n_leases(s->core);
	sn->redis = *shard_metrics(s->core);
	s->is_refused = shard_refused(s->core, now, &sn->refused);
	sn->clock_offset_ms = shard_clock_offset(s->core);
	sn->lag = s->clock.lag;
	role_conns_snapshot(s->role_conns, sn);
	for (size_t i = 0; i < SERVICES_MAX; i++) {
		const struct metrics_service *m =
			s->names[i].used ? shard_service_metrics(s->core, s->names[i].svc) : NULL;
		if (!m)
			continue;
		sn->services[sn->n_services++] = (struct snapshot_service){.svc = s->names[i].svc,
			.feeds = shard_feeds_of(s->core, s->names[i].svc),
			.lengths = shard_lengths(s->core, s->names[i].svc),
			.m = *m};
	}
	struct run_msg rm = {.kind = RUN_SNAPSHOT, .shard = s->index, .snapshot = sn};
	if (!mailbox_send(s->to_coord, &rm, false))
		mem_free(sn);
}

static void shard_thread_on_deadline(void *arg, mono_ms now)
{
	struct shard_thread *s = arg;
	if (s->is_quitting)
		return;
	hist_add(&s->clock.lag, (double)loop_lag_ms(s->loop) / 1000.0);
	if (now >= s->clock.next_snapshot) {
		s->clock.next_snapshot = now + SNAPSHOT_EVERY_MS;
		send_snapshot(s, now);
	}
	role_conns_tick(s->role_conns, now);
	struct shard_event ev = {.kind = SHARD_TICK};
	step(s, &ev);
}

/* ---- life ---- */

static void shard_thread_begin(struct shard_thread *s)
{
	role_conns_open(s->role_conns, CONN_COMMAND, SERVICE_NONE);
	if (s->rules.events_on)
		role_conns_open(s->role_conns, CONN_SUBSCRIBER, SERVICE_NONE);
	loop_wake_at(s->loop, 0);
}

static void *thread_main(void *arg)
{
	struct shard_thread *s = arg;
	char name[16]; /* all that the kernel keeps */
	snprintf(name, sizeof name, "shard-%u", s->index);
	pthread_setname_np(pthread_self(), name);
	shard_thread_begin(s);
	loop_run(s->loop);
	loop_free(s->loop);
	return NULL;
}

static void free_all(struct shard_thread *s)
{
	role_conns_free(s->role_conns);
	shard_free(s->core);
	shard_turns_fini(&s->turns);
	for (size_t i = 0; i < SERVICES_MAX; i++)
		if (s->names[i].used)
			command_names_fini(&s->names[i].names);
	command_argv_free(s->argv);
	mem_free(s->login.maint_type);
	mem_free(s->login.username);
	secret_drop(s->login.password);
	mem_free(s->login.node);
	redis_tls_unref(s->redis.tls);
	mem_free(s);
}

static struct role_conns *new_role_conns(struct shard_thread *s, const struct handoff_rules *rules)
{
	struct role_conns_opts o = {.index = s->index,
		.loop = s->loop,
		.redis = s->redis,
		.rules = *rules,
		.command_timeout_ms = s->rules.command_timeout_ms,
		.argv = s->argv,
		.self = &s->self,
		.names_of = names_of,
		.step = on_turn,
		.to_coord = to_coord,
		.on_deadline = shard_thread_wake,
		.arg = s};
	return role_conns_new(&o);
}

/* A loop cannot be made without descriptors: rather later than not at all. */
static enum err_code find_descriptors(struct err *err)
{
	enum { WANTED = 12 }; /* of a loop, its mailbox and three connections */
	int fds[WANTED], n = 0, rc = 0;
	while (n < WANTED && !rc) {
		fds[n] = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
		rc = fds[n] < 0 && errno != EBADF ? errno : 0;
		n += fds[n] >= 0 || !rc;
	}
	while (n-- > 0)
		if (fds[n] >= 0)
			close(fds[n]);
	return rc ? err_set(err, ERR_IO, "no descriptors: %s", strerror(rc)) : ERR_OK;
}

static void end_here(struct shard_thread *s)
{
	quit(s);
	loop_free(s->loop);
	free_all(s);
}

enum err_code shard_thread_start(const struct shard_thread_opts *o, struct shard_thread **out, struct err *err)
{
	struct redis_addr addr;
	enum err_code code = redis_addr_parse(o->addr, &addr, err);
	if (!code)
		code = find_descriptors(err);
	if (code)
		return code;
	struct shard_thread *s = mem_alloc(sizeof *s);
	s->index = o->index;
	snprintf(s->addr, sizeof s->addr, "%s", o->addr);
	s->rules = o->rules;
	s->redis = o->redis;
	s->redis.addr = addr;
	s->login.username = mem_dup(o->redis.username, strlen(o->redis.username));
	s->login.password = secret_keep(o->redis.password, strlen(o->redis.password));
	s->login.node = mem_dup(o->node, strlen(o->node));
	s->login.maint_type = mem_printf("%s", o->redis.maint_endpoint_type ? o->redis.maint_endpoint_type : "");
	s->redis.username = s->login.username;
	s->redis.password = s->login.password;
	s->redis.maint_endpoint_type = s->login.maint_type; /* the configuration it came from ends with a reload */
	s->redis.client_name = s->rules.consumer;
	s->redis.tls = o->redis.tls ? redis_tls_ref(o->redis.tls) : NULL;
	s->to_coord = o->to_coord;
	s->self = (struct command_self){.consumer = s->rules.consumer, .node = s->login.node, .db = s->rules.db};
	s->argv = command_argv_new();
	s->loop = o->host ? loop_attach(o->host, "shard", shard_thread_on_deadline, s)
			  : loop_new("shard", shard_thread_on_deadline, s);
	s->in = mailbox_open(loop_uv(s->loop), sizeof(struct run_msg), MAILBOX_LIMIT, shard_thread_on_mail,
		shard_thread_on_mail_end, s);
	s->core = shard_new(&s->rules, s->index);
	effects_init(&s->turns.effects);
	s->role_conns = new_role_conns(s, &o->handoff);
	if (loop_is_attached(s->loop))
		shard_thread_begin(s);
	int rc = o->host ? 0 : pthread_create(&s->thread, NULL, thread_main, s);
	if (rc != 0) {
		end_here(s); /* in the place of its own thread */
		return err_set(err, ERR_IO, "no thread: %s", strerror(rc));
	}
	*out = s;
	return ERR_OK;
}

void shard_thread_send(struct shard_thread *s, const struct run_msg *m)
{
	struct run_msg copy = *m;
	if (!mailbox_send(s->in, m, true) && m->kind == RUN_CORE)
		msg_fini(&copy.core);
}

void shard_thread_stop(struct shard_thread *s)
{
	if (loop_is_attached(s->loop)) {
		end_here(s);
		return;
	}
	struct run_msg m = {.kind = RUN_QUIT};
	shard_thread_send(s, &m);
	pthread_join(s->thread, NULL);
	free_all(s);
}

/* Joins the thread when it ends within wait_ms. */
static bool join_within(pthread_t thread, mono_ms wait_ms)
{
#ifdef __GLIBC__
	mono_ms end = mono_now() + wait_ms;
	struct timespec at = {.tv_sec = end / 1000, .tv_nsec = end % 1000 * 1000000};
	return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &at) == 0;
#else /* musl can wait by the wall clock only */
	mono_ms end = mono_wall_ms() + wait_ms;
	struct timespec at = {.tv_sec = end / 1000, .tv_nsec = end % 1000 * 1000000};
	return pthread_timedjoin_np(thread, NULL, &at) == 0;
#endif
}

bool shard_thread_stop_within(struct shard_thread *s, mono_ms wait_ms)
{
	if (loop_is_attached(s->loop)) {
		end_here(s);
		return true;
	}
	struct run_msg m = {.kind = RUN_QUIT};
	shard_thread_send(s, &m);
	if (!join_within(s->thread, wait_ms))
		return false;
	free_all(s);
	return true;
}

mono_ms shard_thread_last_round(const struct shard_thread *s)
{
	return loop_last_round(s->loop);
}
