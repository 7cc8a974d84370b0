#include "codec/frame.h"

#include <string.h>

#include "base/mem.h"
#include "codec/entry_id.h"
#include "codec/json.h"

enum {
	POOL_BYTES = 16384, /* most frames are parsed in here; longer ones on the heap */
	SLICES_KEEP = 4096,
};

/* RAW for what int64 cannot hold, so that 1e999 in a field we ignore does not end a session. */
static const yyjson_read_flag READ_FLAGS = YYJSON_READ_BIGNUM_AS_RAW;

struct frame_decoder {
	yyjson_doc *doc;
	struct slice *slices; /* services, then resume */
	size_t n_slices;
	char pool[POOL_BYTES];
};

struct frame_field {
	const char *name, *missing, *wrong;
};

static const struct frame_field F_V = {"v", "v: missing", "v: must be an integer"};
static const struct frame_field F_NAME = {"name", "name: missing", "name: must be a string"};
static const struct frame_field F_CREDITS = {"credits", "credits: missing", "credits: must be an integer"};
static const struct frame_field F_N = {"n", "n: missing", "n: must be an integer"};
static const struct frame_field F_LEASE = {"lease", "lease: missing", "lease: must be a string of 1 to 64 bytes"};
static const struct frame_field F_SERVICES = {"services", "", "services: must be an array of strings"};
static const struct frame_field F_SESSION = {"session", "", "session: must be a string"};
static const struct frame_field F_RESUME = {"resume", "", "resume: must be an array of strings of 1 to 64 bytes"};
static const struct frame_field F_REASON = {"reason", "", "reason: must be a string"};
static const struct frame_field F_DEAD = {"dead", "", "dead: must be true or false"};
static const struct frame_field F_ID = {"id", "id: missing", "id: must be an entry's id, like 17-0"};
static const struct frame_field F_RETRY_MS = {"retry_ms", "", "retry_ms: must be an integer, 0 to 86400000"};
static const struct frame_field F_ENTRIES = {"entries", "", "entries: must be true or false"};
static const struct frame_field F_NOTE = {"note", "", "note: must be a string"};

struct frame_decoder *frame_decoder_new(void)
{
	return mem_alloc(sizeof(struct frame_decoder));
}

static void frame_reset(struct frame_decoder *d)
{
	yyjson_doc_free(d->doc);
	d->doc = NULL;
	if (d->n_slices > SLICES_KEEP) {
		mem_free(d->slices);
		d->slices = NULL;
		d->n_slices = 0;
	}
}

void frame_decoder_free(struct frame_decoder *d)
{
	if (!d)
		return;
	frame_reset(d);
	mem_free(d->slices);
	mem_free(d);
}

/* Looked at before parsing, so that brackets alone cannot make the parser allocate. */
static bool nests_too_deep(const char *p, size_t len)
{
	int depth = 0;
	bool in_string = false;
	for (const char *end = p + len; p < end; p++) {
		if (in_string) {
			if (*p == '\\')
				p++;
			else if (*p == '"')
				in_string = false;
		} else if (*p == '"') {
			in_string = true;
		} else if (*p == '{' || *p == '[') {
			if (++depth > FRAME_DEPTH_MAX)
				return true;
		} else if (*p == '}' || *p == ']') {
			depth--;
		}
	}
	return false;
}

/* ---- lone surrogates (codec/json) */

/* A copy with U+FFFD in the place of each; NULL: there is none. mem_free. */
static char *mend_surrogates(const char *line, size_t len)
{
	static const char replacement[] = {'\\', 'u', 'f', 'f', 'f', 'd'};
	const char *end = line + len, *lone = json_find_lone(line, end);
	if (!lone)
		return NULL;
	char *copy = mem_dup(line, len);
	for (; lone; lone = json_find_lone(lone + sizeof replacement, end))
		memcpy(copy + (lone - line), replacement, sizeof replacement);
	return copy;
}

static enum err_code frame_parse(struct frame_decoder *d, const char *line, size_t len, struct err *err)
{
	frame_reset(d);
	if (nests_too_deep(line, len))
		return err_set(err, ERR_INVALID, "nested more than %d deep", FRAME_DEPTH_MAX);
	yyjson_alc alc;
	bool is_pooled = yyjson_read_max_memory_usage(len, READ_FLAGS) <= sizeof(d->pool) &&
			 yyjson_alc_pool_init(&alc, d->pool, sizeof(d->pool));
	yyjson_read_err why;
	char *mended = mend_surrogates(line, len);
	/* The parser takes a mutable string only for in-situ parsing, which we do not ask for. */
	d->doc = yyjson_read_opts(
		mended ? mended : (char *)(uintptr_t)line, len, READ_FLAGS, is_pooled ? &alc : &json_alc, &why);
	mem_free(mended);
	if (!d->doc)
		return err_set(err, ERR_INVALID, "not JSON: %s at byte %zu", why.msg, why.pos);
	if (!yyjson_is_obj(yyjson_doc_get_root(d->doc)))
		return err_set(err, ERR_INVALID, "not a JSON object");
	return ERR_OK;
}

static struct slice frame_slice_of(yyjson_val *v)
{
	return (struct slice){.p = yyjson_get_str(v), .len = yyjson_get_len(v)};
}

/* NULL when it is left out, or null, which counts as that. */
static yyjson_val *value_at(yyjson_val *root, const char *name)
{
	yyjson_val *v = yyjson_obj_get(root, name);
	return yyjson_is_null(v) ? NULL : v;
}

/* The first problem is the one that is told. */
static void frame_refuse(struct frame *f, enum frame_problem problem, const char *text)
{
	if (f->problem != FRAME_PROBLEM_NONE)
		return;
	f->problem = problem;
	f->bad_field = text;
}

static bool is_lease(yyjson_val *v)
{
	return yyjson_is_str(v) && yyjson_get_len(v) > 0 && yyjson_get_len(v) <= FRAME_LEASE_MAX;
}

/* An integer beyond int64: digits only, kept as text by the parser. */
static bool is_huge(yyjson_val *v)
{
	return yyjson_is_raw(v) && !memchr(yyjson_get_raw(v), '.', yyjson_get_len(v)) &&
	       !memchr(yyjson_get_raw(v), 'e', yyjson_get_len(v)) && !memchr(yyjson_get_raw(v), 'E', yyjson_get_len(v));
}

static bool get_int(yyjson_val *v, int64_t *out)
{
	if (!yyjson_is_int(v) || (yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX))
		return false;
	*out = yyjson_get_sint(v);
	return true;
}

static void read_credits(struct frame *f, yyjson_val *root, const struct frame_field *field)
{
	yyjson_val *v = yyjson_obj_get(root, field->name);
	bool is_uint64 = yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX;
	int64_t n = -1;
	if (!v)
		frame_refuse(f, FRAME_PROBLEM_FIELD, field->missing);
	else if (!get_int(v, &n) && !is_uint64 && !is_huge(v))
		frame_refuse(f, FRAME_PROBLEM_FIELD, field->wrong);
	else if (n < 0 || n > FRAME_CREDITS_MAX)
		frame_refuse(f, FRAME_PROBLEM_LIMIT, "credits: must be 0 to 10000");
	else
		f->credits = n;
}

/* Of an optional field. */
static void read_string(struct frame *f, yyjson_val *root, const struct frame_field *field, struct slice *out)
{
	yyjson_val *v = value_at(root, field->name);
	if (!v)
		return;
	if (yyjson_is_str(v))
		*out = frame_slice_of(v);
	else
		frame_refuse(f, FRAME_PROBLEM_FIELD, field->wrong);
}

static void read_lease(struct frame *f, yyjson_val *root)
{
	yyjson_val *v = yyjson_obj_get(root, F_LEASE.name);
	if (is_lease(v))
		f->lease = frame_slice_of(v);
	else
		frame_refuse(f, FRAME_PROBLEM_FIELD, v ? F_LEASE.wrong : F_LEASE.missing);
}

/* Returns how many strings went to out, which has room for all of them. */
static size_t read_strings(struct frame *f, yyjson_val *array, const struct frame_field *field, struct slice *out)
{
	size_t i, n;
	yyjson_val *v;
	if (array && !yyjson_is_arr(array))
		frame_refuse(f, FRAME_PROBLEM_FIELD, field->wrong);
	yyjson_arr_foreach(array, i, n, v)
	{
		if (!yyjson_is_str(v) || (field == &F_RESUME && !is_lease(v))) {
			frame_refuse(f, FRAME_PROBLEM_FIELD, field->wrong);
			return 0;
		}
		out[i] = frame_slice_of(v);
	}
	return yyjson_arr_size(array);
}

static void read_entries_flag(struct frame *f, yyjson_val *root)
{
	yyjson_val *v = yyjson_obj_get(root, F_ENTRIES.name);
	if (v && !yyjson_is_null(v) && !yyjson_is_bool(v))
		frame_refuse(f, FRAME_PROBLEM_FIELD, F_ENTRIES.wrong);
	f->hello.takes_entries = yyjson_get_bool(v);
}

static void read_hello(struct frame_decoder *d, struct frame *f, yyjson_val *root)
{
	yyjson_val *v = yyjson_obj_get(root, F_V.name);
	if (!get_int(v, &f->hello.v))
		frame_refuse(f, FRAME_PROBLEM_FIELD, v ? F_V.wrong : F_V.missing);
	v = yyjson_obj_get(root, F_NAME.name);
	if (yyjson_is_str(v))
		f->hello.name = frame_slice_of(v);
	else
		frame_refuse(f, FRAME_PROBLEM_FIELD, v ? F_NAME.wrong : F_NAME.missing);
	read_credits(f, root, &F_CREDITS);
	read_string(f, root, &F_SESSION, &f->hello.session);
	read_entries_flag(f, root);
	yyjson_val *services = value_at(root, F_SERVICES.name);
	yyjson_val *resume = value_at(root, F_RESUME.name);
	size_t need = yyjson_arr_size(services) + yyjson_arr_size(resume);
	if (need > d->n_slices) {
		d->slices = mem_grow(d->slices, need, sizeof(*d->slices));
		d->n_slices = need;
	}
	f->hello.has_services = services != NULL;
	f->hello.services = d->slices;
	f->hello.n_services = read_strings(f, services, &F_SERVICES, f->hello.services);
	f->hello.resume = d->slices ? d->slices + f->hello.n_services : NULL;
	f->hello.n_resume = read_strings(f, resume, &F_RESUME, f->hello.resume);
}

static void read_n(struct frame *f, yyjson_val *root)
{
	yyjson_val *v = value_at(root, F_N.name);
	if (!v)
		return;
	f->has_n = get_int(v, &f->n);
	if (!f->has_n)
		frame_refuse(f, FRAME_PROBLEM_FIELD, F_N.wrong);
}

static void read_dead(struct frame *f, yyjson_val *root)
{
	yyjson_val *v = value_at(root, F_DEAD.name);
	if (v && !yyjson_is_bool(v))
		frame_refuse(f, FRAME_PROBLEM_FIELD, F_DEAD.wrong);
	f->dead = yyjson_get_bool(v);
}

static void read_entry_id(struct frame *f, yyjson_val *root)
{
	yyjson_val *v = yyjson_obj_get(root, F_ID.name);
	if (!v)
		frame_refuse(f, FRAME_PROBLEM_FIELD, F_ID.missing);
	else if (!yyjson_is_str(v) || !command_id_parse(yyjson_get_str(v), yyjson_get_len(v), &f->entry))
		frame_refuse(f, FRAME_PROBLEM_FIELD, F_ID.wrong);
}

static void read_retry_ms(struct frame *f, yyjson_val *root)
{
	yyjson_val *v = yyjson_obj_get(root, F_RETRY_MS.name);
	if (!v || yyjson_is_null(v))
		return;
	f->has_retry_ms = get_int(v, &f->retry_ms) && f->retry_ms >= 0 && f->retry_ms <= FRAME_RETRY_MS_MAX;
	if (!f->has_retry_ms)
		frame_refuse(f, FRAME_PROBLEM_FIELD, F_RETRY_MS.wrong);
}

static enum frame_kind frame_kind_of(struct slice type)
{
	static const char *const names[FRAME_UNKNOWN] = {
		[FRAME_HELLO] = "hello",
		[FRAME_CREDITS] = "credits",
		[FRAME_DONE] = "done",
		[FRAME_FAIL] = "fail",
		[FRAME_RELEASE] = "release",
		[FRAME_PROGRESS] = "progress",
		[FRAME_ACK] = "ack",
		[FRAME_NACK] = "nack",
		[FRAME_REVOKED] = "revoked",
		[FRAME_PING] = "ping",
		[FRAME_PONG] = "pong",
		[FRAME_BYE] = "bye",
	};
	for (int k = 0; k < FRAME_UNKNOWN; k++)
		if (strlen(names[k]) == type.len && memcmp(names[k], type.p, type.len) == 0)
			return (enum frame_kind)k;
	return FRAME_UNKNOWN;
}

static void read_fields(struct frame_decoder *d, struct frame *f, yyjson_val *root)
{
	switch (f->kind) {
	case FRAME_HELLO:
		read_hello(d, f, root);
		break;
	case FRAME_CREDITS:
		read_credits(f, root, &F_N);
		break;
	case FRAME_FAIL:
		read_lease(f, root);
		read_string(f, root, &F_REASON, &f->reason);
		read_dead(f, root);
		read_retry_ms(f, root);
		break;
	case FRAME_ACK:
		read_lease(f, root);
		read_entry_id(f, root);
		break;
	case FRAME_NACK:
		read_lease(f, root);
		read_entry_id(f, root);
		read_string(f, root, &F_REASON, &f->reason);
		read_retry_ms(f, root);
		read_dead(f, root);
		break;
	case FRAME_PROGRESS:
		read_lease(f, root);
		read_string(f, root, &F_NOTE, &f->note);
		break;
	case FRAME_RELEASE:
		read_lease(f, root);
		read_retry_ms(f, root);
		break;
	case FRAME_DONE:
	case FRAME_REVOKED:
		read_lease(f, root);
		break;
	case FRAME_PING:
	case FRAME_PONG:
		read_n(f, root);
		break;
	case FRAME_BYE:
	case FRAME_UNKNOWN:
	case FRAME_N:
		break;
	}
}

enum err_code frame_decode(struct frame_decoder *d, const char *line, size_t len, struct frame *out, struct err *err)
{
	enum err_code rc = frame_parse(d, line, len, err);
	if (rc)
		return rc;
	yyjson_val *root = yyjson_doc_get_root(d->doc);
	yyjson_val *type = yyjson_obj_get(root, "t");
	if (!yyjson_is_str(type))
		return err_set(err, ERR_INVALID, type ? "`t` is not a string" : "no `t`");
	*out = (struct frame){.kind = frame_kind_of(frame_slice_of(type)), .type = frame_slice_of(type), .hello.v = -1};
	read_fields(d, out, root);
	return ERR_OK;
}
