/* load_p - the two passes of config/load over one document. Pure. bytes: UTF-8 without NUL, the caller's; it need not
 * end with a NUL. */
#pragma once
#include "config/raw.h"

/* libyaml: refuses what has no place in a configuration, notes where each value stands, and makes room for the
 * services. raw->is_empty: there is nothing for load_values. ERR_INVALID with the whole line. */
enum err_code load_structure(struct raw *raw, const char *bytes, size_t len, struct err *err);
/* libcyaml: the text of every value that load_structure has found the place of. ERR_INVALID: the two do not agree. */
enum err_code load_values(struct raw *raw, const char *bytes, size_t len, struct err *err);
