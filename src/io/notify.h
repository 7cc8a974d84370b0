/* io/notify - the service manager: sd_notify datagrams, watchdog period, passed descriptors, descriptor store. No
 * library. Coordinator thread. Without $NOTIFY_SOCKET everything is a no-op. Never blocks, but for notify_store
 * and notify_barrier, which wait as they say. */
#pragma once
#include "base/mono.h"
#include <stdbool.h>
#include <stddef.h>

/* Is there a service manager that listens (NOTIFY_SOCKET)? */
bool notify_is_on(void);
/* "READY=1\nSTATUS=…": sent, or kept until it can be; at most 599 bytes. */
void notify_send(const char *state);
/* Sends what could not be sent before; once a second, and at the end. */
void notify_again(void);
/* What `systemctl status` shows as Status. Cut at 500 bytes; newlines become blanks. */
void notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Half of $WATCHDOG_USEC when it is meant for us, else 0. */
mono_ms notify_watchdog_ms(void);
/* How many descriptors the manager keeps for us: 0 = none; a manager that does not say may keep some. */
size_t notify_store_max(void);
/* Puts a descriptor into the manager's store under a name, or removes all of that name. False: not sent; both wait
 * for room in the manager's queue, at most 200 ms. */
bool notify_store(const char *name, int fd);
/* Takes the descriptors of that name out of the manager's store. False: it could not be told. */
bool notify_unstore(const char *name);
/* Waits until the manager has handled everything that was sent before. False: it did not in time. */
bool notify_barrier(mono_ms wait_ms);
/* Descriptors passed by $LISTEN_FDS; names by $LISTEN_FDNAMES. Sets FD_CLOEXEC, unsets the variables. */
struct notify_fd {
	int fd;
	char name[64];
};
/* Descriptors that the manager has passed, at most cap; they are the caller's, and close on exec. The environment
 * forgets them: a second call finds none. */
size_t notify_take_fds(struct notify_fd *out, size_t cap);
