/* explain_remote_p - what the files of explain for what this daemon does not hold share: one search through the
 * services. Coordinator thread. */
#pragma once
#include "run/control/explain.h"
#include "run/control/missing.h"
#include "run/control/redis.h"

enum seek_stage {
	SEEK_GROUP,
	SEEK_LENGTH, /* all that is pending is ours: is that all there is? */
	SEEK_UNREAD,
	SEEK_ACTIVE,
	SEEK_NAMED,
	SEEK_LBS,
	SEEK_PENDING,
	SEEK_LOCK,
	SEEK_PARKED,
	SEEK_LOOSE, /* pending for nobody: was it delivered? */
	SEEK_DELAYED,
	SEEK_DUE,
	SEEK_DLQ
};

/* The services that are looked through. */
struct seek_walk {
	uint16_t *svcs;
	size_t n, at;
	size_t n_seen, page_n;   /* entries of the present one; so many are asked for */
	struct entry_id *unread; /* by service: the first that nobody has read; 0-0 = not known */
	bool *all_ours;          /* by service: all there is, is held by this daemon, which did not have it */
	long long n_pending;
	bool is_cut, is_second; /* there was more than we look through; the second pass */
	bool has_active;        /* what the registry names is being looked at; what is not read comes after it */
	struct entry_id active; /* its id, in this service; 0-0 = none */
	struct missing missing;
};

struct seek {
	struct control_req *q;
	struct view_match want;
	struct seek_walk walk;
	enum seek_stage stage;
	struct command_names lbs,
		dlq; /* lbs: the load-balancer stream in the place of the dead letters, to page through it */
	bool has_names, is_waiting;
	struct control_redis *conn;
	struct entry_id from, id;
	struct text *stream;
	uint16_t lock_slot;
	char *consumer;
	int64_t idle_ms, deliveries;
	char *packed; /* what waits for its time */
	size_t packed_len;
	struct explain_found found;
	size_t n_before; /* found in the services before the present one */
};

/* The service under way; NULL: it was removed meanwhile. */
const struct coord_service *seek_service(const struct seek *j);
/* After something was found, or nothing: what is next to be looked for. */
void seek_go_on(struct seek *j);

/* ---- explain_found.c: a row each, of the entry j->id, then seek_go_on */
void found_waiting(struct seek *j);
/* Delivered, and pending for nobody: it waits until the running one of its stream has ended. */
void found_parked(struct seek *j);
/* Delivered, and neither pending nor waiting for its stream. */
void found_ghost(struct seek *j);
void found_delayed(struct seek *j, int64_t due_ms);
/* Pending for j->consumer. lock: its lock's value, REPLY_NIL = it has none; REPLY_NONE: why tells why it is not
 * known. */
void found_elsewhere(struct seek *j, const struct reply *lock, const char *why);
void found_dead(struct seek *j, const struct entry_in *e);
