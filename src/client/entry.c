/* Entries as they stand in a frame: [id, [name, value, …], tries]; what is not UTF-8 as {"b64": "…"}. They are not
 * copied: all of them points into the frame's document, where base64 is decoded in its place. */
#include "client/client_p.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "core/cmd.h"

static int b64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* In its place; ends at what is no base64. Returns how many bytes it was, a NUL behind them. */
static size_t b64_decode(char *s, size_t len)
{
	uint32_t bits = 0;
	int n_bits = 0;
	size_t n = 0;
	for (size_t i = 0; i < len && b64_digit(s[i]) >= 0; i++) {
		bits = bits << 6 | (uint32_t)b64_digit(s[i]);
		n_bits += 6;
		if (n_bits >= 8) {
			n_bits -= 8;
			s[n++] = (char)(bits >> n_bits & 255);
		}
	}
	if (len)
		s[n] = '\0';
	return n;
}

static struct sluice_bytes entry_bytes(yyjson_val *v)
{
	yyjson_val *b64 = yyjson_obj_get(v, "b64");
	if (yyjson_is_str(v))
		return (struct sluice_bytes){yyjson_get_str(v), yyjson_get_len(v)};
	if (!yyjson_is_str(b64))
		return (struct sluice_bytes){"", 0};
	char *own = (char *)(uintptr_t)yyjson_get_str(b64); /* the document is ours, nobody reads it twice */
	return (struct sluice_bytes){own, b64_decode(own, yyjson_get_len(b64))};
}

static void entry_fields(struct client_entries *s, yyjson_val *list)
{
	yyjson_arr_iter it = yyjson_arr_iter_with(list);
	for (yyjson_val *name, *value; (name = yyjson_arr_iter_next(&it)) && (value = yyjson_arr_iter_next(&it));) {
		if (s->n_fields == s->cap_fields) {
			s->cap_fields = s->cap_fields ? 2 * s->cap_fields : 64;
			s->fields = mem_grow(s->fields, s->cap_fields, sizeof(*s->fields));
		}
		s->fields[s->n_fields++] = (struct sluice_field){entry_bytes(name), entry_bytes(value)};
	}
}

static void entry_add(struct client_entries *s, struct client_lease *l, yyjson_val *row)
{
	struct entry_id id;
	yyjson_val *name = yyjson_arr_get(row, 0);
	if (!yyjson_is_str(name) || !command_id_parse(yyjson_get_str(name), yyjson_get_len(name), &id) ||
		entry_id_cmp(id, l->taken) <= 0)
		return;
	l->taken = id;
	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 64;
		s->list = mem_grow(s->list, s->cap, sizeof(*s->list));
	}
	const char *tries = yyjson_get_raw(yyjson_arr_get(row, 2));
	size_t before = s->n_fields;
	entry_fields(s, yyjson_arr_get(row, 1));
	s->list[s->n++] = (struct sluice_entry){.id = yyjson_get_str(name),
		.tries = tries ? strtoll(tries, NULL, 10) : 0,
		.n_fields = s->n_fields - before};
}

void client_entries_take(struct sluice_worker *w, struct client_lease *l, yyjson_val *list)
{
	struct client_entries *s = &w->said.entries;
	s->n = s->n_fields = 0;
	size_t i, n;
	yyjson_val *row;
	yyjson_arr_foreach(list, i, n, row)
	{
		entry_add(s, l, row);
	}
	const struct sluice_field *at = s->fields; /* only now: they have moved while they grew */
	for (size_t k = 0; k < s->n; at += s->list[k++].n_fields)
		s->list[k].fields = at;
}

void client_given_add(struct buf *given, const struct sluice_entry *entries, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct entry_id id;
		if (command_id_parse(entries[i].id, strlen(entries[i].id), &id))
			buf_add(given, &id, sizeof(id));
	}
}

bool client_given_first(const struct buf *given, struct entry_id *id)
{
	if (given->len < sizeof(*id))
		return false;
	memcpy(id, given->data, sizeof(*id));
	return true;
}

void client_given_done(struct buf *given, const char *text)
{
	struct entry_id done, id;
	if (!command_id_parse(text, strlen(text), &done))
		return;
	while (client_given_first(given, &id) && entry_id_cmp(id, done) <= 0)
		buf_consume(given, sizeof(id));
}

void client_entries_fini(struct client_entries *s)
{
	mem_free(s->list);
	mem_free(s->fields);
}

struct sluice_bytes sluice_entry_get(const struct sluice_entry *entry, const char *name)
{
	size_t len = strlen(name);
	for (size_t i = entry->n_fields; i-- > 0;) {
		const struct sluice_field *f = &entry->fields[i];
		if (f->name.len == len && memcmp(f->name.data, name, len) == 0)
			return f->value;
	}
	return (struct sluice_bytes){NULL, 0};
}
