/* What each verb's rows look like to a person. Lists become one aligned table; rows that come over time are printed
 * as they come; with --json every row is printed as it came. */
#include "bin/sluicectl/sluicectl.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/text.h"

static const struct column stream_columns[] = {{"SERVICE", "service", FORMAT_TEXT}, {"STREAM", "stream", FORMAT_TEXT},
	{"ID", "id", FORMAT_TEXT}, {"STATE", "state", FORMAT_STATE}, {"WORKER", "worker", FORMAT_TEXT},
	{"RETRY", "retry", FORMAT_NUMBER}, {"AGE", "age_ms", FORMAT_AGE}, {"ASSIGNED", "assigned_ms", FORMAT_AGE},
	{"FENCE", "until_ms", FORMAT_LEFT}, {"NOTE", "note", FORMAT_WORDS}, {0}};

/* Of `top`: 80 columns, what does not fit is in `ls`. */
const struct column view_top_columns[] = {{"SERVICE", "service", FORMAT_SHORT}, {"STREAM", "stream", FORMAT_NAME},
	{"STATE", "state", FORMAT_STATE}, {"WORKER", "worker", FORMAT_SHORT}, {"AGE", "age_ms", FORMAT_AGE},
	{"FENCE", "until_ms", FORMAT_LEFT}, {0}};

/* 80 columns; what is rarely other than 0 follows in words. */
static const struct column service_columns[] = {{"SERVICE", "service", FORMAT_NAME},
	{"IN USE", "credits_in_use", FORMAT_NUMBER}, {"CREDITS", "credits", FORMAT_NUMBER},
	{"WORKERS", "workers", FORMAT_NUMBER}, {"LBS", "lbs_length", FORMAT_NUMBER},
	{"OLDEST WAITING", "unassigned_oldest_age_ms", FORMAT_AGE}, {"DLQ", "dlq_length", FORMAT_NUMBER}, {0}};

static const struct column redis_columns[] = {{"REDIS", "redis", FORMAT_ADDRESS}, {"STATE", "state", FORMAT_STATE},
	{"DOWN FOR", "down_ms", FORMAT_AGE}, {"SLOTS", "slots", FORMAT_NAME}, {0}};

static const struct column worker_columns[] = {{"NAME", "name", FORMAT_TEXT}, {"SESSION", "session", FORMAT_TEXT},
	{"PID", "pid", FORMAT_NUMBER}, {"UID", "uid", FORMAT_NUMBER}, {"IN USE", "in_use", FORMAT_NUMBER},
	{"CREDITS", "credits", FORMAT_NUMBER}, {"STATE", "state", FORMAT_STATE},
	{"CONNECTED", "connected_ms", FORMAT_AGE}, {"FENCE", "until_ms", FORMAT_LEFT},
	{"SERVICES", "services", FORMAT_LIST}, {0}};

static const struct column node_columns[] = {{"REDIS", "redis", FORMAT_TEXT}, {"ROLE", "role", FORMAT_TEXT},
	{"SLOTS", "slots", FORMAT_TEXT}, {"STATE", "state", FORMAT_STATE}, {"BREAKER", "breaker", FORMAT_STATE},
	{"LAG", "lag_ms", FORMAT_AGE}, {"CONNECTIONS", "connections", FORMAT_LINKS}, {0}};

static const struct column dlq_columns[] = {{"ID", "id", FORMAT_TEXT}, {"STREAM", "stream", FORMAT_TEXT},
	{"REASON", "reason", FORMAT_TEXT}, {"AGE", "age_ms", FORMAT_AGE}, {"RETRY", "retry", FORMAT_NUMBER},
	{"NODE", "node", FORMAT_TEXT}, {"ERROR", "error", FORMAT_WORDS}, {0}};

static const struct column entries_dlq_columns[] = {{"ID", "id", FORMAT_TEXT}, {"STREAM", "stream", FORMAT_TEXT},
	{"ENTRY", "orig_id", FORMAT_TEXT}, {"REASON", "reason", FORMAT_TEXT}, {"AGE", "age_ms", FORMAT_AGE},
	{"TRIES", "tries", FORMAT_NUMBER}, {"NODE", "node", FORMAT_TEXT}, {"ERROR", "error", FORMAT_WORDS}, {0}};

static const struct column delayed_columns[] = {{"SERVICE", "service", FORMAT_TEXT}, {"STREAM", "stream", FORMAT_TEXT},
	{"ID", "id", FORMAT_TEXT}, {"REASON", "reason", FORMAT_TEXT}, {"RETRY", "retry", FORMAT_NUMBER},
	{"DUE IN", "due_ms", FORMAT_AGE}, {"DUE", "at_ms", FORMAT_WHEN}, {"ERROR", "error", FORMAT_WORDS}, {0}};

static const struct column waiting_columns[] = {{"SERVICE", "service", FORMAT_TEXT}, {"STREAM", "stream", FORMAT_TEXT},
	{"ID", "id", FORMAT_TEXT}, {"STATE", "state", FORMAT_STATE}, {"AGE", "age_ms", FORMAT_AGE},
	{"DUE IN", "due_ms", FORMAT_AGE}, {"RETRY", "retry", FORMAT_NUMBER}, {"REASON", "reason", FORMAT_TEXT},
	{"ERROR", "error", FORMAT_WORDS}, {0}};

static const struct column fleet_columns[] = {{"SERVICE", "service", FORMAT_TEXT}, {"NODE", "node", FORMAT_TEXT},
	{"STATE", "state", FORMAT_STATE}, {"OWNED", "owned", FORMAT_NUMBER}, {"CREDITS", "credits", FORMAT_NUMBER},
	{"WORKERS", "workers", FORMAT_NUMBER}, {"IDLE", "idle_ms", FORMAT_AGE}, {"VERSION", "version", FORMAT_TEXT},
	{"SELF", "self", FORMAT_YES}, {"CONSUMER", "consumer", FORMAT_TEXT}, {0}};

static const struct column reload_columns[] = {{"RESULT", "result", FORMAT_STATE}, {"SETTING", "setting", FORMAT_TEXT},
	{"FROM", "from", FORMAT_TEXT}, {"TO", "to", FORMAT_TEXT}, {"PROBLEM", "problem", FORMAT_WORDS}, {0}};

static const struct column doctor_columns[] = {{"RESULT", "result", FORMAT_STATE}, {"CHECK", "check", FORMAT_TEXT},
	{"REDIS", "redis", FORMAT_TEXT}, {"FOUND", "found", FORMAT_WORDS}, {"ADVICE", "advice", FORMAT_WORDS}, {0}};

static const struct column topology_columns[] = {{"REDIS", "redis", FORMAT_TEXT}, {"ROLE", "role", FORMAT_TEXT},
	{"SLOTS", "slots", FORMAT_TEXT}, {"CHANGE", "change", FORMAT_TEXT}, {0}};

static const struct column scan_columns[] = {{"SERVICE", "service", FORMAT_TEXT}, {"REDIS", "redis", FORMAT_TEXT},
	{"RESULT", "result", FORMAT_STATE}, {"ERROR", "error", FORMAT_WORDS}, {0}};

static const struct column service_row_columns[] = {
	{"SERVICE", "service", FORMAT_TEXT}, {"PAUSED", "paused", FORMAT_YES}, {0}};

static const struct column revoke_columns[] = {{"WORKER", "worker", FORMAT_TEXT}, {"SESSION", "session", FORMAT_TEXT},
	{"STREAMS", "streams", FORMAT_NUMBER}, {0}};

static const struct column show_block[] = {{"service", "service", FORMAT_TEXT}, {"stream", "stream", FORMAT_TEXT},
	{"id", "id", FORMAT_TEXT}, {"state", "state", FORMAT_STATE}, {"age", "age_ms", FORMAT_AGE},
	{"retry", "retry", FORMAT_NUMBER}, {"worker", "worker", FORMAT_TEXT}, {"session", "session", FORMAT_TEXT},
	{"assigned for", "assigned_ms", FORMAT_AGE}, {"note", "note", FORMAT_WORDS},
	{"last progress", "progress_ms", FORMAT_AGE}, {"position", "position", FORMAT_TEXT},
	{"tries", "tries", FORMAT_NUMBER}, {"lag", "lag", FORMAT_NUMBER},
	{"dead entries", "dead_entries", FORMAT_NUMBER}, {"last dead", "dead_entry", FORMAT_TEXT},
	{"fence in", "until_ms", FORMAT_LEFT}, {"lease", "lease", FORMAT_TEXT}, {"token", "token", FORMAT_TEXT},
	{"lease left", "lease_left_ms", FORMAT_AGE}, {"renewed before", "renewed_ms", FORMAT_AGE},
	{"lock", "lock", FORMAT_TEXT}, {"lock value", "lock_value", FORMAT_TEXT},
	{"lock on", "lock_redis", FORMAT_TEXT}, {"lbs", "lbs", FORMAT_TEXT}, {"lbs on", "lbs_redis", FORMAT_TEXT},
	{"info", "info", FORMAT_JSON}, {0}};

static const struct column dlq_block[] = {{"service", "service", FORMAT_TEXT}, {"id", "id", FORMAT_TEXT},
	{"stream", "stream", FORMAT_TEXT}, {"reason", "reason", FORMAT_TEXT}, {"at", "at_ms", FORMAT_WHEN},
	{"age", "age_ms", FORMAT_AGE}, {"retry", "retry", FORMAT_NUMBER}, {"node", "node", FORMAT_TEXT},
	{"error", "error", FORMAT_WORDS}, {"original id", "orig_id", FORMAT_TEXT}, {"info", "info", FORMAT_JSON},
	{"fields", "fields", FORMAT_JSON}, {0}};

static const struct column entries_dlq_block[] = {{"service", "service", FORMAT_TEXT}, {"id", "id", FORMAT_TEXT},
	{"stream", "stream", FORMAT_TEXT}, {"entry", "orig_id", FORMAT_TEXT}, {"reason", "reason", FORMAT_TEXT},
	{"at", "at_ms", FORMAT_WHEN}, {"age", "age_ms", FORMAT_AGE}, {"tries", "tries", FORMAT_NUMBER},
	{"node", "node", FORMAT_TEXT}, {"error", "error", FORMAT_WORDS}, {"fields", "fields", FORMAT_JSON}, {0}};

struct view {
	const struct ctl_options *o;
	struct buf out;
	struct table table;
	size_t n_rows;
	bool is_ready; /* status --ready: shown when the last line has come */
	struct buf reasons;
};

static const struct column *columns_of(const struct ctl_request *r)
{
	static const struct column *const columns[CTL_VERB_N] = {
		[CTL_VERB_LS] = stream_columns,
		[CTL_VERB_WORKERS] = worker_columns,
		[CTL_VERB_NODES] = node_columns,
		[CTL_VERB_PAUSE] = service_row_columns,
		[CTL_VERB_RESUME] = service_row_columns,
		[CTL_VERB_REVOKE] = revoke_columns,
		[CTL_VERB_SCAN] = scan_columns,
		[CTL_VERB_TOPOLOGY_REFRESH] = topology_columns,
		[CTL_VERB_DLQ_LS] = dlq_columns,
		[CTL_VERB_ENTRIES_DLQ_LS] = entries_dlq_columns,
		[CTL_VERB_DELAYED_LS] = delayed_columns,
		[CTL_VERB_FLEET] = fleet_columns,
		[CTL_VERB_RELOAD] = reload_columns,
		[CTL_VERB_DOCTOR] = doctor_columns,
	};
	return r->waiting ? waiting_columns : columns[r->verb];
}

static bool output_failed;

bool out_flush(struct buf *b)
{
	bool ok = b->len == 0 || fwrite(b->data, 1, b->len, stdout) == b->len;
	ok = fflush(stdout) == 0 && ok;
	buf_clear(b);
	if (!ok && errno != EPIPE && !output_failed) {
		output_failed = true;
		fprintf(stderr, "sluicectl: cannot write the output: %s\n", strerror(errno));
	}
	return ok;
}

bool out_failed(void)
{
	return output_failed;
}

struct view *view_new(const struct ctl_options *o)
{
	struct view *v = mem_alloc(sizeof(*v));
	const struct column *columns = columns_of(&o->request);
	v->o = o;
	buf_init(&v->out);
	buf_init(&v->reasons);
	if (columns)
		table_init(&v->table, columns);
	return v;
}

void view_free(struct view *v)
{
	if (!v)
		return;
	if (v->table.columns)
		table_fini(&v->table);
	buf_fini(&v->out);
	buf_fini(&v->reasons);
	mem_free(v);
}

static void put_inner_table(struct buf *b, yyjson_val *list, const struct column *columns, bool headers)
{
	struct table t;
	size_t i, n;
	yyjson_val *row;
	if (yyjson_arr_size(list) == 0)
		return;
	buf_str(b, "\n");
	table_init(&t, columns);
	yyjson_arr_foreach(list, i, n, row)
	{
		table_add(&t, row);
	}
	table_put(b, &t, headers);
	table_fini(&t);
}

/* "  orders: paused, owned 6 (2 ready, 3 assigned, 1 parked), pending 6, oldest owned 4m05s" where there is
 * something to say. */
static void put_service_words(struct buf *b, yyjson_val *service)
{
	size_t i, n;
	yyjson_val *key, *v;
	int64_t owned = 0, oldest = cell_number(service, "owned_oldest_age_ms");
	const char *separator = " (";
	yyjson_obj_foreach(cell_value(service, "owned"), i, n, key, v)
	{
		owned += yyjson_get_sint(v);
	}
	bool is_paused = yyjson_is_true(cell_value(service, "paused"));
	int64_t dead = cell_number(service, "entries_dlq_length"), idle = cell_number(service, "streams_idle");
	if (!owned && !is_paused && dead <= 0)
		return;
	const size_t from = b->len;
	buf_str(b, "  ");
	cell_clean(b, cell_string(service, "service"));
	buf_str(b, ": ");
	if (is_paused)
		cell_painted(b, "\x1b[33m", owned || dead > 0 ? "paused, " : "paused");
	if (dead > 0)
		buf_printf(b, "%lld dead entr%s%s", (long long)dead, dead == 1 ? "y" : "ies", owned ? ", " : "");
	if (owned)
		buf_printf(b, "owned %lld", (long long)owned);
	yyjson_obj_foreach(cell_value(service, "owned"), i, n, key, v)
	{
		const char *state = yyjson_get_str(key);
		if (!state || yyjson_get_sint(v) <= 0)
			continue;
		buf_printf(b, "%s%lld %s", separator, (long long)yyjson_get_sint(v), state);
		separator = ", ";
		if (idle > 0 && strcmp(state, "assigned") == 0)
			buf_printf(b, ", %lld of them idle", (long long)idle);
	}
	if (owned && oldest >= 0) {
		buf_str(b, "), oldest ");
		cell_age(b, oldest);
	} else if (owned) {
		buf_str(b, ")");
	}
	buf_str(b, "\n");
	cell_fold(b, from, 0, 4);
}

static void put_redis_words(struct buf *b, yyjson_val *redis)
{
	bool is_open = yyjson_is_true(cell_value(redis, "breaker_open"));
	if (!yyjson_is_str(cell_value(redis, "error")) && !is_open)
		return;
	const size_t from = b->len;
	buf_str(b, "  ");
	cell_clean(b, cell_string(redis, "redis"));
	buf_str(b, ": ");
	cell_clean(b, cell_string(redis, "error"));
	buf_str(b, is_open ? "; breaker open\n" : "\n");
	cell_fold(b, from, 0, 4);
}

static void put_each(struct buf *b, yyjson_val *list, void (*put)(struct buf *b, yyjson_val *row))
{
	size_t i, n;
	yyjson_val *row;
	yyjson_arr_foreach(list, i, n, row)
	{
		put(b, row);
	}
}

void view_put_status(struct buf *b, yyjson_val *row, bool headers)
{
	bool is_ready = yyjson_is_true(cell_value(row, "ready"));
	size_t i, n;
	yyjson_val *reason;
	const size_t from = b->len;
	buf_str(b, "sluiced ");
	cell_clean(b, cell_string(row, "version"));
	buf_str(b, " on ");
	cell_name(b, cell_string(row, "node"), CELL_NAME_MAX);
	buf_str(b, ": ");
	cell_painted(b, is_ready ? "\x1b[32m" : "\x1b[31m", is_ready ? "ready" : "not ready");
	if (yyjson_is_true(cell_value(row, "draining")))
		cell_painted(b, "\x1b[33m", ", draining");
	buf_str(b, ", up ");
	cell_age(b, cell_number(row, "uptime_ms"));
	const long long n_workers = (long long)cell_number(row, "workers");
	buf_printf(b, ", %lld worker%s\n", n_workers, text_plural(n_workers));
	yyjson_arr_foreach(cell_value(row, "reasons"), i, n, reason)
	{
		buf_str(b, "  ");
		cell_painted(b, "\x1b[33m", yyjson_is_str(reason) ? yyjson_get_str(reason) : "?");
		buf_str(b, "\n");
	}
	cell_fold(b, from, 0, 4);
	put_inner_table(b, cell_value(row, "redis"), redis_columns, headers);
	put_each(b, cell_value(row, "redis"), put_redis_words);
	put_inner_table(b, cell_value(row, "services"), service_columns, headers);
	put_each(b, cell_value(row, "services"), put_service_words);
}

/* Says only "not ready" where the reply's last line says why, on stderr. */
static void put_ready(struct buf *b, bool is_ready, const char *reasons)
{
	cell_painted(b, is_ready ? "\x1b[32m" : "\x1b[31m", is_ready ? "ready" : "not ready");
	buf_str(b, *reasons ? ": " : "");
	cell_clean(b, reasons);
	buf_str(b, "\n");
	cell_fold(b, 0, 0, 2);
}

static void keep_ready(struct view *v, yyjson_val *row)
{
	size_t i, n;
	yyjson_val *reason;
	v->is_ready = yyjson_is_true(cell_value(row, "ready"));
	yyjson_arr_foreach(cell_value(row, "reasons"), i, n, reason)
	{
		buf_str(&v->reasons, i ? "; " : "");
		buf_str(&v->reasons, yyjson_is_str(reason) ? yyjson_get_str(reason) : "?");
	}
}

/* Whose id it is: mostly that of the entry of the load-balancer stream. */
static const char *explain_id_of(yyjson_val *row)
{
	if (strcmp(cell_string(row, "state"), "dead") == 0)
		return "dead letter ";
	return strcmp(cell_string(row, "state"), "unnamed") == 0 ? "its entry " : "";
}

enum { BECAUSE = sizeof "  because " - 1 };

static void put_explain(struct buf *b, yyjson_val *row)
{
	size_t i, n;
	yyjson_val *fact;
	const size_t from = b->len;
	cell_clean(b, cell_string(row, "stream"));
	buf_str(b, " (");
	cell_clean(b, cell_string(row, "service"));
	const char *of = explain_id_of(row);
	buf_str(b, !cell_string(row, "service")[0] ? "" : of[0] ? ", " : " ");
	buf_str(b, of);
	cell_clean(b, cell_string(row, "id"));
	buf_str(b, "): ");
	cell_painted(b, cell_colour_of(cell_string(row, "state")), cell_string(row, "state"));
	if (strcmp(cell_string(row, "state"), "blocked") == 0) /* entries mode: held, and nothing is worked on */
		buf_str(b, ", its worker waits to try an entry again");
	else
		buf_str(b, yyjson_is_true(cell_value(row, "running")) ? ", it runs" : ", it does not run");
	if (yyjson_is_str(cell_value(row, "owner"))) {
		buf_str(b, ", owner ");
		cell_clean(b, cell_string(row, "owner"));
	}
	buf_str(b, "\n");
	cell_fold(b, from, 0, 2);
	yyjson_arr_foreach(cell_value(row, "because"), i, n, fact)
	{
		buf_str(b, "  because ");
		cell_words(b, yyjson_is_str(fact) ? yyjson_get_str(fact) : "?", BECAUSE, BECAUSE);
		buf_str(b, "\n");
	}
	static const struct column rest[] = {{"  next", "next", FORMAT_WORDS}, {"  do", "advice", FORMAT_WORDS}, {0}};
	table_block(b, rest, row);
}

/* One line for something done to an entry: "requeued orders:7 1700-0 -> 1701-0". */
static void put_action(struct buf *b, yyjson_val *row)
{
	const char *result = cell_string(row, "result"), *error = cell_string(row, "error");
	cell_painted(b, cell_colour_of(result), result);
	buf_str(b, " ");
	cell_clean(b, cell_string(row, "stream"));
	buf_str(b, " ");
	cell_clean(b, cell_string(row, "id"));
	if (yyjson_is_str(cell_value(row, "new_id"))) {
		buf_str(b, " -> ");
		cell_clean(b, cell_string(row, "new_id"));
	}
	if (cell_number(row, "due_ms") >= 0) {
		buf_str(b, ", due in ");
		cell_age(b, cell_number(row, "due_ms"));
	}
	if (strcmp(error, "-") != 0) {
		buf_str(b, ": ");
		cell_clean(b, error);
	}
	buf_str(b, "\n");
}

static void put_drain(struct buf *b, yyjson_val *row)
{
	const long long owned = (long long)cell_number(row, "owned"), n = (long long)cell_number(row, "workers");
	const bool is_on = yyjson_is_true(cell_value(row, "draining"));
	buf_printf(b, "%s: %lld stream%s owned, %lld worker%s", is_on ? "draining" : "not draining", owned,
		text_plural(owned), n, text_plural(n));
	if (is_on) {
		buf_str(b, ", for ");
		cell_age(b, cell_number(row, "elapsed_ms"));
	}
	buf_str(b, "\n");
}

enum { EVENT_TEXT = sizeof "hh:mm:ss.mmm notice " - 1 };

static void put_event(struct buf *b, yyjson_val *row)
{
	int64_t at_ms = cell_number(row, "at_ms");
	time_t t = (time_t)(at_ms / 1000);
	struct tm tm;
	char at[16] = "-";
	char level[16];
	if (at_ms >= 0 && localtime_r(&t, &tm))
		strftime(at, sizeof(at), "%H:%M:%S", &tm);
	snprintf(level, sizeof(level), "%-6.12s", cell_string(row, "level"));
	buf_printf(b, "%s.%03d ", at, (int)(at_ms >= 0 ? at_ms % 1000 : 0));
	cell_painted(b, cell_colour_of(cell_string(row, "level")), level);
	buf_str(b, " ");
	cell_clean(b, cell_string(row, "text"));
	buf_str(b, "\n");
}

static void put_added(struct buf *b, yyjson_val *row)
{
	buf_str(b, "added ");
	cell_clean(b, cell_string(row, "stream"));
	buf_str(b, " ");
	cell_clean(b, cell_string(row, "id"));
	buf_str(b, "\n");
}

static void put_version(struct buf *b, yyjson_val *row)
{
	buf_printf(b, "sluicectl %s\nsluiced ", SLUICE_VERSION);
	cell_clean(b, cell_string(row, "version"));
	buf_str(b, " on ");
	cell_clean(b, cell_string(row, "node"));
	buf_printf(b, ", pid %lld, control protocol %lld, worker protocol %lld\n", (long long)cell_number(row, "pid"),
		(long long)cell_number(row, "control"), (long long)cell_number(row, "worker"));
}

static const struct column *block_of(enum ctl_verb verb)
{
	return verb == CTL_VERB_SHOW ? show_block : verb == CTL_VERB_DLQ_SHOW ? dlq_block : entries_dlq_block;
}

/* Says how many it was about at its end. */
static bool is_counted(enum ctl_verb verb)
{
	return verb == CTL_VERB_DLQ_REPLAY || verb == CTL_VERB_DLQ_PURGE || verb == CTL_VERB_ENTRIES_DLQ_REPLAY ||
	       verb == CTL_VERB_ENTRIES_DLQ_PURGE || verb == CTL_VERB_DELAYED_NOW || verb == CTL_VERB_DELAYED_DROP;
}

static const char *counted_words(enum ctl_verb verb, size_t n)
{
	bool is_delayed = verb == CTL_VERB_DELAYED_NOW || verb == CTL_VERB_DELAYED_DROP;
	bool is_entries = verb == CTL_VERB_ENTRIES_DLQ_REPLAY || verb == CTL_VERB_ENTRIES_DLQ_PURGE;
	if (is_delayed)
		return "that waited";
	if (is_entries)
		return n == 1 ? "dead entry" : "dead entries";
	return n == 1 ? "dead letter" : "dead letters";
}

/* Its rows are lines of words. */
static bool is_one_line(const struct view *v)
{
	switch ((int)v->o->request.verb) {
	case CTL_VERB_STATUS:
	case CTL_VERB_SHOW:
	case CTL_VERB_DLQ_SHOW:
	case CTL_VERB_ENTRIES_DLQ_SHOW:
	case CTL_VERB_EXPLAIN:
	case CTL_VERB_METRICS:
		return false;
	default:
		return true;
	}
}

/* Verbs without a table: prints one row. */
static void ctl_view_put_row(struct view *v, yyjson_val *row)
{
	switch ((int)v->o->request.verb) {
	case CTL_VERB_STATUS:
		if (v->o->request.ready)
			keep_ready(v, row);
		else
			view_put_status(&v->out, row, !v->o->no_headers);
		break;
	case CTL_VERB_SHOW:
	case CTL_VERB_DLQ_SHOW:
	case CTL_VERB_ENTRIES_DLQ_SHOW:
		if (v->n_rows > 1)
			buf_str(&v->out, "\n");
		table_block(&v->out, block_of(v->o->request.verb), row);
		break;
	case CTL_VERB_EXPLAIN:
		put_explain(&v->out, row);
		break;
	case CTL_VERB_DRAIN:
	case CTL_VERB_UNDRAIN:
		put_drain(&v->out, row);
		break;
	case CTL_VERB_RELEASE:
	case CTL_VERB_REQUEUE:
	case CTL_VERB_DLQ_REPLAY:
	case CTL_VERB_DLQ_PURGE:
	case CTL_VERB_ENTRIES_DLQ_REPLAY:
	case CTL_VERB_ENTRIES_DLQ_PURGE:
	case CTL_VERB_DELAYED_NOW:
	case CTL_VERB_DELAYED_DROP:
		put_action(&v->out, row);
		break;
	case CTL_VERB_ADD:
		put_added(&v->out, row);
		break;
	case CTL_VERB_METRICS:
		buf_str(&v->out, cell_string(row, "text"));
		break;
	case CTL_VERB_EVENTS:
		put_event(&v->out, row);
		break;
	default: /* CTL_VERB_VERSION; the others have tables */
		put_version(&v->out, row);
	}
	if (is_one_line(v))
		cell_fold(&v->out, 0, 0, v->o->request.verb == CTL_VERB_EVENTS ? EVENT_TEXT : 2);
}

static void put_json_row(struct view *v, const char *line, size_t len)
{
	bool is_version = v->o->request.verb == CTL_VERB_VERSION;
	if (is_version)
		buf_printf(
			&v->out, "{\"version\":\"%s\",\"client\":\"%s\",\"daemon\":", SLUICE_VERSION, SLUICE_VERSION);
	buf_add(&v->out, line, len);
	buf_str(&v->out, is_version ? "}\n" : "\n");
}

bool view_row(void *arg, yyjson_val *row, const char *line, size_t len)
{
	struct view *v = arg;
	v->n_rows++;
	if (v->o->json) {
		put_json_row(v, line, len);
	} else if (v->table.columns) {
		table_add(&v->table, row);
		return true;
	} else {
		ctl_view_put_row(v, row);
	}
	return out_flush(&v->out);
}

static void finish_version(struct view *v)
{
	if (v->o->json)
		buf_printf(&v->out, "{\"version\":\"%s\",\"client\":\"%s\",\"daemon\":null}\n", SLUICE_VERSION,
			SLUICE_VERSION);
	else
		buf_printf(&v->out, "sluicectl %s\n", SLUICE_VERSION);
}

void view_finish(struct view *v, int exit_code, bool is_told)
{
	if (v->n_rows == 0 && v->o->request.verb == CTL_VERB_VERSION)
		finish_version(v);
	else if (v->o->json)
		return;
	else if (v->o->request.ready && v->n_rows > 0)
		put_ready(&v->out, v->is_ready, is_told || !v->reasons.data ? "" : v->reasons.data);
	else if (v->table.columns && v->n_rows > 0)
		table_put(&v->out, &v->table, !v->o->no_headers);
	else if (v->table.columns && exit_code == 0 && !v->o->no_headers)
		table_put(&v->out, &v->table, true); /* an empty list still says what it would list */
	else if (exit_code == 0 && is_counted(v->o->request.verb))
		buf_printf(&v->out, "%zu %s\n", v->n_rows, counted_words(v->o->request.verb, v->n_rows));
	out_flush(&v->out);
}
