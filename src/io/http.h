/* io/http - the smallest HTTP/1.1 server that scrapers and probes need: GET and HEAD, one response, close. Over
 * uv, TCP or unix socket. Coordinator thread. Limits: 64 connections, 8 KiB request, 5 s each; beyond it the
 * connection is closed. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include <uv.h>

struct http;
/* Fills body; returns the status (200, 503, 404). *content_type is static text. */
typedef int http_fn(void *arg, const char *path, struct buf *body, const char **content_type);
/* listen: "127.0.0.1:9438", "[::1]:9438" or "unix:/path". ERR_BUSY, ERR_DENIED, ERR_INVALID, ERR_IO. */
enum err_code http_open(
	uv_loop_t *loop, const char *listen, http_fn *fn, void *arg, struct http **out, struct err *err);
/* Stops listening and closes every connection. NULL is fine. */
void http_close(struct http *h);
