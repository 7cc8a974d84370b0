/* drain - no new work: what an operator, or the end of the process, has asked for.
 * Pure. Owner: the coordinator's thread; read by the views of run/, which live on it. Times: monotonic ms, MONO_NEVER =
 * no end. A drain can be taken back until the process is on its way out (coord_undrain). */
#pragma once
#include "base/mono.h"
#include <stdbool.h>
#include <stdint.h>

/* No new work: operate.c. */
struct coord_drain {
	bool is_on, stop_after; /* stop_after: the process ends with it */
	mono_ms began;
	mono_ms end, over; /* workers are told to stop; the process ends whatever is left */
};

/* The end of the process: coord.c, leaving.c. */
struct coord_stop {
	bool is_on;
	mono_ms at;         /* a handover waits for confirmations until then */
	mono_ms listen_end; /* and hears workers at least until then */
	uint32_t n_leaving; /* services whose group has not been told yet that we go */
};
