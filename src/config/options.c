#include "config/options.h"
#include "base/suggest.h"
#include "config/value.h"
#include <string.h>

#define ROW_G(id, path_, type_, field_, initial_, lo_, hi_, words_, zero_, class_, help_)                              \
	[OPT_##id] = {.path = (path_),                                                                                 \
		.initial = (initial_),                                                                                 \
		.words = (words_),                                                                                     \
		.zero = (zero_),                                                                                       \
		.help = (help_),                                                                                       \
		.lo = (lo_),                                                                                           \
		.hi = (hi_),                                                                                           \
		.field = offsetof(struct config, field_),                                                              \
		.type = OPTION_##type_,                                                                                \
		.class = OPTION_##class_},
#define ROW_S(id, path_, type_, field_, initial_, lo_, hi_, words_, zero_, class_, help_)                              \
	[OPT_##id] = {.path = (path_),                                                                                 \
		.initial = (initial_),                                                                                 \
		.words = (words_),                                                                                     \
		.zero = (zero_),                                                                                       \
		.help = (help_),                                                                                       \
		.lo = (lo_),                                                                                           \
		.hi = (hi_),                                                                                           \
		.field = offsetof(struct config_service, field_),                                                      \
		.type = OPTION_##type_,                                                                                \
		.class = OPTION_##class_},

const struct option options[N_OPTIONS] = {OPTIONS(ROW_G, ROW_S)};

/* The first component of path: its length without "[]". */
static size_t component(const char *path)
{
	return strcspn(path, ".[");
}

static enum option_kind options_kind_of(enum option_id id, const char *rest)
{
	size_t n = component(rest);
	if (rest[n] == '[')
		return OPTION_KIND_SERVICES;
	if (rest[n] == '.')
		return OPTION_KIND_MAP;
	return option_is_list(id) ? OPTION_KIND_LIST : OPTION_KIND_VALUE;
}

struct option_child option_child(const char *prefix, const char *key, size_t len)
{
	size_t skip = strlen(prefix);
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		const char *path = options[id].path;
		if (strncmp(path, prefix, skip) != 0)
			continue;
		if (component(path + skip) == len && memcmp(path + skip, key, len) == 0)
			return (struct option_child){.kind = options_kind_of(id, path + skip), .first = id};
	}
	return (struct option_child){.kind = OPTION_KIND_NONE, .first = N_OPTIONS};
}

struct best {
	const char *word;
	size_t len, edits;
};

/* Keeps the nearest word seen so far; far-fetched ones do not count. */
static void consider(struct best *best, const char *word, size_t n_word, const char *text, size_t n_text)
{
	size_t edits = suggest_distance(text, n_text, word, n_word);
	if (suggest_is_near(edits, n_word) && edits < best->edits)
		*best = (struct best){.word = word, .len = n_word, .edits = edits};
}

static const char *best_word(const struct best *best, char out[static OPTION_MAX_PATH])
{
	if (!best->word || best->len >= OPTION_MAX_PATH)
		return NULL;
	memcpy(out, best->word, best->len);
	out[best->len] = '\0';
	return out;
}

const char *option_elsewhere(const char *key, size_t len, char out[static OPTION_MAX_PATH])
{
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		const char *path = options[id].path;
		for (const char *at = path; at; at = strchr(at, '.')) {
			at += at != path; /* behind the dot */
			if (component(at) != len || memcmp(at, key, len) != 0)
				continue;
			size_t n = (size_t)(at - path) + len;
			memcpy(out, path, n);
			out[n] = '\0';
			return out;
		}
	}
	return NULL;
}

const char *option_suggest(const char *prefix, const char *key, size_t len, char out[static OPTION_MAX_PATH])
{
	size_t skip = strlen(prefix);
	struct best best = {.edits = OPTION_MAX_PATH};
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		const char *path = options[id].path;
		if (strncmp(path, prefix, skip) == 0)
			consider(&best, path + skip, component(path + skip), key, len);
	}
	return best_word(&best, out);
}

/* Steps through "a|b|c". False at the end. */
static bool next_word(const char **words, const char **word, size_t *len)
{
	if (!*words || !**words)
		return false;
	*word = *words;
	*len = strcspn(*words, "|");
	*words += *len + ((*words)[*len] == '|');
	return true;
}

int option_word(const char *words, const char *text)
{
	const char *word;
	size_t len;
	for (int i = 0; next_word(&words, &word, &len); i++) {
		if (strlen(text) == len && memcmp(word, text, len) == 0)
			return i;
	}
	return -1;
}

const char *option_suggest_word(const char *words, const char *text, char out[static OPTION_MAX_PATH])
{
	struct best best = {.edits = OPTION_MAX_PATH};
	const char *word;
	size_t len;
	while (next_word(&words, &word, &len)) {
		consider(&best, word, len, text, strlen(text));
		if (len >= 4 && strncmp(text, word, len) == 0)
			best = (struct best){.word = word, .len = len}; /* warning: warn */
	}
	return best_word(&best, out);
}

const char *option_type_name(const struct option *o)
{
	switch (o->type) {
	case OPTION_BOOL:
		return "boolean";
	case OPTION_DURATION:
		return "duration";
	case OPTION_SIZE:
		return "size";
	case OPTION_PERCENT:
		return "percent";
	case OPTION_INT:
		return "integer";
	case OPTION_STRING:
	case OPTION_SECRET:
		return "string";
	case OPTION_PATH:
		return "path";
	case OPTION_ENUM:
	case OPTION_WORD:
		return "word";
	case OPTION_MODE:
		return "mode";
	case OPTION_ENDPOINTS:
		return "list of endpoints";
	case OPTION_UIDS:
		return "list of user ids";
	}
	return "";
}

const char *option_class_name(const struct option *o)
{
	return o->class == OPTION_LIVE ? "live" : "restart";
}

static void words_range(const char *words, struct buf *out)
{
	const char *word;
	size_t len;
	for (bool first = true; next_word(&words, &word, &len); first = false) {
		if (!first)
			buf_str(out, " | ");
		buf_add(out, word, len);
	}
}

static void number_range(const struct option *o, struct buf *out)
{
	value_format_number(o->type, o->lo, out);
	buf_str(out, "..");
	value_format_number(o->type, o->hi, out);
}

void option_range(const struct option *o, struct buf *out)
{
	switch (o->type) {
	case OPTION_BOOL:
		buf_str(out, "true | false");
		break;
	case OPTION_ENUM:
	case OPTION_WORD:
		words_range(o->words, out);
		break;
	case OPTION_DURATION:
	case OPTION_SIZE:
	case OPTION_PERCENT:
	case OPTION_INT:
	case OPTION_MODE:
		number_range(o, out);
		break;
	case OPTION_STRING:
	case OPTION_SECRET:
		buf_printf(out, "%d..%d bytes", (int)o->lo, (int)o->hi);
		break;
	case OPTION_PATH:
		buf_printf(out, "absolute, at most %d bytes", (int)o->hi);
		break;
	case OPTION_ENDPOINTS:
	case OPTION_UIDS:
		buf_printf(out, "%d..%d items", (int)o->lo, (int)o->hi);
		break;
	}
	if (o->zero)
		buf_printf(
			out, "; %s = %s", o->type == OPTION_STRING || o->type == OPTION_PATH ? "\"\"" : "0", o->zero);
}
