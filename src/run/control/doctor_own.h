/* doctor_own - the part of doctor that asks nobody: what the daemon itself knows. Coordinator thread. */
#pragma once
#include "run/daemon.h"

/* One row; the texts are the caller's, advice may be NULL. */
typedef void doctor_say_fn(void *arg, const char *check, const char *result, const char *found, const char *advice);
/* Rows "slots", "sentinel" (only behind Sentinel) and "leases", in that order. */
void doctor_own(struct daemon *d, doctor_say_fn *say, void *arg);
