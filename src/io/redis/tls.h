/* io/redis/tls - one TLS session over memory buffers, and the material that sessions share.
 * Inside io/redis only, on the thread of the connection's loop. No socket here: bytes are fed in and taken out, so
 * nothing can block or stall. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "io/redis/conn.h"

struct tls_session;

/* name: what the certificate must show; the material's server_name goes before. "" = ERR_INVALID. */
enum err_code tls_session_new(struct redis_tls *tls, const char *name, struct tls_session **out, struct err *err);
void tls_session_free(struct tls_session *s);                        /* NULL is fine */
void tls_feed(struct tls_session *s, const char *bytes, size_t len); /* from the socket */
void tls_take(struct tls_session *s, struct buf *out);               /* for the socket: appended */
/* 1 = done, 0 = needs more bytes, -1 = err says why. */
int tls_handshake(struct tls_session *s, struct err *err);
/* Plain bytes: > 0, 0 = none now, -1 = ended, err says why. */
int tls_read(struct tls_session *s, char *out, size_t cap, struct err *err);
/* Takes len plain bytes (> 0 = how many), 0 = not now, -1 = err. */
int tls_write(struct tls_session *s, const char *bytes, size_t len, struct err *err);
void tls_bye(struct tls_session *s); /* close_notify into the out side */
