/* sluice-run - a worker of sluiced that runs a command per stream. See sluice_run.h for the map, sluice-run(1) for
 * users. */
#include "bin/sluice_run.h"

#include <fcntl.h>
#include <unistd.h>

/* Whoever started us without 0, 1 or 2 must not see our sockets there. */
static void open_standard_fds(void)
{
	int fd;
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	struct options opt;
	open_standard_fds();
	cli_parse(&opt, argc, argv);
	guard_start(argv);
	say_open();
	child_setup();
	struct runner r;
	runner_init(&r, &opt);
	int code = runner_loop(&r);
	runner_fini(&r);
	say_close();
	return code;
}
