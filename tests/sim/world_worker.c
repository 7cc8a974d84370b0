/* world_worker - fake workers at the level of frames: they work for a while, report, keep their fence or only obey
 * revoke, hang, die, lose their connection and come back with session and resume. */
#include "sim/world.h"
#include <stdio.h>
#include <string.h>

struct up { /* a frame to the daemon */
	struct event ev;
	struct daemon *daemon;
	uint64_t session;
	struct frame f;
	char lease[80], key[40], leases[WORLD_HOLDS][80];
	struct slice resume[WORLD_HOLDS];
	enum coord_event_kind kind;
	pid_t pid;
};

struct down { /* a frame to the worker */
	struct event ev;
	struct sim_worker *worker;
	uint64_t session;
	struct out_frame f;
	char lease[80], stream[24], key[40], token[24];
	uint32_t item;
	uint16_t svc;
	mono_ms sent;
	struct slice *resumed;
	struct gone *gone;
	char *text;
	bool is_cut;
};

static void plan(struct world *w, struct sim_worker *k);

/* ---- to the daemon ---- */

static void up_free(struct world *w, struct event *ev)
{
	(void)w;
	mem_free(HEAP_OF(struct up, ev, ev));
}

static void up_arrives(struct world *w, struct event *ev)
{
	struct up *u = HEAP_OF(struct up, ev, ev);
	struct coord_event ce = {.kind = u->kind, .session = u->session, .pid = u->pid, .uid = 7, .flag = true};
	if (u->kind == COORD_END)
		check_worker_ends(w, u->daemon, u->session);
	if (u->kind == COORD_FRAME)
		ce.frame = &u->f;
	if (u->kind == COORD_ACCEPT)
		ce.text = (struct slice){u->key, 32};
	daemon_step(w, u->daemon, &ce);
	mem_free(u);
}

static struct up *up_new(struct sim_worker *k, enum coord_event_kind kind)
{
	struct up *u = mem_alloc(sizeof *u);
	u->ev = (struct event){.run = up_arrives, .drop = up_free, .daemon = k->daemon, .gen = k->daemon_gen};
	u->daemon = k->daemon;
	u->session = k->session;
	u->kind = kind;
	u->pid = (pid_t)(100 + k->index);
	return u;
}

static void up_send(struct world *w, struct sim_worker *k, struct up *u)
{
	event_in_order(w, &u->ev, w->now + world_lag(w) / 4, &k->up);
}

static void send_frame(struct world *w, struct sim_worker *k, enum frame_kind kind, const char *lease, bool dead)
{
	struct up *u = up_new(k, COORD_FRAME);
	u->f = (struct frame){.kind = kind, .dead = dead, .credits = k->credits};
	if (lease) {
		snprintf(u->lease, sizeof u->lease, "%s", lease);
		u->f.lease = (struct slice){u->lease, strlen(u->lease)};
	}
	static const char *const names[FRAME_N] = {[FRAME_DONE] = "done",
		[FRAME_FAIL] = "fail",
		[FRAME_RELEASE] = "release",
		[FRAME_REVOKED] = "revoked",
		[FRAME_BYE] = "bye",
		[FRAME_CREDITS] = "credits",
		[FRAME_PROGRESS] = "progress"};
	char id[40];
	if (names[kind])
		world_tell(w, "w%u %s%s%s%s", k->index, names[kind], lease ? " " : "",
			lease ? trace_lease(lease, id) : "", dead ? " dead" : "");
	up_send(w, k, u);
}

void worker_word(
	struct world *w, struct sim_worker *k, enum frame_kind kind, const char *lease, struct entry_id id, bool dead)
{
	struct up *u = up_new(k, COORD_FRAME);
	char short_id[40];
	snprintf(u->lease, sizeof u->lease, "%s", lease);
	u->f = (struct frame){.kind = kind, .dead = dead, .entry = id, .lease = {u->lease, strlen(u->lease)}};
	world_tell(w, "w%u %s %s %llu-%llu%s", k->index, kind == FRAME_ACK ? "ack" : "nack",
		trace_lease(lease, short_id), (unsigned long long)id.ms % 100000000, (unsigned long long)id.seq,
		dead ? " dead" : "");
	up_send(w, k, u);
}

static void send_hello(struct world *w, struct sim_worker *k)
{
	struct up *u = up_new(k, COORD_FRAME);
	u->f = (struct frame){.kind = FRAME_HELLO,
		.hello.v = 1,
		.credits = k->credits,
		.hello.name = {"w", 1},
		.hello.takes_entries = true};
	if (k->key[0]) {
		snprintf(u->key, sizeof u->key, "%s", k->key);
		u->f.hello.session = (struct slice){u->key, strlen(u->key)};
	}
	for (unsigned i = 0; i < WORLD_HOLDS; i++) {
		struct hold *h = &k->holds[i];
		if (!h->used)
			continue;
		snprintf(u->leases[u->f.hello.n_resume], 80, "%s", h->lease);
		u->resume[u->f.hello.n_resume] = (struct slice){u->leases[u->f.hello.n_resume], strlen(h->lease)};
		u->f.hello.n_resume++;
	}
	u->f.hello.resume = u->resume;
	world_tell(w, "w%u hello credits=%u resume=%zu", k->index, k->credits, u->f.hello.n_resume);
	up_send(w, k, u);
}

/* ---- leases ---- */

static struct hold *find(struct sim_worker *k, const char *lease)
{
	for (unsigned i = 0; i < WORLD_HOLDS; i++)
		if (k->holds[i].used && strcmp(k->holds[i].lease, lease) == 0)
			return &k->holds[i];
	return NULL;
}

/* The work itself ends; what it came to may still have to be told. */
static void stop_working(struct world *w, struct sim_worker *k, struct hold *h, enum frame_kind result)
{
	h->was_working = false;
	h->result = result;
	if (result == FRAME_DONE)
		w->items[h->item].was_said = true;
	else if (result == FRAME_FAIL)
		w->items[h->item].may_count = true;
	if (!k->is_welcome)
		return;
	send_frame(w, k, result, h->lease, h->dead);
	h->used = false;
}

static void hold_due(struct world *w, struct sim_worker *k, struct hold *h)
{
	if (!h->was_working)
		return;
	if (k->keeps_fence && w->now >= h->until) {
		world_tell(w, "w%u stops %s: its fence", k->index, h->stream);
		stop_working(w, k, h, FRAME_REVOKED);
	} else if (w->now >= h->stop_at) {
		stop_working(w, k, h, FRAME_REVOKED);
	} else if (w->now >= h->result_at && (!h->is_feed || feed_due(w, k, h))) {
		stop_working(w, k, h, h->result);
	}
}

static void worker_tick(struct world *w, struct event *ev)
{
	struct sim_worker *k = HEAP_OF(struct sim_worker, tick, ev);
	for (unsigned i = 0; i < WORLD_HOLDS; i++)
		if (k->holds[i].used)
			hold_due(w, k, &k->holds[i]);
	plan(w, k);
}

static void plan(struct world *w, struct sim_worker *k)
{
	mono_ms at = MONO_NEVER;
	for (unsigned i = 0; i < WORLD_HOLDS; i++) {
		const struct hold *h = &k->holds[i];
		if (!h->used || !h->was_working)
			continue;
		at = mono_min(at, mono_min(h->result_at, h->stop_at));
		if (k->keeps_fence)
			at = mono_min(at, h->until);
	}
	event_at(w, &k->tick, at);
}

/* ---- frames that come ---- */

static void on_assign(struct world *w, struct sim_worker *k, const struct down *d)
{
	struct hold *h = NULL;
	for (unsigned i = 0; i < WORLD_HOLDS && !h; i++)
		if (!k->holds[i].used)
			h = &k->holds[i];
	if (!h) {
		world_fail(w, "w%u got more than it can hold", k->index);
		return;
	}
	*h = (struct hold){.used = true,
		.was_working = true,
		.svc = d->svc,
		.item = d->item,
		.since = w->now,
		.stop_at = MONO_NEVER,
		.until = d->f.until_ms,
		.sent = d->sent,
		.result = FRAME_DONE,
		.is_excused = w->now > d->sent + TELL_MARGIN_MS};
	snprintf(h->lease, sizeof h->lease, "%s", d->lease);
	snprintf(h->stream, sizeof h->stream, "%s", d->stream);
	for (const char *p = d->token; *p; p++)
		h->token = h->token * 10 + (uint64_t)(*p - '0');
	h->result_at = w->now + world_between(&w->rng, k->work_min, k->work_max);
	unsigned dice = w->is_calm || d->f.assign.has_entries ? 100 : (unsigned)rng_below(&w->rng, 100);
	if (d->f.assign.has_entries)
		feed_begin(w, k, h);
	if (dice < k->fail_pct)
		h->result = FRAME_FAIL;
	else if (dice < k->fail_pct + k->release_pct)
		h->result = FRAME_RELEASE;
	h->dead = h->result == FRAME_FAIL && rng_below(&w->rng, 100) < k->dead_pct;
	check_assign(w, k, h);
}

static void on_welcome(struct world *w, struct sim_worker *k, const struct down *d)
{
	k->is_welcome = true;
	snprintf(k->key, sizeof k->key, "%s", d->key);
	bool seen[WORLD_HOLDS] = {false};
	for (size_t i = 0; i < d->f.welcome.n_resumed; i++) {
		struct hold *h = find(k, d->resumed[i].p);
		if (!h)
			continue;
		seen[h - k->holds] = true;
		h->until = d->f.until_ms;
		if (h->is_feed && h->was_working)
			feed_resumed(w, k, h);
		if (!h->was_working) { /* finished meanwhile */
			send_frame(w, k, h->result, h->lease, h->dead);
			h->used = false;
		}
	}
	for (size_t i = 0; i < d->f.welcome.n_gone; i++) {
		struct hold *h = find(k, d->gone[i].lease.p);
		if (!h)
			continue;
		h->used = false;
		world_tell(w, "w%u lost %s while away", k->index, h->stream);
	}
	for (unsigned i = 0; i < WORLD_HOLDS; i++)
		if (k->holds[i].used && !seen[i])
			world_fail(w, "w%u lease %s is in neither list of the welcome", k->index, k->holds[i].lease);
}

static void on_revoke(struct world *w, struct sim_worker *k, const struct down *d)
{
	struct hold *h = find(k, d->lease);
	if (!h || !h->was_working)
		return;
	mono_ms at = w->now + world_between(&w->rng, 0, d->f.grace_ms);
	h->stop_at = mono_min(h->stop_at, at);
}

static void take(struct world *w, struct sim_worker *k, const struct down *d)
{
	switch (d->f.kind) {
	case OUT_ENTRIES:
		if (find(k, d->lease) && find(k, d->lease)->was_working)
			feed_entries(w, k, find(k, d->lease), d->f.info);
		break;
	case OUT_ENDED:
		if (find(k, d->lease))
			find(k, d->lease)->used = false;
		break;
	case OUT_WELCOME:
		on_welcome(w, k, d);
		break;
	case OUT_ASSIGN:
		on_assign(w, k, d);
		break;
	case OUT_REVOKE:
		on_revoke(w, k, d);
		break;
	case OUT_PING:
		for (unsigned i = 0; i < WORLD_HOLDS; i++)
			k->holds[i].until = d->f.until_ms;
		send_frame(w, k, FRAME_PONG, NULL, false);
		break;
	case OUT_OK:
		if (d->f.ok_for == OK_FOR_NACK && find(k, d->lease))
			feed_nacked(w, k, find(k, d->lease), d->f.outcome == GONE_WAITS, d->f.retry_ms);
		if (d->f.ok_for == OK_FOR_DONE && d->f.outcome == GONE_DONE && d->item < WORLD_ITEMS)
			w->items[d->item].n_ok++;
		break;
	case OUT_DRAIN:
	case OUT_PONG:
	case OUT_ERR:
		break;
	}
}

static void worker_reconnect(struct world *w, struct sim_worker *k);

static void down_free(struct world *w, struct event *ev)
{
	struct down *d = HEAP_OF(struct down, ev, ev);
	(void)w;
	mem_free(d->resumed);
	mem_free(d->gone);
	mem_free(d->text);
	mem_free(d);
}

static void down_arrives(struct world *w, struct event *ev)
{
	struct down *d = HEAP_OF(struct down, ev, ev);
	struct sim_worker *k = d->worker;
	if (k->session == d->session && k->is_alive) {
		if (d->is_cut) {
			worker_reconnect(w, k);
		} else {
			trace_out(w, k, &d->f);
			take(w, k, d);
			if (k->is_alive)
				plan(w, k);
		}
	}
	down_free(w, ev);
}

static void copy_text(char *out, size_t cap, struct slice s, struct slice *at)
{
	snprintf(out, cap, "%.*s", (int)s.len, s.p ? s.p : "");
	*at = (struct slice){out, strlen(out)};
}

/* The lists of a welcome, each lease as a string. */
static void copy_lists(struct down *d, const struct out_frame *f)
{
	size_t n = f->welcome.n_resumed + f->welcome.n_gone;
	d->text = mem_alloc(n * 80 + 1);
	d->resumed = mem_array(n + 1, sizeof *d->resumed);
	d->gone = mem_array(n + 1, sizeof *d->gone);
	char *p = d->text;
	for (size_t i = 0; i < f->welcome.n_resumed; i++, p += 80)
		copy_text(p, 80, f->welcome.resumed[i], &d->resumed[i]);
	for (size_t i = 0; i < f->welcome.n_gone; i++, p += 80) {
		copy_text(p, 80, f->welcome.gone[i].lease, &d->gone[i].lease);
		d->gone[i].outcome = f->welcome.gone[i].outcome;
	}
}

static struct sim_worker *worker_of(struct world *w, const struct daemon *d, uint64_t session)
{
	for (unsigned i = 0; i < w->n_workers; i++) {
		struct sim_worker *k = &w->workers[i];
		if (k->is_alive && k->daemon == d && k->session == session && k->daemon_gen == d->gen)
			return k;
	}
	return NULL;
}

static struct down *down_new(struct sim_worker *k, uint64_t session, mono_ms sent)
{
	struct down *d = mem_alloc(sizeof *d);
	d->ev = (struct event){.run = down_arrives, .drop = down_free, .worker = k, .gen = k->gen};
	d->worker = k;
	d->session = session;
	d->sent = sent;
	d->item = WORLD_ITEMS;
	return d;
}

void worker_take(struct world *w, struct daemon *from, uint64_t session, const struct out_frame *f)
{
	struct sim_worker *k = worker_of(w, from, session);
	if (!k)
		return;
	if (f->kind == OUT_WELCOME || f->kind == OUT_PING)
		check_until(w, from, session, f->until_ms);
	w->n_revokes += f->kind == OUT_REVOKE;
	w->n_frames[f->kind]++;
	struct down *d = down_new(k, session, w->now);
	d->f = *f;
	copy_text(d->lease, sizeof d->lease, f->lease, &d->f.lease);
	copy_text(d->stream, sizeof d->stream, f->assign.stream, &d->f.assign.stream);
	copy_text(d->key, sizeof d->key, f->welcome.session, &d->f.welcome.session);
	copy_text(d->token, sizeof d->token, f->assign.token, &d->f.assign.token);
	if (f->kind == OUT_ASSIGN) {
		d->item = item_of_info(f->info);
		if (w->o.entries.is_on && d->item < w->n_items) /* it may end before its worker reads that */
			w->items[d->item].last_assigned = w->now;
		for (uint16_t s = 0; s < w->o.n_services; s++)
			if (strlen(w->rules[s].name) == f->assign.service.len &&
				memcmp(w->rules[s].name, f->assign.service.p, f->assign.service.len) == 0)
				d->svc = s;
	} else if (f->kind == OUT_OK) {
		d->item = item_of_lease(w, f->lease);
	} else if (f->kind == OUT_WELCOME) {
		copy_lists(d, f);
	} else if (f->kind == OUT_ENTRIES) {
		d->text = mem_dup(f->info.p, f->info.len);
		d->f.info = (struct slice){d->text, f->info.len};
	}
	event_in_order(w, &d->ev, w->now + world_lag(w) / 4, &k->down);
}

/* ---- connections ---- */

static void worker_dial(struct world *w, struct event *ev)
{
	struct sim_worker *k = HEAP_OF(struct sim_worker, dial, ev);
	struct daemon *d = k->daemon;
	if (!d->is_alive) {
		event_at(w, ev, w->now + world_between(&w->rng, 100, 500));
		return;
	}
	k->session = ++d->last_session;
	k->daemon_gen = d->gen;
	k->is_welcome = false;
	struct up *u = up_new(k, COORD_ACCEPT);
	snprintf(u->key, sizeof u->key, "%016llx%016llx", (unsigned long long)rng_next(&w->rng),
		(unsigned long long)rng_next(&w->rng));
	up_send(w, k, u);
	send_hello(w, k);
}

static void worker_reconnect(struct world *w, struct sim_worker *k)
{
	k->session = 0;
	k->is_welcome = false;
	event_at(w, &k->dial, w->now + world_between(&w->rng, 50, 300));
}

void worker_cut(struct world *w, struct daemon *from, uint64_t session)
{
	struct sim_worker *k = worker_of(w, from, session);
	if (!k)
		return;
	world_tell(w, "d%u closes w%u", from->index, k->index);
	check_worker_ends(w, from, session);
	struct down *d = down_new(k, session, w->now);
	d->is_cut = true;
	event_in_order(w, &d->ev, w->now + world_lag(w) / 4, &k->down);
}

/* The daemon sees the socket end; with it, or a little later, the process. */
static void socket_ends(struct world *w, struct sim_worker *k, bool died)
{
	if (!k->session)
		return;
	up_send(w, k, up_new(k, COORD_END));
	if (died) {
		struct up *u = up_new(k, COORD_PEER_DEAD);
		event_in_order(w, &u->ev, w->now + world_lag(w), &k->up);
	}
}

void worker_disconnect(struct world *w, struct sim_worker *k)
{
	if (!k->is_alive || !k->session || k->is_paused)
		return;
	world_tell(w, "w%u loses its connection", k->index);
	socket_ends(w, k, false);
	worker_reconnect(w, k);
}

void worker_daemon_gone(struct world *w, struct daemon *d)
{
	for (unsigned i = 0; i < w->n_workers; i++) {
		struct sim_worker *k = &w->workers[i];
		if (!k->is_alive || k->daemon != d)
			continue;
		for (unsigned h = 0; h < WORLD_HOLDS; h++)
			k->holds[h].is_excused = k->holds[h].is_excused || (k->holds[h].used && !k->keeps_fence);
		if (!k->session)
			continue;
		struct down *end = down_new(k, k->session, w->now);
		end->is_cut = true;
		event_in_order(w, &end->ev, w->now + world_lag(w) / 4, &k->down);
	}
}

/* ---- life ---- */

struct sim_worker *world_worker(struct world *w, struct daemon *d, uint32_t credits)
{
	struct sim_worker *k = &w->workers[w->n_workers];
	*k = (struct sim_worker){.index = w->n_workers++,
		.daemon = d,
		.credits = credits,
		.most_credits = credits,
		.keeps_fence = true,
		.work_min = 100,
		.work_max = 2000};
	list_init(&k->held);
	list_init(&k->held_late);
	worker_start(w, k);
	return k;
}

void worker_start(struct world *w, struct sim_worker *k)
{
	if (k->is_alive)
		return;
	k->gen++;
	k->is_alive = true;
	k->session = 0;
	k->key[0] = '\0';
	k->up = k->down = (struct order){0};
	memset(k->holds, 0, sizeof k->holds);
	k->tick = (struct event){.run = worker_tick, .worker = k, .gen = k->gen};
	k->dial = (struct event){.run = worker_dial, .worker = k, .gen = k->gen};
	list_init(&k->tick.held);
	list_init(&k->dial.held);
	event_at(w, &k->dial, w->now);
}

static void forget_held(struct world *w, struct link *list)
{
	for (struct link *l; (l = list_pop(list));) {
		struct event *ev = LIST_OF(struct event, held, l);
		if (ev->drop)
			ev->drop(w, ev);
	}
}

void worker_kill(struct world *w, struct sim_worker *k)
{
	if (!k->is_alive)
		return;
	world_tell(w, "w%u dies", k->index);
	event_cancel(w, &k->tick);
	event_cancel(w, &k->dial);
	forget_held(w, &k->held);
	forget_held(w, &k->held_late);
	k->is_alive = k->is_paused = false;
	socket_ends(w, k, true);
	k->session = 0;
	k->gen++;
	memset(k->holds, 0, sizeof k->holds);
}

void worker_pause(struct world *w, struct sim_worker *k, bool paused)
{
	if (!k->is_alive || k->is_paused == paused)
		return;
	world_tell(w, "w%u %s", k->index, paused ? "stopped" : "goes on");
	k->is_paused = paused;
	if (paused) {
		for (unsigned h = 0; h < WORLD_HOLDS; h++)
			k->holds[h].is_excused = true;
		return;
	}
	for (unsigned i = 0; i < WORLD_HOLDS; i++) /* its own clock comes first */
		if (k->holds[i].used)
			hold_due(w, k, &k->holds[i]);
	uint32_t gen = k->gen;
	for (struct link *l; gen == k->gen && (l = list_pop(&k->held));)
		LIST_OF(struct event, held, l)->run(w, LIST_OF(struct event, held, l));
	for (struct link *l; gen == k->gen && (l = list_pop(&k->held_late));)
		LIST_OF(struct event, held, l)->run(w, LIST_OF(struct event, held, l));
}

void worker_set_credits(struct world *w, struct sim_worker *k, uint32_t n)
{
	k->credits = n;
	k->most_credits = n > k->most_credits ? n : k->most_credits;
	if (k->is_alive && k->is_welcome && !k->is_paused)
		send_frame(w, k, FRAME_CREDITS, NULL, false);
}

void worker_bye(struct world *w, struct sim_worker *k)
{
	if (!k->is_alive || !k->is_welcome || k->is_paused)
		return;
	send_frame(w, k, FRAME_BYE, NULL, false);
	event_cancel(w, &k->tick);
	event_cancel(w, &k->dial);
	k->is_alive = false;
	socket_ends(w, k, true);
	k->session = 0;
	k->gen++;
	memset(k->holds, 0, sizeof k->holds);
}
