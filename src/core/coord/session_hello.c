/* session_hello - a worker arrives: accepted, greeted, given back what it held. */
#include "core/coord/coord_p.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

struct worker *worker_new(struct coord *c, const struct coord_event *ev)
{
	assert(ev->session);
	struct worker *m = mem_alloc(sizeof *m);
	session_init(&m->s, ev->session, ev->now);
	m->s.pid = ev->pid;
	m->s.uid = ev->uid;
	snprintf(m->s.key, sizeof m->s.key, "%.*s", (int)ev->text.len, ev->text.p ? ev->text.p : "");
	credit_holder_init(&m->credit_holder, ev->session);
	list_init(&m->entries);
	list_init(&m->dirty);
	list_init(&m->end.giving_back);
	list_push(&c->workers.all, &m->all);
	map_put(&c->workers.by_session, &m->s.id, sizeof m->s.id, m);
	c->workers.n++;
	m->is_connected = true;
	return m;
}

void worker_on_accept(struct coord *c, const struct coord_event *ev)
{
	struct worker *m = worker_new(c, ev);
	m->s.deadline = ev->now + c->rules.hello_timeout_ms;
	worker_arm(c, m);
	if (!ev->flag) {
		char why[80];
		snprintf(why, sizeof why, "user id %u may not be a worker here, see workers.allow_uids", ev->uid);
		worker_fatal(c, m, FERR_UNAUTHORIZED, why);
	} else if (c->workers.n > c->rules.max_sessions)
		worker_fatal(c, m, FERR_TOO_MANY_SESSIONS, "too many sessions");
}

static uint16_t service_pos_of(const struct coord_services *ss, struct slice name)
{
	for (uint16_t k = 0; k < ss->n; k++) {
		const struct service_rules *r = ss->v[k].rules;
		if (r && strlen(r->name) == name.len && memcmp(r->name, name.p, name.len) == 0)
			return k;
	}
	return SERVICE_NONE;
}

bool worker_take_services(struct coord *c, struct worker *m, const struct frame *f)
{
	const struct coord_services *ss = &c->services;
	m->credit_holder.all_services = !f->hello.has_services;
	mem_free(m->named);
	m->named = NULL;
	if (!f->hello.has_services)
		return true;
	uint16_t *named = m->named = mem_array(f->hello.n_services + 1, sizeof *named);
	named[0] = SERVICE_NONE;
	for (size_t i = 0; i < f->hello.n_services; i++) {
		const uint16_t pos = service_pos_of(ss, f->hello.services[i]);
		if (pos == SERVICE_NONE)
			return false;
		credit_holder_want(&c->place, &m->credit_holder, pos, true);
		named[i] = ss->v[pos].svc;
		named[i + 1] = SERVICE_NONE;
	}
	return f->hello.n_services > 0;
}

static struct worker *by_key(struct coord_workers *ws, const struct worker * not, const char *key)
{
	for (struct link *l = ws->all.next; l != &ws->all; l = l->next) {
		struct worker *m = LIST_OF(struct worker, all, l);
		if (m != not &&(m->s.state == SESSION_READY || m->s.state == SESSION_DETACHED) &&
			list_empty(&m->end.giving_back) && strcmp(m->s.key, key) == 0 && m->s.uid == not ->s.uid)
			return m;
	}
	return NULL;
}

struct entry *worker_entry_of_lease(const struct coord *c, struct slice lease, struct entry_id *id, uint64_t *service)
{
	if (!session_lease_parse(lease, id, service)) {
		*id = (struct entry_id){0};
		*service = 0;
		return NULL;
	}
	const struct coord_service *s = services_of_hash(&c->services, *service);
	return s ? ledger_get(&c->ledger, s->svc, *id) : NULL;
}

/* The service has got into entries mode, or out of it, with a restart: what its worker began in the other mode. A
 * lease without entries goes on as it began, as over a reload. To one with entries nobody would tell any: false, it is
 * over. */
static bool resume_in_its_mode(struct entry *e, const struct worker *m, struct slice lease)
{
	const bool is_marked = session_lease_is_marked(lease);
	if (!e->feed)
		return !is_marked;
	if (!is_marked && !m->credit_holder.takes_entries && e->feed->state == ENTRY_FEED_NONE)
		entry_feed_free(e);
	else
		e->feed->is_marked = is_marked;
	return true;
}

/* One lease of a hello's list: kept (true) or gone with an outcome. */
bool worker_resume_one(
	struct coord *c, struct worker *m, struct worker *old, struct slice lease, enum gone_outcome *gone)
{
	struct entry_id id;
	uint64_t service;
	struct entry *e = worker_entry_of_lease(c, lease, &id, &service);
	*gone = GONE_LOST;
	uint64_t old_id = old ? old->s.id : 0;
	if (e && !e->is_lost && e->owner == m->s.id)
		return true; /* named twice */
	if (e && !e->is_lost && e->state == ENTRY_LIMBO && e->owner == old_id && resume_in_its_mode(e, m, lease)) {
		entry_resume(c, e, m);
		return true;
	}
	if (e && !e->is_lost && old && e->owner == old_id && entry_is_worked(e)) {
		entry_resume(c, e, m);
		return true;
	}
	if (e && old && e->owner == old_id && e->state == ENTRY_FINISHING && e->wants_reply) {
		e->owner = m->s.id; /* its own result is under way: answered when Redis has confirmed it */
		e->n_asked = 0;
		credit_holder_use(&c->place, &m->credit_holder, e->holds_credit);
		return true;
	}
	const struct session_outcome *o = session_recall(&m->s, service, id);
	if (o)
		*gone = (enum gone_outcome)o->outcome;
	return false;
}

/* The new connection takes the old session's place: its key, its outcomes; what it does not name it does not have. */
static void inherit(struct worker *m, struct worker *old)
{
	struct session_outcome *o = m->s.outcomes;
	m->s.outcomes = old->s.outcomes;
	m->s.n_outcomes = old->s.n_outcomes;
	m->s.next_outcome = old->s.next_outcome;
	old->s.outcomes = o;
	memcpy(m->s.key, old->s.key, sizeof m->s.key);
	m->s.told_until = old->s.told_until;
	for (uint32_t i = 0; i < m->s.n_outcomes; i++)
		m->s.outcomes[i].is_zombie = false; /* what it still has it names now */
}

static void fill_welcome(struct coord *c, struct worker *m, struct out_frame *f)
{
	static const char server[] = "sluiced";
	f->welcome.server = (struct slice){server, sizeof server - 1};
	f->welcome.node = (struct slice){c->rules.node, strlen(c->rules.node)};
	f->welcome.session = (struct slice){m->s.key, SESSION_KEY};
	f->welcome.lease_ms = c->services.shortest_ttl;
	f->welcome.ping_ms = m->s.told_ping_ms = coord_ping_ms(c);
	f->welcome.resume_ms = c->rules.resume_grace_ms;
	f->welcome.max_frame = c->rules.max_frame_bytes;
	m->s.told_until = worker_until(c, m);
	f->until_ms = m->s.told_until;
	f->welcome.now_ms = c->now;
}

/* Services in entries mode that m would take but for their entries: their names, into v, and into the log. */
static size_t not_served(struct coord *c, const struct worker *m, struct slice v[static SERVICES_MAX])
{
	char text[256] = "";
	size_t n = 0, len = 0;
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		bool is_wanted = m->credit_holder.all_services || m->credit_holder.wanted[i];
		if (m->credit_holder.takes_entries || !s->rules || s->is_going || !s->rules->entries.is_on ||
			!is_wanted)
			continue;
		v[n] = slice_str(s->rules->name);
		if (len < sizeof text)
			len += (size_t)snprintf(text + len, sizeof text - len, "%s%s", n ? "," : "", s->rules->name);
		n++;
	}
	if (n)
		effects_log(c->out, LOG_INFO,
			"worker=%s takes no entries, and so nothing of services=%s, which %s in entries mode",
			m->s.name, text, n == 1 ? "is" : "are");
	return n;
}

/* The connection that was told to stop is gone, perhaps with the word unread: told again, with what is left of the
 * grace. */
static void revoke_again(struct coord *c, struct worker *m)
{
	for (struct link *l = m->entries.next; l != &m->entries; l = l->next) {
		struct entry *e = LIST_OF(struct entry, peers, l);
		if (e->state == ENTRY_REVOKING)
			entry_tell_revoke(c, e, m, mono_max(e->deadline - TELL_MARGIN_MS - c->now, 0));
		else if (e->is_revoked) /* it was away: a grace of its own */
			entry_revoke(c, e, (enum revoke_reason)e->revoke,
				e->revoke == REVOKE_SHUTDOWN ? SHUTDOWN_GRACE_MS : REVOKE_GRACE_MS);
	}
}

void worker_welcome(struct coord *c, struct worker *m)
{
	assert(m->s.state == SESSION_NEW || m->s.state == SESSION_HELD);
	struct worker *old = m->wanted_key[0] ? by_key(&c->workers, m, m->wanted_key) : NULL;
	if (old)
		inherit(m, old);
	struct slice left_out[SERVICES_MAX];
	const size_t n_left_out = not_served(c, m, left_out);
	size_t room = m->n_resume * (sizeof(struct slice) + sizeof(struct gone)) + n_left_out * sizeof(struct slice);
	struct text *lists = mem_alloc(sizeof *lists + room + 1);
	atomic_init(&lists->refs, 1);
	struct slice *resumed = (struct slice *)(void *)lists->bytes;
	struct slice *not_served_names = resumed + m->n_resume;
	struct gone *gone = (struct gone *)(void *)(not_served_names + n_left_out);
	if (n_left_out)
		memcpy(not_served_names, left_out, n_left_out * sizeof *left_out);
	size_t n_resumed = 0, n_gone = 0;
	for (size_t i = 0; i < m->n_resume; i++) {
		struct slice lease = {m->resume[i]->bytes, m->resume[i]->len};
		enum gone_outcome outcome;
		if (worker_resume_one(c, m, old, lease, &outcome))
			resumed[n_resumed++] = lease;
		else
			gone[n_gone++] = (struct gone){lease, outcome};
	}
	session_move(&m->s, SESSION_READY, c->out, "welcome");
	m->s.deadline = MONO_NEVER;
	m->s.last_ping = m->s.last_heard = c->now; /* while it waited for this it had nothing to answer */
	struct effect *ef = worker_frame(c->out, m, OUT_WELCOME);
	ef->hold = lists;
	fill_welcome(c, m, &ef->frame);
	ef->frame.welcome.resumed = resumed;
	ef->frame.welcome.n_resumed = n_resumed;
	ef->frame.welcome.gone = gone;
	ef->frame.welcome.n_gone = n_gone;
	ef->frame.welcome.not_served = not_served_names;
	ef->frame.welcome.n_not_served = n_left_out;
	revoke_again(c, m);
	if (old)
		worker_give_all_back(c, old, WHY_RELEASE);
	effects_log(c->out, LOG_INFO, "worker=%s pid=%d connected credits=%u resumed=%zu gone=%zu", m->s.name,
		(int)m->s.pid, m->credit_holder.credits, n_resumed, n_gone);
	credits_join(&c->place, &m->credit_holder);
	worker_arm(c, m);
	services_mark_all(&c->services);
	if (c->drain.is_on)
		worker_say_drain(c, m);
}

bool coord_knows_own(const struct coord *c)
{
	if (c->n_start || !c->topo.is_known)
		return false;
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules && !c->services.v[i].reader.own_done && !c->services.v[i].is_going)
			return false;
	return true;
}

void worker_try_held(struct coord *c)
{
	if (!coord_knows_own(c))
		return;
	for (struct link *l = c->workers.all.next, *next; l != &c->workers.all; l = next) {
		next = l->next;
		struct worker *m = LIST_OF(struct worker, all, l);
		if (m->s.state == SESSION_HELD)
			worker_welcome(c, m);
	}
}

static bool hello_same_text(const void *value, const void *key, size_t len)
{
	const struct text *t = value;
	return t->len == len && memcmp(t->bytes, key, len) == 0;
}

/* Each lease once, however often it is named. */
static void take_resume(struct rng *rng, struct worker *m, const struct frame *f)
{
	struct map named;
	map_init(&named, hello_same_text, rng_next(rng));
	m->resume = mem_array(f->hello.n_resume + 1, sizeof(struct text *));
	for (size_t i = 0; i < f->hello.n_resume; i++) {
		struct slice s = f->hello.resume[i];
		if (map_get(&named, s.p, s.len))
			continue;
		m->resume[m->n_resume] = text_new(s.p, s.len);
		map_put(&named, s.p, s.len, m->resume[m->n_resume++]);
	}
	map_fini(&named);
}

/* Which one it is, and a few of those that there are: the first word of somebody who has misspelt it. */
static void refuse_services(struct coord *c, struct worker *m, const struct frame *f)
{
	enum { SHOWN_BYTES = 60, SHOWN = 5 };
	const struct coord_services *ss = &c->services;
	char value[FIELD_VALUE_CAP];
	struct buf b;
	size_t i = 0, n = 0;
	if (!f->hello.n_services) {
		worker_fatal(c, m, FERR_BAD_HELLO, "services: must not be empty; left out, it means all");
		return;
	}
	while (i + 1 < f->hello.n_services && service_pos_of(ss, f->hello.services[i]) != SERVICE_NONE)
		i++;
	const struct slice unknown = f->hello.services[i];
	buf_init(&b);
	buf_printf(&b, "services: names a service that is not configured here: %s",
		field_value(value, unknown.p, text_fit(unknown.p, unknown.len, SHOWN_BYTES)));
	for (uint16_t k = 0; k < ss->n && n <= SHOWN; k++) {
		const struct coord_service *s = &ss->v[k];
		if (!s->rules || s->is_going)
			continue;
		n++;
		if (n > SHOWN)
			buf_str(&b, " and others");
		else
			buf_printf(&b, "%s%.100s", n == 1 ? "; those that are: " : ", ", s->rules->name);
	}
	worker_fatal(c, m, FERR_BAD_HELLO, b.data);
	buf_fini(&b);
}

void worker_hello(struct coord *c, struct worker *m, const struct frame *f)
{
	const char *why;
	enum frame_error error = session_check_hello(f, &why);
	if (error != FERR_N) {
		worker_fatal(c, m, error, why);
		return;
	}
	snprintf(m->s.name, sizeof m->s.name, "%.*s",
		(int)text_fit(f->hello.name.p, f->hello.name.len, sizeof m->s.name - 1), f->hello.name.p);
	if (!worker_take_services(c, m, f)) {
		refuse_services(c, m, f);
		return;
	}
	credit_holder_offer(&c->place, &m->credit_holder, (uint32_t)f->credits);
	m->credit_holder.takes_entries = f->hello.takes_entries;
	if (f->hello.session.p && f->hello.session.len == SESSION_KEY)
		memcpy(m->wanted_key, f->hello.session.p, SESSION_KEY);
	take_resume(&c->rng, m, f);
	/* a session of this very process need not wait */
	if (m->n_resume == 0 || coord_knows_own(c) || (m->wanted_key[0] && by_key(&c->workers, m, m->wanted_key))) {
		worker_welcome(c, m);
		return;
	}
	session_move(&m->s, SESSION_HELD, c->out, "what a former process left is not known yet");
	m->s.deadline = c->now + c->services.shortest_ttl;
	worker_arm(c, m);
}
