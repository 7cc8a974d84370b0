/* memory - libuv, hiredis and OpenSSL take their memory from base/mem, so that want of it ends the process with
 * one line wherever it is met. Set once, before a second thread. */
#pragma once

/* Once, first thing in main: what was allocated before would be freed by another function. */
void memory_for_libraries(void);
