/* setup - from the configuration to the rules of the core and the options of connections. Coordinator thread. */
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
uint16_t rules_service_id(struct rules_ids *ids, const char *name);
void rules_ids_fini(struct rules_ids *ids);

/* A new reference, the caller's. */
struct service_rules *rules_of_service(const struct config_service *s, const struct config *c, uint16_t svc);
void rules_of_coord(const struct config *c, uint64_t incarnation, struct coord_rules *out);
void rules_of_shard(const struct config *c, uint64_t incarnation, struct shard_rules *out);
void rules_of_handoff(const struct config *c, struct handoff_rules *out);
/* Strings in out point into c and password; tls is only copied. */
void rules_of_redis(const struct config *c, const char *password, struct redis_tls *tls, const char *client_name,
	struct redis_opts *out);
/* ERR_OK with *out = NULL when TLS is off. */
enum err_code rules_of_tls(const struct config *c, struct redis_tls **out, struct err *err);
uint64_t rules_incarnation(void);
