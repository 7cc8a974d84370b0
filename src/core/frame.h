/* frame - the worker protocol's messages, sluice-worker(7), as data. codec/frame turns bytes into these and back;
 * core/coord/session decides. Strings are slices into the decoder's memory and are valid during the turn
 * only, on its thread. */
#pragma once
#include "base/mono.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
	const char *p; /* NULL = absent */
	size_t len;
};

/* s NULL: absent. Points into s. */
static inline struct slice slice_str(const char *s)
{
	return (struct slice){s, s ? strlen(s) : 0};
}

struct entry_id {
	uint64_t ms, seq;
};

enum { FRAME_LEASE_MAX = 64, FRAME_CREDITS_MAX = 10000, FRAME_DEPTH_MAX = 16, FRAME_RETRY_MS_MAX = 86400000 };

enum frame_kind { /* worker -> daemon */
	FRAME_HELLO,
	FRAME_CREDITS,
	FRAME_DONE,
	FRAME_FAIL,
	FRAME_RELEASE,
	FRAME_PROGRESS,
	FRAME_ACK,
	FRAME_NACK,
	FRAME_REVOKED,
	FRAME_PING,
	FRAME_PONG,
	FRAME_BYE,
	FRAME_UNKNOWN, /* well formed, `t` unknown: name in .type */
	FRAME_N
};

/* What is wrong with a well-formed frame of a known type; FRAME_PROBLEM_NONE = nothing. */
enum frame_problem {
	FRAME_PROBLEM_NONE,
	FRAME_PROBLEM_FIELD, /* missing or of the wrong type: .bad_field says which and why */
	FRAME_PROBLEM_LIMIT  /* credits outside 0..10000 */
};

struct frame_hello {
	int64_t v; /* version, -1 = absent or not an integer */
	struct slice name;
	bool has_services; /* `services` given */
	struct slice *services;
	size_t n_services;
	struct slice session;
	struct slice *resume;
	size_t n_resume;
	bool takes_entries;
};

struct frame {
	enum frame_kind kind;
	enum frame_problem problem;
	const char *bad_field; /* static text, e.g. "lease: missing"; NULL unless problem */
	struct slice type;     /* `t` as it came */
	struct frame_hello hello;
	int64_t credits; /* hello, credits (from `n`) */
	struct slice lease;
	struct slice reason;   /* fail, nack */
	bool dead;             /* fail, nack */
	bool has_retry_ms;     /* fail, release, nack */
	int64_t retry_ms;      /* 0..FRAME_RETRY_MS_MAX */
	struct entry_id entry; /* ack, nack */
	struct slice note;     /* progress */
	bool has_n;
	int64_t n; /* ping, pong */
};

enum gone_outcome { GONE_DONE, GONE_REQUEUED, GONE_DEAD, GONE_LOST, GONE_WAITS /* nack */ };
enum revoke_reason { REVOKE_LOST, REVOKE_DRAIN, REVOKE_TIMEOUT, REVOKE_OPERATOR, REVOKE_SHUTDOWN, REVOKE_N };

/* `err` codes; the table of names and fatality is in codec/frame (frame_error_name, frame_error_fatal). */
enum frame_error {
	FERR_BAD_FRAME,
	FERR_TOO_BIG,
	FERR_BAD_VERSION,
	FERR_BAD_HELLO,
	FERR_UNAUTHORIZED,
	FERR_HELLO_TIMEOUT,
	FERR_SLOW_READER,
	FERR_SILENT,
	FERR_TOO_MANY_SESSIONS, /* fatal up to here */
	FERR_LIMIT,
	FERR_UNKNOWN_TYPE,
	FERR_UNKNOWN_LEASE,
	FERR_NOT_OWNER,
	FERR_BAD_FIELD,
	FERR_INTERNAL,
	FERR_N
};

enum out_kind {
	OUT_WELCOME,
	OUT_ASSIGN,
	OUT_OK,
	OUT_REVOKE,
	OUT_DRAIN,
	OUT_PING,
	OUT_PONG,
	OUT_ERR,
	OUT_ENTRIES,
	OUT_ENDED
};
enum ok_for { OK_FOR_DONE, OK_FOR_FAIL, OK_FOR_RELEASE, OK_FOR_ACK, OK_FOR_NACK, OK_FOR_ENDED /* is an ended frame */ };

struct gone {
	struct slice lease;
	enum gone_outcome outcome;
};

struct out_welcome {
	struct slice server, node, session;
	int64_t lease_ms, ping_ms, resume_ms, max_frame;
	mono_ms now_ms; /* our clock: the worker compares it with its own */
	const struct slice *resumed;
	size_t n_resumed;
	const struct gone *gone;
	size_t n_gone;
	const struct slice *not_served; /* services in entries mode that it gets nothing of, for it takes no entries */
	size_t n_not_served;
};

struct out_assign {
	struct slice service, stream, id, token;
	int64_t retry;
	struct slice trace; /* raw JSON text; absent = none */
	bool has_entries;   /* the lease is in entries mode: .entry is its position */
};

struct out_frame { /* daemon -> worker */
	enum out_kind kind;
	struct slice lease; /* assign, ok, revoke, err (optional) */
	mono_ms until_ms;   /* welcome, assign, ping */
	struct out_welcome welcome;
	struct out_assign assign;
	struct slice info; /* assign, entries: raw JSON text, written as it is; of entries their texts, with commas */
	/* assign, ok for ack and nack */
	struct entry_id entry;
	int64_t retry_ms; /* nack that waits */
	bool more;        /* entries */
	/* ok */
	enum ok_for ok_for;
	enum gone_outcome outcome;
	/* revoke, drain */
	enum revoke_reason reason;
	int64_t grace_ms;
	/* ping, pong */
	bool has_n;
	int64_t n;
	/* err */
	enum frame_error error;
	struct slice msg;
};
