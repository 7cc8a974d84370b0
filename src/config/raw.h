/* raw - the settings as they were written: text, and where each came from. Kept with the config for messages and dumps.
 * Pure. Owned by one struct config, on whose thread it is filled. */
#pragma once
#include "config/options.h"

enum origin_kind { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENV };

struct origin {
	enum origin_kind kind;
	unsigned line, column; /* FILE, from 1 */
	char *env;             /* ENV: the variable; owned */
};

struct raw_value {
	struct origin from;
	char *text;        /* NULL for lists and defaults */
	char **items;      /* lists */
	struct origin *at; /* FILE lists: where each item stands */
	size_t n_items, n_at;
};

struct raw_service {
	struct origin from;
	struct raw_value values[N_SERVICE_OPTIONS];
};

struct raw {
	char *name;                         /* of the file, fit for a message */
	struct raw_value values[N_OPTIONS]; /* the rows of services stay empty */
	struct raw_service **services;
	size_t n_services;
	struct origin services_from;
	bool is_empty;              /* the file says nothing; the environment may say all */
	struct origin node_id_from; /* DEFAULT = host name */
};

/* One setting of one service, or one item of a list. */
struct place {
	enum option_id id;
	size_t service; /* for rows of services */
	size_t item;    /* RAW_WHOLE, or the index in a list */
};
#define RAW_WHOLE SIZE_MAX

/* Nothing given yet. name: the file's, as shown in errors. Heap; raw_free. */
struct raw *raw_new(const char *name);
void raw_free(struct raw *r); /* NULL is fine */
/* Adds services with no settings until there are n. */
void raw_need_services(struct raw *r, size_t n, struct origin from);
/* What was given for a setting, of that service when it is one of a service's. */
struct raw_value *raw_value(struct raw *r, enum option_id id, size_t service);
/* The same, to read. */
const struct raw_value *raw_value_const(const struct raw *r, enum option_id id, size_t service);
/* Somebody wrote it: not the default. */
bool raw_is_set(const struct raw *r, enum option_id id, size_t service);
/* Back to "not written". */
void raw_clear(struct raw_value *v);
/* Replaces v by what the variable says; copies both. */
void raw_set_env(struct raw_value *v, enum option_id id, const char *name, const char *text);
/* Appends "services[2].lease.ttl" or "redis.endpoints[1]". */
void raw_path(const struct place *p, struct buf *out);
/* Puts "file:line:column: key.path: " or "environment: NAME: key.path: " before err. Returns its code. */
enum err_code raw_blame(const struct raw *r, const struct place *p, struct err *err);
/* The same for a problem said here. */
enum err_code raw_fail(const struct raw *r, const struct place *p, struct err *err, enum err_code code, const char *fmt,
	...) __attribute__((format(printf, 5, 6)));
