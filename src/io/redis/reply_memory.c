#include "io/redis/reply_memory.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"

enum { BLOCK_BYTES = 4096, READER_KEEP_BYTES = 256 * 1024, REPLY_ARRAYS = 16 };
#ifdef SLUICE_CHECKS
enum { KEEP_BYTES = 0 }; /* each reply from memory of its own: the sanitizer sees who uses it for too long */
#else
enum { KEEP_BYTES = 256 * 1024 };
#endif

struct block {
	struct block *next;
	size_t cap, used;
	max_align_t bytes[];
};

struct reply_memory {
	struct block *blocks; /* the newest, which is filled, first */
	redisReplyObjectFunctions fns;
	size_t max_elements, n_elements; /* n: of the reply that is under way */
	const char *refused;
};

static void *memory_cut(struct reply_memory *m, size_t size)
{
	struct block *b = m->blocks;
	size = (size + sizeof(void *) - 1) / sizeof(void *) * sizeof(void *);
	if (!b || b->cap - b->used < size) {
		size_t cap = b ? 2 * b->cap : BLOCK_BYTES;
		cap = cap > KEEP_BYTES ? KEEP_BYTES : cap;
		cap = cap < size ? size : cap;
		b = mem_alloc(sizeof *b + cap);
		*b = (struct block){.next = m->blocks, .cap = cap};
		m->blocks = b;
	}
	void *at = (char *)b->bytes + b->used;
	b->used += size;
	return at;
}

static redisReply *new_object(const redisReadTask *task, int type)
{
	redisReply *r = memory_cut(task->privdata, sizeof *r);
	*r = (redisReply){.type = type};
	if (task->parent) {
		redisReply *parent = task->parent->obj;
		assert((size_t)task->idx < parent->elements);
		parent->element[task->idx] = r;
	}
	return r;
}

static void set_text(const redisReadTask *task, redisReply *r, const char *s, size_t len)
{
	r->str = memory_cut(task->privdata, len + 1);
	memcpy(r->str, s, len);
	r->str[len] = '\0';
	r->len = len;
}

static void *create_string(const redisReadTask *task, char *s, size_t len)
{
	redisReply *r = new_object(task, task->type);
	size_t prefix = 0;
	if (task->type == REDIS_REPLY_VERB) { /* "txt:…"; the reader has looked that it is so */
		memcpy(r->vtype, s, 3);
		prefix = 4;
	}
	set_text(task, r, s + prefix, len - prefix);
	return r;
}

static void *create_array(const redisReadTask *task, size_t elements)
{
	struct reply_memory *m = task->privdata;
	if (!task->parent)
		m->n_elements = 0;
	m->n_elements += elements;
	if (m->max_elements && m->n_elements / REPLY_ARRAYS > m->max_elements) {
		m->refused = "a reply has too many elements";
		return NULL;
	}
	redisReply *r = new_object(task, task->type);
	r->elements = elements;
	if (elements) {
		r->element = memory_cut(m, elements * sizeof r->element[0]);
		memset(r->element, 0, elements * sizeof r->element[0]);
	}
	return r;
}

static void *create_integer(const redisReadTask *task, long long value)
{
	redisReply *r = new_object(task, REDIS_REPLY_INTEGER);
	r->integer = value;
	return r;
}

static void *create_double(const redisReadTask *task, double value, char *s, size_t len)
{
	redisReply *r = new_object(task, REDIS_REPLY_DOUBLE);
	r->dval = value;
	set_text(task, r, s, len);
	return r;
}

/* A push of nil length (">-1") stays a push, of nothing: as a nil it would be taken for the answer to a command, and
 * each answer behind it for that of the command before. */
static void *create_nil(const redisReadTask *task)
{
	const bool is_push = task->type == REDIS_REPLY_PUSH && !task->parent;
	return new_object(task, is_push ? REDIS_REPLY_PUSH : REDIS_REPLY_NIL);
}

static void *create_bool(const redisReadTask *task, int value)
{
	redisReply *r = new_object(task, REDIS_REPLY_BOOL);
	r->integer = value != 0;
	return r;
}

static void leave_object(void *reply)
{
	(void)reply; /* its memory is used again, not given back */
}

struct reply_memory *reply_memory_new(size_t max_elements)
{
	struct reply_memory *m = mem_alloc(sizeof *m);
	m->max_elements = max_elements;
	m->fns = (redisReplyObjectFunctions){.createString = create_string,
		.createArray = create_array,
		.createInteger = create_integer,
		.createDouble = create_double,
		.createNil = create_nil,
		.createBool = create_bool,
		.freeObject = leave_object};
	return m;
}

redisReader *reply_memory_reader(struct reply_memory *m)
{
	redisReader *r = redisReaderCreateWithFunctions(&m->fns);
	r->maxbuf = READER_KEEP_BYTES; /* its default frees and allocates at each full read */
	if (m->max_elements)
		r->maxelements = (long long)m->max_elements;
	r->privdata = m;
	return r;
}

void reply_memory_clear(struct reply_memory *m)
{
	struct block *kept = NULL;
	for (struct block *b = m->blocks, *next; b; b = next) {
		next = b->next;
		if (b->cap > KEEP_BYTES || (kept && kept->cap >= b->cap)) {
			mem_free(b);
			continue;
		}
		mem_free(kept);
		kept = b;
		b->used = 0;
		b->next = NULL;
	}
	m->blocks = kept;
}

void reply_memory_free(struct reply_memory *m)
{
	for (struct block *b = m ? m->blocks : NULL, *next; b; b = next) {
		next = b->next;
		mem_free(b);
	}
	mem_free(m);
}

const char *reply_memory_refused(const struct reply_memory *m)
{
	return m->refused;
}
