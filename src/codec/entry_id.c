/* entry_id - see entry_id.h. Apart from command_key, which workers need nothing of. */
#include "codec/entry_id.h"

#include <string.h>

#include "base/digits.h"

int command_id_format(char out[COMMAND_ID_CAP], struct entry_id id)
{
	size_t n = digits_put(out, id.ms, 0);
	out[n++] = '-';
	n += digits_put(out + n, id.seq, 0);
	out[n] = '\0';
	return (int)n;
}

/* All of s as a decimal. */
static bool key_parse_digits(const char *s, size_t len, uint64_t *out)
{
	if (len == 0 || len > 20)
		return false;
	uint64_t v = 0;
	for (size_t i = 0; i < len; i++) {
		const unsigned digit = (unsigned)s[i] - '0';
		if (digit > 9 || (i == 19 && v > (UINT64_MAX - digit) / 10)) /* 19 digits always fit */
			return false;
		v = v * 10 + digit;
	}
	*out = v;
	return true;
}

/* The same without leading zeros. */
static bool key_parse_u64(const char *s, size_t len, uint64_t *out)
{
	return (len < 2 || s[0] != '0') && key_parse_digits(s, len, out);
}

bool command_id_parse(const char *s, size_t len, struct entry_id *out)
{
	const char *dash = len ? memchr(s, '-', len) : NULL;
	struct entry_id id;
	if (!dash || !key_parse_u64(s, (size_t)(dash - s), &id.ms) ||
		!key_parse_u64(dash + 1, len - (size_t)(dash - s) - 1, &id.seq))
		return false;
	*out = id;
	return true;
}

bool command_token_parse(const char *s, size_t len, struct entry_id *out)
{
	enum { DIGITS = 19, SEQS = 1000000 };
	uint64_t v;
	if (len != DIGITS || !key_parse_digits(s, len, &v))
		return false;
	*out = (struct entry_id){.ms = v / SEQS, .seq = v % SEQS};
	return true;
}
