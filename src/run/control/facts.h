/* facts - the texts of one explanation: why, what happens next, what an operator can do; and how they write names,
 * ages and times. Coordinator thread. */
#pragma once
#include "run/control/control.h"

enum { FACTS_SINCE_CAP = 64, FACTS_WORD_MAX = 300, FACTS_WORD_CAP = 4 * FACTS_WORD_MAX + 3 };

struct facts { /* texts of one explanation; each belongs to it */
	char *because[8], *next, *advice;
	size_t n;
};
/* One reason more, one line; one that is there already, and more than fit, are left out. */
void facts_add(struct facts *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What happens next; replaces the last word. */
void facts_next(struct facts *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What an operator can do; replaces the last word. */
void facts_advice(struct facts *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same advice for whatever waits for its next try: an operator may let it come back at once. stream: as named. */
void facts_delayed_now(struct facts *f, const char *service, const char *stream);
/* A name as one word of a command that is shown, whatever a shell would make of it; returns out. */
const char *facts_word(char out[static FACTS_WORD_CAP], const char *name);
/* Frees the lines. */
void facts_fini(struct facts *f);
/* Writes them into row, and row as the request's answer. f must live until then only. */
void facts_encode(struct control_req *q, const struct facts *f, struct ctl_explain *row);
/* "850 ms", "12 s", "3 min", "5 h" */
void facts_age(char out[static 24], mono_ms ms);
/* "02:13:05 (38 s)", with the day before it when that is long ago: the time so many ms ago, by the daemon's clock. */
void facts_since(char out[static FACTS_SINCE_CAP], mono_ms for_ms);
