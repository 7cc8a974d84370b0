/* feed_floor - entries mode's commands without sluiced: read, lock, take of the stream, its position opened, XRANGE of
 * 100 behind it and the fenced ack script, close, done; one master. And a plain consumer group per stream with one consumer: XREADGROUP of 100, XACK. */
#pragma once
#include "bench/floor.h"

/* Everything that the run's n streams of n_entries each hold; the floor finds them in the load-balancer stream. */
struct floor_cost feed_floor(struct rig *r, uint32_t run, uint32_t n, uint32_t n_entries);
struct floor_cost feed_plain(struct rig *r, uint32_t run, uint32_t n, uint32_t n_entries);

/* A process that watches streams 0..n of the run by client tracking, reads what comes, acknowledges it, and writes each
 * entry's stream (uint32_t) to fd; first UINT32_MAX: all are watched. */
pid_t feed_follow(struct rig *r, int *fd, uint32_t run, uint32_t n);
