/* packed - what Redis keeps of an entry that waits for its time: texts, each as <length>:<bytes>, one after the other:
 * the stream's name, why it waits (fail, release, add, replay), a failed worker's reason, then the entry's names and
 * values. Entries mode: behind why and a space, how often the entry failed that the stream waits for. The scripts of
 * codec/script write it; this reads it for whoever wants to see what waits. Pure; any thread. */
#pragma once
#include "core/cmd.h"

/* Room for the fields of one entry; zeroed at the start. */
struct packed {
	struct field *fields;
	size_t cap;
};

struct packed_entry {                     /* slices into what was decoded; fields: until the next call */
	struct slice stream, why, reason; /* why: the word alone */
	uint32_t tries;                   /* so often the entry failed that the stream waits for; 0: none did */
	const struct field *fields;
	size_t n;
};

/* False when value is not that; *out is unchanged then. */
bool packed_decode(struct packed *p, struct slice value, struct packed_entry *out);
/* Its _retry_count; 0 when it has none. */
uint32_t packed_retries(const struct packed_entry *e);
/* Frees the room. */
void packed_fini(struct packed *p);
