/* setup - from the configuration to the rules of the core and the options of connections. Coordinator thread. */
#pragma once
#include "base/err.h"
#include "config/config.h"
#include "core/handoff/handoff.h"
#include "core/rules.h"
#include "io/redis/conn.h"

/* Service ids: stable per name while the process lives. */
struct setup_ids {
	char **names;
	uint16_t n;
};
uint16_t setup_service_id(struct setup_ids *ids, const char *name);
void setup_ids_fini(struct setup_ids *ids);

/* A new reference, the caller's. */
struct service_rules *setup_service(const struct config_service *s, const struct config *c, uint16_t svc);
void setup_coord(const struct config *c, uint64_t incarnation, struct coord_rules *out);
void setup_shard(const struct config *c, uint64_t incarnation, struct shard_rules *out);
void setup_handoff(const struct config *c, struct handoff_rules *out);
/* Strings in out point into c and password; tls is only copied. */
void setup_redis(const struct config *c, const char *password, struct redis_tls *tls, const char *client_name,
	struct redis_opts *out);
/* ERR_OK with *out = NULL when TLS is off. */
enum err_code setup_tls(const struct config *c, struct redis_tls **out, struct err *err);
uint64_t setup_incarnation(void);
