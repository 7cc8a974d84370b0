/* script - the Lua that runs inside Redis: what must happen as one step on a lock or on the load-balancer stream (LBS).
 * Any thread. Redis 6.2 and later, Valkey; standalone and cluster: every key is in KEYS, all keys of one script
 * share a slot.
 *
 * Scripts do not roll back, so each first asks, then does the one thing that can be refused (XADD, or the first write),
 * and only then XACK and XDEL, which are never refused. Errors of the server come back as they are, with nothing
 * changed. */
#pragma once

enum script {
	SCRIPT_SWAP, /* KEYS lock; ARGV expected, value, ttl_ms -> ms it lasts now: never less than it would have | 0 */
	SCRIPT_UNLOCK, /* KEYS lock; ARGV value -> 1 | 0 */
	/* KEYS lbs, registry, delayed, delayed-data, parked; ARGV group, id, consumer ("" = anybody's), stream,
	 * same_stream ("" = allow, "serialize", "coalesce"), …; with "" take, done, requeue and dead go without the
	 * keys between the first and the last */
	/* …, "1" = only look -> 1 taken; 2 it waits for its stream (parked), pending for nobody; 4 merged into the
	 * stream's wish, gone; 0 gone. Only look: changes nothing of an entry that would have to wait, -> 2 */
	SCRIPT_TAKE,
	/* KEYS as take; ARGV group, lowest id, consumer, "", same_stream, "", highest id, "", and id, stream of each ->
	 * {what take answers for each, or its error} */
	SCRIPT_TAKE_MANY,
	/* …, count, budget -> {waiting or merged, entries}: reads like XREADGROUP >, at most count entries whose stream
	 * nobody runs; those of running streams, up to the budget, are put to wait at once */
	SCRIPT_SIFT,
	/* …, heir ("" = nobody) [, value] -> 1 | 0 | id of the stream's next entry, pending for the heir now. With a
	 * value (standalone only) the last of KEYS is its lock, which goes with it: 3 = done, the lock was not ours */
	SCRIPT_DONE,
	/* as take many; ARGV 6 is the heir, 8 the value of the locks that KEYS end with, or "" -> {what done answers
	 * for each, or its error} */
	SCRIPT_DONE_MANY,
	SCRIPT_REQUEUE, /* …, min_idle_ms, retry -> new id | nil gone | 0 not as expected | 2 deleted */
	/* …, min_idle_ms, retry, delay_ms, why, reason -> 1 | nil gone | 0 not as expected | 2 deleted */
	SCRIPT_LATER,
	/* KEYS … dlq; …, min_idle_ms, max_len, reason, at, node, error -> {1, dead letters trimmed} | 0 | 2 */
	SCRIPT_DEAD,
	/* KEYS dlq; ARGV max_len, "*", name, value, … -> {id, dead letters trimmed} */
	SCRIPT_BURY,
	/* …, limit, position -> {moved, ms until the next is due | -1, delayed, parked, next position, woken,
	 * wanted} */
	SCRIPT_DUE,
	/* …, count, start -> {last that was looked at | "", ids}: from the id on, entries that the group was given and
	 * nobody has; start "$": only {last-delivered-id} */
	SCRIPT_GHOSTS,
	SCRIPT_GHOST_BACK, /* … -> new id | 0: somebody has it, or it waits | nil gone */
	SCRIPT_ADD_LATER,  /* …, delay_ms | "", at Unix ms | "", why, name, value, … -> id it waits under */
	SCRIPT_DELAYED,    /* …, "now" | "drop" -> new id | 1 dropped | 0 not there */
	SCRIPT_LEFT,   /* KEYS left; ARGV "leave" | "back" | "list", consumer -> integer | {consumer, ms ago, …} */
	SCRIPT_FORGET, /* KEYS lbs, left; ARGV group, consumer, idle_ms -> 1 deleted | 0: has entries, or was seen */
	/* KEYS fleet; ARGV consumer, JSON object -> 1: the server's time is in it as "at"; those of an hour ago go */
	SCRIPT_FLEET,
	SCRIPT_UNREAD, /* KEYS lbs; ARGV group -> id of the first entry that is not delivered yet | nil */
	/* KEYS position, stream; ARGV token, start, "alone" | "", "1" | "0", pause (first_ms, factor, max_ms,
	 * permille) -> {position, tries, flags, ms until the next try, its entry | "", entries ever added up to the
	 * position | -1, lost since that was known} | the newer token that has it */
	SCRIPT_FEED_OPEN,
	/* KEYS position [stream]; ARGV token, id, at, minid to trim to or "", check 1 | 0, "id:entries ever added up to
	 * it" or "" -> 1 | 0 | -1 | -2 | -3: see CMD_FEED_ACK */
	SCRIPT_FEED_ACK,
	SCRIPT_FEED_FAIL, /* KEYS position; ARGV token, pause, the tries now -> as open | nil: not our token | -3 */
	/* KEYS position [stream]; ARGV token, keep | unused | done | death | delete, ttl_ms, pause -> 1 | 2 | 0.
	 * unused: a position that says nothing goes as that of done, any other is kept: nothing is before it and no try
	 * was counted, or its stream is not there */
	SCRIPT_FEED_CLOSE,
	/* KEYS position, stream; ARGV ttl_ms, start -> 1 | 0: nothing has to wait for its next try; and where no
	 * position is kept yet and start is "$", it is the stream's present end */
	SCRIPT_FEED_HOLD,
	/* KEYS position, stream; ARGV id, most -> entries behind the id, at most so many; of large ones as many as were
	 * added since, nil where that is not known */
	SCRIPT_FEED_LAG,
	/* KEYS delayed; ARGV score, skip, n -> members and scores from that score on, without the first so many */
	SCRIPT_DELAYED_PAGE,
	SCRIPT_N
};

/* Its source, for EVAL. Static. */
const char *script_text(enum script s);
const char *script_sha(enum script s); /* 40 hexadecimal digits */
