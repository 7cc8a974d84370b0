/* sluice-run - a worker of sluiced that runs a command per stream. See sluice_run.h for the map, sluice-run(1) for
 * users. */
#include "bin/sluice_run/sluice_run.h"

#include <errno.h>
#include <string.h>

#include "base/stdfd.h"

enum { EXIT_OSERR = 71 };

int main(int argc, char **argv)
{
	struct run_options opt;
	stdfd_open(O_RDWR); /* the command gets them */
	cli_parse(&opt, argc, argv);
	const bool is_guarded = guard_start(argv, opt.credits, opt.kill_after);
	const int why = errno;
	say_open();
	if (!is_guarded) {
		run_log("sluice-guard: %s", strerror(why));
		return EXIT_OSERR;
	}
	child_setup();
	struct runner r;
	runner_init(&r, &opt);
	int code = runner_loop(&r);
	runner_fini(&r);
	guard_fini();
	say_close();
	return code;
}
