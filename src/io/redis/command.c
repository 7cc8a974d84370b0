/* Happy path: a command is appended to the wire and to the list of those pending; replies come in the same order.
 * Pushes stand anywhere between and never answer anything, except that the confirmations of a (P)SUBSCRIBE answer it.
 * Failure: a reply nobody waits for, or bytes that are no RESP, end the connection. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/digits.h"
#include "base/mem.h"
#include "io/redis/conn_p.h"

/* The library moves what it has not parsed to the front after each KiB: it is never given much. */
enum { SPARE_COMMANDS = 2048, READER_PIECE = 8192 };

static const char *const subscribe_names[] = {
	"subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"};
static const char *const message_names[] = {"message", "pmessage", "smessage"};

static bool is_one_of(const char *word, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcasecmp(word, names[i]) == 0)
			return true;
	return false;
}

static bool is_subscription(const char *word)
{
	return is_one_of(word, subscribe_names, sizeof(subscribe_names) / sizeof(subscribe_names[0]));
}

/* ---- out */

struct redis_cmd *command_new(struct redis_conn *c, enum redis_cmd_kind kind, uint64_t tag, int argc, const char **argv,
	const size_t *argvlen)
{
	assert(argc > 0);
	struct link *spare = list_pop(&c->queue.spare);
	struct redis_cmd *cmd = spare ? LIST_OF(struct redis_cmd, link, spare) : mem_alloc(sizeof(*cmd));
	c->queue.n_spare -= spare != NULL;
	*cmd = (struct redis_cmd){.kind = kind, .tag = tag, .sent_at = (mono_ms)uv_now(c->loop)};
	memcpy(cmd->name, argv[0], argvlen[0] < sizeof(cmd->name) ? argvlen[0] : sizeof(cmd->name) - 1);
	if (argvlen[0] >= sizeof("subscribe") - 1 && is_subscription(cmd->name))
		cmd->n_confirms = argc > 1 ? argc - 1 : 1;
	list_init(&cmd->link);
	return cmd;
}

static void command_free(struct redis_conn *c, struct redis_cmd *cmd)
{
	if (c->queue.n_spare == SPARE_COMMANDS) {
		mem_free(cmd);
		return;
	}
	c->queue.n_spare++;
	list_push_front(&c->queue.spare, &cmd->link);
}

void command_free_spare(struct redis_conn *c)
{
	for (struct link *l; (l = list_pop(&c->queue.spare));)
		mem_free(LIST_OF(struct redis_cmd, link, l));
	c->queue.n_spare = 0;
}

static char *put_end_of_line(char *at)
{
	*at++ = '\r';
	*at++ = '\n';
	return at;
}

/* "*3\r\n", "$5\r\n". Returns where the next byte goes. */
static char *put_header(char *at, char kind, size_t n)
{
	*at++ = kind;
	return put_end_of_line(at + digits_put(at, n, 0));
}

/* At most. */
static size_t wire_size(int argc, const size_t *argvlen)
{
	enum { HEADER = 24 };
	size_t n = HEADER;
	for (int i = 0; i < argc; i++)
		n += HEADER + argvlen[i] + 2;
	return n;
}

void command_send(struct redis_conn *c, struct redis_cmd *cmd, int argc, const char **argv, const size_t *argvlen,
	mono_ms deadline)
{
	bool is_secret = cmd->kind == REDIS_CMD_HELLO || cmd->kind == REDIS_CMD_AUTH || cmd->kind == REDIS_CMD_REAUTH;
	const size_t most = wire_size(argc, argvlen);
	struct buf *out = wire_out(c->wire, most, is_secret);
	char *const from = buf_room(out, most);
	char *at = put_header(from, '*', (size_t)argc);
	for (int i = 0; i < argc; i++) {
		at = put_header(at, '$', argvlen[i]);
		if (argvlen[i])
			memcpy(at, argv[i], argvlen[i]);
		at = put_end_of_line(at + argvlen[i]);
	}
	buf_added(out, (size_t)(at - from));
	list_push(&c->queue.pending, &cmd->link);
	c->queue.n_in_flight++;
	heap_set(&c->queue.deadlines, &cmd->deadline, deadline);
	conn_flush_soon(c); /* and sets the timer */
}

void command_own(struct redis_conn *c, enum redis_cmd_kind kind, mono_ms deadline, const char **words)
{
	size_t len[16] = {0};
	int n = 0;
	for (; words[n]; n++) {
		assert(n < 16);
		len[n] = strlen(words[n]);
	}
	struct redis_cmd *cmd = command_new(c, kind, 0, n, words, len);
	if (n > 1 && strcmp(words[0], "CLIENT") == 0) /* as it is told in errors */
		snprintf(cmd->name, sizeof(cmd->name), "CLIENT %s", words[1]);
	command_send(c, cmd, n, words, len, deadline);
}

void redis_send(
	struct redis_conn *c, uint64_t tag, int argc, const char **argv, const size_t *argvlen, mono_ms deadline)
{
	struct redis_cmd *cmd = command_new(c, REDIS_CMD_USER, tag, argc, argv, argvlen);
	if (c->state == CONN_UP)
		command_send(c, cmd, argc, argv, argvlen, deadline);
	else
		command_kill(c, cmd);
}

void redis_send_asking(
	struct redis_conn *c, uint64_t tag, int argc, const char **argv, const size_t *argvlen, mono_ms deadline)
{
	if (c->state == CONN_UP)
		command_own(c, REDIS_CMD_ASKING, deadline, (const char *[]){"ASKING", NULL});
	redis_send(c, tag, argc, argv, argvlen, deadline);
}

/* ---- the dead */

void command_kill(struct redis_conn *c, struct redis_cmd *cmd)
{
	list_push(&c->queue.dead, &cmd->link);
	c->queue.n_dead++;
	conn_kick(c);
}

void command_kill_all(struct redis_conn *c)
{
	struct link *l;
	while ((l = list_pop(&c->queue.pending))) {
		struct redis_cmd *cmd = LIST_OF(struct redis_cmd, link, l);
		heap_remove(&c->queue.deadlines, &cmd->deadline);
		list_push(&c->queue.dead, l);
		c->queue.n_dead++;
	}
	c->queue.n_in_flight = 0;
}

void redis_fail_all_dead(struct redis_conn *c, bool tell)
{
	struct link *l;
	for (size_t n = c->queue.n_dead; n > 0 && (l = list_pop(&c->queue.dead)); n--) {
		struct redis_cmd *cmd = LIST_OF(struct redis_cmd, link, l);
		c->queue.n_dead--;
		uint64_t tag = cmd->tag;
		bool is_users = cmd->kind == REDIS_CMD_USER;
		command_free(c, cmd);
		if (tell && is_users)
			c->owner.on_reply(c->owner.arg, tag, NULL); /* may close silently: then the rest is gone */
	}
}

/* ---- in */

static struct redis_cmd *head_of(const struct redis_conn *c)
{
	return list_empty(&c->queue.pending) ? NULL : LIST_OF(struct redis_cmd, link, c->queue.pending.next);
}

/* cmd is the head of those pending. */
static void redis_answer(struct redis_conn *c, struct redis_cmd *cmd, const redisReply *r)
{
	list_remove(&cmd->link);
	heap_remove(&c->queue.deadlines, &cmd->deadline);
	c->queue.n_in_flight--;
	c->watch.n_looks = 0;
	uint64_t tag = cmd->tag;
	enum redis_cmd_kind kind = cmd->kind;
	command_free(c, cmd);
	if (c->login.again_by > 0 && c->state == CONN_UP)
		handshake_reauth(c); /* before the callback sends more */
	if (kind == REDIS_CMD_USER)
		c->owner.on_reply(c->owner.arg, tag, r);
	else if (kind != REDIS_CMD_ASKING) /* when ASKING is refused, the command behind it says so */
		handshake_reply(c, kind, r);
}

static const char *first_word(const redisReply *r)
{
	if (r->elements == 0 || !r->element[0] || !r->element[0]->str)
		return "";
	return r->element[0]->str;
}

static void take_push(struct redis_conn *c, const redisReply *r)
{
	const char *word = first_word(r);
	if (c->owner.ev.on_push)
		c->owner.ev.on_push(c->owner.arg, c, r);
	struct redis_cmd *head = c->parser.reader ? head_of(c) : NULL; /* the callback may have closed */
	if (!head || head->n_confirms == 0 || strcasecmp(head->name, word) != 0)
		return;
	if (--head->n_confirms == 0)
		redis_answer(c, head, r);
}

/* RESP2 has no pushes: on a subscriber they are arrays. */
static bool is_push(const struct redis_conn *c, const redisReply *r)
{
	if (r->type == REDIS_REPLY_PUSH)
		return true;
	if (!c->opts.is_subscriber || c->server.resp != 2 || r->type != REDIS_REPLY_ARRAY || r->elements < 3)
		return false;
	const char *word = first_word(r);
	return is_subscription(word) ||
	       is_one_of(word, message_names, sizeof(message_names) / sizeof(message_names[0]));
}

static void take_reply(struct redis_conn *c, const redisReply *r)
{
	struct redis_cmd *head = head_of(c);
	if (is_push(c, r))
		take_push(c, r);
	else if (head)
		redis_answer(c, head, r);
	else if (r->type == REDIS_REPLY_ERROR) /* "max number of clients reached", before a word from us */
		conn_fail(c, ERR_IO, "the server said: %s", r->str);
	else
		conn_fail(c, ERR_PROTO, "the server sent a reply that nobody asked for");
}

void command_parser_begin(struct redis_conn *c)
{
	c->parser.memory = reply_memory_new(c->opts.max_reply_elements);
	c->parser.reader = reply_memory_reader(c->parser.memory);
	c->parser.attributes = (struct attributes){0};
	c->parser.n_bytes = 0;
}

void command_parser_end(redisReader *reader, struct reply_memory *memory)
{
	if (reader)
		redisReaderFree(reader);
	reply_memory_free(memory);
}

static bool is_too_long(struct redis_conn *c)
{
	if (!c->opts.max_reply_bytes || c->parser.n_bytes <= c->opts.max_reply_bytes)
		return false;
	conn_fail(c, ERR_PROTO, "a reply is longer than %zu bytes", c->opts.max_reply_bytes);
	return true;
}

static void pass_to_reader(void *conn, const char *bytes, size_t len)
{
	struct redis_conn *c = conn;
	redisReaderFeed(c->parser.reader, bytes, len);
	c->parser.n_bytes += len;
}

/* Every reply that is whole. */
static void take_replies(struct redis_conn *c, redisReader *reader, struct reply_memory *memory)
{
	while (c->parser.reader == reader) {
		void *reply = NULL;
		if (redisReaderGetReply(reader, &reply) != REDIS_OK) {
			conn_fail(c, ERR_PROTO, "not the Redis protocol: %s",
				reply_memory_refused(memory) ? reply_memory_refused(memory) : reader->errstr);
			return;
		}
		if (!reply) {
			is_too_long(c);
			return;
		}
		c->parser.n_bytes = reader->len - reader->pos; /* those of the next */
		take_reply(c, reply);
		reply_memory_clear(memory);
	}
}

void command_bytes(void *arg, const char *bytes, size_t len)
{
	struct redis_conn *c = arg;
	redisReader *reader = c->parser.reader;
	struct reply_memory *memory = c->parser.memory;
	c->watch.heard_at = mono_now();
	c->watch.has_heard = true;
	if (!reader)
		return;
	c->parser.is_running = true;
	for (size_t at = 0, n; at < len && c->parser.reader == reader; at += n) {
		n = len - at < READER_PIECE ? len - at : READER_PIECE;
		if (attributes_feed(&c->parser.attributes, bytes + at, n, pass_to_reader, c))
			take_replies(c, reader, memory);
		else
			conn_fail(c, ERR_PROTO, "not the Redis protocol: an attribute that makes no sense");
	}
	c->parser.is_running = false;
	if (c->parser.reader != reader)
		command_parser_end(reader, memory);
	else
		conn_rearm(c);
}
