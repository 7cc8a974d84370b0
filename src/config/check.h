/* check - what no single setting can tell: derived values, and rules between settings.
 * Looks up groups and the host name; otherwise pure. One thread at a time:
 * the look-ups are the C library's. */
#pragma once
#include "config/raw.h"

/* Completes c (derived values, node id) and checks it. env is where $POD_NAME and $POD_IP are looked up; NULL = none.
 * ERR_INVALID or ERR_RANGE with the whole line. */
enum err_code check_config(struct config *c, char *const *env, struct err *err);
/* Before there is a config: at least one service, and every service has a name. */
enum err_code check_services(const struct raw *raw, struct err *err);
