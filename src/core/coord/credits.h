/* placement - which session gets which stream, and how much may be read: credits.
 * Pure. Owner: the coordinator.
 * A *claim* is an entry that was asked for or read and has no worker yet; claims never exceed free credits when they are
 * granted, so what is read finds a worker. Credits that go away meanwhile leave an entry waiting for a moment (READY). */
#pragma once
#include "base/list.h"
#include "core/rules.h"
#include <stdbool.h>

struct seat {             /* one session's credits */
	struct link ring; /* in placement.seats while it may get work */
	uint64_t session;
	uint32_t credits, in_use;
	bool all_services;
	bool wanted[SERVICES_MAX]; /* by position */
	uint16_t n_wanted;
};

struct placement_service { /* by position; a position is reused, a service id is not */
	bool is_on;
	uint16_t svc;
	uint32_t claims;  /* granted to the reader or read, not assigned yet */
	uint32_t granted; /* part of claims: asked for by a read that has not answered */
	uint32_t owned;   /* entries this daemon holds, for max_streams */
	uint32_t max_streams, read_batch;
	bool is_reading; /* a grant is outstanding */
	bool is_paused;
	bool was_full; /* the last read brought all it asked for */
};

struct placement {
	struct link seats;
	struct placement_service service[SERVICES_MAX];
	uint16_t n_services; /* positions in use, with holes */
	bool is_draining;
};

void placement_init(struct placement *p);
void seat_init(struct seat *s, uint64_t session);
/* A seat takes part while its session is ready. */
void placement_join(struct placement *p, struct seat *s);
void placement_leave(struct seat *s);
static inline uint32_t seat_free(const struct seat *s)
{
	return s->credits > s->in_use ? s->credits - s->in_use : 0;
}
/* Free credits of sessions that take the service at position pos. */
uint32_t placement_free(const struct placement *p, uint16_t pos);
/* The seat that gets the next entry of the service, round robin, sessions with fewer services first; NULL = no free credit. */
struct seat *placement_choose(struct placement *p, uint16_t pos);
/* How many entries the service at pos may read now; 0 = none. *contended: others want the same credits, so block shortly. */
uint32_t placement_grant(struct placement *p, uint16_t pos, bool *contended);
