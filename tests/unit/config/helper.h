/* helper - loads a literal and tells what came of it. */
#pragma once
#include "base/buf.h"
#include "base/mem.h"
#include "config/config.h"
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#define ORDERS "services: [{name: orders}]\n"

static inline void up(void)
{
	alarm(60);
}

/* The config of a document that must be right. env may be NULL. */
static inline struct config *load_env(const char *yaml, char *const *env)
{
	struct config *c = NULL;
	struct err err = {0};
	enum err_code rc = config_load_bytes("t.yaml", yaml, strlen(yaml), env, &c, &err);
	cr_assert(rc == ERR_OK, "%s", err.text);
	return c;
}

static inline struct config *load(const char *yaml)
{
	return load_env(yaml, (char *[]){"POD_NAME=n1", NULL});
}

/* Expects exactly this error line, and that nothing was handed out. */
static inline void expect_bad_env(const char *yaml, size_t len, char *const *env, const char *line)
{
	struct config *c = (struct config *)-1;
	struct err err = {0};
	enum err_code rc = config_load_bytes("t.yaml", yaml, len, env, &c, &err);
	cr_expect(rc == ERR_INVALID || rc == ERR_RANGE, "loaded with %d: %s", rc, yaml);
	cr_expect(rc == err.code, "code of %s", line);
	cr_expect(c == (struct config *)-1, "the output changed: %s", yaml);
	cr_expect(strcmp(err.text, line) == 0, "\n   got: %s\nwanted: %s", err.text, line);
}

static inline void expect_bad(const char *yaml, const char *line)
{
	expect_bad_env(yaml, strlen(yaml), (char *[]){"POD_NAME=n1", NULL}, line);
}
