/* readiness - what the service manager sees besides the calls of daemon.h. Coordinator thread. */
#pragma once
#include "base/mono.h"

/* How often service_tick must run: once a second, or oftener when the watchdog asks for it. */
mono_ms service_period_ms(void);
