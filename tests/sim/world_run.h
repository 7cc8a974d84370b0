/* world_run - one random run: a world that a seed makes up, a storm, then calm, and what must be true at the end. */
#pragma once
#include "sim/world.h"

enum world_size { WORLD_SHORT, WORLD_LONG };

/* True: all is well. Else what failed and the end of the trace (when told) go to stderr. */
bool run_seed(uint64_t seed, enum world_size size, enum world_bug bug, bool tell);
/* Names the seed when the process dies: by an assertion, or after so many seconds without an end of a run. */
void run_watch(unsigned seconds);
