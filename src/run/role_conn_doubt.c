/* role_conn_doubt - connections that cannot be believed: answers have shifted, or it leads to another server than those
 * beside it, because the address has changed hands while some of them were up. */
#include "base/fnv.h"
#include "base/log.h"
#include "codec/reply.h"
#include "run/role_conn_p.h"

enum { UNALIGNED_AGAIN_MS = 60000, DIFFER_AGAIN_MS = 60000 };

/* ---- answers */

/* Something on the way has left an answer out, or added one: those behind it are taken for other commands' answers,
 * and only those of another shape show it. When it happens soon again, it is how that server answers. */
void role_conn_drop_unaligned(struct role_link *lc, const redisReply *r, struct reply *reply)
{
	struct role_conn *l = lc->rconn;
	if (!r || r->type == REDIS_REPLY_ERROR || reply->kind != REPLY_ERROR || !l || lc != l->cur)
		return;
	mono_ms now = mono_now();
	if (l->dropped_at && now < l->dropped_at + UNALIGNED_AGAIN_MS)
		return;
	l->dropped_at = now;
	*reply = (struct reply){.kind = REPLY_NONE};
	redis_redial(lc->conn, NULL, "an answer of unknown shape: what follows it may answer other commands");
}

/* ---- servers */

static void ask_server(struct role_conn *l)
{
	struct role_link *lc = l->cur;
	if (!lc || l->role == CONN_SUBSCRIBER || lc->server.is_asked || !redis_is_up(lc->conn))
		return;
	lc->server.is_asked = true;
	struct cmd cmd = {.kind = CMD_RUN_ID, .svc = SERVICE_NONE};
	mono_ms now = mono_now(), deadline = now + l->own_ms + role_conn_timeout(l->ls, l, now); /* behind a BLOCK */
	role_link_send(lc, &cmd, (struct inflight){.kind = CMD_RUN_ID, .svc = SERVICE_NONE, .is_own = true}, deadline);
}

void role_conn_doubt_server(struct role_link *lc)
{
	struct role_conns *ls = lc->ls;
	lc->server.up_at = mono_now();
	if (!lc->server.was_up)
		return; /* all begin together */
	for (struct role_conn *l = role_conn_first(ls); l; l = role_conn_after(ls, l))
		ask_server(l);
}

/* A planned move takes them to another server one by one. */
static bool is_moving(struct role_conns *ls)
{
	for (struct role_conn *l = role_conn_first(ls); l; l = role_conn_after(ls, l))
		if (l->next || l->old)
			return true;
	return false;
}

static void say_differ(struct role_conns *ls, mono_ms now)
{
	if (ls->differ_said_at && now < ls->differ_said_at + DIFFER_AGAIN_MS)
		return;
	ls->differ_said_at = now;
	log_line(LOG_WARN,
		"shard=%u redis=%s leads to different servers at a time: they must be one database, or work stands "
		"still",
		ls->o.index, ls->addr);
}

/* The older of the two is made anew. With the commands' connection goes the subscriber, which is not asked: unless it
 * came up behind the newer one, it may lead to the server of before. */
static void leave_stale(struct role_conns *ls, struct role_link *a, struct role_link *b, mono_ms now)
{
	static const char why[] = "its address leads to another server now";
	struct role_link *stale = a->server.up_at < b->server.up_at ? a : b, *newer = stale == a ? b : a;
	if (stale->server.anew_at && now < stale->server.anew_at + DIFFER_AGAIN_MS) { /* that did not help */
		say_differ(ls, now);
		return;
	}
	stale->server.anew_at = now;
	struct role_link *sub = ls->subscriber.cur;
	if (stale == ls->command.cur && sub && redis_is_up(sub->conn) && sub->server.up_at <= newer->server.up_at)
		redis_redial(sub->conn, NULL, why);
	redis_redial(stale->conn, NULL, why);
}

void role_conn_on_server(struct role_link *lc, const redisReply *r)
{
	struct role_conns *ls = lc->ls;
	struct reply reply;
	reply_decode(ls->decoder, CMD_RUN_ID, r, &reply);
	if (reply.kind != REPLY_TEXT || !lc->rconn || lc != lc->rconn->cur || !redis_is_up(lc->conn))
		return;
	lc->server.id = fnv(reply.text.p, reply.text.len);
	if (is_moving(ls))
		return;
	mono_ms now = mono_now();
	for (struct role_conn *l = role_conn_first(ls); l; l = role_conn_after(ls, l)) {
		struct role_link *other = l->cur;
		if (!other || other == lc || !other->server.id || other->server.id == lc->server.id)
			continue;
		leave_stale(ls, lc, other, now);
		if (!redis_is_up(lc->conn))
			return; /* it was the stale one */
	}
}
