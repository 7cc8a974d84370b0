/* lease_batch - held leases with the same renewal deadline. Few deadlines are in use at a time, a hundredth of T apart,
 * so that a renewal costs two steps in lists; in a heap of 100,000 it was a fifth of all its cost. */
#include <assert.h>

#include "base/mem.h"
#include "core/shard/lease_p.h"

struct lease_batch {
	struct link all; /* in leases.batches, the soonest first */
	struct link leases;
	mono_ms at;
};

#define BATCH_OF(l) LIST_OF(struct lease_batch, all, l)

/* Most deadlines are the latest, or close to it. */
static struct lease_batch *batch_at(struct leases *ls, mono_ms at)
{
	struct link *before = ls->batches.prev;
	while (before != &ls->batches && BATCH_OF(before)->at > at)
		before = before->prev;
	if (before != &ls->batches && BATCH_OF(before)->at == at)
		return BATCH_OF(before);
	struct lease_batch *b = mem_alloc(sizeof *b);
	b->at = at;
	list_init(&b->all);
	list_init(&b->leases);
	list_push_front(before, &b->all);
	return b;
}

void lease_batch_join(struct leases *ls, struct lease *l)
{
	assert(!l->in_flight && (l->in_batch || list_empty(&l->ready)));
	list_remove(&l->ready);
	list_push(&batch_at(ls, l->at)->leases, &l->ready);
	l->in_batch = true;
}

struct lease *lease_batch_due(struct leases *ls, mono_ms now)
{
	while (lease_batch_deadline(ls) <= now) {
		struct lease_batch *b = BATCH_OF(ls->batches.next);
		if (!list_empty(&b->leases))
			return LIST_OF(struct lease, ready, b->leases.next);
		list_remove(&b->all);
		mem_free(b);
	}
	return NULL;
}

mono_ms lease_batch_deadline(const struct leases *ls)
{
	return list_empty(&ls->batches) ? MONO_NEVER : BATCH_OF(ls->batches.next)->at;
}

void lease_batches_free(struct leases *ls)
{
	for (struct link *l; (l = list_pop(&ls->batches));)
		mem_free(BATCH_OF(l));
}

void lease_batch_check(const struct leases *ls)
{
	mono_ms last = 0;
	for (const struct link *l = ls->batches.next; l != &ls->batches; l = l->next) {
		const struct lease_batch *b = LIST_OF(const struct lease_batch, all, l);
		assert(b->at > last);
		last = b->at;
		for (const struct link *i = b->leases.next; i != &b->leases; i = i->next) {
			const struct lease *of = LIST_OF(const struct lease, ready, i);
			assert(of->in_batch && of->at == b->at);
		}
	}
}
