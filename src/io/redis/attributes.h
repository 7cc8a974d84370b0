/* io/redis/attributes - takes RESP3 attributes ("|") out of what a server says: they stand before a reply, or before an
 * element inside one, belong to it, and mean nothing to us; the library knows none. Inside io/redis only; pure.
 * The stream is a flat row of elements, whatever they are nested in, so what is kept is where the next one begins. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct attributes {      /* zeroed at first */
	uint64_t n_left; /* bytes of a bulk string to come, with its end */
	uint64_t n_skip; /* elements of attributes to come */
	char line[24];   /* of the header that is under way: its kind and number */
	uint8_t n_line;
	bool is_line;     /* a header is under way */
	bool is_dropping; /* what comes is not passed on */
	bool is_broken;   /* all is passed on: the library says what is wrong */
};

typedef void attributes_pass_fn(void *arg, const char *bytes, size_t len);

/* Passes on what is no attribute, in order, in as few pieces as may be. False: an attribute makes no sense, no more
 * may be fed. */
bool attributes_feed(struct attributes *a, const char *bytes, size_t len, attributes_pass_fn *pass, void *arg);
