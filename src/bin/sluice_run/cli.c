/* cli - the command line, its help and its mistakes. */
#include "bin/sluice_run/sluice_run.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/duration.h"
#include "base/mem.h"

enum { EXIT_USAGE = 64, EXIT_OSERR = 71 };

static const char DEFAULT_SOCKET[] = "/run/sluiced/worker.sock";

static const char USAGE[] = "usage: sluice-run [-s SOCKET] [-n CREDITS] [--service NAME]... [--kill-after DUR]\n"
			    "                  [--on-term finish|release] [--name NAME] [--each|--batch|--feed]\n"
			    "                  [--fields=object|env] -- COMMAND [ARG...]\n";

static const char HELP[] =
	"\n"
	"Runs COMMAND once for every stream that sluiced assigns.\n"
	"\n"
	"  -s, --socket SOCKET    sluiced's worker socket, else $SLUICED_WORKER (/run/sluiced/worker.sock)\n"
	"  -n, --credits CREDITS  streams worked on at once, 1 to 10000 (1)\n"
	"      --service NAME     only this service; may be given more than once (all)\n"
	"      --kill-after DUR   SIGKILL this long after SIGTERM, if the daemon's grace is not shorter\n"
	"      --on-term WHAT     at our own SIGTERM: finish what runs, or release: stop it and\n"
	"                         give its stream back, not counted (finish)\n"
	"      --name NAME        our name in sluicectl (COMMAND@HOST:PID)\n"
	"      --each             entries mode: COMMAND once per entry, in order, its JSON on stdin\n"
	"      --batch            entries mode: once per batch, one JSON line per entry\n"
	"      --feed             entries mode: once per stream; entries as lines on stdin, ids to\n"
	"                         acknowledge, one a line, on descriptor 3 ($SLUICE_ACK_FD)\n"
	"      --fields object|env  fields as an object, or as SLUICE_F_<NAME> too (--each)\n"
	"  -h, --help             print this\n"
	"      --version          print the version\n"
	"\n"
	"COMMAND gets the stream's Info as JSON on stdin and SLUICE_SERVICE, SLUICE_STREAM,\n"
	"SLUICE_ID, SLUICE_TOKEN, SLUICE_RETRY and SLUICE_LEASE in its environment. It exits\n"
	"0: done; 75: give back, not counted; 65: failed, never again; anything else: failed,\n"
	"again later. See sluice-run(1).\n";

static _Noreturn void usage_error(const char *what, const char *value)
{
	fprintf(stderr, "sluice-run: %s%s%s; see sluice-run --help\n", what, value ? ": " : "", value ? value : "");
	exit(EXIT_USAGE);
}

/* 500ms, 10s, 5m, 1h; up to a day. */
static mono_ms cli_parse_duration(const char *text)
{
	const mono_ms day = 86400000;
	int64_t ms;
	if (!duration_parse(text, &ms) || ms > day)
		usage_error("--kill-after wants a duration like 500ms, 10s or 5m, at most 24h", text);
	return ms;
}

static int parse_credits(const char *text)
{
	char *end;
	errno = 0;
	long n = strtol(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno || n < 1 || n > FRAME_CREDITS_MAX)
		usage_error("-n wants a number of streams, 1 to 10000", text);
	return (int)n;
}

static void set_mode(struct run_options *opt, enum mode mode)
{
	if (opt->mode != MODE_STREAM && opt->mode != mode)
		usage_error("only one of --each, --batch and --feed", NULL);
	opt->mode = mode;
}

static enum fields_as parse_fields(const char *text)
{
	if (strcmp(text, "object") != 0 && strcmp(text, "env") != 0)
		usage_error("--fields wants object or env", text);
	return strcmp(text, "env") == 0 ? FIELDS_ENV : FIELDS_OBJECT;
}

/* In containers the process id is 1 everywhere, and the host's name is the pod's: only all three tell workers apart. */
static void name_ourselves(struct run_options *opt)
{
	const char *slash = strrchr(opt->command[0], '/'), *pod = getenv("POD_NAME");
	char host[256] = "";
	if (pod && *pod)
		snprintf(host, sizeof(host), "%s", pod);
	else if (gethostname(host, sizeof(host) - 1) != 0)
		host[0] = '\0';
	snprintf(opt->name, sizeof(opt->name), "%.50s@%.60s:%d", slash ? slash + 1 : opt->command[0], host,
		(int)getpid());
}

static bool parse_on_term(const char *text)
{
	bool gives_back = strcmp(text, "release") == 0;
	if (!gives_back && strcmp(text, "finish") != 0)
		usage_error("--on-term wants finish or release", text);
	return gives_back;
}

static void check(struct run_options *opt)
{
	if (opt->fields != FIELDS_PAIRS && opt->mode == MODE_STREAM)
		usage_error("--fields needs --each, --batch or --feed", NULL);
	if (opt->fields == FIELDS_ENV && opt->mode != MODE_EACH)
		usage_error("--fields=env needs --each", NULL);
	if (!opt->command[0])
		usage_error("no COMMAND", NULL);
	if (!opt->socket[0] || strlen(opt->socket) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		usage_error("a socket's path has 1 to 107 bytes", opt->socket);
	if (!opt->name[0])
		name_ourselves(opt);
}

/* The status of a failed write, for scripts that redirect us to a full disk. */
static int out_flushed(void)
{
	if (fflush(stdout) == 0)
		return EXIT_SUCCESS;
	fprintf(stderr, "sluice-run: cannot write the output: %s\n", strerror(errno));
	return EXIT_OSERR;
}

void cli_parse(struct run_options *opt, int argc, char **argv)
{
	static const struct option longs[] = {{"socket", required_argument, NULL, 's'},
		{"credits", required_argument, NULL, 'n'}, {"service", required_argument, NULL, 'S'},
		{"kill-after", required_argument, NULL, 'k'}, {"name", required_argument, NULL, 'N'},
		{"on-term", required_argument, NULL, 't'}, {"each", no_argument, NULL, 'E'},
		{"batch", no_argument, NULL, 'B'}, {"feed", no_argument, NULL, 'F'},
		{"fields", required_argument, NULL, 'f'}, {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'}, {0}};
	const char *socket = getenv("SLUICED_WORKER");
	*opt = (struct run_options){
		.socket = socket && *socket ? socket : DEFAULT_SOCKET, .credits = 1, .kill_after = MONO_NEVER};
	opt->services = mem_array((size_t)argc, sizeof(*opt->services));
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, "+:hs:n:", longs, NULL)) != -1;) {
		if (c == 's')
			opt->socket = optarg;
		else if (c == 'n')
			opt->credits = parse_credits(optarg);
		else if (c == 'S')
			opt->services[opt->n_services++] = optarg;
		else if (c == 'k')
			opt->kill_after = cli_parse_duration(optarg);
		else if (c == 't')
			opt->gives_back = parse_on_term(optarg);
		else if (c == 'N')
			snprintf(opt->name, sizeof(opt->name), "%s", optarg);
		else if (c == 'E' || c == 'B' || c == 'F')
			set_mode(opt, c == 'E' ? MODE_EACH : c == 'B' ? MODE_BATCH : MODE_FEED);
		else if (c == 'f')
			opt->fields = parse_fields(optarg);
		else if (c == 'h' || c == 'V') {
			printf("%s%s", c == 'h' ? USAGE : "sluice-run " SLUICE_VERSION "\n", c == 'h' ? HELP : "");
			exit(out_flushed());
		} else
			usage_error(c == ':' ? "option needs a value" : "unknown option", argv[optind - 1]);
	}
	opt->command = argv + optind;
	check(opt);
}
