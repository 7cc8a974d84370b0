/* err - one error: a code for the program, a sentence for the reader.
 * Pure. Any thread; a struct err belongs to the caller who passed it.
 * The failer writes the sentence; callers may prefix it; whoever gives up logs it, once. */
#pragma once
#include <stdarg.h>

enum err_code {
	ERR_OK = 0,
	ERR_INVALID,   /* bytes from outside that do not make sense */
	ERR_RANGE,     /* well formed, but outside its limits */
	ERR_NOT_FOUND, /* no such file, service, stream, … */
	ERR_DENIED,    /* permission, authentication */
	ERR_BUSY,      /* taken by somebody else: a socket, a queue at its limit */
	ERR_TIMEOUT,
	ERR_IO,     /* the peer or the kernel failed */
	ERR_MEMORY, /* out of memory, or a size limit */
	ERR_PROTO   /* the peer broke the protocol */
};

struct err {
	enum err_code code;
	char text[512]; /* one line, no newline; truncated when longer */
};

/* Fills err (may be NULL) and returns code, so that `return err_set(...)` reads well. */
enum err_code err_set(struct err *err, enum err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "prefix: " before the sentence. err may be NULL. Returns err's code. */
enum err_code err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
