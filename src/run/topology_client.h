/* topo_client - asks Redis for the topology when the coordinator wants it: walks the configured endpoints and the masters
 * it has learned of until one answers. Coordinator thread.
 *
 * Happy path: connection up -> CLUSTER SLOTS (cluster, auto) or ROLE (standalone) -> on_slots or on_standalone.
 * Failure: an endpoint that does not answer is followed by the next; when all failed once: on_failed, asked again later. */
#pragma once
#include "config/config.h"
#include "core/cmd.h"
#include "io/redis/conn.h"

struct topo_client;

struct topo_events {
	void (*on_slots)(void *arg, const struct slot_range *ranges, size_t n);
	void (*on_standalone)(void *arg, const char *addr);
	void (*on_failed)(void *arg, const struct err *why);
};

struct topo_client *topo_client_open(uv_loop_t *loop, const struct config *c, const struct redis_opts *opts,
	const struct topo_events *ev, void *arg);
void topo_client_ask(struct topo_client *t); /* one answer by one of the callbacks, in a later round */
void topo_client_set_auth(struct topo_client *t, const char *username, const char *password);
void topo_client_set_tls(struct topo_client *t, struct redis_tls *tls);
/* Times and maintenance: of both; mode and endpoint type from the next attempt on. */
void topo_client_set_rules(struct topo_client *t, const struct config *c, const struct redis_opts *opts);
void topo_client_close(struct topo_client *t);
