/* dump - --dump-config and --print-defaults: settings as text. */
#include "config/config.h"
#include <string.h>
#include "base/mem.h"
#include "config/raw.h"
#include "config/value.h"

/* Both outputs walk the table in its order; a line that opens a map is written when the path first enters it. */
struct writer {
	struct buf *out;
	const struct config *config; /* NULL = the defaults */
	const char *last;            /* path of the row before */
};

static void indent(struct buf *out, const char *path, const char *until)
{
	for (; path < until; path++) {
		if (*path == '.' || *path == '[')
			buf_str(out, "  ");
	}
}

/* Writes "redis:", "  tls:" … for the maps of path that the row before was not in. */
static void open_maps(struct writer *w, const char *path)
{
	size_t common = 0;
	for (size_t i = 0; path[i] && path[i] == w->last[i]; i++) {
		if (path[i] == '.')
			common = i + 1;
	}
	const char *rest = path + common;
	for (const char *dot = strchr(rest, '.'); dot; rest = dot + 1, dot = strchr(rest, '.')) {
		indent(w->out, path, rest);
		buf_add(w->out, rest, strcspn(rest, ".["));
		buf_str(w->out, ":\n");
	}
	w->last = path;
}

static const char *last_key(const char *path)
{
	const char *dot = strrchr(path, '.');
	return dot ? dot + 1 : path;
}

static void write_key(struct writer *w, enum option_id id)
{
	const char *path = options[id].path, *key = last_key(path);
	if (id == OPT_SERVICE_NAME)
		buf_str(w->out, "  - ");
	else
		indent(w->out, path, key);
	buf_printf(w->out, "%s: ", key);
}

/* ---- effective values */

static const void *dump_base_of(const struct config *c, enum option_id id, size_t service)
{
	return option_is_service(id) ? (const void *)&c->services[service] : (const void *)c;
}

/* The effective value is not what was written, or not the default: it was worked out from other settings. */
static bool is_derived(const struct config *c, enum option_id id, size_t service)
{
	const struct option *o = &options[id];
	const struct raw_value *v = raw_value_const(c->raw, id, service);
	const char *written = v->text ? v->text : o->initial;
	const void *field = value_field_const(o, dump_base_of(c, id, service));
	if (o->type == OPTION_STRING)
		return !*written && **(char *const *)field;
	if (o->type != OPTION_DURATION)
		return false;
	struct config scratch;
	struct err unused;
	return value_store(o, written, &scratch, &unused) == ERR_OK &&
	       *(int64_t *)value_field(o, &scratch) != *(const int64_t *)field;
}

static void write_origin(struct writer *w, enum option_id id, size_t service)
{
	const struct raw *r = w->config->raw;
	bool derived = is_derived(w->config, id, service);
	bool is_found_id = id == OPT_NODE_ID && derived;
	const struct origin *from = is_found_id ? &r->node_id_from : &raw_value_const(r, id, service)->from;
	buf_str(w->out, "  # ");
	if (from->kind == ORIGIN_FILE)
		buf_printf(w->out, "%s:%u", r->name, from->line);
	else if (from->kind == ORIGIN_ENV)
		buf_printf(w->out, "env %s", from->env);
	else
		buf_str(w->out, is_found_id ? "default, the host name" : "default");
	if (derived && !is_found_id)
		buf_str(w->out, ", derived");
}

/* True when this default yields to short leases. Written out, it would count as the user's and be refused. */
static bool is_yielding(const struct config *c, enum option_id id)
{
	bool yields = false;
	for (size_t i = 0; i < c->n_services; i++)
		yields |= c->services[i].command_timeout_ms < c->redis.command_timeout_ms;
	return id == OPT_REDIS_COMMAND_TIMEOUT && yields;
}

static void dump_row(struct writer *w, enum option_id id, size_t service)
{
	const struct config *c = w->config;
	open_maps(w, options[id].path);
	if (is_yielding(c, id))
		buf_str(w->out, "# ");
	write_key(w, id);
	value_format(&options[id], dump_base_of(c, id, service), w->out);
	write_origin(w, id, service);
	if (is_yielding(c, id))
		buf_str(w->out, ", less for services with short leases");
	if (options[id].type == OPTION_SECRET && **(char *const *)value_field_const(&options[id], c))
		buf_str(w->out, ", password ***");
	buf_str(w->out, "\n");
}

void config_dump(const struct config *c, struct buf *out)
{
	struct writer w = {.out = out, .config = c, .last = ""};
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		if (!option_is_service(id)) {
			dump_row(&w, id, 0);
			continue;
		}
		for (size_t i = 0; id == OPT_SERVICE_NAME && i < c->n_services; i++) {
			for (enum option_id row = id; option_is_service(row); row++)
				dump_row(&w, row, i);
			w.last = options[OPT_SERVICE_NAME].path;
		}
	}
}

/* ---- defaults */

static void default_row(struct writer *w, enum option_id id, const void *defaults)
{
	const struct option *o = &options[id];
	const char *key = last_key(o->path);
	open_maps(w, o->path);
	indent(w->out, o->path, key);
	buf_printf(w->out, "# %s\n", o->help);
	indent(w->out, o->path, key);
	buf_printf(w->out, "# %s: ", option_type_name(o));
	option_range(o, w->out);
	buf_printf(w->out, " [%s]\n", option_class_name(o));
	write_key(w, id);
	value_format(o, defaults, w->out);
	buf_str(w->out, "\n");
}

void config_print_defaults(struct buf *out)
{
	struct writer w = {.out = out, .last = ""};
	buf_str(out, "# Every setting of sluiced with its default; see sluiced.yaml(5).\n"
		     "# [live] applies on reload, [restart] when the daemon starts again.\n");
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		struct config global = {0};
		struct config_service service = {0};
		void *base = option_is_service(id) ? (void *)&service : (void *)&global;
		value_store_default(&options[id], base);
		if (id == OPT_SERVICE_NAME) { /* required, so it has no default: something that loads */
			value_release(&options[id], base);
			service.name = mem_dup("orders", 6);
		}
		default_row(&w, id, base);
		value_release(&options[id], base);
	}
}
