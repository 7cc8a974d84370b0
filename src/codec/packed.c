#include "codec/packed.h"

#include <stdio.h>
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

uint32_t packed_tries(const struct packed_entry *e)
{
	char words[100]; /* of core/coord/entry_feed */
	unsigned tries = 0;
	int end = 0;
	if (e->why.len != 7 || memcmp(e->why.p, "release", 7) != 0)
		return 0;
	snprintf(words, sizeof words, "%.*s", (int)(e->reason.len < sizeof words ? e->reason.len : sizeof words - 1),
		e->reason.len ? e->reason.p : "");
	return sscanf(words, "entry %*20[0-9]-%*20[0-9] failed %9u of %*9u times%n", &tries, &end) == 1 && end ? tries
													       : 0;
}

void packed_fini(struct packed *p)
{
	mem_free(p->fields);
	*p = (struct packed){0};
}
