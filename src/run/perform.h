/* perform - a turn: the pure step of the coordinator or of a shard, and then what it asks for, done in that order. No
 * libuv, no thread, no clock: the daemon's threads and the simulation take their turns here, each with doers of its
 * own. Whoever owns the core calls; a doer may not take a turn of the same core. */
#pragma once
#include "core/coord/coord.h"
#include "core/shard/shard.h"
#include "core/turn.h"

/* Who does what the coordinator asks for. Each is called after the step has returned; what ef owns stays its own,
 * unless it says so. None may be NULL. */
struct coord_doers {
	/* What m owns moves. False: no such shard runs, and nothing has moved. */
	bool (*to_shard)(void *arg, uint16_t shard, const struct msg *m);
	void (*from_nobody)(void *arg, const struct msg *answer); /* in a shard's place: a message of a turn to come */
	void (*start_shard)(void *arg, const struct effect *ef);
	void (*stop_shard)(void *arg, uint16_t shard);
	void (*frame)(void *arg, const struct effect *ef);
	void (*close)(void *arg, uint64_t session);
	void (*forget_session)(void *arg, uint64_t session);
	void (*ask_topology)(void *arg);
	void (*end)(void *arg, const struct effect *ef);     /* of the process: .exit_code .text */
	void (*control)(void *arg, const struct effect *ef); /* a request is answered */
	void (*log)(void *arg, const struct effect *ef);
};

/* ev's times are set. out is empty before and after. Returns when the next tick is due. */
mono_ms coord_turn(
	struct coord *c, struct coord_event *ev, struct effects *out, const struct coord_doers *doers, void *arg);

struct shard_doers {
	bool (*send)(void *arg, const struct effect *ef); /* a command; false: it has no connection */
	void (*to_coord)(void *arg, const struct msg *m); /* what m owns moves */
	void (*open_reader)(void *arg, uint16_t svc);
	void (*close_reader)(void *arg, uint16_t svc);
	void (*log)(void *arg, const struct effect *ef);
};

struct shard_unsent; /* a command without a connection */

/* What is kept between the turns of a shard. Zeroed, and effects_init, is a good beginning. */
struct shard_turns {
	struct effects effects;
	struct shard_unsent *unsent;
	size_t n_unsent;
};
void shard_turns_fini(struct shard_turns *t);
/* As coord_turn. What had no connection is answered in turns to come: while shard_turn_unsent. */
mono_ms shard_turn(
	struct shard *s, struct shard_event *ev, struct shard_turns *t, const struct shard_doers *doers, void *arg);
/* *ev: "no answer" to the first command that had no connection; its times are the caller's. False: none is left. */
bool shard_turn_unsent(struct shard_turns *t, struct shard_event *ev);
