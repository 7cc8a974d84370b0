/* state_store - workers' connections outlive the process: the service manager keeps them, and what belongs to
 * them, from one process to the next. Coordinator thread.
 *
 * Happy path: handover -> each connection that can go on is stored as conn-<n>, then a sealed memory file as
 * `state`; the next
 *   process takes them with its listening sockets, waits until it knows its own pending entries, and goes on:
 * COORD_ADOPT. Failure: what cannot be stored is closed and its worker reconnects, as without a manager. State that
 * is unknown, damaged, of
 *   another node or too old is dropped with one line, its connections are closed. A process that dies before it
 * has adopted leaves
 *   everything to the next. */
#pragma once
#include "io/notify.h"
#include "run/daemon.h"

enum { STATE_STORE_AGE_MS = 60000 };

/* Takes the descriptors of fds that are ours (conn-*, state) and sets them to -1. */
void state_store_take(struct daemon *d, struct notify_fd *fds, size_t n);
/* After each turn: adopts when it is time to. */
void state_store_try(struct daemon *d);
/* At the end of a handover, before the worker socket closes. */
void state_store_save(struct daemon *d);
/* Closes descriptors that nobody has taken. NULL is fine. */
void state_store_free(struct state_store *s);
