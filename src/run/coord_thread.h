/* coord_thread - the coordinator's thread (main): owns the loop, the core, the doors and the shards' threads.
 *
 * Happy path: topology -> shards start -> workers come -> entries flow; signals, the control socket and the service
 *   manager are served beside it. Every event becomes one coord_step, every effect is performed after it.
 * Failure: what cannot be opened at start is one error line and an exit status; later failures are the core's
 * business. */
#pragma once
#include "config/config.h"
#include "core/coord/coord_p.h"
#include "run/msg.h"

struct daemon; /* what the doors may look at: daemon.h */

/* Runs until told to stop. Takes c. Returns the exit status. */
int coord_thread_main(const char *config_path, struct config *c);
