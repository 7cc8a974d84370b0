/* pool - many workers in one thread: sessions of the worker protocol over epoll, with as little work per frame as goes,
 * so that what is measured is the daemon. Frames are scanned, not parsed: they come from our own encoder.
 * A session answers pings; in a pool that finishes, every assign is answered by done at once, or by fail in one that fails; else it is
 * kept.
 * With entries each frame of entries is acknowledged at once, by its last id; ids are 1-1, 1-2, … or as Redis makes them. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pool;

struct pool_opts {
	const char *path; /* copied */
	int n_sessions, credits;
	bool finishes;
	bool takes_entries;
	uint32_t n_entries; /* a stream is done with its entry of this number; 0 = never */
	const char *bad; /* an entry with this value is not acknowledged but fails; of one stream only; NULL = none */
	void (*on_assign)(void *arg, const char *stream, size_t len);      /* may be NULL */
	void (*on_assign_frame)(void *arg, const char *frame, size_t len); /* may be NULL */
	void (*on_entries)(void *arg, const char *frame, size_t len);      /* may be NULL */
	void *arg;
};

struct pool_counts {
	uint64_t n_welcome, n_assigned, n_ok, n_lost, n_revoked, n_refused, n_errors, n_resumed, n_gone, n_closed,
		n_pings, n_entries, n_acked, n_nacked;
	uint64_t n_held; /* assigned or resumed, and not finished */
};

struct pool *pool_open(const struct pool_opts *o);
void pool_close(struct pool *p);
void pool_connect(struct pool *p, int i); /* a session that is not connected; resumes when it was before */
void pool_connect_all(struct pool *p);
void pool_drop(struct pool *p, int i); /* closes without bye; what it held it will resume */
void pool_drop_all(struct pool *p);
void pool_finish(struct pool *p);            /* done for everything held, and from now on at once */
void pool_fails(struct pool *p, bool fails); /* every assign of a pool that finishes is failed from now on, or is not */
/* Waits at most wait_us for events and serves them. */
void pool_round(struct pool *p, int64_t wait_us);
/* Also watches another descriptor for reading. */
void pool_watch(struct pool *p, int fd, void (*fn)(void *arg), void *arg);
const struct pool_counts *pool_counts(const struct pool *p);
/* The frame's number of entries, and its last id's place in it. For ids and values without [ and ". */
uint32_t pool_entries(const char *frame, size_t len, const char **last_id, size_t *id_len);
/* The same pool's sessions come with these credits from now on. */
void pool_credits(struct pool *p, int credits);
