/* Entries mode: one process per entry (--each), per batch (--batch) or per stream (--feed).
 * A lease waits (WORK_WAITS) for entries; what came is kept in order, one process works at a time. Each entry comes
 * once, also after a reconnect; after a nack what waits here is void, and comes again. */
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
#include "codec/reply_feed.h"
#include "core/cmd.h"

enum { EXIT_DEAD = 65, ACK_LINE_MAX = COMMAND_ID_CAP };

struct item { /* an entry that waits; --feed: that is not acknowledged */
	struct item *next;
	struct entry_id id;
	char *line; /* its JSON, without LF; --feed: NULL, the command has it, or is to get it */
	char **env; /* --fields=env; ends with NULL */
};

struct run_stream { /* what a lease in entries mode has beside its work */
	struct item *first, **last;
	size_t n;
	struct entry_id from, to; /* of what the process has */
	size_t n_given;
	struct entry_id done;  /* finished: everything up to it */
	struct entry_id taken; /* kept, given or finished: everything up to it */
	struct buf in;         /* --feed: for its stdin */
	char ack[ACK_LINE_MAX + 1];
	size_t ack_len;
	bool is_closing;     /* --feed: its stdin is, or is to be, closed */
	bool is_misack_said; /* --feed: it writes other things than ids */
};

static void item_free(struct item *i)
{
	for (char **e = i->env; e && *e; e++)
		mem_free(*e);
	mem_free(i->env);
	mem_free(i->line);
	mem_free(i);
}

static void forget_items(struct run_stream *s)
{
	for (struct item *i; (i = s->first);) {
		s->first = i->next;
		item_free(i);
	}
	s->last = &s->first;
	s->n = 0;
}

struct run_stream *entries_new(struct entry_id pos)
{
	struct run_stream *s = mem_alloc(sizeof *s);
	*s = (struct run_stream){.done = pos, .taken = pos};
	s->last = &s->first;
	buf_init(&s->in);
	return s;
}

void entries_free(struct run_stream *s)
{
	if (!s)
		return;
	forget_items(s);
	buf_fini(&s->in);
	mem_free(s);
}

/* ---- an entry as its line */

/* The last of its name wins: true when a later one has it too. */
static bool is_repeated_name(const struct sluice_entry *e, size_t i)
{
	struct sluice_bytes name = e->fields[i].name;
	for (size_t k = i + 1; k < e->n_fields; k++) {
		struct sluice_bytes other = e->fields[k].name;
		if (other.len == name.len && memcmp(other.data, name.data, name.len) == 0)
			return true;
	}
	return false;
}

/* A name that is not UTF-8 stands as its base64. */
static void add_object_name(struct buf *b, struct sluice_bytes name)
{
	static const char before[] = "{\"b64\":";
	struct buf value;
	buf_init(&value);
	reply_feed_value(&value, name.data, name.len);
	bool is_text = *value.data == '"';
	buf_add(b, value.data + (is_text ? 0 : sizeof before - 1), value.len - (is_text ? 0 : sizeof before));
	buf_fini(&value);
}

static void add_object(struct buf *b, const struct sluice_entry *e)
{
	bool is_first = true;
	buf_str(b, "{");
	for (size_t i = 0; i < e->n_fields; i++) {
		if (is_repeated_name(e, i))
			continue;
		buf_str(b, is_first ? "" : ",");
		add_object_name(b, e->fields[i].name);
		buf_str(b, ":");
		reply_feed_value(b, e->fields[i].value.data, e->fields[i].value.len);
		is_first = false;
	}
	buf_str(b, "}");
}

static void add_pairs(struct buf *b, const struct sluice_entry *e)
{
	buf_str(b, "[");
	for (size_t i = 0; i < e->n_fields; i++) {
		buf_str(b, i ? ",[" : "[");
		reply_feed_value(b, e->fields[i].name.data, e->fields[i].name.len);
		buf_str(b, ",");
		reply_feed_value(b, e->fields[i].value.data, e->fields[i].value.len);
		buf_str(b, "]");
	}
	buf_str(b, "]");
}

static char *entry_line(enum fields_as as, const struct sluice_entry *e)
{
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "{\"id\":\"%s\",\"tries\":%lld,\"fields\":", e->id, (long long)e->tries);
	if (as == FIELDS_OBJECT)
		add_object(&b, e);
	else
		add_pairs(&b, e);
	buf_str(&b, "}");
	return buf_take(&b);
}

/* SLUICE_F_<NAME>=value; NULL when the value cannot be one of a variable. */
static char *env_of(const struct sluice_field *f)
{
	static const char before[] = "SLUICE_F_";
	if (!buf_is_utf8(f->name.data, f->name.len) || !buf_is_utf8(f->value.data, f->value.len) ||
		strlen(f->value.data) != f->value.len)
		return NULL;
	char *out = mem_printf("%s%s=%s", before, f->name.data, f->value.data);
	for (char *p = out + sizeof before - 1; p < out + sizeof before - 1 + strlen(f->name.data); p++)
		*p = (char)(isalnum((unsigned char)*p) ? toupper((unsigned char)*p) : '_');
	return out;
}

static char **entry_env(const struct sluice_entry *e)
{
	size_t to = 0;
	char **env = mem_array(e->n_fields + 1, sizeof *env);
	for (size_t i = 0; i < e->n_fields; i++) {
		char *one = env_of(&e->fields[i]);
		if (one)
			env[to++] = one;
	}
	env[to] = NULL;
	return env;
}

static void keep_item(struct run_stream *s, struct item *i)
{
	*s->last = i;
	s->last = &i->next;
	s->n++;
}

static void drop_first(struct run_stream *s)
{
	struct item *i = s->first;
	s->first = i->next;
	if (!s->first)
		s->last = &s->first;
	s->n--;
	item_free(i);
}

/* ---- to the daemon */

static void finished(struct runner *r, struct work *w, struct entry_id id)
{
	struct run_stream *s = w->entries;
	char text[COMMAND_ID_CAP];
	if (entry_id_cmp(id, s->done) <= 0)
		return;
	s->done = id;
	while (s->first && entry_id_cmp(s->first->id, id) <= 0) /* of a --feed */
		drop_first(s);
	command_id_format(text, id);
	sluice_worker_ack(r->worker, w->lease, text);
}

static void failed(struct runner *r, struct work *w, int status)
{
	struct run_stream *s = w->entries;
	char reason[REASON_MAX + 1], id[COMMAND_ID_CAP];
	child_reason(&w->child, status, reason);
	command_id_format(id, s->from);
	run_log("stream %s entry %s failed: %s", w->stream, id, reason);
	bool is_dead = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DEAD && s->n_given == 1;
	sluice_worker_nack(r->worker, w->lease, id, reason, is_dead, -1);
	forget_items(s);
	s->taken = s->done;
}

bool entries_blame(struct runner *r, struct work *w, int status)
{
	struct run_stream *s = w->entries;
	if (!s || r->opt->mode != MODE_FEED || !s->first)
		return false;
	s->from = s->first->id;
	failed(r, w, status);
	return true;
}

/* ---- from the daemon */

static void take_one(struct runner *r, struct work *w, const struct sluice_entry *e)
{
	struct run_stream *s = w->entries;
	if (!command_id_parse(e->id, strlen(e->id), &s->taken))
		return;
	char *line = entry_line(r->opt->fields, e);
	if (r->opt->mode == MODE_FEED) {
		buf_str(&s->in, line);
		buf_str(&s->in, "\n");
		mem_free(line);
		line = NULL;
	}
	struct item *i = mem_alloc(sizeof *i);
	*i = (struct item){.id = s->taken, .line = line};
	if (r->opt->fields == FIELDS_ENV && line)
		i->env = entry_env(e);
	keep_item(s, i);
}

void entries_take(struct runner *r, struct work *w, const struct sluice_entry *list, size_t n)
{
	if (w->answer != ANSWER_RESULT)
		return;
	for (size_t i = 0; i < n; i++)
		take_one(r, w, &list[i]);
	if (r->opt->mode == MODE_FEED)
		entries_io(r, w);
	else
		work_next(r, w);
}

/* ---- the process */

bool entries_give(struct runner *r, struct work *w, struct buf *input, char ***env)
{
	struct run_stream *s = w->entries;
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
		drop_first(s);
	}
	return s->n_given > 0;
}

bool entries_have(const struct work *w)
{
	return w->entries->n > 0;
}

void entries_ended(struct runner *r, struct work *w, int status)
{
	struct run_stream *s = w->entries;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		finished(r, w, s->to);
	else if (w->answer == ANSWER_RESULT)
		failed(r, w, status);
	s->n_given = 0;
}

/* ---- --feed: lines to its stdin, ids from descriptor 3 */

static void take_ack(struct runner *r, struct work *w)
{
	struct run_stream *s = w->entries;
	struct entry_id id;
	if (s->ack_len && s->ack[s->ack_len - 1] == '\r')
		s->ack_len--;
	if (command_id_parse(s->ack, s->ack_len, &id) && entry_id_cmp(id, s->taken) <= 0)
		finished(r, w, id);
	else if (s->ack_len && !s->is_misack_said) {
		run_log("stream %s: what the command wrote to SLUICE_ACK_FD is no id of an entry it has", w->stream);
		s->is_misack_said = true; /* once for each process */
	}
	s->ack_len = 0;
}

static void read_acks(struct runner *r, struct work *w)
{
	struct run_stream *s = w->entries;
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
	struct run_stream *s = w->entries;
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
