#include "base/suggest.h"

#include <ctype.h>

static char fold(char c)
{
	return (char)(c == '-' ? '_' : tolower((unsigned char)c));
}

static size_t least_of_three(size_t a, size_t b, size_t c)
{
	size_t m = a < b ? a : b;
	return m < c ? m : c;
}

size_t suggest_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
	size_t d[3][SUGGEST_MAX + 1]; /* the present row and the two above it */
	if (n_a >= SUGGEST_MAX || n_b >= SUGGEST_MAX)
		return SUGGEST_MAX;
	for (size_t j = 0; j <= n_b; j++)
		d[0][j] = j;
	for (size_t i = 1; i <= n_a; i++) {
		size_t *row = d[i % 3], *above = d[(i + 2) % 3];
		row[0] = i;
		for (size_t j = 1; j <= n_b; j++) {
			size_t differs = fold(a[i - 1]) != fold(b[j - 1]);
			row[j] = least_of_three(above[j] + 1, row[j - 1] + 1, above[j - 1] + differs);
			if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) && fold(a[i - 2]) == fold(b[j - 1]) &&
				d[(i + 1) % 3][j - 2] + 1 < row[j])
				row[j] = d[(i + 1) % 3][j - 2] + 1;
		}
	}
	return d[n_a % 3][n_b];
}

int suggest_is_near(size_t edits, size_t n_word)
{
	return edits < n_word && edits <= (n_word <= 3 ? 1u : n_word <= 6 ? 2u : 3u);
}
