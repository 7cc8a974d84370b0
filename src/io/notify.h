/* io/notify - the service manager: sd_notify datagrams, watchdog period, passed descriptors, descriptor store. No library.
 * Coordinator thread. Without $NOTIFY_SOCKET everything is a no-op. Never blocks. */
#pragma once
#include "base/mono.h"
#include <stdbool.h>
#include <stddef.h>

bool notify_is_on(void);
void notify_send(const char *state); /* "READY=1\nSTATUS=…" */
void notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Half of $WATCHDOG_USEC when it is meant for us, else 0. */
mono_ms notify_watchdog_ms(void);
/* Puts a descriptor into the manager's store under a name, or removes all of that name. */
void notify_store(const char *name, int fd);
void notify_unstore(const char *name);
/* Descriptors passed by $LISTEN_FDS; names by $LISTEN_FDNAMES. Sets FD_CLOEXEC, unsets the variables. */
struct notify_fd {
	int fd;
	char name[64];
};
size_t notify_take_fds(struct notify_fd *out, size_t cap);
