#include "base/duration.h"

#include <stdlib.h>
#include <string.h>

enum { DIGITS_MAX = 18 /* any such number fits int64_t */ };

bool duration_parse(const char *text, int64_t *ms)
{
	static const struct {
		const char *name;
		int64_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
	size_t n_digits = strspn(text, "0123456789");
	if (n_digits == 0 || n_digits > DIGITS_MAX)
		return false;
	int64_t n = strtoll(text, NULL, 10);
	const char *unit = text + n_digits;
	if (n == 0 && !*unit) {
		*ms = 0;
		return true;
	}
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		if (strcmp(unit, units[i].name) == 0 && n <= INT64_MAX / units[i].ms) {
			*ms = n * units[i].ms;
			return true;
		}
	}
	return false;
}
