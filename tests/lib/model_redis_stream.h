/* model_redis_stream - one stream of the model with its group: entries, consumers, pending entries. Times: server ms.
 */
#pragma once
#include "lib/model_redis.h"

struct model_consumer {
	char *name;
	int64_t seen;
	uint64_t n_pending;
};

struct model_pel_row {
	struct entry_id id;
	uint32_t consumer; /* index */
	int64_t delivered;
	uint64_t n_deliveries;
};

struct model_stream {
	char *key;
	struct model_entry *v; /* in order of ids */
	size_t n, cap;
	struct entry_id last;
	uint64_t n_added;          /* ever */
	char *group;               /* NULL = none */
	struct entry_id delivered; /* last-delivered-id */
	struct model_pel_row *pel; /* in order of ids */
	size_t n_pel, pel_cap;
	struct model_consumer *consumers;
	size_t n_consumers;
};

void model_stream_init(struct model_stream *s, const char *key);
void model_stream_fini(struct model_stream *s);
void model_stream_copy(struct model_stream *to, const struct model_stream *from); /* to: new and empty, its key stays */

/* The first entry that is not before id: its index, n = none. */
size_t model_stream_find(const struct model_stream *s, struct entry_id id);
const struct model_entry *model_stream_get(const struct model_stream *s, struct entry_id id);    /* NULL: none */
void model_stream_append(struct model_stream *s, struct entry_id id, struct field_list *fields); /* takes fields */
bool model_stream_delete(struct model_stream *s, struct entry_id id);
void model_stream_trim(struct model_stream *s, size_t max_len); /* MAXLEN ~ */

void model_group_create(struct model_stream *s, const char *group, struct entry_id start);
void model_group_destroy(struct model_stream *s);
/* Deletes the consumer when it has nothing pending and was not seen since. */
bool model_consumer_forget(struct model_stream *s, const char *name, int64_t since);
uint32_t model_group_consumer(struct model_stream *s, const char *name, size_t len); /* made when missing */
size_t model_pel_find(const struct model_stream *s, struct entry_id id);             /* as model_stream_find */
struct model_pel_row *model_pel_get(const struct model_stream *s, struct entry_id id);
void model_pel_put(struct model_stream *s, struct entry_id id, uint32_t consumer, int64_t now, uint64_t n_deliveries);
bool model_pel_remove(struct model_stream *s, struct entry_id id);
