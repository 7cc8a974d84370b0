/* rights - every command sluiced sends to Redis, with the rule an ACL user needs for it: the one list. doctor
 * walks it, and tests/unit/codec/test_rights.c holds it to command.c, script.c and etc/sluiced.acl. Pure; any
 * thread. HELLO and AUTH are not here: Redis lets everybody send them. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

enum { RIGHT_WORDS = 10 };

/* Words that stand for something else in a trial. */
#define RIGHT_LBS "%lbs"
#define RIGHT_LOCK "%lock"
#define RIGHT_REGISTRY "%registry"
#define RIGHT_DELAYED "%delayed"
#define RIGHT_DELAYED_DATA "%delayed-data"
#define RIGHT_PARKED "%parked"
#define RIGHT_LEFT "%left"
#define RIGHT_FLEET "%fleet"
#define RIGHT_CHANNEL "%channel"
#define RIGHT_DB "%db"

struct right {
	const char *rule; /* "xinfo|groups": an ACL has it with + in front */
	/* A call of it that changes nothing, whatever the keys hold: it asks, is wrong in what the command itself
	 * checks, or names a group, a field or a lock that nobody has. Empty when is_optional: sluiced works
	 * without. */
	const char *trial[RIGHT_WORDS];
	bool is_optional;
	bool is_entries; /* needed where a service is in entries mode */
};

/* Rows of the table. */
size_t rights_n(void);
/* The i-th row. Static. */
const struct right *rights_at(size_t i);
/* Uses the keys like the scripts do: read and written. */
extern const char *const right_key_trial[];
/* The lock nobody has. */
extern const char right_lock[];
/* Whether this is the rule for a command of these words: the name, and for a container its first argument. */
bool right_is_for(const struct right *r, const char *const *words, const size_t *lens, size_t n);
/* Whether there is one. */
bool rights_have(const char *const *words, const size_t *lens, size_t n);
