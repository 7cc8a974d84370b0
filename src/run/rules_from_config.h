/* rules_from_config - the rules of the core and the options of connections, from the configuration. Coordinator
 * thread. */
#pragma once
#include "base/err.h"
#include "config/config.h"
#include "core/handoff/handoff.h"
#include "core/rules.h"
#include "io/redis/conn.h"

/* Service ids: stable per name while the process lives. */
struct rules_ids {
	char **names;
	uint16_t n;
};
/* The number of that service, a new one when it has none: a number is never used for another name. */
uint16_t rules_service_id(struct rules_ids *ids, const char *name);
/* Frees the names. */
void rules_ids_fini(struct rules_ids *ids);

/* A new reference, the caller's. */
struct service_rules *rules_of_service(const struct config_service *s, const struct config *c, uint16_t svc);
/* Each fills *out from the settings, with a random seed; c may go afterwards. */
void rules_of_coord(const struct config *c, uint64_t incarnation, struct coord_rules *out);
/* The shortest command timeout of all services counts for all of them. */
void rules_of_shard(const struct config *c, uint64_t incarnation, struct shard_rules *out);
/* How notifications of a managed Redis are acted on. */
void rules_of_handoff(const struct config *c, struct handoff_rules *out);
/* Strings in out point into c and password; tls is only copied. */
void rules_of_redis(const struct config *c, const char *password, struct redis_tls *tls, const char *client_name,
	struct redis_opts *out);
/* ERR_OK with *out = NULL when TLS is off. */
enum err_code rules_of_tls(const struct config *c, struct redis_tls **out, struct err *err);
/* A number for this process that is higher than those of earlier ones, as far as the wall clock goes on. */
uint64_t rules_incarnation(void);
