/* endpoint - the shape of an address: host:port, [v6]:port or unix:/path. Pure: nothing is looked up; any
 * thread. */
#pragma once
#include "base/err.h"
#include <stdbool.h>

enum { ENDPOINT_MAX_PATH = 107 }; /* sun_path without its NUL */

/* is_listen: the host must be a numeric address, as it is bound and not dialled. ERR_INVALID, ERR_RANGE. */
enum err_code endpoint_check(const char *text, bool is_listen, struct err *err);
/* The path of "unix:/path", or NULL. */
const char *endpoint_path(const char *text);
