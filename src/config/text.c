#include "config/text.h"
#include <stdint.h>
#include <string.h>

/* Decodes one character at s (n > 0 bytes left). Returns its length, or 0 when it is not UTF-8. */
static size_t decode(const char *s, size_t n, uint32_t *out)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	const unsigned char *u = (const unsigned char *)s;
	size_t len = u[0] < 0x80             ? 1
		     : (u[0] & 0xe0) == 0xc0 ? 2
		     : (u[0] & 0xf0) == 0xe0 ? 3
		     : (u[0] & 0xf8) == 0xf0 ? 4
					     : 0;
	if (len == 0 || len > n)
		return 0;
	uint32_t c = len == 1 ? u[0] : u[0] & (0x7fu >> len);
	for (size_t i = 1; i < len; i++) {
		if ((u[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (u[i] & 0x3fu);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*out = c;
	return len;
}

size_t text_bad_byte(const char *bytes, size_t len)
{
	uint32_t c;
	for (size_t i = 0, n; i < len; i += n) {
		n = decode(bytes + i, len - i, &c);
		if (n == 0 || c == 0)
			return i;
	}
	return len;
}

static bool is_plain(uint32_t c)
{
	return c >= 0x20 && !(c >= 0x7f && c < 0xa0) && c != 0x2028 && c != 0x2029 && c != 0xfeff &&
	       (c & 0xfffe) != 0xfffe;
}

bool text_is_plain(const char *s)
{
	uint32_t c;
	for (size_t left = strlen(s), n; left > 0; s += n, left -= n) {
		n = decode(s, left, &c);
		if (n == 0 || !is_plain(c))
			return false;
	}
	return true;
}

void text_position(const char *bytes, size_t offset, unsigned *line, unsigned *column)
{
	*line = *column = 1;
	for (size_t i = 0; i < offset; i++) {
		if (bytes[i] == '\n') {
			++*line;
			*column = 1;
		} else if (((unsigned char)bytes[i] & 0xc0) != 0x80) {
			++*column;
		}
	}
}

const char *text_show(const char *s, size_t len, char out[static TEXT_SHOWN])
{
	size_t used = 0;
	out[used++] = '"';
	for (size_t i = 0, n; i < len; i += n) {
		uint32_t c = 0;
		n = decode(s + i, len - i, &c);
		bool shown = n > 0 && is_plain(c);
		n = n ? n : 1;
		if (used + n > TEXT_SHOWN - 6) { /* room for … and the closing quote */
			memcpy(out + used, "…", 3);
			used += 3;
			break;
		}
		if (shown)
			memcpy(out + used, s + i, n);
		else
			out[used] = '?';
		used += shown ? n : 1;
	}
	out[used++] = '"';
	out[used] = '\0';
	return out;
}
