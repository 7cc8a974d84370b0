/* load_structure - the first pass: what may stand where, and where each value stands. */
#include "config/load_p.h"
#include <stdio.h>
#include <string.h>
#include <yaml.h>
#include "base/mem.h"
#include "config/text.h"

enum { MAX_DEPTH = 10, MAX_SHOWN_PATH = 256, MAX_ITEMS = 4096 };

/* One open map or list. */
struct load_level {
	enum option_kind kind;     /* MAP, LIST or SERVICES */
	size_t prefix_len;         /* of pass.prefix inside this map */
	enum option_id list;       /* LIST: its row */
	struct option_child child; /* MAP: the key whose value comes next */
	bool has_key;
	unsigned key_line[N_OPTIONS]; /* MAP: where a child was given, by its first row; 0 = not yet */
};

struct pass {
	struct raw *raw;
	struct err *err;
	char prefix[OPTION_MAX_PATH]; /* "services[].lease." */
	struct load_level stack[MAX_DEPTH];
	size_t depth;
	bool has_document;
	const char *bytes; /* all of the file */
	size_t len;
	yaml_mark_t mark; /* of the event at hand */
};

/* The path of `key` in the map at hand with the service's number filled in. */
static void show_path(const struct pass *p, const char *key, char out[static MAX_SHOWN_PATH])
{
	const char *rest = p->prefix;
	size_t used = 0;
	if (strncmp(rest, "services[]", 10) == 0) {
		used = (size_t)snprintf(out, MAX_SHOWN_PATH, "services[%zu]", p->raw->n_services - 1);
		rest += 10;
	}
	snprintf(out + used, MAX_SHOWN_PATH - used, "%s%s", rest, key);
	size_t len = strlen(out);
	if (!*key && len && out[len - 1] == '.')
		out[len - 1] = '\0';
}

static enum err_code fail_at(struct pass *p, const char *path, enum err_code code, const char *problem)
{
	return err_set(
		p->err, code, "%s:%zu:%zu: %s: %s", p->raw->name, p->mark.line + 1, p->mark.column + 1, path, problem);
}

static struct load_level *top(struct pass *p)
{
	return p->depth ? &p->stack[p->depth - 1] : NULL;
}

/* The path of the value that comes next. */
static void show_next(struct pass *p, char out[static MAX_SHOWN_PATH])
{
	char key[OPTION_MAX_PATH] = "";
	struct load_level *f = top(p);
	if (!f) {
		snprintf(out, MAX_SHOWN_PATH, "yaml");
	} else if (f->kind == OPTION_KIND_SERVICES) {
		snprintf(out, MAX_SHOWN_PATH, "services[%zu]", p->raw->n_services);
	} else if (f->kind == OPTION_KIND_LIST) {
		snprintf(out, MAX_SHOWN_PATH, "%s[%zu]", options[f->list].path, p->raw->values[f->list].n_at);
	} else {
		const char *rest = options[f->child.first].path + f->prefix_len;
		memcpy(key, rest, strcspn(rest, ".["));
		show_path(p, key, out);
	}
}

static enum err_code fail_next(struct pass *p, const char *problem)
{
	char path[MAX_SHOWN_PATH];
	show_next(p, path);
	return fail_at(p, path, ERR_INVALID, problem);
}

static enum err_code load_fail_unknown(struct pass *p, const char *key, size_t len)
{
	char path[MAX_SHOWN_PATH], shown[TEXT_SHOWN], meant[OPTION_MAX_PATH], problem[OPTION_MAX_PATH + 64];
	text_show(key, len, shown);
	shown[strlen(shown) - 1] = '\0'; /* a path has no quotes */
	show_path(p, shown + 1, path);
	const char *near = option_suggest(p->prefix, key, len, meant);
	if (!near)
		near = option_elsewhere(key, len, meant);
	snprintf(problem, sizeof problem, near ? "unknown key (did you mean %s?)" : "unknown key", near);
	return fail_at(p, path, ERR_INVALID, problem);
}

static enum err_code on_key(struct pass *p, struct load_level *f, const yaml_event_t *e)
{
	if (e->type != YAML_SCALAR_EVENT)
		return fail_at(p, "yaml", ERR_INVALID, "a key must be a word");
	const char *key = (const char *)e->data.scalar.value;
	struct option_child child = option_child(p->prefix, key, e->data.scalar.length);
	if (child.kind == OPTION_KIND_NONE)
		return load_fail_unknown(p, key, e->data.scalar.length);
	f->child = child;
	if (f->key_line[child.first]) {
		char problem[64];
		snprintf(problem, sizeof problem, "duplicate key, first given in line %u", f->key_line[child.first]);
		return fail_next(p, problem);
	}
	f->key_line[child.first] = (unsigned)p->mark.line + 1;
	f->has_key = true;
	return ERR_OK;
}

static struct origin here(const struct pass *p)
{
	return (struct origin){
		.kind = ORIGIN_FILE, .line = (unsigned)p->mark.line + 1, .column = (unsigned)p->mark.column + 1};
}

static bool is_null_word(const yaml_event_t *e)
{
	const char *s = (const char *)e->data.scalar.value;
	return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       (strcmp(s, "~") == 0 || strcmp(s, "null") == 0 || strcmp(s, "Null") == 0 || strcmp(s, "NULL") == 0);
}

static struct raw_value *load_value_of(struct pass *p, enum option_id id)
{
	return raw_value(p->raw, id, option_is_service(id) ? p->raw->n_services - 1 : 0);
}

/* A value in a map. An empty one in place of a map or list stands for a section whose lines are all comments. */
static enum err_code on_map_scalar(struct pass *p, struct option_child child, const yaml_event_t *e)
{
	if (is_null_word(e))
		return fail_next(p, "null is no value here; leave the key out for its default");
	if (child.kind == OPTION_KIND_VALUE)
		load_value_of(p, child.first)->from = here(p);
	else if (child.kind == OPTION_KIND_SERVICES)
		p->raw->services_from = here(p);
	if (child.kind == OPTION_KIND_VALUE || e->data.scalar.length == 0)
		return ERR_OK;
	if (child.first == OPT_REDIS_PASSWORD_FILE || child.first == OPT_REDIS_SENTINEL_PASSWORD_FILE)
		return fail_next(
			p, "a password does not belong here; write {file: PATH}, {credential: NAME} or {env: NAME}");
	if (child.kind == OPTION_KIND_MAP)
		return fail_next(p, "expected a map of settings, got a single value");
	return fail_next(p, "expected a list, got a single value (write [a, b])");
}

static enum err_code on_item(struct pass *p, enum option_id list)
{
	struct raw_value *v = &p->raw->values[list];
	if (v->n_at == MAX_ITEMS)
		return fail_next(p, "the list is too long");
	if ((v->n_at & (v->n_at + 1)) == 0)
		v->at = mem_grow(v->at, (v->n_at + 1) * 2, sizeof *v->at);
	v->at[v->n_at++] = here(p);
	return ERR_OK;
}

/* No error yet: the environment may name the services. */
static void load_note_empty(struct pass *p, struct origin where)
{
	p->raw->is_empty = true;
	p->raw->services_from = where;
}

static enum err_code on_scalar(struct pass *p, const yaml_event_t *e)
{
	struct load_level *f = top(p);
	if (memchr(e->data.scalar.value, 0, e->data.scalar.length))
		return fail_next(p, "a NUL character is no part of a value");
	if (!f && e->data.scalar.length == 0) {
		load_note_empty(p, here(p));
		return ERR_OK;
	}
	if (!f)
		return fail_next(p, "expected a map of settings");
	if (f->kind == OPTION_KIND_SERVICES)
		return fail_next(p, "expected a map of settings, got a single value (write - name: ...)");
	return f->kind == OPTION_KIND_LIST ? on_item(p, f->list) : on_map_scalar(p, f->child, e);
}

/* Enters a map or list; `row` names it by the first of its rows. */
static void push(struct pass *p, enum option_kind kind, enum option_id row, const char *name)
{
	struct load_level *f = &p->stack[p->depth++];
	memset(f, 0, sizeof *f);
	f->kind = kind;
	f->list = row;
	strncat(p->prefix, name, sizeof p->prefix - strlen(p->prefix) - 1);
	f->prefix_len = strlen(p->prefix);
}

static enum err_code on_map(struct pass *p)
{
	struct load_level *f = top(p);
	if (p->depth == MAX_DEPTH)
		return fail_next(p, "nested too deep");
	if (!f) {
		push(p, OPTION_KIND_MAP, N_OPTIONS, "");
		return ERR_OK;
	}
	if (f->kind == OPTION_KIND_SERVICES) {
		if (p->raw->n_services == OPTION_MAX_SERVICES)
			return fail_next(p, "too many services, 256 are allowed");
		raw_need_services(p->raw, p->raw->n_services + 1, here(p));
		push(p, OPTION_KIND_MAP, N_OPTIONS, "services[].");
		return ERR_OK;
	}
	if (f->kind == OPTION_KIND_LIST || f->child.kind == OPTION_KIND_VALUE)
		return fail_next(p, "expected a single value, got a map");
	if (f->child.kind != OPTION_KIND_MAP)
		return fail_next(p, "expected a list, got a map");
	const char *rest = options[f->child.first].path + f->prefix_len;
	char name[OPTION_MAX_PATH] = "";
	memcpy(name, rest, strcspn(rest, ".") + 1);
	push(p, OPTION_KIND_MAP, N_OPTIONS, name);
	return ERR_OK;
}

static enum err_code on_list(struct pass *p)
{
	struct load_level *f = top(p);
	if (!f)
		return fail_next(p, "expected a map of settings, got a list");
	if (f->kind == OPTION_KIND_SERVICES || (f->kind == OPTION_KIND_MAP && f->child.kind == OPTION_KIND_MAP))
		return fail_next(p, "expected a map of settings, got a list");
	if (f->kind == OPTION_KIND_LIST || f->child.kind == OPTION_KIND_VALUE)
		return fail_next(p, "expected a single value, got a list");
	if (f->child.kind == OPTION_KIND_SERVICES)
		p->raw->services_from = here(p);
	else
		p->raw->values[f->child.first].from = here(p);
	push(p, f->child.kind, f->child.first, "");
	return ERR_OK;
}

/* The value of the pending key is complete. */
static void value_done(struct pass *p)
{
	if (top(p))
		top(p)->has_key = false;
}

static void pop(struct pass *p)
{
	p->depth--;
	p->prefix[top(p) ? top(p)->prefix_len : 0] = '\0';
	value_done(p);
}

static enum err_code refuse_extras(struct pass *p, const yaml_event_t *e)
{
	const yaml_char_t *anchor = NULL, *tag = NULL;
	if (e->type == YAML_ALIAS_EVENT)
		return fail_at(p, "yaml", ERR_INVALID, "aliases are not supported");
	if (e->type == YAML_SCALAR_EVENT) {
		anchor = e->data.scalar.anchor;
		tag = e->data.scalar.tag;
	} else if (e->type == YAML_MAPPING_START_EVENT) {
		anchor = e->data.mapping_start.anchor;
		tag = e->data.mapping_start.tag;
	} else if (e->type == YAML_SEQUENCE_START_EVENT) {
		anchor = e->data.sequence_start.anchor;
		tag = e->data.sequence_start.tag;
	}
	if (anchor)
		return fail_at(p, "yaml", ERR_INVALID, "anchors are not supported");
	return tag ? fail_at(p, "yaml", ERR_INVALID, "tags are not supported") : ERR_OK;
}

static enum err_code on_value(struct pass *p, const yaml_event_t *e)
{
	enum err_code rc = refuse_extras(p, e);
	if (rc != ERR_OK)
		return rc;
	struct load_level *f = top(p);
	if (f && f->kind == OPTION_KIND_MAP && !f->has_key)
		return on_key(p, f, e);
	if (e->type == YAML_MAPPING_START_EVENT)
		return on_map(p);
	if (e->type == YAML_SEQUENCE_START_EVENT)
		return on_list(p);
	rc = on_scalar(p, e);
	value_done(p);
	return rc;
}

static enum err_code load_on_event(struct pass *p, const yaml_event_t *e)
{
	switch (e->type) {
	case YAML_DOCUMENT_START_EVENT:
		if (p->has_document)
			return fail_at(p, "yaml", ERR_INVALID, "a second document begins here; one is allowed");
		p->has_document = true;
		return ERR_OK;
	case YAML_STREAM_END_EVENT:
		if (!p->has_document)
			load_note_empty(p, (struct origin){.kind = ORIGIN_FILE, .line = 1, .column = 1});
		return ERR_OK;
	case YAML_MAPPING_END_EVENT:
	case YAML_SEQUENCE_END_EVENT:
		pop(p);
		return ERR_OK;
	case YAML_ALIAS_EVENT:
	case YAML_SCALAR_EVENT:
	case YAML_MAPPING_START_EVENT:
	case YAML_SEQUENCE_START_EVENT:
		return on_value(p, e);
	case YAML_NO_EVENT:
	case YAML_STREAM_START_EVENT:
	case YAML_DOCUMENT_END_EVENT:
		break;
	}
	return ERR_OK;
}

/* The byte at the mark; 0: past the end. Columns count characters. */
static char byte_at(const struct pass *p)
{
	const char *at = p->bytes, *end = p->bytes + p->len;
	for (size_t i = 0; i < p->mark.line && at; i++) {
		at = memchr(at, '\n', (size_t)(end - at));
		at = at ? at + 1 : NULL;
	}
	for (size_t i = 0; at && at < end; at++) {
		bool is_start = ((unsigned char)*at & 0xc0) != 0x80;
		if (is_start && i++ == p->mark.column)
			return *at;
	}
	return 0;
}

static enum err_code syntax_error(struct pass *p, const yaml_parser_t *parser)
{
	if (parser->error == YAML_MEMORY_ERROR)
		mem_exhausted();
	p->mark = parser->problem_mark;
	if (parser->error == YAML_READER_ERROR) { /* it has only an offset */
		unsigned line, column;
		text_position(
			p->bytes, parser->problem_offset < p->len ? parser->problem_offset : p->len, &line, &column);
		p->mark.line = line - 1;
		p->mark.column = column - 1;
	}
	if (parser->error == YAML_SCANNER_ERROR && byte_at(p) == '\t')
		return fail_at(p, "yaml", ERR_INVALID, "a tab; YAML is indented with spaces");
	return fail_at(p, "yaml", ERR_INVALID, parser->problem ? parser->problem : "syntax error");
}

enum err_code load_structure(struct raw *raw, const char *bytes, size_t len, struct err *err)
{
	struct pass *p = mem_alloc(sizeof *p);
	*p = (struct pass){.raw = raw, .err = err, .bytes = bytes, .len = len};
	yaml_parser_t parser;
	enum err_code rc = ERR_OK;
	if (!yaml_parser_initialize(&parser)) /* it fails for nothing else */
		mem_exhausted();
	yaml_parser_set_input_string(&parser, (const unsigned char *)bytes, len);
	for (bool at_end = false; rc == ERR_OK && !at_end;) {
		yaml_event_t e;
		if (!yaml_parser_parse(&parser, &e)) {
			rc = syntax_error(p, &parser);
			break;
		}
		p->mark = e.start_mark;
		rc = load_on_event(p, &e);
		at_end = e.type == YAML_STREAM_END_EVENT;
		yaml_event_delete(&e);
	}
	yaml_parser_delete(&parser);
	mem_free(p);
	return rc;
}
