/* workers - the workers that are connected or may come back: their sessions, credits and entries.
 * Pure. Owner: the coordinator's thread; read by the views of run/, which live on it. Times: monotonic ms.
 * One that ends stays until the end of the turn (is_gone), as effects and lists may name it; no look-up finds it. */
#pragma once
#include "base/heap.h"
#include "base/list.h"
#include "base/map.h"
#include "core/coord/credits.h"
#include "core/coord/ledger.h"
#include "core/coord/session.h"

/* Shards tell of their renewals in turn, so that those of several are out of order by less than this. */
enum { WORKER_DISORDER_MS = 50 };

/* A line about a worker that hangs: one a minute. */
struct worker_hung {
	mono_ms said; /* 0 = never */
	uint32_t n;   /* streams since then */
};

/* Assigns and frames of entries that were sent to it. */
struct worker_told {
	uint32_t n;
	uint32_t n_answered; /* n, when it told a result last */
	uint32_t n_unread;   /* DETACHED: it has not read so many of them, the latest */
};

/* DETACHED: how it ended. */
struct worker_end {
	struct link giving_back; /* in coord_workers.giving_back: its entries go back, some in each turn, none to it */
	uint8_t why;             /* enum requeue_why: they go back because of that */
	bool is_dead;            /* its process has ended */
	uint32_t n_blamed;       /* entries that may be why its connection ended */
	mono_ms back_until;      /* so long it may come back */
	mono_ms began;           /* they began to go back; 0 = not yet */
};

struct worker { /* a worker */
	struct session s;
	struct credit_holder credit_holder;
	struct link all, entries, dirty;
	bool is_gone;      /* freed at the end of the turn */
	bool is_connected; /* counts in n_workers */
	bool is_hushed;    /* its streams are told nothing while it has a suspect */
	mono_ms hushed_at;
	mono_ms latest; /* the latest good_until of what came into entries; since a look through them at the longest */
	mono_ms disorder;  /* of entries: none ends by more than this after one that is behind it */
	mono_ms result_at; /* when it told a result last, an acknowledgement, say; 0 = never */
	struct worker_told told;
	struct worker_end end;
	struct worker_hung silent, running; /* says nothing; was told to stop, and has not */
	uint16_t *named; /* ids of the services its hello named, SERVICE_NONE behind the last; NULL = all */
	/* a hello that waits until own entries are known, and what its welcome names */
	struct text **resume;
	size_t n_resume;
	char wanted_key[SESSION_KEY + 1];
};

/* Those that are connected, or may come back: session_*.c. */
struct coord_workers {
	struct link all, gone; /* gone: those that end with this turn */
	struct map by_session;
	struct link dirty;       /* those whose until_ms moved */
	struct link giving_back; /* those that ended with many entries */
	mono_ms give_back_at;    /* the next of these go back; MONO_NEVER: there are none */
	struct heap timers;
	uint32_t n;          /* connected */
	uint32_t n_hushed;   /* of all */
	mono_ms alone_since; /* the last of them went; 0 = there was none yet */
	uint64_t errors[FERR_N];
};

/* The worker of that session; NULL: none, or it ends with this turn. Valid until the end of the turn. */
struct worker *workers_find(struct coord_workers *ws, uint64_t session);
/* Takes it out of every list and frees it. Only at the end of a turn: others may still name it in one. */
void worker_free(struct coord_workers *ws, struct credits *place, struct worker *m);
/* A service has the position from now on: who named it takes it, also who did so before it was removed. */
void workers_service_begins(struct coord_workers *ws, struct credits *place, uint16_t pos, uint16_t svc);
/* It has gone: its position may be another's next. */
void workers_service_ends(struct coord_workers *ws, struct credits *place, uint16_t pos);
/* A frame that is sent now gives it something to do, of which it cannot die before it has read that; with e NULL: of
 * something that it was given before. */
void worker_is_given(struct worker *w, struct entry *e);
/* e, which is in no list, is the last of its entries now. */
void worker_gets(struct worker *w, struct entry *e);
/* e, one of its own, is good until another time, without news for it. */
void worker_reorder(struct worker *w, struct entry *e);
/* As worker_reorder, with news: what it may be told as until_ms may have moved. */
void worker_touch(struct coord_workers *ws, struct worker *m, struct entry *e);
/* A frame to it, of that kind and otherwise empty: fill in the rest. Slices in it must live until effects are
 * performed (effect.hold). Valid until the next effect. */
struct effect *worker_frame(struct effects *out, const struct worker *m, enum out_kind kind);
