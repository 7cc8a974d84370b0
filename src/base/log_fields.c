#include "base/log_fields.h"

#include <stdbool.h>
#include <string.h>

#include "base/text.h"

enum { FIELDS_MAX = 24, KEY_MAX = 32 };

struct log_field {
	const char *key, *value;
	size_t key_len, value_len;
	bool is_quoted;
};

static size_t key_len_at(const char *p, const char *end)
{
	size_t n = 0;
	while (p + n < end && ((p[n] >= 'a' && p[n] <= 'z') || p[n] == '_' || (n && p[n] >= '0' && p[n] <= '9')))
		n++;
	return n <= KEY_MAX && p + n < end && p[n] == '=' ? n : 0;
}

static size_t quoted_len_at(const char *p, const char *end)
{
	size_t n = 1;
	while (p + n < end && p[n] != '"')
		n += p[n] == '\\' && p + n + 1 < end ? 2 : 1;
	return p + n < end ? n + 1 : 0; /* 0: no end */
}

/* The field at p, the start of a word. Returns where it ends; p: there is none. */
static const char *log_field_at(const char *p, const char *end, struct log_field *f)
{
	size_t n = key_len_at(p, end), quoted;
	if (!n)
		return p;
	*f = (struct log_field){.key = p, .key_len = n, .value = p + n + 1};
	quoted = f->value < end && *f->value == '"' ? quoted_len_at(f->value, end) : 0;
	f->is_quoted = quoted > 0;
	if (quoted) {
		f->value++;
		f->value_len = quoted - 2;
		return f->value + quoted - 1;
	}
	while (f->value + f->value_len < end && f->value[f->value_len] != ' ')
		f->value_len++;
	return f->value + f->value_len;
}

/* A JSON number that no reader rounds. */
static bool is_log_number(const struct log_field *f)
{
	size_t n = f->value_len, digits = n && f->value[0] == '-' ? n - 1 : n;
	const char *p = f->value + (n - digits);
	if (f->is_quoted || digits == 0 || digits > 15 || (digits > 1 && *p == '0'))
		return false;
	for (size_t i = 0; i < digits; i++)
		if (p[i] < '0' || p[i] > '9')
			return false;
	return true;
}

static void add_field(struct buf *out, const struct log_field *f)
{
	char plain[FIELD_VALUE_CAP];
	size_t n = 0;
	buf_str(out, ",");
	buf_json_str(out, f->key, f->key_len);
	buf_str(out, ":");
	if (is_log_number(f)) {
		buf_add(out, f->value, f->value_len);
		return;
	}
	for (size_t i = 0; f->is_quoted && i < f->value_len && n < sizeof(plain); i++) {
		i += f->value[i] == '\\' && i + 1 < f->value_len;
		plain[n++] = f->value[i];
	}
	buf_json_str(out, f->is_quoted ? plain : f->value, f->is_quoted ? n : f->value_len);
}

static bool is_same_key(const struct log_field *f, const char *key, size_t len)
{
	return f->key_len == len && memcmp(f->key, key, len) == 0;
}

/* The first of one name counts; ours are not to be had. */
void log_fields_json(struct buf *out, const char *text, size_t len)
{
	static const char *const ours[] = {"time", "level", "msg"};
	struct log_field f, seen[FIELDS_MAX];
	size_t n = 0;
	const char *end = text + len;
	for (const char *p = text; p < end && n < FIELDS_MAX; p++) {
		const char *after = p == text || p[-1] == ' ' ? log_field_at(p, end, &f) : p;
		if (after == p)
			continue;
		bool is_taken = false;
		for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
			is_taken = is_taken || is_same_key(&f, ours[i], strlen(ours[i]));
		for (size_t i = 0; i < n; i++)
			is_taken = is_taken || is_same_key(&f, seen[i].key, seen[i].key_len);
		if (!is_taken) {
			add_field(out, &f);
			seen[n++] = f;
		}
		p = after - 1;
	}
}

const char *field_value(char out[static FIELD_VALUE_CAP], const char *s, size_t len)
{
	size_t fit = text_fit(s, len, FIELD_VALUE_MAX), n = 0;
	bool is_plain = fit > 0;
	for (size_t i = 0; i < fit; i++)
		is_plain = is_plain && (unsigned char)s[i] > ' ' && s[i] != '"' && s[i] != '\\' && s[i] != 0x7F;
	if (!is_plain)
		out[n++] = '"';
	for (size_t i = 0; i < fit; i++) {
		if (s[i] == '"' || s[i] == '\\')
			out[n++] = '\\';
		out[n++] = (unsigned char)s[i] < ' ' || s[i] == 0x7F ? '?' : s[i];
	}
	if (!is_plain)
		out[n++] = '"';
	out[n] = '\0';
	return out;
}
