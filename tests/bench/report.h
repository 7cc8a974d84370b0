/* report - what was measured, beside its floor: medians and spread over repeats, a table, build/bench.json.
 * Noise only makes figures worse, so a goal that is reached on a noisy machine is reached; one that is missed there is
 * "no conclusion". Single thread. Promise: nothing is judged by a single lucky repeat: medians only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { REPORT_REPEATS = 15, REPORT_ROWS = 32, REPORT_CASES = 16 };

enum goal { GOAL_NONE, GOAL_AT_LEAST, GOAL_AT_MOST };
enum verdict { VERDICT_NONE, VERDICT_HOLDS, VERDICT_MISSED, VERDICT_UNCLEAR };

struct report_row {
	char figure[48], unit[16];
	double value[REPORT_REPEATS], floor[REPORT_REPEATS];
	size_t n, n_floor;
	enum goal goal;
	bool goal_of_ratio;  /* the limit is for value / floor */
	bool goal_of_excess; /* the limit is for value - floor */
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
void report_goal(struct report_row *row, enum goal goal, double limit);
void report_foreign(struct report_case *c, double cpus);

double report_median(const double *v, size_t n);
double report_spread(const double *v, size_t n);   /* (max - min) / median; 0 for fewer than two */
double report_ratio(const struct report_row *row); /* median of the repeats' ratios; 0 = no floor */
enum verdict report_verdict(const struct report *r, const struct report_case *c, const struct report_row *row);

void report_table(const struct report *r, const struct report_case *c, FILE *out);
/* False: the file cannot be written (errno). */
bool report_json(const struct report *r, const char *path);
