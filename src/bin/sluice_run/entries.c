/* Entries mode: one process per entry (--each), per batch (--batch) or per stream (--feed).
 * A lease waits (WORK_WAITS) for entries; what came is kept in order, one process works at a time. After a nack all is
 * void until the daemon has answered it. After a reconnect entries come again: those that are finished, or being worked
 * on, are skipped by their ids, and what was finished is acknowledged again. */
#include "bin/sluice_run/sluice_run.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "codec/entry_id.h"
#include "codec/json.h"
#include "core/cmd.h"

enum { EXIT_DEAD = 65, ACK_LINE_MAX = COMMAND_ID_CAP };

struct item { /* an entry that waits */
	struct item *next;
	struct entry_id id;
	char *line; /* its JSON, without LF */
	char **env; /* --fields=env; ends with NULL */
};

struct stream { /* what a lease in entries mode has beside its work */
	struct item *first, **last;
	size_t n;
	struct entry_id from, to; /* of what the process has */
	size_t n_given;
	struct entry_id done;  /* finished: everything up to it */
	struct entry_id taken; /* kept, given or finished: everything up to it */
	bool is_void;          /* a nack waits for its answer */
	struct buf in;         /* --feed: for its stdin */
	char ack[ACK_LINE_MAX + 1];
	size_t ack_len;
	bool is_closing; /* --feed: its stdin is, or is to be, closed */
};

static void item_free(struct item *i)
{
	for (char **e = i->env; e && *e; e++)
		mem_free(*e);
	mem_free(i->env);
	mem_free(i->line);
	mem_free(i);
}

static void forget_items(struct stream *s)
{
	for (struct item *i; (i = s->first);) {
		s->first = i->next;
		item_free(i);
	}
	s->last = &s->first;
	s->n = 0;
}

struct stream *entries_new(struct entry_id pos)
{
	struct stream *s = mem_alloc(sizeof *s);
	*s = (struct stream){.done = pos, .taken = pos};
	s->last = &s->first;
	buf_init(&s->in);
	return s;
}

void entries_free(struct stream *s)
{
	if (!s)
		return;
	forget_items(s);
	buf_fini(&s->in);
	mem_free(s);
}

/* ---- an entry as its line */

static void add_json(struct buf *b, yyjson_val *v)
{
	size_t len;
	char *text = yyjson_val_write_opts(v, YYJSON_WRITE_NOFLAG, &json_alc, &len, NULL);
	buf_add(b, text ? text : "null", text ? len : 4);
	mem_free(text);
}

static yyjson_val *field_at(yyjson_val *fields, size_t i)
{
	return yyjson_arr_get(fields, i);
}

/* The last of its name wins: true when a later one has it too. */
static bool is_repeated_name(yyjson_val *fields, size_t i, size_t n)
{
	for (size_t k = i + 2; k + 1 < n; k += 2)
		if (yyjson_equals(field_at(fields, i), field_at(fields, k)))
			return true;
	return false;
}

/* A name that is not UTF-8 stands as its base64. */
static void add_object(struct buf *b, yyjson_val *fields)
{
	size_t n = yyjson_arr_size(fields);
	bool is_first = true;
	buf_str(b, "{");
	for (size_t i = 0; i + 1 < n; i += 2) {
		yyjson_val *name = field_at(fields, i);
		if (is_repeated_name(fields, i, n))
			continue;
		buf_str(b, is_first ? "" : ",");
		add_json(b, yyjson_is_obj(name) ? yyjson_obj_get(name, "b64") : name);
		buf_str(b, ":");
		add_json(b, field_at(fields, i + 1));
		is_first = false;
	}
	buf_str(b, "}");
}

static void add_pairs(struct buf *b, yyjson_val *fields)
{
	yyjson_arr_iter it = yyjson_arr_iter_with(fields);
	bool is_first = true;
	buf_str(b, "[");
	for (yyjson_val *name; (name = yyjson_arr_iter_next(&it));) {
		yyjson_val *value = yyjson_arr_iter_next(&it);
		if (!value)
			break;
		buf_str(b, is_first ? "[" : ",[");
		add_json(b, name);
		buf_str(b, ",");
		add_json(b, value);
		buf_str(b, "]");
		is_first = false;
	}
	buf_str(b, "]");
}

static char *entry_line(enum fields_as as, const char *id, long long tries, yyjson_val *fields)
{
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "{\"id\":\"%s\",\"tries\":%lld,\"fields\":", id, tries);
	if (as == FIELDS_OBJECT)
		add_object(&b, fields);
	else
		add_pairs(&b, fields);
	buf_str(&b, "}");
	return buf_take(&b);
}

/* SLUICE_F_<NAME>=value; NULL when the value cannot be one of a variable. */
static char *env_of(yyjson_val *name, yyjson_val *value)
{
	static const char before[] = "SLUICE_F_";
	if (!yyjson_is_str(name) || !yyjson_is_str(value) || strlen(yyjson_get_str(value)) != yyjson_get_len(value))
		return NULL;
	char *out = mem_printf("%s%s=%s", before, yyjson_get_str(name), yyjson_get_str(value));
	for (char *p = out + sizeof before - 1; p < out + sizeof before - 1 + strlen(yyjson_get_str(name)); p++)
		*p = (char)(isalnum((unsigned char)*p) ? toupper((unsigned char)*p) : '_');
	return out;
}

static char **entry_env(yyjson_val *fields)
{
	size_t n = yyjson_arr_size(fields), to = 0;
	char **env = mem_array(n / 2 + 1, sizeof *env);
	for (size_t i = 0; i + 1 < n; i += 2) {
		char *one = env_of(field_at(fields, i), field_at(fields, i + 1));
		if (one)
			env[to++] = one;
	}
	env[to] = NULL;
	return env;
}

/* ---- to the daemon */

static void send_word(struct runner *r, const struct work *w, const char *type, struct entry_id id, const char *rest)
{
	char text[COMMAND_ID_CAP];
	command_id_format(text, id);
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "{\"t\":\"%s\",\"lease\":", type);
	buf_json_str(&b, w->lease, strlen(w->lease));
	buf_printf(&b, ",\"id\":\"%s\"%s}\n", text, rest);
	conn_send(r, b.data);
	buf_fini(&b);
}

static void finished(struct runner *r, struct work *w, struct entry_id id)
{
	if (entry_id_cmp(id, w->entries->done) <= 0)
		return;
	w->entries->done = id;
	send_word(r, w, "ack", id, "");
}

static void failed(struct runner *r, struct work *w, int status)
{
	struct stream *s = w->entries;
	char reason[REASON_MAX + 1];
	child_reason(&w->child, status, reason);
	run_log("stream %s entry %llu-%llu failed: %s", w->stream, (unsigned long long)s->from.ms,
		(unsigned long long)s->from.seq, reason);
	struct buf b;
	buf_init(&b);
	buf_str(&b, ",\"reason\":");
	buf_json_str(&b, reason, strlen(reason));
	bool is_dead = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DEAD && s->n_given == 1;
	buf_str(&b, is_dead ? ",\"dead\":true" : "");
	send_word(r, w, "nack", s->from, b.data);
	buf_fini(&b);
	forget_items(s);
	s->taken = s->done;
	s->is_void = true;
}

/* ---- from the daemon */

static void take_one(struct runner *r, struct work *w, yyjson_val *e)
{
	struct stream *s = w->entries;
	const char *id = yyjson_get_str(yyjson_arr_get(e, 0)), *tries = yyjson_get_raw(yyjson_arr_get(e, 2));
	yyjson_val *fields = yyjson_arr_get(e, 1);
	struct entry_id parsed;
	if (!id || !command_id_parse(id, strlen(id), &parsed) || entry_id_cmp(parsed, s->taken) <= 0)
		return;
	s->taken = parsed;
	char *line = entry_line(r->opt->fields, id, tries ? strtoll(tries, NULL, 10) : 0, fields);
	if (r->opt->mode == MODE_FEED) {
		buf_str(&s->in, line);
		buf_str(&s->in, "\n");
		mem_free(line);
		return;
	}
	struct item *i = mem_alloc(sizeof *i);
	*i = (struct item){.id = parsed, .line = line};
	if (r->opt->fields == FIELDS_ENV)
		i->env = entry_env(fields);
	*s->last = i;
	s->last = &i->next;
	s->n++;
}

void entries_take(struct runner *r, struct work *w, struct yyjson_val *list)
{
	size_t i, n;
	yyjson_val *e;
	if (w->entries->is_void || w->answer != ANSWER_RESULT)
		return;
	yyjson_arr_foreach(list, i, n, e)
	{
		take_one(r, w, e);
	}
	if (r->opt->mode == MODE_FEED)
		entries_io(r, w);
	else
		work_next(r, w);
}

void entries_nacked(struct runner *r, struct work *w)
{
	w->entries->is_void = false;
	work_next(r, w);
}

void entries_resumed(struct runner *r, struct work *w)
{
	struct stream *s = w->entries;
	forget_items(s);
	s->is_void = false;
	if (r->opt->mode != MODE_FEED)
		s->taken = s->n_given ? s->to : s->done;
	if (s->done.ms || s->done.seq)
		send_word(r, w, "ack", s->done, "");
}

/* ---- the process */

bool entries_give(struct runner *r, struct work *w, struct buf *input, char ***env)
{
	struct stream *s = w->entries;
	size_t most = r->opt->mode == MODE_EACH ? 1 : SIZE_MAX;
	*env = NULL;
	for (s->n_given = 0; s->first && s->n_given < most; s->n_given++) {
		struct item *i = s->first;
		if (s->n_given == 0)
			s->from = i->id;
		s->to = i->id;
		buf_str(input, s->n_given ? "\n" : "");
		buf_str(input, i->line);
		if (most == 1) {
			*env = i->env;
			i->env = NULL;
		}
		s->first = i->next;
		if (!s->first)
			s->last = &s->first;
		s->n--;
		item_free(i);
	}
	return s->n_given > 0;
}

bool entries_have(const struct work *w)
{
	return w->entries->n > 0 && !w->entries->is_void;
}

void entries_ended(struct runner *r, struct work *w, int status)
{
	struct stream *s = w->entries;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		finished(r, w, s->to);
	else if (w->answer == ANSWER_RESULT)
		failed(r, w, status);
	s->n_given = 0;
}

/* ---- --feed: lines to its stdin, ids from descriptor 3 */

static void take_ack(struct runner *r, struct work *w)
{
	struct stream *s = w->entries;
	struct entry_id id;
	if (s->ack_len && s->ack[s->ack_len - 1] == '\r')
		s->ack_len--;
	if (command_id_parse(s->ack, s->ack_len, &id) && entry_id_cmp(id, s->taken) <= 0)
		finished(r, w, id);
	else if (s->ack_len)
		run_log("stream %s: what the command wrote to SLUICE_ACK_FD is no id of an entry it has", w->stream);
	s->ack_len = 0;
}

static void read_acks(struct runner *r, struct work *w)
{
	struct stream *s = w->entries;
	char bytes[4096];
	while (w->child.ack_fd >= 0) {
		ssize_t n = read(w->child.ack_fd, bytes, sizeof bytes);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			return;
		if (n <= 0) {
			close(w->child.ack_fd);
			w->child.ack_fd = -1;
			return;
		}
		for (ssize_t i = 0; i < n; i++)
			if (bytes[i] == '\n')
				take_ack(r, w);
			else if (s->ack_len < ACK_LINE_MAX)
				s->ack[s->ack_len++] = bytes[i];
	}
}

static void write_lines(struct work *w)
{
	struct stream *s = w->entries;
	while (w->child.in_fd >= 0 && s->in.len) {
		ssize_t n = write(w->child.in_fd, s->in.data, s->in.len);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			return;
		if (n < 0) { /* it does not read any more */
			s->is_closing = true;
			buf_clear(&s->in);
			break;
		}
		buf_consume(&s->in, (size_t)n);
	}
	if (w->child.in_fd >= 0 && s->is_closing && !s->in.len) {
		close(w->child.in_fd);
		w->child.in_fd = -1;
	}
}

void entries_io(struct runner *r, struct work *w)
{
	if (!w->child.pid)
		return;
	read_acks(r, w);
	write_lines(w);
}

bool entries_want_write(const struct work *w)
{
	return w->child.in_fd >= 0 && w->entries->in.len > 0;
}

void entries_close(struct runner *r, struct work *w)
{
	w->entries->is_closing = true;
	entries_io(r, w);
}

bool entries_is_closing(const struct work *w)
{
	return w->entries->is_closing;
}
