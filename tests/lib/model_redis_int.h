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
	struct model_waits **waits; /* model_redis_later */
	size_t n_streams, n_registries, n_waits;
	char *run_id, *events;
	uint32_t scripts; /* bits of enum script: loaded */
	bool is_oom, has_delifeq;
	bool no_added;            /* as before Redis 7: XINFO STREAM has no entries-added */
	bool is_dirty;            /* the script under way has written: nothing is refused any more */
	struct entry_id next[64]; /* ids to give, in this order */
	size_t n_next;
	const char *heir; /* of the done under way */
	enum cmd_kind fail_kind;
	int n_fail;
	char *fail_text;
	void (*on_expired)(void *arg, struct slice stream, struct entry_id id);
	void *on_expired_arg;
	struct buf text; /* what the last reply points to */
	struct pending_row *pending;
	struct consumer_row *consumers;
	struct model_left *left;
	struct model_position *positions; /* model_redis_feed */
	size_t n_positions;
	size_t n_left;
	struct field *fields;
	struct reply many[CMD_MANY_MAX];
	size_t pending_cap, consumers_cap, fields_cap;
};

typedef void model_exec_fn(struct model_redis *m, const struct cmd *c, const struct command_names *names,
	const char *me, struct reply *out);

/* model_redis_lbs: everything on the load-balancer stream and the dead letters */
model_exec_fn model_group_create_cmd, model_read, model_read_own, model_heartbeat, model_fetch, model_take,
	model_take_many, model_done, model_done_many, model_requeue, model_dead, model_dead_add, model_pending_cmd,
	model_consumers_cmd, model_length, model_pending_sum, model_unread, model_add_cmd, model_dlq_range,
	model_dlq_del, model_replay;
/* model_redis_later: what waits */
model_exec_fn model_later, model_sift, model_due, model_add_later, model_delayed_cmd;
/* model_redis_ghosts: what the group was given and nobody has */
model_exec_fn model_ghosts, model_ghost_back;
/* The stream that an entry names, where nothing stands before it and no escapes are in it. */
struct slice model_plain_stream(const struct model_entry *e);
/* It waits for this stream. */
bool model_is_parked_as(
	struct model_redis *m, const struct command_names *names, struct slice stream, struct entry_id id);
/* model_redis_left: who has left */
model_exec_fn model_left_cmd, model_forget, model_fleet;
/* model_redis_feed: entries mode */
model_exec_fn model_feed_cmd;
void model_feed_free(struct model_redis *m);
void model_feed_move(struct model_redis *from, struct model_redis *to, uint16_t slot);
void model_feed_copy(struct model_redis *to, const struct model_redis *from);
void model_left_free(struct model_redis *m);
void model_left_move(struct model_redis *from, struct model_redis *to, uint16_t slot);
void model_left_copy(struct model_redis *to, const struct model_redis *from);

struct model_stream *model_stream_of(struct model_redis *m, const char *key, bool create); /* NULL: no such key */
void model_stream_drop(struct model_redis *m, const char *key);                   /* the key is gone, if it was there */
struct model_registry *model_registry_of(struct model_redis *m, const char *key); /* made when missing */
struct model_reg_row *model_registry_get(const struct model_registry *r, struct slice stream);
void model_registry_set(struct model_registry *r, struct slice stream, struct entry_id id);
void model_registry_del(struct model_registry *r, struct slice stream);
struct entry_id model_new_id(struct model_redis *m, const struct model_stream *s); /* s NULL: only what was ordered */
/* The stream with its group, or NULL and NOGROUP in *out. */
struct model_stream *model_group_of(
	struct model_redis *m, const struct cmd *c, const struct command_names *names, struct reply *out);
/* The checks that requeue, later and dead letter begin with: the entry, or NULL and the answer in *out. */
const struct model_entry *model_movable(struct model_redis *m, struct model_stream *s, const struct cmd *c,
	const struct command_names *names, struct reply *out);
/* The entry leaves group and stream; the registry follows it to its new id, or (NULL) what waits for its stream goes on.
 * Returns true when that is the heir's now: *next. */
bool model_finish(struct model_redis *m, struct model_stream *s, const struct cmd *c, const struct command_names *names,
	const struct entry_id *new, struct entry_id *next);
bool model_advance(struct model_redis *m, const struct command_names *names, struct slice stream, const char *heir,
	struct entry_id than, struct entry_id *next);
void model_unlock(struct model_redis *m, const struct cmd *c, struct slice value, struct reply *out);
bool model_nothing_waits(struct model_redis *m, const struct command_names *names);
bool model_alive(struct model_redis *m, const struct command_names *names, struct entry_id id);
/* The stream's entry takes it, waits or is merged: out->integer, or refused. */
void model_take_stream(struct model_redis *m, struct model_stream *s, const struct cmd *c,
	const struct command_names *names, struct reply *out);
bool model_is_refused(struct model_redis *m, const struct cmd *c, struct reply *out);
void model_read_entry(const struct model_entry *from, bool with_fields, struct entry_in *e);
struct entry_batch *model_batch_new(size_t room);
bool model_is_delayed(struct model_redis *m, const struct command_names *names, struct entry_id id);
struct field *model_fields_room(struct model_redis *m, size_t n);
struct field_list *model_counted(struct model_redis *m, const struct field_list *from, const char *count);
/* The same, and whether a worker died with it. */
struct field_list *model_marked(struct model_redis *m, const struct field_list *from, const char *count,
	const struct cmd *c);                            /* caller frees */
void model_input(struct buf *json, const struct cmd *c); /* the value of a new entry's lbs-input */
void model_waits_free(struct model_redis *m);
void model_waits_move(struct model_redis *from, struct model_redis *to, uint16_t slot);
void model_waits_copy(struct model_redis *to, const struct model_redis *from);

static inline void model_int(struct reply *out, int64_t v)
{
	*out = (struct reply){.kind = REPLY_INT, .integer = v};
}
void model_oom(const struct cmd *c, struct reply *out);
void model_error(const struct cmd *c, const char *text, struct reply *out); /* text: static or m's */
