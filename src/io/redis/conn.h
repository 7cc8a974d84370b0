/* io/redis/conn - one connection to one Redis endpoint that is reopened for ever. RESP3 (RESP2 where the server has
 * none), plain, TLS or unix socket. hiredis parses the replies; the socket, TLS and the order of replies are ours on
 * libuv (wire.h says why). Owner: one loop thread. No policy besides: resolve, connect, handshake, deadlines,
 * reconnect with jittered backoff.
 *
 * Happy path: resolve (uv_getaddrinfo) -> connect (several addresses: a race) -> [TLS] -> HELLO 3 [AUTH] SETNAME ->
 * SELECT -> [CLIENT
 * MAINT_NOTIFICATIONS …] -> [CLIENT ID] -> on_up -> commands, replies in order.
 * Failure: any handshake error or a command past its deadline closes the socket: every pending command gets its
 * reply callback with NULL (in order), then on_down, then a reconnect after backoff.
 * Callbacks never run inside a call of the owner (replies to a send on a dead connection come in a later round). */
#pragma once
#include "base/err.h"
#include "base/mono.h"
#include <hiredis/hiredis.h>
#if HIREDIS_MAJOR * 10000 + HIREDIS_MINOR * 100 < 10200
#error "hiredis 1.2.0 or newer is needed (RESP3)"
#endif
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct redis_conn;

/* TLS material shared by many connections; reference counted, replaced at reload. Thread-safe to reference
 * (SSL_CTX up-ref). */
struct redis_tls;
struct redis_tls_files {
	const char *ca_file, *cert_file, *key_file; /* "" = system CAs / no client certificate */
	const char *server_name;                    /* "" = the name that is dialled */
};
/* ERR_INVALID / ERR_NOT_FOUND / ERR_DENIED with a sentence naming the file. */
enum err_code redis_tls_new(const struct redis_tls_files *files, struct redis_tls **out, struct err *err);
bool redis_tls_same_files(const struct redis_tls *a, const struct redis_tls *b); /* by what was in them */
struct redis_tls *redis_tls_ref(struct redis_tls *t);
void redis_tls_unref(struct redis_tls *t); /* NULL is fine */

/* Where to dial: "host:port", "[v6]:port" or "unix:/path". */
struct redis_addr {
	char host[256]; /* path for unix */
	uint16_t port;  /* 0 = unix */
};
/* Accepts host:port, [v6]:port, unix:/path. ERR_INVALID with a sentence. */
enum err_code redis_addr_parse(const char *text, struct redis_addr *out, struct err *err);
/* "host:port", "[v6]:port" or "unix:path", cut to cap. */
void redis_addr_format(const struct redis_addr *a, char *out, size_t cap);

enum redis_maint { REDIS_MAINT_OFF, REDIS_MAINT_AUTO, REDIS_MAINT_REQUIRED };

/* What became of it on the present connection. */
enum redis_maint_state { REDIS_MAINT_UNASKED, REDIS_MAINT_ON, REDIS_MAINT_REFUSED };

struct redis_times {
	mono_ms connect_ms; /* for resolve + connect + TLS + whole handshake */
	mono_ms backoff_initial_ms, backoff_max_ms;
	mono_ms ping_idle_ms; /* PING when nothing was received for that long; 0 = off */
};

struct redis_opts {
	struct redis_addr addr;
	struct redis_tls *tls;                         /* NULL = plain; referenced by the connection */
	const char *username, *password, *client_name; /* copied; "" = none */
	int db;                                        /* SELECT when > 0 */
	struct redis_times times;
	enum redis_maint maint;
	const char *maint_endpoint_type; /* "internal-ip" …; "auto" = derived from addr and peer */
	size_t max_reply_elements;       /* of one array; all arrays of a reply: 16 times as many */
	size_t max_reply_bytes;          /* of one reply or push, 0 = any */
	bool is_subscriber;              /* only (P)SUBSCRIBE is sent on it; messages go to on_push */
	bool stay_down;                  /* do not reconnect by itself: after on_down it waits for redis_retry */
};

struct redis_events {
	void (*on_up)(void *arg, struct redis_conn *c);
	/* why: one clear sentence with the server's own words. was_up: false = this attempt never reached on_up. */
	void (*on_down)(void *arg, struct redis_conn *c, const struct err *why, bool was_up);
	/* Every RESP3 push incl. pubsub messages (RESP2 subscriptions are turned into the same array shape). reply
	 * is the library's: valid during the call. May come before on_up. */
	void (*on_push)(void *arg, struct redis_conn *c, const redisReply *reply);
};
/* Exactly once for each redis_send. reply NULL = the connection ended before an answer came. tag is the caller's.
 * An error reply is a reply, not a failure of the connection. A (P)SUBSCRIBE is answered when all its
 * confirmations have come (each went to on_push before), with the last of them. */
typedef void redis_reply_fn(void *arg, uint64_t tag, const redisReply *reply);

/* Dials now, and again after each loss with a growing pause, until redis_close. opts and ev are copied; arg goes to
 * every callback. Callbacks run on the loop's thread, not before this has returned. */
struct redis_conn *redis_open(uv_loop_t *loop, const struct redis_opts *opts, const struct redis_events *ev,
	redis_reply_fn *on_reply, void *arg);
/* Ends it: pending commands get NULL in a later round, no on_down; memory is freed by itself. The pointer is dead
 * for the caller, callbacks still name `arg` until all NULLs came unless `silent`: one that waits for those may close
 * it again, silently then. */
void redis_close(struct redis_conn *c, bool silent);
/* Queues one command. deadline MONO_NEVER = none (blocking reads, subscriptions). Not up: the reply is NULL in a
 * later round. argv is copied before the call returns. */
void redis_send(
	struct redis_conn *c, uint64_t tag, int argc, const char **argv, const size_t *argvlen, mono_ms deadline);
/* The same command after ASKING (both are sent back to back). */
void redis_send_asking(
	struct redis_conn *c, uint64_t tag, int argc, const char **argv, const size_t *argvlen, mono_ms deadline);
/* What waits for an answer waits no longer than until `at`, and no longer than silent_ms after something was heard
 * last (0 = as long); nothing more is sent on it by itself (no PING). */
void redis_leave(struct redis_conn *c, mono_ms at, mono_ms silent_ms);
/* Has it been through its handshake, and is not lost? */
bool redis_is_up(const struct redis_conn *c);
int redis_resp(const struct redis_conn *c);           /* 3 or 2 */
int64_t redis_client_id(const struct redis_conn *c);  /* from CLIENT ID, -1 unknown */
bool redis_is_valkey(const struct redis_conn *c);     /* HELLO says so */
bool redis_is_in_cluster(const struct redis_conn *c); /* HELLO says so; false: it does not, or is not known */
const struct redis_addr *redis_addr_of(const struct redis_conn *c);
/* "ip:port" ("[v6]:port") of who answers now; "" while nobody does, and for a unix socket. */
void redis_peer(const struct redis_conn *c, char *out, size_t cap);
/* Whether the server tells of maintenance over it. */
enum redis_maint_state redis_maint(const struct redis_conn *c);
/* Its last attempt ended at the opt-in: with REDIS_MAINT_AUTO the next one at this address does without. */
bool redis_ended_at_opt_in(const struct redis_conn *c);
/* REDIS_MAINT_AUTO: the next attempt at its present address does without the opt-in. */
void redis_skip_opt_in(struct redis_conn *c);
/* The moving-endpoint-type it asks for: opts.maint_endpoint_type, or what "auto" came to. For the replacement of a
 * moved connection, whose own address must not decide. Static or the connection's text. */
const char *redis_endpoint_type(const struct redis_conn *c);
/* Drops the connection (pending NULL, on_down) and dials anew, without backoff; another address when addr is not
 * NULL. */
void redis_redial(struct redis_conn *c, const struct redis_addr *addr, const char *why);
/* The next attempt of one that waits dials addr at `at` (in the past = at once) and has limit_ms (0 = connect_ms). On
 * one that does not wait: redis_redial. */
void redis_dial_at(struct redis_conn *c, const struct redis_addr *addr, mono_ms at, mono_ms limit_ms);
void redis_retry(struct redis_conn *c); /* a waiting reconnect happens now; on one that is not waiting: nothing */
/* New credentials (copied): used from the next handshake on; when up, AUTH is sent now. A refusal is said and
 * costs nothing: the connection goes on as who it was, which is what the server does, too (a RESP2 subscriber
 * cannot ask: it does the same). */
void redis_set_auth(struct redis_conn *c, const char *username, const char *password);
/* Likewise, but one that is up stays who it is; one whose last attempt was refused for them tries again at once. */
void redis_set_next_auth(struct redis_conn *c, const char *username, const char *password);
void redis_set_tls(struct redis_conn *c, struct redis_tls *tls); /* from the next attempt on */
/* From now on; an attempt under way keeps its deadline, a pause before the next is cut to the longest one. */
void redis_set_times(struct redis_conn *c, const struct redis_times *times);
/* Likewise; endpoint_type as in the options (copied), NULL = as it is. */
void redis_set_maint(struct redis_conn *c, enum redis_maint mode, const char *endpoint_type);
/* A relaxed window: what waits for an answer, an attempt to connect, and every PING until `until` get at least
 * timeout_ms; nothing is ever shortened. Commands to come have their own deadlines. until 0 ends it. */
void redis_relax(struct redis_conn *c, mono_ms until, mono_ms timeout_ms);
