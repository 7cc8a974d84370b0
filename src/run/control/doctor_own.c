/* What doctor knows without asking Redis: slots, Sentinels, and whether the leases are long enough for their number. */
#include "run/control/doctor_own.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "base/log.h"
#include "run/control/explain.h"
#include "run/cpu_quota.h"
#include "run/descriptors.h"

struct own_view {
	struct daemon *d;
	doctor_say_fn *say;
	void *arg;
};

static void check_sentinels(struct own_view *v)
{
	enum { ENOUGH = 3 };
	struct sentinel_state st;
	char found[200];
	if (!topology_client_sentinels(v->d->topo.client, &st))
		return;
	if (st.n_answered == 0)
		v->say(v->arg, "sentinel", "fail", v->d->topo.why[0] ? v->d->topo.why : "no Sentinel answers",
			"look at redis.endpoints, redis.sentinel and at the Sentinels");
	else if (!st.has_majority) {
		snprintf(found, sizeof found, "%zu of %zu known Sentinels answer, no majority agrees about the master",
			st.n_answered, st.n_known);
		v->say(v->arg, "sentinel", "warn", found,
			"what says that it is the master is kept: start the Sentinels");
	} else {
		snprintf(found, sizeof found, "a majority of %zu known Sentinels agrees about the master", st.n_known);
		v->say(v->arg, "sentinel", st.n_known < ENOUGH ? "warn" : "ok", found,
			st.n_known < ENOUGH ? "three Sentinels survive the loss of one" : NULL);
	}
}

static void check_slots(struct own_view *v)
{
	const struct topology *t = &v->d->core->topo;
	unsigned n_free = 0;
	char found[64];
	for (unsigned i = 0; t->is_known && i < SLOTS; i++)
		n_free += t->slot_node[i] == SHARD_NONE;
	snprintf(found, sizeof found, "%u of %d slots without a master", n_free, SLOTS);
	if (!t->is_known)
		v->say(v->arg, "slots", "fail", v->d->topo.why[0] ? v->d->topo.why : "the topology is not known yet",
			"look at redis.endpoints");
	else if (look_up_is_redirected(&v->d->core->look_up, mono_now()))
		v->say(v->arg, "slots", "fail", "standalone, but Redis answers MOVED: it is one master of a cluster",
			"set redis.topology to auto");
	else if (!t->is_cluster)
		v->say(v->arg, "slots", "ok", "standalone", NULL);
	else
		v->say(v->arg, "slots", n_free ? "fail" : "ok", n_free ? found : "all slots are served",
			n_free ? "see CLUSTER SLOTS" : NULL);
}

/* ---- leases: are they long enough for their number? */

static const char TOO_MANY[] =
	"give lease.ttl more time, lower max_streams or use more cores: a machine that is busy stops "
	"this work as not renewed in time, see LENGTH OF A LEASE in sluiced.yaml(5)";

/* Leases that this service has or will have soon: what is held, and what its workers' credits will bring. */
static int64_t soon_held(const struct coord_service *s, const struct view_service *v, int64_t owned)
{
	const int64_t wanted = v->credits < s->rules->max_streams ? v->credits : s->rules->max_streams;
	return owned > wanted ? owned : wanted;
}

static const struct config_service *configured(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_services; i++)
		if (strcmp(c->services[i].name, name) == 0)
			return &c->services[i];
	return NULL;
}

/* In thousandths of what all cores renew in time, added up over the services. cpu: thousandths of a core. */
static int64_t lease_load(struct own_view *v, int64_t cpu, int64_t *held)
{
	const struct coord *c = v->d->core;
	struct view_service *rows = view_services(v->d);
	int64_t load = 0;
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		const struct config_service *of = s->rules ? configured(v->d->config, s->rules->name) : NULL;
		if (!of)
			continue;
		const int64_t owned = c->place.service[i].owned;
		*held += owned;
		load += soon_held(s, &rows[i], owned) * 1000 * 1000 / (cpu * config_leases_per_core(of));
	}
	mem_free(rows);
	return load;
}

/* The service whose max_streams is most above what its leases bear. */
static const struct config_service *tightest_lease(const struct config *c)
{
	const struct config_service *worst = &c->services[0];
	for (size_t i = 1; i < c->n_services; i++) {
		const struct config_service *s = &c->services[i];
		if ((uint64_t)s->max_streams * config_leases_per_core(worst) >
			(uint64_t)worst->max_streams * config_leases_per_core(s))
			worst = s;
	}
	return worst;
}

static void check_leases(struct own_view *v)
{
	const struct config_service *s = tightest_lease(v->d->config);
	const int64_t cores = uv_available_parallelism(), quota = cpu_quota_milli("");
	const bool is_limited = quota && quota < cores * 1000;
	const int64_t cpu = is_limited ? quota : cores * 1000, most = cpu * config_leases_per_core(s) / 1000;
	int64_t held = 0;
	const int64_t load = lease_load(v, cpu, &held);
	char found[300], on[100];
	if (is_limited)
		snprintf(on, sizeof on, "the %lld.%02lld cores that its control group leaves it",
			(long long)(cpu / 1000), (long long)(cpu % 1000 / 10));
	else
		snprintf(on, sizeof on, "%lld core%s that others use too", (long long)cores, cores == 1 ? "" : "s");
	snprintf(found, sizeof found, "%lld held; %.60s: ttl %lld ms bears %lld leases on %s, max_streams %u",
		(long long)held, s->name, (long long)s->lease.ttl_ms, (long long)most, on, s->max_streams);
	const bool is_much = load > 1000 || s->max_streams > most;
	v->say(v->arg, "leases", is_much ? "warn" : "ok", found, is_much ? TOO_MANY : NULL);
}

/* Entries mode: data streams that two services have here. */
static void check_shared(struct own_view *v)
{
	const struct coord *c = v->d->core;
	const struct entry *first = NULL;
	const struct coord_service *other = NULL;
	size_t n = 0;
	uint32_t pos = 0;
	char found[400];
	for (const struct entry *e; (e = ledger_next(&c->ledger, &pos));) {
		const struct coord_service *s = explain_sharer(c, e);
		if (!s || s->svc < e->svc)
			continue; /* each pair once */
		n++;
		first = first ? first : e;
		other = other ? other : s;
	}
	if (!n)
		return;
	const struct coord_service *of = services_find(&((struct coord *)(uintptr_t)c)->services, first->svc);
	snprintf(found, sizeof found, "%zu data stream%s two services, as %.100s of %.60s and %.60s", n,
		n == 1 ? " has" : "s have", first->stream->bytes, of->rules->name, other->rules->name);
	v->say(v->arg, "shared", "warn", found,
		"they share its position and take it from each other: name a data stream in one service only");
}

/* It was lost with what was in the stream, or somebody has deleted it. */
static void check_groups(struct own_view *v)
{
	const struct coord *c = v->d->core;
	char found[FACTS_GONE_CAP];
	for (uint16_t i = 0; i < c->services.n; i++) {
		found[0] = '\0';
		if (c->services.v[i].rules)
			explain_group_gone(found, v->d, &c->services.v[i]);
		if (found[0])
			v->say(v->arg, "group", "warn", found,
				"find out who emptied or deleted it; producers add again what is missing");
	}
}

/* Workers are turned away, or soon will be. */
static void check_descriptors(struct own_view *v)
{
	const struct descriptors fds = descriptors_now();
	char found[120];
	if (fds.n + DESCRIPTORS_KEPT < fds.most && fds.n < fds.most - fds.most / 10)
		return;
	snprintf(found, sizeof found, "%llu of %llu are in use, the last %d are not for workers",
		(unsigned long long)fds.n, (unsigned long long)fds.most, DESCRIPTORS_KEPT);
	v->say(v->arg, "descriptors", "warn", found,
		"workers are turned away when no other is left: raise LimitNOFILE= of the unit, or ulimit -n");
}

/* Nobody reads of it in the log. */
static void check_log(struct own_view *v)
{
	const struct log_loss loss = log_last_loss();
	const unsigned long long n = log_n_dropped();
	char found[200], since[FACTS_SINCE_CAP];
	if (!loss.at)
		return;
	facts_since(since, mono_now() - loss.at);
	snprintf(found, sizeof found, "%llu line%s could not be written, the last at %s: %.80s", n, n == 1 ? "" : "s",
		since, loss.error == EAGAIN ? "nobody reads them" : strerror(loss.error));
	v->say(v->arg, "log", "warn", found,
		"look at where standard error goes: a full disk, a pipe without a reader; sluicectl events has the "
		"latest");
}

void doctor_own(struct daemon *d, doctor_say_fn *say, void *arg)
{
	struct own_view v = {d, say, arg};
	check_slots(&v);
	check_sentinels(&v);
	check_leases(&v);
	check_shared(&v);
	check_groups(&v);
	check_descriptors(&v);
	check_log(&v);
}
