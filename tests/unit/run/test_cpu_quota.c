#include "run/cpu_quota.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char root[40];

/* A file below the root, with the folders on the way. */
static void put(const char *name, const char *text)
{
	char cmd[300], path[200];
	snprintf(path, sizeof path, "%s%s", root, name);
	snprintf(cmd, sizeof cmd, "mkdir -p \"$(dirname '%s')\"", path);
	cr_assert_eq(system(cmd), 0);
	FILE *f = fopen(path, "w");
	cr_assert(f);
	fputs(text, f);
	fclose(f);
}

static void begin(void)
{
	snprintf(root, sizeof root, "/tmp/quota.XXXXXX");
	cr_assert(mkdtemp(root));
}

static void end(void)
{
	char cmd[80];
	snprintf(cmd, sizeof cmd, "rm -rf '%s'", root);
	cr_assert_eq(system(cmd), 0);
}

Test(cpu_quota, version_2_takes_the_least_on_the_way_up, .init = begin, .fini = end)
{
	put("/proc/self/cgroup", "0::/pods/one\n");
	cr_expect_eq(cpu_quota_milli(root), 0);
	put("/sys/fs/cgroup/pods/one/cpu.max", "max 100000\n");
	cr_expect_eq(cpu_quota_milli(root), 0);
	put("/sys/fs/cgroup/pods/cpu.max", "250000 100000\n");
	cr_expect_eq(cpu_quota_milli(root), 2500);
	put("/sys/fs/cgroup/pods/one/cpu.max", "50000 100000\n");
	cr_expect_eq(cpu_quota_milli(root), 500);
}

Test(cpu_quota, a_container_sees_its_own_group_at_the_top, .init = begin, .fini = end)
{
	put("/proc/self/cgroup", "0::/\n");
	put("/sys/fs/cgroup/cpu.max", "20000 100000\n");
	cr_expect_eq(cpu_quota_milli(root), 200);
}

Test(cpu_quota, version_1, .init = begin, .fini = end)
{
	put("/proc/self/cgroup", "12:cpuset:/x\n4:cpu,cpuacct:/docker/1\n");
	put("/sys/fs/cgroup/cpuset/x/cpu.cfs_quota_us", "1\n");
	put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
	put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
	cr_expect_eq(cpu_quota_milli(root), 1500);
	put("/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "-1\n");
	put("/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n");
	cr_expect_eq(cpu_quota_milli(root), 1500);
}

Test(cpu_quota, nothing_to_read_is_no_limit, .init = begin, .fini = end)
{
	cr_expect_eq(cpu_quota_milli(root), 0);
	put("/proc/self/cgroup", "what?\n::\n0::/\n");
	put("/sys/fs/cgroup/cpu.max", "much\n");
	cr_expect_eq(cpu_quota_milli(root), 0);
}
