/* codec/state - what a daemon leaves to its next process beside the stored connections, and back: bytes <-> struct
 * state. Pure. Any thread. Fixed-width little-endian numbers behind a magic, a version, the length and a checksum:
 * whatever is not exactly what this version wrote is refused. What is held in Redis is not in it: the next process
 * asks Redis. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "base/mono.h"
#include "core/frame.h"

enum { STATE_VERSION = 1, STATE_CONNS_MAX = 65536, STATE_BYTES_MAX = 256 << 20 };

struct state_conn {      /* one worker's connection; slices as in a hello frame */
	uint32_t number; /* of its descriptor's name */
	int64_t pid;
	uint32_t uid, credits;
	bool has_services;
	struct slice key, name;
	mono_ms told_until;
	int64_t n_pings;
	struct slice input, output; /* an unfinished line that was read; what was not written yet */
	struct slice *services, *leases;
	size_t n_services, n_leases;
};

struct state {
	mono_ms saved_at;
	struct slice node;
	struct state_conn *conns;
	size_t n_conns;
	struct slice *lists; /* memory behind services and leases */
};

/* Appends the whole image. At most STATE_CONNS_MAX connections. */
void state_encode(struct buf *out, const struct state *s);
/* ERR_OK: *out, whose slices point into bytes; ends with state_fini. ERR_INVALID, ERR_RANGE (another version):
 * *out is untouched. */
enum err_code state_decode(const char *bytes, size_t len, struct state *out, struct err *err);
/* Frees its lists; the slices in them belong to whoever decoded it. */
void state_fini(struct state *s);
/* Of bytes, as the image has it: against damage, not against an enemy. */
uint64_t state_checksum(const char *bytes, size_t len);
