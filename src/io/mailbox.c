/* Happy path: a sender appends under the lock and wakes the loop when the queue was empty; the loop takes the whole
 * queue by swapping it with an empty one and delivers it without the lock. Failure: none of its own; a full mailbox
 * answers false. Memory is bounded by two queues of `limit` messages, and what was forced in. */
#include "io/mailbox.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

enum { KEEP_MESSAGES = 4096 };

struct queue {
	char *bytes;
	size_t n, cap;
};

struct mailbox {
	uv_async_t async;
	pthread_mutex_t lock;
	size_t msg_size, limit;
	struct queue in;  /* lock */
	bool is_refusing; /* lock */
	struct queue out; /* the owner's: the round being delivered */
	size_t n_delivered;
	bool is_closed; /* the owner's */
	bool is_delivering;
	mailbox_fn *fn;
	mailbox_end_fn *end;
	void *arg;
};

/* Delivers what is queued now; what arrives meanwhile wakes the loop again. */
static size_t deliver(struct mailbox *m)
{
	if (m->is_delivering) /* a drain from inside a delivery: the outer one goes on */
		return 0;
	pthread_mutex_lock(&m->lock);
	struct queue q = m->in;
	m->in = m->out;
	m->in.n = 0;
	m->out = q;
	m->n_delivered = 0;
	pthread_mutex_unlock(&m->lock);
	m->is_delivering = true;
	size_t n = m->out.n;
	while (m->n_delivered < n && !m->is_closed)
		m->fn(m->arg, m->out.bytes + m->msg_size * m->n_delivered++);
	m->is_delivering = false;
	m->out.n = m->n_delivered = 0;
	if (m->out.cap > KEEP_MESSAGES) { /* a burst's memory is given back */
		mem_free(m->out.bytes);
		m->out = (struct queue){0};
	}
	if (n && m->end && !m->is_closed)
		m->end(m->arg);
	return n;
}

static void on_wake(uv_async_t *a)
{
	deliver(a->data);
}

struct mailbox *mailbox_open(
	uv_loop_t *loop, size_t msg_size, size_t limit, mailbox_fn *fn, mailbox_end_fn *end, void *arg)
{
	struct mailbox *m = mem_alloc(sizeof(*m));
	m->msg_size = msg_size;
	m->limit = limit;
	m->fn = fn;
	m->end = end;
	m->arg = arg;
	pthread_mutex_init(&m->lock, NULL);
	int rc = uv_async_init(loop, &m->async, on_wake);
	if (rc) {
		log_line(LOG_ERROR, "mailbox: uv_async_init failed: %s", uv_strerror(rc));
		exit(71);
	}
	m->async.data = m;
	return m;
}

bool mailbox_send(struct mailbox *m, const void *msg, bool force)
{
	pthread_mutex_lock(&m->lock);
	bool is_taken = !m->is_refusing && (force || m->in.n < m->limit);
	bool was_empty = m->in.n == 0;
	if (is_taken) {
		if (m->in.n == m->in.cap) {
			m->in.cap = m->in.cap ? 2 * m->in.cap : 16;
			m->in.bytes = mem_grow(m->in.bytes, m->in.cap, m->msg_size);
		}
		memcpy(m->in.bytes + m->in.n++ * m->msg_size, msg, m->msg_size);
	}
	/* Under the lock: once mailbox_refuse has returned, no sender touches the handle any more. */
	if (is_taken && was_empty)
		uv_async_send(&m->async);
	pthread_mutex_unlock(&m->lock);
	return is_taken;
}

void mailbox_refuse(struct mailbox *m)
{
	pthread_mutex_lock(&m->lock);
	m->is_refusing = true;
	pthread_mutex_unlock(&m->lock);
}

void mailbox_drain(struct mailbox *m)
{
	while (deliver(m) > 0)
		;
}

static void mailbox_on_closed(uv_handle_t *h)
{
	struct mailbox *m = h->data;
	pthread_mutex_destroy(&m->lock);
	mem_free(m->in.bytes);
	mem_free(m->out.bytes);
	mem_free(m);
}

void mailbox_close(struct mailbox *m)
{
	if (!m)
		return;
	assert(!m->is_closed);
	mailbox_refuse(m);
	m->is_closed = true;
	uv_close((uv_handle_t *)&m->async, mailbox_on_closed);
}

size_t mailbox_length(struct mailbox *m)
{
	pthread_mutex_lock(&m->lock);
	size_t n = m->in.n;
	pthread_mutex_unlock(&m->lock);
	return n;
}
