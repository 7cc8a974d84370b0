#include "lib/redis_rig.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

enum { UNTIL_MS = 10000 };

static void tell(struct rig *r, const char *line)
{
	buf_str(&r->story, line);
	buf_str(&r->story, "\n");
	void (*fn)(struct rig *, const char *) = r->on_next_event;
	r->on_next_event = NULL;
	if (fn)
		fn(r, line);
	if (r->until && strstr(r->story.data, r->until))
		loop_stop(r->loop);
}

static void reply_text(struct buf *out, const redisReply *reply)
{
	if (!reply)
		buf_str(out, "NULL");
	else if (reply->type == REDIS_REPLY_ERROR)
		buf_printf(out, "-%s", reply->str);
	else if (reply->type == REDIS_REPLY_STATUS)
		buf_printf(out, "+%s", reply->str);
	else if (reply->type == REDIS_REPLY_INTEGER)
		buf_printf(out, ":%lld", reply->integer);
	else if (reply->str && reply->len > 64)
		buf_printf(out, "(%zu bytes)", reply->len);
	else if (reply->str)
		buf_printf(out, "%s", reply->str);
	else if (reply->type == REDIS_REPLY_NIL)
		buf_str(out, "nil");
	else
		buf_printf(out, "[%zu]", reply->elements);
}

static void on_up(void *arg, struct redis_conn *c)
{
	(void)c;
	tell(arg, "up");
}

static void on_down(void *arg, struct redis_conn *c, const struct err *why, bool was_up)
{
	(void)c;
	char line[700];
	snprintf(line, sizeof(line), "down%s: %s", was_up ? " up" : "", why->text);
	tell(arg, line);
}

static void on_push(void *arg, struct redis_conn *c, const redisReply *reply)
{
	(void)c;
	struct buf b;
	buf_init(&b);
	buf_str(&b, "push");
	for (size_t i = 0; i < reply->elements; i++) {
		buf_str(&b, " ");
		reply_text(&b, reply->element[i]);
	}
	tell(arg, b.data);
	buf_fini(&b);
}

static void on_reply(void *arg, uint64_t tag, const redisReply *reply)
{
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "reply %llu ", (unsigned long long)tag);
	reply_text(&b, reply);
	tell(arg, b.data);
	buf_fini(&b);
}

static void on_deadline(void *arg, mono_ms now)
{
	(void)now;
	struct rig *r = arg;
	r->has_timed_out = true;
	loop_stop(r->loop);
}

void rig_init(struct rig *r)
{
	alarm(60);
	*r = (struct rig){.opts = {.times = {.connect_ms = 2000, .backoff_initial_ms = 10, .backoff_max_ms = 40}}};
	buf_init(&r->story);
	buf_str(&r->story, "");
	r->loop = loop_new("test", on_deadline, r);
}

void rig_serve(struct rig *r, const char *const *scripts)
{
	r->server = resp_server_start(scripts, NULL);
	r->opts.addr = (struct redis_addr){.host = "127.0.0.1", .port = resp_server_port(r->server)};
}

void rig_open(struct rig *r)
{
	struct redis_events ev = {.on_up = on_up, .on_down = on_down, .on_push = on_push};
	r->c = redis_open(loop_uv(r->loop), &r->opts, &ev, on_reply, r);
}

void rig_send(struct rig *r, uint64_t tag, const char *words, mono_ms timeout_ms)
{
	char copy[1024];
	snprintf(copy, sizeof(copy), "%s", words);
	const char *argv[32];
	size_t len[32];
	int n = 0;
	char *save = NULL;
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		argv[n] = w;
		len[n++] = strlen(w);
	}
	redis_send(r->c, tag, n, argv, len, timeout_ms ? mono_now() + timeout_ms : MONO_NEVER);
}

bool rig_until(struct rig *r, const char *text)
{
	if (r->story.data && strstr(r->story.data, text))
		return true;
	r->until = text;
	r->has_timed_out = false;
	loop_wake_at(r->loop, mono_now() + UNTIL_MS);
	loop_run(r->loop);
	loop_wake_at(r->loop, MONO_NEVER);
	r->until = NULL;
	if (r->has_timed_out)
		fprintf(stderr, "waited for \"%s\"; the story so far:\n%s", text, r->story.data ? r->story.data : "");
	return !r->has_timed_out;
}

void rig_run_for(struct rig *r, mono_ms ms)
{
	r->until = NULL;
	loop_wake_at(r->loop, mono_now() + ms);
	loop_run(r->loop);
}

int rig_count(const struct rig *r, const char *text)
{
	int n = 0;
	for (const char *p = r->story.data; p && (p = strstr(p, text)); p++)
		n++;
	return n;
}

void rig_fini(struct rig *r)
{
	if (r->c)
		redis_close(r->c, true);
	loop_free(r->loop);
	if (r->server)
		resp_server_stop(r->server);
	buf_fini(&r->story);
}
