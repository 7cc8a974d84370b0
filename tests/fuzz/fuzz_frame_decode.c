/* Any line: no crash, slices lie where they say, what was accepted keeps its promises, and what we answer with its text
 * is JSON. */
#include "codec/frame.h"

#include <stdlib.h>
#include <string.h>

#include <yyjson.h>

#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool is_kept)
{
	if (!is_kept)
		abort();
}

static size_t n_read;

static void touch(struct slice s)
{
	for (size_t i = 0; s.p && i < s.len; i++)
		n_read += (unsigned char)s.p[i];
}

static void check_promises(const struct frame *f)
{
	demand((f->problem != FRAME_PROBLEM_NONE) == (f->bad_field != NULL));
	touch(f->type);
	touch(f->hello.name);
	touch(f->hello.session);
	touch(f->lease);
	touch(f->reason);
	touch(f->note);
	for (size_t i = 0; i < f->hello.n_services; i++)
		touch(f->hello.services[i]);
	for (size_t i = 0; i < f->hello.n_resume; i++)
		demand(f->hello.resume[i].len > 0 && f->hello.resume[i].len <= FRAME_LEASE_MAX);
	demand(f->credits >= 0 && f->credits <= FRAME_CREDITS_MAX);
	demand(f->lease.len <= FRAME_LEASE_MAX);
}

static void check_answer(const struct frame *f)
{
	struct buf b;
	buf_init(&b);
	frame_encode(&b,
		&(struct out_frame){.kind = OUT_ERR, .error = FERR_UNKNOWN_TYPE, .msg = f->type, .lease = f->lease});
	demand(memchr(b.data, '\n', b.len) == b.data + b.len - 1);
	yyjson_doc *doc = yyjson_read(b.data, b.len, 0);
	yyjson_val *msg = yyjson_obj_get(yyjson_doc_get_root(doc), "msg");
	demand(yyjson_get_len(msg) == f->type.len && memcmp(yyjson_get_str(msg), f->type.p, f->type.len) == 0);
	yyjson_doc_free(doc);
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct frame_decoder *d;
	if (!d)
		d = frame_decoder_new();
	char *line = mem_dup((const char *)data, size);
	struct frame f;
	struct err err = {.text = ""};
	enum err_code rc = frame_decode(d, line, size, &f, &err);
	mem_free(line);
	demand(rc == ERR_OK || (rc == ERR_INVALID && err.text[0]));
	if (rc == ERR_OK) {
		check_promises(&f);
		check_answer(&f);
	}
	return 0;
}
