/* reply_error - what to do about an error, by the first word of the server's sentence. */
#include "codec/reply.h"

#include <string.h>

static const struct {
	const char *start; /* a whole word unless it holds a space */
	enum reply_error error;
} table[] = {
	{"LOADING", RERR_RETRY},
	{"BUSY", RERR_RETRY},
	{"TRYAGAIN", RERR_RETRY},
	{"NOREPLICAS", RERR_RETRY},
	{"OOM", RERR_RETRY},
	{"MISCONF", RERR_RETRY},
	{"ERR max number of clients", RERR_RETRY},
	{"READONLY", RERR_REFRESH},
	{"MASTERDOWN", RERR_REFRESH},
	{"CLUSTERDOWN", RERR_REFRESH},
	{"UNBLOCKED", RERR_REFRESH},
	{"MOVED", RERR_MOVED},
	{"ASK", RERR_ASK},
	{"NOSCRIPT", RERR_NOSCRIPT},
	{"NOGROUP", RERR_NOGROUP},
	{"ERR This instance has cluster support disabled", RERR_NO_CLUSTER},
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
	return kind == CMD_CONSUMERS && reply_error_starts_with(text, "ERR no such key");
}

void reply_set_error(enum cmd_kind kind, struct slice text, struct reply *out)
{
	if (!text.p)
		text = (struct slice){"", 0};
	if (kind == CMD_GROUP_CREATE && reply_error_starts_with(text, "BUSYGROUP")) {
		*out = (struct reply){.kind = REPLY_OK};
		return;
	}
	*out = (struct reply){.kind = REPLY_ERROR, .error = RERR_OPERATOR, .text = text};
	if (is_no_key(kind, text))
		out->error = RERR_NOGROUP;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		if (reply_error_starts_with(text, table[i].start)) {
			out->error = table[i].error;
			break;
		}
	}
	if ((out->error == RERR_MOVED || out->error == RERR_ASK) && !parse_moved(text, out))
		out->error = RERR_BAD;
}
