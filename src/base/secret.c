#include "base/secret.h"

#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"

struct secret {
	struct secret *next;
	size_t size; /* of the mapping */
	size_t len;
	unsigned n_holders;
	char bytes[];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct secret *all; /* a handful: the present password and, during a change, the old one */

static struct secret *map(const char *bytes, size_t len)
{
	size_t size = sizeof(struct secret) + len + 1;
	struct secret *s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		mem_exhausted();
	madvise(s, size, MADV_DONTDUMP);
	s->size = size;
	s->len = len;
	memcpy(s->bytes, bytes, len);
	s->next = all;
	return all = s;
}

const char *secret_keep(const char *bytes, size_t len)
{
	pthread_mutex_lock(&mutex);
	struct secret *s = all;
	while (s && (s->len != len || memcmp(s->bytes, bytes, len) != 0))
		s = s->next;
	if (!s)
		s = map(bytes, len);
	s->n_holders++;
	pthread_mutex_unlock(&mutex);
	return s->bytes;
}

void secret_drop(const char *secret)
{
	if (!secret)
		return;
	pthread_mutex_lock(&mutex);
	struct secret **at = &all;
	while ((*at)->bytes != secret)
		at = &(*at)->next;
	struct secret *s = *at;
	if (--s->n_holders == 0) {
		*at = s->next;
		mem_wipe(s->bytes, s->len);
		munmap(s, s->size);
	}
	pthread_mutex_unlock(&mutex);
}
