/* report - what was measured, beside its references: medians and spread over repeats, a table, build/bench.json.
 * Noise only makes figures worse, so a goal that is reached on a noisy machine is reached; one that is missed there is
 * "no conclusion". Single thread. Promise: nothing is judged by a single lucky repeat: medians only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { REPORT_REPEATS = 15, REPORT_ROWS = 32, REPORT_CASES = 32 };

enum goal { GOAL_NONE, GOAL_AT_LEAST, GOAL_AT_MOST };
enum verdict { VERDICT_NONE, VERDICT_HOLDS, VERDICT_MISSED, VERDICT_UNCLEAR };

/* What a figure is held against, each measured in the same repeat. */
enum report_ref {
	REF_FLOOR, /* the same commands, by a loop that decides nothing */
	REF_LAST,  /* the last release's daemon */
	REF_PLAIN, /* a consumer group by itself: XREADGROUP, XACK, nobody owns anything */
	N_REFS
};

enum goal_of { GOAL_OF_VALUE, GOAL_OF_RATIO, GOAL_OF_EXCESS, GOAL_OF_LAST }; /* / floor, - floor, / the last release */

struct report_row {
	char figure[48], unit[16];
	double value[REPORT_REPEATS], ref[N_REFS][REPORT_REPEATS];
	size_t n, n_ref[N_REFS];
	enum goal goal;
	enum goal_of goal_of;
	double limit;
};

struct report_case {
	char id[24], title[100];
	struct report_row rows[REPORT_ROWS];
	size_t n_rows;
	double foreign[REPORT_REPEATS]; /* CPUs kept busy by others while measuring */
	size_t n_foreign;
};

struct report {
	struct report_case cases[REPORT_CASES];
	size_t n_cases;
	int n_cpus;
	char redis_version[32];
};

/* Begins a case; the rows that follow are its. */
struct report_case *report_case(struct report *r, const char *id, const char *title);
/* One repeat's value of a figure; the row is made when it is new. */
struct report_row *report_add(struct report_case *c, const char *figure, const char *unit, double value);
/* The same with its floor, measured in the same repeat. */
struct report_row *report_add_floor(
	struct report_case *c, const char *figure, const char *unit, double value, double floor);
/* This repeat's value of a reference; below 0 = not measured. */
void report_ref(struct report_row *row, enum report_ref ref, double value);
void report_goal(struct report_row *row, enum goal goal, double limit);
void report_goal_of(struct report_row *row, enum goal_of of, enum goal goal, double limit);
void report_foreign(struct report_case *c, double cpus);

double report_median(const double *v, size_t n);
double report_spread(const double *v, size_t n); /* (max - min) / median; 0 for fewer than two */
/* Median of the repeats' ratios; 0 = no such reference. */
double report_ratio(const struct report_row *row, enum report_ref ref);
enum verdict report_verdict(const struct report *r, const struct report_case *c, const struct report_row *row);

void report_table(const struct report *r, const struct report_case *c, FILE *out);
/* False: the file cannot be written (errno). */
bool report_json(const struct report *r, const char *path);
