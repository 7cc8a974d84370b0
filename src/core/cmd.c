#include "core/cmd.h"

#include "base/mem.h"

void entry_batch_free(struct entry_batch *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->n; i++) {
		text_unref(b->v[i].stream);
		text_unref(b->v[i].info);
		mem_free(b->v[i].fields);
	}
	mem_free(b);
}
