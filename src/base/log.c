#include "base/log.h"

#include "base/buf.h"
#include "base/log_fields.h"
#include "base/mono.h"
#include "base/utf8.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Happy path: format, take a token, write one line of at most LINE_MAX_BYTES (a pipe takes those whole).
 * Failures: stderr full → wait WAIT_MS once a second, otherwise drop at once; closed, disk full, broken
 * pipe → drop. A dropped line is counted, never retried; the count is said before the next line that goes out. A
 * line that went out in part is ended by a newline before the next one. */
enum {
	LINE_MAX_BYTES = 4096,
	TEXT_MAX_BYTES = 3500,
	WAIT_MS = 20,
	BACKOFF_MS = 1000,
	BURST = 200,
	LINES_PER_S = 100,
	SUMMARY_EVERY_MS = 1000,
};

static struct {
	pthread_mutex_t lock; /* guards all below it */
	enum log_format format;
	mono_ms refilled_at, summary_at, no_wait_before;
	int64_t millitokens;
	unsigned long long n_suppressed, n_untold; /* by the rate limit; dropped since the last line that went out */
	bool is_started, is_mid_line;
	int error;            /* of the last write that failed */
	struct log_loss loss; /* the last line that was lost */
} L = {.lock = PTHREAD_MUTEX_INITIALIZER, .format = LOG_TEXT};

static struct {
	pthread_mutex_t lock;
	log_tap_fn *fn;
	void *arg;
} T = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Atomic int max_level = LOG_INFO;
static atomic_ullong n_dropped;
static _Thread_local bool is_in_tap; /* a tap that logs is not told about it */

static const char *const level_names[] = {"error", "warn", "notice", "info", "debug"};

/* ---- names */

const char *log_level_name(enum log_level level)
{
	return level_names[level];
}

/* ---- settings */

static bool is_journal(void)
{
	const char *env = getenv("JOURNAL_STREAM");
	struct stat st;
	if (!env || fstat(STDERR_FILENO, &st) != 0)
		return false;
	char ours[64];
	snprintf(ours, sizeof(ours), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	return strcmp(env, ours) == 0;
}

void log_open(enum log_level level, enum log_format format)
{
	if (format == LOG_AUTO)
		format = is_journal() ? LOG_JOURNAL : LOG_TEXT;
	pthread_mutex_lock(&L.lock);
	L.format = format;
	pthread_mutex_unlock(&L.lock);
	log_set_level(level);
}

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

bool log_is_on(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&max_level, memory_order_relaxed);
}

void log_tap(log_tap_fn *fn, void *arg)
{
	pthread_mutex_lock(&T.lock);
	T.fn = fn;
	T.arg = arg;
	pthread_mutex_unlock(&T.lock);
}

unsigned long long log_n_dropped(void)
{
	return atomic_load(&n_dropped);
}

struct log_loss log_last_loss(void)
{
	pthread_mutex_lock(&L.lock);
	const struct log_loss loss = L.loss;
	pthread_mutex_unlock(&L.lock);
	return loss;
}

/* ---- writing, with L.lock held */

static bool wait_writable(void)
{
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
	mono_ms now = mono_now();
	int wait_ms = now < L.no_wait_before ? 0 : WAIT_MS;
	int n = poll(&p, 1, wait_ms);
	if (n == 0 && wait_ms)
		L.no_wait_before = now + BACKOFF_MS;
	L.error = n == 0 ? EAGAIN : EBADF;
	return n > 0 && !(p.revents & POLLNVAL);
}

/* A socket is asked not to wait; a pipe that poll calls writable takes PIPE_BUF bytes without waiting. */
static ssize_t log_write_some(const char *at, size_t len)
{
	ssize_t n = send(STDERR_FILENO, at, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno == ENOTSOCK)
		n = write(STDERR_FILENO, at, len);
	return n;
}

static bool log_write_all(const char *at, size_t len)
{
	size_t done = 0;
	while (done < len) {
		if (!wait_writable())
			break;
		ssize_t n = log_write_some(at + done, len - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && mono_now() >= L.no_wait_before) {
			L.no_wait_before = mono_now() + BACKOFF_MS; /* poll and send disagree: one more try */
			continue;
		}
		L.error = n < 0 ? errno : EIO;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	if (done)
		L.is_mid_line = done < len;
	return done == len;
}

/* Neither a broken pipe nor a file at its size limit may end a program that has not ignored their signals. */
static bool emit(const char *line, size_t len)
{
	sigset_t ours, before, pending;
	sigemptyset(&ours);
	sigaddset(&ours, SIGPIPE);
	sigaddset(&ours, SIGXFSZ);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &ours, &before);
	bool is_ok = !L.is_mid_line || log_write_all("\n", 1);
	is_ok = is_ok && log_write_all(line, len);
	if (!is_ok) {
		atomic_fetch_add(&n_dropped, 1);
		L.loss = (struct log_loss){.at = mono_max(mono_now(), 1), .error = L.error};
	}
	if (!is_ok && !sigismember(&pending, SIGPIPE) && !sigismember(&pending, SIGXFSZ)) {
		while (sigtimedwait(&ours, NULL, &(struct timespec){0}) >= 0 || errno == EINTR)
			continue;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return is_ok;
}

static void add_time(struct buf *out)
{
	int64_t ms = mono_wall_ms();
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	gmtime_r(&s, &tm);
	char text[32];
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	buf_printf(out, "%s.%03dZ", text, (int)(ms % 1000));
}

static void add_line(struct buf *out, enum log_level level, const char *text, size_t len)
{
	switch (L.format) {
	case LOG_JSON:
		buf_str(out, "{\"time\":\"");
		add_time(out);
		buf_printf(out, "\",\"level\":\"%s\",\"msg\":", level_names[level]);
		buf_json_str(out, text, len);
		log_fields_json(out, text, len);
		buf_add(out, "}", 1);
		break;
	case LOG_JOURNAL:
		buf_printf(out, "<%d>", 3 + (int)level); /* LOG_ERR is 3 and the order is the same */
		buf_add(out, text, len);
		break;
	case LOG_AUTO:
	case LOG_TEXT:
		add_time(out);
		buf_printf(out, " %s ", level_names[level]);
		buf_add(out, text, len);
		break;
	}
	buf_add(out, "\n", 1);
}

static bool put_line(enum log_level level, const char *text)
{
	struct buf out;
	buf_init(&out);
	size_t len = strlen(text);
	add_line(&out, level, text, len);
	while (out.len > LINE_MAX_BYTES && len) { /* escapes made it longer */
		len /= 2;
		buf_clear(&out);
		add_line(&out, level, text, len);
	}
	bool is_ok = emit(out.data, out.len);
	buf_fini(&out);
	return is_ok;
}

/* ---- the rate limit, with L.lock held */

static void refill(mono_ms now)
{
	if (!L.is_started) {
		L.is_started = true;
		L.millitokens = (int64_t)BURST * 1000;
	} else {
		mono_ms passed = mono_min(now - L.refilled_at, 60000);
		L.millitokens += passed * LINES_PER_S; /* ms × lines/s = thousandths of a line */
		if (L.millitokens > (int64_t)BURST * 1000)
			L.millitokens = (int64_t)BURST * 1000;
	}
	L.refilled_at = now;
}

static bool take_token(enum log_level level)
{
	const int64_t kept = level == LOG_DEBUG ? (int64_t)BURST * 500 : 0; /* half is for what operators must see */
	if (L.millitokens >= kept + 1000) {
		L.millitokens -= 1000;
		return true;
	}
	L.n_suppressed += level != LOG_ERROR;
	return level == LOG_ERROR;
}

static void put_summary(mono_ms now)
{
	if (!L.n_suppressed || now < L.summary_at)
		return;
	char text[64];
	snprintf(text, sizeof(text), "suppressed n=%llu", L.n_suppressed);
	L.n_suppressed = 0;
	L.summary_at = now + SUMMARY_EVERY_MS;
	put_line(LOG_WARN, text);
}

static void put_fact(enum log_level level, const char *text)
{
	char lost[64];
	snprintf(lost, sizeof(lost), "log lines lost n=%llu: they could not be written", L.n_untold);
	bool is_ok = !L.n_untold || put_line(LOG_WARN, lost);
	if (is_ok)
		L.n_untold = 0;
	if (!is_ok || !put_line(level, text))
		L.n_untold++;
}

/* ---- one line */

/* One fact is one line: control characters become '?', those of two bytes too, a tab a space. */
static void clean(char *text)
{
	char *to = text;
	for (const char *c = text; *c;) {
		size_t n = utf8_control(c);
		*to++ = n == 0 ? *c : *c == '\t' || *c == '\n' ? ' ' : '?';
		c += n ? n : 1;
	}
	*to = '\0';
}

static void cut(char *text, size_t cap)
{
	static const char dots[] = "…";
	size_t at = cap - sizeof(dots);
	while (at && ((unsigned char)text[at] & 0xC0) == 0x80)
		at--;
	memcpy(text + at, dots, sizeof(dots));
}

static void tell_tap(enum log_level level, const char *text)
{
	if (is_in_tap)
		return;
	is_in_tap = true;
	pthread_mutex_lock(&T.lock);
	if (T.fn)
		T.fn(T.arg, level, text);
	pthread_mutex_unlock(&T.lock);
	is_in_tap = false;
}

static void log_put(enum log_level level, bool is_asked, const char *fmt, va_list ap)
{
	int saved_errno = errno;
	char text[TEXT_MAX_BYTES];
	int wanted = vsnprintf(text, sizeof(text), fmt, ap);
	if (wanted >= (int)sizeof(text))
		cut(text, sizeof(text));
	clean(text);
	pthread_mutex_lock(&L.lock);
	mono_ms now = mono_now();
	refill(now);
	if (is_asked || take_token(level)) {
		put_summary(now);
		put_fact(level, text);
	}
	pthread_mutex_unlock(&L.lock);
	tell_tap(level, text);
	errno = saved_errno;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	if (!log_is_on(level))
		return;
	va_list ap;
	va_start(ap, fmt);
	log_put(level, false, fmt, ap);
	va_end(ap);
}

void log_asked(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	log_put(LOG_NOTICE, true, fmt, ap);
	va_end(ap);
}
