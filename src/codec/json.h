/* json - memory for yyjson: what does not fit into memory ends the process (base/mem), it is never taken for bad JSON.
 * Any thread. What yyjson wrote with it is freed by mem_free. */
#pragma once
#include <yyjson.h>

extern const yyjson_alc json_alc;
