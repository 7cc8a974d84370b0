/* stdfd - descriptors 0, 1 and 2 are there. Header only; libc only. Call it before anything is opened
 * and before a second thread. */
#pragma once
#include <fcntl.h>
#include <unistd.h>

/* Whoever started us without one of them must not find our sockets in its place: what we print would go there. flags:
 * O_RDONLY = writing to one that was closed is an error (EBADF), as if it still were; O_RDWR = it is as good as
 * /dev/null. */
static inline void stdfd_open(int flags)
{
	int fd;
	do
		fd = open("/dev/null", flags);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}
