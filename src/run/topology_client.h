/* topology_client - asks Redis for the topology when the coordinator wants it: walks the configured endpoints and
 * the masters it has learned of until one answers. Coordinator thread. With topology sentinel run/sentinel_client asks
 * in its place.
 *
 * Happy path: connection up -> CLUSTER INFO and SLOTS (cluster, auto) or ROLE (standalone) -> on_slots or
 *   on_standalone. A map that is not the one in use is believed when another node has the same (core/coord/slot_vote),
 *   or none can be asked within a second.
 * Failure: an endpoint that does not answer, whose cluster is not well or whose epoch is below the highest that was
 *   seen, is followed by the next; when all failed once: on_failed, asked again later. */
#pragma once
#include "config/config.h"
#include "core/cmd.h"
#include "io/redis/conn.h"

struct topology_client;

struct topo_events {
	void (*on_slots)(void *arg, const struct slot_range *ranges, size_t n);
	void (*on_standalone)(void *arg, const char *addr);
	void (*on_failed)(void *arg, const struct err *why);
	/* Has a redirection contradicted the map in use? Then even that one is asked for twice. */
	bool (*is_in_doubt)(void *arg);
	void (*opts)(void *arg, struct redis_opts *out);
	void (*sentinel_opts)(void *arg, struct redis_opts *out); /* the same, of a connection to a Sentinel */
	void (*on_hint)(void *arg);
	/* something has changed: ask soon */ /* of a new connection, with the present credentials */
};

/* A Sentinel, when it was asked last. A look-up ends with a majority, so not each is asked every time. */
enum sentinel_heard {
	SENTINEL_UNASKED,
	SENTINEL_ANSWERS,
	SENTINEL_KNOWS_NOT /* our master */,
	SENTINEL_REFUSES,
	SENTINEL_SILENT
};

/* How the last look-up behind Sentinel went. */
struct sentinel_state {
	size_t n_known, n_answered; /* it ends with the answer that makes a majority */
	bool has_majority;          /* agrees about the master */
};

/* Begins to ask; answers come by ev on the loop's thread. c and opts are copied as far as needed; arg goes to every
 * callback. */
struct topology_client *topology_client_open(uv_loop_t *loop, const struct config *c, const struct redis_opts *opts,
	const struct topo_events *ev, void *arg);
void topology_client_ask(struct topology_client *t); /* one answer by one of the callbacks, in a later round */
void topology_client_set_auth(struct topology_client *t, const char *username, const char *password);
/* Used by the next connection; one that is up stays who it is. */
void topology_client_set_next_auth(struct topology_client *t, const char *username, const char *password);
/* For the next connections; takes a reference of its own. */
void topology_client_set_tls(struct topology_client *t, struct redis_tls *tls);
/* Times and maintenance: of both; mode and endpoint type from the next attempt on. */
void topology_client_set_rules(struct topology_client *t, const struct config *c, const struct redis_opts *opts);
/* False: not behind Sentinel. */
bool topology_client_sentinels(const struct topology_client *t, struct sentinel_state *out);
/* The i-th Sentinel's address; NULL: there are no more, or no client. */
const char *topology_client_sentinel(const struct topology_client *t, size_t i, enum sentinel_heard *heard);
/* No callback after it. NULL is fine. */
void topology_client_close(struct topology_client *t);
