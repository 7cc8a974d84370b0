/* bench - what sluiced costs, beside the floor that Redis and the kernel set on this machine in the same run.
 *
 *   bench [-q] [-d DAEMON] [-l LAST] [-o FILE.json] [-r REPEATS] [-s SECONDS] [-x SCALE] [CASE...]
 *
 * CASE: letters of a to n, all without; b1k b10k b50k b100k, c10 c100 c1000 c5000, h1 h100 h10k, l20k l20k-coalesce
 * alone too. SECONDS: how long (b) holds and,
 * up to 10, (c) keeps its rate. LAST: the last release's daemon, measured in the same repeats. -q: once, for 3 s, a fifth of
 * the numbers: to see a difference while one works on it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench/cases.h"
#include "bench/count.h"

struct options {
	const char *daemon, *last, *json, *only;
	int repeats;
	double seconds, scale;
};

static _Noreturn void usage(int code)
{
	fputs("usage: bench [-q] [-d DAEMON] [-l LAST] [-o FILE.json] [-r REPEATS] [-s SECONDS] [-x SCALE] [CASE...]\n"
	      "cases: a throughput, b leases held (b1k b10k b50k b100k), c rates (c10 c100 c1000 c5000), d recovery,\n"
	      "e start, f churn, g throughput and leases on three masters, h entries (h1 h100 h10k), i idle streams "
	      "in\n"
	      "entries mode, j kill in entries mode, k delayed entries, l many of one stream (l20k l20k-coalesce), m "
	      "outage of the\n"
	      "workers, n bad entry, o keys in turn, p many services and workers; without: all\n",
		code ? stderr : stdout);
	exit(code);
}

static double number(const char *text, double lo, double hi)
{
	char *end;
	double v = strtod(text, &end);
	if (*end || v < lo || v > hi)
		usage(64);
	return v;
}

static void parse(int argc, char **argv, struct options *o)
{
	*o = (struct options){"build/sluiced", NULL, "build/bench.json", "", 3, 60, 1};
	for (int c; (c = getopt(argc, argv, "qd:l:o:r:s:x:h")) != -1;) {
		if (c == 'q')
			o->repeats = 1, o->seconds = 3, o->scale = 0.2;
		else if (c == 'd')
			o->daemon = optarg;
		else if (c == 'l')
			o->last = optarg;
		else if (c == 'o')
			o->json = optarg;
		else if (c == 'r')
			o->repeats = (int)number(optarg, 1, REPORT_REPEATS);
		else if (c == 's')
			o->seconds = number(optarg, 1, 3600);
		else if (c == 'x')
			o->scale = number(optarg, 0.001, 100);
		else
			usage(c == 'h' ? 0 : 64);
	}
	static char only[256];
	for (int i = optind; i < argc; i++)
		snprintf(only + strlen(only), sizeof only - strlen(only), " %s ", argv[i]);
	o->only = only;
}

/* Wanted by its own name, or by a letter in a word of letters: "ab". */
static bool is_wanted(const struct options *o, const char *id)
{
	char word[32];
	snprintf(word, sizeof word, " %s ", id);
	if (!o->only[0] || strstr(o->only, word))
		return true;
	for (const char *w = o->only; *w; w++) {
		size_t n = strcspn(w, " ");
		if (n && strspn(w, "abcdefghijklmn") == n && memchr(w, id[0], n))
			return true;
		w += n;
		if (!*w)
			break;
	}
	return false;
}

static void finish(struct bench *b, const struct report_case *c)
{
	report_table(&b->report, c, stdout);
}

static void hold(struct bench *b, const struct options *o, const char *id, uint32_t n, int repeats)
{
	if (!is_wanted(o, id))
		return;
	char title[100];
	snprintf(title, sizeof title, "%.0f leases held for %.0f s at T = 10 s", n * b->scale, b->seconds);
	struct report_case *c = report_case(&b->report, id, title);
	for (int i = 0; i < repeats; i++)
		case_hold(b, c, n);
	finish(b, c);
}

static void simple(struct bench *b, const struct options *o, const char *id, const char *title,
	void (*run)(struct bench *b, struct report_case *c), int repeats)
{
	if (!is_wanted(o, id))
		return;
	char scaled[100];
	if (b->scale == 1)
		snprintf(scaled, sizeof scaled, "%s", title);
	else
		snprintf(scaled, sizeof scaled, "%s; numbers x %g", title, b->scale);
	struct report_case *c = report_case(&b->report, id, scaled);
	for (int i = 0; i < repeats; i++)
		run(b, c);
	finish(b, c);
}

static void latency(struct bench *b, const struct options *o, const char *id, int per_s)
{
	if (!is_wanted(o, id))
		return;
	char title[100];
	snprintf(title, sizeof title, "XADD to assign at %d streams per second", per_s);
	struct report_case *c = report_case(&b->report, id, title);
	for (int i = 0; i < b->repeats; i++)
		case_latency(b, c, per_s);
	finish(b, c);
	puts(count_is_there() ? "  system calls: tracepoint raw_syscalls:sys_enter; context switches: "
				"/proc/PID/task/TID/status"
			      : "  system calls are not counted: the kernel does not let us (perf_event_open, tracefs: "
				"root)");
}

static void entries(
	struct bench *b, const struct options *o, const char *id, uint32_t n, uint32_t n_entries, double per_s)
{
	if (!is_wanted(o, id))
		return;
	char title[100];
	snprintf(title, sizeof title, "entries mode: %u streams of %u entries; numbers x %g", n, n_entries, b->scale);
	struct report_case *c = report_case(&b->report, id, title);
	for (int i = 0; i < b->repeats; i++)
		case_entries(b, c, n, n_entries, per_s);
	finish(b, c);
}

static void same_stream(struct bench *b, const struct options *o, const char *id, const char *title, bool merges)
{
	if (!is_wanted(o, id))
		return;
	struct report_case *c = report_case(&b->report, id, title);
	for (int i = 0; i < b->repeats; i++)
		case_same_stream(b, c, merges);
	finish(b, c);
}

static void on_one_master(struct bench *b, const struct options *o)
{
	rig_up(&b->rig, o->daemon, o->last, 1);
	snprintf(b->report.redis_version, sizeof b->report.redis_version, "%s", b->rig.redis_version);
	int few = b->repeats < 2 ? 1 : 2; /* the long ones */
	simple(b, o, "a", "50,000 streams through 8 workers of 64 credits", case_throughput, b->repeats);
	hold(b, o, "b1k", 1000, 1);
	hold(b, o, "b10k", 10000, 1);
	hold(b, o, "b50k", 50000, 1);
	hold(b, o, "b100k", 100000, few);
	latency(b, o, "c10", 10);
	latency(b, o, "c100", 100);
	latency(b, o, "c1000", 1000);
	latency(b, o, "c5000", 5000);
	simple(b, o, "d", "10,000 streams of a killed daemon, T = 10 s", case_recovery, few);
	simple(b, o, "e", "start with 50,000 own pending entries", case_start, b->repeats);
	simple(b, o, "f", "1,000 workers, a tenth reconnects every second", case_churn, few);
	entries(b, o, "h1", 1, 200000, 100000);
	entries(b, o, "h100", 100, 3000, 200000);
	entries(b, o, "h10k", 10000, 20, 100000);
	simple(b, o, "i", "10,000 open streams in entries mode, idle", case_idle_entries, few);
	simple(b, o, "j", "1,000 streams, 20,000 entries/s: their daemon is killed, T = 10 s", case_kill_entries, few);
	simple(b, o, "k", "100,000 delayed entries become due", case_delayed, few);
	same_stream(b, o, "l20k", "20,000 entries of a running stream, then another; serialize", false);
	same_stream(b, o, "l20k-coalesce", "the same; coalesce", true);
	simple(b, o, "m", "1,000 streams, their workers fail for a minute", case_outage, 1);
	simple(b, o, "n", "a bad entry among 1,000 of its key; 200 entries/s of 999 other keys", case_bad_entry,
		b->repeats);
	simple(b, o, "o", "200 entries/s of 1,000 keys in turn, a worker of 16 credits", case_keys_in_turn, b->repeats);
	simple(b, o, "p", "1,000 streams/s, 50 services, 1,000 workers; floor: one, eight", case_fleet, b->repeats);
	rig_down(&b->rig);
}

static void on_three_masters(struct bench *b, const struct options *o)
{
	if (!is_wanted(o, "g") && !is_wanted(o, "g10k"))
		return;
	rig_up(&b->rig, o->daemon, o->last, RIG_MASTERS);
	simple(b, o, "g", "50,000 streams through 8 workers of 64 credits, three masters", case_throughput, b->repeats);
	hold(b, o, "g10k", 10000, 1);
	rig_down(&b->rig);
}

int main(int argc, char **argv)
{
	struct options o;
	parse(argc, argv, &o);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	prctl(PR_SET_TIMERSLACK, 1000L, 0L, 0L, 0L);
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (access(o.daemon, X_OK) != 0)
		proc_die("%s is not there: make first", o.daemon);
	if (o.last && access(o.last, X_OK) != 0) {
		fprintf(stderr, "bench: %s is not there: no figures of the last release\n", o.last);
		o.last = NULL;
	}
	static struct bench b;
	b = (struct bench){
		.repeats = o.repeats, .seconds = o.seconds, .scale = o.scale, .report.n_cpus = proc_n_cpus()};
	on_one_master(&b, &o);
	on_three_masters(&b, &o);
	if (!b.report.n_cases)
		usage(64);
	printf("\n%s", report_json(&b.report, o.json) ? "figures: " : "not written: ");
	puts(o.json);
	return 0;
}
