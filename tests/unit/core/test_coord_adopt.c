/* A session goes on in the next process: what its worker holds was left pending for us, and the worker hears nothing but pings. */
#include "core/coord/coord_p.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

enum { T = 10000, SESSION = 7 };

static struct coord *c;
static struct effects out;
static mono_ms now;
static char story[4096];
static uint64_t handles[8];
static size_t n_handles;
static struct slice leases[4];
static char lease_text[4][SESSION_LEASE_CAP];
static struct entry_id ids[] = {{5, 1}, {6, 0}};

static void say(const char *fmt, const char *what, struct slice lease)
{
	size_t n = strlen(story);
	snprintf(story + n, sizeof story - n, fmt, what, (int)lease.len, lease.p ? lease.p : "");
}

static void look(const struct effect *ef)
{
	static const char *const frames[] = {"welcome", "assign", "ok", "revoke", "drain", "ping", "pong", "err"};
	if (ef->kind == EFF_FRAME)
		say("%s %.*s\n", frames[ef->frame.kind], ef->frame.lease);
	else if (ef->kind == EFF_CLOSE)
		say("%s%.*s\n", "close", (struct slice){0});
	else if (ef->kind == EFF_MSG && ef->msg.kind == MSG_LEASE_ACQUIRE)
		handles[n_handles++] = ef->msg.handle;
	else if (ef->kind == EFF_MSG && ef->msg.kind == MSG_OP && ef->msg.op.kind != CMD_BACK)
		say("%s%.*s\n", "op", (struct slice){0});
}

static mono_ms step(struct coord_event ev)
{
	ev.now = now;
	mono_ms at = coord_step(c, &ev, &out);
	for (size_t i = 0; i < out.n; i++)
		look(&out.v[i]);
	effects_clear(&out);
	return at;
}

static void send(struct msg m)
{
	step((struct coord_event){.kind = COORD_MSG, .msg = &m});
}

static struct service_rules *service(void)
{
	struct service_rules *r = mem_alloc(sizeof *r);
	*r = (struct service_rules){.svc = 1,
		.same_stream = SAME_STREAM_SERIALIZE,
		.read_batch = 10,
		.max_streams = 10,
		.lease.ttl_ms = T,
		.lease.renew_ms = T / 3,
		.lease.stop_margin_ms = T / 5,
		.hash = 0xff,
		.name = "orders"};
	atomic_init(&r->refs, 1);
	return r;
}

static void up(void)
{
	now = 1000;
	n_handles = 0;
	effects_init(&out);
	c = coord_new(&(struct coord_rules){.max_sessions = 10,
		.max_frame_bytes = 4096,
		.hello_timeout_ms = 1000,
		.resume_grace_ms = 5000,
		.topology_refresh_ms = 30000,
		.seed = 1});
	struct service_rules *rules[] = {service()};
	step((struct coord_event){.kind = COORD_SERVICES, .services = rules, .n = 1});
	step((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"h:1", 3}});
	for (size_t i = 0; i < 2; i++)
		leases[i] = (struct slice){lease_text[i], (size_t)session_lease_format(lease_text[i], ids[i], 0xff)};
	story[0] = '\0';
}

static void down(void)
{
	coord_free(c);
	effects_fini(&out);
}

/* The former process left n entries pending, with its lock or without. */
static void own(size_t n, bool is_locked)
{
	struct entry_batch *b = mem_alloc(sizeof *b + n * sizeof b->v[0]);
	b->n = n;
	for (size_t i = 0; i < n; i++)
		b->v[i] = (struct entry_in){
			.id = ids[i], .stream = text_new(i ? "b" : "a", 1), .info = text_new("{}", 2)};
	send((struct msg){.kind = MSG_ENTRIES,
		.svc = 1,
		.entries.source = SOURCE_OWN,
		.entries.is_last = true,
		.entries.batch = b});
	for (size_t i = 0; i < n; i++)
		send((struct msg){.kind = MSG_LEASE,
			.svc = 1,
			.handle = handles[i],
			.lease.result = LEASE_IS_HELD,
			.lease.was_ours = is_locked,
			.lease.good_until = now + T});
}

static void adopt(size_t n_leases, mono_ms until, bool allowed)
{
	struct frame f = {.kind = FRAME_HELLO,
		.hello.v = 1,
		.credits = 3,
		.hello.name = {"w", 1},
		.hello.resume = leases,
		.hello.n_resume = n_leases};
	step((struct coord_event){.kind = COORD_ADOPT,
		.session = SESSION,
		.pid = 1,
		.flag = allowed,
		.frame = &f,
		.until = until,
		.n = 4,
		.text = {"0123456789abcdef0123456789abcdef", 32}});
}

static void frame(struct frame f)
{
	step((struct coord_event){.kind = COORD_FRAME, .session = SESSION, .frame = &f});
}

static void expect(const char *want)
{
	cr_assert_str_eq(story, want);
	story[0] = '\0';
}

Test(coord_adopt, it_keeps_what_it_has_and_hears_a_ping, .init = up, .fini = down)
{
	own(2, true);
	cr_assert(coord_knows_own(c));
	adopt(2, now + 5000, true);
	const struct worker *m = workers_find(&c->workers, SESSION);
	cr_assert(m && m->s.state == SESSION_READY && m->credit_holder.in_use == 2 && m->credit_holder.credits == 3);
	cr_assert_eq(c->ledger.n_state[ENTRY_ASSIGNED], 2u);
	cr_assert(worker_can_go_on(c, m), "and may go on once more");
	expect("");
	step((struct coord_event){.kind = COORD_TICK});
	expect("ping \n");
	cr_assert_eq(m->s.n_pings, 5);
	cr_assert_eq(m->s.told_until, now + T - 500);
	frame((struct frame){.kind = FRAME_DONE, .lease = leases[0]});
	expect("op\n");
	cr_assert_not(worker_can_go_on(c, m), "it waits for its ok");
}

Test(coord_adopt, what_is_not_ours_any_more_is_revoked, .init = up, .fini = down)
{
	own(1, true);
	adopt(2, now + 5000, true);
	expect("revoke 6-0.00000000000000ff\n");
	const struct worker *m = workers_find(&c->workers, SESSION);
	cr_assert_eq(m->credit_holder.in_use, 2u, "its credit comes back with its answer");
	cr_assert_not(worker_can_go_on(c, m));
	frame((struct frame){.kind = FRAME_REVOKED, .lease = leases[1]});
	cr_assert_eq(m->credit_holder.in_use, 1u);
	frame((struct frame){.kind = FRAME_DONE, .lease = leases[0]});
	cr_assert_eq(m->credit_holder.in_use, 0u);
}

Test(coord_adopt, a_lock_that_was_missing_is_no_lease, .init = up, .fini = down)
{
	own(1, false);
	expect("op\n"); /* it goes back at once */
	adopt(1, now + 5000, true);
	expect("revoke 5-1.00000000000000ff\n");
}

Test(coord_adopt, too_early_or_too_late_it_is_closed, .init = up, .fini = down)
{
	adopt(1, now + 5000, true);
	expect("close\n");
	cr_assert_null(workers_find(&c->workers, SESSION));
	own(1, true);
	adopt(1, now, true);
	expect("close\n");
	cr_assert_eq(c->ledger.n_state[ENTRY_LIMBO], 1u, "it may come back and say what it has");
	adopt(0, now + 5000, false);
	expect("close\n");
	cr_assert_eq(c->workers.n, 0u);
	adopt(0, now - 1, true);
	expect("");
	cr_assert_eq(c->workers.n, 1u);
}

Test(coord_adopt, garbage_for_a_lease_is_passed_over, .init = up, .fini = down)
{
	own(1, true);
	static char longest[100] = "5-1.ff";
	leases[0] = (struct slice){"x", 1};
	leases[1] = (struct slice){longest, sizeof longest};
	leases[2] = (struct slice){"5-1.ee", 6}; /* of a service that is not there */
	adopt(3, now + 5000, true);
	expect("revoke 5-1.ee\n");
	cr_assert_eq(workers_find(&c->workers, SESSION)->credit_holder.in_use, 0u);
}
