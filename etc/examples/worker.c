/* worker - a small worker for sluiced in plain C: one thread, one blocking socket, no library.
 *
 *   cc -O2 -o worker worker.c && ./worker [-s SOCKET] [-n CREDITS] [-q]
 *
 * It "works" on a stream by waiting Info.seconds seconds (default 1) and says `done`. Up to CREDITS streams at once:
 * the socket's receive timeout is the tick of a loop that looks whose time has come. It answers pings, stops at
 * `revoke`, and stops by itself at the fence (until_ms). It does not reconnect: it ends, and its streams go back.
 * For that see worker_fenced.py, or use sluice-run. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1 << 21, MAX_CREDITS = 10000, TICK_MS = 20, FENCE_LEAD_MS = 100 };

struct lease {
	char name[65]; /* "" = free */
	char stream[128];
	int64_t ends_at;
};

static struct lease leases[MAX_CREDITS];
static int n_credits = 4;
static int sock;
static int64_t until; /* the fence: the last one told holds for every lease of the session */
static bool is_quiet;

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t); /* the clock of until_ms */
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void send_frame(const char *type, const char *lease)
{
	char frame[256];
	int n = snprintf(frame, sizeof(frame), "{\"t\":\"%s\",\"lease\":\"%s\"}\n", type, lease);
	if (send(sock, frame, (size_t)n, MSG_NOSIGNAL) != n)
		exit(EXIT_FAILURE);
}

/* ---- as much JSON as this worker needs */

/* The end of the value at p: after it. Any value, however nested. */
static const char *skip_value(const char *p)
{
	int depth = 0;
	do {
		if (*p == '"') {
			for (p++; *p && *p != '"'; p++)
				if (*p == '\\' && p[1])
					p++;
			if (*p)
				p++;
		} else if (*p == '{' || *p == '[') {
			depth++;
			p++;
		} else if (*p == '}' || *p == ']') {
			depth--;
			p++;
		} else if (depth) {
			p++;
		} else {
			p += strcspn(p, ",}]");
		}
	} while (depth && *p);
	return p;
}

/* The value of a key of the object at p, "" when it is not there. */
static const char *value_of(const char *p, const char *key)
{
	size_t len = strlen(key);
	if (*p++ != '{')
		return "";
	while (*(p += strspn(p, " \t,")) == '"') {
		bool is_it = strncmp(p + 1, key, len) == 0 && p[1 + len] == '"';
		p = skip_value(p);
		p += strspn(p, " \t:");
		if (is_it)
			return p;
		p = skip_value(p);
	}
	return "";
}

/* A string as it stands between its quotes; lease names and our own words have no escapes. */
static void text_of(char *out, size_t size, const char *frame, const char *key)
{
	const char *v = value_of(frame, key);
	size_t n = *v == '"' ? (size_t)(skip_value(v) - v) - 2 : 0;
	n = n < size - 1 ? n : size - 1;
	memcpy(out, v + (n > 0), n);
	out[n] = '\0';
}

/* ---- leases */

static struct lease *find(const char *name)
{
	for (int i = 0; i < n_credits; i++)
		if (strcmp(leases[i].name, name) == 0)
			return &leases[i];
	return NULL;
}

static void on_assign(const char *frame)
{
	struct lease *l = find(""); /* there is one: the daemon keeps to our credits */
	if (!l)
		return;
	text_of(l->name, sizeof(l->name), frame, "lease");
	text_of(l->stream, sizeof(l->stream), frame, "stream");
	const char *seconds = value_of(value_of(frame, "info"), "seconds");
	l->ends_at = now_ms() + (*seconds ? (int64_t)(atof(seconds) * 1000) : 1000);
	until = atoll(value_of(frame, "until_ms"));
	if (!is_quiet)
		printf("working on %s\n", l->stream);
}

static void answer(struct lease *l, const char *type)
{
	send_frame(type, l->name);
	if (!is_quiet)
		printf("%s %s\n", type, l->stream);
	l->name[0] = '\0';
}

static void on_ping(const char *frame)
{
	char pong[64];
	int n = snprintf(pong, sizeof(pong), "{\"t\":\"pong\",\"n\":%lld}\n", atoll(value_of(frame, "n")));
	if (send(sock, pong, (size_t)n, MSG_NOSIGNAL) != n)
		exit(EXIT_FAILURE);
	until = atoll(value_of(frame, "until_ms"));
}

static void on_frame(const char *frame)
{
	char type[16], lease[65];
	text_of(type, sizeof(type), frame, "t");
	text_of(lease, sizeof(lease), frame, "lease");
	if (strcmp(type, "assign") == 0) {
		on_assign(frame);
	} else if (strcmp(type, "ping") == 0) {
		on_ping(frame);
	} else if (strcmp(type, "revoke") == 0) {
		struct lease *l = find(lease);
		if (l && lease[0])
			answer(l, "revoked");
	} else if (strcmp(type, "err") == 0) {
		fprintf(stderr, "worker: %s\n", frame);
	}
	/* ok: what we did is safe in Redis. welcome, drain: nothing to do for us. */
}

static void on_tick(int64_t now)
{
	for (int i = 0; i < n_credits; i++) {
		struct lease *l = &leases[i];
		if (!l->name[0])
			continue;
		if (now >= until - FENCE_LEAD_MS)
			answer(l, "revoked");
		else if (now >= l->ends_at)
			answer(l, "done");
	}
}

/* ---- the socket */

static void connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct timeval tick = {.tv_usec = TICK_MS * 1000};
	char hello[256];
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	sock = socket(AF_UNIX, SOCK_STREAM, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick));
	int n = snprintf(hello, sizeof(hello), "{\"t\":\"hello\",\"v\":1,\"name\":\"worker.c:%d\",\"credits\":%d}\n",
		(int)getpid(), n_credits);
	if (send(sock, hello, (size_t)n, MSG_NOSIGNAL) != n)
		exit(EXIT_FAILURE);
}

static void serve(void)
{
	static char line[LINE_BYTES + 1];
	size_t len = 0;
	int64_t ticked = 0;
	for (;;) {
		ssize_t n = recv(sock, line + len, LINE_BYTES - len, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return;
		len += n > 0 ? (size_t)n : 0;
		line[len] = '\0';
		char *at = line;
		for (char *lf; (lf = memchr(at, '\n', len - (size_t)(at - line))); at = lf + 1) {
			*lf = '\0';
			on_frame(at);
		}
		len -= (size_t)(at - line);
		memmove(line, at, len);
		int64_t now = now_ms();
		if (now - ticked >= TICK_MS) {
			on_tick(now);
			ticked = now;
		}
	}
}

int main(int argc, char **argv)
{
	const char *path = "/run/sluiced/worker.sock";
	for (int c; (c = getopt(argc, argv, "s:n:q")) != -1;) {
		if (c == 's')
			path = optarg;
		else if (c == 'n')
			n_credits = atoi(optarg);
		else if (c == 'q')
			is_quiet = true;
		else
			return 64;
	}
	if (n_credits < 1 || n_credits > MAX_CREDITS) {
		fprintf(stderr, "worker: -n wants 1 to %d\n", MAX_CREDITS);
		return 64;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	connect_to(path);
	serve();
	fprintf(stderr, "worker: the connection ended\n");
	return EXIT_FAILURE;
}
