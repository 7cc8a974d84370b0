/* load_values - the second pass: libcyaml reads every value as a string.
 * A map is an array of slots: one for each option (only its own are used), then one for each map inside it. */
#include "config/load_p.h"
#include <assert.h>
#include <string.h>
#include <cyaml/cyaml.h>
#include "base/mem.h"

struct slot {
	void *data; /* string, array of strings, or array of slots; NULL = absent */
	uint64_t n; /* items of an array of strings or services */
};

enum { MAX_MAPS = 24, N_SLOTS = N_OPTIONS + MAX_MAPS };

struct schema {
	char *prefix[MAX_MAPS]; /* "", "redis.", …, "services[]." */
	cyaml_schema_field_t *fields[MAX_MAPS];
	size_t n_maps;
	cyaml_schema_value_t item, service, document;
};

static size_t map_index(const struct schema *s, const char *prefix, size_t len)
{
	for (size_t i = 0; i < s->n_maps; i++) {
		if (strlen(s->prefix[i]) == len && memcmp(s->prefix[i], prefix, len) == 0)
			return i;
	}
	return MAX_MAPS;
}

/* Every prefix of the table that ends in a dot, and the document's "". */
static void find_maps(struct schema *s)
{
	s->prefix[s->n_maps++] = mem_dup("", 0);
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		const char *path = options[id].path;
		for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.')) {
			size_t len = (size_t)(dot - path) + 1;
			if (map_index(s, path, len) < MAX_MAPS)
				continue;
			assert(s->n_maps < MAX_MAPS);
			s->prefix[s->n_maps++] = mem_dup(path, len);
		}
	}
}

static cyaml_schema_field_t field(const char *key, size_t len, size_t slot, cyaml_type_e type)
{
	return (cyaml_schema_field_t){
		.key = mem_dup(key, len),
		.data_offset = (uint32_t)(slot * sizeof(struct slot) + offsetof(struct slot, data)),
		.count_offset = (uint32_t)(slot * sizeof(struct slot) + offsetof(struct slot, n)),
		.count_size = sizeof(uint64_t),
		.value = {.type = type, .flags = CYAML_FLAG_OPTIONAL},
	};
}

static void string_value(cyaml_schema_value_t *v)
{
	v->flags |= CYAML_FLAG_POINTER;
	v->data_size = 1;
	v->string.max = CYAML_UNLIMITED;
}

static void sequence_value(cyaml_schema_value_t *v, const cyaml_schema_value_t *entry)
{
	v->flags |= CYAML_FLAG_POINTER_NULL;
	v->data_size = sizeof(void *);
	v->sequence.entry = entry;
	v->sequence.max = CYAML_UNLIMITED;
}

static void map_value(cyaml_schema_value_t *v, const cyaml_schema_field_t *fields, enum cyaml_flag how)
{
	v->type = CYAML_MAPPING;
	v->flags |= how;
	v->data_size = N_SLOTS * sizeof(struct slot);
	v->mapping.fields = fields;
}

/* The field for the child that row `id` lies in or is. */
static cyaml_schema_field_t child_field(struct schema *s, enum option_id id, const char *rest)
{
	const char *path = options[id].path;
	size_t len = strcspn(rest, ".[");
	cyaml_schema_field_t f;
	if (rest[len] == '.') {
		size_t inner = map_index(s, path, (size_t)(rest - path) + len + 1);
		f = field(rest, len, N_OPTIONS + inner, CYAML_MAPPING);
		map_value(&f.value, s->fields[inner], CYAML_FLAG_POINTER_NULL);
	} else if (rest[len] == '[') {
		f = field(rest, len, id, CYAML_SEQUENCE);
		sequence_value(&f.value, &s->service);
	} else if (option_is_list(id)) {
		f = field(rest, len, id, CYAML_SEQUENCE);
		sequence_value(&f.value, &s->item);
	} else {
		f = field(rest, len, id, CYAML_STRING);
		string_value(&f.value);
	}
	return f;
}

static void fill_map(struct schema *s, size_t map)
{
	size_t skip = strlen(s->prefix[map]), n = 0;
	const char *last = "";
	size_t last_len = 0;
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		const char *path = options[id].path, *rest = path + skip;
		if (strncmp(path, s->prefix[map], skip) != 0)
			continue;
		size_t len = strcspn(rest, ".[");
		if (len != last_len || memcmp(rest, last, len) != 0) /* rows of one map stand together */
			s->fields[map][n++] = child_field(s, id, rest);
		last = rest;
		last_len = len;
	}
}

static void schema_init(struct schema *s)
{
	memset(s, 0, sizeof *s);
	find_maps(s);
	for (size_t i = 0; i < s->n_maps; i++)
		s->fields[i] = mem_array(N_SLOTS, sizeof *s->fields[i]);
	s->item.type = CYAML_STRING;
	string_value(&s->item);
	map_value(&s->document, s->fields[0], CYAML_FLAG_POINTER);
	map_value(&s->service, s->fields[map_index(s, "services[].", 11)], CYAML_FLAG_POINTER);
	for (size_t i = 0; i < s->n_maps; i++)
		fill_map(s, i);
}

static void schema_fini(struct schema *s)
{
	for (size_t i = 0; i < s->n_maps; i++) {
		for (cyaml_schema_field_t *f = s->fields[i]; f->key; f++)
			mem_free((void *)(uintptr_t)f->key);
		mem_free(s->fields[i]);
		mem_free(s->prefix[i]);
	}
}

/* The slot of a row, walking from `slots`, which are those of the map that ends at path + skip. NULL = absent. */
static const struct slot *find_slot(const struct schema *s, const struct slot *slots, enum option_id id, size_t skip)
{
	const char *path = options[id].path;
	for (const char *dot = strchr(path + skip, '.'); dot; dot = strchr(dot + 1, '.')) {
		slots = slots[N_OPTIONS + map_index(s, path, (size_t)(dot - path) + 1)].data;
		if (!slots)
			return NULL;
	}
	return slots[id].data ? &slots[id] : NULL;
}

/* Copies one row's text. False when the passes disagree about it. */
static bool take_value(struct raw_value *v, enum option_id id, const struct slot *slot)
{
	if ((slot != NULL) != (v->from.kind != ORIGIN_DEFAULT))
		return !slot && v->n_at == 0; /* an empty list */
	if (!slot)
		return true;
	if (!option_is_list(id)) {
		v->text = mem_dup(slot->data, strlen(slot->data));
		return true;
	}
	char **items = slot->data;
	v->items = mem_array(slot->n + 1, sizeof *v->items);
	for (; v->n_items < slot->n; v->n_items++)
		v->items[v->n_items] = mem_dup(items[v->n_items], strlen(items[v->n_items]));
	return v->n_items == v->n_at;
}

static bool take_all(struct raw *raw, const struct schema *s, const struct slot *root)
{
	const struct slot *services = &root[OPT_SERVICE_NAME];
	struct slot *const *each = services->data;
	bool agree = services->n == raw->n_services;
	for (enum option_id id = 0; agree && id < N_OPTIONS; id++) {
		if (!option_is_service(id)) {
			agree = take_value(&raw->values[id], id, find_slot(s, root, id, 0));
			continue;
		}
		for (size_t i = 0; agree && i < raw->n_services; i++)
			agree = take_value(raw_value(raw, id, i), id, find_slot(s, each[i], id, 11));
	}
	return agree;
}

static void *cyaml_memory(void *ctx, void *p, size_t size)
{
	(void)ctx;
	if (size > 0)
		return mem_grow(p, size, 1);
	mem_free(p);
	return NULL;
}

/* The first pass has found the syntax good: what libyaml still lacks is memory. */
static bool is_memory_error(cyaml_err_t got)
{
	return got == CYAML_ERR_OOM || got == CYAML_ERR_LIBYAML_PARSER_INIT || got == CYAML_ERR_LIBYAML_PARSER;
}

enum err_code load_values(struct raw *raw, const char *bytes, size_t len, struct err *err)
{
	static const cyaml_config_t cfg = {.mem_fn = cyaml_memory, .flags = CYAML_CFG_NO_ALIAS};
	struct schema s;
	schema_init(&s);
	void *root = NULL;
	enum err_code rc = ERR_OK;
	cyaml_err_t got = cyaml_load_data((const uint8_t *)bytes, len, &cfg, &s.document, &root, NULL);
	if (is_memory_error(got))
		mem_exhausted();
	if (got != CYAML_OK)
		rc = err_set(err, ERR_INVALID, "%s:1:1: yaml: %s", raw->name, cyaml_strerror(got));
	else if (!root || !take_all(raw, &s, root))
		rc = err_set(err, ERR_INVALID, "%s:1:1: yaml: cannot be read consistently", raw->name);
	cyaml_free(&cfg, &s.document, root, 0);
	schema_fini(&s);
	return rc;
}
