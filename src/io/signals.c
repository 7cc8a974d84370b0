/* Happy path: five uv_signal handles, one callback. Failure: only for want of memory or descriptors: exit 71. */
#include "io/signals.h"

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"

static const int wanted[] = {SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
enum { N_WANTED = sizeof(wanted) / sizeof(wanted[0]) };

struct signals {
	uv_signal_t handle[N_WANTED];
	int n_open;
	signals_fn *fn;
	void *arg;
};

static void signals_on_signal(uv_signal_t *h, int signo)
{
	struct signals *s = h->data;
	s->fn(s->arg, signo);
}

static void mask(int how, bool with_stop)
{
	sigset_t set;
	sigemptyset(&set);
	for (int i = 0; i < N_WANTED; i++)
		if (with_stop || (wanted[i] != SIGTERM && wanted[i] != SIGINT))
			sigaddset(&set, wanted[i]);
	pthread_sigmask(how, &set, NULL);
}

void signals_hold(void)
{
	mask(SIG_BLOCK, false);
}

struct signals *signals_open(uv_loop_t *loop, signals_fn *fn, void *arg)
{
	struct signals *s = mem_alloc(sizeof(*s));
	s->fn = fn;
	s->arg = arg;
	signal(SIGPIPE, SIG_IGN);
	for (; s->n_open < N_WANTED; s->n_open++) {
		uv_signal_t *h = &s->handle[s->n_open];
		h->data = s;
		int rc = uv_signal_init(loop, h);
		if (rc == 0)
			rc = uv_signal_start(h, signals_on_signal, wanted[s->n_open]);
		if (rc) {
			log_line(LOG_ERROR, "signals: cannot watch signal %d: %s", wanted[s->n_open], uv_strerror(rc));
			exit(71);
		}
		h->data = s;
	}
	mask(SIG_UNBLOCK, true);
	return s;
}

static void signals_on_closed(uv_handle_t *h)
{
	struct signals *s = h->data;
	if (--s->n_open == 0)
		mem_free(s);
}

void signals_close(struct signals *s)
{
	if (!s)
		return;
	for (int i = 0; i < N_WANTED; i++)
		uv_close((uv_handle_t *)&s->handle[i], signals_on_closed);
}
