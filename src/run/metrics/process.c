/* What the kernel says of this process, under the names that every exporter uses. Coordinator thread.
 * Failure: a file of /proc that cannot be read leaves 0. */
#include "run/descriptors.h"
#include "run/metrics/page.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static void read_memory(uint64_t *all_pages, uint64_t *resident_pages)
{
	unsigned long all = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	if (f && fscanf(f, "%lu %lu", &all, &resident) != 2)
		all = resident = 0;
	if (f)
		fclose(f);
	*all_pages = all;
	*resident_pages = resident;
}

static void process_number(struct buf *out, const char *name, const char *help, uint64_t n)
{
	metrics_head(out, name, "gauge", help);
	metrics_u64(out, name, "", "", "", n);
}

static double seconds_of(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

void metrics_process(struct buf *out, int64_t started_wall_ms)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct rusage u = {0};
	const struct descriptors fds = descriptors_now();
	uint64_t all, resident;
	getrusage(RUSAGE_SELF, &u);
	read_memory(&all, &resident);
	metrics_head(out, "process_cpu_seconds_total", "counter", "User and system time");
	metrics_seconds(out, "process_cpu_seconds_total", "", "", seconds_of(u.ru_utime) + seconds_of(u.ru_stime));
	metrics_head(out, "process_start_time_seconds", "gauge", "When the process started, Unix time");
	metrics_seconds(out, "process_start_time_seconds", "", "", (double)started_wall_ms / 1000.0);
	process_number(out, "process_resident_memory_bytes", "Memory in use", resident * page);
	process_number(out, "process_virtual_memory_bytes", "Address space", all * page);
	process_number(out, "process_open_fds", "Open descriptors", fds.n);
	process_number(out, "process_max_fds", "How many there may be", fds.most);
}
