#include "base/hist.h"

const double hist_bounds_s[HIST_BUCKETS] = {
	0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};

void hist_add(struct hist *h, double seconds)
{
	if (!(seconds > 0)) /* negative or not a number: a clock said so, do not spoil the sum */
		seconds = 0;
	h->n++;
	h->sum_s += seconds;
	int from = 0, to = HIST_BUCKETS; /* the first bound that is not below is among from … to */
	while (from < to) {
		const int mid = (from + to) / 2;
		if (seconds <= hist_bounds_s[mid])
			to = mid;
		else
			from = mid + 1;
	}
	if (from < HIST_BUCKETS)
		h->bucket[from]++;
}

void hist_merge(struct hist *into, const struct hist *from)
{
	for (int i = 0; i < HIST_BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
	into->n += from->n;
	into->sum_s += from->sum_s;
}
