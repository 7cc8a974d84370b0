/* control - what the files of the control door share: one request, its life, and how a verb answers. Coordinator
 * thread.
 *
 * A verb is a control_verb_fn, in socket.c's table. It adds rows to .out and ends with control_end, or it leaves
 * a job: a step that runs from the door's pump until it ends the request. Nothing is freed before the pump's next
 * round, so a request may be ended from anywhere. Promise: a step writes a bounded amount and waits while the
 * client does not read. */
#pragma once
#include "base/buf.h"
#include "base/list.h"
#include "codec/command.h"
#include "codec/ctl_rows.h"
#include "io/unix.h"
#include "run/daemon.h"

enum { CONTROL_UNAVAILABLE = 69 }; /* an exit: nobody has answered, it is not "no" */
enum { CONTROL_CONNS_MAX = 64, CONTROL_IDLE_MS = 10000, CONTROL_PENDING_MAX = 1 << 20, CONTROL_CHUNK = 1000 };

struct control_req;
/* Does a part of the work; returns when it wants to go on (MONO_NEVER: when something else wakes it by
 * control_wake). */
typedef mono_ms control_step_fn(struct control_req *q, mono_ms now);
/* An operation's end (EFF_CTL): runs inside performing, so it only remembers and calls control_wake. */
typedef void control_result_fn(
	struct control_req *q, uint32_t index, enum op_result result, struct entry_id id, const char *text);

struct control_req {
	struct link all;
	struct control_socket *door;
	struct daemon *d;
	struct unix_conn *conn; /* NULL: the client is gone, or it has its answer */
	struct buf in, out;
	struct ctl_request r;
	bool has_request, is_ended, is_excess;
	mono_ms since, wake_at;
	control_step_fn *step;
	control_result_fn *result;
	void *job;
	void (*job_free)(void *job);
	uint32_t first, n_numbers; /* its numbers of coordinator requests */
};

/* Rows go into q->out; this hands it to the socket. */
void control_flush(struct control_req *q);
/* The final line; error may be NULL. */
void control_end(struct control_req *q, int exit, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The step runs in a later round. */
void control_wake(struct control_req *q);
/* The step runs now: after an answer of control_redis, which does not come from inside a step. */
void control_go_on(struct control_req *q);
/* The request is answered over several turns: step is called now and after each control_wake. job is freed by
 * job_free when the request ends, however that happens. */
void control_job(struct control_req *q, control_step_fn *step, void *job, void (*job_free)(void *job));
/* True while the client has too much unread: a step comes back later. */
bool control_is_full(const struct control_req *q);
/* Reserves n numbers for operations of the coordinator; results come to q->result with an index from 0. */
uint32_t control_numbers(struct control_req *q, uint32_t n, control_result_fn *fn);
/* Hands an operator's order to the coordinator; ctl and what it points to stay the caller's. Runs one turn. */
void control_ctl(struct control_req *q, const struct coord_ctl *ctl);
/* The service the request names, or NULL after ending the request with exit 1. */
struct coord_service *control_service(struct control_req *q, const char *name);
/* The same, also one that a reload removed and that still holds something: to look at that, and to give it back. */
struct coord_service *control_service_held(struct control_req *q, const char *name);

/* ---- verbs */
typedef void control_verb_fn(struct control_req *q);
control_verb_fn control_status, control_ls, control_show, control_workers, control_nodes, control_version; /* view.c */
control_verb_fn control_metrics, control_explain, control_events, control_doctor;
control_verb_fn control_pause, control_resume, control_drain, control_undrain, control_give_back, control_revoke,
	control_add, control_scan, control_refresh, control_reload; /* operate.c */
control_verb_fn control_dlq;
control_verb_fn control_fleet;
/* Tells the other daemons what our workers can take, once in a while and when it has changed. Every second. */
void control_fleet_tick(struct daemon *d, mono_ms now);
control_verb_fn control_waits; /* delayed ls, now, drop; ls --waiting */

/* ---- views of the core, view.c and state.c */
struct view_service { /* one service's share of the ledger */
	int64_t n[CTL_STATE_N];
	int64_t in_use,
		stuck; /* credits; stuck: those of in_use whose stream was taken back, the worker has not stopped */
	uint64_t oldest_unassigned_ms, oldest_ms; /* id times; UINT64_MAX = none */
	int64_t credits, workers;
	int64_t lbs, pending, dlq, entries_dlq, wanted, delayed, parked; /* -1 = not known */
	struct shard_feeds feeds;                                        /* entries mode */
};
/* By position, services.n of them; the caller frees. One pass over ledger and workers. */
struct view_service *view_services(struct daemon *d);
/* The state that operators see now: fewer than the record has. */
enum ctl_state view_state(const struct entry *e, mono_ms now);
/* By node: "0-5460 9000" or empty; caller calls buf_fini on each and frees. */
struct buf *view_slots(const struct topology *t);
/* n buffers as view_slots made them, and the array. */
void view_slots_free(struct buf *v, size_t n);
const char *view_addr(const struct daemon *d, uint16_t slot); /* of the master that serves the slot; NULL = nobody */
int64_t view_age_ms(int64_t wall_ms, struct entry_id id);
/* `text` is an entry's id or a stream's name; service NULL = any. */
struct view_match {
	const char *stream;
	size_t len;
	struct entry_id id;
	bool by_id;
	uint16_t svc;
};
/* What an operator typed: a stream's name, or an entry's id. text must outlive m. svc: SERVICE_NONE = of any. */
void view_match_init(struct view_match *m, const char *text, uint16_t svc);
/* Is it the entry, or one of that stream? */
bool view_matches(const struct view_match *m, const struct entry *e);
/* What the request names, in the service it names; false: no such service, the request is answered. */
bool control_match(struct control_req *q, struct view_match *m);
/* The lock's key; caller frees. */
char *view_lock_key(const struct entry *e);

/* ---- what the daemon said, events.c */
struct control_events;
/* Taps the log: every line goes to its followers, through a mailbox. Coordinator's thread. */
struct control_events *control_events_open(struct daemon *d);
/* Ends the tap; followers must have ended. NULL is not fine. */
void control_events_close(struct control_events *e);
/* Of that socket; its owner stays the socket. */
struct control_events *control_socket_events(struct control_socket *door);
/* A follower's connection has ended. Unknown: nothing happens. */
void control_events_forget(struct control_events *e, struct control_req *q);
