/* Each way from bytes to a structure, and each way to set something up, with its 1st, 2nd, … allocation refused: every
 * time the process must end with status 71 and the one line, or (when libc can do without) have the same result as ever.
 * Long ways are swept in strides; SLUICE_TEST_OOM=all takes every allocation. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <hiredis/hiredis.h>

#include "codec/ctl.h"
#include "codec/frame.h"
#include "codec/push.h"
#include "codec/reply.h"
#include "codec/state.h"
#include "config/config.h"
#include "io/loop.h"
#include "io/memory.h"
#include "io/redis/tls.h"
#include "io/unix.h"
#include "lib/test_certs.h"
#include "oom/failing_malloc.h"
#include "run/rules_from_config.h"

#define LINE "<3>out of memory\n"

enum { SAME = 0, DIFFERS = 1, NOT_REACHED = 2 };

static struct test_certs *certs; /* shared with the process that makes them */
static char socket_path[128], big_hello[40000], config_text[65536];

/* ---- the ways; each true when its result is right */

static bool decodes_hello(const char *line, size_t n_resume)
{
	struct frame_decoder *d = frame_decoder_new();
	struct frame_splitter s;
	struct frame f;
	struct err err;
	char *at;
	size_t len;
	enum err_code code;
	frame_splitter_init(&s, 1 << 20);
	frame_splitter_feed(&s, line, strlen(line));
	bool ok = frame_splitter_next(&s, &at, &len, &code) && frame_decode(d, at, len, &f, &err) == ERR_OK &&
		  f.kind == FRAME_HELLO && f.problem == FRAME_PROBLEM_NONE && f.credits == 4 &&
		  f.hello.n_services == 2 && f.hello.n_resume == n_resume;
	frame_splitter_fini(&s);
	frame_decoder_free(d);
	return ok;
}

static bool frame_small(void)
{
	return decodes_hello("{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":4,\"services\":[\"a\",\"b\"]}\n", 0);
}

static bool frame_big(void)
{
	return decodes_hello(big_hello, 3000);
}

static bool frame_answer(void)
{
	struct buf b;
	buf_init(&b);
	frame_encode(&b, &(struct out_frame){.kind = OUT_ERR, .error = FERR_LIMIT, .msg = {big_hello, 30000}});
	bool ok = b.len > 30000 && b.data[b.len - 1] == '\n';
	buf_fini(&b);
	return ok;
}

static bool ctl(void)
{
	static const char line[] = "{\"v\":1,\"verb\":\"add\",\"args\":{\"service\":\"orders\",\"stream\":\"s\","
				   "\"info\":{\"n\":12345678901234567890},\"count\":7}}";
	struct ctl_request r;
	struct err err;
	struct buf b;
	buf_init(&b);
	bool ok = ctl_decode(line, sizeof line - 1, &r, &err) == ERR_OK && r.count == 7 &&
		  strcmp(r.info, "{\"n\":12345678901234567890}") == 0 && ctl_encode(&b, &r, &err) == ERR_OK;
	if (ok)
		ctl_request_fini(&r);
	buf_fini(&b);
	return ok;
}

static bool lbs(void)
{
	static const char json[] = "{\"DataStreamName\":\"orders:7\",\"Info\":{\"n\":[1, 2, {\"x\":\"y\"}]}}";
	struct entry_in e = {.id = {1700000000000, 3}};
	const struct lbs_fields fields = {.input = {json, sizeof json - 1}, .retry = {"2", 1}, .trace = {{"p", 1}}};
	reply_read_input(&e, &fields);
	bool ok = e.problem == ENTRY_GOOD && e.retry == 2 && strcmp(e.info->bytes, "{\"n\":[1,2,{\"x\":\"y\"}]}") == 0;
	text_unref(e.stream);
	text_unref(e.info);
	text_unref(e.trace);
	return ok;
}

static redisReply *parsed(const char *bytes)
{
	redisReader *reader = redisReaderCreate();
	void *reply = NULL;
	if (redisReaderFeed(reader, bytes, strlen(bytes)) != REDIS_OK ||
		redisReaderGetReply(reader, &reply) != REDIS_OK)
		reply = NULL;
	redisReaderFree(reader);
	return reply;
}

static bool push(void)
{
	redisReply *r = parsed(">5\r\n$6\r\nMOVING\r\n:7\r\n:15\r\n$14\r\n127.0.0.1:6380\r\n_\r\n");
	struct note n;
	bool ok = r && push_decode(r, &n, NULL) == PUSH_IS_NOTE && n.kind == NOTE_MOVING && n.seconds == 15 &&
		  strcmp(n.endpoint, "127.0.0.1:6380") == 0;
	freeReplyObject(r);
	return ok;
}

static bool reply(void)
{
	redisReply *r = parsed("*1\r\n*2\r\n$12\r\norders-input\r\n*2\r\n"
			       "*2\r\n$3\r\n1-0\r\n*2\r\n$9\r\nlbs-input\r\n$23\r\n{\"DataStreamName\":\"s1\"}\r\n"
			       "*2\r\n$3\r\n2-0\r\n*2\r\n$9\r\nlbs-input\r\n$4\r\n{bad\r\n");
	struct reply_decoder *d = reply_decoder_new();
	struct reply out = {.kind = REPLY_NONE};
	if (r)
		reply_decode(d, CMD_READ, r, &out);
	bool ok = out.kind == REPLY_ENTRIES && out.entries->n == 2 && out.entries->v[0].problem == ENTRY_GOOD &&
		  out.entries->v[1].problem == ENTRY_BAD_JSON;
	if (out.kind == REPLY_ENTRIES)
		entry_batch_free(out.entries);
	freeReplyObject(r);
	reply_decoder_free(d);
	return ok;
}

static bool state(void)
{
	struct slice leases[2] = {{"5-1.00ff", 8}, {"6-0.00ff", 8}};
	struct state_conn conns[2] = {{.number = 1, .leases = leases, .n_leases = 2}, {.number = 2}};
	struct buf b;
	struct state s;
	struct err err;
	buf_init(&b);
	state_encode(&b, &(struct state){.saved_at = 42, .node = {"n1", 2}, .conns = conns, .n_conns = 2});
	bool ok = state_decode(b.data, b.len, &s, &err) == ERR_OK && s.n_conns == 2 && s.conns[0].n_leases == 2;
	if (ok)
		state_fini(&s);
	buf_fini(&b);
	return ok;
}

static struct config *loaded(struct err *err)
{
	char *env[] = {"SLUICED_LOG__LEVEL=debug", NULL};
	struct config *c = NULL;
	return config_load_bytes("test", config_text, strlen(config_text), env, &c, err) == ERR_OK ? c : NULL;
}

static bool config(void)
{
	struct err err = {0};
	struct buf b;
	buf_init(&b);
	struct config *c = loaded(&err);
	if (c)
		config_dump(c, &b);
	bool ok = c && c->n_services == 2 && c->workers.allow_uids.n == 2 && b.len > 1000;
	config_free(c);
	buf_fini(&b);
	return ok;
}

static bool config_refused(void)
{
	static const char text[] = "services:\n  - name: orders\n    max_stream: 3\n";
	struct config *c = NULL;
	struct err err = {0};
	return config_load_bytes("test", text, sizeof text - 1, NULL, &c, &err) == ERR_INVALID && !c &&
	       strstr(err.text, "test:3:5: services[0].max_stream: unknown key (did you mean max_streams?)");
}

static bool setup(void)
{
	struct err err;
	struct config *c = loaded(&err);
	if (!c)
		return false;
	struct rules_ids ids = {0};
	struct service_rules *rules = rules_of_service(&c->services[0], c, rules_service_id(&ids, "orders"));
	bool ok = rules->lease.ttl_ms == 10000 && ids.n == 1;
	service_rules_unref(rules);
	rules_ids_fini(&ids);
	config_free(c);
	return ok;
}

static bool tls(void)
{
	struct redis_tls *t;
	struct tls_session *s;
	struct err err = {0};
	struct redis_tls_files files = {.ca_file = certs->ca, .cert_file = certs->client, .key_file = certs->key};
	if (redis_tls_new(&files, &t, &err) != ERR_OK) {
		fprintf(stderr, "%s\n", err.text);
		return false;
	}
	struct buf hello;
	buf_init(&hello);
	bool ok = tls_session_new(t, "localhost", &s, &err) == ERR_OK;
	if (ok) {
		ok = tls_handshake(s, &err) == 0; /* wants the server's answer */
		tls_take(s, &hello);
		ok = ok && hello.len > 100;
		tls_session_free(s);
	}
	buf_fini(&hello);
	redis_tls_unref(t);
	return ok;
}

static void on_time(void *arg, mono_ms now)
{
	(void)now;
	loop_stop(arg ? *(struct loop **)arg : NULL);
}

static bool socket_opened(void)
{
	static const struct unix_events events = {0};
	struct loop *loop;
	struct unix_listener *l;
	struct err err;
	loop = loop_new("test", on_time, &loop);
	bool ok = unix_listen(loop_uv(loop), socket_path, -1, 0600, "", &events, NULL, &l, &err) == ERR_OK;
	loop_wake_at(loop, loop_now(loop));
	loop_run(loop);
	if (ok)
		unix_unlisten(l, true);
	loop_free(loop);
	return ok;
}

static const struct way {
	const char *name;
	bool (*run)(void);
	long stride;
} ways[] = {{"frame, small", frame_small, 1}, {"frame, 36 KB", frame_big, 1}, {"frame, encoded", frame_answer, 1},
	{"control request", ctl, 1}, {"load-balancer entry", lbs, 1}, {"push", push, 1}, {"reply", reply, 1},
	{"state", state, 1}, {"configuration", config, 1}, {"configuration, refused", config_refused, 1},
	{"rules", setup, 1}, {"TLS", tls, 41}, {"loop and socket", socket_opened, 1}};

/* ---- the sweep */

static void run_child(const struct way *w, long n, int out)
{
	alarm(30);
	dup2(out, STDERR_FILENO);
	failing_malloc_at(n);
	bool ok = w->run();
	bool has_hit = failing_malloc_has_hit();
	unlink(socket_path);
	_exit(!ok ? DIFFERS : has_hit || n == 0 ? SAME : NOT_REACHED);
}

/* Returns the exit status, -1 for a signal; said gets what was written to standard error. */
static int try_once(const struct way *w, long n, char *said, size_t cap)
{
	int fds[2], status;
	if (pipe(fds) < 0)
		abort();
	pid_t pid = fork();
	if (pid < 0)
		abort();
	if (pid == 0)
		run_child(w, n, fds[1]);
	close(fds[1]);
	size_t len = 0;
	for (ssize_t got; (got = read(fds[0], said + len, cap - 1 - len)) > 0;)
		len += (size_t)got;
	said[len] = '\0';
	close(fds[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool sweep(const struct way *w)
{
	char said[1024];
	long n_ended = 0, n_same = 0;
	bool is_all = getenv("SLUICE_TEST_OOM") && strcmp(getenv("SLUICE_TEST_OOM"), "all") == 0;
	int status = try_once(w, 0, said, sizeof said);
	if (status != SAME) {
		fprintf(stderr, "%s: does not work at all: status %d: %s\n", w->name, status, said);
		return false;
	}
	for (long n = 1;; n += is_all ? 1 : w->stride) {
		status = try_once(w, n, said, sizeof said);
		bool is_ended = status == 71 && strcmp(said, LINE) == 0;
		if (status == NOT_REACHED)
			break;
		if (!is_ended && status != SAME) {
			fprintf(stderr, "%s: allocation %ld refused: status %d, said: %s\n", w->name, n, status, said);
			return false;
		}
		n_ended += is_ended;
		n_same += !is_ended;
	}
	printf("%s: %ld ended it, %ld did without\n", w->name, n_ended, n_same);
	if (n_ended == 0)
		fprintf(stderr, "%s: no allocation was refused\n", w->name);
	return n_ended > 0;
}

static void make_texts(void)
{
	char *at = big_hello;
	at += sprintf(
		at, "{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":4,\"services\":[\"a\",\"b\"],\"resume\":[");
	for (int i = 0; i < 3000; i++)
		at += sprintf(at, "%s\"5-%05d\"", i ? "," : "", i);
	strcpy(at, "]}\n");
	snprintf(config_text, sizeof config_text,
		"redis:\n  endpoints: [\"127.0.0.1:6379\", \"[::1]:6380\"]\n  password: {env: NAME}\n"
		"services:\n  - name: orders\n    retry: {max_retries: 2}\n  - name: bills\n    lease: {ttl: 20s}\n"
		"workers:\n  socket: /run/sluiced/worker.sock\n  allow_uids: [0, 1000]\n"
		"maintenance: {mode: auto, circuit_breaker: {failures: 7}}\nlog: {level: info}\n");
}

/* In a process of its own: OpenSSL must not have set itself up before the first way that needs it. */
static void make_certs(void)
{
	certs = mmap(NULL, sizeof *certs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (certs == MAP_FAILED)
		abort();
	pid_t pid = fork();
	int status = 1;
	if (pid == 0) {
		test_certs_make(certs);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
		abort();
	snprintf(socket_path, sizeof socket_path, "%s/socket", certs->dir);
}

int main(void)
{
	bool ok = true;
	memory_for_libraries();
	make_texts();
	make_certs();
	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
		ok = sweep(&ways[i]) && ok;
	test_certs_remove(certs);
	return ok ? 0 : 1;
}
