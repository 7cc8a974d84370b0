/* A worker's life: made, asked for events, freed. sluice_worker_next says what is due before what the daemon has said:
 * after a stall of this process the fences count before any new word. */
#include "client/client_p.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"

enum { LEASE_MS_UNKNOWN = 10000, BYE_MS = 1000, WAIT_MAX_MS = 60000, NAME_MAX_BYTES = 128 };
#define SOCKET_DEFAULT "/run/sluiced/worker.sock"

void client_note(struct sluice_worker *w, const char *fmt, ...)
{
	char line[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	buf_add(&w->said.notes, line, strlen(line) + 1);
}

void client_trouble(struct sluice_worker *w, const char *fmt, ...)
{
	char line[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (w->conn.trouble && strcmp(w->conn.trouble, line) == 0)
		return;
	mem_free(w->conn.trouble);
	w->conn.trouble = mem_dup(line, strlen(line));
	client_note(w, "%s", line);
}

void client_fail(struct sluice_worker *w, const char *code, const char *fmt, ...)
{
	char line[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (w->is_over)
		return;
	w->is_over = true;
	w->said.failed = code;
	w->said.failed_text = mem_dup(line, strlen(line));
}

static bool lease_has_name(const void *value, const void *key, size_t len)
{
	const struct client_lease *l = value;
	return strlen(l->name) == len && memcmp(l->name, key, len) == 0;
}

static const char *socket_of(const struct sluice_options *o)
{
	const char *by_env = getenv("SLUICED_WORKER");
	return o->socket ? o->socket : by_env && *by_env ? by_env : SOCKET_DEFAULT;
}

static int options_problem(const struct sluice_options *o)
{
	if (strlen(socket_of(o)) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return ENAMETOOLONG;
	if (o->credits < 0 || o->credits > SLUICE_CREDITS_MAX || (o->name && strlen(o->name) > NAME_MAX_BYTES))
		return EINVAL;
	return 0;
}

/* As every client: in containers the process id is 1 everywhere and the host's name is the pod's. */
static char *default_name(void)
{
	const char *pod = getenv("POD_NAME");
	char host[256] = "";
	gethostname(host, sizeof(host) - 1);
	return mem_printf("%.50s@%.60s:%d", program_invocation_short_name, pod && *pod ? pod : host, (int)getpid());
}

struct sluice_worker *sluice_worker_new(const struct sluice_options *o)
{
	errno = options_problem(o);
	if (errno)
		return NULL;
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0)
		return NULL;
	struct sluice_worker *w = mem_alloc(sizeof(*w));
	*w = (struct sluice_worker){.conn.fd = -1,
		.conn.epoll_fd = epoll_fd,
		.hello.credits = o->credits ? o->credits : 1,
		.hello.is_in_entries_mode = o->mode != SLUICE_STREAMS,
		.conn.is_drained = true,
		.now = mono_now(),
		.conn.backoff = 100,
		.leases.lease_ms = LEASE_MS_UNKNOWN,
		.leases.until_ms = MONO_NEVER};
	w->hello.socket = mem_dup(socket_of(o), strlen(socket_of(o)));
	w->hello.name = o->name ? mem_dup(o->name, strlen(o->name)) : default_name();
	w->hello.services = mem_array(o->n_services + 1, sizeof(*w->hello.services));
	for (; w->hello.n_services < o->n_services; w->hello.n_services++)
		w->hello.services[w->hello.n_services] =
			mem_dup(o->services[w->hello.n_services], strlen(o->services[w->hello.n_services]));
	w->conn.retry_at = w->now;
	map_init(&w->leases.by_name, lease_has_name, (uint64_t)mono_now_us() * (uint64_t)getpid());
	heap_init(&w->leases.turns);
	list_init(&w->leases.news);
	buf_init(&w->conn.out);
	buf_init(&w->said.notes);
	return w;
}

/* What the last event pointed to. */
static void end_event(struct sluice_worker *w)
{
	if (w->said.doc)
		yyjson_doc_free(w->said.doc);
	w->said.doc = NULL;
	mem_free(w->said.info);
	w->said.info = NULL;
	if (w->leases.to_free)
		client_lease_free(w, w->leases.to_free);
	w->leases.to_free = NULL;
}

void sluice_worker_free(struct sluice_worker *w)
{
	if (!w)
		return;
	end_event(w);
	size_t pos = 0;
	for (struct client_lease *l; (l = map_next(&w->leases.by_name, &pos));)
		client_lease_free(w, l);
	client_drop(w);
	frame_splitter_fini(&w->conn.in);
	close(w->conn.epoll_fd);
	for (size_t i = 0; i < w->hello.n_services; i++)
		mem_free(w->hello.services[i]);
	mem_free(w->hello.services);
	mem_free(w->hello.socket);
	mem_free(w->hello.name);
	mem_free(w->session);
	mem_free(w->conn.trouble);
	mem_free(w->said.failed_text);
	client_entries_fini(&w->said.entries);
	buf_fini(&w->conn.out);
	buf_fini(&w->said.notes);
	map_fini(&w->leases.by_name);
	heap_fini(&w->leases.turns);
	mem_free(w);
}

int sluice_worker_fd(const struct sluice_worker *w)
{
	return w->conn.epoll_fd;
}

int sluice_worker_timeout(const struct sluice_worker *w)
{
	if (w->said.failed || w->said.notes_said < w->said.notes.len ||
		(w->conn.state != CLIENT_DOWN && !w->conn.is_drained) || !list_empty(&w->leases.news))
		return 0;
	mono_ms at = heap_deadline(&w->leases.turns);
	if (!w->is_over && w->conn.state == CLIENT_DOWN)
		at = mono_min(at, w->conn.retry_at);
	if (at == MONO_NEVER)
		return WAIT_MAX_MS;
	mono_ms left = at - mono_now();
	return left < 0 ? 0 : left > WAIT_MAX_MS ? WAIT_MAX_MS : (int)left;
}

void sluice_worker_step(struct sluice_worker *w)
{
	w->now = mono_now();
	client_connect(w);
	client_flush(w);
	client_read(w);
}

static bool next_note(struct sluice_worker *w, struct sluice_event *e)
{
	if (w->said.notes_said == w->said.notes.len) {
		buf_clear(&w->said.notes);
		w->said.notes_said = 0;
		return false;
	}
	const char *line = w->said.notes.data + w->said.notes_said;
	w->said.notes_said += strlen(line) + 1;
	end_event(w);                               /* of a frame that was none */
	w->said.info = mem_dup(line, strlen(line)); /* more may be added while it is looked at */
	*e = (struct sluice_event){.type = SLUICE_NOTE, .text = w->said.info};
	return true;
}

/* All whole lines that came, until one is an event. */
static bool next_frame(struct sluice_worker *w, struct sluice_event *e)
{
	enum err_code code = ERR_OK;
	char *line;
	size_t len;
	while (w->conn.state != CLIENT_DOWN && !w->conn.is_drained && !w->is_over) {
		if (!frame_splitter_next(&w->conn.in, &line, &len, &code)) {
			w->conn.is_drained = true;
			break;
		}
		end_event(w);
		if (client_act(w, line, len, e))
			return true;
		if (!list_empty(&w->leases.news) || heap_deadline(&w->leases.turns) <= w->now)
			return false; /* of what this one meant for leases, before the next one */
	}
	if (w->conn.state != CLIENT_DOWN && code) {
		client_trouble(w, "a frame of sluiced is too long");
		client_drop(w);
	}
	if (w->conn.state != CLIENT_DOWN && w->conn.is_drained && w->conn.why_ended) {
		client_trouble(w, "connection to sluiced lost%s%s; trying again", w->conn.why_ended > 0 ? ": " : "",
			w->conn.why_ended > 0 ? strerror(w->conn.why_ended) : "");
		client_drop(w);
	}
	return false;
}

/* Only answers are left, nobody takes them, and by their fences they are worth nothing any more. */
static bool is_in_vain(struct sluice_worker *w)
{
	size_t pos = 0;
	if (w->conn.state == CLIENT_UP)
		return false;
	for (struct client_lease *l; (l = map_next(&w->leases.by_name, &pos));)
		if (l->state != LEASE_SAYS || l->stop_ms > w->now)
			return false;
	return true;
}

static bool next_end(struct sluice_worker *w, struct sluice_event *e)
{
	if (w->is_leaving && !w->is_over && !w->leases.by_name.n) {
		w->is_over = true;
		*e = (struct sluice_event){.type = SLUICE_LEFT};
		return true;
	}
	if (w->is_leaving && !w->is_over && is_in_vain(w))
		client_fail(w, "unconfirmed", "sluiced is away: results not delivered");
	if (!w->said.failed)
		return false;
	*e = (struct sluice_event){.type = SLUICE_FAILED, .reason = w->said.failed, .text = w->said.failed_text};
	w->said.failed = NULL;
	return true;
}

bool sluice_worker_next(struct sluice_worker *w, struct sluice_event *e)
{
	end_event(w);
	bool is_more;
	do {
		if (client_lease_news(w, e) || next_note(w, e) || next_frame(w, e))
			return true;
		/* notes and losses of the frames that were no events */
		is_more = !list_empty(&w->leases.news) || w->said.notes_said < w->said.notes.len ||
			  (w->conn.state != CLIENT_DOWN && !w->conn.is_drained && !w->is_over);
	} while (is_more);
	if (next_end(w, e))
		return true;
	client_flush(w);
	return false;
}

void sluice_worker_set_user(struct sluice_worker *w, const char *lease, void *user)
{
	struct client_lease *l = client_lease_find(w, lease);
	if (l)
		l->user = user;
}

void sluice_worker_credits(struct sluice_worker *w, int n)
{
	char frame[64];
	if (w->is_leaving || n < 0 || n > SLUICE_CREDITS_MAX)
		return;
	w->hello.credits = n;
	int len = snprintf(frame, sizeof(frame), "{\"t\":\"credits\",\"n\":%d}\n", n);
	if (w->conn.state != CLIENT_DOWN)
		client_send(w, frame, (size_t)len);
}

void sluice_worker_leave(struct sluice_worker *w)
{
	if (w->is_leaving)
		return;
	sluice_worker_credits(w, 0);
	w->is_leaving = true;
}

size_t sluice_worker_held(const struct sluice_worker *w)
{
	return w->leases.by_name.n;
}

/* What came meanwhile is read before the close: unread bytes would make it a reset. */
void sluice_worker_bye(struct sluice_worker *w)
{
	static const char bye[] = "{\"t\":\"bye\"}\n";
	char unread[4096];
	w->is_over = true;
	client_send(w, bye, sizeof(bye) - 1);
	mono_ms end = mono_now() + BYE_MS;
	for (mono_ms left; w->conn.state != CLIENT_DOWN && (left = end - mono_now()) > 0;) {
		client_flush(w);
		while (read(w->conn.fd, unread, sizeof(unread)) > 0)
			continue;
		if (!w->conn.out.len)
			break;
		struct pollfd p = {.fd = w->conn.fd, .events = POLLOUT};
		if (poll(&p, 1, (int)left) == 1 && p.revents & (POLLERR | POLLHUP))
			break;
	}
	client_drop(w);
}
