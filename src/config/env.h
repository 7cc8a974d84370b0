/* env - SLUICED_SECTION__KEY variables: they override the file. Pure over the given environment;
 * any thread. */
#pragma once
#include "config/raw.h"

/* Every variable SLUICED_… with "__" in its name must be a setting. Lists are separated by commas. A service is named
 * by its number: SLUICED_SERVICES__0__LEASE__TTL; the first number past the file's adds a service.
 * env is like environ, or NULL. ERR_INVALID with the whole line. */
enum err_code env_apply(struct raw *raw, char *const *env, struct err *err);
/* The value of a variable, or NULL. */
const char *env_get(char *const *env, const char *name);
