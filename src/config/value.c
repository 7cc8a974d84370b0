#include "config/value.h"
#include "base/mem.h"
#include "config/endpoint.h"
#include "config/text.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ENUM fields are written as unsigned. */
_Static_assert(sizeof(enum config_topology) == sizeof(unsigned), "enums are as wide as unsigned");
_Static_assert(LOG_ERROR == 0 && LOG_WARN == 1 && LOG_NOTICE == 2 && LOG_INFO == 3 && LOG_DEBUG == 4,
	"log.level: words and enum log_level agree");
_Static_assert(LOG_AUTO == 0 && LOG_JOURNAL == 1 && LOG_TEXT == 2 && LOG_JSON == 3,
	"log.format: words and enum log_format agree");

struct unit {
	const char *name;
	int64_t factor;
};

/* Smallest first. */
static const struct unit DURATIONS[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {NULL, 0}};
static const struct unit SIZES[] = {{"", 1}, {"KiB", KIB(1)}, {"MiB", MIB(1)}, {"GiB", MIB(1024)}, {NULL, 0}};

/* Reads -?(0|[1-9][0-9]*) and returns what follows, NULL when there is no such number. Too big: INT64_MAX. */
static const char *value_read_number(const char *text, int64_t *out)
{
	bool is_negative = text[0] == '-';
	const char *digits = text + is_negative;
	size_t n = strspn(digits, "0123456789");
	if (n == 0 || (n > 1 && digits[0] == '0'))
		return NULL;
	int64_t value = 0;
	for (size_t i = 0; i < n; i++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
			__builtin_add_overflow(value, digits[i] - '0', &value)) {
			value = INT64_MAX;
			break;
		}
	}
	*out = is_negative ? -value : value;
	return digits + n;
}

static const struct unit *find_unit(const struct unit *units, const char *name)
{
	for (const struct unit *u = units; u->name; u++) {
		if (strcmp(u->name, name) == 0)
			return u;
	}
	return NULL;
}

static int64_t scale(int64_t n, int64_t factor)
{
	int64_t out;
	if (__builtin_mul_overflow(n, factor, &out))
		return n < 0 ? INT64_MIN : INT64_MAX;
	return out;
}

static enum err_code value_fail(struct err *err, const char *text, const char *problem)
{
	char shown[TEXT_SHOWN];
	if (!*text)
		return err_set(err, ERR_INVALID, "has no value");
	return err_set(err, ERR_INVALID, "%s %s", text_show(text, strlen(text), shown), problem);
}

static enum err_code fail_meant(struct err *err, const char *text, const char *problem, int64_t n, const char *unit)
{
	char shown[TEXT_SHOWN];
	return err_set(err, ERR_INVALID, "%s %s (did you mean %lld%s?)", text_show(text, strlen(text), shown), problem,
		(long long)n, unit);
}

static enum err_code value_parse_duration(const char *text, int64_t *out, struct err *err)
{
	int64_t n;
	const char *rest = value_read_number(text, &n);
	const struct unit *unit = rest ? find_unit(DURATIONS, rest) : NULL;
	if (rest && !*rest && n == 0)
		unit = &DURATIONS[0];
	if (rest && !*rest && !unit)
		return fail_meant(err, text, "has no unit; a duration ends in ms, s, m or h", n, "s");
	if (!unit)
		return value_fail(err, text, "is not a duration; write a whole number and ms, s, m or h");
	*out = scale(n, unit->factor);
	return ERR_OK;
}

/* The binary unit that somebody who wrote 10MB or 10m wants. */
static const char *meant_size(const char *rest)
{
	static const char *const units[] = {"KiB", "MiB", "GiB"};
	const char *at = *rest ? strchr("kKmMgG", *rest) : NULL;
	bool is_near = at && (!rest[1] || strchr("bBiI", rest[1])) && strlen(rest) <= 3;
	return is_near ? units[(at - "kKmMgG") / 2] : NULL;
}

static enum err_code parse_size(const char *text, int64_t *out, struct err *err)
{
	static const char PROBLEM[] = "is not a size; write a whole number and KiB, MiB, GiB or nothing";
	int64_t n;
	const char *rest = value_read_number(text, &n);
	const struct unit *unit = rest ? find_unit(SIZES, rest) : NULL;
	if (rest && !unit && meant_size(rest))
		return fail_meant(err, text, PROBLEM, n, meant_size(rest));
	if (!unit)
		return value_fail(err, text, PROBLEM);
	*out = scale(n, unit->factor);
	return ERR_OK;
}

static enum err_code parse_percent(const char *text, int64_t *out, struct err *err)
{
	const char *rest = value_read_number(text, out);
	if (rest && !*rest)
		return fail_meant(err, text, "has no percent sign", *out, "%");
	if (!rest || strcmp(rest, "%") != 0)
		return value_fail(err, text, "is not a percentage; write a whole number and %");
	return ERR_OK;
}

static enum err_code parse_int(const char *text, int64_t *out, struct err *err)
{
	const char *rest = value_read_number(text, out);
	if (!rest || *rest)
		return value_fail(err, text, "is not a whole number");
	return ERR_OK;
}

static enum err_code parse_bool(const char *text, int64_t *out, struct err *err)
{
	static const char *const yes[] = {"yes", "on", "True", "TRUE", "y", "1"};
	static const char *const no[] = {"no", "off", "False", "FALSE", "n", "0"};
	*out = strcmp(text, "true") == 0;
	if (*out || strcmp(text, "false") == 0)
		return ERR_OK;
	for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
		if (strcmp(text, yes[i]) == 0)
			return value_fail(err, text, "is not true or false (did you mean true?)");
		if (strcmp(text, no[i]) == 0)
			return value_fail(err, text, "is not true or false (did you mean false?)");
	}
	return value_fail(err, text, "is not true or false");
}

static enum err_code parse_mode(const char *text, int64_t *out, struct err *err)
{
	size_t n = strlen(text);
	if (n < 3 || n > 4 || strspn(text, "01234567") != n)
		return value_fail(err, text, "is not a file mode; write octal digits like \"0660\"");
	*out = strtol(text, NULL, 8);
	return ERR_OK;
}

static enum err_code parse_word(const struct option *o, const char *text, int64_t *out, struct err *err)
{
	char shown[TEXT_SHOWN], meant[OPTION_MAX_PATH];
	*out = option_word(o->words, text);
	if (*out >= 0)
		return ERR_OK;
	struct buf list;
	buf_init(&list);
	option_range(o, &list);
	const char *near = option_suggest_word(o->words, text, meant);
	err_set(err, ERR_INVALID, "%s is not one of %s%s%s%s", text_show(text, strlen(text), shown), list.data,
		near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
	buf_fini(&list);
	return ERR_INVALID;
}

static enum err_code parse_number(const struct option *o, const char *text, int64_t *out, struct err *err)
{
	switch (o->type) {
	case OPTION_BOOL:
		return parse_bool(text, out, err);
	case OPTION_DURATION:
		return value_parse_duration(text, out, err);
	case OPTION_SIZE:
		return parse_size(text, out, err);
	case OPTION_PERCENT:
		return parse_percent(text, out, err);
	case OPTION_MODE:
		return parse_mode(text, out, err);
	case OPTION_ENUM:
		return parse_word(o, text, out, err);
	case OPTION_INT:
	case OPTION_STRING:
	case OPTION_PATH:
	case OPTION_SECRET:
	case OPTION_WORD:
	case OPTION_ENDPOINTS:
	case OPTION_UIDS:
		break;
	}
	return parse_int(text, out, err);
}

static enum err_code check_range(const struct option *o, int64_t n, const char *text, struct err *err)
{
	char shown[TEXT_SHOWN];
	if (o->type == OPTION_ENUM || (n >= o->lo && n <= o->hi) || (n == 0 && o->zero))
		return ERR_OK;
	struct buf range;
	buf_init(&range);
	option_range(o, &range);
	err_set(err, ERR_RANGE, "%s is out of range %s", text_show(text, strlen(text), shown), range.data);
	buf_fini(&range);
	return ERR_RANGE;
}

static enum err_code value_store_number(const struct option *o, const char *text, void *base, struct err *err)
{
	int64_t n = 0;
	enum err_code rc = parse_number(o, text, &n, err);
	if (rc == ERR_OK)
		rc = check_range(o, n, text, err);
	if (rc != ERR_OK)
		return rc;
	void *field = value_field(o, base);
	if (o->type == OPTION_DURATION)
		*(int64_t *)field = n;
	else if (o->type == OPTION_SIZE)
		*(size_t *)field = (size_t)n;
	else if (o->type == OPTION_BOOL)
		*(bool *)field = n;
	else
		memcpy(field, &(unsigned){(unsigned)n}, sizeof(unsigned));
	return ERR_OK;
}

static enum err_code check_string(const struct option *o, const char *text, struct err *err)
{
	int64_t len = (int64_t)strlen(text), unused;
	if (o->type == OPTION_WORD)
		return parse_word(o, text, &unused, err);
	if (!text_is_plain(text))
		return err_set(err, ERR_INVALID, "contains control characters or bytes that are not UTF-8");
	if (len == 0 && (o->zero || o->lo == 0))
		return ERR_OK;
	if (len == 0)
		return err_set(err, ERR_INVALID, "must not be empty");
	if (o->type == OPTION_PATH && text[0] != '/')
		return value_fail(err, text, "is not an absolute path");
	if (len < o->lo || len > o->hi)
		return err_set(err, ERR_RANGE, "is %lld bytes long, allowed are %lld..%lld", (long long)len,
			(long long)o->lo, (long long)o->hi);
	return ERR_OK;
}

static enum err_code store_string(const struct option *o, const char *text, void *base, struct err *err)
{
	enum err_code rc = check_string(o, text, err);
	if (rc != ERR_OK)
		return rc;
	char **field = value_field(o, base);
	mem_free(*field);
	*field = mem_dup(text, strlen(text));
	return ERR_OK;
}

static bool is_string(enum option_type type)
{
	return type == OPTION_STRING || type == OPTION_PATH || type == OPTION_SECRET || type == OPTION_WORD;
}

enum err_code value_store(const struct option *o, const char *text, void *base, struct err *err)
{
	return is_string(o->type) ? store_string(o, text, base, err) : value_store_number(o, text, base, err);
}

static enum err_code parse_uid(const char *text, uint32_t *out, struct err *err)
{
	int64_t n = 0;
	const char *rest = value_read_number(text, &n);
	if (!rest || *rest)
		return value_fail(err, text, "is not a user id; write its number");
	if (n < 0 || n >= UINT32_MAX) /* (uid_t)-1 is nobody's */
		return value_fail(err, text, "is out of range 0..4294967294");
	*out = (uint32_t)n;
	return ERR_OK;
}

static enum err_code store_uids(char *const *items, size_t n, struct config_uids *field, size_t *bad, struct err *err)
{
	struct config_uids list = {.items = n ? mem_array(n, sizeof *list.items) : NULL, .n = n};
	for (size_t i = 0; i < n; i++) {
		enum err_code rc = parse_uid(items[i], &list.items[i], err);
		if (rc != ERR_OK) {
			*bad = i;
			mem_free(list.items);
			return rc;
		}
	}
	mem_free(field->items);
	*field = list;
	return ERR_OK;
}

static enum err_code store_endpoints(
	char *const *items, size_t n, struct config_list *field, size_t *bad, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		enum err_code rc = *items[i] ? ERR_OK : err_set(err, ERR_INVALID, "has no value");
		if (rc == ERR_OK && !text_is_plain(items[i]))
			rc = err_set(err, ERR_INVALID, "contains control characters or bytes that are not UTF-8");
		if (rc == ERR_OK)
			rc = endpoint_check(items[i], false, err);
		if (rc != ERR_OK) {
			*bad = i;
			return rc;
		}
	}
	value_free_items(field->items, field->n);
	*field = (struct config_list){.items = n ? mem_array(n, sizeof *field->items) : NULL, .n = n};
	for (size_t i = 0; i < n; i++)
		field->items[i] = mem_dup(items[i], strlen(items[i]));
	return ERR_OK;
}

enum err_code value_store_list(
	const struct option *o, char *const *items, size_t n, void *base, size_t *bad, struct err *err)
{
	*bad = n;
	if ((int64_t)n < o->lo || (int64_t)n > o->hi)
		return err_set(
			err, ERR_RANGE, "has %zu items, allowed are %lld..%lld", n, (long long)o->lo, (long long)o->hi);
	if (o->type == OPTION_UIDS)
		return store_uids(items, n, value_field(o, base), bad, err);
	return store_endpoints(items, n, value_field(o, base), bad, err);
}

void value_store_default(const struct option *o, void *base)
{
	struct err err = {0};
	size_t bad;
	enum err_code rc;
	if (o->type == OPTION_ENDPOINTS || o->type == OPTION_UIDS) {
		char **items;
		size_t n = value_split(o->initial, &items);
		rc = value_store_list(o, items, n, base, &bad, &err);
		value_free_items(items, n);
	} else if (is_string(o->type)) { /* "" may be no valid value: a name that must be given */
		char **field = value_field(o, base);
		mem_free(*field);
		*field = mem_dup(o->initial, strlen(o->initial));
		rc = ERR_OK;
	} else {
		rc = value_store(o, o->initial, base, &err);
	}
	assert(rc == ERR_OK);
	(void)rc;
}

static char *trimmed(const char *s, size_t n)
{
	while (n > 0 && s[0] == ' ') {
		s++;
		n--;
	}
	while (n > 0 && s[n - 1] == ' ')
		n--;
	return mem_dup(s, n);
}

size_t value_split(const char *text, char ***items)
{
	size_t n = *text ? 1 : 0;
	for (const char *p = text; *p; p++)
		n += *p == ',';
	*items = mem_array(n + 1, sizeof **items);
	for (size_t i = 0; i < n; i++) {
		size_t len = strcspn(text, ",");
		(*items)[i] = trimmed(text, len);
		text += len + 1;
	}
	return n;
}

void value_free_items(char **items, size_t n)
{
	for (size_t i = 0; i < n; i++)
		mem_free(items[i]);
	mem_free(items);
}

/* Whole units only, the largest that fits; minutes and hours from two on, as people write 60s. */
static void format_units(const struct unit *units, int64_t n, struct buf *out)
{
	const struct unit *best = units;
	bool is_size = units == SIZES;
	for (const struct unit *u = units; u->name; u++) {
		if (n % u->factor == 0 && n >= u->factor * (is_size || u->factor <= 1000 ? 1 : 2))
			best = u;
	}
	buf_printf(out, "%lld%s", (long long)(n / best->factor), n == 0 ? "" : best->name);
}

void value_format_number(enum option_type type, int64_t n, struct buf *out)
{
	if (type == OPTION_DURATION)
		format_units(DURATIONS, n, out);
	else if (type == OPTION_SIZE)
		format_units(SIZES, n, out);
	else if (type == OPTION_MODE)
		buf_printf(out, "\"%04o\"", (unsigned)n);
	else
		buf_printf(out, "%lld%s", (long long)n, type == OPTION_PERCENT ? "%" : "");
}

static void format_word(const char *words, unsigned n, struct buf *out)
{
	for (; n > 0; n--)
		words += strcspn(words, "|") + 1;
	buf_add(out, words, strcspn(words, "|"));
}

static void format_list(const struct option *o, const void *field, struct buf *out)
{
	const struct config_list *list = field;
	const struct config_uids *uids = field;
	bool is_uids = o->type == OPTION_UIDS;
	size_t n = is_uids ? uids->n : list->n;
	buf_str(out, "[");
	for (size_t i = 0; i < n; i++) {
		buf_str(out, i ? ", " : "");
		if (is_uids)
			buf_u64(out, uids->items[i]);
		else
			buf_json_str(out, list->items[i], strlen(list->items[i]));
	}
	buf_str(out, "]");
}

void value_format(const struct option *o, const void *base, struct buf *out)
{
	const void *field = value_field_const(o, base);
	switch (o->type) {
	case OPTION_BOOL:
		buf_str(out, *(const bool *)field ? "true" : "false");
		return;
	case OPTION_DURATION:
		value_format_number(o->type, *(const int64_t *)field, out);
		return;
	case OPTION_SIZE:
		value_format_number(o->type, (int64_t) * (const size_t *)field, out);
		return;
	case OPTION_PERCENT:
	case OPTION_INT:
	case OPTION_MODE:
		value_format_number(o->type, *(const unsigned *)field, out);
		return;
	case OPTION_ENUM:
		format_word(o->words, *(const unsigned *)field, out);
		return;
	case OPTION_STRING:
	case OPTION_PATH:
	case OPTION_SECRET:
	case OPTION_WORD:
		buf_json_str(out, *(char *const *)field, strlen(*(char *const *)field));
		return;
	case OPTION_ENDPOINTS:
	case OPTION_UIDS:
		format_list(o, field, out);
		return;
	}
}

void value_release(const struct option *o, void *base)
{
	if (is_string(o->type)) {
		mem_free(*(char **)value_field(o, base));
	} else if (o->type == OPTION_UIDS) {
		mem_free(((struct config_uids *)value_field(o, base))->items);
	} else if (o->type == OPTION_ENDPOINTS) {
		struct config_list *list = value_field(o, base);
		value_free_items(list->items, list->n);
	}
}
