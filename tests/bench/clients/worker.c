/* Workers in C whose handler does nothing, for the bench beside this. BENCH_MODE: loop = libsluice-worker in a loop of one's own, processes
 * = sluice_worker_run, fresh = that with a new process for each stream, bare = no library: a loop that looks for the lease in each line and answers it, the least that works; parsed = bare,
 * and each line is read as JSON too, which whoever wants more of it than the lease has to do. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <sluice-worker.h>
#include <yyjson.h>

static int nothing(struct sluice_job *job)
{
	(void)job;
	return 0;
}

static _Noreturn void loop(const struct sluice_options *options)
{
	struct sluice_worker *w = sluice_worker_new(options);
	for (struct sluice_event e;;) {
		struct pollfd p = {sluice_worker_fd(w), POLLIN, 0};
		poll(&p, 1, sluice_worker_timeout(w));
		sluice_worker_step(w);
		while (sluice_worker_next(w, &e)) {
			if (e.type == SLUICE_ASSIGN && !e.pos)
				sluice_worker_done(w, e.lease);
			else if (e.type == SLUICE_ENTRIES)
				sluice_worker_ack(w, e.lease, e.entries[e.n_entries - 1].id);
		}
	}
}

/* The text behind a key, up to its quote. */
static const char *text_after(const char *line, const char *key, int *len)
{
	const char *s = strstr(line, key);
	s = s ? s + strlen(key) : "";
	*len = (int)strcspn(s, "\"");
	return s;
}

static int answer(char *out, const char *line)
{
	int len, id_len;
	const char *lease = text_after(line, "\"lease\":\"", &len);
	if (strncmp(line, "{\"t\":\"assign\"", 13) == 0)
		return strstr(line, "\"entries\":") ? 0 : sprintf(out, "{\"t\":\"done\",\"lease\":\"%.*s\"}\n", len, lease);
	if (strncmp(line, "{\"t\":\"entries\"", 14) == 0) {
		const char *last = "", *at = line; /* the last entry begins with [" */
		while ((at = strstr(at, "[\"17")))
			last = at++;
		const char *id = text_after(last, "[\"", &id_len);
		return sprintf(out, "{\"t\":\"ack\",\"lease\":\"%.*s\",\"id\":\"%.*s\"}\n", len, lease, id_len, id);
	}
	return strncmp(line, "{\"t\":\"ping\"", 11) == 0 ? sprintf(out, "{\"t\":\"pong\",\"n\":1}\n") : 0;
}

static int bare(const struct sluice_options *options, int is_parsed)
{
	static char in[1 << 20], out[1 << 20];
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", getenv("SLUICED_WORKER"));
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), n = sprintf(out, "{\"t\":\"hello\",\"v\":1,\"name\":\"bare\",\"credits\":%d%s}\n",
		options->credits, options->mode ? ",\"entries\":true" : "");
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0)
		return 1;
	for (size_t have = 0;;) {
		if (n && write(fd, out, (size_t)n) != n)
			return 1;
		ssize_t got = read(fd, in + have, sizeof(in) - have - 1);
		if (got <= 0)
			return 1;
		have += (size_t)got;
		in[have] = '\0';
		n = 0;
		char *line = in;
		for (char *lf; (lf = memchr(line, '\n', have - (size_t)(line - in))); line = lf + 1) {
			*lf = '\0';
			if (is_parsed)
				yyjson_doc_free(yyjson_read(line, (size_t)(lf - line), YYJSON_READ_NUMBER_AS_RAW));
			n += answer(out + n, line);
		}
		have -= (size_t)(line - in);
		memmove(in, line, have);
	}
}

int main(void)
{
	const char *mode = getenv("BENCH_MODE"), *entries = getenv("BENCH_ENTRIES");
	struct sluice_options options = {.credits = atoi(getenv("BENCH_CREDITS")), .mode = entries ? SLUICE_BATCH : SLUICE_STREAMS};
	if (mode && (strcmp(mode, "bare") == 0 || strcmp(mode, "parsed") == 0))
		return bare(&options, mode[0] == 'p');
	if (mode && strcmp(mode, "loop") == 0)
		loop(&options);
	options.fresh = mode && strcmp(mode, "fresh") == 0;
	return sluice_worker_run(&options, nothing);
}
