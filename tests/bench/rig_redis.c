/* rig_redis - Redis as the benchmark uses it: pipelines, the streams that it adds, the servers' own counts. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/rig.h"

enum { ADD_CHUNK = 500, ENTRY_BYTES = 190 };

int rig_master(const struct rig *r, uint16_t slot)
{
	return r->n_masters == 1 ? 0 : slot / 5462;
}

void rig_append(struct rig *r, redisContext *const *links, int master, const struct cmd *c, const char *node)
{
	char consumer[80];
	snprintf(consumer, sizeof consumer, "redis-consumer-%s", node);
	struct command_self self = {.consumer = consumer, .node = node};
	command_encode(r->argv, c, &r->names, &self);
	if (redisAppendCommandArgv(
		    links[master], command_argc(r->argv), command_args(r->argv), command_lens(r->argv)) != REDIS_OK)
		proc_die("redis: %s", links[master]->errstr);
}

redisReply *rig_reply(redisContext *link)
{
	void *reply = NULL;
	if (redisGetReply(link, &reply) != REDIS_OK)
		proc_die("redis: %s", link->errstr);
	redisReply *x = reply;
	if (x->type == REDIS_REPLY_ERROR)
		proc_die("redis: %s", x->str);
	return x;
}

int rig_name(char out[RIG_NAME + 1], uint32_t run, uint32_t index)
{
	return snprintf(out, RIG_NAME + 1, "stream-%04x-%020u", run & 0xffff, index);
}

uint32_t rig_index(const char *name, size_t len)
{
	return len == RIG_NAME ? (uint32_t)strtoul(name + 12, NULL, 10) : UINT32_MAX;
}

void rig_add(struct rig *r, uint32_t run, uint32_t from, uint32_t n)
{
	int m = rig_master(r, r->names.lbs_slot);
	for (uint32_t done = 0; done < n;) {
		uint32_t chunk = n - done < ADD_CHUNK ? n - done : ADD_CHUNK;
		for (uint32_t i = 0; i < chunk; i++) {
			char name[RIG_NAME + 1];
			int len = rig_name(name, run, from + done + i);
			struct cmd c = {.kind = CMD_ADD,
				.stream = {name, (size_t)len},
				.as.add.info = {"{\"rate\":48000}", 14}};
			rig_append(r, r->link, m, &c, "bench");
		}
		for (uint32_t i = 0; i < chunk; i++)
			freeReplyObject(rig_reply(r->link[m]));
		done += chunk;
	}
}

static void append_entry(redisContext *link, uint32_t run, uint32_t index, uint32_t entry)
{
	char name[RIG_NAME + 1], data[ENTRY_BYTES];
	rig_name(name, run, index);
	memset(data, 'x', sizeof data);
	if (redisAppendCommand(link, "XADD %s 1-%u data %b", name, entry, data, sizeof data) != REDIS_OK)
		proc_die("redis: %s", link->errstr);
}

void rig_add_entries(struct rig *r, uint32_t run, uint32_t from, uint32_t n, uint32_t n_entries)
{
	redisContext *link = r->link[0]; /* one master */
	for (uint32_t i = 0, n_sent = 0; i < n; i++) {
		for (uint32_t k = 1; k <= n_entries; k++) {
			append_entry(link, run, from + i, k);
			if (++n_sent < ADD_CHUNK && !(i == n - 1 && k == n_entries))
				continue;
			for (; n_sent; n_sent--)
				freeReplyObject(rig_reply(link));
		}
	}
}

double rig_calls(struct rig *r, const char *command)
{
	char key[64];
	snprintf(key, sizeof key, "cmdstat_%s:calls=", command);
	double n = 0;
	for (int i = 0; i < r->n_masters; i++) {
		redisReply *x = redisCommand(r->link[i], "INFO commandstats");
		const char *at = x && x->str ? strstr(x->str, key) : NULL;
		n += at ? strtod(at + strlen(key), NULL) : 0;
		freeReplyObject(x);
	}
	return n;
}

double rig_keys(struct rig *r)
{
	double n = 0;
	for (int i = 0; i < r->n_masters; i++) {
		redisReply *x = redisCommand(r->link[i], "DBSIZE");
		n += x ? (double)x->integer : 0;
		freeReplyObject(x);
	}
	return n;
}

long long rig_integer(struct rig *r, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	redisReply *x = redisvCommand(r->link[0], format, ap);
	va_end(ap);
	if (!x || x->type != REDIS_REPLY_INTEGER)
		proc_die("%s: %s", format, x && x->str ? x->str : r->link[0]->errstr);
	long long n = x->integer;
	freeReplyObject(x);
	return n;
}

double rig_memory(struct rig *r)
{
	redisReply *x = redisCommand(r->link[0], "INFO memory");
	const char *at = x && x->str ? strstr(x->str, "used_memory:") : NULL;
	double bytes = at ? strtod(at + 12, NULL) : 0;
	freeReplyObject(x);
	return bytes;
}
