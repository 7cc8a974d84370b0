/* codec/ctl_rows - the rows of control replies, as structs with the names of their JSON keys. Pure. Any thread.
 *
 * JSON keys are the field names; every key is always there. A string that is NULL and a number below 0 are written as
 * null: "unknown" or "does not apply". Strings are NUL-terminated and stay the caller's.
 * `session` is a session's number, never the key that resumes it.
 * Units: `*_ms` that are ages or durations are milliseconds; `until_ms` is CLOCK_MONOTONIC as in the worker protocol;
 * `at_ms` is wall time, Unix milliseconds. `redis` is a master's address, host:port.
 * Each ctl_encode_* appends one object and LF. */
#pragma once
#include "base/buf.h"
#include "codec/ctl.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ctl_texts { /* a list of strings */
	const char *const *v;
	size_t n;
};

struct ctl_json { /* JSON text on one line, written as it is; NULL = null */
	const char *text;
};

struct ctl_owned { /* object: state's name -> how many */
	int64_t n[CTL_STATE_N];
};

/* status */
struct ctl_status_redis {
	const char *redis;
	const char *state; /* connected, connecting, relaxed, down */
	const char *slots; /* "0-5460", NULL when standalone */
	bool breaker_open;
	int64_t down_ms;   /* since it was last up; < 0 = it is up */
	const char *error; /* the last one's words while it is down */
};

struct ctl_status_service {
	const char *service;
	bool paused;
	struct ctl_owned owned;
	int64_t credits, credits_in_use, workers;
	int64_t lbs_length, lbs_pending; /* of the whole group */
	int64_t unassigned_oldest_age_ms, owned_oldest_age_ms;
	int64_t dlq_length;
	int64_t entries_dlq_length; /* entries mode; < 0 = not */
	int64_t streams_idle;       /* likewise: of those assigned, without an entry for their worker */
};

struct ctl_status {
	bool ready, draining;
	struct ctl_texts reasons; /* why not ready, or why degraded; empty when all is well */
	const char *node, *version;
	int64_t pid, uptime_ms, workers;
	const struct ctl_status_redis *redis;
	size_t n_redis;
	const struct ctl_status_service *services;
	size_t n_services;
};

/* ls */
struct ctl_stream {
	const char *service, *stream, *id, *lease;
	enum ctl_state state;
	const char *worker; /* name, NULL = none */
	int64_t retry;
	int64_t age_ms;      /* since it was added to the LBS */
	int64_t assigned_ms; /* since this worker has it */
	int64_t until_ms;    /* the worker's fence */
	const char *token;
	const char *note;     /* the worker's last progress note */
	const char *position; /* entries mode: the last acknowledged id; NULL = not */
	int64_t tries;        /* of the entry behind it */
	int64_t lag;          /* entries behind it, 1000 = so many or more; -1 = not looked up */
	int64_t unacked_ms;   /* since something was told and nothing heard of it; -1 = nothing is out */
};

/* ls --waiting, delayed ls */
struct ctl_waiting {
	const char *service, *stream, *id;
	const char *state;     /* delayed, parked, unread; of this daemon's own: ready */
	int64_t retry;         /* < 0 = not looked up */
	int64_t age_ms;        /* since it was added to the LBS */
	const char *reason;    /* delayed: fail, release, add, replay */
	int64_t at_ms, due_ms; /* delayed: when it is due by the server's clock, and how long until then */
	const char *error;     /* delayed: what its worker said */
};

/* delayed now, delayed drop */
struct ctl_waiting_action {
	const char *service, *id, *stream;
	const char *result; /* requeued, resumed, dropped, would_…, gone, error */
	const char *new_id, *error;
};

/* fleet */
struct ctl_fleet {
	const char *service, *consumer;
	const char *node;         /* of a consumer that is named as ours are */
	const char *state;        /* alive, silent (longer than a lease lasts), left (on purpose) */
	int64_t owned;            /* entries pending for it */
	int64_t credits, workers; /* < 0 = it does not say: another client, or it may not write the key */
	int64_t idle_ms;          /* since it last said anything to the group */
	const char *version;      /* NULL = it does not say */
	bool self;
};

/* show */
struct ctl_show {
	struct ctl_stream stream;
	const char *session;
	const char *lbs;        /* key of the load-balancer stream */
	const char *lbs_redis;  /* its master */
	const char *lock;       /* key of the lock */
	const char *lock_redis; /* its master */
	const char *lock_value; /* <consumer>/<incarnation> */
	int64_t renewed_ms;     /* since the last confirmed renewal was sent */
	int64_t lease_left_ms;  /* until the lock can expire */
	int64_t progress_ms;    /* since the last progress */
	int64_t dead_entries;   /* entries mode: of its entries, since it is here; < 0 = not */
	const char *dead_entry; /* the last of them */
	struct ctl_json info;
};

/* explain: why it runs, or why not. */
struct ctl_explain {
	const char *service, *stream, *id;
	const char
		*state; /* an enum ctl_state's name, or: waiting (in the LBS, unread), ghost (delivered, nobody has it),
			    * elsewhere, dead, unknown */
	const char *owner; /* consumer that has it, NULL = none */
	bool running;
	struct ctl_texts because; /* facts, most important first */
	const char *next;         /* what happens next, and when */
	const char *advice;       /* what the operator can do, NULL = nothing to do */
};

/* workers */
struct ctl_worker {
	const char *name, *session;
	int64_t pid, uid;
	int64_t credits, in_use;
	struct ctl_texts services; /* empty = all */
	const char *state;         /* active, draining, limbo, leaving */
	int64_t connected_ms, until_ms;
};

/* nodes */
struct ctl_connection {
	const char *role;    /* command, subscriber, reader */
	const char *state;   /* connecting, handshake, ready, draining, down */
	const char *handoff; /* idle, or the handoff's stage */
	bool relaxed;
	const char *address; /* that it leads to, or tries, now; NULL = not known yet */
	const char *peer;    /* the number behind it; NULL = nobody answers */
	const char *error;   /* why its last attempt to move or to come back failed, NULL = it did not */
};

struct ctl_node {
	const char *redis, *role, *slots, *state;
	const struct ctl_connection *connections;
	size_t n_connections;
	const char *breaker; /* closed, open, half_open */
	int64_t lag_ms;      /* of the shard's event loop, the last second's worst */
};

/* pause, resume */
struct ctl_service_row {
	const char *service;
	bool paused;
};

/* drain, undrain */
struct ctl_drain {
	bool draining;
	int64_t owned, workers;
	int64_t elapsed_ms; /* since the drain began; 0 = there is none */
};

/* release, requeue */
struct ctl_stream_action {
	const char *service, *stream, *id;
	const char *result; /* revoking (the worker was told, it goes back when it stopped), requeued, gone, error */
	const char *error;
};

/* revoke */
struct ctl_revoke {
	const char *worker, *session;
	int64_t streams; /* how many it was told to stop */
};

/* add */
struct ctl_added {
	const char *service, *stream, *id;
};

/* scan */
struct ctl_scan {
	const char *service, *redis;
	const char *result; /* started, error */
	const char *error;
};

/* topology refresh */
struct ctl_topology {
	const char *redis, *role, *slots;
	const char *change; /* same, new, gone, moved */
};

/* dlq ls, dlq show */
struct ctl_dlq_entry {
	const char *service, *id, *stream; /* stream NULL: unparseable */
	const char *reason;
	int64_t at_ms, age_ms;
	const char *node, *error, *orig_id;
	int64_t retry;
	struct ctl_json info;   /* show only */
	struct ctl_json fields; /* show only: all fields, an object of strings */
};

/* entries-dlq ls, entries-dlq show */
struct ctl_entries_dlq_entry {
	const char *service, *id, *stream; /* the data stream; NULL: it does not say */
	const char *reason;
	int64_t at_ms, age_ms;
	const char *node, *error, *orig_id;
	int64_t tries;
	struct ctl_json
		fields; /* show only: a list of its own fields, each [name, value]; {"b64": …} what is not UTF-8 */
};

/* dlq replay, dlq purge, and the same of entries-dlq */
struct ctl_dlq_action {
	const char *service, *id, *stream;
	const char *result; /* replayed, purged, would_replay, would_purge, gone, error */
	const char *new_id, *error;
	int64_t due_ms; /* replayed at a rate: so long until it is back in the LBS */
};

/* reload. One row without a setting when nothing changed. */
struct ctl_reload {
	const char *setting;   /* key path, NULL = the file as a whole */
	const char *result;    /* applied, needs_restart, rejected, unchanged */
	const char *from, *to; /* secrets as *** */
	const char *problem;   /* file:line:column: key.path: problem */
};

/* doctor */
struct ctl_doctor {
	const char *check, *redis;
	const char *result; /* ok, warn, fail, skipped */
	const char *found, *advice;
};

struct ctl_metrics {
	const char *text; /* Prometheus text exposition */
};

struct ctl_event {
	int64_t at_ms;
	const char *level, *text;
};

struct ctl_version {
	const char *version, *node;
	int64_t pid, control, worker; /* protocol versions */
};

/* Each appends one row as a line of JSON; keys: sluicectl(1), JSON. Absent strings (NULL) are null or left out. */
void ctl_encode_status(struct buf *b, const struct ctl_status *row);
/* A row of `sluicectl ls`. */
void ctl_encode_stream(struct buf *b, const struct ctl_stream *row);
void ctl_encode_waiting(struct buf *b, const struct ctl_waiting *row);
void ctl_encode_waiting_action(struct buf *b, const struct ctl_waiting_action *row);
void ctl_encode_fleet(struct buf *b, const struct ctl_fleet *row);
void ctl_encode_show(struct buf *b, const struct ctl_show *row); /* ctl_stream's keys, then its own, in one object */
void ctl_encode_explain(struct buf *b, const struct ctl_explain *row);
/* A row of `sluicectl workers`. */
void ctl_encode_worker(struct buf *b, const struct ctl_worker *row);
/* A row of `sluicectl nodes`. */
void ctl_encode_node(struct buf *b, const struct ctl_node *row);
/* A row of `sluicectl services`. */
void ctl_encode_service_row(struct buf *b, const struct ctl_service_row *row);
/* The answer to drain and undrain, and its progress. */
void ctl_encode_drain(struct buf *b, const struct ctl_drain *row);
/* The answer to an action on one stream: pause, resume, give back. */
void ctl_encode_stream_action(struct buf *b, const struct ctl_stream_action *row);
/* A row of `sluicectl revoke`: a worker and how many streams it is to let go of. */
void ctl_encode_revoke(struct buf *b, const struct ctl_revoke *row);
/* The answer to add: the new entry. */
void ctl_encode_added(struct buf *b, const struct ctl_added *row);
/* The answer to scan, one row a service. */
void ctl_encode_scan(struct buf *b, const struct ctl_scan *row);
/* A row of `sluicectl topology`: one master. */
void ctl_encode_topology(struct buf *b, const struct ctl_topology *row);
void ctl_encode_dlq_short(struct buf *b, const struct ctl_dlq_entry *row); /* without info and fields */
void ctl_encode_dlq_entry(struct buf *b, const struct ctl_dlq_entry *row);
void ctl_encode_entries_dlq_short(struct buf *b, const struct ctl_entries_dlq_entry *row); /* without fields */
void ctl_encode_entries_dlq_entry(struct buf *b, const struct ctl_entries_dlq_entry *row);
/* A dead letter that was deleted or replayed, or why not. */
void ctl_encode_dlq_action(struct buf *b, const struct ctl_dlq_action *row);
/* A setting that a reload has changed, or that waits for a restart. */
void ctl_encode_reload(struct buf *b, const struct ctl_reload *row);
/* One finding of the doctor. */
void ctl_encode_doctor(struct buf *b, const struct ctl_doctor *row);
/* The metrics page as one string. */
void ctl_encode_metrics(struct buf *b, const struct ctl_metrics *row);
/* A line of `sluicectl events`. */
void ctl_encode_event(struct buf *b, const struct ctl_event *row);
/* The answer to version: of the daemon that runs. */
void ctl_encode_version(struct buf *b, const struct ctl_version *row);
