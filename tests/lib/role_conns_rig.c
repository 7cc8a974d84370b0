#include "lib/role_conns_rig.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { UNTIL_MS = 10000, COMMAND_TIMEOUT_MS = 5000, BLOCK_MS = 5000 };

static const char *const roles[CONN_ROLES] = {"command", "reader", "subscriber"};

static void tell(struct role_conns_rig *r, const char *line)
{
	buf_str(&r->story, line);
	buf_add(&r->story, "\n", 2);
	r->story.len--;
	if (r->until && role_conns_rig_count(r, r->until) >= r->n_until)
		loop_stop(r->loop);
}

static void tell_reply(struct role_conns_rig *r, const struct shard_event *ev)
{
	char line[80];
	unsigned long long tag = ev->tag;
	if (ev->reply->kind == REPLY_NONE)
		snprintf(line, sizeof line, "reply %llu NULL", tag);
	else if (ev->reply->kind == REPLY_INT)
		snprintf(line, sizeof line, "reply %llu :%lld", tag, (long long)ev->reply->integer);
	else if (ev->reply->kind == REPLY_ENTRIES)
		snprintf(line, sizeof line, "reply %llu [%zu]", tag, ev->reply->entries ? ev->reply->entries->n : 0);
	else
		snprintf(line, sizeof line, "reply %llu kind=%d", tag, (int)ev->reply->kind);
	if (ev->reply->kind == REPLY_ENTRIES)
		entry_batch_free(ev->reply->entries);
	tell(r, line);
}

static void on_step(void *arg, struct shard_event *ev)
{
	struct role_conns_rig *r = arg;
	char line[300];
	switch (ev->kind) {
	case SHARD_CONN:
		snprintf(line, sizeof line, "%s %s", ev->up ? "up" : "down", roles[ev->role]);
		tell(r, line);
		break;
	case SHARD_REPLY:
		tell_reply(r, ev);
		break;
	case SHARD_EXPIRED:
		snprintf(line, sizeof line, "expired %.*s", (int)ev->stream.len, ev->stream.p);
		tell(r, line);
		break;
	case SHARD_MSG:
		tell(r, "hurry");
		break;
	case SHARD_CHANGED:
		snprintf(line, sizeof line, "changed %.*s", (int)ev->stream.len, ev->stream.p ? ev->stream.p : "");
		tell(r, line);
		break;
	case SHARD_PUSHED:
	case SHARD_TICK:
		break;
	}
}

static void on_msg(void *arg, const struct msg *m)
{
	char line[40];
	snprintf(line, sizeof line, "refresh %lld", (long long)m->refresh.seq);
	text_unref(m->refresh.why);
	tell(arg, line);
}

static const struct command_names *names_of(void *arg, uint16_t svc)
{
	struct role_conns_rig *r = arg;
	return svc == SERVICE_NONE ? NULL : &r->names;
}

static void wake(void *arg)
{
	struct role_conns_rig *r = arg;
	loop_wake_at(r->loop, mono_min(r->limit, r->role_conns ? role_conns_deadline(r->role_conns) : MONO_NEVER));
}

static void on_deadline(void *arg, mono_ms now)
{
	struct role_conns_rig *r = arg;
	if (now >= r->limit) {
		r->has_timed_out = true;
		r->limit = MONO_NEVER;
		loop_stop(r->loop);
	}
	role_conns_tick(r->role_conns, now);
	wake(r);
}

void role_conns_rig_init(struct role_conns_rig *r, uint16_t port)
{
	*r = (struct role_conns_rig){.self = {.consumer = "c", .node = "n"}, .limit = MONO_NEVER};
	buf_init(&r->story);
	buf_str(&r->story, "");
	command_names_init(&r->names, "orders", "", SAME_STREAM_SERIALIZE, 0, "0");
	r->loop = loop_new("test", on_deadline, r);
	r->opts = (struct role_conns_opts){.loop = r->loop,
		.redis = {.addr = {.host = "127.0.0.1", .port = port},
			.username = "",
			.password = "",
			.client_name = "",
			.times = {.connect_ms = 5000, .backoff_initial_ms = 10, .backoff_max_ms = 40},
			.maint = REDIS_MAINT_AUTO,
			.maint_endpoint_type = "auto"},
		.rules = {.relaxed_timeout_ms = 10000,
			.relaxed_cap_ms = 60000,
			.post_relaxed_ms = 100,
			.timeout_ms = 5000,
			.max_retries = 3,
			.max_concurrent = 10,
			.breaker_failures = 5,
			.breaker_half_open = 1,
			.breaker_reset_ms = 60000},
		.command_timeout_ms = COMMAND_TIMEOUT_MS,
		.argv = command_argv_new(),
		.self = &r->self,
		.names_of = names_of,
		.step = on_step,
		.to_coord = on_msg,
		.on_deadline = wake,
		.arg = r};
}

void role_conns_rig_start(struct role_conns_rig *r)
{
	r->role_conns = role_conns_new(&r->opts);
}

void role_conns_rig_send(struct role_conns_rig *r, enum conn_role role, enum cmd_kind kind, uint64_t tag)
{
	bool is_reader = role == CONN_READER;
	struct effect ef = {.kind = EFF_REDIS,
		.role = role,
		.svc = is_reader ? 0 : SERVICE_NONE,
		.tag = tag,
		.timeout_ms = COMMAND_TIMEOUT_MS + (is_reader ? BLOCK_MS : 0),
		.cmd = {.kind = kind, .svc = is_reader ? 0 : SERVICE_NONE}};
	if (is_reader)
		ef.cmd.as.read = (struct cmd_read){.count = 1, .block_ms = BLOCK_MS};
	if (!role_conns_send(r->role_conns, &ef, mono_now()))
		tell(r, "no such connection");
}

bool role_conns_rig_until(struct role_conns_rig *r, const char *text, int n)
{
	if (role_conns_rig_count(r, text) >= n)
		return true;
	r->until = text;
	r->n_until = n;
	r->has_timed_out = false;
	r->limit = mono_now() + UNTIL_MS;
	wake(r);
	loop_run(r->loop);
	r->limit = MONO_NEVER;
	r->until = NULL;
	if (r->has_timed_out)
		fprintf(stderr, "waited for %d times \"%s\"; the story so far:\n%s", n, text, r->story.data);
	return !r->has_timed_out;
}

void role_conns_rig_run_for(struct role_conns_rig *r, mono_ms ms)
{
	r->until = NULL;
	r->limit = mono_now() + ms;
	wake(r);
	loop_run(r->loop);
}

int role_conns_rig_count(const struct role_conns_rig *r, const char *text)
{
	int n = 0;
	for (const char *p = r->story.data; (p = strstr(p, text)); p++)
		n++;
	return n;
}

void role_conns_rig_fini(struct role_conns_rig *r)
{
	role_conns_quit(r->role_conns);
	loop_free(r->loop);
	role_conns_free(r->role_conns);
	command_argv_free(r->opts.argv);
	command_names_fini(&r->names);
	buf_fini(&r->story);
}
