/* own_redis - a redis-server of one's own, on a unix socket in a new directory; dies with the test. */
#pragma once
#include <sys/types.h>

struct own_redis {
	char dir[64];
	char path[96]; /* the socket */
	pid_t pid;
};

/* extra: more arguments, NULL-terminated, or NULL. Ends the process when the server does not answer within 10 s. */
void own_redis_start(struct own_redis *r, const char *const *extra);
void own_redis_stop(struct own_redis *r);
