#include "codec/packed.h"

#include <string.h>

#include "base/mem.h"

enum { DIGITS_MAX = 9 };

/* The next text; false: there is none, or it is not one. */
static bool packed_next(struct slice *rest, struct slice *out)
{
	size_t n = 0, at = 0;
	while (at < rest->len && at <= DIGITS_MAX && rest->p[at] >= '0' && rest->p[at] <= '9')
		n = n * 10 + (size_t)(rest->p[at++] - '0');
	if (at == 0 || at > DIGITS_MAX || at == rest->len || rest->p[at] != ':' || rest->len - at - 1 < n)
		return false;
	*out = (struct slice){rest->p + at + 1, n};
	*rest = (struct slice){rest->p + at + 1 + n, rest->len - at - 1 - n};
	return true;
}

/* Takes the count off the end of why; 0: there is none. */
static uint32_t packed_cut_tries(struct slice *why)
{
	uint32_t tries = 0, unit = 1;
	size_t at = why->len;
	for (; at && why->len - at < DIGITS_MAX && why->p[at - 1] >= '0' && why->p[at - 1] <= '9'; unit *= 10)
		tries += unit * (uint32_t)(why->p[--at] - '0');
	if (at == why->len || at < 2 || why->p[at - 1] != ' ' || why->p[at] == '0')
		return 0;
	why->len = at - 1;
	return tries;
}

bool packed_decode(struct packed *p, struct slice value, struct packed_entry *out)
{
	struct packed_entry e = {.n = 0};
	struct slice rest = value;
	if (!packed_next(&rest, &e.stream) || !packed_next(&rest, &e.why) || !packed_next(&rest, &e.reason))
		return false;
	while (rest.len) {
		if (e.n == p->cap) {
			p->cap = p->cap ? 2 * p->cap : 16;
			p->fields = mem_grow(p->fields, p->cap, sizeof *p->fields);
		}
		struct field *f = &p->fields[e.n++];
		if (!packed_next(&rest, &f->name) || !packed_next(&rest, &f->value))
			return false;
	}
	e.fields = p->fields;
	e.tries = packed_cut_tries(&e.why);
	*out = e;
	return true;
}

uint32_t packed_retries(const struct packed_entry *e)
{
	uint32_t n = 0;
	for (size_t i = 0; i < e->n; i++) {
		if (e->fields[i].name.len != 12 || memcmp(e->fields[i].name.p, "_retry_count", 12) != 0)
			continue;
		const struct slice v = e->fields[i].value;
		n = 0;
		for (size_t k = 0; k < v.len && k < 9 && v.p[k] >= '0' && v.p[k] <= '9'; k++)
			n = n * 10 + (uint32_t)(v.p[k] - '0');
	}
	return n;
}

void packed_fini(struct packed *p)
{
	mem_free(p->fields);
	*p = (struct packed){0};
}
