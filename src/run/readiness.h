/* readiness - what the service manager sees besides the calls of daemon.h. Coordinator thread. */
#pragma once
#include "base/mono.h"

/* How often service_tick must run: once a second, or oftener when the watchdog asks for it. */
mono_ms service_period_ms(void);

struct daemon;
/* After each turn of the coordinator: says that the daemon is ready as soon as it is, once; later changes are said by
 * service_tick. */
void service_begin(struct daemon *d);
