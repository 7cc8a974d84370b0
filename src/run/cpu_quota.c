#include "run/cpu_quota.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUOTA_PATH = 4096 };

/* The first line of a small file, without its end; false: it cannot be read. */
static bool first_line(const char *path, char *out, size_t cap)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	const bool has = fgets(out, (int)cap, f) != NULL;
	fclose(f);
	out[has ? strcspn(out, "\n") : 0] = '\0';
	return has;
}

static int64_t milli(long long quota, long long period)
{
	return quota > 0 && period > 0 && quota < INT64_MAX / 1000 ? quota * 1000 / period : 0;
}

/* cpu.max: "max 100000", "50000 100000" */
static int64_t quota_v2(const char *dir)
{
	char path[QUOTA_PATH + 40], line[80], *end;
	snprintf(path, sizeof path, "%s/cpu.max", dir);
	if (!first_line(path, line, sizeof line))
		return 0;
	const long long quota = strtoll(line, &end, 10);
	return milli(quota, strtoll(end, NULL, 10));
}

static int64_t quota_v1(const char *dir)
{
	char path[QUOTA_PATH + 40], quota[80], period[80];
	snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir); /* -1 = none */
	if (!first_line(path, quota, sizeof quota))
		return 0;
	snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
	return first_line(path, period, sizeof period) ? milli(strtoll(quota, NULL, 10), strtoll(period, NULL, 10)) : 0;
}

/* From the group itself up to the top of what is mounted, which is all of it that a container sees. */
static int64_t least_upwards(const char *mount, const char *group, int64_t (*quota_of)(const char *dir))
{
	char dir[QUOTA_PATH];
	int64_t least = 0;
	const size_t top = strlen(mount);
	if (snprintf(dir, sizeof dir, "%s%s", mount, group) >= (int)sizeof dir)
		return 0;
	for (;;) {
		const int64_t here = quota_of(dir);
		least = here && (!least || here < least) ? here : least;
		char *slash = strrchr(dir + top, '/');
		if (!slash)
			return least;
		*slash = '\0';
	}
}

/* One of "cpu,cpuacct" */
static bool has_cpu(const char *controllers)
{
	for (const char *p = controllers; *p; p += strcspn(p, ","), p += *p == ',')
		if (strcspn(p, ",") == 3 && memcmp(p, "cpu", 3) == 0)
			return true;
	return false;
}

int64_t cpu_quota_milli(const char *root)
{
	char path[QUOTA_PATH], line[QUOTA_PATH];
	int64_t least = 0;
	snprintf(path, sizeof path, "%.2000s/proc/self/cgroup", root);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f)) { /* number:controllers:group */
		line[strcspn(line, "\n")] = '\0';
		char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!group)
			continue;
		*group++ = '\0';
		controllers++;
		const bool is_v2 = !*controllers;
		if (!is_v2 && !has_cpu(controllers))
			continue;
		snprintf(path, sizeof path, "%.2000s/sys/fs/cgroup%s%.500s", root, is_v2 ? "" : "/", controllers);
		const int64_t here = least_upwards(path, group, is_v2 ? quota_v2 : quota_v1);
		least = here && (!least || here < least) ? here : least;
	}
	if (f)
		fclose(f);
	return least;
}
