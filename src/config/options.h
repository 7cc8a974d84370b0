/* options - the one table of settings. Loader, checks, dump, defaults, reload diff and manual all come from it.
 * Pure; any thread. A new setting is a row here, a field in config.h, an entry in sluiced.yaml(5) and a test. */
#pragma once
#include "base/buf.h"
#include "config/config.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_type {
	OPTION_BOOL,
	OPTION_DURATION,  /* int64_t ms */
	OPTION_SIZE,      /* size_t bytes */
	OPTION_PERCENT,   /* unsigned */
	OPTION_INT,       /* unsigned */
	OPTION_STRING,    /* char *, lo..hi bytes */
	OPTION_PATH,      /* char *, absolute or "", at most hi bytes */
	OPTION_SECRET,    /* char *, says where a secret is */
	OPTION_ENUM,      /* an enum whose values are the words' positions */
	OPTION_WORD,      /* char *, one of the words */
	OPTION_MODE,      /* unsigned, octal */
	OPTION_ENDPOINTS, /* struct config_list, lo..hi items */
	OPTION_UIDS       /* struct config_uids, lo..hi items */
};

enum option_class { OPTION_LIVE, OPTION_RESTART };

struct option {
	const char *path;    /* "redis.tls.enabled"; "services[].lease.ttl" for each service's */
	const char *initial; /* the default as text; lists with commas */
	const char *words;   /* ENUM, WORD: "a|b|c" */
	const char *zero;    /* what 0 or "" means although it is outside lo..hi, or NULL */
	const char *help;    /* one line */
	int64_t lo, hi;      /* ms, bytes, items, or length of a text */
	size_t field;        /* offset in struct config, or struct config_service */
	enum option_type type;
	enum option_class class;
};

#define MS(n) ((int64_t)(n))
#define SEC(n) ((int64_t)(n)*1000)
#define MIN(n) ((int64_t)(n)*60000)
#define HOUR(n) ((int64_t)(n)*3600000)
#define KIB(n) ((int64_t)(n)*1024)
#define MIB(n) ((int64_t)(n)*1048576)

/* G = once, S = in each service: id, path, type, field, default, lo, hi, words, meaning of zero, class, help.
 * Rows are in the order of the file; rows of one map stand together. */
#define OPTIONS(G, S)                                                                                                  \
	G(NODE_ID, "node.id", STRING, node.id, "", 1, 128, NULL, "$POD_NAME, else $POD_IP, else the host name",        \
		RESTART, "name of this daemon among the others; two daemons never share one")                          \
	G(REDIS_TOPOLOGY, "redis.topology", ENUM, redis.topology, "auto", 0, 0, "auto|standalone|cluster|sentinel",    \
		NULL, RESTART, "what kind of Redis the endpoints are; auto asks")                                      \
	G(REDIS_SENTINEL_MASTER, "redis.sentinel.master", STRING, redis.sentinel.master, "", 1, 128, NULL, "none",     \
		RESTART, "the name the Sentinels know the master by; topology sentinel only")                          \
	G(REDIS_SENTINEL_USERNAME, "redis.sentinel.username", STRING, redis.sentinel.username, "", 0, 256, NULL, NULL, \
		RESTART, "ACL user at the Sentinels; empty is the default user")                                       \
	G(REDIS_SENTINEL_PASSWORD_FILE, "redis.sentinel.password.file", SECRET, redis.sentinel.password.file, "", 0,   \
		4096, NULL, NULL, RESTART, "file with the password at the Sentinels; read again for each connection")  \
	G(REDIS_SENTINEL_PASSWORD_CREDENTIAL, "redis.sentinel.password.credential", SECRET,                            \
		redis.sentinel.password.credential, "", 0, 255, NULL, NULL, RESTART,                                   \
		"name of a systemd credential with it")                                                                \
	G(REDIS_SENTINEL_PASSWORD_ENV, "redis.sentinel.password.env", SECRET, redis.sentinel.password.env, "", 0, 255, \
		NULL, NULL, RESTART, "name of an environment variable with it")                                        \
	G(REDIS_ENDPOINTS, "redis.endpoints", ENDPOINTS, redis.endpoints, "127.0.0.1:6379", 1, 64, NULL, NULL,         \
		RESTART, "where to dial first: host:port, [v6]:port or unix:/path")                                    \
	G(REDIS_DB, "redis.db", INT, redis.db, "0", 0, 65535, NULL, NULL, RESTART, "database number, standalone only") \
	G(REDIS_USERNAME, "redis.username", STRING, redis.username, "", 0, 256, NULL, NULL, LIVE,                      \
		"ACL user; empty is the default user")                                                                 \
	G(REDIS_PASSWORD_FILE, "redis.password.file", SECRET, redis.password.file, "", 0, 4096, NULL, NULL, LIVE,      \
		"file with the password; one newline at its end is dropped; read again on reload, "                    \
		"and each second for the next connections")                                                            \
	G(REDIS_PASSWORD_CREDENTIAL, "redis.password.credential", SECRET, redis.password.credential, "", 0, 255, NULL, \
		NULL, LIVE, "name of a systemd credential: the file of that name in $CREDENTIALS_DIRECTORY")           \
	G(REDIS_PASSWORD_ENV, "redis.password.env", SECRET, redis.password.env, "", 0, 255, NULL, NULL, LIVE,          \
		"name of an environment variable with the password; one newline at its end is dropped")                \
	G(REDIS_PASSWORD_REFRESH, "redis.password.refresh", DURATION, redis.password_refresh_ms, "0", SEC(1),          \
		HOUR(24), NULL, "never", LIVE,                                                                         \
		"so often connections that are up log in anew when the file has changed: before the old one expires")  \
	G(REDIS_TLS_ENABLED, "redis.tls.enabled", BOOL, redis.tls.enabled, "false", 0, 1, NULL, NULL, RESTART,         \
		"dial Redis over TLS; the server's name is always verified")                                           \
	G(REDIS_TLS_CA_FILE, "redis.tls.ca_file", PATH, redis.tls.ca_file, "", 0, 4096, NULL, "the system's", LIVE,    \
		"certificate authorities to trust")                                                                    \
	G(REDIS_TLS_CERT_FILE, "redis.tls.cert_file", PATH, redis.tls.cert_file, "", 0, 4096, NULL, "none", LIVE,      \
		"client certificate; needs key_file")                                                                  \
	G(REDIS_TLS_KEY_FILE, "redis.tls.key_file", PATH, redis.tls.key_file, "", 0, 4096, NULL, "none", LIVE,         \
		"key of the client certificate; needs cert_file")                                                      \
	G(REDIS_TLS_SERVER_NAME, "redis.tls.server_name", STRING, redis.tls.server_name, "", 1, 253, NULL,             \
		"the name that is dialled", LIVE, "name the server's certificate must carry")                          \
	G(REDIS_CONNECT_TIMEOUT, "redis.connect_timeout", DURATION, redis.connect_timeout_ms, "5s", MS(10), MIN(10),   \
		NULL, NULL, LIVE, "time for look-up, connection, TLS and handshake together")                          \
	G(REDIS_COMMAND_TIMEOUT, "redis.command_timeout", DURATION, redis.command_timeout_ms, "3s", MS(10), MIN(10),   \
		NULL, NULL, LIVE, "time for one command; unless set, shortened for services with short leases")        \
	G(REDIS_RECONNECT_INITIAL, "redis.reconnect.initial", DURATION, redis.reconnect.initial_ms, "100ms", MS(1),    \
		MIN(10), NULL, NULL, LIVE, "first pause before dialling again; doubles, jittered, for ever")           \
	G(REDIS_RECONNECT_MAX, "redis.reconnect.max", DURATION, redis.reconnect.max_ms, "5s", MS(1), MIN(10), NULL,    \
		NULL, LIVE, "longest such pause")                                                                      \
	G(REDIS_KEYSPACE_EVENTS, "redis.keyspace_events", ENUM, redis.keyspace_events, "merge", 0, 0,                  \
		"merge|require|off", NULL, RESTART,                                                                    \
		"expiry events: switch on where missing, insist on them, or do without")                               \
	G(REDIS_TOPOLOGY_REFRESH, "redis.topology_refresh", DURATION, redis.topology_refresh_ms, "30s", MS(100),       \
		HOUR(24), NULL, NULL, LIVE, "how often the topology is asked for anew")                                \
	G(REDIS_FAIL_FAST, "redis.fail_fast", BOOL, redis.fail_fast, "false", 0, 1, NULL, NULL, RESTART,               \
		"exit with 69 when Redis cannot be reached at start, instead of trying on")                            \
	S(SERVICE_NAME, "services[].name", STRING, name, "", 1, 128, NULL, NULL, LIVE,                                 \
		"required; names the keys in Redis: <name>-input, <name>-group")                                       \
	S(SERVICE_GROUP_START, "services[].group_start", WORD, group_start, "0", 0, 0, "0|$", NULL, LIVE,              \
		"where a consumer group that does not exist yet starts: 0 the oldest entry, $ new ones only")          \
	S(SERVICE_SAME_STREAM, "services[].same_stream", ENUM, same_stream, "serialize", 0, 0,                         \
		"serialize|allow|coalesce", NULL, LIVE,                                                                \
		"a second entry that names a running stream: wait for the first, run too, or merge with others that "  \
		"wait")                                                                                                \
	S(SERVICE_WAIT_REPLICAS, "services[].wait_replicas", INT, wait_replicas, "0", 1, 100, NULL, "no waiting",      \
		LIVE, "replicas that must have an outcome before the worker gets its ok")                              \
	S(SERVICE_WEIGHT, "services[].weight", INT, weight, "1", 1, 100, NULL, NULL, LIVE,                             \
		"share of free credits when several services want them, beside the others' weights")                   \
	S(SERVICE_MAX_STREAMS, "services[].max_streams", INT, max_streams, "10000", 1, 1000000, NULL, NULL, LIVE,      \
		"most streams this daemon holds at once")                                                              \
	S(SERVICE_READ_BATCH, "services[].read_batch", INT, read_batch, "128", 1, 10000, NULL, NULL, LIVE,             \
		"most entries one read asks for; never more than free credits")                                        \
	S(SERVICE_LEASE_TTL, "services[].lease.ttl", DURATION, lease.ttl_ms, "10s", SEC(2), HOUR(24), NULL, NULL,      \
		LIVE, "T: how long a stream stays ours without a renewal")                                             \
	S(SERVICE_LEASE_RENEW_EVERY, "services[].lease.renew_every", DURATION, lease.renew_every_ms, "0", MS(100),     \
		HOUR(12), NULL, "derived: ttl / 3", LIVE, "time between renewals; below half of ttl")                  \
	S(SERVICE_LEASE_STOP_MARGIN, "services[].lease.stop_margin", DURATION, lease.stop_margin_ms, "0", SEC(1),      \
		HOUR(24), NULL, "derived: ttl / 5, at least 1s", LIVE,                                                 \
		"how long before the end of an unrenewed lease its worker is told to stop")                            \
	S(SERVICE_RECOVERY_INTERVAL, "services[].recovery.interval", DURATION, recovery.interval_ms, "60s", MS(100),   \
		HOUR(24), NULL, NULL, LIVE, "time between scans for entries of dead owners")                           \
	S(SERVICE_RECOVERY_JITTER, "services[].recovery.jitter", PERCENT, recovery.jitter_pct, "10%", 0, 90, NULL,     \
		NULL, LIVE, "spread of that time")                                                                     \
	S(SERVICE_RECOVERY_MIN_IDLE, "services[].recovery.min_idle", DURATION, recovery.min_idle_ms, "30s", SEC(4),    \
		HOUR(168), NULL, NULL, LIVE,                                                                           \
		"a scan looks at entries idle for longer; at least 2 * ttl, raised to that unless set")                \
	S(SERVICE_RECOVERY_PAGE, "services[].recovery.page", INT, recovery.page, "100", 1, 10000, NULL, NULL, LIVE,    \
		"entries per step of a scan")                                                                          \
	S(SERVICE_RECOVERY_PROBE, "services[].recovery.probe", BOOL, recovery.probe, "true", 0, 1, NULL, NULL, LIVE,   \
		"read the locks of suspects when they should have expired; off: recovery waits for events and scans")  \
	S(SERVICE_RECOVERY_FORGET_CONSUMER, "services[].recovery.forget_consumer", DURATION,                           \
		recovery.forget_consumer_ms, "24h", SEC(1), HOUR(8760), NULL, "never", LIVE,                           \
		"a consumer that is idle for so long and has nothing is deleted from the group")                       \
	S(SERVICE_RETRY_MAX_RETRIES, "services[].retry.max_retries", INT, retry.max_retries, "3", 0, 1000000, NULL,    \
		NULL, LIVE, "counted retries of an entry before it becomes a dead letter")                             \
	S(SERVICE_RETRY_INITIAL, "services[].retry.initial", DURATION, retry.initial_ms, "1s", 0, HOUR(24), NULL,      \
		NULL, LIVE, "how long a failed entry waits before its first retry; 0: none waits")                     \
	S(SERVICE_RETRY_FACTOR, "services[].retry.factor", INT, retry.factor, "8", 1, 100, NULL, NULL, LIVE,           \
		"each further retry waits this many times as long")                                                    \
	S(SERVICE_RETRY_MAX, "services[].retry.max", DURATION, retry.max_ms, "5m", 0, HOUR(24), NULL, NULL, LIVE,      \
		"longest such wait, before jitter")                                                                    \
	S(SERVICE_RETRY_JITTER, "services[].retry.jitter", PERCENT, retry.jitter_pct, "20%", 0, 100, NULL, NULL, LIVE, \
		"up to this much is added to it, so that not all come back at once")                                   \
	S(SERVICE_RETRY_RELEASE_DELAY, "services[].retry.release_delay", DURATION, retry.release_delay_ms, "1s", 0,    \
		HOUR(24), NULL, NULL, LIVE, "how long an entry waits that its worker gave back; 0: at once")           \
	S(SERVICE_DEAD_LETTER_STREAM, "services[].dead_letter.stream", STRING, dead_letter.stream, "", 1, 512, NULL,   \
		"<name>-input-dlq", LIVE, "key of the dead letters")                                                   \
	S(SERVICE_DEAD_LETTER_MAX_LEN, "services[].dead_letter.max_len", INT, dead_letter.max_len, "10000", 1,         \
		1000000000, NULL, "unbounded", LIVE, "about how many dead letters are kept")                           \
	S(SERVICE_ENTRIES_ENABLED, "services[].entries.enabled", BOOL, entries.enabled, "false", 0, 1, NULL, NULL,     \
		LIVE, "entries mode: read the data streams here and hand their entries to workers, in order")          \
	S(SERVICE_ENTRIES_BATCH, "services[].entries.batch", INT, entries.batch, "100", 1, 10000, NULL, NULL, LIVE,    \
		"most entries in one frame")                                                                           \
	S(SERVICE_ENTRIES_BATCH_BYTES, "services[].entries.batch_bytes", SIZE, entries.batch_bytes, "256KiB", KIB(1),  \
		MIB(64), NULL, NULL, LIVE, "most bytes of them, but for a single larger entry")                        \
	S(SERVICE_ENTRIES_WINDOW, "services[].entries.window", INT, entries.window, "2", 1, 100, NULL, NULL, LIVE,     \
		"frames of a stream that may wait for acknowledgement")                                                \
	S(SERVICE_ENTRIES_START, "services[].entries.start", WORD, entries.start, "0", 0, 0, "0|$", NULL, LIVE,        \
		"where a stream without a position starts: 0 its oldest entry, $ new ones only")                       \
	S(SERVICE_ENTRIES_ON_ACK, "services[].entries.on_ack", ENUM, entries.on_ack, "keep", 0, 0, "keep|trim", NULL,  \
		LIVE, "acknowledged entries: keep them, or trim the stream")                                           \
	S(SERVICE_ENTRIES_ON_DONE, "services[].entries.on_done", ENUM, entries.on_done, "keep", 0, 0, "keep|delete",   \
		NULL, LIVE, "a finished stream with nothing unread: keep it, or delete it and its position")           \
	S(SERVICE_ENTRIES_IDLE_RELEASE, "services[].entries.idle_release", DURATION, entries.idle_release_ms, "0",     \
		MS(10), HOUR(168), NULL, "the worker ends it", LIVE, "a stream empty for so long is finished")         \
	S(SERVICE_ENTRIES_POSITION_TTL, "services[].entries.position_ttl", DURATION, entries.position_ttl_ms, "168h",  \
		SEC(1), HOUR(8760), NULL, NULL, LIVE, "how long the position of a finished stream is kept")            \
	S(SERVICE_ENTRIES_POLL_MAX, "services[].entries.poll_max", DURATION, entries.poll_max_ms, "5s", MS(5),         \
		MIN(10), NULL, NULL, LIVE,                                                                             \
		"longest pause between two polls of an empty stream; at most 250ms where the server pushes nothing")   \
	S(SERVICE_ENTRIES_MAX_RETRIES, "services[].entries.retry.max_retries", INT, entries.retry.max_retries, "3", 0, \
		1000000, NULL, NULL, LIVE, "retries of an entry before it becomes a dead letter")                      \
	S(SERVICE_ENTRIES_RETRY_INITIAL, "services[].entries.retry.initial", DURATION, entries.retry.initial_ms, "1s", \
		0, HOUR(24), NULL, NULL, LIVE, "pause before the first retry")                                         \
	S(SERVICE_ENTRIES_RETRY_FACTOR, "services[].entries.retry.factor", INT, entries.retry.factor, "8", 1, 100,     \
		NULL, NULL, LIVE, "each further pause is so many times longer")                                        \
	S(SERVICE_ENTRIES_RETRY_MAX, "services[].entries.retry.max", DURATION, entries.retry.max_ms, "5m", 0,          \
		HOUR(24), NULL, NULL, LIVE, "longest such pause")                                                      \
	S(SERVICE_ENTRIES_RETRY_JITTER, "services[].entries.retry.jitter", PERCENT, entries.retry.jitter_pct, "20%",   \
		0, 90, NULL, NULL, LIVE, "spread of those pauses")                                                     \
	S(SERVICE_ENTRIES_DEAD_LETTER_STREAM, "services[].entries.dead_letter.stream", STRING,                         \
		entries.dead_letter.stream, "", 1, 512, NULL, "<name>-entries-dlq", LIVE,                              \
		"key of the entries' dead letters")                                                                    \
	S(SERVICE_ENTRIES_DEAD_LETTER_MAX_LEN, "services[].entries.dead_letter.max_len", INT,                          \
		entries.dead_letter.max_len, "100000", 1, 1000000000, NULL, "unbounded", LIVE,                         \
		"about how many of them are kept")                                                                     \
	G(WORKERS_SOCKET, "workers.socket", PATH, workers.socket, "/run/sluiced/worker.sock", 2, 107, NULL, NULL,      \
		RESTART, "socket that workers connect to")                                                             \
	G(WORKERS_MODE, "workers.mode", MODE, workers.mode, "0660", 0600, 0777, NULL, NULL, RESTART,                   \
		"permissions of that socket")                                                                          \
	G(WORKERS_GROUP, "workers.group", STRING, workers.group, "", 1, 255, NULL, "the daemon's", RESTART,            \
		"group of that socket")                                                                                \
	G(WORKERS_ALLOW_UIDS, "workers.allow_uids", UIDS, workers.allow_uids, "", 0, 1024, NULL, NULL, LIVE,           \
		"user ids that may connect; empty: whoever the permissions let in")                                    \
	G(WORKERS_MAX_SESSIONS, "workers.max_sessions", INT, workers.max_sessions, "1024", 1, 100000, NULL, NULL,      \
		LIVE, "most workers connected at once")                                                                \
	G(WORKERS_MAX_FRAME, "workers.max_frame", SIZE, workers.max_frame_bytes, "1MiB", KIB(1), MIB(64), NULL, NULL,  \
		LIVE, "longest frame in either direction")                                                             \
	G(WORKERS_WRITE_BUFFER, "workers.write_buffer", SIZE, workers.write_buffer_bytes, "4MiB", KIB(4), MIB(1024),   \
		NULL, NULL, LIVE, "bytes a worker may leave unread before it is cut off")                              \
	G(WORKERS_HELLO_TIMEOUT, "workers.hello_timeout", DURATION, workers.hello_timeout_ms, "10s", MS(10), MIN(10),  \
		NULL, NULL, LIVE, "time until the first frame of a worker")                                            \
	G(WORKERS_PING_EVERY, "workers.ping_every", DURATION, workers.ping_every_ms, "0", MS(100), HOUR(24), NULL,     \
		"derived: shortest ttl / 3", LIVE, "time between pings; below the shortest ttl")                       \
	G(WORKERS_RESUME_GRACE, "workers.resume_grace", DURATION, workers.resume_grace_ms, "5s", 0, HOUR(24), NULL,    \
		NULL, LIVE,                                                                                            \
		"time for a dropped worker or restarted daemon to come back; below the shortest ttl, lowered to half " \
		"of it unless set")                                                                                    \
	G(WORKERS_PROGRESS_TIMEOUT, "workers.progress_timeout", DURATION, workers.progress_timeout_ms, "0", MS(100),   \
		HOUR(168), NULL, "off", LIVE, "a worker silent about a stream for that long loses it")                 \
	G(CONTROL_SOCKET, "control.socket", PATH, control.socket, "/run/sluiced/control.sock", 2, 107, NULL, NULL,     \
		RESTART, "socket that sluicectl connects to")                                                          \
	G(CONTROL_MODE, "control.mode", MODE, control.mode, "0660", 0600, 0777, NULL, NULL, RESTART,                   \
		"permissions of that socket")                                                                          \
	G(CONTROL_GROUP, "control.group", STRING, control.group, "", 1, 255, NULL, "the daemon's", RESTART,            \
		"group of that socket")                                                                                \
	G(MAINTENANCE_MODE, "maintenance.mode", ENUM, maintenance.mode, "auto", 0, 0, "disabled|enabled|auto", NULL,   \
		LIVE, "maintenance notifications: never, fail without them, or where the server has them")             \
	G(MAINTENANCE_ENDPOINT_TYPE, "maintenance.endpoint_type", WORD, maintenance.endpoint_type, "auto", 0, 0,       \
		"auto|internal-ip|internal-fqdn|external-ip|external-fqdn|none", NULL, LIVE,                           \
		"kind of address the server names as the new one")                                                     \
	G(MAINTENANCE_RELAXED_TIMEOUT, "maintenance.relaxed_timeout", DURATION, maintenance.relaxed_timeout_ms, "10s", \
		MS(100), MIN(10), NULL, NULL, LIVE, "command timeout while maintenance is announced")                  \
	G(MAINTENANCE_RELAXED_CAP, "maintenance.relaxed_cap", DURATION, maintenance.relaxed_cap_ms, "60s", MS(100),    \
		HOUR(1), NULL, NULL, LIVE, "end of relaxed timeouts when the closing notification never comes")        \
	G(MAINTENANCE_POST_HANDOFF_RELAXED, "maintenance.post_handoff_relaxed", DURATION,                              \
		maintenance.post_handoff_relaxed_ms, "20s", 0, HOUR(1), NULL, NULL, LIVE,                              \
		"how long timeouts stay relaxed after a handoff")                                                      \
	G(MAINTENANCE_HANDOFF_TIMEOUT, "maintenance.handoff_timeout", DURATION, maintenance.handoff_timeout_ms, "15s", \
		MS(100), MIN(10), NULL, NULL, LIVE,                                                                    \
		"time to open the new connection, and for what is in flight on the old one")                           \
	G(MAINTENANCE_MAX_HANDOFF_RETRIES, "maintenance.max_handoff_retries", INT, maintenance.max_handoff_retries,    \
		"3", 1, 10, NULL, NULL, LIVE, "attempts to open the new connection")                                   \
	G(MAINTENANCE_MAX_CONCURRENT_HANDOFFS, "maintenance.max_concurrent_handoffs", INT,                             \
		maintenance.max_concurrent_handoffs, "10", 1, 1000, NULL, NULL, LIVE, "handoffs in work at once")      \
	G(MAINTENANCE_HANDOFF_QUEUE, "maintenance.handoff_queue", INT, maintenance.handoff_queue, "0", 1, 100000,      \
		NULL, "one per connection", LIVE, "handoffs that may wait")                                            \
	G(MAINTENANCE_CIRCUIT_BREAKER_FAILURES, "maintenance.circuit_breaker.failures", INT,                           \
		maintenance.circuit_breaker.failures, "5", 1, 1000, NULL, NULL, LIVE,                                  \
		"failures in a row that open the breaker of an endpoint")                                              \
	G(MAINTENANCE_CIRCUIT_BREAKER_RESET, "maintenance.circuit_breaker.reset", DURATION,                            \
		maintenance.circuit_breaker.reset_ms, "60s", MS(100), HOUR(1), NULL, NULL, LIVE,                       \
		"time until an open breaker lets an attempt through")                                                  \
	G(MAINTENANCE_CIRCUIT_BREAKER_HALF_OPEN, "maintenance.circuit_breaker.half_open", INT,                         \
		maintenance.circuit_breaker.half_open, "3", 1, 100, NULL, NULL, LIVE,                                  \
		"successes in a row that close it again")                                                              \
	G(METRICS_LISTEN, "metrics.listen", STRING, metrics.listen, "", 1, 255, NULL, "off", LIVE,                     \
		"where /metrics, /livez and /readyz are served: 127.0.0.1:9438, [::1]:9438 or unix:/path")             \
	G(SHUTDOWN_MODE, "shutdown.mode", ENUM, shutdown.mode, "auto", 0, 0, "auto|handover|drain", NULL, LIVE,        \
		"leave leases for the next process, or finish work and give the rest back; auto knows if one comes")   \
	G(SHUTDOWN_DRAIN_TIMEOUT, "shutdown.drain_timeout", DURATION, shutdown.drain_timeout_ms, "60s", MS(100),       \
		HOUR(24), NULL, NULL, LIVE, "longest drain")                                                           \
	G(LOG_LEVEL, "log.level", ENUM, log.level, "info", 0, 0, "error|warn|notice|info|debug", NULL, LIVE,           \
		"least important messages that are written")                                                           \
	G(LOG_FORMAT, "log.format", ENUM, log.format, "auto", 0, 0, "auto|journal|text|json", NULL, LIVE,              \
		"auto: journal under systemd, else text")

#define OPTION_ID(id, ...) OPT_##id,
enum option_id { OPTIONS(OPTION_ID, OPTION_ID) N_OPTIONS };
#undef OPTION_ID

enum {
	N_SERVICE_OPTIONS = OPT_SERVICE_ENTRIES_DEAD_LETTER_MAX_LEN - OPT_SERVICE_NAME + 1,
	OPTION_MAX_SERVICES = 256, /* as many as the core has places, see run/reload.c */
	OPTION_MAX_PATH = 64       /* longest path, with room */
};

extern const struct option options[N_OPTIONS];

static inline bool option_is_service(enum option_id id)
{
	return id >= OPT_SERVICE_NAME && id <= OPT_SERVICE_ENTRIES_DEAD_LETTER_MAX_LEN;
}

static inline bool option_is_list(enum option_id id)
{
	return options[id].type == OPTION_ENDPOINTS || options[id].type == OPTION_UIDS;
}

enum option_kind { OPTION_KIND_NONE, OPTION_KIND_VALUE, OPTION_KIND_LIST, OPTION_KIND_MAP, OPTION_KIND_SERVICES };

struct option_child {
	enum option_kind kind;
	enum option_id first; /* the row itself, or the first row below the map */
};

/* What `key` is inside the map `prefix` ("" = the document, else with its closing dot: "redis.tls."). */
struct option_child option_child(const char *prefix, const char *key, size_t len);
/* The key of that map that looks most like `key`, or NULL. Writes it into out. */
const char *option_suggest(const char *prefix, const char *key, size_t len, char out[static OPTION_MAX_PATH]);
/* The path of a key of that name wherever it is, services[].lease of "lease", or NULL. Writes it into out. */
const char *option_elsewhere(const char *key, size_t len, char out[static OPTION_MAX_PATH]);
/* Which of the words in "a|b|c" is text: its position, or -1. */
int option_word(const char *words, const char *text);
/* The word that looks most like text, or NULL. */
const char *option_suggest_word(const char *words, const char *text, char out[static OPTION_MAX_PATH]);
/* For errors: "duration", "integer", … Static. */
const char *option_type_name(const struct option *o);
const char *option_class_name(const struct option *o); /* "live" or "restart" */
/* Appends "10ms..10m", "1..128 bytes", "a | b", … and what zero means. */
void option_range(const struct option *o, struct buf *out);
