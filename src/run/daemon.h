/* daemon - the coordinator thread's own state, for the files of run/ that live on it: coord_thread, readiness,
 * reload, worker_socket, and those of control/ and metrics/. Owner: the coordinator's thread. */
#pragma once
#include "config/config.h"
#include "core/coord/coord_p.h"
#include "io/http.h"
#include "io/loop.h"
#include "io/mailbox.h"
#include "io/signals.h"
#include "run/msg.h"
#include "run/rules_from_config.h"
#include "run/shard_thread.h"
#include "run/topology_client.h"
#include "run/worker_socket.h"

struct control_socket;
struct credentials;
struct state_store;

enum { DAEMON_ENDPOINTS = 64, REFUSED_FOR_MS = 3000 /* then it is not ready */ };

/* The configuration's file, and what came of it the last time. */
struct daemon_reload_state {
	const char *path;
	bool is_bad; /* the last one was rejected */
};

/* Which daemon it is, and which of its processes. */
struct daemon_self {
	uint64_t incarnation;
	struct rules_ids ids;
};

/* How it speaks to Redis. */
struct daemon_login {
	const char *password; /* NULL = none; secret_keep's */
	struct redis_tls *tls;
	const char *sentinel_password; /* NULL = none; secret_keep's */
	bool sentinel_password_said;   /* that it cannot be read */
	struct credentials *credentials;
};

/* The threads of the shards, by number. */
struct daemon_shards {
	struct shard_thread *v[SHARDS_MAX];
	struct snapshot *snapshots[SHARDS_MAX]; /* the last of each, or NULL */
	mono_ms since[SHARDS_MAX];              /* started */
	uint16_t n;
	struct shard_rules rules;
	struct metrics_handoff gone_handoffs; /* of shards that have stopped */
};

/* What the other daemons know of us, by service position. */
struct daemon_fleet {
	struct fleet_told *told;
	uint16_t n;
};

struct daemon_topology {
	struct topology_client *client;
	char why[512];                                 /* last failure */
	uint64_t refused[DAEMON_ENDPOINTS][REFUSAL_N]; /* by configured endpoint */
};

struct daemon_clock {
	mono_ms started_at, next_second;
	int64_t started_wall_ms;
	struct mono_wall wall;
	mono_ms core_deadline;
	struct hist lag;
};

/* When memory is given back. */
struct daemon_memory {
	uint32_t peak_entries; /* since it was given back */
	bool trim_due;
};

/* Is it ready, and what does the service manager know? readiness.c */
struct daemon_status {
	bool is_ready, was_ready, is_told, is_stuck;
	bool has_begun; /* it was ready once */
	char text[300];
};

/* The end of the process. */
struct daemon_end {
	bool is_stopping, is_draining;
	bool is_handing_over; /* is_stopping: what is held stays for the next process */
	bool is_ending, is_closing;
	int exit_code;
};

struct daemon {
	struct daemon_reload_state reload;
	struct config *config;
	struct daemon_login login;
	struct daemon_self self;
	struct loop *loop;
	struct mailbox *mail; /* from shards */
	struct signals *signals;
	struct coord *core;
	struct effects effects;
	struct daemon_topology topo;
	struct worker_socket *workers;
	struct control_socket *control;
	struct daemon_fleet fleet;
	struct state_store *store; /* connections of the former process that are not adopted yet, or NULL */
	struct http *http;
	struct daemon_shards shards;
	struct daemon_clock clock;
	struct daemon_memory memory;
	struct daemon_status status;
	struct daemon_end end;
};

/* coord_thread.c: one turn: fills now and wall_ms, steps, performs. Never called from inside performing. */
void daemon_step(struct daemon *d, struct coord_event *ev);
/* readiness.c: everything up and readable? Appends reasons ("redis 10.0.0.1:6379: connection refused\n") when not.
 * reasons may be NULL. */
bool daemon_ready(struct daemon *d, struct buf *reasons);

/* view.c: what the shard's master refuses for the moment, as told within the last seconds; NULL: nothing. */
const struct shard_refused *view_refused(const struct daemon *d, uint16_t shard);

/* reload.c. Rows are for sluicectl reload: fn(arg, path, before, after, class) with class "applied", "needs
 * restart", "rejected". */
typedef void reload_row_fn(void *arg, const char *path, const char *before, const char *after, const char *class);
/* Validates everything first. ERR_OK: applied what may be applied live; else nothing changed and err says why. */
enum err_code daemon_reload(struct daemon *d, reload_row_fn *fn, void *arg, struct err *err);

/* readiness.c: what the service manager sees. */
void service_tick(struct daemon *d); /* once a second: READY, STATUS, WATCHDOG */
void service_dump(struct daemon *d); /* SIGUSR1: the state to the log */

/* metrics/page.c */
void metrics_page(struct daemon *d, struct buf *out);
/* That shard has stopped: what it counted by service or in all is the coordinator's from now on. */
void metrics_keep(struct daemon *d, uint16_t shard);
/* Answers a GET of the metrics listener: appends the body, returns the status. arg is the daemon. */
int metrics_http(void *arg, const char *path, struct buf *body, const char **content_type);

/* control/socket.c */
enum err_code control_socket_open(struct daemon *d, int fd, struct control_socket **out, struct err *err);
/* Ends every request ("the daemon is stopping") and stops listening. NULL is fine. */
void control_socket_close(struct control_socket *c);
/* An operation that a control request waits for has ended (EFF_CTL). */
void control_socket_result(
	struct control_socket *c, uint32_t request, enum op_result result, struct entry_id id, const char *text);
void control_socket_tick(struct control_socket *c, mono_ms now); /* once a second and after drains: waiting requests */
