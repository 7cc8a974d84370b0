/* redis_rig - one io/redis connection on a loop of its own, and the story of its events as text. For adapter tests.
 * Story lines: "up", "down up: SENTENCE", "down: SENTENCE" (never was up), "push NAME ELEMENT…", "reply TAG TEXT" (NULL, +OK, -ERR …, :1, [n]). */
#pragma once
#include "base/buf.h"
#include "io/loop.h"
#include "io/redis/conn.h"
#include "lib/resp_server.h"

struct rig {
	struct loop *loop;
	struct redis_opts opts; /* change before rig_open */
	struct redis_conn *c;
	struct buf story;
	const char *until;
	bool has_timed_out;
	struct resp_server *server;
	/* what to do inside a callback, once */
	void (*on_next_event)(struct rig *r, const char *line);
};

void rig_init(struct rig *r); /* options good for tests: 2 s to connect, backoff 10 to 40 ms */
/* Starts a scripted server with these scripts (NULL-terminated) and points the options at it. */
void rig_serve(struct rig *r, const char *const *scripts);
void rig_open(struct rig *r);
void rig_send(struct rig *r, uint64_t tag, const char *words, mono_ms timeout_ms); /* 0 = no deadline */
/* Runs the loop until the story contains text; false after 10 s. */
bool rig_until(struct rig *r, const char *text);
void rig_run_for(struct rig *r, mono_ms ms);
int rig_count(const struct rig *r, const char *text); /* occurrences in the story */
void rig_fini(struct rig *r);                         /* closes what is open, runs the loop dry */
