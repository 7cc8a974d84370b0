/* world - daemons, masters and workers in one process on one clock, driven by one seed.
 * The daemons are the real core/coord and core/shard. They take their turns by run/perform, as the daemon's threads do; what those ask
 * for the world does, over connections and mailboxes that delay, and break, as it likes. Redis is lib/model_redis, one per master.
 * Everything that happens is an event in one heap: time << 24 | order, so a run is the same every time.
 *
 * Failures are noted, not asserted: the first one ends the run; the caller looks at world.failed. */
#pragma once
#include "base/buf.h"
#include "base/heap.h"
#include "base/list.h"
#include "base/rng.h"
#include "core/coord/coord.h"
#include "core/coord/coord_p.h"
#include "core/shard/shard.h"
#include "lib/model_redis.h"
#include "run/perform.h"

enum {
	WORLD_DAEMONS = 4,
	WORLD_SERVERS = 16,
	WORLD_SERVICES = 3,
	WORLD_WORKERS = 12,
	WORLD_HOLDS = 16,
	WORLD_ITEMS = 64,
	WORLD_GOS = 2,
	WORLD_GO_HOLDS = 3,
	WORLD_KEYS = 24,
	WORLD_ENTRIES = 64,
	WORLD_QUEUE = 32,
	WORLD_TRACKED = 24
};

enum world_tracking { WORLD_TRACKS, WORLD_TRACKING_REFUSED, WORLD_NO_PUSHES };

/* Bugs planted by translating what passes through the world, for the tests of the test. */
enum world_bug {
	BUG_NONE,
	BUG_LOCK_UNCHECKED,
	BUG_ACK_FIRST,
	BUG_RENEW_FROM_REPLY,
	BUG_DUE_FORGETS_FIRST,
	BUG_WISH_DROPPED,
	BUG_SUSPECT_COUNTED,
	BUG_LEFT_FOR_EVER,
	BUG_ACK_UNFENCED, /* from here on: of entries mode */
	BUG_OPEN_UNFENCED,
	BUG_READ_SKIPS,
	BUG_NACK_FORGOTTEN,
	BUG_DEAD_LATER,
	BUG_PAUSE_FORGOTTEN
};

struct world_opts {
	uint64_t seed;
	unsigned n_daemons, n_masters, n_services, n_gos;
	bool is_cluster, serialize, coalesce, events;
	mono_ms ttl_ms;
	mono_ms lag_min_ms, lag_max_ms; /* of every message, command and reply */
	unsigned slow_per_mille;        /* of them that take up to slow_max_ms */
	mono_ms slow_max_ms;
	uint32_t max_retries;
	struct retry_rules retry; /* zeroed: nothing waits */
	enum world_bug bug;
	struct entries_rules entries; /* is_on: all services are in entries mode */
	enum world_tracking tracking;
	bool trace; /* lines are kept */
	bool story; /* only lines a story tells */
};

struct world;
struct event;
typedef void event_fn(struct world *w, struct event *ev);

struct event {
	struct heap_node node;
	struct link held; /* of a paused daemon or worker */
	event_fn *run;    /* frees it, when it is of its own */
	event_fn *drop;   /* instead of run, when it cannot happen any more; NULL: part of something longer-lived */
	struct daemon *daemon; /* NULL, or whose process must live for it to happen */
	struct sim_worker *worker;
	uint32_t gen;
	uint16_t thread; /* of the daemon: THREAD_COORD, or that of a shard */
	bool is_late;    /* after a pause: behind everything else that waited */
};

enum { THREAD_COORD, THREAD_SHARDS }; /* the first shard's, the others' follow */

struct order { /* keeps what goes one way in order */
	mono_ms last;
};

/* ---- Redis ---- */

struct server {
	uint16_t index;
	bool is_alive, is_paused;
	struct model_redis *model;
	struct model_redis *replica; /* what survives a failover that is about to happen */
	char addr[40];
	int64_t clock_offset;
	uint32_t n_lives;
};

struct inflight { /* a command on its way to a server, or waiting there */
	struct event ev;
	struct link queue;
	struct chan *chan;
	struct cmd cmd;
	char *text;             /* what the slices of cmd point to */
	struct cmd_entry *many; /* of cmd, with what they point to */
	uint64_t no;
	mono_ms sent;
	mono_ms block_until;
};

struct chan { /* one TCP connection */
	struct link all;
	struct server *server;
	struct role_conn *rconn; /* NULL: the client is gone */
	struct link queue;       /* flights that have arrived */
	struct inflight *blocked;
	struct event unblock;
	struct order requests, replies;
	int64_t client_id;
	bool is_subscribed;
	bool is_tracking, is_caching;
	char tracked[WORLD_TRACKED][24];
	uint32_t n_tracked;
};

struct wait { /* a command that waits for its answer */
	struct link link;
	uint64_t tag, no;
	uint16_t svc;
	enum cmd_kind kind;
	mono_ms deadline;
};

struct role_conn {        /* one connection of a shard, reopened for ever */
	struct link link; /* readers */
	struct wshard *shard;
	enum conn_role role;
	uint16_t svc;
	struct chan *chan; /* up */
	struct link waits, dead;
	struct event dial, bury, timeout;
	mono_ms backoff;
	bool is_up, is_broken;
};

/* ---- daemons ---- */

struct wshard {
	struct daemon *daemon;
	uint16_t index;
	struct server *server;
	struct shard *core;
	struct shard_turns turns;
	struct event tick;
	struct order to_shard, to_coord;
	struct role_conn command, subscriber;
	struct link readers;
};

struct daemon {
	struct world *world;
	unsigned index;
	uint32_t gen;
	bool is_alive, is_paused;
	char node[24];
	uint64_t incarnation;
	struct coord *core;
	struct effects effects;
	struct event tick, topo;
	struct wshard *shards[WORLD_SERVERS];
	struct shard_rules shard_rules;
	struct link held, held_late;
	bool has_pushes;
	mono_ms ttl_ms;   /* of its services, by the last reload */
	uint16_t without; /* 1 + the service that it does not serve; 0 = serves all */
	uint32_t stalled; /* bits of threads that get no processor */
	struct link stuck;
	uint64_t last_session;
	int exit_code; /* of an EFF_FATAL; -1 = none yet */
	bool wants_exit;
	mono_ms excused_at; /* last death or pause beyond the margins: workers that know no fence are not its fault */
};

/* ---- workers ---- */

struct hold { /* a lease a worker believes in */
	bool used;
	char lease[80], stream[24];
	uint16_t svc;
	uint32_t item;
	uint64_t token;
	mono_ms until;          /* its fence */
	mono_ms sent;           /* by its daemon */
	mono_ms since, stop_at; /* stop_at: revoked; MONO_NEVER */
	mono_ms result_at;
	enum frame_kind result;
	bool dead, was_working; /* it stopped, the result waits for a connection */
	bool is_excused;
	/* entries mode */
	bool is_feed, is_nacked; /* is_nacked: what comes is void until the answer */
	struct entry_id queue[WORLD_QUEUE], last_given, finished;
	struct entry_id expected; /* nacked: this one comes next, alone */
	bool comes_alone; /* else its feed was on its way to another master: others may come behind it in its frame */
	uint32_t n_queue;
};

struct sim_worker {
	unsigned index;
	uint32_t gen;
	bool is_alive, is_paused;
	bool keeps_fence;      /* stops by until_ms; else only by revoke */
	struct daemon *daemon; /* whose socket it talks to */
	uint32_t daemon_gen;
	uint64_t session; /* 0 = not connected */
	bool is_welcome;
	char key[40];
	uint32_t credits, most_credits;
	struct hold holds[WORLD_HOLDS];
	struct event tick, dial;
	struct order up, down;
	struct link held, held_late;
	mono_ms work_min, work_max;
	unsigned fail_pct, release_pct, dead_pct, progress_pct, nack_pct;
	bool wants_bye;
};

/* ---- Go consumers ---- */

struct go_hold {
	bool used, is_acked, was_pending;
	struct entry_id id;
	char stream[24];
	uint32_t item;
	mono_ms done_at, extend_at;
};

struct go {
	bool is_alive;
	uint16_t svc;
	char name[40];
	struct event tick;
	struct go_hold holds[WORLD_GO_HOLDS];
	mono_ms paused_until;
};

/* ---- what was added ---- */

struct item {
	uint16_t svc;
	char stream[24];
	mono_ms added;
	bool is_done;    /* DONE was answered with 1 */
	bool is_deleted; /* somebody has taken its data out of the stream */
	bool was_said;   /* some worker sent done for it */
	bool may_count;  /* since its assign: its worker said fail or died with it alone, or its daemon was killed */
	uint32_t n_assigned, n_ok;
	uint64_t last_token;
	mono_ms last_assigned;
};

/* ---- entries mode: a data stream, and all entries it ever had ---- */

struct sim_entry {
	struct entry_id id;
	bool was_worked; /* a worker has finished it and said so */
	bool is_passed;  /* the position is behind it, by an ack */
	bool is_dead;    /* a copy is in the dead letters */
	uint32_t n_given, n_bad;
	mono_ms woken, given; /* its stream was added to the load-balancer stream; first given; 0 = not yet */
	uint64_t given_as;    /* the token of the lease it was given under last */
	mono_ms not_before;   /* its last failed try was counted: the next one */
};

struct sim_key {
	uint16_t svc;
	char name[24];
	struct entry_id token; /* of its owner */
	uint32_t n_bad;        /* deaths while there was nothing behind the position: the next entry's */
	int64_t tries;         /* of the entry behind the position, as Redis has counted them */
	struct sim_entry v[WORLD_ENTRIES];
	uint32_t n;
};

struct world {
	struct world_opts o;
	mono_ms now;
	uint64_t order;
	uint32_t n_events; /* in this second */
	mono_ms second;
	struct heap events;
	struct rng rng, faults;
	struct server servers[WORLD_SERVERS];
	uint16_t n_servers;
	uint8_t owner[SLOTS], seen[SLOTS]; /* server by slot: in truth, and as CLUSTER SLOTS tells */
	uint16_t ask_slot, ask_to;         /* a slot being moved: its keys are there already; SHARD_NONE = none */
	struct service_rules rules[WORLD_SERVICES];
	struct command_names names[WORLD_SERVICES];
	struct link chans;
	uint64_t last_no;
	int64_t last_client;
	struct daemon daemons[WORLD_DAEMONS];
	struct sim_worker workers[WORLD_WORKERS];
	unsigned n_workers;
	struct go gos[WORLD_GOS];
	struct item items[WORLD_ITEMS];
	uint32_t n_items;
	bool is_calm;       /* no more faults: delays are short */
	bool has_storm;     /* faults have begun */
	bool has_gone;      /* daemon 0 has gone for good */
	bool has_lost;      /* a failover has lost writes in this run */
	bool has_deleted;   /* somebody has deleted entries: what the registry says of them may stay */
	bool has_regrouped; /* the group was deleted: the same entries are delivered again, with the same tokens */
	mono_ms moved_at;   /* last time something beyond the margins was done to Redis */
	struct {            /* leases that were assigned, for what is said of them later */
		char lease[80];
		uint32_t item;
	} known[256];
	uint32_t n_known;
	struct sim_key keys[WORLD_KEYS];
	uint32_t n_keys, n_refused, n_repeated; /* late acks; entries that were given again */
	uint64_t n_revokes, n_frames[16], n_cmds[CMD_N];
	bool failed;
	char why[600];
	struct buf trace;
	mono_ms lie_ms; /* a planted bug: how much later than it was the next reply says it was sent */
};

/* ---- life ---- */
void world_init(struct world *w, const struct world_opts *o);
void world_fini(struct world *w);
void world_until(struct world *w, mono_ms t); /* stops at once when something failed */
void world_fail(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void world_say(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));  /* kept when tracing */
void world_tell(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* and in stories */
const char *world_unsettled(struct world *w); /* what has not ended, in words; NULL: nothing */
bool world_settled(struct world *w);          /* everything added has ended, nothing is left anywhere */
uint32_t world_add(struct world *w, uint16_t svc, const char *stream);
uint32_t world_wake(struct world *w, uint16_t svc, const char *stream); /* only to the load-balancer stream */

/* ---- events ---- */
void event_at(struct world *w, struct event *ev, mono_ms at);
void event_in_order(struct world *w, struct event *ev, mono_ms at, struct order *o);
void event_cancel(struct world *w, struct event *ev);
void event_happens(struct world *w, struct event *ev); /* now, or when who it is for goes on */
mono_ms world_lag(struct world *w);                    /* how long the next thing takes on its way */
bool world_chance(struct world *w, unsigned per_mille);
mono_ms world_between(struct rng *r, mono_ms from, mono_ms to);

/* ---- Redis: world_redis.c, world_server.c ---- */
void server_start(struct world *w, struct server *s, struct model_redis *model);
struct server *server_at(struct world *w, const char *addr);
struct server *server_of_slot(struct world *w, uint16_t slot);
struct server *server_of_service(struct world *w, uint16_t svc);
void server_pause(struct world *w, struct server *s, bool paused);
void server_restart(struct world *w, struct server *s); /* loses what the replica does not know */
void server_fail_over(struct world *w, struct server *s);
void server_destroy_group(struct world *w, uint16_t svc);
void server_delete_entry(struct world *w, uint16_t svc, uint32_t n); /* the data of the n-th pending one */
void server_move_slot(struct world *w, uint16_t slot, struct server *to, mono_ms asking_ms);
void server_served(struct world *w, struct server *s); /* entries may have come: blocked readers look */
struct chan *chan_open(struct world *w, struct server *s, struct role_conn *l);
/* late: how much longer it is on its way */
void chan_send(struct world *w, struct chan *c, const struct cmd *cmd, uint64_t no, mono_ms late);
void chan_leave(struct world *w, struct chan *c); /* the client closes; what it sent may still be executed */
void chan_serve(struct world *w, struct chan *c);
void chans_free(struct world *w);

/* ---- daemons: world_daemon.c, world_conn.c ---- */
void daemon_start(struct world *w, struct daemon *d);
void daemon_kill(struct world *w, struct daemon *d);
void daemon_pause(struct world *w, struct daemon *d, bool paused);
void daemon_stall(struct world *w, struct daemon *d, uint16_t thread, bool stalled); /* one thread of it */
void daemon_reload(struct world *w, struct daemon *d, mono_ms ttl_ms, uint16_t without);
void daemon_stop(struct world *w, struct daemon *d, bool drain);
void daemon_step(struct world *w, struct daemon *d, struct coord_event *ev);
void wshard_step(struct world *w, struct wshard *s, struct shard_event *ev);
void wshard_free(struct world *w, struct wshard *s);
void role_conn_open(struct world *w, struct role_conn *l, struct wshard *s, enum conn_role role, uint16_t svc);
void role_conn_close(struct world *w, struct role_conn *l);
void role_conn_break(struct world *w, struct role_conn *l, const char *why);
void role_conn_send(struct world *w, struct role_conn *l, const struct effect *ef);
void role_conn_answer(struct world *w, struct role_conn *l, uint64_t no, const struct reply *r);

/* ---- workers: world_worker.c ---- */
struct sim_worker *world_worker(struct world *w, struct daemon *d, uint32_t credits);
void worker_take(struct world *w, struct daemon *d, uint64_t session, const struct out_frame *f);
void worker_cut(struct world *w, struct daemon *d, uint64_t session); /* the daemon closes the socket */
void worker_kill(struct world *w, struct sim_worker *k);
void worker_start(struct world *w, struct sim_worker *k);
void worker_disconnect(struct world *w, struct sim_worker *k);
void worker_pause(struct world *w, struct sim_worker *k, bool paused);
void worker_set_credits(struct world *w, struct sim_worker *k, uint32_t n);
void worker_bye(struct world *w, struct sim_worker *k);
void worker_daemon_gone(struct world *w, struct daemon *d);

void worker_word(struct world *w, struct sim_worker *k, enum frame_kind kind, const char *lease, struct entry_id id,
	bool dead); /* ack or nack */

/* ---- entries mode: world_feed.c ---- */
bool feed_produce(struct world *w, uint16_t svc, const char *stream);
void feed_woken(struct world *w, const char *stream);
mono_ms feed_longest_wait(struct world *w); /* of all entries, from woken to given; also of those that wait still */
bool feed_forget_ended(struct world *w);    /* everything that was added, once all of it has ended */
void feed_tracks(struct world *w, struct chan *c, const struct cmd *cmd, struct reply *r);
void feed_executed(struct world *w, struct chan *by, const struct cmd *c, const struct reply *r);
void feed_plant(struct world *w, struct server *s, const struct cmd *c, struct reply *r);
void feed_slot_moves(struct world *w, struct server *from, uint16_t slot); /* before it moves */
void feed_begin(struct world *w, struct sim_worker *k, struct hold *h);
void feed_resumed(struct world *w, struct sim_worker *k, struct hold *h);
bool feed_due(struct world *w, struct sim_worker *k, struct hold *h);
void feed_entries(struct world *w, struct sim_worker *k, struct hold *h, struct slice text);
void feed_nacked(struct world *w, struct sim_worker *k, struct hold *h, bool waits, mono_ms retry_ms);
bool feed_settled(struct world *w);
void feed_show(struct world *w); /* what is left, to stderr */

/* ---- Go consumers: world_go.c ---- */
void go_start(struct world *w, unsigned index, uint16_t svc);
void gos_look(struct world *w); /* there may be something to read: now and then they are the first */
void go_kill(struct world *w, struct go *g);
void go_pause(struct world *w, struct go *g, mono_ms ms);
bool go_is_finishing(const struct world *w, uint32_t item); /* between its XACK and its XDEL */
void check_go_robbed(struct world *w, uint32_t item, const char *by);

/* ---- checks: world_check.c ---- */
void check_assign(struct world *w, struct sim_worker *k, struct hold *h);
void check_go_begins(struct world *w, const struct go *g, const struct go_hold *h);
void check_until(struct world *w, struct daemon *d, uint64_t session, mono_ms until);
void check_executed(struct world *w, struct server *s, const struct cmd *c, const struct reply *r, const char *consumer,
	uint32_t item);
bool is_dead_letter(struct world *w, uint16_t svc, uint32_t item);
void check_nothing_lost(struct world *w, const char *when);
uint32_t item_of_entry(struct world *w, uint16_t svc, struct entry_id id); /* WORLD_ITEMS: unknown */
uint32_t item_of_info(struct slice info);
uint32_t item_of_lease(struct world *w, struct slice lease);

void check_retry(struct world *w, const struct cmd *c, const struct reply *r, uint32_t item, int64_t before);
void check_worker_ends(struct world *w, struct daemon *d, uint64_t session); /* before the daemon knows */
/* No daemon that is there is one that has left. */
bool check_nobody_left(struct world *w);

/* ---- lines: world_trace.c ---- */
void trace_cmd(struct world *w, const struct role_conn *l, const struct cmd *c);
void trace_reply(struct world *w, const struct role_conn *l, enum cmd_kind kind, const struct reply *r);
void trace_msg(struct world *w, const struct daemon *d, uint16_t shard, bool is_up, const struct msg *m);
const char *trace_lease(const char *lease, char out[40]);
void trace_out(struct world *w, const struct sim_worker *k, const struct out_frame *f);

/* ---- faults: world_fault.c ---- */
void faults_begin(struct world *w, mono_ms until);
mono_ms fault_dies_acking(struct world *w, struct daemon *d); /* at once; how long its ack is on its way */
void faults_heal(struct world *w);
