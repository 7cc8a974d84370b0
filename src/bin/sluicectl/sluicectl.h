/* sluicectl - the operator's program. One thread, blocking, no loop.
 * args: command line -> struct ctl_options. conn: socket, lines, timeouts. cell: cells and ages. table: tables.
 * view: one rendering per verb. top: the live view. main: main.
 * Exit codes are EXIT_* and whatever the daemon's final line says. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "codec/ctl.h"
#include "codec/json.h"
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { EXIT_NO = 1, EXIT_USAGE = 64, EXIT_UNREACHABLE = 69, EXIT_DENIED = 77 };

struct ctl_options {
	struct ctl_request request;
	bool is_top; /* the one verb that is not the daemon's; request is then `status` */
	bool json, no_headers;
	bool yes; /* nobody is asked */
	const char *socket;
	int64_t timeout_ms;                /* longest silence; < 0 = for ever */
	const volatile sig_atomic_t *stop; /* non-zero ends a wait early; may be NULL */
};

/* ---- args */
enum args_result { ARGS_RUN, ARGS_HELP, ARGS_VERSION, ARGS_BAD };
/* Fills *o. ARGS_HELP: help was asked for, *topic is a verb's name or NULL. ARGS_BAD: err has the sentence. */
enum args_result args_parse(int argc, char **argv, struct ctl_options *o, const char **topic, struct err *err);
enum { ARGS_HELP_TEXT = 30 }; /* what a line of help says begins in this column */
/* False: no such verb. */
bool args_help(struct buf *b, const char *topic);

/* ---- conn */
/* Called once per row; line is the row as it came. False ends the reply early. */
typedef bool row_fn(void *arg, yyjson_val *row, const char *line, size_t len);
/* Sends the request and reads the whole reply. Returns the exit code; err has a sentence when there is one to say.
 * watch_stdout: also end (exit 0) when the reader of our output goes away, however silent the daemon is. */
int conn_ask(const struct ctl_options *o, const struct ctl_request *r, bool watch_stdout, row_fn *fn, void *arg,
	struct err *err);

/* ---- cell */
enum format {
	FORMAT_TEXT,
	FORMAT_WORDS,   /* text that may go on in the next line, when the terminal is narrow */
	FORMAT_SHORT,   /* text; on a terminal its middle is left out over CELL_SHORT_MAX */
	FORMAT_NAME,    /* the same, CELL_NAME_MAX */
	FORMAT_ADDRESS, /* the same, CELL_ADDRESS_MAX */
	FORMAT_STATE,   /* text, coloured by what it says */
	FORMAT_NUMBER,  /* right-aligned, like the ones that follow up to SUM */
	FORMAT_AGE,     /* milliseconds */
	FORMAT_LEFT,    /* CLOCK_MONOTONIC ms -> time left */
	FORMAT_SUM,     /* of an object's numbers */
	FORMAT_YES,     /* true -> the title in small letters */
	FORMAT_LIST,    /* strings, by comma; empty = all */
	FORMAT_WHEN,    /* Unix ms -> local time */
	FORMAT_LINKS,   /* connections of a node */
	FORMAT_JSON
};

struct column {
	const char *title, *key; /* key may be "outer.inner" */
	enum format format;
};

struct cell {
	char *text;
	size_t width; /* terminal columns */
	const char *colour;
};

struct table {
	const struct column *columns; /* ended by a NULL title */
	size_t n_columns, n_rows, cap;
	struct cell *cells; /* n_rows * n_columns */
};

/* For all cells from here on; off at first. */
void cell_use_colour(bool on);
/* How wide the terminal is, for all output from here on; 0, as at first: none, nothing is wrapped or shortened. */
void cell_use_columns(size_t n);
size_t cell_columns(void);
/* The escape sequence for a word like "down", or NULL. */
const char *cell_colour_of(const char *word);
/* Appends s so that it cannot drive the terminal: control characters become '?' (UTF-8 stays). */
void cell_clean(struct buf *b, const char *s);
void cell_age(struct buf *b, int64_t ms); /* 850ms 12.3s 4m05s 3h12m 5d04h; < 0: "-" */
enum { CELL_SHORT_MAX = 15, CELL_NAME_MAX = 20, CELL_ADDRESS_MAX = 34 };
/* Appends s without control characters, shortened in its middle to max columns with "…". */
void cell_name(struct buf *b, const char *s, size_t max);
/* Appends s without control characters in that colour (an escape sequence, NULL = none), if colours are on. */
void cell_painted(struct buf *b, const char *colour, const char *s);
/* Breaks the lines of b from that byte on, which stands in terminal column `at`, between words where the terminal ends;
 * what follows begins hang columns in. A word is never broken: names can be copied. */
void cell_fold(struct buf *b, size_t from, size_t at, size_t hang);
/* Appends s without control characters, folded. */
void cell_words(struct buf *b, const char *s, size_t at, size_t hang);
/* Terminal columns of s. */
size_t cell_width(const char *s);
/* Appends s, A to Z made small. */
void cell_lower(struct buf *b, const char *s);
/* Appends what stands in that column of row; "-" when nothing does. */
void cell_put_value(struct buf *b, const struct column *c, yyjson_val *row);
/* row[key] where key may be "outer.inner"; NULL when it is not there. */
yyjson_val *cell_value(yyjson_val *row, const char *key);
const char *cell_string(yyjson_val *row, const char *key); /* "-" when there is none */
int64_t cell_number(yyjson_val *row, const char *key);     /* -1 when there is none */
void table_init(struct table *t, const struct column *columns);
/* Frees the cells. */
void table_fini(struct table *t);
/* A row: the values of its columns are copied as text. */
void table_add(struct table *t, yyjson_val *row);
/* Appends the table, each column as wide as it must be; one that is wider than the terminal on several lines a row.
 * headers: titles first. */
void table_put(struct buf *b, const struct table *t, bool headers);
/* One "title  value" line per column that has a value. */
void table_block(struct buf *b, const struct column *columns, yyjson_val *row);

/* ---- view */
struct view;
/* How answers of the verb in o are shown. o must outlive it. Heap; view_free. */
struct view *view_new(const struct ctl_options *o);
/* NULL is fine. What was not written is lost: view_finish first. */
void view_free(struct view *v);
/* A row_fn: renders at once or keeps it for the table. */
bool view_row(void *arg, yyjson_val *row, const char *line, size_t len);
/* Prints what was kept. is_told: a sentence follows on stderr. */
void view_finish(struct view *v, int exit_code, bool is_told);
/* Parts that `top` shares with `status` and `ls`. */
void view_put_status(struct buf *b, yyjson_val *row, bool headers);
extern const struct column view_top_columns[];

/* Writes to stdout and empties b. False when nobody reads any more (quiet) or it failed (said once). */
bool out_flush(struct buf *b);
bool out_failed(void); /* something was lost for another reason than a closed pipe */

/* ---- top */
int top_run(const struct ctl_options *o, struct err *err);
