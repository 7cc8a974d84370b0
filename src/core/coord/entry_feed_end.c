/* entry_feed_end - entries mode in the coordinator: a shard has given up a feed, because it was told to, or because the
 * stream is not ours, or not the one it was. */
#include "core/coord/coord_p.h"

#include <stdio.h>
#include <string.h>

static void feed_wrong_type(struct coord *c, struct entry *e, bool is_position)
{
	char key[FIELD_VALUE_CAP], words[FIELD_VALUE_CAP + 60] = "the key of its data stream holds another type";
	if (is_position)
		snprintf(words, sizeof words, "the key of its position, %s, holds another type",
			entry_position_shown(e, key));
	text_unref(e->note);
	e->note = text_new(words, strlen(words)); /* a dead letter's _dlq_error */
	entry_dead_letter(c, e, DEAD_WRONG_TYPE);
}

/* Its stream is not the one it was: the worker stops, the next run begins anew. */
static void feed_broken(struct coord *c, struct entry *e, const struct msg_feed *m)
{
	switch ((enum entry_state)e->state) {
	case ENTRY_TAKING:
	case ENTRY_READY:
		if (m->result == FEED_IS_WRONG_TYPE)
			feed_wrong_type(c, e, m->is_position);
		else
			entry_requeue(c, e, WHY_LOST, false);
		break;
	case ENTRY_ASSIGNED:
		entry_revoke(c, e, REVOKE_LOST, REVOKE_GRACE_MS);
		break;
	case ENTRY_LIMBO: /* told when it comes back */
		e->revoke = REVOKE_LOST;
		e->is_revoked = true;
		break;
	case ENTRY_FINISHING:
		entry_send_op(c, e);
		break;
	case ENTRY_REVOKING:
	case ENTRY_FETCHING:
	case ENTRY_LOCKING:
	case ENTRY_BUSY:
	case ENTRY_PARKED:
	case ENTRY_STATES:
		break;
	}
}

/* Somebody with a higher token, newer if it is known, has the position, or there is none any more: the stream is not
 * ours, whatever our lock says. */
static void feed_refused(struct coord *c, struct entry *e, enum lost_reason why, struct entry_id newer)
{
	if (e->state == ENTRY_TAKING || e->state == ENTRY_READY) {
		entry_wait_for_position(c, e, why, newer);
	} else if (e->state == ENTRY_FINISHING) {
		entry_send_op(c, e);
	} else if (!e->is_lost) {
		entry_drop_lease(c, e, MSG_LEASE_FORGET);
		entry_lease_lost(c, e, why);
	}
}

void entry_feed_ended(struct coord *c, struct entry *e, const struct msg *m)
{
	e->feed->state = ENTRY_FEED_NONE;
	switch ((enum feed_result)m->feed.result) {
	case FEED_IS_CLOSED:
		if (e->state == ENTRY_FINISHING)
			entry_send_op(c, e);
		break;
	case FEED_IS_REFUSED:
		feed_refused(c, e, LOST_TAKEN, m->feed.id);
		break;
	case FEED_IS_GONE:
		feed_refused(c, e, LOST_MISSING, (struct entry_id){0});
		break;
	case FEED_IS_REMADE:
	case FEED_IS_WRONG_TYPE:
		feed_broken(c, e, &m->feed);
		break;
	case FEED_IS_OPEN:
	case FEED_HAS_ENTRIES:
	case FEED_HAS_ACKED:
	case FEED_HAS_NACKED:
	case FEED_HAS_BURIED:
	case FEED_BAD_ACK:
	case FEED_IS_CLEARED:
	case FEED_IS_READ:
	case FEED_IS_IDLE:
	case FEED_IS_PUT_OFF:
	case FEED_HAS_LOST:
	case FEED_IS_MOVED:
		break;
	}
}
