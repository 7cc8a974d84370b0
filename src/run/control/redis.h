/* control_redis - one connection to one master for one control request: one command at a time. Coordinator thread.
 *
 * Happy path: control_redis_open -> control_redis_send -> the answer, once, in a later round.
 * Failure: not reachable, lost or too late: the answer is REPLY_NONE and control_redis_why says why; where the daemon
 * knows already that the master is down, it comes soon and says since when. MOVED is followed once per command. Nothing
 * is repeated otherwise. */
#pragma once
#include "codec/command.h"
#include "codec/reply.h"
#include "run/daemon.h"

struct control_redis;

/* r: decoded for commands of codec/command; raw: NULL when there is none. Both valid during the call; r->entries is the
 * callee's. The callee may send the next command, or close. */
typedef void control_redis_fn(void *arg, struct reply *r, const redisReply *raw);

/* addr "host:port". ERR_INVALID. */
enum err_code control_redis_open(struct daemon *d, const char *addr, control_redis_fn *fn, void *arg,
	struct control_redis **out, struct err *err);
/* *c asks addr from here on: kept where it does, else opened anew. ERR_INVALID, also where addr is NULL: *c is NULL. */
enum err_code control_redis_to(
	struct daemon *d, const char *addr, control_redis_fn *fn, void *arg, struct control_redis **c, struct err *err);
void control_redis_close(struct control_redis *c); /* NULL is fine; no callback any more */
void control_redis_send(struct control_redis *c, const struct cmd *cmd, const struct command_names *names);
/* Words separated by NULL at the end; the answer has only raw, and r of kind REPLY_OK, REPLY_ERROR or REPLY_NONE. */
void control_redis_words(struct control_redis *c, const char *const *words);
/* The same with any bytes and as many as you like: they are copied. */
void control_redis_bytes(struct control_redis *c, const struct slice *words, size_t n);
/* The pause before the next try of a data stream's entry ends; start "$": a stream without a position begins behind
 * what is in it now, and that is kept for ttl_ms. As control_redis_words. */
void control_redis_hold(struct control_redis *c, const char *stream, int64_t ttl_ms, const char *start);
/* n members of the delayed set, each followed by its due time: from that time on, without the first `skip` of it. */
void control_redis_delayed(struct control_redis *c, const char *key, double from, size_t skip, size_t n);
/* How many entries to ask for next, most at most, after a page of n brought b: about 1 MiB of them, so that large
 * ones hold up neither this loop nor Redis. */
size_t control_redis_page(size_t n, size_t most, const struct entry_batch *b);
/* Why it could not be asked; valid until the next use. */
const char *control_redis_why(const struct control_redis *c);
/* What to say behind that, of a request that would have changed something and has only looked so far. */
const char *control_redis_untouched(const struct control_redis *c);
/* The address it asks; "" = none yet. */
const char *control_redis_addr(const struct control_redis *c);
