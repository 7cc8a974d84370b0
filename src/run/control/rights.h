/* control_rights - the questions doctor asks one server about the rights of our Redis user: each key of each
 * service, then codec/rights. By ACL DRYRUN where that is allowed to us, else by sending the harmless calls
 * themselves. Pure; coordinator thread. next and answer alternate. */
#pragma once
#include "codec/rights.h"
#include "config/config.h"

struct control_rights {
	size_t at, n_keys, n_missing;
	bool is_trying; /* not allowed to ask */
	char user[300], key[600], channel[64], db[24];
	const char *words[RIGHT_WORDS + 4];
	char missing[600];
};

/* Who we are to Redis, for questions about our rights. */
void control_rights_init(struct control_rights *r, const struct config *c);
/* The words to send, NULL-terminated and valid until the answer; NULL = all asked. c: the configuration of now. */
const char *const *control_rights_next(struct control_rights *r, const struct config *c);
/* What the server said: its error, or else its text (NULL when it was another kind of answer). Returns the rule that is
 * missing, as ACL SETUSER takes it, or NULL; valid until the next call. */
const char *control_rights_answer(struct control_rights *r, const char *error, const char *text);
