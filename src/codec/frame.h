/* codec/frame - worker-socket bytes <-> struct frame / struct out_frame. Pure, no limits of its own besides depth.
 * Any thread. One JSON object per line; the line splitter (struct frame_splitter) enforces max_frame. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "core/frame.h"

/* Splits a byte stream into lines (LF or CRLF). Keeps what is incomplete. Memory is bounded by max_frame. */
struct frame_splitter {
	struct buf pending;
	size_t max_frame; /* bytes of one line without its line end */
	size_t start;     /* where the next line begins in pending; what is before was handed out */
	size_t scanned;   /* no line end before this offset */
};
/* max_frame: bytes of the longest line. */
void frame_splitter_init(struct frame_splitter *s, size_t max_frame);
/* Frees what it holds of an unfinished line. */
void frame_splitter_fini(struct frame_splitter *s);
/* Feeds bytes (copied). */
void frame_splitter_feed(struct frame_splitter *s, const char *bytes, size_t len);
/* Next whole line, without its end, NUL-terminated, valid until the next call on s. False: none yet.
 * ERR_RANGE via *code when the next line is over max_frame (the session must end; it stays so), else ERR_OK.
 * Behind the line's NUL are 3 more bytes that may be changed if they get their value back.
 * Empty lines are skipped. Memory stays bounded when lines are taken until false after each feed. */
bool frame_splitter_next(struct frame_splitter *s, char **line, size_t *len, enum err_code *code);

/* Scratch that holds what a decoded frame points to. Reused from frame to frame. */
struct frame_decoder;
/* Heap; frame_decoder_free. Used for one frame after the other, by one thread. */
struct frame_decoder *frame_decoder_new(void);
/* NULL is fine. Slices of the last frame end with it. */
void frame_decoder_free(struct frame_decoder *d);
/* Decodes one line (copied). ERR_OK and *out (valid until the next decode), also for known types with .problem set and
 * for FRAME_UNKNOWN; hello's .v is right even then. Of duplicate keys the first wins; null is not "absent" but a wrong
 * type. ERR_INVALID with a sentence when it is no JSON object, has no string `t`, is not UTF-8 or nests over
 * FRAME_DEPTH_MAX. */
enum err_code frame_decode(struct frame_decoder *d, const char *line, size_t len, struct frame *out, struct err *err);
/* Appends the frame and its LF to b. Line ends in `info` become spaces (they can only be white space between values),
 * an absent info is null; until_ms is at most 2^53 - 1, so that any JSON library reads it exactly. */
void frame_encode(struct buf *b, const struct out_frame *f);

const char *frame_error_name(enum frame_error e); /* "bad_frame" … */
bool frame_error_fatal(enum frame_error e);
const char *frame_outcome_name(enum gone_outcome o); /* "done" "requeued" "dead" "lost" */
const char *frame_revoke_name(enum revoke_reason r); /* "lost" … */
