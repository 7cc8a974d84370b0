/* refusals - what a master refuses for the moment, kind of command by kind of command: said once a minute with the
 * server's words and a count, counted, and kept until a command of the kind is accepted. Readiness and explain read it.
 * Pure. Owner: the shard's thread. Times: monotonic ms. */
#pragma once
#include "core/cmd.h"

enum { REFUSALS_WORDS = 320 };

struct refusals_kind {       /* of commands */
	mono_ms since, last; /* refused first and last since one was accepted; since 0 = accepted */
	uint64_t n;
	enum refusal refusal; /* the last one, and whose it was */
	uint16_t svc;
	bool is_of_several; /* services */
	char words[REFUSALS_WORDS];
};

struct refusals_log { /* lines that tell of the same thing */
	mono_ms at;   /* the last line, if any */
	uint32_t n_unsaid;
	bool is_said;
};

struct refusals {
	struct refusals_kind kinds[CMD_N];
	struct refusals_log logs[REFUSAL_N + CMD_N];
	uint32_t n_kinds; /* refused for the moment */
};

struct shard_ctx;
/* A command was refused (reply: an ERROR; without a refusal, as an answer of unknown shape, it is said but not kept).
 * Counts it, says it when nothing was said for a minute. what: "lease", "reader", … for the line. */
void refusals_add(struct shard_ctx *c, const char *what, enum cmd_kind kind, uint16_t svc, const struct reply *reply);
/* A command of this kind was accepted, for this service: where one right or key is the trouble it says nothing of the
 * others'. */
void refusals_accepted(struct refusals *r, enum cmd_kind kind, uint16_t svc);
/* A command of this kind was refused, and none was accepted since. */
bool refusals_of(const struct refusals *r, enum cmd_kind kind);
/* Another connection, maybe to another server: what was refused is to be seen again. */
void refusals_forget(struct refusals *r);
/* Slots came or went: one that was on its way may be at home now, and what was on both its sides is asked elsewhere. */
void refusals_slots(struct refusals *r);
/* Whether anything that work depends on is refused now; fills *out with what has been for longest. */
bool refusals_now(const struct refusals *r, mono_ms now, struct shard_refused *out);
