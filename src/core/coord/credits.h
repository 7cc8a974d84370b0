/* credits - which session gets which stream, and how much may be read.
 * Pure. Owner: the coordinator's thread. Sums are kept as holders change: a turn costs the same with thousands of
 * sessions. A *reservation* is an entry that was asked for or read and has no worker yet; reservations never exceed
 * free credits when they are granted, so what is read finds a worker. Credits that go away meanwhile leave an entry
 * waiting for a moment (READY). */
#pragma once
#include "base/list.h"
#include "core/rules.h"
#include <stdbool.h>

struct credits_sum { /* of some holders */
	uint32_t free, in_use, credits;
	uint32_t n, n_with; /* holders, and those with credits */
	uint32_t n_lent;    /* of the latter, those that take some service which lends: see is_lending */
};

struct credit_holder {    /* one session's credits */
	struct link ring; /* in credits.holders while it may get work */
	struct link rank; /* likewise among those that take as many services */
	uint64_t session;
	uint32_t credits, in_use;
	bool is_alone;         /* holds a suspect: gets nothing else */
	uint16_t emptying_for; /* position + 1 of the service for whose suspect it runs empty; 0 = none */
	bool all_services;
	bool takes_entries;           /* it knows entries mode: others get no stream of such a service */
	bool wanted[SERVICES_MAX];    /* by position */
	uint16_t n_wanted, n_lending; /* of the wanted: all, and those that lend */
	struct credits_sum counted;   /* what the sums have of it */
};

/* Services that some free credit is for. */
struct credits_rivals {
	uint32_t n;
	uint32_t n_waiting, n_busy; /* not reading, and have room for a read; of these, not known to be empty */
	uint32_t weights;           /* of those with a backlog */
	uint32_t reserved;          /* of all that are on, whether a credit is free for them or not */
};

struct credits_service { /* by position; a position is reused, a service id is not */
	bool is_on;
	bool is_entries; /* entries mode */
	bool is_lending; /* its idle streams may give up credits for others: credits_lend */
	uint16_t svc;
	uint32_t reserved; /* granted to the reader or read, not assigned yet */
	uint32_t granted;  /* part of reservations: asked for by a read that has not answered */
	uint32_t owned;    /* entries this daemon holds, for max_streams */
	uint32_t max_streams, read_batch;
	uint32_t weight; /* its share of free credits when several services want them, beside the others' */
	uint64_t pass;   /* rises with what it reads, slower the more it weighs: the lowest is next */
	bool is_reading; /* a grant is outstanding */
	bool is_paused;
	bool is_away;   /* it cannot be read now */
	bool was_full;  /* the last read brought all it asked for */
	bool was_empty; /* it brought nothing: known to be empty */
	uint32_t round; /* it was looked at in this one, credits.round, while others had work */
	mono_ms granted_at;
	struct credits_rivals counted; /* its part of credits.rivals */
};

/* Who named the service at a position. Sums are by whether they take streams in entries mode, too. */
struct credits_takers {
	struct link only; /* those that named no other */
	struct credits_sum sum[2];
	bool has_emptying; /* some holder may run empty for a suspect of it */
};

struct credits {
	struct link holders;
	struct link several, every; /* those that named more than one service, or none: they take every one */
	struct credits_takers takers[SERVICES_MAX];
	struct credits_sum of_every[2];
	uint32_t n_free;     /* credits of all holders */
	bool has_new_offers; /* holders have come or gone, or have changed what they have altogether */
	struct credits_service service[SERVICES_MAX];
	uint16_t n_services; /* positions in use, with holes */
	uint16_t n_lending;  /* of them, those that lend */
	bool is_draining;
	bool are_rivals_counted; /* from credits_begin_grants on */
	struct credits_rivals rivals;
	uint64_t pass; /* of the service that was granted last: who comes back from a pause starts from here */
	/* Where credits are few, services known to be empty are looked at in rounds: each once, then a pause in which
	 * those that have work come first. */
	uint32_t round;
	mono_ms round_began; /* 0: nobody of it was looked at yet */
	mono_ms round_next;  /* not before */
};
enum { CREDITS_BLOCK_MS = 2000 }; /* a read waits so long for entries, when it keeps no credit from others */

/* Without services and holders. */
void credits_init(struct credits *p);
/* Without credits; session is its number in what is chosen. */
void credit_holder_init(struct credit_holder *s, uint64_t session);
/* It takes the service at position pos, or does not any more. */
void credit_holder_want(struct credits *p, struct credit_holder *s, uint16_t pos, bool is_wanted);
/* What it has altogether; what is in use changes by n; it has a suspect, or not any more. */
void credit_holder_offer(struct credits *p, struct credit_holder *s, uint32_t credits);
void credit_holder_use(struct credits *p, struct credit_holder *s, int n);
void credit_holder_set_alone(struct credits *p, struct credit_holder *s, bool is_alone);
/* A credit holder takes part while its session is ready; .all_services and .takes_entries do not change then. */
void credits_join(struct credits *p, struct credit_holder *s);
/* It gets nothing any more. Again: nothing happens. */
void credits_leave(struct credits *p, struct credit_holder *s);
/* Streams that may be given to it now; 0 while it has a suspect, or runs empty for one. */
static inline uint32_t credit_holder_free(const struct credit_holder *s)
{
	return s->credits > s->in_use && !s->is_alone && !s->emptying_for ? s->credits - s->in_use : 0;
}
/* Free credits of sessions that take the service at position pos. */
uint32_t credits_free(const struct credits *p, uint16_t pos);
/* The credit holder that gets the next entry of the service, round robin, sessions with fewer services first; NULL
 * = no free credit. */
struct credit_holder *credits_choose(struct credits *p, uint16_t pos);
/* From here to credits_end_grants only grants change what services have, so that each of many does not look at all the
 * others again. */
void credits_begin_grants(struct credits *p);
void credits_end_grants(struct credits *p);
/* The service at pos is granted now (its .is_reading, .granted and .reserved are set); it read n entries (0: it is
 * known to be empty). Weights act in the long run, also where one credit comes free at a time. */
void credits_granted(struct credits *p, uint16_t pos, mono_ms now);
void credits_read(struct credits *p, uint16_t pos, uint32_t n); /* see credits_granted */
/* Whether what a holder has is as good as nothing. */
typedef bool (*credits_quiet_fn)(const struct credit_holder *h, const void *arg);
/* A suspect of the service at pos: who holds nothing (or what is_quiet says is as good; NULL: nothing) and gets nothing
 * else while it has this one, round robin; NULL = nobody. The caller sets that it is alone. */
struct credit_holder *credits_choose_empty(struct credits *p, uint16_t pos, credits_quiet_fn is_quiet, const void *arg);
/* Whether anybody with credits takes the service at pos. */
bool credits_has_taker(const struct credits *p, uint16_t pos);
/* Streams, of whatever service, that sessions which take the one at pos have. */
uint32_t credits_in_use(const struct credits *p, uint16_t pos);
/* Credits of all who want the service at pos, free or not, and how many they are. */
uint32_t credits_offered(const struct credits *p, uint16_t pos, uint32_t *n_holders);
/* The service at pos is in entries mode and not going, or not any more: may its idle streams give up credits? */
void credits_lend(struct credits *p, uint16_t pos, bool is_lending);
/* Whether idle streams may keep credits that could be the service's at pos: its own, or those of another that lends and
 * has the same workers. */
bool credits_may_get_more(const struct credits *p, uint16_t pos);
/* By position: whether anybody with credits takes that service and the one at pos. */
void credits_share(const struct credits *p, uint16_t pos, bool shared[static SERVICES_MAX]);
/* Nobody becomes empty by itself: the one with the least in work takes no more until it is. Does nothing when one
 * runs empty already. False: nobody takes the service at all. */
bool credits_run_one_empty(struct credits *p, uint16_t pos);
/* Who was chosen so gets nothing else until it is chosen again. */
void credits_keep_empty(struct credits *p, struct credit_holder *s, uint16_t pos);
/* No suspect of the service at pos waits any more: who ran empty for one works on. */
void credits_stop_emptying(struct credits *p, uint16_t pos);
/* How many entries the service at pos may read now; 0 = none. *block_ms: the read may wait so long for them, shortly
 * or not at all (0) when it leaves no credit for another that waits. */
uint32_t credits_grant(const struct credits *p, uint16_t pos, mono_ms now, mono_ms *block_ms);
/* It may have work and gets no credit, because of what others are granted that wait for entries. */
bool credits_is_kept_out(const struct credits *p, uint16_t pos);
/* Is the service at pos, known to be empty, to be looked at before those that have work? */
bool credits_is_in_round(const struct credits *p, uint16_t pos, mono_ms now);
/* It was granted a read for that. */
void credits_looked(struct credits *p, uint16_t pos, mono_ms now);
/* All that were to be looked at in this round have been: the next begins after a pause, four times as long, a
 * second at most. */
void credits_end_round(struct credits *p, mono_ms now);
/* Asserts what holds between turns: grants are part of reservations, nobody is alone without a suspect, sums are
 * those of the holders. */
void credits_check(const struct credits *p);
