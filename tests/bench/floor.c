#include "bench/floor.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"

enum {
	BATCH = 128,
	STAGES = 5,
	ROLE_CONNS = 2,
	TTL_MS = 10000,
	RENEW_CHUNK = 250,
	RENEW_CHUNKS = 4,
	PAGE = FLOOR_PAGE
};

static const char me[] = "floor", other[] = "other";
static const char value[] = "redis-consumer-floor/0000000000000001";

struct batch {
	uint32_t n;
	struct floor_item v[PAGE];
};

static struct meter before;

static void begin(struct rig *r)
{
	meter_read(r, 0, &before);
}

static struct floor_cost cost(struct rig *r)
{
	struct meter m = meter_since(r, 0, &before);
	return (struct floor_cost){m.at_us / 1e6, m.own_us, m.redis_us};
}

/* ---- one command each; takes and dones of a batch in one */

static struct cmd command_of(const struct rig *r, enum cmd_kind kind, const struct floor_item *it)
{
	struct cmd c = {.kind = kind, .id = it->id, .stream = {it->name, RIG_NAME}};
	const struct slice mine = {value, sizeof value - 1}, unlocks = r->n_masters == 1 ? mine : (struct slice){0};
	if (kind == CMD_LOCK || kind == CMD_UNLOCK || kind == CMD_RENEW)
		c.as.lock = (struct cmd_lock){.value = mine, .ttl_ms = TTL_MS};
	else if (kind == CMD_DONE)
		c.as.done.lock_value = unlocks;
	else if (kind == CMD_DONE_MANY)
		c.as.many.lock_value = unlocks;
	return c;
}

static int master_of(const struct rig *r, enum cmd_kind kind, const struct floor_item *it)
{
	bool is_lock = kind == CMD_LOCK || kind == CMD_UNLOCK || kind == CMD_RENEW || kind == CMD_LOCK_GET;
	return rig_master(r, is_lock ? command_lock_slot(it->name, RIG_NAME, it->id) : r->names.lbs_slot);
}

static void append(struct rig *r, enum cmd_kind kind, const struct floor_item *it, const char *node)
{
	struct cmd c = command_of(r, kind, it);
	rig_append(r, r->link, master_of(r, kind, it), &c, node);
}

static bool goes_together(enum cmd_kind kind, uint32_t n)
{
	return n > 1 && (kind == CMD_TAKE || kind == CMD_DONE);
}

/* One master: done has deleted the lock. */
static bool is_left_out(const struct rig *r, enum cmd_kind kind)
{
	return kind == CMD_UNLOCK && r->n_masters == 1;
}

static void append_many(struct rig *r, enum cmd_kind kind, const struct floor_item *v, uint32_t n)
{
	struct cmd_entry many[CMD_MANY_MAX];
	for (uint32_t at = 0; at < n; at += CMD_MANY_MAX) {
		struct cmd c = command_of(r, kind == CMD_TAKE ? CMD_TAKE_MANY : CMD_DONE_MANY, &v[at]);
		c.as.many.v = many;
		for (size_t *k = &c.as.many.n; *k < CMD_MANY_MAX && at + *k < n; (*k)++)
			many[*k] = (struct cmd_entry){{v[at + *k].name, RIG_NAME}, v[at + *k].id};
		rig_append(r, r->link, rig_master(r, r->names.lbs_slot), &c, me);
	}
}

void floor_append(struct rig *r, enum cmd_kind kind, const struct floor_item *v, uint32_t n)
{
	if (goes_together(kind, n))
		append_many(r, kind, v, n);
	else
		for (uint32_t i = 0; i < n && !is_left_out(r, kind); i++)
			append(r, kind, &v[i], me);
}

void floor_skip(struct rig *r, enum cmd_kind kind, const struct floor_item *v, uint32_t n)
{
	uint32_t n_replies = goes_together(kind, n) ? (n + CMD_MANY_MAX - 1) / CMD_MANY_MAX : n;
	for (uint32_t i = 0; i < n_replies && !is_left_out(r, kind); i++)
		freeReplyObject(rig_reply(r->link[master_of(r, kind, &v[i])]));
}

static void append_batch(struct rig *r, enum cmd_kind kind, const struct batch *b)
{
	floor_append(r, kind, b->v, b->n);
}

static void read_batch(struct rig *r, enum cmd_kind kind, const struct batch *b)
{
	floor_skip(r, kind, b->v, b->n);
}

static void append_page(struct rig *r, enum cmd_kind kind, struct entry_id after, uint32_t count, const char *node)
{
	struct cmd c = {.kind = kind, .id = after, .as.read.count = count};
	rig_append(r, r->link, rig_master(r, r->names.lbs_slot), &c, node);
}

/* [[lbs, [[id, [field, value]] …]]] */
static uint32_t take_entries(redisReply *x, struct floor_item *v)
{
	static const char before_name[] = "{\"DataStreamName\":\"";
	uint32_t n = 0;
	const redisReply *list = x->type == REDIS_REPLY_ARRAY && x->elements ? x->element[0]->element[1] : NULL;
	for (size_t i = 0; list && i < list->elements; i++) {
		struct floor_item *it = &v[n++];
		const redisReply *id = list->element[i]->element[0], *fields = list->element[i]->element[1];
		command_id_parse(id->str, id->len, &it->id);
		memcpy(it->name, fields->element[1]->str + sizeof before_name - 1, RIG_NAME);
		it->name[RIG_NAME] = '\0';
	}
	freeReplyObject(x);
	return n;
}

uint32_t floor_entries(struct rig *r, struct floor_item v[static FLOOR_PAGE])
{
	return take_entries(rig_reply(r->link[rig_master(r, r->names.lbs_slot)]), v);
}

static uint32_t get_entries(struct rig *r, struct batch *b)
{
	return b->n = floor_entries(r, b->v);
}

static void flush_all(struct rig *r)
{
	for (int i = 0; i < r->n_masters; i++)
		for (int done = 0; !done;)
			if (redisBufferWrite(r->link[i], &done) != REDIS_OK)
				proc_die("redis: %s", r->link[i]->errstr);
}

/* The scripts and the group, as they are for a daemon that has run before. */
static void prepare(struct rig *r, const char *node)
{
	static const enum cmd_kind kinds[] = {
		CMD_TAKE, CMD_DONE, CMD_TAKE_MANY, CMD_DONE_MANY, CMD_UNLOCK, CMD_REQUEUE};
	struct floor_item none = {.id = {1, 1}, .name = "stream-0000-00000000000000000000"};
	rig_append(r, r->link, rig_master(r, r->names.lbs_slot), &(struct cmd){.kind = CMD_GROUP_CREATE}, node);
	void *x;
	redisGetReply(r->link[rig_master(r, r->names.lbs_slot)], &x); /* BUSYGROUP is fine */
	freeReplyObject(x);
	for (int m = 0; m < r->n_masters; m++) {
		for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
			const struct cmd_entry entry = {{none.name, RIG_NAME}, none.id};
			struct cmd c = command_of(r, kinds[i], &none);
			c.use_eval = true;
			if (kinds[i] == CMD_TAKE_MANY || kinds[i] == CMD_DONE_MANY) {
				c.as.many.v = &entry;
				c.as.many.n = 1;
			}
			rig_append(r, r->link, m, &c, node);
			redisGetReply(r->link[m],
				&x); /* MOVED on the others: they have loaded it all the same, or never need it */
			freeReplyObject(x);
		}
		freeReplyObject(redisCommand(r->link[m], "PING"));
	}
}

void floor_append_read(struct rig *r, uint32_t count)
{
	append_page(r, CMD_READ, (struct entry_id){0}, count, me);
}

/* Every master knows every script afterwards. */
static void load_scripts(struct rig *r, const char *node)
{
	prepare(r, node);
	struct floor_item it = {.id = {1, 1}};
	for (uint32_t i = 0, seen = 0; r->n_masters > 1 && seen != (1u << r->n_masters) - 1; i++) {
		rig_name(it.name, 0, i);
		int m = master_of(r, CMD_UNLOCK, &it);
		struct cmd c = command_of(r, CMD_UNLOCK, &it);
		c.use_eval = true;
		rig_append(r, r->link, m, &c, node);
		freeReplyObject(rig_reply(r->link[m]));
		seen |= 1u << m;
	}
}

void floor_prepare(struct rig *r)
{
	load_scripts(r, me);
}

/* ---- the journey */

static const enum cmd_kind stages[STAGES] = {CMD_READ, CMD_LOCK, CMD_TAKE, CMD_DONE, CMD_UNLOCK};

/* Round by round every batch of a connection moves one stage on. Two connections take turns, so that Redis has work while we read. */
struct role_conn {
	struct batch ring[STAGES];
	uint32_t round;
	bool is_reading;
};

static void role_conn_send(struct rig *r, struct role_conn *l, bool reads)
{
	for (uint32_t s = STAGES - 1; s > 0; s--)
		append_batch(r, stages[s], &l->ring[(l->round + STAGES - s) % STAGES]);
	l->is_reading = reads;
	if (reads)
		floor_append_read(r, BATCH);
	flush_all(r);
}

/* Returns how many entries ended their journey. */
static uint32_t role_conn_collect(struct rig *r, struct role_conn *l, uint32_t *n_read)
{
	for (uint32_t s = STAGES - 1; s > 0; s--)
		read_batch(r, stages[s], &l->ring[(l->round + STAGES - s) % STAGES]);
	uint32_t n_done = l->ring[(l->round + 1) % STAGES].n;
	l->ring[l->round % STAGES].n = 0;
	if (l->is_reading)
		*n_read += get_entries(r, &l->ring[l->round % STAGES]);
	l->round++;
	return n_done;
}

struct floor_cost floor_journey(struct rig *r, uint32_t n)
{
	load_scripts(r, me);
	struct role_conn *role_conns = mem_array(ROLE_CONNS, sizeof *role_conns);
	uint32_t n_read = 0, n_done = 0;
	begin(r);
	for (int k = 0; k < ROLE_CONNS; k++)
		role_conn_send(r, &role_conns[k], true);
	for (int k = 0; n_done < n; k = (k + 1) % ROLE_CONNS) {
		n_done += role_conn_collect(r, &role_conns[k], &n_read);
		role_conn_send(r, &role_conns[k], n_read < n);
	}
	struct floor_cost c = cost(r);
	for (int k = 0; k < ROLE_CONNS; k++) /* what was sent after the last one: its read, and nothing else */
		if (role_conns[k].is_reading)
			freeReplyObject(rig_reply(r->link[rig_master(r, r->names.lbs_slot)]));
	mem_free(role_conns);
	return c;
}

/* ---- renewals */

static struct floor_item *make_locks(struct rig *r, uint32_t n)
{
	struct floor_item *v = mem_array(n, sizeof *v);
	for (uint32_t i = 0; i < n; i++) {
		v[i].id = (struct entry_id){1700000000000, i};
		rig_name(v[i].name, 0, i);
		struct cmd c = command_of(r, CMD_LOCK, &v[i]);
		c.as.lock.ttl_ms = 600000;
		int m = master_of(r, CMD_LOCK, &v[i]);
		rig_append(r, r->link, m, &c, me);
		if (i % 1000 == 999 || i == n - 1)
			flush_all(r);
	}
	for (uint32_t i = 0; i < n; i++)
		freeReplyObject(rig_reply(r->link[master_of(r, CMD_LOCK, &v[i])]));
	return v;
}

struct floor_cost floor_renew(struct rig *r, uint32_t n_keys, uint32_t n_calls)
{
	struct floor_item *v = make_locks(r, n_keys);
	uint32_t n_sent = 0, n_got = 0;
	begin(r);
	while (n_got < n_calls) {
		for (uint32_t i = 0; i < RENEW_CHUNK && n_sent < n_calls; i++, n_sent++)
			append(r, CMD_RENEW, &v[n_sent % n_keys], me);
		flush_all(r);
		if (n_sent < n_calls && n_sent - n_got < RENEW_CHUNK * RENEW_CHUNKS)
			continue;
		for (uint32_t i = 0; i < RENEW_CHUNK && n_got < n_sent; i++, n_got++)
			freeReplyObject(rig_reply(r->link[master_of(r, CMD_RENEW, &v[n_got % n_keys])]));
	}
	struct floor_cost c = cost(r);
	mem_free(v);
	return c;
}

/* ---- recovery */

static void read_as(struct rig *r, const char *node, uint32_t n, struct floor_item *out)
{
	struct batch *b = mem_alloc(sizeof *b);
	for (uint32_t have = 0; have < n;) {
		append_page(r, CMD_READ, (struct entry_id){0}, PAGE, node);
		if (!get_entries(r, b))
			proc_die("the floor has too few entries to read");
		memcpy(out + have, b->v, (b->n < n - have ? b->n : n - have) * sizeof *out);
		have += b->n;
	}
	mem_free(b);
}

/* One command for each item, in chunks. */
static void for_each(struct rig *r, enum cmd_kind kind, const struct floor_item *v, uint32_t n)
{
	for (uint32_t at = 0; at < n; at += RENEW_CHUNK) {
		uint32_t end = at + RENEW_CHUNK < n ? at + RENEW_CHUNK : n;
		floor_append(r, kind, &v[at], end - at);
		flush_all(r);
		floor_skip(r, kind, &v[at], end - at);
	}
}

struct floor_cost floor_recover(struct rig *r, uint32_t n)
{
	load_scripts(r, me);
	struct floor_item *v = mem_array(n, sizeof *v);
	read_as(r, other, n, v);
	begin(r);
	for_each(r, CMD_REQUEUE, v, n);
	read_as(r, me, n, v);
	for_each(r, CMD_LOCK, v, n);
	for_each(r, CMD_TAKE, v, n);
	struct floor_cost c = cost(r);
	mem_free(v);
	return c;
}

struct floor_cost floor_resume(struct rig *r, uint32_t n)
{
	load_scripts(r, me);
	struct floor_item *v = mem_array(n, sizeof *v);
	read_as(r, me, n, v);
	for_each(r, CMD_LOCK, v, n);
	struct batch *b = mem_alloc(sizeof *b);
	begin(r);
	struct entry_id after = {0};
	for (uint32_t have = 0; have < n; have += b->n) {
		append_page(r, CMD_READ_OWN, after, PAGE, me);
		if (!get_entries(r, b))
			break;
		after = b->v[b->n - 1].id;
		memcpy(v + have, b->v, b->n * sizeof *v);
	}
	for_each(r, CMD_LOCK_GET, v, n);
	for_each(r, CMD_RENEW, v, n);
	struct floor_cost c = cost(r);
	mem_free(b);
	mem_free(v);
	return c;
}

/* ---- following */

static void follow(struct rig *r, int fd)
{
	struct batch *b = mem_alloc(sizeof *b);
	redisContext *reader[RIG_MASTERS] = {NULL};
	for (int i = 0; i < r->n_masters; i++) {
		r->link[i] = rig_connect(r, i);
		reader[i] = rig_connect(r, i);
	}
	load_scripts(r, me);
	int lbs = rig_master(r, r->names.lbs_slot);
	for (;;) {
		struct cmd c = {.kind = CMD_READ, .as.read.count = BATCH, .as.read.block_ms = 2000};
		rig_append(r, reader, lbs, &c, me);
		b->n = take_entries(rig_reply(reader[lbs]), b->v);
		if (!b->n)
			continue;
		append_batch(r, CMD_LOCK, b); /* one master: its take goes right behind */
		append_batch(r, CMD_TAKE, b);
		flush_all(r);
		read_batch(r, CMD_LOCK, b);
		read_batch(r, CMD_TAKE, b);
		uint32_t out[PAGE];
		for (uint32_t i = 0; i < b->n; i++)
			out[i] = rig_index(b->v[i].name, RIG_NAME);
		if (write(fd, out, b->n * sizeof *out) < 0)
			_exit(0);
		append_batch(r, CMD_DONE, b);
		append_batch(r, CMD_UNLOCK, b);
		flush_all(r);
		read_batch(r, CMD_DONE, b);
		read_batch(r, CMD_UNLOCK, b);
	}
}

pid_t floor_fork(struct rig *r, int *fd, void (*fn)(struct rig *r, int fd))
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		proc_die("socketpair failed");
	pid_t pid = fork();
	if (pid < 0)
		proc_die("fork failed");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn(r, pair[1]);
		_exit(0);
	}
	close(pair[1]);
	*fd = pair[0];
	return pid;
}

pid_t floor_follow(struct rig *r, int *fd)
{
	return floor_fork(r, fd, follow);
}
