/* lease_reply - what Redis answers to a lease, and what follows from it. */
#include "core/shard/lease_p.h"

#include <assert.h>
#include <stdio.h>

enum { AGAIN_MS = 50, AGAIN_MAX_MS = 200, REFUSED_MS = 200, REFUSED_MAX_MS = 5000 };

enum whose { WHOSE_MINE, WHOSE_OLDER /* a former process of ours */, WHOSE_NEWER, WHOSE_OTHER };

static bool hex_value(struct slice s, uint64_t *out)
{
	if (s.len == 0 || s.len > 16)
		return false;
	uint64_t v = 0;
	for (size_t i = 0; i < s.len; i++) {
		char ch = s.p[i];
		unsigned digit = ch >= '0' && ch <= '9'   ? (unsigned)(ch - '0')
				 : ch >= 'a' && ch <= 'f' ? (unsigned)(ch - 'a' + 10)
							  : 16;
		if (digit == 16)
			return false;
		v = v << 4 | digit;
	}
	*out = v;
	return true;
}

/* Values are <consumer>/<incarnation in hex>. */
static enum whose whose_value(const struct shard_rules *r, struct slice v)
{
	if (slice_eq(v, slice_str(r->lock_value)))
		return WHOSE_MINE;
	size_t n = strlen(r->consumer);
	if (v.len <= n + 1 || memcmp(v.p, r->consumer, n) != 0 || v.p[n] != '/')
		return WHOSE_OTHER;
	uint64_t incarnation;
	if (!hex_value((struct slice){v.p + n + 1, v.len - n - 1}, &incarnation))
		return WHOSE_OTHER;
	return incarnation < r->incarnation ? WHOSE_OLDER : WHOSE_NEWER;
}

/* Said once: we are about to end. */
static void replaced(struct leases *ls, struct shard_ctx *c, struct slice value)
{
	if (ls->is_replaced)
		return;
	ls->is_replaced = true;
	char line[512];
	int n = snprintf(line, sizeof line,
		"another process with our node id is running: give each daemon a node.id of its own "
		"(a lock of ours has the value %.*s, ours is %s)",
		(int)(value.len < 340 ? value.len : 340), value.p, c->rules->lock_value);
	struct text *why = text_new(line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
	ctx_msg(c, msg_replaced((struct msg_replaced){.why = why}));
}

/* Held at once, and its take is on its way: both are told together. */
static void locked(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	ctx_metrics(c, l->svc)->c[M_ACQUIRE_OK]++;
	lease_confirm(ls, c, l);
	l->lock.is_unsaid = true;
}

static struct msg *acquired(struct leases *ls, struct shard_ctx *c, struct lease *l, enum metric_service how)
{
	ctx_metrics(c, l->svc)->c[how]++;
	lease_confirm(ls, c, l);
	struct msg *m = lease_report(ls, c, l, LEASE_IS_HELD);
	m->lease.was_ours = l->lock.was_ours;
	return m;
}

static void busy(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	ctx_metrics(c, l->svc)->c[M_ACQUIRE_BUSY]++;
	lease_report(ls, c, l, LEASE_IS_BUSY);
	lease_forget(ls, c, l);
}

/* On to the next question, at once. */
static void lease_ask(
	struct leases *ls, struct shard_ctx *c, struct lease *l, enum lease_state next, struct slice expect)
{
	lease_move(c, l, next, "by the last answer");
	lease_send(ls, c, l, expect);
}

static void lease_on_checked(struct leases *ls, struct shard_ctx *c, struct lease *l, const struct reply *reply)
{
	const struct slice none = {0};
	if (reply->kind != REPLY_TEXT) { /* expired meanwhile */
		lease_ask(ls, c, l, LEASE_ACQUIRING, none);
		return;
	}
	enum whose w = whose_value(c->rules, reply->text);
	l->lock.was_ours = w != WHOSE_OTHER;
	if (w == WHOSE_MINE) {
		lease_ask(ls, c, l, LEASE_CONFIRMING, none);
	} else if (w == WHOSE_OLDER || (w == WHOSE_NEWER && l->is_startup)) {
		lease_ask(ls, c, l, LEASE_SWAPPING, reply->text);
	} else {
		if (w == WHOSE_NEWER)
			replaced(ls, c, reply->text);
		busy(ls, c, l);
	}
}

static void add_renewed(struct leases *ls, struct shard_ctx *c, const struct lease *l)
{
	if (!ls->renewed) {
		ls->renewed = mem_alloc(sizeof *ls->renewed + RENEWED_CHUNK * sizeof ls->renewed->v[0]);
		ls->renewed_at = c->now;
	}
	struct renewed *r = ls->renewed;
	r->v[r->n].handle = l->handle;
	r->v[r->n++].good_until = l->good_until;
	if (r->n == RENEWED_CHUNK)
		lease_flush_renewed(ls, c);
}

static void renewed(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	lease_forget_take(ls, c, l); /* not answered for so long: it is asked anew */
	struct metrics_service *m = ctx_metrics(c, l->svc);
	m->c[M_RENEW_OK]++;
	hist_add(&m->h[H_MARGIN], (double)(l->good_until - c->now) / 1000);
	hist_add(&c->metrics.h[HR_RENEW], (double)(c->now - l->at) / 1000);
	lease_confirm(ls, c, l);
	if (l->lock.was_missing) {
		l->lock.was_missing = false;
		lease_report(ls, c, l, LEASE_IS_RECREATED);
	} else {
		add_renewed(ls, c, l);
	}
}

static void taken(struct leases *ls, struct shard_ctx *c, struct lease *l, struct slice value)
{
	ctx_metrics(c, l->svc)->c[M_RENEW_TAKEN]++;
	if (whose_value(c->rules, value) == WHOSE_OTHER) {
		lease_lose(ls, c, l, LOST_TAKEN);
		return;
	}
	replaced(ls, c, value);
	lease_lose(ls, c, l, LOST_REPLACED);
}

static void on_renewed(struct leases *ls, struct shard_ctx *c, struct lease *l, const struct reply *reply)
{
	if (reply->kind != REPLY_TEXT) { /* before the local deadline, else it would be lost already */
		ctx_metrics(c, l->svc)->c[M_RENEW_MISSING]++;
		l->lock.was_missing = true;
		lease_ask(ls, c, l, LEASE_RECREATING, (struct slice){0});
	} else if (whose_value(c->rules, reply->text) == WHOSE_MINE) {
		renewed(ls, c, l);
	} else {
		taken(ls, c, l, reply->text);
	}
}

static void on_rechecked(struct leases *ls, struct shard_ctx *c, struct lease *l, const struct reply *reply)
{
	if (reply->kind != REPLY_TEXT)
		lease_ask(ls, c, l, LEASE_RECREATING, (struct slice){0});
	else if (whose_value(c->rules, reply->text) == WHOSE_MINE)
		lease_ask(ls, c, l, LEASE_RENEWING, (struct slice){0});
	else
		taken(ls, c, l, reply->text);
}

static void on_recreated(struct leases *ls, struct shard_ctx *c, struct lease *l, const struct reply *reply)
{
	if (reply->kind != REPLY_OK) {
		lease_ask(ls, c, l, LEASE_RECHECKING, (struct slice){0});
		return;
	}
	lease_confirm(ls, c, l);
	l->lock.was_missing = false;
	lease_report(ls, c, l, LEASE_IS_RECREATED);
}

static void on_confirmed(struct leases *ls, struct shard_ctx *c, struct lease *l, const struct reply *reply)
{
	if (reply->kind != REPLY_TEXT)
		lease_ask(ls, c, l, LEASE_ACQUIRING, (struct slice){0});
	else if (whose_value(c->rules, reply->text) == WHOSE_MINE)
		acquired(ls, c, l, M_ACQUIRE_OK);
	else
		lease_ask(ls, c, l, LEASE_CHECKING, (struct slice){0});
}

static void lease_answered(struct leases *ls, struct shard_ctx *c, struct lease *l, const struct reply *reply)
{
	switch ((enum lease_state)l->state) {
	case LEASE_ACQUIRING:
		if (reply->kind == REPLY_OK && l->lock.is_taking) {
			locked(ls, c, l);
		} else if (reply->kind == REPLY_OK && refusals_of(&c->refusals, CMD_RENEW)) {
			lease_ask(ls, c, l, LEASE_CONFIRMING, (struct slice){0});
		} else if (reply->kind == REPLY_OK) {
			acquired(ls, c, l, M_ACQUIRE_OK);
		} else {
			lease_forget_take(ls, c, l);
			lease_ask(ls, c, l, LEASE_CHECKING, (struct slice){0});
		}
		break;
	case LEASE_CHECKING:
		lease_on_checked(ls, c, l, reply);
		break;
	case LEASE_SWAPPING:
		if (reply->kind == REPLY_INT && reply->integer > 0) {
			l->ttl_ms = (int32_t)mono_min(reply->integer, INT32_MAX);
			acquired(ls, c, l, M_ACQUIRE_TAKEN_OVER)->lease.lasts_ms = l->ttl_ms;
		} else {
			lease_ask(ls, c, l, LEASE_CHECKING, (struct slice){0});
		}
		break;
	case LEASE_CONFIRMING:
		on_confirmed(ls, c, l, reply);
		break;
	case LEASE_HELD:
	case LEASE_STATES:
		break;
	case LEASE_RENEWING:
		on_renewed(ls, c, l, reply);
		break;
	case LEASE_RECREATING:
		on_recreated(ls, c, l, reply);
		break;
	case LEASE_RECHECKING:
		on_rechecked(ls, c, l, reply);
		break;
	case LEASE_RELEASING: {
		bool is_ok = reply->kind == REPLY_INT && reply->integer == 1;
		ctx_metrics(c, l->svc)->c[is_ok ? M_RELEASE_OK : M_RELEASE_NOT_OURS]++;
		lease_forget(ls, c, l);
		break;
	}
	}
}

static void count_error(struct shard_ctx *c, const struct lease *l)
{
	if (l->state == LEASE_RELEASING)
		return; /* counted when given up */
	ctx_metrics(c, l->svc)->c[l->state < LEASE_HELD ? M_ACQUIRE_ERROR : M_RENEW_ERROR]++;
}

/* Not answered: the same question after a while; a take-over looks again first. */
static void lease_again(struct leases *ls, struct shard_ctx *c, struct lease *l, mono_ms wait)
{
	count_error(c, l);
	if (l->state < LEASE_HELD)
		lease_forget_take(ls, c, l);
	uint8_t tries = l->tries;
	if (l->state == LEASE_SWAPPING)
		lease_move(c, l, LEASE_CHECKING, "the take-over was not answered");
	l->tries = (uint8_t)(tries < 100 ? tries + 1 : tries);
	l->at = c->now + wait;
	lease_set_timer(ls, c, l);
}

static void moved(struct leases *ls, struct shard_ctx *c, struct lease *l, const struct reply *reply)
{
	if (l->state == LEASE_RELEASING && reply->error == RERR_ASK) { /* until the slot has moved as a whole */
		lease_again(ls, c, l, ctx_backoff(c, l->tries, AGAIN_MS, AGAIN_MAX_MS));
		return;
	}
	if (l->state == LEASE_RELEASING) {
		lease_unlock_elsewhere(c, l);
	} else {
		struct msg *m = lease_report(ls, c, l, LEASE_IS_MOVED);
		m->lease.asking = reply->error == RERR_ASK;
		m->lease.moved_to = text_new(reply->text.p, reply->text.len);
	}
	lease_forget(ls, c, l);
}

/* What the answer to DELIFEQ tells of the server: it may be unknown, or our user may not. True: go by script. */
static bool is_delifeq_refused(struct leases *ls, const struct reply *reply)
{
	if (reply->kind == REPLY_INT)
		ls->delifeq = DELIFEQ_THERE;
	else if (reply->kind == REPLY_ERROR && (reply->error == RERR_OPERATOR || reply->error == RERR_BAD))
		ls->delifeq = DELIFEQ_NOT_THERE;
	else if (ls->delifeq == DELIFEQ_ASKED)
		ls->delifeq = DELIFEQ_UNASKED;
	return ls->delifeq == DELIFEQ_NOT_THERE;
}

void lease_reply(struct leases *ls, struct shard_ctx *c, uint64_t tag, const struct reply *reply)
{
	assert(ls->n_in_flight > 0);
	ls->n_in_flight--;
	struct lease *l = shard_pool_find(&ls->pool, tag_gen(tag), tag_index(tag));
	if (!l || !l->in_flight)
		return; /* too late: lost, released or moved meanwhile */
	l->in_flight = false;
	if (l->by_delifeq && is_delifeq_refused(ls, reply)) {
		lease_send(ls, c, l, (struct slice){0});
		return;
	}
	mono_ms sent = l->at;
	switch (ctx_judge(c, "lease", lease_command(l), l->svc, reply)) {
	case VERDICT_ANSWER:
		if (l->state != LEASE_RENEWING)
			hist_add(&c->metrics.h[HR_COMMAND], (double)(c->now - sent) / 1000);
		l->tries = 0;
		lease_answered(ls, c, l, reply);
		break;
	case VERDICT_LOST:
	case VERDICT_AGAIN:
		lease_again(ls, c, l, ctx_backoff(c, l->tries, AGAIN_MS, AGAIN_MAX_MS));
		break;
	case VERDICT_NO_GROUP:
	case VERDICT_REFUSED:
		lease_again(ls, c, l, ctx_backoff(c, l->tries, REFUSED_MS, REFUSED_MAX_MS));
		break;
	case VERDICT_EVAL:
		if (l->state == LEASE_SWAPPING)
			lease_move(
				c, l, LEASE_CHECKING, "the script is not known"); /* expect is not kept: look again */
		l->use_eval = true;
		lease_send(ls, c, l, (struct slice){0});
		break;
	case VERDICT_MOVED:
		moved(ls, c, l, reply);
		break;
	}
}
