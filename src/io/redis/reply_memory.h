/* io/redis/reply_memory - the memory of a connection's replies, one at a time: what hiredis' reader makes of a reply
 * is cut from blocks that the next reply uses again. With an allocation for each object and each string, those were a
 * third of what an entry that is delivered costs. Only the connection's thread. */
#pragma once
#include <stddef.h>

#include <hiredis/hiredis.h>

struct reply_memory;

/* max_elements: of an array; all arrays of a reply together may have 16 times as many, since a few bytes could ask for
 * any amount. 0 = any number. */
struct reply_memory *reply_memory_new(size_t max_elements);
void reply_memory_free(struct reply_memory *m); /* after its reader; NULL is fine */
/* A reader whose replies are here. Never NULL: hiredis' memory is ours (io/memory). The caller frees it, and no reply
 * of it. A push is always REDIS_REPLY_PUSH, also one of nil length, which hiredis' own objects call a nil. */
redisReader *reply_memory_reader(struct reply_memory *m);
/* Nobody uses the reply that was read last any more. */
void reply_memory_clear(struct reply_memory *m);
/* Why the reader ended with an error, where it was for its size; else NULL. */
const char *reply_memory_refused(const struct reply_memory *m);
