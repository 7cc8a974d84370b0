/* lag - entries mode: how many entries of a data stream are behind its position, asked of its master one stream at a
 * time, counted up to LAG_MAX for so many streams and for such a time that nobody waits long. Coordinator thread. */
#pragma once
#include "run/control/control.h"

enum { LAG_MAX = 1000, LAG_STREAMS = 1000 };

struct lag;

/* Owned by the request's job: lag_free before the request goes. */
struct lag *lag_new(struct control_req *q);
void lag_free(struct lag *l); /* NULL is fine */
/* True: e is asked about now, and the request's step runs again when it was answered. False: there is nothing to
 * ask, or it was asked already. */
bool lag_ask(struct lag *l, const struct entry *e);
/* How long an answer is still waited for, ms; 0: there is one, or it is not waited for any longer. */
mono_ms lag_waits(struct lag *l);
/* What was answered last, and forgets it; -1 = not known. */
int64_t lag_take(struct lag *l);
