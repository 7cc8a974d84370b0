/* Any bytes: what the library accepts as a reply becomes a notification whose endpoint can be dialled, or none. */
#include "codec/push.h"
#include "codec/reply.h"
#include "io/redis/conn.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool is_kept)
{
	if (!is_kept)
		abort();
}

static void check(const redisReply *r)
{
	struct note n;
	struct slice name;
	struct push p;
	struct redis_addr addr;
	struct err err;
	enum push_class class = push_decode(r, &n, &name);
	demand(class == PUSH_IS_NOTE ? n.kind < NOTE_KINDS && n.seq >= 0 && n.seconds >= 0 : !n.endpoint[0]);
	demand(name.p != NULL);
	if (n.endpoint[0])
		demand(n.kind == NOTE_MOVING && redis_addr_parse(n.endpoint, &addr, &err) == ERR_OK && addr.port > 0);
	reply_decode_push(r, &p);
	struct slice key;
	for (size_t i = 0; p.kind == PUSH_CHANGED && reply_changed_key(r, i, &key); i++)
		demand(key.p != NULL || i == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	redisReader *reader = redisReaderCreate();
	reader->maxelements = 1024;
	redisReaderFeed(reader, (const char *)data, size);
	void *reply;
	while (redisReaderGetReply(reader, &reply) == REDIS_OK && reply) {
		check(reply);
		freeReplyObject(reply);
	}
	redisReaderFree(reader);
	char out[HANDOFF_ADDRESS];
	(void)push_endpoint((const char *)data, size, out);
	return 0;
}
