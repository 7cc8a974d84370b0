/* The table against itself and against the manual. */
#include "helper.h"
#include "config/endpoint.h"
#include "config/options.h"
#include "config/text.h"
#include <ctype.h>
#include <stdio.h>

Test(options, rows_of_one_map_stand_together, .init = up)
{
	for (enum option_id a = 0; a < N_OPTIONS; a++) {
		cr_expect(strlen(options[a].path) < OPTION_MAX_PATH && strlen(options[a].help) > 0);
		for (enum option_id b = a + 1; b < N_OPTIONS; b++) {
			cr_expect_str_neq(options[a].path, options[b].path);
			const char *dot = strrchr(options[a].path, '.');
			size_t map = (size_t)(dot - options[a].path) + 1;
			bool same = strncmp(options[a].path, options[b].path, map) == 0;
			bool next = strncmp(options[b - 1].path, options[a].path, map) == 0;
			cr_expect(!same || next, "%s is away from its map", options[b].path);
		}
	}
}

static void expect_near(const char *prefix, const char *key, const char *want)
{
	char out[OPTION_MAX_PATH];
	const char *got = option_suggest(prefix, key, strlen(key), out);
	cr_expect(want ? got && strcmp(got, want) == 0 : !got, "%s: %s", key, got ? got : "none");
}

Test(options, suggestions_are_near_and_from_the_same_map, .init = up)
{
	expect_near("", "servces", "services");
	expect_near("", "Redis", "redis");
	expect_near("redis.", "command-timeout", "command_timeout");
	expect_near("redis.", "comand_timout", "command_timeout");
	expect_near("services[].lease.", "tlt", "ttl");
	expect_near("redis.", "bd", "db");
	expect_near("redis.", "level", NULL);
	expect_near("", "x", NULL);
	expect_near("", "", NULL);
}

Test(text, shows_anything_on_one_short_line, .init = up)
{
	char out[TEXT_SHOWN], long_text[1000];
	cr_expect_str_eq(text_show("a\nb\xff\xc3\xbc", 6, out), "\"a?b?ü\"");
	memset(long_text, 'x', sizeof long_text);
	cr_expect(strlen(text_show(long_text, sizeof long_text, out)) < TEXT_SHOWN && strstr(out, "…\""));
	memset(long_text, '\xff', sizeof long_text);
	cr_expect(strlen(text_show(long_text, sizeof long_text, out)) < TEXT_SHOWN);
}

Test(text, knows_utf8, .init = up)
{
	cr_expect(text_bad_byte("aü€😀", 10) == 10);
	cr_expect(text_bad_byte("a\xc0\x80", 3) == 1);     /* overlong */
	cr_expect(text_bad_byte("a\xed\xa0\x80", 4) == 1); /* surrogate */
	cr_expect(text_bad_byte("a\xf4\x90\x80\x80", 5) == 1);
	cr_expect(text_bad_byte("a\xe2\x82", 3) == 1); /* cut off */
	cr_expect(text_is_plain("ü€😀") && !text_is_plain("\x7f") && !text_is_plain("\xc2\x85"));
	cr_expect(!text_is_plain("\xe2\x80\xa8") && !text_is_plain("\xef\xbb\xbf"));
}

/* The manual as text without its markup: macros at line starts and escapes removed. */
static char *read_manual(void)
{
	FILE *f = fopen("man/sluiced.yaml.5", "r");
	cr_assert(f, "run from the top of the source");
	struct buf b;
	char chunk[4096];
	buf_init(&b);
	for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
		buf_add(&b, chunk, n);
	fclose(f);
	return buf_take(&b);
}

/* The entry of a setting: from its .It line to the next. */
static char *manual_entry(const char *manual, const char *path)
{
	char head[100];
	snprintf(head, sizeof head, "\n.It Ic %s\n", path);
	const char *at = strstr(manual, head);
	if (!at)
		return NULL;
	at += strlen(head);
	const char *end = strstr(at, "\n.It "), *list_end = strstr(at, "\n.El");
	if (!end || (list_end && list_end < end))
		end = list_end;
	return mem_dup(at, (size_t)(end - at));
}

/* Ranges as the page writes them: no quotes. */
static char *plain_range(const struct option *o)
{
	struct buf b;
	buf_init(&b);
	option_range(o, &b);
	char *text = buf_take(&b), *to = text;
	for (char *p = text; *p; p++) {
		if (*p != '"')
			*to++ = *p;
	}
	*to = '\0';
	char *semicolon = strchr(text, ';');
	if (semicolon)
		*semicolon = '\0';
	return text;
}

Test(manual, has_every_setting_with_type_default_range_and_class, .init = up)
{
	char *manual = read_manual();
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		const struct option *o = &options[id];
		char *entry = manual_entry(manual, o->path), *range = plain_range(o), line[200];
		cr_expect(entry, "%s is not in the manual", o->path);
		if (entry) {
			cr_expect(strstr(entry, option_type_name(o)), "%s: type", o->path);
			cr_expect(strstr(entry, range), "%s: range %s", o->path, range);
			snprintf(line, sizeof line, "default %s", *o->initial ? o->initial : "empty");
			cr_expect(strstr(entry, line), "%s: %s", o->path, line);
			cr_expect(strstr(entry, option_class_name(o)), "%s: class", o->path);
		}
		mem_free(entry);
		mem_free(range);
	}
	mem_free(manual);
}

/* How the manual names it: whole, or by its last word where it speaks of several at once. */
static bool is_named(const struct option *o, const char *name, size_t len, bool *is_whole)
{
	const char *dot = strrchr(o->path, '.'), *last = dot ? dot + 1 : o->path;
	*is_whole = strlen(o->path) == len && memcmp(o->path, name, len) == 0;
	return *is_whole || (strlen(last) == len && memcmp(last, name, len) == 0);
}

Test(manual, has_no_setting_that_does_not_exist, .init = up)
{
	static const char item[] = "\n.It Ic ";
	char *manual = read_manual();
	int n_whole = 0;
	for (char *at = manual; (at = strstr(at, item));) {
		at += strlen(item);
		size_t len = strcspn(at, "\n");
		bool is_known = false, is_whole = false;
		for (enum option_id id = 0; id < N_OPTIONS && !is_whole; id++)
			is_known = is_named(&options[id], at, len, &is_whole) || is_known;
		cr_expect(is_known, "%.*s is no setting", (int)len, at);
		n_whole += is_whole;
	}
	cr_expect_eq(n_whole, N_OPTIONS);
	mem_free(manual);
}
