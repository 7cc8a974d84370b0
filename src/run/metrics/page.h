/* metrics_page - pieces of the Prometheus text that need no daemon, for its test. Pure; any thread. */
#pragma once
#include "base/buf.h"
#include "base/hist.h"

/* A label's value: backslash, quote and newline escaped. */
void metrics_label(struct buf *out, const char *value);
/* HELP and TYPE. */
void metrics_head(struct buf *out, const char *name, const char *type, const char *help);
/* One sample: name{label="value",more} number. label or more may be "". */
void metrics_u64(struct buf *out, const char *name, const char *label, const char *value, const char *more, uint64_t n);
/* Appends one sample in seconds, with one label when label is not NULL. */
void metrics_seconds(struct buf *out, const char *name, const char *label, const char *value, double s);
/* All buckets, _sum and _count. */
void metrics_hist(struct buf *out, const char *name, const char *label, const char *value, const char *more,
	const struct hist *h);
/* Appends the process_* metrics. started_wall_ms: Unix ms, the same in every call. */
void metrics_process(struct buf *out, int64_t started_wall_ms);
