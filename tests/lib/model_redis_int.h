/* model_redis_int - what the files of the model share. */
#pragma once
#include "base/buf.h"
#include "base/heap.h"
#include "base/map.h"
#include "codec/script.h"
#include "lib/model_redis_stream.h"

struct model_lock {
	struct heap_node expiry; /* server ms */
	struct entry_id id;
	char *value;
	size_t value_len, stream_len;
	char key[]; /* stream, then the 16 bytes of id */
};

/* The registry of one service: stream -> entry id. */
struct model_registry {
	char *key;
	struct map rows;
};
struct model_reg_row {
	struct entry_id id;
	size_t len;
	char stream[];
};

struct model_redis {
	int64_t offset; /* server ms - the caller's ms */
	int64_t now;    /* server ms */
	struct map locks;
	struct heap expiries;
	struct model_stream **streams;
	struct model_registry **registries;
	size_t n_streams, n_registries;
	char *run_id, *events;
	uint32_t scripts; /* bits of enum script: loaded */
	bool is_oom, has_next_id, has_delifeq;
	struct entry_id next_id;
	enum cmd_kind fail_kind;
	int n_fail;
	char *fail_text;
	void (*on_expired)(void *arg, struct slice stream, struct entry_id id);
	void *on_expired_arg;
	struct buf text; /* what the last reply points to */
	struct pending_row *pending;
	struct consumer_row *consumers;
	struct field *fields;
	size_t pending_cap, consumers_cap, fields_cap;
};

typedef void model_exec_fn(struct model_redis *m, const struct cmd *c, const struct command_names *names,
	const char *me, struct reply *out);

/* model_redis_lbs: everything on the load-balancer stream and the dead letters */
model_exec_fn model_group_create_cmd, model_read, model_read_own, model_heartbeat, model_fetch, model_take, model_done,
	model_requeue, model_dead, model_dead_add, model_pending_cmd, model_consumers_cmd, model_length,
	model_pending_sum, model_unread, model_add_cmd, model_dlq_range, model_dlq_del, model_replay;

struct model_stream *model_stream_of(struct model_redis *m, const char *key, bool create); /* NULL: no such key */
struct model_registry *model_registry_of(struct model_redis *m, const char *key);          /* made when missing */
struct model_reg_row *model_registry_get(const struct model_registry *r, struct slice stream);
void model_registry_set(struct model_registry *r, struct slice stream, struct entry_id id);
void model_registry_del(struct model_registry *r, struct slice stream);
struct entry_id model_new_id(struct model_redis *m, const struct model_stream *s);

static inline void model_int(struct reply *out, int64_t v)
{
	*out = (struct reply){.kind = REPLY_INT, .integer = v};
}
void model_error(const struct cmd *c, const char *text, struct reply *out); /* text: static or m's */
