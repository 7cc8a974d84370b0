/* lanes_rig - the connections of one shard (run/lanes) on a loop of their own, and the story of what the core is told as
 * text. Story lines: "up ROLE", "down ROLE", "reply TAG :1" (NULL, [n] entries, else its kind), "expired STREAM", "hurry",
 * "refresh SEQ". ROLE: command, reader, subscriber. */
#pragma once
#include "base/buf.h"
#include "run/role_conn.h"

struct lanes_rig {
	struct loop *loop;
	struct lanes_opts opts; /* change before lanes_rig_start */
	struct lanes *lanes;
	struct command_self self;
	struct command_names names;
	struct buf story;
	const char *until;
	int n_until;
	mono_ms limit; /* of the present wait */
	bool has_timed_out;
};

void lanes_rig_init(struct lanes_rig *r, uint16_t port); /* of the configured address, on 127.0.0.1 */
void lanes_rig_start(struct lanes_rig *r);
/* kind: one that needs no more than a service's names */
void lanes_rig_send(struct lanes_rig *r, enum conn_role role, enum cmd_kind kind, uint64_t tag);
/* Runs the loop until the story contains text n times; false after 10 s. */
bool lanes_rig_until(struct lanes_rig *r, const char *text, int n);
void lanes_rig_run_for(struct lanes_rig *r, mono_ms ms);
int lanes_rig_count(const struct lanes_rig *r, const char *text); /* occurrences in the story */
void lanes_rig_fini(struct lanes_rig *r);
