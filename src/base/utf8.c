#include "base/utf8.h"

#include <assert.h>
#include <stdbool.h>

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
