/* Four threads log while the level, the format and the tap change: nothing for ThreadSanitizer to say. */
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static unsigned long long n_heard;

static void hear(void *arg, enum log_level level, const char *text)
{
	(void)arg;
	(void)level;
	(void)text;
	n_heard++; /* the tap's lock guards it */
}

static void *talk(void *arg)
{
	for (int i = 0; i < 2000; i++)
		log_line(i % 10 ? LOG_INFO : LOG_ERROR, "turn=%d", i);
	return arg;
}

int main(void)
{
	alarm(60);
	int null = open("/dev/null", O_WRONLY);
	int err = dup(STDERR_FILENO);
	dup2(null, STDERR_FILENO);
	log_open(LOG_DEBUG, LOG_JSON);
	log_tap(hear, NULL);
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, talk, NULL);
	for (int i = 0; i < 500; i++) {
		log_open(i % 2 ? LOG_DEBUG : LOG_INFO, i % 3 ? LOG_TEXT : LOG_JOURNAL);
		log_tap(i % 50 ? hear : NULL, NULL);
	}
	log_tap(hear, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	log_tap(NULL, NULL);
	dup2(err, STDERR_FILENO);
	printf("heard=%llu dropped=%llu\n", n_heard, log_n_dropped());
	return n_heard > 0 && n_heard <= 8000 && log_n_dropped() == 0 ? 0 : 1;
}
