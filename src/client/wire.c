/* What sluice_worker_run and its children say to each other. Both are one program, so bytes are trusted and numbers
 * stand as they lie in memory. */
#include "client/client_p.h"

#include <string.h>

#include "base/mem.h"

void wire_put(struct buf *b, struct wire_head head, const char *text, size_t len)
{
	head.len = (uint32_t)len;
	head.has_text = text != NULL;
	buf_add(b, &head, sizeof(head));
	if (len)
		buf_add(b, text, len);
}

size_t wire_get(const char *bytes, size_t n, struct wire_head *head, const char **text)
{
	if (n < sizeof(*head))
		return 0;
	memcpy(head, bytes, sizeof(*head));
	if (n - sizeof(*head) < head->len)
		return 0;
	*text = head->has_text ? bytes + sizeof(*head) : NULL;
	return sizeof(*head) + head->len;
}

struct wire_job_head { /* then the texts that are there, each with its NUL: service, stream, id, token, info, trace */
	int64_t retry;
	size_t info_len;
	bool has_trace[3];
};

void wire_put_job(struct buf *b, const struct sluice_job *job)
{
	const char *trace[3] = {job->traceparent, job->tracestate, job->baggage};
	struct wire_job_head h = {.retry = job->retry, .info_len = job->info_len};
	const char *texts[] = {job->service, job->stream, job->id, job->token};
	size_t at = b->len;
	struct wire_head head = {.kind = WIRE_JOB, .has_text = true};
	for (size_t i = 0; i < 3; i++)
		h.has_trace[i] = trace[i] != NULL;
	buf_add(b, &head, sizeof(head));
	buf_add(b, &h, sizeof(h));
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		buf_add(b, texts[i], strlen(texts[i]) + 1);
	buf_add(b, job->info, job->info_len);
	buf_add(b, "", 1);
	for (size_t i = 0; i < 3; i++)
		if (trace[i])
			buf_add(b, trace[i], strlen(trace[i]) + 1);
	head.len = (uint32_t)(b->len - at - sizeof(head));
	memcpy(b->data + at, &head, sizeof(head));
}

struct sluice_job wire_job(const char *text)
{
	struct wire_job_head h;
	memcpy(&h, text, sizeof(h));
	struct sluice_job job = {.retry = h.retry, .info_len = h.info_len};
	const char *at = text + sizeof(h);
	const char **const texts[] = {&job.service, &job.stream, &job.id, &job.token};
	const char **const trace[] = {&job.traceparent, &job.tracestate, &job.baggage};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); at += strlen(at) + 1)
		*texts[i++] = at;
	job.info = at;
	at += h.info_len + 1;
	for (size_t i = 0; i < 3; i++)
		if (h.has_trace[i]) {
			*trace[i] = at;
			at += strlen(at) + 1;
		}
	return job;
}

struct wire_entry { /* then id NUL, then for each field two lengths and two times bytes NUL */
	int64_t tries;
	size_t n_fields;
};

static void wire_put_bytes(struct buf *b, struct sluice_bytes s)
{
	buf_add(b, &s.len, sizeof(s.len));
	if (s.len)
		buf_add(b, s.data, s.len);
	buf_add(b, "", 1);
}

void wire_put_entries(struct buf *b, const struct sluice_entry *list, size_t n, uint32_t round)
{
	size_t at = b->len, n_fields = 0;
	struct wire_head head = {.kind = WIRE_ENTRIES, .n = (uint32_t)n, .round = round, .has_text = true};
	buf_add(b, &head, sizeof(head));
	for (size_t i = 0; i < n; i++)
		n_fields += list[i].n_fields;
	buf_add(b, &n_fields, sizeof(n_fields));
	for (size_t i = 0; i < n; i++) {
		struct wire_entry e = {.tries = list[i].tries, .n_fields = list[i].n_fields};
		buf_add(b, &e, sizeof(e));
		buf_add(b, list[i].id, strlen(list[i].id) + 1);
		for (size_t k = 0; k < list[i].n_fields; k++) {
			wire_put_bytes(b, list[i].fields[k].name);
			wire_put_bytes(b, list[i].fields[k].value);
		}
	}
	head.len = (uint32_t)(b->len - at - sizeof(head));
	memcpy(b->data + at, &head, sizeof(head));
}

static struct sluice_bytes wire_take_bytes(const char **at)
{
	struct sluice_bytes s;
	memcpy(&s.len, *at, sizeof(s.len));
	s.data = *at + sizeof(s.len);
	*at = s.data + s.len + 1;
	return s;
}

struct sluice_entry *wire_entries(const struct wire_head *head, const char *text)
{
	size_t n_fields;
	const char *at = text + sizeof(n_fields);
	memcpy(&n_fields, text, sizeof(n_fields));
	size_t size = head->n * sizeof(struct sluice_entry);
	struct sluice_entry *list = mem_alloc(size + n_fields * sizeof(struct sluice_field));
	struct sluice_field *field = (struct sluice_field *)(list + head->n);
	for (uint32_t i = 0; i < head->n; i++) {
		struct wire_entry e;
		memcpy(&e, at, sizeof(e));
		list[i] = (struct sluice_entry){
			.id = at + sizeof(e), .tries = e.tries, .n_fields = e.n_fields, .fields = field};
		at = list[i].id + strlen(list[i].id) + 1;
		for (size_t k = 0; k < e.n_fields; k++, field++) {
			field->name = wire_take_bytes(&at);
			field->value = wire_take_bytes(&at);
		}
	}
	return list;
}
