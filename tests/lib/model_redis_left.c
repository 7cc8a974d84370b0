/* model_redis_left - who has left the group on purpose, and consumers that are deleted. As the scripts of codec/script do it. */
#include "lib/model_redis_int.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "codec/command.h"

struct model_left {
	char *key, *consumer;
	int64_t at;
};

static struct model_left *left_find(struct model_redis *m, const char *key, const char *consumer)
{
	for (size_t i = 0; i < m->n_left; i++)
		if (strcmp(m->left[i].key, key) == 0 && strcmp(m->left[i].consumer, consumer) == 0)
			return &m->left[i];
	return NULL;
}

static void left_drop(struct model_redis *m, struct model_left *l)
{
	mem_free(l->key);
	mem_free(l->consumer);
	*l = m->left[--m->n_left];
}

static bool left_put(struct model_redis *m, const char *key, const char *consumer, int64_t at)
{
	struct model_left *l = left_find(m, key, consumer);
	bool is_new = !l;
	if (is_new) {
		m->left = mem_grow(m->left, m->n_left + 1, sizeof *m->left);
		l = &m->left[m->n_left++];
		*l = (struct model_left){
			.key = mem_dup(key, strlen(key)), .consumer = mem_dup(consumer, strlen(consumer))};
	}
	l->at = at;
	return is_new;
}

static void left_list(struct model_redis *m, const char *key, struct reply *out)
{
	if (m->n_left > m->consumers_cap) {
		m->consumers = mem_grow(m->consumers, m->n_left, sizeof *m->consumers);
		m->consumers_cap = m->n_left;
	}
	size_t n = 0;
	for (size_t i = 0; i < m->n_left; i++)
		if (strcmp(m->left[i].key, key) == 0)
			m->consumers[n++] =
				(struct consumer_row){.name = {m->left[i].consumer, strlen(m->left[i].consumer)},
					.idle_ms = m->now > m->left[i].at ? m->now - m->left[i].at : 0};
	*out = (struct reply){.kind = REPLY_CONSUMERS, .consumers = m->consumers, .n = n};
}

void model_left_cmd(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	if (c->kind == CMD_LEFT) {
		left_list(m, names->left, out);
	} else if (c->kind == CMD_LEAVE) {
		if (m->is_oom)
			model_oom(c, out);
		else
			model_int(out, left_put(m, names->left, me, m->now));
	} else {
		struct model_left *l = left_find(m, names->left, me);
		if (l)
			left_drop(m, l);
		model_int(out, l != NULL);
	}
}

void model_forget(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	struct model_stream *s = model_group_of(m, c, names, out);
	if (!s)
		return;
	char consumer[300];
	snprintf(consumer, sizeof consumer, "%.*s", (int)c->as.forget.consumer.len, c->as.forget.consumer.p);
	if (!model_consumer_forget(s, consumer, m->now - c->as.forget.min_idle_ms)) {
		model_int(out, 0);
		return;
	}
	struct model_left *l = left_find(m, names->left, consumer);
	if (l)
		left_drop(m, l);
	model_int(out, 1);
}

bool model_redis_has_left(struct model_redis *m, const struct command_names *names, const char *consumer)
{
	return left_find(m, names->left, consumer) != NULL;
}

/* What a daemon says of itself: nobody here asks. */
void model_fleet(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)m;
	(void)c;
	(void)names;
	(void)me;
	model_int(out, 1);
}

void model_left_free(struct model_redis *m)
{
	while (m->n_left)
		left_drop(m, &m->left[m->n_left - 1]);
	mem_free(m->left);
}

void model_left_move(struct model_redis *from, struct model_redis *to, uint16_t slot)
{
	for (size_t i = from->n_left; i-- > 0;) {
		struct model_left *l = &from->left[i];
		if (command_slot(l->key, strlen(l->key)) != slot)
			continue;
		left_put(to, l->key, l->consumer, l->at);
		left_drop(from, l);
	}
}

void model_left_copy(struct model_redis *to, const struct model_redis *from)
{
	for (size_t i = 0; i < from->n_left; i++)
		left_put(to, from->left[i].key, from->left[i].consumer, from->left[i].at);
}
