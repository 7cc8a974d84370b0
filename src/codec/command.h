/* codec/command - struct cmd -> argv. Key names: command_key; what a script is given: command_lbs,
 * command_feed; the scripts themselves: codec/script. Pure; any thread. */
#pragma once
#include "codec/entry_id.h"
#include "core/cmd.h"
#include "core/rules.h"

/* The keys of one service. */
struct command_names {
	char *lbs, *group, *registry, *dlq;                   /* owned */
	char *delayed, *delayed_data, *parked, *left, *fleet; /* owned; in the LBS' slot, as the registry */
	uint16_t lbs_slot, dlq_slot;
	bool dlq_same_slot;
	enum same_stream same_stream;
	int64_t dlq_max_len; /* 0 = unbounded */
	char *group_start;   /* "0" or "$" */
	/* entries mode; NULL and 0 without */
	char *entries_dlq;
	int64_t entries_dlq_max_len;
};
/* dlq "" = <service>-input-dlq. Slots are compared as a cluster does; on standalone the caller sets dlq_same_slot. */
void command_names_init(struct command_names *n, const char *service, const char *dlq, enum same_stream same_stream,
	int64_t dlq_max_len, const char *group_start);
/* The dead letters of entries; dlq "" = <service>-entries-dlq. After init. */
void command_names_entries(struct command_names *n, const char *service, const char *dlq, int64_t dlq_max_len);
/* Frees the names; all are NULL then. */
void command_names_fini(struct command_names *n);

/* Who we are: set once. */
struct command_self {
	const char *consumer; /* redis-consumer-<node id> */
	const char *node;
	int db;
};

struct command_argv; /* reusable argv builder with its own memory */
struct command_argv *command_argv_new(void);
/* NULL is fine. */
void command_argv_free(struct command_argv *a);
/* Encodes c; the result is valid until the next call. names may be NULL for commands that need none. */
void command_encode(struct command_argv *a, const struct cmd *c, const struct command_names *names,
	const struct command_self *self);
/* Words of the command that was encoded last; as the next two, valid until the next one. */
int command_argc(const struct command_argv *a);
/* Its words, not NUL-terminated. */
const char **command_args(const struct command_argv *a);
/* Their lengths in bytes. */
const size_t *command_lens(const struct command_argv *a);

const char *command_name(enum cmd_kind k); /* "lock" "renew" "read" … for logs and metrics */
/* Between a lock's stream and its entry id, literally. */
#define COMMAND_LOCK_SEP "<MUTEX_KEY_SEP>"
/* Bytes of a dead letter's _dlq_error; of a reason while the entry waits. */
enum { COMMAND_SIFT_BUDGET = 500 }; /* entries that one sift looks at: some 4 ms of the server */
enum { COMMAND_LOOK_PAGE = 100 };   /* and one that delivers nothing */
enum { COMMAND_ERROR_MAX = 1024, COMMAND_REASON_MAX = 256 };
/* The key of trial writes in the slot of `base`, a load-balancer stream: named like a lock of the stream
 * sluiced-doctor, so that no rule of its own is needed, but no lock, for it has no id. Nobody ever keeps it.
 * mem_free it. */
char *command_trial_key(const char *base);
uint16_t command_slot(const char *key, size_t len); /* CRC16 with hash tags */
bool command_has_tag(const char *key, size_t len);  /* a hash tag that is not empty */
/* The slot of a data stream's key. *has_no_position: in a cluster no key for its position lands there. */
uint16_t command_entry_slots(const char *stream, size_t len, bool *has_no_position);
/* So many fields of a dead entry are its own: what it got when it died, `_dlq_stream` and the like, is behind them,
 * each once. An entry may have had fields with such names itself. NULL is fine. */
size_t command_feed_own_fields(const struct field_list *l);
/* Is it where the position in a data stream is kept? */
bool command_is_position_key(const char *key, size_t len);
/* Where the position in that data stream is kept; mem_free it. */
char *command_position_key(const char *stream);
/* The cluster slot of the lock's key: by the hash tag of the stream's name when it has one. */
uint16_t command_lock_slot(const char *stream, size_t len, struct entry_id id);
/* `<stream><MUTEX_KEY_SEP><id>` -> its parts; false when it is no lock key. For keyspace events (channel prefix
 * already cut off). */
bool command_lock_parse(const char *key, size_t len, struct slice *stream, struct entry_id *id);
