#include "run/control/doctor_advice.h"

#include <stddef.h>
#include <string.h>

#include "codec/reply.h"

/* The first that is in the words counts. */
static const struct {
	const char *words, *advice;
} connections[] = {
	{"NOAUTH", "set redis.password, and redis.username for a user of an ACL; sluicectl reload"},
	{"WRONGPASS", "redis.username and redis.password are not what Redis has: correct them, sluicectl reload"},
	{"authentication refused", "look at redis.username and redis.password; sluicectl reload"},
	{"NOPERM", "the Redis user may not even connect: give it the rights of sluiced(8)"},
	{"max number of clients", "raise maxclients of Redis, or look at who has all the connections (CLIENT LIST)"},
	{"LOADING", "Redis is loading its data: it answers when that is done, wait"},
	{"MASTERDOWN", "it is a replica whose master is down: look at redis.endpoints, or wait for the failover"},
	{"DENIED Redis is running in protected mode", "set a password or bind in Redis' own configuration"},
	{"TLS", "look at redis.tls: its ca_file, cert_file and key_file, and whether that port of Redis speaks TLS"},
	{"resolv", "look at the name in redis.endpoints, and at DNS on this host"},
	{"connection refused", "nothing listens there: start Redis, or correct redis.endpoints"},
	{"no such file", "no Redis has that socket: start Redis, or correct redis.endpoints"},
	{"permission denied", "this user may not open that socket: look at unixsocketperm of Redis, and the directory"},
	{"unreachable", "look at the network between this host and Redis, and at redis.endpoints"},
	{"no answer",
		"Redis takes connections and says nothing: is it stopped, swapping or busy with one command? On its "
		"host: redis-cli ping, INFO, SLOWLOG GET"},
	{"reset by peer", "Redis ended it: look at its log; the port may be one of TLS, or not Redis' at all"},
	{"no connection within", "nothing comes back from there: look at that host, the network and its firewalls"},
	{"closed the connection", "Redis ended it: look at its log; the port may be one of TLS, or not Redis' at all"},
};

const char *doctor_connection_advice(const char *words)
{
	for (size_t i = 0; i < sizeof connections / sizeof connections[0]; i++)
		if (strstr(words, connections[i].words))
			return connections[i].advice;
	return "look at Redis and its log, and at the network between it and this host";
}

const char *doctor_write_advice(const char *words)
{
	static const char *const advice[REFUSAL_N] = {
		[REFUSAL_OOM] = "no stream can be locked or added: raise maxmemory, or make room",
		[REFUSAL_MISCONF] = "Redis cannot save and takes no writes: look at its disk and its log",
		[REFUSAL_NOREPLICAS] = "fewer replicas than min-replicas-to-write: bring them back, or lower it",
		[REFUSAL_READONLY] = "it is a replica: look at redis.endpoints, or wait for the failover",
	};
	const char *a = advice[reply_refusal_in(words)];
	return a ? a : "look at the server: nothing can be given to workers meanwhile";
}
