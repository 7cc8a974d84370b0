/* real_redis - a redis-server of its own for a test: on a Unix socket in a new directory, ended with the test's
 * process. The server is $SLUICE_REDIS_SERVER, else redis-server from the PATH. */
#pragma once
#include <hiredis/hiredis.h>

#include "codec/command.h"
#include "core/cmd.h"

struct real_redis;

/* args: further server options ("--maxmemory", "1mb", …), NULL-terminated, or NULL. Ends the process with a message
 * when there is no server. */
struct real_redis *real_redis_start(const char *const *args);
void real_redis_stop(struct real_redis *r);
const char *real_redis_socket(const struct real_redis *r);
/* The connection all calls below use. resp: 2 or 3. */
void real_redis_use_resp(struct real_redis *r, int resp);

/* One command, in one call like printf of hiredis. The reply is r's, valid until the next call. */
const redisReply *real_redis_command(struct real_redis *r, const char *format, ...);
/* Encodes, sends, decodes. Slices in *out are valid until the next call; out->entries is the caller's. */
void real_redis_exec(struct real_redis *r, const struct cmd *c, const struct command_names *names,
	const struct command_self *self, struct reply *out);
