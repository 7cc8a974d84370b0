/* libsluice-worker under the conformance suite: its handler does what `info` says (README.md). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sluice-worker.h>
#include <yyjson.h>

static int journal;

static double now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void pause_ms(double ms)
{
	struct timespec t = {.tv_nsec = (long)(ms * 1e6)};
	nanosleep(&t, NULL);
}

/* A line that begins as all do. */
static yyjson_mut_doc *row(const char *e, const struct sluice_job *job, const struct sluice_entry *entry)
{
	yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
	yyjson_mut_val *o = yyjson_mut_obj(d);
	yyjson_mut_doc_set_root(d, o);
	yyjson_mut_obj_add_real(d, o, "ms", now_ms());
	yyjson_mut_obj_add_str(d, o, "e", e);
	yyjson_mut_obj_add_str(d, o, "stream", job->stream);
	yyjson_mut_obj_add_str(d, o, "token", job->token);
	if (entry)
		yyjson_mut_obj_add_str(d, o, "entry", entry->id);
	return d;
}

static void put(yyjson_mut_doc *d)
{
	size_t len;
	char *line = yyjson_mut_write(d, YYJSON_WRITE_NEWLINE_AT_END, &len);
	if (!line || write(journal, line, len) != (ssize_t)len)
		abort();
	free(line);
	yyjson_mut_doc_free(d);
}

static void note_begin(const struct sluice_job *job)
{
	yyjson_mut_doc *d = row("begin", job, NULL);
	yyjson_mut_val *o = yyjson_mut_doc_get_root(d), *trace = yyjson_mut_obj(d);
	yyjson_mut_obj_add_str(d, o, "service", job->service);
	yyjson_mut_obj_add_str(d, o, "id", job->id);
	yyjson_mut_obj_add_int(d, o, "retry", job->retry);
	yyjson_mut_obj_add_val(d, o, "info", yyjson_mut_rawn(d, job->info, job->info_len));
	const char *names[] = {"traceparent", "tracestate", "baggage"};
	const char *values[] = {job->traceparent, job->tracestate, job->baggage};
	for (int i = 0; i < 3; i++)
		if (values[i])
			yyjson_mut_obj_add_str(d, trace, names[i], values[i]);
	yyjson_mut_obj_add_val(d, o, "trace", trace);
	put(d);
}

static yyjson_mut_val *text_or_bytes(yyjson_mut_doc *d, struct sluice_bytes s)
{
	yyjson_mut_val *v = yyjson_mut_strncpy(d, s.data, s.len);
	char *probe = yyjson_mut_val_write(v, 0, NULL); /* refuses what is not UTF-8 */
	if (probe) {
		free(probe);
		return v;
	}
	char *hex = calloc(2 * s.len + 1, 1);
	for (size_t i = 0; i < s.len; i++)
		sprintf(hex + 2 * i, "%02x", (unsigned char)s.data[i]);
	yyjson_mut_val *o = yyjson_mut_obj(d);
	yyjson_mut_obj_add_strcpy(d, o, "bytes", hex);
	free(hex);
	return o;
}

static void note_entry(const struct sluice_job *job, const struct sluice_entry *entry)
{
	yyjson_mut_doc *d = row("entry", job, entry);
	yyjson_mut_val *o = yyjson_mut_doc_get_root(d), *fields = yyjson_mut_arr(d);
	yyjson_mut_obj_add_int(d, o, "tries", entry->tries);
	for (size_t i = 0; i < entry->n_fields; i++) {
		yyjson_mut_val *pair = yyjson_mut_arr_add_arr(d, fields);
		yyjson_mut_arr_append(pair, text_or_bytes(d, entry->fields[i].name));
		yyjson_mut_arr_append(pair, text_or_bytes(d, entry->fields[i].value));
	}
	yyjson_mut_obj_add_val(d, o, "fields", fields);
	put(d);
}

static volatile sig_atomic_t is_told;

static void hear(int sig)
{
	(void)sig;
	is_told = 1;
}

/* False: it was told to stop. */
static bool ticks(const struct sluice_job *job, const struct sluice_entry *entry, double seconds)
{
	for (double end = now_ms() + 1e3 * seconds, left; (left = end - now_ms()) > 0 && !is_told;) {
		put(row("tick", job, entry));
		pause_ms(left < 30 ? left : 30);
	}
	if (is_told)
		put(row("stopped", job, entry));
	return !is_told;
}

static int ends(struct sluice_job *job, yyjson_val *todo)
{
	yyjson_val *retry = yyjson_obj_get(todo, "retry_ms");
	int64_t retry_ms = retry ? yyjson_get_sint(retry) : -1;
	const char *raised = yyjson_get_str(yyjson_obj_get(todo, "raise"));
	const char *reason = yyjson_get_str(yyjson_obj_get(todo, "fail"));
	if (raised)
		return sluice_job_fail(job, raised, false, -1);
	if (reason)
		return sluice_job_fail(job, reason, yyjson_get_bool(yyjson_obj_get(todo, "dead")), retry_ms);
	if (yyjson_get_bool(yyjson_obj_get(todo, "release")))
		return sluice_job_release(job, retry_ms);
	if (yyjson_obj_get(todo, "exit"))
		raise(SIGKILL);
	return 0;
}

static int does(struct sluice_job *job, const struct sluice_entry *entry, yyjson_val *todo)
{
	yyjson_arr_iter ids = yyjson_arr_iter_with(yyjson_obj_get(todo, "ack"));
	for (yyjson_val *id; (id = yyjson_arr_iter_next(&ids));)
		sluice_job_ack(job, yyjson_get_str(id));
	for (int64_t i = 0; i < yyjson_get_sint(yyjson_obj_get(todo, "progress")); i++) {
		char text[32];
		snprintf(text, sizeof(text), "note %lld", (long long)i);
		sluice_job_progress(job, text);
	}
	signal(SIGTERM, hear);
	is_told = 0;
	if (!ticks(job, entry, yyjson_get_num(yyjson_obj_get(todo, "sleep"))))
		return 1;
	yyjson_val *block = yyjson_obj_get(todo, "block");
	if (block)
		signal(SIGTERM, SIG_IGN);
	ticks(job, entry, yyjson_get_num(block));
	int status = ends(job, todo);
	if (status)
		return status;
	if (yyjson_get_bool(yyjson_obj_get(todo, "done")))
		sluice_job_finish(job);
	put(row("end", job, entry));
	return 0;
}

static int work_json(struct sluice_job *job, const struct sluice_entry *entry, const char *text, size_t len)
{
	yyjson_doc *doc = yyjson_read(text, len, 0);
	int status = does(job, entry, yyjson_doc_get_root(doc));
	yyjson_doc_free(doc);
	return status;
}

static int work(struct sluice_job *job)
{
	if (!job->n_entries) {
		note_begin(job);
		return work_json(job, NULL, job->info, job->info_len);
	}
	for (size_t i = 0; i < job->n_entries; i++) {
		const struct sluice_entry *e = &job->entries[i];
		note_entry(job, e);
		struct sluice_bytes todo = sluice_entry_get(e, "do");
		int status = work_json(job, e, todo.data ? todo.data : "{}", todo.data ? todo.len : 2);
		if (status)
			return status;
	}
	return 0;
}

int main(void)
{
	const char *mode = getenv("CONF_ENTRIES"), *on_term = getenv("CONF_ON_TERM");
	journal = open(getenv("CONF_JOURNAL"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	return sluice_worker_run(
		&(struct sluice_options){
			.credits = atoi(getenv("CONF_CREDITS")),
			.mode = !mode ? SLUICE_STREAMS : strcmp(mode, "batch") == 0 ? SLUICE_BATCH : SLUICE_EACH,
			.gives_back = on_term && strcmp(on_term, "release") == 0,
		},
		work);
}
