/* packed - what Redis keeps of an entry that waits for its time: texts, each as <length>:<bytes>, one after the other:
 * the stream's name, why it waits (fail, release, add, replay), a failed worker's reason, then the entry's names and
 * values. The scripts of codec/script write it; this reads it for whoever wants to see what waits. Pure; any thread. */
#pragma once
#include "core/cmd.h"

/* Room for the fields of one entry; zeroed at the start. */
struct packed {
	struct field *fields;
	size_t cap;
};

struct packed_entry { /* slices into what was decoded; fields: until the next call */
	struct slice stream, why, reason;
	const struct field *fields;
	size_t n;
};

/* False when value is not that; *out is unchanged then. */
bool packed_decode(struct packed *p, struct slice value, struct packed_entry *out);
/* Its _retry_count; 0 when it has none. */
uint32_t packed_retries(const struct packed_entry *e);
/* Entries mode: how often the entry failed that a stream waits for, which was given back meanwhile: the reason says so.
 * 0: none, or it is not said. */
uint32_t packed_tries(const struct packed_entry *e);
/* Frees the room. */
void packed_fini(struct packed *p);
