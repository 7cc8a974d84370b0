/* command_feed - the commands of entries mode: data streams, their positions, the dead letters of their entries. */
#include <string.h>

#include "base/digits.h"
#include "base/text.h"
#include "codec/command_p.h"
#include "codec/script.h"
#include "core/coord/session.h"

static void feed_put_str(struct command_argv *a, const char *s)
{
	command_arg(a, s, strlen(s));
}

static void feed_put_slice(struct command_argv *a, struct slice s)
{
	command_arg(a, s.p, s.p ? s.len : 0);
}

static void feed_put_i64(struct command_argv *a, int64_t v)
{
	char text[1 + DIGITS_U64] = "-";
	const bool is_negative = v < 0;
	const uint64_t u = is_negative ? -(uint64_t)v : (uint64_t)v;
	command_arg(a, text + !is_negative, digits_put(text + 1, u, 1) + is_negative);
}

static void feed_put_id(struct command_argv *a, const char *before, struct entry_id id)
{
	char text[COMMAND_ID_CAP];
	const int n = command_id_format(text, id);
	const struct slice parts[] = {{before, strlen(before)}, {text, (size_t)n}};
	command_arg_joined(a, parts, 2);
}

static void feed_put_token(struct command_argv *a, struct entry_id id)
{
	char text[SESSION_TOKEN_CAP];
	const int n = session_token_format(text, id);
	command_arg(a, text, (size_t)n);
}

static void feed_put_position(struct command_argv *a, struct slice stream)
{
	const bool has_tag = command_has_tag(stream.p, stream.len);
	const struct slice parts[] = {{"{", !has_tag}, stream, {"}", !has_tag}, {"-sluice", 7}};
	command_arg_joined(a, parts, 4);
}

/* The script, its keys (the stream's own last, when asked for), and the token. */
static void feed_put_script(struct command_argv *a, const struct cmd *c, enum script s, bool with_stream)
{
	feed_put_str(a, c->use_eval ? "EVAL" : "EVALSHA");
	feed_put_str(a, c->use_eval ? script_text(s) : script_sha(s));
	feed_put_i64(a, 1 + with_stream);
	feed_put_position(a, c->stream);
	if (with_stream)
		feed_put_slice(a, c->stream);
	feed_put_token(a, c->as.feed.token);
}

static void feed_put_pause(struct command_argv *a, const struct cmd_pause *p)
{
	feed_put_i64(a, p->first_ms);
	feed_put_i64(a, p->factor);
	feed_put_i64(a, p->max_ms);
	feed_put_i64(a, p->permille);
}

static void feed_put_ack(struct command_argv *a, const struct cmd *c)
{
	feed_put_script(a, c, SCRIPT_FEED_ACK, c->as.feed.ack.trim || c->as.feed.ack.check);
	feed_put_id(a, "", c->id);
	feed_put_i64(a, c->as.feed.ack.now_ms);
	if (c->as.feed.ack.trim)
		feed_put_id(a, "", entry_id_next(c->id));
	else
		feed_put_str(a, "");
	feed_put_str(a, c->as.feed.ack.check ? "1" : "0");
	char text[COMMAND_ID_CAP + 1 + DIGITS_U64];
	size_t n = 0;
	if (c->as.feed.ack.n_added >= 0) {
		n = (size_t)command_id_format(text, c->id);
		text[n++] = ':';
		n += digits_put(text + n, (uint64_t)c->as.feed.ack.n_added, 1);
	}
	command_arg(a, text, n);
}

static void feed_put_close(struct command_argv *a, const struct cmd *c)
{
	static const char *const ends[FEED_ENDS] = {[FEED_END_KEEP] = "keep",
		[FEED_END_DONE] = "done",
		[FEED_END_DEATH] = "death",
		[FEED_END_DELETE] = "delete",
		[FEED_END_FORGET] = "keep"};
	const enum feed_end end = c->as.feed.close.end;
	const bool is_unused = (end == FEED_END_KEEP || end == FEED_END_FORGET) && c->as.feed.close.drops_unused;
	feed_put_script(a, c, SCRIPT_FEED_CLOSE, is_unused || end == FEED_END_DELETE);
	feed_put_str(a, is_unused ? "unused" : ends[end]);
	feed_put_i64(a, c->as.feed.close.ttl_ms);
	feed_put_pause(a, &c->as.feed.pause);
}

static void feed_put_range(struct command_argv *a, const struct cmd *c)
{
	feed_put_str(a, "XRANGE");
	feed_put_slice(a, c->stream);
	if (c->kind == CMD_FEED_PICK) {
		feed_put_id(a, "", c->id);
		feed_put_id(a, "", c->id);
		return;
	}
	const bool is_last = c->id.ms == UINT64_MAX && c->id.seq == UINT64_MAX; /* nothing can be behind it: an error */
	feed_put_id(a, is_last ? "" : "(", c->id);
	feed_put_str(a, "+");
	feed_put_str(a, "COUNT");
	feed_put_i64(a, c->as.read.count);
}

size_t command_feed_own_fields(const struct field_list *l)
{
	static const char *const added[] = {
		"_dlq_stream", "_orig_id", "_dlq_reason", "_dlq_error", "_dlq_at", "_dlq_node", "_tries"};
	size_t n = l ? l->n : 0;
	for (unsigned seen = 0; n > 0; n--) {
		const struct slice name = l->v[n - 1].name;
		size_t i = 0;
		while (i < sizeof added / sizeof added[0] &&
			(name.len != strlen(added[i]) || memcmp(name.p, added[i], name.len) != 0))
			i++;
		if (i == sizeof added / sizeof added[0] || seen & 1u << i)
			break;
		seen |= 1u << i;
	}
	return n;
}

void command_put_bury(struct command_argv *a, const struct cmd *c, const char *dlq, int64_t max_len)
{
	enum { SCRIPT_FIELDS = 3900 }; /* Lua can hand 8,000 values to a call, no more */
	if (max_len > 0 && (!c->as.dead.fields || c->as.dead.fields->n <= SCRIPT_FIELDS)) {
		feed_put_str(a, c->use_eval ? "EVAL" : "EVALSHA");
		feed_put_str(a, c->use_eval ? script_text(SCRIPT_BURY) : script_sha(SCRIPT_BURY));
		feed_put_i64(a, 1);
		feed_put_str(a, dlq);
		feed_put_i64(a, max_len);
	} else {
		feed_put_str(a, "XADD");
		feed_put_str(a, dlq);
		if (max_len > 0) {
			feed_put_str(a, "MAXLEN");
			feed_put_str(a, "~");
			feed_put_i64(a, max_len);
		}
	}
	feed_put_str(a, "*");
}

static void feed_put_dead_add(
	struct command_argv *a, const struct cmd *c, const struct command_names *names, const struct command_self *self)
{
	command_put_bury(a, c, names->entries_dlq, names->entries_dlq_max_len);
	for (size_t i = 0; c->as.dead.fields && i < c->as.dead.fields->n; i++) {
		feed_put_slice(a, c->as.dead.fields->v[i].name);
		feed_put_slice(a, c->as.dead.fields->v[i].value);
	}
	feed_put_str(a, "_dlq_stream");
	feed_put_slice(a, c->stream);
	feed_put_str(a, "_orig_id");
	feed_put_id(a, "", c->id);
	feed_put_str(a, "_dlq_reason");
	feed_put_str(a, dead_reason_name(c->as.dead.reason));
	feed_put_str(a, "_dlq_error");
	command_arg(a, c->as.dead.error.p,
		c->as.dead.error.p ? text_fit(c->as.dead.error.p, c->as.dead.error.len, COMMAND_ERROR_MAX) : 0);
	feed_put_str(a, "_dlq_at");
	feed_put_i64(a, c->as.dead.now_ms);
	feed_put_str(a, "_dlq_node");
	feed_put_str(a, self->node);
	feed_put_str(a, "_tries");
	feed_put_i64(a, c->as.dead.n_tries);
}

static void feed_put_words(struct command_argv *a, const char *const *words)
{
	for (; *words; words++)
		feed_put_str(a, *words);
}

void command_encode_feed(
	struct command_argv *a, const struct cmd *c, const struct command_names *names, const struct command_self *self)
{
	static const char *const tracking[] = {"CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP", NULL};
	static const char *const caching[] = {"CLIENT", "CACHING", "YES", NULL};
	switch ((int)c->kind) {
	case CMD_FEED_OPEN:
		feed_put_script(a, c, SCRIPT_FEED_OPEN, true);
		feed_put_slice(a, c->as.feed.open.start);
		feed_put_str(a, c->as.feed.open.was_alone ? "alone" : "");
		feed_put_str(a, c->as.feed.open.is_suspect ? "1" : "0");
		feed_put_pause(a, &c->as.feed.pause);
		break;
	case CMD_FEED_READ:
	case CMD_FEED_PICK:
		feed_put_range(a, c);
		break;
	case CMD_FEED_ACK:
		feed_put_ack(a, c);
		break;
	case CMD_FEED_FAIL:
		feed_put_script(a, c, SCRIPT_FEED_FAIL, false);
		feed_put_pause(a, &c->as.feed.pause);
		feed_put_i64(a, c->as.feed.fail.n_tries); /* not "one more": told twice, or late, it counts once */
		break;
	case CMD_FEED_CLOSE:
		feed_put_close(a, c);
		break;
	case CMD_FEED_DEAD_ADD:
		feed_put_dead_add(a, c, names, self);
		break;
	case CMD_FEED_DLQ_LENGTH:
		feed_put_str(a, "XLEN");
		feed_put_str(a, names->entries_dlq);
		break;
	case CMD_TRACKING:
		feed_put_words(a, tracking);
		break;
	case CMD_CACHING:
		feed_put_words(a, caching);
		break;
	}
}

bool command_is_position_key(const char *key, size_t len)
{
	return len > 7 && memcmp(key + len - 7, "-sluice", 7) == 0 && command_has_tag(key, len);
}

char *command_position_key(const char *stream)
{
	return mem_printf(command_has_tag(stream, strlen(stream)) ? "%s-sluice" : "{%s}-sluice", stream);
}

uint16_t command_entry_slots(const char *stream, size_t len, bool *has_no_position)
{
	const uint16_t slot = command_slot(stream, len);
	if (command_has_tag(stream, len)) { /* the position key has the same tag */
		*has_no_position = false;
		return slot;
	}
	const char *close = memchr(stream, '}', len); /* {S}-sluice: the tag ends here */
	*has_no_position = close == stream || (close && command_slot(stream, (size_t)(close - stream)) != slot);
	return slot;
}
