/* conn_p - the record of one connection, shared by conn.c (life), dial.c (resolve, connect), race.c (several
 * addresses), handshake.c and command.c (commands, replies, deadlines). Nobody else includes it.
 *
 *   WAITING -> RESOLVING -> CONNECTING -> SECURING -> GREETING -> UP
 *      ^                                                          |
 *      +---- DROPPED <--- any failure of the five to the right ---+        any -> CLOSED
 */
#pragma once
#include "base/heap.h"
#include "base/list.h"
#include "base/rng.h"
#include "io/redis/attributes.h"
#include "io/redis/conn.h"
#include "io/redis/reply_memory.h"
#include "io/redis/wire.h"

enum conn_state {
	CONN_WAITING,    /* for retry_at; MONO_NEVER = for redis_retry */
	CONN_RESOLVING,  /* for the look-up, until dial.deadline */
	CONN_CONNECTING, /* for one address, until dial.step_deadline */
	CONN_SECURING,   /* for TLS, until dial.deadline */
	CONN_GREETING,   /* for an answer of the handshake, until dial.deadline */
	CONN_UP,
	CONN_DROPPED, /* for the idle handle, which tells the owner */
	CONN_CLOSED   /* for the idle handle, which tells the last NULLs, and for the handles to close */
};

enum { CONN_N_STATES = CONN_CLOSED + 1 };

enum redis_cmd_kind {
	REDIS_CMD_USER,
	REDIS_CMD_ASKING,
	REDIS_CMD_PING,
	REDIS_CMD_REAUTH,
	REDIS_CMD_HELLO,
	REDIS_CMD_AUTH,
	REDIS_CMD_SETNAME,
	REDIS_CMD_SELECT,
	REDIS_CMD_MAINT,
	REDIS_CMD_ID
};

struct redis_cmd {
	struct link link;
	struct heap_node deadline;
	uint64_t tag;
	mono_ms sent_at;
	enum redis_cmd_kind kind;
	int n_confirms; /* of a (P)SUBSCRIBE: pushes until it is done; 0 = an ordinary command */
	char name[32];
};

struct race;
struct lookup; /* one uv_getaddrinfo; outlives the connection when it hangs */

/* Its handles in the loop; the memory goes when the last one is closed. */
struct conn_handles {
	uv_timer_t timer;     /* every deadline */
	uv_idle_t idle;       /* the end of a round: NULL replies, on_down */
	uv_prepare_t prepare; /* just before the loop waits: flush, and the timer */
	int n_open;
};

/* Who we say we are, and how. Owned. */
struct conn_login {
	struct redis_tls *tls;
	char *username, *client_name, *maint_type;
	const char *password; /* secret_keep's */
	bool has_changed;     /* while greeting */
	mono_ms again_by;     /* AUTH waits until nothing is waited for; 0 = it does not */
};

/* Who is told. */
struct conn_owner {
	struct redis_events ev;
	redis_reply_fn *on_reply;
	void *arg;
};

/* One attempt after the other to reach the endpoint: dial.c, race.c. */
struct conn_dial {
	mono_ms deadline, step_deadline;
	mono_ms limit_ms, ms; /* the next attempt's time, 0 = connect_ms; the present one's */
	struct lookup *lookup;
	struct sockaddr_storage *addrs; /* all of the name */
	int n_addrs, i_addr;
	int first_addr;    /* which of the resolver's list comes first: an attempt begins where the last one failed */
	struct race *race; /* several addresses are being tried; NULL = no */
	struct redis_conn *racer_of; /* this one tries an address for another */
	enum conn_state reached;     /* of the present attempt, or of the one that has ended */
};

/* What the server said of itself in the handshake. */
struct conn_server {
	int resp;
	int64_t client_id;
	bool is_valkey, is_in_cluster;
	enum redis_maint_state maint;
};

/* Bytes -> replies: command.c. */
struct conn_parser {
	redisReader *reader; /* NULL = no connection, or it has ended */
	struct reply_memory *memory;
	struct attributes attributes;
	size_t n_bytes; /* of the reply that is under way */
	bool is_running;
};

/* Commands and who waits for what: command.c. n_: lengths of the lists. */
struct conn_queue {
	struct link pending; /* in the order of their replies */
	struct heap deadlines;
	size_t n_in_flight;
	struct link dead; /* to be answered with NULL */
	size_t n_dead;
	struct link spare; /* memory of commands that were answered, for the next ones */
	size_t n_spare;
};

/* For how long it may be silent. */
struct conn_watch {
	mono_ms up_at, heard_at;
	mono_ms silent_ms, left_at; /* it was left: how long it may be silent, 0 = as long as it likes; since when */
	mono_ms relaxed_until, relaxed_ms;
	int n_looks; /* second looks at the socket before a deadline counts */
	bool has_heard;
};

/* When it is dialled again after a failure: conn.c. */
struct conn_retry {
	mono_ms at, backoff; /* MONO_NEVER = when the owner says so */
	bool at_once;        /* the owner has ended it to dial anew */
};

struct redis_conn {
	uv_loop_t *loop;
	struct conn_handles handles;
	struct rng rng;

	/* what was asked for */
	struct redis_opts opts; /* its pointers are not used after redis_open */
	struct redis_addr addr; /* dialled; opts.addr = configured */
	char endpoint[300];     /* addr as text */
	struct conn_login login;
	struct conn_owner owner;

	/* the attempt, or the connection */
	enum conn_state state;
	struct conn_dial dial;
	struct wire *wire;
	struct conn_parser parser;
	struct conn_server server;
	uint64_t without_opt_in[2]; /* hashes of endpoints where an attempt ended at the opt-in; 0 = none */
	struct conn_queue queue;
	struct conn_watch watch;

	/* the end of it, and the next one */
	struct err down;
	bool was_up;
	struct conn_retry retry;
};

/* conn.c */
void conn_move(struct redis_conn *c, enum conn_state to);
void conn_flush_soon(struct redis_conn *c); /* what was sent goes out, in one write, before the loop waits */
void conn_kick(struct redis_conn *c);       /* the idle handle runs at the end of this round */
void conn_rearm(struct redis_conn *c);      /* the timer, after any change of a deadline */
/* Ends the attempt or the connection: the sentence gets the endpoint in front. Does nothing when it has ended
 * already. */
void conn_fail(struct redis_conn *c, enum err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The handshake is over: commands that wait are sent, then on_up is called. */
void conn_up(struct redis_conn *c);

/* dial.c */
void dial_start(struct redis_conn *c);
void dial_forget_lookup(struct redis_conn *c); /* its result is not wanted any more */
/* race.c: an attempt at a name with several addresses */
void race_start(struct redis_conn *c);
void race_next(struct redis_conn *c);    /* the next address's turn */
void race_expired(struct redis_conn *c); /* the attempt's time is up */
void race_adopt(struct redis_conn *c);   /* the end of a round: if one has won, its socket is ours */
void race_end(struct redis_conn *c);     /* closes those that are left; no race: nothing */
void race_set_auth(struct redis_conn *c, const char *username, const char *password);

void dial_end(struct redis_conn *c); /* the attempt, or the connection, is over */

/* handshake.c */
void handshake_start(struct redis_conn *c);
/* An answer to a command of the handshake: the next one, or it is up, or it fails. */
void handshake_reply(struct redis_conn *c, enum redis_cmd_kind kind, const redisReply *r);
/* What kind of addresses the server is asked to announce, by how it was dialled. */
const char *handshake_endpoint_type(const struct redis_conn *c);
/* The command of the handshake that waits for its answer; NULL = none does. */
const char *handshake_waits_for(const struct redis_conn *c);
/* An attempt ends: at the opt-in, the next one at this endpoint goes without. */
void handshake_ended(struct redis_conn *c);
/* AUTH on a connection that is up: now if nothing is waited for, else when that is so, for connect_ms at most.
 * Redis 8.0 does not answer an AUTH that it refuses after a command that has blocked: every reply after it would
 * belong to another command. */
void handshake_reauth(struct redis_conn *c);

/* command.c */
struct redis_cmd *command_new(struct redis_conn *c, enum redis_cmd_kind kind, uint64_t tag, int argc, const char **argv,
	const size_t *argvlen);
/* Takes cmd; needs a wire. */
void command_send(struct redis_conn *c, struct redis_cmd *cmd, int argc, const char **argv, const size_t *argvlen,
	mono_ms deadline);
/* Our own command, words up to NULL. */
void command_own(struct redis_conn *c, enum redis_cmd_kind kind, mono_ms deadline, const char **words);
void command_parser_begin(struct redis_conn *c);                           /* for a new connection */
void command_parser_end(redisReader *reader, struct reply_memory *memory); /* NULL is fine */
void command_bytes(void *conn, const char *bytes, size_t len);             /* wire_events.on_bytes */
void command_kill_all(struct redis_conn *c);                               /* pending -> dead */
void command_free_spare(struct redis_conn *c);
void redis_fail_all_dead(struct redis_conn *c, bool tell);      /* those dead now get their NULL */
void command_kill(struct redis_conn *c, struct redis_cmd *cmd); /* one that was never sent -> dead */
