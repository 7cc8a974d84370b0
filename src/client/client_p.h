/* client_p - the parts of libsluice-worker and what they share. One thread, no callbacks: sluice_worker_next pulls.
 *
 *   worker.c   new, free, step, next, bye
 *   conn.c     the connection: connect, back off, read, write
 *   frames.c   what each frame of the daemon does
 *   lease.c    what is held: fences, answers told until they are confirmed, positions of entries
 *   entry.c    entries as they come in a frame
 *   run.c      sluice_worker_run: the loop, a process for each stream, used again
 *   child.c    that process
 *   wire.c     what the two say to each other */
#pragma once
#include "base/buf.h"
#include "base/heap.h"
#include "base/list.h"
#include "base/map.h"
#include "base/mono.h"
#include "client/sluice-worker.h"
#include "codec/entry_id.h"
#include "codec/frame.h"
#include "codec/json.h"

enum client_state {
	CLIENT_DOWN, /* connects again at retry_at */
	CLIENT_GREETS,
	CLIENT_UP
};

/* WORKS --STOP was said--> STOPS --+
 *   |                       |      +--answer--> SAYS --`ok`, or `revoked` was sent--> freed
 *   +-----------------------+------+
 *   +--GONE was said--> GONE --any answer--> freed */
enum held_state { LEASE_WORKS, LEASE_STOPS, LEASE_SAYS, LEASE_GONE };

/* Memory of whoever runs the work, kept up to date: SIGTERM is due, and it has stopped. */
struct client_fence {
	_Atomic int64_t term_ms, stop_ms;
};

struct client_lease {
	struct heap_node turn; /* the fence, or when an answer is told again */
	struct link news;      /* in worker's news when one of the next is to be said */
	bool is_ended_news;
	enum held_state state;
	char *name;
	void *user;
	mono_ms until_ms;            /* MONO_NEVER = no fence */
	mono_ms fence_ms, stop_ms;   /* what we make of it: STOP is said, work has stopped */
	struct client_fence *shared; /* NULL = nobody looks */
	struct buf answer;           /* SAYS */
	bool waits_for_ok, is_seen;  /* is_seen: in the welcome's resumed */
	bool has_entries;
	bool is_void;                /* a nack waits for its answer */
	struct entry_id done, taken; /* finished, given out: everything up to it */
};

struct client_entries { /* of the event that was said last */
	struct sluice_entry *list;
	size_t n, cap;
	struct sluice_field *fields;
	size_t n_fields, cap_fields;
};

struct client_hello { /* who it is; owned */
	char *socket, *name;
	char **services;
	size_t n_services;
	int credits;
	bool is_in_entries_mode;
};

struct client_conn { /* conn.c */
	enum client_state state;
	int fd, epoll_fd;
	bool waits_to_write, is_drained; /* is_drained: no whole line is left in `in` */
	int why_ended; /* errno of a connection that has ended, -1 = closed by the daemon, 0 = it has not */
	struct frame_splitter in;
	struct buf out;
	mono_ms hello_at;
	mono_ms retry_at, backoff;
	char *trouble; /* the last line about it since the last welcome; NULL = none */
};

struct client_leases { /* lease.c: what is held */
	mono_ms lease_ms;
	mono_ms until_ms; /* the last one told */
	struct map by_name;
	struct client_lease *recent; /* NULL, or the newest of by_name */
	struct heap turns;
	struct link news;
	struct client_lease *to_free;
};

struct client_said {        /* what events point to */
	struct buf notes;   /* lines that are to be said, each with its NUL */
	size_t notes_said;  /* bytes of them */
	const char *failed; /* code; said when the notes are */
	char *failed_text;
	yyjson_doc *doc; /* of the event that was said last */
	char *info;      /* the same: Info, or a note */
	struct client_entries entries;
	bool is_not_served_said; /* that it gets nothing of services in entries mode */
	mono_ms misfit_at;       /* when it was said last that a stream is not in entries mode; 0 = not yet */
};

struct sluice_worker {
	struct client_hello hello;
	char *session; /* of the last welcome; NULL = none yet */
	bool is_leaving, is_over;
	mono_ms now;
	struct client_conn conn;
	struct client_leases leases;
	struct client_said said;
};

/* ---- conn.c */
void client_connect(struct sluice_worker *w); /* when it is time to */
void client_read(struct sluice_worker *w);    /* once, when all that was read is acted on */
void client_flush(struct sluice_worker *w);   /* sends what the socket takes */
void client_drop(struct sluice_worker *w);    /* closes; connects again after the backoff */
/* Appends to what is sent; false and nothing while there is no connection. */
bool client_send(struct sluice_worker *w, const char *bytes, size_t len);

/* ---- worker.c */
/* A line for the log. */
void client_note(struct sluice_worker *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A line about a connection that failed; one that is tried again and again for the same reason is said once until
 * the next welcome. */
void client_trouble(struct sluice_worker *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The end; code is a constant. */
void client_fail(struct sluice_worker *w, const char *code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- frames.c */
void client_hello(struct sluice_worker *w);
/* Acts on one line. True: *e is an event that came of it. */
bool client_act(struct sluice_worker *w, char *line, size_t len, struct sluice_event *e);

/* ---- lease.c */
struct client_lease *client_lease_new(struct sluice_worker *w, const char *name, mono_ms until_ms);
struct client_lease *client_lease_find(const struct sluice_worker *w, const char *name); /* NULL = not held */
void client_lease_free(struct sluice_worker *w, struct client_lease *l);
void client_lease_until(struct sluice_worker *w, struct client_lease *l, mono_ms until_ms);
/* Its fence is written there from now on; NULL = nowhere any more. */
void client_lease_share(struct client_lease *l, struct client_fence *fence);
/* Not ours any more: forgotten if it was answered, else SLUICE_GONE (or SLUICE_ENDED) is to be said. */
void client_lease_lose(struct sluice_worker *w, struct client_lease *l, bool is_ended);
/* SAYS: sends the answer. l may be gone afterwards. */
void client_lease_tell(struct sluice_worker *w, struct client_lease *l);
/* After a welcome: what is finished is acknowledged again. */
void client_lease_resumed(struct sluice_worker *w, struct client_lease *l);
/* Says one thing that is due: a loss, a fence. False: nothing is. */
bool client_lease_news(struct sluice_worker *w, struct sluice_event *e);
/* {"t":TYPE,"lease":NAME, without its end. */
void client_frame_begin(struct buf *b, const char *type, const char *lease);

/* ---- entry.c */
/* Those of list that were not given out before, into w->entries; they point into list. */
void client_entries_take(struct sluice_worker *w, struct client_lease *l, yyjson_val *list);
/* Ids of entries that somebody was given and has not finished: struct entry_id, in order. */
void client_given_add(struct buf *given, const struct sluice_entry *entries, size_t n);
bool client_given_first(const struct buf *given, struct entry_id *id); /* false: there is none */
void client_given_done(struct buf *given, const char *text);           /* everything up to that id */
void client_entries_fini(struct client_entries *s);

/* ---- wire.c: parent and child, one process image, over a stream socket: a head, then bytes */
enum wire_kind {
	WIRE_JOB = 1,  /* to the child: begin */
	WIRE_ENTRIES,  /* n entries; round = how many nacks were answered before */
	WIRE_END,      /* no entry is left: say WIRE_DONE */
	WIRE_PROGRESS, /* from here on to the parent: text = note */
	WIRE_ACK,      /* text = id */
	WIRE_NACK,     /* text = id NUL reason */
	WIRE_DONE,     /* this and the next two: n = 1: it waits for another job */
	WIRE_FAIL,     /* text = reason */
	WIRE_RELEASE
};
struct wire_head {
	uint32_t kind, len; /* len: bytes that follow */
	uint32_t n, round;
	int64_t retry_ms;
	bool dead, has_text;
};
void wire_put(struct buf *b, struct wire_head head, const char *text, size_t len);
void wire_put_job(struct buf *b, const struct sluice_job *job); /* without entries and user */
/* That of such a message; it points into text. */
struct sluice_job wire_job(const char *text);
void wire_put_entries(struct buf *b, const struct sluice_entry *list, size_t n, uint32_t round);
/* A whole message at the start of bytes: *head, *text into bytes; returns its length, 0 = not whole yet. */
size_t wire_get(const char *bytes, size_t n, struct wire_head *head, const char **text);
/* The entries of such a message; they point into text. The list and its fields are one block: mem_free. */
struct sluice_entry *wire_entries(const struct wire_head *head, const char *text);

/* ---- child.c */
struct child_shared {              /* memory of parent and child */
	struct client_fence fence; /* it kills itself at stop_ms */
	_Atomic uint32_t n_begun;  /* jobs */
	_Atomic bool is_to_leave;
};
enum { CHILD_WATCH_MS = 100 }; /* so late it may notice that stop_ms is earlier now */
/* The life of the child: one job after another, or one only (options->fresh). */
_Noreturn void client_child_main(
	const struct sluice_options *options, sluice_handler *work, int sock, struct child_shared *shared);
