#include "core/coord/session.h"
#include "core/sm.h"
#include "base/digits.h"
#include "base/mem.h"
#include <assert.h>
#include <string.h>

void session_init(struct session *s, uint64_t id, mono_ms now)
{
	assert(id);
	*s = (struct session){.id = id,
		.state = SESSION_NEW,
		.connected_at = now,
		.last_heard = now,
		.last_ping = now,
		.deadline = MONO_NEVER};
}

#define BIT(s) (1u << (s))

static const uint16_t allowed[SESSION_STATES] = {
	[SESSION_NEW] = BIT(SESSION_HELD) | BIT(SESSION_READY),
	[SESSION_HELD] = BIT(SESSION_READY),
	[SESSION_READY] = BIT(SESSION_DETACHED),
	[SESSION_DETACHED] = 0,
};
static const char *const session_states[SESSION_STATES] = {"new", "held", "ready", "detached"};
static const struct sm session_machine = {
	.what = "worker", .names = session_states, .allowed = allowed, .n = SESSION_STATES};

void session_move(struct session *s, enum session_state to, struct effects *out, const char *why)
{
	sm_move(&session_machine, &s->state, to, out, (struct slice){s->name, strlen(s->name)}, why);
}

void session_fini(struct session *s)
{
	mem_free(s->outcomes);
	s->outcomes = NULL;
}

enum frame_error session_check_hello(const struct frame *f, const char **why)
{
	assert(f && why);
	*why = "";
	if (f->kind != FRAME_HELLO) {
		*why = "the first frame must be hello";
		return FERR_BAD_FRAME;
	}
	if (f->hello.v != 1 && (f->hello.v != -1 || f->problem == FRAME_PROBLEM_NONE)) {
		*why = "this daemon speaks version 1";
		return FERR_BAD_VERSION;
	}
	if (f->problem == FRAME_PROBLEM_LIMIT) {
		*why = "credits must be 0..10000";
		return FERR_BAD_HELLO;
	}
	if (f->problem != FRAME_PROBLEM_NONE) {
		*why = f->bad_field ? f->bad_field : "a field is missing or of the wrong type";
		return FERR_BAD_HELLO;
	}
	if (f->hello.name.len == 0) {
		*why = "name: must not be empty";
		return FERR_BAD_HELLO;
	}
	return FERR_N;
}

/* The ring grows up to twice the credits, so that everything in work may be asked for again. */
static void ring_fit(struct session *s, uint32_t credits)
{
	uint32_t want = credits * 2 > SESSION_OUTCOMES_MIN ? credits * 2 : SESSION_OUTCOMES_MIN;
	if (s->n_outcomes >= want)
		return;
	s->outcomes = mem_grow(s->outcomes, want, sizeof *s->outcomes);
	memset(s->outcomes + s->n_outcomes, 0, (want - s->n_outcomes) * sizeof *s->outcomes);
	s->next_outcome = s->n_outcomes;
	s->n_outcomes = want;
}

void session_remember(struct session *s, uint32_t credits, struct session_outcome o)
{
	assert(o.outcome <= GONE_WAITS && !o.used);
	if (s->next_outcome >= s->n_outcomes)
		s->next_outcome = 0;
	if (s->n_outcomes == 0 || s->outcomes[s->next_outcome].used)
		ring_fit(s, credits);
	o.used = true;
	s->outcomes[s->next_outcome++] = o;
}

struct session_outcome *session_recall(const struct session *s, uint64_t service, struct entry_id id)
{
	for (uint32_t k = 0; k < s->n_outcomes; k++) { /* newest first */
		uint32_t i = (s->next_outcome + s->n_outcomes - 1 - k) % s->n_outcomes;
		struct session_outcome *o = &s->outcomes[i];
		if (o->used && o->service == service && entry_id_cmp(o->id, id) == 0)
			return o;
	}
	return NULL;
}

int session_lease_format(char out[SESSION_LEASE_CAP], struct entry_id id, uint64_t service_hash)
{
	size_t n = digits_put(out, id.ms, 0);
	out[n++] = '-';
	n += digits_put(out + n, id.seq, 0);
	out[n++] = '.';
	n += digits_put_hex(out + n, service_hash);
	out[n] = '\0';
	return (int)n;
}

static const char mark[] = ".e";
enum { MARK_LEN = sizeof mark - 1 };

int session_lease_mark(char out[SESSION_LEASE_CAP], int n)
{
	memcpy(out + n, mark, sizeof mark);
	return n + MARK_LEN;
}

bool session_lease_is_marked(struct slice lease)
{
	return lease.len > MARK_LEN && memcmp(lease.p + lease.len - MARK_LEN, mark, MARK_LEN) == 0;
}

/* Ids are Unix milliseconds, unless a producer names its own: then micro- and nanoseconds are seen. All are brought to
 * nanoseconds, so that tokens keep rising, from the year 1970 to 2262, whatever unit comes after which. A sequence
 * number that nothing has counted to would lift the token above all that come after it, so it is left out. */
int session_token_format(char out[SESSION_TOKEN_CAP], struct entry_id id)
{
	const unsigned __int128 most = (unsigned __int128)10000000000000000000ULL - 1; /* 19 digits */
	const uint64_t scale = id.ms < SESSION_ID_US ? 1000000 : id.ms < SESSION_ID_NS ? 1000 : 1;
	unsigned __int128 token = (unsigned __int128)id.ms * scale + (id.seq < SESSION_ID_SEQ ? id.seq : scale - 1);
	if (token > most)
		token = most;
	size_t n = digits_put(out, (uint64_t)token, 19);
	out[n] = '\0';
	return (int)n;
}

static bool session_parse_u64(const char **p, const char *end, unsigned base, uint64_t *out)
{
	uint64_t v = 0;
	const char *start = *p;
	for (; *p < end; (*p)++) {
		unsigned d;
		if (**p >= '0' && **p <= '9')
			d = (unsigned)(**p - '0');
		else if (base == 16 && **p >= 'a' && **p <= 'f')
			d = (unsigned)(**p - 'a' + 10);
		else
			break;
		if (v > (UINT64_MAX - d) / base)
			return false;
		v = v * base + d;
	}
	*out = v;
	return *p > start;
}

bool session_lease_parse(struct slice lease, struct entry_id *id, uint64_t *service_hash)
{
	if (!lease.p)
		return false;
	const char *p = lease.p, *end = lease.p + lease.len - (session_lease_is_marked(lease) ? MARK_LEN : 0);
	if (!session_parse_u64(&p, end, 10, &id->ms) || p == end || *p++ != '-')
		return false;
	if (!session_parse_u64(&p, end, 10, &id->seq) || p == end || *p++ != '.')
		return false;
	return session_parse_u64(&p, end, 16, service_hash) && p == end;
}

mono_ms session_deadline(const struct session *s, mono_ms ping_ms)
{
	assert(ping_ms > 0);
	if (s->state != SESSION_READY)
		return s->deadline;
	return mono_min(s->deadline, mono_min(s->last_ping + ping_ms, s->last_heard + 3 * ping_ms + 1));
}
