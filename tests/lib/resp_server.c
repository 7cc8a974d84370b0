#include "lib/resp_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNS = 64, HEARD_BYTES = 16384, MAX_ARGS = 64, LINE_BYTES = 8192 };

struct client {
	struct resp_server *server;
	int index, fd;
	SSL *ssl;
	const char *script;
	pthread_t thread;
	char in[1 << 17];
	size_t n_in;
	char *argv[MAX_ARGS];
	size_t argvlen[MAX_ARGS];
	int argc;
	size_t n_used; /* of in, by the present command */
	char heard[HEARD_BYTES];
};

struct resp_server {
	int fd;
	int stop_pipe[2]; /* readable = stop */
	uint16_t port;
	SSL_CTX *ctx;
	const char *scripts[MAX_CONNS];
	int n_scripts;
	pthread_t thread;
	pthread_mutex_t lock;
	struct client *clients[MAX_CONNS];
	int n_clients;
};

static void die(const char *what)
{
	perror(what);
	exit(99);
}

/* False = stop, or the time is over. */
static bool wait_for(struct client *c, short events, int ms)
{
	struct pollfd p[2] = {{.fd = c->fd, .events = events}, {.fd = c->server->stop_pipe[0], .events = POLLIN}};
	return poll(p, 2, ms) > 0 && !p[1].revents;
}

static bool put(struct client *c, const char *bytes, size_t len)
{
	while (len > 0) {
		if (!wait_for(c, POLLOUT, -1))
			return false;
		ssize_t n = c->ssl ? SSL_write(c->ssl, bytes, (int)len) : send(c->fd, bytes, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		bytes += n;
		len -= (size_t)n;
	}
	return true;
}

static bool fill(struct client *c)
{
	if (c->n_in == sizeof(c->in))
		return false;
	if (!(c->ssl && SSL_pending(c->ssl)) && !wait_for(c, POLLIN, -1))
		return false;
	size_t room = sizeof(c->in) - c->n_in;
	ssize_t n = c->ssl ? SSL_read(c->ssl, c->in + c->n_in, (int)room) : recv(c->fd, c->in + c->n_in, room, 0);
	if (n <= 0)
		return false;
	c->n_in += (size_t)n;
	return true;
}

/* 1 = a whole command is in argv, 0 = more bytes needed, -1 = not RESP. */
static int parse(struct client *c)
{
	const char *end = c->in + c->n_in, *p = c->in;
	char *nl = memchr(p, '\n', c->n_in);
	if (!nl)
		return 0;
	if (*p != '*')
		return -1;
	c->argc = atoi(p + 1);
	if (c->argc < 1 || c->argc > MAX_ARGS)
		return -1;
	p = nl + 1;
	for (int i = 0; i < c->argc; i++) {
		nl = memchr(p, '\n', (size_t)(end - p));
		if (!nl)
			return 0;
		c->argvlen[i] = (size_t)strtoul(p + 1, NULL, 10);
		if ((size_t)(end - nl - 1) < c->argvlen[i] + 2)
			return 0;
		c->argv[i] = nl + 1;
		p = nl + 1 + c->argvlen[i] + 2;
	}
	for (int i = 0; i < c->argc; i++)
		c->argv[i][c->argvlen[i]] = '\0';
	c->n_used = (size_t)(p - c->in);
	return 1;
}

static void note(struct client *c)
{
	pthread_mutex_lock(&c->server->lock);
	size_t n = strlen(c->heard);
	if (n)
		n += (size_t)snprintf(c->heard + n, sizeof(c->heard) - n, "; ");
	for (int i = 0; i < c->argc && n < sizeof(c->heard) - 1; i++)
		n += (size_t)snprintf(c->heard + n, sizeof(c->heard) - n, "%s%.40s", i ? " " : "", c->argv[i]);
	pthread_mutex_unlock(&c->server->lock);
}

static bool next_command(struct client *c)
{
	memmove(c->in, c->in + c->n_used, c->n_in - c->n_used);
	c->n_in -= c->n_used;
	c->n_used = 0;
	int rc;
	while ((rc = parse(c)) == 0)
		if (!fill(c))
			return false;
	if (rc < 0)
		return false;
	note(c);
	return true;
}

static bool put_text(struct client *c, const char *text)
{
	return put(c, text, strlen(text));
}

static bool put_hello(struct client *c)
{
	return put_text(c, "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n");
}

static bool is_word(const struct client *c, int i, const char *word)
{
	return i < c->argc && strcasecmp(c->argv[i], word) == 0;
}

static bool answer(struct client *c)
{
	char text[512];
	if (is_word(c, 0, "HELLO"))
		return put_hello(c);
	if (is_word(c, 0, "PING"))
		return put_text(c, "+PONG\r\n");
	if (is_word(c, 1, "MAINT_NOTIFICATIONS"))
		return put_text(c, "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.\r\n");
	if (is_word(c, 1, "UNBLOCK"))
		return put_text(c, ":1\r\n");
	if (is_word(c, 0, "XREADGROUP"))
		return put_text(c, "*-1\r\n");
	if (is_word(c, 0, "ECHO") && c->argc == 2) {
		snprintf(text, sizeof(text), "$%zu\r\n", c->argvlen[1]);
		return put_text(c, text) && put(c, c->argv[1], c->argvlen[1]) && put_text(c, "\r\n");
	}
	if (!is_word(c, 0, "SUBSCRIBE") && !is_word(c, 0, "PSUBSCRIBE"))
		return put_text(c, "+OK\r\n");
	for (int i = 1; i < c->argc; i++) {
		snprintf(text, sizeof(text), ">3\r\n$%zu\r\n%s\r\n$%zu\r\n%.200s\r\n:%d\r\n", c->argvlen[0],
			is_word(c, 0, "SUBSCRIBE") ? "subscribe" : "psubscribe", c->argvlen[i], c->argv[i], i);
		if (!put_text(c, text))
			return false;
	}
	return true;
}

static void serve(struct client *c)
{
	while (next_command(c) && answer(c))
		;
}

static size_t unescape(const char *s, char *out)
{
	size_t n = 0;
	for (; *s; s++) {
		if (*s != '\\') {
			out[n++] = *s;
			continue;
		}
		s++;
		if (*s == 'x') {
			char hex[3] = {s[1], s[2], 0};
			out[n++] = (char)strtoul(hex, NULL, 16);
			s += 2;
		} else {
			out[n++] = *s == 'r' ? '\r' : *s == 'n' ? '\n' : *s;
		}
	}
	return n;
}

static bool matches(const struct client *c, char *words)
{
	char *save = NULL;
	int i = 0;
	for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save))
		if (!is_word(c, i++, w))
			return false;
	return true;
}

static bool trickle(struct client *c, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!put(c, bytes + i, 1))
			return false;
		wait_for(c, 0, 1); /* a segment of its own */
	}
	return true;
}

/* False = nobody came within half a minute. */
static bool meet(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static pthread_cond_t came = PTHREAD_COND_INITIALIZER;
	static unsigned n; /* who is odd waits for the next one */
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 30;
	int rc = 0;
	pthread_mutex_lock(&lock);
	const unsigned pair = n++ / 2;
	pthread_cond_broadcast(&came);
	while (rc == 0 && n < 2 * pair + 2)
		rc = pthread_cond_timedwait(&came, &lock, &until);
	pthread_mutex_unlock(&lock);
	return rc == 0;
}

/* False = the connection ends here. */
static bool run_line(struct client *c, char *line)
{
	char bytes[LINE_BYTES];
	char *rest = strchr(line, ' ');
	if (rest)
		*rest++ = '\0';
	else
		rest = line + strlen(line);
	if (strcmp(line, "expect") == 0)
		return next_command(c) && matches(c, rest);
	if (strcmp(line, "hello") == 0)
		return next_command(c) && is_word(c, 0, "HELLO") && put_hello(c);
	if (strcmp(line, "send") == 0)
		return put(c, bytes, unescape(rest, bytes));
	if (strcmp(line, "trickle") == 0)
		return trickle(c, bytes, unescape(rest, bytes));
	if (strcmp(line, "wait") == 0) {
		struct pollfd p = {.fd = c->server->stop_pipe[0], .events = POLLIN};
		return poll(&p, 1, atoi(rest)) == 0;
	}
	if (strcmp(line, "meet") == 0)
		return meet();
	if (strcmp(line, "mute") == 0) {
		while (next_command(c))
			;
		return false;
	}
	if (strcmp(line, "deaf") == 0) {
		wait_for(c, POLLRDHUP, -1);
		return false;
	}
	if (strcmp(line, "serve") == 0) {
		serve(c);
		return false;
	}
	if (strcmp(line, "reset") == 0) {
		struct linger l = {.l_onoff = 1, .l_linger = 0};
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
		return false;
	}
	if (strcmp(line, "close") != 0) {
		fprintf(stderr, "resp_server: no such line: %s\n", line);
		exit(99);
	}
	return false;
}

static void *client_main(void *arg)
{
	struct client *c = arg;
	bool is_on = true;
	if (c->server->ctx) {
		c->ssl = SSL_new(c->server->ctx);
		SSL_set_fd(c->ssl, c->fd);
		is_on = SSL_accept(c->ssl) == 1;
	}
	char *script = strdup(c->script), *save = NULL;
	for (char *line = strtok_r(script, "\n", &save); line && is_on; line = strtok_r(NULL, "\n", &save))
		is_on = run_line(c, line);
	if (is_on)
		serve(c);
	free(script);
	SSL_free(c->ssl);
	shutdown(c->fd, SHUT_WR);
	pthread_mutex_lock(&c->server->lock);
	close(c->fd);
	c->fd = -1;
	pthread_mutex_unlock(&c->server->lock);
	return NULL;
}

static const char *script_of(const struct resp_server *s, int i)
{
	return s->n_scripts == 0 ? "serve" : s->scripts[i < s->n_scripts ? i : s->n_scripts - 1];
}

static void *accept_main(void *arg)
{
	struct resp_server *s = arg;
	for (;;) {
		struct pollfd p[2] = {{.fd = s->fd, .events = POLLIN}, {.fd = s->stop_pipe[0], .events = POLLIN}};
		if (poll(p, 2, -1) < 0 && errno == EINTR)
			continue;
		if (p[1].revents)
			return NULL;
		int fd = accept(s->fd, NULL, NULL);
		if (fd < 0)
			continue;
		if (s->n_clients == MAX_CONNS) {
			close(fd);
			continue;
		}
		int one = 1;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		struct client *c = calloc(1, sizeof(*c));
		*c = (struct client){
			.server = s, .fd = fd, .index = s->n_clients, .script = script_of(s, s->n_clients)};
		pthread_mutex_lock(&s->lock);
		s->clients[s->n_clients++] = c;
		pthread_mutex_unlock(&s->lock);
		if (pthread_create(&c->thread, NULL, client_main, c))
			die("pthread_create");
	}
}

static void listen_on(struct resp_server *s, const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	s->fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (path)
		snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	int rc = path ? bind(s->fd, (struct sockaddr *)&un, sizeof(un))
		      : bind(s->fd, (struct sockaddr *)&in, sizeof(in));
	if (s->fd < 0 || rc < 0 || listen(s->fd, 64) < 0)
		die("resp_server: listen");
	socklen_t len = sizeof(in);
	if (!path && getsockname(s->fd, (struct sockaddr *)&in, &len) == 0)
		s->port = ntohs(in.sin_port);
}

struct resp_server *resp_server_start(const char *const *scripts, const struct resp_server_opts *opts)
{
	struct resp_server *s = calloc(1, sizeof(*s));
	for (; scripts[s->n_scripts];
		s->n_scripts++) /* the array may be gone before the server; the texts are literals */
		s->scripts[s->n_scripts] = scripts[s->n_scripts];
	pthread_mutex_init(&s->lock, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (pipe(s->stop_pipe) < 0)
		die("pipe");
	if (opts && opts->cert_file) {
		s->ctx = SSL_CTX_new(TLS_server_method());
		if (SSL_CTX_use_certificate_chain_file(s->ctx, opts->cert_file) != 1 ||
			SSL_CTX_use_PrivateKey_file(s->ctx, opts->key_file, SSL_FILETYPE_PEM) != 1)
			die("resp_server: certificate");
		if (opts->client_ca_file && SSL_CTX_load_verify_locations(s->ctx, opts->client_ca_file, NULL) == 1)
			SSL_CTX_set_verify(s->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	}
	listen_on(s, opts ? opts->unix_path : NULL);
	if (pthread_create(&s->thread, NULL, accept_main, s))
		die("pthread_create");
	return s;
}

void resp_server_stop(struct resp_server *s)
{
	if (write(s->stop_pipe[1], "x", 1) != 1)
		die("write");
	pthread_join(s->thread, NULL);
	for (int i = 0; i < s->n_clients; i++) {
		struct client *c = s->clients[i];
		pthread_mutex_lock(&s->lock);
		if (c->fd >= 0)
			shutdown(c->fd, SHUT_RDWR);
		pthread_mutex_unlock(&s->lock);
		pthread_join(c->thread, NULL);
		free(c);
	}
	close(s->fd);
	close(s->stop_pipe[0]);
	close(s->stop_pipe[1]);
	SSL_CTX_free(s->ctx);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

uint16_t resp_server_port(const struct resp_server *s)
{
	return s->port;
}

int resp_server_n_conns(struct resp_server *s)
{
	pthread_mutex_lock(&s->lock);
	int n = s->n_clients;
	pthread_mutex_unlock(&s->lock);
	return n;
}

const char *resp_server_heard(struct resp_server *s, int i)
{
	static char text[HEARD_BYTES];
	pthread_mutex_lock(&s->lock);
	snprintf(text, sizeof(text), "%s", i < s->n_clients ? s->clients[i]->heard : "(no such connection)");
	pthread_mutex_unlock(&s->lock);
	return text;
}
