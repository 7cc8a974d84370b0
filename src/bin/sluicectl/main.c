/* sluicectl - asks the daemon over its control socket and prints the answer.
 * Happy path: command line -> one request -> rows -> exit code of the final line. Each failure is one line on stderr.
 */
#include "bin/sluicectl/sluicectl.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/stdfd.h"

enum { VERSION_CAP = 64 };

static int sluicectl_say(const char *text, int code)
{
	struct buf b;
	buf_init(&b);
	buf_str(&b, "sluicectl: ");
	cell_clean(&b, text);
	fprintf(stderr, "%s\n", b.data);
	buf_fini(&b);
	return code;
}

static bool wants_colour(void)
{
	const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
	return isatty(STDOUT_FILENO) && !(no_color && *no_color) && term && strcmp(term, "dumb") != 0;
}

/* Of stdout; 0: it is none, or does not say. */
static size_t terminal_columns(void)
{
	struct winsize w = {0};
	return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 ? w.ws_col : 0;
}

static int print_help(const char *topic)
{
	struct buf b;
	buf_init(&b);
	args_help(&b, topic);
	cell_fold(&b, 0, 0, ARGS_HELP_TEXT);
	out_flush(&b);
	buf_fini(&b);
	return out_failed() ? EXIT_NO : 0;
}

static int print_version(void)
{
	struct buf b;
	buf_init(&b);
	buf_str(&b, "sluicectl " SLUICE_VERSION "\n");
	out_flush(&b);
	buf_fini(&b);
	return out_failed() ? EXIT_NO : 0;
}

/* It deletes for ever, and somebody who can be asked stands before it. A script is not asked: it gets what it says. */
static bool has_to_ask(const struct ctl_options *o)
{
	const enum ctl_verb verb = o->request.verb;
	return (verb == CTL_VERB_DLQ_PURGE || verb == CTL_VERB_ENTRIES_DLQ_PURGE || verb == CTL_VERB_DELAYED_DROP) &&
	       !o->request.dry_run && !o->yes && !o->is_top && isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
}

static bool is_agreed(const struct ctl_options *o)
{
	const bool is_part = o->request.given & ~(1u << CTL_ARG_SERVICE | 1u << CTL_ARG_RATE);
	char answer[16] = "";
	fprintf(stderr, "sluicectl: %s deletes %s, for ever; --dry-run shows it, --yes does not ask. Delete? [y/N] ",
		ctl_verb_info(o->request.verb)->name, is_part ? "what the filters match" : "all of the service");
	fflush(stderr);
	return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static bool take_version(void *arg, yyjson_val *row, const char *line, size_t len)
{
	(void)line, (void)len;
	snprintf(arg, VERSION_CAP, "%s", cell_string(row, "version"));
	return true;
}

/* A verb or an option that is ours and not the daemon's: it is another version. The answer with which ones. */
static void say_versions(const struct ctl_options *o, struct err *err)
{
	if (strncmp(err->text, "unknown verb \"", 14) != 0 && !strstr(err->text, ": unknown argument \""))
		return;
	struct ctl_request r;
	struct err said = *err, ignored = {0};
	char version[VERSION_CAP] = "";
	ctl_request_init(&r, CTL_VERB_VERSION);
	conn_ask(o, &r, false, take_version, version, &ignored);
	ctl_request_fini(&r);
	if (*version)
		err_set(err, said.code, "%.300s: this is sluiced %s, and sluicectl " SLUICE_VERSION, said.text,
			version);
	else
		err_set(err, said.code, "%.300s: sluiced is another version than sluicectl " SLUICE_VERSION, said.text);
}

static int run(const struct ctl_options *o)
{
	struct err err = {0};
	int code;
	if (has_to_ask(o) && !is_agreed(o))
		return sluicectl_say("nothing was deleted", EXIT_NO);
	if (o->is_top) {
		code = top_run(o, &err);
	} else {
		struct view *v = view_new(o);
		bool is_stream = o->request.follow || o->request.wait;
		code = conn_ask(o, &o->request, is_stream, view_row, v, &err);
		if (code == EXIT_USAGE)
			say_versions(o, &err);
		view_finish(v, code, err.text[0] != 0);
		view_free(v);
	}
	if (err.text[0])
		sluicectl_say(err.text, code);
	return code == 0 && out_failed() ? EXIT_NO : code;
}

/* topic: the verb whose help tells more; NULL = everybody's. */
static void say_usage(const char *problem, const char *topic)
{
	char line[sizeof(struct err)];
	if (topic)
		snprintf(line, sizeof line, "%.400s; see sluicectl help %s", problem, topic);
	else
		snprintf(line, sizeof line, "%.400s; see sluicectl --help", problem);
	sluicectl_say(line, EXIT_USAGE);
}

int main(int argc, char **argv)
{
	struct ctl_options o;
	struct err err = {0};
	const char *topic;
	int code = EXIT_USAGE;
	stdfd_open(O_RDONLY);
	signal(SIGPIPE, SIG_IGN);
	cell_use_colour(wants_colour());
	cell_use_columns(terminal_columns());
	switch (args_parse(argc, argv, &o, &topic, &err)) {
	case ARGS_RUN:
		code = run(&o);
		break;
	case ARGS_HELP:
		code = print_help(topic);
		break;
	case ARGS_VERSION:
		code = print_version();
		break;
	case ARGS_BAD:
		say_usage(err.text, topic);
		break;
	}
	ctl_request_fini(&o.request);
	return code;
}
