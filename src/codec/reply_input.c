/* reply_input - what an entry of the load-balancer stream says: the JSON in `lbs-input`, its counters and marks, and
 * the trace it belongs to. */
#include "codec/reply.h"

#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "codec/command.h"
#include "codec/json.h"

static bool is_key(yyjson_val *key, const char *name)
{
	const char *text = yyjson_get_str(key);
	return text && yyjson_get_len(key) == strlen(name) && strncasecmp(text, name, strlen(name)) == 0;
}

/* The object's last values, whatever the case of their names, as encoding/json of Go reads them: what a Go consumer of
 * the group would work on is no dead letter. */
static void find_values(yyjson_val *root, yyjson_val **name, yyjson_val **info)
{
	yyjson_obj_iter it = yyjson_obj_iter_with(root);
	for (yyjson_val *key; (key = yyjson_obj_iter_next(&it));) {
		if (is_key(key, "DataStreamName"))
			*name = yyjson_obj_iter_get_val(key);
		else if (is_key(key, "Info"))
			*info = yyjson_obj_iter_get_val(key);
	}
}

static bool is_stream_name(yyjson_val *name)
{
	const size_t len = yyjson_get_len(name);
	return yyjson_is_str(name) && len > 0 && len <= REPLY_STREAM_MAX &&
	       memchr(yyjson_get_str(name), '\0', len) == NULL;
}

static struct text *info_text(yyjson_val *info)
{
	if (!info)
		return text_new("{}", 2);
	size_t len;
	char *json = yyjson_val_write_opts(info, YYJSON_WRITE_NOFLAG, &json_alc, &len, NULL);
	if (!json)
		return NULL;
	struct text *t = text_new(json, len);
	mem_free(json);
	return t;
}

/* Why the parser refused it, where that has a name. */
static enum entry_problem json_problem(struct slice json, yyjson_read_code code)
{
	const char *end = json.p + json.len, *at = json.p;
	for (size_t n; at < end && (n = utf8_len(at, (size_t)(end - at))) > 0; at += n)
		continue;
	if (at < end)
		return ENTRY_BAD_UTF8;
	if (code == YYJSON_READ_ERROR_INVALID_STRING && json_find_lone(json.p, end))
		return ENTRY_HALF_CHARACTER;
	return ENTRY_BAD_JSON;
}

static enum entry_problem read_json(struct entry_in *e, struct slice json)
{
	/* Without the in-situ flag the bytes are only read. */
	yyjson_read_err why;
	yyjson_doc *doc =
		yyjson_read_opts((char *)(uintptr_t)json.p, json.len, YYJSON_READ_NUMBER_AS_RAW, &json_alc, &why);
	if (!doc)
		return json_problem(json, why.code);
	enum entry_problem problem = ENTRY_NO_OBJECT;
	yyjson_val *name = NULL, *info = NULL;
	if (!yyjson_is_obj(yyjson_doc_get_root(doc)))
		goto out;
	find_values(yyjson_doc_get_root(doc), &name, &info);
	problem = ENTRY_NO_NAME;
	if (!is_stream_name(name))
		goto out;
	problem = ENTRY_BAD_JSON;
	e->info = info_text(info);
	if (!e->info)
		goto out;
	e->stream = text_new(yyjson_get_str(name), yyjson_get_len(name));
	e->lock_slot = command_lock_slot(e->stream->bytes, e->stream->len, e->id);
	e->data_slot = command_entry_slots(e->stream->bytes, e->stream->len, &e->has_no_position);
	e->is_position = command_is_position_key(e->stream->bytes, e->stream->len);
	problem = ENTRY_GOOD;
out:
	yyjson_doc_free(doc);
	return problem;
}

/* 1 to 9 digits; anything else counts as 0. */
static void read_retry(struct entry_in *e, struct slice s)
{
	uint32_t v = 0;
	e->bad_retry = s.len == 0 || s.len > 9;
	for (size_t i = 0; i < s.len && !e->bad_retry; i++) {
		e->bad_retry = s.p[i] < '0' || s.p[i] > '9';
		v = v * 10 + (uint32_t)(s.p[i] - '0');
	}
	e->retry = e->bad_retry ? 0 : v;
}

/* W3C trace context, as producers' libraries write it. */
static const char *const trace_names[LBS_TRACE_N] = {"traceparent", "tracestate", "baggage"};

static bool is_field_name(struct slice s, const char *word)
{
	return s.len == strlen(word) && memcmp(s.p, word, s.len) == 0;
}

void reply_lbs_field(struct lbs_fields *f, struct slice name, struct slice value)
{
	if (is_field_name(name, "lbs-input"))
		f->input = value;
	else if (is_field_name(name, "_retry_count"))
		f->retry = value;
	else if (is_field_name(name, "_suspect"))
		f->suspect = value;
	else
		for (size_t i = 0; i < LBS_TRACE_N; i++)
			if (is_field_name(name, trace_names[i]))
				f->trace[i] = value;
}

static struct text *trace_of(const struct lbs_fields *f)
{
	struct buf b;
	buf_init(&b);
	for (size_t i = 0; i < LBS_TRACE_N; i++) {
		if (!f->trace[i].p || !f->trace[i].len || f->trace[i].len > LBS_TRACE_MAX)
			continue;
		buf_printf(&b, "%s\"%s\":", b.len ? "," : "{", trace_names[i]);
		buf_json_str(&b, f->trace[i].p, f->trace[i].len);
	}
	if (b.len)
		buf_str(&b, "}");
	struct text *t = b.len ? text_new(b.data, b.len) : NULL;
	buf_fini(&b);
	return t;
}

void reply_read_input(struct entry_in *e, const struct lbs_fields *f)
{
	e->problem = f->input.p ? read_json(e, f->input) : ENTRY_NO_INPUT;
	if (f->retry.p)
		read_retry(e, f->retry);
	e->is_suspect = f->suspect.p && f->suspect.len > 0;
	e->was_alone = e->is_suspect && f->suspect.p[0] == '2';
	if (e->problem == ENTRY_GOOD)
		e->trace = trace_of(f);
}

struct field_list *reply_copy_fields(const struct field *fields, size_t n)
{
	size_t bytes = 0;
	for (size_t i = 0; i < n; i++)
		bytes += fields[i].name.len + fields[i].value.len;
	struct field_list *l = mem_alloc(sizeof *l + n * sizeof l->v[0] + bytes + 1);
	char *at = (char *)(l->v + n);
	l->n = n;
	for (size_t i = 0; i < n; i++) {
		const struct slice from[2] = {fields[i].name, fields[i].value};
		struct slice *const to[2] = {&l->v[i].name, &l->v[i].value};
		for (int k = 0; k < 2; k++) {
			if (from[k].len)
				memcpy(at, from[k].p, from[k].len);
			*to[k] = (struct slice){at, from[k].len};
			at += from[k].len;
		}
	}
	return l;
}
