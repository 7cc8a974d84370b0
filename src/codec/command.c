/* command - one row of `rows` per command: its name and what writes its arguments. */
#include "codec/command.h"

#include <string.h>

#include "codec/command_p.h"

void command_put_lock_of(struct enc *e, struct slice stream, struct entry_id id)
{
	struct buf *b = &e->a->bytes;
	const size_t from = b->len;
	if (stream.len)
		buf_add(b, stream.p, stream.len);
	buf_str(b, COMMAND_LOCK_SEP);
	char text[COMMAND_ID_CAP];
	const int n = command_id_format(text, id);
	buf_add(b, text, (size_t)n);
	put_end(e->a, from);
}

void command_put_lock(struct enc *e)
{
	command_put_lock_of(e, e->c->stream, e->c->id);
}

void command_put_script(struct enc *e, enum script s, int n_keys)
{
	put_str(e, e->c->use_eval ? "EVAL" : "EVALSHA");
	put_str(e, e->c->use_eval ? script_text(s) : script_sha(s));
	put_i64(e, n_keys);
}

/* ---- locks */

static void enc_lock(struct enc *e)
{
	put_str(e, "SET");
	command_put_lock(e);
	command_put_slice(e, e->c->as.lock.value);
	put_str(e, e->c->kind == CMD_TOMBSTONE ? "XX" : "NX");
	put_str(e, "PX");
	put_i64(e, e->c->as.lock.ttl_ms);
}

static void enc_lock_get(struct enc *e)
{
	put_str(e, "GET");
	command_put_lock(e);
}

static void enc_lock_swap(struct enc *e)
{
	command_put_script(e, SCRIPT_SWAP, 1);
	command_put_lock(e);
	command_put_slice(e, e->c->as.lock.expect);
	command_put_slice(e, e->c->as.lock.value);
	put_i64(e, e->c->as.lock.ttl_ms);
}

static void enc_renew(struct enc *e)
{
	put_str(e, "GETEX");
	command_put_lock(e);
	put_str(e, "PX");
	put_i64(e, e->c->as.lock.ttl_ms);
}

static void enc_unlock(struct enc *e)
{
	if (e->c->as.lock.use_delifeq)
		put_str(e, "DELIFEQ");
	else
		command_put_script(e, SCRIPT_UNLOCK, 1);
	command_put_lock(e);
	command_put_slice(e, e->c->as.lock.value);
}

static void enc_probe(struct enc *e)
{
	put_str(e, "PTTL");
	command_put_lock(e);
}

/* ---- the load-balancer stream */

static void enc_group_create(struct enc *e)
{
	put_str(e, "XGROUP");
	put_str(e, "CREATE");
	put_str(e, e->names->lbs);
	put_str(e, e->names->group);
	if (e->c->as.group.start.p)
		command_put_slice(e, e->c->as.group.start);
	else
		put_str(e, e->names->group_start);
	put_str(e, "MKSTREAM");
}

static void put_read(struct enc *e, int64_t count, int64_t block_ms)
{
	put_str(e, "XREADGROUP");
	put_str(e, "GROUP");
	put_str(e, e->names->group);
	put_str(e, e->self->consumer);
	put_str(e, "COUNT");
	put_i64(e, count);
	if (block_ms > 0) {
		put_str(e, "BLOCK");
		put_i64(e, block_ms);
	}
	put_str(e, "STREAMS");
	put_str(e, e->names->lbs);
}

static void enc_read(struct enc *e)
{
	put_read(e, e->c->as.read.count, e->c->as.read.block_ms);
	put_str(e, ">");
}

static void enc_read_own(struct enc *e)
{
	put_read(e, e->c->as.read.count, 0);
	put_id(e, e->c->id);
}

static void enc_heartbeat(struct enc *e)
{
	put_read(e, 1, 0);
	put_str(e, "99999999999999-0");
}

static void enc_fetch(struct enc *e)
{
	put_str(e, "XRANGE");
	put_str(e, e->names->lbs);
	put_id(e, e->c->id);
	put_id(e, e->c->id);
}

static void put_left(struct enc *e, const char *what)
{
	command_put_script(e, SCRIPT_LEFT, 1);
	put_str(e, e->names->left);
	put_str(e, what);
	put_str(e, e->self->consumer);
}

static void enc_leave(struct enc *e)
{
	put_left(e, "leave");
}

static void enc_back(struct enc *e)
{
	put_left(e, "back");
}

static void enc_left(struct enc *e)
{
	put_left(e, "list");
}

static void enc_forget(struct enc *e)
{
	command_put_script(e, SCRIPT_FORGET, 2);
	put_str(e, e->names->lbs);
	put_str(e, e->names->left);
	put_str(e, e->names->group);
	command_put_slice(e, e->c->as.forget.consumer);
	put_i64(e, e->c->as.forget.min_idle_ms);
}

static void enc_fleet(struct enc *e)
{
	command_put_script(e, SCRIPT_FLEET, 1);
	put_str(e, e->names->fleet);
	put_str(e, e->self->consumer);
	struct buf *b = &e->a->bytes;
	const size_t from = b->len;
	buf_printf(b, "{\"version\":\"%s\",\"credits\":%lld,\"workers\":%u}", SLUICE_VERSION,
		(long long)e->c->as.fleet.credits, (unsigned)e->c->as.fleet.n_workers);
	put_end(e->a, from);
}

void command_put_fields(struct enc *e, const struct field_list *l, bool (*skip)(struct slice name))
{
	for (size_t i = 0; l && i < l->n; i++) {
		if (skip && skip(l->v[i].name))
			continue;
		command_put_slice(e, l->v[i].name);
		command_put_slice(e, l->v[i].value);
	}
}

static bool is_dead_field(struct slice name)
{
	static const char *const own[] = {"_dlq_reason", "_dlq_at", "_dlq_node", "_dlq_error", "_orig_id"};
	for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
		if (name.len == strlen(own[i]) && memcmp(name.p, own[i], name.len) == 0)
			return true;
	return false;
}

static void enc_dead_add(struct enc *e)
{
	command_put_bury(e->a, e->c, e->names->dlq, e->names->dlq_max_len);
	command_put_fields(e, e->c->as.dead.fields, is_dead_field);
	put_str(e, "_dlq_reason");
	put_str(e, dead_reason_name(e->c->as.dead.reason));
	put_str(e, "_dlq_at");
	put_i64(e, e->c->as.dead.now_ms);
	put_str(e, "_dlq_node");
	put_str(e, e->self->node);
	put_str(e, "_dlq_error");
	command_put_slice(e, command_cut_error(e->c->as.dead.error));
	put_str(e, "_orig_id");
	put_id(e, e->c->id);
}

static void enc_pending(struct enc *e)
{
	put_str(e, "XPENDING");
	put_str(e, e->names->lbs);
	put_str(e, e->names->group);
	if (e->c->as.pending.min_idle_ms > 0) {
		put_str(e, "IDLE");
		put_i64(e, e->c->as.pending.min_idle_ms);
	}
	put_id(e, e->c->id);
	put_str(e, "+");
	put_i64(e, e->c->as.pending.count);
	if (e->c->as.pending.consumer.p)
		command_put_slice(e, e->c->as.pending.consumer);
}

static void enc_unread(struct enc *e)
{
	command_put_script(e, SCRIPT_UNREAD, 1);
	put_str(e, e->names->lbs);
	put_str(e, e->names->group);
}

static void enc_pending_sum(struct enc *e)
{
	put_str(e, "XPENDING");
	put_str(e, e->names->lbs);
	put_str(e, e->names->group);
}

static void enc_consumers(struct enc *e)
{
	put_str(e, "XINFO");
	put_str(e, "CONSUMERS");
	put_str(e, e->names->lbs);
	put_str(e, e->names->group);
}

static void enc_length(struct enc *e)
{
	put_str(e, "XLEN");
	put_str(e, e->c->kind == CMD_LENGTH ? e->names->lbs : e->names->dlq);
}

void command_put_input(struct enc *e)
{
	put_str(e, "lbs-input");
	struct buf *b = &e->a->bytes;
	const size_t from = b->len;
	buf_str(b, "{\"DataStreamName\":");
	buf_json_str(b, e->c->stream.p ? e->c->stream.p : "", e->c->stream.len);
	buf_str(b, ",\"Info\":");
	if (e->c->as.add.info.p)
		buf_add(b, e->c->as.add.info.p, e->c->as.add.info.len);
	else
		buf_str(b, "{}");
	buf_str(b, "}");
	put_end(e->a, from);
}

static void enc_add(struct enc *e)
{
	put_str(e, "XADD");
	put_str(e, e->names->lbs);
	put_str(e, "*");
	command_put_input(e);
}

static void enc_replay(struct enc *e)
{
	put_str(e, "XADD");
	put_str(e, e->names->lbs);
	put_str(e, "*");
	command_put_fields(e, e->c->as.add.fields, NULL);
}

static void enc_dlq_range(struct enc *e)
{
	put_str(e, "XRANGE");
	put_str(e, e->names->dlq);
	put_id(e, e->c->id);
	put_str(e, "+");
	put_str(e, "COUNT");
	put_i64(e, e->c->as.read.count);
}

static void enc_dlq_del(struct enc *e)
{
	put_str(e, "XDEL");
	put_str(e, e->names->dlq);
	put_id(e, e->c->id);
}

/* ---- entries mode */

void command_arg(struct command_argv *a, const char *p, size_t len)
{
	command_arg_joined(a, &(struct slice){p, len}, 1);
}

void command_arg_joined(struct command_argv *a, const struct slice *parts, size_t n)
{
	const size_t from = a->bytes.len;
	for (size_t i = 0; i < n; i++)
		if (parts[i].len)
			buf_add(&a->bytes, parts[i].p, parts[i].len);
	put_end(a, from);
}

static void enc_feed(struct enc *e)
{
	command_encode_feed(e->a, e->c, e->names, e->self);
}

/* ---- any node */

static void enc_wait(struct enc *e)
{
	put_str(e, "WAIT");
	put_i64(e, e->c->as.wait.n_replicas);
	put_i64(e, e->c->as.wait.block_ms);
}

static void enc_unblock(struct enc *e)
{
	put_str(e, "CLIENT");
	put_str(e, "UNBLOCK");
	put_i64(e, e->c->as.unblock.client_id);
}

static void enc_cluster_info(struct enc *e)
{
	put_str(e, "CLUSTER");
	put_str(e, "INFO");
}

static void enc_slots(struct enc *e)
{
	put_str(e, "CLUSTER");
	put_str(e, "SLOTS");
}

static void enc_role(struct enc *e)
{
	put_str(e, "ROLE");
}

static void enc_run_id(struct enc *e)
{
	put_str(e, "INFO");
	put_str(e, "server");
}

static void enc_events(struct enc *e)
{
	const bool set = e->c->kind == CMD_CONFIG_SET_EVENTS;
	put_str(e, "CONFIG");
	put_str(e, set ? "SET" : "GET");
	put_str(e, "notify-keyspace-events");
	if (set)
		command_put_slice(e, e->c->as.keyspace.flags);
}

static void enc_psubscribe(struct enc *e)
{
	put_str(e, "PSUBSCRIBE");
	struct buf *b = &e->a->bytes;
	const size_t from = b->len;
	buf_str(b, "__keyspace@");
	buf_u64(b, (uint64_t)e->c->as.keyspace.db);
	buf_str(b, "__:*" COMMAND_LOCK_SEP "*");
	put_end(e->a, from);
}

static void enc_trial(struct enc *e)
{
	put_str(e, "SET");
	char *key = command_trial_key(e->names->lbs);
	put_str(e, key);
	mem_free(key);
	put_str(e, "trial");
	put_str(e, "XX");
	put_str(e, "PX");
	put_str(e, "1000");
}

static void enc_time(struct enc *e)
{
	put_str(e, "TIME");
}

static void enc_ping(struct enc *e)
{
	put_str(e, "PING");
}

static const struct {
	const char *name;
	encode_fn *encode;
} rows[CMD_N] = {
	[CMD_LOCK] = {"lock", enc_lock},
	[CMD_LOCK_GET] = {"lock_get", enc_lock_get},
	[CMD_LOCK_SWAP] = {"lock_swap", enc_lock_swap},
	[CMD_RENEW] = {"renew", enc_renew},
	[CMD_UNLOCK] = {"unlock", enc_unlock},
	[CMD_PROBE] = {"probe", enc_probe},
	[CMD_TOMBSTONE] = {"tomb", enc_lock},
	[CMD_GROUP_CREATE] = {"group_create", enc_group_create},
	[CMD_READ] = {"read", enc_read},
	[CMD_READ_OWN] = {"read_own", enc_read_own},
	[CMD_HEARTBEAT] = {"heartbeat", enc_heartbeat},
	[CMD_FETCH] = {"fetch", enc_fetch},
	[CMD_TAKE] = {"take", enc_take},
	[CMD_TAKE_MANY] = {"take_many", enc_take_many},
	[CMD_DONE] = {"done", enc_done},
	[CMD_DONE_MANY] = {"done_many", enc_done_many},
	[CMD_REQUEUE] = {"requeue", enc_requeue},
	[CMD_DEAD] = {"dead", enc_dead},
	[CMD_DEAD_ADD] = {"dead_add", enc_dead_add},
	[CMD_DEAD_READ] = {"dead_read", enc_fetch},
	[CMD_ACK_DEL] = {"ack_del", enc_ack_del},
	[CMD_PENDING] = {"pending", enc_pending},
	[CMD_CONSUMERS] = {"consumers", enc_consumers},
	[CMD_LENGTH] = {"length", enc_length},
	[CMD_PENDING_SUM] = {"pending_sum", enc_pending_sum},
	[CMD_UNREAD] = {"unread", enc_unread},
	[CMD_DLQ_LENGTH] = {"dlq_length", enc_length},
	[CMD_TRIAL] = {"trial", enc_trial},
	[CMD_ADD] = {"add", enc_add},
	[CMD_DLQ_RANGE] = {"dlq_range", enc_dlq_range},
	[CMD_DLQ_DEL] = {"dlq_del", enc_dlq_del},
	[CMD_REPLAY] = {"replay", enc_replay},
	[CMD_LATER] = {"later", enc_later},
	[CMD_SIFT] = {"sift", enc_sift},
	[CMD_DUE] = {"due", enc_due},
	[CMD_ADD_LATER] = {"add_later", enc_add_later},
	[CMD_GHOSTS] = {"ghosts", enc_ghosts},
	[CMD_GHOST_BACK] = {"ghost_back", enc_ghost_back},
	[CMD_DELAYED_NOW] = {"delayed_now", enc_delayed},
	[CMD_DELAYED_DROP] = {"delayed_drop", enc_delayed},
	[CMD_LEAVE] = {"leave", enc_leave},
	[CMD_BACK] = {"back", enc_back},
	[CMD_LEFT] = {"left", enc_left},
	[CMD_FORGET] = {"forget", enc_forget},
	[CMD_FLEET] = {"fleet", enc_fleet},
	[CMD_FEED_OPEN] = {"feed_open", enc_feed},
	[CMD_FEED_READ] = {"feed_read", enc_feed},
	[CMD_FEED_ACK] = {"feed_ack", enc_feed},
	[CMD_FEED_FAIL] = {"feed_fail", enc_feed},
	[CMD_FEED_CLOSE] = {"feed_close", enc_feed},
	[CMD_FEED_PICK] = {"feed_pick", enc_feed},
	[CMD_FEED_DEAD_ADD] = {"feed_dead_add", enc_feed},
	[CMD_FEED_DLQ_LENGTH] = {"feed_dlq_length", enc_feed},
	[CMD_TRACKING] = {"tracking", enc_feed},
	[CMD_CACHING] = {"caching", enc_feed},
	[CMD_WAIT] = {"wait", enc_wait},
	[CMD_UNBLOCK] = {"unblock", enc_unblock},
	[CMD_SLOTS] = {"slots", enc_slots},
	[CMD_CLUSTER_INFO] = {"cluster_info", enc_cluster_info},
	[CMD_ROLE] = {"role", enc_role},
	[CMD_RUN_ID] = {"run_id", enc_run_id},
	[CMD_TIME] = {"time", enc_time},
	[CMD_CONFIG_GET_EVENTS] = {"config_get_events", enc_events},
	[CMD_CONFIG_SET_EVENTS] = {"config_set_events", enc_events},
	[CMD_PSUBSCRIBE] = {"psubscribe", enc_psubscribe},
	[CMD_PING] = {"ping", enc_ping},
};

void command_encode(
	struct command_argv *a, const struct cmd *c, const struct command_names *names, const struct command_self *self)
{
	buf_clear(&a->bytes);
	a->n = 0;
	rows[c->kind].encode(&(struct enc){.a = a, .c = c, .names = names, .self = self});
	const char *p = a->bytes.data;
	for (size_t i = 0; i < a->n; i++) {
		a->args[i] = p;
		p += a->lens[i];
	}
}

const char *command_name(enum cmd_kind k)
{
	return rows[k].name;
}
