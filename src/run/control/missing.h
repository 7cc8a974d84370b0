/* missing - the services of a list that Redis told nothing of, and why: the others are shown all the same.
 * Coordinator thread. */
#pragma once
#include "run/control/down.h"

struct missing_server {
	char *addr; /* NULL: it answered, with an error */
	char *why;
};

struct missing {                        /* zero is empty */
	struct missing_server *servers; /* owned, as their texts are */
	char **services;                /* owned; their names, each once */
	size_t n_servers, n_services;
};

/* The service is not shown, or not whole. addr: of the server that did not answer; NULL = another reason. */
void missing_add(struct missing *m, const char *service, const char *addr, const char *why);
/* *addr: of the master of that slot, where key is; NULL = none. Why it is not to be asked: there is none, or it has not
 * answered before; NULL = it can be. words: where that may be written; the result is valid until the next call. */
const char *missing_master(const struct missing *m, const struct daemon *d, const char *key, uint16_t slot,
	const char **addr, char words[static DOWN_WORDS_CAP]);
/* Ends the request: exit 1 with prefix, why, and which services of the n_asked are missing; exit 0 when none is. */
void missing_end(struct control_req *q, const struct missing *m, size_t n_asked, const char *prefix);
void missing_fini(struct missing *m);
