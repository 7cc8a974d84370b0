#include "run/control/facts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/text.h"

enum { DAY_MS = 86400000 };

static char *format(const char *fmt, va_list ap)
{
	char text[600 + FACTS_WORD_CAP];
	vsnprintf(text, sizeof text, fmt, ap);
	return mem_dup(text, strlen(text));
}

void facts_add(struct facts *f, const char *fmt, ...)
{
	va_list ap;
	if (f->n == sizeof f->because / sizeof f->because[0])
		return;
	va_start(ap, fmt);
	char *text = format(fmt, ap);
	va_end(ap);
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->because[i], text) == 0) { /* one master may be asked about for two reasons */
			mem_free(text);
			return;
		}
	f->because[f->n++] = text;
}

void facts_next(struct facts *f, const char *fmt, ...)
{
	va_list ap;
	mem_free(f->next);
	va_start(ap, fmt);
	f->next = format(fmt, ap);
	va_end(ap);
}

void facts_advice(struct facts *f, const char *fmt, ...)
{
	va_list ap;
	mem_free(f->advice);
	va_start(ap, fmt);
	f->advice = format(fmt, ap);
	va_end(ap);
}

const char *facts_word(char out[static FACTS_WORD_CAP], const char *name)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,";
	const size_t len = text_fit(name, strlen(name), FACTS_WORD_MAX);
	size_t n = 0;
	if (len && strspn(name, plain) >= len) {
		snprintf(out, FACTS_WORD_CAP, "%.*s", (int)len, name);
		return out;
	}
	out[n++] = '\'';
	for (size_t i = 0; i < len; i++)
		if (name[i] == '\'')
			n += (size_t)snprintf(out + n, FACTS_WORD_CAP - n, "'\\''");
		else
			out[n++] = name[i];
	snprintf(out + n, FACTS_WORD_CAP - n, "'");
	return out;
}

void facts_delayed_now(struct facts *f, const char *service, const char *stream)
{
	char word[FACTS_WORD_CAP];
	facts_advice(f, "sluicectl delayed now %s %s lets it come back at once", service, facts_word(word, stream));
}

void facts_fini(struct facts *f)
{
	for (size_t i = 0; i < f->n; i++)
		mem_free(f->because[i]);
	mem_free(f->next);
	mem_free(f->advice);
	*f = (struct facts){0};
}

void facts_encode(struct control_req *q, const struct facts *f, struct ctl_explain *row)
{
	row->because = (struct ctl_texts){.v = (const char *const *)f->because, .n = f->n};
	row->next = f->next;
	row->advice = f->advice;
	ctl_encode_explain(&q->out, row);
}

void facts_age(char out[static 24], mono_ms ms)
{
	ms = mono_max(ms, 0);
	if (ms < 1000)
		snprintf(out, 24, "%d ms", (int)ms);
	else if (ms < 120000)
		snprintf(out, 24, "%d s", (int)(ms / 1000));
	else if (ms < 7200000)
		snprintf(out, 24, "%d min", (int)(ms / 60000));
	else
		snprintf(out, 24, "%lld h", (long long)(ms / 3600000));
}

void facts_since(char out[static FACTS_SINCE_CAP], mono_ms for_ms)
{
	for_ms = mono_max(0, for_ms);
	time_t t = (time_t)((mono_wall_ms() - for_ms) / 1000);
	struct tm tm = {0};
	char at[32] = "?", age[24];
	if (localtime_r(&t, &tm))
		strftime(at, sizeof at, for_ms < DAY_MS / 2 ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &tm);
	facts_age(age, for_ms);
	snprintf(out, FACTS_SINCE_CAP, "%s (%s)", at, age);
}
