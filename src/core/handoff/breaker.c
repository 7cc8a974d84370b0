/* breaker - the endpoints that failed operation after operation, and when one may be tried again. */
#include "core/handoff/handoff_p.h"

#include <assert.h>
#include <stdio.h>

/* A breaker protects from an endpoint that fails operation after operation: a round of attempts that failed counts
 * once, whatever the number of connections, and an operation that it has let begin goes on to the window's end. */

static const struct breaker *breaker_find(const struct handoff *h, const char *endpoint)
{
	for (int i = 0; endpoint[0] && i < BREAKERS; i++)
		if (strcmp(h->breakers[i].endpoint, endpoint) == 0)
			return &h->breakers[i];
	return NULL;
}

static struct breaker *breaker_at(struct handoff *h, const char *endpoint)
{
	struct breaker *oldest = &h->breakers[0];
	for (int i = 0; i < BREAKERS; i++) {
		struct breaker *b = &h->breakers[i];
		if (b->endpoint[0] && strcmp(b->endpoint, endpoint) == 0)
			return b;
		if (b->used_at < oldest->used_at)
			oldest = b;
	}
	*oldest = (struct breaker){0};
	snprintf(oldest->endpoint, sizeof oldest->endpoint, "%s", endpoint);
	return oldest;
}

bool breaker_allows(const struct handoff *h, const char *endpoint, mono_ms now)
{
	assert(endpoint);
	const struct breaker *b = breaker_find(h, endpoint);
	if (!b)
		return true;
	if (b->state == BREAKER_OPEN)
		return now >= b->opened_at + h->rules.breaker_reset_ms;
	return b->state == BREAKER_CLOSED || b->n_trials < h->rules.breaker_half_open ||
	       now >= b->used_at + h->rules.breaker_reset_ms; /* of some trials nothing was heard again */
}

bool breaker_is_trying(struct handoff *h, const char *endpoint)
{
	const struct breaker *b = breaker_find(h, endpoint);
	return b && b->state == BREAKER_HALF_OPEN;
}

mono_ms breaker_reset_at(const struct handoff *h, const char *endpoint)
{
	const struct breaker *b = breaker_find(h, endpoint);
	return b && b->state == BREAKER_OPEN ? b->opened_at + h->rules.breaker_reset_ms : MONO_NEVER;
}

const char *breaker_why(struct handoff *h, const char *endpoint)
{
	const struct breaker *b = breaker_find(h, endpoint);
	return b ? b->why : "";
}

void breaker_trial(struct handoff *h, const char *endpoint)
{
	if (!endpoint[0])
		return;
	struct breaker *b = breaker_at(h, endpoint);
	bool is_reset = b->state == BREAKER_OPEN && h->now >= b->opened_at + h->rules.breaker_reset_ms;
	b->used_at = h->now;
	if (b->state == BREAKER_HALF_OPEN && b->n_trials >= h->rules.breaker_half_open)
		b->n_trials = b->n_good;
	if (is_reset) {
		b->state = BREAKER_HALF_OPEN;
		b->n_trials = b->n_good = 0;
		handoff_log(h, LOG_INFO, "circuit breaker of %s half-open", endpoint);
	}
	b->n_trials += b->state == BREAKER_HALF_OPEN;
}

void breaker_good(struct handoff *h, const char *endpoint)
{
	if (!endpoint[0])
		return;
	struct breaker *b = breaker_at(h, endpoint);
	b->used_at = h->now;
	if (b->state == BREAKER_HALF_OPEN && ++b->n_good < h->rules.breaker_half_open)
		return;
	if (b->state != BREAKER_CLOSED)
		handoff_log(h, LOG_NOTICE, "circuit breaker of %s closed", endpoint);
	b->state = BREAKER_CLOSED;
	b->n_failures = b->n_trials = 0;
	b->why[0] = '\0';
}

void breaker_bad(struct handoff *h, const char *endpoint, const char *why)
{
	assert(endpoint && why);
	if (!endpoint[0])
		return;
	struct breaker *b = breaker_at(h, endpoint);
	b->used_at = h->now;
	snprintf(b->why, sizeof b->why, "%s", why);
	b->n_failures++;
	if (b->state == BREAKER_OPEN || (b->state == BREAKER_CLOSED && b->n_failures < h->rules.breaker_failures))
		return;
	b->state = BREAKER_OPEN;
	b->opened_at = h->now;
	b->n_trials = 0;
	handoff_log(h, LOG_WARN, "circuit breaker of %s open failures=%u reset_ms=%lld: %s", endpoint, b->n_failures,
		(long long)h->rules.breaker_reset_ms, why);
}

const char *breaker_state_name(enum breaker_state s)
{
	static const char *const names[] = {"closed", "open", "half_open"};
	return names[s];
}

enum breaker_state handoff_breaker(const struct handoff *h, const char **endpoint)
{
	const struct breaker *worst = NULL;
	for (int i = 0; i < BREAKERS; i++) {
		const struct breaker *b = &h->breakers[i];
		if (b->state == BREAKER_OPEN || (b->state == BREAKER_HALF_OPEN && !worst))
			worst = b;
	}
	if (endpoint)
		*endpoint = worst ? worst->endpoint : "";
	return worst ? (enum breaker_state)worst->state : BREAKER_CLOSED;
}
