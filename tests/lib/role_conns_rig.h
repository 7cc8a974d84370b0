/* role_conns_rig - the connections of one shard (run/role_conn) on a loop of their own, and the story of what the core is told as
 * text. Story lines: "up ROLE", "down ROLE", "reply TAG :1" (NULL, [n] entries, else its kind), "expired STREAM", "hurry",
 * "refresh SEQ". ROLE: command, reader, subscriber. */
#pragma once
#include "base/buf.h"
#include "run/role_conn.h"

struct role_conns_rig {
	struct loop *loop;
	struct role_conns_opts opts; /* change before role_conns_rig_start */
	struct role_conns *role_conns;
	struct command_self self;
	struct command_names names;
	struct buf story;
	const char *until;
	int n_until;
	mono_ms limit; /* of the present wait */
	bool has_timed_out;
};

void role_conns_rig_init(struct role_conns_rig *r, uint16_t port); /* of the configured address, on 127.0.0.1 */
void role_conns_rig_start(struct role_conns_rig *r);
/* kind: one that needs no more than a service's names */
void role_conns_rig_send(struct role_conns_rig *r, enum conn_role role, enum cmd_kind kind, uint64_t tag);
/* Runs the loop until the story contains text n times; false after 10 s. */
bool role_conns_rig_until(struct role_conns_rig *r, const char *text, int n);
void role_conns_rig_run_for(struct role_conns_rig *r, mono_ms ms);
int role_conns_rig_count(const struct role_conns_rig *r, const char *text); /* occurrences in the story */
void role_conns_rig_fini(struct role_conns_rig *r);
