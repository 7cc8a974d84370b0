/* io/unix_bind - a listening unix socket with an exact mode and group, for unix.c and http.c. Any thread; blocking
 * calls on local files only. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <sys/types.h>

/* socket, bind, chown, chmod; the caller listens. Nobody can connect before that, so the mode is exact from the
 * first moment. A live listener at the path is ERR_BUSY, a stale socket is replaced. Other errors: ERR_RANGE (over
 * 107 bytes), ERR_NOT_FOUND (directory, group), ERR_DENIED, ERR_INVALID (not a socket), ERR_IO. */
enum err_code unix_bind(const char *path, mode_t mode, const char *group, int *fd, struct err *err);

/* Which file it is, so that only our own is removed at the end. */
struct unix_file {
	dev_t dev;
	ino_t ino;
};
/* Which file path is now, links not followed; zero: there is none. */
struct unix_file unix_file_of(const char *path);
/* Only when it is still that file: another process may have taken its place. */
void unix_unlink_if(const char *path, struct unix_file file);
