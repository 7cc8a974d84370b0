/* frame_split - bytes of a connection, cut into lines. */
#include "codec/frame.h"

#include <string.h>

enum { KEEP_BYTES = 16 * 1024 };

void frame_splitter_init(struct frame_splitter *s, size_t max_frame)
{
	*s = (struct frame_splitter){.max_frame = max_frame};
	buf_init(&s->pending);
}

void frame_splitter_fini(struct frame_splitter *s)
{
	buf_fini(&s->pending);
}

void frame_splitter_feed(struct frame_splitter *s, const char *bytes, size_t len)
{
	if (s->start) {
		buf_consume(&s->pending, s->start);
		s->scanned -= s->start;
		s->start = 0;
	}
	buf_add(&s->pending, bytes, len);
	buf_add(&s->pending, "\0\0\0", 3); /* room behind the last line */
	s->pending.len -= 3;
}

/* A line whose LF has not come yet may still end in the CR of its line end. */
static bool is_over(const struct frame_splitter *s, const char *line, size_t len)
{
	return len > s->max_frame && !(len - 1 == s->max_frame && line[len - 1] == '\r');
}

bool frame_splitter_next(struct frame_splitter *s, char **line, size_t *len, enum err_code *code)
{
	*code = ERR_OK;
	while (s->start < s->pending.len) {
		char *begin = s->pending.data + s->start;
		char *from = s->pending.data + s->scanned;
		char *lf = memchr(from, '\n', s->pending.len - s->scanned);
		char *end = lf ? lf : s->pending.data + s->pending.len;
		if (is_over(s, begin, (size_t)(end - begin))) {
			*code = ERR_RANGE;
			return false;
		}
		if (!lf) {
			s->scanned = s->pending.len;
			return false;
		}
		s->start = s->scanned = (size_t)(lf - s->pending.data) + 1;
		if (end > begin && end[-1] == '\r')
			end--;
		*end = '\0';
		if (end == begin)
			continue;
		*line = begin;
		*len = (size_t)(end - begin);
		return true;
	}
	if (s->pending.cap > KEEP_BYTES) { /* all read: a burst's memory is given back */
		buf_fini(&s->pending);
		s->start = s->scanned = 0;
	}
	return false;
}
