#include "codec/ctl.h"

#include <string.h>

#include "base/duration.h"
#include "base/instant.h"
#include "base/mem.h"
#include "codec/json.h"
#include "core/cmd.h"

#define AT(worker) offsetof(struct ctl_request, worker)
#define BIT(arg) (1u << (arg))

enum { DAY_MS = 24 * 60 * 60 * 1000 };

static const struct ctl_arg_info args[CTL_ARG_N] = {
	[CTL_ARG_SERVICE] = {"service", "--service", "SERVICE", "only this service", CTL_TYPE_TEXT, 0, 0, AT(service)},
	[CTL_ARG_STREAM] = {"stream", "--stream", "STREAM", "only this stream", CTL_TYPE_TEXT, 0, 0, AT(stream)},
	[CTL_ARG_WORKER] = {"worker", "--worker", "WORKER", "a worker's name or session", CTL_TYPE_TEXT, 0, 0,
		AT(worker)},
	[CTL_ARG_ID] = {"id", "--id", "ID", "only the one with this id", CTL_TYPE_ID, 0, 0, AT(id)},
	[CTL_ARG_STATE] = {"state", "--state", "STATE", "only streams in this state", CTL_TYPE_STATE, 0, 0, AT(state)},
	[CTL_ARG_REASON] = {"reason", "--reason", "REASON", "only dead letters with this reason", CTL_TYPE_REASON, 0, 0,
		AT(reason)},
	[CTL_ARG_INFO] = {"info", "--info", "JSON", "what the worker gets as Info", CTL_TYPE_JSON, 0, 0, AT(info)},
	[CTL_ARG_IN] = {"in_ms", "--in", "DUR", "so long from now: 500ms 10s 5m 2h 1d", CTL_TYPE_DURATION, 0,
		3650LL * DAY_MS, AT(in_ms)},
	[CTL_ARG_AT] = {"at", "--at", "TIME", "then: 2026-11-30T10:00:00, with Z or +02:00, or @SECONDS", CTL_TYPE_TIME,
		0, 0, AT(at)},
	[CTL_ARG_OLDER_THAN] = {"older_than_ms", "--older-than", "DUR", "only what is older: 500ms 10s 5m 2h 1d",
		CTL_TYPE_DURATION, 0, 10000LL * DAY_MS, AT(older_than_ms)},
	[CTL_ARG_COUNT] = {"count", "--count", "N", "add STREAM-1 to STREAM-N", CTL_TYPE_NUMBER, 1, 100000, AT(count)},
	[CTL_ARG_LIMIT] = {"limit", "--limit", "N", "at most so many, oldest first", CTL_TYPE_NUMBER, 1, 1000000000,
		AT(limit)},
	[CTL_ARG_RATE] = {"rate_per_s", "--rate", "N/s", "not faster than this", CTL_TYPE_RATE, 1, 1000000,
		AT(rate_per_s)},
	[CTL_ARG_READY] = {"ready", "--ready", NULL, "exit 1 when the daemon is not ready", CTL_TYPE_FLAG, 0, 0,
		AT(ready)},
	[CTL_ARG_WAIT] = {"wait", "--wait", NULL, "return when nothing is owned any more", CTL_TYPE_FLAG, 0, 0,
		AT(wait)},
	[CTL_ARG_FOLLOW] = {"follow", "--follow", NULL, "go on with every new one", CTL_TYPE_FLAG, 0, 0, AT(follow)},
	[CTL_ARG_DRY_RUN] = {"dry_run", "--dry-run", NULL, "only say what would be done", CTL_TYPE_FLAG, 0, 0,
		AT(dry_run)},
	[CTL_ARG_WAITING] = {"waiting", "--waiting", NULL, "what waits, of all daemons: parked, delayed, unread",
		CTL_TYPE_FLAG, 0, 0, AT(waiting)},
};

#define FILTERS                                                                                                        \
	(BIT(CTL_ARG_REASON) | BIT(CTL_ARG_STREAM) | BIT(CTL_ARG_ID) | BIT(CTL_ARG_OLDER_THAN) | BIT(CTL_ARG_LIMIT))
#define DLQ_WRITE (FILTERS | BIT(CTL_ARG_RATE) | BIT(CTL_ARG_DRY_RUN))
#define DELAYED_WRITE (BIT(CTL_ARG_ID) | BIT(CTL_ARG_LIMIT) | BIT(CTL_ARG_DRY_RUN))
#define ONE_SERVICE {CTL_ARG_SERVICE}, 1, 1
#define ANY_SERVICE {CTL_ARG_SERVICE}, 1, 0
#define ONE_STREAM {CTL_ARG_STREAM}, 1, 1
#define NOTHING {CTL_ARG_N}, 0, 0

static const struct ctl_verb_info verbs[CTL_VERB_N] = {
	[CTL_VERB_STATUS] = {"status", "how the daemon is", NOTHING, BIT(CTL_ARG_READY)},
	[CTL_VERB_LS] = {"ls", "the streams it holds, oldest first", NOTHING,
		BIT(CTL_ARG_SERVICE) | BIT(CTL_ARG_STATE) | BIT(CTL_ARG_OLDER_THAN) | BIT(CTL_ARG_LIMIT) |
			BIT(CTL_ARG_WAITING)},
	[CTL_VERB_SHOW] = {"show", "all about one stream (a name or an entry id)", ONE_STREAM, BIT(CTL_ARG_SERVICE)},
	[CTL_VERB_EXPLAIN] = {"explain", "why a stream runs or does not", ONE_STREAM, BIT(CTL_ARG_SERVICE)},
	[CTL_VERB_WORKERS] = {"workers", "the connected workers", NOTHING, 0},
	[CTL_VERB_NODES] = {"nodes", "Redis masters, connections, handoffs, breakers", NOTHING, 0},
	[CTL_VERB_PAUSE] = {"pause", "read nothing new (of one service, or of all)", ANY_SERVICE, 0},
	[CTL_VERB_RESUME] = {"resume", "the opposite of pause", ANY_SERVICE, 0},
	[CTL_VERB_DRAIN] = {"drain", "read nothing new, let workers finish, give the rest back", NOTHING,
		BIT(CTL_ARG_WAIT)},
	[CTL_VERB_UNDRAIN] = {"undrain", "the opposite of drain", NOTHING, 0},
	[CTL_VERB_RELEASE] = {"release", "give a stream back to the load-balancer stream, not counted as a retry",
		ONE_STREAM, BIT(CTL_ARG_SERVICE)},
	[CTL_VERB_REQUEUE] = {"requeue", "the same as release", ONE_STREAM, BIT(CTL_ARG_SERVICE)},
	[CTL_VERB_REVOKE] = {"revoke", "take all streams from a worker", {CTL_ARG_WORKER}, 1, 1, 0},
	[CTL_VERB_ADD] = {"add", "add a stream to a service", {CTL_ARG_SERVICE, CTL_ARG_STREAM}, 2, 2,
		BIT(CTL_ARG_INFO) | BIT(CTL_ARG_COUNT) | BIT(CTL_ARG_IN) | BIT(CTL_ARG_AT)},
	[CTL_VERB_SCAN] = {"scan", "look for entries of dead owners now", ONE_SERVICE, 0},
	[CTL_VERB_TOPOLOGY_REFRESH] = {"topology refresh", "read the slot map now", NOTHING, 0},
	[CTL_VERB_DLQ_LS] = {"dlq ls", "dead letters, one a line", ONE_SERVICE, FILTERS},
	[CTL_VERB_DLQ_SHOW] = {"dlq show", "dead letters, whole", ONE_SERVICE, FILTERS},
	[CTL_VERB_DLQ_REPLAY] = {"dlq replay", "add dead letters to the service again", ONE_SERVICE, DLQ_WRITE},
	[CTL_VERB_DLQ_PURGE] = {"dlq purge", "delete dead letters", ONE_SERVICE, DLQ_WRITE},
	[CTL_VERB_ENTRIES_DLQ_LS] = {"entries-dlq ls", "dead entries of data streams, one a line", ONE_SERVICE,
		FILTERS},
	[CTL_VERB_ENTRIES_DLQ_SHOW] = {"entries-dlq show", "dead entries, whole", ONE_SERVICE, FILTERS},
	[CTL_VERB_ENTRIES_DLQ_REPLAY] = {"entries-dlq replay", "add dead entries to their data streams again",
		ONE_SERVICE, DLQ_WRITE},
	[CTL_VERB_ENTRIES_DLQ_PURGE] = {"entries-dlq purge", "delete dead entries", ONE_SERVICE, DLQ_WRITE},
	[CTL_VERB_FLEET] = {"fleet", "all daemons of a service, or of all services", ANY_SERVICE, 0},
	[CTL_VERB_DELAYED_LS] = {"delayed ls", "what waits for its time, soonest first", ANY_SERVICE,
		BIT(CTL_ARG_STREAM) | BIT(CTL_ARG_ID) | BIT(CTL_ARG_LIMIT)},
	[CTL_VERB_DELAYED_NOW] = {"delayed now", "let what waits for its time come back at once",
		{CTL_ARG_SERVICE, CTL_ARG_STREAM}, 2, 1, DELAYED_WRITE},
	[CTL_VERB_DELAYED_DROP] = {"delayed drop", "forget what waits for its time", {CTL_ARG_SERVICE, CTL_ARG_STREAM},
		2, 1, DELAYED_WRITE},
	[CTL_VERB_RELOAD] = {"reload", "read the configuration file again", NOTHING, 0},
	[CTL_VERB_DOCTOR] = {"doctor", "check Redis: version, eviction, persistence, ACL, keyspace flags, slots",
		NOTHING, 0},
	[CTL_VERB_METRICS] = {"metrics", "the metrics as Prometheus text", NOTHING, 0},
	[CTL_VERB_EVENTS] = {"events", "what the daemon said last", NOTHING, BIT(CTL_ARG_FOLLOW)},
	[CTL_VERB_VERSION] = {"version", "versions of sluicectl and the daemon", NOTHING, 0},
};

static const char *const states[CTL_STATE_N] = {
	[CTL_STATE_LOCKING] = "locking",
	[CTL_STATE_PARKED] = "parked",
	[CTL_STATE_READY] = "ready",
	[CTL_STATE_ASSIGNED] = "assigned",
	[CTL_STATE_REVOKING] = "revoking",
	[CTL_STATE_LIMBO] = "limbo",
	[CTL_STATE_BLOCKED] = "blocked",
	[CTL_STATE_FINISHING] = "finishing",
	[CTL_STATE_LOST] = "lost",
};

const struct ctl_verb_info *ctl_verb_info(enum ctl_verb verb)
{
	return &verbs[verb];
}

const struct ctl_arg_info *ctl_arg_info(enum ctl_arg arg)
{
	return &args[arg];
}

bool ctl_verb_parse(const char *name, enum ctl_verb *out)
{
	for (unsigned i = 0; i < CTL_VERB_N; i++) {
		if (strcmp(verbs[i].name, name) == 0) {
			*out = (enum ctl_verb)i;
			return true;
		}
	}
	return false;
}

const char *ctl_state_name(enum ctl_state state)
{
	return states[state];
}

bool ctl_state_parse(const char *name, enum ctl_state *out)
{
	for (unsigned i = 0; i < CTL_STATE_N; i++) {
		if (strcmp(states[i], name) == 0) {
			*out = (enum ctl_state)i;
			return true;
		}
	}
	return false;
}

bool ctl_is_entry_id(const char *text)
{
	size_t ms = strspn(text, "0123456789");
	if (ms == 0 || ms > 20 || text[ms] != '-')
		return false;
	const char *seq = text + ms + 1;
	size_t n = strspn(seq, "0123456789");
	return n > 0 && n <= 20 && seq[n] == 0;
}

void ctl_request_init(struct ctl_request *r, enum ctl_verb verb)
{
	*r = (struct ctl_request){.verb = verb, .state = CTL_STATE_N, .count = 1};
}

static void *ctl_field_of(const struct ctl_request *r, enum ctl_arg arg)
{
	return (char *)r + args[arg].at;
}

static bool ctl_is_text(enum ctl_type type)
{
	return type == CTL_TYPE_TEXT || type == CTL_TYPE_ID || type == CTL_TYPE_REASON || type == CTL_TYPE_TIME ||
	       type == CTL_TYPE_JSON;
}

void ctl_request_fini(struct ctl_request *r)
{
	for (unsigned i = 0; i < CTL_ARG_N; i++) {
		char **text = ctl_field_of(r, (enum ctl_arg)i);
		if (ctl_is_text(args[i].type)) {
			mem_free(*text);
			*text = NULL;
		}
	}
	r->given = 0;
}

static bool ctl_is_allowed(const struct ctl_verb_info *verb, enum ctl_arg arg)
{
	for (unsigned i = 0; i < verb->n_positional; i++) {
		if (verb->positional[i] == arg)
			return true;
	}
	return verb->options & BIT(arg);
}

/* How the arg is called where it came from: on the wire or on the command line. */
static const char *arg_label(const struct ctl_request *r, enum ctl_arg arg, bool is_cli)
{
	const struct ctl_verb_info *verb = &verbs[r->verb];
	if (!is_cli)
		return args[arg].name;
	for (unsigned i = 0; i < verb->n_positional; i++) {
		if (verb->positional[i] == arg)
			return args[arg].value;
	}
	return args[arg].option;
}

static enum err_code claim(struct ctl_request *r, enum ctl_arg arg, const char *label, struct err *err)
{
	if (!ctl_is_allowed(&verbs[r->verb], arg))
		return err_set(err, ERR_INVALID, "%s does not take %s", verbs[r->verb].name, label);
	if (ctl_has(r, arg))
		return err_set(err, ERR_INVALID, "%s: %s is given twice", verbs[r->verb].name, label);
	return ERR_OK;
}

static const char *state_word(unsigned i)
{
	return i < CTL_STATE_N ? states[i] : NULL;
}

static const char *dead_reason_word(unsigned i)
{
	return i < DEAD_N ? dead_reason_name((enum dead_reason)i) : NULL;
}

static bool is_dead_reason(const char *s)
{
	unsigned i = 0;
	while (i < DEAD_N && strcmp(s, dead_reason_word(i)) != 0)
		i++;
	return i < DEAD_N;
}

/* Says all words that may stand there: word(0), word(1), up to NULL. */
static enum err_code fail_word(const struct ctl_request *r, const char *label, const char *(*word)(unsigned),
	const char *given, struct err *err)
{
	struct buf list;
	buf_init(&list);
	for (unsigned i = 0; word(i); i++)
		buf_printf(&list, "%s%s", i ? ", " : "", word(i));
	err_set(err, ERR_INVALID, "%s: %s must be one of %s, not \"%.64s\"", verbs[r->verb].name, label, list.data,
		given);
	buf_fini(&list);
	return ERR_INVALID;
}

static enum err_code store_text(
	struct ctl_request *r, enum ctl_arg arg, const char *label, const char *s, size_t len, struct err *err)
{
	const char *verb = verbs[r->verb].name;
	int64_t unix_ms;
	if (len == 0)
		return err_set(err, ERR_INVALID, "%s: %s is empty", verb, label);
	if (memchr(s, 0, len))
		return err_set(err, ERR_INVALID, "%s: %s has a NUL byte in it", verb, label);
	if (!buf_is_utf8(s, len)) /* only from a command line: JSON is UTF-8 */
		return err_set(err, ERR_INVALID, "%s: %s is not UTF-8", verb, label);
	if (args[arg].type == CTL_TYPE_ID && !ctl_is_entry_id(s))
		return err_set(err, ERR_INVALID, "%s: %s must be an entry id like 1700000000000-0, not \"%.64s\"", verb,
			label, s);
	if (args[arg].type == CTL_TYPE_TIME && !instant_parse(s, &unix_ms))
		return err_set(err, ERR_INVALID,
			"%s: %s must be a time like 2026-11-30T10:00:00, with Z or +02:00 at its end if need be, or "
			"@SECONDS, not \"%.64s\"",
			verb, label, s);
	if (args[arg].type == CTL_TYPE_REASON && !is_dead_reason(s))
		return fail_word(r, label, dead_reason_word, s, err);
	if (args[arg].type == CTL_TYPE_STATE) {
		if (!ctl_state_parse(s, &r->state))
			return fail_word(r, label, state_word, s, err);
	} else {
		char **text = ctl_field_of(r, arg);
		*text = mem_dup(s, len);
	}
	r->given |= BIT(arg);
	return ERR_OK;
}

static enum err_code ctl_store_number(
	struct ctl_request *r, enum ctl_arg arg, const char *label, int64_t v, struct err *err)
{
	const struct ctl_arg_info *info = &args[arg];
	if (v < info->min || v > info->max)
		return err_set(err, ERR_RANGE, "%s: %s must be between %lld and %lld", verbs[r->verb].name, label,
			(long long)info->min, (long long)info->max);
	int64_t *number = ctl_field_of(r, arg);
	*number = v;
	r->given |= BIT(arg);
	return ERR_OK;
}

static void store_flag(struct ctl_request *r, enum ctl_arg arg, bool v)
{
	bool *flag = ctl_field_of(r, arg);
	*flag = v;
	r->given |= BIT(arg);
}

/* Decimal digits at the start of s; *rest is what follows. False: none, or too many. */
static bool parse_digits(const char *s, int64_t *out, const char **rest)
{
	size_t n = strspn(s, "0123456789");
	if (n == 0 || n > 18)
		return false;
	*out = strtoll(s, NULL, 10);
	*rest = s + n;
	return true;
}

/* Any JSON value, numbers kept as they are written, on one line. Caller frees. */
static char *rewrite_json(const char *text, size_t len, size_t *out_len, yyjson_read_err *why)
{
	yyjson_doc *doc = yyjson_read_opts((char *)text, len, YYJSON_READ_NUMBER_AS_RAW, &json_alc, why);
	if (!doc)
		return NULL;
	char *s = yyjson_write_opts(doc, 0, &json_alc, out_len, NULL);
	yyjson_doc_free(doc);
	return s;
}

static enum err_code set_json(
	struct ctl_request *r, enum ctl_arg arg, const char *label, const char *text, struct err *err)
{
	yyjson_read_err why = {.msg = "cannot be written"};
	size_t len;
	char *s = rewrite_json(text, strlen(text), &len, &why);
	if (!s)
		return err_set(err, ERR_INVALID, "%s: %s is not JSON: %s at byte %zu", verbs[r->verb].name, label,
			why.msg, why.pos);
	enum err_code code = store_text(r, arg, label, s, len, err);
	mem_free(s);
	return code;
}

enum err_code ctl_request_set(struct ctl_request *r, enum ctl_arg arg, const char *text, struct err *err)
{
	const char *label = arg_label(r, arg, true), *verb = verbs[r->verb].name, *rest = NULL;
	int64_t v = 0;
	enum err_code code = claim(r, arg, label, err);
	if (code != ERR_OK)
		return code;
	switch (args[arg].type) {
	case CTL_TYPE_TEXT:
	case CTL_TYPE_ID:
	case CTL_TYPE_REASON:
	case CTL_TYPE_TIME:
	case CTL_TYPE_STATE:
		return store_text(r, arg, label, text, strlen(text), err);
	case CTL_TYPE_JSON:
		return set_json(r, arg, label, text, err);
	case CTL_TYPE_DURATION:
		if (!duration_parse(text, &v))
			return err_set(err, ERR_INVALID,
				"%s: %s must be a duration like 500ms, 10s, 5m, 2h or 1d, not \"%.64s\"", verb, label,
				text);
		return ctl_store_number(r, arg, label, v, err);
	case CTL_TYPE_NUMBER:
		if (!parse_digits(text, &v, &rest) || *rest)
			return err_set(
				err, ERR_INVALID, "%s: %s must be a whole number, not \"%.64s\"", verb, label, text);
		return ctl_store_number(r, arg, label, v, err);
	case CTL_TYPE_RATE:
		if (!parse_digits(text, &v, &rest) || (*rest && strcmp(rest, "/s") != 0))
			return err_set(
				err, ERR_INVALID, "%s: %s must be a rate like 100/s, not \"%.64s\"", verb, label, text);
		return ctl_store_number(r, arg, label, v, err);
	case CTL_TYPE_FLAG:
		store_flag(r, arg, true);
	}
	return ERR_OK;
}

static enum err_code check_required(const struct ctl_request *r, bool is_cli, struct err *err)
{
	const struct ctl_verb_info *verb = &verbs[r->verb];
	for (unsigned i = 0; i < verb->n_required; i++) {
		enum ctl_arg arg = verb->positional[i];
		if (!ctl_has(r, arg))
			return err_set(err, ERR_INVALID, "%s: %s is missing", verb->name, arg_label(r, arg, is_cli));
	}
	return ERR_OK;
}

enum err_code ctl_request_check(const struct ctl_request *r, struct err *err)
{
	return check_required(r, true, err);
}

/* ---- the wire */

static enum err_code set_wire_json(struct ctl_request *r, enum ctl_arg arg, yyjson_val *val, struct err *err)
{
	size_t len;
	char *s = yyjson_val_write_opts(val, 0, &json_alc, &len, NULL);
	if (!s)
		return err_set(err, ERR_INVALID, "%s: %s cannot be written", verbs[r->verb].name, args[arg].name);
	enum err_code code = store_text(r, arg, args[arg].name, s, len, err);
	mem_free(s);
	return code;
}

static enum err_code set_wire(struct ctl_request *r, enum ctl_arg arg, yyjson_val *val, struct err *err)
{
	const char *label = args[arg].name, *verb = verbs[r->verb].name, *rest = NULL;
	int64_t v = 0;
	enum err_code code = claim(r, arg, label, err);
	if (code != ERR_OK)
		return code;
	switch (args[arg].type) {
	case CTL_TYPE_TEXT:
	case CTL_TYPE_ID:
	case CTL_TYPE_REASON:
	case CTL_TYPE_TIME:
	case CTL_TYPE_STATE:
		if (!yyjson_is_str(val))
			return err_set(err, ERR_INVALID, "%s: %s must be a string", verb, label);
		return store_text(r, arg, label, yyjson_get_str(val), yyjson_get_len(val), err);
	case CTL_TYPE_JSON:
		return set_wire_json(r, arg, val, err);
	case CTL_TYPE_DURATION:
	case CTL_TYPE_NUMBER:
	case CTL_TYPE_RATE:
		if (!yyjson_is_raw(val) || !parse_digits(yyjson_get_raw(val), &v, &rest) || *rest)
			return err_set(err, ERR_INVALID, "%s: %s must be a whole number", verb, label);
		return ctl_store_number(r, arg, label, v, err);
	case CTL_TYPE_FLAG:
		if (!yyjson_is_bool(val))
			return err_set(err, ERR_INVALID, "%s: %s must be true or false", verb, label);
		store_flag(r, arg, yyjson_get_bool(val));
	}
	return ERR_OK;
}

static bool key_is(yyjson_val *key, const char *name)
{
	return yyjson_equals_str(key, name);
}

/* The request's own keys; args may be NULL. */
static enum err_code read_envelope(yyjson_val *root, yyjson_val **verb, yyjson_val **arg_obj, struct err *err)
{
	yyjson_val *v = NULL, *key;
	yyjson_obj_iter it;
	*verb = *arg_obj = NULL;
	if (!yyjson_is_obj(root))
		return err_set(err, ERR_INVALID, "the request is not a JSON object");
	yyjson_obj_iter_init(root, &it);
	while ((key = yyjson_obj_iter_next(&it))) {
		yyjson_val **slot = key_is(key, "v")      ? &v
				    : key_is(key, "verb") ? verb
				    : key_is(key, "args") ? arg_obj
							  : NULL;
		if (!slot)
			return err_set(err, ERR_INVALID, "unknown key \"%.64s\" in the request", yyjson_get_str(key));
		if (*slot)
			return err_set(err, ERR_INVALID, "%s is given twice", yyjson_get_str(key));
		*slot = yyjson_obj_iter_get_val(key);
	}
	if (!yyjson_is_raw(v) || strcmp(yyjson_get_raw(v), "1") != 0)
		return err_set(err, ERR_INVALID, "this daemon speaks version 1 of the control protocol: v must be 1");
	if (!yyjson_is_str(*verb))
		return err_set(err, ERR_INVALID, "verb must be a string");
	if (*arg_obj && !yyjson_is_obj(*arg_obj))
		return err_set(err, ERR_INVALID, "args must be an object");
	return ERR_OK;
}

static enum err_code read_args(struct ctl_request *r, yyjson_val *arg_obj, struct err *err)
{
	yyjson_val *key;
	yyjson_obj_iter it;
	if (!arg_obj)
		return ERR_OK;
	yyjson_obj_iter_init(arg_obj, &it);
	while ((key = yyjson_obj_iter_next(&it))) {
		unsigned arg = 0;
		while (arg < CTL_ARG_N && !key_is(key, args[arg].name))
			arg++;
		if (arg == CTL_ARG_N)
			return err_set(err, ERR_INVALID, "%s: unknown argument \"%.64s\"", verbs[r->verb].name,
				yyjson_get_str(key));
		enum err_code code = set_wire(r, (enum ctl_arg)arg, yyjson_obj_iter_get_val(key), err);
		if (code != ERR_OK)
			return code;
	}
	return ERR_OK;
}

enum err_code ctl_decode(const char *line, size_t len, struct ctl_request *out, struct err *err)
{
	if (len > CTL_REQUEST_MAX)
		return err_set(err, ERR_RANGE, "the request is longer than %d bytes", CTL_REQUEST_MAX);
	yyjson_read_err why;
	yyjson_doc *doc = yyjson_read_opts((char *)line, len, YYJSON_READ_NUMBER_AS_RAW, &json_alc, &why);
	if (!doc)
		return err_set(err, ERR_INVALID, "the request is not JSON: %s at byte %zu", why.msg, why.pos);
	yyjson_val *verb_name, *arg_obj;
	enum ctl_verb verb;
	struct ctl_request r;
	enum err_code code = read_envelope(yyjson_doc_get_root(doc), &verb_name, &arg_obj, err);
	if (code != ERR_OK)
		goto out;
	const char *name = yyjson_get_str(verb_name);
	if (!name || strlen(name) != yyjson_get_len(verb_name) || !ctl_verb_parse(name, &verb)) {
		code = err_set(err, ERR_INVALID, "unknown verb \"%.64s\"", name ? name : "");
		goto out;
	}
	ctl_request_init(&r, verb);
	code = read_args(&r, arg_obj, err);
	if (code == ERR_OK)
		code = check_required(&r, false, err);
	if (code == ERR_OK)
		*out = r;
	else
		ctl_request_fini(&r);
out:
	yyjson_doc_free(doc);
	return code;
}

static void put_arg(struct buf *b, const struct ctl_request *r, enum ctl_arg arg)
{
	const void *p = ctl_field_of(r, arg);
	switch (args[arg].type) {
	case CTL_TYPE_TEXT:
	case CTL_TYPE_ID:
	case CTL_TYPE_REASON:
	case CTL_TYPE_TIME: {
		const char *text = *(char *const *)p;
		buf_json_str(b, text, strlen(text));
		break;
	}
	case CTL_TYPE_JSON:
		buf_str(b, *(char *const *)p);
		break;
	case CTL_TYPE_STATE:
		buf_printf(b, "\"%s\"", states[r->state]);
		break;
	case CTL_TYPE_DURATION:
	case CTL_TYPE_NUMBER:
	case CTL_TYPE_RATE:
		buf_u64(b, (uint64_t) * (const int64_t *)p);
		break;
	case CTL_TYPE_FLAG:
		buf_str(b, *(const bool *)p ? "true" : "false");
	}
}

enum err_code ctl_encode(struct buf *b, const struct ctl_request *r, struct err *err)
{
	struct buf line;
	bool is_first = true;
	enum err_code code = ERR_OK;
	buf_init(&line);
	buf_printf(&line, "{\"v\":%d,\"verb\":\"%s\",\"args\":{", CTL_PROTOCOL, verbs[r->verb].name);
	for (unsigned i = 0; i < CTL_ARG_N; i++) {
		if (!ctl_has(r, (enum ctl_arg)i))
			continue;
		buf_printf(&line, "%s\"%s\":", is_first ? "" : ",", args[i].name);
		put_arg(&line, r, (enum ctl_arg)i);
		is_first = false;
	}
	buf_str(&line, "}}\n");
	if (line.len > CTL_REQUEST_MAX)
		code = err_set(err, ERR_RANGE, "%s: the request would be %zu bytes long; the most is %d",
			verbs[r->verb].name, line.len, CTL_REQUEST_MAX);
	else
		buf_add(b, line.data, line.len);
	buf_fini(&line);
	return code;
}

void ctl_encode_end(struct buf *b, const struct ctl_end *end)
{
	buf_printf(b, "{\"end\":true,\"exit\":%d", end->exit);
	if (end->error) {
		buf_str(b, ",\"error\":");
		buf_json_str(b, end->error, strlen(end->error));
	}
	buf_str(b, "}\n");
}
