#include "run/descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <sys/resource.h>

struct descriptors descriptors_now(void)
{
	struct rlimit limit = {0};
	getrlimit(RLIMIT_NOFILE, &limit);
	struct descriptors fds = {.most = limit.rlim_cur};
	DIR *dir = opendir("/proc/self/fd");
	if (!dir) {
		fds.n = errno == EMFILE ? fds.most : 0;
		return fds;
	}
	while (readdir(dir))
		fds.n++;
	closedir(dir);
	fds.n = fds.n > 3 ? fds.n - 3 : 0; /* ".", ".." and the directory itself */
	return fds;
}
