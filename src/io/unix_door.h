/* io/unix_door - a listening unix socket whose file comes back when somebody removes it. Owner: the loop's thread.
 * Blocking calls on local files only.
 *
 * Happy path: bound, or passed by the service manager -> on_connection for each connection, uv_accept is the owner's.
 *   Once a second the file is looked at.
 * Failure: the file is gone (a directory cleaned, a volume mounted anew): nobody could connect any more, and nothing
 *   else would tell. One that we made is made again, at once or as soon as its directory is back; one of the service
 *   manager's cannot be. Either is said, and again in growing pauses while it lasts. Another file is in its place:
 *   the same, but one that somebody listens on, or that is no socket, is left alone and looked at every ten seconds. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <sys/types.h>
#include <uv.h>

struct unix_door;

struct unix_door_at {
	const char *path; /* copied, as group is */
	int fd;           /* >= 0: a listening socket passed by the service manager, from now on the door's; else -1 */
	mode_t mode;
	const char *group; /* "" = leave */
	int backlog;
	uv_connection_cb on_connection;
	void *data; /* of the uv_stream_t that on_connection gets */
};

/* Errors of unix_bind; ERR_INVALID: fd is no listening unix socket, it stays the caller's; ERR_IO. */
enum err_code unix_door_open(uv_loop_t *loop, const struct unix_door_at *at, struct unix_door **out, struct err *err);
/* No on_connection any more. unlink_path: the file is removed, when it is still the one that we made. NULL is fine. */
void unix_door_close(struct unix_door *d, bool unlink_path);
