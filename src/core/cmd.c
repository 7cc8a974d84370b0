#include "core/cmd.h"

#include "base/mem.h"

void entry_batch_free(struct entry_batch *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->n; i++) {
		text_unref(b->v[i].stream);
		text_unref(b->v[i].info);
		text_unref(b->v[i].trace);
		mem_free(b->v[i].fields);
	}
	mem_free(b);
}

const char *dead_reason_name(enum dead_reason r)
{
	static const char *const reasons[DEAD_N] = {
		[DEAD_MAX_RETRIES] = "max_retries_exceeded",
		[DEAD_UNPARSEABLE] = "unparseable",
		[DEAD_TOO_LARGE] = "too_large",
		[DEAD_REJECTED] = "rejected",
		[DEAD_OPERATOR] = "operator",
	};
	return reasons[r];
}
