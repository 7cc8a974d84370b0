/* session - one worker connection's protocol state: hello, liveness, what it was told, recent outcomes.
 * Pure. Owner: the coordinator's thread. Times: monotonic ms.
 *
 *   NEW --hello--> HELD --own entries known--> READY --closed--> DETACHED --hello with session--> (a new READY)
 *    \______________________________________\____fatal, bye_____/___deadline______________________> (ended) */
#pragma once
#include "base/heap.h"
#include "core/cmd.h"
#include "core/frame.h"
#include "core/turn.h"
#include <sys/types.h>

enum session_state { SESSION_NEW, SESSION_HELD, SESSION_READY, SESSION_DETACHED, SESSION_STATES };

enum { SESSION_KEY = 32, SESSION_OUTCOMES_MIN = 256 };

struct session_outcome { /* what became of a lease, for repeats and resumes */
	struct entry_id id;
	uint64_t service; /* the hash of its name: it may be removed, and come back, before the worker asks */
	uint8_t outcome;  /* enum gone_outcome */
	uint8_t ok_for;   /* enum ok_for */
	bool used;
	bool is_result; /* the worker's own: ok_for */
	bool is_zombie; /* revoked, never answered: its credit is still in use */
};

struct session {
	uint64_t id;
	uint8_t state; /* enum session_state */
	struct heap_node timer;
	char key[SESSION_KEY + 1]; /* the secret that resumes it */
	char name[128];
	pid_t pid;
	uid_t uid;
	mono_ms connected_at, last_heard, last_ping, deadline;
	mono_ms told_until;   /* the latest until_ms it was told; 0 = none */
	mono_ms told_ping_ms; /* how often it expects a ping */
	int64_t n_pings;
	struct session_outcome *outcomes; /* ring */
	uint32_t n_outcomes, next_outcome;
};

/* From here on the first part of an id is taken for microseconds, and for nanoseconds: as milliseconds, the year
 * 2286. */
static const uint64_t SESSION_ID_US = 10000000000000, SESSION_ID_NS = 10000000000000000;
/* From here on the second part is no count of what was added in one millisecond. */
static const uint64_t SESSION_ID_SEQ = 1000000000;

enum { SESSION_LEASE_CAP = FRAME_LEASE_MAX + 1, SESSION_TOKEN_CAP = 24 };

/* NEW, without a name; id: the runtime's number of its connection. */
void session_init(struct session *s, uint64_t id, mono_ms now);
/* The only way its state changes, by sm_move. */
void session_move(struct session *s, enum session_state to, struct effects *out, const char *why);
/* Frees the outcomes it remembers. */
void session_fini(struct session *s);
/* Checks a hello. FERR_N = good; else the fatal code, *why = sentence. */
enum frame_error session_check_hello(const struct frame *f, const char **why);
/* Keeps how a lease ended, for a hello that asks; the oldest goes, but at least twice credits are kept. */
void session_remember(struct session *s, uint32_t credits, struct session_outcome o);
/* The newest of that entry; NULL: not remembered. Valid until the next session_remember. */
struct session_outcome *session_recall(const struct session *s, uint64_t service, struct entry_id id);
/* The lease string of an entry: "<ms>-<seq>.<hash of the service, 16 hex>". Returns its length. */
int session_lease_format(char out[SESSION_LEASE_CAP], struct entry_id id, uint64_t service_hash);
/* Puts the mark of entries mode behind those n bytes: a worker that comes back to the next process names it with its
 * lease, and so the mode it works in. Returns the length. */
int session_lease_mark(char out[SESSION_LEASE_CAP], int n);
/* The token of an entry, 19 digits: ms × 10^6 + sequence; ids that are not milliseconds are scaled. Returns its
 * length. */
int session_token_format(char out[SESSION_TOKEN_CAP], struct entry_id id);
/* A lease's text from outside, with or without the mark of entries mode; false: it is none of ours. */
bool session_lease_parse(struct slice lease, struct entry_id *id, uint64_t *service_hash);
/* It has that mark. One without may be of entries mode, too, from a daemon that did not mark them yet. */
bool session_lease_is_marked(struct slice lease);
/* Next moment at which something is due: a ping, the end of silence, a deadline. */
mono_ms session_deadline(const struct session *s, mono_ms ping_ms);
static inline bool session_is_silent(const struct session *s, mono_ms ping_ms, mono_ms now)
{
	return now - s->last_heard > 3 * ping_ms;
}
