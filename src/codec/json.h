/* json - memory for yyjson: what does not fit into memory ends the process (base/mem), it is never taken for bad JSON.
 * And what it refuses without saying where. Any thread. What yyjson wrote with it is freed by mem_free. */
#pragma once
#include <yyjson.h>

extern const yyjson_alc json_alc;

/* The first escape from p on that is half of a surrogate pair, such as "\ud800" alone; NULL: there is none. */
const char *json_find_lone(const char *p, const char *end);
