/* sluice-run - a worker of sluiced that runs a command per stream. See sluice_run.h for the map, sluice-run(1) for
 * users. */
#include "bin/sluice_run/sluice_run.h"

#include "base/stdfd.h"

int main(int argc, char **argv)
{
	struct run_options opt;
	stdfd_open(O_RDWR); /* the command gets them */
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
