/* text - one line of Prometheus text at a time. */
#include "run/metrics/page.h"

#include <string.h>

void metrics_label(struct buf *out, const char *value)
{
	for (const char *p = value; *p; p++) {
		if (*p == '\n')
			buf_str(out, "\\n");
		else if (*p == '\\' || *p == '"')
			buf_add(out, (char[]){'\\', *p}, 2);
		else
			buf_add(out, p, 1);
	}
}

void metrics_head(struct buf *out, const char *name, const char *type, const char *help)
{
	buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_labels(struct buf *out, const char *label, const char *value, const char *more, const char *le)
{
	const char *sep = "";
	if (!label[0] && !more[0] && !le[0])
		return;
	buf_str(out, "{");
	if (label[0]) {
		buf_printf(out, "%s=\"", label);
		metrics_label(out, value);
		buf_str(out, "\"");
		sep = ",";
	}
	if (more[0]) {
		buf_printf(out, "%s%s", sep, more);
		sep = ",";
	}
	if (le[0])
		buf_printf(out, "%sle=\"%s\"", sep, le);
	buf_str(out, "}");
}

void metrics_u64(struct buf *out, const char *name, const char *label, const char *value, const char *more, uint64_t n)
{
	buf_str(out, name);
	put_labels(out, label, value, more, "");
	buf_str(out, " ");
	buf_u64(out, n);
	buf_str(out, "\n");
}

void metrics_seconds(struct buf *out, const char *name, const char *label, const char *value, double s)
{
	buf_str(out, name);
	put_labels(out, label, value, "", "");
	buf_printf(out, " %.3f\n", s);
}

void metrics_hist(
	struct buf *out, const char *name, const char *label, const char *value, const char *more, const struct hist *h)
{
	uint64_t sum = 0;
	for (int i = 0; i <= HIST_BUCKETS; i++) {
		struct buf le;
		buf_init(&le);
		if (i < HIST_BUCKETS)
			buf_printf(&le, "%g", hist_bounds_s[i]);
		else
			buf_str(&le, "+Inf");
		sum = i < HIST_BUCKETS ? sum + h->bucket[i] : h->n;
		buf_printf(out, "%s_bucket", name);
		put_labels(out, label, value, more, le.data);
		buf_str(out, " ");
		buf_u64(out, sum);
		buf_str(out, "\n");
		buf_fini(&le);
	}
	buf_printf(out, "%s_sum", name);
	put_labels(out, label, value, more, "");
	buf_printf(out, " %.6f\n%s_count", h->sum_s, name);
	put_labels(out, label, value, more, "");
	buf_str(out, " ");
	buf_u64(out, h->n);
	buf_str(out, "\n");
}
