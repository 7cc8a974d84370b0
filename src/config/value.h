/* value - one setting's text to its field and back. Pure; any thread.
 * `base` is the struct config or struct config_service that the option's field lies in. */
#pragma once
#include "config/options.h"

/* Parses, checks the range, stores. A string in the field is freed first. ERR_INVALID or ERR_RANGE with the problem
 * (no path, no position); the field is untouched then. Not for lists. */
enum err_code value_store(const struct option *o, const char *text, void *base, struct err *err);
/* The same for lists. *bad = the item that is wrong, or n when the list itself is. */
enum err_code value_store_list(
	const struct option *o, char *const *items, size_t n, void *base, size_t *bad, struct err *err);
/* Stores the default; it is our own text, so it cannot fail. */
void value_store_default(const struct option *o, void *base);
/* Cuts "a, b" at its commas. Returns n; *items and each of them are the caller's. "" has none. */
size_t value_split(const char *text, char ***items);
/* n strings and the list. */
void value_free_items(char **items, size_t n);
/* Appends the value as YAML. */
void value_format(const struct option *o, const void *base, struct buf *out);
/* For the types that are numbers: ms, bytes, percent, count, mode. */
void value_format_number(enum option_type type, int64_t n, struct buf *out);
/* Frees what the field owns. */
void value_release(const struct option *o, void *base);

static inline void *value_field(const struct option *o, void *base)
{
	return (char *)base + o->field;
}

static inline const void *value_field_const(const struct option *o, const void *base)
{
	return (const char *)base + o->field;
}
