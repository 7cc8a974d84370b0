/* waits - what the files of `delayed …` and `ls --waiting` share: a walk over what waits, service by service: this
 * daemon's own, then in Redis what waits for its time, for its stream, and to be read. Coordinator thread. */
#pragma once
#include "codec/packed.h"
#include "run/control/control.h"
#include "run/control/missing.h"
#include "run/control/redis.h"

enum { WAITS_PAGE_FIRST = 8, WAITS_PAGE = 100 };

enum waits_stage {
	WAITS_NEXT,     /* the next service begins */
	WAITS_CLOCK,    /* the server's */
	WAITS_DELAYED,  /* a page of ids and times */
	WAITS_DATA,     /* of them what they are */
	WAITS_ITEM,     /* each of the page: said, or acted on */
	WAITS_PAUSE,    /* acted on, entries mode: the pause of its entry ends first */
	WAITS_POSITION, /* entries mode: does the entry behind the position of a stream that is nowhere else wait? */
	WAITS_ACT,
	WAITS_PARKED, /* a page of what waits for its stream */
	WAITS_MEMBER, /* each of them: said */
	WAITS_WISH,   /* one that was merged: its id */
	WAITS_GROUP,  /* what the group has read */
	WAITS_UNREAD  /* a page of what it has not */
};

struct waits_item {
	struct entry_id id;
	double due_ms;
	char *data; /* owned; NULL = not there */
	size_t len;
};

/* delayed drop: streams that wait with their workers; the first, and its entry. */
struct waits_blocked {
	size_t n;
	struct text *stream; /* a reference */
	struct entry_id bad;
};

/* The services that are walked over. */
struct waits_walk {
	uint16_t *svcs;
	size_t n, at;
	struct entry_id only;   /* of what was named the one with this id; 0-0 = any */
	struct missing missing; /* of a list */
	struct waits_blocked blocked;
};

/* Entries mode: the pause of the entry behind a position. */
struct waits_pause {
	bool has_ended;   /* of the item under way */
	bool is_asked;    /* of a stream that nobody has, once for each service */
	bool is_position; /* that one's is what ends */
};

/* A page of the delayed set: waits_delayed.c. */
struct waits_delayed {
	struct waits_item items[WAITS_PAGE];
	size_t n, at, page_n;
	double from; /* the next page begins at this time, behind so many of the same */
	size_t n_same;
	struct packed room;
};

/* A page of what waits for its stream. */
struct waits_parked {
	char *members[WAITS_PAGE], *after;
	size_t lens[WAITS_PAGE], n;
};

struct waits_job {
	struct control_req *q;
	struct waits_walk walk;
	struct control_redis *conn, *data; /* data: of the stream under way, entries mode */
	const struct service_rules *rules; /* a reference; of the service under way */
	struct command_names names,
		lbs; /* lbs: the load-balancer stream in the place of the dead letters, to page it */
	enum waits_stage stage;
	bool is_waiting, use_eval, is_action, is_whole;
	struct waits_pause pause;
	struct view_match want; /* stream NULL = all */
	int64_t n, clock_ms;
	struct entry_id first_new; /* that we let come back; 0-0 = none */
	struct waits_delayed delayed;
	struct waits_parked parked;
	struct entry_id unread;
};

/* True: the request has all it wants. */
bool waits_is_full(const struct waits_job *j);
/* A row, unless the filters leave it out. */
void waits_row(struct waits_job *j, struct ctl_waiting *row, struct entry_id id);
bool waits_ask(struct waits_job *j, enum waits_stage stage);
/* No use can be made of the answer. is_silent: there was none. */
void waits_fail(struct waits_job *j, bool is_silent);
/* Asks the master of a data stream, by j->data: WAITS_PAUSE. False: there is none, the request has ended. */
bool waits_ask_data(struct waits_job *j, uint16_t slot);

/* ---- waits_delayed.c */
void waits_send_delayed(struct waits_job *j);
void waits_on_delayed(struct waits_job *j, const redisReply *raw);
void waits_on_data(struct waits_job *j, const redisReply *raw);
/* The next item of the page; false: the page is done. */
bool waits_item_step(struct waits_job *j);
void waits_on_pause(struct waits_job *j, const struct reply *r);
/* A stream that was named and found nowhere: its entry may wait all the same, while nobody has the stream. True: that
 * is asked. */
bool waits_ask_position(struct waits_job *j);
void waits_on_position(struct waits_job *j, const redisReply *raw);
/* Is it the one with the id that was asked for, if any was? */
static inline bool waits_is_the_one(const struct waits_job *j, struct entry_id id)
{
	return (!j->walk.only.ms && !j->walk.only.seq) || entry_id_cmp(j->walk.only, id) == 0;
}
void waits_on_act(struct waits_job *j, const struct reply *r);
void waits_drop_items(struct waits_job *j);
