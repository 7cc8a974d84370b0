/* coord - the daemon's centre as one pure step: composes topology, ledger, session and placement.
 * Pure. Owner: the coordinator's thread. Times: monotonic ms.
 * Promises: an entry is assigned only after it was locked and taken; a lock is released only after Redis confirmed the
 * outcome; a worker is told to stop at good_until - stop_margin at the latest; an entry a worker may know of
 * changes hands only through the load-balancer stream, so that its token rises. */
#pragma once
#include "core/metric.h"
#include "core/turn.h"
#include <sys/types.h>

struct coord;

enum coord_event_kind {
	COORD_TICK,
	COORD_SERVICES, /* .services (.n references move): the whole table, at start and at reload */
	COORD_LIMITS,   /* .rules: changed limits (reload) */
	COORD_TOPOLOGY, /* .slots .n: the answer of CLUSTER SLOTS; or .text = address of the one standalone server */
	COORD_TOPOLOGY_FAILED, /* .text why */
	COORD_MSG,             /* .msg from a shard: what it owns is the step's */
	COORD_ACCEPT, /* .session connected; .pid .uid; .flag = may talk to us; .text = 32 random hex digits, its key */
	/* .session connected to our former process; .pid .uid; .text = its key; .frame = a hello with its name,
	 * credits, services and, as .resume, the leases it holds; .until = what it was told; .n = pings so far.
	 * Needs coord_knows_own. Refused: EFF_CLOSE */
	COORD_ADOPT,
	COORD_FRAME,     /* .session .frame */
	COORD_BAD_INPUT, /* .session .error (bad_frame, too_big, slow_reader) .text */
	/* .session: its socket is closed; .n: so many of the latest assigns and frames of entries it has not read */
	COORD_END,
	COORD_PEER_DEAD, /* .session: its process has ended */
	COORD_CTL,       /* .ctl */
	/* .flag = drain first, else hand over: answered by EFF_FATAL with exit code 0, at most STOP_WAIT_MS later for a
	 * handover */
	COORD_STOP
};

enum coord_ctl_kind {
	CTL_PAUSE,
	CTL_RESUME,
	CTL_GIVE_BACK,
	CTL_TRY_NOW, /* the entry behind its position waits no longer */
	CTL_REVOKE,
	CTL_ADD,
	CTL_DRAIN,
	CTL_UNDRAIN,
	CTL_REFRESH,
	CTL_SCAN
};

struct coord_ctl {
	enum coord_ctl_kind kind;
	uint32_t request;          /* EFF_CTL carries it: CTL_ADD, CTL_GIVE_BACK */
	uint16_t svc;              /* SERVICE_NONE = all */
	uint64_t handle;           /* give back, try now: the entry */
	uint64_t session;          /* revoke */
	struct slice stream, info; /* add */
	mono_ms delay_ms;          /* add: so long from now */
	int64_t at_ms;             /* add: then, Unix ms by the server's clock; 0 = by delay_ms */
};

struct coord_event {
	enum coord_event_kind kind;
	mono_ms now;
	int64_t wall_ms;
	uint64_t session;
	const struct frame *frame;
	enum frame_error error;
	struct slice text;
	bool flag;
	pid_t pid;
	uid_t uid;
	size_t n;
	mono_ms until;
	struct service_rules **services;
	const struct coord_rules *rules;
	const struct slot_range *slots;
	const struct msg *msg;
	const struct coord_ctl *ctl;
};

/* Heap; coord_free. rules are copied. Starts with the first step. */
struct coord *coord_new(const struct coord_rules *rules);
/* NULL is fine. Nobody is told. */
void coord_free(struct coord *c);
/* Is it known what a former process of this node has left to us? */
bool coord_knows_own(const struct coord *c);
/* Handles what is due at ev->now, then ev; appends effects. Returns the next deadline. */
mono_ms coord_step(struct coord *c, const struct coord_event *ev, struct effects *out);
