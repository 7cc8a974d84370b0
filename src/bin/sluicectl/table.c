/* Tables and blocks. On a terminal that is narrower than a table its rows are laid over several lines: columns go on
 * in the next line, aligned, and words stand below, so that no name is cut and each can be copied. */
#include "bin/sluicectl/sluicectl.h"

#include <string.h>

#include "base/mem.h"

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
		cell->width = cell_width(cell->text);
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

/* Where the columns stand: all in line 0, or on several lines. */
struct layout {
	size_t *width, *line; /* by column; line BELOW: in lines of its own, by words, when it says something */
	size_t n_lines;
};

static const size_t BELOW = SIZE_MAX, INDENT = 2;

/* Words, that a line end does no harm. */
static bool is_words(enum format f)
{
	return f == FORMAT_WORDS || f == FORMAT_LINKS || f == FORMAT_LIST;
}

static size_t layout_widths(struct layout *l, const struct table *t, bool headers)
{
	size_t sum = 0;
	for (size_t i = 0; i < t->n_columns; i++) {
		l->width[i] = headers ? cell_width(t->columns[i].title) : 0;
		for (size_t r = 0; r < t->n_rows; r++) {
			const size_t w = t->cells[r * t->n_columns + i].width;
			l->width[i] = w > l->width[i] ? w : l->width[i];
		}
		sum += l->width[i] + (i ? 2 : 0);
	}
	return sum;
}

static void layout_init(struct layout *l, const struct table *t, bool headers)
{
	*l = (struct layout){.width = mem_array(t->n_columns, sizeof *l->width),
		.line = mem_array(t->n_columns, sizeof *l->line),
		.n_lines = 1};
	const size_t sum = layout_widths(l, t, headers);
	if (!cell_columns() || sum <= cell_columns())
		return;
	for (size_t i = 0, at = 0; i < t->n_columns; i++) {
		if (is_words(t->columns[i].format)) {
			l->line[i] = BELOW;
			continue;
		}
		const size_t indent = l->n_lines > 1 ? INDENT : 0, end = at + l->width[i];
		if (at > indent && end > cell_columns()) {
			l->n_lines++;
			at = INDENT;
		}
		l->line[i] = l->n_lines - 1;
		at += l->width[i] + 2;
	}
}

static void layout_fini(struct layout *l)
{
	mem_free(l->width);
	mem_free(l->line);
}

static bool is_last_of_line(const struct layout *l, const struct table *t, size_t i)
{
	for (size_t k = i + 1; k < t->n_columns; k++)
		if (l->line[k] == l->line[i])
			return false;
	return true;
}

static void put_cells(struct buf *b, const struct layout *l, const struct table *t, const struct cell *cells)
{
	for (size_t line = 0; line < l->n_lines; line++) {
		buf_printf(b, "%*s", line ? (int)INDENT : 0, "");
		for (size_t i = 0; i < t->n_columns; i++) {
			if (l->line[i] == line)
				put_padded(b, &cells[i], l->width[i], is_right_aligned(t->columns[i].format),
					is_last_of_line(l, t, i));
		}
	}
}

static void put_below(struct buf *b, const struct layout *l, const struct table *t, const struct cell *cells)
{
	enum { BELOW_INDENT = 4 };
	for (size_t i = 0; i < t->n_columns; i++) {
		if (l->line[i] != BELOW || strcmp(cells[i].text, "-") == 0)
			continue;
		buf_printf(b, "%*s", BELOW_INDENT, "");
		cell_lower(b, t->columns[i].title);
		buf_str(b, ": ");
		cell_words(b, cells[i].text, BELOW_INDENT + strlen(t->columns[i].title) + 2, BELOW_INDENT + 2);
		buf_str(b, "\n");
	}
}

static void put_titles(struct buf *b, const struct layout *l, const struct table *t)
{
	struct cell *titles = mem_array(t->n_columns, sizeof *titles);
	for (size_t i = 0; i < t->n_columns; i++)
		titles[i] = (struct cell){(char *)t->columns[i].title, cell_width(t->columns[i].title), "\x1b[1m"};
	put_cells(b, l, t, titles);
	mem_free(titles);
}

void table_put(struct buf *b, const struct table *t, bool headers)
{
	struct layout l;
	layout_init(&l, t, headers);
	if (headers)
		put_titles(b, &l, t);
	for (size_t r = 0; r < t->n_rows; r++) {
		put_cells(b, &l, t, &t->cells[r * t->n_columns]);
		put_below(b, &l, t, &t->cells[r * t->n_columns]);
	}
	layout_fini(&l);
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
		if (is_words(c->format))
			cell_words(b, value.data, width + 2, width + 2);
		else
			cell_painted(b, c->format == FORMAT_STATE ? cell_colour_of(value.data) : NULL, value.data);
		buf_str(b, "\n");
	}
	buf_fini(&value);
}
