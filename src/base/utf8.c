#include "base/utf8.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Sixteen bytes at once: the compiler makes one instruction of each operator where the machine has it. A comparison
 * gives bytes of all ones where it holds. Signed, so that what is not ASCII is below zero. */
typedef signed char sixteen __attribute__((vector_size(16)));
enum { BLOCK = sizeof(sixteen) };

static sixteen block_at(const char *s)
{
	sixteen v;
	memcpy(&v, s, sizeof v);
	return v;
}

static bool has_any(sixteen hits)
{
	uint64_t halves[2];
	memcpy(halves, &hits, sizeof halves);
	return (halves[0] | halves[1]) != 0;
}

static bool is_ascii_block(const char *s)
{
	return !has_any(block_at(s) < 0);
}

size_t utf8_ascii(const char *s, size_t len)
{
	size_t i = 0;
	while (len - i >= BLOCK && is_ascii_block(s + i))
		i += BLOCK;
	if (i > 0 && len - i < BLOCK && is_ascii_block(s + len - BLOCK)) /* the rest, with some before it */
		return len;
	while (i < len && (unsigned char)s[i] < 0x80)
		i++;
	return i;
}

static bool is_json_plain_block(const char *s)
{
	const sixteen v = block_at(s);
	return !has_any((v < ' ') | (v == '"') | (v == '\\'));
}

size_t utf8_json_plain(const char *s, size_t len)
{
	size_t i = 0;
	while (len - i >= BLOCK && is_json_plain_block(s + i))
		i += BLOCK;
	if (i > 0 && len - i < BLOCK && is_json_plain_block(s + len - BLOCK))
		return len;
	while (i < len && (signed char)s[i] >= ' ' && s[i] != '"' && s[i] != '\\')
		i++;
	return i;
}

static bool is_tail(unsigned char c)
{
	return (c & 0xC0) == 0x80;
}

static size_t utf8_len_of_three(const unsigned char *s)
{
	if (!is_tail(s[1]) || !is_tail(s[2]))
		return 0;
	bool is_overlong = s[0] == 0xE0 && s[1] < 0xA0, is_surrogate = s[0] == 0xED && s[1] > 0x9F;
	return is_overlong || is_surrogate ? 0 : 3;
}

static size_t utf8_len_of_four(const unsigned char *s)
{
	if (!is_tail(s[1]) || !is_tail(s[2]) || !is_tail(s[3]))
		return 0;
	bool is_overlong = s[0] == 0xF0 && s[1] < 0x90, is_past_the_last = s[0] == 0xF4 && s[1] > 0x8F;
	return is_overlong || is_past_the_last ? 0 : 4;
}

size_t utf8_len(const char *bytes, size_t len)
{
	assert(len > 0);
	const unsigned char *s = (const unsigned char *)bytes;
	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xC2 && s[0] <= 0xDF)
		return len >= 2 && is_tail(s[1]) ? 2 : 0;
	if ((s[0] & 0xF0) == 0xE0)
		return len >= 3 ? utf8_len_of_three(s) : 0;
	if (s[0] >= 0xF0 && s[0] <= 0xF4)
		return len >= 4 ? utf8_len_of_four(s) : 0;
	return 0;
}

size_t utf8_control(const char *s)
{
	const unsigned char *u = (const void *)s;
	if (*u < ' ' || *u == 0x7F)
		return 1;
	return *u == 0xC2 && u[1] >= 0x80 && u[1] < 0xA0 ? 2 : 0;
}
