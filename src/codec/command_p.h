/* command_p - what the files of codec/command share: the builder and what writes one argument. */
#pragma once
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"
#include "codec/command.h"
#include "codec/script.h"

struct command_argv {
	struct buf bytes; /* all arguments, one after the other */
	size_t *lens;
	const char **args;
	size_t n, cap;
};

struct enc {
	struct command_argv *a;
	const struct cmd *c;
	const struct command_names *names;
	const struct command_self *self;
};

/* Ends the argument that began at byte `from`. */
static inline void put_end(struct command_argv *a, size_t from)
{
	if (a->n == a->cap) {
		a->cap = a->cap ? a->cap * 2 : 16;
		a->lens = mem_grow(a->lens, a->cap, sizeof *a->lens);
		a->args = mem_grow(a->args, a->cap, sizeof *a->args);
	}
	a->lens[a->n++] = a->bytes.len - from;
}

static inline void command_put(struct enc *e, const char *p, size_t len)
{
	const size_t from = e->a->bytes.len;
	if (len)
		buf_add(&e->a->bytes, p, len);
	put_end(e->a, from);
}

static inline void put_str(struct enc *e, const char *s)
{
	command_put(e, s, strlen(s));
}

static inline void command_put_slice(struct enc *e, struct slice s)
{
	command_put(e, s.p, s.p ? s.len : 0);
}

static inline void put_i64(struct enc *e, int64_t v)
{
	const size_t from = e->a->bytes.len;
	if (v < 0)
		buf_add(&e->a->bytes, "-", 1);
	buf_u64(&e->a->bytes, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
	put_end(e->a, from);
}

static inline void put_id(struct enc *e, struct entry_id id)
{
	char text[COMMAND_ID_CAP];
	const int n = command_id_format(text, id);
	command_put(e, text, (size_t)n);
}

/* At most max bytes, whole characters; p NULL stays so. */
static inline struct slice command_cut_text(struct slice s, size_t max)
{
	return (struct slice){s.p, s.p ? text_fit(s.p, s.len, max) : 0};
}

/* As much of it as a dead letter keeps. */
static inline struct slice command_cut_error(struct slice s)
{
	return command_cut_text(s, COMMAND_ERROR_MAX);
}

/* Appends one argument; p may be NULL when len is 0. */
void command_arg(struct command_argv *a, const char *p, size_t len);
/* Appends one argument of parts. */
void command_arg_joined(struct command_argv *a, const struct slice *parts, size_t n);
/* What stands before the fields of a dead letter that is added by itself: with a bound, a script that tells how many
 * older ones had to go for it. */
void command_put_bury(struct command_argv *a, const struct cmd *c, const char *dlq, int64_t max_len);
/* The commands of entries mode. */
void command_encode_feed(struct command_argv *a, const struct cmd *c, const struct command_names *names,
	const struct command_self *self);
/* The key of the command's lock. */
void command_put_lock(struct enc *e);
/* The key of another lock. */
void command_put_lock_of(struct enc *e, struct slice stream, struct entry_id id);
/* EVALSHA, or EVAL while the server does not know the script, and the number of keys, which come next. */
void command_put_script(struct enc *e, enum script s, int n_keys);
/* The one field of a new entry: its name and its value. */
void command_put_input(struct enc *e);
/* Fields (NULL = none) but those that skip (may be NULL) is true for. */
void command_put_fields(struct enc *e, const struct field_list *l, bool (*skip)(struct slice name));

/* A row of codec/command: appends all words of the command. */
typedef void encode_fn(struct enc *e);
/* Those of command_lbs.c. */
encode_fn enc_take, enc_sift, enc_done, enc_take_many, enc_done_many, enc_ack_del, enc_requeue, enc_later, enc_due,
	enc_ghosts, enc_ghost_back, enc_dead, enc_add_later, enc_delayed;
