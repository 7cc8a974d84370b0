/* fnv - FNV-1a, 64 bits: the same number for the same bytes in every process and version. Against accidents, not
 * against whoever chooses the bytes (map has a keyed hash for those). Pure; any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define FNV_START UINT64_C(0xcbf29ce484222325)

static inline uint64_t fnv_byte(uint64_t h, char byte)
{
	return (h ^ (unsigned char)byte) * UINT64_C(0x100000001b3);
}

static inline uint64_t fnv(const char *bytes, size_t len)
{
	uint64_t h = FNV_START;
	for (size_t i = 0; i < len; i++)
		h = fnv_byte(h, bytes[i]);
	return h;
}
