/* io/unix - listening unix sockets and their connections. Owner: the coordinator's thread.
 * No policy: bytes in, bytes out, peer credentials, the peer's end.
 * Failure: bind errors are told with the path and the reason; a live listener at the path is ERR_BUSY, a stale
 * file is replaced; a file that is removed later comes back (io/unix_door.h). */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <uv.h>

struct unix_listener;
struct unix_conn;

struct unix_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
	bool is_unwatchable; /* in another PID namespace, and the kernel has no SO_PEERPIDFD: no pidfd of it */
};

struct unix_events {
	void (*on_accept)(void *arg, struct unix_conn *c, const struct unix_peer *peer); /* use unix_set_data */
	void (*on_data)(void *arg, struct unix_conn *c, const char *bytes, size_t len);
	/* The peer closed or failed; the connection is gone after this call (what was written before still goes
	 * out when the peer only closed its sending half). peer_pidfd: a pidfd of the peer opened at accept, now
	 * the callee's to close; -1 = unknown. Not called after unix_close. */
	void (*on_end)(void *arg, struct unix_conn *c, int peer_pidfd);
	/* Descriptors that new connections leave for others; one too many is closed again, and the log says so. */
	int spare_fds;
};

/* fd >= 0: a listening socket passed by the service manager, path only for messages. mode: e.g. 0660. group: "" =
 * leave. ERR_BUSY, ERR_DENIED, ERR_RANGE (path over 107 bytes), ERR_NOT_FOUND (directory, group), ERR_IO. */
enum err_code unix_listen(uv_loop_t *loop, const char *path, int fd, mode_t mode, const char *group,
	const struct unix_events *ev, void *arg, struct unix_listener **out, struct err *err);
void unix_unlisten(struct unix_listener *l, bool unlink_path); /* connections stay */
/* Adopts a connected descriptor (descriptor store); on failure (ERR_INVALID) it stays the caller's. */
enum err_code unix_adopt(
	uv_loop_t *loop, int fd, const struct unix_events *ev, void *arg, struct unix_conn **out, struct err *err);

/* What unix_data returns; never looked at. */
void unix_set_data(struct unix_conn *c, void *data);
/* NULL when nothing was set. */
void *unix_data(const struct unix_conn *c);
void unix_write(struct unix_conn *c, const char *bytes,
	size_t len);                                  /* copied; order kept; batched: written once per loop round */
size_t unix_write_pending(const struct unix_conn *c); /* bytes not yet taken by the kernel */
/* How many of the bytes written to it the peer may have read. Exact as to the last one once the peer has closed
 * (on_end): the kernel says then whether anything was unread, but not how much. */
size_t unix_may_be_read(const struct unix_conn *c);
/* Appends what the kernel has not taken, for somebody who goes on with the descriptor; unix_close(c, false) is to
 * follow at once. */
void unix_unwritten(const struct unix_conn *c, struct buf *out);
void unix_close(struct unix_conn *c, bool flush);  /* flush: what was written goes out first, at most 1 s */
void unix_pause(struct unix_conn *c, bool paused); /* stop or go on reading; the peer's end is not seen while paused */
int unix_conn_fd(const struct unix_conn *c);
/* The pidfd of the peer that was opened at accept, from now on the caller's to close; -1 = unknown, or taken. */
int unix_take_pidfd(struct unix_conn *c);
