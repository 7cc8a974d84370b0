/* coord_p - the coordinator's state, for the files of core/coord, and read-only for the views of run/ (control
 * socket, metrics), which live on the same thread. Owner: the coordinator's thread. */
#pragma once
#include "base/log_fields.h"
#include "base/rng.h"
#include "core/coord/coord.h"
#include "core/coord/ledger.h"
#include "core/coord/credits.h"
#include "core/coord/services.h"
#include "core/coord/session.h"
#include "core/coord/drain.h"
#include "core/coord/shards.h"
#include "core/coord/topology.h"
#include "core/coord/workers.h"

enum {
	TELL_MARGIN_MS = 500,
	FETCH_AFTER_MS = 500,
	READY_WAIT_MS = 2000,
	CLAIM_MS = 1000, /* so long a credit is kept for an entry whose lock or position is asked for */
	STUCK_MS = 3000, /* after one waited for longer than that, none is kept for those of the same master */
	REVOKE_GRACE_MS = 5000,
	SHUTDOWN_GRACE_MS = 2000,
	REROUTE_MS = 100,
	PARKED_RETRY_MS = 1000,
	SUSPECT_ALONE_MS = 10000, /* worked on so long, it has not killed its worker */
	SUSPECT_ASSIGN_MS = 1000, /* so soon after it, an assign may have killed a worker that was told nothing else */
	RESULT_THEN_END_MS = 50,  /* what a worker is assigned so soon after a result may meet its own end */
	SUSPECT_WAIT_MS = 30000,  /* then a worker is let run empty for it */
	SUSPECT_HUSH_MS = 10000,  /* entries mode: so long other streams of a worker wait for suspects, in a row */
	STOP_WAIT_MS = 800,
	STOP_LISTEN_MS = 50, /* results that workers have sent by now are read */
	UNLOCK_WAIT_MS = 200,
	LOST_SHARD_MS = 1000,
	START_AGAIN_MS = 100,
	START_AGAIN_MAX_MS = 500, /* with connecting and taking up what waits, far below two seconds */
	SAY_AGAIN_MS = 60000,
	TOPO_FULL_MS = 1000,
	DRAIN_OVER_MS = 5000,
	STALL_MS = 500,
	TOPO_APART_MS = 100,
	ANNOUNCED_MS = 60000
};

struct coord {
	struct coord_rules rules;
	struct rng rng;
	struct ledger ledger;
	struct topology topo;
	struct credits place;
	struct coord_services services;
	struct coord_shards shards;
	struct coord_workers workers;
	struct coord_look_up look_up;
	struct coord_drain drain;
	struct coord_stop stop;
	uint32_t n_start; /* entries of a former process whose locks are being asked for */
	mono_ms reroute_at, started_at;
	uint64_t m[METRIC_PROCESS_N];
	/* the turn */
	mono_ms now;
	mono_ms next_turn; /* what the last step returned: much later = we were stopped */
	int64_t wall_ms;
	struct effects *out;
	uint32_t n_turns; /* that may have been checked */
};

/* coord.c */
/* How often each worker is pinged, ms: the setting, else a third of the shortest TTL of a lock. */
mono_ms coord_ping_ms(const struct coord *c);
/* A message to a shard; what m owns moves. Returns it for the rest to be filled in; valid until the next effect. */
struct msg *coord_send(struct coord *c, uint16_t shard, struct msg m);
/* Asks for the topology (EFF_TOPOLOGY) at once, or a moment later when it was asked just now. why: for logs and the
 * counter's reason; copied. */
void coord_ask_topology(struct coord *c, const char *why);
uint16_t coord_shard_at(struct coord *c, const char *addr); /* the shard of an address, started when needed */
/* The same of where an ASK of shard `from` leads; SHARD_NONE: only the topology helps. */
uint16_t coord_shard_asked(struct coord *c, uint16_t from, const struct text *to);
void coord_start_shards(struct coord *c);
void coord_reroute(struct coord *c); /* the map has changed, or a shard may start: all that follows */
/* Each service's reader goes to the shard that serves its load-balancer stream by the present map. */
void coord_route_readers(struct coord *c);

/* entry_*.c: the journey */
void entry_on_batch(struct coord *c, const struct msg *m);
/* MSG_LEASE: what became of a lease. Ignored when the shard is not the one that has it by our record. */
void entry_on_lease(struct coord *c, const struct msg *m);
/* MSG_RENEWED of that shard: fences move, and the until_ms of workers with them. r stays the caller's. */
void entry_on_renewed(struct coord *c, uint16_t shard, const struct renewed *r);
/* MSG_OP_RESULT of an entry: the next stage of its journey. Ignored when it is not what was asked last. */
void entry_on_op(struct coord *c, const struct msg *m);
/* MSG_OWN_IDS: entries that are pending for us and not known are fetched; after the last page of a pass those that
 * are known and not pending are given up. */
void entry_on_own_ids(struct coord *c, const struct msg *m);
/* Something of it is due: its fence, its progress timeout or the deadline of its state. e may be gone afterwards. */
void entry_on_due(struct coord *c, struct entry *e);
void entry_reroute(struct coord *c); /* sends what waited for a shard */
/* What was asked of a shard is asked anew; was_heard: it may have done it already. */
void entry_shard_gone(struct coord *c, uint16_t shard, bool was_heard);
/* A READY entry goes to the worker, which has a free credit: it is told by an assign frame. */
void entry_assign(struct coord *c, struct entry *e, struct worker *m);
/* Its lease, as its worker knows it. Returns the length. */
int entry_lease_format(char out[static SESSION_LEASE_CAP], const struct entry *e, uint64_t service_hash);
/* A worker that is back has it still: e is in its list and uses a credit of it. In entries mode what it has not
 * acknowledged comes again. */
void entry_resume(struct coord *c, struct entry *e, struct worker *m);
/* Tells its worker to stop within grace_ms, and why: e is REVOKING until the worker answers or that has passed. */
void entry_revoke(struct coord *c, struct entry *e, enum revoke_reason why, mono_ms grace_ms);
/* Only the frame, with the reason e->revoke. grace_ms: what the worker has left. */
void entry_tell_revoke(struct coord *c, const struct entry *e, const struct worker *w, mono_ms grace_ms);
/* Out of its session's, or its service's list; its credit is free. */
void entry_leave_lists(struct coord *c, struct entry *e);
/* The first of its stream here, unless there is one. */
void entry_lead(struct coord_service *s, struct entry *e);
/* Asks for its lock. */
void entry_lock(struct coord *c, struct entry *e);
/* Asks to be put to wait in Redis, without a lock: e is PARKED. */
void entry_park(struct coord *c, struct entry *e);
/* The first one is registered now: those behind it are put to wait. */
void entry_park_followers(struct coord *c, struct coord_service *s, const struct entry *first);
/* It leaves: the oldest one behind it comes first now. */
void entry_leave_active(struct coord *c, struct coord_service *s, struct entry *e);
/* Behind the first of its stream here, without a lock: e is PARKED. */
void entry_follow(struct coord *c, struct entry *e, struct entry *first);
/* Its worker has finished it: acknowledged in Redis, then the worker gets its ok and the lock is released. */
void entry_done(struct coord *c, struct entry *e);
/* The answer to its last operation. */
void entry_on_finished(struct coord *c, struct entry *e, const struct msg *m);
/* It goes back to the load-balancer stream, at once or after the delay that its reason asks for. counted: this try
 * counts; used up, it becomes a dead letter. */
void entry_requeue(struct coord *c, struct entry *e, enum requeue_why why, bool counted);
/* It goes back to the load-balancer stream after the delay, uncounted: nobody was given it. e->note says why. */
void entry_put_off(struct coord *c, struct entry *e, mono_ms delay_ms);
/* How long it waits for the master of that slot before it is put off, with its credit for others: MONO_NEVER, a moment,
 * or not at all when that is away already. The next id may have its lock at a master that answers. */
mono_ms entry_waits_until(struct coord *c, const struct entry *e, uint16_t slot);
/* Its position is somebody else's, whose token is made of `newer` (0-0: not known), or it was deleted: it goes back
 * to the load-balancer stream uncounted, for the pause of a failure and until a new id is a later token. */
void entry_wait_for_position(struct coord *c, struct entry *e, enum lost_reason why, struct entry_id newer);
/* It becomes a dead letter with that reason; e->note is the worker's error. */
void entry_dead_letter(struct coord *c, struct entry *e, enum dead_reason why);
void entry_stopped(struct coord *c, struct entry *e); /* the worker has stopped after a revoke, or by itself */
/* Its worker has ended without a word, and n_blamed entries may be why: the only one is counted; of several nobody
 * knows the culprit, so all go back uncounted, to be worked on alone. 0 = its end has another reason. is_dead: its
 * process has ended, else it did not come back. */
void entry_worker_ended(struct coord *c, struct entry *e, uint32_t n_blamed, bool is_dead);
/* w, whose it is, may have ended because of it. An idle stream of entries mode that went well so far is above that, and
 * so is what w has not read. */
bool entry_may_have_killed(const struct coord *c, const struct entry *e, const struct worker *w);
bool entry_was_taken_back(const struct entry *e); /* its lease is lost, or its worker was told to stop */
/* It waited for such a worker for long enough: it is given to any, entry by entry. */
void entry_stop_waiting(struct coord *c, struct coord_service *s, struct entry *e);
/* A READY suspect's time is over. True: it goes on waiting here; false: somebody else may have it. */
bool entry_suspect_waits(struct coord *c, struct coord_service *s, struct entry *e);
void entry_clear_suspect(struct coord *c, struct entry *e); /* it is none any more; its worker takes others again */
void entry_limbo(struct coord *c, struct entry *e, mono_ms until);
/* Sets its timer to the soonest of its fence, its progress timeout and the deadline of its state. */
void entry_arm(struct coord *c, struct entry *e);
/* Counts how long a worker had it, once; no worker had it: nothing. hist: H_DURATION_DONE, … */
void entry_run_over(struct coord *c, struct entry *e, int hist);
/* When its work has to stop; MONO_NEVER: nobody works on it, or it has stopped. */
mono_ms entry_stop_at(struct coord_services *ss, const struct entry *e);
bool entry_is_late(struct coord *c, const struct entry *e); /* its work would have to stop by now */
bool entry_is_worked(const struct entry *e);                /* ASSIGNED or REVOKING */
bool entry_is_ending(const struct entry *e); /* by our own decision, which its worker has not been told yet */

/* session_*.c: workers */
/* entry_feed.c: entries mode */
void entry_feed_open(struct coord *c, struct entry *e);
void entry_feed_start(struct coord *c, struct entry *e);  /* its worker gets entries, from the position on */
void entry_feed_resume(struct coord *c, struct entry *e); /* it is back: what it has not acknowledged comes again */
void entry_feed_hold(struct coord *c, struct entry *e);   /* nothing more is told */
/* While on, nothing is told: its worker has a suspect. Needs a stream of which nothing is out. */
void entry_feed_hush(struct coord *c, struct entry *e, bool on);
void entry_feed_share(struct coord *c, struct entry *e); /* its worker takes others from here on */
/* True: the outcome waits for FEED_IS_CLOSED, or until entry_feed_close_by. */
bool entry_feed_close(struct coord *c, struct entry *e, enum feed_end end);
/* The key of its position, as field_value writes it. Needs a stream. Returns out. */
const char *entry_position_shown(const struct entry *e, char out[static FIELD_VALUE_CAP]);
/* Until when an outcome waits for the close of a position: a short while from now. */
mono_ms entry_feed_close_by(const struct coord *c);
void entry_feed_delete(struct coord *c, struct entry *e); /* position and stream, when nothing is unread */
void entry_feed_reroute(struct coord *c, struct entry *e);
/* That shard has stopped: its position is opened again wherever its data stream is served then. */
void entry_feed_shard_gone(struct entry *e, uint16_t shard);
/* A drain begins (on) or is taken back: its worker gets no more entries, or again. */
void entry_feed_drain(struct coord *c, struct entry *e, bool on);
bool entry_feed_is_out(const struct entry *e);         /* its worker has entries that it has not acknowledged */
mono_ms entry_feed_waits_since(const struct entry *e); /* MONO_NEVER: the worker has nothing to acknowledge */
/* What operators are told of it while it waits elsewhere: bad has failed so often, and its worker's words, if it has
 * said some. */
void entry_feed_note_tries(struct coord *c, struct entry *e, struct entry_id bad, uint32_t tries);
/* An ack or nack of the worker that has it. */
void entry_feed_word(struct coord *c, struct entry *e, const struct frame *f);
/* MSG_FEED: what became of its position. Ignored when another shard has it by our record. */
void entry_on_feed(struct coord *c, const struct msg *m);
/* entry_feed_end.c. FEED_IS_CLOSED and what follows, without FEED_IS_MOVED: its shard has no feed of it any more. */
void entry_feed_ended(struct coord *c, struct entry *e, const struct msg *m);
void entry_ready(struct coord *c, struct entry *e); /* taken, open: waits for a credit */
/* Its worker has nothing to do and is told that it has ended: done; again_ms > 0: it comes again then, not counted. */
void entry_end(struct coord *c, struct entry *e, mono_ms again_ms);
/* Its lease ends before Redis has confirmed that: its worker is told now, somebody else may have the stream soon. */
void entry_told_ended(struct coord *c, struct entry *e);
void worker_say_bad_entry(struct coord *c, struct worker *w, const struct entry *e);

/* COORD_ACCEPT: somebody has connected; it has a moment for its hello. One that may not talk to us, or is one too
 * many, is told so and closed. */
void worker_on_accept(struct coord *c, const struct coord_event *ev);
/* A frame of a worker, in whatever state it is. f is valid during the turn only. */
void worker_on_frame(struct coord *c, struct worker *m, const struct frame *f);
/* What came is no frame, or its reader is too slow: the worker is told error and text (copied), and closed. */
void worker_on_bad_input(struct coord *c, struct worker *m, enum frame_error error, const char *text);
/* Its socket is closed: a READY one is DETACHED and may resume for a while, its entries in LIMBO; any other ends
 * with this turn. n_unread: it has not read so many of the frames that worker_is_given counts, the latest. */
void worker_on_end(struct coord *c, struct worker *m, uint32_t n_unread);
/* Its process has ended: nobody will resume, so its entries go back at once. m ends with this turn. */
void worker_on_dead(struct coord *c, struct worker *m);
/* Its timer: hello timeout, ping, silence, the end of what its hello waited for, or of the time to resume in. */
void worker_on_due(struct coord *c, struct worker *m);
void worker_try_held(struct coord *c); /* hellos that waited for own entries */
void worker_free_credit(struct coord *c, struct entry *e, bool credit_back);
/* Its worker says nothing about the stream: said once a minute for each worker. */
void entry_say_silent(struct coord *c, const struct entry *e);
/* Its worker was told to stop and has not, the time is up: the same. */
void entry_say_running(struct coord *c, const struct entry *e);
void worker_finish(struct coord *c, struct entry *e, bool accepted, enum gone_outcome outcome); /* answers the worker */
void worker_send_until(struct coord *c, struct worker *m);
void worker_send_later_fences(struct coord *c); /* now, to everyone whose leases are good for longer than it knows */
void worker_arm(struct coord *c, struct worker *m);
/* Tells it that the daemon drains and how long it has, ms. */
void worker_say_drain(struct coord *c, const struct worker *m);
/* The same to every worker that is READY. */
void worker_say_drain_to_all(struct coord *c);
/* An operator takes all its entries back: each is revoked. */
void worker_revoke_all(struct coord *c, struct worker *m);
/* What a worker may be told now as until_ms: the soonest good_until of its entries, less a margin. */
mono_ms worker_until(const struct coord *c, struct worker *w);
/* We were stopped for a while: nobody counts as silent for that time. */
void worker_after_stall(struct coord *c);
/* Limits have changed by a reload: timers of workers follow, and they are told the new ping_ms. */
void worker_after_limits(struct coord *c);

struct worker *worker_new(struct coord *c, const struct coord_event *ev); /* connected, counted, state NEW */
void worker_retire(struct coord *c, struct worker *m);                    /* gone at the end of the turn */
bool worker_take_services(
	struct coord *c, struct worker *m, const struct frame *f); /* false: an unknown one, or none */
bool worker_resume_one(
	struct coord *c, struct worker *m, struct worker *old, struct slice lease, enum gone_outcome *gone);

/* session_adopt.c: a session that lives through a restart of the daemon */
void worker_on_adopt(struct coord *c, const struct coord_event *ev);
/* May its connection be handed to the next process as it is? Not when it waits for an answer that only this
 * process knows of. */
bool worker_can_go_on(const struct coord *c, const struct worker *m);

/* operate.c */
void coord_on_ctl(struct coord *c, const struct coord_ctl *ctl);
/* MSG_OP_RESULT of an operation that a control request waits for: becomes EFF_CTL. */
void coord_on_ctl_result(struct coord *c, const struct msg *m);
/* No new work; workers are told; what nobody works on goes back. stop_after: the process ends when nothing is left,
 * or after drain_timeout. */
void coord_drain(struct coord *c, bool stop_after);
/* Takes a drain back: reads again. Does nothing once the process is on its way out. */
void coord_undrain(struct coord *c);
#define COORD_CTL_HANDLE (1ull << 63) /* | request: operations of the control door */
#define COORD_LEAVING_HANDLE (3ull << 62)

/* leaving.c */
void coord_leave(
	struct coord *c); /* says in every service's group that we go on purpose; n_leaving answers are awaited */
void coord_is_back(struct coord *c, struct coord_service *s); /* takes it back, of a former process */
/* Once more, later: what the former process sent when it went may have come behind that. Now and then. */
void coord_is_still_back(struct coord *c, struct coord_service *s);
void coord_on_left(struct coord *c, const struct msg *m); /* an answer to either */

/* shared by the entry_*.c */
struct credits_service *entry_reserved_of(struct coord *c, const struct coord_service *s);
/* It counts against the reservations of its service, until it is assigned or leaves the way to it. Again: nothing.
 * */
void entry_reserve(struct coord *c, struct coord_service *s, struct entry *e);
/* Takes that back, and marks the service: there is room for another. Without a reservation: only marks. */
void entry_unreserve(struct coord *c, struct coord_service *s, struct entry *e);
/* The same for one that is to be locked; not while the master of its lock or position is known to be stuck. */
void entry_reserve_for_lock(struct coord *c, struct coord_service *s, struct entry *e);
/* Once in an audit: it waits for long for a master that refuses, or is silent, and keeps no credit from others. */
void entry_look_at_claim(struct coord *c, struct coord_service *s, struct entry *e);
/* Its only way into another state: asserts that the ledger allows it. deadline: monotonic ms, MONO_NEVER = none. */
void entry_move(struct coord *c, struct entry *e, enum entry_state to, mono_ms deadline);
/* A little later everything that waits for a shard is sent where it belongs by then. */
void entry_wait_for_route(struct coord *c);
/* Asks shard to lock it, or to go on renewing what is held; no such shard: a little later. asking: after an ASK. */
void entry_send_lease(struct coord *c, struct entry *e, uint16_t shard, bool asking);
/* Tells its lease's shard by a message of that kind (RELEASE, FORGET) and forgets which shard it was. */
void entry_drop_lease(struct coord *c, struct entry *e, enum msg_kind kind);
/* Asks for the operation that its state and outcome call for, of the shard that serves its load-balancer stream. */
void entry_send_op(struct coord *c, struct entry *e);
/* Does it have a lease, or is one asked for? Then some shard must know of it. */
bool entry_awaits_lease(const struct entry *e);
/* What the take of an entry in TAKING came to. */
void entry_taken(struct coord *c, struct entry *e, enum op_result result, bool was_merged);
/* It leaves: out of every list, its stream's next may come first. e is gone. */
void entry_drop(struct coord *c, struct entry *e);
/* Its lock is deleted, then as entry_drop. For what is held and not lost. */
void entry_release_and_drop(struct coord *c, struct entry *e);
/* A new record in the given state (FETCHING, LOCKING, …), which counts as owned by the service. The id must not be
 * known yet. */
struct entry *entry_enter(struct coord *c, struct coord_service *s, struct entry_id id, enum entry_state state);
/* An entry as read goes its way: locked, parked behind its stream's first, or a dead letter when nobody can work on
 * it. is_start: of a former process. What the record needs is taken out of *in. */
void entry_enter_one(struct coord *c, struct coord_service *s, struct entry_in *in, bool is_start);
/* Its lock's owner is known now; after the last one of a former process, hellos that waited are answered. */
void entry_start_known(struct coord *c, struct entry *e);
/* Its lock is not ours any more, or nobody can say so: whoever works on it is told to stop, else it goes back. */
void entry_lease_lost(struct coord *c, struct entry *e, enum lost_reason why);
/* The warning that is due for leases lost. */
void entry_warn_lost(struct coord *c);
/* It is not pending for us any more: somebody else may have it. Its lease ends as lost. */
void entry_not_pending(struct coord *c, struct entry *e);
/* Its stop-work time has come. When its master confirms nothing any more, all leases
 * there end with it, so that no session's fence is held back by them one after the other. */
void entry_fence(struct coord *c, struct entry *e);

/* shared by the files of coord */
void coord_on_topology(struct coord *c, const struct coord_event *ev);
/* COORD_TOPOLOGY_FAILED: the last map stays, it is asked again. Each new reason is a line. */
void coord_on_topology_failed(struct coord *c, struct slice why);
/* MSG_MOVED: a server says that a slot is elsewhere. The map follows at once and is asked for. */
void coord_on_moved(struct coord *c, const struct msg *m);
/* MSG_CONN: a connection of a shard is up or down. */
void coord_on_conn(struct coord *c, const struct msg *m);
/* False: that announcement was heard already, over another connection, less than a minute ago. */
bool coord_is_news(struct coord *c, int64_t seq);
/* MSG_EMPTY: a shard without slots has nothing left; it is asked to stop. */
void coord_on_empty(struct coord *c, const struct msg *m);
/* MSG_STOPPED: ends its thread (EFF_SHARD_STOP). What it was asked last is asked anew elsewhere. */
void coord_on_stopped(struct coord *c, const struct msg *m);
/* MSG_NOT_STARTED: tried again a little later, each time longer, up to START_AGAIN_MAX_MS. */
void coord_on_not_started(struct coord *c, const struct msg *m);
void coord_relay(struct coord *c, struct msg *m); /* m moves */
void coord_on_group_lost(struct coord *c, const struct msg *m);
/* MSG_EXPIRED: to every shard that reads a service. */
void coord_spread_expired(struct coord *c, const struct msg *m);
/* MSG_WAITING: streams wait for a credit. None is free: every shard hears of it. */
void coord_on_waiting(struct coord *c, const struct msg *m);
/* n streams of s begin. Where streams had to wait for idle ones lately and no credit is left, as many idle ones give
 * theirs up, so that the next to come need not wait. */
void coord_make_room(struct coord *c, struct coord_service *s, uint32_t n);
/* COORD_SERVICES: the table by a start or a reload. What is not in it any more is going; references move. */
void coord_on_services(struct coord *c, const struct coord_event *ev);
/* At the end of a turn: removed services whose last entry has gone are forgotten, here and by the shards. */
void coord_sweep_services(struct coord *c);
/* At the end of a turn: gives READY entries to workers, then grants reads, for services that were marked. */
void coord_pump(struct coord *c);
/* What the workers of the service at pos take. */
struct msg_fleet coord_offer(const struct coord *c, uint16_t pos);
/* Workers have come or gone: a reader hears at once of the first and of the last, and whether idle streams may give up
 * credits of theirs; of numbers within a second (run/control/fleet). */
void coord_tell_offers(struct coord *c);
/* Its pass has changed, or whether it is known to be empty: puts it where it belongs in coord.services.turns. */
void coord_place_turn(struct coord *c, struct coord_service *s);
/* Its reader goes: an unanswered read of it brings nothing any more; audits find the rest. */
void coord_end_grant(struct coord *c, struct coord_service *s);

/* shared by the files of session_*.c */
/* m ends, its connection is closed, and its entries go back uncounted: now and m with this turn, or, when they are
 * many, in turns to come. */
void worker_give_all_back(struct coord *c, struct worker *m, enum requeue_why why);
/* m is DETACHED and its time to come back may be over. True: its entries go back in turns to come. */
bool worker_gives_back_later(struct coord *c, struct worker *m);
/* Some of those that were left for later, when that is due. */
void worker_give_more_back(struct coord *c);
void worker_fatal(struct coord *c, struct worker *m, enum frame_error error, const char *msg);
/* An err frame: msg and lease are copied; lease.p NULL = it is about none. Counted. */
void worker_say_error(struct coord *c, struct worker *m, enum frame_error error, struct slice lease, const char *msg);
/* It says bye: its entries go back uncounted, its connection is closed. m ends with this turn. */
void worker_on_bye(struct coord *c, struct worker *m);
/* The entry that a lease's text names, its id and the hash of its service, which may have been removed: 0 = no lease of
 * ours. NULL: no such entry. lease may be anything from outside. */
struct entry *worker_entry_of_lease(const struct coord *c, struct slice lease, struct entry_id *id, uint64_t *service);
/* Answers its hello: what it resumes, what is gone and how it ended, what it is to know. It is READY. */
void worker_welcome(struct coord *c, struct worker *m);
/* Its hello: checked; answered now, or held until it is known what a former process left. f is valid during the turn
 * only. */
void worker_hello(struct coord *c, struct worker *m, const struct frame *f);

/* coord_check.c: asserted at the end of a turn, when coord_rules.is_checked. */
/* One record: its state, lists, owner and shards fit each other. */
void entry_check(const struct coord *c, const struct entry *e);
/* One worker: its entries are its own, its fence went out. Returns how many are in its list. */
uint32_t worker_check(const struct coord *c, const struct worker *w);
/* No shard is two things at once. */
void shards_check(const struct coord *c);
/* All of the coordinator, with its ledger, credits and topology. */
void coord_check(const struct coord *c);
