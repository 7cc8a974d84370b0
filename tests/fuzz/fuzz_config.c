/* fuzz_config - any bytes either load or fail with one line; what loads can be dumped and loaded again. */
#include "base/buf.h"
#include "config/config.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int claim)
{
	if (!claim)
		abort();
}

/* The first line may be a variable: "#SLUICED_A__B=c". */
static char *variable_of(const char *bytes, size_t len)
{
	const char *end = memchr(bytes, '\n', len);
	if (!end || len < 9 || memcmp(bytes, "#SLUICED_", 9) != 0)
		return NULL;
	return strndup(bytes + 1, (size_t)(end - bytes) - 1);
}

static void again(const struct config *c)
{
	struct buf b;
	struct err err = {0};
	struct config *copy = NULL;
	struct config_change *changes = NULL;
	buf_init(&b);
	config_dump(c, &b);
	if (config_load_bytes("dump", b.data, b.len, NULL, &copy, &err) == ERR_OK) {
		expect(config_diff(c, copy, &changes) == 0);
		config_free(copy);
	} else {
		expect(b.len > 1 << 20); /* a dump may be longer than a file may be */
	}
	config_changes_free(changes, 0);
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *bytes = (const char *)data;
	char *variable = variable_of(bytes, size);
	char *env[] = {"POD_NAME=n", variable, NULL};
	struct config *c = NULL;
	struct err err = {0};
	enum err_code rc = config_load_bytes("fuzz", bytes, size, env, &c, &err);
	expect(rc == ERR_OK ? c != NULL : c == NULL && err.text[0] && !strchr(err.text, '\n'));
	if (c)
		again(c);
	config_free(c);
	free(variable);
	return 0;
}
