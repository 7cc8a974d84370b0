/* io/signals - HUP, TERM, INT, USR1, USR2 into one loop; PIPE is ignored. Owner: the coordinator's thread. */
#pragma once
#include <uv.h>

struct signals;
typedef void signals_fn(void *arg, int signo);
/* First thing in main: HUP, USR1 and USR2, which would end a process that does not watch them yet, wait for
 * signals_open. */
void signals_hold(void);
/* Whatever mask we were started with, the five arrive from now on. */
struct signals *signals_open(uv_loop_t *loop, signals_fn *fn, void *arg);
/* Signals are left to their defaults. NULL is fine. */
void signals_close(struct signals *s);
