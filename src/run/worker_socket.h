/* worker_socket - the worker socket: bytes <-> frames, and nothing decided. Coordinator thread.
 *
 * Happy path: accept -> COORD_ACCEPT; bytes -> codec/frame -> COORD_FRAME; EFF_FRAME -> codec/frame -> io/unix.
 * A worker whose hello cannot be answered yet (what a former process held is not known) is not read until its welcome.
 * Failure: a bad line or one over max_frame -> COORD_BAD_INPUT; too much unread -> slow_reader; the peer's end ->
 * COORD_END,
 *   and when its process has ended (pidfd) before the session is over -> COORD_PEER_DEAD. */
#pragma once
#include "codec/state.h"
#include "config/config.h"
#include "core/coord/coord.h"
#include "io/unix.h"

struct worker_socket;
typedef void worker_event_fn(void *arg, struct coord_event *ev);

/* fd >= 0: a listening socket from the service manager. */
enum err_code worker_socket_open(uv_loop_t *loop, const struct config *c, int fd, worker_event_fn *fn, void *arg,
	struct worker_socket **out, struct err *err);
void worker_socket_limits(struct worker_socket *d, const struct config *c); /* after a reload */
void worker_socket_send(struct worker_socket *d, uint64_t session, const struct out_frame *f);
/* After a turn's effects: tells the coordinator of sessions that do not read, and what those said that were
 * welcomed late. */
void worker_socket_sweep(struct worker_socket *d);
void worker_socket_drop(struct worker_socket *d, uint64_t session); /* EFF_CLOSE */
/* EFF_SESSION_OVER: the end of its process is not waited for any more. */
void worker_socket_forget_session(struct worker_socket *d, uint64_t session);
/* Lets go of a connection without closing it for the worker: a descriptor of it, the caller's, and what was read
 * and not written. -1: no such session, or no descriptor. */
int worker_socket_let_go(struct worker_socket *d, uint64_t session, struct buf *input, struct buf *output);
/* Goes on with one that a former process let go: COORD_ADOPT. Takes fd when ERR_OK; ERR_INVALID: it is not that
 * connection. */
enum err_code worker_socket_adopt(struct worker_socket *d, int fd, const struct state_conn *r, struct err *err);
/* Stops listening and closes every connection, without a word to workers. NULL is fine. */
void worker_socket_close(struct worker_socket *d);
