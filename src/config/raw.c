#include "config/raw.h"
#include "base/mem.h"
#include "config/text.h"
#include "config/value.h"
#include <stdio.h>
#include <string.h>

enum { NAME_SHOWN = 200 };

/* Message lines have a limit, and the problem comes last: of a very long name only the end is shown. */
static char *shown_name(const char *name)
{
	size_t len = strlen(name);
	char *out = len > NAME_SHOWN ? mem_printf("...%s", name + len - NAME_SHOWN) : mem_dup(name, len);
	if (text_is_plain(out))
		return out;
	for (unsigned char *p = (unsigned char *)out; *p; p++) {
		if (*p < 0x20 || *p >= 0x7f)
			*p = '?';
	}
	return out;
}

struct raw *raw_new(const char *name)
{
	struct raw *r = mem_alloc(sizeof *r);
	r->name = shown_name(name);
	return r;
}

void raw_clear(struct raw_value *v)
{
	mem_free(v->from.env);
	mem_free(v->text);
	value_free_items(v->items, v->n_items);
	mem_free(v->at);
	*v = (struct raw_value){0};
}

void raw_free(struct raw *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < N_OPTIONS; i++)
		raw_clear(&r->values[i]);
	for (size_t s = 0; s < r->n_services; s++) {
		for (size_t i = 0; i < N_SERVICE_OPTIONS; i++)
			raw_clear(&r->services[s]->values[i]);
		mem_free(r->services[s]->from.env);
		mem_free(r->services[s]);
	}
	mem_free(r->services);
	mem_free(r->services_from.env);
	mem_free(r->node_id_from.env);
	mem_free(r->name);
	mem_free(r);
}

void raw_need_services(struct raw *r, size_t n, struct origin from)
{
	while (r->n_services < n) {
		if ((r->n_services & (r->n_services + 1)) == 0)
			r->services = mem_grow(r->services, (r->n_services + 1) * 2, sizeof(struct raw_service *));
		struct raw_service *s = mem_alloc(sizeof *s);
		s->from = from;
		s->from.env = from.env ? mem_dup(from.env, strlen(from.env)) : NULL;
		r->services[r->n_services++] = s;
	}
}

struct raw_value *raw_value(struct raw *r, enum option_id id, size_t service)
{
	return option_is_service(id) ? &r->services[service]->values[id - OPT_SERVICE_NAME] : &r->values[id];
}

const struct raw_value *raw_value_const(const struct raw *r, enum option_id id, size_t service)
{
	return option_is_service(id) ? &r->services[service]->values[id - OPT_SERVICE_NAME] : &r->values[id];
}

bool raw_is_set(const struct raw *r, enum option_id id, size_t service)
{
	return raw_value_const(r, id, service)->from.kind != ORIGIN_DEFAULT;
}

void raw_set_env(struct raw_value *v, enum option_id id, const char *name, const char *text)
{
	raw_clear(v);
	v->from = (struct origin){.kind = ORIGIN_ENV, .env = mem_dup(name, strlen(name))};
	if (option_is_list(id))
		v->n_items = value_split(text, &v->items);
	else
		v->text = mem_dup(text, strlen(text));
}

void raw_path(const struct place *p, struct buf *out)
{
	const char *path = options[p->id].path;
	if (option_is_service(p->id)) {
		buf_printf(out, "services[%zu]", p->service);
		path += strlen("services[]");
	}
	buf_str(out, path);
	if (p->item != RAW_WHOLE)
		buf_printf(out, "[%zu]", p->item);
}

/* Where the place was written; for what nobody wrote, where it would have been. */
static struct origin origin_of(const struct raw *r, const struct place *p)
{
	const struct raw_value *v = raw_value_const(r, p->id, p->service);
	if (v->from.kind == ORIGIN_FILE && p->item < v->n_at)
		return v->at[p->item];
	if (v->from.kind == ORIGIN_DEFAULT && option_is_service(p->id))
		return r->services[p->service]->from;
	if (v->from.kind == ORIGIN_DEFAULT)
		return (struct origin){.kind = ORIGIN_FILE, .line = 1, .column = 1};
	return v->from;
}

enum err_code raw_blame(const struct raw *r, const struct place *p, struct err *err)
{
	struct buf path;
	buf_init(&path);
	raw_path(p, &path);
	struct origin from = origin_of(r, p);
	enum err_code code;
	if (from.kind == ORIGIN_ENV)
		code = err_prefix(err, "environment: %.120s: %s", from.env, path.data);
	else
		code = err_prefix(err, "%s:%u:%u: %s", r->name, from.line, from.column, path.data);
	buf_fini(&path);
	return code;
}

enum err_code raw_fail(
	const struct raw *r, const struct place *p, struct err *err, enum err_code code, const char *fmt, ...)
{
	char problem[sizeof err->text];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(problem, sizeof problem, fmt, ap);
	va_end(ap);
	err_set(err, code, "%s", problem);
	raw_blame(r, p, err);
	return code;
}
