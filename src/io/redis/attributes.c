#include "io/redis/attributes.h"

#include <string.h>

enum { SKIP_MAX = 1 << 20, DIGITS_MAX = 18 };

static bool attributes_is_bulk(char kind)
{
	return kind == '$' || kind == '=' || kind == '!';
}

/* -1 = it has no elements by its kind. */
static int attributes_per_element(char kind)
{
	if (kind == '*' || kind == '~' || kind == '>')
		return 1;
	return kind == '%' || kind == '|' ? 2 : -1;
}

/* The number of a header: digits, or -1 for null; false when it is neither. */
static bool attributes_number(const char *line, size_t n, int64_t *out)
{
	if (n > 1 && line[n - 1] == '\r')
		n--;
	*out = -1;
	if (n == 3 && line[1] == '-' && line[2] == '1')
		return true;
	if (n < 2 || n > DIGITS_MAX)
		return false;
	*out = 0;
	for (size_t i = 1; i < n; i++) {
		if (line[i] < '0' || line[i] > '9')
			return false;
		*out = *out * 10 + (line[i] - '0');
	}
	return true;
}

/* A header is complete, of n bytes without its newline: what belongs to it comes next. False: an attribute makes no
 * sense. */
static bool attributes_header(struct attributes *a, const char *line, size_t n_line)
{
	char kind = line[0];
	int per_element = attributes_per_element(kind);
	bool is_skipped = a->is_dropping;
	int64_t n = 0;
	a->is_line = false;
	if ((attributes_is_bulk(kind) || per_element > 0) && !attributes_number(line, n_line, &n)) {
		a->is_broken = true;
		return !is_skipped;
	}
	if (attributes_is_bulk(kind) && n >= 0)
		a->n_left = (uint64_t)n + 2;
	if (!is_skipped)
		return true;
	if (kind != '|')
		a->n_skip--;
	if (per_element > 0 && n > 0) {
		if (n > SKIP_MAX || a->n_skip > SKIP_MAX)
			return false;
		a->n_skip += (uint64_t)(n * per_element);
	}
	return true;
}

/* A header from `at` on, or what there is of it; *next is behind it. Most are whole, and looked at where they are.
 * False: as attributes_header. */
static bool attributes_line(struct attributes *a, const char *bytes, size_t at, size_t len, size_t *next)
{
	const char *end = memchr(bytes + at, '\n', len - at);
	size_t n = end ? (size_t)(end - (bytes + at)) : len - at;
	*next = at + n + (end != NULL);
	if (end && !a->is_line)
		return attributes_header(a, bytes + at, n);
	if (!a->is_line)
		a->n_line = 0;
	a->is_line = true;
	size_t room = sizeof a->line - a->n_line;
	memcpy(a->line + a->n_line, bytes + at, n < room ? n : room);
	a->n_line = (uint8_t)(a->n_line + (n < room ? n : room));
	return !end || attributes_header(a, a->line, a->n_line);
}

/* Behind the elements from `at` on that are no attribute, whole, and of the kinds that most are: a number, an array, a
 * string, which may end later. Whatever else is there is looked at with care. */
static size_t attributes_pass_plain(struct attributes *a, const char *bytes, size_t at, size_t len)
{
	while (at < len && (bytes[at] == '$' || bytes[at] == '*' || bytes[at] == ':')) {
		size_t i = at + 1;
		uint64_t n = 0;
		for (; i < len && i - at < DIGITS_MAX && bytes[i] >= '0' && bytes[i] <= '9'; i++)
			n = n * 10 + (uint64_t)(bytes[i] - '0');
		if (i == at + 1 || len - i < 2 || bytes[i] != '\r' || bytes[i + 1] != '\n')
			break;
		const bool is_string = bytes[at] == '$';
		at = i + 2;
		if (!is_string)
			continue;
		n += 2;
		if (n > len - at) {
			a->n_left = n - (len - at);
			return len;
		}
		at += (size_t)n;
	}
	return at;
}

bool attributes_feed(struct attributes *a, const char *bytes, size_t len, attributes_pass_fn *pass, void *arg)
{
	size_t at = 0, from = 0; /* from: of what is to be passed on */
	while (at < len && !a->is_broken) {
		if (a->n_left > 0) {
			size_t n = a->n_left < len - at ? (size_t)a->n_left : len - at;
			a->n_left -= n;
			at += n;
		} else {
			if (!a->is_line && !a->is_dropping) {
				at = attributes_pass_plain(a, bytes, at, len);
				if (at == len)
					break;
			}
			if (!a->is_line && bytes[at] == '|' && !a->is_dropping) {
				if (at > from)
					pass(arg, bytes + from, at - from);
				a->is_dropping = true;
			}
			if (!attributes_line(a, bytes, at, len, &at))
				return false;
		}
		if (a->is_dropping)
			from = at;
		if (a->is_dropping && !a->is_line && a->n_left == 0 && a->n_skip == 0)
			a->is_dropping = false;
	}
	if (len > from && !a->is_dropping)
		pass(arg, bytes + from, len - from);
	return true;
}
