/* Four threads send into one loop; every message arrives once, each sender's in order. For ThreadSanitizer. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/loop.h"
#include "io/mailbox.h"

enum { N_SENDERS = 4, N_EACH = 20000, LIMIT = 256 };

struct msg {
	int from, n;
};

static struct mailbox *box;
static struct loop *loop;
static int next[N_SENDERS];
static int n_got, n_rounds;

static void fail(const char *what)
{
	printf("failed: %s\n", what);
	exit(1);
}

static void on_msg(void *arg, const void *bytes)
{
	(void)arg;
	const struct msg *m = bytes;
	if (m->n != next[m->from]++)
		fail("order");
	n_got++;
}

static void on_end(void *arg)
{
	(void)arg;
	n_rounds++;
	if (n_got == N_SENDERS * N_EACH)
		loop_stop(loop);
}

static void *sender(void *arg)
{
	struct msg m = {.from = *(int *)arg};
	for (m.n = 0; m.n < N_EACH; m.n++)
		while (!mailbox_send(box, &m, m.n % 100 == 0))
			sched_yield();
	return NULL;
}

static void on_deadline(void *arg, mono_ms now)
{
	(void)arg;
	(void)now;
	fail("not done after 60 s");
}

int main(void)
{
	loop = loop_new("test", on_deadline, NULL);
	loop_wake_at(loop, mono_now() + 60000);
	box = mailbox_open(loop_uv(loop), sizeof(struct msg), LIMIT, on_msg, on_end, NULL);
	pthread_t threads[N_SENDERS];
	int ids[N_SENDERS];
	for (int i = 0; i < N_SENDERS; i++) {
		ids[i] = i;
		if (pthread_create(&threads[i], NULL, sender, &ids[i]))
			fail("pthread_create");
	}
	loop_run(loop);
	for (int i = 0; i < N_SENDERS; i++)
		pthread_join(threads[i], NULL);
	if (mailbox_length(box) != 0 || n_rounds > n_got)
		fail("left over");
	mailbox_refuse(box);
	if (mailbox_send(box, &(struct msg){0}, true))
		fail("accepted while refusing");
	mailbox_close(box);
	loop_free(loop);
	puts("ok");
	return 0;
}
