#include "run/state_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "codec/state.h"

enum { BARRIER_MS = 500 };

#define CONN_PREFIX "conn-"
#define STATE_NAME "state"

struct state_store { /* what was taken and waits to be adopted */
	struct notify_fd *conns;
	size_t n_conns;
	bool has_state;
	char *image;
	struct state state;
};

/* ---- taking ---- */

/* The whole memory file. NULL, and err says why. Nobody can change it under us: it is sealed. */
static char *read_image(int fd, size_t *len, struct err *err)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	if (fstat(fd, &st) != 0 || seals < 0 || !(seals & F_SEAL_WRITE) || !(seals & F_SEAL_SHRINK)) {
		err_set(err, ERR_INVALID, "it is no sealed memory");
		return NULL;
	}
	if (st.st_size < 0 || st.st_size > STATE_BYTES_MAX) {
		err_set(err, ERR_RANGE, "it has %lld bytes", (long long)st.st_size);
		return NULL;
	}
	char *image = mem_alloc((size_t)st.st_size + 1);
	for (*len = 0; *len < (size_t)st.st_size;) {
		ssize_t n = pread(fd, image + *len, (size_t)st.st_size - *len, (off_t)*len);
		if (n <= 0) {
			err_set(err, ERR_IO, "it cannot be read: %s", strerror(errno));
			mem_free(image);
			return NULL;
		}
		*len += (size_t)n;
	}
	return image;
}

static enum err_code load(struct state_store *s, int fd, const char *node, struct err *err)
{
	size_t len;
	s->image = read_image(fd, &len, err);
	if (!s->image)
		return err->code;
	enum err_code code = state_decode(s->image, len, &s->state, err);
	if (code)
		return code;
	mono_ms age = mono_now() - s->state.saved_at;
	if (s->state.node.len != strlen(node) || memcmp(s->state.node.p, node, s->state.node.len) != 0)
		return err_set(err, ERR_INVALID, "it is of node %.*s",
			(int)(s->state.node.len < 200 ? s->state.node.len : 200), s->state.node.p);
	if (age < 0 || age > STATE_STORE_AGE_MS)
		return err_set(err, ERR_INVALID, "it is %lld ms old", (long long)age);
	return ERR_OK;
}

/* Nothing of it is wanted any more, neither here nor in the manager. */
static void state_store_drop(struct state_store *s)
{
	for (size_t i = 0; i < s->n_conns; i++)
		notify_unstore(s->conns[i].name);
	if (s->has_state)
		notify_unstore(STATE_NAME);
	state_store_free(s);
}

void state_store_take(struct daemon *d, struct notify_fd *fds, size_t n)
{
	struct state_store *s = mem_alloc(sizeof *s);
	s->conns = mem_array(n + 1, sizeof *s->conns);
	struct err err = {0};
	bool is_good = false;
	for (size_t i = 0; i < n; i++) {
		if (strncmp(fds[i].name, CONN_PREFIX, sizeof CONN_PREFIX - 1) == 0) {
			s->conns[s->n_conns++] = fds[i];
		} else if (strcmp(fds[i].name, STATE_NAME) == 0) {
			if (!s->has_state)
				is_good = load(s, fds[i].fd, d->config->node.id, &err) == ERR_OK;
			s->has_state = true;
			close(fds[i].fd);
		} else {
			continue;
		}
		fds[i].fd = -1;
	}
	if (is_good) {
		d->store = s;
		return;
	}
	if (s->has_state || s->n_conns)
		log_line(LOG_WARN, "stored state dropped, connections=%zu closed: %s", s->n_conns,
			s->has_state ? err.text : "there is none");
	state_store_drop(s);
}

void state_store_free(struct state_store *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_conns; i++)
		if (s->conns[i].fd >= 0)
			close(s->conns[i].fd);
	state_fini(&s->state);
	mem_free(s->image);
	mem_free(s->conns);
	mem_free(s);
}

/* ---- adopting ---- */

/* Gives its descriptor away: -1 afterwards. */
static int fd_of(struct state_store *s, uint32_t number)
{
	char name[sizeof s->conns[0].name];
	snprintf(name, sizeof name, CONN_PREFIX "%u", number);
	for (size_t i = 0; i < s->n_conns; i++) {
		int fd = s->conns[i].fd;
		if (fd < 0 || strcmp(s->conns[i].name, name) != 0)
			continue;
		s->conns[i].fd = -1;
		return fd;
	}
	return -1;
}

static void state_store_adopt(struct daemon *d, struct state_store *s)
{
	size_t n = 0;
	for (size_t i = 0; i < s->state.n_conns; i++) {
		const struct state_conn *r = &s->state.conns[i];
		struct err err;
		int fd = fd_of(s, r->number);
		if (fd < 0)
			continue; /* the worker has gone meanwhile: the manager forgot it */
		if (worker_socket_adopt(d->workers, fd, r, &err) == ERR_OK) {
			n++;
			continue;
		}
		log_line(LOG_WARN, "stored connection of worker=%.*s dropped: %s",
			(int)(r->name.len < 127 ? r->name.len : 127), r->name.p, err.text);
		close(fd);
	}
	log_line(LOG_NOTICE, "connections=%zu of the former process go on", n);
}

void state_store_try(struct daemon *d)
{
	struct state_store *s = d->store;
	if (!s || d->end.is_stopping)
		return;
	bool is_late = mono_now() - s->state.saved_at > d->core->services.shortest_ttl;
	if (!is_late && !coord_knows_own(d->core))
		return;
	d->store = NULL; /* adopting makes turns of its own */
	if (coord_knows_own(d->core))
		state_store_adopt(d, s);
	else
		log_line(LOG_WARN,
			"stored state dropped, connections=%zu closed: Redis was not reached while their leases ran",
			s->n_conns);
	state_store_drop(s);
}

/* ---- saving ---- */

struct saving {
	struct buf input, output;
	char (*lease_texts)[SESSION_LEASE_CAP];
};

static void add_leases(struct coord *c, struct worker *m, struct state_conn *r, struct saving *v)
{
	v->lease_texts = mem_array(m->credit_holder.in_use + 1, sizeof *v->lease_texts);
	r->leases = mem_array(m->credit_holder.in_use + 1, sizeof *r->leases);
	for (struct link *l = m->entries.next; l != &m->entries && r->n_leases < m->credit_holder.in_use; l = l->next) {
		const struct entry *e = LIST_OF(struct entry, peers, l);
		char *text = v->lease_texts[r->n_leases];
		int n = entry_lease_format(text, e, services_find(&c->services, e->svc)->rules->hash);
		r->leases[r->n_leases++] = (struct slice){text, (size_t)n};
	}
}

static void add_services(const struct coord *c, const struct worker *m, struct state_conn *r)
{
	r->has_services = !m->credit_holder.all_services;
	r->services = mem_array((size_t)m->credit_holder.n_wanted + 1, sizeof *r->services);
	for (uint16_t i = 0; r->has_services && i < c->services.n; i++) {
		const struct service_rules *s = c->services.v[i].rules;
		if (s && m->credit_holder.wanted[i] && r->n_services < m->credit_holder.n_wanted)
			r->services[r->n_services++] = (struct slice){s->name, strlen(s->name)};
	}
}

/* False: it was closed, and the manager takes no more. */
static bool save_one(struct daemon *d, struct worker *m, struct state_conn *r, struct saving *v)
{
	char name[64];
	snprintf(name, sizeof name, CONN_PREFIX "%u", r->number);
	int fd = worker_socket_let_go(d->workers, m->s.id, &v->input, &v->output);
	if (fd < 0)
		return false;
	bool ok = notify_store(name, fd);
	close(fd);
	if (!ok)
		return false;
	r->key = (struct slice){m->s.key, SESSION_KEY};
	r->name = (struct slice){m->s.name, strlen(m->s.name)};
	r->pid = m->s.pid;
	r->uid = m->s.uid;
	r->credits = m->credit_holder.credits;
	r->told_until = m->s.told_until;
	r->n_pings = m->s.n_pings;
	r->input = (struct slice){v->input.data, v->input.len};
	r->output = (struct slice){v->output.data, v->output.len};
	add_services(d->core, m, r);
	add_leases(d->core, m, r, v);
	return true;
}

static bool save_image(const struct state *s)
{
	struct buf image;
	buf_init(&image);
	state_encode(&image, s);
	int fd = memfd_create("sluiced-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	size_t at = 0;
	while (fd >= 0 && at < image.len) {
		ssize_t n = write(fd, image.data + at, image.len - at);
		if (n <= 0)
			break;
		at += (size_t)n;
	}
	bool ok = fd >= 0 && at == image.len &&
		  fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 &&
		  notify_store(STATE_NAME, fd);
	if (fd >= 0)
		close(fd);
	buf_fini(&image);
	return ok;
}

static void free_records(struct state_conn *conns, struct saving *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		mem_free(conns[i].services);
		mem_free(conns[i].leases);
		mem_free(v[i].lease_texts);
		buf_fini(&v[i].input);
		buf_fini(&v[i].output);
	}
	mem_free(conns);
	mem_free(v);
}

void state_store_save(struct daemon *d)
{
	size_t max = notify_store_max();
	struct coord *c = d->core;
	if (!d->workers || d->store || max < 2) /* a store that was not adopted is still with the manager */
		return;
	max = max - 1 < STATE_CONNS_MAX ? max - 1 : STATE_CONNS_MAX;
	max = max < c->workers.n ? max : c->workers.n;
	struct state_conn *conns = mem_array(max + 1, sizeof *conns);
	struct saving *v = mem_array(max + 1, sizeof *v);
	size_t n = 0;
	bool ok = true;
	for (struct link *l = c->workers.all.next; ok && l != &c->workers.all && n < max; l = l->next) {
		struct worker *m = LIST_OF(struct worker, all, l);
		if (!worker_can_go_on(c, m))
			continue;
		conns[n].number = (uint32_t)n + 1;
		ok = save_one(d, m, &conns[n], &v[n]);
		n += ok;
	}
	struct state s = {.saved_at = mono_now(),
		.node = {d->config->node.id, strlen(d->config->node.id)},
		.conns = conns,
		.n_conns = n};
	if (n)
		ok = save_image(&s) && notify_barrier(BARRIER_MS) && ok;
	if (ok && n)
		log_line(LOG_NOTICE, "connections=%zu stay with the service manager", n);
	else if (!ok)
		log_line(LOG_WARN, "the service manager did not take every connection: workers reconnect");
	free_records(conns, v, max + 1);
}
