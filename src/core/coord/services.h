/* services - the services of the configuration, and what this daemon has of each: where it is read, what may be read,
 * which entries wait here.
 * Pure. Owner: the coordinator's thread; read by the views of run/, which live on it. Times: monotonic ms. A service's
 * position is its place here and in credits.h; it is used again when the service has gone, its id never is. Pointers
 * are valid until the table changes (COORD_SERVICES, or the end of a turn). Nothing here fails. */
#pragma once
#include "base/list.h"
#include "base/map.h"
#include "core/metric.h"
#include "core/rules.h"
#include "core/turn.h"

struct topology;

/* Where a service's load-balancer stream is read: shards.c. */
struct service_reader {
	uint16_t shard; /* SHARD_NONE: nowhere */
	bool asking;
	bool own_done;     /* own pending entries of a former process are known */
	bool is_back_late; /* that we are back could not be said: it is with the next map, or where the reader goes */
	bool is_uncovered; /* said: its slot has no master */
	mono_ms back_again_at; /* that we are back is said once more then; 0 = it was */
};

/* What its reader may read: services.c. */
struct service_grant {
	struct link turn; /* in coord.services.turns: who is granted next */
	uint32_t n;       /* what the outstanding grant allows */
	uint32_t again;   /* entries to read beyond free credits, once, in as many reads as it takes */
	bool is_again;    /* the outstanding grant is of those */
	bool waits;       /* its read waits until something comes: it is taken back when another needs the credits */
};

/* What its reader's shard was told of its workers: offers.c. */
struct service_offer {
	uint16_t shard; /* SHARD_NONE: none */
	bool has_credits, may_get_more;
};

/* Are entries that we hold pending for us in Redis? entry_intake.c. */
struct service_audit {
	uint32_t pass;
	mono_ms hold;    /* no "not pending" verdicts before (the group was made again) */
	mono_ms gone_at; /* the group was found gone then, the last time; 0 = never */
};

/* Entries that were trimmed while held. */
struct service_trimmed {
	mono_ms said; /* were told of; 0 = never */
	uint32_t n;   /* since then */
};

/* Leases lost, told together: entry_warn_lost. */
struct service_lost {
	uint32_t n[LOST_N]; /* since the last warning of them, by reason */
	mono_ms at;         /* the next warning; MONO_NEVER = nothing to warn of */
	mono_ms said;       /* the last one; 0 = none */
};

/* Workers that died with one stream each, since something was finished last. */
struct service_deaths {
	uint64_t of;   /* the hash of the last stream's name; 0 = none */
	bool are_many; /* of several streams: what workers need is away, rather than that one stream kills them */
};

struct coord_service {
	struct service_rules *rules; /* NULL: position unused */
	uint16_t svc;
	bool is_dirty; /* something to assign or to grant */
	bool is_going; /* removed by a reload: no reads, what runs ends */
	struct service_reader reader;
	struct service_grant grant;
	struct service_offer offer;
	struct link ready, parked;
	struct link suspects; /* READY ones that wait for a worker with nothing else to do */
	struct map active;    /* stream -> the entry of it that comes first here, from its lock on (not with allow) */
	bool is_sifting;      /* entries of running streams were met: the server puts them to wait as it is read */
	bool is_id_told;      /* ids are no milliseconds: said */
	struct service_audit audit;
	struct service_trimmed trimmed;
	struct service_lost lost;
	struct service_deaths deaths;
	mono_ms rush_until; /* streams waited for a credit lately: until then those that begin make room for the next */
	struct metrics_service m;
};

/* The services of the configuration: services.c. */
struct coord_services {
	struct coord_service v[SERVICES_MAX]; /* by position */
	uint16_t n;                           /* positions used so far; .rules NULL: not now */
	struct link turns;    /* in order of their passes (credits.h), behind them those known to be empty, in turn */
	bool is_dirty;        /* some service is */
	bool are_all_dirty;   /* whatever their own .is_dirty says */
	bool has_new_offers;  /* services or shards have changed; credits.has_new_offers: holders */
	uint16_t n_going;     /* of them: a turn looks for their ends while there are some */
	mono_ms lost_at;      /* the soonest of theirs */
	mono_ms shortest_ttl; /* of their locks */
	uint64_t hashes[SERVICES_MAX];  /* of their names, by position */
	uint8_t found_at[SERVICES_MAX]; /* position, by id % SERVICES_MAX: looked at first */
};

/* By its id. NULL: there is none, or not any more. */
struct coord_service *services_find(struct coord_services *ss, uint16_t svc);
/* By the hash of its name, as leases have it. NULL: there is none, or not any more. */
const struct coord_service *services_of_hash(const struct coord_services *ss, uint64_t hash);
/* The position of one of them. */
uint16_t services_pos(const struct coord_services *ss, const struct coord_service *s);
/* Something can be assigned or read: looked at, at the end of the turn. */
void services_mark(struct coord_services *ss, struct coord_service *s);
/* The same of every service: credits have changed. */
void services_mark_all(struct coord_services *ss);

/* Does nobody serve the slot of its load-balancer stream, by the map? */
bool service_has_no_master(const struct topology *t, const struct coord_service *s);

struct own_name {
	const char *bytes;
	size_t len;
	bool is_position; /* of the form of a position's key */
};
enum { OWN_WHY_CAP = 1000 };
/* May an entry of s not name that stream, because it is a key that the daemons keep for themselves? Then why says so,
 * in words. */
bool services_is_own_key(const struct coord_services *ss, const struct coord_service *s, const struct own_name *name,
	char why[static OWN_WHY_CAP]);
