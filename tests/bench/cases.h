/* cases - each measures one thing a user would ask, once per call, and adds a repeat to its report_case. */
#pragma once
#include "bench/report.h"
#include "bench/rig.h"

struct bench {
	struct rig rig;
	struct report report;
	int repeats;
	double seconds; /* how long leases are held in (b), rates kept up in (c) */
	double scale;   /* of the numbers of streams; 1 = as promised */
	uint32_t run;   /* makes names unique */
};

void case_throughput(struct bench *b, struct report_case *c);
void case_hold(struct bench *b, struct report_case *c, uint32_t n);
void case_latency(struct bench *b, struct report_case *c, int per_s);
/* 1,000 streams a second of one of 50 services, and 1,000 workers that take all of them. */
void case_fleet(struct bench *b, struct report_case *c);
void case_recovery(struct bench *b, struct report_case *c);
void case_start(struct bench *b, struct report_case *c);
void case_churn(struct bench *b, struct report_case *c);
/* n_streams of n_entries each; the goal is per_s entries a second. Fewer when scaled: of what there is more of. */
void case_entries(struct bench *b, struct report_case *c, uint32_t n_streams, uint32_t n_entries, double per_s);
void case_idle_entries(struct bench *b, struct report_case *c);
void case_bad_entry(struct bench *b, struct report_case *c);
void case_keys_in_turn(struct bench *b, struct report_case *c);
void case_kill_entries(struct bench *b, struct report_case *c);
void case_delayed(struct bench *b, struct report_case *c);
/* merges: same_stream: coalesce, else serialize. */
void case_same_stream(struct bench *b, struct report_case *c, bool merges);
void case_outage(struct bench *b, struct report_case *c);
