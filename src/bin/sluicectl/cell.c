/* Cells, ages, tables. Names come from workers and streams, so nothing reaches the terminal uncleaned. */
#include "bin/sluicectl/sluicectl.h"

#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/mono.h"

static bool use_colour;

void cell_use_colour(bool on)
{
	use_colour = on;
}

bool cell_colour(void)
{
	return use_colour;
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
	for (const char *p = s; *p;) {
		const unsigned char *u = (const void *)p;
		if (*u < 0x20 || *u == 0x7f) {
			buf_str(b, "?");
			p++;
		} else if (*u == 0xc2 && u[1] >= 0x80 && u[1] < 0xa0) { /* C1 controls in UTF-8 */
			buf_str(b, "?");
			p += 2;
		} else {
			buf_add(b, p, 1);
			p++;
		}
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

static void put_lower(struct buf *b, const char *title)
{
	for (; *title; title++) {
		char c = *title >= 'A' && *title <= 'Z' ? (char)(*title - 'A' + 'a') : *title;
		buf_add(b, &c, 1);
	}
}

static size_t width_of(const char *s)
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
	size_t n = width_of(text), head = (max - 1) * 3 / 5, at = 0;
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

static void cell_put_value(struct buf *b, const struct column *c, yyjson_val *row)
{
	yyjson_val *v = cell_value(row, c->key);
	size_t before = b->len;
	switch (c->format) {
	case FORMAT_TEXT:
	case FORMAT_STATE:
		cell_clean(b, yyjson_is_str(v) ? yyjson_get_str(v) : "");
		break;
	case FORMAT_NAME:
	case FORMAT_ADDRESS:
		cell_name(b, yyjson_is_str(v) ? yyjson_get_str(v) : "",
			c->format == FORMAT_NAME ? CELL_NAME_MAX : CELL_ADDRESS_MAX);
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
			put_lower(b, c->title);
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

static bool is_right_aligned(enum format f)
{
	return f == FORMAT_NUMBER || f == FORMAT_AGE || f == FORMAT_LEFT || f == FORMAT_SUM;
}

void table_init(struct table *t, const struct column *columns)
{
	*t = (struct table){.columns = columns};
	while (columns[t->n_columns].title)
		t->n_columns++;
}

void table_fini(struct table *t)
{
	for (size_t i = 0; i < t->n_rows * t->n_columns; i++)
		mem_free(t->cells[i].text);
	mem_free(t->cells);
	*t = (struct table){0};
}

void table_add(struct table *t, yyjson_val *row)
{
	if (t->n_rows == t->cap) {
		t->cap = t->cap ? t->cap * 2 : 32;
		t->cells = mem_grow(t->cells, t->cap * t->n_columns, sizeof(*t->cells));
	}
	for (size_t i = 0; i < t->n_columns; i++) {
		struct cell *cell = &t->cells[t->n_rows * t->n_columns + i];
		struct buf b;
		buf_init(&b);
		cell_put_value(&b, &t->columns[i], row);
		cell->text = buf_take(&b);
		cell->width = width_of(cell->text);
		cell->colour = t->columns[i].format == FORMAT_STATE ? cell_colour_of(cell->text) : NULL;
	}
	t->n_rows++;
}

static void put_padded(struct buf *b, const struct cell *cell, size_t width, bool right, bool last)
{
	size_t pad = width > cell->width ? width - cell->width : 0;
	if (right)
		buf_printf(b, "%*s", (int)pad, "");
	cell_painted(b, cell->colour, cell->text);
	if (!right && !last)
		buf_printf(b, "%*s", (int)pad, "");
	buf_str(b, last ? "\n" : "  ");
}

void table_put(struct buf *b, const struct table *t, bool headers)
{
	size_t *width = mem_array(t->n_columns, sizeof(*width));
	for (size_t i = 0; i < t->n_columns; i++) {
		width[i] = headers ? width_of(t->columns[i].title) : 0;
		for (size_t r = 0; r < t->n_rows; r++) {
			size_t w = t->cells[r * t->n_columns + i].width;
			width[i] = w > width[i] ? w : width[i];
		}
	}
	for (size_t i = 0; headers && i < t->n_columns; i++) {
		struct cell title = {(char *)t->columns[i].title, width_of(t->columns[i].title), "\x1b[1m"};
		put_padded(b, &title, width[i], is_right_aligned(t->columns[i].format), i + 1 == t->n_columns);
	}
	for (size_t r = 0; r < t->n_rows; r++) {
		for (size_t i = 0; i < t->n_columns; i++)
			put_padded(b, &t->cells[r * t->n_columns + i], width[i], is_right_aligned(t->columns[i].format),
				i + 1 == t->n_columns);
	}
	mem_free(width);
}

void table_block(struct buf *b, const struct column *columns, yyjson_val *row)
{
	struct buf value;
	size_t width = 0;
	for (const struct column *c = columns; c->title; c++)
		width = strlen(c->title) > width ? strlen(c->title) : width;
	buf_init(&value);
	for (const struct column *c = columns; c->title; c++) {
		buf_clear(&value);
		cell_put_value(&value, c, row);
		if (strcmp(value.data, "-") == 0)
			continue;
		buf_printf(b, "%-*s  ", (int)width, c->title);
		cell_painted(b, c->format == FORMAT_STATE ? cell_colour_of(value.data) : NULL, value.data);
		buf_str(b, "\n");
	}
	buf_fini(&value);
}
