/* What is held. The only place that decides when work is to stop by itself (the fence), what the daemon is told at the
 * end, and how often: an answer is told again after each reconnect until it is confirmed. */
#include "client/client_p.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "core/cmd.h"

enum { SAY_AGAIN_MS = 1000, FENCE_STOP_MIN_MS = 20, LEASE_REASON_MAX = 1024 };

struct client_lease *client_lease_find(const struct sluice_worker *w, const char *name)
{
	if (w->leases.recent && w->leases.recent->name == name) /* the one that an event has named */
		return w->leases.recent;
	return map_get(&w->leases.by_name, name, strlen(name));
}

static void client_lease_schedule(struct sluice_worker *w, struct client_lease *l)
{
	heap_set(&w->leases.turns, &l->turn,
		l->state == LEASE_WORKS || l->state == LEASE_STOPS ? l->fence_ms : MONO_NEVER);
}

/* A tenth of the lease is kept for stopping, and no more than a quarter of what is left when the daemon's word is
 * short. */
void client_lease_until(struct sluice_worker *w, struct client_lease *l, mono_ms until_ms)
{
	l->until_ms = until_ms;
	l->fence_ms = l->stop_ms = MONO_NEVER;
	if (until_ms != MONO_NEVER) {
		mono_ms lead = mono_max(0, mono_min(w->leases.lease_ms / 10, (until_ms - w->now) / 4));
		l->fence_ms = until_ms - lead;
		l->stop_ms = until_ms - mono_min(lead, mono_max(FENCE_STOP_MIN_MS, lead / 10));
	}
	if (l->shared) { /* who was told to stop gets no more time */
		l->shared->stop_ms = l->state == LEASE_WORKS ? l->stop_ms : mono_min(l->shared->stop_ms, l->stop_ms);
		l->shared->term_ms = l->fence_ms;
	}
	if (l->state != LEASE_SAYS)
		client_lease_schedule(w, l);
}

void client_lease_share(struct client_lease *l, struct client_fence *fence)
{
	l->shared = fence;
	if (!fence)
		return;
	fence->stop_ms = l->stop_ms;
	fence->term_ms = l->fence_ms;
}

struct client_lease *client_lease_new(struct sluice_worker *w, const char *name, mono_ms until_ms)
{
	struct client_lease *l = mem_alloc(sizeof(*l));
	*l = (struct client_lease){.state = LEASE_WORKS, .name = mem_dup(name, strlen(name))};
	list_init(&l->news);
	buf_init(&l->answer);
	map_put(&w->leases.by_name, l->name, strlen(l->name), l);
	w->leases.recent = l;
	client_lease_until(w, l, until_ms);
	return l;
}

void client_lease_free(struct sluice_worker *w, struct client_lease *l)
{
	heap_remove(&w->leases.turns, &l->turn);
	list_remove(&l->news);
	w->leases.recent = NULL;
	if (client_lease_find(w, l->name) == l)
		map_remove(&w->leases.by_name, l->name, strlen(l->name));
	buf_fini(&l->answer);
	mem_free(l->name);
	mem_free(l);
}

void client_lease_lose(struct sluice_worker *w, struct client_lease *l, bool is_ended)
{
	if (l->state == LEASE_SAYS) {
		client_lease_free(w, l);
		return;
	}
	if (l->state == LEASE_GONE)
		return;
	l->state = LEASE_GONE;
	l->is_ended_news = is_ended;
	client_lease_schedule(w, l);
	list_push(&w->leases.news, &l->news);
}

void client_lease_resumed(struct sluice_worker *w, struct client_lease *l)
{
	if (!l->has_entries)
		return;
	if (l->is_void) /* the nack is lost, or was heard: what comes is the continuation, either way */
		l->taken = l->done;
	l->is_void = false;
	char id[COMMAND_ID_CAP];
	command_id_format(id, l->done);
	if (l->done.ms || l->done.seq) {
		struct buf b;
		client_frame_begin(&b, "ack", l->name);
		buf_printf(&b, ",\"id\":\"%s\"}\n", id);
		client_send(w, b.data, b.len);
		buf_fini(&b);
	}
}

/* The fence of one that works, or an answer's next try. */
static bool client_lease_turn(struct sluice_worker *w, struct client_lease *l, struct sluice_event *e)
{
	if (l->state == LEASE_SAYS) {
		heap_set(&w->leases.turns, &l->turn, MONO_NEVER);
		client_lease_tell(w, l);
		return false;
	}
	heap_set(&w->leases.turns, &l->turn, MONO_NEVER);
	l->state = LEASE_STOPS;
	*e = (struct sluice_event){
		.type = SLUICE_STOP, .lease = l->name, .user = l->user, .reason = "fence", .by_ms = l->stop_ms};
	return true;
}

bool client_lease_news(struct sluice_worker *w, struct sluice_event *e)
{
	for (struct heap_node *top; (top = heap_due(&w->leases.turns, w->now));)
		if (client_lease_turn(w, HEAP_OF(struct client_lease, turn, top), e))
			return true;
	struct link *first = list_pop(&w->leases.news);
	if (!first)
		return false;
	struct client_lease *l = LIST_OF(struct client_lease, news, first);
	*e = (struct sluice_event){
		.type = l->is_ended_news ? SLUICE_ENDED : SLUICE_GONE, .lease = l->name, .user = l->user};
	return true;
}

/* ---- what the program says */

void client_frame_begin(struct buf *b, const char *type, const char *lease)
{
	buf_init(b);
	buf_str(b, "{\"t\":\"");
	buf_str(b, type);
	buf_str(b, "\",\"lease\":");
	buf_json_str(b, lease, strlen(lease));
}

static void frame_add_reason(struct buf *b, const char *key, const char *text)
{
	if (!text)
		return;
	size_t len = strnlen(text, LEASE_REASON_MAX);
	while (len == LEASE_REASON_MAX && text[len] && len > LEASE_REASON_MAX - 4 &&
		((unsigned char)text[len] & 0xc0) == 0x80)
		len--; /* not within a character */
	buf_printf(b, ",\"%s\":", key);
	buf_json_str(b, text, len);
}

static void frame_add_how(struct buf *b, bool dead, int64_t retry_ms)
{
	if (dead)
		buf_str(b, ",\"dead\":true");
	if (retry_ms >= 0)
		buf_printf(b, ",\"retry_ms\":%lld", (long long)mono_min(retry_ms, FRAME_RETRY_MS_MAX));
}

void client_lease_tell(struct sluice_worker *w, struct client_lease *l)
{
	assert(l->state == LEASE_SAYS);
	if (w->conn.state != CLIENT_UP || !client_send(w, l->answer.data, l->answer.len))
		return;
	if (!l->waits_for_ok)
		client_lease_free(w, l);
}

/* Takes the frame, which has its end yet to come. One that is gone is forgotten instead. */
static void client_lease_answer(struct sluice_worker *w, struct client_lease *l, struct buf *frame, bool waits_for_ok)
{
	if (l->state == LEASE_GONE) {
		buf_fini(frame);
		client_lease_free(w, l);
		return;
	}
	buf_str(frame, "}\n");
	l->answer = *frame;
	l->waits_for_ok = waits_for_ok;
	l->state = LEASE_SAYS;
	client_lease_schedule(w, l);
	client_lease_tell(w, l);
}

/* One that can be answered, and its frame begun. */
static struct client_lease *answer_begin(struct sluice_worker *w, const char *lease, const char *type, struct buf *b)
{
	struct client_lease *l = client_lease_find(w, lease);
	if (!l || l->state == LEASE_SAYS)
		return NULL;
	client_frame_begin(b, type, lease);
	return l;
}

void sluice_worker_done(struct sluice_worker *w, const char *lease)
{
	struct buf b;
	struct client_lease *l = answer_begin(w, lease, "done", &b);
	if (l)
		client_lease_answer(w, l, &b, true);
}

void sluice_worker_fail(struct sluice_worker *w, const char *lease, const char *reason, bool dead, int64_t retry_ms)
{
	struct buf b;
	struct client_lease *l = answer_begin(w, lease, "fail", &b);
	if (!l)
		return;
	frame_add_reason(&b, "reason", reason);
	frame_add_how(&b, dead, retry_ms);
	client_lease_answer(w, l, &b, true);
}

void sluice_worker_release(struct sluice_worker *w, const char *lease, int64_t retry_ms)
{
	struct buf b;
	struct client_lease *l = answer_begin(w, lease, "release", &b);
	if (!l)
		return;
	frame_add_how(&b, false, retry_ms);
	client_lease_answer(w, l, &b, true);
}

void sluice_worker_revoked(struct sluice_worker *w, const char *lease)
{
	struct buf b;
	struct client_lease *l = answer_begin(w, lease, "revoked", &b);
	if (l)
		client_lease_answer(w, l, &b, false);
}

void sluice_worker_progress(struct sluice_worker *w, const char *lease, const char *note)
{
	struct buf b;
	struct client_lease *l = answer_begin(w, lease, "progress", &b);
	if (!l)
		return;
	frame_add_reason(&b, "note", note);
	buf_str(&b, "}\n");
	if (w->conn.state == CLIENT_UP && l->state != LEASE_GONE)
		client_send(w, b.data, b.len);
	buf_fini(&b);
}

/* A lease in entries mode that works, and an id among those it was given. */
static struct client_lease *entries_lease(
	struct sluice_worker *w, const char *lease, const char *text, struct entry_id *id)
{
	struct client_lease *l = client_lease_find(w, lease);
	if (!l || !l->has_entries || l->is_void || l->state == LEASE_SAYS || l->state == LEASE_GONE)
		return NULL;
	bool is_given = command_id_parse(text, strlen(text), id) && entry_id_cmp(*id, l->taken) <= 0 &&
			entry_id_cmp(*id, l->done) > 0;
	return is_given ? l : NULL;
}

void sluice_worker_ack(struct sluice_worker *w, const char *lease, const char *id)
{
	struct entry_id parsed;
	struct client_lease *l = entries_lease(w, lease, id, &parsed);
	if (!l)
		return;
	l->done = parsed;
	if (w->conn.state != CLIENT_UP)
		return;
	struct buf b;
	client_frame_begin(&b, "ack", l->name);
	buf_printf(&b, ",\"id\":\"%s\"}\n", id);
	client_send(w, b.data, b.len);
	buf_fini(&b);
}

void sluice_worker_nack(
	struct sluice_worker *w, const char *lease, const char *id, const char *reason, bool dead, int64_t retry_ms)
{
	struct entry_id parsed;
	struct client_lease *l = entries_lease(w, lease, id, &parsed);
	if (!l)
		return;
	struct buf b;
	client_frame_begin(&b, "nack", l->name);
	buf_printf(&b, ",\"id\":\"%s\"", id);
	frame_add_reason(&b, "reason", reason);
	frame_add_how(&b, dead, retry_ms);
	buf_str(&b, "}\n");
	if (w->conn.state == CLIENT_UP)
		client_send(w, b.data, b.len);
	buf_fini(&b);
	l->is_void = true;
	l->taken = l->done;
}
