#include "bench/report.h"

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "base/buf.h"

static const double NOISY_SHARE = 0.15; /* of the machine's CPUs, used by others */

struct report_case *report_case(struct report *r, const char *id, const char *title)
{
	struct report_case *c = &r->cases[r->n_cases++];
	memset(c, 0, sizeof *c);
	snprintf(c->id, sizeof c->id, "%s", id);
	snprintf(c->title, sizeof c->title, "%s", title);
	return c;
}

static struct report_row *row_of(struct report_case *c, const char *figure, const char *unit)
{
	for (size_t i = 0; i < c->n_rows; i++)
		if (strcmp(c->rows[i].figure, figure) == 0)
			return &c->rows[i];
	struct report_row *row = &c->rows[c->n_rows < REPORT_ROWS - 1 ? c->n_rows++ : REPORT_ROWS - 1];
	snprintf(row->figure, sizeof row->figure, "%s", figure);
	snprintf(row->unit, sizeof row->unit, "%s", unit);
	return row;
}

struct report_row *report_add(struct report_case *c, const char *figure, const char *unit, double value)
{
	struct report_row *row = row_of(c, figure, unit);
	if (row->n < REPORT_REPEATS)
		row->value[row->n++] = value;
	return row;
}

struct report_row *report_add_floor(
	struct report_case *c, const char *figure, const char *unit, double value, double floor)
{
	struct report_row *row = report_add(c, figure, unit, value);
	report_ref(row, REF_FLOOR, floor);
	return row;
}

void report_ref(struct report_row *row, enum report_ref ref, double value)
{
	if (value >= 0 && row->n_ref[ref] < REPORT_REPEATS)
		row->ref[ref][row->n_ref[ref]++] = value;
}

void report_goal(struct report_row *row, enum goal goal, double limit)
{
	report_goal_of(row, GOAL_OF_VALUE, goal, limit);
}

void report_goal_of(struct report_row *row, enum goal_of of, enum goal goal, double limit)
{
	row->goal = goal;
	row->goal_of = of;
	row->limit = limit;
}

void report_foreign(struct report_case *c, double cpus)
{
	if (c->n_foreign < REPORT_REPEATS)
		c->foreign[c->n_foreign++] = cpus;
}

/* ---- statistics */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

double report_median(const double *v, size_t n)
{
	double sorted[REPORT_REPEATS];
	if (!n)
		return 0;
	memcpy(sorted, v, n * sizeof *v);
	qsort(sorted, n, sizeof *sorted, by_value);
	return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

double report_spread(const double *v, size_t n)
{
	double lo = 0, hi = 0, mid = report_median(v, n);
	for (size_t i = 0; i < n; i++) {
		lo = i && lo < v[i] ? lo : v[i];
		hi = i && hi > v[i] ? hi : v[i];
	}
	return mid > 0 ? (hi - lo) / mid : 0;
}

double report_ratio(const struct report_row *row, enum report_ref ref)
{
	double v[REPORT_REPEATS];
	for (size_t i = 0; i < row->n_ref[ref]; i++)
		v[i] = row->ref[ref][i] > 0 ? row->value[i] / row->ref[ref][i] : 0;
	return report_median(v, row->n_ref[ref]);
}

static double judged(const struct report_row *row)
{
	double value = report_median(row->value, row->n);
	if (row->goal_of == GOAL_OF_RATIO)
		return report_ratio(row, REF_FLOOR);
	if (row->goal_of == GOAL_OF_LAST)
		return report_ratio(row, REF_LAST);
	bool is_excess = row->goal_of == GOAL_OF_EXCESS;
	return is_excess ? value - report_median(row->ref[REF_FLOOR], row->n_ref[REF_FLOOR]) : value;
}

/* Without its reference a goal says nothing. */
static bool is_judged(const struct report_row *row)
{
	enum report_ref of = row->goal_of == GOAL_OF_LAST ? REF_LAST : REF_FLOOR;
	return row->goal != GOAL_NONE && (row->goal_of == GOAL_OF_VALUE || row->n_ref[of]);
}

enum verdict report_verdict(const struct report *r, const struct report_case *c, const struct report_row *row)
{
	if (!is_judged(row))
		return VERDICT_NONE;
	double v = judged(row);
	if (row->goal == GOAL_AT_LEAST ? v >= row->limit : v <= row->limit)
		return VERDICT_HOLDS;
	bool is_count = row->goal == GOAL_AT_MOST && row->limit == 0; /* what must not happen: no noise excuses it */
	bool is_noisy = report_median(c->foreign, c->n_foreign) > NOISY_SHARE * r->n_cpus;
	return is_noisy && !is_count ? VERDICT_UNCLEAR : VERDICT_MISSED;
}

/* ---- for people */

static void number(char out[24], double v)
{
	double a = v < 0 ? -v : v;
	snprintf(out, 24, a >= 1000 ? "%.0f" : a >= 10 ? "%.1f" : "%.2f", v);
}

static const char *goal_text(const struct report_row *row, char out[48])
{
	static const char *const of[] = {[GOAL_OF_VALUE] = "",
		[GOAL_OF_RATIO] = " x floor",
		[GOAL_OF_EXCESS] = " over floor",
		[GOAL_OF_LAST] = " x last"};
	if (!is_judged(row))
		return "";
	char n[24];
	number(n, row->limit);
	snprintf(out, 48, "%s %s%s", row->goal == GOAL_AT_LEAST ? ">=" : "<=", n, of[row->goal_of]);
	return out;
}

static const char *const verdicts[] = {[VERDICT_NONE] = "",
	[VERDICT_HOLDS] = "holds",
	[VERDICT_MISSED] = "MISSED",
	[VERDICT_UNCLEAR] = "no conclusion"};

static const char *const ref_names[N_REFS] = {[REF_FLOOR] = "floor", [REF_LAST] = "last", [REF_PLAIN] = "plain"};

static bool has_ref(const struct report_case *c, enum report_ref ref)
{
	for (size_t i = 0; i < c->n_rows; i++)
		if (c->rows[i].n_ref[ref])
			return true;
	return false;
}

static void table_row(const struct report *r, const struct report_case *c, const struct report_row *row, FILE *out)
{
	char figure[80], value[24], spread[24] = "", goal[48];
	snprintf(figure, sizeof figure, "%s%s%s", row->figure, row->unit[0] ? ", " : "", row->unit);
	number(value, report_median(row->value, row->n));
	if (row->n > 1)
		snprintf(spread, sizeof spread, "%.0f%%", 100 * report_spread(row->value, row->n));
	fprintf(out, "  %-42s %10s %7s", figure, value, spread);
	for (enum report_ref k = 0; k < N_REFS; k++) {
		char ref[24] = "", ratio[24] = "";
		if (!has_ref(c, k))
			continue;
		if (row->n_ref[k]) {
			number(ref, report_median(row->ref[k], row->n_ref[k]));
			number(ratio, report_ratio(row, k));
		}
		fprintf(out, " %10s %7s", ref, ratio);
	}
	fprintf(out, "  %-16s %s\n", goal_text(row, goal), verdicts[report_verdict(r, c, row)]);
}

void report_table(const struct report *r, const struct report_case *c, FILE *out)
{
	fprintf(out, "\n(%s) %s\n  %-42s %10s %7s", c->id, c->title, "", "median", "spread");
	for (enum report_ref k = 0; k < N_REFS; k++)
		if (has_ref(c, k))
			fprintf(out, " %10s %7s", ref_names[k], "ratio");
	fprintf(out, "  goal\n");
	for (size_t i = 0; i < c->n_rows; i++)
		table_row(r, c, &c->rows[i], out);
	double foreign = report_median(c->foreign, c->n_foreign);
	fprintf(out, "  others kept %.2f of %d CPUs busy meanwhile%s\n", foreign, r->n_cpus,
		foreign > NOISY_SHARE * r->n_cpus ? ": too noisy to conclude from what is missed" : "");
	fflush(out);
}

/* ---- for programs */

static void json_row(struct buf *b, const struct report *r, const struct report_case *c, const struct report_row *row)
{
	buf_str(b, "{\"figure\":");
	buf_json_str(b, row->figure, strlen(row->figure));
	buf_str(b, ",\"unit\":");
	buf_json_str(b, row->unit, strlen(row->unit));
	buf_printf(b, ",\"median\":%.6g,\"spread\":%.4f,\"values\":[", report_median(row->value, row->n),
		report_spread(row->value, row->n));
	for (size_t i = 0; i < row->n; i++)
		buf_printf(b, "%s%.6g", i ? "," : "", row->value[i]);
	buf_str(b, "]");
	for (enum report_ref k = 0; k < N_REFS; k++)
		if (row->n_ref[k])
			buf_printf(b, ",\"%s\":%.6g,\"ratio_%s\":%.4f", ref_names[k],
				report_median(row->ref[k], row->n_ref[k]), ref_names[k], report_ratio(row, k));
	char text[48];
	if (is_judged(row))
		buf_printf(b, ",\"goal\":\"%s\",\"verdict\":\"%s\"", goal_text(row, text),
			verdicts[report_verdict(r, c, row)]);
	buf_str(b, "}");
}

static void json_head(struct buf *b, const struct report *r)
{
	struct utsname u;
	uname(&u);
	char when[32];
	time_t now = time(NULL);
	struct tm tm;
	strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	buf_printf(b,
		"{\"at\":\"%s\",\"version\":\"" SLUICE_VERSION "\",\"redis\":\"%s\",\"cpus\":%d,\"kernel\":\"%s\"",
		when, r->redis_version, r->n_cpus, u.release);
}

bool report_json(const struct report *r, const char *path)
{
	struct buf b;
	buf_init(&b);
	json_head(&b, r);
	buf_str(&b, ",\"cases\":[");
	for (size_t i = 0; i < r->n_cases; i++) {
		const struct report_case *c = &r->cases[i];
		buf_printf(&b, "%s\n{\"case\":\"%s\",\"title\":\"%s\",\"foreign_cpus\":%.3f,\"rows\":[", i ? "," : "",
			c->id, c->title, report_median(c->foreign, c->n_foreign));
		for (size_t k = 0; k < c->n_rows; k++) {
			buf_str(&b, k ? ",\n " : "\n ");
			json_row(&b, r, c, &c->rows[k]);
		}
		buf_str(&b, "]}");
	}
	buf_str(&b, "]}\n");
	FILE *f = fopen(path, "w");
	bool ok = f && fwrite(b.data, 1, b.len, f) == b.len;
	if (f && fclose(f) != 0)
		ok = false;
	buf_fini(&b);
	return ok;
}
