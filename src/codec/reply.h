/* codec/reply - the library's reply -> struct reply. Pure; any thread. Bytes from outside: every shape is survived
 * (RERR_BAD). */
#pragma once
#include "core/cmd.h"
struct redisReply;

/* Scratch that holds what a decoded reply points to (rows). Valid until the next decode. */
struct reply_decoder;
/* Heap; reply_decoder_free. Used for one reply after the other, by one thread. */
struct reply_decoder *reply_decoder_new(void);
/* NULL is fine. Slices of the last reply end with it. */
void reply_decoder_free(struct reply_decoder *d);
/* r NULL -> REPLY_NONE. kind says which command it answers. reply->entries is owned by the caller. */
void reply_decode(struct reply_decoder *d, enum cmd_kind kind, const struct redisReply *r, struct reply *out);

/* An error as the server words it -> *out (BUSYGROUP of a group create is OK). out->text points into text. */
void reply_set_error(enum cmd_kind kind, struct slice text, struct reply *out);
/* The refusal that a sentence of ours quotes, like "authentication refused: WRONGPASS …"; REFUSAL_NONE: none. */
enum refusal reply_refusal_in(const char *words);

enum { REPLY_STREAM_MAX = 64 * 1024 }; /* bytes of a DataStreamName; longer ones are no name */
enum { LBS_TRACE_N = 3, LBS_TRACE_MAX = 8192 /* bytes of one; a longer one is left out */ };
struct lbs_fields { /* an entry's fields that matter; p NULL = absent. Begins as zeroes. */
	struct slice input, retry, suspect, trace[LBS_TRACE_N];
};
/* Keeps a field if it matters; of two of one name the later. The slices stay the caller's. */
void reply_lbs_field(struct lbs_fields *f, struct slice name, struct slice value);
/* Reads them into *e, whose id is set and whose rest is zero: problem, stream, info, retry, bad_retry, is_suspect,
 * trace, lock_slot. Info comes out minified, its numbers as they stood. */
void reply_read_input(struct entry_in *e, const struct lbs_fields *f);
/* Copies n fields into one block, for mem_free. */
struct field_list *reply_copy_fields(const struct field *fields, size_t n);

/* A push: pubsub confirmation, keyspace event of a lock, or a maintenance notification (core/handoff, later). */
enum push_kind { PUSH_OTHER, PUSH_SUBSCRIBED, PUSH_LOCK_EXPIRED, PUSH_CHANGED /* reply_changed_key */ };
struct push {
	enum push_kind kind;
	struct slice stream;
	struct entry_id id;
	struct slice name; /* first element */
};
/* The i-th key of a tracking push; false: no more. *key p NULL: every tracked key may have changed. */
bool reply_changed_key(const struct redisReply *r, size_t i, struct slice *key);
/* What a push says. Slices in *out point into r. */
void reply_decode_push(const struct redisReply *r, struct push *out);
