#include "base/instant.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	SECOND_DIGITS_MAX = 15, /* so many as milliseconds fit int64_t */
	MINUTE_S = 60,
	HOUR_S = 3600,
	OFFSET_HOURS_MAX = 23,
	OFFSET_MINUTES_MAX = 59
};

static const char digits[] = "0123456789";

/* ".25" as 250 ms; what is finer is cut. Without a fraction *ms is 0. Returns what follows; NULL: no digit follows. */
static const char *read_fraction(const char *p, int64_t *ms)
{
	*ms = 0;
	if (*p != '.' && *p != ',')
		return p;
	size_t n = strspn(++p, digits);
	int64_t worth = 100;
	for (size_t i = 0; i < n; i++, worth /= 10)
		*ms += (p[i] - '0') * worth;
	return n ? p + n : NULL;
}

static bool read_seconds(const char *p, int64_t *unix_ms)
{
	int64_t ms;
	size_t n = strspn(p, digits);
	const char *rest = read_fraction(p + n, &ms);
	if (n == 0 || n > SECOND_DIGITS_MAX || !rest || *rest)
		return false;
	ms += strtoll(p, NULL, 10) * 1000;
	if (ms <= 0)
		return false;
	*unix_ms = ms;
	return true;
}

static int two_digits(const char *p)
{
	return strspn(p, digits) >= 2 ? 10 * (p[0] - '0') + (p[1] - '0') : -1;
}

/* +02:00, +0200 or +02 as seconds east of UTC. False: it is none. */
static bool read_offset(const char *p, int64_t *east_s)
{
	int sign = *p == '+' ? 1 : *p == '-' ? -1 : 0, hours = sign ? two_digits(p + 1) : -1, minutes = 0;
	if (hours < 0 || hours > OFFSET_HOURS_MAX)
		return false;
	p += 3;
	if (*p) {
		p += *p == ':';
		minutes = two_digits(p);
		if (minutes < 0 || minutes > OFFSET_MINUTES_MAX || p[2])
			return false;
	}
	*east_s = sign * (hours * HOUR_S + minutes * MINUTE_S);
	return true;
}

/* timegm makes 2 March of 30 February. */
static bool is_day(const struct tm *tm)
{
	struct tm day = {.tm_year = tm->tm_year, .tm_mon = tm->tm_mon, .tm_mday = tm->tm_mday};
	return timegm(&day) != -1 && day.tm_mday == tm->tm_mday;
}

/* 2026-11-30T10:00:00.5; returns what follows, NULL: it is not that. */
static const char *read_clock(const char *text, struct tm *tm, int64_t *ms)
{
	const char *p = strptime(text, "%Y-%m-%d", tm);
	*ms = 0;
	if (!p || !is_day(tm) || !strchr("Tt ", *p) || !*p)
		return NULL;
	p = strptime(p + 1, "%H:%M", tm);
	if (!p || *p != ':')
		return p;
	p = strptime(p, ":%S", tm);
	return p ? read_fraction(p, ms) : NULL;
}

bool instant_parse(const char *text, int64_t *unix_ms)
{
	if (*text == '@')
		return read_seconds(text + 1, unix_ms);
	struct tm tm = {.tm_isdst = -1};
	int64_t ms, east_s = 0;
	const char *rest = read_clock(text, &tm, &ms);
	if (!rest)
		return false;
	bool is_local = !*rest;
	rest += *rest == ' '; /* date +'%F %T %z' */
	if (!is_local && strcmp(rest, "Z") != 0 && strcmp(rest, "z") != 0 && !read_offset(rest, &east_s))
		return false;
	int64_t s = (int64_t)(is_local ? mktime(&tm) : timegm(&tm)) - east_s;
	if (s <= 0)
		return false;
	*unix_ms = s * 1000 + ms;
	return true;
}
