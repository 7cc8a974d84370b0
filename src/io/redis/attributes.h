/* io/redis/attributes - takes RESP3 attributes ("|") out of what a server says: they stand before a reply, or before an
 * element inside one, belong to it, and mean nothing to us; the library knows none.
 * And numbers and truths inside a push (">1 :15") are passed on as texts ("+15"): the library ends the connection at
 * one that it cannot read, such as an integer above 64 bits, and a push must not cost that. In replies they stay what
 * they are. Inside io/redis only; pure, on the thread of the connection's loop.
 * The stream is a flat row of elements, whatever they are nested in, so what is kept is where the next one begins. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct attributes {      /* zeroed at first */
	uint64_t n_left; /* bytes of a bulk string to come, with its end */
	uint64_t n_skip; /* elements of attributes to come */
	uint64_t n_push; /* elements of a push to come */
	char line[24];   /* of the header that is under way: its kind and number */
	uint8_t n_line;
	bool is_line;     /* a header is under way */
	bool is_dropping; /* what comes is not passed on */
	bool is_broken;   /* all is passed on: the library says what is wrong */
};

typedef void attributes_pass_fn(void *arg, const char *bytes, size_t len);

/* Passes on what is no attribute, in order, in few pieces, no byte more than came. False: an attribute makes no sense,
 * no more may be fed. */
bool attributes_feed(struct attributes *a, const char *bytes, size_t len, attributes_pass_fn *pass, void *arg);
