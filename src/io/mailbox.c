/* Happy path: a sender appends under the lock and wakes the loop when the queue was empty; the loop takes the whole
 * queue by swapping it with an empty one and delivers it without the lock. A sender on the receiving loop wakes nobody:
 * it asks for a delivery at the end of the round, before anything is written. Failure: none of its own; a full mailbox
 * answers false. Memory is bounded by two queues of `limit` messages, and what was forced in.
 *
 * The wake-up is one write to an eventfd, after the lock: libuv 1.44's uv_async makes the receiver spin and yield
 * while a sender is about to write, which was 30 % of the daemon's CPU at 1,000 streams a second. */
#include "io/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/loop.h"

enum { KEEP_MESSAGES = 4096 };

struct queue {
	char *bytes;
	size_t n, cap;
};

struct mailbox {
	uv_poll_t poll;
	struct loop_task soon; /* the owner's: a delivery for senders on its loop */
	int wake_fd;           /* eventfd: readable = there may be messages */
	atomic_uint n_waking;  /* senders that have appended and are about to write to wake_fd */
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

static void mailbox_on_wake(uv_poll_t *p, int status, int events)
{
	(void)status;
	(void)events;
	struct mailbox *m = p->data;
	uint64_t n;
	(void)!read(m->wake_fd, &n, sizeof n); /* before the queue is taken: a message that comes later wakes again */
	deliver(m);
}

static void mailbox_on_soon(void *arg)
{
	deliver(arg);
}

static bool is_senders_loop(const struct mailbox *m)
{
	struct loop *here = loop_running();
	return here && loop_uv(here) == m->poll.loop;
}

static void wake_receiver(const struct mailbox *m)
{
	uint64_t one = 1;
	/* EAGAIN cannot be: the receiver would have to miss 2^64 - 2 wake-ups. */
	while (write(m->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
		;
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
	m->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	int rc = m->wake_fd < 0 ? uv_translate_sys_error(errno) : uv_poll_init(loop, &m->poll, m->wake_fd);
	if (!rc)
		rc = uv_poll_start(&m->poll, UV_READABLE, mailbox_on_wake);
	if (rc) {
		log_line(LOG_ERROR, "mailbox: eventfd failed: %s", uv_strerror(rc));
		exit(71);
	}
	m->poll.data = m;
	loop_task_init(&m->soon, mailbox_on_soon, m);
	return m;
}

bool mailbox_send(struct mailbox *m, const void *msg, bool force)
{
	bool is_here = is_senders_loop(m);
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
	bool must_wake = is_taken && was_empty && !is_here;
	if (must_wake)
		atomic_fetch_add_explicit(&m->n_waking, 1, memory_order_relaxed);
	pthread_mutex_unlock(&m->lock);
	if (must_wake) { /* outside the lock: the receiver, which runs at once, would wait for it */
		wake_receiver(m);
		atomic_fetch_sub_explicit(&m->n_waking, 1, memory_order_release);
	} else if (is_taken && was_empty) {
		loop_soon(loop_running(), &m->soon);
	}
	return is_taken;
}

void mailbox_refuse(struct mailbox *m)
{
	pthread_mutex_lock(&m->lock);
	m->is_refusing = true;
	pthread_mutex_unlock(&m->lock);
	/* Then no sender touches the descriptor any more: those that were accepted are one system call away. */
	while (atomic_load_explicit(&m->n_waking, memory_order_acquire) > 0)
		sched_yield();
}

void mailbox_drain(struct mailbox *m)
{
	while (deliver(m) > 0)
		;
}

static void mailbox_on_closed(uv_handle_t *h)
{
	struct mailbox *m = h->data;
	close(m->wake_fd);
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
	loop_task_drop(&m->soon);
	uv_poll_stop(&m->poll);
	uv_close((uv_handle_t *)&m->poll, mailbox_on_closed);
}

size_t mailbox_length(struct mailbox *m)
{
	pthread_mutex_lock(&m->lock);
	size_t n = m->in.n;
	pthread_mutex_unlock(&m->lock);
	return n;
}
