/* command_argv - the builder that commands are written into. */
#include "codec/command_p.h"

#include "base/mem.h"

struct command_argv *command_argv_new(void)
{
	struct command_argv *a = mem_alloc(sizeof *a);
	buf_init(&a->bytes);
	return a;
}

void command_argv_free(struct command_argv *a)
{
	if (!a)
		return;
	buf_fini(&a->bytes);
	mem_free(a->lens);
	mem_free(a->args);
	mem_free(a);
}

int command_argc(const struct command_argv *a)
{
	return (int)a->n;
}

const char **command_args(const struct command_argv *a)
{
	return a->args;
}

const size_t *command_lens(const struct command_argv *a)
{
	return a->lens;
}
