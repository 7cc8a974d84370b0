/* worker - a worker for sluiced in plain C, no library: one loop, a process for each stream. Put your work into work().
 *
 *   cc -O2 -pthread -o worker worker.c && ./worker [-s SOCKET] [-n CREDITS] [-q]
 *
 * Work may block: it runs in a process of its own, which is killed when its lease ends: at `revoke`, at the fence
 * (until_ms), also while this process is itself stopped, and when it dies. When the daemon restarts, we connect again and keep what we hold. SIGTERM:
 * no new work, finish what is held, leave; a second one: leave now, what is held goes back. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	LINE_BYTES = 1 << 21,
	MAX_CREDITS = 10000,
	TICK_MS = 100,
	FENCE_LEAD_MS = 300,
	FENCE_ALONE_MS = 200, /* of a work's process, whose parent has not stopped it */
	PAUSE_MIN_MS = 100,
	PAUSE_MAX_MS = 2000
};
enum { NAME_BYTES = 65 };

struct lease {
	char name[NAME_BYTES]; /* "" = free */
	pid_t pid;             /* its process, the leader of a group; 0 = it has ended */
	int status;            /* of waitpid, once it has ended; -1 = it never began */
	bool is_stopped;       /* by us, because the lease ends */
	bool is_told;          /* how it ended, on this connection */
};

static struct lease *leases; /* more than our credits: one is free at `done`, but that is kept until `ok` */
static int n_slots;
static int n_credits = 4;
static int n_stops; /* how often we were asked to end */
static bool is_quiet;
static int signals;   /* a signalfd */
static int sock = -1; /* -1 = no connection */
static bool is_welcome;
static char session[NAME_BYTES];
static _Atomic int64_t *until; /* the fence: the last one told holds for every lease; shared with the works' processes */
static size_t n_received; /* of the line that is not whole yet */
static int64_t next_try, pause_ms = PAUSE_MIN_MS;

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t); /* the clock of until_ms */
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
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

/* The string at v as it stands between its quotes (our own names have no escapes), "" for anything else. */
static void copy_text(char *out, size_t size, const char *v)
{
	size_t n = *v == '"' ? (size_t)(skip_value(v) - v) - 2 : 0;
	n = n < size - 1 ? n : size - 1;
	memcpy(out, v + (n > 0), n);
	out[n] = '\0';
}

static void text_of(char *out, size_t size, const char *frame, const char *key)
{
	copy_text(out, size, value_of(frame, key));
}

/* ---- the work */

/* Yours: it may block. 0 = done, anything else = to be tried again. The frame has stream, info, retry, token: hand the
 * token on to what you write to, and let that refuse a lower one. */
static int work(const char *frame)
{
	char stream[1024];
	text_of(stream, sizeof(stream), frame, "stream");
	if (!is_quiet)
		dprintf(STDOUT_FILENO, "working on %s\n", stream);
	const char *seconds = value_of(value_of(frame, "info"), "seconds");
	usleep(*seconds ? (useconds_t)(atof(seconds) * 1e6) : 1000000);
	return 0;
}

static void *keep_fence(void *arg)
{
	while (now_ms() < *until - FENCE_ALONE_MS)
		usleep(50000);
	kill(0, SIGKILL);
	return arg;
}

/* The process of one stream. */
static void run(const char *frame, pid_t parent)
{
	sigset_t none;
	pthread_t thread;
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* it dies with its parent */
	if (getppid() != parent)
		_exit(EXIT_FAILURE);
	setpgid(0, 0);
	signal(SIGTERM, SIG_IGN); /* these are for the parent, also when everybody gets them */
	signal(SIGINT, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	close(sock);
	close(signals);
	if (pthread_create(&thread, NULL, keep_fence, NULL) != 0)
		exit(EXIT_FAILURE);
	exit(work(frame));
}

static void begin(struct lease *l, const char *frame)
{
	pid_t parent = getpid();
	*l = (struct lease){.pid = fork()};
	if (l->pid == 0)
		run(frame, parent);
	if (l->pid < 0)
		*l = (struct lease){.status = -1}; /* no process for it: it is given back */
	else
		setpgid(l->pid, l->pid); /* a group, with whatever it starts */
	text_of(l->name, sizeof(l->name), frame, "lease");
}

static void stop(struct lease *l)
{
	if (!l->pid)
		return;
	l->is_stopped = true;
	kill(-l->pid, SIGKILL);
	kill(l->pid, SIGKILL);
}

/* Works that have ended. Until waitpid a leader stays a zombie, and its group ours. */
static void on_children(void)
{
	siginfo_t who = {0};
	while (waitid(P_ALL, 0, &who, WEXITED | WNOHANG | WNOWAIT) == 0 && who.si_pid) {
		int status;
		kill(-who.si_pid, SIGKILL); /* what it left running */
		waitpid(who.si_pid, &status, 0);
		for (int i = 0; i < n_slots; i++) {
			if (leases[i].pid == who.si_pid) {
				leases[i].pid = 0;
				leases[i].status = status;
				if (WIFSIGNALED(status) && now_ms() >= *until - FENCE_ALONE_MS)
					leases[i].is_stopped = true; /* by itself */
			}
		}
		who = (siginfo_t){0};
	}
}

static void forget(struct lease *l)
{
	if (l->pid) {
		stop(l);
		waitpid(l->pid, NULL, 0);
	}
	*l = (struct lease){0};
}

/* ---- the connection; while there is none the work goes on, to its end or its fence */

static void lose(void)
{
	if (sock >= 0)
		close(sock);
	sock = -1;
	n_received = 0;
	is_welcome = false;
	for (int i = 0; i < n_slots; i++)
		leases[i].is_told = false;
}

static void send_all(const char *frame, size_t len)
{
	ssize_t n = 0;
	for (; sock >= 0 && len; frame += n, len -= (size_t)n) {
		n = send(sock, frame, len, MSG_NOSIGNAL);
		if (n < 0) {
			lose();
			return;
		}
	}
}

/* Every frame we send, other than hello: {"t":TYPE,KEY:VALUE}. */
static void send_frame(const char *type, const char *key, const char *value)
{
	char frame[256];
	int n = snprintf(frame, sizeof(frame), "{\"t\":\"%s\",\"%s\":%s}\n", type, key, value);
	send_all(frame, (size_t)n);
}

static void say_hello(void)
{
	char *frame;
	size_t len;
	FILE *f = open_memstream(&frame, &len);
	if (!f)
		exit(EXIT_FAILURE);
	fprintf(f, "{\"t\":\"hello\",\"v\":1,\"name\":\"worker.c:%d\",\"credits\":%d", (int)getpid(), n_credits);
	if (session[0]) {
		const char *before = "";
		fprintf(f, ",\"session\":\"%s\",\"resume\":[", session);
		for (int i = 0; i < n_slots; i++) {
			if (leases[i].name[0]) {
				fprintf(f, "%s\"%s\"", before, leases[i].name);
				before = ",";
			}
		}
		fputc(']', f);
	}
	fputs("}\n", f);
	fclose(f);
	send_all(frame, len);
	free(frame);
}

static void connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	next_try = now_ms() + pause_ms;
	pause_ms = 2 * pause_ms < PAUSE_MAX_MS ? 2 * pause_ms : PAUSE_MAX_MS;
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&addr, sizeof(addr)) != 0)
		lose();
	else
		say_hello();
}

/* ---- frames; those it does not know are ignored */

static struct lease *find(const char *name)
{
	for (int i = 0; i < n_slots; i++)
		if (strcmp(leases[i].name, name) == 0)
			return &leases[i];
	return NULL;
}

/* The pointer is good until the next call. */
static struct lease *free_slot(void)
{
	struct lease *l = find("");
	if (l)
		return l;
	int more = n_slots ? n_slots : 16;
	leases = realloc(leases, (size_t)(n_slots + more) * sizeof(*leases));
	if (!leases)
		exit(EXIT_FAILURE);
	memset(leases + n_slots, 0, (size_t)more * sizeof(*leases));
	n_slots += more;
	return &leases[n_slots - more];
}

static bool is_in(const char *array, const char *name)
{
	char item[NAME_BYTES];
	while (*(array += strspn(array, "[, ")) == '"') {
		copy_text(item, sizeof(item), array);
		if (strcmp(item, name) == 0)
			return true;
		array = skip_value(array);
	}
	return false;
}

static void on_welcome(const char *frame)
{
	int64_t daemons = atoll(value_of(frame, "now_ms"));
	if (daemons && llabs(daemons - now_ms()) > atoll(value_of(frame, "lease_ms"))) {
		fprintf(stderr, "worker: its clock is not ours, so fences mean nothing: we must share the daemon's "
				"time namespace\n");
		exit(EXIT_FAILURE);
	}
	text_of(session, sizeof(session), frame, "session");
	is_welcome = true;
	pause_ms = PAUSE_MIN_MS;
	for (int i = 0; i < n_slots; i++) /* what is not ours any more: somebody else may own it by now */
		if (leases[i].name[0] && !is_in(value_of(frame, "resumed"), leases[i].name))
			forget(&leases[i]);
}

static void on_frame(const char *frame)
{
	char type[16], name[NAME_BYTES], number[24];
	text_of(type, sizeof(type), frame, "t");
	text_of(name, sizeof(name), frame, "lease");
	struct lease *l = name[0] ? find(name) : NULL;
	int64_t told = atoll(value_of(frame, "until_ms"));
	if (told > 0)
		*until = told;
	if (strcmp(type, "welcome") == 0) {
		on_welcome(frame);
	} else if (strcmp(type, "assign") == 0) {
		begin(free_slot(), frame);
	} else if (strcmp(type, "ping") == 0) {
		snprintf(number, sizeof(number), "%lld", atoll(value_of(frame, "n")));
		send_frame("pong", "n", number);
	} else if (strcmp(type, "revoke") == 0 && l) {
		stop(l);
	} else if (strcmp(type, "ok") == 0 && l) {
		forget(l);
	} else if (strcmp(type, "err") == 0) {
		fprintf(stderr, "worker: %s\n", frame);
		if (l)
			forget(l);
	}
}

static void receive(void)
{
	static char line[LINE_BYTES + 1];
	ssize_t n = recv(sock, line + n_received, LINE_BYTES - n_received, 0);
	if (n <= 0) {
		lose();
		return;
	}
	n_received += (size_t)n;
	char *at = line, *end = line + n_received;
	for (char *lf; (lf = memchr(at, '\n', (size_t)(end - at))); at = lf + 1) {
		*lf = '\0';
		on_frame(at);
		if (sock < 0)
			return;
	}
	n_received = (size_t)(end - at);
	memmove(line, at, n_received);
}

/* ---- turns */

/* How works ended: told again after a lost connection, until there is an `ok`. `revoked` gets none. */
static void tell(struct lease *l)
{
	char what[160];
	const char *type = l->is_stopped ? "revoked" : l->status < 0 ? "release" : l->status ? "fail" : "done";
	int n = snprintf(what, sizeof(what), "\"%.64s\"", l->name);
	if (strcmp(type, "fail") == 0 && WIFEXITED(l->status))
		snprintf(what + n, sizeof(what) - (size_t)n, ",\"reason\":\"exit status %d\"", WEXITSTATUS(l->status));
	else if (strcmp(type, "fail") == 0)
		snprintf(
			what + n, sizeof(what) - (size_t)n, ",\"reason\":\"killed by signal %d\"", WTERMSIG(l->status));
	send_frame(type, "lease", what);
	l->is_told = true;
	if (l->is_stopped)
		forget(l);
}

static void look_at_leases(int64_t now)
{
	for (int i = 0; i < n_slots; i++) {
		struct lease *l = &leases[i];
		if (now >= *until - FENCE_LEAD_MS)
			stop(l);
		if (l->name[0] && !l->pid && is_welcome && !l->is_told)
			tell(l);
		if (n_stops && now > *until && !is_welcome)
			forget(l); /* nobody waits for it any more */
	}
}

static void look_at_signals(void)
{
	struct signalfd_siginfo s;
	while (read(signals, &s, sizeof(s)) == sizeof(s))
		n_stops += s.ssi_signo != SIGCHLD;
	on_children();
	if (n_stops && n_credits && (is_welcome || sock < 0)) {
		n_credits = 0;
		if (is_welcome)
			send_frame("credits", "n", "0");
	}
}

static bool holds_something(void)
{
	for (int i = 0; i < n_slots; i++)
		if (leases[i].name[0])
			return true;
	return false;
}

static void serve(const char *path)
{
	while (n_stops < 2 && (n_credits || holds_something())) {
		if (sock < 0 && now_ms() >= next_try)
			connect_to(path);
		struct pollfd p[] = {{.fd = signals, .events = POLLIN}, {.fd = sock, .events = POLLIN}};
		int n = poll(p, 2, TICK_MS);
		look_at_signals(); /* before a new fence is heard */
		if (n > 0 && p[1].revents)
			receive();
		look_at_leases(now_ms());
	}
	for (int i = 0; i < n_slots; i++)
		forget(&leases[i]);
	if (is_welcome)
		send_frame("bye", "v", "1");
}

int main(int argc, char **argv)
{
	const char *path = getenv("SLUICED_WORKER");
	path = path ? path : "/run/sluiced/worker.sock";
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
	sigset_t mine;
	sigemptyset(&mine);
	sigaddset(&mine, SIGTERM);
	sigaddset(&mine, SIGINT);
	sigaddset(&mine, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mine, NULL);
	signals = signalfd(-1, &mine, SFD_NONBLOCK | SFD_CLOEXEC);
	until = mmap(NULL, sizeof(*until), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (until == MAP_FAILED)
		return EXIT_FAILURE;
	serve(path);
	return EXIT_SUCCESS;
}
