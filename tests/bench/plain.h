/* plain - what one writes without sluiced: a consumer group by itself, XREADGROUP and XACK in a loop. Nobody owns a
 * stream, nobody is told to stop, nothing of a dead consumer comes back. */
#pragma once
#include "bench/floor.h"

/* The n entries that wait in the load-balancer stream, batches of 128, acknowledged with the next read. */
struct floor_cost plain_journey(struct rig *r, uint32_t n);
/* A process that reads as entries come, writes each one's index (uint32_t) to fd, and acknowledges. */
pid_t plain_follow(struct rig *r, int *fd);
