/* explain - one clear line why an entry that this daemon holds runs or does not; explain_remote.c
 * looks in Redis for what it does not hold. Coordinator thread. */
#pragma once
#include "run/control/control.h"

struct missing;
enum { FACTS_SINCE_CAP = 64, FACTS_GONE_CAP = 400, FACTS_WORD_MAX = 300, FACTS_WORD_CAP = 4 * FACTS_WORD_MAX + 3 };

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
/* A name as one word of a command that is shown, whatever a shell would make of it; returns out. */
const char *facts_word(char out[static FACTS_WORD_CAP], const char *name);
/* Frees the lines. */
void facts_fini(struct facts *f);
/* Why this daemon does not take more of the service: paused, draining, nobody serves it, no credit, Redis. */
void facts_service(struct facts *f, struct daemon *d, const struct coord_service *s);
/* "the consumer group orders-group was gone at 02:13:05 (2 min) ..."; "" when it never was, as far as this daemon has
 * seen. */
void facts_group_gone(char out[static FACTS_GONE_CAP], const struct daemon *d, const struct coord_service *s);
/* Another service in entries mode that has an entry of the same data stream here; NULL: none. */
const struct coord_service *explain_sharer(const struct coord *c, const struct entry *e);
/* Writes them into row, and row as the request's answer. f must live until then only. */
void facts_encode(struct control_req *q, const struct facts *f, struct ctl_explain *row);
/* "850 ms", "12 s", "3 min", "5 h" */
void facts_age(char out[static 24], mono_ms ms);
/* "02:13:05 (38 s)", with the day before it when that is long ago: the time so many ms ago, by the daemon's clock. */
void facts_since(char out[static FACTS_SINCE_CAP], mono_ms for_ms);

struct explain_found { /* rows that are written already */
	size_t n;
	bool is_coming; /* one of them says where the stream runs, or what it waits for */
};
/* After that: what was put aside for later, unless it is coming, the dead letters of its entries, and what is unread.
 * The request's former job is freed already. missing: what could not be looked through; its texts belong to the callee
 * now. */
void control_explain_aside(struct control_req *q, const struct missing *missing, struct explain_found found);
/* Not held here: asks Redis, ends the request. */
void control_explain_remote(struct control_req *q);
