/* io/redis/wire - the bytes of one connection attempt: one socket (TCP or unix), TLS on it when asked.
 * Inside io/redis only. Owner: the connection's loop thread. A wire is used once; wire_close frees it when the
 * loop has let go. Promise: after wire_close no callback comes; callbacks never run inside a call of the owner
 * except where said. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <uv.h>

struct redis_tls;
struct wire;

struct wire_events {
	void (*on_connect)(void *arg, int uv_status); /* 0 = connected, reading has begun */
	void (*on_secure)(void *arg);
	void (*on_bytes)(void *arg, const char *bytes, size_t len);
	void (*on_end)(
		void *arg, const struct err *why); /* sentence without the endpoint; the owner calls wire_close */
};

/* Exactly one of addr and path. uv error (<0) at once, or on_connect later. */
int wire_open(uv_loop_t *loop, const struct sockaddr *addr, const char *path, const struct wire_events *ev, void *arg,
	struct wire **out);
/* Starts TLS; name is verified. The result is on_secure or on_end, in a later round, unless setting up fails (err). */
enum err_code wire_secure(struct wire *w, struct redis_tls *tls, const char *name, struct err *err);
/* Append at most len plain bytes to it, then wire_flush. Where a secret was among them, no copy stays behind. */
struct buf *wire_out(struct wire *w, size_t len, bool is_secret);
/* Gives the kernel what it takes. An error is kept and told by on_end in a later round. */
void wire_flush(struct wire *w);
void wire_set_owner(struct wire *w, void *arg); /* the events' argument from now on */
bool wire_peer(const struct wire *w, struct sockaddr_storage *out);
void wire_close(struct wire *w); /* NULL is fine */
