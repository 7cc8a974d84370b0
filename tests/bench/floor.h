/* floor - the same commands that the daemon issues, in pipelines of the same size, by a loop that decides nothing: what
 * Redis, the kernel and hiredis allow on this machine at this moment. */
#pragma once
#include "bench/rig.h"

struct floor_cost {
	double seconds, client_us, redis_us; /* of all of it */
};

/* read, lock, take, done, unlock of the n entries that wait in the load-balancer stream. */
struct floor_cost floor_journey(struct rig *r, uint32_t n);
/* n_calls renewals over n_keys locks (made here), 1,000 in flight. */
struct floor_cost floor_renew(struct rig *r, uint32_t n_keys, uint32_t n_calls);
/* n entries that are another consumer's: requeued by the script, then read, locked, taken by us. */
struct floor_cost floor_recover(struct rig *r, uint32_t n);
/* n own pending entries: read by pages, each lock asked for and renewed. */
struct floor_cost floor_resume(struct rig *r, uint32_t n);

/* The steps alone, for floors that do more on the way; replies come in the order of the commands. The scripts and the
 * group are there after prepare. */
enum { FLOOR_PAGE = 1000 };
struct floor_item {
	struct entry_id id;
	char name[RIG_NAME + 1];
};
void floor_prepare(struct rig *r);
void floor_append_read(struct rig *r, uint32_t count);
/* What such a read brought: how many; at most FLOOR_PAGE. */
uint32_t floor_entries(struct rig *r, struct floor_item v[static FLOOR_PAGE]);
/* CMD_LOCK, TAKE, DONE, UNLOCK of each, not sent yet; and their replies. */
void floor_append(struct rig *r, enum cmd_kind kind, const struct floor_item *v, uint32_t n);
void floor_skip(struct rig *r, enum cmd_kind kind, const struct floor_item *v, uint32_t n);

/* A process that reads as entries come, locks, takes, and writes each one's index (uint32_t) to fd. */
pid_t floor_follow(struct rig *r, int *fd);
/* A process of our own that runs fn with the other end of *fd, and dies with us. */
pid_t floor_fork(struct rig *r, int *fd, void (*fn)(struct rig *r, int fd));
