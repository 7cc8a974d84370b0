/* shard_p - what the parts of one shard share: the step's time and effects, connections, slots, services, and the
 * judgement of Redis' refusals. The parts (lease, retry, reader, reconcile, keyspace, feed) do not know each other:
 * what one asks of another goes through the small queues here, which core/shard empties. Pure. Owner: the shard
 * thread. */
#pragma once
#include "base/heap.h"
#include "base/rng.h"
#include "core/metric.h"
#include "core/shard/refusals.h"
#include "core/shard/shard.h"
#include "core/turn.h"

enum shard_part { PART_NONE, PART_LEASE, PART_RETRY, PART_READER, PART_RECONCILE, PART_KEYSPACE, PART_ROLE, PART_FEED };

/* Tags: part 4 bits, generation 28, index 32. */
static inline uint64_t tag_of(enum shard_part part, uint32_t gen, uint32_t index)
{
	return (uint64_t)part << 60 | (uint64_t)(gen & 0x0fffffff) << 32 | index;
}
static inline enum shard_part tag_part(uint64_t tag)
{
	return (enum shard_part)(tag >> 60);
}
static inline uint32_t tag_gen(uint64_t tag)
{
	return (uint32_t)(tag >> 32) & 0x0fffffff;
}
static inline uint32_t tag_index(uint64_t tag)
{
	return (uint32_t)tag;
}

struct shard_service {
	struct service_rules *rules; /* a reference */
	bool is_read;                /* its load-balancer stream lives here and is read here */
	bool asking;
	bool is_gone;       /* forgotten by the coordinator; leases may be left */
	bool is_group_lost; /* some part met NOGROUP: the reader repairs */
	bool is_due_news;   /* due_at has moved: the reader looks */
	unsigned rank;      /* of this daemon among the live ones: the first does what all could do */
	mono_ms due_at;     /* when the next delayed entry is due, as far as we know */
	struct shard_lengths lengths;
	int64_t credits; /* of its workers, and how many they are: told to the other daemons; -1 = not known yet */
	uint32_t n_workers;
	bool may_get_more;       /* idle streams may give up credits for its own */
	uint32_t n_wanted;       /* entries mode: so many streams wait for credits, and none here could end for them */
	mono_ms wanted_at;       /* when that was told */
	mono_ms keepers_said_at; /* empty streams keep their credits while others wait: said; 0 = never */
	mono_ms trimmed_said_at; /* dead letters that were trimmed were told of; 0 = never */
	uint64_t n_trimmed;      /* since then */
	uint32_t entry_bytes;    /* entries mode: so long is one that was read lately, as JSON; 0 = none was */
	struct metrics_service metrics;
};

/* One operation that a part asks of core/shard/retry, and what it came to. */
struct op_ask {
	bool is_leases; /* asked by core/shard/lease: .handle names the lease; sent once, any trouble is OP_FAILED */
	uint64_t handle;
	enum cmd_kind kind;
	enum dead_reason reason;
	uint16_t svc;
	bool asking, is_suspect, was_alone;
	uint32_t retry;
	struct entry_id id;
	struct text *stream, *consumer, *error; /* references move */
	int64_t min_idle_ms;
	mono_ms not_after; /* not sent again from here on: OP_FAILED; MONO_NEVER = repeated for ever */
	uint64_t tag;
};
struct op_answer {
	bool is_leases; /* lease.c's: what its take came to; or, is_released, an operation has ended its lease */
	bool is_released;
	bool is_unlocked; /* its lock is deleted already */
	uint64_t handle;  /* then, and no tag */
	int64_t n;        /* what the script said */
	uint64_t tag;
	enum cmd_kind kind;
	enum op_result result;
	struct entry_id id;
};

/* What parts ask of each other within a step. */
struct op_asks {
	struct op_ask *v;
	size_t n, cap;
};
struct op_answers {
	struct op_answer *v;
	size_t n, cap;
};
struct retired_texts { /* released at the next step: effects may point to them */
	struct text **v;
	size_t n, cap;
};

/* What the coordinator has told of the slots of this master. */
struct shard_slots {
	uint8_t *bits; /* bit map; NULL: none, or not told yet */
	bool are_told;
	mono_ms changed_at; /* when this master was last seen to be another one; < 0 = never */
};

/* What some service has: a look at all of them finds it. */
struct shard_news {
	bool is_group_lost, is_due; /* as in shard_service: is_group_lost, is_due_news */
};

/* Words to the coordinator about the map, not too many. */
struct shard_said {
	mono_ms refresh_at, moved_at;
	uint16_t moved_slot;
};

struct shard_ctx {
	const struct shard_rules *rules;
	uint16_t index;
	mono_ms now;
	int64_t wall_ms;
	struct effects *out;
	struct rng rng;
	bool is_up; /* the command connection */
	struct shard_slots slots;
	struct shard_news news;
	struct shard_service **services; /* by svc */
	size_t n_services;
	struct metrics_redis metrics;
	struct metrics_service nowhere; /* counts of services nobody knows */
	struct op_asks asks;
	struct op_answers answers;
	struct retired_texts retired;
	struct shard_said said;
	struct refusals refusals;
	mono_ms trial_at; /* some reader tries a write */
};

/* rules must outlive it. index: the shard's number. */
void ctx_init(struct shard_ctx *c, const struct shard_rules *rules, uint16_t index);
/* Frees everything, also what parts have asked of each other. */
void ctx_fini(struct shard_ctx *c);
/* n older dead letters had to go for a new one and are lost: counted, and one warning a minute. of_entries: those of
 * entries mode. */
void ctx_dead_trimmed(struct shard_ctx *c, uint16_t svc, uint64_t n, bool of_entries);
/* A step begins: effects of the last one have been performed. */
void ctx_begin(struct shard_ctx *c, mono_ms now, int64_t wall_ms, struct effects *out);

struct shard_service *ctx_service(const struct shard_ctx *c, uint16_t svc); /* NULL: unknown */
/* Adds or replaces; the reference moves. */
struct shard_service *ctx_service_put(struct shard_ctx *c, struct service_rules *rules);
struct metrics_service *ctx_metrics(struct shard_ctx *c, uint16_t svc); /* never NULL */
/* An entry of the service is due then: the reader sees to it. */
void ctx_due_at(struct shard_ctx *c, uint16_t svc, mono_ms at);
/* Is the slot ours? Yes while nobody has told us any. */
bool ctx_serves(const struct shard_ctx *c, uint16_t slot);
/* T + T/3 after this master was seen to be another one a missing lock proves nothing. Returns when that ends; 0 =
 * proves. */
mono_ms ctx_hold_off(const struct shard_ctx *c, const struct service_rules *r);

/* A command over the command connection (change .role for another); fill in the rest. Valid until the next effect. */
struct effect *ctx_redis(struct shard_ctx *c, uint64_t tag, enum cmd_kind kind, uint16_t svc);
/* A message to the coordinator, .from filled in; what m owns moves. Returns it for the rest to be filled in; valid
 * until the next effect. */
struct msg *ctx_msg(struct shard_ctx *c, struct msg m);
/* Drops a reference once the effects of this step have been performed. NULL is fine. */
void ctx_retire(struct shard_ctx *c, struct text *t);

/* What a reply means for whoever waits for it. */
enum verdict {
	VERDICT_ANSWER,  /* it is an answer */
	VERDICT_LOST,    /* the connection ended first: it may have been executed */
	VERDICT_AGAIN,   /* not now: again after a short backoff */
	VERDICT_REFUSED, /* an operator must act: again after a long backoff. Has been said. */
	VERDICT_EVAL,    /* again with the script's text */
	VERDICT_MOVED,   /* not here; the coordinator has been told. reply->text, reply->error == RERR_ASK */
	VERDICT_NO_GROUP
};
/* what: "lease", "reader", … for the log line. */
enum verdict ctx_judge(
	struct shard_ctx *c, const char *what, enum cmd_kind kind, uint16_t svc, const struct reply *reply);
/* When to try again: first × 2^tries up to cap, ± 25 %. */
mono_ms ctx_backoff(struct shard_ctx *c, unsigned tries, mono_ms first, mono_ms cap);
void ctx_refresh(struct shard_ctx *c, struct slice why); /* MSG_REFRESH, at most one a second */

/* Queues between parts; core/shard empties them within the step. */
void ctx_ask(struct shard_ctx *c, const struct op_ask *ask);
/* The answer to an operation that a part asked for; copied. */
void ctx_answer(struct shard_ctx *c, const struct op_answer *answer);

static inline struct slice slice_of(const struct text *t)
{
	return t ? (struct slice){t->bytes, t->len} : (struct slice){0};
}
static inline bool slice_eq(struct slice a, struct slice b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}
