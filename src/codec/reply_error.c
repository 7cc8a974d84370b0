/* reply_error - what to do about an error, by the first word of the server's sentence. */
#include "codec/reply.h"

#include <string.h>

static const struct {
	const char *start; /* a whole word unless it holds a space */
	enum reply_error error;
	enum refusal refusal;
} table[] = {
	{"LOADING", RERR_RETRY, REFUSAL_LOADING},
	{"BUSY", RERR_RETRY, REFUSAL_BUSY},
	{"TRYAGAIN", RERR_RETRY, REFUSAL_TRYAGAIN},
	{"NOREPLICAS", RERR_RETRY, REFUSAL_NOREPLICAS},
	{"OOM", RERR_RETRY, REFUSAL_OOM},
	{"MISCONF", RERR_RETRY, REFUSAL_MISCONF},
	{"ERR max number of clients", RERR_RETRY, REFUSAL_MAXCLIENTS},
	{"READONLY", RERR_REFRESH, REFUSAL_READONLY},
	{"MASTERDOWN", RERR_REFRESH, REFUSAL_MASTERDOWN},
	{"CLUSTERDOWN", RERR_REFRESH, REFUSAL_CLUSTERDOWN},
	{"UNBLOCKED", RERR_REFRESH, REFUSAL_NONE},
	{"MOVED", RERR_MOVED, REFUSAL_NONE},
	{"ASK", RERR_ASK, REFUSAL_NONE},
	{"NOSCRIPT", RERR_NOSCRIPT, REFUSAL_NONE},
	{"NOGROUP", RERR_NOGROUP, REFUSAL_NONE},
	{"NOPERM", RERR_OPERATOR, REFUSAL_NOPERM},
	{"NOAUTH", RERR_OPERATOR, REFUSAL_NOAUTH},
	{"WRONGPASS", RERR_OPERATOR, REFUSAL_WRONGPASS},
	{"WRONGTYPE", RERR_OPERATOR, REFUSAL_WRONGTYPE},
	/* how Redis 7 and Valkey say NOPERM from inside a script */
	{"ERR The user executing the script can't", RERR_OPERATOR, REFUSAL_NOPERM},
	{"ERR ACL failure in script", RERR_OPERATOR, REFUSAL_NOPERM},
	{"ERR This instance has cluster support disabled", RERR_NO_CLUSTER, REFUSAL_NONE},
};

static bool reply_error_starts_with(struct slice text, const char *start)
{
	const size_t len = strlen(start);
	if (text.len < len || memcmp(text.p, start, len) != 0)
		return false;
	return strchr(start, ' ') || text.len == len || text.p[len] == ' ';
}

/* "MOVED 3999 10.0.0.1:6381" -> slot and address. */
static bool parse_moved(struct slice text, struct reply *out)
{
	const char *p = memchr(text.p, ' ', text.len), *end = text.p + text.len;
	if (!p)
		return false;
	unsigned slot = 0;
	const char *digits = ++p;
	for (; p < end && *p >= '0' && *p <= '9' && p - digits < 5; p++)
		slot = slot * 10 + (unsigned)(*p - '0');
	if (p == digits || slot > 16383 || p == end || *p != ' ')
		return false;
	p++;
	if (!memchr(p, ':', (size_t)(end - p)))
		return false;
	out->moved_slot = (uint16_t)slot;
	out->text = (struct slice){p, (size_t)(end - p)};
	return true;
}

/* XINFO names a missing key without NOGROUP. */
static bool is_no_key(enum cmd_kind kind, struct slice text)
{
	return (kind == CMD_CONSUMERS || kind == CMD_FORGET) && reply_error_starts_with(text, "ERR no such key");
}

void reply_set_error(enum cmd_kind kind, struct slice text, struct reply *out)
{
	if (!text.p)
		text = (struct slice){"", 0};
	if (kind == CMD_GROUP_CREATE && reply_error_starts_with(text, "BUSYGROUP")) {
		*out = (struct reply){.kind = REPLY_OK};
		return;
	}
	*out = (struct reply){.kind = REPLY_ERROR, .error = RERR_OPERATOR, .refusal = REFUSAL_OTHER, .text = text};
	if (is_no_key(kind, text)) {
		out->error = RERR_NOGROUP;
		out->refusal = REFUSAL_NONE;
	}
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		if (reply_error_starts_with(text, table[i].start)) {
			out->error = table[i].error;
			out->refusal = table[i].refusal;
			break;
		}
	}
	if ((out->error == RERR_MOVED || out->error == RERR_ASK) && !parse_moved(text, out))
		out->error = RERR_BAD;
}

/* io/redis writes "authentication refused: WRONGPASS …": what follows a colon and a space is the server's. */
enum refusal reply_refusal_in(const char *words)
{
	for (const char *p = words; p; p = strstr(p, ": "), p = p ? p + 2 : NULL) {
		const struct slice rest = {p, strlen(p)};
		for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
			if (table[i].refusal != REFUSAL_NONE && reply_error_starts_with(rest, table[i].start))
				return table[i].refusal;
	}
	return REFUSAL_NONE;
}
