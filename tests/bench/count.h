/* count - what a process asks of the kernel: system calls by the tracepoint raw_syscalls:sys_enter (perf_event_open, as
 * `perf stat` does), context switches by /proc/PID/task/TID/status. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

enum { COUNT_THREADS = 64 };

struct count {
	pid_t pid;
	int fds[COUNT_THREADS], n_fds;
	double n_switches;
};

struct counted {
	double syscalls, switches; /* of all threads; syscalls -1: the kernel does not let us count them */
};

/* All threads that it has now, and those that they start. */
void count_begin(struct count *c, pid_t pid);
struct counted count_end(struct count *c);
bool count_is_there(void); /* system calls can be counted here */
