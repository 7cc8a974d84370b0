/* command_key - names of keys, and the text forms of locks, entry ids and tokens. */
#include "codec/command.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static const char lock_sep[] = COMMAND_LOCK_SEP;
enum { SEP_LEN = sizeof lock_sep - 1, N_SLOTS = 16384 };

/* CRC16 XMODEM, half a byte a step. */
static uint16_t crc16(uint16_t crc, const char *s, size_t len)
{
	static const uint16_t step[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7, 0x8108,
		0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
	for (size_t i = 0; i < len; i++) {
		const uint8_t c = (uint8_t)s[i];
		crc = (uint16_t)(crc << 4 ^ step[(crc >> 12 ^ c >> 4) & 15]);
		crc = (uint16_t)(crc << 4 ^ step[(crc >> 12 ^ c) & 15]);
	}
	return crc;
}

/* What stands between the first { and the first } after it; p NULL when there is none or nothing between. */
static struct slice hash_tag(const char *key, size_t len)
{
	const struct slice none = {NULL, 0};
	const char *open = len ? memchr(key, '{', len) : NULL;
	if (!open)
		return none;
	open++;
	const char *close = memchr(open, '}', len - (size_t)(open - key));
	if (!close || close == open)
		return none;
	return (struct slice){open, (size_t)(close - open)};
}

bool command_has_tag(const char *key, size_t len)
{
	return hash_tag(key, len).p != NULL;
}

uint16_t command_slot(const char *key, size_t len)
{
	const struct slice tag = hash_tag(key, len);
	const uint16_t crc = tag.p ? crc16(0, tag.p, tag.len) : crc16(0, key, len);
	return crc % N_SLOTS;
}

uint16_t command_lock_slot(const char *stream, size_t len, struct entry_id id)
{
	const struct slice tag = hash_tag(stream, len); /* the rest of the key has no braces */
	if (tag.p)
		return crc16(0, tag.p, tag.len) % N_SLOTS;
	char text[COMMAND_ID_CAP];
	const int n = command_id_format(text, id);
	uint16_t crc = crc16(0, stream, len);
	crc = crc16(crc, lock_sep, SEP_LEN);
	return crc16(crc, text, (size_t)n) % N_SLOTS;
}

bool command_lock_parse(const char *key, size_t len, struct slice *stream, struct entry_id *id)
{
	/* The last separator counts: a stream's name may hold one. An id is short, so the search is too. */
	for (size_t n = 3; n < COMMAND_ID_CAP && n + SEP_LEN < len; n++) {
		const char *sep = key + len - n - SEP_LEN;
		if (memcmp(sep, lock_sep, SEP_LEN) != 0)
			continue;
		if (!command_id_parse(sep + SEP_LEN, n, id))
			return false;
		*stream = (struct slice){key, (size_t)(sep - key)};
		return true;
	}
	return false;
}

char *command_trial_key(const char *base)
{
	const bool tagged = command_has_tag(base, strlen(base));
	return mem_printf(
		tagged ? "sluiced-doctor" COMMAND_LOCK_SEP "%s" : "sluiced-doctor" COMMAND_LOCK_SEP "{%s}", base);
}

void command_names_init(struct command_names *n, const char *service, const char *dlq, enum same_stream same_stream,
	int64_t dlq_max_len, const char *group_start)
{
	char *lbs = mem_printf("%s-input", service);
	const bool tagged = command_has_tag(lbs, strlen(lbs));
	char *dead = *dlq ? mem_dup(dlq, strlen(dlq)) : mem_printf("%s-input-dlq", service);
	const uint16_t lbs_slot = command_slot(lbs, strlen(lbs)), dlq_slot = command_slot(dead, strlen(dead));
	*n = (struct command_names){
		.lbs = lbs,
		.group = mem_printf("%s-group", service),
		.registry = mem_printf(tagged ? "%s-active" : "{%s}-active", lbs),
		.delayed = mem_printf(tagged ? "%s-delayed" : "{%s}-delayed", lbs),
		.delayed_data = mem_printf(tagged ? "%s-delayed-data" : "{%s}-delayed-data", lbs),
		.parked = mem_printf(tagged ? "%s-parked" : "{%s}-parked", lbs),
		.left = mem_printf(tagged ? "%s-left" : "{%s}-left", lbs),
		.fleet = mem_printf(tagged ? "%s-fleet" : "{%s}-fleet", lbs),
		.dlq = dead,
		.lbs_slot = lbs_slot,
		.dlq_slot = dlq_slot,
		.dlq_same_slot = lbs_slot == dlq_slot,
		.same_stream = same_stream,
		.dlq_max_len = dlq_max_len,
		.group_start = mem_dup(group_start, strlen(group_start)),
	};
}

void command_names_entries(struct command_names *n, const char *service, const char *dlq, int64_t dlq_max_len)
{
	mem_free(n->entries_dlq);
	n->entries_dlq = *dlq ? mem_dup(dlq, strlen(dlq)) : mem_printf("%s-entries-dlq", service);
	n->entries_dlq_max_len = dlq_max_len;
}

void command_names_fini(struct command_names *n)
{
	mem_free(n->lbs);
	mem_free(n->group);
	mem_free(n->registry);
	mem_free(n->delayed);
	mem_free(n->delayed_data);
	mem_free(n->parked);
	mem_free(n->left);
	mem_free(n->fleet);
	mem_free(n->dlq);
	mem_free(n->group_start);
	mem_free(n->entries_dlq);
	*n = (struct command_names){0};
}
