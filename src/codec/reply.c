/* reply - one row of `rows` per command: which shape answers it. A decoder answers false for a shape it does not know.
 */
#include "codec/reply_p.h"

#include "base/mem.h"
#include "codec/reply_feed.h"

#if HIREDIS_MAJOR * 10000 + HIREDIS_MINOR * 100 < 10200
#error "hiredis 1.2.0 or later is needed"
#endif

struct reply_decoder *reply_decoder_new(void)
{
	return mem_alloc(sizeof(struct reply_decoder));
}

void reply_decoder_free(struct reply_decoder *d)
{
	if (!d)
		return;
	mem_free(d->pending);
	mem_free(d->consumers);
	mem_free(d->slots);
	mem_free(d->fields);
	buf_fini(&d->json);
	mem_free(d);
}

/* ---- single values */

static bool decode_int(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	if (!reply_is_int(r))
		return false;
	*out = (struct reply){.kind = REPLY_INT, .integer = r->integer};
	return true;
}

/* OK, or nil where a condition (NX, XX) was not met. */
static bool decode_ok(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	if (r->type != REDIS_REPLY_NIL && r->type != REDIS_REPLY_STATUS)
		return false;
	*out = (struct reply){.kind = r->type == REDIS_REPLY_NIL ? REPLY_NIL : REPLY_OK};
	return true;
}

/* PING and subscriptions: that something came is enough. */
static bool decode_any(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	(void)r;
	*out = (struct reply){.kind = REPLY_OK};
	return true;
}

static bool decode_text(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	if (r->type == REDIS_REPLY_NIL)
		*out = (struct reply){.kind = REPLY_NIL};
	else if (reply_is_text(r))
		*out = (struct reply){.kind = REPLY_TEXT, .text = reply_slice_of(r)};
	else
		return false;
	return true;
}

static bool decode_id(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	struct entry_id id;
	if (!reply_id_of(r, &id))
		return false;
	*out = (struct reply){.kind = REPLY_ID, .id = id};
	return true;
}

static bool decode_maybe_id(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	return r->type == REDIS_REPLY_NIL ? decode_text(d, r, out) : decode_id(d, r, out);
}

/* The new id, nil, or a number that says why not. */
static bool decode_requeue(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	return reply_is_int(r) ? decode_int(d, r, out) : decode_maybe_id(d, r, out);
}

/* Each as the command for one answers it. */
static bool decode_many(struct reply_decoder *d, const redisReply *r, struct reply *out, enum cmd_kind kind)
{
	if (!reply_is_list(r) || r->elements > CMD_MANY_MAX)
		return false;
	for (size_t i = 0; i < r->elements; i++) {
		const redisReply *one = r->element[i];
		if (one && one->type == REDIS_REPLY_ERROR)
			reply_set_error(kind, reply_slice_of(one), &d->many[i]);
		else if (!one || one->type == REDIS_REPLY_NIL || !decode_requeue(d, one, &d->many[i]))
			return false;
	}
	*out = (struct reply){.kind = REPLY_MANY, .many = d->many, .n = r->elements};
	return true;
}

static bool decode_take_many(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	return decode_many(d, r, out, CMD_TAKE);
}

static bool decode_done_many(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	return decode_many(d, r, out, CMD_DONE);
}

static bool decode_counts(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	if (!reply_is_list(r) || r->elements != DUE_COUNTS)
		return false;
	*out = (struct reply){.kind = REPLY_COUNTS};
	for (size_t i = 0; i < DUE_COUNTS; i++) {
		if (!reply_is_int(r->element[i]))
			return false;
		out->counts[i] = r->element[i]->integer;
	}
	return true;
}

/* A number, or {1, how many were trimmed}: .n. */
static bool decode_dead(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (reply_is_int(r))
		return decode_int(d, r, out);
	if (!reply_is_list(r) || r->elements != 2 || !reply_is_int(r->element[1]) || !decode_int(d, r->element[0], out))
		return false;
	out->n = r->element[1]->integer > 0 ? (size_t)r->element[1]->integer : 0;
	return true;
}

/* An id, or {id, how many were trimmed}: .n. */
static bool decode_bury(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (!reply_is_list(r))
		return decode_id(d, r, out);
	if (r->elements != 2 || !reply_is_int(r->element[1]) || !decode_id(d, r->element[0], out))
		return false;
	out->n = r->element[1]->integer > 0 ? (size_t)r->element[1]->integer : 0;
	return true;
}

static bool decode_role(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	return reply_is_list(r) && r->elements > 0 && reply_is_text(r->element[0]) &&
	       decode_text(d, r->element[0], out);
}

static bool decode_config(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (!reply_is_list(r))
		return false;
	if (r->elements == 0) {
		*out = (struct reply){.kind = REPLY_NIL};
		return true;
	}
	return r->elements >= 2 && reply_is_text(r->element[1]) && decode_text(d, r->element[1], out);
}

/* The value of a "key:value" line, p NULL when there is none. */
static struct slice reply_info_value(const redisReply *r, const char *key)
{
	const size_t n = strlen(key);
	const char *at = reply_is_text(r) ? r->str : NULL, *end = at ? at + r->len : NULL;
	while (at && at < end) {
		const char *line_end = memchr(at, '\n', (size_t)(end - at));
		size_t len = (size_t)((line_end ? line_end : end) - at);
		if (len > n && memcmp(at, key, n) == 0 && at[n] == ':')
			return (struct slice){at + n + 1, len - n - 1 - (at[len - 1] == '\r')};
		at = line_end ? line_end + 1 : NULL;
	}
	return (struct slice){NULL, 0};
}

static bool decode_run_id(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	*out = (struct reply){.kind = REPLY_TEXT, .text = reply_info_value(r, "run_id")};
	return out->text.p != NULL;
}

static bool decode_cluster_info(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	struct slice epoch = reply_info_value(r, "cluster_current_epoch");
	*out = (struct reply){.kind = REPLY_TEXT, .text = reply_info_value(r, "cluster_state")};
	for (size_t i = 0; i < epoch.len && i < 18 && epoch.p[i] >= '0' && epoch.p[i] <= '9'; i++)
		out->integer = 10 * out->integer + (epoch.p[i] - '0');
	return out->text.p != NULL;
}

static bool decode_pending_sum(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	return reply_is_list(r) && r->elements > 0 && decode_int(d, r->element[0], out);
}

/* Digits as text; -1: they are none. */
static int64_t digits_of(const redisReply *r)
{
	int64_t v = 0;
	if (!reply_is_text(r) || r->len == 0 || r->len > 18)
		return -1;
	for (size_t i = 0; i < r->len; i++) {
		if (r->str[i] < '0' || r->str[i] > '9')
			return -1;
		v = v * 10 + (r->str[i] - '0');
	}
	return v;
}

static bool decode_time(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	if (!reply_is_list(r) || r->elements != 2)
		return false;
	const int64_t s = digits_of(r->element[0]), us = digits_of(r->element[1]);
	if (s < 0 || us < 0 || s > INT64_MAX / 1000 - 1000)
		return false;
	*out = (struct reply){.kind = REPLY_INT, .integer = s * 1000 + us / 1000};
	return true;
}

/* ---- entries */

/* [id, [name, value, …]]; nil in place of the list: deleted while pending. */
static bool decode_entry(struct reply_decoder *d, const redisReply *r, bool with_fields, struct entry_in *e)
{
	if (!reply_is_list(r) || r->elements != 2 || !reply_id_of(r->element[0], &e->id))
		return false;
	const redisReply *list = r->element[1];
	if (list->type == REDIS_REPLY_NIL) {
		e->problem = ENTRY_DELETED;
		return true;
	}
	if (!reply_is_list(list) || list->elements % 2 != 0)
		return false;
	struct lbs_fields fields = {0};
	const size_t n = list->elements / 2;
	if (with_fields && n > d->n_fields) {
		d->fields = mem_grow(d->fields, n, sizeof *d->fields);
		d->n_fields = n;
	}
	for (size_t i = 0; i < n; i++) {
		const redisReply *name = list->element[2 * i], *value = list->element[2 * i + 1];
		if (!reply_is_text(name) || !reply_is_text(value))
			return false;
		reply_lbs_field(&fields, reply_slice_of(name), reply_slice_of(value));
		if (with_fields)
			d->fields[i] = (struct field){.name = reply_slice_of(name), .value = reply_slice_of(value)};
	}
	reply_read_input(e, &fields);
	if (with_fields)
		e->fields = reply_copy_fields(d->fields, n);
	return true;
}

static bool decode_list(struct reply_decoder *d, const redisReply *r, bool with_fields, struct reply *out)
{
	const size_t n = r ? r->elements : 0; /* NULL: an empty list */
	if (r && !reply_is_list(r))
		return false;
	struct entry_batch *b = mem_alloc(sizeof *b + n * sizeof b->v[0]);
	b->n = n;
	for (size_t i = 0; r && i < n; i++) {
		if (!decode_entry(d, r->element[i], with_fields, &b->v[i])) {
			entry_batch_free(b);
			return false;
		}
	}
	*out = (struct reply){.kind = REPLY_ENTRIES, .entries = b};
	return true;
}

static bool decode_range(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	return decode_list(d, r, false, out);
}

static bool decode_range_fields(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	return decode_list(d, r, true, out);
}

/* Nil, or one stream: RESP3 {name: entries}, RESP2 [[name, entries]]. */
static bool decode_read(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (r->type == REDIS_REPLY_NIL || (reply_is_list(r) && r->elements == 0))
		return decode_list(d, NULL, false, out);
	if (r->type == REDIS_REPLY_ARRAY)
		r = r->element[0];
	if (!reply_is_list(r) || r->elements != 2)
		return false;
	return decode_list(d, r->element[1], false, out);
}

/* {how many were put away, entries}. */
static bool decode_sift(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (!reply_is_list(r) || r->elements != 2 || !reply_is_int(r->element[0]) ||
		!decode_list(d, r->element[1], false, out))
		return false;
	out->integer = r->element[0]->integer;
	return true;
}

/* ---- entries mode */

static bool decode_feed(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	return reply_decode_feed(&d->json, r, out);
}

static bool decode_position(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	(void)d;
	return reply_decode_position(r, out);
}

/* ---- the table */

static decode_fn *const rows[CMD_N] = {
	[CMD_LOCK] = decode_ok,
	[CMD_LOCK_GET] = decode_text,
	[CMD_LOCK_SWAP] = decode_int,
	[CMD_RENEW] = decode_text,
	[CMD_UNLOCK] = decode_int,
	[CMD_PROBE] = decode_int,
	[CMD_TOMBSTONE] = decode_ok,
	[CMD_GROUP_CREATE] = decode_ok,
	[CMD_READ] = decode_read,
	[CMD_READ_OWN] = decode_read,
	[CMD_HEARTBEAT] = decode_read,
	[CMD_FETCH] = decode_range,
	[CMD_TAKE] = decode_int,
	[CMD_TAKE_MANY] = decode_take_many,
	[CMD_DONE] = decode_requeue,
	[CMD_DONE_MANY] = decode_done_many,
	[CMD_REQUEUE] = decode_requeue,
	[CMD_DEAD] = decode_dead,
	[CMD_DEAD_ADD] = decode_bury,
	[CMD_DEAD_READ] = decode_range_fields,
	[CMD_ACK_DEL] = decode_int,
	[CMD_PENDING] = reply_decode_pending,
	[CMD_CONSUMERS] = reply_decode_consumers,
	[CMD_LENGTH] = decode_int,
	[CMD_PENDING_SUM] = decode_pending_sum,
	[CMD_UNREAD] = decode_maybe_id,
	[CMD_DLQ_LENGTH] = decode_int,
	[CMD_TRIAL] = decode_ok,
	[CMD_ADD] = decode_id,
	[CMD_DLQ_RANGE] = decode_range_fields,
	[CMD_DLQ_DEL] = decode_int,
	[CMD_REPLAY] = decode_id,
	[CMD_LATER] = decode_requeue,
	[CMD_SIFT] = decode_sift,
	[CMD_DUE] = decode_counts,
	[CMD_ADD_LATER] = decode_id,
	[CMD_GHOSTS] = reply_decode_ghosts,
	[CMD_GHOST_BACK] = decode_requeue,
	[CMD_DELAYED_NOW] = decode_requeue,
	[CMD_DELAYED_DROP] = decode_int,
	[CMD_LEAVE] = decode_int,
	[CMD_BACK] = decode_int,
	[CMD_LEFT] = reply_decode_left,
	[CMD_FORGET] = decode_int,
	[CMD_FLEET] = decode_int,
	[CMD_FEED_OPEN] = decode_position,
	[CMD_FEED_READ] = decode_feed,
	[CMD_FEED_ACK] = decode_int,
	[CMD_FEED_FAIL] = decode_position,
	[CMD_FEED_CLOSE] = decode_int,
	[CMD_FEED_PICK] = decode_range_fields,
	[CMD_FEED_DEAD_ADD] = decode_bury,
	[CMD_FEED_DLQ_LENGTH] = decode_int,
	[CMD_TRACKING] = decode_ok,
	[CMD_CACHING] = decode_ok,
	[CMD_WAIT] = decode_int,
	[CMD_UNBLOCK] = decode_int,
	[CMD_SLOTS] = reply_decode_slots,
	[CMD_CLUSTER_INFO] = decode_cluster_info,
	[CMD_ROLE] = decode_role,
	[CMD_RUN_ID] = decode_run_id,
	[CMD_TIME] = decode_time,
	[CMD_CONFIG_GET_EVENTS] = decode_config,
	[CMD_CONFIG_SET_EVENTS] = decode_ok,
	[CMD_PSUBSCRIBE] = decode_any,
	[CMD_PING] = decode_any,
};

void reply_decode(struct reply_decoder *d, enum cmd_kind kind, const struct redisReply *r, struct reply *out)
{
	*out = (struct reply){.kind = REPLY_NONE};
	if (!r)
		return;
	if (r->type == REDIS_REPLY_ERROR)
		reply_set_error(kind, reply_slice_of(r), out);
	else if (!rows[kind](d, r, out))
		*out = (struct reply){
			.kind = REPLY_ERROR,
			.error = RERR_BAD,
			.text = {"answer of unknown shape", sizeof "answer of unknown shape" - 1},
		};
}
