/* log - one line per fact, to stderr. Any thread; it has a lock, as the mailboxes and base/secret have.
 * Formats: text (time, level, text), journal ("<N>text", sd-daemon priorities), json (one object per line), auto
 * = journal when $JOURNAL_STREAM names our stderr, else text. In json, every key=value of the text is a member of its
 * own, too. Rate limit: a burst of 200 lines, then 100 a second; what was left out is said as "suppressed n=N". error
 * lines are never left out, debug lines leave half of the burst to the others. Never blocks for long: a line that
 * cannot be written is dropped and counted. */
#pragma once
#include "base/err.h"
#include "base/mono.h"
#include <stdarg.h>
#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_NOTICE, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_AUTO, LOG_JOURNAL, LOG_TEXT, LOG_JSON };

/* Once, before other threads start. LOG_AUTO: the journal's format when stderr is the journal's, else text. */
void log_open(enum log_level level, enum log_format format);
/* Lines above it are left out. Any thread. */
void log_set_level(enum log_level level);
/* Would a line of that level be written? For arguments that are dear to make. Any thread. */
bool log_is_on(enum log_level level);
/* One line: other control characters, newlines too, are replaced. Subject to the rate limit. Any thread. */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A line that an operator asked for: a notice, but neither log.level nor the rate limit leaves it out. */
void log_asked(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
const char *log_level_name(enum log_level level); /* "error" "warn" "notice" "info" "debug" */
/* Also hands each line (already formatted text, no newline) to fn, for `sluicectl events`. fn must be quick and
 * thread-safe. NULL = off. */
typedef void log_tap_fn(void *arg, enum log_level level, const char *text);
/* One tap at a time. When it returns, the old fn is not running any more. */
void log_tap(log_tap_fn *fn, void *arg);
/* Lines that could not be written, since the start. Any thread. */
unsigned long long log_n_dropped(void);
struct log_loss {
	mono_ms at; /* 0: no line was lost */
	int error;  /* errno; EAGAIN: nobody reads it */
};
/* Of the last line that could not be written. Any thread. */
struct log_loss log_last_loss(void);
