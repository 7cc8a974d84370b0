/* sentinel_client - asks Sentinels which Redis is the master, and that one whether it is. Coordinator thread.
 *
 * Happy path: Sentinel after Sentinel -> address, epoch, other Sentinels -> a majority of those that are known agrees
 *   at the highest epoch -> that address' ROLE says master -> on_standalone. +switch-master is a hint to ask again.
 * Failure: without a majority the address in use is kept while its ROLE says master, else the one of the highest epoch
 *   is tried, so a few Sentinels that answer suffice at the start. A master that is back from the dead says master,
 *   too, but no majority says so. Nobody left: on_failed, asked again later. */
#pragma once
#include "run/topology_client.h"

struct sentinel_client;

/* Begins to ask the sentinels; answers come by ev on the loop's thread. c is copied as far as needed. */
struct sentinel_client *sentinel_client_open(
	uv_loop_t *loop, const struct config *c, const struct topo_events *ev, void *arg);
void sentinel_client_ask(struct sentinel_client *s); /* one answer by one of the callbacks, in a later round */
/* Of the last look-up; the client's. */
const struct sentinel_state *sentinel_client_state(const struct sentinel_client *s);
/* The address of the i-th known one, and how it was when it was asked last; NULL: there are no more. */
const char *sentinel_client_at(const struct sentinel_client *s, size_t i, enum sentinel_heard *heard);
/* No callback after it. NULL is fine. */
void sentinel_client_close(struct sentinel_client *s);
