#include "run/coord_thread.h"
#include "base/log.h"
#include "base/secret.h"
#include "codec/reply.h"
#include "core/turn.h"
#include "io/notify.h"
#include "run/coord_effects.h"
#include "run/credentials.h"
#include "run/daemon.h"
#include "run/fault.h"
#include "run/readiness.h"
#include "run/state_store.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAIL_LIMIT = 1 << 20, PASSED_MAX = 8192, TRIM_ENTRIES = 4096, EXIT_INTERNAL = 70, JOIN_WAIT_MS = 5000 };

void daemon_step(struct daemon *d, struct coord_event *ev)
{
	/* not the round's: the process may have been stopped within it */
	mono_read(&d->clock.wall, &ev->now, &ev->wall_ms);
	d->effects.says_moves = log_is_on(LOG_DEBUG);
	d->clock.core_deadline = coord_turn(d->core, ev, &d->effects, &coord_thread_doers, d);
	if (d->workers)
		worker_socket_sweep(d->workers);
	state_store_try(d);
	service_begin(d);
	loop_wake_at(d->loop, mono_min(d->clock.core_deadline, d->clock.next_second));
	if (d->end.is_ending)
		loop_stop(d->loop);
}

/* ---- events ---- */

static void on_worker_event(void *arg, struct coord_event *ev)
{
	daemon_step(arg, ev);
}

static void coord_thread_on_slots(void *arg, const struct slot_range *ranges, size_t n)
{
	struct coord_event ev = {.kind = COORD_TOPOLOGY, .slots = ranges, .n = n};
	daemon_step(arg, &ev);
}

static bool is_map_in_doubt(void *arg)
{
	const struct daemon *d = arg;
	return d->core->topo.is_patched;
}

static void coord_thread_opts(void *arg, struct redis_opts *out)
{
	struct daemon *d = arg;
	rules_of_redis(d->config, d->login.password, d->login.tls, d->shards.rules.consumer, out);
}

/* The password is read for each connection: what is in its file may have changed. */
static void coord_thread_sentinel_opts(void *arg, struct redis_opts *out)
{
	struct daemon *d = arg;
	const char *password;
	struct err err;
	coord_thread_opts(arg, out);
	enum err_code code = config_sentinel_password(d->config, &password, &err);
	if (code == ERR_OK) {
		secret_drop(d->login.sentinel_password);
		d->login.sentinel_password = password;
	} else if (!d->login.sentinel_password_said) {
		log_line(LOG_ERROR, "%s", err.text);
	}
	d->login.sentinel_password_said = code != ERR_OK;
	out->username = d->config->redis.sentinel.username;
	out->password = d->login.sentinel_password ? d->login.sentinel_password : "";
	out->db = 0;
	out->maint = REDIS_MAINT_OFF;
}

static void on_topo_hint(void *arg)
{
	struct coord_ctl ctl = {.kind = CTL_REFRESH};
	struct coord_event ev = {.kind = COORD_CTL, .ctl = &ctl};
	daemon_step(arg, &ev);
}

static void on_standalone(void *arg, const char *addr)
{
	struct coord_event ev = {.kind = COORD_TOPOLOGY, .text = {addr, strlen(addr)}};
	daemon_step(arg, &ev);
}

/* "redis 10.0.0.1:6379: authentication refused: WRONGPASS …": counted for the endpoint that is named. */
static void count_topo_refusal(struct daemon *d, const char *why)
{
	enum refusal refusal = reply_refusal_in(why);
	size_t at = 0;
	for (size_t i = 0; i < d->config->redis.endpoints.n && i < DAEMON_ENDPOINTS; i++)
		if (strstr(why, d->config->redis.endpoints.items[i]))
			at = i;
	d->topo.refused[at][refusal]++; /* [REFUSAL_NONE] is read by nobody */
}

static void on_topo_failed(void *arg, const struct err *why)
{
	struct daemon *d = arg;
	count_topo_refusal(d, why->text);
	snprintf(d->topo.why, sizeof d->topo.why, "%s", why->text);
	if (d->config->redis.fail_fast && !d->core->topo.is_known) {
		log_line(LOG_ERROR, "%s (redis.fail_fast)", why->text);
		coord_end(d, 69);
		loop_stop(d->loop);
		return;
	}
	struct coord_event ev = {.kind = COORD_TOPOLOGY_FAILED, .text = {why->text, strlen(why->text)}};
	daemon_step(d, &ev);
}

static void forget_mail(const struct run_msg *m)
{
	struct msg late = m->core;
	if (m->kind == RUN_CORE)
		msg_fini(&late);
	else if (m->kind == RUN_SNAPSHOT)
		mem_free(m->snapshot);
}

static void coord_thread_on_mail(void *arg, const void *msg)
{
	struct daemon *d = arg;
	const struct run_msg *m = msg;
	if (d->end.is_closing) {
		forget_mail(m);
	} else if (m->kind == RUN_CORE) {
		fault_mail(&m->core);
		struct coord_event ev = {.kind = COORD_MSG, .msg = &m->core};
		daemon_step(d, &ev);
	} else if (m->kind == RUN_SNAPSHOT) {
		coord_keep_snapshot(d, m->shard, m->snapshot);
	}
}

/* Freed memory goes back to the system when half of many entries have gone; a second later, when shards have
 * followed. */
static void coord_thread_give_back(struct daemon *d)
{
	uint32_t n = d->core->ledger.n;
	if (n > d->memory.peak_entries)
		d->memory.peak_entries = n;
	bool is_due = d->memory.peak_entries >= TRIM_ENTRIES && n <= d->memory.peak_entries / 2;
	if (is_due && d->memory.trim_due) {
		mem_trim();
		d->memory.peak_entries = n;
		is_due = false;
	}
	d->memory.trim_due = is_due;
}

static void second(struct daemon *d, mono_ms now)
{
	coord_thread_give_back(d);
	d->clock.next_second = now + service_period_ms();
	service_tick(d);
	if (d->control)
		control_socket_tick(d->control, now);
}

static void coord_thread_on_deadline(void *arg, mono_ms now)
{
	struct daemon *d = arg;
	hist_add(&d->clock.lag, (double)loop_lag_ms(d->loop) / 1000.0);
	if (now >= d->clock.next_second)
		second(d, now);
	struct coord_event ev = {.kind = COORD_TICK};
	daemon_step(d, &ev);
}

/* Will a process of this node's name follow soon? A Deployment's pods get new names, and a name made of the host's
 * may come back or not; what such a process left would wait for T and be taken for a death. */
static bool will_have_a_successor(const struct daemon *d)
{
	switch (d->config->shutdown.mode) {
	case CONFIG_SHUTDOWN_HANDOVER:
		return true;
	case CONFIG_SHUTDOWN_DRAIN:
		return false;
	case CONFIG_SHUTDOWN_AUTO:
		break;
	}
	return d->config->node.id_is_chosen || notify_store_max() > 0;
}

static const char *why_drain_or_not(const struct daemon *d)
{
	if (d->config->shutdown.mode != CONFIG_SHUTDOWN_AUTO)
		return d->end.is_handing_over ? "shutdown.mode is handover" : "shutdown.mode is drain";
	if (!d->end.is_handing_over)
		return "shutdown.mode is auto: node.id is not set and no service manager keeps connections, so nobody "
		       "follows under this name";
	return d->config->node.id_is_chosen ? "shutdown.mode is auto and node.id is set"
					    : "shutdown.mode is auto and the service manager keeps connections";
}

static void coord_thread_stop(struct daemon *d)
{
	if (d->end.is_stopping) {
		log_line(LOG_NOTICE, "second signal: ending at once; leases run out by themselves");
		coord_end(d, 0);
		loop_stop(d->loop);
		return;
	}
	d->end.is_stopping = true;
	d->end.is_handing_over = will_have_a_successor(d);
	bool drain = !d->end.is_handing_over;
	log_line(LOG_NOTICE, "stopping: %s (%s)", drain ? "draining" : "leases stay for the next process",
		why_drain_or_not(d));
	notify_send("STOPPING=1");
	if (drain) {
		char text[80];
		snprintf(text, sizeof text, "EXTEND_TIMEOUT_USEC=%lld",
			(long long)(d->config->shutdown.drain_timeout_ms + 10000) * 1000);
		notify_send(text);
	}
	struct coord_event ev = {.kind = COORD_STOP, .flag = drain};
	daemon_step(d, &ev);
}

static void coord_thread_reload_row(
	void *arg, const char *path, const char *before, const char *after, const char *class)
{
	(void)arg;
	log_line(
		LOG_NOTICE, "reload: %s: %s -> %s (%s)", path, before ? before : "none", after ? after : "none", class);
}

static void coord_thread_on_signal(void *arg, int signo)
{
	struct daemon *d = arg;
	struct err err;
	struct coord_ctl ctl = {.kind = d->core->drain.is_on ? CTL_UNDRAIN : CTL_DRAIN};
	struct coord_event ev = {.kind = COORD_CTL, .ctl = &ctl};
	switch (signo) {
	case SIGTERM:
	case SIGINT:
		coord_thread_stop(d);
		break;
	case SIGHUP:
		if (daemon_reload(d, coord_thread_reload_row, NULL, &err) != ERR_OK)
			log_line(LOG_ERROR, "reload rejected, nothing changed: %s", err.text);
		break;
	case SIGUSR1:
		service_dump(d);
		break;
	case SIGUSR2:
		daemon_step(d, &ev);
		break;
	default:
		break;
	}
}

/* ---- start and end ---- */

static int exit_of(enum err_code code)
{
	switch (code) {
	case ERR_DENIED:
		return 77;
	case ERR_INVALID:
	case ERR_RANGE:
		return 78;
	case ERR_OK:
		return 0;
	case ERR_TIMEOUT: /* nothing waits, or talks, before the loop runs */
	case ERR_PROTO:
		return EXIT_INTERNAL;
	case ERR_NOT_FOUND: /* the directory of a socket */
	case ERR_BUSY:
	case ERR_IO:
	case ERR_MEMORY:
		break;
	}
	return 71;
}

static enum err_code open_guards(struct daemon *d, struct err *err)
{
	struct notify_fd *fds = mem_array(PASSED_MAX, sizeof *fds);
	size_t n = notify_take_fds(fds, PASSED_MAX);
	state_store_take(d, fds, n);
	int worker_fd = -1, control_fd = -1;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(fds[i].name, "worker") == 0)
			worker_fd = fds[i].fd;
		else if (strcmp(fds[i].name, "control") == 0)
			control_fd = fds[i].fd;
		else if (fds[i].fd >= 0)
			log_line(LOG_WARN, "descriptor %s from the service manager is not known: ignored", fds[i].name);
	}
	mem_free(fds);
	enum err_code code =
		worker_socket_open(loop_uv(d->loop), d->config, worker_fd, on_worker_event, d, &d->workers, err);
	const char *setting = "workers.socket";
	if (!code) {
		code = control_socket_open(d, control_fd, &d->control, err);
		setting = "control.socket";
	}
	if (!code && d->config->metrics.listen[0]) {
		code = http_open(loop_uv(d->loop), d->config->metrics.listen, metrics_http, d, &d->http, err);
		setting = "metrics.listen";
	}
	if (code)
		err_prefix(err, "%s", setting);
	return code && code != ERR_DENIED ? ERR_IO : code; /* the configuration is fine, the system is not: 71 */
}

static void give_services(struct daemon *d)
{
	size_t n = d->config->n_services;
	struct service_rules **rules = mem_array(n, sizeof(struct service_rules *));
	for (size_t i = 0; i < n; i++)
		rules[i] = rules_of_service(&d->config->services[i], d->config,
			rules_service_id(&d->self.ids, d->config->services[i].name));
	struct coord_event ev = {.kind = COORD_SERVICES, .services = rules, .n = n};
	daemon_step(d, &ev);
	mem_free(rules);
}

static enum err_code open_all(struct daemon *d, struct err *err)
{
	enum err_code code = config_password(d->config, &d->login.password, err);
	if (!code)
		code = rules_of_tls(d->config, &d->login.tls, err);
	if (code == ERR_NOT_FOUND)
		code = ERR_INVALID; /* the configuration names a file that is not there */
	if (code) {
		config_place(d->config, err);
		return code;
	}
	rules_of_shard(d->config, d->self.incarnation, &d->shards.rules);
	struct coord_rules rules;
	rules_of_coord(d->config, d->self.incarnation, &rules);
	d->loop = loop_new("coordinator", coord_thread_on_deadline, d);
	d->mail = mailbox_open(loop_uv(d->loop), sizeof(struct run_msg), MAIL_LIMIT, coord_thread_on_mail, NULL, d);
	d->signals = signals_open(loop_uv(d->loop), coord_thread_on_signal, d);
	d->core = coord_new(&rules);
	effects_init(&d->effects);
	code = open_guards(d, err);
	if (code)
		return code;
	struct redis_opts o;
	rules_of_redis(d->config, d->login.password, d->login.tls, d->shards.rules.consumer, &o);
	static const struct topo_events events = {.on_slots = coord_thread_on_slots,
		.on_standalone = on_standalone,
		.on_failed = on_topo_failed,
		.is_in_doubt = is_map_in_doubt,
		.opts = coord_thread_opts,
		.sentinel_opts = coord_thread_sentinel_opts,
		.on_hint = on_topo_hint};
	d->topo.client = topology_client_open(loop_uv(d->loop), d->config, &o, &events, d);
	d->login.credentials = credentials_open(d);
	return ERR_OK;
}

/* Nobody can end a thread that does not run its loop: the process goes without it. Locks run out, workers come back. */
static void stop_shards(struct daemon *d)
{
	bool is_stuck = false;
	for (uint16_t i = 0; i < d->shards.n; i++) {
		if (d->shards.v[i] && !shard_thread_stop_within(d->shards.v[i], is_stuck ? 0 : JOIN_WAIT_MS)) {
			log_line(LOG_ERROR, "shard=%u loop stuck: not waiting for it", i);
			is_stuck = true;
		}
		d->shards.v[i] = NULL;
		mem_free(d->shards.snapshots[i]);
		d->shards.snapshots[i] = NULL;
	}
	if (!is_stuck)
		return;
	control_socket_close(d->control); /* their sockets go */
	worker_socket_close(d->workers);
	_exit(EXIT_INTERNAL);
}

static void close_all(struct daemon *d)
{
	d->end.is_closing = true;
	stop_shards(d);
	control_socket_close(d->control);
	state_store_free(d->store);
	worker_socket_close(d->workers);
	d->workers = NULL;
	if (d->http)
		http_close(d->http);
	credentials_close(d->login.credentials);
	topology_client_close(d->topo.client);
	if (d->signals)
		signals_close(d->signals);
	if (d->mail) {
		mailbox_refuse(d->mail);
		mailbox_drain(d->mail);
		mailbox_close(d->mail);
	}
	if (d->loop)
		loop_free(d->loop);
	coord_free(d->core);
	effects_fini(&d->effects);
	redis_tls_unref(d->login.tls);
	secret_drop(d->login.password);
	secret_drop(d->login.sentinel_password);
	rules_ids_fini(&d->self.ids);
	config_free(d->config);
}

int coord_thread_main(const char *config_path, struct config *c)
{
	struct daemon *d = mem_alloc(sizeof *d);
	d->reload.path = config_path;
	d->config = c;
	d->self.incarnation = rules_incarnation();
	d->clock.started_at = mono_now();
	d->clock.started_wall_ms = mono_wall_ms();
	struct err err;
	enum err_code code = open_all(d, &err);
	if (code) {
		log_line(LOG_ERROR, "%s", err.text);
		d->end.exit_code = exit_of(code);
	} else {
		log_line(LOG_NOTICE, "sluiced " SLUICE_VERSION " node=%s services=%zu workers=%s control=%s",
			c->node.id, c->n_services, c->workers.socket, c->control.socket);
		give_services(d);
		loop_run(d->loop);
		if (d->end.is_handing_over && d->end.exit_code == 0)
			state_store_save(d);
		notify_again();
		log_line(LOG_NOTICE, "stopped");
	}
	int exit_code = d->end.exit_code;
	close_all(d);
	mem_free(d);
	return exit_code;
}
