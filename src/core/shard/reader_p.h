/* reader_p - what reader.c and reader_reply.c share. */
#pragma once
#include "core/shard/reader.h"

/*   GROUP (XGROUP CREATE) -> OWN (own pending entries, page by page) -> RUN
 *     ^  NOGROUP in any state         MOVED/ASK in any state -> AWAY -> GROUP (told anew, or after a while) */
enum reader_state { READER_GROUP, READER_OWN, READER_RUN, READER_AWAY, READER_STATES };

/* What a reader has on its way: at most one command of each. */
enum reader_query {
	READER_QUERY_GROUP,
	READER_QUERY_OWN,
	READER_QUERY_READ,
	READER_QUERY_HEARTBEAT,
	READER_QUERY_AUDIT,
	READER_QUERY_LENGTH,
	READER_QUERY_PENDING_SUM,
	READER_QUERY_UNREAD,
	READER_QUERY_DLQ_LENGTH,
	READER_QUERY_DUE, /* what waits for its time, or for a stream that nobody runs any more */
	READER_QUERY_UNBLOCK,
	READER_QUERY_TRIAL,           /* does the server take writes? One reader of the shard asks for all */
	READER_QUERY_FLEET,           /* what our workers can take: told, where the user may write such a key */
	READER_QUERY_FEED_DLQ_LENGTH, /* entries mode */
	READER_QUERY_LOOK,            /* while no credit is free and idle ones may be: which streams wait? */
	READER_QUERY_N
};

struct reader_query_state {
	mono_ms at; /* when it is due, unless in flight */
	mono_ms sent;
	uint32_t gen;
	uint8_t tries;
	bool in_flight;
	bool use_eval; /* the server does not know the script */
};

/* What it may read: its credits, by the coordinator. */
struct reader_grant {
	int64_t credits, asked; /* of the grant not used yet; of the read in flight */
	uint32_t left_gen;      /* of the read on a connection that was left */
	bool is_left;           /* it may still be answered, and its grant has not been used again */
};

/* A pass through our own pending entries, for the coordinator to compare. */
struct reader_audit {
	uint32_t n; /* ids of this pass, so far */
	struct entry_id from;
	mono_ms began;
	int64_t pass;
};

/* The consumer group was gone. */
struct reader_lost {
	mono_ms at, said_at;
	uint32_t n; /* one soon after the other */
	bool is_said;
};

struct reader {
	struct heap_node timer;
	uint16_t svc;
	uint8_t state;
	bool is_conn_up;
	bool was_lost; /* the group was gone: made again from the beginning */
	bool is_again; /* own pending entries have been read once: after a repair straight to RUN */
	int64_t client_id;
	struct reader_grant grant;
	mono_ms block_cap_ms;
	bool is_sifting; /* entries of running streams were met: they are put to wait by the server as it reads */
	bool has_sift;   /* the server has that script */
	struct entry_id own_after; /* own pending pass */
	struct reader_audit audit;
	struct reader_lost lost;
	int64_t due_position;
	bool is_fleet_forbidden, is_fleet_news; /* news: other than what is under way */
	mono_ms look_ms;                        /* until the next look */
	struct reader_query_state reader_queries[READER_QUERY_N];
};

enum {
	OWN_PAGE = 128,
	AUDIT_PAGE = 1000,
	AUDIT_PER_S = 12500, /* ids: a pass of 100,000 takes 0.2 s */
	AUDIT_REST_MS = 10000,
	DUE_PAGE = 100,
	DUE_WOKEN_PAGE = 50, /* as many streams SCRIPT_DUE wakes at once */
	DUE_RANK_MS = 50,
	DUE_RANK_MAX_MS = 500,
	BLOCK_MAX_MS = 2000,
	EVERY_MS = 1000,
	AWAY_MS = 2000,
	TRIAL_MS = 5000,
	LEFT_MS = 100,
	FLEET_MS = 10000,
	LOST_MS = 50, /* until a group that was lost again is made again; doubled each time, up to: */
	LOST_MAX_MS = 5000,
	LOST_SAY_MS = 60000,
	LOST_FORGOTTEN_MS = 60000,
	LOOK_MS = 25,     /* from a read to a look; doubled by each look that merges nothing, up to: */
	LOOK_MAX_MS = 250 /* from a look to the next, however often is read between */
};

struct readers {
	struct heap timers;
	struct reader **v; /* by svc */
	size_t n;
};

/* The rules of its service. */
const struct service_rules *reader_rules(const struct shard_ctx *c, const struct reader *r);
enum cmd_kind reader_command(enum reader_query e); /* what it asks Redis */
/* After a read: what waits for a credit is another now, and is looked at soon. */
void reader_look_anew(struct shard_ctx *c, struct reader *r);
void reader_move(struct reader *r, struct shard_ctx *c, enum reader_state to, const char *why);
/* The consumer group is gone: made again from the stream's beginning, the coordinator is told. Again while it is
 * being made: nothing. */
void reader_group_lost(struct readers *rs, struct shard_ctx *c, struct reader *r);
/* Ends a grant: what was read, maybe nothing. The batch moves. */
struct msg *reader_entries(
	struct shard_ctx *c, uint16_t svc, enum entry_source source, struct entry_batch *b, int64_t n_asked);
