#include "io/unix_door.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/mono.h"
#include "io/unix_bind.h"

enum { LOOK_MS = 1000, TRY_TAKEN_MS = 10000, SAY_FIRST_MS = 1000, SAY_MOST_MS = 600000 };

enum door_place { DOOR_OURS, DOOR_GONE, DOOR_TAKEN };

struct unix_door {
	uv_loop_t *loop;
	uv_pipe_t *pipe;
	uv_timer_t timer;
	struct unix_door_at at; /* path and group are ours */
	char *path, *group;
	bool is_passed;
	struct unix_file file; /* zero: passed, and not to be seen from here */
	mono_ms say_at, say_pause, try_at;
};

static void door_on_pipe_closed(uv_handle_t *h)
{
	mem_free(h);
}

static void door_on_timer_closed(uv_handle_t *h)
{
	struct unix_door *d = h->data;
	mem_free(d->path);
	mem_free(d->group);
	mem_free(d);
}

static enum err_code check_passed(int fd, const char *path, struct err *err)
{
	int is_listening = 0, domain = 0;
	socklen_t len = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX ||
		getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &len) < 0 || !is_listening)
		return err_set(err, ERR_INVALID, "%s: descriptor %d is not a listening unix socket", path, fd);
	return ERR_OK;
}

/* Where a passed socket is: the unit decides, not our configuration. */
static void take_own_path(struct unix_door *d, int fd)
{
	struct sockaddr_un addr = {0};
	socklen_t len = sizeof addr;
	if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0 || addr.sun_path[0] != '/')
		return;
	mem_free(d->path);
	d->path = mem_dup(addr.sun_path, strnlen(addr.sun_path, sizeof addr.sun_path));
}

/* fd is the new pipe's, also after a failure. */
static enum err_code door_listen(struct unix_door *d, int fd, struct err *err)
{
	uv_pipe_t *p = mem_alloc(sizeof *p);
	uv_pipe_init(d->loop, p, 0);
	p->data = d->at.data;
	int rc = uv_pipe_open(p, fd);
	if (rc < 0)
		close(fd);
	else
		rc = uv_listen((uv_stream_t *)p, d->at.backlog, d->at.on_connection);
	if (rc < 0) {
		uv_close((uv_handle_t *)p, door_on_pipe_closed);
		return err_set(err, ERR_IO, "%s: cannot listen: %s", d->path, uv_strerror(rc));
	}
	if (d->pipe)
		uv_close((uv_handle_t *)d->pipe, door_on_pipe_closed);
	d->pipe = p;
	return ERR_OK;
}

static enum err_code door_bind(struct unix_door *d, struct err *err)
{
	int fd;
	enum err_code code = unix_bind(d->path, d->at.mode, d->group, &fd, err);
	if (code)
		return code;
	struct unix_file file = unix_file_of(d->path);
	code = door_listen(d, fd, err);
	if (code)
		unix_unlink_if(d->path, file);
	else
		d->file = file;
	return code;
}

static enum door_place door_look(const struct unix_door *d)
{
	struct stat st;
	if (d->is_passed && !d->file.ino)
		return DOOR_OURS;
	if (lstat(d->path, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR ? DOOR_GONE : DOOR_OURS;
	return st.st_dev == d->file.dev && st.st_ino == d->file.ino ? DOOR_OURS : DOOR_TAKEN;
}

static bool is_time_to_say(struct unix_door *d)
{
	mono_ms now = mono_now();
	if (d->say_pause && now < d->say_at)
		return false;
	d->say_pause = d->say_pause ? 2 * d->say_pause : SAY_FIRST_MS;
	if (d->say_pause > SAY_MOST_MS)
		d->say_pause = SAY_MOST_MS;
	d->say_at = now + d->say_pause;
	return true;
}

/* Whether somebody listens on another file in its place is only known by connecting to it: not every second. */
static bool is_time_to_try(struct unix_door *d, enum door_place place)
{
	mono_ms now = mono_now();
	if (place == DOOR_TAKEN && now < d->try_at)
		return false;
	d->try_at = now + TRY_TAKEN_MS;
	return true;
}

static void door_on_timer(uv_timer_t *t)
{
	struct unix_door *d = t->data;
	enum door_place place = door_look(d);
	if (place == DOOR_OURS) {
		d->say_pause = d->try_at = 0;
		return;
	}
	const char *how = place == DOOR_GONE ? "gone" : "replaced";
	struct err err;
	if (d->is_passed) {
		if (is_time_to_say(d))
			log_line(LOG_ERROR, "socket=%s is %s: nobody can connect until its socket unit is restarted",
				d->path, how);
	} else if (!is_time_to_try(d, place)) {
		return;
	} else if (door_bind(d, &err)) {
		if (is_time_to_say(d))
			log_line(LOG_ERROR, "socket=%s is %s, nobody can connect: %s; trying again", d->path, how,
				err.text);
	} else {
		log_line(LOG_WARN, "socket=%s was %s: made again", d->path, how);
	}
}

enum err_code unix_door_open(uv_loop_t *loop, const struct unix_door_at *at, struct unix_door **out, struct err *err)
{
	bool is_passed = at->fd >= 0;
	enum err_code code = is_passed ? check_passed(at->fd, at->path, err) : ERR_OK;
	if (code)
		return code;
	struct unix_door *d = mem_alloc(sizeof *d);
	d->loop = loop;
	d->at = *at;
	d->path = mem_dup(at->path, strlen(at->path));
	d->group = mem_dup(at->group, strlen(at->group));
	d->is_passed = is_passed;
	uv_timer_init(loop, &d->timer);
	d->timer.data = d;
	if (is_passed)
		take_own_path(d, at->fd);
	code = is_passed ? door_listen(d, at->fd, err) : door_bind(d, err);
	if (code) {
		unix_door_close(d, true);
		return code;
	}
	if (is_passed)
		d->file = unix_file_of(d->path);
	uv_timer_start(&d->timer, door_on_timer, LOOK_MS, LOOK_MS);
	*out = d;
	return ERR_OK;
}

void unix_door_close(struct unix_door *d, bool unlink_path)
{
	if (!d)
		return;
	if (unlink_path && !d->is_passed)
		unix_unlink_if(d->path, d->file);
	if (d->pipe)
		uv_close((uv_handle_t *)d->pipe, door_on_pipe_closed);
	uv_close((uv_handle_t *)&d->timer, door_on_timer_closed);
}
