/* state - what control verbs and metrics read from the core, computed in one pass. Coordinator thread; changes
 * nothing. */
#include "run/control/control.h"

#include <string.h>

enum ctl_state view_state(const struct entry *e, mono_ms now)
{
	switch ((enum entry_state)e->state) {
	case ENTRY_FETCHING:
	case ENTRY_LOCKING:
	case ENTRY_BUSY:
	case ENTRY_TAKING:
		return CTL_STATE_LOCKING;
	case ENTRY_PARKED:
		return CTL_STATE_PARKED;
	case ENTRY_READY:
		return CTL_STATE_READY;
	case ENTRY_ASSIGNED:
		if (!e->is_lost && entry_feed_is_blocked(e, now))
			return CTL_STATE_BLOCKED;
		return e->is_lost ? CTL_STATE_LOST : CTL_STATE_ASSIGNED;
	case ENTRY_REVOKING:
		return e->is_lost ? CTL_STATE_LOST : CTL_STATE_REVOKING;
	case ENTRY_LIMBO:
		return CTL_STATE_LIMBO;
	case ENTRY_FINISHING:
	case ENTRY_STATES:
		break;
	}
	return CTL_STATE_FINISHING;
}

/* A parked entry waits for its own stream, which has a worker or waits itself. */
static bool has_no_worker(enum ctl_state s)
{
	return s == CTL_STATE_LOCKING || s == CTL_STATE_READY;
}

static void count_entry(struct view_service *v, const struct entry *e, mono_ms now)
{
	enum ctl_state state = view_state(e, now);
	v->n[state]++;
	v->in_use += e->state == ENTRY_ASSIGNED || e->state == ENTRY_REVOKING;
	if (e->id.ms < v->oldest_ms)
		v->oldest_ms = e->id.ms;
	if (has_no_worker(state) && e->id.ms < v->oldest_unassigned_ms)
		v->oldest_unassigned_ms = e->id.ms;
}

static void count_workers(const struct coord *c, struct view_service *v)
{
	for (struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		const struct worker *m = LIST_OF(struct worker, all, l);
		if (m->is_gone || m->s.state != SESSION_READY)
			continue;
		for (uint16_t i = 0; i < c->services.n; i++) {
			if (!m->credit_holder.all_services && !m->credit_holder.wanted[i])
				continue;
			v[i].credits += m->credit_holder.credits;
			v[i].workers++;
		}
	}
}

/* The data streams of a service may live on every master. */
static void take_feeds(const struct daemon *d, const struct coord_service *s, struct view_service *v)
{
	for (uint16_t shard = 0; shard < d->shards.n; shard++) {
		const struct snapshot *snap = d->shards.snapshots[shard];
		for (size_t i = 0; snap && i < snap->n_services; i++)
			if (snap->services[i].svc == s->svc) {
				const struct shard_feeds *f = &snap->services[i].feeds;
				v->feeds.behind += f->behind;
				v->feeds.blocked += f->blocked;
				v->feeds.idle += f->idle;
			}
	}
}

static void take_lengths(const struct daemon *d, const struct coord_service *s, struct view_service *v)
{
	v->lbs = v->pending = v->dlq = v->entries_dlq = v->wanted = v->delayed = v->parked = -1;
	const struct snapshot *snap = s->reader.shard < SHARDS_MAX ? d->shards.snapshots[s->reader.shard] : NULL;
	for (size_t i = 0; snap && i < snap->n_services; i++) {
		if (snap->services[i].svc != s->svc)
			continue;
		const struct shard_lengths *len = &snap->services[i].lengths;
		v->lbs = len->lbs;
		v->pending = len->pending;
		v->dlq = len->dlq;
		v->entries_dlq = len->entries_dlq;
		v->wanted = len->wanted;
		v->delayed = len->delayed;
		v->parked = len->parked;
		if (len->unread_ms >= 0)
			v->oldest_unassigned_ms = (uint64_t)len->unread_ms;
	}
}

/* Credits of streams that were taken back and that the worker has not stopped. */
static void count_stuck(const struct coord *c, struct view_service *v)
{
	for (const struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		const struct worker *m = LIST_OF(struct worker, all, l);
		for (uint32_t i = 0; !m->is_gone && m->credit_holder.in_use && i < m->s.n_outcomes; i++) {
			const struct session_outcome *o = &m->s.outcomes[i];
			const struct coord_service *s =
				o->used && o->is_zombie ? services_of_hash(&c->services, o->service) : NULL;
			if (!s)
				continue;
			v[s - c->services.v].in_use++;
			v[s - c->services.v].stuck++;
		}
	}
}

struct view_service *view_services(struct daemon *d)
{
	struct coord *c = d->core;
	struct view_service *v = mem_array((size_t)c->services.n + 1, sizeof *v);
	uint16_t *pos_of = mem_array((size_t)UINT16_MAX + 1, sizeof *pos_of);
	memset(pos_of, 0xff, ((size_t)UINT16_MAX + 1) * sizeof *pos_of);
	for (uint16_t i = 0; i < c->services.n; i++) {
		v[i].oldest_ms = v[i].oldest_unassigned_ms = UINT64_MAX;
		if (!c->services.v[i].rules)
			continue;
		pos_of[c->services.v[i].svc] = i;
		take_lengths(d, &c->services.v[i], &v[i]);
		take_feeds(d, &c->services.v[i], &v[i]);
	}
	mono_ms now = mono_now();
	uint32_t pos = 0;
	for (const struct entry *e; (e = ledger_next(&c->ledger, &pos));)
		if (pos_of[e->svc] < c->services.n)
			count_entry(&v[pos_of[e->svc]], e, now);
	count_stuck(c, v);
	mem_free(pos_of);
	count_workers(c, v);
	return v;
}

struct buf *view_slots(const struct topology *t)
{
	struct buf *v = mem_array((size_t)t->n_nodes + 1, sizeof *v);
	for (uint16_t from = 0; t->is_known && t->is_cluster && from < SLOTS;) {
		uint16_t node = t->slot_node[from], to = from;
		while (to + 1 < SLOTS && t->slot_node[to + 1] == node)
			to++;
		if (node < t->n_nodes && to > from)
			buf_printf(&v[node], "%s%u-%u", v[node].len ? " " : "", from, to);
		else if (node < t->n_nodes)
			buf_printf(&v[node], "%s%u", v[node].len ? " " : "", from);
		from = (uint16_t)(to + 1);
	}
	return v;
}

void view_slots_free(struct buf *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		buf_fini(&v[i]);
	mem_free(v);
}

const char *view_addr(const struct daemon *d, uint16_t slot)
{
	const struct topology *t = &d->core->topo;
	uint16_t node = t->is_known ? topology_shard(t, slot) : SHARD_NONE;
	return node < t->n_nodes ? t->nodes[node].addr : NULL;
}

const struct shard_refused *view_refused(const struct daemon *d, uint16_t shard)
{
	const struct snapshot *s = shard < SHARDS_MAX ? d->shards.snapshots[shard] : NULL;
	return s && s->refused.since ? &s->refused : NULL;
}

int64_t view_age_ms(int64_t wall_ms, struct entry_id id)
{
	return id.ms <= (uint64_t)wall_ms ? wall_ms - (int64_t)id.ms : 0;
}

void view_match_init(struct view_match *m, const char *text, uint16_t svc)
{
	*m = (struct view_match){.stream = text, .len = strlen(text), .svc = svc};
	m->by_id = ctl_is_entry_id(text) && command_id_parse(text, m->len, &m->id);
}

bool view_matches(const struct view_match *m, const struct entry *e)
{
	if (m->svc != SERVICE_NONE && m->svc != e->svc)
		return false;
	if (m->by_id && entry_id_cmp(m->id, e->id) == 0)
		return true;
	return e->stream && e->stream->len == m->len && memcmp(e->stream->bytes, m->stream, m->len) == 0;
}

char *view_lock_key(const struct entry *e)
{
	char id[COMMAND_ID_CAP];
	command_id_format(id, e->id);
	return mem_printf("%s" COMMAND_LOCK_SEP "%s", e->stream ? e->stream->bytes : "", id);
}
