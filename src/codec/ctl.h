/* codec/ctl - the control protocol between sluicectl and the daemon. Pure. Any thread.
 *
 * A connection to the control socket carries one request and its reply; the daemon closes after the final line.
 *   request   {"v":1,"verb":"ls","args":{"service":"orders"}}        one line, at most CTL_REQUEST_MAX bytes
 *   reply     zero or more rows, one JSON object per line (codec/ctl_rows.h): exactly what `sluicectl --json` prints
 *   final     {"end":true,"exit":0}  or  {"end":true,"exit":1,"error":"one sentence"}
 * `exit` is what sluicectl exits with: 0 ok, 1 the answer is no, 64 usage, 69 nobody answers (too many ask, or it
 * stops), 77 not permitted, 78 configuration rejected.
 * A request that does not decode is answered with exit 64 and the sentence of ctl_decode.
 *
 * Silence: sluicectl gives up after --timeout (5 s, `doctor` 30 s) without a line, so a verb that takes longer (`dlq
 * replay --rate`, `scan`) sends its rows as it goes. `events --follow` and `drain --wait` may be silent for ever;
 * `drain
 * --wait` sends a row each second so that the operator sees it move. A client that goes away ends a streaming verb.
 *
 * The two tables behind ctl_verb_info and ctl_arg_info are the one list of verbs and arguments: the decoder, the
 * encoder, sluicectl's command line and its help all come from them. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CTL_PROTOCOL = 1, CTL_REQUEST_MAX = 64 * 1024 };

enum ctl_verb {
	CTL_VERB_STATUS, /* one ctl_status; with `ready`: exit 1 when not ready */
	/* ctl_stream rows, oldest first; `limit` after sorting; with `waiting` ctl_waiting rows of the whole group */
	CTL_VERB_LS,
	CTL_VERB_SHOW,    /* ctl_show rows: what this daemon holds under that name or id; exit 1 when nothing */
	CTL_VERB_EXPLAIN, /* ctl_explain rows, also for streams this daemon does not hold; exit 1 when unknown
			     everywhere */
	CTL_VERB_WORKERS, /* ctl_worker rows */
	CTL_VERB_NODES,   /* ctl_node rows */
	CTL_VERB_PAUSE,   /* ctl_service_row per service touched; no service = all */
	CTL_VERB_RESUME,
	CTL_VERB_DRAIN, /* ctl_drain rows: one, or with `wait` one a second until nothing is owned */
	CTL_VERB_UNDRAIN,
	CTL_VERB_RELEASE, /* ctl_stream_action rows; exit 1 when nothing matched */
	CTL_VERB_REQUEUE,
	CTL_VERB_REVOKE,           /* ctl_revoke rows: every session of that name, or the session of that id */
	CTL_VERB_ADD,              /* ctl_added rows; count N > 1 adds STREAM-1 … STREAM-N */
	CTL_VERB_SCAN,             /* ctl_scan rows, one per master */
	CTL_VERB_TOPOLOGY_REFRESH, /* ctl_topology rows */
	CTL_VERB_DLQ_LS,           /* ctl_dlq_entry rows, short */
	CTL_VERB_DLQ_SHOW,         /* ctl_dlq_entry rows, whole */
	CTL_VERB_DLQ_REPLAY,       /* ctl_dlq_action rows; with dry_run nothing is changed */
	CTL_VERB_DLQ_PURGE,
	CTL_VERB_ENTRIES_DLQ_LS,     /* ctl_entries_dlq_entry rows, short: dead letters of a service in entries mode */
	CTL_VERB_ENTRIES_DLQ_SHOW,   /* ctl_entries_dlq_entry rows, whole */
	CTL_VERB_ENTRIES_DLQ_REPLAY, /* ctl_dlq_action rows */
	CTL_VERB_ENTRIES_DLQ_PURGE,
	CTL_VERB_FLEET,        /* ctl_fleet rows: every consumer of the group; no service = all */
	CTL_VERB_DELAYED_LS,   /* ctl_waiting rows, soonest first; no service = all */
	CTL_VERB_DELAYED_NOW,  /* ctl_waiting_action rows; exit 1 when a stream or id was given and does not wait */
	CTL_VERB_DELAYED_DROP, /* the same */
	CTL_VERB_RELOAD,       /* ctl_reload rows; exit 78 when one is rejected, then nothing was applied */
	CTL_VERB_DOCTOR,       /* ctl_doctor rows; exit 1 when one failed */
	CTL_VERB_METRICS,      /* one ctl_metrics */
	CTL_VERB_EVENTS,       /* ctl_event rows: the last ones; with `follow` also every new one */
	CTL_VERB_VERSION,      /* one ctl_version */
	CTL_VERB_N
};

/* Where an entry stands, seen from the daemon that holds it. */
enum ctl_state {
	CTL_STATE_LOCKING,   /* read, its lock is being taken */
	CTL_STATE_PARKED,    /* waits behind a running entry of the same stream */
	CTL_STATE_READY,     /* ours, waits for a worker's credit */
	CTL_STATE_ASSIGNED,  /* a worker has it */
	CTL_STATE_REVOKING,  /* the worker was told to stop */
	CTL_STATE_LIMBO,     /* its worker's connection dropped; may resume */
	CTL_STATE_FINISHING, /* outcome known, Redis has not confirmed it yet */
	CTL_STATE_LOST,      /* not ours any more, the worker has not confirmed that it stopped */
	CTL_STATE_BLOCKED,   /* assigned, and an entry of it waits for its retry (entries mode) */
	CTL_STATE_N
};

enum ctl_arg {
	CTL_ARG_SERVICE,
	CTL_ARG_STREAM,
	CTL_ARG_WORKER,
	CTL_ARG_ID,
	CTL_ARG_STATE,
	CTL_ARG_REASON,
	CTL_ARG_INFO,
	CTL_ARG_IN,
	CTL_ARG_AT,
	CTL_ARG_OLDER_THAN,
	CTL_ARG_COUNT,
	CTL_ARG_LIMIT,
	CTL_ARG_RATE,
	CTL_ARG_READY,
	CTL_ARG_WAIT,
	CTL_ARG_FOLLOW,
	CTL_ARG_DRY_RUN,
	CTL_ARG_WAITING,
	CTL_ARG_N
};

/* One request. Strings belong to it and are NULL when not given; never empty, never with a NUL inside. */
struct ctl_request {
	enum ctl_verb verb;
	uint32_t given; /* bit per enum ctl_arg */
	char *service;
	char *stream; /* show, explain, release, requeue: a name or an entry id, see ctl_is_entry_id; dlq, add: a name
		       */
	char *worker; /* a worker's name or a session id */
	char *id;     /* dlq: id of the dead letter, well formed */
	char *reason; /* dlq: the name of an enum dead_reason */
	char *info;   /* add: JSON text on one line, value-exact as it was given */
	enum ctl_state state;  /* CTL_STATE_N = any */
	char *at;              /* add: a time that instant_parse reads; NULL = by in_ms */
	int64_t in_ms;         /* add: 0 = at once */
	int64_t older_than_ms; /* 0 = any */
	int64_t count;         /* add: 1.. ; default 1 */
	int64_t limit;         /* 0 = none */
	int64_t rate_per_s;    /* 0 = as fast as it goes */
	bool ready, wait, follow, dry_run, waiting;
};

/* How an argument's value is written on the command line and on the wire. */
enum ctl_type {
	CTL_TYPE_TEXT,
	CTL_TYPE_ID,       /* 1700000000000-0 */
	CTL_TYPE_STATE,    /* name of an enum ctl_state */
	CTL_TYPE_REASON,   /* name of an enum dead_reason */
	CTL_TYPE_TIME,     /* see instant_parse: local times are those of the daemon */
	CTL_TYPE_JSON,     /* wire: any JSON value */
	CTL_TYPE_DURATION, /* wire: milliseconds; text: 500ms 10s 5m 2h 1d */
	CTL_TYPE_NUMBER,
	CTL_TYPE_RATE, /* text: 100/s; wire: 100 */
	CTL_TYPE_FLAG
};

struct ctl_arg_info {
	const char *name;   /* key on the wire, and the field above: "older_than_ms" */
	const char *option; /* on the command line: "--older-than" */
	const char *value;  /* placeholder: "DUR"; NULL for flags */
	const char *help;
	enum ctl_type type;
	int64_t min, max; /* numbers, durations, rates */
	size_t at;        /* of the field in struct ctl_request */
};

struct ctl_verb_info {
	const char *name; /* on the wire and on the command line, words separated by one space: "dlq ls" */
	const char *help;
	enum ctl_arg positional[2];
	unsigned n_positional, n_required; /* the first n_required positionals must be there */
	uint32_t options;                  /* bits of the other arguments allowed */
};

/* Its row of the table: name, arguments, help. Static. */
const struct ctl_verb_info *ctl_verb_info(enum ctl_verb verb);
/* Its row of the table: name and type. Static. */
const struct ctl_arg_info *ctl_arg_info(enum ctl_arg arg);
/* False: no such verb; *out is unchanged. */
bool ctl_verb_parse(const char *name, enum ctl_verb *out);
/* As the control protocol spells it. Static. */
const char *ctl_state_name(enum ctl_state state);
/* False: no such state; *out is unchanged. */
bool ctl_state_parse(const char *name, enum ctl_state *out);
/* digits-digits: an id of a stream entry, not a stream's name. */
bool ctl_is_entry_id(const char *text);
static inline bool ctl_has(const struct ctl_request *r, enum ctl_arg arg)
{
	return r->given >> arg & 1u;
}

/* A request without arguments. fini frees the strings and may be called twice. */
void ctl_request_init(struct ctl_request *r, enum ctl_verb verb);
/* Frees its texts; it may be filled again. */
void ctl_request_fini(struct ctl_request *r);
/* Sets one argument from its command-line text (a flag: text is ignored). ERR_INVALID or ERR_RANGE with a sentence that
 * names the option; also when the verb does not have it or it was given before. r is unchanged on failure. */
enum err_code ctl_request_set(struct ctl_request *r, enum ctl_arg arg, const char *text, struct err *err);
/* Is everything there that the verb needs? ERR_INVALID names what is missing. */
enum err_code ctl_request_check(const struct ctl_request *r, struct err *err);

/* Decodes one request line (with or without its line end). On success *out is the caller's to fini; on failure it is
 * untouched. ERR_RANGE: longer than CTL_REQUEST_MAX or a value outside its range; ERR_INVALID: anything else wrong. */
enum err_code ctl_decode(const char *line, size_t len, struct ctl_request *out, struct err *err);
/* Appends the request and its LF. ERR_RANGE, nothing appended, when it would be longer than CTL_REQUEST_MAX. */
enum err_code ctl_encode(struct buf *b, const struct ctl_request *r, struct err *err);

/* The final line of a reply. */
struct ctl_end {
	int exit;
	const char *error; /* NULL = none */
};
/* The last line of every answer: exit code, and why when it is not 0. */
void ctl_encode_end(struct buf *b, const struct ctl_end *end);
