/* explain - one clear line why an entry that this daemon holds runs or does not; explain_remote.c
 * looks in Redis for what it does not hold. Coordinator thread. */
#pragma once
#include "run/control/facts.h"

struct missing;
enum { FACTS_GONE_CAP = 400 };

/* Why this daemon does not take more of the service: paused, draining, nobody serves it, no credit, Redis. */
void explain_service(struct facts *f, struct daemon *d, const struct coord_service *s);
/* "the consumer group of orders-input was found gone since 02:13:05 (2 min), ..."; "" when it never was, as far as this
 * daemon has seen. */
void explain_group_gone(char out[static FACTS_GONE_CAP], const struct daemon *d, const struct coord_service *s);
/* Another service in entries mode that has an entry of the same data stream here; NULL: none. */
const struct coord_service *explain_sharer(const struct coord *c, const struct entry *e);

struct explain_found { /* rows that are written already */
	size_t n;
	bool is_coming; /* one of them says where the stream runs, or what it waits for */
};
/* After that: what was put aside for later, unless it is coming, the dead letters of its entries, and what is unread.
 * The request's former job is freed already. missing: what could not be looked through; its texts belong to the callee
 * now. */
void control_explain_aside(struct control_req *q, const struct missing *missing, struct explain_found found);
/* Not held here: asks Redis, ends the request. */
void control_explain_remote(struct control_req *q);
