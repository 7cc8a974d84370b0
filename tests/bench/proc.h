/* proc - processes of a benchmark: start, stop, and what they cost. Everything started dies with us. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

int64_t proc_now_us(void); /* monotonic */
/* Ends the benchmark with a message. */
_Noreturn void proc_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Output goes to the file log. Never fails: dies. */
pid_t proc_start(const char *const *argv, const char *log);
void proc_stop(pid_t pid, int signo); /* and waits; 0 is fine */
bool proc_is_alive(pid_t pid);

double proc_cpu_us(pid_t pid); /* of all its threads, so far; 0 = ourselves */
double proc_rss_bytes(pid_t pid);
double proc_machine_us(void); /* all CPUs, all processes, so far */
int proc_n_cpus(void);
