/* password - the passwords of Redis and of Sentinels, from where the configuration says that they are. */
#include "config/config.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/mem.h"
#include "base/secret.h"

enum { MAX_PASSWORD_BYTES = 65536 };

static enum err_code password_errno_code(int e)
{
	if (e == ENOENT || e == ENOTDIR)
		return ERR_NOT_FOUND;
	if (e == EISDIR || e == ELOOP || e == ENAMETOOLONG) /* no start again helps */
		return ERR_INVALID;
	return e == EACCES || e == EPERM ? ERR_DENIED : ERR_IO;
}

/* Reads at most cap bytes. Returns 0 or an errno. O_NONBLOCK: a FIFO must not hold the daemon. */
static int read_some(const char *path, char *bytes, size_t cap, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), failed = 0;
	if (fd < 0)
		return errno;
	while (*len < cap) {
		ssize_t n = read(fd, bytes + *len, cap - *len);
		if (n == 0)
			break;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			failed = errno;
			break;
		}
		*len += (size_t)n;
	}
	close(fd);
	return failed;
}

static const char *problem_of(const char *secret, size_t len)
{
	if (len > MAX_PASSWORD_BYTES)
		return "larger than 64 KiB";
	if (len == 0)
		return "is empty";
	return memchr(secret, '\0', len) ? "contains a NUL byte" : NULL;
}

static size_t without_newline(const char *s, size_t len)
{
	if (len == 0 || s[len - 1] != '\n')
		return len;
	return len > 1 && s[len - 2] == '\r' ? len - 2 : len - 1;
}

static enum err_code from_file(
	const char *setting, const char *path, const char *key, const char **out, struct err *err)
{
	char secret[MAX_PASSWORD_BYTES + 3]; /* no struct buf: growing would leave copies behind */
	size_t len = 0;
	enum err_code rc = ERR_OK;
	int failed = read_some(path, secret, sizeof secret, &len);
	len = without_newline(secret, len);
	const char *problem = problem_of(secret, len);
	if (failed)
		rc = err_set(
			err, password_errno_code(failed), "%s.%s: %.300s: %s", setting, key, path, strerror(failed));
	else if (problem)
		rc = err_set(err, ERR_INVALID, "%s.%s: %.300s: %s", setting, key, path, problem);
	else
		*out = secret_keep(secret, len);
	mem_wipe(secret, sizeof secret);
	return rc;
}

static enum err_code from_credential(const char *setting, const char *name, const char **out, struct err *err)
{
	const char *directory = getenv("CREDENTIALS_DIRECTORY");
	if (!directory || !*directory)
		return err_set(err, ERR_NOT_FOUND, "%s.credential: $CREDENTIALS_DIRECTORY is not set", setting);
	char *path = mem_printf("%s/%s", directory, name);
	enum err_code rc = from_file(setting, path, "credential", out, err);
	mem_free(path);
	return rc;
}

/* Variables that were read: /proc/PID/environ, core files and children show them no more. Until the process ends. */
static struct taken {
	struct taken *next;
	const char *secret;
	char name[];
} * all_taken;

static struct taken *taken_as(const char *name)
{
	struct taken *t = all_taken;
	while (t && strcmp(t->name, name) != 0)
		t = t->next;
	return t;
}

static const char *password_take(const char *name, char *value)
{
	struct taken *t = taken_as(name);
	if (!t) {
		size_t room = strlen(name) + 1;
		t = mem_alloc(sizeof *t + room);
		memcpy(t->name, name, room);
		t->next = all_taken;
		all_taken = t;
	}
	secret_drop(t->secret);
	t->secret = secret_keep(value, without_newline(value, strlen(value)));
	mem_wipe(value, strlen(value));
	return t->secret;
}

static enum err_code from_env(const char *setting, const char *name, const char **out, struct err *err)
{
	char *value = getenv(name);
	const struct taken *t = taken_as(name);
	if (!value)
		return err_set(err, ERR_NOT_FOUND, "%s.env: the variable %s is not set", setting, name);
	if (*value ? without_newline(value, strlen(value)) == 0 : !t)
		return err_set(err, ERR_INVALID, "%s.env: the variable %s is empty", setting, name);
	const char *secret = *value ? password_take(name, value) : t->secret;
	*out = secret_keep(secret, strlen(secret));
	return ERR_OK;
}

static enum err_code read_secret(const char *setting, const struct config_secret *p, const char **out, struct err *err)
{
	if (*p->file)
		return from_file(setting, p->file, "file", out, err);
	if (*p->credential)
		return from_credential(setting, p->credential, out, err);
	if (*p->env)
		return from_env(setting, p->env, out, err);
	*out = NULL;
	return ERR_OK;
}

enum err_code config_password(const struct config *c, const char **out, struct err *err)
{
	return read_secret("redis.password", &c->redis.password, out, err);
}

enum err_code config_sentinel_password(const struct config *c, const char **out, struct err *err)
{
	return read_secret("redis.sentinel.password", &c->redis.sentinel.password, out, err);
}
