/* io/mailbox - bounded queue of fixed-size messages into one loop.
 * Any thread sends; the loop that opened it receives. Wakes only on empty -> non-empty; one round delivers only
 * what was queued at the wake.
 * Messages are copied by value; pointers in them change owner as the message type says. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

struct mailbox;
typedef void mailbox_fn(void *arg, const void *msg);
/* Called after the last message of one delivery round (NULL = not wanted): the place to run what was batched. */
typedef void mailbox_end_fn(void *arg);

struct mailbox *mailbox_open(
	uv_loop_t *loop, size_t msg_size, size_t limit, mailbox_fn *fn, mailbox_end_fn *end, void *arg);
/* False when full or refusing (the message stays the sender's). `force` = ignore the limit: for replies that the
 * receiver itself asked for. */
bool mailbox_send(struct mailbox *m, const void *msg, bool force);
void mailbox_refuse(struct mailbox *m); /* from now on mailbox_send answers false */
/* Owner thread, after mailbox_refuse: delivers what is left to fn. */
void mailbox_drain(struct mailbox *m);
/* Owner thread: closes the handle; memory is freed when the loop has closed it. The owner must make sure that
 * nobody sends any more. */
void mailbox_close(struct mailbox *m);
size_t mailbox_length(struct mailbox *m);
