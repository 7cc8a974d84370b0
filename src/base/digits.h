/* digits - numbers as text where printf would be most of the work. Pure; any thread. None of them ends with a NUL. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { DIGITS_U64 = 20 /* as many as a number has at most */ };

/* v in decimal, with zeros in front up to `least` digits (at most DIGITS_U64). Returns how many were written. */
static inline size_t digits_put(char *out, uint64_t v, size_t least)
{
	static const char pairs[] =
		"0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
		"5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";
	size_t n = 1;
	for (uint64_t power = 10; n < DIGITS_U64 && v >= power; power *= 10)
		n++;
	n = n < least ? least : n;
	char *at = out + n;
	for (; v >= 100; v /= 100)
		memcpy(at -= 2, pairs + 2 * (v % 100), 2);
	if (v >= 10)
		memcpy(at -= 2, pairs + 2 * v, 2);
	else
		*--at = (char)('0' + v);
	while (at > out)
		*--at = '0';
	return n;
}

/* v in hexadecimal, 16 digits. Returns 16. */
static inline size_t digits_put_hex(char *out, uint64_t v)
{
	for (size_t i = 16; i-- > 0; v >>= 4)
		out[i] = "0123456789abcdef"[v & 15];
	return 16;
}
