#include "core/shard/refusals.h"

#include "core/shard/shard_p.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Whatever is repeated is repeated at least every 6.25 s: what was not refused for longer is not asked for any more. */
enum { SAY_EVERY_MS = 60000, FORGOTTEN_MS = 15000, REFUSALS_HINT = 300 };

/* Is one right or key the trouble, and not the server itself? */
static bool is_one_keys(enum refusal refusal)
{
	return refusal == REFUSAL_NOPERM || refusal == REFUSAL_WRONGTYPE || refusal == REFUSAL_OTHER ||
	       refusal == REFUSAL_NONE;
}

/* One line for all kinds of commands, or one for each. */
static struct refusals_log *log_of(struct refusals *r, enum refusal refusal, enum cmd_kind kind)
{
	return &r->logs[is_one_keys(refusal) ? (int)REFUSAL_N + (int)kind : (int)refusal];
}

/* A failover or a reshard gives some of these for a moment; for the others somebody must act. */
static enum log_level level_of(enum refusal refusal)
{
	switch (refusal) {
	case REFUSAL_NOREPLICAS:
	case REFUSAL_READONLY:
	case REFUSAL_LOADING:
	case REFUSAL_BUSY:
	case REFUSAL_MASTERDOWN:
	case REFUSAL_CLUSTERDOWN:
	case REFUSAL_TRYAGAIN:
		return LOG_WARN;
	case REFUSAL_NONE:
	case REFUSAL_OOM:
	case REFUSAL_MISCONF:
	case REFUSAL_NOPERM:
	case REFUSAL_NOAUTH:
	case REFUSAL_WRONGPASS:
	case REFUSAL_WRONGTYPE:
	case REFUSAL_MAXCLIENTS:
	case REFUSAL_OTHER:
	case REFUSAL_N:
		break;
	}
	return LOG_ERROR;
}

/* A command inside a script, by the words of Redis 7: they do not name it. */
static bool is_right_of_script(struct slice text)
{
	static const char words[] = "ERR The user executing the script can't run this command or subcommand";
	return text.len >= sizeof words - 1 && memcmp(text.p, words, sizeof words - 1) == 0;
}

/* Which key or right may be meant: the server does not say. Empty for other refusals. */
static void refusal_hint(
	char out[static REFUSALS_HINT], enum cmd_kind kind, const struct shard_service *s, const struct reply *reply)
{
	const char *name = s ? s->rules->name : "?";
	const bool is_feed = kind >= CMD_FEED_OPEN && kind <= CMD_FEED_DEAD_ADD;
	out[0] = '\0';
	if (reply->text.p && is_right_of_script(reply->text))
		snprintf(out, REFUSALS_HINT, " (sluicectl doctor says which right is missing)");
	if (reply->refusal != REFUSAL_WRONGTYPE)
		return;
	if (kind <= CMD_TOMBSTONE)
		snprintf(out, REFUSALS_HINT, " (a stream's lock, <stream><MUTEX_KEY_SEP><id>)");
	else if (is_feed)
		snprintf(out, REFUSALS_HINT, " (a data stream, its {<stream>}-sluice, or %.100s-entries-dlq)", name);
	else if (kind == CMD_FLEET)
		snprintf(out, REFUSALS_HINT, " ({%.100s-input}-fleet: other daemons are told nothing of ours)", name);
	else
		snprintf(out, REFUSALS_HINT,
			" (sluicectl doctor says which of %.60s-input, the dead letters, and {%.60s-input}-active, "
			"-parked, -delayed, -delayed-data, -left)",
			name, name);
}

static void say_refused(
	struct shard_ctx *c, const char *what, enum cmd_kind kind, uint16_t svc, const struct reply *reply)
{
	struct refusals_log *l = log_of(&c->refusals, reply->refusal, kind);
	l->n_unsaid++;
	if (l->is_said && c->now < l->at + SAY_EVERY_MS)
		return;
	const struct shard_service *s = ctx_service(c, svc);
	char hint[REFUSALS_HINT];
	refusal_hint(hint, kind, s, reply);
	bool is_strange = reply->error == RERR_BAD;
	effects_log(c->out, level_of(reply->refusal), "shard=%u%s%s %s: redis %s: %.*s%s n=%u", c->index,
		s ? " service=" : "", s ? s->rules->name : "", what,
		is_strange ? "answered what was not expected" : "refuses",
		(int)(reply->text.len < 300 ? reply->text.len : 300), reply->text.p ? reply->text.p : "", hint,
		l->n_unsaid);
	l->is_said = true;
	l->at = c->now;
	l->n_unsaid = 0;
}

/* Work goes on without; and a key of a wrong type in the place of one lock is trouble for one stream only. */
static bool is_needed(enum cmd_kind kind, enum refusal refusal)
{
	if (kind == CMD_ADD || kind == CMD_UNBLOCK || kind == CMD_FLEET ||
		kind >= CMD_SLOTS) /* who adds is answered; fleet is to be looked at; the trial finds the rest */
		return false;
	bool is_lock = kind <= CMD_TOMBSTONE;
	return !(is_lock && refusal == REFUSAL_WRONGTYPE);
}

void refusals_add(struct shard_ctx *c, const char *what, enum cmd_kind kind, uint16_t svc, const struct reply *reply)
{
	assert(kind < CMD_N && reply->refusal < REFUSAL_N);
	say_refused(c, what, kind, svc, reply);
	if (reply->refusal == REFUSAL_NONE)
		return;
	c->metrics.c[MR_REFUSED_OOM + (reply->refusal - REFUSAL_OOM)]++;
	if (!is_needed(kind, reply->refusal))
		return;
	struct refusals_kind *k = &c->refusals.kinds[kind];
	if (!k->since || c->now - k->last > FORGOTTEN_MS) {
		c->refusals.n_kinds += !k->since;
		k->since = mono_max(c->now, 1);
		k->n = 0;
		k->is_of_several = false;
	} else if (k->svc != svc) {
		k->is_of_several = true;
	}
	k->last = c->now;
	k->n++;
	k->refusal = reply->refusal;
	k->svc = svc;
	char hint[REFUSALS_HINT];
	refusal_hint(hint, kind, ctx_service(c, svc), reply);
	const size_t most = hint[0] ? 71 : sizeof k->words; /* the hint is more use than the end of a script's error */
	snprintf(k->words, sizeof k->words, "%.*s%s", (int)(reply->text.len < most ? reply->text.len : most),
		reply->text.p ? reply->text.p : "", hint);
}

static void forget_kind(struct refusals *r, struct refusals_kind *k)
{
	r->n_kinds -= k->since != 0;
	k->since = 0;
}

void refusals_accepted(struct refusals *r, enum cmd_kind kind, uint16_t svc)
{
	assert(kind < CMD_N);
	struct refusals_kind *k = &r->kinds[kind];
	if (k->since && (k->svc == svc || !is_one_keys(k->refusal)))
		forget_kind(r, k);
}

bool refusals_of(const struct refusals *r, enum cmd_kind kind)
{
	assert(kind < CMD_N);
	return r->kinds[kind].since != 0;
}

void refusals_forget(struct refusals *r)
{
	for (int i = 0; r->n_kinds && i < CMD_N; i++)
		forget_kind(r, &r->kinds[i]);
	assert(r->n_kinds == 0);
}

void refusals_slots(struct refusals *r)
{
	for (int i = 0; r->n_kinds && i < CMD_N; i++)
		if (r->kinds[i].since && r->kinds[i].refusal == REFUSAL_TRYAGAIN)
			forget_kind(r, &r->kinds[i]);
}

bool refusals_now(const struct refusals *r, mono_ms now, struct shard_refused *out)
{
	assert(out);
	const struct refusals_kind *first = NULL;
	for (int i = 0; r->n_kinds && i < CMD_N; i++) {
		const struct refusals_kind *k = &r->kinds[i];
		if (k->since && now - k->last <= FORGOTTEN_MS && (!first || k->since < first->since))
			first = k;
	}
	*out = (struct shard_refused){0};
	if (!first)
		return false;
	*out = (struct shard_refused){.since = first->since,
		.n = first->n,
		.svc = first->refusal == REFUSAL_WRONGTYPE && !first->is_of_several ? first->svc : SERVICE_NONE};
	snprintf(out->words, sizeof out->words, "%s", first->words);
	return true;
}
