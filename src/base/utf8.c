#include "base/utf8.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Eight bytes at once: HIGHS has a bit where a byte is what was asked for; above a hit there may be false ones. */
#define ONES (UINT64_MAX / 0xFF)
#define HIGHS (ONES * 0x80)

static uint64_t below(uint64_t eight, unsigned n)
{
	return (eight - ONES * n) & ~eight & HIGHS;
}

static uint64_t equal_to(uint64_t eight, unsigned char c)
{
	return below(eight ^ (ONES * c), 1);
}

static uint64_t eight_at(const char *s)
{
	uint64_t eight;
	memcpy(&eight, s, sizeof eight);
	return eight;
}

size_t utf8_ascii(const char *s, size_t len)
{
	size_t i = 0;
	while (len - i >= 8 && !(eight_at(s + i) & HIGHS))
		i += 8;
	bool is_rest_short = len >= 8 && len - i < 8; /* it is looked at with some before it */
	return is_rest_short && !(eight_at(s + len - 8) & HIGHS) ? len : i;
}

static bool is_json_plain(uint64_t eight)
{
	return !((eight & HIGHS) | below(eight, ' ') | equal_to(eight, '"') | equal_to(eight, '\\'));
}

size_t utf8_json_plain(const char *s, size_t len)
{
	size_t i = 0;
	while (len - i >= 8 && is_json_plain(eight_at(s + i)))
		i += 8;
	bool is_rest_short = len >= 8 && len - i < 8;
	return is_rest_short && is_json_plain(eight_at(s + len - 8)) ? len : i;
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
