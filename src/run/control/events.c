/* events: what the daemon said. Lines come from any thread through a mailbox; the door keeps the last ones and
 * hands new ones to who follows. Failure: a full mailbox drops lines; a follower that does not read is ended with
 * one line. */
#include "run/control/control.h"

#include <string.h>

#include "base/log.h"

enum { EVENTS_KEPT = 256, EVENTS_MAIL = 4096 };

struct said {
	int64_t at_ms;
	enum log_level level;
	char *text; /* owned */
};

struct control_events {
	struct mailbox *mail;
	struct said ring[EVENTS_KEPT];
	size_t n; /* ever */
	struct control_req *followers[CONTROL_CONNS_MAX];
	size_t n_followers;
};

/* Any thread, inside the log. */
static void on_line(void *arg, enum log_level level, const char *text)
{
	struct control_events *e = arg;
	struct said s = {.at_ms = mono_wall_ms(), .level = level, .text = mem_dup(text, strlen(text))};
	if (!mailbox_send(e->mail, &s, false))
		mem_free(s.text);
}

static void encode(struct control_req *q, const struct said *s)
{
	struct ctl_event row = {.at_ms = s->at_ms, .level = log_level_name(s->level), .text = s->text};
	ctl_encode_event(&q->out, &row);
}

static void events_on_mail(void *arg, const void *msg)
{
	struct control_events *e = arg;
	const struct said *s = msg;
	struct said *slot = &e->ring[e->n++ % EVENTS_KEPT];
	mem_free(slot->text);
	*slot = *s;
	for (size_t i = 0; i < e->n_followers; i++)
		if (!e->followers[i]->is_ended)
			encode(e->followers[i], s);
}

static void on_mail_end(void *arg)
{
	struct control_events *e = arg;
	for (size_t i = 0; i < e->n_followers; i++) {
		struct control_req *q = e->followers[i];
		if (control_is_full(q))
			control_end(q, 1, "events came faster than they were read: dropped");
		control_flush(q);
	}
}

void control_events(struct control_req *q)
{
	struct control_events *e = control_socket_events(q->door);
	size_t from = e->n > EVENTS_KEPT ? e->n - EVENTS_KEPT : 0;
	for (size_t i = from; i < e->n; i++)
		encode(q, &e->ring[i % EVENTS_KEPT]);
	if (q->r.follow && e->n_followers < CONTROL_CONNS_MAX)
		e->followers[e->n_followers++] = q;
	else
		control_end(q, 0, NULL);
}

void control_events_forget(struct control_events *e, struct control_req *q)
{
	for (size_t i = 0; i < e->n_followers; i++) {
		if (e->followers[i] != q)
			continue;
		e->followers[i] = e->followers[--e->n_followers];
		return;
	}
}

struct control_events *control_events_open(struct daemon *d)
{

	struct control_events *e = mem_alloc(sizeof *e);
	e->mail = mailbox_open(loop_uv(d->loop), sizeof(struct said), EVENTS_MAIL, events_on_mail, on_mail_end, e);
	log_tap(on_line, e);
	return e;
}

void control_events_close(struct control_events *e)
{
	log_tap(NULL, NULL);
	mailbox_refuse(e->mail);
	mailbox_drain(e->mail);
	mailbox_close(e->mail);
	for (size_t i = 0; i < EVENTS_KEPT; i++)
		mem_free(e->ring[i].text);
	mem_free(e);
}
