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

/* What one element adds to those to come of the push around it. Sums that are too large do no harm: the library ends
 * the connection at the header that makes them so. */
static void attributes_count_push(struct attributes *a, char kind, uint64_t n_elements)
{
	const bool is_inside = a->n_push > 0;
	if (is_inside)
		a->n_push--;
	if (is_inside || kind == '>')
		a->n_push += n_elements;
}

/* A value of a push that is one line, and that the library might refuse for what it says: a number of any size or
 * form, a truth. */
static bool is_value_of_push(const struct attributes *a, char kind)
{
	return a->n_push > 0 && (kind == ':' || kind == ',' || kind == '#' || kind == '(');
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
	if (!is_skipped) {
		attributes_count_push(a, kind, per_element > 0 && n > 0 ? (uint64_t)(n * per_element) : 0);
		return true;
	}
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

/* Behind the elements from `at` on that are no attribute, whole, and of the kinds that most are: a number of a reply,
 * an array, a string, which may end later. Whatever else is there is looked at with care. */
static size_t attributes_pass_plain(struct attributes *a, const char *bytes, size_t at, size_t len)
{
	while (at < len && (bytes[at] == '$' || bytes[at] == '*' || (bytes[at] == ':' && a->n_push == 0))) {
		size_t i = at + 1;
		uint64_t n = 0;
		for (; i < len && i - at < DIGITS_MAX && bytes[i] >= '0' && bytes[i] <= '9'; i++)
			n = n * 10 + (uint64_t)(bytes[i] - '0');
		if (i == at + 1 || len - i < 2 || bytes[i] != '\r' || bytes[i + 1] != '\n')
			break;
		const bool is_string = bytes[at] == '$';
		attributes_count_push(a, bytes[at], bytes[at] == '*' ? n : 0);
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
			if (!a->is_line && !a->is_dropping && is_value_of_push(a, bytes[at])) {
				if (at > from)
					pass(arg, bytes + from, at - from);
				pass(arg, "+", 1);
				from = at + 1;
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
