/* feed_yield - streams that have no work now give up their credits while others wait for one. */
#include "core/shard/feed_p.h"

#include <assert.h>

/* Its worker has nothing to do. */
static bool feed_rests(const struct feed *f)
{
	return f->state == FEED_RUNNING && !f->run.is_held && f->reading.was_empty && f->work->window.n == 0 &&
	       !feed_is_newer(f->work->wanted, f->confirmed) && !f->reading.is_woken;
}

static enum feed_part feed_part_of(const struct feed *f)
{
	if (f->idle.has_ended || f->idle.is_yielding)
		return FEED_GIVES_UP;
	if (f->state == FEED_BLOCKED)
		return FEED_PAUSES;
	if (!feed_rests(f))
		return FEED_WORKS;
	return f->idle.has_told ? FEED_RESTS : FEED_RESTS_UNTOLD;
}

bool feed_is_sorted(const struct feed *f)
{
	return f->idle.part == feed_part_of(f) && list_empty(&f->parts) == (f->idle.part == FEED_WORKS);
}

void feed_parts_init(struct feeds *fs)
{
	for (int i = 0; i < FEED_PARTS; i++)
		list_init(&fs->parts[i]);
}

void feed_sort(struct feeds *fs, struct feed *f)
{
	const enum feed_part part = feed_part_of(f);
	if (part == f->idle.part)
		return;
	list_remove(&f->parts);
	f->idle.part = (uint8_t)part;
	if (part != FEED_WORKS)
		list_push(&fs->parts[part], &f->parts);
}

struct shard_feeds feed_sums(const struct feeds *fs, uint16_t svc)
{
	struct shard_feeds sums = {0};
	uint32_t pos = 0;
	for (const struct feed *f; (f = feed_next_feed(fs, &pos));) {
		if (f->svc != svc)
			continue;
		uint32_t n_behind = f->work->window.n + feed_n_untold(f) + f->work->unread.n_void;
		bool is_blocked = f->state == FEED_BLOCKED || f->state == FEED_FAILING;
		sums.behind += n_behind ? n_behind : is_blocked; /* the one it waits for may be all that is known */
		sums.blocked += is_blocked;
		sums.idle += feed_rests(f);
	}
	return sums;
}

/* What it waits for comes later than another stream would be begun: it may wait in the delayed set as well. Not one
 * that something died with: nobody else knows that it is alone. */
static bool feed_waits_long(const struct shard_ctx *c, const struct feed *f)
{
	return f->state == FEED_BLOCKED && f->run.is_open && !f->run.is_held && f->work->window.n == 0 &&
	       !f->script.in_flight && !feed_is_newer(f->work->wanted, f->confirmed) && !f->run.is_tested &&
	       !f->run.is_alone && !feed_waits_of_old(f) && f->work->bad.until - c->now > FEED_LEND_MS;
}

/* Which feeds give up their credits, in this order. */
enum feed_yields {
	FEED_YIELDS_ALREADY,
	FEED_YIELDS_BLOCKED, /* until their next try */
	FEED_YIELDS_UNTOLD,  /* the run was told nothing */
	FEED_YIELDS_LONG,    /* nothing came for FEED_YIELD_MS, or FEED_AHEAD_MS */
	FEED_YIELDS_IDLE,
	FEED_YIELDS_N
};

/* Where they are found; a reload may have taken leave to yield from one that does. */
static const uint8_t feed_parts_of[FEED_YIELDS_N] = {
	[FEED_YIELDS_ALREADY] = 1 << FEED_GIVES_UP,
	[FEED_YIELDS_BLOCKED] = 1 << FEED_GIVES_UP | 1 << FEED_PAUSES,
	[FEED_YIELDS_UNTOLD] = 1 << FEED_RESTS_UNTOLD,
	[FEED_YIELDS_LONG] = 1 << FEED_RESTS_UNTOLD | 1 << FEED_RESTS,
	[FEED_YIELDS_IDLE] = 1 << FEED_RESTS_UNTOLD | 1 << FEED_RESTS,
};

/* It is of one of those parts. */
static bool feed_may_yield(const struct shard_ctx *c, const struct feed *f, enum feed_yields which, bool is_ahead)
{
	assert(feed_parts_of[which] & 1 << f->idle.part);
	if (which == FEED_YIELDS_ALREADY)
		return f->idle.has_ended || service_idle_may_yield(ctx_service(c, f->svc)->rules);
	if (which == FEED_YIELDS_BLOCKED)
		return !f->idle.has_ended && feed_waits_long(c, f);
	if (f->reading.in_flight) /* what it finds is no later look */
		return false;
	const mono_ms long_ms = is_ahead ? FEED_AHEAD_MS : FEED_YIELD_MS;
	return which != FEED_YIELDS_LONG || c->now >= f->idle.since + long_ms;
}

static void feed_put_off(struct shard_ctx *c, struct feed *f)
{
	f->run.is_held = f->idle.has_ended = true;
	struct msg_feed *told = feed_tell(c, f, FEED_IS_PUT_OFF);
	told->bad = f->work->bad.id;
	told->tries = f->work->bad.tries;
	told->wait_ms = f->work->bad.until - c->now;
	ctx_metrics(c, f->svc)->c[M_FEED_YIELDS]++;
}

static void feed_yield_one(struct feeds *fs, struct shard_ctx *c, struct feed *f, enum feed_yields which)
{
	if (which == FEED_YIELDS_BLOCKED) {
		feed_put_off(c, f);
	} else if (which != FEED_YIELDS_ALREADY) {
		f->idle.is_yielding = true;
		f->reading.at = c->now;
	}
	feed_plan(fs, c, f);
}

/* By the configuration only a worker's done, or a long idle_release, ends a stream that is empty: with as many of them
 * as credits, nothing else is begun. */
static void feed_say_keepers(const struct feeds *fs, struct shard_ctx *c, struct shard_service *s, uint16_t svc)
{
	if (s->keepers_said_at && c->now < s->keepers_said_at + FEED_SAY_EVERY_MS)
		return;
	uint32_t n = 0;
	for (int part = FEED_RESTS_UNTOLD; part <= FEED_RESTS; part++)
		for (const struct link *l = fs->parts[part].next; l != &fs->parts[part]; l = l->next) {
			const struct feed *f = LIST_OF(const struct feed, parts, l);
			n += f->svc == svc && c->now >= f->idle.since + FEED_KEEPER_MS;
		}
	if (!n)
		return;
	s->keepers_said_at = c->now;
	effects_log(c->out, LOG_NOTICE,
		"service=%s streams wait for credits, which idle=%u empty streams keep: %s "
		"services[].entries.idle_release, or let workers say done",
		s->rules->name, n, s->rules->entries.idle_release_ms ? "shorten" : "set");
}

struct feed_look { /* for feeds that may give up their credits */
	uint16_t svc;
	enum feed_yields which;
	bool is_ahead;
};

/* n are wanted; returns how many still are. */
static uint32_t feed_yield_of(
	struct feeds *fs, struct shard_ctx *c, const struct feed_look *look, struct link *part, uint32_t n)
{
	struct link *next;
	for (struct link *l = part->next; n && l != part; l = next) {
		next = l->next;
		struct feed *f = LIST_OF(struct feed, parts, l);
		if (f->svc == look->svc && feed_may_yield(c, f, look->which, look->is_ahead)) {
			n--;
			feed_yield_one(fs, c, f, look->which);
		}
	}
	return n;
}

void feed_yield(struct feeds *fs, struct shard_ctx *c, uint16_t svc, const struct msg_waiting *waiting)
{
	struct shard_service *s = ctx_service(c, svc);
	if (!s)
		return;
	uint32_t n = waiting->n;
	for (int which = 0; which < FEED_YIELDS_N; which++) {
		if (which > FEED_YIELDS_BLOCKED && !service_idle_may_yield(s->rules))
			break;
		if (waiting->is_ahead && (which == FEED_YIELDS_BLOCKED || which == FEED_YIELDS_IDLE))
			continue;
		const struct feed_look look = {svc, (enum feed_yields)which, waiting->is_ahead};
		for (int part = FEED_WORKS + 1; part < FEED_PARTS; part++)
			if (feed_parts_of[which] & 1 << part)
				n = feed_yield_of(fs, c, &look, &fs->parts[part], n);
	}
	if (waiting->is_ahead)
		return;
	s->n_wanted = n;
	s->wanted_at = c->now;
	if (n && !service_idle_may_yield(s->rules))
		feed_say_keepers(fs, c, s, svc);
}

/* Nobody waits, or the last word of it is too old. */
static bool feed_nobody_waits(const struct shard_ctx *c, const struct shard_service *s)
{
	return !s || s->n_wanted == 0 || c->now >= s->wanted_at + FEED_WANTED_MS;
}

bool feed_is_wanted(struct shard_ctx *c, struct feed *f)
{
	struct shard_service *s = ctx_service(c, f->svc);
	if (f->idle.is_yielding)
		return true;
	if (feed_nobody_waits(c, s) || !service_idle_may_yield(s->rules) || f->reading.sent <= s->wanted_at)
		return false; /* that read may be older than the word */
	s->n_wanted--;
	return true;
}

void feed_lend(struct shard_ctx *c, struct feed *f)
{
	struct shard_service *s = ctx_service(c, f->svc);
	if (feed_nobody_waits(c, s) || !feed_waits_long(c, f))
		return;
	s->n_wanted--;
	feed_put_off(c, f);
}
