/* io/mailbox - bounded queue of fixed-size messages into one loop.
 * Any thread sends; the loop that opened it receives. Wakes only on empty -> non-empty; one round delivers only
 * what was queued at the wake. Messages are copied by value; pointers in them change owner as the message type
 * says. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

struct mailbox;
typedef void mailbox_fn(void *arg, const void *msg);
/* Called after the last message of one delivery round (NULL = not wanted): the place to run what was batched. */
typedef void mailbox_end_fn(void *arg);

/* Opens a mailbox of messages of msg_size bytes on the loop of the calling thread; at most `limit` wait. fn gets
 * each, end follows a round; both with arg. Want of descriptors ends the process (exit 71). Ends with mailbox_close. */
struct mailbox *mailbox_open(
	uv_loop_t *loop, size_t msg_size, size_t limit, mailbox_fn *fn, mailbox_end_fn *end, void *arg);
/* Wakes the loop; a sender that runs on that very loop costs no system call: what it sends is delivered when the
 * present round of callbacks is over. False when full or refusing (the message stays the sender's). `force` = ignore
 * the limit: for replies that the receiver itself asked for. */
bool mailbox_send(struct mailbox *m, const void *msg, bool force);
/* From now on mailbox_send answers false. Returns when no sender touches the mailbox's handle any more. Any thread
 * but a sender in the middle of mailbox_send. */
void mailbox_refuse(struct mailbox *m);
/* Owner thread, after mailbox_refuse: delivers what is left to fn. */
void mailbox_drain(struct mailbox *m);
/* Owner thread: closes the handle; memory is freed when the loop has closed it. The owner must make sure that
 * nobody sends any more. */
void mailbox_close(struct mailbox *m);
/* Messages that wait now. Any thread. */
size_t mailbox_length(struct mailbox *m);
