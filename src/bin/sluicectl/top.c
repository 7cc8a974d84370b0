/* The live view: status, and below it the oldest streams, as many as fit; once a second.
 * The terminal is put back on every way out: q, a signal, an error, Ctrl-Z. When the daemon goes away it says so and
 * keeps asking; only the first request decides whether it starts at all. */
#include "bin/sluicectl/sluicectl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/mono.h"

enum { REFRESH_MS = 1000, ROWS_MAX = 1000, COLUMNS_LEAST = 80 /* narrower: lines are cut */ };

static volatile sig_atomic_t stop_signal, stop_wanted, suspend_wanted, resized;

static struct termios saved_termios;

struct screen {
	unsigned rows, cols;
};

struct top {
	const struct ctl_options *o;
	struct buf head; /* the rendered status */
	struct table streams;
	struct screen screen;
};

static void top_on_signal(int sig)
{
	if (sig == SIGWINCH) {
		resized = 1;
	} else if (sig == SIGTSTP) {
		suspend_wanted = 1;
	} else {
		stop_signal = sig;
		stop_wanted = 1;
	}
}

static void terminal_enter(void)
{
	struct termios raw = saved_termios;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 0;
	raw.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
	fputs("\x1b[?1049h\x1b[?25l", stdout);
	fflush(stdout);
}

static void terminal_leave(void)
{
	fputs("\x1b[?25h\x1b[?1049l", stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &saved_termios);
}

static const int top_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP};
enum { N_TOP_SIGNALS = sizeof(top_signals) / sizeof(top_signals[0]) };

static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = top_on_signal}; /* no SA_RESTART: waits end */
	for (unsigned i = 0; i < N_TOP_SIGNALS; i++)
		sigaction(top_signals[i], &sa, NULL);
}

static void suspend(void)
{
	suspend_wanted = 0;
	terminal_leave();
	raise(SIGSTOP);
	terminal_enter();
	resized = 1;
}

static struct screen screen_size(void)
{
	struct winsize w;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 0 && w.ws_col > 0)
		return (struct screen){w.ws_row, w.ws_col};
	return (struct screen){24, 80};
}

/* Appends one line cut to the screen's width; escape sequences take no room. */
static void put_cut(struct buf *b, const char *line, size_t len, unsigned cols)
{
	unsigned used = 0;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)line[i];
		if (c == 0x1b) { /* ours: ESC [ … letter */
			size_t end = i + 1;
			while (end < len && !(line[end] >= 'a' && line[end] <= 'z'))
				end++;
			buf_add(b, line + i, end < len ? end - i + 1 : len - i);
			i = end;
			continue;
		}
		used += (c & 0xc0) != 0x80;
		if (used <= cols)
			buf_add(b, line + i, 1);
	}
}

/* Appends as many lines of text as the screen has left. */
static void put_lines(struct buf *b, const char *text, const struct screen *screen, unsigned *row)
{
	while (*text && *row < screen->rows) {
		size_t len = strcspn(text, "\n");
		buf_str(b, *row ? "\r\n" : "");
		put_cut(b, text, len, screen->cols);
		buf_str(b, "\x1b[0m\x1b[K");
		text += text[len] ? len + 1 : len;
		(*row)++;
	}
}

static bool keep_status(void *arg, yyjson_val *row, const char *line, size_t len)
{
	struct top *t = arg;
	(void)line;
	(void)len;
	buf_clear(&t->head);
	view_put_status(&t->head, row, true);
	return true;
}

static bool keep_stream(void *arg, yyjson_val *row, const char *line, size_t len)
{
	struct top *t = arg;
	(void)line;
	(void)len;
	table_add(&t->streams, row);
	return t->streams.n_rows < ROWS_MAX;
}

static int top_fetch(struct top *t, struct err *err)
{
	struct ctl_request ls;
	cell_use_columns(t->screen.cols > COLUMNS_LEAST ? t->screen.cols : COLUMNS_LEAST);
	int code = conn_ask(t->o, &t->o->request, false, keep_status, t, err);
	if (code != 0 || stop_wanted)
		return code;
	table_fini(&t->streams);
	table_init(&t->streams, view_top_columns);
	ctl_request_init(&ls, CTL_VERB_LS);
	ls.limit = t->screen.rows < ROWS_MAX ? t->screen.rows : ROWS_MAX;
	ls.given = 1u << CTL_ARG_LIMIT;
	code = conn_ask(t->o, &ls, false, keep_stream, t, err);
	ctl_request_fini(&ls);
	return code;
}

static void put_clock(struct buf *b)
{
	time_t now = time(NULL);
	struct tm tm;
	char at[16] = "";
	if (localtime_r(&now, &tm))
		strftime(at, sizeof(at), "%H:%M:%S", &tm);
	buf_printf(b, "%s  q quit, space refresh\n", at);
}

static bool draw(struct top *t, const struct err *err)
{
	struct buf text, frame;
	unsigned row = 0;
	buf_init(&text);
	buf_init(&frame);
	put_clock(&text);
	if (err->text[0]) {
		cell_painted(&text, "\x1b[31m", err->text);
		buf_str(&text, "\n");
	}
	if (t->head.len)
		buf_add(&text, t->head.data, t->head.len);
	buf_str(&text, "\n");
	if (t->streams.n_rows)
		table_put(&text, &t->streams, true);
	buf_str(&frame, "\x1b[H");
	put_lines(&frame, text.data, &t->screen, &row);
	buf_str(&frame, "\x1b[J");
	bool ok = out_flush(&frame);
	buf_fini(&frame);
	buf_fini(&text);
	return ok;
}

/* Waits for the next refresh, a key or a signal. Signals are unblocked only here and while a request waits. */
static bool wait_for_key(mono_ms until, bool *quit)
{
	sigset_t none;
	struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
	mono_ms left = mono_max(until - mono_now(), 0);
	struct timespec ts = {.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000};
	char key = 0;
	sigemptyset(&none);
	if (ppoll(&in, 1, &ts, &none) <= 0)
		return false;
	if (read(STDIN_FILENO, &key, 1) <= 0)
		*quit = true; /* the terminal is gone */
	*quit = *quit || key == 'q' || key == 'Q';
	return true;
}

static void mask_signals(sigset_t *old)
{
	sigset_t ours;
	sigemptyset(&ours);
	for (unsigned i = 0; i < N_TOP_SIGNALS; i++)
		sigaddset(&ours, top_signals[i]);
	sigprocmask(SIG_BLOCK, &ours, old);
}

static void loop(struct top *t, struct err *err)
{
	bool quit = false;
	while (!quit && !stop_wanted) {
		sigset_t old;
		t->screen = screen_size();
		resized = 0;
		if (!draw(t, err))
			break;
		mask_signals(&old);
		mono_ms until = mono_now() + REFRESH_MS;
		while (!quit && !stop_wanted && !suspend_wanted && !resized && mono_now() < until) {
			if (wait_for_key(until, &quit))
				break;
		}
		sigprocmask(SIG_SETMASK, &old, NULL);
		if (suspend_wanted)
			suspend();
		*err = (struct err){0};
		if (!quit && !stop_wanted)
			top_fetch(t, err);
	}
}

int top_run(const struct ctl_options *o, struct err *err)
{
	struct ctl_options mine = *o;
	struct top t = {.o = &mine, .screen = screen_size()};
	int code = EXIT_USAGE;
	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &saved_termios) != 0) {
		err_set(err, ERR_INVALID, "top needs a terminal: use status or ls");
		return code;
	}
	mine.stop = &stop_wanted;
	buf_init(&t.head);
	table_init(&t.streams, view_top_columns);
	code = top_fetch(&t, err);
	if (code == 0) {
		catch_signals();
		terminal_enter();
		loop(&t, err);
		terminal_leave();
		*err = (struct err){0};
	}
	table_fini(&t.streams);
	buf_fini(&t.head);
	if (stop_signal) { /* die of it, as the shell expects */
		signal(stop_signal, SIG_DFL);
		raise(stop_signal);
	}
	return code;
}
