#include "core/coord/slot_vote.h"

#include "base/fnv.h"
#include "base/mem.h"
#include "core/rules.h"

#include <assert.h>
#include <string.h>

static uint64_t vote_add_text(uint64_t h, const char *text)
{
	for (; *text; text++)
		h = fnv_byte(h, *text);
	return fnv_byte(h, '\n');
}

static uint64_t vote_add_number(uint64_t h, unsigned n)
{
	return fnv_byte(fnv_byte(h, (char)(n & 0xff)), (char)(n >> 8));
}

static uint64_t master_of(const struct slot_range *r)
{
	if (r->node_id[0])
		return vote_add_text(FNV_START, r->node_id);
	return vote_add_number(vote_add_text(FNV_START, r->host), r->port);
}

uint64_t slot_map_of(const struct slot_range *rows, size_t n)
{
	uint64_t *owner = mem_array(SLOTS, sizeof *owner), h = FNV_START;
	for (size_t i = 0; i < n; i++)
		for (unsigned s = rows[i].from; s <= rows[i].to && s < SLOTS; s++)
			owner[s] = master_of(&rows[i]);
	for (unsigned s = 0; s < SLOTS; s++) {
		if (s && owner[s] == owner[s - 1])
			continue;
		h = vote_add_number(h, s);
		for (int shift = 0; shift < 64; shift += 16)
			h = vote_add_number(h, (unsigned)(owner[s] >> shift & 0xffff));
	}
	mem_free(owner);
	return h;
}

static int64_t highest(const struct slot_vote *t)
{
	int64_t top = t->v[0].epoch;
	for (int i = 1; i < t->n; i++)
		top = t->v[i].epoch > top ? t->v[i].epoch : top;
	return top;
}

int slot_vote_add(struct slot_vote *t, uint64_t map, int64_t epoch)
{
	assert(t->n < SLOT_VOTES_MAX);
	t->v[t->n].map = map;
	t->v[t->n++].epoch = epoch;
	const int64_t top = highest(t);
	for (int i = 0; i < t->n; i++)
		for (int k = i + 1; k < t->n && t->v[i].epoch == top; k++)
			if (t->v[k].epoch == top && t->v[k].map == t->v[i].map)
				return i;
	return SLOT_VOTE_NONE;
}

int slot_vote_end(const struct slot_vote *t)
{
	int found = SLOT_VOTE_NONE;
	if (t->n == 0)
		return SLOT_VOTE_NONE;
	const int64_t top = highest(t);
	for (int i = 0; i < t->n; i++) {
		if (t->v[i].epoch != top)
			continue;
		if (found != SLOT_VOTE_NONE)
			return SLOT_VOTE_NONE;
		found = i;
	}
	return found;
}
