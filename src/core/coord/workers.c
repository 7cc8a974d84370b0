/* workers - the table of workers: looked up, told something, freed. */
#include "core/coord/workers.h"

struct worker *workers_find(struct coord_workers *ws, uint64_t session)
{
	struct worker *m = map_get(&ws->by_session, &session, sizeof session);
	return m && !m->is_gone ? m : NULL;
}

void worker_free(struct coord_workers *ws, struct credits *place, struct worker *m)
{
	heap_remove(&ws->timers, &m->s.timer);
	credits_leave(place, &m->credit_holder);
	ws->n_hushed -= m->is_hushed;
	list_remove(&m->dirty);
	list_remove(&m->end.giving_back);
	list_remove(&m->all);
	map_remove(&ws->by_session, &m->s.id, sizeof m->s.id);
	while (!list_empty(&m->entries)) /* only at the coordinator's own end */
		list_pop(&m->entries);
	for (size_t i = 0; i < m->n_resume; i++)
		text_unref(m->resume[i]);
	mem_free(m->resume);
	mem_free(m->named);
	session_fini(&m->s);
	mem_free(m);
}

struct effect *worker_frame(struct effects *out, const struct worker *m, enum out_kind kind)
{
	struct effect *ef = effects_add(out, EFF_FRAME);
	ef->session = m->s.id;
	ef->frame.kind = kind;
	return ef;
}

void workers_service_begins(struct coord_workers *ws, struct credits *place, uint16_t pos, uint16_t svc)
{
	for (struct link *l = ws->all.next; l != &ws->all; l = l->next) {
		struct worker *m = LIST_OF(struct worker, all, l);
		for (const uint16_t *named = m->named; named && *named != SERVICE_NONE; named++)
			if (*named == svc)
				credit_holder_want(place, &m->credit_holder, pos, true);
	}
}

void workers_service_ends(struct coord_workers *ws, struct credits *place, uint16_t pos)
{
	for (struct link *l = ws->all.next; l != &ws->all; l = l->next)
		credit_holder_want(place, &LIST_OF(struct worker, all, l)->credit_holder, pos, false);
}
