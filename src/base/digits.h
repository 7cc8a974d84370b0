/* digits - numbers as text where printf would be most of the work. Pure; any thread. None of them ends with a NUL. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { DIGITS_U64 = 20 /* as many as a number has at most */ };

/* v in decimal, with zeros in front up to `least` digits (at most DIGITS_U64). Returns how many were written. */
static inline size_t digits_put(char *out, uint64_t v, size_t least)
{
	char text[DIGITS_U64];
	size_t at = sizeof text;
	do {
		text[--at] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	while (sizeof text - at < least)
		text[--at] = '0';
	memcpy(out, text + at, sizeof text - at);
	return sizeof text - at;
}

/* v in hexadecimal, 16 digits. Returns 16. */
static inline size_t digits_put_hex(char *out, uint64_t v)
{
	for (size_t i = 16; i-- > 0; v >>= 4)
		out[i] = "0123456789abcdef"[v & 15];
	return 16;
}
