/* config - the settings of one daemon: loaded, checked, complete, immutable.
 * Any thread may read a struct config; one thread loads and frees.
 * Promise: a config that was loaded satisfies every range and every inequality of sluiced.yaml(5); values are
 * effective, that is 0 or "" never stands for "derived" unless the field says so. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "base/log.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum config_topology {
	CONFIG_TOPOLOGY_AUTO,
	CONFIG_TOPOLOGY_STANDALONE,
	CONFIG_TOPOLOGY_CLUSTER,
	CONFIG_TOPOLOGY_SENTINEL
};
enum config_keyspace { CONFIG_KEYSPACE_MERGE, CONFIG_KEYSPACE_REQUIRE, CONFIG_KEYSPACE_OFF };
enum config_same_stream { CONFIG_SAME_STREAM_SERIALIZE, CONFIG_SAME_STREAM_ALLOW, CONFIG_SAME_STREAM_COALESCE };
enum config_on_ack { CONFIG_ON_ACK_KEEP, CONFIG_ON_ACK_TRIM };
enum config_on_done { CONFIG_ON_DONE_KEEP, CONFIG_ON_DONE_DELETE };
enum config_maintenance { CONFIG_MAINTENANCE_DISABLED, CONFIG_MAINTENANCE_ENABLED, CONFIG_MAINTENANCE_AUTO };
enum config_shutdown { CONFIG_SHUTDOWN_AUTO, CONFIG_SHUTDOWN_HANDOVER, CONFIG_SHUTDOWN_DRAIN };

struct config_list {
	char **items;
	size_t n;
};

struct config_uids {
	uint32_t *items;
	size_t n;
};

/* At most one of the three is not "". */
struct config_secret {
	char *file, *credential, *env;
};

struct config_service {
	char *name;
	char *group_start; /* "0" or "$" */
	enum config_same_stream same_stream;
	unsigned wait_replicas; /* 0 = no WAIT */
	unsigned weight, max_streams, read_batch;
	struct {
		int64_t ttl_ms, renew_every_ms, stop_margin_ms; /* derived where the user left 0 */
	} lease;
	/* For commands that keep this service's leases: redis.command_timeout_ms, or less when that is the default
	 * and the leases are too short for it. */
	int64_t command_timeout_ms;
	struct {
		int64_t interval_ms;
		unsigned jitter_pct;
		int64_t min_idle_ms;
		unsigned page;
		bool probe;
		int64_t forget_consumer_ms;
	} recovery;
	struct {
		unsigned max_retries;
		int64_t initial_ms, max_ms; /* initial 0 = at once */
		unsigned factor, jitter_pct;
		int64_t release_delay_ms;
	} retry;
	struct {
		char *stream;     /* never "": <name>-input-dlq when the user left it */
		unsigned max_len; /* 0 = unbounded */
	} dead_letter;
	struct {
		bool enabled;
		unsigned batch, window;
		size_t batch_bytes;
		char *start; /* "0" or "$" */
		enum config_on_ack on_ack;
		enum config_on_done on_done;
		int64_t idle_release_ms; /* 0 = the worker ends it */
		int64_t position_ttl_ms, poll_max_ms;
		struct {
			unsigned max_retries;
			int64_t initial_ms;
			unsigned factor;
			int64_t max_ms;
			unsigned jitter_pct;
		} retry;
		struct {
			char *stream;     /* never "": <name>-entries-dlq when the user left it */
			unsigned max_len; /* 0 = unbounded */
		} dead_letter;
	} entries;
};

struct config {
	struct {
		char *id;          /* resolved: node.id, else $POD_NAME, else $POD_IP, else the host name */
		bool id_is_chosen; /* node.id itself names it: the next process here will have the same */
	} node;
	struct {
		enum config_topology topology;
		struct {
			char *master;   /* the name the Sentinels know it by; not "" with CONFIG_TOPOLOGY_SENTINEL */
			char *username; /* at the Sentinels; "" = none */
			struct config_secret password;
		} sentinel;
		struct config_list endpoints; /* at least one: host:port, [v6]:port or unix:/path */
		unsigned db;
		char *username; /* "" = none */
		struct config_secret password;
		int64_t password_refresh_ms; /* 0 = connections that are up stay who they are */
		struct {
			bool enabled;
			char *ca_file, *cert_file, *key_file, *server_name; /* "" = none */
		} tls;
		int64_t connect_timeout_ms, command_timeout_ms;
		struct {
			int64_t initial_ms, max_ms;
		} reconnect;
		enum config_keyspace keyspace_events;
		int64_t topology_refresh_ms;
		bool fail_fast;
	} redis;
	struct config_service *services;
	size_t n_services; /* at least 1 */
	struct {
		char *socket;
		unsigned mode;
		char *group;                   /* "" = leave; exists at load time */
		struct config_uids allow_uids; /* empty = whoever the mode lets in */
		unsigned max_sessions;
		size_t max_frame_bytes, write_buffer_bytes;
		int64_t hello_timeout_ms;
		int64_t ping_every_ms; /* derived: a third of the shortest lease */
		int64_t resume_grace_ms;
		int64_t progress_timeout_ms; /* 0 = off */
	} workers;
	struct {
		char *socket;
		unsigned mode;
		char *group;
	} control;
	struct {
		enum config_maintenance mode;
		char *endpoint_type; /* auto, internal-ip, internal-fqdn, external-ip, external-fqdn or none */
		int64_t relaxed_timeout_ms, relaxed_cap_ms, post_handoff_relaxed_ms, handoff_timeout_ms;
		unsigned max_handoff_retries, max_concurrent_handoffs;
		unsigned handoff_queue; /* 0 = one place per connection */
		struct {
			unsigned failures;
			int64_t reset_ms;
			unsigned half_open;
		} circuit_breaker;
	} maintenance;
	struct {
		char *listen; /* "" = off, else 127.0.0.1:9438, [::1]:9438 or unix:/path */
	} metrics;
	struct {
		enum config_shutdown mode;
		int64_t drain_timeout_ms;
	} shutdown;
	struct {
		enum log_level level;
		enum log_format format;
	} log;
	struct raw *raw; /* what was written where; private to config/ */
};

/* Reads path and the process's SLUICED_ variables. Success: *out is the caller's, config_free ends it. Failure: *out is
 * untouched and err is one line, "file:line:column: key.path: problem" or "environment: NAME: key.path: problem".
 * ERR_NOT_FOUND, ERR_DENIED, ERR_IO: the file; ERR_INVALID, ERR_RANGE: what is in it; ERR_MEMORY: over 1 MiB. */
enum err_code config_load(const char *path, struct config **out, struct err *err);
/* The same from memory. name stands for the file in messages; env is like environ, or NULL for none. */
enum err_code config_load_bytes(
	const char *name, const char *bytes, size_t len, char *const *env, struct config **out, struct err *err);
/* err's sentence begins with a setting's path, "redis.password.file: ", as those of config_password do: puts before it
 * where that was written, as config_load's errors have it. Not for settings of services. Returns err's code. */
enum err_code config_place(const struct config *c, struct err *err);
/* NULL is fine. A password handed out before is its taker's. */
void config_free(struct config *c);
/* The exit status of a daemon that could not load: 66, 77, 78, or 71 for what the system did. */
int config_exit_status(enum err_code code);

/* Appends effective values as YAML that loads to an equal config, the origin of each as a comment; secrets as ***. */
void config_dump(const struct config *c, struct buf *out);
/* Appends every setting with its default, range, reload class and help. Loads once a service has a name. */
void config_print_defaults(struct buf *out);

/* The Redis password: *out is NULL when none is configured, else secret_keep's (secret_drop it).
 * Reads the file or credential each time; a variable once: its value is wiped from the environment and remembered.
 * One thread. ERR_NOT_FOUND, ERR_DENIED, ERR_IO, ERR_INVALID. */
enum err_code config_password(const struct config *c, const char **out, struct err *err);
/* Likewise, at the Sentinels. */
enum err_code config_sentinel_password(const struct config *c, const char **out, struct err *err);

struct config_change {
	char *path;           /* "log.level", "services[orders].lease.ttl", "services[orders]" for a whole one */
	char *before, *after; /* as in YAML; NULL = the service was not there */
	bool needs_restart;   /* false: applies live */
};
/* Everything that differs between two configs; services are matched by name. *list is the caller's (NULL when 0). */
size_t config_diff(const struct config *before, const struct config *after, struct config_change **list);
/* n changes and the list. */
void config_changes_free(struct config_change *list, size_t n);

/* How many leases of the service one core renews in time although others use it too: with a tenth of the core, between
 * a renewal's turn and the moment work would be stopped. At least 1. s: of a loaded config. */
unsigned config_leases_per_core(const struct config_service *s);

/* A service's name that is probably its stream's: "orders-input" reads orders-input-input. False: it is not; else the
 * sentence. i: below n_services. */
enum { CONFIG_ODD_NAME = 400 };
/* Does the i-th service's name end like a key of ours ("x-input")? Then out says so. */
bool config_odd_name(const struct config *c, size_t i, char out[static CONFIG_ODD_NAME]);
