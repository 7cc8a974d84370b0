#include "codec/state.h"

#include <string.h>

#include "base/fnv.h"
#include "base/mem.h"

/* magic[8] version:4 reserved:4 length:8 checksum:8, then the body; length and checksum are the body's */
enum { HEAD = 32, AT_VERSION = 8, AT_LENGTH = 16, AT_SUM = 24 };

static const char magic[8] = {'s', 'l', 'u', 'i', 'c', 'e', 'd', '\n'};

/* Against accidents, not against forgers: the memory is sealed and only the service manager hands it on. */
uint64_t state_checksum(const char *bytes, size_t len)
{
	return fnv(bytes, len);
}

/* ---- out ---- */

static void state_put(struct buf *b, uint64_t v, unsigned n_bytes)
{
	char bytes[8];
	for (unsigned i = 0; i < n_bytes; i++)
		bytes[i] = (char)(v >> (8 * i) & 0xff);
	buf_add(b, bytes, n_bytes);
}

static void state_put_slice(struct buf *b, struct slice s)
{
	state_put(b, s.len, 4);
	buf_add(b, s.p ? s.p : "", s.len);
}

static void state_put_list(struct buf *b, const struct slice *v, size_t n)
{
	state_put(b, n, 4);
	for (size_t i = 0; i < n; i++)
		state_put_slice(b, v[i]);
}

static void put_conn(struct buf *b, const struct state_conn *c)
{
	state_put(b, c->number, 4);
	state_put(b, (uint64_t)c->pid, 8);
	state_put(b, c->uid, 4);
	state_put(b, c->credits, 4);
	state_put(b, c->has_services, 1);
	state_put_slice(b, c->key);
	state_put_slice(b, c->name);
	state_put(b, (uint64_t)c->told_until, 8);
	state_put(b, (uint64_t)c->n_pings, 8);
	state_put_slice(b, c->input);
	state_put_slice(b, c->output);
	state_put_list(b, c->services, c->n_services);
	state_put_list(b, c->leases, c->n_leases);
}

void state_encode(struct buf *out, const struct state *s)
{
	struct buf body;
	buf_init(&body);
	state_put(&body, (uint64_t)s->saved_at, 8);
	state_put_slice(&body, s->node);
	state_put(&body, s->n_conns, 4);
	for (size_t i = 0; i < s->n_conns; i++)
		put_conn(&body, &s->conns[i]);
	buf_add(out, magic, sizeof magic);
	state_put(out, STATE_VERSION, 4);
	state_put(out, 0, 4);
	state_put(out, body.len, 8);
	state_put(out, state_checksum(body.data, body.len), 8);
	buf_add(out, body.data, body.len);
	buf_fini(&body);
}

/* ---- in ---- */

struct state_reader { /* of the body; is_bad stays set */
	const char *p;
	size_t left;
	bool is_bad;
};

static const char *state_take(struct state_reader *r, size_t n)
{
	if (n > r->left) {
		r->is_bad = true;
		r->left = 0;
		return NULL;
	}
	const char *p = r->p;
	r->p += n;
	r->left -= n;
	return p;
}

static uint64_t state_get(struct state_reader *r, unsigned n_bytes)
{
	const char *p = state_take(r, n_bytes);
	uint64_t v = 0;
	for (unsigned i = 0; p && i < n_bytes; i++)
		v |= (uint64_t)(unsigned char)p[i] << (8 * i);
	return v;
}

static struct slice get_slice(struct state_reader *r)
{
	size_t len = (size_t)state_get(r, 4);
	const char *p = state_take(r, len);
	return p ? (struct slice){p, len} : (struct slice){NULL, 0};
}

/* Lists grow one array for all of them: their places in it are set when it has its last size. */
struct lists {
	struct slice *v;
	size_t n, cap;
};

static size_t get_list(struct state_reader *r, struct lists *l)
{
	size_t n = (size_t)state_get(r, 4);
	if (n > r->left / 4) { /* each has a length of four bytes */
		r->is_bad = true;
		return 0;
	}
	if (l->n + n > l->cap) {
		l->cap = (l->n + n) * 2;
		l->v = mem_grow(l->v, l->cap, sizeof *l->v);
	}
	for (size_t i = 0; i < n; i++)
		l->v[l->n++] = get_slice(r);
	return n;
}

static void get_conn(struct state_reader *r, struct state_conn *c, struct lists *l)
{
	*c = (struct state_conn){0};
	c->number = (uint32_t)state_get(r, 4);
	c->pid = (int64_t)state_get(r, 8);
	c->uid = (uint32_t)state_get(r, 4);
	c->credits = (uint32_t)state_get(r, 4);
	uint64_t flag = state_get(r, 1);
	r->is_bad = r->is_bad || flag > 1;
	c->has_services = flag;
	c->key = get_slice(r);
	c->name = get_slice(r);
	c->told_until = (mono_ms)state_get(r, 8);
	c->n_pings = (int64_t)state_get(r, 8);
	c->input = get_slice(r);
	c->output = get_slice(r);
	c->n_services = get_list(r, l);
	c->n_leases = get_list(r, l);
	r->is_bad = r->is_bad || c->credits > FRAME_CREDITS_MAX;
}

static enum err_code check_head(const char *bytes, size_t len, struct err *err)
{
	if (len < HEAD || memcmp(bytes, magic, sizeof magic) != 0)
		return err_set(err, ERR_INVALID, "it is no state of sluiced");
	struct state_reader r = {bytes + AT_VERSION, HEAD - AT_VERSION, false};
	uint64_t version = state_get(&r, 4);
	if (version != STATE_VERSION)
		return err_set(
			err, ERR_RANGE, "it has version %llu, this is %d", (unsigned long long)version, STATE_VERSION);
	uint64_t reserved = state_get(&r, 4), length = state_get(&r, 8), sum = state_get(&r, 8);
	if (reserved || length != len - HEAD)
		return err_set(
			err, ERR_INVALID, "it has %zu bytes instead of %llu", len - HEAD, (unsigned long long)length);
	if (sum != state_checksum(bytes + HEAD, len - HEAD))
		return err_set(err, ERR_INVALID, "its checksum is wrong");
	return ERR_OK;
}

enum err_code state_decode(const char *bytes, size_t len, struct state *out, struct err *err)
{
	enum err_code code = check_head(bytes, len, err);
	if (code)
		return code;
	struct state_reader r = {bytes + HEAD, len - HEAD, false};
	struct state s = {.saved_at = (mono_ms)state_get(&r, 8)};
	struct lists lists = {.v = mem_array(1, sizeof(struct slice)), .cap = 1};
	s.node = get_slice(&r);
	s.n_conns = (size_t)state_get(&r, 4);
	if (s.n_conns > STATE_CONNS_MAX)
		r.is_bad = true;
	else
		s.conns = mem_array(s.n_conns + 1, sizeof *s.conns);
	for (size_t i = 0; i < s.n_conns && !r.is_bad; i++)
		get_conn(&r, &s.conns[i], &lists);
	s.lists = lists.v;
	if (r.is_bad || r.left) {
		state_fini(&s);
		return err_set(err, ERR_INVALID, "its records do not add up");
	}
	struct slice *at = s.lists;
	for (size_t i = 0; i < s.n_conns; i++) {
		s.conns[i].services = at;
		at += s.conns[i].n_services;
		s.conns[i].leases = at;
		at += s.conns[i].n_leases;
	}
	*out = s;
	return ERR_OK;
}

void state_fini(struct state *s)
{
	mem_free(s->conns);
	mem_free(s->lists);
	*s = (struct state){0};
}
