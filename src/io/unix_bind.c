#include "io/unix_bind.h"

#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"

static enum err_code code_of(int e)
{
	if (e == EACCES || e == EPERM || e == EROFS)
		return ERR_DENIED;
	if (e == ENOENT || e == ENOTDIR)
		return ERR_NOT_FOUND;
	return ERR_IO;
}

static enum err_code find_group(const char *path, const char *group, gid_t *out, struct err *err)
{
	*out = (gid_t)-1;
	if (!group || !*group)
		return ERR_OK;
	size_t cap = 1 << 16;
	char *text = mem_alloc(cap);
	struct group g, *found = NULL;
	getgrnam_r(group, &g, text, cap, &found);
	mem_free(text);
	if (!found)
		return err_set(err, ERR_NOT_FOUND, "%s: no such group: %s", path, group);
	*out = g.gr_gid;
	return ERR_OK;
}

/* Removes what a dead process left at the path; refuses to remove anything else. */
static enum err_code clear_stale(const char *path, const struct sockaddr_un *addr, struct err *err)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? ERR_OK : err_set(err, code_of(errno), "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, ERR_INVALID, "%s: exists and is not a socket", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(err, ERR_IO, "%s: socket: %s", path, strerror(errno));
	int rc = connect(fd, (const struct sockaddr *)addr, sizeof(*addr));
	int e = rc < 0 ? errno : 0;
	close(fd);
	if (e == ENOENT)
		return ERR_OK;
	if (e != ECONNREFUSED && e != EACCES && e != EPERM)
		return err_set(err, ERR_BUSY, "%s: another process listens there: is sluiced running already?", path);
	if (e != ECONNREFUSED)
		return err_set(err, ERR_DENIED, "%s: cannot tell whether another process listens there: %s", path,
			strerror(e));
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set(err, code_of(errno), "%s: cannot remove the stale socket: %s", path, strerror(errno));
	return ERR_OK;
}

enum err_code unix_bind(const char *path, mode_t mode, const char *group, int *out, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	if (len == 0 || len >= sizeof(addr.sun_path))
		return err_set(err, ERR_RANGE, "%s: a socket path has 1 to %zu bytes", path, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, len);
	gid_t gid;
	enum err_code rc = find_group(path, group, &gid, err);
	if (rc)
		return rc;
	rc = clear_stale(path, &addr, err);
	if (rc)
		return rc;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(err, ERR_IO, "%s: socket: %s", path, strerror(errno));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		rc = err_set(err, errno == EADDRINUSE ? ERR_BUSY : code_of(errno), "%s: %s", path,
			errno == ENOENT ? "its directory does not exist" : strerror(errno));
		close(fd);
		return rc;
	}
	if (gid != (gid_t)-1 && chown(path, (uid_t)-1, gid) < 0)
		rc = err_set(err, code_of(errno), "%s: cannot give it to group %s: %s", path, group, strerror(errno));
	else if (chmod(path, mode) < 0)
		rc = err_set(
			err, code_of(errno), "%s: cannot set mode %04o: %s", path, (unsigned)mode, strerror(errno));
	if (rc) {
		unlink(path);
		close(fd);
		return rc;
	}
	*out = fd;
	return ERR_OK;
}

struct unix_file unix_file_of(const char *path)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return (struct unix_file){0};
	return (struct unix_file){.dev = st.st_dev, .ino = st.st_ino};
}

void unix_unlink_if(const char *path, struct unix_file file)
{
	struct unix_file now = unix_file_of(path);
	if (file.ino && now.ino == file.ino && now.dev == file.dev)
		unlink(path);
}
