/* resp_server - a scripted Redis on loopback TCP (or a unix socket), in threads of its own. For adapter tests.
 *
 * One script per connection, in the order they are accepted; the last script serves all later ones. A script is lines:
 *   expect WORDS…   waits for the next command; its first words must be these (any case), else the connection is closed
 *   send BYTES      \r \n \\ \xHH are escapes; sent as they are, in one segment
 *   trickle BYTES   the same, one byte per segment
 *   hello           expect HELLO, then a good RESP3 answer (id 7)
 *   wait MS         lets time pass (reads nothing)
 *   meet            goes on together with another connection, of any server, that comes to its own
 *   mute            reads and answers nothing until the client goes
 *   deaf            does not even read until the client goes
 *   close           closes now      reset   closes with RST
 *   serve           answers everything: HELLO well, PING +PONG, MAINT_NOTIFICATIONS refused, SUBSCRIBE confirmed, UNBLOCK :1, XREADGROUP nothing, others +OK; ECHO its argument
 * After the last line: serve. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct resp_server;

struct resp_server_opts {
	const char *unix_path;            /* NULL = TCP on 127.0.0.1, a free port */
	const char *cert_file, *key_file; /* NULL = plain */
	const char *client_ca_file;       /* asks for a client certificate */
};

/* scripts: NULL-terminated, at most 64; the texts must outlive the server, the array need not; opts NULL = plain TCP. Ends the process when it cannot listen. */
struct resp_server *resp_server_start(const char *const *scripts, const struct resp_server_opts *opts);
void resp_server_stop(struct resp_server *s);
uint16_t resp_server_port(const struct resp_server *s);
int resp_server_n_conns(struct resp_server *s); /* accepted so far */
/* What connection i received so far: commands separated by "; ". Copied into a static buffer. */
const char *resp_server_heard(struct resp_server *s, int i);
