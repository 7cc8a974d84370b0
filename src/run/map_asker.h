/* map_asker - asks one node after the other how it sees the cluster, over a connection of its own to each.
 * Coordinator thread.
 *
 * Happy path: connection -> CLUSTER INFO, CLUSTER SLOTS -> on_map -> the owner asks for the next, or stops.
 * Failure: a node that cannot be asked in half a second, or says that its cluster is not well, is passed over. Nobody
 *   left, or the whole time is up: on_end. */
#pragma once
#include "core/cmd.h"
#include "io/redis/conn.h"
#include "run/slot_rows.h"

struct map_asker;

struct map_asker_events {
	/* rows are valid during the call and can be dialled; the owner answers with map_asker_next or _stop. */
	void (*on_map)(void *arg, const struct slot_range *rows, size_t n, int64_t epoch);
	void (*on_end)(void *arg);
	/* Before each connection: how to make it, with the present credentials; its strings are copied then. */
	void (*opts)(void *arg, struct redis_opts *out);
};

/* Asks nobody yet. Answers come by ev on the loop's thread. */
struct map_asker *map_asker_new(uv_loop_t *loop, const struct map_asker_events *ev, void *arg);
/* Asks these addresses (copied, at most MAP_ASKER_MAX) in turn, for at most limit_ms in all. */
void map_asker_start(struct map_asker *a, const char (*addrs)[SLOT_ROW_ADDR], size_t n, mono_ms limit_ms);
void map_asker_next(struct map_asker *a); /* the answer did not decide */
void map_asker_stop(struct map_asker *a); /* no callback comes until it starts again */
void map_asker_close(struct map_asker *a);

enum { MAP_ASKER_MAX = 15 };
/* What CLUSTER INFO says: true when the cluster is well by this node's word, or it may not say. *epoch: -1 = not
 * told. */
bool map_asker_is_well(const struct reply *info, int64_t *epoch);
