/* Cells and ages. Names come from workers and streams, so nothing reaches the terminal uncleaned. */
#include "bin/sluicectl/sluicectl.h"

#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/mono.h"
#include "base/utf8.h"

static bool use_colour;
static size_t n_columns; /* of the terminal; 0 = no limit */

void cell_use_colour(bool on)
{
	use_colour = on;
}

void cell_use_columns(size_t n)
{
	n_columns = n;
}

size_t cell_columns(void)
{
	return n_columns;
}

const char *cell_colour_of(const char *word)
{
	static const struct {
		const char *word, *colour;
	} words[] = {
		{"ok", "\x1b[32m"},
		{"connected", "\x1b[32m"},
		{"running", "\x1b[32m"},
		{"active", "\x1b[32m"},
		{"alive", "\x1b[32m"},
		{"silent", "\x1b[31m"},
		{"left", "\x1b[33m"},
		{"applied", "\x1b[32m"},
		{"down", "\x1b[31m"},
		{"fail", "\x1b[31m"},
		{"lost", "\x1b[31m"},
		{"open", "\x1b[31m"},
		{"rejected", "\x1b[31m"},
		{"error", "\x1b[31m"},
		{"dead", "\x1b[31m"},
		{"warn", "\x1b[33m"},
		{"notice", "\x1b[33m"},
		{"relaxed", "\x1b[33m"},
		{"half_open", "\x1b[33m"},
		{"connecting", "\x1b[33m"},
		{"draining", "\x1b[33m"},
		{"paused", "\x1b[33m"},
		{"revoking", "\x1b[33m"},
		{"limbo", "\x1b[33m"},
		{"parked", "\x1b[33m"},
		{"needs_restart", "\x1b[33m"},
		{"gone", "\x1b[33m"},
	};
	for (size_t i = 0; word && i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(words[i].word, word) == 0)
			return words[i].colour;
	}
	return NULL;
}

void cell_clean(struct buf *b, const char *s)
{
	while (*s) {
		size_t n = utf8_control(s);
		buf_add(b, n ? "?" : s, 1);
		s += n ? n : 1;
	}
}

void cell_age(struct buf *b, int64_t ms)
{
	long long s = (long long)ms / 1000;
	if (ms < 0)
		buf_str(b, "-");
	else if (ms < 1000)
		buf_printf(b, "%lldms", (long long)ms);
	else if (s < 60 && ms % 1000 < 100)
		buf_printf(b, "%llds", s);
	else if (s < 60)
		buf_printf(b, "%lld.%llds", s, (long long)ms % 1000 / 100);
	else if (s < 3600)
		buf_printf(b, "%lldm%02llds", s / 60, s % 60);
	else if (s < 86400)
		buf_printf(b, "%lldh%02lldm", s / 3600, s % 3600 / 60);
	else
		buf_printf(b, "%lldd%02lldh", s / 86400, s % 86400 / 3600);
}

void cell_painted(struct buf *b, const char *colour, const char *s)
{
	bool on = use_colour && colour;
	if (on)
		buf_str(b, colour);
	cell_clean(b, s);
	if (on)
		buf_str(b, "\x1b[0m");
}

yyjson_val *cell_value(yyjson_val *row, const char *key)
{
	const char *dot = strchr(key, '.');
	if (!dot)
		return yyjson_obj_get(row, key);
	return yyjson_obj_get(yyjson_obj_getn(row, key, (size_t)(dot - key)), dot + 1);
}

const char *cell_string(yyjson_val *row, const char *key)
{
	const char *s = yyjson_get_str(cell_value(row, key));
	return s ? s : "-";
}

int64_t cell_number(yyjson_val *row, const char *key)
{
	yyjson_val *v = cell_value(row, key);
	return yyjson_is_int(v) ? yyjson_get_sint(v) : -1;
}

static void put_when(struct buf *b, int64_t at_ms)
{
	time_t t = (time_t)(at_ms / 1000);
	struct tm tm;
	char s[32] = "-";
	if (at_ms >= 0 && localtime_r(&t, &tm))
		strftime(s, sizeof(s), "%Y-%m-%d %H:%M:%S", &tm);
	buf_str(b, s);
}

static void cell_put_list(struct buf *b, yyjson_val *list)
{
	size_t i, n;
	yyjson_val *v;
	if (yyjson_arr_size(list) == 0)
		buf_str(b, "all");
	yyjson_arr_foreach(list, i, n, v)
	{
		if (i)
			buf_str(b, ",");
		cell_clean(b, yyjson_is_str(v) ? yyjson_get_str(v) : "?");
	}
}

static void put_sum(struct buf *b, yyjson_val *object)
{
	size_t i, n;
	yyjson_val *key, *v;
	int64_t sum = 0;
	yyjson_obj_foreach(object, i, n, key, v)
	{
		sum += yyjson_get_sint(v);
	}
	buf_printf(b, "%lld", (long long)sum);
}

/* "command:ready reader:ready/draining~@10.0.0.2:6379": a ~ marks relaxed time-outs, the part after / a handoff under
 * way, the part after @ where it leads when that is not the node's address; then why its last attempt failed. */
static void put_links(struct buf *b, yyjson_val *list, const char *redis)
{
	size_t i, n;
	yyjson_val *v;
	yyjson_arr_foreach(list, i, n, v)
	{
		const char *handoff = cell_string(v, "handoff");
		if (i)
			buf_str(b, " ");
		cell_clean(b, cell_string(v, "role"));
		buf_str(b, ":");
		cell_clean(b, cell_string(v, "state"));
		if (strcmp(handoff, "idle") != 0 && strcmp(handoff, "-") != 0) {
			buf_str(b, "/");
			cell_clean(b, handoff);
		}
		if (yyjson_is_true(yyjson_obj_get(v, "relaxed")))
			buf_str(b, "~");
		const char *address = cell_string(v, "address"), *error = cell_string(v, "error");
		if (strcmp(address, "-") != 0 && strcmp(address, redis) != 0) {
			buf_str(b, "@");
			cell_clean(b, address);
		}
		if (strcmp(error, "-") != 0) {
			buf_str(b, " (");
			cell_clean(b, error);
			buf_str(b, ")");
		}
	}
}

static void put_json(struct buf *b, yyjson_val *v)
{
	char *s = yyjson_val_write_opts(v, 0, &json_alc, NULL, NULL);
	cell_clean(b, s ? s : "?");
	mem_free(s);
}

void cell_lower(struct buf *b, const char *title)
{
	for (; *title; title++) {
		char c = *title >= 'A' && *title <= 'Z' ? (char)(*title - 'A' + 'a') : *title;
		buf_add(b, &c, 1);
	}
}

size_t cell_width(const char *s)
{
	size_t n = 0;
	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

/* Of "payment-reconciliation-eu-west-1" stay both ends: names differ at either. */
void cell_name(struct buf *b, const char *s, size_t max)
{
	struct buf clean;
	buf_init(&clean);
	cell_clean(&clean, s);
	const char *text = clean.data ? clean.data : "";
	size_t n = cell_width(text), head = (max - 1) * 3 / 5, at = 0;
	for (const char *p = text; *p; p++) {
		bool is_start = ((unsigned char)*p & 0xc0) != 0x80;
		at += is_start; /* the character's number, from 1 */
		if (n > max && is_start && at == head + 1)
			buf_str(b, "…");
		if (n <= max || at <= head || at > n - (max - head - 1))
			buf_add(b, p, 1);
	}
	buf_fini(&clean);
}

static size_t name_max(enum format f)
{
	if (!n_columns)
		return SIZE_MAX;
	return f == FORMAT_SHORT ? CELL_SHORT_MAX : f == FORMAT_NAME ? CELL_NAME_MAX : CELL_ADDRESS_MAX;
}

/* Terminal columns of len bytes; our own escape sequences take none. */
static size_t seen_width(const char *s, size_t len)
{
	size_t n = 0;
	bool is_escape = false;
	for (size_t i = 0; i < len; i++) {
		is_escape = is_escape || s[i] == 0x1b;
		n += !is_escape && ((unsigned char)s[i] & 0xc0) != 0x80;
		is_escape = is_escape && !(s[i] >= 'a' && s[i] <= 'z');
	}
	return n;
}

void cell_fold(struct buf *b, size_t from, size_t at, size_t hang)
{
	if (!n_columns || b->len == from)
		return;
	char *text = mem_dup(b->data + from, b->len - from);
	bool has_word = false;
	b->len = from;
	for (const char *s = text; *s;) {
		const size_t spaces = strspn(s, " "), len = strcspn(s + spaces, " \n"),
			     width = seen_width(s + spaces, len);
		if (has_word && len && at + spaces + width > n_columns) {
			buf_printf(b, "\n%*s", (int)hang, "");
			at = hang + width;
		} else {
			buf_add(b, s, spaces);
			at += spaces + width;
		}
		buf_add(b, s + spaces, len);
		has_word = has_word || len;
		s += spaces + len;
		if (*s == '\n') {
			buf_add(b, s++, 1);
			at = 0;
			has_word = false;
		}
	}
	mem_free(text);
}

void cell_words(struct buf *b, const char *s, size_t at, size_t hang)
{
	const size_t from = b->len;
	cell_clean(b, s);
	cell_fold(b, from, at, hang);
}

void cell_put_value(struct buf *b, const struct column *c, yyjson_val *row)
{
	yyjson_val *v = cell_value(row, c->key);
	size_t before = b->len;
	switch (c->format) {
	case FORMAT_TEXT:
	case FORMAT_WORDS:
	case FORMAT_STATE:
		cell_clean(b, yyjson_is_str(v) ? yyjson_get_str(v) : "");
		break;
	case FORMAT_SHORT:
	case FORMAT_NAME:
	case FORMAT_ADDRESS:
		cell_name(b, yyjson_is_str(v) ? yyjson_get_str(v) : "", name_max(c->format));
		break;
	case FORMAT_NUMBER:
		if (yyjson_is_int(v))
			buf_printf(b, "%lld", (long long)yyjson_get_sint(v));
		break;
	case FORMAT_AGE:
		cell_age(b, cell_number(row, c->key));
		break;
	case FORMAT_LEFT:
		cell_age(b, yyjson_is_int(v) ? mono_max(yyjson_get_sint(v) - mono_now(), 0) : -1);
		break;
	case FORMAT_SUM:
		put_sum(b, v);
		break;
	case FORMAT_YES:
		if (yyjson_is_true(v))
			cell_lower(b, c->title);
		break;
	case FORMAT_LIST:
		cell_put_list(b, v);
		break;
	case FORMAT_WHEN:
		put_when(b, cell_number(row, c->key));
		break;
	case FORMAT_LINKS:
		put_links(b, v, cell_string(row, "redis"));
		break;
	case FORMAT_JSON:
		if (v && !yyjson_is_null(v))
			put_json(b, v);
		break;
	}
	if (b->len == before)
		buf_str(b, "-");
}
