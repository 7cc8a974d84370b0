/* sluiced - the daemon's command line: options, configuration, log, limits; then run/coord_thread does the rest. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/secret.h"
#include "base/stdfd.h"
#include "config/config.h"
#include "io/memory.h"
#include "io/redis/conn.h"
#include "io/signals.h"
#include "run/coord_thread.h"
#include "run/fault.h"
#include "run/rules_from_config.h"

enum {
	EXIT_USAGE = 64,
	EXIT_OS = 71,
	EXIT_CONFIG = 78,
	OWN_FDS = 96,
	FDS_A_WORKER = 2 /* its connection, its process */
};
enum action { ACTION_RUN, ACTION_CHECK, ACTION_DUMP, ACTION_DEFAULTS, ACTION_VERSION, ACTION_HELP };

static const char help[] = "usage: sluiced [-c FILE] [--check | --dump-config]\n"
			   "       sluiced --print-defaults | --version | --help\n"
			   "\n"
			   "Leases Redis streams to worker processes. Stays in the foreground.\n"
			   "\n"
			   "  -c, --config FILE  the configuration (default /etc/sluiced.yaml)\n"
			   "      --check        validate it and exit\n"
			   "      --dump-config  print the effective values and where each comes from\n"
			   "      --print-defaults  print every setting with its default and range\n"
			   "      --version      print the version\n"
			   "  -h, --help         print this\n"
			   "\n"
			   "Signals: HUP reload, TERM and INT stop, USR1 state to the log, USR2 toggle drain.\n"
			   "See sluiced(8) and sluiced.yaml(5).\n";

/* The status of a failed write, for scripts that redirect us to a full disk. */
static int out(const char *text)
{
	if (fputs(text, stdout) >= 0 && fflush(stdout) == 0)
		return 0;
	fprintf(stderr, "sluiced: cannot write the output: %s\n", strerror(errno));
	return EXIT_OS;
}

static int out_buf(struct buf *b)
{
	int status = out(b->data ? b->data : "");
	buf_fini(b);
	return status;
}

/* Which option getopt stumbled over: a short one is a character, a long one the whole word. */
static int usage(char **argv, int c)
{
	const char *word = optind > 0 ? argv[optind - 1] : "";
	if (c == ':')
		fprintf(stderr, "sluiced: %s needs a value\n", *word ? word : "-c");
	else if (optopt > ' ' && optopt < 127)
		fprintf(stderr, "sluiced: unknown option -%c; see sluiced --help\n", optopt);
	else
		fprintf(stderr, "sluiced: unknown or wrong option %s; see sluiced --help\n", word);
	return EXIT_USAGE;
}

static int sluiced_parse(int argc, char **argv, const char **path, enum action *action)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
		{"check", no_argument, NULL, 256 + ACTION_CHECK}, {"dump-config", no_argument, NULL, 256 + ACTION_DUMP},
		{"print-defaults", no_argument, NULL, 256 + ACTION_DEFAULTS},
		{"version", no_argument, NULL, 256 + ACTION_VERSION}, {"help", no_argument, NULL, 256 + ACTION_HELP},
		{0}};
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, ":c:h", options, NULL)) != -1;) {
		if (c == 'c' && *optarg)
			*path = optarg;
		else if (c == 'c')
			return usage(argv, ':');
		else if (c == 'h')
			*action = ACTION_HELP;
		else if (c >= 256)
			*action = (enum action)(c - 256);
		else
			return usage(argv, c);
	}
	if (optind == argc)
		return 0;
	fprintf(stderr, "sluiced: unexpected argument %s; see sluiced --help\n", argv[optind]);
	return EXIT_USAGE;
}

static void raise_descriptors(unsigned max_sessions)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) != 0)
		return;
	if (l.rlim_cur < l.rlim_max) {
		rlim_t soft = l.rlim_cur;
		l.rlim_cur = l.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &l) != 0)
			l.rlim_cur = soft;
	}
	rlim_t fit = l.rlim_cur > OWN_FDS ? (l.rlim_cur - OWN_FDS) / FDS_A_WORKER : 0;
	if (fit < max_sessions)
		log_line(LOG_WARN, "descriptors limit=%llu is enough for workers=%llu, workers.max_sessions=%u",
			(unsigned long long)l.rlim_cur, (unsigned long long)fit, max_sessions);
}

/* Something that the file names could not be read. is_here: nobody else would find it elsewhere, as the daemon may find
 * credentials and variables that this process has not. Exit status: what another user may read is a warning only. */
static int say_unreadable(const struct config *c, enum err_code code, bool is_here, struct err *err)
{
	if (code == ERR_OK)
		return 0;
	config_place(c, err);
	bool is_sure = is_here && code != ERR_DENIED;
	fprintf(stderr, "%s%s\n", err->text, is_sure ? "" : " (a warning: the daemon may find it)");
	return is_sure ? EXIT_CONFIG : 0;
}

/* What --check finds beside the file itself; the daemon says the last at its start. Exit status. */
static int check_around(const char *path, const struct config *c)
{
	struct err err;
	const char *secret = NULL;
	struct redis_tls *tls = NULL;
	int status = say_unreadable(c, config_password(c, &secret, &err), *c->redis.password.file, &err);
	secret_drop(secret);
	secret = NULL;
	if (!status)
		status = say_unreadable(
			c, config_sentinel_password(c, &secret, &err), *c->redis.sentinel.password.file, &err);
	secret_drop(secret);
	if (!status)
		status = say_unreadable(c, rules_of_tls(c, &tls, &err), true, &err);
	redis_tls_unref(tls);
	if (status)
		return status;
	for (size_t i = 0; i < c->n_services; i++) {
		char odd[CONFIG_ODD_NAME];
		if (config_odd_name(c, i, odd))
			fprintf(stderr, "%s: warning: %s\n", path, odd);
	}
	return 0;
}

static void say_odd_names(const struct config *c)
{
	char odd[CONFIG_ODD_NAME];
	for (size_t i = 0; i < c->n_services; i++)
		if (config_odd_name(c, i, odd))
			log_line(LOG_WARN, "%s", odd);
}

static int with_config(const char *path, enum action action)
{
	struct config *c;
	struct err err;
	enum err_code code = config_load(path, &c, &err);
	if (code != ERR_OK) {
		fprintf(stderr, "%s%s\n", err.text,
			code == ERR_NOT_FOUND ? "; -c names another file, --print-defaults prints one to begin with"
					      : "");
		return config_exit_status(code);
	}
	if (action == ACTION_RUN) {
		log_open(c->log.level, c->log.format);
		signal(SIGPIPE, SIG_IGN);
		umask(0077);
		raise_descriptors(c->workers.max_sessions);
		say_odd_names(c);
		return coord_thread_main(path, c);
	}
	int status = action == ACTION_CHECK ? check_around(path, c) : 0;
	if (status) {
		config_free(c);
		return status;
	}
	struct buf b;
	buf_init(&b);
	if (action == ACTION_DUMP)
		config_dump(c, &b);
	else
		buf_printf(&b, "%s: ok\n", path);
	config_free(c);
	return out_buf(&b);
}

int main(int argc, char **argv)
{
	const char *path = "/etc/sluiced.yaml";
	enum action action = ACTION_RUN;
	int status;
	stdfd_open(O_RDONLY);
	memory_for_libraries();
	if (fault_start(argc, argv, &status))
		return status;
	status = sluiced_parse(argc, argv, &path, &action);
	if (status)
		return status;
	struct buf b;
	buf_init(&b);
	if (action == ACTION_RUN)
		signals_hold();
	switch (action) {
	case ACTION_VERSION:
		return out("sluiced " SLUICE_VERSION "\n");
	case ACTION_HELP:
		return out(help);
	case ACTION_DEFAULTS:
		config_print_defaults(&b);
		return out_buf(&b);
	case ACTION_RUN:
	case ACTION_CHECK:
	case ACTION_DUMP:
		break;
	}
	return with_config(path, action);
}
